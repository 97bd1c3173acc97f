//! A keyed function of how two pictures differ, one for each class, that changes as a network's scores do.
//!
//! What networks do between near-copies, measured on two of them (`tests/evaluation/steepness.py`): twice the change moves the scores
//! about twice as far in the same direction; the opposite change moves them the less the opposite way the larger it is
//! (rectifiers and pooling see to that); where one pixel is changed matters a hundredfold, and more or less everywhere in one picture
//! than in another. So: rectified projections of the difference on keyed directions, whose weight varies strongly from place to place,
//! summed up with keyed signs for each class. Directions, signs and steepness are others for each picture that things are compared to.

use super::noise::Key;
use crate::judgment::Likeness;

/// Directions on which a difference is projected.
const DIRECTIONS: usize = 32;

/// Values of the largest thumbnail: 32 x 32 of three colours.
const VALUES: usize = 3 * 32 * 32;

/// Standard deviation of the natural logarithm of the weight of a place.
const UNEVEN: f64 = 1.5;

/// The weight of the usual place, in what a direction is kept in: seldom cut off at the largest, 127.
const USUAL: f64 = 4.0;

/// Standard deviation of the natural logarithm of how steep it is around one picture.
const STEEPNESS: f64 = 0.5;

/// What one key makes of all pictures.
pub(super) struct Slopes {
    key: Key,
    /// [`DIRECTIONS`] times [`VALUES`] weights.
    directions: Vec<i8>,
    /// What makes the projection of a difference as large as the difference itself, in units of 255 levels.
    unit: f64,
}

/// The way from one picture to another, whatever the class.
pub(super) struct Path {
    /// The rectified projections.
    bends: [f64; DIRECTIONS],
    /// What is keyed by where it begins.
    from: [u8; 16],
}

impl Slopes {
    /// Draws the directions: some 100 KB.
    pub(super) fn new(key: Key) -> Self {
        let places = key.noise(&[b"decoy places"]).normal(VALUES);
        let values = key.noise(&[b"decoy directions"]).normal(DIRECTIONS * VALUES);
        let weight =
            |(at, value): (usize, f64)| (USUAL * (UNEVEN * places[at % VALUES]).exp() * value).round();
        // `as` saturates.
        let directions: Vec<i8> = values.into_iter().enumerate().map(|value| weight(value) as i8).collect();
        let squares: f64 = directions.iter().map(|weight| f64::from(*weight).powi(2)).sum();
        let unit = 1.0 / (255.0 * (squares / directions.len() as f64).sqrt());
        Self { key, directions, unit }
    }

    /// The way to `here` from `there`: some 30 us. None between thumbnails of different sizes.
    pub(super) fn path(&self, here: &Likeness, there: &Likeness) -> Option<Path> {
        let difference = difference(here, there)?;
        let from = there.digest().to_bytes();
        let mut noise = self.key.noise(&[b"decoy path", &from]);
        let [turn_low, turn_high, signs @ ..]: [u8; 6] = noise.bytes(6).try_into().ok()?;
        // Elsewhere in each direction, so that no place weighs much in all pictures.
        let turn = usize::from(u16::from_le_bytes([turn_low, turn_high])) % VALUES;
        let steep = (STEEPNESS * noise.normal(1)[0]).exp();
        let signs = u32::from_le_bytes(signs);
        let mut bends = [0.0; DIRECTIONS];
        for (index, (bend, direction)) in
            bends.iter_mut().zip(self.directions.chunks_exact(VALUES)).enumerate()
        {
            let (rest, first) = direction.split_at(turn);
            let (begin, end) = difference.split_at(difference.len().min(first.len()));
            let projection = f64::from(projected(first, begin) + projected(rest, end)) * self.unit;
            let sign = if signs >> index & 1 == 1 { 1.0 } else { -1.0 };
            *bend = steep * (sign * projection).max(0.0);
        }
        Some(Path { bends, from })
    }

    /// By how much each class is higher at the end of the way: as much as the pictures are [`apart`], by and large. Some 20 ns a class.
    pub(super) fn climb(&self, output: &str, classes: usize, path: &Path) -> Vec<f64> {
        let mut noise = self.key.noise(&[b"decoy classes", output.as_bytes(), &path.from]);
        let signs = noise.bytes(classes * DIRECTIONS / 8);
        // The mean square of a rectified number is half of its own.
        let scale = (2.0 / DIRECTIONS as f64).sqrt();
        let climb = |signs: &[u8; DIRECTIONS / 8]| {
            let signs = u32::from_le_bytes(*signs);
            let signed = |(index, bend): (usize, &f64)| if signs >> index & 1 == 1 { *bend } else { -bend };
            scale * path.bends.iter().enumerate().map(signed).sum::<f64>()
        };
        signs.as_chunks().0.iter().map(climb).collect()
    }
}

/// How far two thumbnails are apart: the root of the sum of the squares of their differences, in units of 255 levels. None where
/// they differ in size.
pub(super) fn apart(one: &Likeness, other: &Likeness) -> Option<f64> {
    let squares: i64 = difference(one, other)?.iter().map(|by| i64::from(*by) * i64::from(*by)).sum();
    Some((squares as f64).sqrt() / 255.0)
}

fn difference(one: &Likeness, other: &Likeness) -> Option<Vec<i16>> {
    let (one, other) = (one.thumbnail(), other.thumbnail());
    let alike = (one.width(), one.height()) == (other.width(), other.height());
    let differences =
        || one.bytes().iter().zip(other.bytes()).map(|(one, other)| i16::from(*one) - i16::from(*other));
    alike.then(|| differences().collect())
}

fn projected(direction: &[i8], difference: &[i16]) -> i32 {
    direction.iter().zip(difference).map(|(weight, by)| i32::from(*weight) * i32::from(*by)).sum()
}

impl std::fmt::Debug for Slopes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Slopes(..)")
    }
}

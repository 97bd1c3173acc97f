//! A smooth function over all pictures, one for each class, that only the key knows.
//!
//! Random Fourier features (Rahimi and Recht 2007) of the thumbnail: a draw from a Gaussian process whose values hardly change
//! within a small part of [`REACH`] and know nothing of each other beyond it. Near a picture it is all but linear, so a gradient
//! estimated from near-copies is the function's own.

use super::noise::Key;
use crate::judgment::Likeness;

/// Waves that make up the function.
const WAVES: usize = 32;

/// Values of the largest thumbnail: 32 x 32 of three colours.
const VALUES: usize = 3 * 32 * 32;

/// The distance over which the function's values stay about the same: the root of the summed squares of the thumbnails'
/// differences, in units of 255 levels. Beyond what the guard lets pass between two pictures of one answer (at most some 4), so that
/// a decoy moves on as far as a caller moves within the reach of one answer.
const REACH: f64 = 6.0;

/// The functions of one key.
pub(super) struct Surface {
    key: Key,
    /// Each wave's direction, value by value; uniform, whose sums are normal enough.
    waves: Vec<i8>,
    phases: Vec<f64>,
}

/// What the function makes of one picture, whatever the class.
pub(super) struct Place([f64; WAVES]);

impl Surface {
    /// Draws the waves: some 100 KB.
    pub(super) fn new(key: Key) -> Self {
        let mut noise = key.noise(&[b"decoy waves"]);
        let waves =
            noise.bytes(WAVES * VALUES).into_iter().map(|byte| byte.wrapping_sub(128) as i8).collect();
        let phases = noise.normal(WAVES).into_iter().map(|phase| phase * std::f64::consts::TAU).collect();
        Self { key, waves, phases }
    }

    /// Where a picture stands: some 30 us.
    pub(super) fn place(&self, likeness: &Likeness) -> Place {
        let levels = likeness.thumbnail().bytes();
        // Of -128..=127, uniformly: the deviation is 73.9.
        let unit = 1.0 / (73.9 * 255.0 * REACH);
        let mut place = [0.0; WAVES];
        for ((at, wave), phase) in place.iter_mut().zip(self.waves.chunks_exact(VALUES)).zip(&self.phases) {
            let sum: i32 =
                wave.iter().zip(levels).map(|(wave, level)| i32::from(*wave) * i32::from(*level)).sum();
            *at = (f64::from(sum) * unit + phase).cos();
        }
        Place(place)
    }

    /// By how much each class's value is higher at `here` than at `there`, in standard deviations of the function. Some 20 ns a class.
    pub(super) fn climb(&self, output: &str, classes: usize, here: &Place, there: &Place) -> Vec<f64> {
        let change: [f64; WAVES] = std::array::from_fn(|wave| here.0[wave] - there.0[wave]);
        let weights = self.key.noise(&[b"decoy weights", output.as_bytes()]).bytes(classes * WAVES / 8);
        let scale = (2.0 / WAVES as f64).sqrt();
        let climb = |signs: &[u8; WAVES / 8]| {
            let signs = u32::from_le_bytes(*signs);
            let signed =
                |(wave, change): (usize, &f64)| if signs >> wave & 1 == 1 { *change } else { -change };
            scale * change.iter().enumerate().map(signed).sum::<f64>()
        };
        weights.as_chunks().0.iter().map(climb).collect()
    }
}

/// The standard deviation of [`Surface::climb`] between two pictures, over all keys: 0 for equal thumbnails, 1.41 for strangers.
pub(super) fn usual_climb(one: &Likeness, other: &Likeness) -> f64 {
    let (one, other) = (one.thumbnail(), other.thumbnail());
    if (one.width(), one.height()) != (other.width(), other.height()) {
        return std::f64::consts::SQRT_2;
    }
    let squares = one
        .bytes()
        .iter()
        .zip(other.bytes())
        .map(|(one, other)| (f64::from(*one) - f64::from(*other)).powi(2));
    let apart = squares.sum::<f64>() / (255.0 * REACH).powi(2);
    (2.0 * (1.0 - f64::exp(-apart / 2.0))).sqrt()
}

impl std::fmt::Debug for Surface {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Surface(..)")
    }
}

//! The correlation of reliefs: whether the light and dark of two pictures lie alike, however strong either is.
//!
//! A relief is what the fine cells show once each channel's mean and even slopes are taken out. The other distances
//! measure in levels, so whoever lays much noise over a picture of little contrast, or fades it towards another one, is
//! soon far by all of them; the shapes that the model goes by still lie where they lay. Without the slopes, skies and
//! plain gradients would all be alike. For suspicion alone; it is blind to what is moved by more than half a cell.
//! `hardened` only.

use super::cells::{Cells, FINE, Grid};

/// Fine cells along a side.
const SIDE: usize = 8;

/// The sum of the squares of a slope's steps, -7 to 7 by twos, over the cells.
const SLOPE: i64 = 1344;

/// The least relief that is compared: that of a deviation of two levels. Below it lie rounding and noise.
const LEAST: u32 = (SLOPE * (3 * FINE * 2 * 2) as i64) as u32;

/// Sums of two by two cells in all channels.
const LOW: usize = 3 * FINE / 4;

/// Steps of a sum in one.
const STEPS: f32 = 127.0;

/// By how much rounding can lower a correlation of low reliefs: each sum by half a step, so a relief by half a step times the
/// root of their number, which is 0.0273; twice, and the error of both. The rest is for what floats lose, most in the root of next to nothing.
const ROUNDED: f64 = 0.06;

/// What is known of a picture's relief beside its cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Relief {
    moments: [Moments; 3],
    /// The sum of its squares, times [`SLOPE`].
    strength: u32,
}

/// A relief at half the detail and of unit strength: its sums over two by two cells, in 127ths, and how strong the detail is
/// that they leave out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct LowRelief {
    sums: [i8; LOW],
    beyond: f32,
}

/// A channel's sums: of its cells, and of its cells times the steps of a slope to the right and downwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moments {
    sum: u16,
    across: i16,
    down: i16,
}

impl Relief {
    pub(super) fn of(fine: &Grid<FINE>) -> Self {
        let moments = fine.each_ref().map(Moments::of);
        let strength = in_common((fine, &moments), (fine, &moments));
        // At most 3 channels x 64 cells x 127.5 squared x 1,344, which 32 bits hold.
        Self { moments, strength: strength as u32 }
    }
}

/// How alike two reliefs are, -1 to 1; 0 where either picture has too little of one.
///
/// All in integers but for the last step, so that every machine finds the same.
#[inline(always)]
pub(super) fn correlation(a: &Cells, b: &Cells) -> f64 {
    let (of_a, of_b) = (&a.relief, &b.relief);
    if of_a.strength.min(of_b.strength) < LEAST {
        return 0.0;
    }
    let common = in_common((&a.fine, &of_a.moments), (&b.fine, &of_b.moments));
    common as f64 / (f64::from(of_a.strength) * f64::from(of_b.strength)).sqrt()
}

impl LowRelief {
    /// That of some cells; none where there is too little of one to be compared.
    pub(super) fn of(cells: &Cells) -> Self {
        let Cells { fine, relief, .. } = cells;
        let (mut sums, mut shown) = ([0; LOW], 0.0);
        if relief.strength < LEAST {
            return Self { sums, beyond: 0.0 };
        }
        // A block's sum weighs a half, so that blocks measure as cells do.
        let unit = 0.5 / (SLOPE as f32 * relief.strength as f32).sqrt();
        let blocks = fine.iter().zip(&relief.moments).flat_map(|(plane, moments)| {
            (0..LOW / 3).map(|block| moments.block_above_plane(plane, block / (SIDE / 2), block % (SIDE / 2)))
        });
        for (sum, block) in sums.iter_mut().zip(blocks) {
            let weight = unit * block as f32;
            shown += weight * weight;
            *sum = (STEPS * weight).round() as i8;
        }
        Self { sums, beyond: (1.0 - shown).max(0.0).sqrt() }
    }

    /// What the [`correlation`] is at the most: that of the sums, if all that they leave out were alike.
    #[inline(always)]
    pub(super) fn correlation_at_most(&self, other: &Self) -> f64 {
        let mut common = 0;
        for (a, b) in self.sums.iter().zip(&other.sums) {
            common += i32::from(*a) * i32::from(*b);
        }
        f64::from(common) / f64::from(STEPS * STEPS) + f64::from(self.beyond * other.beyond) + ROUNDED
    }
}

impl Moments {
    /// How far two by two cells lie above their channel's plane, all together, times [`SLOPE`].
    fn block_above_plane(self, cells: &[u8; FINE], y: usize, x: usize) -> i32 {
        let at = 2 * (SIDE * y + x);
        let sum: i32 =
            [at, at + 1, at + SIDE, at + SIDE + 1].map(|at| i32::from(cells[at])).into_iter().sum();
        let steps = |at: usize| 2 * i32::from(step(2 * at) + step(2 * at + 1));
        SLOPE as i32 * sum
            - 4 * (SLOPE / FINE as i64) as i32 * i32::from(self.sum)
            - steps(x) * i32::from(self.across)
            - steps(y) * i32::from(self.down)
    }

    fn of(cells: &[u8; FINE]) -> Self {
        let (mut sum, mut across, mut down) = (0, 0, 0);
        for (y, row) in cells.as_chunks::<SIDE>().0.iter().enumerate() {
            for (x, &cell) in row.iter().enumerate() {
                sum += u16::from(cell);
                across += step(x) * i16::from(cell);
                down += step(y) * i16::from(cell);
            }
        }
        Self { sum, across, down }
    }
}

/// How far a column or row lies from the middle, in half cells.
fn step(at: usize) -> i16 {
    2 * at as i16 - (SIDE as i16 - 1)
}

/// The sum of the products of two reliefs, times [`SLOPE`].
#[inline(always)]
fn in_common((a, of_a): (&Grid<FINE>, &[Moments; 3]), (b, of_b): (&Grid<FINE>, &[Moments; 3])) -> i64 {
    let mut common = 0;
    for ((a, b), (of_a, of_b)) in a.iter().zip(b).zip(of_a.iter().zip(of_b)) {
        let products: u32 = a.iter().zip(b).map(|(&a, &b)| u32::from(a) * u32::from(b)).sum();
        common += SLOPE * i64::from(products)
            - SLOPE / FINE as i64 * i64::from(of_a.sum) * i64::from(of_b.sum)
            - i64::from(of_a.across) * i64::from(of_b.across)
            - i64::from(of_a.down) * i64::from(of_b.down);
    }
    common
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "whole numbers divided by themselves, or none at all")]
mod tests {
    use super::*;

    fn grid(level: impl Fn(i32, i32, i32) -> f32) -> Grid<FINE> {
        let of = |channel| std::array::from_fn(|i| level(i as i32 % 8, i as i32 / 8, channel).round() as u8);
        [of(0), of(1), of(2)]
    }

    /// Shapes without any slope to speak of.
    fn shapes(x: i32, y: i32, channel: i32) -> f32 {
        if (x * x + y * (3 + channel) + x * y * 5) % 7 < 3 { 40.0 } else { -40.0 }
    }

    fn between(a: &Grid<FINE>, b: &Grid<FINE>) -> f64 {
        let cells =
            |fine: &Grid<FINE>| Cells { fine: *fine, relief: Relief::of(fine), ..Cells::of(&[0; 3], (1, 1)) };
        let (a, b) = (cells(a), cells(b));
        assert_eq!(correlation(&a, &b), correlation(&b, &a), "nearness has no direction");
        correlation(&a, &b)
    }

    #[test]
    fn brightness_contrast_and_even_slopes_are_taken_out() {
        let picture = grid(|x, y, c| 120.0 + shapes(x, y, c));
        let faded = grid(|x, y, c| 90.0 + 0.25 * shapes(x, y, c));
        let shaded =
            grid(|x, y, c| 120.0 + shapes(x, y, c) + 3.0 * x as f32 - 5.0 * y as f32 + 7.0 * c as f32);
        let negative = grid(|x, y, c| 120.0 - shapes(x, y, c));
        assert_eq!(between(&picture, &picture), 1.0);
        assert!(between(&picture, &faded) > 0.999);
        assert!(between(&picture, &shaded) > 0.999);
        assert!(between(&picture, &negative) < -0.999);
    }

    #[test]
    fn low_reliefs_bound_the_correlation_from_above_and_closely() {
        let cells =
            |fine: Grid<FINE>| Cells { relief: Relief::of(&fine), fine, ..Cells::of(&[0; 3], (1, 1)) };
        let smooth = |phase: i32| {
            cells(grid(move |x, y, c| {
                120.0 + 60.0 * (((x / 2 * 3 + y / 2 * (5 + c) + phase) % 4) as f32 - 1.5)
            }))
        };
        let fine = cells(grid(|x, y, c| 120.0 + shapes(x, y, c)));
        let at_most = |a: &Cells, b: &Cells| LowRelief::of(a).correlation_at_most(&LowRelief::of(b));
        for (a, b) in [(0, 0), (0, 1), (0, 2), (1, 3)].map(|(a, b)| (smooth(a), smooth(b))) {
            let over = at_most(&a, &b) - correlation(&a, &b);
            assert!((0.0..0.12).contains(&over), "nothing is left out: {over}");
        }
        assert!(at_most(&fine, &fine) >= 1.0);
        assert!(at_most(&smooth(0), &fine) >= correlation(&smooth(0), &fine));
        let nothing = cells([[7; FINE]; 3]);
        assert!((0.0..0.1).contains(&at_most(&nothing, &fine)));
    }

    #[test]
    fn it_is_what_is_left_of_a_least_squares_plane() {
        let picture = grid(|x, y, c| 120.0 + shapes(x, y, c) + 4.0 * x as f32);
        let other = grid(|x, y, c| 100.0 + shapes(x + 1, y, c) - 6.0 * y as f32);
        // The plane of a channel: its mean, and the slopes that the steps of both directions fit best, being orthogonal.
        let residue = |grid: &Grid<FINE>| {
            let mut left = Vec::new();
            for plane in grid {
                let fit = |weigh: &dyn Fn(usize) -> f64| {
                    let squares: f64 = (0..FINE).map(|i| weigh(i).powi(2)).sum();
                    plane.iter().enumerate().map(|(i, &cell)| f64::from(cell) * weigh(i)).sum::<f64>()
                        / squares
                };
                let across = |i: usize| (i % 8) as f64 - 3.5;
                let down = |i: usize| (i / 8) as f64 - 3.5;
                let (mean, right, below) = (fit(&|_| 1.0), fit(&across), fit(&down));
                let at = |i: usize| f64::from(plane[i]) - mean - right * across(i) - below * down(i);
                left.extend((0..FINE).map(at));
            }
            left
        };
        let (a, b) = (residue(&picture), residue(&other));
        let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let expected = product(&a, &b) / (product(&a, &a) * product(&b, &b)).sqrt();
        assert!(expected.abs() < 0.9, "{expected}: the two are not too much alike to tell");
        assert!((between(&picture, &other) - expected).abs() < 1e-12);
    }

    #[test]
    fn what_shows_next_to_nothing_resembles_nothing() {
        let flat = grid(|_, _, _| 128.0);
        let slope = grid(|x, y, _| 10.0 + 12.0 * x as f32 + 9.0 * y as f32);
        // Deviations of two levels, and of one.
        let faint = |levels| grid(|x, y, c| 100.0 + levels * shapes(x, y, c) / 40.0);
        for nothing in [flat, slope, faint(1.0)] {
            assert_eq!(between(&nothing, &nothing), 0.0);
        }
        assert_eq!(between(&faint(3.0), &faint(3.0)), 1.0);
        assert_eq!(between(&faint(3.0), &faint(1.0)), 0.0);
    }

    #[test]
    fn the_strongest_relief_fits() {
        let strongest = grid(|x, y, _| if (x + y) % 2 == 0 { 0.0 } else { 255.0 });
        let expected = SLOPE as f64 * 3.0 * 64.0 * 127.5 * 127.5;
        assert!((f64::from(Relief::of(&strongest).strength) - expected).abs() < 1e6);
        assert_eq!(between(&strongest, &strongest), 1.0);
        let white = grid(|_, _, _| 255.0);
        assert_eq!(Relief::of(&white).strength, 0);
    }
}

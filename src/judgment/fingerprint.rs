//! The fingerprint: the 256-bit perceptual hash of a thumbnail, and its distance in bits.
//!
//! Steps: grey (BT.601, 299 R + 587 G + 114 B thousandths, unrounded); 16 x 16 of it by the area average when the
//! picture is at most 32 x 32, else 32 x 32; orthonormal two-dimensional DCT-II; the 16 x 16 block of lowest
//! frequencies, each rounded to the nearest integer; one bit for each coefficient above the block's mean.
//!
//! Everything after the rounding is integer arithmetic. Without it a gradient or a blank page would hash the noise
//! of the last binary digit, differently on each processor.

use std::fmt;
use std::sync::Arc;

use fearless_simd::{Level, dispatch};
use rustdct::{DctPlanner, TransformType2And3};

use super::area::{area_sums, area_weight};
use super::rules::Profile;

/// The algorithm that made a [`Fingerprint`]: two of different versions must never be compared.
///
/// It goes into every digest and belongs into every key under which fingerprints outlive a process.
pub const FINGERPRINT_VERSION: u8 = 1;

/// The side of the block of lowest frequencies, which makes 256 bits.
const BLOCK: usize = 16;

/// By how much the line between two integers lies below the half, in levels.
///
/// The coefficients at frequencies 0 and 8 are fractions with small denominators, so exact halves do occur, and the
/// noise of the transform (1e-10) would decide them. No such fraction comes this close to a half without being one.
const BELOW_HALF: f64 = 1e-6;

/// The 256-bit perceptual hash of a picture.
///
/// * In: a thumbnail.
/// * Out: 256 bits, row-major over the block of frequencies; bit 0 is DC, bit 1 the lowest horizontal frequency,
///   bit 16 the lowest vertical one.
/// * Blind to: a few pixels, high frequencies, brightness and contrast as a whole. It loses the track of shifts
///   beyond 3 % of a side, rotations beyond 2 degrees, flips; on 32 x 32 pictures dense noise of 8/255 moves it by
///   more than 25 bits in a quarter of cases, which is what the cells are for. Of a flat picture it says nothing.
/// * Costs: three microseconds (16 x 16) or nine (32 x 32), a part of `likeness` in `benches/judgment.rs`.
/// * From: the paper's sections 3.2 and 3.3.1. We differ in `hardened`: the mean leaves DC out and is not taken
///   below zero, because with DC in it the hash is mostly zeros and unrelated pictures collide; and coefficients
///   are rounded before they are compared, in both profiles.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u64; 4]);

impl Fingerprint {
    /// No bit set. A ghost of a flat picture carries it, since its hash must not count.
    pub(super) const NONE: Self = Self([0; 4]);

    /// How many of the 256 bits differ, 0..=256.
    ///
    /// * In: a fingerprint of the same profile and [`FINGERPRINT_VERSION`].
    /// * Out: bits; unrelated pictures lie about 127 apart (`hardened`) or 100 (`paper`).
    /// * Blind to: which frequencies differ; all weigh the same.
    /// * Costs: a few nanoseconds.
    /// * From: the Hamming distance of the paper's section 3.2.
    #[inline(always)]
    pub fn bits_from(&self, other: &Self) -> u32 {
        self.0.iter().zip(&other.0).map(|(a, b)| (a ^ b).count_ones()).sum()
    }

    /// How many of the 256 bits are set.
    pub(super) fn set_bits(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Its 32 bytes: bit `i` of the hash is bit `i % 8`, counted from the least significant, of byte `i / 8`.
    pub fn to_bytes(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (eight, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(self.0) {
            *eight = word.to_le_bytes();
        }
        bytes
    }

    pub(super) fn of_bits(bits: impl Iterator<Item = bool>) -> Self {
        let mut words = [0u64; 4];
        for (i, bit) in bits.enumerate() {
            // No branch: half of the bits are set, and which cannot be foreseen.
            words[i / 64] |= u64::from(bit) << (i % 64);
        }
        Self(words)
    }

    /// The same fingerprint with its last `bits` bits turned over.
    #[cfg(test)]
    pub(super) fn flipped(mut self, bits: usize) -> Self {
        for i in (0..256).rev().take(bits) {
            self.0[i / 64] ^= 1 << (i % 64);
        }
        self
    }
}

/// The 64 hexadecimal digits of [`Fingerprint::to_bytes`].
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// The side to which a picture's grey is reduced before the transform: the paper's `n`.
pub(super) fn fingerprint_side(width: u32, height: u32) -> usize {
    if width.max(height) <= 32 { 16 } else { 32 }
}

/// The planned transforms of both sizes.
#[derive(Clone)]
pub(super) struct Transforms {
    small: Arc<dyn TransformType2And3<f64>>,
    large: Arc<dyn TransformType2And3<f64>>,
}

impl Transforms {
    pub(super) fn plan() -> Self {
        let mut planner = DctPlanner::new();
        Self { small: planner.plan_dct2(16), large: planner.plan_dct2(32) }
    }

    /// The lowest frequencies of a thumbnail, given as interleaved RGB, at the side that its picture calls for.
    pub(super) fn block(&self, rgb: &[u8], size: (usize, usize), side: usize) -> Block {
        if side == 16 {
            Block::transform::<16>(&*self.small, rgb, size)
        } else {
            Block::transform::<32>(&*self.large, rgb, size)
        }
    }
}

/// The 16 x 16 lowest coefficients of an orthonormal DCT, in whole levels, row-major from DC.
pub(super) struct Block {
    coefficients: [i32; BLOCK * BLOCK],
    side: usize,
}

impl Block {
    fn transform<const N: usize>(
        dct: &dyn TransformType2And3<f64>,
        rgb: &[u8],
        size: (usize, usize),
    ) -> Self {
        // The transform runs on whole numbers (thousandths of a level times the area's weight), which f64 holds
        // exactly, and is scaled once at its end: a blank picture then has no noise but zeros.
        let mut grey = [[0f64; N]; N];
        let mut pixels = grey.as_flattened_mut().iter_mut();
        area_sums::<3>(rgb, size, (N, N), |[red, green, blue]| {
            if let Some(pixel) = pixels.next() {
                *pixel = (299 * red + 587 * green + 114 * blue) as f64;
            }
        });
        let mut scratch = [0f64; 64];
        let scratch = &mut scratch[..dct.get_scratch_len()];
        for row in &mut grey {
            dct.process_dct2_with_scratch(row, scratch);
        }
        let weight = 1000.0 * area_weight(size, (N, N)) as f64;
        let mut values = [0f64; BLOCK * BLOCK];
        for across in 0..BLOCK {
            let mut column = [0f64; N];
            for (value, row) in column.iter_mut().zip(&grey) {
                *value = row[across];
            }
            dct.process_dct2_with_scratch(&mut column, scratch);
            for (down, value) in column.iter().take(BLOCK).enumerate() {
                values[down * BLOCK + across] = *value;
            }
        }
        let coefficients = dispatch!(Level::new(), _simd => in_levels::<N>(&values, weight));
        Self { coefficients, side: N }
    }

    pub(super) fn fingerprint(&self, profile: Profile) -> Fingerprint {
        let sum: i64 = self.coefficients.iter().map(|&c| i64::from(c)).sum();
        match profile {
            Profile::Paper => {
                Fingerprint::of_bits(self.coefficients.iter().map(|&c| i64::from(c) * 256 > sum))
            }
            Profile::Hardened => {
                // The mean of 255 integers is never half-way between two, so its rounding is beyond dispute.
                let mean = (2 * (sum - i64::from(self.coefficients[0])) + 255).div_euclid(510);
                Fingerprint::of_bits(self.coefficients.iter().map(|&c| i64::from(c) > mean.max(0)))
            }
        }
    }

    /// Whether the contrast, in levels, is below `contrast`: the root mean square of the grey about its mean, of
    /// the picture as far as the block describes it. By Parseval that is the root of the sum of the squared AC
    /// coefficients over `side` squared.
    pub(super) fn is_flat(&self, contrast: f32) -> bool {
        let energy: i64 = self.coefficients[1..].iter().map(|&c| i64::from(c).pow(2)).sum();
        (energy as f64) < f64::from(contrast).powi(2) * (self.side * self.side) as f64
    }
}

/// The coefficients of an orthonormal transform, of one that was scaled by `weight` and its own lengths: halves go up.
#[inline(always)]
fn in_levels<const N: usize>(values: &[f64; BLOCK * BLOCK], weight: f64) -> [i32; BLOCK * BLOCK] {
    let length = |frequency| if frequency == 0 { 1.0 / N as f64 } else { 2.0 / N as f64 };
    let mut levels = [0; BLOCK * BLOCK];
    for (at, (level, value)) in levels.iter_mut().zip(values).enumerate() {
        let value = value * f64::sqrt(length(at % BLOCK) * length(at / BLOCK)) / weight;
        *level = (value + 0.5 + BELOW_HALF).floor() as i32;
    }
    levels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(size: (usize, usize), side: usize, pixel: impl Fn(usize, usize) -> [u8; 3]) -> Block {
        let rgb: Vec<u8> = (0..size.0 * size.1).flat_map(|i| pixel(i % size.0, i / size.0)).collect();
        Transforms::plan().block(&rgb, size, side)
    }

    #[test]
    fn one_colour_has_no_coefficient_but_dc() {
        for (size, side) in [((32, 32), 16), ((32, 32), 32), ((7, 5), 16), ((1, 1), 16)] {
            let block = block(size, side, |_, _| [200, 100, 50]);
            // 299 * 200 + 587 * 100 + 114 * 50 thousandths, times the side.
            assert_eq!(block.coefficients[0], (124.2 * side as f64).round() as i32, "{size:?}");
            assert!(block.coefficients[1..].iter().all(|&c| c == 0), "{size:?}");
            assert!(block.is_flat(0.001));
            assert!(!block.is_flat(0.0));
            assert_eq!(block.fingerprint(Profile::Hardened), Fingerprint::of_bits([true].into_iter()));
        }
    }

    #[test]
    fn the_transform_agrees_with_its_definition() {
        let pixel = |x: usize, y: usize| [(x * 37 + y * 11) as u8, (x * y) as u8, ((x * 5) ^ (y * 90)) as u8];
        for (n, size) in [(32usize, (32, 32)), (16, (16, 16))] {
            let found = block(size, n, pixel);
            let cosine = |u: usize, x: usize| {
                let length = if u == 0 { 1.0 } else { 2.0 } / n as f64;
                length.sqrt() * (std::f64::consts::PI * u as f64 * (2 * x + 1) as f64 / (2 * n) as f64).cos()
            };
            for v in 0..BLOCK {
                for u in 0..BLOCK {
                    let mut expected = 0.0;
                    for y in 0..n {
                        for x in 0..n {
                            let [r, g, b] = pixel(x, y).map(f64::from);
                            let grey = 0.299 * r + 0.587 * g + 0.114 * b;
                            expected += grey * cosine(u, x) * cosine(v, y);
                        }
                    }
                    let coefficient = f64::from(found.coefficients[v * BLOCK + u]);
                    assert!((coefficient - expected).abs() <= 0.5 + 1e-5, "{n}: {u}, {v}");
                }
            }
        }
    }

    #[test]
    fn contrast_is_the_deviation_of_the_grey_in_levels() {
        // Left half 120, right half 128: four levels about the mean, all of it in odd horizontal frequencies, of
        // which the 16 x 16 block of a 16 x 16 grey has every one.
        let halves = |x: usize, _| if x < 8 { [120; 3] } else { [128; 3] };
        let block = block((16, 16), 16, halves);
        assert!(block.is_flat(4.05));
        assert!(!block.is_flat(3.95));
    }

    #[test]
    fn the_means_are_compared_without_rounding_noise() {
        let mut coefficients = [0; 256];
        coefficients[0] = 256;
        coefficients[1] = 1;
        coefficients[2] = -1;
        coefficients[3] = 2;
        let block = Block { coefficients, side: 16 };
        // The sum is 258, so the paper's mean is just above one and only DC and 2 exceed it.
        let bits = |set: &[usize]| Fingerprint::of_bits((0..256).map(|i| set.contains(&i)));
        assert_eq!(block.fingerprint(Profile::Paper), bits(&[0, 3]));
        // The AC mean is 2/255, rounded to zero: every positive coefficient exceeds it, no zero does.
        assert_eq!(block.fingerprint(Profile::Hardened), bits(&[0, 1, 3]));
    }

    #[test]
    fn a_negative_mean_counts_as_zero() {
        let mut coefficients = [-3; 256];
        coefficients[0] = 100;
        coefficients[9] = 0;
        coefficients[10] = 1;
        let block = Block { coefficients, side: 16 };
        let expected = Fingerprint::of_bits((0..256).map(|i| i == 0 || i == 10));
        assert_eq!(block.fingerprint(Profile::Hardened), expected);
    }

    #[test]
    fn bytes_and_digits_start_with_dc() {
        let fingerprint = Fingerprint::of_bits((0..256).map(|i| [0, 9, 255].contains(&i)));
        let bytes = fingerprint.to_bytes();
        assert_eq!((bytes[0], bytes[1], bytes[31]), (1, 2, 128));
        assert!(fingerprint.to_string().starts_with("010200") && fingerprint.to_string().ends_with("80"));
    }

    #[test]
    fn distance_counts_bits_both_ways() {
        let base = Fingerprint::of_bits((0..256).map(|i| i % 3 == 0));
        for bits in [0, 1, 25, 26, 64, 65, 256] {
            assert_eq!(base.bits_from(&base.flipped(bits)), bits as u32);
            assert_eq!(base.flipped(bits).bits_from(&base), bits as u32);
        }
    }
}

//! The one reduction of pictures: the exact area average, in integers.
//!
//! Thumbnails, cells and the fingerprint's 16 x 16 grey all come from here. Both sides of a picture are laid on a
//! grid fine enough for source and result (`from * to / gcd` steps), every result pixel is the sum of the source
//! pixels under it, each weighted by the steps they share, and only the last division rounds (halves go up).
//! So the result is the same on every machine, for every ratio, up as well as down.
//!
//! Rows are summed first, since that runs along memory and vectorises; the sums of one row of results are then
//! added up across.

use fearless_simd::{Level, dispatch};

use super::image::MAX_SIDE;

/// Averages a row-major picture of `C` interleaved channels to `to_width` x `to_height`, halves rounded up.
///
/// `source` holds `width * height * C` bytes, sides are 1..=`MAX_SIDE`, the result's at most 32 here. Costs one pass
/// over the source (`benches/judgment.rs`, `likeness`).
pub(super) fn area_average<const C: usize>(
    source: &[u8],
    (width, height): (usize, usize),
    (to_width, to_height): (usize, usize),
) -> Vec<u8> {
    let mut average = Vec::with_capacity(to_width * to_height * C);
    let rounded = RoundedDivision::by(area_weight((width, height), (to_width, to_height)));
    area_sums::<C>(source, (width, height), (to_width, to_height), |sums| {
        average.extend_from_slice(&sums.map(|sum| rounded.of(sum)));
    });
    average
}

/// What the weights of one result pixel of [`area_sums`] add up to: its sums over this are the averages.
pub(super) fn area_weight(from: (usize, usize), to: (usize, usize)) -> u64 {
    Axis::new(from.0, to.0).to_steps * Axis::new(from.1, to.1).to_steps
}

/// Calls `each` with the weighted sums of every result pixel, row by row: the area average before its division.
pub(super) fn area_sums<const C: usize>(
    source: &[u8],
    (width, height): (usize, usize),
    (to_width, to_height): (usize, usize),
    each: impl FnMut([u64; C]),
) {
    debug_assert!(width.max(height) <= MAX_SIDE as usize && source.len() == width * height * C);
    let across = Axis::new(width, to_width).spans(to_width);
    let down = Axis::new(height, to_height);
    // A column's sum is at most 255 times the steps of a result pixel. Sixteen bits hold it for nearly every size
    // in use (224, 299, 480, 1080) and let twice as many columns share a register.
    let fits = u16::try_from(down.to_steps * 255).is_ok();
    let down = down.spans(to_height);
    // Compiled once for each kind of vector unit, and the best that this machine has is taken.
    dispatch!(Level::new(), _simd => if fits {
        sums_by::<u16, C>(source, width, &across, &down, each);
    } else {
        sums_by::<u32, C>(source, width, &across, &down, each);
    });
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "only what is seen through is compiled for each kind of vector unit")]
fn sums_by<A: Accumulator, const C: usize>(
    source: &[u8],
    width: usize,
    across: &Spans,
    down: &Spans,
    mut each: impl FnMut([u64; C]),
) {
    let stride = width * C;
    let mut columns = vec![A::default(); stride];
    for span in &down.spans {
        columns.fill(A::default());
        for row in span.first..=span.last {
            let weight = span.weight(row, down.full);
            A::add(&mut columns, &source[row * stride..][..stride], weight);
        }
        let (columns, _) = columns.as_chunks::<C>();
        for span in &across.spans {
            let mut sums = [0u64; C];
            // The pixels between the first and the last lie wholly under the result pixel and share one weight.
            for column in columns.get(span.first + 1..span.last).unwrap_or_default() {
                for (sum, value) in sums.iter_mut().zip(column) {
                    *sum += value.wide();
                }
            }
            for (sum, value) in sums.iter_mut().zip(&columns[span.first]) {
                *sum = *sum * across.full + value.wide() * span.head;
            }
            if span.last > span.first {
                for (sum, value) in sums.iter_mut().zip(&columns[span.last]) {
                    *sum += value.wide() * span.tail;
                }
            }
            each(sums);
        }
    }
}

/// One side of the reduction: how many steps of the common grid a source and a result pixel are long.
struct Axis {
    from_steps: u64,
    to_steps: u64,
}

impl Axis {
    fn new(from: usize, to: usize) -> Self {
        let common = gcd(from as u64, to as u64);
        Self { from_steps: to as u64 / common, to_steps: from as u64 / common }
    }

    fn spans(&self, to: usize) -> Spans {
        let spans = (0..to as u64).map(|pixel| {
            let (start, end) = (pixel * self.to_steps, (pixel + 1) * self.to_steps);
            let (first, last) = (start / self.from_steps, (end - 1) / self.from_steps);
            let head = end.min((first + 1) * self.from_steps) - start;
            let tail = end - start.max(last * self.from_steps);
            Span { first: first as usize, last: last as usize, head, tail }
        });
        Spans { full: self.from_steps, spans: spans.collect() }
    }
}

/// Which source pixels lie under each result pixel; all but the first and the last of a span weigh `full`.
struct Spans {
    full: u64,
    spans: Vec<Span>,
}

struct Span {
    first: usize,
    last: usize,
    head: u64,
    tail: u64,
}

impl Span {
    fn weight(&self, pixel: usize, full: u64) -> u64 {
        if pixel == self.first {
            self.head
        } else if pixel == self.last {
            self.tail
        } else {
            full
        }
    }
}

/// A column's running sum: `u16` where the sum fits, else `u32`.
trait Accumulator: Copy + Default {
    fn add(columns: &mut [Self], row: &[u8], weight: u64);
    fn wide(self) -> u64;
}

macro_rules! accumulator {
    ($word:ty) => {
        impl Accumulator for $word {
            #[inline(always)]
            #[allow(clippy::inline_always, reason = "as sums_by")]
            fn add(columns: &mut [Self], row: &[u8], weight: u64) {
                // Whole ratios such as 224 to 32 have no weight but one; a loop without the product is faster.
                if weight == 1 {
                    for (sum, &value) in columns.iter_mut().zip(row) {
                        *sum += Self::from(value);
                    }
                } else {
                    let weight = weight as Self;
                    for (sum, &value) in columns.iter_mut().zip(row) {
                        *sum += Self::from(value) * weight;
                    }
                }
            }

            fn wide(self) -> u64 {
                u64::from(self)
            }
        }
    };
}

accumulator!(u16);
accumulator!(u32);

/// Division by one divisor many times over, rounded to the nearest integer, halves up.
///
/// `floor(n / d)` is the upper half of `n * (floor(2^64 / d) + 1)` as long as `n * d < 2^64`. Here `d` is at most
/// 2^28 and `n` below 256 `d`, so it always holds, and a multiplication takes the place of a slow division.
struct RoundedDivision {
    half: u64,
    reciprocal: Option<u64>,
}

impl RoundedDivision {
    fn by(divisor: u64) -> Self {
        // A divisor of one has no reciprocal in 64 bits and needs none.
        let reciprocal = (divisor > 1).then(|| ((1u128 << 64) / u128::from(divisor)) as u64 + 1);
        Self { half: divisor / 2, reciprocal }
    }

    fn of(&self, sum: u64) -> u8 {
        match self.reciprocal {
            None => sum as u8,
            Some(reciprocal) => {
                (((u128::from(sum) + u128::from(self.half)) * u128::from(reciprocal)) >> 64) as u8
            }
        }
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, pixel by pixel on the common grid, without any of the shortcuts above.
    fn by_definition(source: &[u8], (w, h): (usize, usize), (to_w, to_h): (usize, usize)) -> Vec<u8> {
        let overlap = |from: usize, a: usize, to: usize, b: usize| {
            let start = (a * to).max(b * from);
            let end = ((a + 1) * to).min((b + 1) * from);
            end.saturating_sub(start) as u64
        };
        let mut result = Vec::new();
        for y in 0..to_h {
            for x in 0..to_w {
                for c in 0..3 {
                    let (mut sum, mut weight) = (0u64, 0u64);
                    for j in 0..h {
                        for i in 0..w {
                            let shared = overlap(w, i, to_w, x) * overlap(h, j, to_h, y);
                            sum += shared * u64::from(source[(j * w + i) * 3 + c]);
                            weight += shared;
                        }
                    }
                    result.push(((2 * sum + weight) / (2 * weight)) as u8);
                }
            }
        }
        result
    }

    fn drawn(bytes: usize, seed: u64) -> Vec<u8> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..bytes).map(|_| next()).collect()
    }

    #[test]
    fn every_ratio_agrees_with_the_definition() {
        let sides = [1, 2, 3, 7, 8, 16, 28, 31, 33, 40];
        for w in sides {
            for h in sides {
                let source = drawn(w * h * 3, (w * 1000 + h) as u64);
                // Sixteen exceeds some sides and the others exceed it: both ways are taken on both axes.
                for to in [(16, 16), (8, 8), (5, 3)] {
                    let found = area_average::<3>(&source, (w, h), to);
                    assert_eq!(found, by_definition(&source, (w, h), to), "{w} x {h} to {to:?}");
                }
            }
        }
    }

    #[test]
    fn tall_pictures_need_and_get_wider_sums() {
        // 331 is prime: a result row is 331 steps of the common grid, and 331 * 255 does not fit sixteen bits.
        let source = vec![255; 2 * 331 * 3];
        assert_eq!(area_average::<3>(&source, (2, 331), (4, 32)), vec![255; 4 * 32 * 3]);
        let source = drawn(2 * 331 * 3, 7);
        assert_eq!(area_average::<3>(&source, (2, 331), (4, 8)), by_definition(&source, (2, 331), (4, 8)));
    }

    #[test]
    fn the_longest_sides_do_not_overflow() {
        let side = MAX_SIDE as usize - 1;
        assert_eq!(area_average::<1>(&vec![255; side], (side, 1), (32, 32)), vec![255; 1024]);
        assert_eq!(area_average::<1>(&vec![255; side], (1, side), (32, 32)), vec![255; 1024]);
    }

    #[test]
    fn division_by_reciprocal_is_exact_at_every_edge() {
        let largest = u64::from(MAX_SIDE) * u64::from(MAX_SIDE);
        for divisor in [1, 2, 3, 7, 49, 255, 256, 1000, 65_537, largest - 1, largest] {
            let rounded = RoundedDivision::by(divisor);
            for level in 0..=255u64 {
                let half_way = level * divisor + divisor / 2;
                for sum in half_way.saturating_sub(2)..=(half_way + 2).min(255 * divisor) {
                    let expected = (2 * sum + divisor) / (2 * divisor);
                    assert_eq!(u64::from(rounded.of(sum)), expected, "{sum} / {divisor}");
                }
            }
        }
    }

    #[test]
    fn halves_round_up() {
        assert_eq!(area_average::<1>(&[0, 1], (2, 1), (1, 1)), [1]);
        assert_eq!(area_average::<1>(&[0, 0, 0, 1], (2, 2), (1, 1)), [0]);
        assert_eq!(area_average::<1>(&[254, 255], (2, 1), (1, 1)), [255]);
    }
}

//! The pixel distance: at how many positions two thumbnails differ, and by how much on average.
//!
//! It catches what the fingerprint cannot see, a few pixels changed by much, and is blind to what the cells see,
//! every pixel changed by little. Counting goes in blocks and stops once the count can no longer matter, because a
//! row is compared with every anchor of its session and nearly all of them are other pictures.

use fearless_simd::{Level, dispatch};

use super::thumbnail::{THUMBNAIL_SIDE, Thumbnail};

/// Positions compared between two looks at the count; its counter fits a byte.
const BLOCK: usize = 128;

/// At how many positions the two differ by more than `tolerance` levels in any channel.
///
/// The count is complete as long as it is at most `limit`; beyond that only that it is more than `limit` is true.
/// Thumbnails of different sizes differ everywhere.
#[inline(always)]
pub(super) fn differing(a: &Thumbnail, b: &Thumbnail, tolerance: u8, limit: u32) -> u32 {
    if !a.same_size(b) {
        return a.positions().max(b.positions());
    }
    let (a, b) = (a.planes(), b.planes());
    let (blocks, positions) = (a[0].len() / BLOCK, a[0].len());
    let mut count = 0;
    for start in (0..blocks * BLOCK).step_by(BLOCK) {
        let of = |plane: &[u8]| {
            let mut levels = [0; BLOCK];
            levels.copy_from_slice(&plane[start..start + BLOCK]);
            levels
        };
        count += beyond(&a.map(of), &b.map(of), tolerance);
        if count > limit {
            return count;
        }
    }
    // What is left of a thumbnail whose positions are no whole number of blocks: filled up with equal ones.
    let of = |plane: &[u8]| {
        let mut levels = [0; BLOCK];
        levels[..positions - blocks * BLOCK].copy_from_slice(&plane[blocks * BLOCK..]);
        levels
    };
    count + if positions > blocks * BLOCK { beyond(&a.map(of), &b.map(of), tolerance) } else { 0 }
}

/// At how many positions of a block some channel is more than `tolerance` levels apart.
#[inline(always)]
fn beyond(a: &[[u8; BLOCK]; 3], b: &[[u8; BLOCK]; 3], tolerance: u8) -> u32 {
    let mut apart = [0; BLOCK];
    for (a, b) in a.iter().zip(b) {
        for ((apart, a), b) in apart.iter_mut().zip(a).zip(b) {
            *apart = a.abs_diff(*b).max(*apart);
        }
    }
    let mut count = 0u8;
    for apart in apart {
        count += u8::from(apart > tolerance);
    }
    u32::from(count)
}

/// The positions at which the two have anything to compare: all but those at which both go on with the pixel that stands
/// to the left and above, and with the same one. Two drawings on white paper agree about the paper.
///
/// Asked only of pictures that differ at few positions. All positions, where the sizes differ.
pub(super) fn shown(a: &Thumbnail, b: &Thumbnail) -> u32 {
    if !a.same_size(b) {
        return a.positions().max(b.positions());
    }
    dispatch!(Level::new(), _simd => a.positions() - going_on(a, b))
}

/// The positions that go on alike in both. At the left edge there is only the pixel above to go on with, at the upper edge only
/// the one to the left, and the first position goes on from nothing.
#[inline(always)]
fn going_on(a: &Thumbnail, b: &Thumbnail) -> u32 {
    let (positions, width) = (a.positions() as usize, a.width() as usize);
    let mut plain = [1; THUMBNAIL_SIDE * THUMBNAIL_SIDE];
    let plain = &mut plain[..positions];
    for plane in a.planes().iter().chain(&b.planes()) {
        keep_equal(&mut plain[1..], &plane[1..], plane);
    }
    for start in (0..positions).step_by(width) {
        plain[start] = 1;
    }
    for (a, b) in a.planes().iter().zip(&b.planes()) {
        for plane in [a, b] {
            keep_equal(&mut plain[width..], &plane[width..], plane);
        }
        keep_equal(plain, a, b);
    }
    plain[0] = 0;
    plain.iter().map(|&plain| u32::from(plain)).sum()
}

/// Keeps the ones where two levels are equal.
#[inline(always)]
fn keep_equal(kept: &mut [u8], a: &[u8], b: &[u8]) {
    for ((kept, a), b) in kept.iter_mut().zip(a).zip(b) {
        *kept &= u8::from(a == b);
    }
}

/// The sum of the absolute differences of all channels at all positions, in levels; none where the sizes differ.
pub(super) fn total_difference(a: &Thumbnail, b: &Thumbnail) -> Option<u32> {
    a.same_size(b).then(|| dispatch!(Level::new(), _simd => apart(a.bytes(), b.bytes())))
}

#[inline(always)]
fn apart(a: &[u8], b: &[u8]) -> u32 {
    let mut sum = 0;
    for (a, b) in a.iter().zip(b) {
        sum += u32::from(a.abs_diff(*b));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::super::thumbnail::thumbnail_of;
    use super::*;

    #[test]
    fn a_position_differs_when_any_channel_exceeds_the_tolerance() {
        let base = thumbnail_of(32, 32, |_| [100; 3]);
        let cases = [
            ([100, 100, 100], 0, 0),
            ([101, 100, 100], 0, 1),
            ([100, 99, 100], 0, 1),
            ([100, 100, 101], 0, 1),
            ([103, 97, 103], 3, 0),
            ([103, 96, 103], 3, 1),
            ([0, 255, 0], 254, 0),
            ([0, 255, 0], 99, 1),
        ];
        for (pixel, tolerance, expected) in cases {
            for at in [0, 127, 128, 1023] {
                let changed = thumbnail_of(32, 32, |i| if i == at { pixel } else { [100; 3] });
                assert_eq!(
                    differing(&base, &changed, tolerance, 1024),
                    expected,
                    "{pixel:?} {tolerance} {at}"
                );
                assert_eq!(differing(&changed, &base, tolerance, 1024), expected);
            }
        }
    }

    #[test]
    fn counting_stops_beyond_the_limit_but_never_before() {
        let base = thumbnail_of(32, 32, |_| [0; 3]);
        for changed in [0u32, 1, 101, 102, 103, 512, 1024] {
            let other = thumbnail_of(32, 32, |i| [0, 0, u8::from(i >= 1024 - changed as usize)]);
            for limit in [0, 30, 101, 102, 1024] {
                let count = differing(&base, &other, 0, limit);
                if changed <= limit {
                    assert_eq!(count, changed);
                } else {
                    assert!(count > limit && count <= changed);
                }
            }
        }
    }

    #[test]
    fn a_plain_ground_that_both_share_shows_nothing() {
        let white = thumbnail_of(28, 28, |_| [255; 3]);
        assert_eq!(shown(&white, &white), 1);
        // A dot, and the pixels to its right and below, which do not go on as what is before them.
        let dot = |at: usize| thumbnail_of(28, 28, move |i| [if i == at { 0 } else { 255 }; 3]);
        assert_eq!(shown(&white, &dot(100)), 4);
        assert_eq!(shown(&dot(100), &dot(100)), 4);
        assert_eq!(shown(&dot(100), &dot(300)), 7);
        assert_eq!(shown(&white, &dot(783)), 2);
        let (rows, columns) = (|i: usize| [(i / 28) as u8; 3], |i: usize| [0, (i % 28) as u8, 0]);
        assert_eq!(shown(&thumbnail_of(28, 28, rows), &thumbnail_of(28, 28, rows)), 1 + 27 * 28);
        assert_eq!(shown(&thumbnail_of(28, 28, columns), &thumbnail_of(28, 28, columns)), 1 + 27 * 28);
        // Plain in both, and not the same in both.
        assert_eq!(shown(&white, &thumbnail_of(28, 28, |_| [255, 255, 254])), 784);
        assert_eq!(shown(&white, &thumbnail_of(28, 27, |_| [255; 3])), 784);
    }

    #[test]
    fn thumbnails_of_different_sizes_differ_everywhere() {
        let (a, b) = (thumbnail_of(7, 5, |_| [1; 3]), thumbnail_of(5, 7, |_| [1; 3]));
        assert_eq!(differing(&a, &b, 255, 0), 35);
        assert_eq!(differing(&a, &thumbnail_of(32, 32, |_| [1; 3]), 255, 0), 1024);
        assert_eq!(total_difference(&a, &b), None);
    }

    #[test]
    fn sizes_that_fill_no_block_are_counted_in_full() {
        for (width, height) in [(1, 1), (7, 5), (28, 28), (32, 31)] {
            let a = thumbnail_of(width, height, |i| [i as u8; 3]);
            let b = thumbnail_of(width, height, |i| [(i as u8) ^ 1; 3]);
            assert_eq!(differing(&a, &b, 0, 1024), width * height);
            assert_eq!(total_difference(&a, &b), Some(3 * width * height));
        }
    }
}

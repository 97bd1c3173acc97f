//! The cell distance: mean colours of an 8 x 8 and a 4 x 4 grid of the thumbnail, and how far apart they are.
//!
//! No change of at most 16/255 a pixel moves a cell by more than 16 levels, and noise averages out in a cell. So
//! this catches the dense attacks that move the fingerprint of a small picture too far. `hardened` only.

use super::area::area_average;
use super::relief::Relief;

/// Cells of the fine grid and of the coarse one.
pub(super) const FINE: usize = 64;
pub(super) const COARSE: usize = 16;

/// The mean colours of a grid of `N` cells: one plane a channel, cells row-major.
pub(super) type Grid<const N: usize> = [[u8; N]; 3];

/// The mean colours of the fine grid, and what is known of them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cells {
    pub(super) fine: Grid<FINE>,
    /// The standard deviation of the fine cells, in levels: the root of the mean over the channels of each
    /// channel's variance over its 64 means.
    pub(super) deviation: f32,
    /// What shows of the fine cells once their means and slopes are taken out.
    pub(super) relief: Relief,
}

impl Cells {
    pub(super) fn of(rgb: &[u8], size: (usize, usize)) -> Self {
        let fine = planes(&area_average::<3>(rgb, size, (8, 8)));
        Self { deviation: deviation(&fine), relief: Relief::of(&fine), fine }
    }
}

/// The mean colours of the coarse grid.
pub(super) fn coarse_cells(rgb: &[u8], size: (usize, usize)) -> Grid<COARSE> {
    planes(&area_average::<3>(rgb, size, (4, 4)))
}

fn planes<const N: usize>(rgb: &[u8]) -> Grid<N> {
    let mut grid = [[0; N]; 3];
    for (cell, pixel) in rgb.as_chunks::<3>().0.iter().enumerate().take(N) {
        for (plane, level) in grid.iter_mut().zip(pixel) {
            plane[cell] = *level;
        }
    }
    grid
}

fn deviation(fine: &Grid<FINE>) -> f32 {
    // Summed in integers, so that the only rounding is that of the root.
    let spread = |plane: &[u8; FINE]| {
        let sum: u32 = plane.iter().map(|&level| u32::from(level)).sum();
        let squares: u32 = plane.iter().map(|&level| u32::from(level).pow(2)).sum();
        FINE as u32 * squares - sum * sum
    };
    let spread: u32 = fine.iter().map(spread).sum();
    (f64::from(spread) / (3 * FINE * FINE) as f64).sqrt() as f32
}

/// How far two cells may be apart to count as near, in whole levels: `cap`, or `share` of the smaller deviation.
///
/// On pictures of little contrast (night, fog, a page of text) distinct pictures are within 16 levels too.
#[inline(always)]
pub(super) fn level_of_pair(a: &Cells, b: &Cells, cap: u8, share: f32) -> u8 {
    // A float becomes an integer downwards and within the integer's range: a cell is near if its distance, which
    // is whole, is at most the level.
    (share * a.deviation.min(b.deviation)).min(f32::from(cap)) as u8
}

/// How many cells are at most `level` levels apart in every channel.
#[inline(always)]
pub(super) fn within<const N: usize>(a: &Grid<N>, b: &Grid<N>, level: u8) -> u32 {
    let apart = apart(a, b);
    let mut count = 0u8;
    for cell in apart {
        count += u8::from(cell <= level);
    }
    u32::from(count)
}

/// Whether at least `needed` fine cells are within `level`. Unrelated pictures are told apart by the first rows.
#[inline(always)]
pub(super) fn enough_within(a: &Grid<FINE>, b: &Grid<FINE>, level: u8, needed: u32) -> bool {
    let Some(spare) = (FINE as u32).checked_sub(needed) else { return false };
    let mut outside = 0;
    for start in (0..FINE).step_by(16) {
        let mut beyond = 0u8;
        let rows = start..start + 16;
        let part = |grid: &Grid<FINE>, channel: usize| {
            let mut part = [0u8; 16];
            part.copy_from_slice(&grid[channel][rows.clone()]);
            part
        };
        let (a, b) = ([0, 1, 2].map(|c| part(a, c)), [0, 1, 2].map(|c| part(b, c)));
        for cell in apart(&a, &b) {
            beyond += u8::from(cell > level);
        }
        outside += u32::from(beyond);
        if outside > spare {
            return false;
        }
    }
    true
}

/// The distance of the two cells that are farthest apart, in levels.
#[inline(always)]
pub(super) fn farthest<const N: usize>(a: &Grid<N>, b: &Grid<N>) -> u8 {
    apart(a, b).into_iter().max().unwrap_or_default()
}

/// How far apart the cells of a channel are, all together, in levels: of the channel where that is most.
#[inline(always)]
pub(super) fn plane_farthest_apart(a: &Grid<COARSE>, b: &Grid<COARSE>) -> u32 {
    let mut farthest = 0;
    for (a, b) in a.iter().zip(b) {
        let apart: u32 = a.iter().zip(b).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
        farthest = farthest.max(apart);
    }
    farthest
}

/// Whether fewer than `needed` coarse cells can be within `level`, whatever cast is taken off: the short way to no that nearly all
/// unrelated pictures go.
///
/// Two cells that are within a level of the other picture's lie above one another as there, to within two levels. So each of eight
/// disjoint pairs that does not has a cell outside. Halves are compared, so that bytes hold them.
#[inline(always)]
pub(super) fn cannot_be_near(a: &Grid<COARSE>, b: &Grid<COARSE>, level: u8, needed: u32) -> bool {
    let Some(spare) = (COARSE as u32).checked_sub(needed) else { return true };
    let mut apart = [0; COARSE / 2];
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (halves(a), halves(b));
        for ((apart, a), b) in apart.iter_mut().zip(a).zip(b) {
            *apart = u8::max(*apart, a.abs_diff(b));
        }
    }
    let mut beyond = 0u8;
    for pair in apart {
        beyond += u8::from(pair > level);
    }
    u32::from(beyond) > spare
}

/// Half of how far each of the first eight cells lies above the eighth one after it, rounded down, and 128.
#[inline(always)]
fn halves(plane: &[u8; COARSE]) -> [u8; COARSE / 2] {
    let mut halves = [0; COARSE / 2];
    let (first, second) = plane.split_at(COARSE / 2);
    for ((half, first), second) in halves.iter_mut().zip(first).zip(second) {
        *half = ((u16::from(*first) + u16::from(!*second) + 1) >> 1) as u8;
    }
    halves
}

/// Whether at least `needed` coarse cells are within `level`, and within `contrast` of the deviation of the cells that are,
/// in whichever picture has less.
///
/// Cells that are all of one colour say little by agreeing: the ground of a drawing, a night sky, a page.
#[inline(always)]
pub(super) fn enough_coarsely(
    a: &Grid<COARSE>,
    b: &Grid<COARSE>,
    level: u8,
    contrast: f32,
    needed: u32,
) -> bool {
    within(a, b, level) >= needed && telling((a, b), apart(a, b).map(u16::from), 1, level, contrast, needed)
}

/// Whether at least `needed` cells stay near once the level is tied to what the near ones show. `apart` counts `steps` to
/// a level.
fn telling(
    (a, b): (&Grid<COARSE>, &Grid<COARSE>),
    apart: [u16; COARSE],
    steps: u16,
    level: u8,
    contrast: f32,
    needed: u32,
) -> bool {
    let near = |level: u8| apart.map(|cell| cell <= steps * u16::from(level));
    let among = near(level);
    let shown = deviation_among(a, &among).min(deviation_among(b, &among));
    let level = (contrast * shown).min(f32::from(level)) as u8;
    level >= 1 && near(level).into_iter().map(u32::from).sum::<u32>() >= needed
}

/// The standard deviation of some of the cells, in levels, as that of the fine cells.
fn deviation_among(grid: &Grid<COARSE>, among: &[bool; COARSE]) -> f32 {
    let count = among.iter().filter(|&&among| among).count() as u32;
    let spread = |plane: &[u8; COARSE]| {
        let some =
            || plane.iter().zip(among).filter(|&(_, &among)| among).map(|(&level, _)| u32::from(level));
        count * some().map(|level| level * level).sum::<u32>() - some().sum::<u32>().pow(2)
    };
    let spread: u32 = grid.iter().map(spread).sum();
    (f64::from(spread) / f64::from(3 * count.pow(2).max(1))).sqrt() as f32
}

/// The same as [`enough_coarsely`] once the median colour cast is taken off: the median over the cells of the signed
/// difference, for each channel. It sees a picture that was tinted, brightened or darkened as a whole.
#[inline(always)]
pub(super) fn enough_after_cast(
    a: &Grid<COARSE>,
    b: &Grid<COARSE>,
    level: u8,
    contrast: f32,
    needed: u32,
) -> bool {
    apart_after_cast(a, b, level, needed)
        .is_some_and(|doubled| telling((a, b), doubled, 2, level, contrast, needed))
}

/// How far apart the cells are without the cast, in half levels, if at least `needed` of them are within `level`. The
/// median of sixteen is the mean of the middle two, so differences are doubled to stay whole.
#[inline(always)]
fn apart_after_cast(a: &Grid<COARSE>, b: &Grid<COARSE>, level: u8, needed: u32) -> Option<[u16; COARSE]> {
    let doubled = 2 * i16::from(level);
    let mut difference = [[0i16; COARSE]; 3];
    for channel in 0..3 {
        for cell in 0..COARSE {
            difference[channel][cell] = i16::from(a[channel][cell]) - i16::from(b[channel][cell]);
        }
    }
    let mut apart = [0u16; COARSE];
    for plane in &difference {
        let mut sorted = *plane;
        sorted.sort_unstable();
        let cast = sorted[COARSE / 2 - 1] + sorted[COARSE / 2];
        for (apart, difference) in apart.iter_mut().zip(plane) {
            *apart = (*apart).max((2 * difference - cast).unsigned_abs());
        }
    }
    let near = apart.iter().filter(|&&cell| cell <= doubled.unsigned_abs()).count() as u32;
    (near >= needed).then_some(apart)
}

#[inline(always)]
fn apart<const N: usize>(a: &Grid<N>, b: &Grid<N>) -> [u8; N] {
    let mut apart = [0; N];
    for (a, b) in a.iter().zip(b) {
        for ((apart, a), b) in apart.iter_mut().zip(a).zip(b) {
            *apart = (*apart).max(a.abs_diff(*b));
        }
    }
    apart
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid<const N: usize>(cell: impl Fn(usize) -> [u8; 3]) -> Grid<N> {
        let mut grid = [[0; N]; 3];
        for i in 0..N {
            for (plane, level) in grid.iter_mut().zip(cell(i)) {
                plane[i] = level;
            }
        }
        grid
    }

    fn cells(deviation: f32) -> Cells {
        Cells { deviation, ..Cells::of(&[0; 3], (1, 1)) }
    }

    #[test]
    fn the_level_follows_the_smaller_deviation_up_to_its_cap() {
        let cases = [(100.0, 100.0, 16), (32.0, 90.0, 16), (31.9, 90.0, 15), (90.0, 4.0, 2), (3.9, 1.9, 0)];
        for (a, b, expected) in cases {
            assert_eq!(level_of_pair(&cells(a), &cells(b), 16, 0.5), expected);
            assert_eq!(level_of_pair(&cells(b), &cells(a), 16, 0.5), expected);
        }
    }

    #[test]
    fn the_deviation_is_that_of_the_cells_about_their_mean() {
        assert!(deviation(&[[7; FINE]; 3]).abs() < f32::EPSILON);
        // Half the cells ten above, half ten below: variance 100 in one channel of three.
        let one = grid(|i| [if i % 2 == 0 { 110 } else { 90 }, 5, 5]);
        assert!((deviation(&one) - (100.0f32 / 3.0).sqrt()).abs() < 1e-5);
        let widest = grid(|i| [if i < 32 { 0 } else { 255 }; 3]);
        assert!((deviation(&widest) - 127.5).abs() < 1e-5);
    }

    #[test]
    fn a_cell_is_within_if_its_largest_channel_difference_is() {
        let a = grid::<COARSE>(|_| [100; 3]);
        let b = grid::<COARSE>(|i| if i < 4 { [100, 111, 100] } else { [110, 90, 100] });
        assert_eq!((within(&a, &b, 10), within(&a, &b, 9), within(&a, &b, 11)), (12, 0, 16));
        assert_eq!(farthest(&a, &b), 11);
    }

    #[test]
    fn the_early_exit_agrees_with_the_full_count() {
        for outside in 0..=64usize {
            let a = grid::<FINE>(|_| [50; 3]);
            // The cells outside are spread, so that every part of the grid decides some case.
            let b = grid::<FINE>(|i| if (i * 37) % 64 < outside { [50, 50, 67] } else { [66, 50, 34] });
            for needed in [0, 1, 48, 63, 64, 65] {
                let full = within(&a, &b, 16) >= needed;
                assert_eq!(enough_within(&a, &b, 16, needed), full, "{outside} {needed}");
            }
        }
    }

    fn near_after_cast(a: &Grid<COARSE>, b: &Grid<COARSE>, level: u8, needed: u32) -> bool {
        apart_after_cast(a, b, level, needed).is_some()
    }

    #[test]
    fn the_level_is_tied_to_what_the_near_cells_show() {
        // Four cells are far apart, and hold all the contrast there is; the twelve others are one ground.
        let drawing = |ink: [u8; 4]| grid::<COARSE>(|i| [if i < 4 { ink[i] } else { 30 }; 3]);
        let (one, other) = (drawing([250, 0, 240, 10]), drawing([0, 250, 10, 240]));
        assert_eq!(within(&one, &other, 10), 12);
        assert!(!enough_coarsely(&one, &other, 10, 0.3, 12));
        assert!(!enough_after_cast(&one, &other, 8, 0.3, 12));
        // Cells that differ among each other tell: twelve of them over 0, 3 .. 33 deviate by 10.36 levels.
        let scene =
            |by: u8, ink: u8| grid::<COARSE>(|i| [if i < 4 { ink } else { by + 3 * (i as u8 - 4) }; 3]);
        for (by, expected) in [(3, true), (4, false)] {
            let (a, b) = (scene(0, 200), scene(by, 100));
            assert_eq!(
                enough_coarsely(&a, &b, 10, 0.3, 12),
                expected,
                "0.3 of it are 3 levels, and {by} apart"
            );
            assert_eq!(enough_coarsely(&b, &a, 10, 0.3, 12), expected);
            assert!(enough_after_cast(&a, &b, 8, 0.3, 12), "the cast is taken off");
        }
        assert!(
            !enough_coarsely(&scene(3, 0), &scene(0, 0), 2, 0.3, 12),
            "and never beyond the level itself"
        );
    }

    #[test]
    fn a_cast_over_the_whole_picture_is_taken_off() {
        let a = grid::<COARSE>(|i| [(i * 7) as u8 + 40; 3]);
        let tinted = grid::<COARSE>(|i| [(i * 7) as u8 + 90, (i * 7) as u8, (i * 7) as u8 + 40]);
        assert_eq!(within(&a, &tinted, 10), 0);
        assert!(near_after_cast(&a, &tinted, 0, 16));
        let other = grid::<COARSE>(|i| [(i * i) as u8; 3]);
        assert!(!near_after_cast(&a, &other, 8, 12));
    }

    #[test]
    fn four_cells_may_be_outside_after_the_cast_but_not_five() {
        let a = grid::<COARSE>(|_| [100; 3]);
        for outside in 0..8 {
            let b = grid::<COARSE>(|i| if i < outside { [200; 3] } else { [130; 3] });
            assert_eq!(near_after_cast(&a, &b, 8, 12), outside <= 4, "{outside}");
            assert_eq!(near_after_cast(&b, &a, 8, 12), outside <= 4, "{outside}");
        }
    }

    #[test]
    fn the_median_of_sixteen_lies_between_the_middle_two() {
        // Eight cells at 0, eight at 17: the median is 8.5, so all are within 8.5 and none within 8.
        let a = grid::<COARSE>(|i| [if i < 8 { 0 } else { 17 }, 0, 0]);
        let b = grid::<COARSE>(|_| [0; 3]);
        assert!(!near_after_cast(&a, &b, 8, 12));
        assert!(near_after_cast(&a, &b, 9, 16));
        let a = grid::<COARSE>(|i| [if i < 8 { 0 } else { 16 }, 0, 0]);
        assert!(near_after_cast(&a, &b, 8, 16));
    }

    #[test]
    fn the_short_way_to_no_never_contradicts_the_long_one() {
        let mut state = 1u64;
        let mut draw = |range: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % range
        };
        let (mut near, mut short) = (0, 0);
        for _ in 0..20_000 {
            let spread = 1 + draw(40);
            let mut a = [[0u8; COARSE]; 3];
            let mut b = [[0u8; COARSE]; 3];
            for level in a.as_flattened_mut().iter_mut().chain(b.as_flattened_mut()) {
                *level = (100 + draw(spread)) as u8;
            }
            let medians: Vec<f64> = (0..3)
                .map(|c| {
                    let mut d: Vec<f64> = (0..16).map(|i| f64::from(a[c][i]) - f64::from(b[c][i])).collect();
                    d.sort_by(f64::total_cmp);
                    d[7].midpoint(d[8])
                })
                .collect();
            let count = (0..16)
                .filter(|&i| {
                    (0..3).all(|c| (f64::from(a[c][i]) - f64::from(b[c][i]) - medians[c]).abs() <= 8.0)
                })
                .count();
            assert_eq!(near_after_cast(&a, &b, 8, 12), count >= 12);
            for (level, needed) in [(8, 12), (8, count as u32), (3, 9), (10, 16)] {
                let is_near = within(&a, &b, level) >= needed || near_after_cast(&a, &b, level, needed);
                assert!(!(is_near && cannot_be_near(&a, &b, level, needed)));
            }
            near += usize::from(count >= 12);
            short += usize::from(cannot_be_near(&a, &b, 8, 12));
        }
        assert!((1_000..19_000).contains(&near), "the draws must reach both sides: {near}");
        assert!(short > (20_000 - near) / 3, "many of those that are far go the short way: {short}");
    }
}

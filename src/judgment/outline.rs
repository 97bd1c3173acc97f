//! The outline: the little of a likeness by which nearly all unrelated pictures are told apart.
//!
//! A row is put to every anchor of its session, and nearly all of them are other pictures. To measure each distance would
//! fetch thousands of bytes of each from all over the memory. Bounds of all distances fit into two hundred bytes, which a
//! session keeps side by side; where one of them leaves a doubt the distances decide.

use super::Judge;
use super::cells::{COARSE, Grid, cannot_be_near, plane_farthest_apart};
use super::fingerprint::Fingerprint;
use super::likeness::Digest;
use super::palette::Palette;
use super::relief::LowRelief;

/// What of a row is looked at for every anchor.
///
/// * In: a part of a [`Likeness`](super::Likeness).
/// * Out: whether two rows are surely in no radius of each other.
/// * Blind to: nothing that a distance sees; it says no only where all of them would.
/// * Costs: some tens of instructions for two of them.
/// * From: our own.
#[derive(Clone, Debug, PartialEq)]
pub struct Outline {
    pub(super) digest: Digest,
    pub(super) fingerprint: Fingerprint,
    pub(super) coarse: Grid<COARSE>,
    pub(super) low: LowRelief,
    pub(super) palette: Palette,
    pub(super) flat: bool,
}

impl Outline {
    /// Whether it is the same picture, to the last pixel.
    #[inline(always)]
    pub(super) fn is_exact(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Judge {
    /// Whether two rows are surely in no radius of each other. `farthest` is this judge's [`Self::farthest_plane`].
    #[inline(always)]
    pub(super) fn are_unrelated(&self, a: &Outline, b: &Outline, farthest: u32) -> bool {
        let rules = self.rules();
        let bits = a.fingerprint.bits_from(&b.fingerprint);
        let few_bits = bits <= rules.suspect_bits.max(rules.reuse_bits) && !a.flat && !b.flat;
        let cast = rules.suspect_level.max(rules.suspect_cast_level);
        !few_bits
            && plane_farthest_apart(&a.coarse, &b.coarse) > farthest
            && cannot_be_near(&a.coarse, &b.coarse, cast, rules.suspect_cells)
            && a.low.correlation_at_most(&b.low) < rules.suspect_correlation
            && !a.palette.is_near(&b.palette, rules.suspect_palette, rules.palette_chroma)
    }

    /// How far apart a channel's coarse cells can be, in levels and all together, if the thumbnails agree at as many positions,
    /// or the fine cells lie as near, as either radius asks.
    ///
    /// A coarse cell is the mean over a sixteenth of the positions, and of four fine cells. So what positions and fine cells
    /// are apart at the most, shared out among sixteen, is what coarse cells are; rounding moves each by one level more.
    pub(super) fn farthest_plane(&self) -> u32 {
        let rules = self.rules();
        let shared =
            |outside: u32, of: u32, within: u32| (outside * 255 + (of - outside) * within).div_ceil(of);
        let positions = rules.suspect_positions.max(rules.reuse_positions).min(1024);
        let by_positions = shared(positions, 1024, rules.tolerance.into());
        // Fine cells are rounded too.
        let cells = 64 - rules.reuse_cells.min(64);
        let by_cells = shared(cells, 64, rules.cell_level.into()) + 1;
        COARSE as u32 * (by_positions.max(by_cells) + 1)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::image::Image;
    use super::super::likeness::Likeness;
    use super::super::made::judge;
    use super::super::rules::Rules;

    struct Lots(u64);

    impl Lots {
        fn below(&mut self, range: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % range
        }
    }

    /// A picture of blocks, more or fewer and of more or less contrast.
    fn picture(lots: &mut Lots, side: usize) -> Vec<u8> {
        let (block, spread) = (1 + lots.below(12) as usize, 1 + lots.below(255));
        let across = side.div_ceil(block);
        let blocks: Vec<[u8; 3]> = (0..across * across)
            .map(|_| [(); 3].map(|()| (lots.below(spread) + (255 - spread) / 2) as u8))
            .collect();
        (0..side * side).flat_map(|at| blocks[at / side / block * across + at % side / block]).collect()
    }

    /// The picture changed in one of the ways that one distance or another sees, by little or by much.
    fn changed(lots: &mut Lots, picture: &[u8], side: usize) -> Vec<u8> {
        let mut copy = picture.to_vec();
        let strength = lots.below(60) as u8;
        match lots.below(6) {
            0 => {
                for _ in 0..lots.below(150) {
                    copy[lots.below(picture.len() as u64) as usize] = lots.below(256) as u8;
                }
            }
            1 => copy
                .iter_mut()
                .for_each(|level| *level = level.saturating_add(lots.below(u64::from(strength) + 1) as u8)),
            2 => copy.iter_mut().for_each(|level| *level = level.saturating_add(strength)),
            3 => copy.iter_mut().for_each(|level| *level = *level / 4 + strength),
            4 => copy.rotate_right(3 * (1 + lots.below(4) as usize)),
            _ => copy.chunks_mut(3 * side).for_each(<[u8]>::reverse),
        }
        copy
    }

    #[test]
    fn what_is_told_unrelated_is_in_no_radius_and_many_are_told_so() {
        let wide = Rules {
            tolerance: 9,
            reuse_positions: 150,
            reuse_cells: 60,
            cell_level: 24,
            suspect_cells: 9,
            suspect_correlation: 0.8,
            suspect_palette: 0.2,
            ..Rules::hardened()
        };
        let mut lots = Lots(7);
        for rules in [Rules::hardened(), wide] {
            let judge = judge(rules);
            let farthest = judge.farthest_plane();
            let likeness = |pixels: Vec<u8>, side: usize| {
                judge.likeness(&Image::new(side as u32, side as u32, pixels.into()).unwrap())
            };
            let unrelated = |a: &Likeness, b: &Likeness| {
                let unrelated = judge.are_unrelated(&a.outline, &b.outline, farthest);
                assert_eq!(
                    unrelated,
                    judge.are_unrelated(&b.outline, &a.outline, farthest),
                    "it has no direction"
                );
                assert!(!unrelated || judge.reach(a, b).is_none(), "{:?}", judge.reach(a, b));
                unrelated
            };
            let (mut far, mut copies) = (0, 0);
            for _ in 0..600 {
                let side = [3, 8, 13, 28, 32, 40][lots.below(6) as usize];
                let pixels = picture(&mut lots, side);
                let copy = changed(&mut lots, &pixels, side);
                let other_side = [side, 32][lots.below(2) as usize];
                let other = likeness(picture(&mut lots, other_side), other_side);
                let (pixels, copy) = (likeness(pixels, side), likeness(copy, side));
                copies += usize::from(!unrelated(&pixels, &copy) && judge.reach(&pixels, &copy).is_some());
                far += usize::from(unrelated(&pixels, &other));
            }
            assert!(copies > 200, "the changes must reach the radii: {copies}");
            assert!(far > 80, "many must be told so: {far}");
        }
    }

    #[test]
    fn how_far_a_plane_may_be_follows_the_wider_of_both_distances() {
        let farthest = |rules: Rules| judge(rules).farthest_plane();
        // 102 positions of 1,024 by 255 levels are 25.4 levels a cell; one fine cell of 64 by 255 and the others by 16 are 19.7.
        assert_eq!(farthest(Rules::hardened()), 16 * 27);
        let few = Rules { suspect_positions: 0, reuse_positions: 0, ..Rules::hardened() };
        assert_eq!(farthest(few), 16 * 22);
        for all in [
            Rules { suspect_positions: u32::MAX, ..Rules::hardened() },
            Rules { reuse_cells: 0, ..Rules::hardened() },
        ] {
            assert!(farthest(all) > 16 * 255, "no pictures are farther apart");
        }
    }
}

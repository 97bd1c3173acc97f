//! The radii: is this anchor near the row, how near, and may its answer serve?
//!
//! Between the distances and the ruling: here numbers become yes or no. Every row is put to [`Judge::reach`] with
//! every anchor of its session, so this is where a ruling's time goes.

use fearless_simd::{Level, dispatch};

use super::Judge;
use super::cells::{
    cannot_be_near, enough_after_cast, enough_coarsely, enough_within, farthest, level_of_pair,
};
use super::fingerprint::Fingerprint;
use super::likeness::{Ghost, Likeness};
use super::outline::Outline;
use super::pixels::{differing, shown, total_difference};
use super::relief::correlation;
use super::rules::{scaled, share_of};
use super::ruling::{Evidence, Judgment, Reason, Ruling, Standing};

impl Judge {
    /// In which radius of the anchor the row lies, if in any. This is where a ruling's time goes: the tests stand in
    /// the order of their cost, and each gives up as soon as it knows.
    #[inline(always)]
    pub(super) fn reach(&self, row: &Likeness, anchor: &Likeness) -> Option<Reach> {
        let rules = self.rules();
        let bits = if row.outline.flat || anchor.outline.flat {
            u32::MAX
        } else {
            self.telling_bits(&row.outline.fingerprint, &anchor.outline.fingerprint)
        };
        if bits <= rules.reuse_bits {
            return Some(Reach::Reuse(Reason::Bits));
        }
        let of = row.thumbnail.positions().max(anchor.thumbnail.positions());
        let limit = scaled(rules.suspect_positions.max(rules.reuse_positions), of);
        let positions = differing(&row.thumbnail, &anchor.thumbnail, rules.tolerance, limit);
        let shown = if positions <= limit { shown(&row.thumbnail, &anchor.thumbnail) } else { 0 };
        let few = |most: u32| positions <= limit && positions <= scaled(most, shown);
        if few(rules.reuse_positions) {
            return Some(Reach::Reuse(Reason::Pixels));
        }
        let level = level_of_pair(&row.cells, &anchor.cells, rules.cell_level, rules.cell_contrast);
        if enough_within(&row.cells.fine, &anchor.cells.fine, level, rules.reuse_cells) {
            return Some(Reach::Reuse(Reason::Cells));
        }
        if bits <= rules.suspect_bits {
            return Some(Reach::Suspect(Reason::Bits));
        }
        if few(rules.suspect_positions) {
            return Some(Reach::Suspect(Reason::Pixels));
        }
        if let Some(reason) = self.coarsely_near(&row.outline.coarse, &anchor.outline.coarse) {
            return Some(Reach::Suspect(reason));
        }
        if correlation(&row.cells, &anchor.cells) >= rules.suspect_correlation {
            return Some(Reach::Suspect(Reason::Correlation));
        }
        if row.outline.palette.is_near(&anchor.outline.palette, rules.suspect_palette, rules.palette_chroma) {
            return Some(Reach::Suspect(Reason::Palette));
        }
        None
    }

    /// The bits that differ, or more than any where they are too large a share of the bits that are set.
    #[inline(always)]
    fn telling_bits(&self, a: &Fingerprint, b: &Fingerprint) -> u32 {
        let rules = self.rules();
        let bits = a.bits_from(b);
        // Nearly all pictures are far apart: what is set is counted for the others only.
        let matters = bits <= rules.suspect_bits.max(rules.reuse_bits);
        let telling = || bits as f32 <= rules.bits_share * (a.set_bits() + b.set_bits()) as f32;
        if matters && telling() { bits } else { u32::MAX }
    }

    #[inline(always)]
    fn coarsely_near(&self, a: &[[u8; 16]; 3], b: &[[u8; 16]; 3]) -> Option<Reason> {
        let rules = self.rules();
        let (contrast, needed) = (rules.suspect_contrast, rules.suspect_cells);
        if cannot_be_near(a, b, rules.suspect_level.max(rules.suspect_cast_level), needed) {
            None
        } else if enough_coarsely(a, b, rules.suspect_level, contrast, needed) {
            Some(Reason::Coarse)
        } else if enough_after_cast(a, b, rules.suspect_cast_level, contrast, needed) {
            Some(Reason::ColourCast)
        } else {
            None
        }
    }

    /// Whether the row lies in the suspect radius of what stays of an anchor that is gone.
    #[inline(always)]
    pub(super) fn haunts(&self, ghost: &Ghost, row: &Likeness) -> bool {
        let hashed = !row.outline.flat && ghost.fingerprint != Fingerprint::NONE;
        (hashed
            && self.telling_bits(&row.outline.fingerprint, &ghost.fingerprint) <= self.rules().suspect_bits)
            || self.coarsely_near(&row.outline.coarse, &ghost.coarse).is_some()
    }

    /// Whether the two are near enough everywhere that one's answer may serve for the other: nearly all positions
    /// agree, no cell is far off, and both show all that the model sees.
    pub(super) fn guards(&self, a: &Likeness, b: &Likeness) -> bool {
        !a.clipped
            && !b.clipped
            && a.thumbnail.same_size(&b.thumbnail)
            && dispatch!(Level::new(), _simd => self.agrees(a, b))
    }

    /// Whether nearly all positions agree and no cell is far off.
    #[inline(always)]
    fn agrees(&self, a: &Likeness, b: &Likeness) -> bool {
        let rules = self.rules();
        let outside = share_of(1.0 - rules.guard_share, a.thumbnail.positions());
        farthest(&a.cells.fine, &b.cells.fine) <= rules.guard_cell
            && differing(&a.thumbnail, &b.thumbnail, rules.guard_level, outside) <= outside
    }

    /// A judgment, with the distances to the anchor that it rests on.
    pub(super) fn judgment(
        &self,
        row: &Likeness,
        ruling: Ruling,
        reason: Reason,
        suspect: bool,
        anchor: Option<&Likeness>,
    ) -> Judgment {
        let nearest = anchor.map(|anchor| self.distances(row, anchor));
        Judgment { ruling, evidence: Evidence { reason, suspect, nearest } }
    }
}

/// The nearest of the anchors that are in no radius, by the fewest bits: for those who choose radii, and looked for because
/// it costs a few instructions for each.
#[derive(Default)]
pub(super) struct Unrelated<'a>(Option<(u32, &'a Likeness)>);

impl<'a> Unrelated<'a> {
    /// Looks at one more anchor.
    #[inline(always)]
    pub(super) fn meet(&mut self, row: &Outline, anchor: &Outline, likeness: &'a Likeness) {
        let bits = row.fingerprint.bits_from(&anchor.fingerprint);
        if self.0.is_none_or(|(fewest, _)| bits < fewest) {
            self.0 = Some((bits, likeness));
        }
    }

    /// The first of the nearest.
    pub(super) fn nearest(&self) -> Option<&'a Likeness> {
        self.0.map(|(_, anchor)| anchor)
    }
}

/// An anchor in some radius of the row.
pub(super) struct Near<'a> {
    pub(super) index: usize,
    pub(super) likeness: &'a Likeness,
    pub(super) standing: Standing,
    pub(super) reach: Reach,
}

impl Near<'_> {
    /// Whether it is the row itself, asked in the row's view.
    pub(super) fn is_exact_here(&self) -> bool {
        self.reach == Reach::Exact && self.standing == Standing::SameView
    }
}

/// The innermost radius that a row lies in, and the first test that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    Exact,
    Reuse(Reason),
    Suspect(Reason),
}

impl Reach {
    pub(super) fn is_reuse(self) -> bool {
        !matches!(self, Self::Suspect(_))
    }

    pub(super) fn reason(self) -> Reason {
        match self {
            Self::Exact => Reason::Exact,
            Self::Reuse(reason) | Self::Suspect(reason) => reason,
        }
    }
}

/// The anchor with the least mean difference of thumbnails, the first of equals; other sizes come last.
pub(super) fn nearest<'n, 'a>(
    row: &Likeness,
    near: impl Iterator<Item = &'n Near<'a>>,
) -> Option<&'n Near<'a>>
where
    'a: 'n,
{
    let mut nearest: Option<(u32, &Near<'_>)> = None;
    for near in near {
        let difference = total_difference(&row.thumbnail, &near.likeness.thumbnail).unwrap_or(u32::MAX);
        if nearest.is_none_or(|(least, _)| difference < least) {
            nearest = Some((difference, near));
        }
    }
    nearest.map(|(_, near)| near)
}

#[cfg(test)]
mod tests {
    use super::super::made::{checkered, coarse, judge, neutral, with_positions};
    use super::super::palette::Palette;
    use super::super::relief::Relief;
    use super::super::rules::Rules;
    use super::super::thumbnail::thumbnail_of;
    use super::*;

    fn reach_of(change: impl FnOnce(&mut Likeness, &mut Likeness)) -> Option<Reach> {
        let (mut row, mut anchor) = neutral();
        change(&mut row, &mut anchor);
        let judge = judge(Rules::hardened());
        let reach = judge.reach(&row, &anchor);
        assert_eq!(reach, judge.reach(&anchor, &row), "nearness has no direction");
        reach
    }

    #[test]
    fn bits_at_the_edges_of_both_radii() {
        let cases = [
            (10, Some(Reach::Reuse(Reason::Bits))),
            (11, Some(Reach::Suspect(Reason::Bits))),
            (25, Some(Reach::Suspect(Reason::Bits))),
            (26, None),
        ];
        for (bits, expected) in cases {
            let reach =
                reach_of(|row, anchor| anchor.outline.fingerprint = row.outline.fingerprint.flipped(bits));
            assert_eq!(reach, expected, "{bits} bits");
        }
    }

    #[test]
    fn positions_at_the_edges_of_both_radii() {
        let cases = [
            (30, Some(Reach::Reuse(Reason::Pixels))),
            (31, Some(Reach::Suspect(Reason::Pixels))),
            (102, Some(Reach::Suspect(Reason::Pixels))),
            (103, None),
        ];
        for (positions, expected) in cases {
            let reach = reach_of(|_, anchor| anchor.thumbnail = with_positions(1024 - positions, 200 - 100));
            assert_eq!(reach, expected, "{positions} positions");
        }
    }

    #[test]
    fn positions_of_small_thumbnails_are_scaled() {
        // 28 x 28 has 784 positions: 22 of them for reuse, 78 for suspicion.
        let cases = [
            (22, Some(Reach::Reuse(Reason::Pixels))),
            (23, Some(Reach::Suspect(Reason::Pixels))),
            (78, Some(Reach::Suspect(Reason::Pixels))),
            (79, None),
        ];
        for (positions, expected) in cases {
            let reach = reach_of(|row, anchor| {
                row.thumbnail = thumbnail_of(28, 28, |i| [checkered(i, 28), 0, 0]);
                anchor.thumbnail = thumbnail_of(28, 28, |i| [checkered(i, 28), 0, u8::from(i < positions)]);
            });
            assert_eq!(reach, expected, "{positions} positions of 784");
        }
    }

    #[test]
    fn positions_are_counted_among_those_that_show_anything() {
        // A white page but for 200 positions, which the pictures share but for some: 5 of them are reused, 19 suspect.
        let page = |changed: usize| {
            let ink = move |i: usize| if i < changed { 200 } else { checkered(i, 32) };
            thumbnail_of(32, 32, move |i| [if i < 200 { ink(i) } else { 255 }, 255, 255])
        };
        let cases = [
            (6, Some(Reach::Reuse(Reason::Pixels))),
            (7, Some(Reach::Suspect(Reason::Pixels))),
            (23, Some(Reach::Suspect(Reason::Pixels))),
            (24, None),
        ];
        // The page begins with a line that does not go on from the drawing above it.
        assert_eq!(shown(&page(0), &page(30)), 232);
        for (positions, expected) in cases {
            let reach =
                reach_of(|row, anchor| (row.thumbnail, anchor.thumbnail) = (page(0), page(positions)));
            assert_eq!(reach, expected, "{positions} positions of 232");
        }
    }

    #[test]
    fn the_bits_of_fingerprints_with_few_set_count_in_proportion() {
        for (set, expected) in [(71, Some(Reach::Suspect(Reason::Bits))), (70, None), (20, None)] {
            let reach = reach_of(|row, anchor| {
                row.outline.fingerprint = Fingerprint::of_bits((0..256).map(|bit| bit < set));
                anchor.outline.fingerprint = row.outline.fingerprint.flipped(25);
            });
            assert_eq!(reach, expected, "25 of {} bits set", 2 * set + 25);
        }
    }

    #[test]
    fn the_same_shapes_faded_are_suspect() {
        // Blocks of two tones, and the same at half the contrast with some cells far off.
        let tone = |i: usize| if (i / 2 + i / 16).is_multiple_of(2) { 90 } else { 150 };
        let faded = |i: usize| if i % 20 == 7 { 120 } else { tone(i) / 2 };
        let (mut row, mut anchor) = neutral();
        (row.cells.fine, anchor.cells.fine) =
            ([std::array::from_fn(tone); 3], [std::array::from_fn(faded); 3]);
        for cells in [&mut row.cells, &mut anchor.cells] {
            cells.relief = Relief::of(&cells.fine);
        }
        let at_least = |suspect_correlation| judge(Rules { suspect_correlation, ..Rules::hardened() });
        let correlation = at_least(0.0).distances(&row, &anchor).correlation;
        assert!((0.5..0.9).contains(&correlation), "{correlation}");
        let suspect = Some(Reach::Suspect(Reason::Correlation));
        assert_eq!(at_least(correlation).reach(&row, &anchor), suspect);
        assert_eq!(at_least(correlation + 1e-9).reach(&row, &anchor), None);
        assert!(!at_least(0.0).haunts(&anchor.ghost(), &row), "a ghost has no relief");
    }

    #[test]
    fn the_same_colours_elsewhere_are_suspect() {
        let colours = |turn: usize| {
            let level = move |i: usize| (i * 7 + i * i / 5 * turn % 2) as u8;
            Palette::of(&thumbnail_of(32, 32, |i| [level(i), level(3 * i), 255 - level(i / 2)]))
        };
        let reach = reach_of(|row, anchor| {
            row.outline.palette = colours(0);
            anchor.outline.palette = colours(0);
        });
        assert_eq!(reach, Some(Reach::Suspect(Reason::Palette)));
        let judge = judge(Rules { suspect_palette: 0.0, ..Rules::hardened() });
        let (mut row, mut anchor) = neutral();
        row.outline.palette = colours(0);
        anchor.outline.palette = colours(0);
        assert_eq!(judge.reach(&row, &anchor), None, "off");
        assert!(!judge.haunts(&anchor.ghost(), &row), "and a ghost has no palette");
    }

    #[test]
    fn fine_cells_at_the_edge_and_their_level() {
        let cases = [
            (63, 16, 100.0, Some(Reach::Reuse(Reason::Cells))),
            (62, 16, 100.0, None),
            (64, 17, 100.0, None),
            (64, 9, 18.0, Some(Reach::Reuse(Reason::Cells))),
            (64, 10, 18.0, None),
        ];
        for (cells, levels, deviation, expected) in cases {
            let reach = reach_of(|_, anchor| {
                anchor.cells.fine[1] = std::array::from_fn(|i| if i < cells { 100 + levels } else { 130 });
                anchor.cells.fine[0] = [100; 64];
                anchor.cells.fine[2] = [100; 64];
                anchor.cells.deviation = deviation;
            });
            assert_eq!(reach, expected, "{cells} cells by {levels} at deviation {deviation}");
        }
    }

    #[test]
    fn coarse_cells_at_the_edge_with_and_without_the_cast() {
        let same = coarse(16, 0);
        let cases = [
            ([coarse(12, 10), same, same], Some(Reason::Coarse)),
            ([coarse(11, 10), same, same], None),
            ([coarse(12, 11), same, same], Some(Reason::ColourCast)),
            ([coarse(12, -60), coarse(12, 60), coarse(16, 10)], Some(Reason::ColourCast)),
            ([coarse(11, -60), coarse(12, 60), coarse(16, 10)], None),
        ];
        for (i, (grid, expected)) in cases.into_iter().enumerate() {
            let reach = reach_of(|_, anchor| anchor.outline.coarse = grid);
            assert_eq!(reach, expected.map(Reach::Suspect), "case {i}");
        }
    }

    #[test]
    fn a_flat_picture_is_never_near_by_its_hash_alone() {
        assert_eq!(
            reach_of(|row, anchor| anchor.outline.fingerprint = row.outline.fingerprint),
            Some(Reach::Reuse(Reason::Bits))
        );
        assert_eq!(
            reach_of(|row, anchor| {
                anchor.outline.fingerprint = row.outline.fingerprint;
                anchor.outline.flat = true;
            }),
            None
        );
        // What else is near still counts.
        assert_eq!(
            reach_of(|row, anchor| {
                row.outline.flat = true;
                anchor.outline.flat = true;
                anchor.thumbnail = with_positions(1000, 90);
            }),
            Some(Reach::Reuse(Reason::Pixels))
        );
    }

    #[test]
    fn the_guard_at_its_edges() {
        let guards = |change: &dyn Fn(&mut Likeness, &mut Likeness)| {
            let (mut row, mut anchor) = neutral();
            change(&mut row, &mut anchor);
            let judge = judge(Rules::hardened());
            assert_eq!(judge.guards(&row, &anchor), judge.guards(&anchor, &row));
            judge.guards(&row, &anchor)
        };
        assert!(guards(&|_, _| {}));
        assert!(guards(&|_, anchor| anchor.thumbnail = with_positions(0, 20)));
        assert!(guards(&|_, anchor| anchor.thumbnail = with_positions(1024 - 20, 21)));
        assert!(!guards(&|_, anchor| anchor.thumbnail = with_positions(1024 - 21, 21)));
        assert!(guards(&|_, anchor| anchor.cells.fine[2][63] = 80));
        assert!(!guards(&|_, anchor| anchor.cells.fine[2][63] = 121));
        assert!(!guards(&|row, _| row.clipped = true));
        assert!(!guards(&|_, anchor| anchor.clipped = true));
        assert!(!guards(&|_, anchor| anchor.thumbnail = thumbnail_of(32, 31, |_| [100; 3])));
    }

    #[test]
    fn a_ghost_is_near_by_hash_or_coarse_cells() {
        let judge = judge(Rules::hardened());
        let (row, anchor) = neutral();
        assert!(!judge.haunts(&anchor.ghost(), &row));
        for (bits, expected) in [(25, true), (26, false)] {
            let mut anchor = anchor.clone();
            anchor.outline.fingerprint = row.outline.fingerprint.flipped(bits);
            assert_eq!(judge.haunts(&anchor.ghost(), &row), expected);
            anchor.outline.flat = true;
            assert!(!judge.haunts(&anchor.ghost(), &row), "the hash of a flat picture is no trace");
        }
        let mut same_cells = anchor.clone();
        same_cells.outline.coarse = row.outline.coarse;
        assert!(judge.haunts(&same_cells.ghost(), &row));
    }

    #[test]
    fn the_nearest_is_the_first_of_equals_and_other_sizes_come_last() {
        let (row, far) = neutral();
        let mut closer = far.clone();
        closer.thumbnail = with_positions(0, 9);
        let mut other_size = far.clone();
        other_size.thumbnail = thumbnail_of(2, 2, |_| [100; 3]);
        let near = [&other_size, &far, &closer, &closer];
        let near: Vec<_> = near
            .iter()
            .enumerate()
            .map(|(index, likeness)| Near {
                index,
                likeness,
                standing: Standing::SameView,
                reach: Reach::Exact,
            })
            .collect();
        assert_eq!(nearest(&row, near.iter()).map(|near| near.index), Some(2));
        assert_eq!(nearest(&row, near[..1].iter()).map(|near| near.index), Some(0));
        assert!(nearest(&row, [].iter()).is_none());
    }
}

//! The ruling: may the model be asked about this row, or does an earlier answer serve?
//!
//! The last step of judgment: what a ruling is made of, and the door to the two readings of the method that make
//! one, `paper` and `hardened`.

use super::Judge;
use super::cells::{level_of_pair, within};
use super::likeness::{Ghost, Likeness};
use super::outline::Outline;
use super::pixels::{differing, shown, total_difference};
use super::relief::correlation;
use super::rules::Profile;

/// An anchor as judgment sees it: its likeness, and how its question relates to the row's.
pub trait Candidate<'a> {
    /// What was kept of the anchor's row.
    fn likeness(&self) -> &'a Likeness;

    /// The outline of that row, from wherever it is at hand: it is all that is looked at of most anchors.
    #[inline]
    fn outline(&self) -> &'a Outline {
        self.likeness().outline()
    }

    /// Whether its answer could serve the row at all. Asked of the few that are near: most anchors need never be told from the row but by
    /// their likeness.
    fn standing(&self) -> Standing;
}

/// A candidate whose standing is known beforehand.
impl<'a> Candidate<'a> for (&'a Likeness, Standing) {
    #[inline]
    fn likeness(&self) -> &'a Likeness {
        self.0
    }

    #[inline]
    fn standing(&self) -> Standing {
        self.1
    }
}

/// What besides the pixels separates an anchor's question from the row's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing: the anchor's answer has the form that the row asks for.
    SameView,
    /// Only the other inputs, named by their digest.
    OtherInputs(u64),
    /// The model, its version or the form of the answer: its answer never serves.
    OtherView,
    /// Whatever it is: the anchor has no answer to give and never will. Named by how often its picture was forwarded
    /// again without another anchor, to the last pixel.
    Unanswered(u64),
}

/// What is to become of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// Ask the model; the row becomes an anchor.
    Forward,
    /// Give the answer of the anchor at this place of the anchors that were passed in.
    Replay(usize),
    /// Give no answer.
    Refuse,
}

/// A ruling and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judgment {
    /// What is to become of the row.
    pub ruling: Ruling,
    /// What it rests on, for the operator.
    pub evidence: Evidence,
}

/// What a ruling rests on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evidence {
    /// The first cause of the ruling.
    pub reason: Reason,
    /// Whether the row counts against its session, whatever its ruling.
    pub suspect: bool,
    /// How far the row is from the anchor that decided: the one replayed, else the nearest in any radius; where there is
    /// none in any radius, from the anchor of the fewest differing bits. None if there are no anchors.
    pub nearest: Option<Distances>,
}

/// The first cause of a ruling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Nothing in any radius.
    New,
    /// An exact repeat.
    Exact,
    /// Few bits of the fingerprint differ.
    Bits,
    /// Few positions differ.
    Pixels,
    /// Nearly all fine cells are near.
    Cells,
    /// In the reuse radius, but too much differs somewhere, or a picture was clipped.
    Unguarded,
    /// In the reuse radius of an anchor in another view, or an exact repeat that was forwarded too often already.
    OtherView,
    /// Most coarse cells are near.
    Coarse,
    /// Most coarse cells are near once the colour cast is taken off.
    ColourCast,
    /// Light and dark lie alike, however strong.
    Correlation,
    /// The same colours, wherever in the picture they stand.
    Palette,
    /// Near to what stays of an anchor that is gone.
    Ghost,
}

impl Reason {
    /// All of them, in the order of their declaration, for those who count by reason.
    pub const ALL: [Self; 12] = [
        Self::New,
        Self::Exact,
        Self::Bits,
        Self::Pixels,
        Self::Cells,
        Self::Unguarded,
        Self::OtherView,
        Self::Coarse,
        Self::ColourCast,
        Self::Correlation,
        Self::Palette,
        Self::Ghost,
    ];

    /// Its name in logs and metrics, in snake case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Exact => "exact",
            Self::Bits => "bits",
            Self::Pixels => "pixels",
            Self::Cells => "cells",
            Self::Unguarded => "unguarded",
            Self::OtherView => "other_view",
            Self::Coarse => "coarse",
            Self::ColourCast => "colour_cast",
            Self::Correlation => "correlation",
            Self::Palette => "palette",
            Self::Ghost => "ghost",
        }
    }
}

/// How far two likenesses are apart, by every measure.
///
/// * In: two likenesses of one [`Judge`].
/// * Out: the fields, each with its unit.
/// * Blind to: what the thumbnail is blind to.
/// * Costs: under a microsecond (`benches/judgment.rs`, `distances`).
/// * From: `bits` and `positions` are the paper's two distances, the others ours.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distances {
    /// Bits of the fingerprint that differ, 0..=256.
    pub bits: u32,
    /// Positions that differ in some channel by more than the tolerance, 0..=`of`; all, where sizes differ.
    pub positions: u32,
    /// Positions that show anything: those of the thumbnail less the plain ground that both share; in [`Profile::Paper`] all of
    /// those at the fingerprint's side.
    pub of: u32,
    /// Fine cells within the level of this pair, 0..=64.
    pub fine_cells_within: u32,
    /// Coarse cells within the suspect level, 0..=16, the colour cast left on.
    pub coarse_cells_within: u32,
    /// The correlation of the fine cells, each channel's mean and slopes taken out, -1..=1; nought where there is little else.
    pub correlation: f64,
    /// The mean distance of the palettes' tones, in deviations of the picture, 0 and up; nought in [`Profile::Paper`].
    pub palette: f32,
    /// The mean absolute difference of the thumbnails, in levels, 0..=255; 255 where their sizes differ.
    pub mean_difference: f32,
}

impl Judge {
    /// Rules on a row, given the anchors and ghosts of its session, all made by this judge.
    ///
    /// * In: the row; the anchors in any order (of equally near ones the first answers); the ghosts, read only if
    ///   no anchor is in any radius; whether the session is suspected.
    /// * Out: the ruling, `Replay` with a place in `anchors`, and its evidence.
    /// * Blind to: rotations beyond some ten degrees and crops beyond a fifth, sooner where a picture has little colour;
    ///   several small changes chosen together by who knows the rule; a row that the session asked under another caller.
    /// * Costs: about a tenth of a microsecond for each unrelated anchor (`benches/judgment.rs`, `rule`, `ghosts`).
    /// * From: the paper's Algorithm 1, read with its misprints corrected: similar if *either* distance is within
    ///   the threshold, compared with the earlier picture, which stays when a similar one comes. `Hardened` adds the
    ///   second radius, the cells, the guard, ghosts and suspicion.
    pub fn rule<'a>(
        &self,
        row: &Likeness,
        anchors: impl Iterator<Item = impl Candidate<'a>>,
        ghosts: impl Iterator<Item = &'a Ghost>,
        suspected: bool,
    ) -> Judgment {
        match self.rules().profile {
            Profile::Paper => self.rule_by_the_paper(row, anchors),
            Profile::Hardened => self.rule_hardened(row, anchors, ghosts, suspected),
        }
    }

    /// Measures two likenesses by everything at once, without the short cuts of [`Judge::rule`].
    ///
    /// See [`Distances`] for what comes out. Symmetric; a likeness is at distance nought from itself.
    pub fn distances(&self, a: &Likeness, b: &Likeness) -> Distances {
        let rules = self.rules();
        let (positions, of) = match rules.profile {
            Profile::Paper => self.positions_by_the_paper(a, b),
            Profile::Hardened => {
                let all = a.thumbnail.positions().max(b.thumbnail.positions());
                (
                    differing(&a.thumbnail, &b.thumbnail, rules.tolerance, all),
                    shown(&a.thumbnail, &b.thumbnail),
                )
            }
        };
        let level = level_of_pair(&a.cells, &b.cells, rules.cell_level, rules.cell_contrast);
        let mean_difference = total_difference(&a.thumbnail, &b.thumbnail)
            .map_or(255.0, |total| total as f32 / (3 * a.thumbnail.positions()) as f32);
        Distances {
            bits: a.outline.fingerprint.bits_from(&b.outline.fingerprint),
            positions,
            of,
            fine_cells_within: within(&a.cells.fine, &b.cells.fine, level),
            coarse_cells_within: within(&a.outline.coarse, &b.outline.coarse, rules.suspect_level),
            correlation: correlation(&a.cells, &b.cells),
            palette: a.outline.palette.distance(&b.outline.palette),
            mean_difference,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::{judge, neutral};
    use super::super::rules::Rules;
    use super::*;

    #[test]
    fn reasons_have_names_of_their_own() {
        for (i, reason) in Reason::ALL.iter().enumerate() {
            assert!(reason.as_str().chars().all(|c| c == '_' || c.is_ascii_lowercase()));
            assert!(Reason::ALL[..i].iter().all(|other| other.as_str() != reason.as_str()));
        }
    }

    #[test]
    fn distances_are_symmetric_and_nought_from_itself() {
        for rules in [Rules::hardened(), Rules::paper()] {
            let judge = judge(rules);
            let (row, anchor) = neutral();
            assert_eq!(judge.distances(&row, &anchor), judge.distances(&anchor, &row));
            let own = judge.distances(&row, &row);
            assert_eq!((own.bits, own.positions), (0, 0));
            assert_eq!((own.fine_cells_within, own.coarse_cells_within), (64, 16));
            assert!(own.mean_difference.abs() < f32::EPSILON);
        }
    }

    #[test]
    fn distances_count_what_the_pair_was_made_with() {
        let (row, anchor) = neutral();
        let found = judge(Rules::hardened()).distances(&row, &anchor);
        let expected = Distances {
            bits: 128,
            positions: 1024,
            of: 1024,
            fine_cells_within: 0,
            coarse_cells_within: 0,
            correlation: 0.0,
            palette: 0.0,
            mean_difference: 10.0 / 3.0,
        };
        assert_eq!(found, expected);
    }
}

//! The ruling by the paper's Algorithm 1, to the letter.
//!
//! One earlier picture, and one radius: *similar* is fewer bits **or** fewer positions than the threshold's share of
//! each; only what differs by both is forwarded. The algorithm's misprints are read as the text around it says:
//! line 3 compares Image 1 with Image 2, line 6 asks the model about Image 2, line 7 keeps Image 2 with its label,
//! line 11 keeps Image 1. Nothing is counted against anyone, and nothing guards an answer.

use super::Judge;
use super::likeness::Likeness;
use super::pixels::differing;
use super::radius::{Near, Reach, Unrelated, nearest};
use super::rules::share_of;
use super::ruling::{Candidate, Judgment, Reason, Ruling, Standing};

impl Judge {
    pub(super) fn rule_by_the_paper<'a>(
        &self,
        row: &Likeness,
        anchors: impl Iterator<Item = impl Candidate<'a>>,
    ) -> Judgment {
        let (mut near, mut unrelated) = (Vec::new(), Unrelated::default());
        for (index, anchor) in anchors.enumerate() {
            let likeness = anchor.likeness();
            let reason = if likeness.outline.digest == row.outline.digest {
                Reason::Exact
            } else if row.outline.fingerprint.bits_from(&likeness.outline.fingerprint)
                <= share_of(self.rules().threshold, 256)
            {
                Reason::Bits
            } else {
                let (positions, of) = self.positions_by_the_paper(row, likeness);
                if positions > share_of(self.rules().threshold, of) {
                    unrelated.meet(&row.outline, &likeness.outline, likeness);
                    continue;
                }
                Reason::Pixels
            };
            near.push(Near { index, likeness, standing: anchor.standing(), reach: Reach::Reuse(reason) });
        }
        if let Some(anchor) = nearest(row, near.iter().filter(|near| near.standing == Standing::SameView)) {
            return self.judgment(
                row,
                Ruling::Replay(anchor.index),
                anchor.reach.reason(),
                false,
                Some(anchor.likeness),
            );
        }
        match nearest(row, near.iter()) {
            Some(anchor) => {
                self.judgment(row, Ruling::Forward, Reason::OtherView, false, Some(anchor.likeness))
            }
            None => self.judgment(row, Ruling::Forward, Reason::New, false, unrelated.nearest()),
        }
    }

    /// The differing positions at the fingerprint's side, and how many there are.
    pub(super) fn positions_by_the_paper(&self, a: &Likeness, b: &Likeness) -> (u32, u32) {
        let side = a.side.max(b.side);
        let of = u32::from(side).pow(2);
        if a.side != b.side || !a.thumbnail.same_size(&b.thumbnail) {
            return (of, of);
        }
        let (a, b) = (a.thumbnail.at_side(side), b.thumbnail.at_side(side));
        (differing(&a, &b, self.rules().tolerance, of), of)
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::{judge, neutral, ruled, with_positions};
    use super::super::rules::Rules;
    use super::super::thumbnail::thumbnail_of;
    use super::*;

    fn outcome(row: &Likeness, anchor: &Likeness, standing: Standing) -> (Ruling, Reason) {
        let judgment = ruled(&judge(Rules::paper()), row, &[(anchor, standing)], true);
        assert!(!judgment.evidence.suspect, "the paper suspects nobody");
        (judgment.ruling, judgment.evidence.reason)
    }

    #[test]
    fn algorithm_1_at_its_edges_at_16_x_16() {
        let cases = [
            (25, 25, Ruling::Replay(0), Reason::Bits),
            (25, 26, Ruling::Replay(0), Reason::Bits),
            (26, 25, Ruling::Replay(0), Reason::Pixels),
            (26, 26, Ruling::Forward, Reason::New),
            (0, 256, Ruling::Replay(0), Reason::Bits),
            (256, 0, Ruling::Replay(0), Reason::Pixels),
        ];
        for (bits, positions, ruling, reason) in cases {
            let (mut row, mut anchor) = neutral();
            anchor.outline.fingerprint = row.outline.fingerprint.flipped(bits);
            row.thumbnail = thumbnail_of(32, 32, |_| [100; 3]);
            // One pixel of a 2 x 2 block by four levels moves the block's mean by one.
            anchor.thumbnail = thumbnail_of(32, 32, |i| {
                let (x, y) = (i % 32, i / 32);
                let corner = x % 2 == 0 && y % 2 == 0 && y / 2 * 16 + x / 2 < positions;
                [100, 100, if corner { 104 } else { 100 }]
            });
            assert_eq!(outcome(&row, &anchor, Standing::SameView), (ruling, reason), "{bits} {positions}");
        }
    }

    #[test]
    fn algorithm_1_at_its_edges_at_32_x_32() {
        for (positions, ruling) in [(102, Ruling::Replay(0)), (103, Ruling::Forward)] {
            let (mut row, mut anchor) = neutral();
            (row.side, anchor.side) = (32, 32);
            anchor.thumbnail = with_positions(1024 - positions, 1);
            assert_eq!(outcome(&row, &anchor, Standing::SameView).0, ruling, "{positions}");
        }
    }

    #[test]
    fn pictures_of_different_sizes_differ_everywhere() {
        let (row, mut anchor) = neutral();
        anchor.thumbnail = row.thumbnail.clone();
        assert_eq!(outcome(&row, &anchor, Standing::SameView), (Ruling::Replay(0), Reason::Pixels));
        anchor.side = 32;
        assert_eq!(outcome(&row, &anchor, Standing::SameView), (Ruling::Forward, Reason::New));
    }

    #[test]
    fn a_similar_picture_in_another_view_is_forwarded() {
        let (row, mut anchor) = neutral();
        anchor.outline.fingerprint = row.outline.fingerprint;
        for standing in [Standing::OtherInputs(1), Standing::OtherView] {
            assert_eq!(outcome(&row, &anchor, standing), (Ruling::Forward, Reason::OtherView));
        }
    }

    #[test]
    fn an_exact_repeat_is_named_as_one() {
        let (row, _) = neutral();
        assert_eq!(outcome(&row, &row, Standing::SameView), (Ruling::Replay(0), Reason::Exact));
    }

    #[test]
    fn ghosts_and_cells_mean_nothing_to_the_paper() {
        let (row, mut anchor) = neutral();
        anchor.cells = row.cells.clone();
        let candidates = [(&anchor, Standing::SameView)];
        let ghost = row.ghost();
        let judgment = judge(Rules::paper()).rule(&row, candidates.into_iter(), [&ghost].into_iter(), true);
        assert_eq!((judgment.ruling, judgment.evidence.reason), (Ruling::Forward, Reason::New));
    }
}

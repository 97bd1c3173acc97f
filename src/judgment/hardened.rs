//! The hardened ruling: many anchors, two radii, a guard, and a memory of suspicion.
//!
//! Every anchor is looked at before anything is decided, because the nearest answers. What was found is weighed in
//! this order: an exact repeat in the row's view; a near-copy there that the guard lets through; an exact repeat
//! in another view, while there are few; and all that is near without being any of these, which is suspect.

use fearless_simd::{Level, dispatch};

use super::Judge;
use super::likeness::{Ghost, Likeness};
use super::radius::{Near, Reach, Unrelated, nearest};
use super::rules::OnSuspected;
use super::ruling::{Candidate, Judgment, Reason, Ruling, Standing};

impl Judge {
    pub(super) fn rule_hardened<'a>(
        &self,
        row: &Likeness,
        anchors: impl Iterator<Item = impl Candidate<'a>>,
        ghosts: impl Iterator<Item = &'a Ghost>,
        suspected: bool,
    ) -> Judgment {
        let (near, unrelated) = dispatch!(Level::new(), _simd => self.meet(row, anchors));
        if let Some(exact) = near.last().filter(|near| near.is_exact_here()) {
            return self.judgment(
                row,
                Ruling::Replay(exact.index),
                Reason::Exact,
                false,
                Some(exact.likeness),
            );
        }

        let merged = self.other_inputs_no_longer_separate(&near);
        let here = |near: &&Near<'_>| match near.standing {
            Standing::SameView => true,
            Standing::OtherInputs(_) => merged,
            Standing::OtherView | Standing::Unanswered(_) => false,
        };
        if let Some(anchor) = near.iter().filter(here).find(|near| near.reach == Reach::Exact) {
            return self.judgment(
                row,
                Ruling::Replay(anchor.index),
                Reason::Exact,
                false,
                Some(anchor.likeness),
            );
        }
        let reusable =
            |near: &&Near<'_>| here(near) && near.reach.is_reuse() && self.guards(row, near.likeness);
        if let Some(anchor) = nearest(row, near.iter().filter(reusable)) {
            return self.judgment(
                row,
                Ruling::Replay(anchor.index),
                anchor.reach.reason(),
                false,
                Some(anchor.likeness),
            );
        }
        // What was asked before, to the last pixel, of another model or in another form, is how ordinary clients
        // ask: it tells an attack nothing that it did not have when it was first asked. But to the last pixel is not
        // to the last bit: pictures of floats less than half a level apart are one picture here, and an endless row of
        // views would tell a search by steps of that size the truth each time. So only the first few are innocent.
        let exact = near.iter().find(|near| near.reach == Reach::Exact);
        if let Some(anchor) = exact.filter(|_| forwards(&near) < self.rules().max_views as u64) {
            return self.judgment(row, Ruling::Forward, Reason::Exact, false, Some(anchor.likeness));
        }

        let closest = exact.or_else(|| nearest(row, near.iter()));
        let reason = match closest {
            Some(anchor) => match anchor.reach {
                Reach::Suspect(reason) => reason,
                _ if here(&anchor) => Reason::Unguarded,
                _ => Reason::OtherView,
            },
            None if dispatch!(Level::new(), _simd => self.is_haunted(row, ghosts)) => Reason::Ghost,
            None => {
                return self.judgment(row, Ruling::Forward, Reason::New, false, unrelated.nearest());
            }
        };
        let closest = closest.map_or_else(|| unrelated.nearest(), |near| Some(near.likeness));
        if !suspected {
            return self.judgment(row, Ruling::Forward, reason, true, closest);
        }
        let guarded = |near: &&Near<'_>| here(near) && self.guards(row, near.likeness);
        if let Some(anchor) = nearest(row, near.iter().filter(guarded)) {
            return self.judgment(row, Ruling::Replay(anchor.index), reason, true, Some(anchor.likeness));
        }
        match self.rules().on_suspected {
            OnSuspected::Forward => self.judgment(row, Ruling::Forward, reason, true, closest),
            OnSuspected::Reject => self.judgment(row, Ruling::Refuse, reason, true, closest),
            OnSuspected::Replay => match nearest(row, near.iter().filter(here)) {
                Some(anchor) => {
                    self.judgment(row, Ruling::Replay(anchor.index), reason, true, Some(anchor.likeness))
                }
                None => self.judgment(row, Ruling::Refuse, reason, true, closest),
            },
        }
    }

    /// The anchors in any radius of the row, and the nearest of the others. An exact repeat in the row's view ends the search: it
    /// stands last.
    #[inline(always)]
    fn meet<'a>(
        &self,
        row: &Likeness,
        anchors: impl Iterator<Item = impl Candidate<'a>>,
    ) -> (Vec<Near<'a>>, Unrelated<'a>) {
        let (mut near, mut unrelated) = (Vec::new(), Unrelated::default());
        let farthest = self.farthest_plane();
        for (index, anchor) in anchors.enumerate() {
            let outline = anchor.outline();
            let likeness = anchor.likeness();
            let reach = if row.outline.is_exact(outline) {
                Some(Reach::Exact)
            } else if self.are_unrelated(&row.outline, outline, farthest) {
                None
            } else {
                self.reach(row, likeness)
            };
            let Some(reach) = reach else {
                unrelated.meet(&row.outline, outline, likeness);
                continue;
            };
            near.push(Near { index, likeness, standing: anchor.standing(), reach });
            if near.last().is_some_and(Near::is_exact_here) {
                break;
            }
        }
        (near, unrelated)
    }

    /// Whether the row lies in the suspect radius of any ghost.
    #[inline(always)]
    fn is_haunted<'a>(&self, row: &Likeness, ghosts: impl Iterator<Item = &'a Ghost>) -> bool {
        // A loop, since an iterator's own `any` is compiled apart, for the least of all processors.
        for ghost in ghosts {
            if self.haunts(ghost, row) {
                return true;
            }
        }
        false
    }

    /// Whether near-copies of the row lie in so many views that differ by other inputs only that the differences
    /// must be of the attack's making. Near-copies in the row's own view count as one view more.
    fn other_inputs_no_longer_separate(&self, near: &[Near<'_>]) -> bool {
        let mut inputs = Vec::new();
        let mut own = 0;
        for near in near.iter().filter(|near| near.reach.is_reuse()) {
            match near.standing {
                Standing::SameView => own = 1,
                Standing::OtherInputs(digest) if !inputs.contains(&digest) => inputs.push(digest),
                Standing::OtherInputs(_) | Standing::OtherView | Standing::Unanswered(_) => {}
            }
        }
        inputs.len() + own >= self.rules().max_views
    }
}

/// How often the model was asked about exactly this picture, as far as anchors remember it: once for each, and the
/// repeats of those that had no answer to replay.
fn forwards(near: &[Near<'_>]) -> u64 {
    let exact = near.iter().filter(|near| near.reach == Reach::Exact);
    let each = exact.map(|near| match near.standing {
        Standing::Unanswered(repeats) => repeats.saturating_add(1),
        Standing::SameView | Standing::OtherInputs(_) | Standing::OtherView => 1,
    });
    each.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::super::made::{judge, neutral, ruled, with_positions};
    use super::super::rules::Rules;
    use super::Ruling::{Forward, Refuse, Replay};
    use super::Standing::{OtherInputs, OtherView, SameView, Unanswered};
    use super::*;

    fn parts(judgment: &Judgment) -> (Ruling, Reason, bool) {
        (judgment.ruling, judgment.evidence.reason, judgment.evidence.suspect)
    }

    fn hardened(
        row: &Likeness,
        anchors: &[(&Likeness, Standing)],
        suspected: bool,
    ) -> (Ruling, Reason, bool) {
        parts(&ruled(&judge(Rules::hardened()), row, anchors, suspected))
    }

    /// The row; an anchor in the reuse radius and the guard; one in the reuse radius, but outside the guard; one in
    /// the suspect radius and the guard; one in the suspect radius, but outside the guard; an unrelated one.
    struct Cast {
        row: Likeness,
        reuse: Likeness,
        unguarded: Likeness,
        suspect: Likeness,
        wide: Likeness,
        unrelated: Likeness,
    }

    fn cast() -> Cast {
        let (row, unrelated) = neutral();
        let with = |bits, thumbnail| {
            let mut likeness = unrelated.clone();
            likeness.outline.fingerprint = row.outline.fingerprint.flipped(bits);
            likeness.thumbnail = thumbnail;
            likeness
        };
        Cast {
            reuse: with(10, with_positions(0, 10)),
            unguarded: with(10, with_positions(0, 21)),
            suspect: with(25, with_positions(0, 10)),
            wide: with(25, with_positions(0, 21)),
            unrelated: unrelated.clone(),
            row,
        }
    }

    #[test]
    fn one_anchor_in_each_standing() {
        let Cast { row, reuse, unguarded, suspect, wide, unrelated } = cast();
        let cases = [
            (&row, SameView, (Replay(0), Reason::Exact, false)),
            (&row, OtherInputs(1), (Forward, Reason::Exact, false)),
            (&row, OtherView, (Forward, Reason::Exact, false)),
            (&reuse, SameView, (Replay(0), Reason::Bits, false)),
            (&reuse, OtherInputs(1), (Forward, Reason::OtherView, true)),
            (&reuse, OtherView, (Forward, Reason::OtherView, true)),
            (&unguarded, SameView, (Forward, Reason::Unguarded, true)),
            (&unguarded, OtherView, (Forward, Reason::OtherView, true)),
            (&suspect, SameView, (Forward, Reason::Bits, true)),
            (&suspect, OtherView, (Forward, Reason::Bits, true)),
            (&wide, SameView, (Forward, Reason::Bits, true)),
            (&unrelated, SameView, (Forward, Reason::New, false)),
            (&unrelated, OtherView, (Forward, Reason::New, false)),
            (&row, Unanswered(2), (Forward, Reason::Exact, false)),
            (&row, Unanswered(3), (Forward, Reason::OtherView, true)),
            (&row, Unanswered(u64::MAX), (Forward, Reason::OtherView, true)),
            (&reuse, Unanswered(0), (Forward, Reason::OtherView, true)),
            (&suspect, Unanswered(0), (Forward, Reason::Bits, true)),
        ];
        for (i, (anchor, standing, expected)) in cases.into_iter().enumerate() {
            assert_eq!(hardened(&row, &[(anchor, standing)], false), expected, "case {i}");
        }
    }

    #[test]
    fn a_suspected_session_and_each_way_to_treat_it() {
        let Cast { row, reuse, unguarded, suspect, wide, unrelated } = cast();
        let replay = |reason| (Replay(0), reason, true);
        let refuse = |reason| (Refuse, reason, true);
        let forward = |reason| (Forward, reason, true);
        let elsewhere = [refuse(Reason::OtherView), refuse(Reason::OtherView), forward(Reason::OtherView)];
        // Each anchor, and what `reject`, `replay` and `forward` make of it.
        let cases = [
            (&row, SameView, [(Replay(0), Reason::Exact, false); 3]),
            (&row, OtherView, [(Forward, Reason::Exact, false); 3]),
            (&reuse, SameView, [(Replay(0), Reason::Bits, false); 3]),
            (&reuse, OtherView, elsewhere),
            (&suspect, SameView, [replay(Reason::Bits); 3]),
            (&suspect, OtherView, [refuse(Reason::Bits), refuse(Reason::Bits), forward(Reason::Bits)]),
            (
                &unguarded,
                SameView,
                [refuse(Reason::Unguarded), replay(Reason::Unguarded), forward(Reason::Unguarded)],
            ),
            (&wide, SameView, [refuse(Reason::Bits), replay(Reason::Bits), forward(Reason::Bits)]),
            (&wide, OtherInputs(3), [refuse(Reason::Bits), refuse(Reason::Bits), forward(Reason::Bits)]),
            (&unrelated, SameView, [(Forward, Reason::New, false); 3]),
            (&row, Unanswered(3), elsewhere),
        ];
        for (i, (anchor, standing, expected)) in cases.into_iter().enumerate() {
            let ways = [OnSuspected::Reject, OnSuspected::Replay, OnSuspected::Forward];
            for (on_suspected, expected) in ways.into_iter().zip(expected) {
                let judge = judge(Rules { on_suspected, ..Rules::hardened() });
                let found = parts(&ruled(&judge, &row, &[(anchor, standing)], true));
                assert_eq!(found, expected, "case {i}, {on_suspected:?}");
            }
        }
    }

    #[test]
    fn a_suspected_session_gets_the_guarded_anchor_rather_than_the_nearest() {
        let Cast { row, suspect, wide, .. } = cast();
        let mut nearer = wide.clone();
        nearer.thumbnail = with_positions(1024 - 60, 21);
        let anchors = [(&nearer, SameView), (&suspect, SameView)];
        assert_eq!(hardened(&row, &anchors, true), (Replay(1), Reason::Bits, true));
    }

    #[test]
    fn the_nearest_reusable_anchor_answers() {
        let Cast { row, reuse, unguarded, suspect, unrelated, .. } = cast();
        let mut nearest = reuse.clone();
        nearest.thumbnail = with_positions(512, 10);
        let anchors = [
            (&unrelated, SameView),
            (&unguarded, SameView),
            (&reuse, SameView),
            (&suspect, SameView),
            (&nearest, SameView),
            (&nearest, SameView),
        ];
        assert_eq!(hardened(&row, &anchors, false), (Replay(4), Reason::Bits, false));
        assert_eq!(hardened(&row, &anchors, true), (Replay(4), Reason::Bits, false));
        let evidence = ruled(&judge(Rules::hardened()), &row, &anchors, false).evidence;
        assert_eq!(evidence.nearest.map(|nearest| nearest.positions), Some(512));
    }

    #[test]
    fn an_exact_repeat_comes_before_everything_nearer_in_the_list() {
        let Cast { row, reuse, .. } = cast();
        let anchors = [(&reuse, SameView), (&row, OtherView), (&row, SameView)];
        assert_eq!(hardened(&row, &anchors, true), (Replay(2), Reason::Exact, false));
    }

    #[test]
    fn a_near_copy_here_comes_before_an_exact_repeat_elsewhere() {
        let Cast { row, reuse, suspect, .. } = cast();
        let anchors = [(&row, OtherView), (&reuse, SameView)];
        assert_eq!(hardened(&row, &anchors, false), (Replay(1), Reason::Bits, false));
        let anchors = [(&row, OtherView), (&suspect, SameView)];
        assert_eq!(hardened(&row, &anchors, true), (Forward, Reason::Exact, false));
    }

    #[test]
    fn a_clipped_picture_is_replayed_only_exactly() {
        let Cast { mut row, mut reuse, .. } = cast();
        row.clipped = true;
        assert_eq!(hardened(&row, &[(&reuse, SameView)], false), (Forward, Reason::Unguarded, true));
        assert_eq!(hardened(&row, &[(&reuse, SameView)], true), (Refuse, Reason::Unguarded, true));
        assert_eq!(hardened(&row, &[(&row, SameView)], true), (Replay(0), Reason::Exact, false));
        row.clipped = false;
        reuse.clipped = true;
        assert_eq!(hardened(&row, &[(&reuse, SameView)], false), (Forward, Reason::Unguarded, true));
    }

    #[test]
    fn other_inputs_separate_views_until_there_are_too_many() {
        let Cast { row, reuse, suspect, .. } = cast();
        let others = |count: u64| (0..count).map(|i| (&reuse, OtherInputs(i))).collect::<Vec<_>>();
        assert_eq!(hardened(&row, &others(3), false), (Forward, Reason::OtherView, true));
        assert_eq!(hardened(&row, &others(4), false), (Replay(0), Reason::Bits, false));

        // The same inputs twice are one view, near misses are none, another model is another matter.
        let mut twice = others(3);
        twice.extend([(&reuse, OtherInputs(2)), (&suspect, OtherInputs(8)), (&reuse, OtherView)]);
        assert_eq!(hardened(&row, &twice, false), (Forward, Reason::OtherView, true));

        // A near-copy in the row's own view is a view more: with it three others are enough.
        let mut own = others(3);
        let mut unguarded = reuse.clone();
        unguarded.thumbnail = with_positions(0, 21);
        own.push((&unguarded, SameView));
        assert_eq!(hardened(&row, &own, false), (Replay(0), Reason::Bits, false));

        let judge = judge(Rules { max_views: 2, ..Rules::hardened() });
        assert_eq!(ruled(&judge, &row, &others(1), false).ruling, Forward);
        assert_eq!(ruled(&judge, &row, &others(2), false).ruling, Replay(0));
    }

    #[test]
    fn an_exact_repeat_with_too_many_inputs_is_replayed() {
        let Cast { row, .. } = cast();
        let others = |count: u64| (0..count).map(|i| (&row, OtherInputs(i))).collect::<Vec<_>>();
        assert_eq!(hardened(&row, &others(3), false), (Forward, Reason::Exact, false));
        assert_eq!(hardened(&row, &others(4), false), (Replay(0), Reason::Exact, false));
    }

    #[test]
    fn an_exact_repeat_elsewhere_is_innocent_until_there_are_too_many() {
        let Cast { row, suspect, .. } = cast();
        let exact = |count| vec![(&row, OtherView); count];
        assert_eq!(hardened(&row, &exact(3), true), (Forward, Reason::Exact, false));
        assert_eq!(hardened(&row, &exact(4), false), (Forward, Reason::OtherView, true));
        assert_eq!(hardened(&row, &exact(4), true), (Refuse, Reason::OtherView, true));

        // Other inputs, other views and forwards without an answer add up; near-copies do not.
        let mixed = [(&row, OtherView), (&suspect, OtherView), (&row, OtherInputs(1)), (&row, Unanswered(1))];
        assert_eq!(hardened(&row, &mixed, false), (Forward, Reason::OtherView, true));
        assert_eq!(hardened(&row, &mixed[..3], false), (Forward, Reason::Exact, false));

        // Suspected or not, what can be replayed in its own view is.
        let mut own = exact(4);
        own.push((&suspect, SameView));
        assert_eq!(hardened(&row, &own, true), (Replay(4), Reason::OtherView, true));
        own.push((&row, SameView));
        assert_eq!(hardened(&row, &own, true), (Replay(5), Reason::Exact, false));

        let judge = judge(Rules { max_views: 1, ..Rules::hardened() });
        assert_eq!(parts(&ruled(&judge, &row, &exact(1), false)), (Forward, Reason::OtherView, true));
    }

    #[test]
    fn ghosts_raise_suspicion_and_never_answer() {
        let Cast { row, reuse, unrelated, .. } = cast();
        let rule = |ghost: &Ghost, rules: Rules, suspected| {
            let candidates = [(&unrelated, SameView)];
            let judgment = judge(rules).rule(&row, candidates.into_iter(), [ghost].into_iter(), suspected);
            // A ghost cannot be measured; the nearest anchor can, in no radius as it is.
            assert_eq!(judgment.evidence.nearest.map(|nearest| nearest.bits), Some(128));
            parts(&judgment)
        };
        let (near, far) = (reuse.ghost(), unrelated.ghost());
        assert_eq!(rule(&near, Rules::hardened(), false), (Forward, Reason::Ghost, true));
        assert_eq!(rule(&far, Rules::hardened(), true), (Forward, Reason::New, false));
        let ways = [
            (OnSuspected::Reject, (Refuse, Reason::Ghost, true)),
            (OnSuspected::Replay, (Refuse, Reason::Ghost, true)),
            (OnSuspected::Forward, (Forward, Reason::Ghost, true)),
        ];
        for (on_suspected, expected) in ways {
            assert_eq!(rule(&near, Rules { on_suspected, ..Rules::hardened() }, true), expected);
        }
    }

    #[test]
    fn a_first_picture_is_new() {
        let Cast { row, .. } = cast();
        for suspected in [false, true] {
            let judgment = ruled(&judge(Rules::hardened()), &row, &[], suspected);
            assert_eq!(parts(&judgment), (Forward, Reason::New, false));
            assert_eq!(judgment.evidence.nearest, None);
        }
    }
}

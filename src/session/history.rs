//! One session's past, and a call judged against it. The caller of these functions holds the session's lock.

use super::anchor::{Anchor, Kept};
use super::flight::{Lead, Pending};
use super::limits::Limits;
use super::memory::{Bounds, Left, Memory};
use super::suspicion::Suspicion;
use super::{AnchorFacts, Claim, Judged, Origin, Outcome, Question, View};
use crate::judgment::{self, Digest, Evidence, Judge, Likeness, Profile, Reason, Ruling, Standing};
use std::collections::{HashSet, VecDeque};
use tokio::time::Instant;

/// Everything that is remembered of one session.
pub(super) struct History {
    memory: Memory,
    /// Which anchor answered an image that is not itself an anchor; oldest first. An entry outlives its anchor and is
    /// then passed over.
    answered: VecDeque<Answered>,
    suspicion: Suspicion,
    /// Forwards that were answered, and when the first of them was: what makes a session established.
    forwards: u32,
    first_forward: Option<Instant>,
    /// The profile that judged last: it says how long the anchors live when nobody asks.
    profile: Profile,
}

struct Answered {
    digest: Digest,
    inputs: u64,
    anchor: u64,
}

/// What a session adds to the store's figures.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Tally {
    pub(super) bytes: usize,
    pub(super) anchors: usize,
    pub(super) ghosts: usize,
    /// Until when the session is suspected, if it is.
    pub(super) suspected: Option<Instant>,
}

/// Makes a new lead: the number of its anchor, the lead, and the anchor's end of it.
pub(super) type NewLead<'a> = &'a mut dyn FnMut() -> (u64, Lead, Pending);

/// The parts of a question that stay the same from row to row.
struct Asked<'a> {
    judge: &'a Judge,
    view: &'a View,
    limits: &'a Limits,
    bounds: Bounds,
    origin: Option<Origin>,
    now: Instant,
}

impl History {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            memory: Memory::default(),
            answered: VecDeque::new(),
            suspicion: Suspicion::new(now),
            forwards: 0,
            first_forward: None,
            profile: Profile::Hardened,
        }
    }

    /// Rules and claims the rows of one call, in order, each against the anchors and the rows before it.
    pub(super) fn judge(
        &mut self,
        question: Question,
        limits: &Limits,
        now: Instant,
        new_lead: NewLead<'_>,
    ) -> Vec<Judged> {
        let Question { view, other_inputs, rows, judge, origin, whole, .. } = question;
        self.profile = judge.rules().profile;
        self.expire(limits, now);
        let bounds = Bounds::of(self.profile, limits);
        let asked = Asked { judge: &judge, view: &view, limits, bounds, origin, now };
        if whole {
            return self.judge_whole(&asked, rows, new_lead);
        }
        let mut judged = Vec::with_capacity(rows.len());
        for (index, row) in rows.into_iter().enumerate() {
            let inputs = other_inputs.get(index).copied().unwrap_or(view.inputs);
            let view = View { inputs, ..view.clone() };
            judged.push(self.judge_row(&Asked { view: &view, ..asked }, row, new_lead));
        }
        judged
    }

    fn judge_row(&mut self, asked: &Asked<'_>, row: Likeness, new_lead: NewLead<'_>) -> Judged {
        // The same image never gets two answers while the anchor that answered it lives, even if a nearer one came since.
        if let Some((position, evidence)) = self.answered_before(asked, &row) {
            return self.replay(asked, position, row, evidence);
        }
        if let Some(evidence) = self.asked_before(asked, &row) {
            return self.forward(asked, row, evidence, new_lead);
        }
        let suspected = self.suspicion.suspected(asked.limits.suspicions);
        let candidates = self.memory.beside(asked.view);
        let judgment = asked.judge.rule(&row, candidates, self.memory.ghosts(), suspected);
        if let Ruling::Replay(position) = judgment.ruling
            && let Some(orphan) = self.memory.at(position).filter(|anchor| anchor.is_orphan())
        {
            self.memory.forget(orphan.id);
            return self.judge_row(asked, row, new_lead);
        }
        if judgment.evidence.suspect {
            self.suspicion.count(asked.limits.suspicions);
        }
        match judgment.ruling {
            Ruling::Forward => self.forward(asked, row, judgment.evidence, new_lead),
            Ruling::Replay(position) => self.replay(asked, position, row, judgment.evidence),
            Ruling::Refuse => Judged { claim: Claim::Refuse, evidence: judgment.evidence, anchor: None },
        }
    }

    /// A call whose outputs cannot be cut into rows has no answer for any one of them: nothing can be replayed in it
    /// or from it. So every anchor, and every earlier row of the call, stands as another view's: an exact repeat is
    /// innocent (the model says again what it said) until there were too many, a near-copy is suspect, and once the
    /// session is suspected it is refused or forwarded as the rules say. One suspect row makes the call suspect; each
    /// counts, for a call tells as much as it has near-copies, and the rows after the last that may count are judged
    /// as a suspected session's. One refused row refuses the call: nothing of it is claimed, and what was counted
    /// stays counted. The paper's profile knows no suspicion and forwards it.
    fn judge_whole(&mut self, asked: &Asked<'_>, rows: Vec<Likeness>, new_lead: NewLead<'_>) -> Vec<Judged> {
        let mut rulings = Vec::with_capacity(rows.len());
        let mut distinct: Vec<&Likeness> = Vec::new();
        let mut digests = HashSet::new();
        for row in &rows {
            // A batch is often padded with one picture: what stands in the call twice is judged once.
            let first = digests.insert(row.digest());
            let (ruling, evidence) = if first {
                self.rule_in_whole(asked, row, &distinct)
            } else {
                let nearest = Some(asked.judge.distances(row, row));
                (Ruling::Forward, Evidence { reason: Reason::Exact, suspect: false, nearest })
            };
            if evidence.suspect {
                self.suspicion.count(asked.limits.suspicions);
            }
            if first {
                distinct.push(row);
            }
            rulings.push((ruling, evidence, first));
        }
        if rulings.iter().any(|(ruling, ..)| *ruling != Ruling::Forward) {
            let refuse = |(_, evidence, _)| Judged { claim: Claim::Refuse, evidence, anchor: None };
            return rulings.into_iter().map(refuse).collect();
        }
        let claimed = rows.into_iter().zip(rulings).map(|(row, (_, evidence, first))| {
            let (id, lead, _) = new_lead();
            let lead = if first { self.claim_in_whole(asked, id, lead, row) } else { lead.without_anchor() };
            Judged { claim: Claim::Forward(lead), evidence, anchor: None }
        });
        claimed.collect()
    }

    /// Rules on a row of a whole call, against the anchors and the distinct rows before it.
    fn rule_in_whole(&self, asked: &Asked<'_>, row: &Likeness, earlier: &[&Likeness]) -> (Ruling, Evidence) {
        if let Some(evidence) = self.asked_before(asked, row) {
            return (Ruling::Forward, evidence);
        }
        let suspected = self.suspicion.suspected(asked.limits.suspicions);
        let past = self.memory.anchors().map(|anchor| (&anchor.likeness, anchor.standing_elsewhere()));
        let earlier = earlier.iter().map(|&likeness| (likeness, Standing::OtherView));
        let judgment = asked.judge.rule(row, past.chain(earlier), self.memory.ghosts(), suspected);
        (judgment.ruling, judgment.evidence)
    }

    /// Makes a row of a whole call an anchor. One that is there already needs no second, or a batch that is sent again
    /// and again would flush the others; the one it has counts the repeat, since not all of them are innocent.
    fn claim_in_whole(&mut self, asked: &Asked<'_>, id: u64, lead: Lead, row: Likeness) -> Lead {
        if let Some(position) = self.memory.unanswered(row.digest(), asked.view) {
            self.memory.repeat(position);
            return lead.without_anchor();
        }
        self.add(asked, id, row, Kept::Likeness);
        lead
    }

    /// Ends the forward of anchor `id`.
    pub(super) fn settle(&mut self, id: u64, outcome: &Outcome, now: Instant) {
        match outcome {
            Outcome::Answered(answer) => self.memory.settle(id, answer),
            Outcome::Unkept => self.memory.unkeep(id),
            Outcome::Failed => return self.memory.forget(id),
        }
        self.forwards = self.forwards.saturating_add(1);
        self.first_forward.get_or_insert(now);
    }

    /// Turns what is past its life into ghosts, or lets it go.
    pub(super) fn expire(&mut self, limits: &Limits, now: Instant) {
        self.suspicion.decay(limits.suspicion_decay, now);
        self.memory.expire(&Bounds::of(self.profile, limits), now);
        if self.memory.tally().0 == 0 {
            self.answered = VecDeque::new();
        }
    }

    /// Lets go of one thing, the oldest and least useful first. False when nothing is left but the suspicion.
    pub(super) fn shed(&mut self, limits: &Limits, now: Instant) -> bool {
        let more = self.memory.shed(&Bounds::of(self.profile, limits), now);
        if !more {
            self.answered = VecDeque::new();
        }
        more
    }

    /// Whether enough forwards over enough time stand behind this session; only time can buy that.
    pub(super) fn established(&self, limits: &Limits, now: Instant) -> bool {
        let long_enough = |first| now.saturating_duration_since(first) >= limits.established_after;
        self.forwards >= limits.established_forwards && self.first_forward.is_some_and(long_enough)
    }

    pub(super) fn tally(&self, limits: &Limits) -> Tally {
        let (anchors, ghosts) = self.memory.tally();
        let bytes =
            size_of::<Self>() + self.memory.footprint() + self.answered.capacity() * size_of::<Answered>();
        // The paper's profile counts nothing against anyone.
        let suspected = self
            .suspicion
            .suspected_until(limits.suspicions, limits.suspicion_decay)
            .filter(|_| self.profile == Profile::Hardened);
        Tally { bytes, anchors, ghosts, suspected }
    }

    pub(super) fn take_left(&mut self) -> Left {
        self.memory.take_left()
    }

    fn forward(
        &mut self,
        asked: &Asked<'_>,
        row: Likeness,
        evidence: Evidence,
        new_lead: NewLead<'_>,
    ) -> Judged {
        let (id, lead, pending) = new_lead();
        self.add(asked, id, row, Kept::Pending(pending));
        Judged { claim: Claim::Forward(lead), evidence, anchor: None }
    }

    fn add(&mut self, asked: &Asked<'_>, id: u64, likeness: Likeness, kept: Kept) {
        let anchor = Anchor {
            id,
            likeness,
            view: asked.view.clone(),
            forwarded: asked.now,
            hits: 0,
            origin: asked.origin,
            kept,
        };
        self.memory.add(anchor, &asked.bounds, asked.now);
    }

    fn replay(&mut self, asked: &Asked<'_>, position: usize, row: Likeness, evidence: Evidence) -> Judged {
        let follow = self.memory.at(position).and_then(|anchor| Some((anchor, anchor.follow()?)));
        let Some((anchor, follow)) = follow else {
            // Judgment only replays from anchors that stand in the row's view, and those have or await an answer. Were
            // that broken, a refusal tells an attacker nothing.
            return Judged { claim: Claim::Refuse, evidence, anchor: None };
        };
        let age = asked.now.saturating_duration_since(anchor.forwarded);
        let facts = AnchorFacts { age, hits: anchor.hits + 1, origin: anchor.origin };
        let (id, own) = (anchor.id, anchor.likeness.digest() == row.digest());
        let near = evidence.reason != Reason::Exact;
        if self.profile == Profile::Hardened && near && !own {
            self.remember(asked, row.digest(), id);
        }
        if self.profile == Profile::Paper && asked.judge.rules().anchor == judgment::Anchor::Sliding {
            self.memory.slide(position, row);
        }
        self.memory.answer(position, near, &asked.bounds, asked.now);
        Judged { claim: Claim::Replay(follow), evidence, anchor: Some(facts) }
    }

    /// The living anchor that answered exactly this image before, in this view. One whose answer came and could not be
    /// kept answered nobody after all.
    fn answered_before(&self, asked: &Asked<'_>, row: &Likeness) -> Option<(usize, Evidence)> {
        if self.profile == Profile::Paper {
            return None;
        }
        let digest = row.digest();
        let same = |entry: &&Answered| entry.digest == digest && entry.inputs == asked.view.inputs;
        let mut positions =
            self.answered.iter().rev().filter(same).filter_map(|entry| self.memory.position_of(entry.anchor));
        let (position, anchor) = positions.find_map(|position| {
            let anchor = self.memory.at(position)?;
            let can_answer = anchor.shares_model(asked.view)
                && !matches!(anchor.kept, Kept::Likeness)
                && !anchor.is_orphan();
            can_answer.then_some((position, anchor))
        })?;
        let nearest = Some(asked.judge.distances(row, &anchor.likeness));
        Some((position, Evidence { reason: Reason::Exact, suspect: false, nearest }))
    }

    /// Whether exactly this image was forwarded before and only its ghost is left. Asking the model again tells the
    /// caller what it was told already, so it is as innocent as any exact repeat; only no answer is left to replay.
    fn asked_before(&self, asked: &Asked<'_>, row: &Likeness) -> Option<Evidence> {
        let innocent = asked.judge.rules().profile == Profile::Hardened && self.memory.is_gone(row.digest());
        innocent.then_some(Evidence { reason: Reason::Exact, suspect: false, nearest: None })
    }

    fn remember(&mut self, asked: &Asked<'_>, digest: Digest, anchor: u64) {
        if asked.limits.answered == 0 {
            return;
        }
        while self.answered.len() >= asked.limits.answered {
            self.answered.pop_front();
        }
        self.answered.push_back(Answered { digest, inputs: asked.view.inputs, anchor });
    }

    #[cfg(test)]
    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The bytes counted afresh from every single thing held, for tests.
    #[cfg(test)]
    pub(super) fn walk(&self) -> usize {
        size_of::<Self>() + self.memory.walk() + self.answered.capacity() * size_of::<Answered>()
    }
}

#[cfg(test)]
mod tests;

//! A session's anchors in two segments, and the ghosts of those that are gone.
//!
//! ```text
//!              hit by a near-copy
//! never hit ───────────────────────> hit
//! (first in, first out)              (least recently hit out)
//!      └────────────┬─────────────────┘
//!          evicted or expired: a ghost
//! ```
//! Neither segment evicts the other. So decoys, which nobody hits, push out only each other, and the anchors that an
//! attack works around stay; and what is pushed out is still recognised, if not answered, as long as its ghost lives.

use super::anchor::{Anchor, Beside, Held, Kept};
use super::ghosts::Ghosts;
use super::limits::Limits;
use super::{Answer, View};
use crate::judgment::{Digest, Ghost, Likeness, Profile};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// How much one session remembers under one profile.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    never_hit: usize,
    hit: usize,
    ttl: Option<Duration>,
    ghosts: usize,
    ghost_ttl: Duration,
}

impl Bounds {
    /// The paper's memory is the one image forwarded last; it neither ages nor leaves a ghost.
    pub(super) fn of(profile: Profile, limits: &Limits) -> Self {
        match profile {
            Profile::Paper => {
                Self { never_hit: 1, hit: 0, ttl: None, ghosts: 0, ghost_ttl: limits.ghost_ttl }
            }
            Profile::Hardened => Self {
                never_hit: limits.anchors_never_hit,
                hit: limits.anchors_hit,
                ttl: Some(limits.ttl),
                ghosts: limits.ghosts,
                ghost_ttl: limits.ghost_ttl,
            },
        }
    }
}

/// Anchors that left a session, by reason.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Left {
    pub(super) never_hit_full: u64,
    pub(super) hit_full: u64,
    pub(super) expired: u64,
    pub(super) share_full: u64,
}

/// The anchors and ghosts of one session.
#[derive(Default)]
pub(super) struct Memory {
    /// Oldest forward first.
    never_hit: VecDeque<Held>,
    /// Least recently hit first.
    hit: VecDeque<Held>,
    ghosts: Ghosts,
    /// Footprints of the anchors in each segment, kept in step with every change.
    never_hit_bytes: usize,
    hit_bytes: usize,
    /// Since the count was last collected.
    left: Left,
}

impl Memory {
    /// All anchors; their positions are those that [`Self::at`] takes, until the next change.
    pub(super) fn anchors(&self) -> impl Iterator<Item = &Anchor> {
        self.held().map(|held| &*held.anchor)
    }

    /// All anchors beside a row of this view.
    pub(super) fn beside<'a>(&'a self, view: &'a View) -> impl Iterator<Item = Beside<'a>> {
        self.held().map(move |held| Beside { outline: &held.outline, anchor: &held.anchor, view })
    }

    fn held(&self) -> impl Iterator<Item = &Held> {
        self.never_hit.iter().chain(&self.hit)
    }

    pub(super) fn ghosts(&self) -> impl Iterator<Item = &Ghost> {
        self.ghosts.iter()
    }

    pub(super) fn tally(&self) -> (usize, usize) {
        (self.never_hit.len() + self.hit.len(), self.ghosts.len())
    }

    pub(super) fn take_left(&mut self) -> Left {
        std::mem::take(&mut self.left)
    }

    /// Bytes held, this value's own size excluded.
    pub(super) fn footprint(&self) -> usize {
        (self.never_hit.capacity() + self.hit.capacity()) * size_of::<Held>()
            + self.ghosts.footprint()
            + self.never_hit_bytes
            + self.hit_bytes
    }

    /// The anchor at a position that [`Self::anchors`] gave.
    pub(super) fn at(&self, position: usize) -> Option<&Anchor> {
        let held = match position.checked_sub(self.never_hit.len()) {
            None => self.never_hit.get(position),
            Some(position) => self.hit.get(position),
        };
        held.map(|held| &*held.anchor)
    }

    /// Where anchor `id` is.
    pub(super) fn position_of(&self, id: u64) -> Option<usize> {
        // Anchors are numbered as they are forwarded, so the never hit stand in the order of their numbers.
        let never_hit = self.never_hit.binary_search_by_key(&id, |held| held.id).ok();
        let hit = || self.hit.iter().position(|held| held.id == id);
        never_hit.or_else(|| Some(self.never_hit.len() + hit()?))
    }

    /// Whether a ghost is all that is left of exactly this image.
    pub(super) fn is_gone(&self, digest: Digest) -> bool {
        self.ghosts.has(digest) && !self.anchors().any(|anchor| anchor.likeness.digest() == digest)
    }

    /// The anchor that holds exactly this image in this view without an answer.
    pub(super) fn unanswered(&self, digest: Digest, view: &View) -> Option<usize> {
        self.anchors().position(|anchor| {
            matches!(anchor.kept, Kept::Likeness)
                && anchor.likeness.digest() == digest
                && anchor.view == *view
        })
    }

    /// Takes in a row that was just forwarded.
    pub(super) fn add(&mut self, anchor: Anchor, bounds: &Bounds, now: Instant) {
        self.never_hit_bytes += anchor.footprint();
        push(&mut self.never_hit, Held::new(anchor));
        while self.never_hit.len() > bounds.never_hit {
            self.left.never_hit_full += 1;
            self.drop_never_hit(bounds, now);
        }
        while self.hit.len() > bounds.hit {
            self.left.hit_full += 1;
            self.drop_hit(bounds, now);
        }
    }

    /// Counts a row answered by the anchor at `position`. One that came `near` without being an exact repeat moves the
    /// anchor to the recent end of the hit segment; exact repeats do not, or a caller could keep decoys alive
    /// at no cost.
    pub(super) fn answer(&mut self, position: usize, near: bool, bounds: &Bounds, now: Instant) {
        let hit = position.checked_sub(self.never_hit.len());
        let held = match hit {
            None => self.never_hit.get_mut(position),
            Some(position) => self.hit.get_mut(position),
        };
        let Some(held) = held else { return };
        held.anchor.hits += 1;
        if !near || bounds.hit == 0 {
            return;
        }
        let moved = match hit {
            None => self.never_hit.remove(position).inspect(|held| {
                self.never_hit_bytes -= held.anchor.footprint();
                self.hit_bytes += held.anchor.footprint();
            }),
            Some(position) => self.hit.remove(position),
        };
        if let Some(held) = moved {
            push(&mut self.hit, held);
        }
        while self.hit.len() > bounds.hit {
            self.left.hit_full += 1;
            self.drop_hit(bounds, now);
        }
    }

    /// Counts an exact repeat of an anchor that has no answer, forwarded without an anchor of its own.
    pub(super) fn repeat(&mut self, position: usize) {
        self.change(position, |held| held.anchor.hits += 1);
    }

    /// The paper's sliding anchor: it takes over the likeness of the row that it answered and keeps its answer.
    pub(super) fn slide(&mut self, position: usize, likeness: Likeness) {
        self.change(position, |held| {
            held.outline = likeness.outline().clone();
            held.anchor.likeness = likeness;
        });
    }

    /// The answer of anchor `id` came.
    pub(super) fn settle(&mut self, id: u64, answer: &Answer) {
        let Some(position) = self.position_of(id) else { return };
        self.change(position, |Held { anchor, .. }| {
            anchor.view.version = answer.version.clone();
            if let Kept::Pending(_) = anchor.kept {
                anchor.kept = Kept::Answered(answer.clone());
            }
        });
    }

    /// The answer of anchor `id` came and cannot be kept. The rows that followed it got nothing from it, so its repeats
    /// are counted from here.
    pub(super) fn unkeep(&mut self, id: u64) {
        let Some(position) = self.position_of(id) else { return };
        self.change(position, |Held { anchor, .. }| {
            if let Kept::Pending(_) = anchor.kept {
                anchor.kept = Kept::Likeness;
                anchor.hits = 0;
            }
        });
    }

    /// The answer of anchor `id` will never come: the model said nothing, so there is nothing to remember, not even by
    /// the ghost of an anchor that was evicted while it waited.
    pub(super) fn forget(&mut self, id: u64) {
        let Some(position) = self.position_of(id) else {
            self.ghosts.forget(id);
            return;
        };
        let (segment, bytes, position) = match position.checked_sub(self.never_hit.len()) {
            None => (&mut self.never_hit, &mut self.never_hit_bytes, position),
            Some(position) => (&mut self.hit, &mut self.hit_bytes, position),
        };
        *bytes -= segment.remove(position).map_or(0, |held| held.anchor.footprint());
    }

    /// Turns anchors past their life into ghosts and lets go of ghosts past theirs.
    pub(super) fn expire(&mut self, bounds: &Bounds, now: Instant) {
        if let Some(ttl) = bounds.ttl {
            let over = |held: &Held| now.saturating_duration_since(held.forwarded) >= ttl;
            let mut gone = Vec::new();
            // The never hit stand in the order of their forwards; the hit do not.
            while self.never_hit.front().is_some_and(over) {
                gone.extend(self.never_hit.pop_front().map(|held| held.anchor));
                self.never_hit_bytes -= gone.last().map_or(0, |anchor| anchor.footprint());
            }
            let mut position = 0;
            while let Some(held) = self.hit.get(position) {
                if over(held) {
                    gone.extend(self.hit.remove(position).map(|held| held.anchor));
                    self.hit_bytes -= gone.last().map_or(0, |anchor| anchor.footprint());
                } else {
                    position += 1;
                }
            }
            self.left.expired += gone.len() as u64;
            gone.sort_by_key(|anchor| anchor.forwarded);
            for anchor in gone {
                self.leave_ghost(&anchor, bounds, anchor.forwarded + ttl);
            }
            if self.never_hit.is_empty() && self.hit.is_empty() {
                self.never_hit = VecDeque::new();
                self.hit = VecDeque::new();
            }
        }
        self.ghosts.expire(now);
    }

    /// Lets go of the oldest anchor of the segment that holds more bytes (large decoys must not push out what was hit),
    /// or else of half of the ghosts. False when there is nothing left to let go of.
    pub(super) fn shed(&mut self, bounds: &Bounds, now: Instant) -> bool {
        let (anchors, ghosts) = self.tally();
        if anchors > 0 {
            self.left.share_full += 1;
            if self.hit.is_empty() || (!self.never_hit.is_empty() && self.never_hit_bytes >= self.hit_bytes) {
                self.drop_never_hit(bounds, now);
            } else {
                self.drop_hit(bounds, now);
            }
            return true;
        }
        self.ghosts.halve();
        self.never_hit = VecDeque::new();
        self.hit = VecDeque::new();
        ghosts > 0
    }

    fn drop_never_hit(&mut self, bounds: &Bounds, now: Instant) {
        if let Some(Held { anchor, .. }) = self.never_hit.pop_front() {
            self.never_hit_bytes -= anchor.footprint();
            self.leave_ghost(&anchor, bounds, now);
        }
    }

    fn drop_hit(&mut self, bounds: &Bounds, now: Instant) {
        if let Some(Held { anchor, .. }) = self.hit.pop_front() {
            self.hit_bytes -= anchor.footprint();
            self.leave_ghost(&anchor, bounds, now);
        }
    }

    fn leave_ghost(&mut self, anchor: &Anchor, bounds: &Bounds, left: Instant) {
        self.ghosts.push(&anchor.likeness, anchor.id, left + bounds.ghost_ttl, bounds.ghosts);
    }

    fn change(&mut self, position: usize, change: impl FnOnce(&mut Held)) {
        let (held, bytes) = match position.checked_sub(self.never_hit.len()) {
            None => (self.never_hit.get_mut(position), &mut self.never_hit_bytes),
            Some(position) => (self.hit.get_mut(position), &mut self.hit_bytes),
        };
        if let Some(held) = held {
            *bytes -= held.anchor.footprint();
            change(held);
            *bytes += held.anchor.footprint();
        }
    }

    /// The footprint counted afresh from every single thing held, for tests.
    #[cfg(test)]
    pub(super) fn walk(&self) -> usize {
        self.anchors().map(Anchor::footprint).sum::<usize>()
            + (self.never_hit.capacity() + self.hit.capacity()) * size_of::<Held>()
            + self.ghosts.footprint()
    }

    /// Numbers of the anchors in each segment, in the order in which they would leave, for tests.
    #[cfg(test)]
    pub(super) fn segments(&self) -> (Vec<u64>, Vec<u64>) {
        let ids = |segment: &VecDeque<Held>| segment.iter().map(|held| held.id).collect();
        (ids(&self.never_hit), ids(&self.hit))
    }
}

/// Adds to a segment, whose room grows by an eighth at a time, so that it is never much larger than what is in it.
fn push(segment: &mut VecDeque<Held>, held: Held) {
    if segment.len() == segment.capacity() {
        segment.reserve_exact(segment.len() / 8 + 1);
    }
    segment.push_back(held);
}

#[cfg(test)]
mod tests {
    use super::super::Store;
    use super::super::testing::{HOUR, SECOND, World, kinds};
    use super::*;
    use crate::judgment::Rules;

    fn small() -> World {
        let limits = Limits { anchors_never_hit: 3, anchors_hit: 2, ghosts: 4, ..Limits::default() };
        World::new(Rules::hardened(), limits)
    }

    async fn forwarded(world: &World, seeds: std::ops::Range<u32>) {
        for seed in seeds {
            assert_eq!(world.ask(1, world.picture(seed)).await.kind(), "forward");
        }
    }

    /// Asks without losing the lead, so that the anchor stays.
    impl World {
        async fn keep(&self, seeds: std::ops::Range<u32>) {
            for seed in seeds {
                let text = seed.to_string();
                assert_eq!(self.ask_and_answer(1, self.picture(seed), &text).await, format!("fresh {text}"));
            }
        }

        fn segments(&self) -> (Vec<u64>, Vec<u64>) {
            self.store.histories(|history| history.memory().segments()).remove(0)
        }
    }

    #[tokio::test]
    async fn what_was_never_hit_leaves_first_in_first_out_and_becomes_a_ghost() {
        let world = small();
        world.keep(0..5).await;
        assert_eq!(world.segments(), (vec![2, 3, 4], vec![]));
        let stats = world.store.stats();
        assert_eq!((stats.anchors, stats.ghosts, stats.departures.anchors_never_hit), (3, 2, 2));
        assert!(world.ask(1, world.near(0, 1)).await.evidence.suspect);
    }

    #[tokio::test]
    async fn a_hit_moves_an_anchor_over_and_neither_segment_evicts_the_other() {
        let world = small();
        world.keep(0..2).await;
        world.ask(1, world.near(0, 1)).await;
        world.ask(1, world.near(1, 1)).await;
        assert_eq!(world.segments(), (vec![], vec![0, 1]));
        world.keep(10..30).await;
        assert_eq!(world.segments().1, [0, 1], "decoys push out only decoys");
        assert_eq!(world.ask_and_answer(1, world.near(0, 2), "").await, "0");
        assert_eq!(world.segments().1, [1, 0], "the one hit least recently stands first to leave");
        world.ask(1, world.near(29, 1)).await;
        assert_eq!(world.segments().1, [0, 21]);
        assert_eq!(world.segments().0.len(), 2);
        assert_eq!(world.store.stats().departures.anchors_hit, 1);
    }

    #[tokio::test]
    async fn an_exact_repeat_neither_promotes_nor_refreshes() {
        let world = small();
        world.keep(0..2).await;
        world.ask(1, world.picture(0)).await;
        assert_eq!(world.segments(), (vec![0, 1], vec![]));
        world.ask(1, world.near(0, 1)).await;
        world.ask(1, world.near(1, 1)).await;
        world.ask(1, world.picture(0)).await;
        world.ask(1, world.near(0, 1)).await;
        assert_eq!(world.segments().1, [0, 1], "a replayed image that comes again is an exact repeat too");
    }

    #[tokio::test(start_paused = true)]
    async fn an_anchor_lives_for_its_ttl_however_often_it_is_hit() {
        let world = World::hardened();
        world.keep(0..1).await;
        for nth in 0..59 {
            tokio::time::advance(60 * SECOND).await;
            assert_eq!(world.ask(1, world.near(0, nth)).await.kind(), "replay");
        }
        tokio::time::advance(60 * SECOND).await;
        let judged = world.ask(1, world.near(0, 99)).await;
        assert_eq!((judged.kind(), judged.evidence.suspect), ("forward", true), "a ghost is left");
        assert_eq!(world.store.stats().departures.anchors_expired, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_ghost_lives_a_day_from_the_end_of_its_anchor() {
        let world = World::hardened();
        world.keep(0..1).await;
        let start = Instant::now();
        for hour in 1..25 {
            tokio::time::advance(HOUR).await;
            let text = hour.to_string();
            world.ask_and_answer(1, world.picture(100 + hour), &text).await;
        }
        let ghosts = |world: &World| world.store.stats().ghosts;
        let held = ghosts(&world);
        tokio::time::advance(HOUR.saturating_sub(SECOND)).await;
        world.ask(1, world.picture(200)).await;
        assert_eq!(ghosts(&world), held);
        tokio::time::advance(SECOND).await;
        assert_eq!(start.elapsed(), 25 * HOUR);
        let judged = world.ask(1, world.near(0, 1)).await;
        assert!(!judged.evidence.suspect, "an hour as an anchor, a day as a ghost");
    }

    #[tokio::test]
    async fn ghosts_are_bounded_and_the_oldest_leaves() {
        let world = small();
        world.keep(0..20).await;
        assert_eq!(world.store.stats().ghosts, 4);
        assert!(world.ask(1, world.near(16, 1)).await.evidence.suspect);
        assert!(!world.ask(1, world.near(2, 1)).await.evidence.suspect);
    }

    #[tokio::test]
    async fn a_failed_forward_leaves_nothing_not_even_the_ghost_of_its_evicted_anchor() {
        let world = small();
        let rows = (0..5).map(|seed| world.picture(seed)).collect();
        let judged = world.put(world.question(1, rows)).await;
        assert_eq!(kinds(&judged), ["forward"; 5]);
        assert_eq!((world.store.stats().anchors, world.store.stats().ghosts), (3, 2));
        drop(judged);
        assert_eq!((world.store.stats().anchors, world.store.stats().ghosts), (0, 0));
        forwarded(&world, 0..5).await;
        assert_eq!((world.store.stats().anchors, world.store.stats().ghosts), (0, 0));
    }

    #[tokio::test]
    async fn large_decoys_do_not_push_out_what_was_hit() {
        let limits = Limits { session_bytes: 200_000, ..Limits::default() };
        let world = World::new(Rules::hardened(), limits);
        world.ask_and_answer(1, world.picture(1), &"a".repeat(20_000)).await;
        world.ask(1, world.near(1, 1)).await;
        for seed in 2..50 {
            world.ask_and_answer(1, world.picture(seed), &"b".repeat(50_000)).await;
        }
        assert!(world.store.stats().bytes <= 200_000);
        assert_eq!(world.ask(1, world.near(1, 2)).await.kind(), "replay");
        assert!(world.store.stats().departures.anchors_over_share > 40);
    }
}

//! All sessions: which there are, who is established, who leaves for whom, and how many bytes they hold together.
//!
//! ```text
//! Newcomer => Established     enough answered forwards over enough time, and room in its class
//! Newcomer => gone            the store is full, and it was silent longest among the newcomers
//! either   => gone            silent for as long as ghosts live
//! ```
//! A flood of new callers pushes out only newcomers. Established sessions fill at most nine tenths, unverified callers'
//! at most half of that; an established session that would grow past its share lets go of its own oldest anchors.
//! Among the newcomers, verified callers' leave only while they hold more than half of what newcomers hold.
//!
//! Every operation is a few steps on a hash table and on linked lists, whatever the number of sessions; an eviction
//! is paid for by the session that once came. Nothing here takes a session's lock: see `store.rs` for the order of the locks.

use super::anchor::shared_text;
use super::history::{History, Tally};
use super::limits::{Limits, Room};
use super::memory::Left;
use super::store::Session;
use super::{Glance, SessionKey};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What the store holds at one moment, and what has left it since the start.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Stats {
    /// Sessions held.
    pub sessions: usize,
    /// Those of them that are established.
    pub established: usize,
    /// Those that are suspected.
    pub suspected: usize,
    /// Anchors held, pending ones included.
    pub anchors: usize,
    /// Ghosts held.
    pub ghosts: usize,
    /// Bytes held; never more than [`Limits::bytes`].
    pub bytes: usize,
    /// What left, by reason, since the start.
    pub departures: Departures,
    /// Answers that were too large to keep; their rows' likenesses were.
    pub oversized_answers: u64,
}

/// What left the store, by reason; each figure only rises.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Departures {
    /// Sessions of newcomers that made room.
    pub sessions_for_room: u64,
    /// Sessions that were silent too long.
    pub sessions_idle: u64,
    /// Anchors that newer ones pushed out before a near-copy hit them.
    pub anchors_never_hit: u64,
    /// Anchors that were hit, and pushed out by others hit more recently.
    pub anchors_hit: u64,
    /// Anchors that reached the end of their life.
    pub anchors_expired: u64,
    /// Anchors that their session let go of to stay within its bytes.
    pub anchors_over_share: u64,
}

impl Departures {
    /// Each figure with the label it is exported under.
    pub fn by_reason(&self) -> [(&'static str, u64); 6] {
        [
            ("session_for_room", self.sessions_for_room),
            ("session_idle", self.sessions_idle),
            ("anchor_never_hit", self.anchors_never_hit),
            ("anchor_hit", self.anchors_hit),
            ("anchor_expired", self.anchors_expired),
            ("anchor_over_share", self.anchors_over_share),
        ]
    }

    fn add(&mut self, left: Left) {
        self.anchors_never_hit += left.never_hit_full;
        self.anchors_hit += left.hit_full;
        self.anchors_expired += left.expired;
        self.anchors_over_share += left.share_full;
    }
}

/// Where a session stands in line. Resting sessions have let go of their expired anchors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Class {
    established: bool,
    verified: bool,
    resting: bool,
}

impl Class {
    fn index(self) -> usize {
        usize::from(self.established) * 4 + usize::from(self.verified) * 2 + usize::from(self.resting)
    }

    fn at(index: usize) -> Self {
        Self { established: index & 4 != 0, verified: index & 2 != 0, resting: index & 1 != 0 }
    }
}

/// A line of sessions, the one silent longest first, and what they hold together.
#[derive(Clone, Copy, Default)]
struct Line {
    first: Option<usize>,
    last: Option<usize>,
    bytes: usize,
    sessions: usize,
}

struct Slot {
    session: Arc<Session>,
    class: Class,
    tally: Tally,
    heard: Instant,
    /// Calls that are being judged or settled in this session at this moment; it does not leave meanwhile, so what
    /// they write is never written into a session that nobody can find.
    visits: u32,
    before: Option<usize>,
    after: Option<usize>,
}

/// The table of all sessions.
#[derive(Default)]
pub(super) struct Ledger {
    by_key: HashMap<SessionKey, usize>,
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    lines: [Line; 8],
    anchors: usize,
    ghosts: usize,
    /// Who is suspected, by when that ends; a session is put in once for each time, and taken out once.
    suspected: BTreeSet<(Instant, usize)>,
    departures: Departures,
}

/// A session that is being visited, by its place in the table.
#[derive(Clone)]
pub(super) struct Visited {
    slot: usize,
    pub(super) session: Arc<Session>,
}

/// Sessions that have left; dropped by the caller once the ledger's lock is released, since freeing their anchors takes time.
pub(super) type Leavers = Vec<Arc<Session>>;

impl Ledger {
    /// Finds the session and begins a visit, or makes a new one with `make`.
    pub(super) fn enter(
        &mut self,
        key: &SessionKey,
        verified: bool,
        now: Instant,
        make: impl FnOnce() -> Session,
    ) -> Visited {
        let slot = match self.by_key.get(key) {
            Some(&slot) => slot,
            None => self.insert(key, verified, now, make()),
        };
        self.visit(slot, verified, now)
    }

    /// Finds the session and begins a visit, if it is still here.
    pub(super) fn find(&mut self, key: &SessionKey, now: Instant) -> Option<Visited> {
        let slot = *self.by_key.get(key)?;
        Some(self.visit(slot, false, now))
    }

    fn visit(&mut self, index: usize, verified: bool, now: Instant) -> Visited {
        self.unlink(index);
        let slot = self.slot_mut(index);
        slot.visits += 1;
        slot.heard = now;
        slot.class.resting = false;
        // A caller who once proved who it is stays verified: its key is derived from that proof.
        slot.class.verified |= verified;
        let session = slot.session.clone();
        self.link(index);
        Visited { slot: index, session }
    }

    /// Ends a visit.
    pub(super) fn leave(&mut self, visited: &Visited) {
        if self.is_here(visited) {
            self.slot_mut(visited.slot).visits -= 1;
        }
    }

    /// Counts what the visited session holds now, establishes it if it has earned that, and makes room: within the
    /// session, within its class, and in the store. On return the store is within its limits.
    pub(super) fn account(
        &mut self,
        visited: &Visited,
        history: &mut History,
        limits: &Limits,
        now: Instant,
    ) -> Leavers {
        let mut leavers = Leavers::new();
        if !self.is_here(visited) {
            // All sessions were cleared while this call was judged: it belongs to what was cleared.
            return leavers;
        }
        let index = visited.slot;
        let overhead = overhead(&visited.session.key);
        let weigh = |history: &History| {
            let tally = history.tally(limits);
            Tally { bytes: tally.bytes + overhead, ..tally }
        };
        while weigh(history).bytes > limits.per_session() && history.shed(limits, now) {}
        self.weigh(index, weigh(history));

        if !self.class(index).established && history.established(limits, now) {
            let established = Class { established: true, ..self.class(index) };
            self.reclass(index, established);
            if !self.class_fits(established, limits) {
                self.reclass(index, Class { established: false, ..established });
            }
        }
        while self.class(index).established
            && !self.class_fits(self.class(index), limits)
            && history.shed(limits, now)
        {
            self.weigh(index, weigh(history));
        }
        while !self.fits(limits) {
            if let Some(newcomer) = self.newcomer_to_leave() {
                self.departures.sessions_for_room += 1;
                leavers.push(self.remove(newcomer));
            } else if history.shed(limits, now) {
                self.weigh(index, weigh(history));
            } else {
                self.departures.sessions_for_room += 1;
                leavers.push(self.remove(index));
                break;
            }
        }
        self.departures.add(history.take_left());
        leavers
    }

    /// Removes up to `most` sessions that have been silent for `silence`.
    pub(super) fn remove_idle(&mut self, silence: Duration, now: Instant, most: usize) -> Leavers {
        let mut leavers = Leavers::new();
        for line in 0..self.lines.len() {
            while leavers.len() < most
                && let Some(index) = self.lines[line].first
                && self.is_silent(index, silence, now)
            {
                self.departures.sessions_idle += 1;
                leavers.push(self.remove(index));
            }
        }
        leavers
    }

    /// Up to `most` sessions, silent for `silence`, that still hold anchors past their life, each with a visit begun. They
    /// count as resting from now on.
    pub(super) fn put_to_rest(&mut self, silence: Duration, now: Instant, most: usize) -> Vec<Visited> {
        let mut resting = Vec::new();
        for line in (0..self.lines.len()).filter(|line| !Class::at(*line).resting) {
            while resting.len() < most
                && let Some(index) = self.lines[line].first
                && self.is_silent(index, silence, now)
            {
                self.reclass(index, Class { resting: true, ..self.class(index) });
                let slot = self.slot_mut(index);
                slot.visits += 1;
                resting.push(Visited { slot: index, session: slot.session.clone() });
            }
        }
        resting
    }

    /// Forgets every session.
    pub(super) fn clear(&mut self) -> Leavers {
        let leavers = self.slots.drain(..).flatten().map(|slot| slot.session).collect();
        *self = Self { departures: self.departures, ..Self::default() };
        leavers
    }

    /// Takes up to `most` sessions off the suspected whose time is over. True if there may be more.
    pub(super) fn forgive(&mut self, now: Instant, most: usize) -> bool {
        for _ in 0..most {
            match self.suspected.first() {
                Some((until, _)) if *until <= now => self.suspected.pop_first(),
                _ => return false,
            };
        }
        true
    }

    /// What is held now. It costs a few steps, and one for each session whose suspicion ended since anybody looked.
    pub(super) fn stats(&mut self, now: Instant) -> Stats {
        self.forgive(now, usize::MAX);
        Stats {
            sessions: self.by_key.len(),
            established: self.sum(|class| class.established).sessions,
            suspected: self.suspected.len(),
            anchors: self.anchors,
            ghosts: self.ghosts,
            bytes: self.sum(|_| true).bytes,
            departures: self.departures,
            oversized_answers: 0,
        }
    }

    /// At most `most` sessions, of each line those heard of last.
    pub(super) fn glances(&self, most: usize, now: Instant) -> Vec<Glance> {
        let mut glances = Vec::new();
        for (class, line) in self.lines.iter().enumerate() {
            let class = Class::at(class);
            let mut next = line.last;
            while let Some(index) = next.filter(|_| glances.len() < most) {
                let slot = self.slot(index);
                glances.push(Glance {
                    key: slot.session.key.clone(),
                    verified: class.verified,
                    established: class.established,
                    suspected: slot.tally.suspected.is_some_and(|until| until > now),
                    anchors: slot.tally.anchors,
                    ghosts: slot.tally.ghosts,
                    bytes: slot.tally.bytes,
                    silent: now.saturating_duration_since(slot.heard),
                });
                next = slot.before;
            }
        }
        glances
    }

    /// Every session here, for tests.
    #[cfg(test)]
    pub(super) fn sessions(&self) -> Vec<Arc<Session>> {
        self.slots.iter().flatten().map(|slot| slot.session.clone()).collect()
    }

    fn fits(&self, limits: &Limits) -> bool {
        let all = self.sum(|_| true);
        all.bytes <= limits.bytes && all.sessions <= limits.sessions
    }

    fn class_fits(&self, class: Class, limits: &Limits) -> bool {
        let within = |held: Room, room: Room| held.bytes <= room.bytes && held.sessions <= room.sessions;
        within(self.sum(|class| class.established), limits.for_established())
            && (class.verified
                || within(self.sum(|class| class.established && !class.verified), limits.for_unverified()))
    }

    fn sum(&self, which: impl Fn(Class) -> bool) -> Room {
        let lines = self.lines.iter().enumerate().filter(|(index, _)| which(Class::at(*index)));
        lines.fold(Room { bytes: 0, sessions: 0 }, |sum, (_, line)| Room {
            bytes: sum.bytes + line.bytes,
            sessions: sum.sessions + line.sessions,
        })
    }

    /// The newcomer who was silent longest, resting ones first, among the unverified or among the verified, whichever
    /// hold more. None while all of them are being visited.
    fn newcomer_to_leave(&mut self) -> Option<usize> {
        let held = |verified: bool| self.sum(|class| !class.established && class.verified == verified).bytes;
        let verified_first = held(true) > held(false);
        for verified in [verified_first, !verified_first] {
            for resting in [true, false] {
                let class = Class { established: false, verified, resting };
                // A visited session was heard of a moment ago, so it stands last and this rarely takes a second step; never
                // more steps than there are calls being judged at once.
                let mut next = self.lines[class.index()].first;
                while let Some(index) = next {
                    let slot = self.slot_mut(index);
                    if slot.visits == 0 {
                        return Some(index);
                    }
                    next = slot.after;
                }
            }
        }
        None
    }

    fn is_silent(&mut self, index: usize, silence: Duration, now: Instant) -> bool {
        let slot = self.slot_mut(index);
        slot.visits == 0 && now.saturating_duration_since(slot.heard) >= silence
    }

    fn is_here(&self, visited: &Visited) -> bool {
        let slot = self.slots.get(visited.slot).and_then(Option::as_ref);
        slot.is_some_and(|slot| Arc::ptr_eq(&slot.session, &visited.session))
    }

    fn insert(&mut self, key: &SessionKey, verified: bool, now: Instant, session: Session) -> usize {
        let slot = Slot {
            session: Arc::new(session),
            class: Class { established: false, verified, resting: false },
            tally: Tally::default(),
            heard: now,
            visits: 0,
            before: None,
            after: None,
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[index] = Some(slot);
        self.by_key.insert(key.clone(), index);
        self.link(index);
        index
    }

    fn remove(&mut self, index: usize) -> Arc<Session> {
        self.weigh(index, Tally::default());
        self.unlink(index);
        let session = self.slot_mut(index).session.clone();
        self.by_key.remove(&session.key);
        self.slots[index] = None;
        self.free.push(index);
        session
    }

    fn weigh(&mut self, index: usize, tally: Tally) {
        let slot = self.slot_mut(index);
        let before = std::mem::replace(&mut slot.tally, tally);
        let line = slot.class.index();
        self.lines[line].bytes = self.lines[line].bytes - before.bytes + tally.bytes;
        self.anchors = self.anchors - before.anchors + tally.anchors;
        self.ghosts = self.ghosts - before.ghosts + tally.ghosts;
        if before.suspected != tally.suspected {
            before.suspected.map(|until| self.suspected.remove(&(until, index)));
            tally.suspected.map(|until| self.suspected.insert((until, index)));
        }
    }

    fn class(&self, index: usize) -> Class {
        self.slot(index).class
    }

    fn reclass(&mut self, index: usize, class: Class) {
        self.unlink(index);
        self.slot_mut(index).class = class;
        self.link(index);
    }

    /// Puts a session last in its line.
    fn link(&mut self, index: usize) {
        let line = self.class(index).index();
        let last = self.lines[line].last.replace(index);
        let slot = self.slot_mut(index);
        slot.before = last;
        slot.after = None;
        let bytes = slot.tally.bytes;
        match last {
            Some(last) => self.slot_mut(last).after = Some(index),
            None => self.lines[line].first = Some(index),
        }
        self.lines[line].bytes += bytes;
        self.lines[line].sessions += 1;
    }

    fn unlink(&mut self, index: usize) {
        let slot = self.slot_mut(index);
        let (before, after) = (slot.before.take(), slot.after.take());
        let (line, bytes) = (slot.class.index(), slot.tally.bytes);
        match before {
            Some(before) => self.slot_mut(before).after = after,
            None => self.lines[line].first = after,
        }
        match after {
            Some(after) => self.slot_mut(after).before = before,
            None => self.lines[line].last = before,
        }
        self.lines[line].bytes -= bytes;
        self.lines[line].sessions -= 1;
    }

    fn slot(&self, index: usize) -> &Slot {
        self.slots[index]
            .as_ref()
            .expect("an index comes from the table, a line or a visit, and these are updated with it")
    }

    fn slot_mut(&mut self, index: usize) -> &mut Slot {
        self.slots[index]
            .as_mut()
            .expect("an index comes from the table, a line or a visit, and these are updated with it")
    }
}

/// What one more session costs beside its history: its place in the table and its key, twice, and a place among the
/// suspected, in nodes that are half full at worst.
pub(super) fn overhead(key: &SessionKey) -> usize {
    size_of::<Session>() - size_of::<History>()
        + size_of::<Option<Slot>>()
        + size_of::<(SessionKey, usize)>()
        + 2 * size_of::<usize>()
        + 2 * size_of::<(Instant, usize)>()
        + shared_text(&key.group)
}

#[cfg(test)]
mod tests;

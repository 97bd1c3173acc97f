//! The embedded store: sessions in this process's memory. The two steps of the boundary, under their locks.
//!
//! Two kinds of lock, both `std` mutexes because nothing is awaited under them and the sections are short:
//!
//! * a session's own, held while its rows are judged (tens of microseconds against a full past). Only calls of the same
//!   caller meet there, and they must, for judging and claiming to be one step. Who finds it taken stays awake for a while.
//! * the ledger's, held for a few steps on a table; all calls meet there, twice each.
//!
//! The order is session, then ledger; never the other way, and never two sessions. A visit keeps a session from leaving
//! between look-up and accounting, so neither lock is held across the two.
//!
//! A lock that a panic poisoned is used all the same: the figures are counted from what is there, so the worst that a
//! half-done step leaves behind is an anchor more or less.

use super::flight::{Home, Lead, Place};
use super::history::History;
use super::ledger::{Leavers, Ledger, Stats, Visited};
use super::{Answer, Claim, Glance, Judged, Limits, Outcome, Question, SessionKey, Store};
use bytes::Bytes;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use tokio::time::Instant;

/// How many silent sessions each call tidies away, so that the work keeps up without a task of its own.
const TIDIED_PER_CALL: usize = 2;

/// How often a session's lock is looked at before a thread sleeps for it: some 20 to 50 microseconds, about as long as a row is judged.
const LOOKS: u32 = 1000;

/// The store that needs nothing installed. Shared behind an `Arc`.
pub struct Embedded {
    shared: Arc<Shared>,
}

/// One session: its name and its past.
pub(super) struct Session {
    pub(super) key: SessionKey,
    history: Mutex<History>,
}

/// What leads need to find their way back.
struct Shared {
    limits: Limits,
    ledger: Mutex<Ledger>,
    /// Numbers of anchors. One counter for all sessions: a session that left and came back never mistakes an old
    /// lead for one of its own.
    anchors: AtomicU64,
    oversized: AtomicU64,
}

/// A session that cannot leave while this lives.
struct Visit<'a> {
    shared: &'a Shared,
    visited: Visited,
}

impl Embedded {
    /// An empty store.
    pub fn new(limits: Limits) -> Self {
        let shared = Shared {
            limits,
            ledger: Mutex::default(),
            anchors: AtomicU64::new(0),
            oversized: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The limits it was made with.
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// Forgets every session, suspicion included: after a change of rules the old likenesses mean something else.
    /// Calls in flight are not disturbed; their answers reach those who already follow them.
    pub fn clear(&self) {
        let leavers = lock(&self.shared.ledger).clear();
        drop(leavers);
    }

    /// Lets go of everything past its time. Each call does a little of this; a store that may see no calls for long
    /// should be tidied by a timer as well (once a minute is plenty).
    pub fn tidy(&self) {
        while self.shared.tidy(64, Instant::now()) {}
    }

    /// At most `most` sessions, each as the operator may see it: of every kind those heard of last.
    pub fn glances(&self, most: usize) -> Vec<Glance> {
        lock(&self.shared.ledger).glances(most, Instant::now())
    }

    #[cfg(test)]
    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.shared.ledger)
    }

    /// What `look` sees in every session's past, for tests.
    #[cfg(test)]
    pub(super) fn histories<T>(&self, look: impl Fn(&History) -> T) -> Vec<T> {
        let sessions = lock(&self.shared.ledger).sessions();
        sessions.iter().map(|session| look(&lock(&session.history))).collect()
    }
}

impl Store for Embedded {
    async fn judge_and_claim(&self, question: Question) -> Vec<Judged> {
        let now = Instant::now();
        self.shared.tidy(TIDIED_PER_CALL, now);
        let visit = self.shared.enter(&question.session, question.verified, now);
        let mut judged = visit.judge(question, now);
        for row in &mut judged {
            if let Claim::Forward(lead) = &mut row.claim {
                lead.arm(self.shared.clone());
            }
        }
        judged
    }

    async fn settle(&self, settled: Vec<(Lead, Outcome)>) {
        for (lead, outcome) in settled {
            self.shared.settle(lead, outcome);
        }
    }

    fn stats(&self) -> Stats {
        let stats = lock(&self.shared.ledger).stats(Instant::now());
        Stats { oversized_answers: self.shared.oversized.load(Ordering::Relaxed), ..stats }
    }
}

impl Shared {
    fn enter(&self, key: &SessionKey, verified: bool, now: Instant) -> Visit<'_> {
        let make = || Session { key: key.clone(), history: Mutex::new(History::new(now)) };
        let visited = lock(&self.ledger).enter(key, verified, now, make);
        Visit { shared: self, visited }
    }

    fn settle(&self, mut lead: Lead, outcome: Outcome) {
        let outcome = match outcome {
            Outcome::Answered(answer) if answer.bytes.len() > self.limits.answer_bytes => {
                self.oversized.fetch_add(1, Ordering::Relaxed);
                Outcome::Unkept
            }
            // A copy of its own: the bytes are often a slice of the whole reply, and keeping a row would keep it all.
            Outcome::Answered(answer) => {
                Outcome::Answered(Answer { bytes: Bytes::copy_from_slice(&answer.bytes), ..answer })
            }
            Outcome::Unkept | Outcome::Failed => outcome,
        };
        if let Some(place) = lead.disarm() {
            self.settle_at(&place, &outcome);
        }
        // Followers hear of it after the store: one who comes again must not find an anchor that still seems to wait.
        match outcome {
            Outcome::Answered(answer) => lead.publish(answer),
            Outcome::Unkept | Outcome::Failed => drop(lead),
        }
    }

    /// Settles the anchor, if its session is still here. An evicted session's lead has nothing to settle: its followers
    /// hold the answer's other end themselves.
    fn settle_at(&self, place: &Place, outcome: &Outcome) {
        let now = Instant::now();
        let Some(visited) = lock(&self.ledger).find(&place.session, now) else { return };
        let visit = Visit { shared: self, visited };
        let mut history = lock_awake(&visit.visited.session.history);
        history.settle(place.anchor, outcome, now);
        visit.account(history, now);
    }

    /// Puts up to `most` silent sessions to rest, removes as many that were silent too long and forgives as many. True if there may be more.
    fn tidy(&self, most: usize, now: Instant) -> bool {
        let (leavers, resting, forgiving) = {
            let mut ledger = lock(&self.ledger);
            let leavers = ledger.remove_idle(self.limits.ghost_ttl, now, most);
            (leavers, ledger.put_to_rest(self.limits.ttl, now, most), ledger.forgive(now, most))
        };
        let more = leavers.len() == most || resting.len() == most || forgiving;
        drop(leavers);
        for visited in resting {
            let visit = Visit { shared: self, visited };
            let mut history = lock(&visit.visited.session.history);
            history.expire(&self.limits, now);
            visit.account(history, now);
        }
        more
    }
}

impl Visit<'_> {
    fn judge(&self, question: Question, now: Instant) -> Vec<Judged> {
        let mut history = lock_awake(&self.visited.session.history);
        let judged = history.judge(question, &self.shared.limits, now, &mut || {
            let anchor = self.shared.anchors.fetch_add(1, Ordering::Relaxed);
            let place = Place { session: self.visited.session.key.clone(), anchor };
            let (lead, pending) = Lead::new(place);
            (anchor, lead, pending)
        });
        self.account(history, now);
        judged
    }

    /// Enters what the session holds now into the ledger, then releases both locks before anything is freed.
    fn account(&self, mut history: MutexGuard<'_, History>, now: Instant) {
        let leavers: Leavers =
            lock(&self.shared.ledger).account(&self.visited, &mut history, &self.shared.limits, now);
        drop(history);
        drop(leavers);
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        lock(&self.shared.ledger).leave(&self.visited);
    }
}

impl Home for Shared {
    fn abandon(&self, place: &Place) {
        self.settle_at(place, &Outcome::Failed);
    }
}

/// As [`lock`], for a lock that is held about as long as it takes to fall asleep and be woken: looks again for a while before it sleeps.
///
/// The calls of one caller meet at his session's lock. While one was judged another's thread slept, with every connection that it serves:
/// with many calls at once much of what a caller could ask was lost by it (`benches/README.md`, *Earlier rounds*). `std`'s own
/// mutex looks for a tenth as long, and `parking_lot`'s made no difference to it.
fn lock_awake<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    for _ in 0..LOOKS {
        match mutex.try_lock() {
            Ok(guard) => return guard,
            Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => std::hint::spin_loop(),
        }
    }
    lock(mutex)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;

//! What happened since the start, in numbers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// Counters since the start. Reading them costs nothing to those who count.
#[derive(Debug, Default)]
pub struct Tally {
    forwarded_rows: AtomicU64,
    judged_forward: AtomicU64,
    replayed: AtomicU64,
    held: AtomicU64,
    shadows: AtomicU64,
    unreadable: AtomicU64,
    passed: AtomicU64,
    refused: Mutex<BTreeMap<&'static str, u64>>,
}

/// The counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Rows sent to the model, shadows included.
    pub forwarded_rows: u64,
    /// Rows ruled forward.
    pub judged_forward: u64,
    /// Rows ruled a replay, in observe mode too.
    pub replayed: u64,
    /// Replies held.
    pub held: u64,
    /// Calls whose fresh answer was dropped for a replay.
    pub shadows: u64,
    /// Requests whose picture could not be read.
    pub unreadable: u64,
    /// Predict calls passed through unread.
    pub passed: u64,
    /// Calls that ended without the model, by reason.
    pub refused: BTreeMap<&'static str, u64>,
}

impl Tally {
    pub(crate) fn forwarded(&self, rows: usize) {
        self.forwarded_rows.fetch_add(rows as u64, Relaxed);
    }

    pub(crate) fn judged(&self, forward: usize, replayed: usize) {
        self.judged_forward.fetch_add(forward as u64, Relaxed);
        self.replayed.fetch_add(replayed as u64, Relaxed);
    }

    pub(crate) fn held(&self) {
        self.held.fetch_add(1, Relaxed);
    }

    pub(crate) fn shadowed(&self) {
        self.shadows.fetch_add(1, Relaxed);
    }

    pub(crate) fn unreadable(&self) {
        self.unreadable.fetch_add(1, Relaxed);
    }

    pub(crate) fn passed(&self) {
        self.passed.fetch_add(1, Relaxed);
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() += 1;
    }

    /// All counters now.
    pub fn totals(&self) -> Totals {
        Totals {
            forwarded_rows: self.forwarded_rows.load(Relaxed),
            judged_forward: self.judged_forward.load(Relaxed),
            replayed: self.replayed.load(Relaxed),
            held: self.held.load(Relaxed),
            shadows: self.shadows.load(Relaxed),
            unreadable: self.unreadable.load(Relaxed),
            passed: self.passed.load(Relaxed),
            refused: self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

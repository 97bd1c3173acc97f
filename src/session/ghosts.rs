//! The ghosts of one session: what remains of anchors that are gone, enough to know a near-copy (the ghost) and an exact repeat
//! (the digest).
//!
//! There are more of them than of anything else, and every new row is put to all of them. So what rows are put to stands side
//! by side, apart from what says how long it stays.

use crate::judgment::{Digest, Ghost, Likeness};
use std::collections::VecDeque;
use tokio::time::Instant;

/// Room grows by this many at a time, so that it is never much larger than what is in it.
const AT_A_TIME: usize = 16;

/// Three columns of one table: the same place in each is one anchor that is gone. Oldest first.
#[derive(Default)]
pub(super) struct Ghosts {
    looks: VecDeque<Ghost>,
    digests: VecDeque<Digest>,
    gone: VecDeque<Gone>,
}

struct Gone {
    anchor: u64,
    until: Instant,
}

impl Ghosts {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Ghost> {
        self.looks.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.looks.len()
    }

    /// Whether one of them is all that is left of exactly this image.
    pub(super) fn has(&self, digest: Digest) -> bool {
        self.digests.contains(&digest)
    }

    /// Bytes on the heap.
    pub(super) fn footprint(&self) -> usize {
        self.looks.capacity() * size_of::<Ghost>()
            + self.digests.capacity() * size_of::<Digest>()
            + self.gone.capacity() * size_of::<Gone>()
    }

    /// Takes in what stays of an anchor until a moment, and lets go of the oldest beyond `most`.
    pub(super) fn push(&mut self, likeness: &Likeness, anchor: u64, until: Instant, most: usize) {
        if most == 0 {
            return;
        }
        while self.len() >= most {
            self.pop();
        }
        push(&mut self.looks, likeness.ghost());
        push(&mut self.digests, likeness.digest());
        push(&mut self.gone, Gone { anchor, until });
    }

    /// Lets go of that of anchor `id`, if it has one.
    pub(super) fn forget(&mut self, id: u64) {
        if let Some(position) = self.gone.iter().position(|gone| gone.anchor == id) {
            self.looks.remove(position);
            self.digests.remove(position);
            self.gone.remove(position);
        }
    }

    /// Lets go of those past their time.
    pub(super) fn expire(&mut self, now: Instant) {
        while self.gone.front().is_some_and(|gone| gone.until <= now) {
            self.pop();
        }
        if self.len() == 0 {
            *self = Self::default();
        }
    }

    /// Lets go of the older half, and of its room.
    pub(super) fn halve(&mut self) {
        let half = self.len().div_ceil(2);
        self.looks.drain(..half);
        self.digests.drain(..half);
        self.gone.drain(..half);
        self.looks.shrink_to_fit();
        self.digests.shrink_to_fit();
        self.gone.shrink_to_fit();
    }

    fn pop(&mut self) {
        self.looks.pop_front();
        self.digests.pop_front();
        self.gone.pop_front();
    }
}

fn push<T>(column: &mut VecDeque<T>, item: T) {
    if column.len() == column.capacity() {
        column.reserve_exact(AT_A_TIME);
    }
    column.push_back(item);
}

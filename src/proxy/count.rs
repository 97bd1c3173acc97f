//! How many of something there are at the moment: each is counted until it is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts what there is. A clone counts the same.
#[derive(Clone, Default)]
pub(super) struct Count(Arc<AtomicUsize>);

/// One of those that are counted, until dropped.
pub(super) struct Counted(Count);

impl Count {
    /// One more.
    pub(super) fn one(&self) -> Counted {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(self.clone())
    }

    /// How many there are.
    pub(super) fn now(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counts_until_it_is_dropped() {
        let count = Count::default();
        let (one, two) = (count.one(), count.clone().one());
        assert_eq!(count.now(), 2);
        drop(one);
        assert_eq!(count.now(), 1);
        drop(two);
        assert_eq!(count.now(), 0);
    }
}

//! How much of a scarce thing may be in use at once, in all and by one caller: bytes in flight, held calls, shadows.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// A count that is taken from and given back; no caller can take more than its share.
#[derive(Clone)]
pub(super) struct Quota {
    used: Arc<Mutex<Used>>,
    freed: Arc<Notify>,
    total: usize,
    share: usize,
}

#[derive(Default)]
struct Used {
    total: usize,
    by_caller: HashMap<[u8; 16], usize>,
}

/// What was taken; given back when dropped.
pub(super) struct Permit {
    quota: Quota,
    caller: [u8; 16],
    amount: usize,
}

impl Quota {
    /// A quota of `total` units, of which one caller may hold `share` at once.
    pub(super) fn new(total: usize, share: usize) -> Self {
        Self { used: Arc::default(), freed: Arc::default(), total, share: share.min(total) }
    }

    /// Takes `amount` units for `caller`, or nothing where that would burst the total or the caller's share.
    pub(super) fn take(&self, caller: [u8; 16], amount: usize) -> Option<Permit> {
        self.charge(caller, amount).then(|| Permit { quota: self.clone(), caller, amount })
    }

    /// The same, waited for while others hold what is missing; nothing at once where `amount` is more than one caller may hold.
    pub(super) async fn take_in_time(&self, caller: [u8; 16], amount: usize) -> Option<Permit> {
        loop {
            let freed = self.freed.notified();
            if amount > self.share {
                return None;
            }
            if let Some(permit) = self.take(caller, amount) {
                return Some(permit);
            }
            freed.await;
        }
    }

    /// How many units are taken at the moment, by whomever.
    pub(super) fn in_use(&self) -> usize {
        self.used().total
    }

    /// Whether `caller` holds all that one caller may.
    pub(super) fn is_used_up(&self, caller: [u8; 16]) -> bool {
        let used = self.used();
        used.by_caller.get(&caller).copied().unwrap_or(0) >= self.share
    }

    /// A plain lock: held for one map access, never across an await.
    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn charge(&self, caller: [u8; 16], amount: usize) -> bool {
        let mut used = self.used();
        if amount > self.total - used.total {
            return false;
        }
        let of_caller = used.by_caller.get(&caller).copied().unwrap_or(0);
        if amount > self.share - of_caller {
            return false;
        }
        used.total += amount;
        used.by_caller.insert(caller, of_caller + amount);
        true
    }
}

impl Permit {
    /// Takes `more` units on top; false, and nothing taken, where that would burst the total or the share.
    pub(super) fn grow(&mut self, more: usize) -> bool {
        let granted = self.quota.charge(self.caller, more);
        if granted {
            self.amount += more;
        }
        granted
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut used = self.quota.used();
        used.total -= self.amount;
        if let Some(of_caller) = used.by_caller.get_mut(&self.caller) {
            *of_caller -= self.amount;
            if *of_caller == 0 {
                used.by_caller.remove(&self.caller);
            }
        }
        self.quota.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANNE: [u8; 16] = [1; 16];
    const BERT: [u8; 16] = [2; 16];

    #[tokio::test]
    async fn who_waits_gets_what_is_given_back_and_nobody_waits_for_what_cannot_be() {
        let quota = Quota::new(10, 6);
        assert!(quota.take_in_time(ANNE, 7).await.is_none());
        let first = quota.take(ANNE, 4).unwrap();
        let waiting = tokio::spawn({
            let quota = quota.clone();
            async move { quota.take_in_time(ANNE, 5).await.is_some() }
        });
        tokio::task::yield_now().await;
        drop(first);
        assert!(waiting.await.unwrap());
    }

    #[test]
    fn a_caller_takes_its_share_and_no_more_and_gives_it_back() {
        let quota = Quota::new(10, 6);
        let mut six = quota.take(ANNE, 5).unwrap();
        assert!(six.grow(1) && !six.grow(1));
        assert!(quota.take(ANNE, 1).is_none());
        let four = quota.take(BERT, 4).unwrap();
        assert!(quota.take(BERT, 1).is_none(), "the total is used up");
        drop(six);
        assert!(quota.take(BERT, 3).is_none(), "the share is used up");
        assert!(quota.take(BERT, 2).is_some());
        drop(four);
        assert_eq!(quota.in_use(), 0);
        assert!(quota.used().by_caller.is_empty(), "nothing is kept of a caller that holds nothing");
    }
}

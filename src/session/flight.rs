//! One pending answer: who leads, who follows. Step 6 hands these out, step 8 ends them.
//!
//! ```text
//! ## Pending => (Answered | Failed)
//! ```
//! The lead holds the sending end; the anchor and every follower hold the receiving end. So an anchor may be evicted
//! while its answer is pending and nobody in flight notices, and a lead that is dropped without being settled is a
//! failure by itself.

use super::{Answer, SessionKey};
use crate::judgment::Likeness;
use std::sync::Arc;
use tokio::sync::watch;

/// The receiving end of a pending answer.
pub(super) type Pending = watch::Receiver<Option<Answer>>;

/// About what a pending answer holds on the heap (tokio's watch channel); counted for each pending anchor.
pub(super) const PENDING_BYTES: usize = 512;

/// Where a lead's anchor stands. Plain data, so that a store in another process can be told of it too.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) session: SessionKey,
    /// The anchor's number, never given twice in the life of a store.
    pub(super) anchor: u64,
}

/// The store a lead came from, as far as a dropped lead needs it.
pub(super) trait Home: Send + Sync {
    /// Forgets the pending anchor of a lead that will never be settled.
    fn abandon(&self, place: &Place);
}

/// The duty to ask the model about one row, and to tell the store how it went ([`super::Store::settle`]).
///
/// Dropping it unsettled is a failure: the pending anchor is removed and the followers are told, in that order,
/// so that a follower who comes again never finds the dead anchor.
#[must_use = "a lead that is dropped has failed"]
pub struct Lead {
    /// None once settled, and for a row that needs no anchor of its own.
    place: Option<Place>,
    waiters: watch::Sender<Option<Answer>>,
    /// None until the store has released the session's lock, which the abandoning of a lead takes.
    home: Option<Arc<dyn Home>>,
}

impl Lead {
    /// A lead and the receiving end for its anchor.
    pub(super) fn new(place: Place) -> (Self, Pending) {
        let (waiters, pending) = watch::channel(None);
        (Self { place: Some(place), waiters, home: None }, pending)
    }

    /// From now on dropping the lead tells the store.
    pub(super) fn arm(&mut self, home: Arc<dyn Home>) {
        self.home = Some(home);
    }

    /// Cuts the lead off from the store: its row has no anchor to settle.
    pub(super) fn without_anchor(mut self) -> Self {
        self.place = None;
        self
    }

    /// The place to settle, if there is one. From now on dropping the lead touches the store no more.
    pub(super) fn disarm(&mut self) -> Option<Place> {
        self.place.take()
    }

    /// Gives the answer to everyone who follows.
    pub(super) fn publish(self, answer: Answer) {
        self.waiters.send_replace(Some(answer));
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        // The anchor goes first; the fields, and with them the waiters' channel, are dropped after this body.
        if let (Some(home), Some(place)) = (self.home.take(), self.place.take()) {
            home.abandon(&place);
        }
    }
}

/// The right to an earlier row's answer, now or when it comes.
pub struct Follow {
    source: Source,
    likeness: Box<Likeness>,
}

enum Source {
    Known(Answer),
    Waiting(Pending),
}

/// The row whose answer was awaited was never answered, or its answer could not be kept. Judge the waiting row again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaderFailed;

impl std::fmt::Display for LeaderFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the forwarded row that was to answer this one failed")
    }
}

impl std::error::Error for LeaderFailed {}

impl Follow {
    pub(super) fn known(answer: Answer, likeness: Likeness) -> Self {
        Self { source: Source::Known(answer), likeness: Box::new(likeness) }
    }

    pub(super) fn waiting(pending: Pending, likeness: Likeness) -> Self {
        Self { source: Source::Waiting(pending), likeness: Box::new(likeness) }
    }

    /// What the earlier row looks like.
    pub fn likeness(&self) -> &Likeness {
        &self.likeness
    }

    /// The answer, if it is there already.
    pub fn ready(&self) -> Option<Answer> {
        match &self.source {
            Source::Known(answer) => Some(answer.clone()),
            Source::Waiting(pending) => pending.borrow().clone(),
        }
    }

    /// Waits for the answer. Dropping the future loses nothing; it may be asked again.
    pub async fn answer(&mut self) -> Result<Answer, LeaderFailed> {
        match &mut self.source {
            Source::Known(answer) => Ok(answer.clone()),
            Source::Waiting(pending) => match pending.wait_for(Option::is_some).await {
                Ok(answer) => answer.clone().ok_or(LeaderFailed),
                Err(_leader_dropped) => Err(LeaderFailed),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::CallerDigest;
    use super::*;
    use crate::judgment::{Image, Judge, Rules};
    use bytes::Bytes;
    use std::future::Future;
    use std::pin::pin;
    use std::sync::Mutex;
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    #[derive(Default)]
    struct Abandoned(Mutex<Vec<u64>>);

    impl Home for Abandoned {
        fn abandon(&self, place: &Place) {
            self.0.lock().unwrap().push(place.anchor);
        }
    }

    fn lead(home: &Arc<Abandoned>) -> (Lead, Pending) {
        let session = SessionKey { caller: CallerDigest([0; 16]), group: "g".into() };
        let (mut lead, pending) = Lead::new(Place { session, anchor: 7 });
        lead.arm(home.clone());
        (lead, pending)
    }

    fn answer() -> Answer {
        Answer { bytes: Bytes::from_static(b"cat"), version: "1".into(), took: Duration::from_millis(3) }
    }

    fn likeness() -> Likeness {
        let image = Image::new(1, 1, vec![0; 3].into()).unwrap();
        Judge::new(Rules::hardened(), [0; 32]).likeness(&image)
    }

    fn poll<T>(future: impl Future<Output = T>) -> Poll<T> {
        pin!(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_follower_waits_for_the_leader_and_may_be_polled_afresh() {
        let home = Arc::default();
        let (mut lead, pending) = lead(&home);
        let mut follow = Follow::waiting(pending, likeness());
        assert!(poll(follow.answer()).is_pending());
        assert!(poll(follow.answer()).is_pending(), "a cancelled wait loses nothing");
        assert_eq!(follow.ready(), None);
        assert_eq!(lead.disarm().unwrap().anchor, 7);
        lead.publish(answer());
        assert_eq!(follow.ready(), Some(answer()));
        assert_eq!(poll(follow.answer()), Poll::Ready(Ok(answer())));
        assert_eq!(poll(follow.answer()), Poll::Ready(Ok(answer())));
        assert!(home.0.lock().unwrap().is_empty());
    }

    #[test]
    fn a_dropped_lead_leaves_the_store_before_its_followers_hear_of_it() {
        struct FollowersStillWait(Mutex<Option<Follow>>);
        impl Home for FollowersStillWait {
            fn abandon(&self, _: &Place) {
                let mut follow = self.0.lock().unwrap().take().unwrap();
                assert!(poll(follow.answer()).is_pending());
                *self.0.lock().unwrap() = Some(follow);
            }
        }
        let home = Arc::new(FollowersStillWait(Mutex::new(None)));
        let session = SessionKey { caller: CallerDigest([0; 16]), group: "g".into() };
        let (mut lead, pending) = Lead::new(Place { session, anchor: 1 });
        lead.arm(home.clone());
        *home.0.lock().unwrap() = Some(Follow::waiting(pending, likeness()));
        drop(lead);
        let mut follow = home.0.lock().unwrap().take().unwrap();
        assert_eq!(poll(follow.answer()), Poll::Ready(Err(LeaderFailed)));
    }

    #[test]
    fn a_settled_or_detached_lead_is_never_abandoned() {
        let home = Arc::default();
        let (mut settled, _pending) = lead(&home);
        settled.disarm();
        drop(settled);
        let (detached, _pending) = lead(&home);
        let mut detached = detached.without_anchor();
        assert_eq!(detached.disarm(), None);
        drop(detached);
        assert!(home.0.lock().unwrap().is_empty());
        drop(lead(&home));
        assert_eq!(*home.0.lock().unwrap(), [7]);
    }
}

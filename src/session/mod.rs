//! What did this caller ask before? Steps 5 and 7 of a Predict call: judge and claim, then settle.
//!
//! A *session* is the past of one caller with one group of models: its anchors (rows that the model was asked
//! about, with their answers), the ghosts of anchors that are gone, and how often it came suspiciously near
//! them. The journey asks the [`Store`] twice:
//!
//! 1. [`Store::judge_and_claim`] rules every row of a call in one step that no other call of the session can
//!    come between. A row ruled forward is an anchor from that moment on, with its answer pending, so of two
//!    near-copies that arrive together one gets a [`Lead`] and the other a [`Follow`]: single flight.
//! 2. [`Store::settle`] brings each lead's answer, or says that there is none.
//!
//! **Settle before waiting.** A call settles all its leads before it waits on any follow. A follow points only
//! at a lead that was claimed earlier, so as long as every call keeps this order no two calls wait on each other.
//!
//! **When a leader fails** (or is dropped) its anchor is forgotten before its followers hear of it. They come
//! again and are judged as if for the first time, for a row that was to be replayed was never counted; the first to
//! come finds no anchor and becomes the new leader, the others find its pending anchor and follow it. A follower that
//! was cancelled does not come, so the promotion never goes to one who is gone.
//!
//! **When an answer cannot be kept** its anchor stays without one, to be recognised: the caller was told the truth, so
//! the search around that picture has begun. Followers are told that there is no answer for them, come again, and are
//! judged against it as everybody else is: a near-copy is suspect.
//!
//! Nothing here knows messages, sockets or settings files: answers are opaque bytes, likenesses and rulings are
//! `judgment`'s, time is tokio's clock (so that tests can stop it).
//!
//! ```text
//! caller.rs     who asks, as far as it can be verified
//! limits.rs     how much is remembered, for how long, in how many bytes
//! flight.rs     one pending answer: who leads, who follows
//! suspicion.rs  how often a session came too near its own past
//! anchor.rs     one forwarded row: likeness, view, answer
//! ghosts.rs     what remains of anchors that are gone
//! memory.rs     a session's anchors in two segments
//! history.rs    one session's past, and a call judged against it
//! ledger.rs     all sessions: who is established, who leaves for whom, bytes to the last one
//! store.rs      the embedded store: the two steps under their locks
//! ```

mod caller;
mod limits;
mod flight;
mod suspicion;
mod anchor;
mod ghosts;
mod memory;
mod history;
mod ledger;
mod store;

#[cfg(test)]
mod testing;

use crate::judgment::{Evidence, Judge, Likeness};
use bytes::Bytes;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

pub use caller::{Caller, CallerError, CallerRules, Callers, Facts, Source, Values};
pub use flight::{Follow, Lead, LeaderFailed};
pub use ledger::{Departures, Stats};
pub use limits::Limits;
pub use store::Embedded;

/// A keyed digest of who asks. Never the caller's own words: a store's tables must not be steered by a caller,
/// and what is kept must not name anybody.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CallerDigest(pub [u8; 16]);

/// Whose past: one caller and one group of models that the operator holds together.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SessionKey {
    /// Who asks.
    pub caller: CallerDigest,
    /// The model group, as the configuration names it; likenesses and suspicion are shared inside it.
    pub group: Arc<str>,
}

/// What besides the pixels makes two questions different. An answer is only ever given to its own view.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    /// The model's name.
    pub model: Arc<str>,
    /// The version that serves: in a question the one expected, in an anchor the one that answered.
    pub version: Arc<str>,
    /// The form of the answer (raw tensors, classification, …), as the protocol's adapter numbers them.
    pub form: u64,
    /// A digest of the inputs that are not the image; a constant where the model is told to ignore them.
    pub inputs: u64,
}

/// The rows of one call, asked of a session at once.
pub struct Question {
    /// Whose past the rows are judged against.
    pub session: SessionKey,
    /// Whether the caller proved who it is. Room in the store is kept for verified callers first.
    pub verified: bool,
    /// The view that all rows share, but for what `other_inputs` says of each.
    pub view: View,
    /// One digest for each row in place of `view.inputs`, where rows have other inputs of their own; else empty.
    pub other_inputs: Vec<u64>,
    /// One likeness for each row, in the call's order.
    pub rows: Vec<Likeness>,
    /// The rules of the model that is asked. All models of a group should share one profile: an anchor kept by
    /// one model's rules is replaced by another's.
    pub judge: Arc<Judge>,
    /// What the operator knows this call by; kept with each row that is forwarded, and never looked into.
    pub origin: Option<Origin>,
    /// True when the call has several rows and its outputs cannot be cut into rows. Then no row is replayed, one
    /// suspect row makes the whole call suspect, each distinct suspect row counts, and one refused row refuses it all.
    pub whole: bool,
}

/// What became of one row.
pub struct Judged {
    /// What the call must do with the row.
    pub claim: Claim,
    /// Why, for the operator.
    pub evidence: Evidence,
    /// The anchor that answers, where the claim is a replay.
    pub anchor: Option<AnchorFacts>,
}

/// What a call must do with a row.
pub enum Claim {
    /// Ask the model and settle the lead with what it says. The row is already an anchor, pending.
    Forward(Lead),
    /// Take an earlier row's answer; wait for it if it is still pending.
    Replay(Follow),
    /// Neither ask nor answer.
    Refuse,
}

/// The anchor behind a replay, for the operator's span.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AnchorFacts {
    /// Time since the anchor was forwarded.
    pub age: Duration,
    /// Rows that it has answered, this one and exact repeats included.
    pub hits: u64,
    /// What the operator knows the call by that the anchor was forwarded with.
    pub origin: Option<Origin>,
}

/// What the operator knows a call by, in whatever form.
pub type Origin = [u8; 24];

/// A session as the operator sees it: no past, only how much of it there is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Glance {
    /// Whose it is.
    pub key: SessionKey,
    /// The caller proved who it is.
    pub verified: bool,
    /// Newcomers cannot push it out.
    pub established: bool,
    /// It came too near its own past too often.
    pub suspected: bool,
    /// Anchors held, pending ones included.
    pub anchors: usize,
    /// Ghosts held.
    pub ghosts: usize,
    /// Bytes held.
    pub bytes: usize,
    /// Time since it was last heard of.
    pub silent: Duration,
}

/// What the model said of one row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The outputs of the row, in whatever form the adapter wants them back. The store never looks inside.
    pub bytes: Bytes,
    /// The version that served it; the anchor's view takes it on.
    pub version: Arc<str>,
    /// How long the model took, for the time layer's last resort.
    pub took: Duration,
}

/// How a forwarded row ended.
#[derive(Debug)]
pub enum Outcome {
    /// The model answered.
    Answered(Answer),
    /// The model answered its caller, but the answer cannot be kept: it could not be cut into rows, say. The anchor
    /// stays for its likeness alone, so that near-copies of the row are suspect, and followers get
    /// [`LeaderFailed`]. An answer above [`Limits::answer_bytes`] ends like this too.
    Unkept,
    /// It did not answer, or with an error. Errors are never remembered, and neither is the row.
    Failed,
}

/// The boundary behind which sessions live.
///
/// [`Embedded`] keeps them in this process. A store shared between replicas (a key-value server) fits behind the
/// same calls, since nothing in them is more than data: a [`Lead`] is the session's key, the number of its anchor
/// and a local wake-up for local followers. Such a store must promise what this one does:
///
/// * *Atomic.* All rows of a question are judged, counted and claimed in one step per session, in order, each also
///   against the rows before it. Two questions of one session never interleave, whichever replica they came through.
/// * *At once.* When `judge_and_claim` returns, every row ruled forward is visible to the next question as a pending
///   anchor, and every suspicion is counted, whatever becomes of the call, cancellation included.
/// * *One answer.* As long as an anchor with an answer lives, the same image in the same view gets that answer each
///   time.
/// * *No truth unremembered.* A row that the model answered leaves its likeness, whether or not the answer was kept.
/// * *No orphan.* A lead that is dropped, or whose replica dies, is a failed lead within a bounded time: its anchor is
///   gone before any follower learns of it, and it leaves no ghost.
/// * *Followers are woken* by settling or failing, on every replica.
/// * *Bounded.* Nothing a caller chooses makes it grow past its limits, and no flood of new callers pushes out
///   an established session's past.
/// * *It answers, or it says that it cannot.* A shared store that is out of reach must fall back rather than wait.
pub trait Store: Send + Sync + 'static {
    /// Rules and claims every row of a question; the result has one entry for each row, in order.
    ///
    /// For the embedded store this is arithmetic from end to end (up to some tens of microseconds for each row
    /// against a full session) and never waits on anything but the session's own lock. A caller with many rows
    /// should run it off the async threads.
    fn judge_and_claim(&self, question: Question) -> impl Future<Output = Vec<Judged>> + Send;

    /// Ends claims. Call it before the first byte of the reply and before waiting on any [`Follow`].
    fn settle(&self, settled: Vec<(Lead, Outcome)>) -> impl Future<Output = ()> + Send;

    /// What is held at this moment, and what left since the start.
    fn stats(&self) -> Stats;
}

//! A message into what is judged of it: decoded, its pictures found, each made a likeness.
//!
//! Long work leaves the async threads here, within its caller's budget as long as it runs.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::time::Instant;

use super::call::{Call, Opening};
use super::frame::{Frame, FrameError};
use super::jobs::job;
use super::models::Model;
use super::predict::Predictor;
use super::status::CallError;
use super::witness::Noted;
use crate::config::OnUnreadable;
use crate::judgment::Likeness;
use crate::protocol::query::{Query, Refusal, Request};
use crate::session::Store;
use crate::telemetry::Stage;

/// What is more work than reading this many bytes leaves the async threads, or others' calls would wait for it.
const LONG_WORK: usize = 768 << 10;

/// A row's likeness is work of its own, however small the picture: as much as reading this many bytes.
const ROW_WORK: usize = 16 << 10;

/// Bytes of all that is kept of one row while its call lives: its likeness, what is left of its anchor's, its claim and its
/// answer's handles.
const ROW: usize = 8 << 10;

/// A message that was decoded.
pub(super) struct Arrival {
    pub(super) call: Call,
    pub(super) message: Box<dyn Request>,
    /// What it was decoded from.
    pub(super) payload: Bytes,
}

/// What a message turns out to be.
pub(super) enum Opened {
    /// A question.
    Asks(Arrival),
    /// Bytes that do not decode.
    Unparsable(Call, Refusal),
}

/// A question that was read: the query, its model, and what there is to judge in every row.
pub(super) struct Asked {
    pub(super) query: Arc<dyn Query>,
    pub(super) model: Arc<Model>,
    /// Of each row; none of one that cannot be read and is forwarded all the same.
    pub(super) likenesses: Vec<Option<Likeness>>,
    /// For each row, a digest of what it gives the model besides the picture.
    pub(super) other_inputs: Vec<u64>,
}

impl<S: Store> Predictor<S> {
    /// Decodes a message that has just arrived, within its caller's budget.
    pub(super) async fn open(&self, opening: &Opening, frame: Frame) -> Result<Opened, CallError> {
        let opened = AssertUnwindSafe(self.decode(opening, frame)).catch_unwind();
        opened.await.unwrap_or(Err(CallError::Panicked))
    }

    async fn decode(&self, opening: &Opening, mut frame: Frame) -> Result<Opened, CallError> {
        let arrived = Instant::now();
        let (rpc, limit) = (opening.rpc, opening.live.config.limits.message_bytes);
        let payload = frame.payload(opening.encoding, limit).await?;
        let decoded_bytes = rpc.decoded_bytes(&payload);
        frame.grow(decoded_bytes)?;
        // A small message may be much work: values of one byte each, or hundreds of thousands of empty fields.
        let decoded = off_the_async_threads(payload.len().max(decoded_bytes), {
            let payload = payload.clone();
            move || (rpc.decode(&payload), frame)
        });
        let (decoded, mut frame) = decoded.await;
        if let Ok(message) = &decoded {
            frame.grow(ROW * message.most_rows())?;
        }
        let noted = Noted::new(opening.trace.clone(), opening.streams);
        let call = Call { opening: opening.clone(), frame: Arc::new(frame), arrived, noted };
        Ok(match decoded {
            Ok(message) => Opened::Asks(Arrival { call, message, payload }),
            Err(refusal) => Opened::Unparsable(call, refusal),
        })
    }

    /// Every row's likeness and view; long work leaves the async threads here.
    pub(super) async fn read(
        &self,
        call: &Call,
        message: Box<dyn Request>,
        payload: Bytes,
        model: &Arc<Model>,
    ) -> Result<Result<Asked, Refusal>, CallError> {
        let _stage = call.noted.stage(&self.telemetry, Stage::Read);
        let length = payload.len();
        // Work off the async threads goes on when its call is cancelled: what it may use stays taken as long as it runs.
        let frame = Arc::clone(&call.frame);
        let read = off_the_async_threads(length, {
            let (model, frame) = (Arc::clone(model), Arc::clone(&frame));
            move || {
                let _in_budget = frame;
                message.read(payload, &model.signature, model.how())
            }
        });
        let query = match read.await {
            Ok(query) => query,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let (decoding, rows) = (query.decode_bytes(), query.rows());
        // Out of the caller's budget first: who waits for a decoder with large pictures is soon out of it, and others are not
        // behind a long queue of one caller's.
        let in_budget = match decoding {
            0 => None,
            bytes => {
                let budget = call.live.bytes.take(call.caller.digest.0, bytes);
                Some(budget.ok_or(FrameError::NoBudget)?)
            }
        };
        let (model, key) = (Arc::clone(model), self.key);
        let waits = Arc::new(());
        let waiting = Arc::downgrade(&waits);
        let work = move || {
            let _taken = (frame, in_budget);
            let likenesses = likenesses(&*query, &model, || waiting.strong_count() > 0)?;
            let other_inputs = query.other_inputs(&key);
            Ok(Asked { query, model, likenesses, other_inputs })
        };
        let work_in_bytes = if decoding > 0 { usize::MAX } else { length + rows * ROW_WORK };
        let done = off_the_async_threads(work_in_bytes, work).await;
        drop(waits);
        Ok(done)
    }
}

/// Does `work` on a thread of its own where it is more than looking at [`LONG_WORK`] bytes, and here where it is not.
async fn off_the_async_threads<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    if bytes <= LONG_WORK { work() } else { job(work).await }
}

/// Each row's likeness, as long as somebody waits for them. Where the operator forgives what cannot be read, such a row has none, as
/// long as another can be read.
fn likenesses(
    query: &dyn Query,
    model: &Model,
    is_waited_for: impl Fn() -> bool,
) -> Result<Vec<Option<Likeness>>, Refusal> {
    let forgiving = model.settings.on_unreadable == OnUnreadable::Forward;
    let mut likenesses = Vec::with_capacity(query.rows());
    let mut unread = None;
    for row in 0..query.rows() {
        if !is_waited_for() {
            return Err(Refusal::Malformed("nobody waits for it".into()));
        }
        let likeness = query.image(row).map(|image| model.judge.likeness(&image));
        let is_forgiven = forgiving && matches!(likeness, Err(Refusal::Unreadable { .. }));
        match likeness {
            Ok(likeness) => likenesses.push(Some(likeness)),
            Err(refusal) if is_forgiven => {
                likenesses.push(None);
                unread = Some(refusal);
            }
            Err(refusal) => return Err(refusal),
        }
    }
    match unread {
        Some(refusal) if likenesses.iter().all(Option::is_none) => Err(refusal),
        _ => Ok(likenesses),
    }
}

//! Ended spans on their way to the queue. Those of a call that was not sampled wait here until it is known whether the call was
//! short-circuited.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opentelemetry::trace::{SpanContext, SpanKind};
use opentelemetry::{Context, SpanId, TraceFlags};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};

use super::export::Queue;

/// Ended parts of one call that wait for its end; more are lost.
const MOST: usize = 128;

/// Where the SDK leaves its spans. Clones are the same one.
#[derive(Clone, Debug)]
pub(super) struct Tail {
    queue: Arc<Queue<SpanData>>,
    /// By the ids of their spans, calls under way that were not sampled and may be kept. Locked for one look at a time.
    undecided: Arc<Mutex<HashMap<SpanId, Undecided>>>,
}

#[derive(Debug, Default)]
struct Undecided {
    /// It is kept although it was not sampled.
    keep: bool,
    ended: bool,
    /// What has ended of it.
    spans: Vec<SpanData>,
}

impl Tail {
    pub(super) fn new(queue: Queue<SpanData>) -> Self {
        Self { queue: Arc::new(queue), undecided: Arc::default() }
    }

    /// Holds back what ends of this call from now on, until the call itself has ended.
    pub(super) fn hold_back(&self, call: SpanId) {
        self.lock().insert(call, Undecided::default());
    }

    /// Keeps this call's spans; without effect on one that is not held back.
    pub(super) fn keep(&self, call: SpanId) {
        if let Some(call) = self.lock().get_mut(&call) {
            call.keep = true;
        }
    }

    /// Lets go of a call of which no part is left.
    pub(super) fn forget(&self, call: SpanId) {
        self.lock().remove(&call);
    }

    /// Calls that are held back.
    #[cfg(test)]
    pub(super) fn held_back(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SpanId, Undecided>> {
        self.undecided.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be told now that `span`, which was not sampled, has ended.
    fn decided(&self, span: SpanData) -> Vec<SpanData> {
        let is_call = span.span_kind == SpanKind::Server;
        let call = if is_call { span.span_context.span_id() } else { span.parent_span_id };
        let mut undecided = self.lock();
        let Some(call) = undecided.get_mut(&call) else { return Vec::new() };
        call.ended |= is_call;
        if is_call || call.spans.len() < MOST {
            call.spans.push(span);
        }
        // A part may outlive its call: it is told, or not, as soon as it ends.
        let ended = if call.ended { std::mem::take(&mut call.spans) } else { Vec::new() };
        if call.keep { ended } else { Vec::new() }
    }
}

impl SpanProcessor for Tail {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() {
            return self.queue.put(span);
        }
        for span in self.decided(span) {
            self.queue.put(sampled(span));
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// `span` as one that was sampled: who reads it asks for no less.
fn sampled(mut span: SpanData) -> SpanData {
    let was = &span.span_context;
    let (trace, id, state) = (was.trace_id(), was.span_id(), was.trace_state().clone());
    span.span_context = SpanContext::new(trace, id, TraceFlags::SAMPLED, false, state);
    span
}

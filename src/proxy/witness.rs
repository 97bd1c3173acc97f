//! What is noted of a call for the operator: its span, how long it took and how it ended. Nothing here changes a call.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::Instant;
use tonic::Code;

use super::body::{Body, BoxError};
use super::call::is_trusted;
use super::listen::Peer;
use super::live::Live;
use super::status::{code_of, name_of};
use crate::telemetry::{Carried, Head, OTHER, Part, Stage, Telemetry, Trace, TrustContext};

/// Paths of calls that are let through, by which they are counted.
const LET_THROUGH: [&str; 8] = [
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
    "/inference.GRPCInferenceService/ModelReady",
    "/inference.GRPCInferenceService/ServerMetadata",
    "/inference.GRPCInferenceService/ModelMetadata",
    "/inference.GRPCInferenceService/ModelConfig",
    "/tensorflow.serving.PredictionService/GetModelMetadata",
    "/tensorflow.serving.ModelService/GetModelStatus",
];

/// The path as one of a closed list; a caller's or an operator's own is none of it.
pub(super) fn named(path: &str) -> &'static str {
    LET_THROUGH.into_iter().find(|known| *known == path).unwrap_or(OTHER)
}

/// Sees one call from its head to its end, whichever way that comes; one that is dropped was cancelled.
pub(super) struct Witness {
    telemetry: Arc<Telemetry>,
    method: &'static str,
    began: Instant,
    trace: Option<Arc<Trace>>,
    /// The call to the model server that this one is passed on as.
    asking: Option<Asking>,
    over: bool,
}

impl Witness {
    /// Begins with a call's head. `path` is that of its method, from a closed list.
    pub(super) fn of(
        telemetry: &Arc<Telemetry>,
        path: &'static str,
        authority: Option<&Authority>,
        headers: &HeaderMap,
        peer: &Peer,
        live: &Live,
    ) -> Self {
        let method = path.trim_start_matches('/');
        let told = || told(method, authority, headers, peer, live);
        let trace = telemetry.traces().then(|| telemetry.begin(&told())).flatten();
        let (telemetry, began) = (Arc::clone(telemetry), Instant::now());
        Self { telemetry, method, began, trace, asking: None, over: false }
    }

    /// The call's trace.
    pub(super) fn trace(&self) -> Option<Arc<Trace>> {
        self.trace.clone()
    }

    /// Adds why the call ends without the model's answer.
    pub(super) fn rejected(&self, reason: &'static str) {
        if let Some(trace) = &self.trace {
            trace.set("refrain.rejected.reason", reason);
        }
    }

    /// The call goes on to the model server at `address` as it is, with these headers; both end with one status.
    pub(super) fn passes_on(&mut self, address: &str, headers: &mut HeaderMap) {
        let trace = self.trace.as_ref();
        self.asking = Some(Asking::begin(&self.telemetry, trace, self.method, address, headers));
    }

    /// Stays with a reply that streams through until its status has come.
    pub(super) fn see_off(self, response: Response<Body>) -> Response<Body> {
        if response.headers().contains_key("grpc-status") || response.body().is_end_stream() {
            self.end(code_of(response.headers()));
            return response;
        }
        response.map(|inner| SeenOff { inner, witness: Some(self) }.boxed_unsync())
    }

    /// The call has ended so.
    pub(super) fn end(mut self, code: Code) {
        self.over(code);
    }

    fn over(&mut self, code: Code) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        if let Some(asking) = self.asking.take() {
            asking.end(code);
        }
        let code = name_of(code);
        self.telemetry.metrics.served(self.method, code, self.began.elapsed());
        if let Some(trace) = &self.trace {
            trace.end(code);
        }
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.over(Code::Cancelled);
    }
}

/// Sees one call to the model server from its head to its status; one that is dropped was cancelled.
pub(super) struct Asking {
    telemetry: Arc<Telemetry>,
    method: &'static str,
    began: Instant,
    part: Option<Part>,
    over: bool,
}

impl Asking {
    /// Begins a call of `method` to `address` as a part of `trace`; the model server is told of it by `headers`.
    pub(super) fn begin(
        telemetry: &Arc<Telemetry>,
        trace: Option<&Arc<Trace>>,
        method: &'static str,
        address: &str,
        headers: &mut HeaderMap,
    ) -> Self {
        let part = trace.map(|trace| trace.call(method, address));
        if let Some(carried) = part.as_ref().and_then(Part::carried) {
            carry(headers, &carried);
        }
        Self { telemetry: Arc::clone(telemetry), method, began: Instant::now(), part, over: false }
    }

    /// The call has ended so.
    pub(super) fn end(mut self, code: Code) {
        self.over(code);
    }

    fn over(&mut self, code: Code) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        let code = name_of(code);
        self.telemetry.metrics.asked(self.method, code, self.began.elapsed());
        if let Some(part) = self.part.take() {
            part.end(code);
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.over(Code::Cancelled);
    }
}

/// What a call's head tells, its trace context only where that is to be believed.
fn told<'a>(
    method: &'static str,
    authority: Option<&'a Authority>,
    headers: &'a HeaderMap,
    peer: &Peer,
    live: &Live,
) -> Head<'a> {
    let believed = match live.config.telemetry.trust_context {
        TrustContext::Always => true,
        TrustContext::TrustedPeers => is_trusted(&live.config, peer),
        TrustContext::Never => false,
    };
    let value = |name: &str| headers.get(name).filter(|_| believed)?.to_str().ok();
    Head {
        method,
        authority: authority.map(Authority::as_str),
        parent: value("traceparent"),
        state: value("tracestate"),
    }
}

/// A reply's body, and who waits for the status behind it.
struct SeenOff {
    inner: Body,
    witness: Option<Witness>,
}

impl HttpBody for SeenOff {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = ready!(Pin::new(&mut self.inner).poll_frame(context));
        let code = match &polled {
            Some(Ok(frame)) if frame.is_trailers() => frame.trailers_ref().map(code_of),
            // Nobody asks again for what follows the last frame.
            Some(Ok(_)) if !self.inner.is_end_stream() => None,
            _ => Some(Code::Unknown),
        };
        if let Some(code) = code
            && let Some(witness) = self.witness.take()
        {
            witness.end(code);
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// What is noted of one message: the trace of its call, and the time that was not ours.
#[derive(Clone, Default)]
pub(super) struct Noted {
    pub(super) trace: Option<Arc<Trace>>,
    /// It is one of many messages of its call.
    pub(super) in_stream: bool,
    elsewhere: Arc<AtomicU64>,
}

impl Noted {
    /// Nothing yet, of a message of this call.
    pub(super) fn new(trace: Option<Arc<Trace>>, in_stream: bool) -> Self {
        Self { trace, in_stream, elsewhere: Arc::default() }
    }

    /// Begins a part of the call's own work; dropping it ends it.
    pub(super) fn stage(&self, telemetry: &Arc<Telemetry>, stage: Stage) -> InStage {
        let part = self.part(stage.as_str());
        InStage { telemetry: Arc::clone(telemetry), stage, began: Instant::now(), _part: part }
    }

    /// Begins a part of the call that has a span alone.
    pub(super) fn part(&self, name: &'static str) -> Option<Part> {
        self.trace.as_ref().map(|trace| trace.part(name))
    }

    /// Adds to what is told of the call, but for one of many messages.
    pub(super) fn set(&self, name: &'static str, seconds: Duration) {
        if let Some(trace) = self.trace.as_ref().filter(|_| !self.in_stream) {
            trace.set(name, seconds.as_secs_f64());
        }
    }

    /// Takes note of time spent in the model server, or in waiting.
    pub(super) fn spent_elsewhere(&self, time: Duration) {
        self.elsewhere.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// What of `all` the time since the message was our own.
    pub(super) fn own(&self, all: Duration) -> Duration {
        all.saturating_sub(Duration::from_nanos(self.elsewhere.load(Ordering::Relaxed)))
    }
}

/// A part of our own work under way.
pub(super) struct InStage {
    telemetry: Arc<Telemetry>,
    stage: Stage,
    began: Instant,
    _part: Option<Part>,
}

impl Drop for InStage {
    fn drop(&mut self) {
        self.telemetry.metrics.spent(self.stage, self.began.elapsed());
    }
}

/// Writes the trace context of a call to the model server over the caller's.
fn carry(headers: &mut HeaderMap, carried: &Carried) {
    if let Ok(parent) = HeaderValue::from_str(&carried.parent) {
        headers.insert("traceparent", parent);
    }
    if !carried.keeps_state {
        headers.remove("tracestate");
    }
    if !carried.keeps_baggage {
        headers.remove("baggage");
    }
}

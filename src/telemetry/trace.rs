//! The spans of one call: one for the call itself, one for each part of it that takes time.
//!
//! They are `tracing` spans, which `tracing-opentelemetry` carries to OpenTelemetry's SDK, on a dispatch of each sidecar's own:
//! so several of one process tell each its own, the level of the log does not decide which spans exist, and the log never sees
//! them. None is entered, since a call goes from thread to thread and its parts overlap. To `tracing` each is a root: of spans with a
//! parent the registry closes the parent on whatever dispatch is current when the last child is dropped, and that is the
//! log's. Who is whose parent is said to OpenTelemetry alone.

use std::sync::Arc;

use opentelemetry::trace::{SpanRef, Status, TraceContextExt, TracerProvider};
use opentelemetry::{Context, InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SdkTracerProvider, SpanData};
use tracing::level_filters::LevelFilter;
use tracing::{Dispatch, Span, dispatcher, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Registry;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;

use super::context::{self, Origin};
use super::export::Queue;
use super::metrics::OTHER;
use super::sampling::Sampler;
use super::tail::Tail;

/// The conventions that names and statuses of calls follow.
pub(super) const SCHEMA: &str = "https://opentelemetry.io/schemas/1.45.0";

/// The longest text that an attribute takes from a caller's call, in bytes.
const LONGEST: usize = 255;

/// Makes the spans of one sidecar.
#[derive(Debug)]
pub(super) struct Tracer {
    dispatch: Dispatch,
    tail: Tail,
    /// Reads and writes `traceparent`.
    propagates: bool,
    /// Leaves `baggage` on calls to the model server.
    with_baggage: bool,
}

/// The span of one call, and what hangs on it.
#[derive(Debug)]
pub struct Trace {
    tracer: Arc<Tracer>,
    /// Open until this is dropped, though `end` has ended it by then.
    _span: Span,
    /// The span as OpenTelemetry has it.
    context: Context,
    /// The context came from the caller and is believed.
    inherited: bool,
    /// Something of this call may be told.
    recorded: bool,
}

/// A part of a call; its span ends when this is dropped.
#[derive(Debug)]
pub struct Part {
    /// None where nothing of the call will be told. Dropped before the trace, which its end is told to.
    span: Span,
    trace: Arc<Trace>,
}

/// What a call says of itself at its beginning.
#[derive(Clone, Copy, Debug, Default)]
pub struct Head<'a> {
    /// The method, as `package.Service/Method`.
    pub method: &'static str,
    /// The authority that it was sent to.
    pub authority: Option<&'a str>,
    /// `traceparent`, where it is to be believed.
    pub parent: Option<&'a str>,
    /// `tracestate`, likewise.
    pub state: Option<&'a str>,
}

impl Tracer {
    /// Spans of `scope` into `queue`; `propagates` says of `traceparent` and of `baggage` whether they are passed on.
    pub(super) fn new(
        queue: Queue<SpanData>,
        sampler: Sampler,
        propagates: (bool, bool),
        scope: InstrumentationScope,
    ) -> Self {
        let tail = Tail::new(queue);
        let provider =
            SdkTracerProvider::builder().with_sampler(sampler).with_span_processor(tail.clone()).build();
        // Which line and which thread made a span is no news of a call.
        let carried = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer_with_scope(scope))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_context_activation(false);
        // Without a filter every log line of the process would be asked about here.
        let ours = Targets::new().with_target(module_path!(), LevelFilter::INFO);
        let dispatch = Dispatch::new(Registry::default().with(carried).with(ours));
        Self { dispatch, tail, propagates: propagates.0, with_baggage: propagates.1 }
    }

    /// Begins the span of a call.
    pub(super) fn begin(self: &Arc<Self>, head: &Head<'_>) -> Arc<Trace> {
        let parent = head.parent.filter(|_| self.propagates);
        let parent = parent.and_then(|parent| context::read(parent, head.state));
        let inherited = parent.is_some();
        let around = parent.map(|parent| Context::new().with_remote_span_context(parent)).unwrap_or_default();
        let span = self.call("server", head.method, head.authority, around);
        // Begins it.
        let context = span.context();
        let recorded = context.span().is_recording();
        let trace = Trace { tracer: Arc::clone(self), _span: span, context, inherited, recorded };
        if trace.is_undecided() {
            self.tail.hold_back(trace.span_id());
        }
        Arc::new(trace)
    }

    /// The span of a call to `method` at `address`, within `around`.
    fn call(&self, kind: &str, method: &'static str, address: Option<&str>, around: Context) -> Span {
        // A method that nobody knows is told by no name of its own.
        let name = if method == OTHER { "grpc" } else { method };
        let (host, port) = address.map_or((None, None), host_and_port);
        self.span(around, || {
            info_span!(
                parent: None,
                "call",
                otel.name = name,
                otel.kind = kind,
                rpc.system.name = "grpc",
                rpc.method = method,
                server.address = host,
                server.port = port,
            )
        })
    }

    /// The span that `make` makes, within `around`.
    fn span(&self, around: Context, make: impl FnOnce() -> Span) -> Span {
        let span = dispatcher::with_default(&self.dispatch, make);
        // Fails only for spans that began already, or that the filter refuses.
        let _ = span.set_parent(around);
        span
    }
}

impl Trace {
    /// How others may point at this call later.
    pub fn origin(&self) -> Origin {
        let (trace, span, _) = self.raw_ids();
        context::origin(trace, span)
    }

    /// The trace's id and the span's, in hexadecimal digits.
    pub fn ids(&self) -> (String, String) {
        let (trace, span, _) = self.raw_ids();
        (trace.to_string(), span.to_string())
    }

    pub(super) fn raw_ids(&self) -> (TraceId, SpanId, TraceFlags) {
        let span = self.span();
        let context = span.span_context();
        (context.trace_id(), context.span_id(), context.trace_flags())
    }

    /// Begins a part of the call.
    pub fn part(self: &Arc<Self>, name: &'static str) -> Part {
        self.begin(|tracer, call| tracer.span(call, || info_span!(parent: None, "part", otel.name = name)))
    }

    /// Begins the call to the model server for `method`; `address` as in settings.
    pub fn call(self: &Arc<Self>, method: &'static str, address: &str) -> Part {
        self.begin(|tracer, call| tracer.call("client", method, Some(address), call))
    }

    fn begin(self: &Arc<Self>, make: impl FnOnce(&Tracer, Context) -> Span) -> Part {
        let span = if self.recorded { make(&self.tracer, self.context.clone()) } else { Span::none() };
        Part { span, trace: Arc::clone(self) }
    }

    /// Adds to the call's own attributes.
    pub(super) fn note(&self, attributes: impl IntoIterator<Item = KeyValue>) {
        self.span().set_attributes(attributes);
    }

    /// Adds an event.
    pub(super) fn event(&self, name: &'static str, attributes: Vec<KeyValue>) {
        self.span().add_event(name, attributes);
    }

    /// Points at an earlier call.
    pub(super) fn link(&self, origin: &Origin, attributes: Vec<KeyValue>) {
        self.span().add_link(context::remembered(origin), attributes);
    }

    /// Keeps the call's spans, sampled or not, where short-circuits are to be kept.
    pub(super) fn keep(&self) {
        if self.is_undecided() {
            self.tracer.tail.keep(self.span_id());
        }
    }

    /// Whether anything that is said of this call may be told.
    pub(super) fn is_recorded(&self) -> bool {
        self.recorded
    }

    /// Ends the call with a status: its spans are told, or forgotten. Only the first end counts.
    pub fn end(&self, code: &'static str) {
        let span = self.span();
        span.set_attribute(KeyValue::new("rpc.status_code", code));
        if is_server_error(code) {
            span.set_attribute(KeyValue::new("error.type", code));
            span.set_status(Status::error(""));
        }
        span.end();
    }

    fn span(&self) -> SpanRef<'_> {
        self.context.span()
    }

    fn span_id(&self) -> SpanId {
        self.raw_ids().1
    }

    /// Whether its end decides if it is told.
    fn is_undecided(&self) -> bool {
        self.recorded && !self.raw_ids().2.is_sampled()
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if self.is_undecided() {
            self.tracer.tail.forget(self.span_id());
        }
    }
}

/// What becomes of the trace headers on a call to the model server.
#[derive(Debug, PartialEq, Eq)]
pub struct Carried {
    /// The `traceparent` in place of the caller's.
    pub parent: String,
    /// Whether the caller's `tracestate` stays.
    pub keeps_state: bool,
    /// Whether the caller's `baggage` stays.
    pub keeps_baggage: bool,
}

impl Part {
    /// The headers that tell the model server of this part.
    pub fn carried(&self) -> Option<Carried> {
        let (trace, tracer) = (&self.trace, &self.trace.tracer);
        let (id, _, flags) = trace.raw_ids();
        tracer.propagates.then(|| Carried {
            parent: context::written(id, self.span_id(), flags),
            keeps_state: trace.inherited,
            keeps_baggage: trace.inherited && tracer.with_baggage,
        })
    }

    /// The model server is told of a part whether or not anybody else will be.
    fn span_id(&self) -> SpanId {
        if self.span.is_none() {
            return RandomIdGenerator::default().new_span_id();
        }
        self.span.context().span().span_context().span_id()
    }

    /// Ends a call to the model server with its status; towards a server every other status than OK is an error.
    pub fn end(self, code: &'static str) {
        self.span.set_attribute("rpc.status_code", code);
        if code != "OK" {
            self.span.set_attribute("error.type", code);
            self.span.set_status(Status::error(""));
        }
    }
}

/// Whether a call that ended so is the server's error, by the conventions.
pub(super) fn is_server_error(code: &str) -> bool {
    ["UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"].contains(&code)
}

/// `host:port` or a path in its parts; a port that is none is left out.
fn host_and_port(address: &str) -> (Option<&str>, Option<i64>) {
    let address = &address[..address.floor_char_boundary(LONGEST)];
    let split = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    match split {
        Some((host, port)) => (Some(host), Some(port.into())),
        None => (Some(address), None),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use tokio::sync::watch;

    use super::super::environment::Batching;
    use super::super::export::{Outlet, queue};
    use super::super::metrics::Metrics;
    use super::super::sampling::Sampling;
    use super::*;

    const HEAD: Head<'_> = Head { method: "a.B/C", authority: Some("x:1"), parent: None, state: None };

    fn tracer(share: f64, keeps_short_circuits: bool) -> (Arc<Tracer>, Outlet<SpanData>) {
        let times = Duration::from_secs(1);
        let batching = Batching { queue: 1000, batch: 1000, delay: times, within: times };
        let (queue, outlet) = queue("spans", batching, &Arc::new(Metrics::new()));
        let sampler = Sampler { sampling: Sampling::share(share), keeps_short_circuits };
        let scope = InstrumentationScope::builder("refrain").with_schema_url(SCHEMA).build();
        (Arc::new(Tracer::new(queue, sampler, (true, true), scope)), outlet)
    }

    async fn told(outlet: Outlet<SpanData>) -> Vec<SpanData> {
        let (_stop, stopping) = watch::channel(true);
        let told = Mutex::new(Vec::new());
        let export = async |batch| {
            told.lock().unwrap().extend::<Vec<SpanData>>(batch);
            Ok(())
        };
        outlet.empty(stopping, export).await;
        told.into_inner().unwrap()
    }

    fn names(spans: &[SpanData]) -> Vec<&str> {
        spans.iter().map(|span| &*span.name).collect()
    }

    #[tokio::test]
    async fn a_span_says_what_was_said_of_it_and_nothing_of_the_code() {
        let (tracer, outlet) = tracer(1.0, false);
        let call = tracer.begin(&HEAD);
        call.call("a.B/C", "/run/x.sock").end("NOT_FOUND");
        drop(call.part("read"));
        call.end("OK");
        call.end("INTERNAL");
        let spans = told(outlet).await;
        assert_eq!(names(&spans), ["a.B/C", "read", "a.B/C"]);
        let said = |span: &SpanData| -> Vec<(String, String)> {
            span.attributes.iter().map(|pair| (pair.key.to_string(), pair.value.to_string())).collect()
        };
        let expected = |attributes: &[(&str, &str)]| -> Vec<(String, String)> {
            attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let common = [("rpc.system.name", "grpc"), ("rpc.method", "a.B/C")];
        let client = [
            ("server.address", "/run/x.sock"),
            ("rpc.status_code", "NOT_FOUND"),
            ("error.type", "NOT_FOUND"),
        ];
        assert_eq!(said(&spans[0]), expected(&[&common[..], &client].concat()));
        assert_eq!(said(&spans[1]), []);
        let server = [("server.address", "x"), ("server.port", "1"), ("rpc.status_code", "OK")];
        assert_eq!(said(&spans[2]), expected(&[&common[..], &server].concat()));
        assert_eq!(spans[2].status, Status::Unset, "the first end counts");
        for span in &spans {
            assert_eq!(span.instrumentation_scope.schema_url(), Some(SCHEMA));
            assert!(span.start_time <= span.end_time);
        }
    }

    #[tokio::test]
    async fn two_tracers_of_a_process_tell_each_its_own() {
        let ((one, of_one), (two, of_two)) = (tracer(1.0, false), tracer(1.0, false));
        let (first, second) = (one.begin(&HEAD), two.begin(&HEAD));
        let parts = [first.part("of one"), second.part("of two")];
        // Whichever dispatch is current when a span goes.
        dispatcher::with_default(&one.dispatch, || drop((parts, second)));
        dispatcher::with_default(&two.dispatch, || drop(first));
        assert_eq!(names(&told(of_one).await), ["of one", "a.B/C"]);
        assert_eq!(names(&told(of_two).await), ["of two", "a.B/C"]);
    }

    #[tokio::test]
    async fn an_unsampled_call_is_told_whole_where_it_is_kept_and_not_at_all_where_it_is_not() {
        for (may_keep, keep, expected) in
            [(true, true, &["read", "a.B/C", "late"][..]), (true, false, &[]), (false, true, &[])]
        {
            let (tracer, outlet) = tracer(0.0, may_keep);
            let call = tracer.begin(&HEAD);
            let late = call.part("late");
            let asking = call.part("read");
            let carried = asking.carried().unwrap().parent;
            assert!(carried.starts_with(&format!("00-{}-", call.ids().0)) && carried.ends_with("-00"));
            assert_eq!(asking.span.is_none(), !may_keep, "no span where nothing will be told");
            drop(asking);
            if keep {
                call.keep();
            }
            call.end("OK");
            drop((late, call));
            assert_eq!(tracer.tail.held_back(), 0);
            let spans = told(outlet).await;
            assert_eq!(names(&spans), expected);
            assert!(spans.iter().all(|span| span.span_context.is_sampled()));
        }
    }

    #[tokio::test]
    async fn of_one_call_so_much_is_held_and_no_more() {
        let (tracer, outlet) = tracer(0.0, true);
        let call = tracer.begin(&HEAD);
        for _ in 0..200 {
            drop(call.part("read"));
            call.event("refrain.message", Vec::new());
            call.link(&[7; 24], Vec::new());
        }
        call.keep();
        call.end("OK");
        let spans = told(outlet).await;
        assert_eq!(spans.len(), 128 + 1);
        let server = spans.last().unwrap();
        assert_eq!((server.events.len(), server.events.dropped_count), (128, 72));
        assert_eq!((server.links.len(), server.links.dropped_count), (128, 72));
    }
}

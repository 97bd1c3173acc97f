//! The spans of one call: one for the call itself, one for each part of it that takes time.
//!
//! A span is noted while the call goes on and made at its end. So whether a trace is kept may be decided when its call is
//! known to have been short-circuited, whatever was drawn at its beginning, and a call that is neither sampled nor
//! may be kept writes nothing down but its ids.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use opentelemetry::trace::{Event, Link, SpanContext, SpanKind, Status, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId, Value};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SpanData, SpanEvents, SpanLinks};
use tokio::time::Instant;

use super::context::{self, Origin};
use super::export::Queue;
use super::metrics::OTHER;
use super::sampling::Sampling;

/// The conventions that names and statuses of calls follow.
pub(super) const SCHEMA: &str = "https://opentelemetry.io/schemas/1.45.0";

/// Events and links of one span, and spans of one call that wait for its end; more are counted and dropped.
const MOST: usize = 128;

/// The longest text that an attribute takes from a caller's call, in bytes.
const LONGEST: usize = 255;

/// Makes spans and passes them on.
#[derive(Debug)]
pub(super) struct Tracer {
    pub(super) queue: Queue<SpanData>,
    pub(super) sampling: Sampling,
    /// Keeps the spans of short-circuited calls that are not sampled.
    pub(super) keep_short_circuits: bool,
    /// Reads and writes `traceparent`.
    pub(super) propagates: bool,
    /// Leaves `baggage` on calls to the model server.
    pub(super) with_baggage: bool,
    pub(super) scope: InstrumentationScope,
}

/// The span of one call, and what hangs on it.
#[derive(Debug)]
pub struct Trace {
    tracer: Arc<Tracer>,
    id: TraceId,
    span: SpanId,
    sampled: bool,
    state: TraceState,
    /// The context came from the caller and is believed.
    inherited: bool,
    /// None where nothing of this call will be told.
    notes: Option<Mutex<Notes>>,
}

#[derive(Debug)]
struct Notes {
    data: Option<SpanData>,
    clock: Instant,
    /// Kept although it was not sampled.
    keep: bool,
    /// Ended parts of a call of which it is not known yet whether it is kept.
    waiting: Vec<SpanData>,
}

/// A part of a call; its span ends when this is dropped.
#[derive(Debug)]
pub struct Part {
    trace: Arc<Trace>,
    /// The model server is told of it whether or not anybody else will be.
    id: SpanId,
    clock: Instant,
    data: Option<SpanData>,
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
    /// Begins the span of a call.
    pub(super) fn begin(self: &Arc<Self>, head: &Head<'_>) -> Arc<Trace> {
        let parent =
            head.parent.filter(|_| self.propagates).and_then(|parent| context::read(parent, head.state));
        let ids = RandomIdGenerator::default();
        let trace = parent.as_ref().map_or_else(|| ids.new_trace_id(), SpanContext::trace_id);
        let sampled = self.sampling.samples(trace, parent.as_ref().map(SpanContext::is_sampled));
        let span = ids.new_span_id();
        let state = parent.as_ref().map(|parent| parent.trace_state().clone()).unwrap_or_default();
        let mut of_call = Trace {
            tracer: Arc::clone(self),
            id: trace,
            span,
            sampled,
            state,
            inherited: parent.is_some(),
            notes: None,
        };
        if sampled || self.keep_short_circuits {
            // A method that nobody knows is told by no name of its own.
            let name = if head.method == OTHER { "grpc" } else { head.method };
            let mut data = of_call.data(name.into(), SpanKind::Server, span);
            data.parent_span_id = parent.as_ref().map_or(SpanId::INVALID, SpanContext::span_id);
            data.parent_span_is_remote = parent.is_some();
            data.attributes = call_attributes(head.method);
            if let Some(authority) = head.authority {
                data.attributes.extend(address_attributes(authority));
            }
            of_call.notes = Some(Mutex::new(Notes {
                data: Some(data),
                clock: Instant::now(),
                keep: false,
                waiting: Vec::new(),
            }));
        }
        Arc::new(of_call)
    }
}

impl Trace {
    /// How others may point at this call later.
    pub fn origin(&self) -> Origin {
        context::origin(self.id, self.span)
    }

    /// The trace's id and the span's, in hexadecimal digits.
    pub fn ids(&self) -> (String, String) {
        (self.id.to_string(), self.span.to_string())
    }

    pub(super) fn raw_ids(&self) -> (TraceId, SpanId, TraceFlags) {
        (self.id, self.span, self.flags())
    }

    /// Begins a part of the call.
    pub fn part(self: &Arc<Self>, name: &'static str) -> Part {
        self.begin_part(name, SpanKind::Internal)
    }

    /// Begins the call to the model server for `method`; `address` as in settings.
    pub fn call(self: &Arc<Self>, method: &'static str, address: &str) -> Part {
        let mut part = self.begin_part(method, SpanKind::Client);
        if let Some(data) = &mut part.data {
            data.attributes.extend(call_attributes(method));
            data.attributes.extend(address_attributes(address));
        }
        part
    }

    fn begin_part(self: &Arc<Self>, name: &'static str, kind: SpanKind) -> Part {
        let id = RandomIdGenerator::default().new_span_id();
        let data = self.notes.is_some().then(|| {
            let mut data = self.data(name.into(), kind, id);
            data.parent_span_id = self.span;
            data
        });
        Part { trace: Arc::clone(self), id, clock: Instant::now(), data }
    }

    /// Adds to the call's own attributes.
    pub(super) fn note(&self, attributes: impl IntoIterator<Item = KeyValue>) {
        self.with(|data, _| data.attributes.extend(attributes));
    }

    /// Adds an event.
    pub(super) fn event(&self, name: &'static str, attributes: Vec<KeyValue>) {
        self.with(|data, _| {
            if data.events.events.len() < MOST {
                data.events.events.push(Event::new(name, SystemTime::now(), attributes, 0));
            } else {
                data.events.dropped_count += 1;
            }
        });
    }

    /// Points at an earlier call.
    pub(super) fn link(&self, origin: &Origin, attributes: Vec<KeyValue>) {
        self.with(|data, _| {
            if data.links.links.len() < MOST {
                data.links.links.push(Link::new(context::remembered(origin), attributes, 0));
            } else {
                data.links.dropped_count += 1;
            }
        });
    }

    /// Keeps the call's spans, sampled or not, where short-circuits are to be kept.
    pub(super) fn keep(&self) {
        let keeps = self.tracer.keep_short_circuits;
        self.with(|_, keep| *keep |= keeps);
    }

    /// Ends the call with a status: its spans are told, or forgotten. Only the first end counts.
    pub fn end(&self, code: &'static str) {
        let Some(notes) = &self.notes else { return };
        let mut notes = lock(notes);
        let Some(mut data) = notes.data.take() else { return };
        data.end_time = data.start_time + notes.clock.elapsed();
        data.attributes.push(KeyValue::new("rpc.status_code", code));
        if is_server_error(code) {
            data.attributes.push(KeyValue::new("error.type", code));
            data.status = Status::error("");
        }
        if self.sampled || notes.keep {
            for span in notes.waiting.drain(..).chain([data]) {
                self.tell(span);
            }
        }
        notes.waiting = Vec::new();
    }

    fn tell(&self, mut span: SpanData) {
        let context = &span.span_context;
        span.span_context = SpanContext::new(
            context.trace_id(),
            context.span_id(),
            TraceFlags::SAMPLED,
            false,
            context.trace_state().clone(),
        );
        self.tracer.queue.put(span);
    }

    fn ended(&self, part: SpanData) {
        let Some(notes) = &self.notes else { return };
        let mut notes = lock(notes);
        if self.sampled || (notes.data.is_none() && notes.keep) {
            drop(notes);
            self.tell(part);
        } else if notes.data.is_some() && notes.waiting.len() < MOST {
            notes.waiting.push(part);
        }
    }

    fn with(&self, change: impl FnOnce(&mut SpanData, &mut bool)) {
        if let Some(notes) = &self.notes {
            let mut notes = lock(notes);
            let Notes { data, keep, .. } = &mut *notes;
            if let Some(data) = data {
                change(data, keep);
            }
        }
    }

    fn flags(&self) -> TraceFlags {
        if self.sampled { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED }
    }

    fn data(&self, name: Cow<'static, str>, kind: SpanKind, id: SpanId) -> SpanData {
        let now = SystemTime::now();
        SpanData {
            span_context: SpanContext::new(self.id, id, self.flags(), false, self.state.clone()),
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: kind,
            name,
            start_time: now,
            end_time: now,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.tracer.scope.clone(),
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
        tracer.propagates.then(|| Carried {
            parent: context::written(trace.id, self.id, trace.flags()),
            keeps_state: trace.inherited,
            keeps_baggage: trace.inherited && tracer.with_baggage,
        })
    }

    /// Adds an attribute.
    pub fn note(&mut self, name: &'static str, value: impl Into<Value>) {
        if let Some(data) = &mut self.data {
            data.attributes.push(KeyValue::new(name, value));
        }
    }

    /// Ends a call to the model server with its status; towards a server every other status than OK is an error.
    pub fn end(mut self, code: &'static str) {
        if let Some(data) = &mut self.data {
            data.attributes.push(KeyValue::new("rpc.status_code", code));
            if code != "OK" {
                data.attributes.push(KeyValue::new("error.type", code));
                data.status = Status::error("");
            }
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(mut data) = self.data.take() {
            data.end_time = data.start_time + self.clock.elapsed();
            self.trace.ended(data);
        }
    }
}

/// Whether a call that ended so is the server's error, by the conventions.
pub(super) fn is_server_error(code: &str) -> bool {
    ["UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"].contains(&code)
}

fn call_attributes(method: &'static str) -> Vec<KeyValue> {
    vec![KeyValue::new("rpc.system.name", "grpc"), KeyValue::new("rpc.method", method)]
}

/// `host:port` or a path as attributes; a port that is none is left out.
fn address_attributes(address: &str) -> Vec<KeyValue> {
    let address = &address[..address.floor_char_boundary(LONGEST)];
    let split = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    match split {
        Some((host, port)) => vec![
            KeyValue::new("server.address", host.to_owned()),
            KeyValue::new("server.port", i64::from(port)),
        ],
        None => vec![KeyValue::new("server.address", address.to_owned())],
    }
}

fn lock(notes: &Mutex<Notes>) -> MutexGuard<'_, Notes> {
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}

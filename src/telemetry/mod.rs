//! What the operator sees: metrics, traces and a log. Nothing here is ever told to a caller, and nothing names one.
//!
//! ```text
//! metrics.rs      the one place that counts
//! instruments.rs  each metric: name, unit, meaning, bounds
//! stock.rs        what is held when it is asked for
//! reading.rs      a page for Prometheus, points for a collector
//! totals.rs       sums for ourselves
//! trace.rs        the spans of one call
//! context.rs      W3C trace context, in and out
//! sampling.rs     which traces are kept
//! tail.rs         ended spans that wait to know
//! verdict.rs      what was ruled, as attributes
//! logs.rs         log records for a collector
//! digests.rs      callers, by names that tell nobody
//! environment.rs  the OTEL_* variables
//! export.rs       bounded queues and the thread that empties them
//! https.rs        the collector, over TLS
//! push.rs         metrics, pushed at an interval
//! scrape.rs       a page of metrics, read back
//! logging.rs      the log on standard error
//! ```

mod metrics;
mod instruments;
mod stock;
mod reading;
mod totals;
mod trace;
mod context;
mod sampling;
mod tail;
mod verdict;
mod logs;
mod digests;
mod environment;
mod export;
mod https;
mod push;
pub mod scrape;
mod logging;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry::{InstrumentationScope, KeyValue, Value};

pub use context::Origin;
pub use digests::Secret;
pub use logging::{set_level, start_logging};
pub use metrics::{Decision, MOST_MODELS, Metrics, Nearness, OTHER, Row, Stage};
pub use stock::Stock;
pub use totals::Totals;
pub use trace::{Carried, Head, Part, Trace};
pub use verdict::{Matched, Measured, Rows, Verdict};

use digests::Digests;
use environment::Environment;
use export::{Exporting, Outlets};
use logs::Logs;
use push::Push;
use sampling::{Sampler, Sampling};
use trace::{SCHEMA, Tracer};

/// Whose trace context is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrustContext {
    /// Every caller's. One that sends a sampled context with each call has all of them kept.
    Always,
    /// That of peers whose word about callers is believed too.
    TrustedPeers,
    /// Nobody's: each call begins a trace.
    Never,
}

/// What is told to whom, beside what the `OTEL_*` variables say.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The collector; by the environment where there is none.
    pub endpoint: Option<String>,
    /// The share of traces that are kept, 0..=1; by the environment where there is none.
    pub sample: Option<f64>,
    /// Keeps the traces of short-circuited calls, sampled or not.
    pub keep_short_circuits: bool,
    /// Whose trace context is believed.
    pub trust_context: TrustContext,
    /// Keys the names of callers, so that replicas which share it name them alike.
    pub digest_key: Option<Secret>,
    /// After which a caller has another name.
    pub rotate_digests: Duration,
}

impl Settings {
    /// Whether what is started once is the same as under `other`.
    pub fn tells_as(&self, other: &Self) -> bool {
        Self { trust_context: other.trust_context, ..self.clone() } == *other
    }
}

/// What one sidecar tells.
pub struct Telemetry {
    /// Its numbers.
    pub metrics: Arc<Metrics>,
    digests: Digests,
    tracer: Option<Arc<Tracer>>,
    logs: Option<Logs>,
    exporting: Option<Exporting>,
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry")
            .field("tracer", &self.tracer)
            .field("logs", &self.logs)
            .finish_non_exhaustive()
    }
}

impl Telemetry {
    /// Begins to tell by `settings` and by the variables that `variable` looks up. Nothing is exported where neither names a
    /// collector; one that cannot be reached costs a warning and counters.
    pub fn start(settings: &Settings, variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let environment = Environment::new(variable);
        let metrics = Arc::new(Metrics::told_as(environment.resource(), environment.temporality()));
        let digests = Digests::new(settings.digest_key.as_ref(), settings.rotate_digests);
        let mut telemetry = Self { metrics, digests, tracer: None, logs: None, exporting: None };
        if !environment.is_disabled() {
            telemetry.export(settings, &environment);
        }
        telemetry
    }

    fn export(&mut self, settings: &Settings, environment: &Environment<'_>) {
        let endpoint = settings.endpoint.as_deref();
        let scope = InstrumentationScope::builder("refrain")
            .with_version(env!("CARGO_PKG_VERSION"))
            .with_schema_url(SCHEMA)
            .build();
        let spans = environment.destination("TRACES", endpoint).map(|to| {
            let (queue, outlet) = export::queue("spans", environment.batching("BSP"), &self.metrics);
            let sampler = Sampler {
                sampling: settings.sample.map_or_else(|| environment.sampling(), Sampling::share),
                keeps_short_circuits: settings.keep_short_circuits,
            };
            let tracer = Tracer::new(queue, sampler, environment.propagators(), scope.clone());
            self.tracer = Some(Arc::new(tracer));
            (outlet, to)
        });
        let logs = environment.destination("LOGS", endpoint).map(|to| {
            let (queue, outlet) = export::queue("logs", environment.batching("BLRP"), &self.metrics);
            self.logs = Some(Logs::new(queue, scope.clone()));
            (outlet, to)
        });
        let metrics = environment
            .destination("METRICS", endpoint)
            .map(|to| (Push::new(&self.metrics, environment.pushing()), to));
        if spans.is_none() && logs.is_none() && metrics.is_none() {
            return;
        }
        let outlets = Outlets { spans, logs, metrics, resource: environment.resource(), scope };
        match Exporting::start(outlets) {
            Ok(exporting) => self.exporting = Some(exporting),
            Err(error) => {
                tracing::warn!(%error, "telemetry cannot be exported");
                (self.tracer, self.logs) = (None, None);
            }
        }
    }

    /// Whether calls are traced at all.
    pub fn traces(&self) -> bool {
        self.tracer.is_some()
    }

    /// Begins the trace of a call; nothing where calls are not traced.
    pub fn begin(&self, head: &Head<'_>) -> Option<Arc<Trace>> {
        self.tracer.as_ref().map(|tracer| tracer.begin(head))
    }

    /// Tells what was ruled on a message: `in_stream` says that it is one of many of its call.
    pub fn tell(&self, trace: Option<&Arc<Trace>>, verdict: &Verdict, in_stream: bool) {
        let notable = verdict.is_notable();
        if !notable && trace.is_none_or(|trace| !trace.is_recorded()) {
            return;
        }
        let caller = self.caller_name(&verdict.caller);
        if notable {
            let (trace_id, span_id) = trace.map(|trace| trace.ids()).unzip();
            tracing::info!(
                trace_id,
                span_id,
                decision = verdict.decision.as_str(),
                reason = verdict.reason,
                model = &*verdict.model,
                forwarded = verdict.rows.forwarded,
                replayed = verdict.rows.replayed,
                refused = verdict.rows.refused,
                measured = ?verdict.measured,
                age = ?verdict.anchor.map(|anchor| anchor.age),
                hits = verdict.anchor.map(|anchor| anchor.hits),
                caller,
                source = verdict.source,
                "rows short-circuited"
            );
        }
        let logs = self.logs.as_ref().filter(|_| notable);
        let recorded = trace.filter(|trace| trace.is_recorded());
        if recorded.is_none() && logs.is_none() {
            return;
        }
        let attributes = verdict.attributes(caller);
        if let Some(logs) = logs {
            logs.short_circuit(trace.map(|trace| &**trace), &attributes);
        }
        let Some(trace) = recorded else { return };
        if let Some(origin) = verdict.anchor.and_then(|anchor| anchor.origin) {
            trace.link(&origin, vec![KeyValue::new("refrain.link", "anchor")]);
        }
        if notable {
            trace.keep();
        }
        if in_stream {
            trace.event("refrain.message", attributes);
        } else {
            trace.note(attributes);
        }
    }

    /// How telemetry names the caller of this digest at the moment.
    pub fn caller_name(&self, caller: &[u8]) -> String {
        self.digests.name(caller, SystemTime::now())
    }

    /// Exports what is left, for at most `within`.
    pub async fn finish(&self, within: Duration) {
        if let Some(exporting) = &self.exporting {
            exporting.finish(within).await;
        }
    }
}

impl Trace {
    /// Adds an attribute to the call's own.
    pub fn set(&self, name: &'static str, value: impl Into<Value>) {
        self.note([KeyValue::new(name, value)]);
    }
}

//! Every metric: its name, unit, labels and meaning. This is the one place that counts.
//!
//! No caller is in any label, and a model is one only once the model server knows it, up to [`MOST_MODELS`] of them: what a
//! caller invents never makes a series. Names begin with `refrain_`, but for the two durations that OpenTelemetry's
//! conventions name.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::ResourceMetrics;

use super::instruments::Instruments;
use super::reading::Readings;
use super::stock::{Shelf, Source, Stock};
use super::totals::Totals;
use super::trace::{SCHEMA, is_server_error};

/// Models that have series of their own; further ones are counted together as `_OTHER`.
pub const MOST_MODELS: usize = 128;

/// The label of models beyond [`MOST_MODELS`], and of methods that nobody knows.
pub const OTHER: &str = "_OTHER";

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// The model was asked, as the ruling said.
    Forwarded,
    /// An earlier answer serves.
    ShortCircuited,
    /// Its caller gets no answer.
    Rejected,
    /// The ruling said otherwise, but calls are only observed: the model was asked.
    Monitored,
}

impl Decision {
    /// Its name in labels and attributes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::ShortCircuited => "short_circuited",
            Self::Rejected => "rejected",
            Self::Monitored => "monitored",
        }
    }
}

/// How far a row is from the nearest anchor of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nearness {
    /// Bits of the fingerprint that differ, 0..=256.
    pub bits: u32,
    /// Positions that differ, of 1,024, whatever the size of the thumbnail.
    pub positions: u32,
    /// Fine cells that are not near, 0..=64.
    pub cells: u32,
}

/// One row as it was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// What becomes of it.
    pub decision: Decision,
    /// What judgment said: `forward`, `replay` or `refuse`.
    pub ruling: &'static str,
    /// The first cause of the ruling.
    pub reason: &'static str,
    /// Whether it counts against its session.
    pub suspect: bool,
    /// Nothing where the session has no anchor.
    pub nearest: Option<Nearness>,
}

/// A part of our own work on a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// The message into likenesses.
    Read,
    /// Rulings and claims.
    Judge,
    /// Answers to their anchors.
    Settle,
    /// All of our own work, from the whole message to the reply, without the upstream and the hold.
    Total,
}

impl Stage {
    /// Its name in labels and of its span.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Judge => "judge",
            Self::Settle => "settle",
            Self::Total => "total",
        }
    }
}

/// The counters and histograms of one sidecar.
pub struct Metrics {
    readings: Readings,
    counts: Instruments,
    shelf: Shelf,
    /// What fills the shelf.
    source: Source,
    /// Models with series of their own.
    models: Mutex<HashSet<Arc<str>>>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("counts", &self.counts).finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics at nought.
    pub fn new() -> Self {
        Self::told_as(Resource::builder_empty().build(), Temporality::Cumulative)
    }

    /// All metrics at nought, and how a collector is told of them.
    pub(super) fn told_as(resource: Resource, temporality: Temporality) -> Self {
        let readings = Readings::new(resource, temporality);
        let scope = InstrumentationScope::builder("refrain")
            .with_version(env!("CARGO_PKG_VERSION"))
            .with_schema_url(SCHEMA)
            .build();
        let meter = readings.meter(scope);
        let shelf = Shelf::default();
        shelf.show(&meter);
        let counts = Instruments::of(&meter);
        // A rate over a counter that is not there yet is nothing, and not nought.
        for counter in [&counts.overdue, &counts.unreadable, &counts.forwarded_rows, &counts.shadows] {
            counter.add(0, &[]);
        }
        for signal in ["spans", "logs", "metrics"] {
            counts.dropped.add(0, &[KeyValue::new("signal", signal)]);
            counts.failed.add(0, &[KeyValue::new("signal", signal)]);
        }
        Self { readings, counts, shelf, source: Source::new(), models: Mutex::default() }
    }

    /// From now on each reading shows what `stock` says is held. Only the first to be named is asked.
    pub fn watch(&self, stock: impl Fn() -> Option<Stock> + Send + Sync + 'static) {
        let _ = self.source.set(Box::new(stock));
    }

    /// A label for a model that the model server knows.
    pub fn model(&self, name: &Arc<str>) -> Arc<str> {
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        if models.contains(name) {
            return Arc::clone(name);
        }
        if models.len() >= MOST_MODELS {
            return OTHER.into();
        }
        models.insert(Arc::clone(name));
        Arc::clone(name)
    }

    /// Counts a judged row of `model`, a label that [`Self::model`] gave.
    pub fn judged(&self, model: &Arc<str>, row: &Row) {
        // Attributes stand in order everywhere here: the SDK looks for them as they are before it sorts them.
        let model = KeyValue::new("model", Arc::clone(model));
        if row.suspect {
            self.counts.suspects.add(1, std::slice::from_ref(&model));
        }
        if let Some(nearest) = row.nearest {
            // An exact repeat would hide how near the others come.
            let measured = [KeyValue::new("exact", row.reason == "exact"), model.clone()];
            self.counts.bits.record(u64::from(nearest.bits), &measured);
            self.counts.positions.record(u64::from(nearest.positions), &measured);
            self.counts.cells.record(u64::from(nearest.cells), &measured);
        }
        let decided = [
            KeyValue::new("decision", row.decision.as_str()),
            model,
            KeyValue::new("reason", row.reason),
            KeyValue::new("ruling", row.ruling),
        ];
        self.counts.decisions.add(1, &decided);
    }

    /// Takes note of our own work.
    pub fn spent(&self, stage: Stage, time: Duration) {
        self.counts.stages.record(time.as_secs_f64(), &[KeyValue::new("stage", stage.as_str())]);
    }

    /// Takes note of a hold: how long it was, and how late it ended; `None` where its moment had passed before it began, which
    /// tells something unless nothing was to be hidden.
    pub fn held(&self, time: Duration, lateness: Option<Duration>, hides: bool) {
        self.counts.hold.record(time.as_secs_f64(), &[]);
        match lateness {
            Some(lateness) => self.counts.lateness.record(lateness.as_secs_f64(), &[]),
            None if hides => self.counts.overdue.add(1, &[]),
            None => {}
        }
    }

    /// Takes note of a call that ended towards its caller. `method` and `code` are of closed lists.
    pub fn served(&self, method: &'static str, code: &'static str, time: Duration) {
        let attributes = of_call(method, code);
        let told = if is_server_error(code) { &attributes[..] } else { &attributes[1..] };
        self.counts.server.record(time.as_secs_f64(), told);
    }

    /// Takes note of a call to the model server.
    pub fn asked(&self, method: &'static str, code: &'static str, time: Duration) {
        let attributes = of_call(method, code);
        let told = if code == "OK" { &attributes[1..] } else { &attributes[..] };
        self.counts.client.record(time.as_secs_f64(), told);
    }

    /// Counts rows sent to the model.
    pub fn forwarded(&self, rows: usize) {
        self.counts.forwarded_rows.add(rows as u64, &[]);
    }

    /// Counts a call whose fresh answer is dropped.
    pub fn shadowed(&self) {
        self.counts.shadows.add(1, &[]);
    }

    /// Counts a request whose picture could not be read.
    pub fn unreadable(&self) {
        self.counts.unreadable.add(1, &[]);
    }

    /// Counts a Predict call that passes through unread.
    pub fn bypassed(&self, reason: &'static str) {
        self.counts.bypassed.add(1, &[KeyValue::new("reason", reason)]);
    }

    /// Counts a call that ended without the model's answer.
    pub fn rejected(&self, reason: &'static str) {
        self.counts.rejected.add(1, &[KeyValue::new("reason", reason)]);
    }

    /// Counts what telemetry itself lost: `signal` is `spans`, `logs` or `metrics`.
    pub fn lost(&self, signal: &'static str, number: usize) {
        self.counts.dropped.add(number as u64, &[KeyValue::new("signal", signal)]);
    }

    /// Counts an export that failed.
    pub fn export_failed(&self, signal: &'static str) {
        self.counts.failed.add(1, &[KeyValue::new("signal", signal)]);
    }

    /// The totals now.
    pub fn totals(&self) -> Totals {
        Totals::of(&self.readings.since_start())
    }

    /// All metrics as a page in Prometheus' text format (0.0.4).
    pub fn prometheus(&self) -> String {
        self.shelf.fill(&self.source);
        self.readings.page()
    }

    /// All metrics as a collector is told of them.
    pub(super) fn to_push(&self) -> ResourceMetrics {
        self.shelf.fill(&self.source);
        self.readings.to_push()
    }
}

/// The attributes that the conventions give a call; the first of them only where it failed.
fn of_call(method: &'static str, code: &'static str) -> [KeyValue; 4] {
    [
        KeyValue::new("error.type", code),
        KeyValue::new("rpc.method", method),
        KeyValue::new("rpc.status_code", code),
        KeyValue::new("rpc.system.name", "grpc"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judgment::Reason;
    use opentelemetry_sdk::metrics::data::ScopeMetrics;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    fn row(ruling: &'static str, reason: &'static str) -> Row {
        let decision = if ruling == "forward" { Decision::Forwarded } else { Decision::ShortCircuited };
        let nearest = Some(Nearness { bits: 7, positions: 12, cells: 1 });
        Row { decision, ruling, reason, suspect: false, nearest }
    }

    #[test]
    fn a_row_is_counted_once_in_every_place_that_tells_of_it() {
        let metrics = Metrics::new();
        let model = metrics.model(&"clf".into());
        metrics.judged(&model, &row("forward", "new"));
        metrics.judged(&model, &row("replay", "bits"));
        let totals = metrics.totals();
        assert_eq!((totals.judged_forward, totals.replayed), (1, 1));
        let page = metrics.prometheus();
        for line in [
            "refrain_decisions_total{decision=\"short_circuited\",model=\"clf\",reason=\"bits\",ruling=\"replay\"} 1",
            "refrain_match_distance_bucket{exact=\"false\",model=\"clf\",le=\"6\"} 0",
            "refrain_match_distance_bucket{exact=\"false\",model=\"clf\",le=\"8\"} 2",
            "refrain_match_distance_cells_sum{exact=\"false\",model=\"clf\"} 2",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
        }
    }

    #[test]
    fn models_beyond_the_bound_share_a_label() {
        let metrics = Metrics::new();
        for number in 0..MOST_MODELS {
            let name: Arc<str> = format!("model-{number}").into();
            assert_eq!(metrics.model(&name), name);
        }
        assert_eq!(&*metrics.model(&"one-more".into()), OTHER);
        assert_eq!(&*metrics.model(&"model-3".into()), "model-3");
    }

    #[test]
    fn what_is_held_is_asked_for_with_each_page() {
        let metrics = Metrics::new();
        assert!(!metrics.prometheus().contains("refrain_sessions_active"), "nobody says yet");
        let seen = AtomicU64::new(0);
        metrics.watch(move || Some(Stock { oversized: seen.fetch_add(3, Relaxed), ..Stock::default() }));
        let shown = |number| {
            format!(
                "# TYPE refrain_oversized_answers_total counter\nrefrain_oversized_answers_total {number}\n"
            )
        };
        assert!(metrics.prometheus().contains(&shown(0)));
        assert!(metrics.prometheus().contains(&shown(3)));
    }

    #[test]
    fn the_page_has_our_names_and_labels_and_nothing_of_the_library() {
        let metrics = Metrics::new();
        metrics.served("a/B", "OK", Duration::from_millis(1));
        metrics.served("a/B", "NOT_FOUND", Duration::from_millis(1));
        metrics.asked("a/B", "NOT_FOUND", Duration::from_millis(1));
        metrics.watch(|| Some(Stock::default()));
        let page = metrics.prometheus();
        for line in [
            "# TYPE rpc_server_call_duration_seconds histogram",
            "rpc_server_call_duration_seconds_count{rpc_method=\"a/B\",rpc_status_code=\"OK\",rpc_system_name=\"grpc\"} 1",
            "rpc_server_call_duration_seconds_count{rpc_method=\"a/B\",rpc_status_code=\"NOT_FOUND\",rpc_system_name=\"grpc\"} 1",
            "rpc_client_call_duration_seconds_count{error_type=\"NOT_FOUND\",rpc_method=\"a/B\",rpc_status_code=\"NOT_FOUND\",rpc_system_name=\"grpc\"} 1",
            "# TYPE refrain_store_usage_bytes gauge",
            "refrain_telemetry_dropped_total{signal=\"metrics\"} 0",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
        }
        assert!(!page.contains("target_info") && !page.contains("otel_"), "{page}");
    }

    #[test]
    fn the_guide_names_every_metric_as_it_is_pushed_and_as_the_page_has_it() {
        let guide = include_str!("../../telemetry/README.md");
        let metrics = Metrics::new();
        metrics.watch(|| {
            let (evictions, gaps) = (vec![("session_idle", 1)], vec![("clf".into(), 0.5)]);
            Some(Stock { evictions, gaps, ..Stock::default() })
        });
        metrics.judged(&"clf".into(), &Row { suspect: true, ..row("forward", "new") });
        metrics.spent(Stage::Total, Duration::ZERO);
        metrics.held(Duration::ZERO, Some(Duration::ZERO), true);
        metrics.served("a/B", "OK", Duration::ZERO);
        metrics.asked("a/B", "OK", Duration::ZERO);
        metrics.bypassed("text");
        metrics.rejected("malformed");
        let page = metrics.prometheus();
        let pushed = metrics.to_push();
        let mut told = 0;
        for metric in pushed.scope_metrics().flat_map(ScopeMetrics::metrics) {
            let start = format!("| `{}` | `", metric.name());
            let line = guide.lines().find(|line| line.starts_with(&start)).unwrap_or_default();
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            assert_eq!(cells.len(), 7, "{} in the guide", metric.name());
            assert!(
                page.contains(&format!("# TYPE {} ", cells[2].trim_matches('`'))),
                "{} on the page",
                cells[2]
            );
            assert_eq!(cells[3].trim_matches('`'), metric.unit(), "{}", metric.name());
            told += 1;
        }
        let shown = page.lines().filter(|line| line.starts_with("# TYPE ")).count();
        let rows = guide.lines().filter(|line| line.starts_with("| `r") && line.contains("` | `r")).count();
        assert_eq!((told, rows), (shown, shown));
    }

    #[test]
    fn all_series_that_there_can_be_have_room() {
        let metrics = Metrics::new();
        for number in 0..2 * MOST_MODELS {
            let model = metrics.model(&format!("model-{number}").into());
            for reason in Reason::ALL {
                for (ruling, decision) in [
                    ("forward", Decision::Forwarded),
                    ("replay", Decision::ShortCircuited),
                    ("replay", Decision::Monitored),
                    ("refuse", Decision::Rejected),
                    ("refuse", Decision::Monitored),
                ] {
                    let row = Row { decision, suspect: true, ..row(ruling, reason.as_str()) };
                    metrics.judged(&model, &row);
                }
            }
        }
        let page = metrics.prometheus();
        assert!(!page.contains("overflow"));
        let series = page.lines().filter(|line| line.starts_with("refrain_decisions_total{")).count();
        assert_eq!(series, (MOST_MODELS + 1) * Reason::ALL.len() * 5);
    }

    #[test]
    fn a_hold_that_came_too_late_is_overdue_and_not_late() {
        let metrics = Metrics::new();
        metrics.held(Duration::from_millis(3), Some(Duration::from_micros(30)), true);
        metrics.held(Duration::ZERO, None, true);
        metrics.held(Duration::ZERO, None, false);
        assert_eq!(metrics.totals().held, 3);
        let page = metrics.prometheus();
        assert!(
            page.contains("refrain_hold_overdue_total 1")
                && page.contains("refrain_hold_lateness_seconds_count 1")
        );
    }
}

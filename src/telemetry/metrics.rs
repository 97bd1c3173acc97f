//! Every metric: its name, unit, labels and meaning. This is the one place that counts.
//!
//! No caller is in any label, and a model is one only once the model server knows it, up to [`MOST_MODELS`] of them: what a
//! caller invents never makes a series. Names begin with `refrain_`, but for the two durations that OpenTelemetry's
//! conventions name.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::page::{Shelf, Stock, classic};

/// Models that have series of their own; further ones are counted together as `_OTHER`.
pub const MOST_MODELS: usize = 128;

/// The label of models beyond [`MOST_MODELS`], and of methods that nobody knows.
pub const OTHER: &str = "_OTHER";

/// Upper bounds of our own durations, in seconds: fine where a proxy's own work lies.
const FINE: [f64; 19] = [
    50e-6, 100e-6, 150e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0,
];

/// Upper bounds that the conventions give for the duration of a call, in seconds, and our own below them: model servers
/// on the same machine answer within a millisecond.
const CALLS: [f64; 18] = [
    250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 75e-3, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5,
    10.0,
];

/// Upper bounds of a lateness in seconds: what a hold adds by accident.
const LATE: [f64; 11] =
    [10e-6, 20e-6, 40e-6, 80e-6, 160e-6, 320e-6, 640e-6, 1.28e-3, 2.56e-3, 5.12e-3, 10.24e-3];

/// Upper bounds of distances in bits of 256, fine around the radii.
const BITS: [f64; 28] = [
    0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 18.0, 20.0, 22.0, 25.0, 28.0, 32.0, 36.0,
    40.0, 48.0, 56.0, 64.0, 80.0, 96.0, 112.0, 128.0, 160.0,
];

/// Upper bounds of distances in positions of 1,024, fine around the radii.
const POSITIONS: [f64; 20] = [
    0.0, 1.0, 3.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 64.0, 80.0, 102.0, 128.0, 192.0, 256.0,
    384.0, 512.0, 768.0,
];

/// Upper bounds of fine cells, of 64, that are not near.
const CELLS: [f64; 14] = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 40.0, 48.0, 56.0];

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

/// The totals since the start, without labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Rows sent to the model, shadows included.
    pub forwarded_rows: u64,
    /// Rows ruled forward.
    pub judged_forward: u64,
    /// Rows ruled a replay, in observe mode too.
    pub replayed: u64,
    /// Replies held.
    pub held: u64,
    /// Calls whose fresh answer was dropped for a replay.
    pub shadows: u64,
    /// Requests whose picture could not be read.
    pub unreadable: u64,
    /// Predict calls passed through unread.
    pub passed: u64,
    /// Calls that ended without the model, by reason.
    pub refused: BTreeMap<&'static str, u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Decided {
    decision: &'static str,
    ruling: &'static str,
    reason: &'static str,
    model: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfModel {
    model: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Measured {
    model: Arc<str>,
    /// An exact repeat, `true` or `false`: these would hide how near the others come.
    exact: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct For {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSignal {
    signal: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InStage {
    stage: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
#[allow(clippy::struct_field_names, reason = "the labels are the conventions'")]
struct OfCall {
    rpc_system_name: &'static str,
    rpc_method: &'static str,
    rpc_status_code: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// The counters and histograms of one sidecar.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    decisions: Family<Decided, Counter>,
    suspects: Family<OfModel, Counter>,
    bits: Histograms<Measured>,
    positions: Histograms<Measured>,
    cells: Histograms<Measured>,
    stages: Histograms<InStage>,
    hold: Histogram,
    lateness: Histogram,
    overdue: Counter,
    server: Histograms<OfCall>,
    client: Histograms<OfCall>,
    rejected: Family<For, Counter>,
    bypassed: Family<For, Counter>,
    unreadable: Counter,
    forwarded_rows: Counter,
    shadows: Counter,
    dropped: Family<OfSignal, Counter>,
    failed: Family<OfSignal, Counter>,
    shelf: Shelf,
    /// Models with series of their own.
    models: Mutex<HashSet<Arc<str>>>,
    /// Sums over the families, which do not add themselves up.
    judged_forward: AtomicU64,
    replayed: AtomicU64,
    holds: AtomicU64,
    passed: AtomicU64,
    refused: Mutex<BTreeMap<&'static str, u64>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics at nought.
    pub fn new() -> Self {
        let of = |buckets: fn() -> Histogram| buckets;
        let fine = || Histogram::new(FINE);
        let mut metrics = Self {
            registry: Registry::default(),
            decisions: Family::default(),
            suspects: Family::default(),
            bits: Family::new_with_constructor(of(|| Histogram::new(BITS))),
            positions: Family::new_with_constructor(of(|| Histogram::new(POSITIONS))),
            cells: Family::new_with_constructor(of(|| Histogram::new(CELLS))),
            stages: Family::new_with_constructor(of(fine)),
            hold: fine(),
            lateness: Histogram::new(LATE),
            overdue: Counter::default(),
            server: Family::new_with_constructor(of(|| Histogram::new(CALLS))),
            client: Family::new_with_constructor(of(|| Histogram::new(CALLS))),
            rejected: Family::default(),
            bypassed: Family::default(),
            unreadable: Counter::default(),
            forwarded_rows: Counter::default(),
            shadows: Counter::default(),
            dropped: Family::default(),
            failed: Family::default(),
            shelf: Shelf::default(),
            models: Mutex::default(),
            judged_forward: AtomicU64::new(0),
            replayed: AtomicU64::new(0),
            holds: AtomicU64::new(0),
            passed: AtomicU64::new(0),
            refused: Mutex::default(),
        };
        metrics.register();
        // A rate over a counter that is not there yet is nothing, and not nought.
        for signal in ["spans", "logs"] {
            metrics.lost(signal, 0);
            metrics.failed.get_or_create(&OfSignal { signal }).inc_by(0);
        }
        metrics
    }

    fn register(&mut self) {
        let seconds = Unit::Seconds;
        let all = &mut self.registry;
        all.register_with_unit(
            "rpc_server_call_duration",
            "Duration of calls as their callers see it, holds included, by method and status",
            seconds.clone(),
            self.server.clone(),
        );
        all.register_with_unit(
            "rpc_client_call_duration",
            "Duration of calls to the model server, by method and status",
            seconds.clone(),
            self.client.clone(),
        );
        let ours = all.sub_registry_with_prefix("refrain");
        ours.register(
            "decisions",
            "Rows judged, by what became of them, their ruling and its reason",
            self.decisions.clone(),
        );
        ours.register("suspect_rows", "Rows that count against their session", self.suspects.clone());
        let near = "between each judged row and the nearest anchor of its session";
        ours.register("match_distance", format!("Bits of 256 that differ {near}"), self.bits.clone());
        ours.register(
            "match_distance_positions",
            format!("Positions of 1024 that differ {near}"),
            self.positions.clone(),
        );
        ours.register(
            "match_distance_cells",
            format!("Fine cells of 64 that are not near {near}"),
            self.cells.clone(),
        );
        ours.register_with_unit(
            "added_latency",
            "Time of our own work on judged calls, by stage; total is all of it, without the model server and the hold",
            seconds.clone(),
            self.stages.clone(),
        );
        ours.register_with_unit(
            "delay_added",
            "Time for which replies were held so that their haste tells nothing",
            seconds.clone(),
            self.hold.clone(),
        );
        ours.register_with_unit(
            "hold_lateness",
            "How much later than it should a held reply was let go",
            seconds,
            self.lateness.clone(),
        );
        ours.register(
            "hold_overdue",
            "Replies that were to be held but were ready only after their moment",
            self.overdue.clone(),
        );
        ours.register(
            "rejected",
            "Calls that ended without the model's answer, by reason",
            self.rejected.clone(),
        );
        ours.register("bypassed", "Predict calls passed through unjudged, by reason", self.bypassed.clone());
        ours.register("unreadable", "Requests whose picture could not be read", self.unreadable.clone());
        ours.register(
            "forwarded_rows",
            "Rows sent to the model, shadows included",
            self.forwarded_rows.clone(),
        );
        ours.register(
            "shadows",
            "Calls whose fresh answer was dropped in favour of a replay",
            self.shadows.clone(),
        );
        ours.register(
            "telemetry_dropped",
            "Spans and log records dropped because their queue was full or their export failed",
            self.dropped.clone(),
        );
        ours.register(
            "telemetry_failed_exports",
            "Exports that the collector did not take",
            self.failed.clone(),
        );
        ours.register_collector(Box::new(self.shelf.clone()));
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
        match row.ruling {
            "forward" => self.judged_forward.fetch_add(1, Relaxed),
            "replay" => self.replayed.fetch_add(1, Relaxed),
            _ => 0,
        };
        let Row { decision, ruling, reason, suspect, nearest } = *row;
        let model = Arc::clone(model);
        let decided = Decided { decision: decision.as_str(), ruling, reason, model: Arc::clone(&model) };
        self.decisions.get_or_create(&decided).inc();
        if suspect {
            self.suspects.get_or_create(&OfModel { model: Arc::clone(&model) }).inc();
        }
        if let Some(nearest) = nearest {
            let measured = Measured { model, exact: if reason == "exact" { "true" } else { "false" } };
            self.bits.get_or_create(&measured).observe(f64::from(nearest.bits));
            self.positions.get_or_create(&measured).observe(f64::from(nearest.positions));
            self.cells.get_or_create(&measured).observe(f64::from(nearest.cells));
        }
    }

    /// Takes note of our own work.
    pub fn spent(&self, stage: Stage, time: Duration) {
        self.stages.get_or_create(&InStage { stage: stage.as_str() }).observe(time.as_secs_f64());
    }

    /// Takes note of a hold: how long it was, and how late it ended; `None` where its moment had passed before it began, which
    /// tells something unless nothing was to be hidden.
    pub fn held(&self, time: Duration, lateness: Option<Duration>, hides: bool) {
        self.holds.fetch_add(1, Relaxed);
        self.hold.observe(time.as_secs_f64());
        match lateness {
            Some(lateness) => self.lateness.observe(lateness.as_secs_f64()),
            None if hides => drop(self.overdue.inc()),
            None => {}
        }
    }

    /// Takes note of a call that ended towards its caller. `method` and `code` are of closed lists.
    pub fn served(&self, method: &'static str, code: &'static str, time: Duration) {
        let call = OfCall { rpc_system_name: "grpc", rpc_method: method, rpc_status_code: code };
        self.server.get_or_create(&call).observe(time.as_secs_f64());
    }

    /// Takes note of a call to the model server.
    pub fn asked(&self, method: &'static str, code: &'static str, time: Duration) {
        let call = OfCall { rpc_system_name: "grpc", rpc_method: method, rpc_status_code: code };
        self.client.get_or_create(&call).observe(time.as_secs_f64());
    }

    /// Counts rows sent to the model.
    pub fn forwarded(&self, rows: usize) {
        self.forwarded_rows.inc_by(rows as u64);
    }

    /// Counts a call whose fresh answer is dropped.
    pub fn shadowed(&self) {
        self.shadows.inc();
    }

    /// Counts a request whose picture could not be read.
    pub fn unreadable(&self) {
        self.unreadable.inc();
    }

    /// Counts a Predict call that passes through unread.
    pub fn bypassed(&self, reason: &'static str) {
        self.passed.fetch_add(1, Relaxed);
        self.bypassed.get_or_create(&For { reason }).inc();
    }

    /// Counts a call that ended without the model's answer.
    pub fn rejected(&self, reason: &'static str) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() += 1;
        self.rejected.get_or_create(&For { reason }).inc();
    }

    /// Counts what telemetry itself lost: `signal` is `spans` or `logs`.
    pub fn lost(&self, signal: &'static str, number: usize) {
        self.dropped.get_or_create(&OfSignal { signal }).inc_by(number as u64);
    }

    /// Counts an export that failed.
    pub fn export_failed(&self, signal: &'static str) {
        self.failed.get_or_create(&OfSignal { signal }).inc();
    }

    /// The totals now.
    pub fn totals(&self) -> Totals {
        Totals {
            forwarded_rows: self.forwarded_rows.get(),
            judged_forward: self.judged_forward.load(Relaxed),
            replayed: self.replayed.load(Relaxed),
            held: self.holds.load(Relaxed),
            shadows: self.shadows.get(),
            unreadable: self.unreadable.get(),
            passed: self.passed.load(Relaxed),
            refused: self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// All metrics in the OpenMetrics text format, with `stock` as what is held now.
    pub fn open_metrics(&self, stock: Stock) -> String {
        self.shelf.put(stock);
        let mut page = String::new();
        // Writing to a string fails only where an encoder of ours does, and then what was written is of use still.
        let _ = text::encode(&mut page, &self.registry);
        page
    }

    /// The same in the older Prometheus text format (0.0.4).
    pub fn prometheus(&self, stock: Stock) -> String {
        classic(&self.open_metrics(stock))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let page = metrics.prometheus(Stock::default());
        for line in [
            "refrain_decisions_total{decision=\"short_circuited\",ruling=\"replay\",reason=\"bits\",model=\"clf\"} 1",
            "refrain_match_distance_bucket{le=\"6.0\",model=\"clf\",exact=\"false\"} 0",
            "refrain_match_distance_bucket{le=\"8.0\",model=\"clf\",exact=\"false\"} 2",
            "refrain_match_distance_cells_sum{model=\"clf\",exact=\"false\"} 2.0",
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
    fn the_older_format_names_counters_by_their_samples_and_has_no_units() {
        let page = Metrics::new().prometheus(Stock { oversized: 3, ..Stock::default() });
        assert!(
            page.contains(
                "# TYPE refrain_oversized_answers_total counter\nrefrain_oversized_answers_total 3\n"
            )
        );
        assert!(page.contains("# TYPE refrain_delay_added_seconds histogram"));
        assert!(!page.contains("# UNIT") && !page.contains("# EOF"));
    }

    #[test]
    fn a_hold_that_came_too_late_is_overdue_and_not_late() {
        let metrics = Metrics::new();
        metrics.held(Duration::from_millis(3), Some(Duration::from_micros(30)), true);
        metrics.held(Duration::ZERO, None, true);
        metrics.held(Duration::ZERO, None, false);
        assert_eq!(metrics.totals().held, 3);
        let page = metrics.prometheus(Stock::default());
        assert!(
            page.contains("refrain_hold_overdue_total 1")
                && page.contains("refrain_hold_lateness_seconds_count 1")
        );
    }
}

//! Each metric by its name, unit, meaning, bounds and the most series that it can have. What records them is in `metrics.rs`.
//!
//! Names are those that a collector sees. On the page dots are underscores, a unit of seconds or bytes is the name's end,
//! and counters end in `_total`. Units in braces count things and stand nowhere on the page.

use opentelemetry::metrics::{Counter, Histogram, Meter};
use opentelemetry_sdk::metrics::{Instrument, Stream};

use super::metrics::MOST_MODELS;

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

/// What `Totals` are read from, beside what has its name here for that.
pub(super) const DECISIONS: &str = "refrain.decisions";
pub(super) const DELAY_ADDED: &str = "refrain.delay.added";
pub(super) const REJECTED: &str = "refrain.rejected";
pub(super) const BYPASSED: &str = "refrain.bypassed";
pub(super) const UNREADABLE: &str = "refrain.unreadable";
pub(super) const FORWARDED_ROWS: &str = "refrain.forwarded_rows";
pub(super) const SHADOWS: &str = "refrain.shadows";

const SUSPECT_ROWS: &str = "refrain.suspect_rows";
const BITS_APART: &str = "refrain.match.distance";
const POSITIONS_APART: &str = "refrain.match.distance_positions";
const CELLS_APART: &str = "refrain.match.distance_cells";
const SERVER: &str = "rpc.server.call.duration";
const CLIENT: &str = "rpc.client.call.duration";

/// The instruments that a call records with.
#[derive(Debug)]
pub(super) struct Instruments {
    pub(super) decisions: Counter<u64>,
    pub(super) suspects: Counter<u64>,
    pub(super) bits: Histogram<u64>,
    pub(super) positions: Histogram<u64>,
    pub(super) cells: Histogram<u64>,
    pub(super) stages: Histogram<f64>,
    pub(super) hold: Histogram<f64>,
    pub(super) lateness: Histogram<f64>,
    pub(super) overdue: Counter<u64>,
    pub(super) server: Histogram<f64>,
    pub(super) client: Histogram<f64>,
    pub(super) rejected: Counter<u64>,
    pub(super) bypassed: Counter<u64>,
    pub(super) unreadable: Counter<u64>,
    pub(super) forwarded_rows: Counter<u64>,
    pub(super) shadows: Counter<u64>,
    pub(super) dropped: Counter<u64>,
    pub(super) failed: Counter<u64>,
}

impl Instruments {
    /// All of them, at nought.
    pub(super) fn of(meter: &Meter) -> Self {
        let counts = |name: &'static str, unit: &'static str, meaning: &'static str| {
            meter.u64_counter(name).with_unit(unit).with_description(meaning).build()
        };
        let measures = |name: &'static str, unit: &'static str, meaning: &'static str, bounds: &[f64]| {
            let histogram = meter.u64_histogram(name).with_unit(unit).with_description(meaning);
            histogram.with_boundaries(bounds.to_vec()).build()
        };
        let times = |name: &'static str, meaning: &'static str, bounds: &[f64]| {
            let histogram = meter.f64_histogram(name).with_unit("s").with_description(meaning);
            histogram.with_boundaries(bounds.to_vec()).build()
        };
        Self {
            decisions: counts(
                DECISIONS,
                "{row}",
                "Rows judged, by what became of them, their ruling and its reason",
            ),
            suspects: counts(SUSPECT_ROWS, "{row}", "Rows that count against their session"),
            bits: measures(
                BITS_APART,
                "{bit}",
                "Bits of 256 that differ between each judged row and the nearest anchor of its session",
                &BITS,
            ),
            positions: measures(
                POSITIONS_APART,
                "{position}",
                "Positions of 1024 that differ between each judged row and the nearest anchor of its session",
                &POSITIONS,
            ),
            cells: measures(
                CELLS_APART,
                "{cell}",
                "Fine cells of 64 that are not near between each judged row and the nearest anchor of its session",
                &CELLS,
            ),
            stages: times(
                "refrain.added_latency",
                "Time of our own work on judged calls, by stage; total is all of it, without the model server and the hold",
                &FINE,
            ),
            hold: times(
                DELAY_ADDED,
                "Time for which replies were held so that their haste tells nothing",
                &FINE,
            ),
            lateness: times(
                "refrain.hold.lateness",
                "How much later than it should a held reply was let go",
                &LATE,
            ),
            overdue: counts(
                "refrain.hold.overdue",
                "{reply}",
                "Replies that were to be held but were ready only after their moment",
            ),
            server: times(
                SERVER,
                "Duration of calls as their callers see it, holds included, by method and status",
                &CALLS,
            ),
            client: times(CLIENT, "Duration of calls to the model server, by method and status", &CALLS),
            rejected: counts(REJECTED, "{call}", "Calls that ended without the model's answer, by reason"),
            bypassed: counts(BYPASSED, "{call}", "Predict calls passed through unjudged, by reason"),
            unreadable: counts(UNREADABLE, "{request}", "Requests whose picture could not be read"),
            forwarded_rows: counts(FORWARDED_ROWS, "{row}", "Rows sent to the model, shadows included"),
            shadows: counts(SHADOWS, "{call}", "Calls whose fresh answer was dropped in favour of a replay"),
            dropped: counts(
                "refrain.telemetry.dropped",
                "{item}",
                "Spans, log records and points of metrics dropped because their queue was full or their export failed",
            ),
            failed: counts(
                "refrain.telemetry.failed_exports",
                "{export}",
                "Exports that the collector did not take",
            ),
        }
    }
}

/// Gives each instrument room for every series that it can have. The SDK would count what goes beyond 2000 together, and
/// would set aside room for as many where there are four.
pub(super) fn bounded(instrument: &Instrument) -> Option<Stream> {
    // Closed lists, each with some room: what becomes of a row by its ruling (5 pairs) and the reasons, methods, statuses.
    const DECIDED: usize = 5 * 16;
    const CALLED: usize = 32 * 17;
    const MODELS: usize = MOST_MODELS + 1;
    let most = match instrument.name() {
        DECISIONS => DECIDED * MODELS,
        SUSPECT_ROWS => MODELS,
        BITS_APART | POSITIONS_APART | CELLS_APART => 2 * MODELS,
        SERVER | CLIENT => CALLED,
        _ => 64,
    };
    Stream::builder().with_cardinality_limit(most).build().ok()
}

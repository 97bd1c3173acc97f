//! Sums over the metrics, for the log's last line, the demo's report and the tests.

use std::collections::BTreeMap;

use opentelemetry::KeyValue;
use opentelemetry_sdk::metrics::data::{
    AggregatedMetrics, HistogramDataPoint, Metric, MetricData, ResourceMetrics, ScopeMetrics, SumDataPoint,
};

use super::instruments::{BYPASSED, DECISIONS, DELAY_ADDED, FORWARDED_ROWS, REJECTED, SHADOWS, UNREADABLE};

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
    pub refused: BTreeMap<String, u64>,
}

impl Totals {
    /// The sums of what was read since the start.
    pub(super) fn of(read: &ResourceMetrics) -> Self {
        let mut totals = Self::default();
        read.scope_metrics().flat_map(ScopeMetrics::metrics).for_each(|metric| totals.add(metric));
        totals
    }

    fn add(&mut self, metric: &Metric) {
        match metric.data() {
            AggregatedMetrics::U64(MetricData::Sum(sum)) => {
                sum.data_points().for_each(|point| self.count(metric.name(), point));
            }
            AggregatedMetrics::F64(MetricData::Histogram(times)) if metric.name() == DELAY_ADDED => {
                self.held += times.data_points().map(HistogramDataPoint::count).sum::<u64>();
            }
            _ => {}
        }
    }

    fn count(&mut self, name: &str, point: &SumDataPoint<u64>) {
        let number = point.value();
        let of = |wanted: &str| {
            let pair = point.attributes().find(|KeyValue { key, .. }| key.as_str() == wanted);
            pair.map(|pair| pair.value.as_str().into_owned()).unwrap_or_default()
        };
        match name {
            DECISIONS if of("ruling") == "forward" => self.judged_forward += number,
            DECISIONS if of("ruling") == "replay" => self.replayed += number,
            FORWARDED_ROWS => self.forwarded_rows += number,
            SHADOWS => self.shadows += number,
            UNREADABLE => self.unreadable += number,
            BYPASSED => self.passed += number,
            REJECTED => *self.refused.entry(of("reason")).or_default() += number,
            _ => {}
        }
    }
}

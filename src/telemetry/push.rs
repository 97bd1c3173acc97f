//! Metrics on their way to a collector: read and pushed at an interval, by the thread that exports.
//!
//! Calls only count; what a collector does with the figures costs them nothing. With figures since the start (the default)
//! an export that fails loses a moment and no count: the next one has it all.

use std::sync::Arc;

use opentelemetry_otlp::MetricExporter;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::{
    AggregatedMetrics, Metric, MetricData, ResourceMetrics, ScopeMetrics,
};
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::environment::{Destination, Protocol, Pushing};
use super::export::{grpc, http};
use super::metrics::Metrics;

/// What pushes one sidecar's metrics.
pub(super) struct Push {
    metrics: Arc<Metrics>,
    pushing: Pushing,
}

const SIGNAL: &str = "metrics";

impl Push {
    pub(super) fn new(metrics: &Arc<Metrics>, pushing: Pushing) -> Self {
        Self { metrics: Arc::clone(metrics), pushing }
    }

    /// Pushes to `to` until told to stop, and then once more.
    pub(super) async fn to(self, to: &Destination, stopping: watch::Receiver<bool>) {
        match exporter(to) {
            Ok(exporter) => self.with(stopping, async |read: &_| exporter.export(read).await).await,
            Err(error) => tracing::warn!(%error, "metrics cannot be exported"),
        }
    }

    async fn with(
        self,
        mut stopping: watch::Receiver<bool>,
        export: impl AsyncFn(&ResourceMetrics) -> OTelSdkResult,
    ) {
        let mut ticks = interval(self.pushing.every);
        // What could not be pushed in time is in the next push.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is now, when nothing was counted yet.
        ticks.tick().await;
        let mut failing = false;
        loop {
            let stop = tokio::select! {
                biased;
                _ = stopping.wait_for(|stop| *stop) => true,
                _ = ticks.tick() => false,
            };
            failing = self.push(&export, failing).await;
            if stop {
                return;
            }
        }
    }

    /// Pushes once; whether that failed. The first failure after a success is said, the others are counted.
    async fn push(
        &self,
        export: &impl AsyncFn(&ResourceMetrics) -> OTelSdkResult,
        was_failing: bool,
    ) -> bool {
        let read = self.metrics.to_push();
        let error = match timeout(self.pushing.within, export(&read)).await {
            Ok(Ok(())) => {
                if was_failing {
                    tracing::info!(signal = SIGNAL, "the collector takes telemetry again");
                }
                return false;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the collector takes too long".to_owned(),
        };
        self.metrics.lost(SIGNAL, points(&read));
        self.metrics.export_failed(SIGNAL);
        if !was_failing {
            tracing::warn!(
                signal = SIGNAL,
                error,
                "the collector does not take telemetry; what is lost is counted"
            );
        }
        true
    }
}

fn exporter(to: &Destination) -> Result<MetricExporter, String> {
    let built = match to.protocol {
        Protocol::Grpc => grpc(MetricExporter::builder().with_tonic(), to)?.build(),
        Protocol::Http => http(MetricExporter::builder().with_http(), to, "v1/metrics")?.build(),
    };
    built.map_err(|error| error.to_string())
}

/// How many points were read: one for each series.
fn points(read: &ResourceMetrics) -> usize {
    read.scope_metrics().flat_map(ScopeMetrics::metrics).map(points_of).sum()
}

fn points_of(metric: &Metric) -> usize {
    fn count<T>(data: &MetricData<T>) -> usize {
        match data {
            MetricData::Gauge(gauge) => gauge.data_points().count(),
            MetricData::Sum(sum) => sum.data_points().count(),
            MetricData::Histogram(histogram) => histogram.data_points().count(),
            MetricData::ExponentialHistogram(histogram) => histogram.data_points().count(),
        }
    }
    match metric.data() {
        AggregatedMetrics::F64(data) => count(data),
        AggregatedMetrics::U64(data) => count(data),
        AggregatedMetrics::I64(data) => count(data),
    }
}

#[cfg(test)]
mod tests {
    use super::super::environment::Environment;
    use super::*;
    use opentelemetry_sdk::Resource;
    use opentelemetry_sdk::error::OTelSdkError;
    use opentelemetry_sdk::metrics::Temporality;
    use opentelemetry_sdk::metrics::data::SumDataPoint;
    use std::sync::Mutex;
    use std::time::Duration;

    const MINUTE: Duration = Duration::from_mins(1);

    fn push(temporality: Temporality) -> (Arc<Metrics>, Push) {
        let metrics = Arc::new(Metrics::told_as(Resource::builder_empty().build(), temporality));
        let pushing = Environment::new(&|_| None).pushing();
        (Arc::clone(&metrics), Push::new(&metrics, pushing))
    }

    /// Shadows as a push tells them.
    fn shadows(read: &ResourceMetrics) -> Option<u64> {
        let metrics = read.scope_metrics().flat_map(ScopeMetrics::metrics);
        let data = metrics.filter(|metric| metric.name() == "refrain.shadows").map(Metric::data).next()?;
        let AggregatedMetrics::U64(MetricData::Sum(sum)) = data else { return None };
        sum.data_points().map(SumDataPoint::value).next()
    }

    /// What three pushes tell, the last of them at the end.
    async fn told(temporality: Temporality) -> Vec<Option<u64>> {
        let (metrics, push) = push(temporality);
        let told = Arc::new(Mutex::new(Vec::new()));
        let keeps = Arc::clone(&told);
        let (stop, stopping) = watch::channel(false);
        let pushes = tokio::spawn(push.with(stopping, async move |read: &ResourceMetrics| {
            keeps.lock().unwrap().push(shadows(read));
            Ok(())
        }));
        for _ in 0..2 {
            metrics.shadowed();
            metrics.shadowed();
            tokio::time::sleep(MINUTE + Duration::from_millis(1)).await;
        }
        metrics.shadowed();
        stop.send_replace(true);
        pushes.await.unwrap();
        assert_eq!(metrics.totals().shadows, 5, "whatever a collector is told");
        told.lock().unwrap().clone()
    }

    #[tokio::test(start_paused = true)]
    async fn a_push_tells_all_since_the_start_or_what_came_since_the_last() {
        assert_eq!(told(Temporality::Cumulative).await, [Some(2), Some(4), Some(5)]);
        assert_eq!(told(Temporality::Delta).await, [Some(2), Some(2), Some(1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_collector_that_fails_or_never_answers_is_counted_and_tried_again() {
        let (metrics, push) = push(Temporality::Cumulative);
        let (stop, stopping) = watch::channel(false);
        let tries = Arc::new(Mutex::new(0));
        let counts = Arc::clone(&tries);
        let pushes = tokio::spawn(push.with(stopping, async move |_: &ResourceMetrics| {
            let number = {
                let mut tries = counts.lock().unwrap();
                *tries += 1;
                *tries
            };
            match number {
                1 => Err(OTelSdkError::InternalFailure("no".into())),
                2 => std::future::pending().await,
                _ => Ok(()),
            }
        }));
        // The second push takes the thirty seconds that it may.
        tokio::time::sleep(2 * MINUTE + Duration::from_secs(31)).await;
        let page = metrics.prometheus();
        assert!(page.contains("refrain_telemetry_failed_exports_total{signal=\"metrics\"} 2"), "{page}");
        assert!(!page.contains("refrain_telemetry_dropped_total{signal=\"metrics\"} 0"), "{page}");
        stop.send_replace(true);
        pushes.await.unwrap();
        assert_eq!(*tries.lock().unwrap(), 3, "and a last one at the end");
    }
}

//! What was counted, read: a page for Prometheus, points for a collector, sums for ourselves. All from the same counters.

use std::sync::{Arc, Weak};
use std::time::Duration;

use opentelemetry::InstrumentationScope;
use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{InstrumentKind, ManualReader, Pipeline, SdkMeterProvider, Temporality};
use prometheus::{Registry, TextEncoder};

use super::instruments::bounded;

/// The counters' other end. Each sidecar of a process has its own.
#[derive(Debug)]
pub(super) struct Readings {
    provider: SdkMeterProvider,
    registry: Registry,
    /// All since the start.
    since_start: Shared,
    /// What the collector is told: all since the start, or what came since it was last told.
    pushed: Shared,
}

/// A reader that we read as well as the SDK.
#[derive(Clone, Debug)]
struct Shared(Arc<dyn MetricReader>);

impl Readings {
    /// Nothing yet. `resource` and `temporality` are for the collector alone.
    pub(super) fn new(resource: Resource, temporality: Temporality) -> Self {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .without_target_info()
            .scope_info_enabled(false)
            .build()
            .expect("nothing is in a new registry that the exporter could collide with");
        let since_start = Shared(Arc::new(exporter));
        let provider = SdkMeterProvider::builder()
            .with_resource(resource)
            .with_view(bounded)
            .with_reader(since_start.clone());
        if temporality == Temporality::Cumulative {
            // One reader serves both: a second one would count everything twice over.
            let pushed = since_start.clone();
            return Self { provider: provider.build(), registry, since_start, pushed };
        }
        let pushed = Shared(Arc::new(ManualReader::builder().with_temporality(temporality).build()));
        let provider = provider.with_reader(pushed.clone()).build();
        Self { provider, registry, since_start, pushed }
    }

    /// What makes instruments.
    pub(super) fn meter(&self, scope: InstrumentationScope) -> Meter {
        self.provider.meter_with_scope(scope)
    }

    /// A page in Prometheus' text format (0.0.4).
    pub(super) fn page(&self) -> String {
        let mut page = String::new();
        // Writing to a string fails only at a family without a name or a sample, and there is none; what was written before it
        // is of use still.
        let _ = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut page);
        page
    }

    /// Everything since the start.
    pub(super) fn since_start(&self) -> ResourceMetrics {
        self.since_start.read()
    }

    /// What the collector is to be told now.
    pub(super) fn to_push(&self) -> ResourceMetrics {
        self.pushed.read()
    }
}

impl Shared {
    fn read(&self) -> ResourceMetrics {
        let mut read = ResourceMetrics::default();
        // It fails only once the provider is gone, which lives as long as this.
        let _ = self.0.collect(&mut read);
        read
    }
}

impl MetricReader for Shared {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }

    fn collect(&self, read: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(read)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        self.0.temporality(kind)
    }
}

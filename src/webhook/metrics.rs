//! What the webhook counts, as Prometheus reads it.

use prometheus::core::Collector;
use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};

use super::review::Verdict;

/// Why an instrument below can always be made: its name and its label are fixed and well formed, and no two are alike.
const SOUND: &str = "names are fixed, well formed and different";

/// Everything that is counted.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    reviews: IntCounterVec,
    /// Connections turned away, since too many were open.
    pub(super) refused: IntCounter,
    /// When the certificate that is served ends, in seconds since 1970.
    pub(super) expiry: Gauge,
    /// Whether the API server was told to trust the certificate that is served.
    pub(super) trusted: IntGauge,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let registry = Registry::new();
        let named = |name: &str, meaning: &str| Opts::new(name, meaning).namespace("refrain_webhook");
        let reviews = named("reviews_total", "Pods that the API server asked about");
        let reviews = IntCounterVec::new(reviews, &["outcome"]).expect(SOUND);
        for verdict in [Verdict::Patched, Verdict::Unchanged, Verdict::Refused, Verdict::Unreadable] {
            // So that a rate has a start.
            reviews.with_label_values(&[verdict.as_str()]).inc_by(0);
        }
        let refused = named("connections_refused_total", "Connections turned away, since too many were open");
        let expiry =
            named("certificate_expiry_timestamp_seconds", "When the certificate that is served ends");
        let trusted = named(
            "ca_bundle_current",
            "Whether the API server is told to trust the certificate that is served; always 1 where somebody else makes it",
        );
        let metrics = Self {
            reviews,
            refused: IntCounter::with_opts(refused).expect(SOUND),
            expiry: Gauge::with_opts(expiry).expect(SOUND),
            trusted: IntGauge::with_opts(trusted).expect(SOUND),
            registry,
        };
        let all: [Box<dyn Collector>; 4] = [
            Box::new(metrics.reviews.clone()),
            Box::new(metrics.refused.clone()),
            Box::new(metrics.expiry.clone()),
            Box::new(metrics.trusted.clone()),
        ];
        for instrument in all {
            metrics.registry.register(instrument).expect(SOUND);
        }
        metrics
    }

    pub(super) fn count(&self, verdict: Verdict) {
        self.reviews.with_label_values(&[verdict.as_str()]).inc();
    }

    /// A page in Prometheus' text format.
    pub(super) fn page(&self) -> String {
        // Fails only where an instrument has no name, and none is without.
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

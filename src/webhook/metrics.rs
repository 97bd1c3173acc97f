//! What the webhook counts, as Prometheus reads it.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::review::Verdict;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// Everything that is counted.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    reviews: Family<Outcome, Counter>,
    /// Connections turned away, since too many were open.
    pub(super) refused: Counter,
    /// When the certificate that is served ends, in seconds since 1970.
    pub(super) expiry: Gauge<f64, AtomicU64>,
    /// Whether the API server was told to trust the certificate that is served.
    pub(super) trusted: Gauge,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("refrain_webhook");
        let reviews = Family::<Outcome, Counter>::default();
        for verdict in [Verdict::Patched, Verdict::Unchanged, Verdict::Refused, Verdict::Unreadable] {
            // So that a rate has a start.
            drop(reviews.get_or_create(&Outcome { outcome: verdict.as_str() }));
        }
        let (refused, expiry, trusted) =
            (Counter::default(), Gauge::<f64, AtomicU64>::default(), Gauge::default());
        registry.register("reviews", "Pods that the API server asked about", reviews.clone());
        registry.register(
            "connections_refused",
            "Connections turned away, since too many were open",
            refused.clone(),
        );
        registry.register(
            "certificate_expiry_timestamp_seconds",
            "When the certificate that is served ends",
            expiry.clone(),
        );
        registry.register(
            "ca_bundle_current",
            "Whether the API server is told to trust the certificate that is served; always 1 where somebody else makes it",
            trusted.clone(),
        );
        Self { registry, reviews, refused, expiry, trusted }
    }

    pub(super) fn count(&self, verdict: Verdict) {
        self.reviews.get_or_create(&Outcome { outcome: verdict.as_str() }).inc();
    }

    /// A page of OpenMetrics.
    pub(super) fn page(&self) -> String {
        let mut page = String::new();
        // Writing to a String cannot fail.
        let _ = text::encode(&mut page, &self.registry);
        page
    }
}

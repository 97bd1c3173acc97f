//! A page of metrics: what is held at the moment of the scrape, and the older of the two formats.

use std::collections::HashSet;
use std::fmt::{Error, Write};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// What a store and its surroundings hold at the moment of a scrape.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stock {
    /// Sessions held, those of them established, and those suspected when they were last heard of.
    pub sessions: (usize, usize, usize),
    /// Anchors and ghosts held.
    pub entries: (usize, usize),
    /// Bytes held, and the most that may be.
    pub bytes: (usize, usize),
    /// What left the store, by reason.
    pub evictions: Vec<(&'static str, u64)>,
    /// Answers too large to keep.
    pub oversized: u64,
    /// Whether the model server says that it is ready.
    pub upstream_ready: bool,
    /// Whether the model server was reached past us.
    pub upstream_exposed: bool,
}

/// OpenMetrics into the older format: there a counter's family bears its `_total`, and units and the end go without saying.
pub(super) fn classic(page: &str) -> String {
    let counters: HashSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut classic = String::with_capacity(page.len());
    for line in page.lines().filter(|line| !line.starts_with("# UNIT ") && *line != "# EOF") {
        let mut words = line.splitn(4, ' ');
        let words = [words.next(), words.next(), words.next(), words.next()];
        let _ = match words {
            [Some("#"), Some(what), Some(name), Some(rest)] if counters.contains(name) => {
                writeln!(classic, "# {what} {name}_total {rest}")
            }
            _ => writeln!(classic, "{line}"),
        };
    }
    classic
}

/// What is held, as it was put here for the scrape under way.
#[derive(Clone, Debug, Default)]
pub(super) struct Shelf(Arc<Mutex<Stock>>);

impl Shelf {
    /// Puts what is held now where the next page finds it.
    pub(super) fn put(&self, stock: Stock) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = stock;
    }
}

impl Collector for Shelf {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let stock = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut gauges = |name: &str, help: &str, labels: &[(&'static str, &'static str, usize)]| {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (label, value, number) in labels {
                ConstGauge::new(*number as i64).encode(family.encode_family(&[(*label, *value)])?)?;
            }
            Ok::<_, Error>(())
        };
        let (anchors, ghosts) = stock.entries;
        gauges(
            "store_entries",
            "Rows remembered",
            &[("kind", "anchor", anchors), ("kind", "ghost", ghosts)],
        )?;
        gauges("build_info", "What runs", &[("version", env!("CARGO_PKG_VERSION"), 1)])?;
        let mut gauge = |name: &str, help: &str, number: usize| {
            let family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(number as i64).encode(family)
        };
        let (sessions, established, suspected) = stock.sessions;
        gauge("sessions_active", "Sessions held: callers with a past", sessions)?;
        gauge("sessions_established", "Sessions held that newcomers cannot push out", established)?;
        gauge(
            "suspected_callers",
            "Sessions that came too near their own past too often, as of the last call of each",
            suspected,
        )?;
        gauge("store_bytes", "Bytes of all that is remembered", stock.bytes.0)?;
        gauge("store_limit_bytes", "The most that may be remembered", stock.bytes.1)?;
        gauge("upstream_ready", "Whether the model server is ready", usize::from(stock.upstream_ready))?;
        let help = "Whether the model server answers past us, on the pod's own address";
        gauge("upstream_exposed", help, usize::from(stock.upstream_exposed))?;

        let help = "Sessions and anchors that left the store";
        let mut family = encoder.encode_descriptor("store_evictions", help, None, MetricType::Counter)?;
        for (reason, number) in &stock.evictions {
            ConstCounter::new(*number).encode(family.encode_family(&[("reason", *reason)])?)?;
        }
        let help = "Answers that were too large to keep";
        let family = encoder.encode_descriptor("oversized_answers", help, None, MetricType::Counter)?;
        ConstCounter::new(stock.oversized).encode(family)
    }
}

//! What is held at the moment of a reading, and the instruments that show it.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;

/// What a store and its surroundings hold at the moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stock {
    /// Sessions held, those of them established, and those suspected.
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
    /// How far apart replayed and forwarded replies are in time, 0..=1, for each model of which enough is known.
    pub gaps: Vec<(Arc<str>, f64)>,
}

/// What is held, taken once for each reading, so that its figures fit together.
#[derive(Clone, Default)]
pub(super) struct Shelf(Arc<Mutex<Option<Stock>>>);

/// Where a shelf is filled from; nothing once that is gone.
pub(super) type Source = OnceLock<Box<dyn Fn() -> Option<Stock> + Send + Sync>>;

impl Shelf {
    /// Puts what is held now where the reading under way finds it.
    pub(super) fn fill(&self, source: &Source) {
        let stock = source.get().and_then(|look| look());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = stock;
    }

    fn look<T>(&self, look: impl FnOnce(&Stock) -> T) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(look)
    }

    /// Shows it by instruments of `meter`, from now on and with every reading.
    pub(super) fn show(&self, meter: &Meter) {
        self.show_held(meter);
        let shelf = self.clone();
        let departures = meter.u64_observable_counter("refrain.store.evictions").with_unit("{entry}");
        departures
            .with_description("Sessions and anchors that left the store")
            .with_callback(move |shown| {
                shelf.look(|stock| {
                    for (reason, number) in &stock.evictions {
                        shown.observe(*number, &[KeyValue::new("reason", *reason)]);
                    }
                });
            })
            .build();
        let shelf = self.clone();
        let oversized = meter.u64_observable_counter("refrain.oversized_answers").with_unit("{answer}");
        oversized
            .with_description("Answers that were too large to keep")
            .with_callback(move |shown| {
                shelf.look(|stock| shown.observe(stock.oversized, &[]));
            })
            .build();
        let whether = |name: &'static str, meaning: &'static str, is: fn(&Stock) -> bool| {
            let shelf = self.clone();
            let gauge = meter.u64_observable_gauge(name).with_description(meaning);
            gauge
                .with_callback(move |shown| {
                    shelf.look(|stock| shown.observe(u64::from(is(stock)), &[]));
                })
                .build();
        };
        whether("refrain.upstream.ready", "Whether the model server is ready", |stock| stock.upstream_ready);
        whether(
            "refrain.upstream.exposed",
            "Whether the model server answers past us, on the pod's own address",
            |stock| stock.upstream_exposed,
        );
        let shelf = self.clone();
        let gap = meter.f64_observable_gauge("refrain.hiding.gap");
        gap.with_description(
            "Kolmogorov-Smirnov distance of replayed from forwarded replies' durations, the worst of a model's strata",
        )
        .with_callback(move |shown| {
            shelf.look(|stock| {
                for (model, gap) in &stock.gaps {
                    shown.observe(*gap, &[KeyValue::new("model", Arc::clone(model))]);
                }
            });
        })
        .build();
        let build = meter.u64_observable_gauge("refrain.build.info").with_description("What runs");
        build
            .with_callback(|shown| shown.observe(1, &[KeyValue::new("version", env!("CARGO_PKG_VERSION"))]))
            .build();
    }

    /// What rises and falls, and may be added up over sidecars.
    fn show_held(&self, meter: &Meter) {
        let held =
            |name: &'static str, unit: &'static str, meaning: &'static str, figure: fn(&Stock) -> usize| {
                let shelf = self.clone();
                let shown =
                    meter.i64_observable_up_down_counter(name).with_unit(unit).with_description(meaning);
                shown
                    .with_callback(move |shown| {
                        shelf.look(|stock| shown.observe(figure(stock) as i64, &[]));
                    })
                    .build();
            };
        held("refrain.sessions.active", "{session}", "Sessions held: callers with a past", |stock| {
            stock.sessions.0
        });
        held(
            "refrain.sessions.established",
            "{session}",
            "Sessions held that newcomers cannot push out",
            |stock| stock.sessions.1,
        );
        held(
            "refrain.suspected_callers",
            "{session}",
            "Sessions that came too near their own past too often, and are not forgiven yet",
            |stock| stock.sessions.2,
        );
        held("refrain.store.usage", "By", "Bytes of all that is remembered", |stock| stock.bytes.0);
        held("refrain.store.limit", "By", "The most that may be remembered", |stock| stock.bytes.1);
        let shelf = self.clone();
        let entries = meter.i64_observable_up_down_counter("refrain.store.entries").with_unit("{entry}");
        entries
            .with_description("Rows remembered")
            .with_callback(move |shown| {
                shelf.look(|stock| {
                    let (anchors, ghosts) = stock.entries;
                    for (kind, number) in [("anchor", anchors), ("ghost", ghosts)] {
                        shown.observe(number as i64, &[KeyValue::new("kind", kind)]);
                    }
                });
            })
            .build();
    }
}

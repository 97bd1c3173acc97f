//! The times of forwarded and held replies: one plot with both, and their quantiles.

use std::time::Duration;

use super::chart::{Axis, Tick, area, grid, line, outline};
use crate::demo::latency::{Histogram, Latency, quantile};
use crate::demo::report::words;

/// Steps of the plot.
const STEPS: usize = 28;

/// What the page says of times; numbers are milliseconds.
pub(super) struct Times {
    pub(super) timed: String,
    pub(super) apart: String,
    pub(super) step: String,
    pub(super) x: Vec<Tick>,
    pub(super) y: Vec<Tick>,
    pub(super) grid: String,
    pub(super) forwarded: Distribution,
    pub(super) held: Distribution,
}

/// One of the two.
pub(super) struct Distribution {
    pub(super) low: String,
    pub(super) median: String,
    pub(super) high: String,
    pub(super) outline: String,
    pub(super) area: String,
}

impl Times {
    pub(super) fn of(latency: &Latency) -> Self {
        let Histogram { least, step, forwarded, held } = latency.histogram(STEPS);
        let (from, step) = (millis(least), millis(step));
        let tallest = forwarded.iter().chain(&held).copied().max().unwrap_or_default();
        let x = Axis::new(from, from + step * STEPS as f64);
        let y = Axis::up_to(f64::from(tallest));
        let distribution = |sorted: &[Duration], counts: &[u32]| {
            let [low, median, high] =
                [0.1, 0.5, 0.9].map(|share| format!("{:.2}", millis(quantile(sorted, share))));
            let corners = outline(counts, from, step);
            let outline = line(&corners, x, y);
            Distribution { low, median, high, outline, area: area(&corners, &[], x, y) }
        };
        let digits = x.digits();
        Self {
            timed: words::timed(latency),
            apart: words::apart(latency),
            step: format!("{step:.2}"),
            x: x.ticks(|value| format!("{value:.digits$} ms")),
            y: y.ticks(|value| format!("{value:.0}")),
            grid: grid(y),
            forwarded: distribution(&latency.forwarded, &forwarded),
            held: distribution(&latency.held, &held),
        }
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

//! When a reply leaves: a replayed one after the time that the model would have taken, a forwarded one at once, or on the grid.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::call::Call;
use super::predict::Predictor;
use super::read::Asked;
use crate::session::Store;
use crate::timing::{Gaps, Grids, Latencies, Load, Mode, Pacer, Stratum, about, uniform};

/// What is known of time, and what waits for it.
pub(super) struct Times {
    /// How long forwarded calls took.
    pub(super) latencies: Latencies,
    /// The moments at which replies leave under `bucket`.
    pub(super) grids: Grids,
    /// How far apart the two paths turned out to be.
    pub(super) gaps: Gaps,
    /// Waits for a moment.
    pub(super) pacer: Arc<dyn Pacer>,
}

impl Times {
    /// Nothing known yet.
    pub(super) fn new(pacer: Arc<dyn Pacer>) -> Self {
        Self { latencies: Latencies::new(), grids: Grids::new(), gaps: Gaps::new(), pacer }
    }
}

/// What decides how long one call may take, fixed before anybody is asked for it.
pub(super) struct Occasion {
    pub(super) mode: Mode,
    stratum: Stratum,
    load: Load,
    /// Thrown once: who draws again draws the larger of two.
    dice: f64,
    /// None where too little is known.
    target: Option<Duration>,
}

/// How a reply came about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The model answered every row.
    Forwarded,
    /// The model was asked for every row, and its answers dropped.
    Shadowed,
    /// The model refused, or could not be asked.
    Failed,
}

impl<S: Store> Predictor<S> {
    /// The occasion of a call whose rows are ruled and of which nobody has been asked yet.
    pub(super) fn occasion(&self, call: &Call, asked: &Asked) -> Occasion {
        let version = asked.model.version_served(asked.query.version());
        let rows = asked.query.rows() as u32;
        let model = Arc::clone(&asked.model.view);
        let stratum = Stratum::new(call.rpc.path(), model, version, rows, asked.query.bytes());
        let load = Load::of(self.upstream.asking());
        // A number that no caller can predict; without any, the middle is the best guess.
        let dice = getrandom::u64().map_or(0.5, uniform);
        let mode = asked.model.settings.timing;
        let target = self.times.latencies.drawn(mode, &stratum, load, dice);
        Occasion { mode, stratum, load, dice, target }
    }

    /// Lets a reply go of which the model was asked for every row: at once, but on the grid under `bucket`.
    pub(super) async fn let_go(&self, call: &Call, occasion: &Occasion, origin: Origin) {
        let took = call.arrived.elapsed();
        if origin != Origin::Failed {
            self.times.latencies.record(&occasion.stratum, occasion.load, took);
        }
        if occasion.mode == Mode::Bucket {
            let grids = &self.times.grids;
            let leaves = match origin {
                Origin::Failed => grids.failed(&occasion.stratum, took),
                Origin::Forwarded | Origin::Shadowed => {
                    grids.forwarded(&occasion.stratum, call.arrived, took)
                }
            };
            self.wait(call, leaves).await;
        }
        if origin != Origin::Failed {
            let took = call.arrived.elapsed();
            self.times.gaps.record(&occasion.stratum, origin == Origin::Shadowed, took);
        }
    }

    /// Holds a reply of which some row was ruled a replay. `anchor` is how long the model took for the answer that is given,
    /// where all of it is replayed and that is known.
    pub(super) async fn hold(&self, call: &Call, occasion: &Occasion, anchor: Option<Duration>) {
        let guess = || anchor.map(|took| about(took, occasion.dice));
        let target = occasion.target.or_else(guess).unwrap_or_default();
        let leaves = match occasion.mode {
            // What is ready later than its target leaves on the grid all the same.
            Mode::Bucket => {
                let ready = target.max(call.arrived.elapsed());
                self.times.grids.replayed(&occasion.stratum, call.arrived, ready)
            }
            _ => target,
        };
        self.wait(call, leaves).await;
        if anchor.is_some() {
            self.times.gaps.record(&occasion.stratum, true, call.arrived.elapsed());
        }
    }

    /// Waits until `target` after the call came.
    async fn wait(&self, call: &Call, target: Duration) {
        let (began, moment) = (Instant::now(), call.arrived + target);
        let part = (moment > began).then(|| call.noted.part("hold"));
        self.times.pacer.until(moment).await;
        drop(part);
        let held = began.elapsed();
        let late = moment.elapsed();
        self.telemetry.metrics.held(held, (moment > began).then_some(late), !target.is_zero());
        call.noted.spent_elsewhere(held);
        call.noted.set("refrain.delay.added", held);
    }
}

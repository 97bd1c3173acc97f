//! When a reply leaves: a replayed one after the time that the model would have taken, a forwarded one at once, or on the grid.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::call::Call;
use super::predict::Predictor;
use super::read::Asked;
use super::upstream::UnderWay;
use crate::session::Store;
use crate::timing::{Gaps, Grids, Latencies, Mode, Moment, Pacer, Stratum, Target, Work, about, uniform};

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
    moment: Moment,
    /// Thrown once: who draws again draws the larger of two.
    dice: f64,
    /// When a reply leaves that nobody is asked for; none where it is not drawn yet, since most likely it is not needed.
    target: Option<Target>,
    /// The call itself, where the model is asked for every row of it.
    under_way: Option<UnderWay>,
}

impl Occasion {
    /// The call itself as it counts among those that the model is asked for, where it does already. At most once.
    pub(super) fn take_under_way(&mut self) -> Option<UnderWay> {
        self.under_way.take()
    }

    /// Whether the model's own time hides a replay better than any that can be given to it: by the operator's choice, and as long as too
    /// few calls of the stratum are known, since a time that is guessed would tell. Asking for it makes them known.
    pub(super) fn is_best_shadowed(&self) -> bool {
        match self.mode {
            Mode::Shadow => true,
            Mode::Sample | Mode::Bucket => matches!(self.target, Some(Target::Guessed(_))),
            Mode::Mean | Mode::Off => false,
        }
    }
}

/// A call that waits for the model's answer to every row; if that is dropped, it was cut.
struct Cut<'a> {
    latencies: &'a Latencies,
    occasion: &'a Occasion,
    arrived: Instant,
    over: bool,
}

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        if !self.over {
            let Occasion { stratum, moment, .. } = self.occasion;
            self.latencies.record_cut(stratum, *moment, self.arrived.elapsed());
        }
    }
}

/// How a reply came about for which the model was asked for every row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// It is the model's.
    Forwarded,
    /// The model's answers were dropped: all of them, or those of the rows that were ruled a replay.
    Shadowed { whole: bool },
    /// It says nothing of how long answers take: the model refused or could not be asked, or another call was waited for.
    Odd,
}

impl<S: Store> Predictor<S> {
    /// The occasion of a call whose rows are ruled and of which nobody has been asked yet. Its time is drawn only where some row
    /// is to be replayed and the model is not to be asked in any case: no other reply waits for it, and a shadow that asks later than a new
    /// picture's call would tell itself.
    pub(super) fn occasion(&self, call: &Call, asked: &Asked, replays: bool) -> Occasion {
        let query = &asked.query;
        let (burden, is_typed) = (query.burden(), query.is_typed());
        // The server opens what is compressed, and reads typed values one by one.
        let is_compressed = call.frame.bytes.first().is_some_and(|flag| *flag != 0);
        let written = u64::from(is_typed) << 2 | if is_compressed { call.encoding as u64 } else { 0 };
        let stratum = Stratum {
            method: call.rpc.path(),
            model: Arc::clone(&asked.model.view),
            version: asked.model.version_served(query.version()).into(),
            rows: query.rows() as u32,
            work: Work::new(burden.tensors, burden.files, burden.pixels),
            form: query.form(&self.key).rotate_left(3) ^ written,
        };
        let latencies = &self.times.latencies;
        let (mode, past) = (asked.model.settings.timing, latencies.past(&stratum));
        let after = |asking| Moment::of(asking, call.live.held.in_use(), past);
        if !replays {
            let (under_way, asking) = self.upstream.begin();
            let moment = after(asking);
            return Occasion { mode, stratum, moment, dice: 0.5, target: None, under_way: Some(under_way) };
        }
        // A number that no caller can predict; without any, the middle is the best guess.
        let dice = getrandom::u64().map_or(0.5, uniform);
        let moment = after(self.upstream.asking());
        let mut occasion = Occasion { mode, stratum, moment, dice, target: None, under_way: None };
        if mode != Mode::Shadow {
            occasion.target = Some(self.drawn(call, &occasion));
        }
        occasion
    }

    fn drawn(&self, call: &Call, occasion: &Occasion) -> Target {
        let Occasion { mode, stratum, moment, dice, .. } = occasion;
        let patience = call.deadline.map(|deadline| deadline.saturating_duration_since(call.arrived));
        self.times.latencies.drawn(*mode, stratum, *moment, *dice, patience)
    }

    /// What comes of asking the model for every row; where the call ends before that, by its deadline or its caller, it is known at
    /// least that it would have taken longer.
    pub(super) async fn asking<T>(
        &self,
        call: &Call,
        occasion: &Occasion,
        asks: impl Future<Output = T>,
    ) -> T {
        let mut cut = Cut { latencies: &self.times.latencies, occasion, arrived: call.arrived, over: false };
        let asked = asks.await;
        cut.over = true;
        asked
    }

    /// Lets a reply go of which the model was asked for every row: at once, but on the grid under `bucket`.
    pub(super) async fn let_go(&self, call: &Call, occasion: &Occasion, origin: Origin) {
        let took = call.arrived.elapsed();
        if origin != Origin::Odd {
            self.times.latencies.record(&occasion.stratum, occasion.moment, took);
        }
        if occasion.mode == Mode::Bucket {
            let grids = &self.times.grids;
            let leaves = match origin {
                Origin::Odd => grids.failed(&occasion.stratum, took),
                Origin::Forwarded | Origin::Shadowed { .. } => {
                    grids.forwarded(&occasion.stratum, call.arrived, took)
                }
            };
            self.wait(call, leaves).await;
        }
        let replayed = match origin {
            Origin::Forwarded => false,
            Origin::Shadowed { whole: true } => true,
            Origin::Shadowed { whole: false } | Origin::Odd => return,
        };
        self.times.gaps.record(&occasion.stratum, replayed, call.arrived.elapsed());
    }

    /// Holds a reply of which some row was ruled a replay, as long as the whole call would have taken.
    ///
    /// `anchor` is how long the model took for the answers that are given, where every row has one from memory. Only such a call is
    /// measured; and none of those that come here is ever drawn from.
    pub(super) async fn hold(&self, call: &Call, occasion: &Occasion, anchor: Option<Duration>) {
        let target = match occasion.target.unwrap_or_else(|| self.drawn(call, occasion)) {
            Target::Drawn(target) | Target::Guessed(Some(target)) => target,
            Target::Guessed(None) => anchor.map(|took| about(took, occasion.dice)).unwrap_or_default(),
        };
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

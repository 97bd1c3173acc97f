//! The moments at which replies leave under `bucket`: multiples of a step that doubles when a forwarded reply misses it.
//!
//! Each stratum has a step, a power of two times 125 us, and every reply of it leaves at a multiple of that step after its request
//! came. A forwarded reply that is not ready after one step doubles it for those that come later; every ten minutes the step is
//! chosen anew, as the least that 99 of 100 forwarded replies of that time would have met.
//!
//! What this leaks: of one reply, which multiple it left at, and multiples beyond the first are as likely for replayed replies, whose
//! targets are drawn before they are put on the grid. Of all replies together, the steps: each change is one of at most
//! [`STEPS`] and says how long some forwarded call took at most. [`Grids::changes`] counts them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Stratum;
use super::recent::Recent;

/// The finest step.
const FINEST: Duration = Duration::from_micros(125);
/// Steps to choose from: the coarsest is some 17 minutes.
const STEPS: usize = 24;
/// How long a step serves before it is chosen anew.
const EPOCH: Duration = Duration::from_mins(10);
/// Fewer forwarded replies than these do not choose a step anew.
const ENOUGH: u32 = 100;
/// Strata with a grid; a caller chooses rows and sizes.
const STRATA: usize = 4096;

/// The grids of all strata. One mutex: a look is well under a microsecond.
pub struct Grids {
    known: Mutex<Recent<Stratum, Grid>>,
}

#[derive(Default)]
struct Grid {
    /// The exponent of the step; none before the first forwarded reply.
    step: Option<usize>,
    /// When the step was last changed.
    changed: Option<Instant>,
    /// When the counting below began.
    began: Option<Instant>,
    /// Forwarded replies of this epoch by the least step that they would have met.
    met: [u32; STEPS],
    changes: u64,
}

impl Default for Grids {
    fn default() -> Self {
        Self::new()
    }
}

impl Grids {
    /// No grid yet.
    pub fn new() -> Self {
        Self { known: Mutex::new(Recent::new(STRATA)) }
    }

    /// When a forwarded reply leaves that was ready `took` after its request came at `arrived`: as long after that.
    pub fn forwarded(&self, stratum: &Stratum, arrived: Instant, took: Duration) -> Duration {
        let now = Instant::now();
        let mut known = self.known();
        let grid = known.record(stratum);
        grid.count(took, now);
        let step = *grid.step.get_or_insert(least(took));
        // One slow moment that many calls share doubles the step once.
        if took > step_of(step) && grid.changed.is_none_or(|changed| arrived >= changed) && step + 1 < STEPS {
            grid.change(step + 1, now);
        }
        on_grid(took, grid.step.unwrap_or(step))
    }

    /// When a replayed reply leaves whose target is `target`: as long after its request came.
    pub fn replayed(&self, stratum: &Stratum, target: Duration) -> Duration {
        let step = self.known().get(stratum).and_then(|grid| grid.step);
        on_grid(target, step.unwrap_or_else(|| least(target)))
    }

    /// How often the step of some stratum changed: all that the grids as a whole tell.
    pub fn changes(&self) -> u64 {
        self.known().iter().map(|(_, grid)| grid.changes).sum()
    }

    fn known(&self) -> MutexGuard<'_, Recent<Stratum, Grid>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Grid {
    fn count(&mut self, took: Duration, now: Instant) {
        let began = *self.began.get_or_insert(now);
        if now.duration_since(began) >= EPOCH {
            let all: u32 = self.met.iter().sum();
            if all >= ENOUGH {
                let mut met = 0;
                let enough = |count: &u32| {
                    met += count;
                    met >= all - all / 100
                };
                let step = self.met.iter().position(enough).unwrap_or(STEPS - 1);
                if self.step != Some(step) {
                    self.change(step, now);
                }
            }
            (self.began, self.met) = (Some(now), [0; STEPS]);
        }
        self.met[least(took)] += 1;
    }

    fn change(&mut self, step: usize, now: Instant) {
        (self.step, self.changed) = (Some(step), Some(now));
        self.changes += 1;
    }
}

fn step_of(exponent: usize) -> Duration {
    FINEST * (1 << exponent.min(STEPS - 1))
}

/// The least step that lasts as long as `took`.
fn least(took: Duration) -> usize {
    (0..STEPS).find(|&exponent| step_of(exponent) >= took).unwrap_or(STEPS - 1)
}

/// The first multiple of a step that is not before `ready`, and never none.
fn on_grid(ready: Duration, exponent: usize) -> Duration {
    let step = step_of(exponent).as_nanos();
    let multiples = ready.as_nanos().div_ceil(step).max(1);
    Duration::from_nanos(u64::try_from(multiples * step).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn stratum() -> Stratum {
        Stratum::new("ask", "model", "1", 1, 3000)
    }

    #[tokio::test(start_paused = true)]
    async fn both_paths_leave_at_multiples_of_one_step() {
        let grids = Grids::new();
        assert_eq!(
            grids.replayed(&stratum(), ms(5)),
            ms(8),
            "before any forward: the least step that holds it"
        );
        assert_eq!(grids.forwarded(&stratum(), Instant::now(), ms(9)), ms(16));
        for (target, leaves) in [(0, 16), (1, 16), (16, 16), (17, 32), (40, 48)] {
            assert_eq!(grids.replayed(&stratum(), ms(target)), ms(leaves), "{target}");
        }
        assert_eq!(grids.changes(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_missed_step_doubles_once_for_all_calls_of_one_slow_moment() {
        let grids = Grids::new();
        let arrived = Instant::now();
        grids.forwarded(&stratum(), arrived, ms(9));
        tokio::time::advance(ms(1000)).await;
        for _ in 0..10 {
            grids.forwarded(&stratum(), arrived, ms(1000));
        }
        assert_eq!(grids.replayed(&stratum(), ms(1)), ms(32));
        assert_eq!(grids.changes(), 1);
        let later = Instant::now();
        tokio::time::advance(ms(40)).await;
        assert_eq!(grids.forwarded(&stratum(), later, ms(40)), ms(64));
        assert_eq!(grids.changes(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn each_epoch_chooses_the_step_that_nearly_all_would_have_met() {
        let grids = Grids::new();
        grids.forwarded(&stratum(), Instant::now(), ms(900));
        assert_eq!(grids.replayed(&stratum(), ms(1)), ms(1024), "the first call warmed the model up");
        for _ in 0..200 {
            grids.forwarded(&stratum(), Instant::now(), ms(7));
        }
        assert_eq!(grids.replayed(&stratum(), ms(1)), ms(1024));
        tokio::time::advance(EPOCH).await;
        grids.forwarded(&stratum(), Instant::now(), ms(7));
        assert_eq!(grids.replayed(&stratum(), ms(1)), ms(8));
    }

    #[tokio::test(start_paused = true)]
    async fn no_duration_is_too_long_for_the_grid() {
        let grids = Grids::new();
        let hours = Duration::from_hours(5);
        assert!(grids.forwarded(&stratum(), Instant::now(), hours) >= hours);
        assert!(grids.replayed(&stratum(), Duration::MAX) >= hours);
        assert!(grids.replayed(&stratum(), Duration::ZERO) > Duration::ZERO);
    }
}

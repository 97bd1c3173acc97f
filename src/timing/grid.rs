//! The moments at which replies leave under `bucket`: multiples of a step that doubles when a forwarded reply misses it.
//!
//! Each stratum has a step, a power of two times 125 us, and every reply of it leaves at a multiple of that step after its request
//! came. Where more than one in a hundred is not ready after one step, it doubles for those that come later, whichever path they
//! take; every ten minutes the step is chosen anew, as the least that 99 of 100 forwarded replies would have met.
//!
//! What this leaks: of one reply, which multiple it left at, and multiples beyond the first are as likely for replayed replies, whose
//! targets are drawn before they are put on the grid and which move it as forwarded ones do. Of all replies together, the steps:
//! each change is one of at most [`STEPS`] and says how long some calls took at most. [`Grids::changes`] counts them. One step serves
//! all callers: who makes more than one call in a hundred slow makes the others wait, as he does where they share the model.

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
    /// Replies of either path since the last change, and those of them that missed the step.
    left: u32,
    missed: u32,
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
        grid.leaves(arrived, took, now)
    }

    /// The same of a replayed reply whose target is `target`.
    pub fn replayed(&self, stratum: &Stratum, arrived: Instant, target: Duration) -> Duration {
        self.known().record(stratum).leaves(arrived, target, Instant::now())
    }

    /// The same of a reply that says nothing of how long answers take.
    pub fn failed(&self, stratum: &Stratum, took: Duration) -> Duration {
        let step = self.known().get(stratum).and_then(|grid| grid.step);
        on_grid(took, step.unwrap_or_else(|| least(took)))
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
        let all: u32 = self.met.iter().sum();
        // A stratum that is asked rarely has longer epochs.
        if now.duration_since(began) >= EPOCH && all >= ENOUGH {
            let mut met = 0;
            let enough = |count: &u32| {
                met += count;
                met >= all - all / 100
            };
            let step = self.met.iter().position(enough).unwrap_or(STEPS - 1);
            if self.step != Some(step) {
                self.change(step, now);
            }
            (self.began, self.met) = (Some(now), [0; STEPS]);
        }
        self.met[least(took)] += 1;
    }

    /// When a reply leaves, by the step under which its request came as far as that is still known; it moves the step of later ones.
    fn leaves(&mut self, arrived: Instant, ready: Duration, now: Instant) -> Duration {
        let step = *self.step.get_or_insert_with(|| least(ready));
        let leaves = on_grid(ready, step);
        self.left = self.left.saturating_add(1);
        // One slow moment that many calls share counts once.
        if ready > step_of(step) && self.changed.is_none_or(|changed| arrived >= changed) {
            self.missed += 1;
            if u64::from(self.missed) * 100 > u64::from(self.left) && step + 1 < STEPS {
                self.change(step + 1, now);
            }
        }
        leaves
    }

    fn change(&mut self, step: usize, now: Instant) {
        (self.step, self.changed) = (Some(step), Some(now));
        (self.left, self.missed) = (0, 0);
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
    use super::super::Work;
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn stratum() -> Stratum {
        Stratum {
            method: "ask",
            model: "model".into(),
            version: "1".into(),
            rows: 1,
            work: Work::default(),
            form: 0,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn both_paths_leave_at_multiples_of_one_step_and_move_it_alike() {
        for forwards in [true, false] {
            let grids = Grids::new();
            let leaves = |ready| {
                let (arrived, ready) = (Instant::now(), ms(ready));
                if forwards {
                    grids.forwarded(&stratum(), arrived, ready)
                } else {
                    grids.replayed(&stratum(), arrived, ready)
                }
            };
            assert_eq!((leaves(9), leaves(1), leaves(16)), (ms(16), ms(16), ms(16)));
            assert_eq!(leaves(40), ms(48), "by the step under which it came");
            assert_eq!((leaves(1), leaves(33)), (ms(32), ms(64)), "and later ones by a doubled one");
            assert_eq!(grids.changes(), 2);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_miss_in_more_than_a_hundred_moves_nothing() {
        let grids = Grids::new();
        for _ in 0..250 {
            grids.forwarded(&stratum(), Instant::now(), ms(7));
        }
        for _ in 0..2 {
            assert_eq!(grids.forwarded(&stratum(), Instant::now(), ms(900)), ms(904));
            assert_eq!(grids.replayed(&stratum(), Instant::now(), ms(1)), ms(8));
        }
        assert_eq!(grids.failed(&stratum(), ms(5000)), ms(5000));
        assert_eq!(grids.changes(), 0);
        grids.replayed(&stratum(), Instant::now(), ms(900));
        assert_eq!(grids.changes(), 1, "three of some 250 are more than one in a hundred");
    }

    #[tokio::test(start_paused = true)]
    async fn all_calls_of_one_slow_moment_double_the_step_once() {
        let grids = Grids::new();
        let arrived = Instant::now();
        grids.forwarded(&stratum(), arrived, ms(9));
        tokio::time::advance(ms(1000)).await;
        for _ in 0..10 {
            grids.forwarded(&stratum(), arrived, ms(1000));
        }
        assert_eq!(grids.replayed(&stratum(), Instant::now(), ms(1)), ms(32));
        assert_eq!(grids.changes(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn each_epoch_chooses_the_step_that_nearly_all_would_have_met() {
        let grids = Grids::new();
        let step = || grids.failed(&stratum(), ms(1));
        grids.forwarded(&stratum(), Instant::now(), ms(900));
        assert_eq!(step(), ms(1024), "the first call warmed the model up");
        for _ in 0..60 {
            grids.forwarded(&stratum(), Instant::now(), ms(7));
        }
        tokio::time::advance(EPOCH).await;
        grids.forwarded(&stratum(), Instant::now(), ms(7));
        assert_eq!(step(), ms(1024), "too few to choose by, and none is forgotten");
        for _ in 0..60 {
            grids.forwarded(&stratum(), Instant::now(), ms(7));
        }
        assert_eq!(step(), ms(8));
    }

    #[tokio::test(start_paused = true)]
    async fn no_duration_is_too_long_for_the_grid() {
        let grids = Grids::new();
        let hours = Duration::from_hours(5);
        assert!(grids.forwarded(&stratum(), Instant::now(), hours) >= hours);
        assert!(grids.replayed(&stratum(), Instant::now(), Duration::MAX) >= hours);
        assert!(grids.replayed(&stratum(), Instant::now(), Duration::ZERO) > Duration::ZERO);
    }
}

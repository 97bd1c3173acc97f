//! How long forwarded calls took lately, per stratum and load, per stratum, and per model.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::recent::{Recent, Ring};
use super::target::{draw, mean};
use super::{Load, Mode, Stratum};

/// Durations kept of each stratum: enough for a distribution, few enough to follow a server that warms up or slows down. Who
/// normalises by his own recent calls tells the last 128 from the present (AUC 0.60 in simulation), the last 32 hardly (0.51).
const RING: usize = 32;
/// Fewer than these say too little of a distribution, so a wider pool is asked.
const ENOUGH: usize = 16;
/// Older than this says little of now, so a wider pool is asked as long as that has newer ones.
const FRESH: Duration = Duration::from_mins(10);
/// Strata remembered; a caller chooses rows and sizes, so the one recorded longest ago leaves.
const STRATA: usize = 4096;
/// Models and versions with a pool.
const POOLS: usize = 1024;

/// Recent durations of forwarded calls, arrival of the complete request to the reply's write.
///
/// Record calls that were forwarded whole and answered, nothing else: what was held would feed its own target.
/// One mutex: recording and drawing are well under a microsecond each.
pub struct Latencies {
    known: Mutex<Known>,
}

type Durations = Ring<(Instant, Duration), RING>;

struct Known {
    under_load: Recent<(Stratum, Load), Durations>,
    strata: Recent<Stratum, Durations>,
    pools: Recent<Pool, Durations>,
}

/// One model and version, however it is asked.
type Pool = (Arc<str>, Arc<str>);

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

impl Latencies {
    /// Nothing known yet.
    pub fn new() -> Self {
        let known =
            Known { under_load: Recent::new(STRATA), strata: Recent::new(STRATA), pools: Recent::new(POOLS) };
        Self { known: Mutex::new(known) }
    }

    /// Takes in how long a forwarded call took that came under this load.
    pub fn record(&self, stratum: &Stratum, load: Load, took: Duration) {
        let sample = (Instant::now(), took);
        let mut known = self.known();
        known.under_load.record(&(stratum.clone(), load)).push(sample);
        known.strata.record(stratum).push(sample);
        known.pools.record(&pool(stratum)).push(sample);
    }

    /// How long an answer of this stratum shall take, from the arrival of its request; `dice` is uniform in 0..1, thrown once for
    /// each call.
    ///
    /// From the last 32 durations of the stratum under this load; where fewer than 16 of the last ten minutes are known, of the
    /// stratum under any; where these are too few as well, of the same model and version with any number of rows; then from older
    /// ones in the same order. None where all are fewer than 16: then the anchor's own time is all that is left.
    pub fn drawn(&self, mode: Mode, stratum: &Stratum, load: Load, dice: f64) -> Option<Duration> {
        let choose: &dyn Fn(&[Duration]) -> Option<Duration> = match mode {
            Mode::Off => return Some(Duration::ZERO),
            Mode::Sample | Mode::Bucket | Mode::Shadow => &|samples| draw(samples, dice),
            Mode::Mean => &mean,
        };
        let known = self.known();
        let pools = [
            known.under_load.get(&(stratum.clone(), load)),
            known.strata.get(stratum),
            known.pools.get(&pool(stratum)),
        ];
        let fresh = Instant::now().checked_sub(FRESH);
        let newer = |than: Option<Instant>| {
            pools.iter().flatten().find_map(|durations| {
                let newer = durations.items().iter().filter(|(at, _)| than.is_none_or(|than| *at >= than));
                let newer: Vec<Duration> = newer.map(|(_, took)| *took).collect();
                (newer.len() >= ENOUGH).then_some(newer)
            })
        };
        newer(fresh).or_else(|| newer(None)).and_then(|samples| choose(&samples))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pool(stratum: &Stratum) -> Pool {
    (Arc::clone(&stratum.model), Arc::clone(&stratum.version))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Load = Load(0);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn stratum(rows: u32) -> Stratum {
        Stratum::new("ask", "model", "1", rows, 3000)
    }

    fn record(latencies: &Latencies, stratum: &Stratum, range: std::ops::Range<u64>) {
        // Far apart, so that nothing between them is drawn.
        range.for_each(|i| latencies.record(stratum, IDLE, ms(2u64.pow(i as u32))));
    }

    /// The powers of every value that can be drawn, in order.
    fn all(latencies: &Latencies, stratum: &Stratum, load: Load) -> Vec<u64> {
        let dice = (0..3200).map(|i| f64::from(i) / 3200.0);
        let mut drawn: Vec<u64> = dice
            .filter_map(|dice| latencies.drawn(Mode::Sample, stratum, load, dice))
            .map(|drawn| u64::from((drawn.as_millis() as u64).ilog2()))
            .collect();
        drawn.dedup();
        drawn
    }

    #[tokio::test(start_paused = true)]
    async fn a_stratum_draws_from_its_last_32() {
        let latencies = Latencies::new();
        record(&latencies, &stratum(1), 0..50);
        assert_eq!(all(&latencies, &stratum(1), IDLE), (18..50).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn too_few_fall_back_to_any_load_then_to_the_models_pool_and_then_to_nothing() {
        let latencies = Latencies::new();
        record(&latencies, &stratum(1), 0..15);
        assert!(all(&latencies, &stratum(1), IDLE).is_empty(), "15 are too few, in the pool as well");
        record(&latencies, &stratum(8), 20..21);
        assert_eq!(all(&latencies, &stratum(1), IDLE).len(), 16, "the pool has 16 of any rows");
        assert_eq!(all(&latencies, &stratum(64), IDLE).len(), 16, "and serves strata never seen");
        let other = Stratum::new("ask", "model", "2", 1, 3000);
        assert!(all(&latencies, &other, IDLE).is_empty(), "another version has a pool of its own");
        record(&latencies, &stratum(1), 15..16);
        let own: Vec<u64> = (0..16).collect();
        assert_eq!(all(&latencies, &stratum(1), IDLE), own, "16 of its own are enough");
        assert_eq!(all(&latencies, &stratum(1), Load::of(9)), own, "and serve another load");
        let another_way = Stratum { method: "ask otherwise", ..stratum(1) };
        assert_eq!(all(&latencies, &another_way, IDLE).len(), 17, "another method has the pool's");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_call_takes_under_load_is_drawn_under_that_load() {
        let latencies = Latencies::new();
        for _ in 0..RING {
            latencies.record(&stratum(1), IDLE, ms(1));
            latencies.record(&stratum(1), Load::of(4), ms(16));
        }
        assert_eq!(all(&latencies, &stratum(1), IDLE), [0]);
        assert_eq!(all(&latencies, &stratum(1), Load::of(5)), [4]);
        assert_eq!(all(&latencies, &stratum(1), Load::of(1)), [0, 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn old_durations_serve_only_where_there_are_no_newer_ones() {
        let latencies = Latencies::new();
        record(&latencies, &stratum(1), 0..16);
        tokio::time::advance(FRESH + ms(1)).await;
        assert_eq!(all(&latencies, &stratum(1), IDLE).len(), 16, "nothing newer is known");
        record(&latencies, &stratum(8), 20..40);
        assert_eq!(all(&latencies, &stratum(1), IDLE), (20..40).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn the_modes_are_sample_mean_and_nothing() {
        let latencies = Latencies::new();
        (1..32).for_each(|i| latencies.record(&stratum(1), IDLE, ms(i)));
        let target = |mode, dice| latencies.drawn(mode, &stratum(1), IDLE, dice).unwrap();
        assert_eq!(target(Mode::Sample, 0.0), ms(1));
        assert_eq!(target(Mode::Sample, 0.9999).as_millis(), 30);
        assert_eq!(target(Mode::Mean, 0.7), ms(16));
        assert_eq!(target(Mode::Off, 0.7), Duration::ZERO);
        let nothing = Latencies::new();
        assert_eq!(nothing.drawn(Mode::Off, &stratum(1), IDLE, 0.7), Some(Duration::ZERO));
        assert_eq!(nothing.drawn(Mode::Sample, &stratum(1), IDLE, 0.7), None);
    }
}

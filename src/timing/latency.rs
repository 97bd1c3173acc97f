//! How long forwarded calls took lately, per stratum and per model.

use super::target::{draw, mean};
use super::{Mode, Stratum};
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Durations kept of each stratum: enough for a distribution, few enough to follow a server that warms up or slows down.
const RING: usize = 32;
/// Fewer than these say too little of a distribution, so a wider pool is asked.
const ENOUGH: usize = 16;
/// Strata remembered; a caller chooses rows and sizes, so the one recorded longest ago leaves.
const STRATA: usize = 4096;
/// Models and versions with a pool.
const POOLS: usize = 1024;

/// Recent durations of forwarded calls, arrival of the complete request to the reply's write.
///
/// Record calls that were forwarded whole and answered, nothing else: what was held would feed its own target.
/// One mutex: recording and drawing are well under a microsecond each.
#[derive(Default)]
pub struct Latencies {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    strata: Recent<Stratum>,
    pools: Recent<(Arc<str>, Arc<str>)>,
}

impl Latencies {
    /// Nothing known yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in how long a forwarded call took.
    pub fn record(&self, stratum: &Stratum, took: Duration) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.strata.push(stratum, took, STRATA);
        known.pools.push(&pool(stratum), took, POOLS);
    }

    /// How long an answer of this stratum shall take, from the arrival of its request.
    ///
    /// From the stratum's last 32 durations; where it has fewer than 16, from the last 32 of the same model and version with
    /// any number of rows; where these are too few as well, `anchor`: how long the model took for the answer
    /// that is replayed. `dice` is uniform in 0..1, thrown once for each call.
    pub fn target(&self, mode: Mode, stratum: &Stratum, dice: f64, anchor: Duration) -> Duration {
        self.drawn(mode, stratum, dice).unwrap_or(anchor)
    }

    /// As [`Latencies::target`], for a caller that draws before it knows the anchor's time: none where only that is left.
    pub fn drawn(&self, mode: Mode, stratum: &Stratum, dice: f64) -> Option<Duration> {
        let choose: &dyn Fn(&[Duration]) -> Option<Duration> = match mode {
            Mode::Off => return Some(Duration::ZERO),
            Mode::Sample => &|samples| draw(samples, dice),
            Mode::Mean => &mean,
        };
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let enough = |samples: &&[Duration]| samples.len() >= ENOUGH;
        let samples = known.strata.samples(stratum).filter(enough);
        let samples = samples.or_else(|| known.pools.samples(&pool(stratum)).filter(enough));
        samples.and_then(choose)
    }
}

fn pool(stratum: &Stratum) -> (Arc<str>, Arc<str>) {
    (stratum.model.clone(), stratum.version.clone())
}

/// The last durations of each key, for as many keys as were recorded lately.
struct Recent<K> {
    rings: HashMap<K, Ring>,
    /// The keys in the order in which they were last recorded.
    order: BTreeMap<u64, K>,
    clock: u64,
}

struct Ring {
    recorded: u64,
    next: usize,
    samples: Vec<Duration>,
}

impl<K> Default for Recent<K> {
    fn default() -> Self {
        Self { rings: HashMap::new(), order: BTreeMap::new(), clock: 0 }
    }
}

impl<K: Hash + Eq + Clone> Recent<K> {
    fn push(&mut self, key: &K, took: Duration, most: usize) {
        self.clock += 1;
        let key = match self.rings.get_mut(key) {
            Some(ring) => {
                let key = self.order.remove(&ring.recorded);
                ring.push(took, self.clock);
                key
            }
            None => None,
        }
        .unwrap_or_else(|| {
            let mut ring = Ring { recorded: 0, next: 0, samples: Vec::new() };
            ring.push(took, self.clock);
            self.rings.insert(key.clone(), ring);
            key.clone()
        });
        self.order.insert(self.clock, key);
        while self.rings.len() > most
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.rings.remove(&oldest);
        }
    }

    fn samples(&self, key: &K) -> Option<&[Duration]> {
        self.rings.get(key).map(|ring| ring.samples.as_slice())
    }
}

impl Ring {
    fn push(&mut self, took: Duration, now: u64) {
        self.recorded = now;
        if self.samples.len() < RING {
            self.samples.push(took);
        } else {
            self.samples[self.next] = took;
            self.next = (self.next + 1) % RING;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANCHOR: Duration = Duration::from_millis(999);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn stratum(rows: u32) -> Stratum {
        Stratum::new("model", "1", rows, 3000)
    }

    fn record(latencies: &Latencies, stratum: &Stratum, range: std::ops::Range<u64>) {
        range.for_each(|i| latencies.record(stratum, ms(i)));
    }

    /// Every value that can be drawn, in order.
    fn all(latencies: &Latencies, stratum: &Stratum) -> Vec<u64> {
        let dice = (0..3200).map(|i| f64::from(i) / 3200.0);
        let mut drawn: Vec<u64> = dice
            .map(|dice| latencies.target(Mode::Sample, stratum, dice, ANCHOR).as_millis() as u64)
            .collect();
        drawn.dedup();
        drawn
    }

    #[test]
    fn a_stratum_draws_from_its_last_32() {
        let latencies = Latencies::new();
        record(&latencies, &stratum(1), 0..100);
        assert_eq!(all(&latencies, &stratum(1)), (68..100).collect::<Vec<_>>());
    }

    #[test]
    fn too_few_fall_back_to_the_models_pool_and_then_to_the_anchor() {
        let latencies = Latencies::new();
        record(&latencies, &stratum(1), 0..15);
        assert_eq!(all(&latencies, &stratum(1)), [999], "15 are too few, in the pool as well");
        record(&latencies, &stratum(8), 100..101);
        assert_eq!(all(&latencies, &stratum(1)).len(), 16, "the pool has 16 of any rows");
        assert_eq!(all(&latencies, &stratum(64)).len(), 16, "and serves strata never seen");
        let other = Stratum::new("model", "2", 1, 3000);
        assert_eq!(all(&latencies, &other), [999], "another version has a pool of its own");
        record(&latencies, &stratum(1), 15..16);
        assert_eq!(all(&latencies, &stratum(1)), (0..16).collect::<Vec<_>>(), "16 of its own are enough");
    }

    #[test]
    fn the_modes_are_sample_mean_and_nothing() {
        let latencies = Latencies::new();
        record(&latencies, &stratum(1), 1..32);
        let target = |mode, dice| latencies.target(mode, &stratum(1), dice, ANCHOR);
        assert_eq!(target(Mode::Sample, 0.0), ms(1));
        assert_eq!(target(Mode::Sample, 0.999), ms(31));
        assert_eq!(target(Mode::Mean, 0.7), ms(16));
        assert_eq!(target(Mode::Off, 0.7), Duration::ZERO);
        assert_eq!(Latencies::new().target(Mode::Off, &stratum(1), 0.7, ANCHOR), Duration::ZERO);
    }

    #[test]
    fn strata_are_bounded_and_the_one_recorded_longest_ago_leaves() {
        let latencies = Latencies::new();
        let kept = Stratum::new("kept", "1", 1, 1);
        let left = Stratum::new("left", "1", 1, 1);
        record(&latencies, &left, 0..16);
        for rows in 0..2 * STRATA as u32 {
            record(&latencies, &kept, 7..8);
            record(&latencies, &stratum(rows), 1..2);
        }
        let known = latencies.known.lock().unwrap();
        assert_eq!(known.strata.rings.len(), STRATA);
        assert_eq!(known.strata.order.len(), STRATA);
        assert!(known.strata.samples(&kept).is_some());
        assert!(known.strata.samples(&left).is_none());
    }
}

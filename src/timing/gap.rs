//! The self-test: how far apart replayed and forwarded replies turned out to be, so that an operator sees when hiding fails.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Stratum;
use super::recent::{Recent, Ring};

/// Durations compared of each path: the last 256. By chance alone the distance of two such rings is above 0.17 once in a thousand
/// looks.
const RING: usize = 256;
/// Fewer than these of either path say nothing: of 128 the distance is above 0.25 once in a thousand looks.
const ENOUGH: usize = 128;
/// Strata compared; a caller chooses rows and sizes.
const STRATA: usize = 1024;

/// What replies of both paths took, from the arrival of the request to the moment at which the reply was let go.
pub struct Gaps {
    known: Mutex<Recent<Stratum, Both>>,
}

#[derive(Default)]
struct Both {
    forwarded: Ring<Duration, RING>,
    replayed: Ring<Duration, RING>,
}

/// How far apart the two paths of a model are.
#[derive(Clone, Debug, PartialEq)]
pub struct Gap {
    /// The model.
    pub model: Arc<str>,
    /// The largest Kolmogorov-Smirnov distance of any of its strata, 0..=1: the share of replies by which one path's distribution
    /// runs ahead of the other's.
    pub distance: f64,
}

impl Default for Gaps {
    fn default() -> Self {
        Self::new()
    }
}

impl Gaps {
    /// Nothing known yet.
    pub fn new() -> Self {
        Self { known: Mutex::new(Recent::new(STRATA)) }
    }

    /// Takes in how long a reply took, forwarded whole or replayed whole.
    pub fn record(&self, stratum: &Stratum, replayed: bool, took: Duration) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let both = known.record(stratum);
        if replayed { both.replayed.push(took) } else { both.forwarded.push(took) }
    }

    /// How far apart the paths are, for each model of which enough is known. Some ten microseconds a stratum: for a scrape, not
    /// for a call.
    pub fn distances(&self) -> Vec<Gap> {
        let rings = |both: &Both| (both.forwarded.items().to_vec(), both.replayed.items().to_vec());
        let known: Vec<_> = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.iter().map(|(stratum, both)| (Arc::clone(&stratum.model), rings(both))).collect()
        };
        let mut gaps: BTreeMap<Arc<str>, Gap> = BTreeMap::new();
        for (model, (forwarded, replayed)) in known {
            if forwarded.len().min(replayed.len()) < ENOUGH {
                continue;
            }
            let gap = gaps.entry(Arc::clone(&model)).or_insert(Gap { model, distance: 0.0 });
            gap.distance = gap.distance.max(apart(forwarded, replayed));
        }
        gaps.into_values().collect()
    }
}

/// The two-sample Kolmogorov-Smirnov distance: the largest difference of the two shares of samples below any duration.
fn apart(mut one: Vec<Duration>, mut other: Vec<Duration>) -> f64 {
    one.sort_unstable();
    other.sort_unstable();
    let share =
        |of: &[Duration], at: Duration| of.partition_point(|took| *took <= at) as f64 / of.len() as f64;
    let at = one.iter().chain(&other);
    at.map(|&at| (share(&one, at) - share(&other, at)).abs()).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::super::Work;
    use super::*;

    fn us(values: impl IntoIterator<Item = u64>) -> Vec<Duration> {
        values.into_iter().map(Duration::from_micros).collect()
    }

    #[test]
    fn the_distance_is_that_of_the_two_distributions() {
        assert!(apart(us(0..100), us(0..100)) < 1e-9);
        assert!((apart(us(0..100), us(100..200)) - 1.0).abs() < 1e-9);
        assert!((apart(us(0..100), us(20..120)) - 0.2).abs() < 1e-9);
        assert!((apart(us([1, 1, 1, 9]), us([1, 1, 9, 9])) - 0.25).abs() < 1e-9, "ties are no distance");
    }

    #[test]
    fn a_model_is_as_far_apart_as_its_worst_stratum_and_unknown_until_both_paths_are_known() {
        let gaps = Gaps::new();
        let work = Work::default();
        let stratum =
            |rows| Stratum { method: "ask", model: "model".into(), version: "1".into(), rows, work, form: 0 };
        for took in us(0..200) {
            gaps.record(&stratum(1), false, took);
            gaps.record(&stratum(2), false, took);
            gaps.record(&stratum(3), false, took);
        }
        assert!(gaps.distances().is_empty());
        for took in us(0..200) {
            gaps.record(&stratum(1), true, took);
            gaps.record(&stratum(2), true, took + Duration::from_micros(100));
        }
        let found = gaps.distances();
        assert_eq!((found.len(), &*found[0].model), (1, "model"));
        assert!((found[0].distance - 0.5).abs() < 1e-9);
    }
}

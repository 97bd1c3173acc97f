//! Durations of forwarded calls into how long this answer takes. Pure; the dice are thrown by the caller.

use std::time::Duration;

/// Neighbours farther from a sample than this share of it have nothing between them: a model with a fast and a slow
/// way is never in the middle.
const GAP: f64 = 0.1;

/// How far a guess from one duration alone reaches to both sides: what a model of some milliseconds varies by at rest.
const SPREAD: f64 = 0.05;

/// How long an answer shall take, from the arrival of its request.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Target {
    /// By enough durations of calls of its own stratum.
    Drawn(Duration),
    /// Too few are known: by the nearest that are, and none where nothing is. Who compares would see it.
    Guessed(Option<Duration>),
}

/// How long a call took, as far as it was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    pub(super) took: Duration,
    /// It ended before its answer came, by its deadline or its caller: it would have taken longer.
    pub(super) cut: bool,
}

/// What the dice fall on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Draw {
    /// This duration.
    Took(Duration),
    /// One longer than this, beyond all that were seen to their end.
    Beyond(Duration),
}

/// One of the samples, each as likely as another when `dice` is uniform in 0..1, and from about it: half the way to its neighbours
/// where they are near. So no time comes twice to the microsecond, and none is far from all that were measured; the tails are
/// never left out.
///
/// A call that was cut stands for all that took longer, each as likely as another: a caller whose deadlines cut half of his calls
/// would else find that replays never meet them.
///
/// `dice` outside 0..1 is taken as the nearest end, and a number that is none as 0. No samples, no draw.
pub(super) fn draw(samples: &[Seen], dice: f64) -> Option<Draw> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by_key(|seen| (seen.took, seen.cut));
    let mut weights = vec![1.0; sorted.len()];
    for at in 0..sorted.len() {
        let longer = sorted.len() - at - 1;
        if sorted[at].cut && longer > 0 {
            let share = weights[at] / longer as f64;
            weights[at] = 0.0;
            weights[at + 1..].iter_mut().for_each(|weight| *weight += share);
        }
    }
    let dice = if dice.is_nan() { 0.0 } else { dice.clamp(0.0, 1.0) };
    let mut place = dice * sorted.len() as f64;
    let last = weights.iter().rposition(|weight| *weight > 0.0)?;
    let mut rank = 0;
    while rank < last && place >= weights[rank] {
        place -= weights[rank];
        rank += 1;
    }
    let Seen { took, cut } = sorted[rank];
    if cut {
        return Some(Draw::Beyond(took));
    }
    let within = (place / weights[rank]).clamp(0.0, 1.0);
    let half_way_to = |neighbour: Option<&Seen>| {
        let apart = neighbour.map_or(Duration::ZERO, |neighbour| neighbour.took.abs_diff(took));
        if apart <= took.mul_f64(GAP) { apart / 2 } else { Duration::ZERO }
    };
    let before = half_way_to(sorted[..rank].iter().rev().find(|seen| !seen.cut));
    let after = half_way_to(sorted[rank + 1..].iter().find(|seen| !seen.cut));
    Some(Draw::Took(took.saturating_sub(before) + (before + after).mul_f64(within)))
}

/// The mean of the samples that were seen to their end: the paper's average, which every replay then takes.
pub(super) fn mean(samples: &[Seen]) -> Option<Duration> {
    let whole = || samples.iter().filter(|seen| !seen.cut);
    let count = u32::try_from(whole().count()).ok().filter(|count| *count > 0)?;
    let sum = whole().fold(Duration::ZERO, |sum, seen| sum.saturating_add(seen.took));
    Some(sum / count)
}

/// A duration about `one`, where that is all that is known: the same each time would tell at the second.
pub fn about(one: Duration, dice: f64) -> Duration {
    one.mul_f64(1.0 - SPREAD + 2.0 * SPREAD * dice.clamp(0.0, 1.0))
}

/// Random bits as a uniform number in 0..1.
pub fn uniform(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(ms: u64, cut: bool) -> Seen {
        Seen { took: Duration::from_millis(ms), cut }
    }

    fn ms(values: &[u64]) -> Vec<Seen> {
        values.iter().map(|&value| seen(value, false)).collect()
    }

    fn took(samples: &[Seen], dice: f64) -> Duration {
        match draw(samples, dice) {
            Some(Draw::Took(took)) => took,
            other => panic!("expected a duration, found {other:?}"),
        }
    }

    #[test]
    fn samples_far_apart_are_drawn_equally_often_and_nothing_between_them() {
        let samples = ms(&[40, 10, 20, 9000]);
        let mut drawn: Vec<_> = (0..400).map(|i| took(&samples, f64::from(i) / 400.0).as_millis()).collect();
        drawn.sort_unstable();
        for (quarter, expected) in drawn.chunks(100).zip([10, 20, 40, 9000]) {
            assert!(quarter.iter().all(|ms| *ms == expected));
        }
    }

    #[test]
    fn between_near_samples_every_time_is_drawn_and_none_beyond_them() {
        let samples = ms(&[100, 102, 106]);
        let drawn: Vec<_> =
            (0..=300).map(|i| took(&samples, f64::from(i) / 300.0).as_secs_f64() * 1000.0).collect();
        assert!(drawn.is_sorted() && drawn.windows(2).all(|pair| pair[1] - pair[0] < 0.05), "{drawn:?}");
        assert!((drawn[0] - 100.0).abs() < 1e-6 && (drawn[300] - 106.0).abs() < 1e-6);
        let mean = drawn.iter().sum::<f64>() / 301.0;
        assert!((mean - 102.6).abs() < 0.3, "smoothing does not shift: {mean}");
    }

    #[test]
    fn dice_from_outside_the_range_take_the_nearest_end() {
        let samples = ms(&[1, 2, 3]);
        let drawn = [-1.0, 0.0, 1.0, 7.0, f64::NAN, f64::INFINITY].map(|dice| took(&samples, dice));
        assert_eq!(drawn.map(|d| d.as_millis()), [1, 1, 3, 3, 1, 3]);
    }

    /// How often each is drawn, in hundredths; None where it is longer than all that were seen.
    fn drawn(samples: &[Seen]) -> std::collections::BTreeMap<Option<u128>, u32> {
        let mut counts = std::collections::BTreeMap::new();
        for dice in 0..100 {
            let drawn = match draw(samples, (f64::from(dice) + 0.5) / 100.0) {
                Some(Draw::Took(took)) => Some(took.as_millis()),
                Some(Draw::Beyond(_)) => None,
                None => panic!("nothing drawn"),
            };
            *counts.entry(drawn).or_default() += 1;
        }
        counts
    }

    #[test]
    fn a_call_that_was_cut_stands_for_those_that_took_longer() {
        let half = [seen(10, false), seen(20, true), seen(40, false), seen(80, false)];
        assert_eq!(drawn(&half), [(Some(10), 25), (Some(40), 37), (Some(80), 38)].into());
        let cut_at_once = [seen(0, true), seen(0, true), seen(10, false), seen(40, false)];
        assert_eq!(drawn(&cut_at_once), [(Some(10), 50), (Some(40), 50)].into(), "says nothing");
        let beyond = [seen(10, false), seen(20, true), seen(20, true), seen(20, true)];
        assert_eq!(drawn(&beyond), [(Some(10), 25), (None, 75)].into());
        assert_eq!(draw(&beyond, 1.0), Some(Draw::Beyond(Duration::from_millis(20))));
        assert_eq!(mean(&beyond), Some(Duration::from_millis(10)));
    }

    #[test]
    fn nothing_is_made_of_no_samples() {
        assert_eq!(draw(&[], 0.5), None);
        assert_eq!(mean(&[]), None);
    }

    #[test]
    fn the_mean_is_the_arithmetic_one_and_never_overflows() {
        assert_eq!(mean(&ms(&[1, 2, 6])), Some(Duration::from_millis(3)));
        assert!(mean(&[Seen { took: Duration::MAX, cut: false }; 2]).is_some());
    }

    #[test]
    fn a_guess_from_one_duration_is_near_it_and_not_always_the_same() {
        let guesses = [0.0, 0.5, 1.0, 7.0].map(|dice| about(Duration::from_millis(100), dice).as_millis());
        assert_eq!(guesses, [95, 100, 105, 105]);
    }

    #[test]
    fn uniform_numbers_stay_within_nought_and_one() {
        assert!(uniform(0) < 1e-9 && uniform(u64::MAX) < 1.0 && (uniform(1 << 63) - 0.5).abs() < 1e-9);
    }
}

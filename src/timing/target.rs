//! Durations of forwarded calls into how long this answer takes. Pure; the dice are thrown by the caller.

use std::time::Duration;

/// Neighbours farther from a sample than this share of it have nothing between them: a model with a fast and a slow
/// way is never in the middle.
const GAP: f64 = 0.1;

/// How far a guess from one duration alone reaches to both sides: what a model of some milliseconds varies by at rest.
const SPREAD: f64 = 0.05;

/// One of the samples, each as likely as another when `dice` is uniform in 0..1, and from about it: half the way to its neighbours
/// where they are near. So no time comes twice to the microsecond, and none is far from all that were measured; the tails are
/// never left out.
///
/// `dice` outside 0..1 is taken as the nearest end, and a number that is none as 0. No samples, no duration.
pub(super) fn draw(samples: &[Duration], dice: f64) -> Option<Duration> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    // `as` saturates: a negative or missing number becomes rank 0.
    let place = (dice * sorted.len() as f64).max(0.0);
    let rank = (place as usize).min(sorted.len().checked_sub(1)?);
    let within = (place - rank as f64).clamp(0.0, 1.0);
    let sample = sorted[rank];
    let half_way_to = |neighbour: Option<&Duration>| {
        let apart = neighbour.map_or(Duration::ZERO, |neighbour| neighbour.abs_diff(sample));
        if apart <= sample.mul_f64(GAP) { apart / 2 } else { Duration::ZERO }
    };
    let before = half_way_to(rank.checked_sub(1).and_then(|before| sorted.get(before)));
    let after = half_way_to(sorted.get(rank + 1));
    Some(sample.saturating_sub(before) + (before + after).mul_f64(within))
}

/// The mean of the samples: the paper's average, which every replay then takes.
pub(super) fn mean(samples: &[Duration]) -> Option<Duration> {
    let count = u32::try_from(samples.len()).ok().filter(|count| *count > 0)?;
    let sum = samples.iter().fold(Duration::ZERO, |sum, sample| sum.saturating_add(*sample));
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

    fn ms(values: &[u64]) -> Vec<Duration> {
        values.iter().copied().map(Duration::from_millis).collect()
    }

    #[test]
    fn samples_far_apart_are_drawn_equally_often_and_nothing_between_them() {
        let samples = ms(&[40, 10, 20, 9000]);
        let mut drawn: Vec<_> =
            (0..400).map(|i| draw(&samples, f64::from(i) / 400.0).unwrap().as_millis()).collect();
        drawn.sort_unstable();
        for (quarter, expected) in drawn.chunks(100).zip([10, 20, 40, 9000]) {
            assert!(quarter.iter().all(|ms| *ms == expected));
        }
    }

    #[test]
    fn between_near_samples_every_time_is_drawn_and_none_beyond_them() {
        let samples = ms(&[100, 102, 106]);
        let drawn: Vec<_> =
            (0..=300).map(|i| draw(&samples, f64::from(i) / 300.0).unwrap().as_secs_f64() * 1000.0).collect();
        assert!(drawn.is_sorted() && drawn.windows(2).all(|pair| pair[1] - pair[0] < 0.05), "{drawn:?}");
        assert!((drawn[0] - 100.0).abs() < 1e-6 && (drawn[300] - 106.0).abs() < 1e-6);
        let mean = drawn.iter().sum::<f64>() / 301.0;
        assert!((mean - 102.6).abs() < 0.3, "smoothing does not shift: {mean}");
    }

    #[test]
    fn dice_from_outside_the_range_take_the_nearest_end() {
        let samples = ms(&[1, 2, 3]);
        let drawn = [-1.0, 0.0, 1.0, 7.0, f64::NAN, f64::INFINITY].map(|dice| draw(&samples, dice).unwrap());
        assert_eq!(drawn.map(|d| d.as_millis()), [1, 1, 3, 3, 1, 3]);
    }

    #[test]
    fn nothing_is_made_of_no_samples() {
        assert_eq!(draw(&[], 0.5), None);
        assert_eq!(mean(&[]), None);
    }

    #[test]
    fn the_mean_is_the_arithmetic_one_and_never_overflows() {
        assert_eq!(mean(&ms(&[1, 2, 6])), Some(Duration::from_millis(3)));
        assert!(mean(&[Duration::MAX, Duration::MAX]).is_some());
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

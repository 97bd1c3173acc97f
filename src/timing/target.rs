//! Durations of forwarded calls into how long this answer takes. Pure; the dice are thrown by the caller.

use std::time::Duration;

/// One of the samples, each as likely as another when `dice` is uniform in 0..1: the nearest rank, never a value between
/// two (a mixture of fast and slow calls has nothing between them) and never without the tails.
///
/// `dice` outside 0..1 is taken as the nearest end, and a number that is none as 0. No samples, no duration.
pub(super) fn draw(samples: &[Duration], dice: f64) -> Option<Duration> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    // `as` saturates: a negative or missing number becomes rank 0.
    let rank = (dice * sorted.len() as f64) as usize;
    sorted.get(rank.min(sorted.len().checked_sub(1)?)).copied()
}

/// The mean of the samples: the paper's average, which every replay then takes.
pub(super) fn mean(samples: &[Duration]) -> Option<Duration> {
    let count = u32::try_from(samples.len()).ok().filter(|count| *count > 0)?;
    let sum = samples.iter().fold(Duration::ZERO, |sum, sample| sum.saturating_add(*sample));
    Some(sum / count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(values: &[u64]) -> Vec<Duration> {
        values.iter().copied().map(Duration::from_millis).collect()
    }

    #[test]
    fn every_sample_is_drawn_equally_often_the_tail_included() {
        let samples = ms(&[40, 10, 20, 9000]);
        let mut drawn: Vec<_> =
            (0..400).map(|i| draw(&samples, f64::from(i) / 400.0).unwrap().as_millis()).collect();
        drawn.sort_unstable();
        for (quarter, expected) in drawn.chunks(100).zip([10, 20, 40, 9000]) {
            assert!(quarter.iter().all(|ms| *ms == expected));
        }
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
}

//! Does a held reply take as long as a forwarded one? Pairs of questions by new callers, timed where an attacker would.

use std::time::Duration;

use tokio::time::Instant;

use super::client::{Client, Reply};
use super::photos::{Photo, Picture, SIDE};
use super::random::Random;
use super::world::World;
use super::{DemoError, Progress};
use crate::timing::Latencies;

/// Forwarded calls before the first that counts: as many as the time layer draws from, so that none of the attacks' is left.
const WARM_UP: usize = Latencies::DRAWN_FROM;

/// Durations by the caller's own clock, ascending.
#[derive(Clone, Debug)]
pub struct Latency {
    /// Of replies that the model gave.
    pub forwarded: Vec<Duration>,
    /// Of replies that it did not give.
    pub held: Vec<Duration>,
}

impl Latency {
    /// The greatest distance between the two distributions, 0..=1 (Kolmogorov and Smirnov).
    pub fn distance(&self) -> f64 {
        let share = |sorted: &[Duration], at: &Duration| {
            sorted.partition_point(|one| one <= at) as f64 / sorted.len() as f64
        };
        let steps = self.forwarded.iter().chain(&self.held);
        steps.map(|at| (share(&self.forwarded, at) - share(&self.held, at)).abs()).fold(0.0, f64::max)
    }

    /// The distance that two samples of one distribution exceed once in twenty times.
    pub fn critical(&self) -> f64 {
        let (a, b) = (self.forwarded.len() as f64, self.held.len() as f64);
        1.358 * ((a + b) / (a * b)).sqrt()
    }

    /// `steps` steps over the middle 98 %; what lies outside is counted in the first and the last.
    pub fn histogram(&self, steps: usize) -> Histogram {
        let both = [&self.forwarded, &self.held];
        let least = both.map(|sorted| quantile(sorted, 0.01)).into_iter().min().unwrap_or_default();
        let most = both.map(|sorted| quantile(sorted, 0.99)).into_iter().max().unwrap_or_default();
        let step = most.saturating_sub(least).max(Duration::from_micros(1)) / steps.max(1) as u32;
        let [forwarded, held] = both.map(|sorted| {
            let mut counts = vec![0u32; steps.max(1)];
            for one in sorted {
                let place = one.saturating_sub(least).as_nanos() / step.as_nanos().max(1);
                counts[(place as usize).min(steps.max(1) - 1)] += 1;
            }
            counts
        });
        Histogram { least, step, forwarded, held }
    }
}

/// Both distributions over the same steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// Where the first step begins.
    pub least: Duration,
    /// How long each is.
    pub step: Duration,
    /// Forwarded replies in each.
    pub forwarded: Vec<u32>,
    /// Held replies in each.
    pub held: Vec<u32>,
}

/// The duration below which this share of `sorted` lies; nought where there is none.
pub fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted.get((share * last as f64).round() as usize).copied().unwrap_or_default()
}

/// Times `pairs` pairs: a photograph by a caller that never asked before, then the same with one pixel changed.
pub(super) async fn measure(
    world: &World,
    photos: &[Photo],
    pairs: usize,
    seed: u64,
    progress: Progress<'_>,
) -> Result<Latency, DemoError> {
    let mut random = Random::of(seed, "latency");
    world.model.slow_down(Random::of(seed, "compute time"));
    let mut latency = Latency { forwarded: Vec::with_capacity(pairs), held: Vec::with_capacity(pairs) };
    for pair in 0..WARM_UP + pairs {
        let caller = format!("latency/{pair}");
        // Connected before the clock starts: a handshake is no part of a reply.
        let mut client = Client::connect(world.refrain, &caller).await?;
        let photo = &photos[pair % photos.len()].picture;
        let forwarded = timed(&mut client, photo).await?;
        let held = timed(&mut client, &with_one_pixel(photo, &mut random)).await?;
        if pair >= WARM_UP {
            let asked = world.model.asked_by(&caller);
            if asked != 1 {
                return Err(DemoError::Accounts(format!(
                    "{asked} of two near-copies were forwarded, expected one"
                )));
            }
            latency.forwarded.push(forwarded);
            latency.held.push(held);
        }
        if pair % 20 == 0 {
            progress(&format!("latency: {pair} of {} pairs", WARM_UP + pairs));
        }
    }
    latency.forwarded.sort_unstable();
    latency.held.sort_unstable();
    Ok(latency)
}

async fn timed(client: &mut Client, picture: &Picture) -> Result<Duration, DemoError> {
    let asked = Instant::now();
    match client.ask(picture).await? {
        Reply::Scores(_) => Ok(asked.elapsed()),
        Reply::Refused => Err(DemoError::Refused),
    }
}

fn with_one_pixel(photo: &Picture, random: &mut Random) -> Picture {
    let (x, y) = (random.below(SIDE), random.below(SIDE));
    let mut picture = photo.clone();
    picture.set(x, y, photo.at(x, y).map(|level| level ^ 0x80));
    picture
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(values: impl IntoIterator<Item = u64>) -> Vec<Duration> {
        values.into_iter().map(Duration::from_millis).collect()
    }

    #[test]
    fn distributions_are_nought_to_one_apart() {
        let apart = |forwarded, held| Latency { forwarded, held }.distance();
        assert!(apart(millis(0..10), millis(0..10)).abs() < 1e-12);
        assert!((apart(millis(0..10), millis(20..30)) - 1.0).abs() < 1e-12);
        assert!((apart(millis(0..10), millis(5..15)) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn quantiles_are_values_that_were_there() {
        let sorted = millis(0..=10);
        assert_eq!([0.0, 0.1, 0.5, 1.0].map(|share| quantile(&sorted, share).as_millis()), [0, 1, 5, 10]);
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }
}

//! How long forwarded calls took lately, per stratum and load, per stratum, and per model.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::recent::{Recent, Ring};
use super::target::{Draw, Seen, Target, about, draw, mean};
use super::{Load, Mode, Moment, Past, Stratum};

/// Durations kept of each stratum, for those among them that came at moments like the present one.
const RING: usize = 128;
/// How many of them are drawn from. A call takes about as long as those before it (`tests/timing/RESULTS.md`, *likeness of neighbours*):
/// whoever compares a reply with his last forwarded ones tells draws from all of the last ones, and less those from the sixteen of the last
/// 128 that had a past like the present one. The nearest-neighbour bootstrap of Lall and Sharma (1996).
const NEAREST: usize = 16;
/// Calls whose median is part of a past.
const USUAL: usize = 16;
/// Fewer than these say too little of a distribution.
const ENOUGH: usize = 16;
/// Older than this says little of now.
const FRESH: Duration = Duration::from_mins(10);
/// Strata remembered; a caller chooses rows and sizes, so the one recorded longest ago leaves.
const STRATA: usize = 1024;
/// Models and versions with a pool.
const POOLS: usize = 1024;

/// Recent durations of forwarded calls, arrival of the complete request to the reply's write.
///
/// Record calls that the model was asked for whole and answered, nothing else: what was held would feed its own target.
/// One mutex, held while one duration is put in or those that may be drawn from are copied and compared; nothing waits under it.
pub struct Latencies {
    known: Mutex<Known>,
}

/// A call of which the model was asked.
#[derive(Clone, Copy)]
struct Sample {
    /// When it ended.
    at: Instant,
    seen: Seen,
    /// What those before it took, as far as it was known when it came.
    before: Option<Past>,
}

type Durations = Ring<Sample, RING>;

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

    /// How long the last calls of this stratum took.
    pub fn past(&self, stratum: &Stratum) -> Option<Past> {
        let known = self.known();
        let whole = known.strata.get(stratum)?.newest().filter(|sample| !sample.seen.cut);
        let mut newest: Vec<Duration> = whole.take(USUAL).map(|sample| sample.seen.took).collect();
        let latest = *newest.first()?;
        newest.sort_unstable();
        Some(Past { latest, usual: newest[newest.len() / 2] })
    }

    /// Takes in how long a forwarded call took that came at this moment.
    pub fn record(&self, stratum: &Stratum, moment: Moment, took: Duration) {
        self.see(stratum, moment, Seen { took, cut: false });
    }

    /// Takes in that a call would have taken longer than this: it ended before its answer came.
    ///
    /// Without these the durations of a caller with short deadlines would all be short, and so would his replays be.
    pub fn record_cut(&self, stratum: &Stratum, moment: Moment, after: Duration) {
        self.see(stratum, moment, Seen { took: after, cut: true });
    }

    fn see(&self, stratum: &Stratum, moment: Moment, seen: Seen) {
        let sample = Sample { at: Instant::now(), seen, before: moment.past };
        let mut known = self.known();
        known.under_load.record(&(stratum.clone(), moment.load)).push(sample);
        known.strata.record(stratum).push(sample);
        if !seen.cut {
            known.pools.record(&pool(stratum)).push(sample);
        }
    }

    /// How long an answer of this stratum shall take, from the arrival of its request; `dice` is uniform in 0..1, thrown once for
    /// each call. `patience` is how long its caller waits for it at most.
    ///
    /// From durations of the last ten minutes, 16 or more and the last 128 of them: of the stratum under this load; where these are too
    /// few, under this and the neighbouring loads; then under any. Of these the sixteen with a past most like the present one. Never of another stratum: another number of rows or another size takes
    /// another time, and who asks for a size that nobody asked before would tell replays by it.
    ///
    /// Where even the stratum has too few, a guess: by its own durations, however few and old, else by those of the same model and
    /// version, whatever was asked. A guess too where the dice fall beyond all durations that were seen to their end, and within the
    /// caller's patience.
    pub fn drawn(
        &self,
        mode: Mode,
        stratum: &Stratum,
        moment: Moment,
        dice: f64,
        patience: Option<Duration>,
    ) -> Target {
        if mode == Mode::Off {
            return Target::Drawn(Duration::ZERO);
        }
        let choose = |samples: &[Seen]| match mode {
            Mode::Mean => mean(samples).map(Draw::Took),
            _ => draw(samples, dice),
        };
        let known = self.known();
        let since = Instant::now().checked_sub(FRESH);
        let fresh = |durations: Option<&Durations>| -> Vec<Sample> {
            let all = durations.into_iter().flat_map(Ring::items);
            all.filter(|sample| since.is_none_or(|since| sample.at >= since)).copied().collect()
        };
        let of_loads = |steps| -> Vec<Sample> {
            moment
                .load
                .within(steps)
                .flat_map(|load| fresh(known.under_load.get(&(stratum.clone(), load))))
                .collect()
        };
        let widening: [&dyn Fn() -> Vec<Sample>; 3] =
            [&|| of_loads(0), &|| of_loads(1), &|| fresh(known.strata.get(stratum))];
        let enough = widening
            .iter()
            .map(|samples| newest(samples()))
            .find(|samples| samples.iter().filter(|sample| !sample.seen.cut).count() >= ENOUGH);
        let enough = enough.map(|samples| match mode {
            Mode::Mean => samples.into_iter().map(|sample| sample.seen).collect(),
            _ => like(moment, samples),
        });
        // Of a few durations one comes again and again.
        let guess = |took: Duration| if mode == Mode::Mean { took } else { about(took, dice) };
        match enough.and_then(|samples: Vec<Seen>| choose(&samples)) {
            Some(Draw::Took(took)) => return Target::Drawn(took),
            // He gives up before anybody can tell how long it would have taken.
            Some(Draw::Beyond(cut)) if patience.is_some_and(|patience| patience <= cut) => {
                return Target::Drawn(cut + cut);
            }
            Some(Draw::Beyond(cut)) => return Target::Guessed(Some(guess(cut))),
            None => {}
        }
        let known_of = |durations: Option<&Durations>| -> Option<Vec<Seen>> {
            let whole: Vec<Seen> =
                durations?.items().iter().map(|sample| sample.seen).filter(|seen| !seen.cut).collect();
            (!whole.is_empty()).then_some(whole)
        };
        let own = known_of(known.strata.get(stratum));
        let nearest =
            own.or_else(|| known_of(known.pools.get(&pool(stratum)))).and_then(|seen| choose(&seen));
        Target::Guessed(nearest.map(|(Draw::Took(took) | Draw::Beyond(took))| guess(took)))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last [`RING`] of `samples`.
fn newest(mut samples: Vec<Sample>) -> Vec<Sample> {
    samples.sort_unstable_by_key(|sample| std::cmp::Reverse(sample.at));
    samples.truncate(RING);
    samples
}

/// Those of `samples` whose past was most like that of this moment; all where nothing is known of it.
fn like(moment: Moment, samples: Vec<Sample>) -> Vec<Seen> {
    let Some(past) = moment.past else { return samples.into_iter().map(|sample| sample.seen).collect() };
    // How unlike each is, once: it takes logarithms, and sorting would ask for it a dozen times.
    let unlike = |sample: &Sample| sample.before.map_or(f64::INFINITY, |before| before.unlike(past));
    let mut unlike: Vec<(f64, usize)> = samples.iter().map(unlike).zip(0..).collect();
    // Of those that are equally like it the newest come first.
    unlike.sort_unstable_by(|one, other| one.0.total_cmp(&other.0).then(one.1.cmp(&other.1)));
    unlike.into_iter().take(NEAREST).map(|(_, at)| samples[at].seen).collect()
}

fn pool(stratum: &Stratum) -> Pool {
    (Arc::clone(&stratum.model), Arc::clone(&stratum.version))
}

#[cfg(test)]
mod tests {
    use super::super::Work;
    use super::*;

    /// Nobody has asked anything for a while.
    const IDLE: Moment = Moment { load: Load(0), past: None };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn under(calls: usize, rested: u64) -> Moment {
        Moment { load: Load::of(calls, ms(rested)), past: None }
    }

    fn after(latest: u64) -> Moment {
        Moment { past: Some(Past { latest: ms(latest), usual: ms(4) }), ..IDLE }
    }

    fn stratum(rows: u32) -> Stratum {
        let work = Work::new(3000 * rows as usize, 0, 0);
        Stratum { method: "ask", model: "model".into(), version: "1".into(), rows, work, form: 0 }
    }

    fn record(latencies: &Latencies, stratum: &Stratum, moment: Moment, range: std::ops::Range<u64>) {
        // Far apart, so that nothing between them is drawn.
        range.for_each(|i| latencies.record(stratum, moment, ms(2u64.pow(i as u32))));
    }

    fn power(took: Duration) -> u64 {
        u64::from((took.as_millis() as u64).ilog2())
    }

    /// The powers of every value that can be drawn, in order; none where only a guess can be had.
    fn all(latencies: &Latencies, stratum: &Stratum, moment: Moment) -> Vec<u64> {
        let dice = (0..3200).map(|i| f64::from(i) / 3200.0);
        let mut drawn: Vec<u64> = dice
            .filter_map(|dice| match latencies.drawn(Mode::Sample, stratum, moment, dice, None) {
                Target::Drawn(took) => Some(power(took)),
                Target::Guessed(_) => None,
            })
            .collect();
        drawn.dedup();
        drawn
    }

    fn guess(latencies: &Latencies, mode: Mode, stratum: &Stratum) -> Option<Duration> {
        match latencies.drawn(mode, stratum, IDLE, 0.5, None) {
            Target::Guessed(guess) => guess,
            Target::Drawn(took) => panic!("nothing to guess: {took:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stratum_draws_from_its_last_128() {
        let latencies = Latencies::new();
        record(&latencies, &stratum(1), IDLE, 0..50);
        (0..100).for_each(|_| latencies.record(&stratum(1), IDLE, ms(1 << 60)));
        assert_eq!(all(&latencies, &stratum(1), IDLE), [(22..50).collect(), vec![60]].concat());
    }

    #[tokio::test(start_paused = true)]
    async fn what_had_a_past_like_the_present_is_drawn() {
        let latencies = Latencies::new();
        for turn in 0..60 {
            let [slow, fast] = [after(8), after(1)];
            latencies.record(&stratum(1), slow, ms(if turn % 2 == 0 { 8 } else { 16 }));
            latencies.record(&stratum(1), fast, ms(1));
        }
        assert_eq!(all(&latencies, &stratum(1), after(9)), [3, 4]);
        assert_eq!(all(&latencies, &stratum(1), after(2)), [0]);
        assert_eq!(all(&latencies, &stratum(1), IDLE), [0, 3, 4], "nothing is known of the last");
        let past = Some(Past { latest: ms(1), usual: ms(8) });
        assert_eq!(latencies.past(&stratum(1)), past);
        latencies.record_cut(&stratum(1), IDLE, ms(30));
        assert_eq!(latencies.past(&stratum(1)), past, "how long the cut one took is not known");
        assert_eq!(latencies.past(&stratum(2)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_ever_drawn_from_another_stratum() {
        let latencies = Latencies::new();
        record(&latencies, &stratum(1), IDLE, 0..32);
        let own = stratum(1);
        let others = [
            Stratum { rows: 2, ..own.clone() },
            Stratum { work: Work::new(3001, 0, 0), ..own.clone() },
            Stratum { work: Work::new(3000, 100, 64), ..own.clone() },
            Stratum { method: "ask otherwise", ..own.clone() },
            Stratum { version: "2".into(), ..own.clone() },
            Stratum { form: 1, ..own.clone() },
        ];
        for other in others {
            assert_eq!(all(&latencies, &other, IDLE), [0; 0], "{other:?}");
            let guessed = guess(&latencies, Mode::Sample, &other);
            assert_eq!(
                guessed.is_some(),
                *other.version == *own.version,
                "what is known of the model serves for a guess"
            );
            record(&latencies, &other, IDLE, 40..56);
            assert_eq!(
                all(&latencies, &other, IDLE),
                (40..56).collect::<Vec<_>>(),
                "16 of its own are enough"
            );
        }
        assert_eq!(all(&latencies, &own, IDLE), (0..32).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn fifteen_are_too_few_and_are_what_is_guessed_by() {
        let latencies = Latencies::new();
        assert_eq!(guess(&latencies, Mode::Sample, &stratum(1)), None);
        record(&latencies, &stratum(2), IDLE, 10..11);
        record(&latencies, &stratum(1), IDLE, 2..3);
        let guesses = [0.0, 0.99].map(|dice| latencies.drawn(Mode::Sample, &stratum(1), IDLE, dice, None));
        assert_eq!(guesses[0], Target::Guessed(Some(Duration::from_micros(3800))), "its own before the pool");
        assert_ne!(guesses[0], guesses[1], "one duration is not given out as it is");
        record(&latencies, &stratum(1), IDLE, 3..16);
        assert_eq!(all(&latencies, &stratum(1), IDLE), [0; 0]);
        latencies.record(&stratum(1), IDLE, ms(1 << 16));
        latencies.record(&stratum(1), IDLE, ms(1 << 17));
        assert_eq!(all(&latencies, &stratum(1), IDLE), (2..18).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_call_takes_under_load_is_drawn_under_that_load_then_its_neighbours_then_any() {
        let latencies = Latencies::new();
        for _ in 0..RING {
            latencies.record(&stratum(1), IDLE, ms(1));
            latencies.record(&stratum(1), under(8, 0), ms(16));
        }
        assert_eq!(all(&latencies, &stratum(1), IDLE), [0]);
        assert_eq!(all(&latencies, &stratum(1), under(9, 0)), [4]);
        assert_eq!(all(&latencies, &stratum(1), under(4, 0)), [4], "the neighbour's");
        assert_eq!(all(&latencies, &stratum(1), under(20, 0)), [4]);
        assert_eq!(all(&latencies, &stratum(1), under(0, 64)), [0]);
        assert_eq!(all(&latencies, &stratum(1), under(200, 0)), [0, 4], "no neighbour was seen either");
        for _ in 0..4 {
            latencies.record(&stratum(1), under(4, 0), ms(8));
        }
        assert_eq!(
            all(&latencies, &stratum(1), under(4, 0)),
            [3, 4],
            "a few of its own among the neighbours'"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_older_than_ten_minutes_is_a_guess() {
        let latencies = Latencies::new();
        record(&latencies, &stratum(1), IDLE, 0..16);
        tokio::time::advance(FRESH).await;
        assert_eq!(all(&latencies, &stratum(1), IDLE).len(), 16);
        tokio::time::advance(ms(1)).await;
        record(&latencies, &stratum(1), IDLE, 20..21);
        assert_eq!(all(&latencies, &stratum(1), IDLE), [0; 0]);
        assert!(guess(&latencies, Mode::Sample, &stratum(1)).is_some());
        record(&latencies, &stratum(1), IDLE, 21..36);
        assert_eq!(all(&latencies, &stratum(1), IDLE), (20..36).collect::<Vec<_>>(), "the new ones alone");
    }

    #[tokio::test(start_paused = true)]
    async fn the_modes_are_sample_mean_and_nothing() {
        let latencies = Latencies::new();
        (1..32).for_each(|i| latencies.record(&stratum(1), IDLE, ms(i)));
        let target = |mode, dice| match latencies.drawn(mode, &stratum(1), IDLE, dice, None) {
            Target::Drawn(took) => took,
            Target::Guessed(guess) => panic!("a guess: {guess:?}"),
        };
        assert_eq!(target(Mode::Sample, 0.0), ms(1));
        assert_eq!(target(Mode::Sample, 0.9999).as_millis(), 30);
        assert_eq!(target(Mode::Mean, 0.7), ms(16));
        assert_eq!(target(Mode::Off, 0.7), Duration::ZERO);
        assert_eq!(
            guess(&latencies, Mode::Mean, &stratum(2)),
            Some(ms(16)),
            "the paper's mean of whatever is known"
        );
        let nothing = Latencies::new();
        assert_eq!(nothing.drawn(Mode::Off, &stratum(1), IDLE, 0.7, None), Target::Drawn(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_whose_deadlines_cut_his_calls_finds_that_they_cut_his_replays_as_often() {
        let latencies = Latencies::new();
        for i in 0..16 {
            latencies.record(&stratum(1), IDLE, ms(5) + Duration::from_micros(i));
            latencies.record_cut(&stratum(1), IDLE, ms(10));
        }
        let targets = |patience: Option<u64>| -> Vec<Target> {
            let dice = (0..100).map(|dice| (f64::from(dice) + 0.5) / 100.0);
            dice.map(|dice| latencies.drawn(Mode::Sample, &stratum(1), IDLE, dice, patience.map(ms)))
                .collect()
        };
        let within = |targets: &[Target], patience| {
            targets.iter().filter(|target| matches!(target, Target::Drawn(took) if *took <= patience)).count()
        };
        let same = targets(Some(10));
        assert_eq!(within(&same, ms(10)), 50);
        assert!(same.iter().all(|target| matches!(target, Target::Drawn(_))));
        // What takes longer than the deadlines is not known to who waits longer.
        let patient = targets(None);
        assert_eq!(within(&patient, ms(10)), 50);
        assert_eq!(patient.iter().filter(|target| matches!(target, Target::Guessed(Some(_)))).count(), 50);
        // Calls that are cut say nothing of how many durations are known.
        (0..RING).for_each(|_| latencies.record_cut(&stratum(1), IDLE, ms(10)));
        assert!(targets(Some(10)).iter().all(|target| matches!(target, Target::Guessed(_))));
    }
}

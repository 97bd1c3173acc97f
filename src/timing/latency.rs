//! How long forwarded calls took lately, per stratum and load, per stratum, and per model.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::recent::{Recent, Ring};
use super::target::{Draw, Seen, Target, about, draw, mean};
use super::{LONGEST_REST, Load, Mode, Moment, Past, Stratum};

/// Durations kept of each stratum under each load, and the most that are looked at.
const RING: usize = 128;
/// Durations kept of each stratum: who compares a reply with his own forwarded ones compares it with these, not with older ones.
const LATELY: usize = 256;
/// How many of them are drawn from. A call takes about as long as those before it (`tests/timing/RESULTS.md`, *likeness of neighbours*):
/// whoever compares a reply with his last forwarded ones tells draws from all of the last ones, and less those from the sixteen of the last
/// 128 that had a past like the present one. The nearest-neighbour bootstrap of Lall and Sharma (1996).
const NEAREST: usize = 16;
/// Calls whose median is part of a past.
const USUAL: usize = 16;
/// Of fewer calls of a stratum it is not said that they are of several eras: the first ones of a server are slow.
const SETTLED: usize = 2 * USUAL;
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
    load: Load,
    seen: Seen,
    /// What those before it took, as far as it was known when it came.
    before: Option<Past>,
}

impl Sample {
    /// Whether calls took about as long when this one came as they did before `now`; so they did as far as nothing else is known.
    fn is_of_era(&self, now: Option<Past>) -> bool {
        self.before.zip(now).is_none_or(|(before, now)| before.is_of_era(now))
    }
}

struct Known {
    /// Under whatever load.
    strata: Recent<Stratum, Ring<Sample, LATELY>>,
    under_load: Recent<(Stratum, Load), Ring<Sample, RING>>,
    pools: Recent<Pool, Ring<Sample, RING>>,
}

/// Calls like one that is to be drawn a time.
struct Alike {
    /// At least 16 that were seen to their end, 128 in all at most.
    samples: Vec<Sample>,
    /// They came under a load like its own.
    under_load: bool,
}

/// One model and version, however it is asked.
type Pool = (Arc<str>, Arc<str>);

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

impl Latencies {
    /// Calls of a stratum after which none of those before them is drawn from, whatever the load, as long as the model rests between them.
    pub const DRAWN_FROM: usize = LATELY;

    /// Nothing known yet.
    pub fn new() -> Self {
        let known =
            Known { strata: Recent::new(STRATA), under_load: Recent::new(STRATA), pools: Recent::new(POOLS) };
        Self { known: Mutex::new(known) }
    }

    /// How long the last calls of this stratum took; none where none was seen to its end.
    pub fn past(&self, stratum: &Stratum) -> Option<Past> {
        let known = self.known();
        let durations = known.strata.get(stratum)?;
        let newest = durations.newest().next()?.seen;
        let whole = durations.newest().map(|sample| sample.seen).filter(|seen| !seen.cut);
        let mut whole: Vec<Duration> = whole.take(USUAL).map(|seen| seen.took).collect();
        whole.sort_unstable();
        let usual = *whole.get(whole.len() / 2)?;
        Some(Past { latest: newest.took, cut: newest.cut, usual })
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
        let Moment { load, past, .. } = moment;
        let sample = Sample { at: Instant::now(), load, seen, before: past };
        let mut known = self.known();
        known.under_load.record(&(stratum.clone(), load)).push(sample);
        known.strata.record(stratum).push(sample);
        if !seen.cut {
            known.pools.record(&pool(stratum)).push(sample);
        }
    }

    /// How long an answer of this stratum shall take, from the arrival of its request; `dice` is uniform in 0..1, thrown once for
    /// each call. `patience` is how long its caller waits for it at most.
    ///
    /// From durations of the last ten minutes, 16 or more and the newest 128 of them: those of the stratum under a load like the present one,
    /// counted as though the held calls were asked too; where these are too few, those under the neighbouring loads too, or after
    /// whatever rest; then those under any. Of those that came after a rest older ones than the last 256 of the stratum count only where else there are too few. Of these the sixteen with a past most like the present one. Never of another stratum: another number of rows or another size takes
    /// another time, and who asks for a size that nobody asked before would tell replays by it. Nor from before a time when calls
    /// usually took less than half or more than twice as long as they do now.
    ///
    /// Where even the stratum has too few, a guess: by its own last sixteen durations, however few and old, else by those of
    /// the same model and version, whatever was asked. A guess too where as many calls are under way as at none of the last 128 that came beside so many; and
    /// where the dice fall beyond all durations that were seen to their end, and within the caller's patience.
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
        let known = self.known();
        let Some(Alike { samples, under_load }) = known.alike(stratum, moment) else {
            return Target::Guessed(known.guess(mode, stratum, dice));
        };
        if mode == Mode::Mean {
            let seen: Vec<Seen> = samples.iter().map(|sample| sample.seen).collect();
            return mean(&seen).map_or(Target::Guessed(None), Target::Drawn);
        }
        drop(known);
        let is_guess = !under_load && moment.with_held.is_busy();
        match draw(&like(moment, samples), dice) {
            Some(Draw::Took(took)) if is_guess => Target::Guessed(Some(took)),
            Some(Draw::Took(took)) => Target::Drawn(took),
            // He gives up before anybody can tell how long it would have taken.
            Some(Draw::Beyond(cut)) if patience.is_some_and(|patience| patience <= cut) => {
                Target::Drawn(cut + cut)
            }
            Some(Draw::Beyond(cut)) => Target::Guessed(Some(about(cut, dice))),
            None => Target::Guessed(None),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Calls of this stratum that came of late under a load like this one, or where too few are known, under any; none where even
    /// these are too few.
    ///
    /// Who asks a new picture and a copy in turns leaves the model to rest before each new one and before no copy. What it takes without a
    /// rest is then known of times long past if at all, while he compares his copies with new pictures of now.
    ///
    /// None of another era either: the model may have become several times as fast or slow since, and a load may be so rare that
    /// all that is known of it is from before.
    fn alike(&self, stratum: &Stratum, moment: Moment) -> Option<Alike> {
        let load = moment.with_held;
        let since = Instant::now().checked_sub(FRESH);
        let is_fresh = |sample: &&Sample| since.is_none_or(|since| sample.at >= since);
        let lately = self.strata.get(stratum)?;
        let is_settled = lately.items().len() > SETTLED;
        let is_of_now = |sample: &&Sample| !is_settled || sample.is_of_era(moment.past);
        // Newest first, so the first are enough.
        let some = |samples: &mut dyn Iterator<Item = &Sample>| -> Option<Vec<Sample>> {
            let samples: Vec<Sample> =
                samples.take_while(is_fresh).filter(is_of_now).take(RING).copied().collect();
            (samples.iter().filter(|sample| !sample.seen.cut).count() >= ENOUGH).then_some(samples)
        };
        let within = |steps| some(&mut lately.newest().filter(|sample| sample.load.is_within(steps, load)));
        let of_load = || some(&mut self.under_load.get(&(stratum.clone(), load))?.newest());
        let under_load = if load.is_busy() {
            of_load().or_else(|| within(1))
        } else {
            within(0).or_else(|| within(1)).or_else(|| within(LONGEST_REST)).or_else(of_load)
        };
        match under_load {
            Some(samples) => Some(Alike { samples, under_load: true }),
            None => Some(Alike { samples: some(&mut lately.newest())?, under_load: false }),
        }
    }

    /// By what little is known: of the stratum, however few and old, else of its model.
    fn guess(&self, mode: Mode, stratum: &Stratum, dice: f64) -> Option<Duration> {
        let whole = |samples: &mut dyn Iterator<Item = &Sample>| -> Option<Vec<Seen>> {
            let seen = samples.map(|sample| sample.seen);
            let whole: Vec<Seen> = seen.filter(|seen| !seen.cut).take(USUAL).collect();
            (!whole.is_empty()).then_some(whole)
        };
        let own = self.strata.get(stratum).and_then(|own| whole(&mut own.newest()));
        let of_model = || self.pools.get(&pool(stratum)).and_then(|pool| whole(&mut pool.newest()));
        let nearest = own.or_else(of_model)?;
        if mode == Mode::Mean {
            return mean(&nearest);
        }
        let (Draw::Took(took) | Draw::Beyond(took)) = draw(&nearest, dice)?;
        // Of a few durations one comes again and again.
        Some(about(took, dice))
    }
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
    fn idle() -> Moment {
        Moment::of((0, Duration::MAX), 0, None)
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn under(calls: usize, rested: u64) -> Moment {
        Moment::of((calls, ms(rested)), 0, None)
    }

    fn after(latest: u64) -> Moment {
        Moment { past: Some(Past { latest: ms(latest), cut: false, usual: ms(4) }), ..idle() }
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
        match latencies.drawn(mode, stratum, idle(), 0.5, None) {
            Target::Guessed(guess) => guess,
            Target::Drawn(took) => panic!("nothing to guess: {took:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stratum_draws_from_its_last_128() {
        let latencies = Latencies::new();
        record(&latencies, &stratum(1), idle(), 0..50);
        (0..100).for_each(|_| latencies.record(&stratum(1), idle(), ms(1 << 60)));
        assert_eq!(all(&latencies, &stratum(1), idle()), [(22..50).collect(), vec![60]].concat());
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
        assert_eq!(all(&latencies, &stratum(1), idle()), [0, 3, 4], "nothing is known of the last");
        let past = Past { latest: ms(1), cut: false, usual: ms(8) };
        assert_eq!(latencies.past(&stratum(1)), Some(past));
        assert_eq!(latencies.past(&stratum(2)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_after_a_cut_call_is_drawn_a_time_from_after_a_cut_call() {
        let latencies = Latencies::new();
        let now = |latencies: &Latencies| Moment { past: latencies.past(&stratum(1)), ..idle() };
        for _ in 0..32 {
            latencies.record(&stratum(1), now(&latencies), ms(4));
            latencies.record_cut(&stratum(1), idle(), ms(4));
            // The model was still at work.
            latencies.record(&stratum(1), now(&latencies), ms(8));
        }
        assert_eq!(all(&latencies, &stratum(1), now(&latencies)), [2]);
        latencies.record_cut(&stratum(1), idle(), ms(4));
        assert_eq!(latencies.past(&stratum(1)), Some(Past { latest: ms(4), cut: true, usual: ms(8) }));
        assert_eq!(all(&latencies, &stratum(1), now(&latencies)), [3]);
        let cut_alone = Latencies::new();
        cut_alone.record_cut(&stratum(1), idle(), ms(4));
        assert_eq!(cut_alone.past(&stratum(1)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_ever_drawn_from_another_stratum() {
        let latencies = Latencies::new();
        record(&latencies, &stratum(1), idle(), 0..32);
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
            assert_eq!(all(&latencies, &other, idle()), [0; 0], "{other:?}");
            let guessed = guess(&latencies, Mode::Sample, &other);
            assert_eq!(
                guessed.is_some(),
                *other.version == *own.version,
                "what is known of the model serves for a guess"
            );
            record(&latencies, &other, idle(), 40..56);
            assert_eq!(
                all(&latencies, &other, idle()),
                (40..56).collect::<Vec<_>>(),
                "16 of its own are enough"
            );
        }
        assert_eq!(all(&latencies, &own, idle()), (0..32).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn fifteen_are_too_few_and_are_what_is_guessed_by() {
        let latencies = Latencies::new();
        assert_eq!(guess(&latencies, Mode::Sample, &stratum(1)), None);
        record(&latencies, &stratum(2), idle(), 10..11);
        record(&latencies, &stratum(1), idle(), 2..3);
        let guesses = [0.0, 0.99].map(|dice| latencies.drawn(Mode::Sample, &stratum(1), idle(), dice, None));
        assert_eq!(guesses[0], Target::Guessed(Some(Duration::from_micros(3800))), "its own before the pool");
        assert_ne!(guesses[0], guesses[1], "one duration is not given out as it is");
        record(&latencies, &stratum(1), idle(), 3..16);
        assert_eq!(all(&latencies, &stratum(1), idle()), [0; 0]);
        latencies.record(&stratum(1), idle(), ms(1 << 16));
        latencies.record(&stratum(1), idle(), ms(1 << 17));
        assert_eq!(all(&latencies, &stratum(1), idle()), (2..18).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_call_takes_under_load_is_drawn_under_that_load_then_its_neighbours_then_any() {
        let latencies = Latencies::new();
        for _ in 0..RING {
            latencies.record(&stratum(1), idle(), ms(1));
            latencies.record(&stratum(1), under(8, 0), ms(16));
        }
        assert_eq!(all(&latencies, &stratum(1), idle()), [0]);
        assert_eq!(all(&latencies, &stratum(1), under(9, 0)), [4]);
        assert_eq!(all(&latencies, &stratum(1), under(4, 0)), [4], "the neighbour's");
        assert_eq!(all(&latencies, &stratum(1), under(20, 0)), [4]);
        assert_eq!(all(&latencies, &stratum(1), under(0, 64)), [0]);
        assert_eq!(all(&latencies, &stratum(1), under(200, 0)), [0; 0], "no neighbour was seen either");
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
    async fn copies_in_turns_with_new_pictures_take_as_long_as_these_do_now() {
        let latencies = Latencies::new();
        let at_once = under(0, 0);
        (0..RING).for_each(|_| latencies.record(&stratum(1), at_once, ms(4)));
        assert_eq!(all(&latencies, &stratum(1), at_once), [2]);
        // From here on every new picture finds that the model rested while a copy was held, and no copy does.
        (0..LATELY).for_each(|_| latencies.record(&stratum(1), under(0, 4), ms(8)));
        assert_eq!(all(&latencies, &stratum(1), at_once), [3]);
        assert_eq!(all(&latencies, &stratum(1), under(1, 0)), [0; 0], "who waits for another waits longer");
    }

    #[tokio::test(start_paused = true)]
    async fn a_model_that_became_slower_is_drawn_no_time_of_before_under_whatever_load() {
        let latencies = Latencies::new();
        let now =
            |latencies: &Latencies, rested| Moment { past: latencies.past(&stratum(1)), ..under(0, rested) };
        for _ in 0..ENOUGH {
            latencies.record(&stratum(1), now(&latencies, 0), ms(1));
            latencies.record(&stratum(1), now(&latencies, 8), ms(1));
        }
        assert_eq!(all(&latencies, &stratum(1), now(&latencies, 0)), [0]);
        // From here on it takes five times as long, and no copy comes after so long a rest as new pictures do.
        for _ in 0..USUAL {
            latencies.record(&stratum(1), now(&latencies, 8), ms(5));
        }
        assert_eq!(all(&latencies, &stratum(1), now(&latencies, 0)), [0; 0], "too few of now");
        for _ in 0..ENOUGH {
            latencies.record(&stratum(1), now(&latencies, 8), ms(5));
        }
        assert_eq!(all(&latencies, &stratum(1), now(&latencies, 0)), [2]);
        assert_eq!(all(&latencies, &stratum(1), now(&latencies, 8)), [2]);
    }

    #[tokio::test(start_paused = true)]
    async fn copies_that_come_at_once_take_as_long_as_new_pictures_that_do() {
        let latencies = Latencies::new();
        for _ in 0..ENOUGH {
            latencies.record(&stratum(1), idle(), ms(4));
            latencies.record(&stratum(1), under(7, 0), ms(32));
        }
        let last_of_eight = Moment::of((0, Duration::ZERO), 7, None);
        assert_eq!(all(&latencies, &stratum(1), last_of_eight), [5]);
        assert_eq!(
            last_of_eight.load,
            Load::of(0, Duration::ZERO),
            "and a new one with them finds the model idle"
        );
        // Long after the last time that many came at once this is still known; what a new picture took after another rest is not.
        (0..LATELY).for_each(|_| latencies.record(&stratum(1), under(0, 3), ms(16)));
        assert_eq!(all(&latencies, &stratum(1), last_of_eight), [5]);
        assert_eq!(all(&latencies, &stratum(1), idle()), [4], "what a new picture takes now");
        let drawn = |moment| latencies.drawn(Mode::Sample, &stratum(1), moment, 0.5, None);
        assert_eq!(drawn(idle()), Target::Drawn(ms(16)));
        assert_eq!(drawn(under(64, 0)), Target::Guessed(Some(ms(16))), "of so many too little is known");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_older_than_ten_minutes_is_a_guess() {
        let latencies = Latencies::new();
        record(&latencies, &stratum(1), idle(), 0..16);
        tokio::time::advance(FRESH).await;
        assert_eq!(all(&latencies, &stratum(1), idle()).len(), 16);
        tokio::time::advance(ms(1)).await;
        record(&latencies, &stratum(1), idle(), 20..21);
        assert_eq!(all(&latencies, &stratum(1), idle()), [0; 0]);
        assert!(guess(&latencies, Mode::Sample, &stratum(1)).is_some());
        record(&latencies, &stratum(1), idle(), 21..36);
        assert_eq!(all(&latencies, &stratum(1), idle()), (20..36).collect::<Vec<_>>(), "the new ones alone");
    }

    #[tokio::test(start_paused = true)]
    async fn the_modes_are_sample_mean_and_nothing() {
        let latencies = Latencies::new();
        (1..32).for_each(|i| latencies.record(&stratum(1), idle(), ms(i)));
        let target = |mode, dice| match latencies.drawn(mode, &stratum(1), idle(), dice, None) {
            Target::Drawn(took) => took,
            Target::Guessed(guess) => panic!("a guess: {guess:?}"),
        };
        assert_eq!(target(Mode::Sample, 0.0), ms(1));
        assert_eq!(target(Mode::Sample, 0.9999).as_millis(), 30);
        assert_eq!(target(Mode::Mean, 0.7), ms(16));
        assert_eq!(target(Mode::Off, 0.7), Duration::ZERO);
        assert_eq!(
            guess(&latencies, Mode::Mean, &stratum(2)),
            Some(ms(47) / 2),
            "the paper's mean of the last that are known"
        );
        let nothing = Latencies::new();
        assert_eq!(nothing.drawn(Mode::Off, &stratum(1), idle(), 0.7, None), Target::Drawn(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_whose_deadlines_cut_his_calls_finds_that_they_cut_his_replays_as_often() {
        let latencies = Latencies::new();
        for i in 0..16 {
            latencies.record(&stratum(1), idle(), ms(5) + Duration::from_micros(i));
            latencies.record_cut(&stratum(1), idle(), ms(10));
        }
        let targets = |patience: Option<u64>| -> Vec<Target> {
            let dice = (0..100).map(|dice| (f64::from(dice) + 0.5) / 100.0);
            dice.map(|dice| latencies.drawn(Mode::Sample, &stratum(1), idle(), dice, patience.map(ms)))
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
        (0..RING).for_each(|_| latencies.record_cut(&stratum(1), idle(), ms(10)));
        assert!(targets(Some(10)).iter().all(|target| matches!(target, Target::Guessed(_))));
    }
}

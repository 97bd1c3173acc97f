//! An answer must not tell by its haste that the model was not asked. Step 10 of a Predict call: hold.
//!
//! What is hidden: how long a replayed row took. A reply of which some row was replayed leaves at a moment that
//! is drawn from how long forwarded calls of its kind took lately, under a load like the present one and tails included, so
//! that who measures both sees one distribution. Where too few of its kind are known, no time is made up: the model is asked, and
//! its answer dropped ([`Target::Guessed`]). What is not hidden here: that the machine is busy, a model whose time
//! depends on the very picture and not on its size, and, but under [`Mode::Shadow`], that a model which is asked less answers
//! the rest sooner.
//!
//! Nothing here knows messages or rulings: durations in, moments out.
//!
//! ```text
//! latency.rs  how long forwarded calls took lately, per stratum and load
//! recent.rs   what was recorded lately, for as many keys as were recorded lately
//! target.rs   those durations into how long this answer takes (pure; randomness passed in)
//! grid.rs     the moments at which replies leave under `bucket`
//! hold.rs     wait for that moment, on tokio's clock or finer
//! gap.rs      how far apart replayed and forwarded replies turned out to be
//! ```

mod latency;
mod recent;
mod target;
mod grid;
mod hold;
mod gap;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

pub use gap::{Gap, Gaps};
pub use grid::Grids;
pub use hold::{ClockPacer, FinePacer};
pub use latency::Latencies;
pub use target::{Target, about, uniform};

/// How the time of a replayed answer is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// Drawn from the recent durations of forwarded calls of the same stratum, each as likely as another (default).
    Sample,
    /// The same, and every reply of the model, forwarded or replayed, leaves on a grid that doubles when it is missed: what can
    /// be told of one reply is which of a few moments it left at. Costs every call up to one step of the grid.
    Bucket,
    /// The model is asked all the same and its answer dropped: the time is a call's own, and the next call finds the model as after any
    /// other. Saves the model nothing. Measured, it is told all the same by who compares enough replies (`tests/timing/RESULTS.md`).
    Shadow,
    /// Their mean, as the paper has it. Every replay then takes the same time, which tells.
    Mean,
    /// No hold: the target is zero.
    Off,
}

/// Calls that take about the same time: one way of asking, one model, one version, one number of rows, one amount of work.
///
/// What a caller may vary without making work for the model (an id, parameters, names) is no part of it: otherwise each call could
/// have a stratum of its own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Stratum {
    /// The method by which the model is asked.
    pub method: &'static str,
    /// The model's name.
    pub model: Arc<str>,
    /// The version that serves.
    pub version: Arc<str>,
    /// Rows of the whole call.
    pub rows: u32,
    /// What the model is given to work on, in all rows.
    pub work: Work,
    /// Whatever else takes the model server time: the form of the answer and how the values travel, as a number.
    pub form: u64,
}

/// What a model is given to work on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Work {
    tensors: u64,
    files: u64,
    pixels: u64,
}

impl Work {
    /// `tensors` bytes of elements, and `files` bytes of pictures' files that hold `pixels` pixels.
    ///
    /// Elements and pixels count exactly: the near-copies of an attack are all of one size, and where sizes differ, so do times. Files of
    /// near-copies differ by a few bytes, so they are counted down to their four leading binary digits: in steps of at most an eighth.
    pub fn new(tensors: usize, files: usize, pixels: usize) -> Self {
        let files = files as u64;
        let rest = (u64::BITS - files.leading_zeros()).saturating_sub(4);
        Self { tensors: tensors as u64, files: files >> rest << rest, pixels: pixels as u64 }
    }
}

/// How busy the model server was when a call came, coarsely: at rest for less than 2 ms, 8, 32, 128 or more; or asked by one call, two
/// or three, four to seven, and so on.
///
/// A server that rested answers more slowly, with cold caches: a new picture takes longer after a replay than after another new one.
///
/// Who sends calls of which he knows that they are forwarded learns the load from them, and so what a forwarded call would take
/// at this very moment. Durations of calls that came under another load would show.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Load(u8);

/// How many steps of rest are told apart.
const LONGEST_REST: u8 = 4;

impl Load {
    /// The load of so many calls under way at the model server, or of its rest since the last one ended.
    pub fn of(calls: usize, rested: Duration) -> Self {
        // A quarter of the time is one step busier.
        let rests = (u128::BITS - (rested.as_millis() / 2).leading_zeros()).div_ceil(2) as u8;
        match calls {
            0 => Self(LONGEST_REST - rests.min(LONGEST_REST)),
            calls => Self(LONGEST_REST + (usize::BITS - calls.leading_zeros()) as u8),
        }
    }

    /// Whether this load is so many steps from `other` at most. Between a rest and a call under way there is no small step: who comes after
    /// the one waits for nobody.
    fn is_within(self, steps: u8, other: Self) -> bool {
        self.is_busy() == other.is_busy() && self.0.abs_diff(other.0) <= steps
    }

    /// Whether calls were under way.
    fn is_busy(self) -> bool {
        self.0 > LONGEST_REST
    }
}

/// What is known of the model's haste when a call comes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Moment {
    /// How busy it is.
    pub load: Load,
    /// How busy it would be if it had been asked for the calls that are held at this moment: who sends eight copies at once expects the
    /// last to take as long as the last of eight new pictures.
    pub with_held: Load,
    /// How long it took for calls of the same stratum before.
    pub past: Option<Past>,
}

impl Moment {
    /// So many calls under way at the model server, or `rested` since the last one ended, and so many held.
    pub fn of((calls, rested): (usize, Duration), held: usize, past: Option<Past>) -> Self {
        let [load, with_held] = [calls, calls + held].map(|calls| Load::of(calls, rested));
        Self { load, with_held, past }
    }
}

/// What calls of one stratum took lately: who compares a reply with his own forwarded ones before it sees whether they belong together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Past {
    /// The last one; no less than this where it was cut.
    pub latest: Duration,
    /// Whether the last one ended before its answer came: the model may still be at work on it.
    pub cut: bool,
    /// The median of the last sixteen.
    pub usual: Duration,
}

impl Past {
    /// Calls that usually take more than so many times as long as before are those of another era.
    const ERA: u32 = 2;

    /// Whether calls usually took about as long in both: at most twice and at least half.
    fn is_of_era(self, other: Self) -> bool {
        let [less, more] = [self.usual.min(other.usual), self.usual.max(other.usual)];
        more <= less * Self::ERA
    }

    /// How unlike two pasts are: by the logarithms of their ratios, the median's at half its weight, and by whether the last one was cut.
    fn unlike(self, other: Self) -> f64 {
        // A call may be cut before any time has passed.
        let seconds = |took: Duration| took.as_secs_f64().max(1e-6);
        let ratio = |one, other| (seconds(one) / seconds(other)).ln().abs();
        let cut = if self.cut == other.cut { 0.0 } else { 1.0 };
        ratio(self.latest, other.latest) + ratio(self.usual, other.usual) / 2.0 + cut
    }
}

/// Waits for a moment.
pub trait Pacer: Send + Sync + 'static {
    /// Ends at `moment`, or at once if it has passed. Dropping the future frees whatever waits for it.
    fn until(&self, moment: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_and_pixels_count_exactly_and_files_in_steps_of_an_eighth() {
        assert_ne!(Work::new(3072, 0, 0), Work::new(3073, 0, 0));
        assert_ne!(
            Work::new(0, 3072, 1024),
            Work::new(0, 3072, 1025),
            "a large plain picture and a small noisy one"
        );
        let files = |bytes| Work::new(0, bytes, 0).files;
        assert_eq!(
            [0, 1, 15, 16, 17, 18, 1023, 1024, 1151, 1152].map(files),
            [0, 1, 15, 16, 16, 18, 960, 1024, 1024, 1152]
        );
        assert_eq!(files(usize::MAX), 15 << 60);
    }

    #[test]
    fn loads_are_told_apart_the_less_the_higher_they_are() {
        let ms = Duration::from_millis;
        assert_eq!([1, 2, 3, 4, 7, 8].map(|calls| Load::of(calls, ms(0))), [5, 6, 6, 7, 7, 8].map(Load));
        assert_eq!(
            [0, 1, 2, 7, 8, 31, 32, 127, 128].map(|rest| Load::of(0, ms(rest))),
            [4, 4, 3, 3, 2, 2, 1, 1, 0].map(Load)
        );
        assert_eq!(Load::of(0, Duration::MAX), Load(0));
    }
}

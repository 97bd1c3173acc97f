//! An answer must not tell by its haste that the model was not asked. Step 10 of a Predict call: hold.
//!
//! What is hidden: how long a replayed row took. A reply of which some row was replayed leaves at a moment that
//! is drawn from how long forwarded calls of its kind took lately, under a load like the present one and tails included, so
//! that who measures both sees one distribution. What is not hidden here: that the machine is busy, a model whose time
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
use tokio::time::Instant;

pub use gap::{Gap, Gaps};
pub use grid::Grids;
pub use hold::{ClockPacer, FinePacer};
pub use latency::Latencies;
pub use target::{about, uniform};

/// How the time of a replayed answer is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// Drawn from the recent durations of forwarded calls of the same stratum, each as likely as another (default).
    Sample,
    /// The same, and every reply of the model, forwarded or replayed, leaves on a grid that doubles when it is missed: what can
    /// be told of one reply is which of a few moments it left at. Costs every call up to one step of the grid.
    Bucket,
    /// The model is asked all the same and its answer dropped: the one time that cannot be told. Saves the model nothing.
    Shadow,
    /// Their mean, as the paper has it. Every replay then takes the same time, which tells.
    Mean,
    /// No hold: the target is zero.
    Off,
}

/// Calls that take about the same time: one way of asking, one model, one version, one number of rows, one size of request.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Stratum {
    /// The way in which the model is asked: its method.
    pub method: &'static str,
    /// The model's name.
    pub model: Arc<str>,
    /// The version that serves.
    pub version: Arc<str>,
    /// Rows of the whole call.
    pub rows: u32,
    /// Binary logarithm of the request's bytes, rounded up: 0..=64.
    pub size: u8,
}

impl Stratum {
    /// The stratum of a call whose request has `request_bytes` bytes.
    pub fn new(
        method: &'static str,
        model: impl Into<Arc<str>>,
        version: impl Into<Arc<str>>,
        rows: u32,
        request_bytes: usize,
    ) -> Self {
        let size = (usize::BITS - request_bytes.saturating_sub(1).leading_zeros()) as u8;
        Self { method, model: model.into(), version: version.into(), rows, size }
    }
}

/// How busy the model server was when a call came, coarsely: nobody asked it anything else, one call, two or three, four to
/// seven, and so on.
///
/// Who sends calls of which he knows that they are forwarded learns the load from them, and so what a forwarded call would take
/// at this very moment. Durations of calls that came under another load would show.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Load(u8);

impl Load {
    /// The load of so many calls under way at the model server.
    pub fn of(calls: usize) -> Self {
        Self((usize::BITS - calls.leading_zeros()) as u8)
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
    fn sizes_share_a_stratum_up_to_each_power_of_two() {
        let size = |bytes| Stratum::new("ask", "m", "1", 1, bytes).size;
        assert_eq!([0, 1, 2, 3, 4, 5, 1024, 1025].map(size), [0, 0, 1, 2, 2, 3, 10, 11]);
        assert_eq!(size(usize::MAX), usize::BITS as u8);
    }

    #[test]
    fn loads_are_told_apart_the_less_the_higher_they_are() {
        assert_eq!([0, 1, 2, 3, 4, 7, 8].map(Load::of), [0, 1, 2, 2, 3, 3, 4].map(Load));
    }
}

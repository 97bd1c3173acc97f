//! An answer must not tell by its haste that the model was not asked. Step 9 of a Predict call: hold.
//!
//! What is hidden: how long a replayed row took. A reply of which some row was replayed leaves at a moment that
//! is drawn from how long forwarded calls of its kind took lately, tails included, so that who measures both sees one
//! distribution. What is not hidden here: that the machine is busy, and a model whose time depends on the very
//! picture and not on its size.
//!
//! Nothing here knows messages or rulings: durations in, moments out.
//!
//! ```text
//! latency.rs  how long forwarded calls took lately, per stratum
//! target.rs   those durations into how long this answer takes (pure; randomness passed in)
//! hold.rs     wait for that moment, on tokio's clock or finer
//! ```

mod latency;
mod target;
mod hold;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tokio::time::Instant;

pub use hold::{ClockPacer, FinePacer};
pub use latency::Latencies;

/// How the time of a replayed answer is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// Drawn from the recent durations of forwarded calls of the same stratum, each as likely as another (default).
    Sample,
    /// Their mean, as the paper has it. Every replay then takes the same time, which tells.
    Mean,
    /// No hold: the target is zero.
    Off,
}

/// Calls that take about the same time: one model, one version, one number of rows, one size of request.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Stratum {
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
        model: impl Into<Arc<str>>,
        version: impl Into<Arc<str>>,
        rows: u32,
        request_bytes: usize,
    ) -> Self {
        let size = (usize::BITS - request_bytes.saturating_sub(1).leading_zeros()) as u8;
        Self { model: model.into(), version: version.into(), rows, size }
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
        let size = |bytes| Stratum::new("m", "1", 1, bytes).size;
        assert_eq!([0, 1, 2, 3, 4, 5, 1024, 1025].map(size), [0, 0, 1, 2, 2, 3, 10, 11]);
        assert_eq!(size(usize::MAX), usize::BITS as u8);
    }
}

//! An answer must not tell by its scores that the model was not asked. Step 9 of a Predict call: assemble.
//!
//! A replayed answer repeats another picture's scores to the last bit, which no model does. So what is done here is done to every
//! reply of a model, forwarded or replayed, and depends on nothing but the scores, the picture and a key: who sends the
//! same picture again gets the same scores again.
//!
//! Nothing here knows messages: numbers in, numbers out.
//!
//! ```text
//! scale.rs    probabilities or plain scores, their order, and how they are moved
//! rounded.rs  few digits, so that near answers are equal ones
//! noise.rs    keyed numbers that no caller can predict
//! decoy.rs    a smooth surface of our own on top of the model's
//! ```

mod scale;
mod rounded;
mod noise;
mod decoy;

use crate::judgment::Likeness;

pub use noise::Key;

use decoy::Decoy;

/// How scores are written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// As the model gave them (default). Who compares two replies sees which were replayed.
    Exact,
    /// To a hundredth of their range: a model's own near-copies often have equal scores then too. Costs honest callers the digits.
    Rounded,
    /// With keyed noise of two percent that differs from picture to picture: no two replies are equal. An average over many
    /// near-copies is flat, which a model's is not.
    Jittered,
    /// One for the best class, nothing for the others: there is nothing to compare.
    Label,
    /// With a keyed, smooth function of the picture on top: near-copies differ as a model's do, and a gradient estimated from them
    /// is that of the function.
    Decoy,
}

/// Standard deviation of what `jittered` adds, in natural logarithms of probabilities.
const JITTER: f64 = 0.02;

/// The same of what `decoy` adds as long as it is not known by how much near-copies differ with the model.
pub const SPREAD: f64 = 0.05;

/// What `decoy` adds besides, from picture to picture: changes that move no cell's mean by a level still change a model's scores.
const RIPPLE: f64 = 1e-4;

/// Writes the scores of pictures' classes.
#[derive(Clone, Debug)]
pub struct Disguise {
    mode: Mode,
    key: Key,
    /// None but for [`Mode::Decoy`].
    decoy: Option<Decoy>,
    /// Standard deviation of what `decoy` adds, in natural logarithms of probabilities.
    spread: f64,
}

impl Disguise {
    /// Scores written by `mode`; `spread` is for [`Mode::Decoy`] alone.
    pub fn new(mode: Mode, key: Key, spread: f64) -> Self {
        Self { mode, key, decoy: (mode == Mode::Decoy).then(|| Decoy::new(key)), spread }
    }

    /// Whether replies stay as they are.
    pub fn is_none(&self) -> bool {
        self.mode == Mode::Exact
    }

    /// Rewrites `scores`, one number for each class, of the picture with this likeness; `output` tells several outputs apart.
    ///
    /// The best class stays the best, no class passes a better one, and probabilities stay probabilities. Scores among which
    /// some are no numbers are left as they are.
    pub fn apply(&self, scores: &mut [f64], output: &str, likeness: &Likeness) {
        if scores.is_empty() || scores.iter().any(|score| !score.is_finite()) {
            return;
        }
        let ripples = || {
            let mut noise = self.key.noise(&[b"ripple", output.as_bytes(), &likeness.digest().to_bytes()]);
            noise.normal(scores.len())
        };
        match self.mode {
            Mode::Exact => {}
            Mode::Rounded => rounded::round(scores),
            Mode::Label => label(scores),
            Mode::Jittered => {
                let ripples = ripples();
                scale::shift(scores, |class| JITTER * ripples[class]);
            }
            Mode::Decoy => {
                let decoy = self.decoy.as_ref().map(|decoy| decoy.heights(output, scores.len(), likeness));
                let (ripples, heights) = (ripples(), decoy.unwrap_or_default());
                let height = |class| heights.get(class).copied().unwrap_or_default();
                scale::shift(scores, |class| self.spread * height(class) + RIPPLE * ripples[class]);
            }
        }
    }
}

/// One for the best class, nothing for the others.
fn label(scores: &mut [f64]) {
    let best = scale::best(scores);
    for (class, score) in scores.iter_mut().enumerate() {
        *score = if class == best { 1.0 } else { 0.0 };
    }
}

#[cfg(test)]
mod tests;

//! An answer must not tell by its scores that the model was not asked. Step 9 of a Predict call: assemble.
//!
//! A replayed answer repeats another picture's scores to the last bit, which no model does. What is done here about it depends
//! on nothing but the scores, the pictures and a key, so that who sends the same picture again gets the same scores again.
//!
//! What counts as scores is every output of floats, whatever it holds, vector by vector along its last dimension; classes with
//! their scores as text; and TensorFlow's classes and values. So [`Mode::Label`] makes one-hot vectors of an embedding, boxes or a
//! mask. Under `observe` no reply comes here: what the model said goes on as it is.
//!
//! Nothing here knows messages: numbers in, numbers out.
//!
//! ```text
//! scale.rs    probabilities or plain scores, their order, and how they are moved
//! rounded.rs  few digits, so that near answers are equal ones
//! noise.rs    keyed numbers that no caller can predict
//! slope.rs    a keyed function of how two pictures differ, by which a decoy moves as a model's scores would
//! spread.rs   how steep the model itself is between near-copies
//! ```

mod scale;
mod rounded;
mod noise;
mod slope;
mod spread;

use std::sync::Arc;

use crate::judgment::Likeness;

pub use noise::Key;
pub use spread::Spreads;

use slope::{Slopes, apart};

/// How scores are written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// As the model gave them (default). Who compares two replies sees which were replayed.
    Exact,
    /// To a hundredth of their range, in all replies: a model's own near-copies often have equal scores then too. Costs honest
    /// callers the digits.
    Rounded,
    /// With keyed noise of two percent that differs from picture to picture, in all replies: no two are equal. An average over
    /// many near-copies is flat, which a model's is not.
    Jittered,
    /// One for the best class, nothing for the others, in all replies: there is nothing to compare. A vector of one number becomes one.
    Label,
    /// The earlier picture's, moved by a keyed, smooth function of how the two pictures differ, as far as the model's own scores
    /// move between near-copies. A gradient estimated from replays is that of the function. Forwarded replies stay as they are.
    Decoy,
}

/// Standard deviation of what `jittered` adds, in natural logarithms of probabilities.
const JITTER: f64 = 0.02;

/// What a decoy moves by besides, as if the thumbnails were so far apart: changes too small for them move a model's scores too.
const RIPPLE: f64 = 2e-3;

/// Pictures whose thumbnails hardly differ teach nothing of how steep a model is.
const TOO_NEAR: f64 = 1e-2;

/// Writes the scores of one model's pictures.
#[derive(Clone, Debug)]
pub struct Disguise {
    mode: Mode,
    key: Key,
    /// None but for [`Mode::Decoy`].
    slopes: Option<Arc<Slopes>>,
    spreads: Arc<Spreads>,
}

impl Disguise {
    /// Scores written by `mode`; `spreads` is what calls taught of the model.
    pub fn new(mode: Mode, key: Key, spreads: Arc<Spreads>) -> Self {
        Self { mode, key, slopes: (mode == Mode::Decoy).then(|| Arc::new(Slopes::new(key))), spreads }
    }

    /// Whether the scores of forwarded rows are written anew.
    pub fn rewrites_forwarded(&self) -> bool {
        matches!(self.mode, Mode::Rounded | Mode::Jittered | Mode::Label)
    }

    /// Whether those of replayed rows are.
    pub fn rewrites_replayed(&self) -> bool {
        self.mode != Mode::Exact
    }

    /// What writes the scores of the picture `here`, of which the model was asked when it saw `there`: the same picture, if it was
    /// forwarded itself.
    ///
    /// The best class stays the best, no class passes a better one, and probabilities stay probabilities. Scores among which
    /// some are no numbers are left as they are.
    pub fn writer<'a>(
        &'a self,
        here: &'a Likeness,
        there: &'a Likeness,
    ) -> impl FnMut(&str, &mut [f64]) + 'a {
        let slopes = self.slopes.as_ref().filter(|_| here.digest() != there.digest());
        let path = slopes.and_then(|slopes| Some((slopes, slopes.path(here, there)?)));
        move |output, scores| {
            if scores.is_empty() || scores.iter().any(|score| !score.is_finite()) {
                return;
            }
            match self.mode {
                Mode::Exact => {}
                Mode::Rounded => rounded::round(scores),
                Mode::Label => label(scores),
                Mode::Jittered => {
                    let ripples = self.ripples(output, scores.len(), here);
                    scale::shift(scores, |class| JITTER * ripples[class]);
                }
                Mode::Decoy => {
                    let Some((slopes, path)) = &path else { return };
                    let spread = self.spreads.of(output);
                    let climb = slopes.climb(output, scores.len(), path);
                    let ripples = self.ripples(output, scores.len(), here);
                    scale::shift(scores, |class| spread * (climb[class] + RIPPLE * ripples[class]));
                }
            }
        }
    }

    /// Whether [`Self::learn`] has any use.
    pub fn learns(&self) -> bool {
        self.mode == Mode::Decoy
    }

    /// Takes in what the model itself made of two near-copies.
    pub fn learn(
        &self,
        output: &str,
        (here, scores): (&Likeness, &[f64]),
        (there, before): (&Likeness, &[f64]),
    ) {
        if let Some(apart) = apart(here, there).filter(|apart| *apart > TOO_NEAR)
            && let Some(moved) = scale::moved(before, scores)
        {
            self.spreads.learn(output, moved / apart);
        }
    }

    fn ripples(&self, output: &str, classes: usize, of: &Likeness) -> Vec<f64> {
        self.key.noise(&[b"ripple", output.as_bytes(), &of.digest().to_bytes()]).normal(classes)
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

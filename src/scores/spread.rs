//! By how much the model's own scores change from a picture to its near-copy: learned, for who must look like the model.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is assumed until it is known; two networks that were measured have 0.1 and 0.3.
const ASSUMED: f64 = 0.2;

/// What a model may teach; beyond it somebody taught it on purpose.
const POSSIBLE: (f64, f64) = (0.02, 5.0);

/// Pairs of pictures whose median is believed.
const ENOUGH: usize = 31;

/// Outputs of one model that are learned of.
const OUTPUTS: usize = 64;

/// How steep one model is, output by output: the median over pairs of near-copies. It is learned once and then stays: were it to change, the same picture's scores would.
///
/// Who is alone at the start, and sends nothing but pictures of which he knows what the model makes, decides what is learned, within
/// bounds.
#[derive(Debug, Default)]
pub struct Spreads(Mutex<HashMap<String, Spread>>);

#[derive(Debug)]
enum Spread {
    Learning(Vec<f64>),
    Known(f64),
}

impl Spreads {
    /// How steep an output is: by how much the natural logarithms of probabilities (or other scores, in their standard deviations)
    /// move when the thumbnail is moved by 255 levels in all, as the root of the sum of squares has it.
    pub(super) fn of(&self, output: &str) -> f64 {
        match self.lock().get(output) {
            Some(Spread::Known(spread)) => *spread,
            Some(Spread::Learning(_)) | None => ASSUMED,
        }
    }

    /// Whether there is more to learn of an output.
    pub(super) fn learns(&self, output: &str) -> bool {
        let known = self.lock();
        known.get(output).map_or(known.len() < OUTPUTS, |spread| matches!(spread, Spread::Learning(_)))
    }

    /// Takes in how steep it was between two pictures.
    pub(super) fn learn(&self, output: &str, steep: f64) {
        if !steep.is_finite() || !self.learns(output) {
            return;
        }
        let mut known = self.lock();
        let spread = known.entry(output.to_owned()).or_insert_with(|| Spread::Learning(Vec::new()));
        let Spread::Learning(pairs) = spread else { return };
        pairs.push(steep);
        if pairs.len() >= ENOUGH {
            pairs.sort_by(f64::total_cmp);
            *spread = Spread::Known(pairs[pairs.len() / 2].clamp(POSSIBLE.0, POSSIBLE.1));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Spread>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_learned_is_the_median_and_stays() {
        let spreads = Spreads::default();
        for pair in 0..30 {
            spreads.learn("p", f64::from(pair % 5));
            spreads.learn("p", f64::NAN);
            assert!(spreads.learns("p"));
        }
        spreads.learn("p", 2.0);
        assert!(!spreads.learns("p"));
        (0..100).for_each(|_| spreads.learn("p", 9.0));
        assert_eq!((spreads.of("p"), spreads.of("other")), (2.0, ASSUMED));
    }

    #[test]
    fn what_no_model_does_is_not_believed() {
        let spreads = Spreads::default();
        (0..ENOUGH).for_each(|_| spreads.learn("flat", 0.0));
        (0..ENOUGH).for_each(|_| spreads.learn("steep", 1e9));
        assert_eq!((spreads.of("flat"), spreads.of("steep")), POSSIBLE);
        (0..1000).for_each(|output| spreads.learn(&output.to_string(), 1.0));
        assert_eq!(spreads.lock().len(), OUTPUTS);
    }
}

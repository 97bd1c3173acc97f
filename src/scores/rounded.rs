//! Few digits.

use super::scale::{are_probabilities, best, ranked};

/// Steps of the range that are told apart.
const STEPS: f64 = 100.0;

/// Rounds to a hundredth: of one for probabilities, whose sum stays one; for others of the distance between best and worst, by a step
/// that is a power of two, so that it is the same for most pictures. The best class stays the first of the best.
pub(super) fn round(scores: &mut [f64]) {
    let top = best(scores);
    if are_probabilities(scores) {
        hundredths(scores, top);
    } else {
        multiples(scores, top);
    }
}

/// Each class gets the whole hundredths that it has, and those with the largest rest one more each until all are given.
fn hundredths(scores: &mut [f64], top: usize) {
    let sum: f64 = scores.iter().sum();
    let order = ranked(scores);
    let exact: Vec<f64> = scores.iter().map(|score| score / sum * STEPS).collect();
    let mut units: Vec<f64> = exact.iter().map(|exact| exact.floor()).collect();
    let missing = STEPS - units.iter().sum::<f64>();
    let mut by_rest = order.clone();
    // Stable: of equal rests the better class comes first.
    by_rest.sort_by(|&one, &other| (exact[other] - units[other]).total_cmp(&(exact[one] - units[one])));
    for &class in by_rest.iter().take(missing as usize) {
        units[class] += 1.0;
    }
    if best(&units) != top {
        let poorest = order.into_iter().rev().find(|&class| class != top && units[class] > 0.0);
        units[top] += 1.0;
        units[poorest.unwrap_or(top)] -= 1.0;
    }
    for (score, units) in scores.iter_mut().zip(units) {
        *score = units / STEPS;
    }
}

fn multiples(scores: &mut [f64], top: usize) {
    let worst = scores.iter().copied().fold(f64::INFINITY, f64::min);
    let range = if scores.len() > 1 { scores[top] - worst } else { scores[top].abs() };
    if range <= 0.0 {
        return;
    }
    let step = (range / STEPS).log2().floor().exp2();
    for score in scores.iter_mut() {
        *score = (*score / step).round() * step;
    }
    if best(scores) != top {
        scores[top] += step;
    }
}

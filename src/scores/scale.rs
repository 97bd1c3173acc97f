//! Scores on a scale on which a change means the same everywhere: probabilities by their logarithms, others as they are.

/// How far the sum of probabilities may be from one: half-precision numbers of a thousand classes are.
const SLACK: f64 = 5e-3;

/// A smaller probability counts as this one, whose logarithm is a number.
const LEAST: f64 = 1e-12;

/// Below it a probability of single precision says little of how it moved.
const TOLD: f64 = 1e-7;

/// Whether these are the probabilities of a closed list of classes.
pub(super) fn are_probabilities(scores: &[f64]) -> bool {
    let within = scores.iter().all(|score| (0.0..=1.0 + SLACK).contains(score));
    scores.len() > 1 && within && (scores.iter().sum::<f64>() - 1.0).abs() <= SLACK
}

/// The classes, best first; of equal ones the first comes first.
pub(super) fn ranked(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&one, &other| scores[other].total_cmp(&scores[one]));
    order
}

/// The first of the best.
pub(super) fn best(scores: &[f64]) -> usize {
    let better = |best: usize, class: usize| if scores[class] > scores[best] { class } else { best };
    (0..scores.len()).reduce(better).unwrap_or_default()
}

/// By how much a class that would pass a better one stops below it, in the same units: what single precision still tells apart.
const HAIR: f64 = 1e-5;

/// Adds `by` to each class's score: to the logarithm of a probability, and to others in units of their standard deviation. The
/// order stays: a class that would pass a better one stops just below it. The sum of probabilities stays.
pub(super) fn shift(scores: &mut [f64], by: impl Fn(usize) -> f64) {
    let sum: f64 = scores.iter().sum();
    let probabilities = are_probabilities(scores);
    if probabilities {
        for score in scores.iter_mut() {
            *score = score.max(LEAST).ln();
        }
    }
    let unit = if probabilities { 1.0 } else { deviation(scores) };
    let mut better: Option<(f64, f64)> = None;
    for class in ranked(scores) {
        let score = scores[class];
        let moved = score + unit * by(class);
        let ceiling = better.map_or(
            f64::INFINITY,
            |(before, after)| {
                if score < before { after - unit * HAIR } else { after }
            },
        );
        scores[class] = moved.min(ceiling);
        better = Some((score, scores[class]));
    }
    if probabilities {
        for score in scores.iter_mut() {
            *score = score.exp();
        }
        let moved: f64 = scores.iter().sum();
        for score in scores.iter_mut() {
            *score *= sum / moved;
        }
    }
}

/// By how much scores moved, in the units of [`shift`]: the root of the mean of the classes' squared moves, what moves all of them
/// alike taken off. None where they cannot be compared.
pub(super) fn moved(before: &[f64], after: &[f64]) -> Option<f64> {
    let both = || before.iter().zip(after);
    if before.len() != after.len() || both().any(|(before, after)| !before.is_finite() || !after.is_finite())
    {
        return None;
    }
    let moves: Vec<f64> = if are_probabilities(before) && are_probabilities(after) {
        let told = both().filter(|(before, after)| before.min(**after) > TOLD);
        told.map(|(before, after)| (after / before).ln()).collect()
    } else {
        let unit = deviation(before);
        both().map(|(before, after)| (after - before) / unit).collect()
    };
    if moves.len() < 2 {
        return None;
    }
    let mean = moves.iter().sum::<f64>() / moves.len() as f64;
    let squares: f64 = moves.iter().map(|moved| (moved - mean).powi(2)).sum();
    Some((squares / moves.len() as f64).sqrt()).filter(|moved| moved.is_finite())
}

/// The standard deviation of scores; their own size where there is but one, or all are alike.
fn deviation(scores: &[f64]) -> f64 {
    let mean = scores.iter().sum::<f64>() / scores.len() as f64;
    let squares: f64 = scores.iter().map(|score| (score - mean).powi(2)).sum();
    let deviation = (squares / scores.len() as f64).sqrt();
    if deviation > 0.0 { deviation } else { mean.abs() }
}

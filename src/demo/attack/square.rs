//! The Square attack: random squares of the largest allowed change, kept where they help.

use super::{Oracle, Search};
use crate::demo::DemoError;
use crate::demo::model::{CLASSES, Scores};
use crate::demo::photos::{Picture, SIDE};
use crate::demo::random::Random;

/// How far any channel of any pixel may be moved, in levels: 8/255, the usual measure for CIFAR-10.
const EPSILON: i16 = 8;

/// The share of the picture that the first squares cover: its authors' choice for CIFAR-10 is 0.3 for this norm.
const FIRST_SHARE: f64 = 0.3;

/// The most questions that it asks: a tenth of its authors' 10,000, so that the demo ends within a minute.
pub(super) const BUDGET: u64 = 1000;

/// After which share of the budget, in ten-thousandths, the squares' share is halved once more (its authors' schedule).
const HALVINGS: [u64; 9] = [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000];

pub(super) fn tells() -> String {
    format!(
        "Andriushchenko et al. 2020: every channel moved by up to {EPSILON}/255, first squares over {FIRST_SHARE} of \
         the\npicture: at most {BUDGET} queries after the photo itself."
    )
}

/// Searches until another class is seen or no question is left; the best candidate.
pub(super) async fn search<O: Oracle>(
    search: &mut Search<'_, O>,
    photo: &Picture,
    clean: Scores,
    mut random: Random,
) -> Result<Picture, DemoError> {
    let budget = search.left;
    if !search.goes_on() {
        return Ok(photo.clone());
    }
    // The stripes that it starts from are held whatever they score; what is refused counts as no better than the photograph.
    let mut best = stripes(photo, &mut random);
    let scores = search.ask(&best).await?;
    let mut held = margin(&scores.unwrap_or(clean), search.label);
    while search.goes_on() {
        let candidate = with_square(&best, photo, side(budget - search.left, budget), &mut random);
        let Some(scores) = search.ask(&candidate).await? else { continue };
        let margin = margin(&scores, search.label);
        if margin < held || search.fooled.is_some() {
            (best, held) = (candidate, margin);
        }
    }
    Ok(best)
}

/// How far the photograph's class is ahead of the next, as the logarithm of their ratio: the margin of the logits.
fn margin(scores: &Scores, label: usize) -> f32 {
    let logit = |score: f32| score.max(1e-12).ln();
    let others = (0..CLASSES).filter(|class| *class != label).map(|class| logit(scores[class]));
    logit(scores[label]) - others.fold(f32::NEG_INFINITY, f32::max)
}

/// The square's side after `asked` of `budget` questions.
fn side(asked: u64, budget: u64) -> usize {
    let passed = asked * 10_000 / budget.max(1);
    let halvings = HALVINGS.iter().filter(|after| passed > **after).count() as i32;
    let share = FIRST_SHARE / 2f64.powi(halvings);
    ((share * (SIDE * SIDE) as f64).sqrt().round() as usize).clamp(1, SIDE - 1)
}

fn moved(rgb: [u8; 3], signs: [i16; 3]) -> [u8; 3] {
    std::array::from_fn(|channel| (i16::from(rgb[channel]) + EPSILON * signs[channel]).clamp(0, 255) as u8)
}

fn signs(random: &mut Random) -> [i16; 3] {
    std::array::from_fn(|_| random.sign())
}

fn stripes(photo: &Picture, random: &mut Random) -> Picture {
    let mut picture = photo.clone();
    for x in 0..SIDE {
        let signs = signs(random);
        (0..SIDE).for_each(|y| picture.set(x, y, moved(photo.at(x, y), signs)));
    }
    picture
}

/// `best` with one square moved to the other end of what is allowed; drawn again, up to ten times, where nothing changes.
fn with_square(best: &Picture, photo: &Picture, side: usize, random: &mut Random) -> Picture {
    let (left, top) = (random.below(SIDE - side), random.below(SIDE - side));
    let mut picture = best.clone();
    for _ in 0..10 {
        let signs = signs(random);
        for y in top..top + side {
            (left..left + side).for_each(|x| picture.set(x, y, moved(photo.at(x, y), signs)));
        }
        if picture != *best {
            break;
        }
    }
    picture
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_shrink_by_the_schedule() {
        let found: Vec<usize> =
            [0, 1, 2, 6, 21, 51, 101, 201, 401, 601].map(|asked| side(asked, 1000)).into();
        // The square roots of 0.3 of 1,024 positions, halved again and again.
        assert_eq!(found, [18, 18, 12, 9, 6, 4, 3, 2, 2, 1]);
    }

    #[test]
    fn the_margin_is_that_of_the_logits() {
        let mut scores = [0.01; CLASSES];
        (scores[2], scores[6]) = (0.6, 0.3);
        assert!((margin(&scores, 2) - 2f32.ln()).abs() < 1e-6);
        assert!((margin(&scores, 6) + 2f32.ln()).abs() < 1e-6);
    }
}

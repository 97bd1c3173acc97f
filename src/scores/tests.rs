use std::borrow::Cow;

use super::*;
use crate::judgment::{Image, Judge, Rules};

const MODES: [Mode; 5] = [Mode::Exact, Mode::Rounded, Mode::Jittered, Mode::Label, Mode::Decoy];

fn disguise(mode: Mode) -> Disguise {
    Disguise::new(mode, Key::from_secret(&[7; 32]), Arc::default())
}

/// A picture of 32 x 32 that no other seed gives, with `changed` added to one pixel.
fn likeness(seed: u64, changed: u8) -> Likeness {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut rgb: Vec<u8> = (0..32 * 32 * 3)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as u8 / 2
        })
        .collect();
    rgb[1500] += changed;
    let image = Image::new(32, 32, Cow::Owned(rgb)).unwrap();
    Judge::new(Rules::hardened(), [1; 32]).likeness(&image)
}

/// The scores of a picture that was answered with those of the picture of seed 0.
fn written(mode: Mode, scores: &[f64], likeness: &Likeness) -> Vec<f64> {
    written_from(mode, scores, likeness, &self::likeness(0, 0))
}

fn written_from(mode: Mode, scores: &[f64], here: &Likeness, there: &Likeness) -> Vec<f64> {
    let mut scores = scores.to_vec();
    disguise(mode).writer(here, there)("probabilities", &mut scores);
    scores
}

/// Scores of all kinds that models give.
fn kinds() -> Vec<Vec<f64>> {
    let softmax = |logits: &[f64]| {
        let sum: f64 = logits.iter().map(|logit| logit.exp()).sum();
        logits.iter().map(|logit| logit.exp() / sum).collect::<Vec<_>>()
    };
    let thousand: Vec<f64> = (0..1000).map(|class| f64::from(class * 7919 % 1000) / 100.0).collect();
    vec![
        softmax(&[0.1, 2.0, -1.0, 0.4]),
        softmax(&thousand),
        vec![1.0, 0.0, 0.0],
        vec![0.5, 0.5],
        vec![0.25; 4],
        vec![-3.0, 12.5, 12.4, 0.0],
        thousand,
        vec![0.7],
        vec![3.0, 3.0],
        vec![1e30, -1e30, 5.0],
    ]
}

#[test]
fn the_best_class_stays_the_best_and_no_class_passes_a_better_one() {
    for mode in MODES {
        for scores in kinds() {
            for seed in 0..20 {
                let found = written(mode, &scores, &likeness(seed, 0));
                assert_eq!(scale::best(&found), scale::best(&scores), "{mode:?}");
                let order = scale::ranked(&scores);
                let falls = order.windows(2).all(|pair| found[pair[0]] >= found[pair[1]]);
                assert!(
                    falls,
                    "{mode:?} {:?} {:?}",
                    &scores[..scores.len().min(5)],
                    &found[..found.len().min(5)]
                );
            }
        }
    }
}

#[test]
fn probabilities_stay_probabilities() {
    for mode in MODES {
        for scores in kinds().into_iter().filter(|scores| scale::are_probabilities(scores)) {
            let found = written(mode, &scores, &likeness(3, 0));
            let sum: f64 = found.iter().sum();
            assert!(
                (sum - 1.0).abs() < 1e-6 && found.iter().all(|score| (0.0..=1.0).contains(score)),
                "{mode:?} {found:?}"
            );
        }
    }
}

#[test]
fn the_same_picture_has_the_same_scores_and_another_has_others_where_that_is_promised() {
    let scores = &kinds()[0];
    for (mode, differs) in [
        (Mode::Exact, false),
        (Mode::Rounded, false),
        (Mode::Label, false),
        (Mode::Jittered, true),
        (Mode::Decoy, true),
    ] {
        let [one, again, other] = [likeness(1, 0), likeness(1, 0), likeness(1, 1)];
        assert_eq!(written(mode, scores, &one), written(mode, scores, &again), "{mode:?}");
        assert_eq!(written(mode, scores, &one) != written(mode, scores, &other), differs, "{mode:?}");
    }
}

#[test]
fn rounded_scores_are_hundredths() {
    let found = written(Mode::Rounded, &[0.333, 0.333, 0.334], &likeness(1, 0));
    assert_eq!(found, [0.33, 0.33, 0.34]);
    let found = written(Mode::Rounded, &[0.4949, 0.4951, 0.01], &likeness(1, 0));
    assert_eq!(found, [0.49, 0.5, 0.01]);
    let found = written(Mode::Rounded, &[0.0, 12.8, 6.41], &likeness(1, 0));
    assert_eq!(found, [0.0, 12.75, 6.375], "an eighth is the power of two below a hundredth of the range");
}

#[test]
fn a_decoy_moves_as_far_as_the_pictures_are_apart_and_otherwise_around_each_picture() {
    let slopes = Slopes::new(Key::from_secret(&[7; 32]));
    let climb = |slopes: &Slopes, here: &Likeness, there: &Likeness| {
        slopes.climb("p", 400, &slopes.path(here, there).unwrap())
    };
    let height =
        |values: &[f64]| (values.iter().map(|value| value * value).sum::<f64>() / values.len() as f64).sqrt();
    let less = |one: &[f64], other: &[f64]| {
        one.iter().zip(other).map(|(one, other)| one - other).collect::<Vec<_>>()
    };
    let twice = |values: &[f64]| values.iter().map(|value| 2.0 * value).collect::<Vec<_>>();
    let heights: Vec<f64> = (0..40)
        .map(|seed| {
            let (there, here) = (likeness(seed, 0), likeness(seed + 100, 0));
            height(&climb(&slopes, &here, &there)) / apart(&here, &there).unwrap()
        })
        .collect();
    let mean = heights.iter().sum::<f64>() / 40.0;
    assert!((0.7..1.6).contains(&mean), "{mean}");
    let there = likeness(1, 0);
    assert!(height(&climb(&slopes, &there, &there)) < 1e-12);
    let (near, far) = (climb(&slopes, &likeness(1, 40), &there), climb(&slopes, &likeness(1, 80), &there));
    assert!(height(&less(&twice(&near), &far)) < 1e-9, "twice as far, twice as high");
    let back = climb(&slopes, &there, &likeness(1, 40));
    assert!(height(&less(&near, &back)) > height(&near) / 10.0, "and another way back");
    let elsewhere = climb(&slopes, &likeness(2, 40), &likeness(2, 0));
    assert!(height(&less(&near, &elsewhere)) > height(&near) / 2.0, "another picture, the same change");
    let another = climb(&Slopes::new(Key::from_secret(&[8; 32])), &likeness(1, 40), &there);
    assert!(height(&less(&near, &another)) > height(&near) / 2.0, "another key");
}

#[test]
fn a_decoy_leaves_what_was_forwarded_and_moves_as_far_as_the_model_was_seen_to() {
    let (here, there) = (likeness(1, 90), likeness(1, 0));
    let before = kinds().remove(0);
    assert_eq!(written_from(Mode::Decoy, &before, &there, &there), before);
    let disguise = disguise(Mode::Decoy);
    let decoy = || {
        let mut scores = before.clone();
        disguise.writer(&here, &there)("p", &mut scores);
        scale::moved(&before, &scores).unwrap()
    };
    let assumed = decoy();
    // A model that is four times as steep as is assumed until it is known.
    let mut after = before.clone();
    let steep = 0.8 * apart(&here, &there).unwrap();
    scale::shift(&mut after, |class| if class % 2 == 0 { steep } else { -steep });
    (0..100).for_each(|_| disguise.learn("p", (&here, &after), (&there, &before)));
    let ratio = decoy() / assumed;
    assert!((3.0..5.0).contains(&ratio), "{ratio}");
}

#[test]
fn what_is_no_number_is_left_alone() {
    for mode in MODES {
        let scores = written(mode, &[0.5, f64::NAN, 0.5], &likeness(1, 0));
        assert!((scores[0] - 0.5).abs() < 1e-12 && scores[1].is_nan());
        assert!(written(mode, &[], &likeness(1, 0)).is_empty());
    }
}

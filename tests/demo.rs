//! `refrain demo` tells the truth: its classifier is the documented one, its counts add up, and a seed repeats.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::sync::Mutex;

use refrain::demo::attack::{Attack, Outcome};
use refrain::demo::model::{Classifier, LABELS, top};
use refrain::demo::photos::{Photo, all};
use refrain::demo::{Duel, Fate, Plan, Step, Story, run};

#[test]
fn the_classifier_says_of_the_photos_what_their_readme_says() {
    let classifier = Classifier::embedded().unwrap();
    let readme = include_str!("../src/demo/photos/README.md");
    let (_, table) = readme.split_once("| file | label | probability |").unwrap();
    let photos = all().unwrap();
    assert_eq!(photos.len(), 12);
    for photo in &photos {
        let row = table.lines().find(|line| line.contains(photo.name)).unwrap();
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let values: Vec<f32> = photo
            .picture
            .tensor()
            .as_chunks::<4>()
            .0
            .iter()
            .map(|value| f32::from_le_bytes(*value))
            .collect();
        let scores = classifier.classify(&values).unwrap()[0];
        assert_eq!(LABELS[top(&scores)], cells[2], "{}", photo.name);
        assert_eq!(photo.class(), cells[2]);
        let probability: f32 = cells[3].parse().unwrap();
        assert!((scores[top(&scores)] - probability).abs() <= 0.001, "{}: {scores:?}", photo.name);
    }
}

const SMALL: Plan = Plan { seed: 3, photos: 2, budget: 150, pairs: 5 };

async fn told(plan: Plan) -> (Story, String, Vec<String>) {
    let mut out = Vec::new();
    let progress = Mutex::new(Vec::new());
    let story = run(plan, &mut out, &|what| progress.lock().unwrap().push(what.to_owned())).await.unwrap();
    (story, String::from_utf8(out).unwrap(), progress.into_inner().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_counts_add_up_and_every_result_is_listed() {
    let (story, text, progress) = told(SMALL).await;
    assert_eq!(story.duels.iter().map(|duel| duel.attack).collect::<Vec<_>>(), Attack::ALL);
    for duel in &story.duels {
        assert_eq!(duel.trials.len(), 2);
        for trial in &duel.trials {
            let (bare, refrain) = (&trial.bare, &trial.refrain);
            assert_eq!(refrain.asked, trial.forwarded + trial.short_circuited() + refrain.refused);
            assert!(trial.forwarded >= 1, "the photo itself is asked first, and forwarded");
            assert_eq!(bare.refused, 0, "the bare model refuses nobody");
            for outcome in [bare, refrain] {
                match outcome.fooled {
                    Some(fooled) => assert_eq!(fooled.after, outcome.asked, "an attack that succeeded stops"),
                    None => assert_eq!(outcome.asked, SMALL.budget + 1),
                }
                assert_eq!(outcome.label, bare.label);
            }
            let fates = |course: &[Step], fate| course.iter().filter(|step| step.fate == fate).count() as u64;
            let through =
                [Fate::Forward, Fate::Replay, Fate::Refuse].map(|fate| fates(&trial.refrain_course, fate));
            assert_eq!(through, [trial.forwarded, trial.short_circuited(), refrain.refused]);
            assert_eq!(trial.bare_course.len() as u64, bare.asked);
            assert_eq!(fates(&trial.bare_course, Fate::Forward), bare.asked);
            for course in [&trial.bare_course, &trial.refrain_course] {
                assert!(course.is_sorted_by_key(|step| step.at), "one question after the other");
            }
        }
    }
    assert_eq!((story.latency.forwarded.len(), story.latency.held.len()), (SMALL.pairs, SMALL.pairs));
    for Photo { name, author, .. } in &all().unwrap()[..2] {
        assert!(text.contains(author));
        assert_eq!(text.lines().filter(|line| line.starts_with(name)).count(), 2, "a row for each attack");
    }
    for line in text.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
    assert!(text.contains("refrain proxy --mode observe") && text.contains("refrain check --config"));
    assert!(progress.iter().any(|what| what.contains("2 of 2")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_repeats_to_the_last_query_and_another_does_not() {
    let ((first, ..), (again, ..)) = (told(SMALL).await, told(SMALL).await);
    assert!(found(&first) == found(&again), "two runs with one seed went different ways");
    let (other, ..) = told(Plan { seed: 4, ..SMALL }).await;
    assert!(found(&first) != found(&other), "two seeds went one way");
}

/// What the attackers were answered and found, on either side. How often the model was asked is not of it: near-copies are asked for their
/// time alone where its load says so.
fn found(story: &Story) -> Vec<(&Outcome, &Outcome, usize)> {
    let trials = story.duels.iter().flat_map(|duel| &duel.trials);
    trials.map(|trial| (&trial.bare, &trial.refrain, trial.transferred)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_attacks_on_the_bare_model_find_is_denied_to_them_through_refrain() {
    let (story, ..) = told(Plan { photos: 3, budget: 400, ..SMALL }).await;
    let fooled: usize = story.duels.iter().map(Duel::fooled_bare).sum();
    let through: usize = story.duels.iter().map(Duel::fooled_through).sum();
    assert!(
        fooled >= 4 && through == 0,
        "{fooled} attacks on the bare model succeeded, {through} through Refrain"
    );
}

//! Attacks on the meaning of a session, each at the store: doctored first pictures, decoys, drift, suspicion, batches.
//!
//! *Two queries* are enough to be told a wrong label where nothing guards an answer: a doctored copy of a picture goes first,
//! and its label then answers for the picture itself. The pictures are the demo's twelve photographs.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use refrain::judgment::{Distances, Image, Judge, Likeness, Reason, Rules};
use refrain::session::{
    Answer, CallerDigest, Claim, Embedded, Judged, Limits, Outcome, Question, SessionKey, Store, View,
};

const SIDE: usize = 32;

/// A picture of 32 x 32, three levels a position.
type Picture = Vec<[u8; 3]>;

/// A way to doctor a photograph; the second picture is another photograph, for patches.
type Doctor = fn(&Picture, &Picture, &mut Numbers) -> Picture;

#[tokio::test]
async fn a_photograph_never_gets_the_label_of_its_doctored_copy() {
    // The doctor, and photographs that its copy hardly differs from: the Samoyeds are grey already, white on snow.
    let tricks: [(&str, Doctor, &[&str]); 10] = [
        ("mosaic of 8 x 8", |photo, _, _| mosaic(photo, 4), &[]),
        ("mosaic of 4 x 4", |photo, _, _| mosaic(photo, 8), &[]),
        ("grey", |photo, _, _| each(photo, |[r, g, b]| [luma(r, g, b); 3]), &["dog-samoyeds"]),
        ("contrast x 0.5", |photo, _, _| contrast(photo, 0.5), &[]),
        ("contrast x 0.25", |photo, _, _| contrast(photo, 0.25), &[]),
        ("hue inverted", |photo, _, _| each(photo, inverted_hue), &[]),
        ("noise of 40", |photo, _, numbers| noise(photo, 40.0, numbers), &[]),
        ("patch of 9 %, flat", |photo, _, numbers| patch(photo, None, 0.09, numbers), &[]),
        ("patch of 9 %, of another", |photo, other, numbers| patch(photo, Some(other), 0.09, numbers), &[]),
        ("patch of 25 %, of another", |photo, other, numbers| patch(photo, Some(other), 0.25, numbers), &[]),
    ];
    for (name, doctor, alike) in tricks {
        let outcomes = outcomes(doctor).await;
        print(name, &outcomes);
        for outcome in outcomes.iter().filter(|outcome| outcome.misled) {
            let Doctored { photo, guarded, apart, .. } = outcome;
            assert!(alike.contains(&photo.as_str()) && *guarded, "{name} of {photo}: {apart:?}");
        }
    }
}

/// Small changes are what a replay is for: their label may answer, but only inside the guard.
#[tokio::test]
async fn a_photograph_gets_the_label_of_a_changed_copy_only_within_the_guard() {
    let changes: [(&str, Doctor); 9] = [
        ("patch of 1 %, flat", |photo, _, numbers| patch(photo, None, 0.01, numbers)),
        ("patch of 1 %, of another", |photo, other, numbers| patch(photo, Some(other), 0.01, numbers)),
        ("patch of 2 %, flat", |photo, _, numbers| patch(photo, None, 0.02, numbers)),
        ("patch of 2 %, of another", |photo, other, numbers| patch(photo, Some(other), 0.02, numbers)),
        ("patch of 2.9 %, of another", |photo, other, numbers| patch(photo, Some(other), 0.029, numbers)),
        ("patch of 5 %, flat", |photo, _, numbers| patch(photo, None, 0.05, numbers)),
        ("patch of 5 %, of another", |photo, other, numbers| patch(photo, Some(other), 0.05, numbers)),
        ("noise of 10", |photo, _, numbers| noise(photo, 10.0, numbers)),
        ("noise of 20", |photo, _, numbers| noise(photo, 20.0, numbers)),
    ];
    for (name, doctor) in changes {
        let outcomes = outcomes(doctor).await;
        print(name, &outcomes);
        for outcome in outcomes.iter().filter(|outcome| outcome.misled) {
            assert!(outcome.guarded, "{name} of {}: {:?}", outcome.photo, outcome.apart);
        }
    }
}

#[tokio::test]
async fn a_decoy_between_two_probes_changes_nothing() {
    let world = World::new();
    let photos = photos();
    assert_eq!(world.ask(&photos[0].1).await, Told::fresh(0));
    for probe in 1..60 {
        // A decoy that nobody has seen, and then the photograph with one pixel changed.
        assert!(matches!(world.ask(&blocks(1000 + probe)).await, Told::Fresh(_)), "decoy {probe}");
        let told = world.ask(&with_pixel(&photos[0].1, probe as usize * 17 % 1024, 255)).await;
        assert_eq!(told, Told::Replay(0), "probe {probe}");
    }
}

#[tokio::test]
async fn three_hundred_decoys_sent_twice_do_not_flush_what_was_hit() {
    // Among three hundred pictures of random blocks some show the same colours.
    let world = World::lenient();
    let photo = &photos()[0].1;
    assert_eq!(world.ask(photo).await, Told::fresh(0));
    assert_eq!(world.ask(&with_pixel(photo, 5, 255)).await, Told::Replay(0));
    for decoy in 0..300 {
        let picture = blocks(decoy);
        assert!(matches!(world.ask(&picture).await, Told::Fresh(_)), "decoy {decoy}");
        assert!(matches!(world.ask(&picture).await, Told::Replay(_)), "decoy {decoy} again");
    }
    // Exact repeats promote nothing, so the decoys pushed out only one another.
    assert_eq!(world.ask(&with_pixel(photo, 500, 0)).await, Told::Replay(0));
}

#[tokio::test]
async fn decoys_that_flush_an_anchor_leave_its_ghost() {
    let world = World::new();
    let photo = &photos()[0].1;
    assert_eq!(world.ask(photo).await, Told::fresh(0));
    for decoy in 0..300 {
        world.ask(&blocks(decoy)).await;
    }
    let judged = world.judge(vec![world.likeness(&with_pixel(photo, 5, 255))]).await.remove(0);
    assert!(matches!(judged.claim, Claim::Refuse));
    assert_eq!((judged.evidence.reason, judged.evidence.suspect), (Reason::Ghost, true));
}

#[tokio::test]
async fn a_drift_of_a_thousand_single_pixels_is_answered_from_within_the_guard_alone() {
    for (name, photo) in photos() {
        let world = World::new();
        assert_eq!(world.ask(&photo).await, Told::fresh(0), "{name}");
        let mut asked = vec![photo.clone()];
        let mut numbers = Numbers(7);
        let mut picture = photo;
        let (mut replays, mut refusals) = (0, 0);
        for step in 0..1000 {
            picture[numbers.below(SIDE * SIDE)] = [(); 3].map(|()| numbers.byte());
            match world.ask(&picture).await {
                Told::Fresh(at) => {
                    assert_eq!(at, asked.len());
                    asked.push(picture.clone());
                }
                Told::Replay(at) => {
                    assert!(within_guard(&picture, &asked[at]), "{name}, step {step}: answered from afar");
                    replays += 1;
                }
                Told::Refused => refusals += 1,
            }
        }
        let forwards = asked.len() - 1;
        println!("{name}: {replays} replayed, {forwards} forwarded, {refusals} refused");
        assert!(refusals > 0 && forwards <= 16, "{name}: {forwards} forwarded");
    }
}

#[tokio::test]
async fn the_first_suspect_is_refused_and_all_else_is_answered() {
    let world = World::new();
    let photo = &photos()[0].1;
    for suspect in 0..4 {
        let picture = blocks(suspect);
        assert!(matches!(world.ask(&picture).await, Told::Fresh(_)));
        let doctored = patch(&picture, Some(photo), 0.08, &mut Numbers(suspect + 1));
        assert_eq!(world.ask(&doctored).await, Told::Refused, "suspect {suspect}");
    }
    assert!(matches!(world.ask(&blocks(100)).await, Told::Fresh(_)));
    assert!(matches!(world.ask(&blocks(0)).await, Told::Replay(_)));
}

#[tokio::test]
async fn where_eight_suspects_are_forwarded_the_ninth_is_refused() {
    let world = World::lenient();
    let photos = photos();
    for suspect in 0..9 {
        let picture = blocks(suspect);
        assert!(matches!(world.ask(&picture).await, Told::Fresh(_)));
        let doctored = patch(&picture, Some(&photos[0].1), 0.08, &mut Numbers(suspect + 1));
        let told = world.ask(&doctored).await;
        let expected = if suspect < 8 { matches!(told, Told::Fresh(_)) } else { told == Told::Refused };
        assert!(expected, "suspect {}: {told:?}", suspect + 1);
    }
    // What is new, and what was asked before to the last pixel, is answered all the same.
    assert!(matches!(world.ask(&blocks(100)).await, Told::Fresh(_)));
    assert!(matches!(world.ask(&blocks(0)).await, Told::Replay(_)));
}

#[tokio::test(start_paused = true)]
async fn suspicion_outlives_the_anchors_that_raised_it() {
    let world = World::lenient();
    for suspect in 0..8 {
        let picture = blocks(suspect);
        world.ask(&picture).await;
        let doctored = patch(&picture, None, 0.08, &mut Numbers(suspect + 1));
        assert!(matches!(world.ask(&doctored).await, Told::Fresh(_)), "suspect {suspect}");
    }
    // Two hours: every anchor is past its life of one, and less than the three have passed that take a suspicion off.
    tokio::time::advance(Duration::from_hours(2)).await;
    let picture = blocks(50);
    assert!(matches!(world.ask(&picture).await, Told::Fresh(_)));
    let doctored = patch(&picture, None, 0.08, &mut Numbers(50));
    assert_eq!(world.ask(&doctored).await, Told::Refused);
}

#[tokio::test]
async fn sixty_four_rows_in_one_batch_are_ruled_as_one_by_one() {
    let photos = photos();
    let mut numbers = Numbers(3);
    let pictures: Vec<Picture> = (0..64)
        .map(|row| {
            let photo = &photos[row % photos.len()].1;
            match row % 4 {
                0 => photo.clone(),
                1 => with_pixel(photo, numbers.below(1024), numbers.byte()),
                2 => blocks(row as u32),
                _ => noise(photo, 3.0, &mut numbers),
            }
        })
        .collect();
    let single = World::new();
    let mut one_by_one = Vec::new();
    for picture in &pictures {
        one_by_one.push(single.ask(picture).await);
    }
    let batched = World::new();
    let rows = pictures.iter().map(|picture| batched.likeness(picture)).collect();
    let judged = batched.judge(rows).await;
    let together = batched.finish(judged).await;
    assert_eq!(together, one_by_one);
    let replays = together.iter().filter(|told| matches!(told, Told::Replay(_))).count();
    assert!((30..64).contains(&replays), "{replays} of 64 rows are near-copies");
}

#[tokio::test]
async fn a_batch_of_a_gradient_estimate_gets_one_answer() {
    // NES asks about sixteen noisy copies of one picture at once, in antithetic pairs, to tell from their scores where to go.
    for (name, photo) in photos() {
        let world = World::new();
        let mut numbers = Numbers(11);
        let mut rows = Vec::new();
        for _ in 0..8 {
            let step: Vec<[i16; 3]> =
                photo.iter().map(|_| [(); 3].map(|()| if numbers.byte() < 128 { 2 } else { -2 })).collect();
            for sign in [1, -1] {
                let row: Picture = photo
                    .iter()
                    .zip(&step)
                    .map(|(pixel, step)| {
                        std::array::from_fn(|c| clamped(i16::from(pixel[c]) + sign * step[c]))
                    })
                    .collect();
                rows.push(world.likeness(&row));
            }
        }
        let judged = world.judge(rows).await;
        let told = world.finish(judged).await;
        assert_eq!(told[0], Told::fresh(0), "{name}");
        assert!(told[1..].iter().all(|told| *told == Told::Replay(0)), "{name}: {told:?}");
    }
}

/// One caller's session, whose model answers every question with that question's number.
struct World {
    store: Embedded,
    judge: Arc<Judge>,
    asked: std::cell::Cell<usize>,
}

/// What a row was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// The model's answer to this question.
    Fresh(usize),
    /// Its answer to an earlier one.
    Replay(usize),
    Refused,
}

impl Told {
    fn fresh(number: usize) -> Self {
        Self::Fresh(number)
    }
}

impl World {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    /// Eight suspect rows a session are forwarded.
    fn lenient() -> Self {
        Self::with(Limits { suspicions: 8, ..Limits::default() })
    }

    fn with(limits: Limits) -> Self {
        Self {
            store: Embedded::new(limits),
            judge: Arc::new(Judge::new(Rules::hardened(), [7; 32])),
            asked: std::cell::Cell::default(),
        }
    }

    fn likeness(&self, picture: &Picture) -> Likeness {
        let rgb = picture.as_flattened();
        self.judge.likeness(&Image::new(SIDE as u32, SIDE as u32, rgb.into()).unwrap())
    }

    async fn ask(&self, picture: &Picture) -> Told {
        self.ask_likeness(self.likeness(picture)).await
    }

    async fn ask_likeness(&self, likeness: Likeness) -> Told {
        let judged = self.judge(vec![likeness]).await;
        self.finish(judged).await[0]
    }

    async fn judge(&self, rows: Vec<Likeness>) -> Vec<Judged> {
        let question = Question {
            session: SessionKey { caller: CallerDigest([1; 16]), group: "group".into() },
            verified: false,
            view: View { model: "model".into(), version: "1".into(), form: 0, inputs: 0 },
            other_inputs: Vec::new(),
            rows,
            judge: Arc::clone(&self.judge),
            origin: None,
            whole: false,
        };
        self.store.judge_and_claim(question).await
    }

    /// Settles first, as every call does, and then waits for what is replayed.
    async fn finish(&self, judged: Vec<Judged>) -> Vec<Told> {
        let mut told = vec![Told::Refused; judged.len()];
        let (mut settled, mut follows) = (Vec::new(), Vec::new());
        for (row, judged) in judged.into_iter().enumerate() {
            match judged.claim {
                Claim::Forward(lead) => {
                    let number = self.asked.replace(self.asked.get() + 1);
                    let bytes = Bytes::from(number.to_string());
                    let answer = Answer { bytes, version: "1".into(), took: Duration::from_millis(5) };
                    settled.push((lead, Outcome::Answered(answer)));
                    told[row] = Told::Fresh(number);
                }
                Claim::Replay(follow) => follows.push((row, follow)),
                Claim::Refuse => {}
            }
        }
        self.store.settle(settled).await;
        for (row, mut follow) in follows {
            let answer = follow.answer().await.expect("every forward was answered");
            told[row] = Told::Replay(std::str::from_utf8(&answer.bytes).unwrap().parse().unwrap());
        }
        told
    }
}

/// What became of one photograph after its doctored copy.
struct Doctored {
    photo: String,
    /// It got the doctored copy's answer.
    misled: bool,
    reason: Reason,
    suspect: bool,
    apart: Distances,
    /// The copy is within the guard of the photograph.
    guarded: bool,
}

async fn outcomes(doctor: Doctor) -> Vec<Doctored> {
    let photos = photos();
    let mut outcomes = Vec::new();
    for (at, (name, photo)) in photos.iter().enumerate() {
        let other = &photos[(at + 1) % photos.len()].1;
        for seed in 1..=5 {
            let world = World::new();
            let doctored = doctor(photo, other, &mut Numbers(seed));
            let (first, second) = (world.likeness(&doctored), world.likeness(photo));
            if first.digest() == second.digest() {
                continue;
            }
            let apart = world.judge.distances(&first, &second);
            assert_eq!(world.ask_likeness(first).await, Told::fresh(0));
            let judged = world.judge(vec![second]).await.remove(0);
            outcomes.push(Doctored {
                photo: name.clone(),
                misled: matches!(judged.claim, Claim::Replay(_)),
                reason: judged.evidence.reason,
                suspect: judged.evidence.suspect,
                apart,
                guarded: within_guard(photo, &doctored),
            });
        }
    }
    outcomes
}

/// The guard in words of its own: 95 % of positions within 20 levels, and no cell of 4 x 4 pixels further off than 40.
fn within_guard(one: &Picture, other: &Picture) -> bool {
    let far = |(one, other): (&[u8; 3], &[u8; 3]), levels| (0..3).any(|c| one[c].abs_diff(other[c]) > levels);
    let beyond = one.iter().zip(other).filter(|pair| far(*pair, 20)).count();
    let (one, other) = (mosaic(one, 4), mosaic(other, 4));
    // Means are rounded here and there, so a cell may be a level further off.
    beyond <= SIDE * SIDE / 20 && !one.iter().zip(&other).any(|pair| far(pair, 41))
}

fn print(name: &str, outcomes: &[Doctored]) {
    let count = |is: &dyn Fn(&Doctored) -> bool| outcomes.iter().filter(|outcome| is(outcome)).count();
    let new = count(&|outcome| outcome.reason == Reason::New);
    println!(
        "{name}: {} pictures, {} replayed, {} suspect, {new} new",
        outcomes.len(),
        count(&|outcome| outcome.misled),
        count(&|outcome| outcome.suspect),
    );
}

fn photos() -> Vec<(String, Picture)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/demo/photos");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|kind| kind == "png")).collect();
    files.sort();
    assert_eq!(files.len(), 12, "the demo's photographs");
    let read = |path: std::path::PathBuf| {
        let pixels = image::open(&path).unwrap().into_rgb8();
        assert_eq!(pixels.dimensions(), (SIDE as u32, SIDE as u32), "{}", path.display());
        (
            path.file_stem().unwrap().to_string_lossy().into_owned(),
            pixels.pixels().map(|pixel| pixel.0).collect(),
        )
    };
    files.into_iter().map(read).collect()
}

/// Unlike that of any other seed: 8 x 8 blocks of drawn colours.
fn blocks(seed: u32) -> Picture {
    let mut numbers = Numbers(seed.wrapping_mul(0x9E37_79B9) ^ 0xA5A5_5A5A);
    let colours: Vec<[u8; 3]> = (0..64).map(|_| [(); 3].map(|()| numbers.byte())).collect();
    (0..SIDE * SIDE).map(|at| colours[at / SIDE / 4 * 8 + at % SIDE / 4]).collect()
}

fn with_pixel(picture: &Picture, position: usize, level: u8) -> Picture {
    let mut picture = picture.clone();
    picture[position] = [level; 3];
    picture
}

fn each(picture: &Picture, change: impl Fn([u8; 3]) -> [u8; 3]) -> Picture {
    picture.iter().map(|&pixel| change(pixel)).collect()
}

/// Squares of `side` x `side`, each of its mean colour.
fn mosaic(picture: &Picture, side: usize) -> Picture {
    let mean = |at: usize| {
        let (top, left) = (at / SIDE / side * side, at % SIDE / side * side);
        let cell = (0..side * side).map(|i| picture[(top + i / side) * SIDE + left + i % side]);
        let mut sums = [0u32; 3];
        cell.for_each(|pixel| (0..3).for_each(|c| sums[c] += u32::from(pixel[c])));
        sums.map(|sum| (sum / (side * side) as u32) as u8)
    };
    (0..SIDE * SIDE).map(mean).collect()
}

/// A square of so much of the picture, somewhere in it: flat in a drawn colour, or cut from `other`.
fn patch(picture: &Picture, other: Option<&Picture>, share: f64, numbers: &mut Numbers) -> Picture {
    let side = ((share * (SIDE * SIDE) as f64).sqrt().floor() as usize).max(1);
    let (top, left) = (numbers.below(SIDE - side), numbers.below(SIDE - side));
    let flat = [(); 3].map(|()| numbers.byte());
    let mut picture = picture.clone();
    for y in top..top + side {
        for x in left..left + side {
            picture[y * SIDE + x] = other.map_or(flat, |other| other[y * SIDE + x]);
        }
    }
    picture
}

/// Towards the picture's own mean.
fn contrast(picture: &Picture, factor: f64) -> Picture {
    let means: [f64; 3] = std::array::from_fn(|c| {
        picture.iter().map(|pixel| f64::from(pixel[c])).sum::<f64>() / (SIDE * SIDE) as f64
    });
    each(picture, |pixel| {
        std::array::from_fn(|c| (means[c] + factor * (f64::from(pixel[c]) - means[c])).round() as u8)
    })
}

/// Every channel mirrored about the pixel's brightness.
fn inverted_hue([r, g, b]: [u8; 3]) -> [u8; 3] {
    let grey = i16::from(luma(r, g, b));
    [r, g, b].map(|level| clamped(2 * grey - i16::from(level)))
}

/// Normal noise of this deviation, in levels.
fn noise(picture: &Picture, deviation: f64, numbers: &mut Numbers) -> Picture {
    let mut noisy = |level: u8| {
        // Twelve uniform numbers add up to one that is as good as normal, of deviation 1.
        let normal = (0..12).map(|_| f64::from(numbers.byte()) / 255.0).sum::<f64>() - 6.0;
        (f64::from(level) + deviation * normal).round().clamp(0.0, 255.0) as u8
    };
    picture.iter().map(|pixel| pixel.map(&mut noisy)).collect()
}

fn luma(r: u8, g: u8, b: u8) -> u8 {
    ((299 * u32::from(r) + 587 * u32::from(g) + 114 * u32::from(b)) / 1000) as u8
}

fn clamped(level: i16) -> u8 {
    level.clamp(0, 255) as u8
}

/// Drawn numbers, the same on every machine.
struct Numbers(u32);

impl Numbers {
    fn byte(&mut self) -> u8 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 24) as u8
    }

    fn below(&mut self, end: usize) -> usize {
        (usize::from(self.byte()) << 8 | usize::from(self.byte())) % end
    }
}

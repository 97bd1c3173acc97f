//! The paper's Algorithm 1, walked step by step through the session store.
//!
//! Read with its misprints corrected: line 3 compares Image 1 with Image 2, line 6 asks the model about Image 2, line 7 keeps
//! Image 2 with its label as the new Image 1, line 11 keeps Image 1. *Similar* is `N_hash <= 25` of 256 bits or
//! `N_pixel <= 25` of 256 positions, 10 % of each; only what differs by both is asked of the model.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use refrain::judgment::{Anchor, Image, Judge, Likeness, Reason, Rules};
use refrain::session::{
    Answer, CallerDigest, Claim, Embedded, Limits, Outcome, Question, SessionKey, Store, View,
};

use Ruled::{Forward, Replay};

/// What is asked in a step, and what must come of it.
struct Step {
    asked: Picture,
    /// `N_hash` and `N_pixel` from Image 1; none where there is no Image 1 yet.
    apart: Option<(u32, u32)>,
    ruling: Ruled,
    /// The step whose question to the model answers this one.
    answered_by: usize,
    /// The step whose picture is Image 1 afterwards.
    image_1: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ruled {
    Forward,
    Replay,
}

/// A drawing of 4 x 4 patches, and edits to it, one after the other: so many of the 16 x 16 positions that the fingerprint
/// sees, drawn by a seed, by so many levels.
type Picture = (u32, &'static [Edit]);
type Edit = (u32, usize, i16);

const A: Picture = (1, &[]);
const B: Picture = (2, &[]);

/// `A` with changes that lie on each side of each threshold.
const A_25_25: Picture = (1, &[(2, 25, 20)]);
const A_25_26: Picture = (1, &[(6, 26, 20)]);
const A_26_25: Picture = (1, &[(13, 25, 20)]);
const A_26_26: Picture = (1, &[(16, 26, 20)]);
const A_1_256: Picture = (1, &[(9, 256, 1)]);

/// A chain from `A` in steps of 25 positions, each similar to the one before.
const DRIFT: [Picture; 4] = [
    (1, &[(31, 25, 60)]),
    (1, &[(31, 25, 60), (32, 25, 60)]),
    (1, &[(31, 25, 60), (32, 25, 60), (33, 25, 60)]),
    (1, &[(31, 25, 60), (32, 25, 60), (33, 25, 60), (34, 25, 60)]),
];

/// One line of a walk: the picture, how far it is from Image 1, the ruling, who answers, Image 1 afterwards.
fn step(asked: Picture, apart: impl Into<Option<(u32, u32)>>, ruling: Ruled, then: (usize, usize)) -> Step {
    Step { asked, apart: apart.into(), ruling, answered_by: then.0, image_1: then.1 }
}

#[tokio::test]
async fn a_pinned_image_1_stays_until_something_dissimilar_comes() {
    walk(
        Anchor::Pinned,
        &[
            step(A, None, Forward, (0, 0)),
            step(A, (0, 0), Replay, (0, 0)),
            step(A_25_25, (25, 25), Replay, (0, 0)),
            step(A_25_26, (25, 26), Replay, (0, 0)),
            step(A_26_25, (26, 25), Replay, (0, 0)),
            step(A_1_256, (1, 256), Replay, (0, 0)),
            // Both distances are over: the model is asked, and this picture takes the place of Image 1.
            step(A_26_26, (26, 26), Forward, (6, 6)),
            // The memory has one place, so the first picture is new again. This is the hole that a decoy uses.
            step(A, (26, 26), Forward, (7, 7)),
            step(B, (85, 256), Forward, (8, 8)),
            step(B, (0, 0), Replay, (8, 8)),
            step(A, (85, 256), Forward, (10, 10)),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_sliding_image_1_is_always_the_last_picture() {
    walk(
        Anchor::Sliding,
        &[
            step(A, None, Forward, (0, 0)),
            step(A, (0, 0), Replay, (0, 1)),
            step(A_25_25, (25, 25), Replay, (0, 2)),
            step(A, (25, 25), Replay, (0, 3)),
            step(A_26_25, (26, 25), Replay, (0, 4)),
            step(A, (26, 25), Replay, (0, 5)),
            step(A_26_26, (26, 26), Forward, (6, 6)),
            step(B, (101, 256), Forward, (7, 7)),
            step(A, (85, 256), Forward, (8, 8)),
        ],
    )
    .await;
}

#[tokio::test]
async fn small_steps_carry_an_answer_away_from_a_sliding_image_1() {
    walk(
        Anchor::Sliding,
        &[
            step(A, None, Forward, (0, 0)),
            step(DRIFT[0], (67, 25), Replay, (0, 1)),
            step(DRIFT[1], (47, 25), Replay, (0, 2)),
            step(DRIFT[2], (39, 25), Replay, (0, 3)),
            // Far from the picture that the model was asked about, and answered with its label.
            step(DRIFT[3], (46, 25), Replay, (0, 4)),
            step(A, (87, 87), Forward, (5, 5)),
        ],
    )
    .await;
}

#[tokio::test]
async fn the_same_small_steps_leave_a_pinned_image_1() {
    walk(
        Anchor::Pinned,
        &[
            step(A, None, Forward, (0, 0)),
            step(DRIFT[0], (67, 25), Replay, (0, 0)),
            step(DRIFT[1], (82, 49), Forward, (2, 2)),
            step(DRIFT[2], (39, 25), Replay, (2, 2)),
            step(DRIFT[3], (49, 46), Forward, (4, 4)),
            step(A, (87, 87), Forward, (5, 5)),
        ],
    )
    .await;
}

/// Walks `steps` in one session, and after each asks a twin of the session whether Image 1 is what the step says.
async fn walk(anchor: Anchor, steps: &[Step]) {
    let judge = Arc::new(Judge::new(Rules { anchor, ..Rules::paper() }, [3; 32]));
    let likenesses: Vec<Likeness> = steps.iter().map(|step| likeness(&judge, step.asked)).collect();
    let session = Embedded::new(Limits::default());
    let mut image_1 = None;
    for (at, step) in steps.iter().enumerate() {
        let apart = image_1.map(|image_1: usize| {
            let distances = judge.distances(&likenesses[at], &likenesses[image_1]);
            let positions = differing(pixels(steps[at].asked), pixels(steps[image_1].asked));
            assert_eq!((distances.positions, distances.of), (positions, 256), "N_pixel of step {at}");
            (distances.bits, distances.positions)
        });
        assert_eq!(apart, step.apart, "N_hash and N_pixel of step {at}");

        let (ruling, answer, reason) = ask(&session, &judge, likenesses[at].clone(), at).await;
        assert_eq!((ruling, answer), (step.ruling, step.answered_by), "step {at}: {reason:?}");
        assert_eq!(session.stats().anchors, 1, "one Image 1 after step {at}");
        image_1 = Some(step.image_1);

        let twin = Embedded::new(Limits::default());
        for (before, likeness) in likenesses[..=at].iter().enumerate() {
            ask(&twin, &judge, likeness.clone(), before).await;
        }
        let (ruling, answer, reason) = ask(&twin, &judge, likenesses[step.image_1].clone(), 99).await;
        let expected = (Replay, step.answered_by, Reason::Exact);
        assert_eq!((ruling, answer, reason), expected, "Image 1 after step {at}");
    }
}

/// Asks about one row; a forward is answered with the number of its step.
async fn ask(session: &Embedded, judge: &Arc<Judge>, row: Likeness, step: usize) -> (Ruled, usize, Reason) {
    let question = Question {
        session: SessionKey { caller: CallerDigest([1; 16]), group: "group".into() },
        verified: false,
        view: View { model: "model".into(), version: "1".into(), form: 0, inputs: 0 },
        other_inputs: Vec::new(),
        rows: vec![row],
        judge: Arc::clone(judge),
        origin: None,
        whole: false,
    };
    let judged = session.judge_and_claim(question).await.remove(0);
    assert!(!judged.evidence.suspect, "the paper suspects nobody");
    let reason = judged.evidence.reason;
    match judged.claim {
        Claim::Forward(lead) => {
            let bytes = Bytes::from(step.to_string());
            let answer = Answer { bytes, version: "1".into(), took: Duration::from_millis(5) };
            session.settle(vec![(lead, Outcome::Answered(answer))]).await;
            (Forward, step, reason)
        }
        Claim::Replay(mut follow) => {
            let answer = follow.answer().await.expect("every forward was answered");
            let step = std::str::from_utf8(&answer.bytes).unwrap().parse().unwrap();
            (Replay, step, reason)
        }
        Claim::Refuse => panic!("the paper refuses nobody"),
    }
}

/// The 16 x 16 colours of a picture.
fn pixels((seed, edits): Picture) -> Vec<[u8; 3]> {
    let mut numbers = Numbers(seed);
    let patches: Vec<[u8; 3]> = (0..16).map(|_| [(); 3].map(|()| numbers.next())).collect();
    let mut pixels: Vec<[u8; 3]> =
        (0..256).map(|position| patches[position / 64 * 4 + position % 16 / 4]).collect();
    for &(seed, count, levels) in edits {
        let mut numbers = Numbers(seed);
        let mut order: Vec<usize> = (0..256).collect();
        for at in 0..count {
            let drawn = usize::from(numbers.next()) << 8 | usize::from(numbers.next());
            order.swap(at, at + drawn % (256 - at));
        }
        for &position in &order[..count] {
            let sign = if pixels[position][1] < 128 { 1 } else { -1 };
            for level in &mut pixels[position] {
                *level = (i16::from(*level) + sign * levels).clamp(0, 255) as u8;
            }
        }
    }
    pixels
}

/// As the model is sent it: 32 x 32, which the paper's hash reduces to 16 x 16.
fn likeness(judge: &Judge, picture: Picture) -> Likeness {
    let pixels = pixels(picture);
    let rgb: Vec<u8> = (0..1024).flat_map(|at| pixels[at / 64 * 16 + at % 32 / 2]).collect();
    judge.likeness(&Image::new(32, 32, rgb.into()).unwrap())
}

fn differing(one: Vec<[u8; 3]>, other: Vec<[u8; 3]>) -> u32 {
    one.into_iter().zip(other).filter(|(one, other)| one != other).count() as u32
}

struct Numbers(u32);

impl Numbers {
    fn next(&mut self) -> u8 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 24) as u8
    }
}

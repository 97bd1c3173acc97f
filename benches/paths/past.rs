//! Questions to a store, and a session that remembers as much as it ever does.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use refrain::judgment::{Image, Judge, Likeness, Rules};
use refrain::session::{
    Answer, CallerDigest, Claim, Embedded, Judged, Limits, Outcome, Question, SessionKey, Store, View,
};

use crate::pictures::{Lots, mixed};

pub(crate) fn judge() -> Judge {
    Judge::new(Rules::hardened(), [1; 32])
}

/// A picture of 32 x 32 like no other seed's: 8 x 8 blocks of drawn colours.
pub(crate) fn pixels(seed: u64) -> Vec<u8> {
    let mut lots = Lots(mixed(seed));
    let blocks: Vec<[u8; 3]> = (0..64).map(|_| std::array::from_fn(|_| (lots.next() >> 56) as u8)).collect();
    (0..32 * 32).flat_map(|at| blocks[at / 128 * 8 + at % 32 / 4]).collect()
}

pub(crate) fn likeness(judge: &Judge, pixels: Vec<u8>) -> Likeness {
    judge.likeness(&Image::new(32, 32, pixels.into()).unwrap())
}

/// A near-copy of the picture of `seed`.
pub(crate) fn near_copy(judge: &Judge, seed: u64, lot: usize) -> Likeness {
    let mut pixels = pixels(seed);
    let at = mixed(lot as u64) as usize % pixels.len();
    pixels[at] = pixels[at].wrapping_add(1 + (lot % 250) as u8);
    likeness(judge, pixels)
}

/// A store, and how it is asked.
pub(crate) struct Past {
    pub(crate) store: Embedded,
    pub(crate) judge: Arc<Judge>,
    group: Arc<str>,
    answer: Bytes,
}

impl Past {
    /// A store of these limits, and a model whose answers are so many bytes. Pictures made at random are suspect now and then, which is not
    /// what is measured.
    pub(crate) fn new(mut limits: Limits, answer: usize) -> Self {
        limits.suspicions = 1_000_000;
        Self {
            store: Embedded::new(limits),
            judge: Arc::new(judge()),
            group: "model".into(),
            answer: Bytes::from(vec![7; answer]),
        }
    }

    /// One call of one caller, judged and settled. Every row's claim must be what is expected of it.
    pub(crate) fn ask(&self, caller: u64, rows: Vec<Likeness>, expected: Expected) {
        let judged = self.judged(caller, rows);
        let mut settled = Vec::with_capacity(judged.len());
        for judged in judged {
            match (judged.claim, expected) {
                (Claim::Forward(lead), Expected::Forward) => settled.push((lead, self.answered())),
                (Claim::Replay(follow), Expected::Replay) => {
                    std::hint::black_box(follow.ready().expect("it was answered"));
                }
                _ => unreachable!("expected {expected:?}: {:?}", judged.evidence),
            }
        }
        self.store.settle(settled).now_or_never().expect("the embedded store never waits");
    }

    pub(crate) fn judged(&self, caller: u64, rows: Vec<Likeness>) -> Vec<Judged> {
        let mut digest = [0; 16];
        digest[..8].copy_from_slice(&caller.to_le_bytes());
        let question = Question {
            session: SessionKey { caller: CallerDigest(digest), group: Arc::clone(&self.group) },
            verified: true,
            view: View { model: Arc::clone(&self.group), version: "1".into(), form: 0, inputs: 0 },
            other_inputs: vec![0; rows.len()],
            rows,
            judge: Arc::clone(&self.judge),
            origin: None,
            whole: false,
        };
        self.store.judge_and_claim(question).now_or_never().expect("the embedded store never waits")
    }

    fn answered(&self) -> Outcome {
        Outcome::Answered(Answer {
            bytes: self.answer.clone(),
            version: "1".into(),
            took: Duration::from_millis(5),
        })
    }

    /// Fills a caller's session: `hit` anchors that near-copies have hit, as many others as there is room for, and ghosts. Answers the seed of
    /// the first picture that was not used.
    pub(crate) fn fill(&self, caller: u64, hit: usize, others: usize) -> u64 {
        for seed in 0..hit {
            self.ask(caller, vec![likeness(&self.judge, pixels(seed as u64))], Expected::Forward);
            self.ask(caller, vec![near_copy(&self.judge, seed as u64, seed)], Expected::Replay);
        }
        for seed in hit..hit + others {
            self.ask(caller, vec![likeness(&self.judge, pixels(seed as u64))], Expected::Forward);
        }
        (hit + others) as u64
    }
}

/// What becomes of every row of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Forward,
    Replay,
}

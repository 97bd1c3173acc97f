//! A store, a judge and made-up pictures in a few lines, for the unit tests of this folder.

use super::{
    Answer, CallerDigest, Claim, Embedded, Follow, Judged, Lead, Limits, Outcome, Question, SessionKey,
    Store, View,
};
use crate::judgment::{Image, Judge, Likeness, Rules};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const HOUR: Duration = Duration::from_hours(1);

pub(super) struct World {
    pub(super) store: Embedded,
    pub(super) judge: Arc<Judge>,
}

impl World {
    pub(super) fn new(rules: Rules, limits: Limits) -> Self {
        Self { store: Embedded::new(limits), judge: Arc::new(Judge::new(rules, [7; 32])) }
    }

    /// Eight suspect rows are forwarded before a session is suspected, so that there is something to count.
    pub(super) fn hardened() -> Self {
        Self::new(Rules::hardened(), Limits { suspicions: 8, ..Limits::default() })
    }

    /// A picture unrelated to that of any other seed: 8 x 8 blocks of colours.
    pub(super) fn picture(&self, seed: u32) -> Likeness {
        self.spotted(seed, 0..0)
    }

    /// A near-copy of `picture(seed)`, to be replayed from it: one position differs, another one for each `nth`.
    pub(super) fn near(&self, seed: u32, nth: usize) -> Likeness {
        self.spotted(seed, nth..nth + 1)
    }

    /// A suspect near-copy of `picture(seed)`: 60 positions differ, too many for the guard; others for each `nth`.
    pub(super) fn suspect(&self, seed: u32, nth: usize) -> Likeness {
        self.spotted(seed, nth * 60..nth * 60 + 60)
    }

    /// `picture(seed)` with the spots of these numbers, spread over the picture.
    pub(super) fn spotted(&self, seed: u32, spots: std::ops::Range<usize>) -> Likeness {
        let mut pixels = vec![0; 32 * 32 * 3];
        for (index, value) in pixels.iter_mut().enumerate() {
            let (y, x, channel) = (index / 96, index / 3 % 32, index % 3);
            let block = (u64::from(seed) << 16) + ((y / 4 * 8 + x / 4) * 3 + channel) as u64;
            *value = (mixed(block) >> 56) as u8;
        }
        for spot in spots {
            let position = spot * 37 % 1024;
            pixels[position * 3..position * 3 + 3].iter_mut().for_each(|value| *value ^= 0x80);
        }
        self.judge.likeness(&Image::new(32, 32, pixels.into()).unwrap())
    }

    pub(super) fn question(&self, caller: u32, rows: Vec<Likeness>) -> Question {
        Question {
            session: key(caller),
            verified: false,
            view: view(),
            other_inputs: Vec::new(),
            rows,
            judge: self.judge.clone(),
            origin: None,
            whole: false,
        }
    }

    pub(super) async fn ask(&self, caller: u32, row: Likeness) -> Judged {
        self.put(self.question(caller, vec![row])).await.remove(0)
    }

    pub(super) async fn put(&self, question: Question) -> Vec<Judged> {
        let limit = self.store.limits().bytes;
        let judged = self.store.judge_and_claim(question).await;
        assert!(self.store.stats().bytes <= limit);
        judged
    }

    pub(super) async fn settle(&self, lead: Lead, outcome: Outcome) {
        self.store.settle(vec![(lead, outcome)]).await;
        assert!(self.store.stats().bytes <= self.store.limits().bytes);
    }

    /// Asks, and answers at once what is forwarded.
    pub(super) async fn ask_and_answer(&self, caller: u32, row: Likeness, text: &str) -> String {
        let judged = self.ask(caller, row).await;
        self.finish(judged, text).await
    }

    /// Answers what was forwarded with `text`; says what the row gets.
    pub(super) async fn finish(&self, judged: Judged, text: &str) -> String {
        match judged.claim {
            Claim::Forward(lead) => {
                self.settle(lead, answered(text)).await;
                format!("fresh {text}")
            }
            Claim::Replay(mut follow) => told(&follow.answer().await.unwrap()),
            Claim::Refuse => "refused".into(),
        }
    }
}

pub(super) fn told(answer: &Answer) -> String {
    String::from_utf8(answer.bytes.to_vec()).unwrap()
}

pub(super) fn key(caller: u32) -> SessionKey {
    let mut digest = [0; 16];
    digest[..4].copy_from_slice(&caller.to_le_bytes());
    SessionKey { caller: CallerDigest(digest), group: "group".into() }
}

pub(super) fn view() -> View {
    View { model: "model".into(), version: "1".into(), form: 0, inputs: 0 }
}

pub(super) fn answered(text: &str) -> Outcome {
    let bytes = Bytes::copy_from_slice(text.as_bytes());
    Outcome::Answered(Answer { bytes, version: "1".into(), took: Duration::from_millis(5) })
}

impl Judged {
    pub(super) fn lead(self) -> Lead {
        match self.claim {
            Claim::Forward(lead) => lead,
            _ => panic!("not forwarded: {:?}", self.evidence),
        }
    }

    pub(super) fn follow(self) -> Follow {
        match self.claim {
            Claim::Replay(follow) => follow,
            _ => panic!("not replayed: {:?}", self.evidence),
        }
    }

    pub(super) fn kind(&self) -> &'static str {
        match self.claim {
            Claim::Forward(_) => "forward",
            Claim::Replay(_) => "replay",
            Claim::Refuse => "refuse",
        }
    }
}

pub(super) fn kinds(judged: &[Judged]) -> Vec<&'static str> {
    judged.iter().map(Judged::kind).collect()
}

/// The finish of `SplitMix64`: numbers in order become numbers without any.
fn mixed(mut x: u64) -> u64 {
    x = x.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

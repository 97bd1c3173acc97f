//! A call of which some row was ruled a replay: what it is hidden behind, and where each of its rows has its answer from.
//!
//! The other half of the sentence that `predict.rs` keeps: where the model is asked all the same, its answers to replayed rows are dropped.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use tokio::time::Instant;

use super::call::Call;
use super::forward::{Fresh, Rows, answer_of, inputs_key};
use super::frame;
use super::headers::are_let_through;
use super::predict::Predictor;
use super::quota::Permit;
use super::read::Asked;
use super::release::{Occasion, Origin};
use super::status::CallError;
use super::upstream::{Reply, UpstreamError};
use super::verdict::Untold;
use crate::judgment::Likeness;
use crate::protocol::answer::AnswerError;
use crate::session::{Answer, Claim, Follow, Lead, Store};

/// How a call ends that has no answers to give: with the model server's own refusal, or with ours.
type Failed = Result<Reply, CallError>;

/// Whether a call failed since the model server cannot be reached, which says nothing of its picture. A call that broke may: a model
/// can end its process over one.
fn is_away(failed: &Failed) -> bool {
    matches!(failed, Err(CallError::Upstream(UpstreamError::Down(_))))
}

impl<S: Store> Predictor<S> {
    /// A call of which some row was ruled a replay: the model is asked for the others, the replayed ones get what they were
    /// promised, and the reply leaves when a reply of the model's would have left.
    pub(super) async fn replay(
        self: &Arc<Self>,
        call: &Call,
        asked: &Asked,
        occasion: &Occasion,
        Claimed { leads, mut follows }: Claimed,
        (cover, valid): (Cover, bool),
        untold: Option<Untold>,
    ) -> Result<Reply, CallError> {
        let shadowed = matches!(cover, Cover::Shadow(_));
        if shadowed {
            self.telemetry.metrics.shadowed();
        }
        // Those that were claimed, and those that nobody could read.
        let is_replayed = |row: &usize| follows.iter().any(|(followed, _)| followed == row);
        let others: Vec<usize> = (0..asked.query.rows()).filter(|row| !is_replayed(row)).collect();

        // While the model works, once the question is on its way, the operator is told, and the reply put together where all is at hand: a
        // shadow must neither ask later than a new picture's call nor leave later than its reply.
        let at_hand = others.is_empty() && follows.iter().all(|(_, follow)| follow.ready().is_some());
        let asks = self.ask_beside(call, asked, occasion, leads, &others, (shadowed, valid));
        let (beside, early) = tokio::join!(asks, async {
            tokio::task::yield_now().await;
            drop(untold);
            if !at_hand {
                return None;
            }
            Some(self.put_together(call, asked, &mut follows, &[], &[]).await)
        });
        let beside = match beside {
            Ok(beside) => beside,
            Err(failed) => {
                let is_told = shadowed && !valid || is_away(&failed);
                self.leave(call, occasion, is_told.then_some(Origin::Odd), None).await;
                return failed;
            }
        };
        let put_together = match early {
            Some(early) => early,
            None => self.put_together(call, asked, &mut follows, &others, &beside.fresh).await,
        };
        let (followed, reply) = match put_together {
            Ok(put_together) => put_together,
            Err(failed) => {
                self.leave(call, occasion, None, None).await;
                return failed;
            }
        };
        for (row, given) in &followed.given {
            if let Some(fresh) = answer_of(&beside.fresh, *row) {
                learn_scores(asked, *row, fresh, given);
            }
        }

        // Who waits for another call takes longer than the model took for this one.
        let origin = beside.origin.map(|origin| if followed.waited { Origin::Odd } else { origin });
        let took = followed.took.filter(|_| others.is_empty());
        if let Some(saved) = took.filter(|_| !shadowed) {
            call.noted.set("refrain.upstream.saved_time", saved);
        }
        // Answers that make no reply leave when a reply would have left.
        self.leave(call, occasion, origin, took).await;
        reply
    }

    /// The reply: the answers that the replayed rows were promised, waited for, and the model's `fresh` ones to the `others`.
    async fn put_together(
        self: &Arc<Self>,
        call: &Call,
        asked: &Asked,
        follows: &mut [(usize, Follow)],
        others: &[usize],
        fresh: &[(usize, Answer)],
    ) -> Result<(Followed, Result<Reply, CallError>), Failed> {
        let followed = self.follow_all(call, asked, follows).await?;
        let mut answers = vec![None; asked.query.rows()];
        for &row in others {
            answers[row] = answer_of(fresh, row).cloned().map(Given::fresh);
        }
        for (row, given) in &followed.given {
            answers[*row] = Some(given.clone());
        }
        let reply = assemble(answers, asked).map(|frame| asked.model.template().reply(frame));
        Ok((followed, reply.map_err(CallError::from)))
    }

    /// What the model says besides the replays: of the `others`, and under a shadow of every row.
    async fn ask_beside(
        self: &Arc<Self>,
        call: &Call,
        asked: &Asked,
        occasion: &Occasion,
        leads: Vec<(usize, Lead)>,
        others: &[usize],
        (shadowed, valid): (bool, bool),
    ) -> Result<Beside, Failed> {
        let all_replayed = others.is_empty();
        if all_replayed && !shadowed {
            // A new picture's call would fail at once, so a replay does too.
            return match self.upstream.down() {
                None => Ok(Beside::default()),
                Some(error) => Err(Err(error.into())),
            };
        }
        let rows = match (shadowed, valid && !all_replayed) {
            (false, _) => Rows::These(others.to_vec()),
            // Who asks in a form that is known to be accepted is not told how the model took a picture whose row is
            // replayed, not even by an error: had he been held, nobody would have asked it.
            (true, true) => Rows::AllOr(others.to_vec()),
            (true, false) => Rows::All,
        };
        let fresh = self.forward(call, asked, rows, leads, None);
        let fresh = if shadowed { self.asking(call, occasion, fresh).await } else { fresh.await };
        let failed = match fresh {
            Ok(Fresh { told: Some(_), rows: Some(fresh), .. }) => {
                let is_whole = fresh.len() == asked.query.rows();
                let origin = is_whole.then_some(Origin::Shadowed { whole: all_replayed });
                return Ok(Beside { fresh, origin });
            }
            // An OK reply that cannot be taken apart holds fresh answers of rows that were ruled replays, or lacks them.
            Ok(Fresh { told: Some(_), .. }) => Err(AnswerError::Differ("rows").into()),
            Ok(fresh) => Ok(fresh.reply),
            Err(error) => Err(error),
        };
        // As above.
        if shadowed && all_replayed && valid && !is_away(&failed) {
            Ok(Beside::default())
        } else {
            Err(failed)
        }
    }

    /// The answers that the replayed rows were promised, waited for.
    async fn follow_all(
        self: &Arc<Self>,
        call: &Call,
        asked: &Asked,
        follows: &mut [(usize, Follow)],
    ) -> Result<Followed, Failed> {
        let mut followed = Followed { given: Vec::new(), waited: false, took: Some(Duration::ZERO) };
        for (row, follow) in follows {
            followed.waited |= follow.ready().is_none();
            let given = self.followed(call, asked, *row, follow).await?;
            let from_memory = followed.took.filter(|_| given.of.is_some());
            followed.took = from_memory.map(|took| took.max(given.answer.took));
            followed.given.push((*row, given));
        }
        Ok(followed)
    }

    /// Waits until the reply may leave: at once where it came about by asking the model (`origin`), else when its time is up, for
    /// which it counts what its anchors `took` where all of it is from memory.
    async fn leave(&self, call: &Call, occasion: &Occasion, origin: Option<Origin>, took: Option<Duration>) {
        match origin {
            Some(origin) => self.let_go(call, occasion, origin).await,
            None => self.hold(call, occasion, took).await,
        }
    }

    /// Whether the upstream is known to accept this request, were its replayed rows other pictures: a hit must not succeed
    /// where a miss would fail. By its signature, as long as the other inputs of the replayed rows were answered before; or
    /// by an earlier success of the very same form. And the headers must be plain, or such as were let through before.
    pub(super) fn is_valid(&self, headers: &HeaderMap, asked: &Asked, follows: &[(usize, Follow)]) -> bool {
        let Asked { query, model, other_inputs, .. } = asked;
        let indifferent = !query.has_other_inputs() || model.settings.ignore_extra_inputs;
        let tried = |row: &usize| indifferent || model.has_accepted(&[inputs_key(other_inputs[*row])]);
        let is_accepted = query.is_accepted_by(&model.signature) && follows.iter().all(|(row, _)| tried(row))
            || model.has_accepted(&query.validity(&self.key));
        is_accepted && are_let_through(headers, &self.key, |key| model.has_accepted(&[key]))
    }

    /// The answer that `row` was promised; if its leader failed, the row is judged again, and forwarded if it is the first to be.
    async fn followed(
        self: &Arc<Self>,
        call: &Call,
        asked: &Asked,
        row: usize,
        follow: &mut Follow,
    ) -> Result<Given, Failed> {
        loop {
            let waits = Instant::now();
            let answer = follow.answer().await;
            call.noted.spent_elsewhere(waits.elapsed());
            if let Ok(answer) = answer {
                return Ok(Given { answer, of: Some(follow.likeness().clone()) });
            }
            let Some((_, judged)) = self.judge(call, asked, &[row]).await.pop() else {
                return Err(Err(CallError::Overloaded));
            };
            match judged.claim {
                Claim::Replay(another) => *follow = another,
                Claim::Refuse => return Err(Err(CallError::Suspected)),
                Claim::Forward(lead) => {
                    let rows = Rows::These(vec![row]);
                    let fresh =
                        self.forward(call, asked, rows, vec![(row, lead)], None).await.map_err(Err)?;
                    return match (fresh.rows.and_then(|mut rows| rows.pop()), fresh.told) {
                        (Some((_, answer)), _) => Ok(Given::fresh(answer)),
                        (None, Some(_)) => Err(Err(AnswerError::Differ("rows").into())),
                        (None, None) => Err(Ok(fresh.reply)),
                    };
                }
            }
        }
    }
}

/// The rows of a call by what was claimed for them.
#[derive(Default)]
pub(super) struct Claimed {
    /// Those that the model is asked for.
    pub(super) leads: Vec<(usize, Lead)>,
    /// Those that are replayed.
    pub(super) follows: Vec<(usize, Follow)>,
}

/// What the model said of a call of which some row is replayed.
#[derive(Default)]
struct Beside {
    /// Of the rows that it was asked for; what it said of replayed ones is dropped.
    fresh: Vec<(usize, Answer)>,
    /// How the reply came about where the model answered every row: then it leaves at once, in the model's own time.
    origin: Option<Origin>,
}

/// What the replayed rows of a call were given.
struct Followed {
    given: Vec<(usize, Given)>,
    /// Another call was waited for.
    waited: bool,
    /// The longest that the model took for one of these answers when it gave it; none where a row had to be asked for after all.
    took: Option<Duration>,
}

/// What hides that a row was replayed, as long as it lives.
pub(super) enum Cover {
    /// The reply waits for its moment.
    Hold(#[expect(dead_code, reason = "its place is free when it is dropped")] Permit),
    /// The upstream is asked, and its answer dropped.
    Shadow(#[expect(dead_code, reason = "as above")] Permit),
}

/// What a replay is hidden behind: a hold, or where its form is not known to be valid, its time not known or no more calls may wait, a call
/// to the upstream that answers for form and time, and we for the rows. None where neither can be had.
pub(super) fn cover(call: &Call, occasion: &Occasion, valid: bool) -> Option<Cover> {
    let (live, caller) = (&call.live, call.caller.digest.0);
    let shadow = || live.shadows.take(caller, 1).map(Cover::Shadow);
    let hold = || if valid { live.held.take(caller, 1).map(Cover::Hold) } else { None };
    if occasion.is_best_shadowed() { shadow().or_else(hold) } else { hold().or_else(shadow) }
}

/// A row's answer.
#[derive(Clone)]
pub(super) struct Given {
    answer: Answer,
    /// What the picture looked like of which the model said so; none where it is the row's own.
    of: Option<Likeness>,
}

impl Given {
    /// What the model said of the row itself.
    pub(super) fn fresh(answer: Answer) -> Self {
        Self { answer, of: None }
    }
}

/// The rows' answers as the reply to what was asked, their scores as the model's settings want them written.
pub(super) fn assemble(answers: Vec<Option<Given>>, asked: &Asked) -> Result<Bytes, AnswerError> {
    let disguise = &asked.model.disguise;
    let rows = answers.into_iter().zip(&asked.likenesses).map(|(given, likeness)| {
        let Given { answer, of } = given.ok_or(AnswerError::Differ("number"))?;
        let rewrites =
            if of.is_some() { disguise.rewrites_replayed() } else { disguise.rewrites_forwarded() };
        match likeness {
            Some(here) if rewrites => {
                let mut writer = disguise.writer(here, of.as_ref().unwrap_or(here));
                asked.query.rewritten(answer.bytes, &mut writer)
            }
            _ => Ok(answer.bytes),
        }
    });
    let rows = rows.collect::<Result<Vec<_>, _>>()?;
    let typed = asked.model.replies_typed(asked.query.is_typed());
    Ok(frame::wrap(&asked.query.assemble(rows, typed)?))
}

/// What the model made of a near-copy that it was asked about in vain: by how much its scores move.
fn learn_scores(asked: &Asked, row: usize, fresh: &Answer, given: &Given) {
    let (disguise, query) = (&asked.model.disguise, &asked.query);
    let (Some(here), Some(there)) = (&asked.likenesses[row], &given.of) else { return };
    if !disguise.learns() {
        return;
    }
    let scores = |answer: &Answer| {
        let mut scores = Vec::new();
        let mut keep = |output: &str, of: &mut [f64]| scores.push((output.to_owned(), of.to_vec()));
        query.rewritten(answer.bytes.clone(), &mut keep).map(|_| scores).unwrap_or_default()
    };
    for ((output, after), (another, before)) in scores(fresh).into_iter().zip(scores(&given.answer)) {
        if output == another {
            disguise.learn(&output, (here, &after), (there, &before));
        }
    }
}

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
use super::upstream::Reply;
use crate::judgment::Likeness;
use crate::protocol::answer::AnswerError;
use crate::session::{Answer, Claim, Follow, Lead, Store};

impl<S: Store> Predictor<S> {
    /// A call of which some row was ruled a replay.
    pub(super) async fn replay(
        self: &Arc<Self>,
        call: &Call,
        asked: &Asked,
        occasion: &Occasion,
        leads: Vec<(usize, Lead)>,
        mut follows: Vec<(usize, Follow)>,
        (cover, valid): (Cover, bool),
    ) -> Result<Reply, CallError> {
        let query = &asked.query;
        let shadowed = matches!(cover, Cover::Shadow(_));
        if shadowed {
            self.telemetry.metrics.shadowed();
        }

        let mut answers: Vec<Option<Given>> = Vec::new();
        answers.resize_with(query.rows(), || None);
        let mut dropped = Vec::new();
        // Every row that is not replayed: those that were claimed, and those that nobody could read.
        let is_replayed = |row: &usize| follows.iter().any(|(followed, _)| followed == row);
        let forwarded: Vec<usize> = (0..query.rows()).filter(|row| !is_replayed(row)).collect();
        let all_replayed = forwarded.is_empty();
        // How the reply came about where the model answered every row: then it leaves at once, in the model's own time.
        let mut origin = None;
        if shadowed || !all_replayed {
            let rows = match (shadowed, valid && !all_replayed) {
                (false, _) => Rows::These(forwarded.clone()),
                // Who asks in a form that is known to be accepted is not told how the model took a picture whose row is
                // replayed, not even by an error: had he been held, nobody would have asked it.
                (true, true) => Rows::AllOr(forwarded.clone()),
                (true, false) => Rows::All,
            };
            let fresh = self.forward(call, asked, rows, leads);
            let fresh = if shadowed { self.asking(call, occasion, fresh).await } else { fresh.await };
            let failed = match fresh {
                Ok(Fresh { told: Some(_), rows: Some(rows), .. }) => {
                    let all = rows.len() == query.rows();
                    origin = all.then_some(Origin::Shadowed { whole: all_replayed });
                    for row in forwarded {
                        answers[row] = answer_of(&rows, row).cloned().map(Given::fresh);
                    }
                    dropped = rows;
                    None
                }
                // An OK reply that cannot be taken apart holds fresh answers of rows that were ruled replays, or lacks them.
                Ok(Fresh { told: Some(_), .. }) => Some(Err(AnswerError::Differ("rows").into())),
                Ok(fresh) => Some(Ok(fresh.reply)),
                Err(error) => Some(Err(error)),
            };
            // As above.
            let failed = failed.filter(|_| !(shadowed && all_replayed && valid));
            if let Some(failed) = failed {
                if shadowed && !valid {
                    self.let_go(call, occasion, Origin::Odd).await;
                } else {
                    self.hold(call, occasion, None).await;
                }
                return failed;
            }
        }

        let (mut anchor_took, mut from_memory) = (Duration::ZERO, true);
        for (row, follow) in &mut follows {
            if follow.ready().is_none() {
                // Who waits for another call takes longer than the model took for this one.
                origin = origin.map(|_| Origin::Odd);
            }
            let given = match self.followed(call, asked, *row, follow).await {
                Ok(given) => given,
                Err(failed) => {
                    self.hold(call, occasion, None).await;
                    return failed;
                }
            };
            if let Some(fresh) = answer_of(&dropped, *row) {
                learn_scores(asked, *row, fresh, &given);
            }
            from_memory &= given.of.is_some();
            anchor_took = anchor_took.max(given.answer.took);
            answers[*row] = Some(given);
        }
        // Answers that make no reply leave when a reply would have left.
        let reply = assemble(answers, asked).map(|frame| asked.model.template().reply(frame));
        if let Some(origin) = origin {
            self.let_go(call, occasion, origin).await;
        } else {
            let from_memory = from_memory && all_replayed;
            if from_memory && !shadowed {
                call.noted.set("refrain.upstream.saved_time", anchor_took);
            }
            self.hold(call, occasion, from_memory.then_some(anchor_took)).await;
        }
        Ok(reply?)
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
    ) -> Result<Given, Result<Reply, CallError>> {
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
                    let fresh = self.forward(call, asked, rows, vec![(row, lead)]).await.map_err(Err)?;
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

//! One Predict call from first to last: identify, read, judge and claim, forward, settle, reply, hold.
//!
//! The sentence that this file keeps: *a row that was ruled a replay never gets the model's fresh answer.* Where its replay
//! cannot be given, the model's answer is dropped in its favour (a shadow) or the call is refused.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::body::Body;
use super::call::{Call, Opening};
use super::forward::{Fresh, Rows, answer_of, inputs_key};
use super::frame;
use super::headers::{are_plain, headers_key};
use super::listen::Peer;
use super::live::Live;
use super::models::{Model, Treatment, Unknown};
use super::quota::Permit;
use super::read::{Arrival, Asked, Opened};
use super::readiness::Readiness;
use super::release::{Occasion, Origin, Times};
use super::status::CallError;
use super::upstream::{Reply, Upstream};
use super::verdict::{counted, verdict};
use super::witness::Witness;
use crate::config::OnUnreadable;
use crate::judgment::Likeness;
use crate::protocol::Rpc;
use crate::protocol::answer::AnswerError;
use crate::protocol::query::Refusal;
use crate::protocol::tensor::Unreadable;
use crate::session::{Answer, Claim, Follow, Judged, Lead, Outcome, Question, SessionKey, Store, View};
use crate::telemetry::{Stage, Telemetry};

/// Calls with more rows than this are judged on a thread of their own.
const MANY_ROWS: usize = 32;

/// Everything that a Predict call needs and that outlives it.
pub(super) struct Predictor<S> {
    /// What a change of configuration replaces.
    pub(super) live: ArcSwap<Live>,
    /// The model server.
    pub(super) upstream: Arc<Upstream>,
    /// Whether calls should be sent here.
    pub(super) readiness: Arc<Readiness>,
    /// What callers asked before.
    pub(super) store: Arc<S>,
    /// When replies leave.
    pub(super) times: Times,
    /// Pictures that may be decoded at once: as many as there are processors, so that decoding never keeps the rest from running.
    pub(super) decoders: Arc<Semaphore>,
    /// Keys the digests of forms and other inputs.
    pub(super) key: [u8; 32],
    /// What the operator is told.
    pub(super) telemetry: Arc<Telemetry>,
}

impl<S: Store> Predictor<S> {
    /// Answers one unary call; every way out is a reply.
    pub(super) async fn predict(
        self: &Arc<Self>,
        rpc: Rpc,
        request: Request<Incoming>,
        peer: &Peer,
    ) -> Response<Body> {
        let (head, body) = request.into_parts();
        let live = self.live.load_full();
        let witness =
            Witness::of(&self.telemetry, rpc.path(), head.uri.authority(), &head.headers, peer, &live);
        let answered = async {
            let opening = Opening::new(live, rpc, head, peer, witness.trace())?;
            let answer = self.answer_one(&opening, body);
            match opening.deadline {
                None => answer.await,
                Some(deadline) => {
                    tokio::time::timeout_at(deadline, answer).await.unwrap_or(Err(CallError::Deadline))
                }
            }
        };
        match answered.await {
            Ok(reply) => {
                witness.end(reply.code());
                reply.into_response()
            }
            Err(error) => self.refuse(error, witness),
        }
    }

    /// The refusal that a caller is sent, counted.
    pub(super) fn refuse(&self, error: CallError, witness: Witness) -> Response<Body> {
        let (code, reason, _) = error.outcome();
        self.telemetry.metrics.rejected(reason);
        witness.rejected(reason);
        witness.end(code);
        error.into_response()
    }

    async fn answer_one(self: &Arc<Self>, opening: &Opening, mut body: Incoming) -> Result<Reply, CallError> {
        let frame = frame::read_request(&mut body, opening.intake()).await?;
        // What comes after the message is thrown away as it comes, and not kept until the call ends.
        drop(body);
        match self.open(opening, frame).await? {
            Opened::Asks(arrival) => {
                let model = self.model(&arrival).await;
                self.answer(arrival, model).await
            }
            Opened::Unparsable(call, refusal) => self.let_upstream_refuse(&call, refusal.into()).await,
        }
    }

    /// The model that a message asks.
    pub(super) async fn model(&self, arrival: &Arrival) -> Result<Arc<Model>, Unknown> {
        arrival.call.live.models.of(&arrival.message.asks()).await
    }

    /// Answers one message, whichever way it came.
    pub(super) async fn answer(
        self: &Arc<Self>,
        arrival: Arrival,
        model: Result<Arc<Model>, Unknown>,
    ) -> Result<Reply, CallError> {
        let (arrived, noted) = (arrival.call.arrived, arrival.call.noted.clone());
        let answer = AssertUnwindSafe(self.judge_and_answer(arrival, model)).catch_unwind();
        // Nothing that a panicking call held is used again: claims are given up as they are dropped.
        let answer = answer.await.unwrap_or(Err(CallError::Panicked));
        self.telemetry.metrics.spent(Stage::Total, noted.own(arrived.elapsed()));
        answer
    }

    async fn judge_and_answer(
        self: &Arc<Self>,
        arrival: Arrival,
        model: Result<Arc<Model>, Unknown>,
    ) -> Result<Reply, CallError> {
        let Arrival { call, message, payload } = arrival;
        let model = match model {
            Ok(model) => model,
            Err(Unknown::Upstream(error)) => return Err(error.into()),
            Err(Unknown::Refused) => {
                let unknown = format!("Request for unknown model: '{}' is not found", message.asks().name);
                return self.let_upstream_refuse(&call, Refusal::Malformed(unknown).into()).await;
            }
        };
        message.must_not_harm(&model.signature)?;
        for key in message.also_asks() {
            // One answer serves all: none of them may be asked for under looser settings than its own.
            if !call.live.models.of(&key).await.is_ok_and(|other| other.is_treated_as(&model)) {
                return Err(CallError::Misconfigured(key.name));
            }
        }
        match model.treatment {
            Treatment::Enforce | Treatment::Observe => {}
            Treatment::Misconfigured => return Err(CallError::Misconfigured(model.name.to_string())),
            Treatment::Pass => return self.pass(&call, model.why_passed()).await,
        }
        let asked = match self.read(&call, message, payload, &model).await? {
            Ok(asked) => asked,
            Err(refusal) => return self.unread(&call, &model, refusal).await,
        };
        let judged = self.judge_all(&call, &asked).await;
        if model.treatment == Treatment::Observe || call.caller.shared {
            if call.caller.shared {
                call.live.warn_of_shared_callers();
            }
            return self.observe(&call, &asked, judged).await;
        }
        self.enforce(&call, &asked, judged).await
    }

    /// Judges a message that is then forwarded whatever the ruling, by somebody else, and whose answer is not seen: its likeness
    /// is left behind, and the operator told. An error where it must not be forwarded.
    pub(super) async fn watch(&self, arrival: Arrival, model: &Arc<Model>) -> Result<(), CallError> {
        let Arrival { call, message, payload } = arrival;
        message.must_not_harm(&model.signature)?;
        if model.treatment == Treatment::Misconfigured {
            return Err(CallError::Misconfigured(model.name.to_string()));
        }
        if model.treatment != Treatment::Observe {
            self.telemetry.metrics.bypassed(model.why_passed());
            return Ok(());
        }
        let Ok(Ok(asked)) = self.read(&call, message, payload, model).await else {
            self.telemetry.metrics.unreadable();
            return Ok(());
        };
        let leads = leads(self.judge_all(&call, &asked).await);
        self.telemetry.metrics.forwarded(asked.query.rows());
        self.store.settle(leads.into_iter().map(|(_, lead)| (lead, Outcome::Unkept)).collect()).await;
        Ok(())
    }

    /// Rulings for every row that could be read; the operator is told.
    async fn judge_all(&self, call: &Call, asked: &Asked) -> Vec<(usize, Judged)> {
        let rows: Vec<usize> = (0..asked.query.rows()).collect();
        let stage = call.noted.stage(&self.telemetry, Stage::Judge);
        let judged = self.judge(call, asked, &rows).await;
        drop(stage);
        self.tell(call, asked, &judged);
        judged
    }

    /// Rulings for those of `rows` that could be read.
    async fn judge(&self, call: &Call, asked: &Asked, rows: &[usize]) -> Vec<(usize, Judged)> {
        let model = &asked.model;
        let ignore = model.settings.ignore_extra_inputs;
        let readable = |row: &usize| asked.likenesses[*row].as_ref().map(|likeness| (*row, likeness.clone()));
        let (rows, likenesses): (Vec<usize>, Vec<Likeness>) = rows.iter().filter_map(readable).unzip();
        if rows.is_empty() {
            return Vec::new();
        }
        let other_inputs: Vec<u64> =
            rows.iter().map(|&row| if ignore { 0 } else { asked.other_inputs[row] }).collect();
        let question = Question {
            session: SessionKey { caller: call.caller.digest, group: Arc::clone(&model.group) },
            verified: call.caller.is_verified(),
            view: View {
                model: Arc::clone(&model.view),
                version: model.version_served(asked.query.version()).into(),
                form: asked.query.form(&self.key),
                inputs: other_inputs[0],
            },
            other_inputs,
            whole: !asked.query.splits() && asked.query.rows() > 1,
            rows: likenesses,
            judge: Arc::clone(&model.judge),
            origin: call.noted.trace.as_ref().map(|trace| trace.origin()),
        };
        let judged = if question.rows.len() <= MANY_ROWS {
            self.store.judge_and_claim(question).await
        } else {
            let (store, runtime) = (Arc::clone(&self.store), Handle::current());
            tokio::task::spawn_blocking(move || runtime.block_on(store.judge_and_claim(question)))
                .await
                .expect("judging checked likenesses does not panic, and the runtime outlives its calls")
        };
        rows.into_iter().zip(judged).collect()
    }

    /// Everything forwarded, nothing waited for; the store learns as it would under enforcement.
    async fn observe(
        self: &Arc<Self>,
        call: &Call,
        asked: &Asked,
        judged: Vec<(usize, Judged)>,
    ) -> Result<Reply, CallError> {
        self.ask_for_all(call, asked, leads(judged), None).await
    }

    async fn enforce(
        self: &Arc<Self>,
        call: &Call,
        asked: &Asked,
        judged: Vec<(usize, Judged)>,
    ) -> Result<Reply, CallError> {
        let (mut leads, mut follows) = (Vec::new(), Vec::new());
        for (row, judged) in judged {
            match judged.claim {
                Claim::Forward(lead) => leads.push((row, lead)),
                Claim::Replay(follow) => follows.push((row, follow)),
                // The whole call is refused; the rows that it claimed are given up as the leads are dropped.
                Claim::Refuse => return Err(CallError::Suspected),
            }
        }
        let occasion = self.occasion(call, asked);
        let (valid, caller) = (self.is_valid(&call.head.headers, asked, &follows), call.caller.digest.0);
        if follows.is_empty() {
            // Whoever has used up his own places, so that he could have no replay, gets no new answer either: a refusal must not tell which
            // it would have been. Where others have used up all places it may, or they could keep everybody from the model.
            if valid && call.live.held.is_used_up(caller) && call.live.shadows.is_used_up(caller) {
                return Err(CallError::Overloaded);
            }
            return self.ask_for_all(call, asked, leads, Some(&occasion)).await;
        }
        let cover = cover(call, &occasion, valid).ok_or(CallError::Overloaded)?;
        self.replay(call, asked, &occasion, leads, follows, (cover, valid)).await
    }

    /// A call of which every row is forwarded: the upstream's own bytes, unless outputs must be cut. Without an `occasion` nothing
    /// is to be hidden.
    async fn ask_for_all(
        self: &Arc<Self>,
        call: &Call,
        asked: &Asked,
        leads: Vec<(usize, Lead)>,
        occasion: Option<&Occasion>,
    ) -> Result<Reply, CallError> {
        let fresh = self.forward(call, asked, Rows::All, leads);
        let fresh = match occasion {
            Some(occasion) => self.asking(call, occasion, fresh).await,
            None => fresh.await,
        };
        let mut reply = fresh.and_then(|fresh| reply_fresh(asked, fresh, occasion.is_some()));
        if let Some(occasion) = occasion {
            // The server's own message in what a replay would be wrapped in.
            reply = reply.map(|reply| match reply.frame {
                Some(ref frame) if reply.is_ok() => asked.model.template().reply(frame.bytes.clone()),
                _ => reply,
            });
            let is_answered = reply.as_ref().is_ok_and(Reply::is_ok);
            let origin = if is_answered { Origin::Forwarded } else { Origin::Odd };
            self.let_go(call, occasion, origin).await;
        }
        reply
    }

    /// A call of which some row was ruled a replay.
    async fn replay(
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
    fn is_valid(&self, headers: &HeaderMap, asked: &Asked, follows: &[(usize, Follow)]) -> bool {
        let Asked { query, model, other_inputs, .. } = asked;
        let indifferent = !query.has_other_inputs() || model.settings.ignore_extra_inputs;
        let tried = |row: &usize| indifferent || model.has_accepted(&[inputs_key(other_inputs[*row])]);
        let is_accepted = query.is_accepted_by(&model.signature) && follows.iter().all(|(row, _)| tried(row))
            || model.has_accepted(&query.validity(&self.key));
        is_accepted && (are_plain(headers) || model.has_accepted(&[headers_key(headers, &self.key)]))
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

    /// Bytes on and bytes back, unjudged, counted by why.
    async fn pass(&self, call: &Call, reason: &'static str) -> Result<Reply, CallError> {
        self.telemetry.metrics.bypassed(reason);
        if let Some(trace) = call.noted.trace.as_ref().filter(|_| !call.noted.in_stream) {
            trace.set("refrain.decision", "bypassed");
            trace.set("refrain.decision.reason", reason);
        }
        self.forward_unread(call).await
    }

    /// A request whose picture cannot be had, by the model's settings.
    async fn unread(&self, call: &Call, model: &Model, refusal: Refusal) -> Result<Reply, CallError> {
        if matches!(refusal, Refusal::Text) {
            return self.pass(call, "text").await;
        }
        self.telemetry.metrics.unreadable();
        if let Refusal::Unreadable { why: Unreadable::RangeUnknown { least, most }, .. } = refusal {
            let reply = self.forward_unread(call).await?;
            // Only what the server takes for a picture of the model tells what its values mean.
            if reply.is_ok() {
                model.note_span(least, most);
            }
            return Ok(reply);
        }
        if model.treatment == Treatment::Observe || call.caller.shared {
            return self.forward_unread(call).await;
        }
        match refusal {
            // The server refuses it, in words of its own.
            Refusal::Malformed(_) => self.let_upstream_refuse(call, refusal.into()).await,
            Refusal::Dangerous(_) | Refusal::SharedMemory(_) | Refusal::Text => Err(refusal.into()),
            Refusal::Unreadable { .. } => match model.settings.on_unreadable {
                OnUnreadable::Forward => self.forward_unread(call).await,
                OnUnreadable::Reject => Err(refusal.into()),
            },
        }
    }

    /// Tells the operator what was ruled.
    fn tell(&self, call: &Call, asked: &Asked, judged: &[(usize, Judged)]) {
        let observed = asked.model.treatment == Treatment::Observe || call.caller.shared;
        let (telemetry, model) = (&self.telemetry, &asked.model);
        let label = telemetry.metrics.model(&model.name);
        for (_, row) in judged {
            telemetry.metrics.judged(&label, &counted(row, observed));
        }
        let notable = |row: &&Judged| !matches!(row.claim, Claim::Forward(_));
        let rows = || judged.iter().map(|(_, row)| row);
        let Some(first) = rows().find(notable).or_else(|| rows().next()) else { return };
        if !notable(&first) && call.noted.trace.is_none() {
            return;
        }
        let verdict = verdict(call, asked, first, rows(), observed);
        telemetry.tell(call.noted.trace.as_ref(), &verdict, call.noted.in_stream);
    }
}

/// What hides that a row was replayed, as long as it lives.
enum Cover {
    /// The reply waits for its moment.
    Hold(#[expect(dead_code, reason = "its place is free when it is dropped")] Permit),
    /// The upstream is asked, and its answer dropped.
    Shadow(#[expect(dead_code, reason = "as above")] Permit),
}

/// What a replay is hidden behind: a hold, or where its form is not known to be valid, its time not known or no more calls may wait, a call
/// to the upstream that answers for form and time, and we for the rows. None where neither can be had.
fn cover(call: &Call, occasion: &Occasion, valid: bool) -> Option<Cover> {
    let (live, caller) = (&call.live, call.caller.digest.0);
    let shadow = || live.shadows.take(caller, 1).map(Cover::Shadow);
    let hold = || if valid { live.held.take(caller, 1).map(Cover::Hold) } else { None };
    if occasion.is_best_shadowed() { shadow().or_else(hold) } else { hold().or_else(shadow) }
}

/// The reply to a call of which every row was forwarded; `hides` says that it must look like one from memory.
fn reply_fresh(asked: &Asked, fresh: Fresh, hides: bool) -> Result<Reply, CallError> {
    let Some(told) = fresh.told else { return Ok(fresh.reply) };
    if let Some(rows) = fresh.rows.filter(|_| hides && asked.model.disguise.rewrites_forwarded()) {
        let answers = rows.into_iter().map(|(_, answer)| Some(Given::fresh(answer))).collect();
        return Ok(asked.model.template().reply(assemble(answers, asked)?));
    }
    Ok(match told.reply? {
        None => fresh.reply,
        Some(reply) => asked.model.template().reply(frame::wrap(&reply)),
    })
}

/// The rows that were claimed.
fn leads(judged: Vec<(usize, Judged)>) -> Vec<(usize, Lead)> {
    let lead = |(row, judged): (usize, Judged)| match judged.claim {
        Claim::Forward(lead) => Some((row, lead)),
        Claim::Replay(_) | Claim::Refuse => None,
    };
    judged.into_iter().filter_map(lead).collect()
}

/// A row's answer.
struct Given {
    answer: Answer,
    /// What the picture looked like of which the model said so; none where it is the row's own.
    of: Option<Likeness>,
}

impl Given {
    /// What the model said of the row itself.
    fn fresh(answer: Answer) -> Self {
        Self { answer, of: None }
    }
}

/// The rows' answers as the reply to what was asked, their scores as the model's settings want them written.
fn assemble(answers: Vec<Option<Given>>, asked: &Asked) -> Result<Bytes, AnswerError> {
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

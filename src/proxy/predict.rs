//! One Predict call from first to last: identify, read, judge and claim, forward, settle, reply, hold.
//!
//! The sentence that this file keeps: *a row that was ruled a replay never gets the model's fresh answer.* Where its replay
//! cannot be given, the model's answer is dropped in its favour (a shadow) or the call is refused.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::runtime::Handle;

use super::body::Body;
use super::call::{Call, Opening};
use super::forward::{Fresh, Rows};
use super::frame;
use super::jobs::job;
use super::listen::Peer;
use super::live::Live;
use super::models::{Model, Treatment, Unknown};
use super::own::OwnLanes;
use super::read::{Arrival, Asked, Opened};
use super::readiness::Readiness;
use super::release::{Occasion, Origin, Times};
use super::replay::{Claimed, Given, assemble, cover};
use super::status::CallError;
use super::upstream::{Reply, Upstream};
use super::verdict::{Untold, counted, verdict};
use super::witness::Witness;
use crate::config::OnUnreadable;
use crate::judgment::Likeness;
use crate::protocol::Rpc;
use crate::protocol::query::Refusal;
use crate::protocol::tensor::Unreadable;
use crate::session::{Claim, Judged, Lead, Outcome, Question, SessionKey, Store, View};
use crate::telemetry::{Stage, Telemetry};

/// Calls with more rows than this are judged on a thread of their own: each row is compared with all of its session.
const MANY_ROWS: usize = 8;

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
        lanes: &Arc<OwnLanes>,
    ) -> Response<Body> {
        let (head, body) = request.into_parts();
        let live = self.live.load_full();
        let witness =
            Witness::of(&self.telemetry, rpc.path(), head.uri.authority(), &head.headers, peer, &live);
        let answered = async {
            let opening = Opening::new(live, rpc, head, peer, lanes, witness.trace())?;
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
            Opened::Unparsable(call, refusal) => self.let_upstream_refuse_apart(&call, refusal.into()).await,
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
        let (judged, untold) = self.judge_all(&call, &asked).await;
        if model.treatment == Treatment::Observe || call.caller.shared {
            if call.caller.shared {
                call.live.warn_of_shared_callers();
            }
            drop(untold);
            return self.observe(&call, &asked, judged).await;
        }
        self.enforce(&call, &asked, judged, untold).await
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
        let (judged, _untold) = self.judge_all(&call, &asked).await;
        let leads = leads(judged);
        self.telemetry.metrics.forwarded(asked.query.rows());
        self.store.settle(leads.into_iter().map(|(_, lead)| (lead, Outcome::Unkept)).collect()).await;
        Ok(())
    }

    /// Rulings for every row that could be read, counted; and what the operator is to be told of them, if anything.
    async fn judge_all(&self, call: &Call, asked: &Asked) -> (Vec<(usize, Judged)>, Option<Untold>) {
        let rows: Vec<usize> = (0..asked.query.rows()).collect();
        let stage = call.noted.stage(&self.telemetry, Stage::Judge);
        let judged = self.judge(call, asked, &rows).await;
        drop(stage);
        let untold = self.count(call, asked, &judged);
        (judged, untold)
    }

    /// Rulings for those of `rows` that could be read.
    pub(super) async fn judge(&self, call: &Call, asked: &Asked, rows: &[usize]) -> Vec<(usize, Judged)> {
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
            job(move || runtime.block_on(store.judge_and_claim(question))).await
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
        untold: Option<Untold>,
    ) -> Result<Reply, CallError> {
        let mut claimed = Claimed::default();
        for (row, judged) in judged {
            match judged.claim {
                Claim::Forward(lead) => claimed.leads.push((row, lead)),
                Claim::Replay(follow) => claimed.follows.push((row, follow)),
                // The whole call is refused; the rows that it claimed are given up as the leads are dropped.
                Claim::Refuse => return Err(CallError::Suspected),
            }
        }
        let (valid, caller) =
            (self.is_valid(&call.head.headers, asked, &claimed.follows), call.caller.digest.0);
        if claimed.follows.is_empty() {
            drop(untold);
            // Whoever has used up his own places, so that he could have no replay, gets no new answer either: a refusal must not tell which
            // it would have been. Where others have used up all places it may, or they could keep everybody from the model.
            if valid && call.live.held.is_used_up(caller) && call.live.shadows.is_used_up(caller) {
                return Err(CallError::Overloaded);
            }
            let mut occasion = self.occasion(call, asked, false);
            return self.ask_for_all(call, asked, claimed.leads, Some(&mut occasion)).await;
        }
        let occasion = self.occasion(call, asked, true);
        let cover = cover(call, &occasion, valid).ok_or(CallError::Overloaded)?;
        self.replay(call, asked, &occasion, claimed, (cover, valid), untold).await
    }

    /// A call of which every row is forwarded: the upstream's own bytes, unless outputs must be cut. Without an `occasion` nothing
    /// is to be hidden.
    async fn ask_for_all(
        self: &Arc<Self>,
        call: &Call,
        asked: &Asked,
        leads: Vec<(usize, Lead)>,
        mut occasion: Option<&mut Occasion>,
    ) -> Result<Reply, CallError> {
        let under_way = occasion.as_mut().and_then(|occasion| occasion.take_under_way());
        let fresh = self.forward(call, asked, Rows::All, leads, under_way);
        let fresh = match &occasion {
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

    /// Counts rulings; answers what the operator is to be told besides.
    fn count(&self, call: &Call, asked: &Asked, judged: &[(usize, Judged)]) -> Option<Untold> {
        let observed = asked.model.treatment == Treatment::Observe || call.caller.shared;
        let (telemetry, model) = (&self.telemetry, &asked.model);
        let label = telemetry.metrics.model(&model.name);
        for (_, row) in judged {
            telemetry.metrics.judged(&label, &counted(row, observed));
        }
        let notable = |row: &&Judged| !matches!(row.claim, Claim::Forward(_));
        let rows = || judged.iter().map(|(_, row)| row);
        let first = rows().find(notable).or_else(|| rows().next())?;
        if !notable(&first) && call.noted.trace.is_none() {
            return None;
        }
        Some(Untold {
            telemetry: Arc::clone(telemetry),
            trace: call.noted.trace.clone(),
            verdict: verdict(call, asked, first, rows(), observed),
            in_stream: call.noted.in_stream,
        })
    }
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

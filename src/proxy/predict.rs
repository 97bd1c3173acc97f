//! One Predict call from first to last: identify, read, judge and claim, forward, settle, reply, hold.
//!
//! The sentence that this file keeps: *a row that was ruled a replay never gets the model's fresh answer.* Where its replay
//! cannot be given, the model's answer is dropped in its favour (a shadow) or the call is refused.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::body::Body;
use super::forward::{self, Forward};
use super::frame::{self, Encoding, Frame, Intake};
use super::listen::Peer;
use super::models::{Model, Models, Treatment, Unknown};
use super::quota::Quota;
use super::status::CallError;
use super::template::Template;
use super::upstream::{Reply, Upstream, UpstreamError};
use crate::config::{Config, OnUnreadable};
use crate::judgment::{Evidence, Likeness};
use crate::protocol::answer;
use crate::protocol::pb;
use crate::protocol::tensor::{Reading, Unreadable};
use crate::protocol::triton::{Query, Refusal};
use crate::session::{
    Answer, Caller, Callers, Claim, Facts, Follow, Judged, Lead, Outcome, Question, SessionKey, Store,
    Values, View,
};
use crate::telemetry::Tally;
use crate::timing::{Latencies, Pacer, Stratum};

/// Requests above this many bytes are read on a thread of their own: their likeness is long work.
const LONG_WORK: usize = 1 << 20;

/// Everything that a Predict call needs and that outlives it.
pub(super) struct Predictor<S> {
    /// The checked settings.
    pub config: Arc<Config>,
    /// The model server.
    pub upstream: Arc<Upstream>,
    /// What is known of its models.
    pub models: Arc<Models>,
    /// Who is who.
    pub callers: Callers,
    /// What callers asked before.
    pub store: Arc<S>,
    /// How long forwarded calls took.
    pub latencies: Latencies,
    /// Waits for a moment.
    pub pacer: Arc<dyn Pacer>,
    /// Bytes of requests in flight.
    pub bytes: Quota,
    /// Calls held or waiting for another's answer.
    pub held: Quota,
    /// Calls whose fresh answer is dropped.
    pub shadows: Quota,
    /// What an OK reply of the upstream looks like around its message.
    pub template: Template,
    /// Keys the digests of forms and other inputs.
    pub key: [u8; 32],
    /// What happened, for the operator.
    pub tally: Arc<Tally>,
}

/// A call whose request has arrived.
pub(super) struct Call {
    pub(super) head: Parts,
    pub(super) frame: Frame,
    pub(super) caller: Caller,
    pub(super) arrived: Instant,
    pub(super) deadline: Option<Instant>,
}

/// A question that was read: the query, its model, and the view and likeness of every row.
struct Asked {
    query: Arc<Query>,
    model: Arc<Model>,
    likenesses: Vec<Likeness>,
    /// For each row, a digest of what it gives the model besides the picture.
    other_inputs: Vec<u64>,
}

impl<S: Store> Predictor<S> {
    /// Answers one call; every way out is a reply.
    pub(super) async fn predict(self: &Arc<Self>, request: Request<Incoming>, peer: &Peer) -> Response<Body> {
        let deadline = deadline_of(request.headers());
        let answer = self.answer(request, peer, deadline);
        let outcome = match deadline {
            None => answer.await,
            Some(deadline) => {
                tokio::time::timeout_at(deadline, answer).await.unwrap_or(Err(CallError::Deadline))
            }
        };
        outcome.unwrap_or_else(|error| {
            self.tally.refused(error.outcome().1);
            let unknown_encoding = matches!(error, CallError::Encoding);
            let mut response = error.into_response();
            if unknown_encoding {
                CallError::accept_encoding(&mut response);
            }
            response
        })
    }

    async fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
        peer: &Peer,
        deadline: Option<Instant>,
    ) -> Result<Response<Body>, CallError> {
        let (head, mut body) = request.into_parts();
        let caller = self.identify(&head.headers, peer)?;
        let encoding = Encoding::of(&head.headers).ok_or(CallError::Encoding)?;
        let limits = &self.config.limits;
        let intake = Intake {
            limit: limits.message_bytes,
            within: limits.read_within,
            budget: Some((&self.bytes, caller.digest.0)),
        };
        let frame = frame::read_request(&mut body, intake).await?;
        let arrived = Instant::now();
        let payload = frame.payload(encoding, limits.message_bytes)?;
        let call = Call { head, frame, caller, arrived, deadline };

        let message = match Query::decode(&payload) {
            Ok(message) => message,
            Err(refusal) => return self.let_upstream_refuse(&call, refusal.into()).await,
        };
        let model = match self.models.of(&message.model_name).await {
            Ok(model) => model,
            Err(Unknown::Upstream(error)) => return Err(error.into()),
            Err(Unknown::Refused) => {
                let unknown = format!("Request for unknown model: '{}' is not found", message.model_name);
                return self.let_upstream_refuse(&call, Refusal::Malformed(unknown).into()).await;
            }
        };
        if model.treatment == Treatment::Pass {
            self.tally.passed();
            return self.forward_unread(call).await;
        }
        let asked = match self.read(message, payload, &model).await {
            Ok(asked) => asked,
            Err(refusal) => return self.unread(call, &model, refusal).await,
        };
        let judged = self.judge(&call, &asked, 0..asked.query.rows, false).await;
        self.tell(&call, &asked, &judged);
        if model.treatment == Treatment::Observe || call.caller.shared {
            return self.observe(&call, &asked, judged).await;
        }
        self.enforce(&call, &asked, judged).await
    }

    fn identify(&self, headers: &HeaderMap, peer: &Peer) -> Result<Caller, CallError> {
        let values = |name: &http::HeaderName| {
            let mut values = headers.get_all(name).iter();
            match (values.next(), values.next()) {
                (None, _) => Values::None,
                (Some(value), None) => Values::One(value.as_bytes()),
                _ => Values::Many,
            }
        };
        let facts = Facts {
            certified: peer.certified.as_deref(),
            address: peer.address,
            metadata: self.config.caller.metadata.as_ref().map(values).unwrap_or_default(),
            authorization: values(&http::header::AUTHORIZATION),
        };
        Ok(self.callers.identify(facts)?)
    }

    /// Every row's likeness and view; long work leaves the async threads here.
    async fn read(
        &self,
        message: pb::ModelInferRequest,
        payload: Bytes,
        model: &Arc<Model>,
    ) -> Result<Asked, Refusal> {
        let chosen = model.settings.image_input.as_deref();
        let query = Arc::new(Query::read(message, payload, &model.signature, chosen)?);
        let reading = model.reading();
        let likenesses = if query.bytes() > LONG_WORK {
            let (query, model) = (Arc::clone(&query), Arc::clone(model));
            let work = tokio::task::spawn_blocking(move || likenesses(&query, &model, reading));
            work.await.expect("reading a checked query does not panic, and the runtime outlives its calls")
        } else {
            likenesses(&query, model, reading)
        }?;
        let ignore = model.settings.ignore_extra_inputs;
        let inputs = |row| if ignore { 0 } else { query.other_inputs(row, &self.key) };
        let other_inputs = (0..query.rows).map(inputs).collect();
        Ok(Asked { query, model: Arc::clone(model), likenesses, other_inputs })
    }

    async fn judge(
        &self,
        call: &Call,
        asked: &Asked,
        rows: std::ops::Range<usize>,
        again: bool,
    ) -> Vec<Judged> {
        let model = &asked.model;
        let question = Question {
            session: SessionKey { caller: call.caller.digest, group: Arc::clone(&model.group) },
            verified: call.caller.is_verified(),
            view: View {
                model: Arc::clone(&model.name),
                version: model.signature.version_served(asked.query.version()).into(),
                form: asked.query.form(&self.key),
                inputs: asked.other_inputs[rows.start],
            },
            other_inputs: asked.other_inputs[rows.clone()].to_vec(),
            whole: !asked.query.splits && asked.query.rows > 1,
            rows: asked.likenesses[rows].to_vec(),
            judge: Arc::clone(&model.judge),
            again,
        };
        self.store.judge_and_claim(question).await
    }

    /// Everything forwarded, nothing waited for; the store learns as it would under enforcement.
    async fn observe(
        self: &Arc<Self>,
        call: &Call,
        asked: &Asked,
        judged: Vec<Judged>,
    ) -> Result<Response<Body>, CallError> {
        let leads = judged.into_iter().enumerate().filter_map(|(row, judged)| match judged.claim {
            Claim::Forward(lead) => Some((row, lead)),
            Claim::Replay(_) | Claim::Refuse => None,
        });
        let fresh = self.forward(call, asked, None, leads.collect()).await?;
        Ok(fresh.reply.into_response())
    }

    async fn enforce(
        self: &Arc<Self>,
        call: &Call,
        asked: &Asked,
        judged: Vec<Judged>,
    ) -> Result<Response<Body>, CallError> {
        let (mut leads, mut follows) = (Vec::new(), Vec::new());
        for (row, judged) in judged.into_iter().enumerate() {
            match judged.claim {
                Claim::Forward(lead) => leads.push((row, lead)),
                Claim::Replay(follow) => follows.push((row, follow)),
                // The whole call is refused; the rows that it claimed are given up as the leads are dropped.
                Claim::Refuse => return Err(CallError::Suspected),
            }
        }
        if follows.is_empty() {
            let fresh = self.forward(call, asked, None, leads).await?;
            return self.reply_fresh(call, asked, fresh);
        }
        self.replay(call, asked, leads, follows).await
    }

    /// A call of which every row was forwarded: the upstream's own bytes, unless outputs must be cut.
    fn reply_fresh(&self, call: &Call, asked: &Asked, fresh: Fresh) -> Result<Response<Body>, CallError> {
        let Some(parsed) = fresh.parsed else { return Ok(fresh.reply.into_response()) };
        self.latencies.record(&stratum(asked), call.arrived.elapsed());
        let wanted = asked.query.wanted();
        if answer::is_cut(&parsed, &wanted) && fresh.re_encodes {
            return Ok(fresh.reply.into_response());
        }
        let mut reply = parsed;
        if !answer::cut(&mut reply, &wanted) {
            return Err(answer::AnswerError::Differ("outputs").into());
        }
        Ok(self.template.reply(frame::encode(&reply)))
    }

    /// A call of which some row was ruled a replay.
    async fn replay(
        self: &Arc<Self>,
        call: &Call,
        asked: &Asked,
        leads: Vec<(usize, Lead)>,
        mut follows: Vec<(usize, Follow)>,
    ) -> Result<Response<Body>, CallError> {
        let caller = call.caller.digest.0;
        let query = &asked.query;
        let target = self.latencies.drawn(self.config.timing, &stratum(asked), dice());
        let valid = self.is_valid(asked, &follows);
        let held = if valid { self.held.take(caller, 1) } else { None };
        // Where the replay may not be given at once, the upstream answers for form and time, and we for the rows.
        let shadow = match held {
            Some(_) => None,
            None => Some(self.shadows.take(caller, 1).ok_or(CallError::Overloaded)?),
        };
        if shadow.is_some() {
            self.tally.shadowed();
        }

        let mut answers: Vec<Option<Answer>> = vec![None; asked.query.rows];
        if shadow.is_some() || !leads.is_empty() {
            let some = shadow.is_none().then(|| leads.iter().map(|(row, _)| *row).collect::<Vec<_>>());
            let led: Vec<usize> = leads.iter().map(|(row, _)| *row).collect();
            let fresh = self.forward(call, asked, some, leads).await;
            let failed = match fresh {
                Ok(Fresh { parsed: Some(_), rows: Some(rows), .. }) => {
                    for row in led {
                        answers[row] =
                            rows.iter().find(|(at, _)| *at == row).map(|(_, answer)| answer.clone());
                    }
                    None
                }
                Ok(fresh) => Some(Ok(fresh.reply.into_response())),
                Err(error) => Some(Err(error)),
            };
            if let Some(failed) = failed {
                if shadow.is_none() {
                    self.hold(call, target.unwrap_or_default()).await;
                }
                return failed;
            }
        }

        let mut anchor_took = Duration::ZERO;
        for (row, follow) in &mut follows {
            let answer = match self.followed(call, asked, *row, follow).await {
                Ok(answer) => answer,
                Err(failed) => {
                    self.hold(call, target.unwrap_or_default()).await;
                    return failed;
                }
            };
            anchor_took = anchor_took.max(answer.took);
            answers[*row] = Some(answer);
        }
        let reply = assemble(answers, query)?;
        let response = self.template.reply(frame::encode(&reply));
        if shadow.is_none() {
            self.hold(call, target.unwrap_or(anchor_took)).await;
        }
        Ok(response)
    }

    /// Whether the upstream is known to accept this request, were its replayed rows other pictures: a hit must not succeed
    /// where a miss would fail. By its signature, as long as the other inputs of the replayed rows were answered before; or
    /// by an earlier success of the very same form.
    fn is_valid(&self, asked: &Asked, follows: &[(usize, Follow)]) -> bool {
        let Asked { query, model, other_inputs, .. } = asked;
        let tried =
            |row: &usize| !query.has_other_inputs() || model.has_accepted(&inputs_key(other_inputs[*row]));
        query.is_accepted_by(&model.signature) && follows.iter().all(|(row, _)| tried(row))
            || model.has_accepted(&query.validity(&self.key))
    }

    /// The answer that `row` was promised; if its leader failed, the row is judged again, and forwarded if it is the first to be.
    async fn followed(
        self: &Arc<Self>,
        call: &Call,
        asked: &Asked,
        row: usize,
        follow: &mut Follow,
    ) -> Result<Answer, Result<Response<Body>, CallError>> {
        loop {
            if let Ok(answer) = follow.answer().await {
                return Ok(answer);
            }
            let Some(judged) = self.judge(call, asked, row..row + 1, true).await.pop() else {
                return Err(Err(CallError::Overloaded));
            };
            match judged.claim {
                Claim::Replay(another) => *follow = another,
                Claim::Refuse => return Err(Err(CallError::Suspected)),
                Claim::Forward(lead) => {
                    let fresh =
                        self.forward(call, asked, Some(vec![row]), vec![(row, lead)]).await.map_err(Err)?;
                    return match fresh.rows.and_then(|mut rows| rows.pop()) {
                        Some((_, answer)) => Ok(answer),
                        None => Err(Ok(fresh.reply.into_response())),
                    };
                }
            }
        }
    }

    async fn hold(&self, call: &Call, target: Duration) {
        self.tally.held();
        self.pacer.until(call.arrived + target).await;
    }

    /// Asks the upstream for `rows` (all of them where none are named) and settles `leads` with what it says.
    ///
    /// Others may wait for what was claimed, so the forward runs on for a while if this call is cancelled.
    async fn forward(
        self: &Arc<Self>,
        call: &Call,
        asked: &Asked,
        rows: Option<Vec<usize>>,
        leads: Vec<(usize, Lead)>,
    ) -> Result<Fresh, CallError> {
        let all = rows.is_none();
        let rows = rows.unwrap_or_else(|| (0..asked.query.rows).collect());
        let all = all || rows.len() == asked.query.rows;
        let outgoing = if all {
            asked.query.for_all_rows(&asked.model.signature).map(|bytes| frame::wrap(&bytes))
        } else {
            Some(frame::encode(&asked.query.for_rows(&rows)))
        };
        let forward = Forward::new(call, outgoing);
        let this = Arc::clone(self);
        let (query, model) = (Arc::clone(&asked.query), Arc::clone(&asked.model));
        forward::lingering(self.config.limits.linger, async move {
            this.ask_and_settle(forward, &query, &model, rows, leads).await
        })
        .await
        .unwrap_or(Err(UpstreamError::Broken("the forward was given up".into())))
        .map_err(CallError::from)
    }

    async fn ask_and_settle(
        &self,
        forward: Forward,
        query: &Query,
        model: &Model,
        rows: Vec<usize>,
        leads: Vec<(usize, Lead)>,
    ) -> Result<Fresh, UpstreamError> {
        let sent = Instant::now();
        let arrived = forward.arrived;
        self.tally.forwarded(rows.len());
        let reply = self.upstream.call(forward.into_request(), self.config.limits.message_bytes).await?;
        if !reply.is_ok() {
            return Ok(Fresh { reply, parsed: None, rows: None, re_encodes: true });
        }
        let reply = reply.plain(self.config.limits.message_bytes)?;
        let payload = reply.payload();
        let parsed = match answer::decode(payload.clone()) {
            Ok(parsed) => parsed,
            Err(error) => return Err(UpstreamError::Reply(error.to_string().into())),
        };
        model.accepted(query.validity(&self.key));
        if query.has_other_inputs() {
            rows.iter().for_each(|row| model.accepted(inputs_key(query.other_inputs(*row, &self.key))));
        }
        if parsed.model_version != model.signature.version_served(query.version()) {
            // A reload that the next poll would notice too late; the reply itself is right.
            tracing::info!(
                model = &*model.name,
                version = parsed.model_version,
                "served by another version than expected"
            );
        }
        let took = if rows.len() == query.rows { arrived.elapsed() } else { sent.elapsed() };
        let version: Arc<str> = parsed.model_version.as_str().into();
        let kept = if query.rows == 1 {
            Ok(vec![answer::keep_whole(&parsed)])
        } else if query.splits {
            answer::split(&parsed, rows.len())
        } else {
            Ok(Vec::new())
        };
        let kept = kept.unwrap_or_else(|error| {
            tracing::warn!(model = &*model.name, %error, "a reply cannot be kept");
            Vec::new()
        });
        let answers: Vec<(usize, Answer)> = rows
            .iter()
            .copied()
            .zip(kept)
            .map(|(row, bytes)| (row, Answer { bytes, version: Arc::clone(&version), took }))
            .collect();
        let settled = leads.into_iter().map(|(row, lead)| {
            let answer = answers.iter().find(|(at, _)| *at == row).map(|(_, answer)| answer.clone());
            (lead, answer.map_or(Outcome::Failed, Outcome::Answered))
        });
        self.store.settle(settled.collect()).await;
        self.template.learn(&reply);
        let re_encodes = prost::Message::encode_to_vec(&parsed) == payload;
        Ok(Fresh {
            parsed: Some(parsed),
            rows: Some(answers).filter(|rows| !rows.is_empty()),
            reply,
            re_encodes,
        })
    }

    /// A request that the upstream must refuse, in its own words; should it accept after all, its answer is dropped.
    async fn let_upstream_refuse(
        &self,
        call: &Call,
        refusal: CallError,
    ) -> Result<Response<Body>, CallError> {
        let request = Forward::new(call, None).into_request();
        let reply = self.upstream.call(request, self.config.limits.message_bytes).await?;
        if reply.is_ok() {
            tracing::warn!(%refusal, "the model server accepts a request that we cannot judge; its answer is dropped");
            return Err(refusal);
        }
        self.tally.refused("malformed");
        Ok(reply.into_response())
    }

    /// A request whose picture cannot be had, by the model's settings.
    async fn unread(&self, call: Call, model: &Model, refusal: Refusal) -> Result<Response<Body>, CallError> {
        self.tally.unreadable();
        if model.treatment == Treatment::Observe {
            return self.forward_unread(call).await;
        }
        match refusal {
            Refusal::Malformed(_) => self.let_upstream_refuse(&call, refusal.into()).await,
            Refusal::Dangerous(_) | Refusal::SharedMemory(_) => Err(refusal.into()),
            Refusal::Unreadable { why: Unreadable::RangeUnknown { least, most }, .. } => {
                model.note_span(least, most);
                self.forward_unread(call).await
            }
            // Not the model's own type or shape: the server refuses it, in words of its own.
            Refusal::Unreadable { is_foreign: true, .. } => {
                self.let_upstream_refuse(&call, refusal.into()).await
            }
            Refusal::Unreadable { .. } => match model.settings.on_unreadable {
                OnUnreadable::Forward => self.forward_unread(call).await,
                OnUnreadable::Reject => Err(refusal.into()),
            },
        }
    }

    /// Bytes on and bytes back, unjudged.
    async fn forward_unread(&self, call: Call) -> Result<Response<Body>, CallError> {
        let request = Forward::new(&call, None).into_request();
        Ok(self.upstream.relay(request).await?)
    }

    fn tell(&self, call: &Call, asked: &Asked, judged: &[Judged]) {
        for (row, judged) in judged.iter().enumerate() {
            let Evidence { reason, suspect, nearest } = &judged.evidence;
            match judged.claim {
                Claim::Forward(_) => {
                    self.tally.judged_forward();
                    tracing::debug!(model = &*asked.model.name, row, ?reason, suspect, "row forwarded");
                }
                Claim::Replay(_) => {
                    self.tally.replayed();
                    tracing::info!(
                        model = &*asked.model.name,
                        row,
                        reason = reason.as_str(),
                        ?nearest,
                        anchor = ?judged.anchor,
                        source = ?call.caller.source,
                        observed_only = asked.model.treatment == Treatment::Observe || call.caller.shared,
                        "row short-circuited"
                    );
                }
                Claim::Refuse => {
                    self.tally.refused("suspected");
                    tracing::info!(model = &*asked.model.name, row, reason = reason.as_str(), "row refused");
                }
            }
        }
    }
}

/// What the upstream said to a forward.
struct Fresh {
    reply: Reply,
    /// Its message; none unless it answered OK.
    parsed: Option<pb::ModelInferResponse>,
    /// One answer for each row that was asked for; none where the reply cannot be taken apart.
    rows: Option<Vec<(usize, Answer)>>,
    /// Whether encoding the decoded message gives the same bytes, as replays are encoded.
    re_encodes: bool,
}

fn likenesses(query: &Query, model: &Model, reading: Reading) -> Result<Vec<Likeness>, Refusal> {
    let image = |row| query.image(row, reading, &model.signature);
    (0..query.rows).map(|row| Ok(model.judge.likeness(&image(row)?))).collect()
}

/// The rows' answers as the reply to `query`.
fn assemble(answers: Vec<Option<Answer>>, query: &Query) -> Result<pb::ModelInferResponse, CallError> {
    let rows = answers.into_iter().map(|answer| {
        let answer = answer.ok_or(answer::AnswerError::Differ("number"))?;
        answer::decode(answer.bytes)
    });
    let mut reply = answer::join(rows.collect::<Result<_, _>>()?)?;
    if !answer::cut(&mut reply, &query.wanted()) {
        return Err(answer::AnswerError::Differ("outputs").into());
    }
    Ok(reply)
}

/// The digest of other inputs as one of the keys of [`Model::has_accepted`]; a form's own digest never has eight zeros first.
fn inputs_key(inputs: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[8..].copy_from_slice(&inputs.to_le_bytes());
    key
}

fn stratum(asked: &Asked) -> Stratum {
    let version = asked.model.signature.version_served(asked.query.version());
    Stratum::new(Arc::clone(&asked.model.name), version, asked.query.rows as u32, asked.query.bytes())
}

/// A uniform number in 0..1 that no caller can predict.
fn dice() -> f64 {
    let bits = getrandom::u64().unwrap_or(1 << 63);
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// The moment at which the caller gives up, by its `grpc-timeout`; the last value counts, as in gRPC's own server.
fn deadline_of(headers: &HeaderMap) -> Option<Instant> {
    let value: &HeaderValue = headers.get_all("grpc-timeout").iter().next_back()?;
    let text = value.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let amount: u64 = digits.trim().parse().ok().filter(|amount| *amount <= 99_999_999)?;
    let timeout = match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    };
    Instant::now().checked_add(timeout)
}

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
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::body::Body;
use super::forward::{Fresh, answer_of, inputs_key};
use super::frame::{self, Encoding, Frame, Intake};
use super::listen::Peer;
use super::live::Live;
use super::models::{Model, Treatment, Unknown};
use super::status::CallError;
use super::template::Template;
use super::upstream::Upstream;
use crate::config::{Config, OnUnreadable};
use crate::judgment::{Evidence, Likeness};
use crate::protocol::answer;
use crate::protocol::pb;
use crate::protocol::size;
use crate::protocol::tensor::{Reading, Unreadable};
use crate::protocol::triton::{Query, Refusal};
use crate::session::{
    Answer, Caller, Claim, Facts, Follow, Judged, Lead, Question, SessionKey, Store, Values, View,
};
use crate::telemetry::Tally;
use crate::timing::{Latencies, Pacer, Stratum};

/// Requests above this many bytes are decoded and read on a thread of their own: their likeness is long work.
const LONG_WORK: usize = 1 << 20;

/// Calls with more rows than this are judged on a thread of their own.
const MANY_ROWS: usize = 32;

/// Everything that a Predict call needs and that outlives it.
pub(super) struct Predictor<S> {
    /// What a change of configuration replaces.
    pub(super) live: ArcSwap<Live>,
    /// The model server.
    pub(super) upstream: Arc<Upstream>,
    /// What callers asked before.
    pub(super) store: Arc<S>,
    /// How long forwarded calls took.
    pub(super) latencies: Latencies,
    /// Waits for a moment.
    pub(super) pacer: Arc<dyn Pacer>,
    /// What an OK reply of the upstream looks like around its message.
    pub(super) template: Template,
    /// Keys the digests of forms and other inputs.
    pub(super) key: [u8; 32],
    /// What happened, for the operator.
    pub(super) tally: Arc<Tally>,
}

/// A call whose request has arrived.
pub(super) struct Call {
    pub(super) live: Arc<Live>,
    pub(super) head: Parts,
    pub(super) frame: Arc<Frame>,
    pub(super) caller: Caller,
    pub(super) arrived: Instant,
    pub(super) deadline: Option<Instant>,
}

/// A question that was read: the query, its model, and the view and likeness of every row.
pub(super) struct Asked {
    pub(super) query: Arc<Query>,
    pub(super) model: Arc<Model>,
    likenesses: Vec<Likeness>,
    /// For each row, a digest of what it gives the model besides the picture.
    pub(super) other_inputs: Vec<u64>,
}

impl<S: Store> Predictor<S> {
    /// Answers one call; every way out is a reply.
    pub(super) async fn predict(self: &Arc<Self>, request: Request<Incoming>, peer: &Peer) -> Response<Body> {
        let deadline = deadline_of(request.headers());
        let answer = AssertUnwindSafe(self.answer(request, peer, deadline)).catch_unwind();
        // Nothing that a panicking call held is used again: claims are given up as they are dropped.
        let answer = async { answer.await.unwrap_or(Err(CallError::Panicked)) };
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
        let live = self.live.load_full();
        let (head, mut body) = request.into_parts();
        let caller = live.callers.identify(facts(&live.config, &head.headers, peer))?;
        let encoding = Encoding::of(&head.headers).ok_or(CallError::Encoding)?;
        let limits = &live.config.limits;
        let intake = Intake {
            limit: limits.message_bytes,
            within: limits.read_within,
            budget: Some((&live.bytes, caller.digest.0)),
        };
        let mut frame = frame::read_request(&mut body, intake).await?;
        let arrived = Instant::now();
        // What comes after the message is thrown away as it comes, and not kept until the call ends.
        drop(body);
        let payload = frame.payload(encoding, limits.message_bytes).await?;
        frame.grow(size::decoded(&payload))?;
        let decoded = off_the_async_threads(payload.len(), {
            let payload = payload.clone();
            move || Query::decode(&payload)
        });
        let decoded = decoded.await;
        if let Ok(message) = &decoded {
            frame.grow(size::likenesses(message))?;
        }
        let call = Call { live, head, frame: Arc::new(frame), caller, arrived, deadline };

        let message = match decoded {
            Ok(message) => message,
            Err(refusal) => return self.let_upstream_refuse(&call, refusal.into()).await,
        };
        let model = match call.live.models.of(&message.model_name).await {
            Ok(model) => model,
            Err(Unknown::Upstream(error)) => return Err(error.into()),
            Err(Unknown::Refused) => {
                let unknown = format!("Request for unknown model: '{}' is not found", message.model_name);
                return self.let_upstream_refuse(&call, Refusal::Malformed(unknown).into()).await;
            }
        };
        match model.treatment {
            Treatment::Enforce | Treatment::Observe => {}
            Treatment::Misconfigured => return Err(CallError::Misconfigured(message.model_name)),
            Treatment::Pass => {
                self.tally.passed();
                return self.forward_unread(&call).await;
            }
        }
        let asked = match self.read(message, payload, &model).await {
            Ok(asked) => asked,
            Err(refusal) => return self.unread(&call, &model, refusal).await,
        };
        let judged = self.judge(&call, &asked, 0..asked.query.rows).await;
        self.tell(&call, &asked, &judged);
        if model.treatment == Treatment::Observe || call.caller.shared {
            if call.caller.shared {
                call.live.warn_of_shared_callers();
            }
            return self.observe(&call, &asked, judged).await;
        }
        self.enforce(&call, &asked, judged).await
    }

    /// Every row's likeness and view; long work leaves the async threads here.
    async fn read(
        &self,
        message: pb::ModelInferRequest,
        payload: Bytes,
        model: &Arc<Model>,
    ) -> Result<Asked, Refusal> {
        let (model, key) = (Arc::clone(model), self.key);
        off_the_async_threads(payload.len(), move || {
            let chosen = model.settings.image_input.as_deref();
            let query = Query::read(message, payload, &model.signature, chosen)?;
            let likenesses = likenesses(&query, &model, model.reading())?;
            let other_inputs = query.other_inputs(&key);
            Ok(Asked { query: Arc::new(query), model, likenesses, other_inputs })
        })
        .await
    }

    async fn judge(&self, call: &Call, asked: &Asked, rows: std::ops::Range<usize>) -> Vec<Judged> {
        let model = &asked.model;
        let ignore = model.settings.ignore_extra_inputs;
        let other_inputs =
            if ignore { vec![0; rows.len()] } else { asked.other_inputs[rows.clone()].to_vec() };
        let question = Question {
            session: SessionKey { caller: call.caller.digest, group: Arc::clone(&model.group) },
            verified: call.caller.is_verified(),
            view: View {
                model: Arc::clone(&model.name),
                version: model.signature.version_served(asked.query.version()).into(),
                form: asked.query.form(&self.key),
                inputs: other_inputs[0],
            },
            other_inputs,
            whole: !asked.query.splits && asked.query.rows > 1,
            rows: asked.likenesses[rows].to_vec(),
            judge: Arc::clone(&model.judge),
        };
        if question.rows.len() <= MANY_ROWS {
            return self.store.judge_and_claim(question).await;
        }
        let (store, runtime) = (Arc::clone(&self.store), Handle::current());
        tokio::task::spawn_blocking(move || runtime.block_on(store.judge_and_claim(question)))
            .await
            .expect("judging checked likenesses does not panic, and the runtime outlives its calls")
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
        self.reply_fresh(call, asked, fresh)
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
        let target = self.latencies.drawn(call.live.config.timing, &stratum(asked), dice());
        let valid = self.is_valid(asked, &follows);
        let held = if valid { call.live.held.take(caller, 1) } else { None };
        // Where the replay may not be given at once, the upstream answers for form and time, and we for the rows.
        let shadow = match held {
            Some(_) => None,
            None => Some(call.live.shadows.take(caller, 1).ok_or(CallError::Overloaded)?),
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
                        answers[row] = answer_of(&rows, row).cloned();
                    }
                    None
                }
                // An OK reply that cannot be taken apart holds fresh answers of rows that were ruled replays, or lacks them.
                Ok(Fresh { parsed: Some(_), .. }) => Some(Err(answer::AnswerError::Differ("rows").into())),
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
        let indifferent = !query.has_other_inputs() || model.settings.ignore_extra_inputs;
        let tried = |row: &usize| indifferent || model.has_accepted(&inputs_key(other_inputs[*row]));
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
            let Some(judged) = self.judge(call, asked, row..row + 1).await.pop() else {
                return Err(Err(CallError::Overloaded));
            };
            match judged.claim {
                Claim::Replay(another) => *follow = another,
                Claim::Refuse => return Err(Err(CallError::Suspected)),
                Claim::Forward(lead) => {
                    let fresh =
                        self.forward(call, asked, Some(vec![row]), vec![(row, lead)]).await.map_err(Err)?;
                    return match (fresh.rows.and_then(|mut rows| rows.pop()), fresh.parsed) {
                        (Some((_, answer)), _) => Ok(answer),
                        (None, Some(_)) => Err(Err(answer::AnswerError::Differ("rows").into())),
                        (None, None) => Err(Ok(fresh.reply.into_response())),
                    };
                }
            }
        }
    }

    async fn hold(&self, call: &Call, target: Duration) {
        self.tally.held();
        self.pacer.until(call.arrived + target).await;
    }

    /// A request whose picture cannot be had, by the model's settings.
    async fn unread(
        &self,
        call: &Call,
        model: &Model,
        refusal: Refusal,
    ) -> Result<Response<Body>, CallError> {
        self.tally.unreadable();
        if let Refusal::Unreadable {
            why: Unreadable::RangeUnknown { least, most }, is_foreign: false, ..
        } = refusal
        {
            let response = self.forward_unread(call).await?;
            // Only what the server takes for a picture of the model tells what its values mean.
            if !response.headers().contains_key("grpc-status") {
                model.note_span(least, most);
            }
            return Ok(response);
        }
        if model.treatment == Treatment::Observe || call.caller.shared {
            return self.forward_unread(call).await;
        }
        match refusal {
            // Not the model's own type or shape: the server refuses it, in words of its own.
            Refusal::Malformed(_) | Refusal::Unreadable { is_foreign: true, .. } => {
                self.let_upstream_refuse(call, refusal.into()).await
            }
            Refusal::Dangerous(_) | Refusal::SharedMemory(_) => Err(refusal.into()),
            Refusal::Unreadable { .. } => match model.settings.on_unreadable {
                OnUnreadable::Forward => self.forward_unread(call).await,
                OnUnreadable::Reject => Err(refusal.into()),
            },
        }
    }

    /// Tells the operator what was ruled: one event for a call of which some row was short-circuited or refused.
    fn tell(&self, call: &Call, asked: &Asked, judged: &[Judged]) {
        let count = |is: fn(&Claim) -> bool| judged.iter().filter(|row| is(&row.claim)).count();
        let replayed = count(|claim| matches!(claim, Claim::Replay(_)));
        let refused = count(|claim| matches!(claim, Claim::Refuse));
        let forwarded = judged.len() - replayed - refused;
        self.tally.judged(forwarded, replayed);
        let first = judged.iter().find(|row| !matches!(row.claim, Claim::Forward(_)));
        let Some(Judged { evidence: Evidence { reason, nearest, .. }, anchor, .. }) = first else {
            return;
        };
        tracing::info!(
            model = &*asked.model.name,
            forwarded,
            replayed,
            refused,
            reason = reason.as_str(),
            ?nearest,
            ?anchor,
            source = ?call.caller.source,
            observed_only = asked.model.treatment == Treatment::Observe || call.caller.shared,
            "rows short-circuited"
        );
    }
}

/// Does `work` on a thread of its own where it looks at more than [`LONG_WORK`] bytes, and here where it does not.
async fn off_the_async_threads<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    if bytes <= LONG_WORK {
        return work();
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.expect("reading a request does not panic, and the runtime outlives its calls")
}

/// What `peer` and `headers` say of who asks.
fn facts<'a>(config: &Config, headers: &'a HeaderMap, peer: &'a Peer) -> Facts<'a> {
    let values = |name: &HeaderName| {
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (None, _) => Values::None,
            (Some(value), None) => Values::One(value.as_bytes()),
            _ => Values::Many,
        }
    };
    Facts {
        certified: peer.certified.as_deref(),
        address: peer.address,
        metadata: config.caller.metadata.as_ref().map(values).unwrap_or_default(),
        authorization: values(&http::header::AUTHORIZATION),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn left(values: &[&'static str]) -> Option<Duration> {
        let name = HeaderName::from_static("grpc-timeout");
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(&name, HeaderValue::from_static(value));
        }
        deadline_of(&headers).map(|deadline| deadline.duration_since(Instant::now()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_read_in_every_unit() {
        for (written, duration) in [
            ("1H", Duration::from_hours(1)),
            ("2M", Duration::from_mins(2)),
            ("3S", Duration::from_secs(3)),
            ("4m", Duration::from_millis(4)),
            ("5u", Duration::from_micros(5)),
            ("6n", Duration::from_nanos(6)),
            ("0S", Duration::ZERO),
            ("00000007S", Duration::from_secs(7)),
            ("99999999m", Duration::from_millis(99_999_999)),
        ] {
            assert_eq!(left(&[written]), Some(duration), "{written}");
        }
        assert_eq!(left(&["1S", "2S"]), Some(Duration::from_secs(2)), "the last value counts");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_deadline_sets_none() {
        for written in
            ["", "S", "1", "1s", "-1S", "1.5S", "100000000S", "99999999999999999999n", "1SS", "soon"]
        {
            assert_eq!(left(&[written]), None, "{written:?}");
        }
        assert_eq!(left(&[]), None);
        assert!(left(&["99999999H"]).is_none_or(|left| left > Duration::from_hours(1_000_000)));
    }

    #[test]
    fn the_dice_stay_within_nought_and_one() {
        assert!((0..1000).all(|_| (0.0..1.0).contains(&dice())));
    }
}

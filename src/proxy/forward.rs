//! One call on its way to the upstream and back: what is sent, what is settled with the answer, and how long it goes on when
//! its caller does not.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Uri};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};
use tonic::Code;

use super::call::Call;
use super::frame::{self, Frame};
use super::headers::{are_plain, headers_key};
use super::live::Live;
use super::models::Model;
use super::own::OwnLanes;
use super::predict::Predictor;
use super::read::Asked;
use super::status::CallError;
use super::upstream::{Reply, UnderWay, UpstreamError};
use super::witness::{Asking, Noted};
use crate::protocol::query::{Query, Told};
use crate::session::{Answer, Lead, Outcome, Store};
use crate::telemetry::Stage;

/// What the upstream said to a forward.
pub(super) struct Fresh {
    pub(super) reply: Reply,
    /// What its message says; none unless it answered OK.
    pub(super) told: Option<Told>,
    /// One answer for each row that was asked for; none where the reply cannot be taken apart.
    pub(super) rows: Option<Vec<(usize, Answer)>>,
}

/// What of a call the upstream is asked for.
pub(super) enum Rows {
    /// Everything.
    All,
    /// Everything; and where that is refused, these, since it may have been refused for one of the others.
    AllOr(Vec<usize>),
    /// These.
    These(Vec<usize>),
}

impl<S: Store> Predictor<S> {
    /// Asks the upstream for some rows, or all, and settles `leads` with what it says. The call counts as under way from now on, unless
    /// it did before.
    ///
    /// Others may wait for what was claimed, so the forward runs on for a while if this call is cancelled.
    pub(super) async fn forward(
        self: &Arc<Self>,
        call: &Call,
        asked: &Asked,
        rows: Rows,
        leads: Vec<(usize, Lead)>,
        under_way: Option<UnderWay>,
    ) -> Result<Fresh, CallError> {
        let under_way = under_way.unwrap_or_else(|| self.upstream.begin().0);
        let (query, signature) = (&asked.query, &asked.model.signature);
        let all = || (0..query.rows()).collect();
        let (rows, or_these): (Vec<usize>, _) = match rows {
            Rows::All => (all(), None),
            Rows::AllOr(these) => (all(), Some(these)),
            Rows::These(these) => (these, None),
        };
        let message = if rows.len() == query.rows() {
            query.for_all_rows(signature)
        } else {
            Some(query.for_rows(&rows, signature))
        };
        let errand = Errand {
            forward: Forward::new(call, message.map(|message| frame::wrap(&message)), under_way),
            request: Arc::clone(&call.frame),
            query: Arc::clone(query),
            model: Arc::clone(&asked.model),
            live: Arc::clone(&call.live),
            rows,
            or_these,
            leads,
        };
        if errand.leads.is_empty() {
            // Nobody can wait for it but its own caller.
            return Ok(self.ask_and_settle(errand).await?);
        }
        let this = Arc::clone(self);
        let work = async move { this.ask_and_settle(errand).await };
        Ok(lingering(call.live.config.limits.linger, work).await?)
    }

    async fn ask_and_settle(&self, errand: Errand) -> Result<Fresh, UpstreamError> {
        let Errand { mut forward, request: _in_budget, query, model, live, mut rows, or_these, leads } =
            errand;
        let limit = live.config.limits.message_bytes;
        let arrived = forward.arrived;
        let generation = model.generation();
        self.telemetry.metrics.forwarded(rows.len());
        let mut reply = self.ask_upstream(&mut forward, limit).await?;
        if let Some(these) = or_these.filter(|_| !reply.is_ok()) {
            forward.ask_instead(frame::wrap(&query.for_rows(&these, &model.signature)));
            rows = these;
            self.telemetry.metrics.forwarded(rows.len());
            reply = self.ask_upstream(&mut forward, limit).await?;
        }
        if !reply.is_ok() {
            // What a stateful model's scheduler refuses is no error of the model.
            reply.of_model = query.is_accepted_by(&model.signature) && !model.signature.stateful;
            if reply.code() == Code::NotFound {
                // It may be gone, or be loaded again: what it answered before may not be what it would answer now.
                live.models.note_reload(&model);
            }
            // Errors are never remembered: the leads fail as they are dropped.
            return Ok(Fresh { reply, told: None, rows: None });
        }
        let _stage = forward.noted.stage(&self.telemetry, Stage::Settle);
        let reply = reply.plain(limit).await?;
        let mut told = query
            .told(reply.payload(), rows.len())
            .map_err(|error| UpstreamError::Reply(error.to_string().into()))?;
        self.learn(&told, &*query, &model, &rows, &live);
        if !are_plain(&forward.head.headers) {
            model.accepted([headers_key(&forward.head.headers, &self.key)]);
        }
        self.upstream.template.learn(&reply);
        model.template().learn(&reply);

        let version: Arc<str> = match told.version.as_str() {
            "" => model.version_served(query.version()).into(),
            served => Model::version_of(served, generation).into(),
        };
        let answered = |bytes| Answer { bytes, version: Arc::clone(&version), took: arrived.elapsed() };
        let answers: Vec<(usize, Answer)> = match std::mem::replace(&mut told.rows, Ok(Vec::new())) {
            Ok(parts) => rows.iter().copied().zip(parts.into_iter().map(answered)).collect(),
            Err(error) => {
                tracing::warn!(model = &*model.name, %error, "a reply cannot be kept");
                Vec::new()
            }
        };
        let outcome = |row: usize| match answer_of(&answers, row) {
            Some(answer) => Outcome::Answered(answer.clone()),
            // Rows without an answer of their own leave their likeness behind.
            None => Outcome::Unkept,
        };
        self.store.settle(leads.into_iter().map(|(row, lead)| (lead, outcome(row))).collect()).await;
        let rows = Some(answers).filter(|rows| !rows.is_empty());
        Ok(Fresh { told: Some(told), rows, reply })
    }

    /// Takes note of a form that the upstream accepts, of how it writes its reply, and of a version that was not expected.
    fn learn(&self, told: &Told, query: &dyn Query, model: &Model, rows: &[usize], live: &Arc<Live>) {
        model.accepted(query.validity(&self.key));
        if query.has_other_inputs() {
            let inputs = query.other_inputs(&self.key);
            model.accepted(rows.iter().map(|&row| inputs_key(inputs[row])));
        }
        if !told.version.is_empty() {
            model.answered_by(query.version(), &told.version);
        }
        if let Some(typed) = told.typed {
            model.replied(query.is_typed(), typed);
        }
        if !told.version.is_empty() && !model.expects(query.version(), &told.version) {
            // A reload. The reply is right; what is known of the model is not, and the next poll may be far off.
            live.models.note_reload(model);
        }
    }

    /// A request that the upstream must refuse, in its own words; should it accept after all, its answer is dropped.
    ///
    /// It can be read, and Triton 2.51 ends such a call once, whatever is wrong with it: it goes where all others go.
    pub(super) async fn let_upstream_refuse(
        &self,
        call: &Call,
        refusal: CallError,
    ) -> Result<Reply, CallError> {
        self.refused(call, Forward::new(call, None, self.upstream.begin().0), refusal).await
    }

    /// The same of a message that does not decode, which must not share a connection with calls that do.
    pub(super) async fn let_upstream_refuse_apart(
        &self,
        call: &Call,
        refusal: CallError,
    ) -> Result<Reply, CallError> {
        let forward = Forward::new(call, None, self.upstream.begin().0);
        let apart = Forward { way: Way::Apart(Arc::clone(&call.lanes)), ..forward };
        self.refused(call, apart, refusal).await
    }

    async fn refused(
        &self,
        call: &Call,
        mut forward: Forward,
        refusal: CallError,
    ) -> Result<Reply, CallError> {
        let reply = self.ask_upstream(&mut forward, call.live.config.limits.message_bytes).await?;
        if reply.is_ok() {
            tracing::warn!(%refusal, "the model server accepts a request that we cannot judge; its answer is dropped");
            return Err(refusal);
        }
        self.telemetry.metrics.rejected("malformed");
        Ok(reply)
    }

    /// Bytes on and bytes back, unjudged. The reply is read whole: a caller that does not take it must not hold up the
    /// connection that all judged calls share.
    pub(super) async fn forward_unread(&self, call: &Call) -> Result<Reply, CallError> {
        let mut forward = Forward::new(call, None, self.upstream.begin().0);
        Ok(self.ask_upstream(&mut forward, call.live.config.limits.message_bytes).await?)
    }

    /// One call to the upstream, seen by the operator.
    async fn ask_upstream(&self, forward: &mut Forward, limit: usize) -> Result<Reply, UpstreamError> {
        let (trace, address) = (forward.noted.trace.as_ref(), self.upstream.address());
        let headers = &mut forward.head.headers;
        let asking = Asking::begin(&self.telemetry, trace, forward.method, address, headers);
        let began = Instant::now();
        let reply = match &forward.way {
            Way::Shared => self.upstream.call(forward.request(), limit).await,
            Way::Own(lanes) => self.upstream.call_over(lanes.odd(), forward.request(), limit).await,
            Way::Apart(lanes) => self.upstream.call_apart(lanes.odd(), forward.request(), limit).await,
        };
        forward.noted.spent_elsewhere(began.elapsed());
        asking.end(match &reply {
            Ok(reply) => reply.code(),
            Err(UpstreamError::Reply(_)) => Code::Internal,
            Err(_) => Code::Unavailable,
        });
        reply
    }
}

/// The answer of `row` among `answers`, which are in the order of their rows.
pub(super) fn answer_of(answers: &[(usize, Answer)], row: usize) -> Option<&Answer> {
    answers.binary_search_by_key(&row, |(at, _)| *at).ok().map(|at| &answers[at].1)
}

/// The digest of other inputs as one of the keys of [`Model::has_accepted`]; a form's own digest never has eight zeros first.
pub(super) fn inputs_key(inputs: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[8..].copy_from_slice(&inputs.to_le_bytes());
    key
}

/// A forward with all that it needs to go on without its caller.
struct Errand {
    forward: Forward,
    /// Stays in its caller's byte budget as long as its bytes are in use here, also where the caller is gone.
    request: Arc<Frame>,
    query: Arc<dyn Query>,
    model: Arc<Model>,
    live: Arc<Live>,
    rows: Vec<usize>,
    /// What is asked for where `rows` are refused.
    or_these: Option<Vec<usize>>,
    leads: Vec<(usize, Lead)>,
}

/// A request to the upstream: the caller's head, and the caller's frame or another in its place.
struct Forward {
    head: Parts,
    frame: Bytes,
    /// When the caller's request had arrived.
    arrived: Instant,
    /// The method, as `package.Service/Method`.
    method: &'static str,
    noted: Noted,
    way: Way,
    #[expect(dead_code, reason = "it counts until it is dropped")]
    under_way: UnderWay,
}

/// By which connection a request goes.
enum Way {
    /// By one that all callers share.
    Shared,
    /// By its caller's own: its headers are such as a server may refuse.
    Own(Arc<OwnLanes>),
    /// By the same, and again if another breaks it: its message does not decode.
    Apart(Arc<OwnLanes>),
}

impl Forward {
    /// `call` with `frame` in place of its own where one is given.
    fn new(call: &Call, frame: Option<Bytes>, under_way: UnderWay) -> Self {
        let (mut head, ()) = http::Request::new(()).into_parts();
        head.method = call.head.method.clone();
        head.uri = with_path(&call.head.uri, call.rpc.path());
        head.headers = call.head.headers.clone();
        let frame = frame.unwrap_or_else(|| call.frame.bytes.clone());
        // A stated length may be that of another frame, or count what the caller sent after its message.
        let stated = head.headers.get(CONTENT_LENGTH);
        if stated.is_some_and(|stated| *stated != HeaderValue::from(frame.len())) {
            head.headers.remove(CONTENT_LENGTH);
        }
        // Time that is up is up here. Triton 2.51 ends a call whose time is up several times over, which HTTP/2 takes for an error of the
        // connection, and all others' calls on it end too.
        if call.deadline.is_some() {
            head.headers.remove("grpc-timeout");
        }
        let way = if are_plain(&head.headers) { Way::Shared } else { Way::Own(Arc::clone(&call.lanes)) };
        let method = call.rpc.path().trim_start_matches('/');
        Self { head, frame, arrived: call.arrived, method, noted: call.noted.clone(), way, under_way }
    }

    /// The same call with `frame` in place of what it was to ask.
    fn ask_instead(&mut self, frame: Bytes) {
        self.head.headers.remove(CONTENT_LENGTH);
        self.frame = frame;
    }

    /// The request to send.
    fn request(&self) -> Request<Option<Bytes>> {
        Request::from_parts(self.head.clone(), Some(self.frame.clone()))
    }
}

/// `uri` with the path of a method in place of its own: a message of a stream is forwarded by the unary method.
fn with_path(uri: &Uri, path: &'static str) -> Uri {
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::from_static(path));
    // The path alone is enough: scheme and authority are the upstream's own where the caller gave none.
    Uri::from_parts(parts).unwrap_or_else(|_| Uri::from_static(path))
}

/// Runs `work` to its end, or, once nobody waits for it any more, for at most `linger`.
///
/// The work is done by whoever waits; it gets a task of its own only when it is abandoned. A task for each forward is handed
/// from thread to thread, there and back: 6.6 `futex` calls instead of 4.
async fn lingering<T: Send + 'static>(linger: Duration, work: impl Future<Output = T> + Send + 'static) -> T {
    Lingering { work: Some(Box::pin(work)), linger }.await
}

/// Work that goes on for a while when it is dropped unfinished.
struct Lingering<F: Future<Output: Send> + Send + 'static> {
    /// None once it is finished, or has panicked.
    work: Option<Pin<Box<F>>>,
    linger: Duration,
}

impl<F: Future<Output: Send> + Send + 'static> Future for Lingering<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // Taken out while it runs, so that work that panics is dropped with what it claimed, and not spawned.
        let mut work = self.work.take().expect("a finished future is not polled again");
        let polled = work.as_mut().poll(context);
        if polled.is_pending() {
            self.work = Some(work);
        }
        polled
    }
}

impl<F: Future<Output: Send> + Send + 'static> Drop for Lingering<F> {
    fn drop(&mut self) {
        // Without a runtime the program is ending, and nobody can wait.
        if let (Some(work), Ok(runtime)) = (self.work.take(), Handle::try_current()) {
            let linger = self.linger;
            runtime.spawn(async move { drop(timeout(linger, work).await) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test(start_paused = true)]
    async fn abandoned_work_goes_on_for_its_linger_and_no_longer() {
        for (needs, is_done) in [(4, true), (6, false)] {
            let (tell, told) = oneshot::channel();
            let work = lingering(Duration::from_secs(5), async move {
                tokio::time::sleep(Duration::from_secs(needs)).await;
                tell.send(()).unwrap();
            });
            tokio::select! {
                biased;
                () = work => unreachable!("the work takes seconds"),
                () = tokio::task::yield_now() => {}
            }
            assert_eq!(told.await.is_ok(), is_done);
        }
    }

    #[tokio::test]
    async fn finished_and_panicking_work_does_not_linger() {
        let second = Duration::from_secs(1);
        assert_eq!(lingering(second, async { 7 }).await, 7);
        let (tell, told) = oneshot::channel::<()>();
        let panics = tokio::spawn(lingering(second, async move {
            let _held = tell;
            tokio::task::yield_now().await;
            panic!("on purpose");
        }));
        let panicked: Result<(), _> = panics.await;
        assert!(panicked.is_err());
        assert!(told.await.is_err(), "what it held is dropped");
    }
}

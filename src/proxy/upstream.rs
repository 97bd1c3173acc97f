//! The model server behind us: connections that keep themselves up, and one call over them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use percent_encoding::percent_decode;
use tokio::runtime::{self, Handle};
use tokio::time::Instant;
use tonic::Code;

use super::body::{self, Body};
use super::connect::Connector;
use super::frame;
use super::lane::{CONNECT, Lane};
use super::own::OwnLanes;
use super::template::Template;
use super::unary::Unary;

/// Connections shared by all inspected calls, at least.
const SHARED_LANES: usize = 2;

/// The longest reply to a question of our own, in bytes.
const OWN_REPLY: usize = 16 << 20;

/// How often a message that does not decode is sent in all, where others like it break its connection.
const ATTEMPTS_APART: u32 = 4;

/// Why a call did not reach the upstream, or broke on the way.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum UpstreamError {
    /// No connection can be had.
    #[error("failed to connect to the model server: {0}")]
    Down(Arc<str>),
    /// The connection broke after the call was sent.
    #[error("the connection to the model server broke: {0}")]
    Broken(Arc<str>),
    /// The reply is not one that gRPC allows.
    #[error("the model server's reply cannot be read: {0}")]
    Reply(Arc<str>),
}

/// The shared lanes, and the means to open one for a single downstream connection.
pub(super) struct Upstream {
    connector: Arc<Connector>,
    shared: Vec<Shared>,
    /// What its OK replies look like around their message.
    pub(super) template: Template,
    /// The upstream is known to have the streaming call.
    streams: AtomicBool,
    /// How busy it is with us.
    at_work: Arc<AtWork>,
}

/// The shared lanes of one runtime, whose calls take turns on them: a call over another runtime's would wake its thread.
struct Shared {
    runtime: runtime::Id,
    lanes: Vec<Lane<Unary>>,
    next: AtomicUsize,
}

/// A call that the model server is asked, until it is dropped: from the moment at which that is certain, so that of two that come at
/// once one is the first, until its reply is in or it is given up.
pub(super) struct UnderWay(Arc<AtWork>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let Self(at_work) = self;
        let since = at_work.since.elapsed().as_micros() as u64;
        at_work.last.store(since, Ordering::Relaxed);
        // After that: who finds no call under way finds when the last one ended.
        at_work.calls.fetch_sub(1, Ordering::Release);
    }
}

/// How busy the model server is with our calls.
struct AtWork {
    /// Calls under way.
    calls: AtomicUsize,
    /// When the last one ended, in microseconds since `since`.
    last: AtomicU64,
    since: Instant,
}

impl AtWork {
    /// The time since the last call ended.
    fn rested(&self) -> Duration {
        let last = Duration::from_micros(self.last.load(Ordering::Relaxed));
        self.since.elapsed().saturating_sub(last)
    }
}

/// A reply read whole: its headers, its one message where it has one, its trailers.
pub(super) struct Reply {
    /// Response headers.
    pub headers: HeaderMap,
    /// The message with its prefix; none in a reply that is all trailers.
    pub frame: Option<frame::Frame>,
    /// Trailers, `grpc-status` among them unless the reply was trailers only.
    pub trailers: HeaderMap,
    /// The HTTP status.
    pub status: http::StatusCode,
    /// Whether the model itself was asked, as far as its signature shows, so that an error is its own.
    pub of_model: bool,
}

impl Reply {
    /// Whether the model server answered with OK and one message.
    pub(super) fn is_ok(&self) -> bool {
        self.status == http::StatusCode::OK
            && self.frame.is_some()
            && self.trailers.get("grpc-status").is_some_and(|status| status == "0")
    }

    /// The gRPC status; UNKNOWN where the reply has none.
    pub(super) fn code(&self) -> Code {
        let status = self.trailers.get("grpc-status").or_else(|| self.headers.get("grpc-status"));
        status.map_or(Code::Unknown, |status| Code::from_bytes(status.as_bytes()))
    }

    /// What an error says; empty where it says nothing.
    pub(super) fn message(&self) -> String {
        let message = self.trailers.get("grpc-message").or_else(|| self.headers.get("grpc-message"));
        let message =
            message.map(|message| percent_decode(message.as_bytes()).decode_utf8_lossy().into_owned());
        message.unwrap_or_default()
    }

    /// The same reply with its message uncompressed, so that forwarded and replayed replies are written alike.
    pub(super) async fn plain(mut self, limit: usize) -> Result<Self, UpstreamError> {
        let encoding = frame::Encoding::of(&self.headers);
        self.headers.remove("grpc-encoding");
        if let Some(mut frame) = self.frame.take() {
            let unreadable = |why: String| UpstreamError::Reply(why.into());
            let encoding = encoding.ok_or_else(|| unreadable("unknown grpc-encoding".into()))?;
            let bytes = if frame.bytes[0] == 0 {
                frame.bytes
            } else {
                self.headers.remove(http::header::CONTENT_LENGTH);
                frame::wrap(
                    &frame.payload(encoding, limit).await.map_err(|error| unreadable(error.to_string()))?,
                )
            };
            self.frame = Some(frame::Frame::plain(bytes));
        }
        Ok(self)
    }

    /// The message without its prefix, of a plain reply; empty where there is none.
    pub(super) fn payload(&self) -> Bytes {
        self.frame.as_ref().map(|frame| frame.bytes.slice(frame::PREFIX..)).unwrap_or_default()
    }

    /// The status of an error alone.
    pub(super) fn into_status(self) -> HeaderMap {
        let of_headers = ["grpc-status", "grpc-message"]
            .into_iter()
            .filter_map(|name| Some((http::HeaderName::from_static(name), self.headers.get(name)?.clone())));
        if self.trailers.is_empty() { of_headers.collect() } else { self.trailers.clone() }
    }

    /// The reply as it goes on to the caller.
    pub(super) fn into_response(self) -> Response<Body> {
        let trailers = Some(self.trailers).filter(|trailers| !trailers.is_empty());
        let body = match (self.frame, trailers) {
            (Some(frame), trailers) => body::message(frame.bytes, trailers),
            (None, Some(trailers)) => body::trailers(trailers),
            (None, None) => body::empty(),
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

impl Upstream {
    /// Opens the shared lanes on the runtime that this is called on; the model server need not be there yet.
    pub(super) fn open(connector: Connector) -> Self {
        Self::open_on([&Handle::current()], connector)
    }

    /// Opens shared lanes on each of `runtimes`, of which there is at least one.
    pub(super) fn open_on<'a>(runtimes: impl IntoIterator<Item = &'a Handle>, connector: Connector) -> Self {
        let connector = Arc::new(connector);
        let runtimes: Vec<&Handle> = runtimes.into_iter().collect();
        let each = SHARED_LANES.div_ceil(runtimes.len());
        let open = |runtime: &&Handle| Shared {
            runtime: runtime.id(),
            lanes: (0..each).map(|_| Lane::open(runtime, Arc::clone(&connector))).collect(),
            next: AtomicUsize::new(0),
        };
        let shared = runtimes.iter().map(open).collect();
        Self {
            connector,
            shared,
            template: Template::default(),
            streams: AtomicBool::new(false),
            at_work: Arc::new(AtWork {
                calls: AtomicUsize::new(0),
                last: AtomicU64::new(0),
                since: Instant::now(),
            }),
        }
    }

    /// Why a call made now would find no connection; none while there is one, or one is about to be.
    pub(super) fn down(&self) -> Option<UpstreamError> {
        self.lane().down()
    }

    /// Where it is: `host:port`, or a socket's path.
    pub(super) fn address(&self) -> &str {
        self.connector.address()
    }

    /// Lanes beside the shared ones, for one downstream connection alone.
    pub(super) fn own_lanes(&self) -> OwnLanes {
        OwnLanes::to(Arc::clone(&self.connector))
    }

    /// Calls under way at the moment, and the time since the last one ended.
    pub(super) fn asking(&self) -> (usize, Duration) {
        (self.at_work.calls.load(Ordering::Acquire), self.at_work.rested())
    }

    /// Counts one more call as under way, and says what [`Self::asking`] would have said before.
    pub(super) fn begin(&self) -> (UnderWay, (usize, Duration)) {
        let calls = self.at_work.calls.fetch_add(1, Ordering::Acquire);
        (UnderWay(Arc::clone(&self.at_work)), (calls, self.at_work.rested()))
    }

    /// One unary call over a shared lane, its reply read whole (at most `limit` bytes of message).
    pub(super) async fn call(
        &self,
        request: Request<Option<Bytes>>,
        limit: usize,
    ) -> Result<Reply, UpstreamError> {
        self.call_over(self.lane(), request, limit).await
    }

    /// The same of a message that does not decode, which the model server must refuse.
    ///
    /// Triton 2.51 ends such a call up to six times over, which HTTP/2 takes for an error of the connection, and all calls on it
    /// end too. So it goes over its caller's own `lane`, and one that another broke is sent again: the server refuses it before any
    /// model is asked. Should it accept the request after all, it may compute an answer each time, and all of them are dropped.
    pub(super) async fn call_apart(
        &self,
        lane: &Lane<Unary>,
        request: Request<Option<Bytes>>,
        limit: usize,
    ) -> Result<Reply, UpstreamError> {
        for _ in 1..ATTEMPTS_APART {
            match self.call_over(lane, request.clone(), limit).await {
                Err(UpstreamError::Broken(error)) => tracing::debug!(%error, "sent again"),
                done => return done,
            }
        }
        self.call_over(lane, request, limit).await
    }

    /// The same over `lane`.
    pub(super) async fn call_over(
        &self,
        lane: &Lane<Unary>,
        request: Request<Option<Bytes>>,
        limit: usize,
    ) -> Result<Reply, UpstreamError> {
        let (head, mut body) = lane.send(request).await?.into_parts();
        let reply = |frame, trailers| Reply {
            headers: head.headers,
            frame,
            trailers,
            status: head.status,
            of_model: false,
        };
        if hyper::body::Body::is_end_stream(&body) {
            return Ok(reply(None, HeaderMap::new()));
        }
        match frame::read_reply(&mut body, limit).await {
            Ok(mut frame) => {
                let trailers = frame.trailers.take().unwrap_or_default();
                match trailers.get("grpc-status") {
                    Some(status) if status == "0" => Ok(reply(Some(frame), trailers)),
                    // A message beside an error is no answer, and must not become one.
                    Some(_) => Ok(reply(None, trailers)),
                    None => Err(UpstreamError::Reply("it has a message and no grpc-status".into())),
                }
            }
            Err(frame::FrameError::Nothing(trailers)) => Ok(reply(None, trailers)),
            Err(frame::FrameError::Broken(error)) => Err(UpstreamError::Broken(error.to_string().into())),
            Err(error) => Err(UpstreamError::Reply(error.to_string().into())),
        }
    }

    /// What the upstream says of a streaming call, where it has no such call: opened once without a message to find out.
    pub(super) async fn without_streams(&self, path: &'static str) -> Result<Option<Reply>, UpstreamError> {
        if self.streams.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let request = Request::post(path)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(None)
            .expect("a static path and static headers make a request");
        let reply = tokio::time::timeout(CONNECT, self.call(request, OWN_REPLY)).await;
        match reply {
            Ok(reply) => Ok(Some(reply?).filter(|reply| reply.code() == Code::Unimplemented)),
            // One that says nothing before it is asked something has it.
            Err(_) => Ok(None),
        }
        .inspect(|refusal| self.streams.store(refusal.is_none(), Ordering::Relaxed))
    }

    /// A shared lane of the runtime that this is called on; the first one's for those that have none.
    fn lane(&self) -> &Lane<Unary> {
        let here = Handle::current().id();
        let shared = self.shared.iter().find(|shared| shared.runtime == here).unwrap_or(&self.shared[0]);
        let turn = shared.next.fetch_add(1, Ordering::Relaxed);
        &shared.lanes[turn % shared.lanes.len()]
    }

    /// A unary call of our own, not made for any caller.
    pub(super) async fn ask<Q: prost::Message, A: prost::Message + Default>(
        &self,
        path: &'static str,
        question: &Q,
        within: Duration,
    ) -> Result<Result<A, tonic::Status>, UpstreamError> {
        let request = Request::post(path)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Some(frame::encode(question)))
            .expect("a static path and static headers make a request");
        let call = self.call(request, OWN_REPLY);
        let reply = tokio::time::timeout(within, call)
            .await
            .map_err(|_| UpstreamError::Broken("no answer in time".into()))??;
        if !reply.is_ok() {
            let headers = if reply.trailers.is_empty() { &reply.headers } else { &reply.trailers };
            let status = tonic::Status::from_header_map(headers)
                .unwrap_or_else(|| tonic::Status::unknown("the reply has no grpc-status"));
            return Ok(Err(status));
        }
        self.template.guess(&reply);
        A::decode(reply.plain(OWN_REPLY).await?.payload())
            .map(Ok)
            .map_err(|error| UpstreamError::Reply(error.to_string().into()))
    }
}

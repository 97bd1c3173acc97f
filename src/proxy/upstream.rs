//! The model server behind us: connections that keep themselves up, and one call over them.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use percent_encoding::percent_decode;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tonic::Code;

use super::body::{self, Body, BoxError};
use super::frame;
use super::listen::BoxedStream;
use super::template::Template;
use super::tls::{self, TlsError};
use crate::config::{UpstreamAddress, UpstreamTls};

/// Connections shared by all inspected calls.
const SHARED_LANES: usize = 2;

/// One attempt to connect may take this long, and a call waits this long at most for the first.
const CONNECT: Duration = Duration::from_secs(2);

/// The pause before connecting again: doubled from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// How often a call that the upstream certainly did not process is sent in all.
const ATTEMPTS: u32 = 3;

/// Flow-control windows in bytes, of a stream and of a connection.
///
/// h2 gives a connection half its window as a budget for small DATA frames that wait to be read, and ends the connection,
/// with every call on it, when that is spent. A stalled stream of 17-byte messages needs 28 times its own window, so the
/// connection's is 64 times the stream's. It is a promise to the peer, not an allocation.
const WINDOWS: (u32, u32) = (1 << 20, 64 << 20);

/// The largest DATA frame that the upstream may send us, in bytes.
const FRAME: u32 = 1 << 20;

/// The longest reply to a question of our own, in bytes.
const OWN_REPLY: usize = 16 << 20;

/// What one connection buffers of bytes not yet sent, per stream.
const SEND_BUFFER: usize = 1 << 20;

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

/// How to reach the upstream.
pub(super) struct Connector {
    route: Way,
    scheme: Scheme,
    authority: Authority,
}

enum Way {
    Tcp(String),
    Unix(PathBuf),
    Tls(String, Box<(TlsConnector, ServerName<'static>)>),
}

/// A connection to the upstream that is made again whenever it ends.
pub(super) struct Lane {
    state: watch::Receiver<State>,
    connector: Arc<Connector>,
    keeper: JoinHandle<()>,
}

#[derive(Clone)]
enum State {
    Connecting,
    Ready(SendRequest<Body>),
    Down(Arc<str>),
}

/// The shared lanes, and the means to open one for a single downstream connection.
pub(super) struct Upstream {
    connector: Arc<Connector>,
    lanes: Vec<Lane>,
    next: AtomicUsize,
    /// What its OK replies look like around their message.
    pub(super) template: Template,
    /// The upstream is known to have the streaming call.
    streams: AtomicBool,
    /// How busy it is with us.
    business: Business,
}

/// A call that waits for its reply; it counts until this is dropped.
struct UnderWay<'a>(&'a Business);

impl<'a> UnderWay<'a> {
    fn of(business: &'a Business) -> Self {
        business.calls.fetch_add(1, Ordering::Relaxed);
        Self(business)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let since = self.0.since.elapsed().as_micros() as u64;
        self.0.last.store(since, Ordering::Relaxed);
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How busy the model server is with our calls.
struct Business {
    /// Calls that wait for their reply.
    calls: AtomicUsize,
    /// When the last one ended, in microseconds since `since`.
    last: AtomicU64,
    since: Instant,
}

impl Connector {
    /// A connector to `address`; `tls` applies to `https://` alone.
    pub(super) fn new(address: &UpstreamAddress, tls: &UpstreamTls) -> Result<Self, TlsError> {
        let local = || Authority::from_static("localhost");
        Ok(match address {
            UpstreamAddress::Http(authority) => Self {
                route: Way::Tcp(with_port(authority, 80)),
                scheme: Scheme::HTTP,
                authority: authority.clone(),
            },
            UpstreamAddress::Unix(path) => {
                Self { route: Way::Unix(path.clone()), scheme: Scheme::HTTP, authority: local() }
            }
            UpstreamAddress::Https(authority, name) => {
                let connector = TlsConnector::from(Arc::new(tls::client(tls)?));
                let name = tls.server_name.clone().unwrap_or_else(|| name.clone());
                Self {
                    route: Way::Tls(with_port(authority, 443), Box::new((connector, name))),
                    scheme: Scheme::HTTPS,
                    authority: authority.clone(),
                }
            }
        })
    }

    async fn connect(&self) -> io::Result<BoxedStream> {
        Ok(match &self.route {
            Way::Tcp(address) => Box::pin(dial(address).await?),
            Way::Unix(path) => Box::pin(UnixStream::connect(path).await?),
            Way::Tls(address, tls) => {
                let stream = dial(address).await?;
                Box::pin(tls.0.connect(tls.1.clone(), stream).await?)
            }
        })
    }

    async fn handshake(
        &self,
    ) -> Result<(SendRequest<Body>, http2::Connection<TokioIo<BoxedStream>, Body, TokioExecutor>), BoxError>
    {
        let stream = self.connect().await?;
        Ok(http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .max_frame_size(FRAME)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(64 << 10)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20))
            .handshake(TokioIo::new(stream))
            .await?)
    }

    /// The target of a call: the caller's authority where it gave one, so that the upstream sees what it would have seen.
    fn target(&self, authority: Option<Authority>, path: PathAndQuery) -> Uri {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(authority.unwrap_or_else(|| self.authority.clone()));
        parts.path_and_query = Some(path);
        Uri::from_parts(parts).expect("scheme, authority and path are all there")
    }
}

fn with_port(authority: &Authority, port: u16) -> String {
    if authority.port().is_some() { authority.to_string() } else { format!("{authority}:{port}") }
}

async fn dial(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Lane {
    /// Opens a lane; it connects in the background and ends when dropped.
    pub(super) fn open(connector: Arc<Connector>) -> Self {
        let (publish, state) = watch::channel(State::Connecting);
        let keeper = tokio::spawn(keep_up(Arc::clone(&connector), publish));
        Self { state, connector, keeper }
    }

    /// Sends `request`, whose URI is replaced by the upstream's, and returns the reply's head with its body to come.
    ///
    /// A request that was certainly never sent (the connection closed under it) is sent once more; nothing else is retried.
    pub(super) async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, UpstreamError> {
        self.send_until_taken(request, || None).await
    }

    /// The same for a request that can be made again: it is also sent once more where it was sent and left out, which the
    /// upstream says by refusing the stream or by a goodbye that does not count it.
    async fn send_again(
        &self,
        make: impl Fn() -> Request<Body>,
    ) -> Result<Response<Incoming>, UpstreamError> {
        self.send_until_taken(make(), || Some(make())).await
    }

    async fn send_until_taken(
        &self,
        request: Request<Body>,
        again: impl Fn() -> Option<Request<Body>>,
    ) -> Result<Response<Incoming>, UpstreamError> {
        let mut request = self.aimed(request);
        let mut attempt = 0;
        loop {
            attempt += 1;
            let mut sender = self.sender().await?;
            let mut refused = match sender.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(refused) => refused,
            };
            let unsent = refused.take_message();
            let error = refused.into_error();
            let made_again = || was_left_out(&error).then(&again).flatten().map(|next| self.aimed(next));
            let next = unsent.or_else(made_again);
            match next {
                Some(next) if attempt < ATTEMPTS => {
                    request = next;
                    self.renewed().await;
                }
                _ => return Err(UpstreamError::Broken(error.to_string().into())),
            }
        }
    }

    /// `request` with the upstream's URI in place of its own.
    fn aimed(&self, request: Request<Body>) -> Request<Body> {
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        parts.uri = self.connector.target(parts.uri.authority().cloned(), path);
        parts.version = http::Version::HTTP_2;
        Request::from_parts(parts, body)
    }

    /// The connection's sender, waited for while the first attempt to connect is under way.
    async fn sender(&self) -> Result<SendRequest<Body>, UpstreamError> {
        let mut state = self.state.clone();
        let settled = state.wait_for(|state| !matches!(state, State::Connecting));
        match tokio::time::timeout(CONNECT, settled).await {
            Ok(Ok(state)) => match &*state {
                State::Ready(sender) => Ok(sender.clone()),
                State::Down(why) => Err(UpstreamError::Down(Arc::clone(why))),
                State::Connecting => Err(UpstreamError::Down("still connecting".into())),
            },
            Ok(Err(_)) => Err(UpstreamError::Down("shutting down".into())),
            Err(_) => Err(UpstreamError::Down("connecting takes too long".into())),
        }
    }

    /// Waits until the connection is another than the one that just refused a call.
    async fn renewed(&self) {
        let mut state = self.state.clone();
        let changed = state.wait_for(|state| match state {
            State::Ready(sender) => !sender.is_closed(),
            _ => true,
        });
        let _ = tokio::time::timeout(CONNECT, changed).await;
    }
}

/// Whether the upstream said that it never processed the call: it refused the stream, or said goodbye before it.
fn was_left_out(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| {
        let refused = cause.is_reset() && cause.reason() == Some(h2::Reason::REFUSED_STREAM);
        cause.is_remote() && (refused || cause.is_go_away())
    })
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// Connects, tells `publish`, and begins again when the connection has ended.
async fn keep_up(connector: Arc<Connector>, publish: watch::Sender<State>) {
    let mut pause = BACKOFF.0;
    loop {
        match tokio::time::timeout(CONNECT, connector.handshake()).await {
            Ok(Ok((sender, connection))) => {
                pause = BACKOFF.0;
                publish.send_replace(State::Ready(sender));
                let ended = connection.await;
                tracing::debug!(?ended, "connection to the model server ended");
                publish.send_replace(State::Connecting);
            }
            Ok(Err(error)) => down(&publish, &error.to_string()),
            Err(_) => down(&publish, "connecting timed out"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BACKOFF.1);
    }
}

fn down(publish: &watch::Sender<State>, why: &str) {
    if !matches!(&*publish.borrow(), State::Down(known) if **known == *why) {
        tracing::warn!(why, "the model server cannot be reached");
    }
    publish.send_replace(State::Down(why.into()));
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
    /// Opens the shared lanes; the model server need not be there yet.
    pub(super) fn open(connector: Connector) -> Self {
        let connector = Arc::new(connector);
        let lanes = (0..SHARED_LANES).map(|_| Lane::open(Arc::clone(&connector))).collect();
        Self {
            connector,
            lanes,
            next: AtomicUsize::new(0),
            template: Template::default(),
            streams: AtomicBool::new(false),
            business: Business { calls: AtomicUsize::new(0), last: AtomicU64::new(0), since: Instant::now() },
        }
    }

    /// Where it is: `host:port`, or a socket's path.
    pub(super) fn address(&self) -> &str {
        match &self.connector.route {
            Way::Tcp(address) | Way::Tls(address, _) => address,
            Way::Unix(path) => path.to_str().unwrap_or_default(),
        }
    }

    /// A lane for one downstream connection alone, so that a caller that stops reading harms only itself.
    pub(super) fn own_lane(&self) -> Lane {
        Lane::open(Arc::clone(&self.connector))
    }

    /// Calls that wait for their reply at the moment, and the time since the last one ended.
    pub(super) fn asking(&self) -> (usize, Duration) {
        let Business { calls, last, since } = &self.business;
        let last = Duration::from_micros(last.load(Ordering::Relaxed));
        (calls.load(Ordering::Relaxed), since.elapsed().saturating_sub(last))
    }

    /// One unary call over a shared lane, its reply read whole (at most `limit` bytes of message).
    pub(super) async fn call(
        &self,
        request: impl Fn() -> Request<Body>,
        limit: usize,
    ) -> Result<Reply, UpstreamError> {
        let _under_way = UnderWay::of(&self.business);
        let (head, mut body) = self.lane().send_again(request).await?.into_parts();
        if hyper::body::Body::is_end_stream(&body) {
            let trailers = HeaderMap::new();
            return Ok(Reply {
                headers: head.headers,
                frame: None,
                trailers,
                status: head.status,
                of_model: false,
            });
        }
        match frame::read_reply(&mut body, limit).await {
            Ok(mut frame) => {
                let trailers = frame.trailers.take().unwrap_or_default();
                Ok(Reply {
                    headers: head.headers,
                    frame: Some(frame),
                    trailers,
                    status: head.status,
                    of_model: false,
                })
            }
            Err(frame::FrameError::Nothing(trailers)) => Ok(Reply {
                headers: head.headers,
                frame: None,
                trailers,
                status: head.status,
                of_model: false,
            }),
            Err(frame::FrameError::Broken(error)) => Err(UpstreamError::Broken(error.to_string().into())),
            Err(error) => Err(UpstreamError::Reply(error.to_string().into())),
        }
    }

    /// What the upstream says of a streaming call, where it has no such call: opened once without a message to find out.
    pub(super) async fn without_streams(&self, path: &'static str) -> Result<Option<Reply>, UpstreamError> {
        if self.streams.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let request = || {
            Request::post(path)
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(body::empty())
                .expect("a static path and static headers make a request")
        };
        let reply = tokio::time::timeout(CONNECT, self.call(request, OWN_REPLY)).await;
        match reply {
            Ok(reply) => Ok(Some(reply?).filter(|reply| reply.code() == Code::Unimplemented)),
            // One that says nothing before it is asked something has it.
            Err(_) => Ok(None),
        }
        .inspect(|refusal| self.streams.store(refusal.is_none(), Ordering::Relaxed))
    }

    fn lane(&self) -> &Lane {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        &self.lanes[turn % self.lanes.len()]
    }

    /// A unary call of our own, not made for any caller.
    pub(super) async fn ask<Q: prost::Message, A: prost::Message + Default>(
        &self,
        path: &'static str,
        question: &Q,
        within: Duration,
    ) -> Result<Result<A, tonic::Status>, UpstreamError> {
        let message = frame::encode(question);
        let request = || {
            Request::post(path)
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(body::message(message.clone(), None))
                .expect("a static path and static headers make a request")
        };
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

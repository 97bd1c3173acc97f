//! A connection to the model server that keeps itself up, and what is sent again when it breaks.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::body::{Body, BoxError};
use super::connect::Connector;
use super::upstream::UpstreamError;

/// One attempt to connect may take this long, and a call waits this long at most for the first.
pub(super) const CONNECT: Duration = Duration::from_secs(2);

/// The pause before connecting again: doubled from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// How often a call that the upstream certainly did not process is sent in all.
const ATTEMPTS: u32 = 3;

/// Flow-control windows in bytes, of a stream and of a connection.
///
/// h2 gives a connection half its window as a budget for small DATA frames that wait to be read, and ends the connection,
/// with every call on it, when that is spent. A stalled stream of 17-byte messages needs 28 times its own window, so the
/// connection's is 64 times the stream's. It is a promise to the peer, not an allocation.
pub(super) const WINDOWS: (u32, u32) = (1 << 20, 64 << 20);

/// The largest DATA frame that the upstream may send us, in bytes.
pub(super) const FRAME: u32 = 1 << 20;

/// What one connection buffers of bytes not yet sent, per stream.
pub(super) const SEND_BUFFER: usize = 1 << 20;

/// The longest header block of a reply, in bytes.
pub(super) const HEADERS: u32 = 64 << 10;

/// With calls open, a silent upstream is asked for a sign of life after the first time, and given up after the second.
pub(super) const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));

/// What calls go out by while one connection lives; a clone is of the same connection.
pub(super) trait Line: Clone + Send + Sync + 'static {
    /// What a request carries.
    type Message: Send;
    /// The body of a reply, to come.
    type Reply;

    /// Connects. The future ends when no further call can be sent; calls under way may go on.
    fn open(
        connector: &Connector,
    ) -> impl Future<Output = Result<(Self, impl Future<Output = ()> + Send), BoxError>> + Send;

    /// Sends one call and waits for its reply's head.
    fn send(
        self,
        request: Request<Self::Message>,
    ) -> impl Future<Output = Result<Response<Self::Reply>, Unanswered<Self::Message>>> + Send;

    /// Whether no further call can be sent.
    fn is_closed(&self) -> bool;
}

/// A connection to the upstream that is made again whenever it ends.
pub(super) struct Lane<L = Streams> {
    state: watch::Receiver<State<L>>,
    connector: Arc<Connector>,
    keeper: JoinHandle<()>,
}

#[derive(Clone)]
enum State<L> {
    Connecting,
    Ready(L),
    Down(Arc<str>),
}

/// A call that was not answered.
pub(super) struct Unanswered<M> {
    /// The request, where it can be sent again: the upstream certainly did not process it.
    pub(super) again: Option<Request<M>>,
    /// What went wrong.
    pub(super) error: String,
}

impl<L: Line> Lane<L> {
    /// Opens a lane on `runtime`; it connects in the background and ends when dropped.
    pub(super) fn open(runtime: &Handle, connector: Arc<Connector>) -> Self {
        let (publish, state) = watch::channel(State::Connecting);
        let keeper = runtime.spawn(keep_up::<L>(Arc::clone(&connector), publish));
        Self { state, connector, keeper }
    }

    /// Sends `request`, whose URI is replaced by the upstream's, and returns the reply's head with its body to come.
    ///
    /// A request that the upstream certainly did not process is sent again; nothing else is.
    pub(super) async fn send(
        &self,
        request: Request<L::Message>,
    ) -> Result<Response<L::Reply>, UpstreamError> {
        let mut request = self.connector.aim(request);
        let mut attempt = 0;
        loop {
            attempt += 1;
            let line = self.line().await?;
            let refused = match line.send(request).await {
                Ok(reply) => return Ok(reply),
                Err(refused) => refused,
            };
            match refused.again {
                Some(again) if attempt < ATTEMPTS => {
                    request = again;
                    self.renewed().await;
                }
                _ => return Err(UpstreamError::Broken(refused.error.into())),
            }
        }
    }

    /// Why there is no connection, where the last attempt failed.
    pub(super) fn down(&self) -> Option<UpstreamError> {
        match &*self.state.borrow() {
            State::Down(why) => Some(UpstreamError::Down(Arc::clone(why))),
            State::Connecting | State::Ready(_) => None,
        }
    }

    /// The present connection, waited for while the first attempt to connect is under way.
    async fn line(&self) -> Result<L, UpstreamError> {
        if let State::Ready(line) = &*self.state.borrow() {
            return Ok(line.clone());
        }
        let mut state = self.state.clone();
        let settled = state.wait_for(|state| !matches!(state, State::Connecting));
        match tokio::time::timeout(CONNECT, settled).await {
            Ok(Ok(state)) => match &*state {
                State::Ready(line) => Ok(line.clone()),
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
            State::Ready(line) => !line.is_closed(),
            _ => true,
        });
        let _ = tokio::time::timeout(CONNECT, changed).await;
    }
}

impl<L> Drop for Lane<L> {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// Connects, tells `publish`, and begins again when the connection has ended.
async fn keep_up<L: Line>(connector: Arc<Connector>, publish: watch::Sender<State<L>>) {
    let mut pause = BACKOFF.0;
    loop {
        match tokio::time::timeout(CONNECT, L::open(&connector)).await {
            Ok(Ok((line, ended))) => {
                publish.send_replace(State::Ready(line));
                let opened = Instant::now();
                ended.await;
                publish.send_replace(State::Connecting);
                // Calls wait for the next one. Only a server that ends connections as soon as they are made is given time.
                if opened.elapsed() >= BACKOFF.1 {
                    pause = BACKOFF.0;
                    continue;
                }
            }
            Ok(Err(error)) => down(&publish, &error.to_string()),
            Err(_) => down(&publish, "connecting timed out"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BACKOFF.1);
    }
}

fn down<L>(publish: &watch::Sender<State<L>>, why: &str) {
    if !matches!(&*publish.borrow(), State::Down(known) if **known == *why) {
        tracing::warn!(why, "the model server cannot be reached");
    }
    publish.send_replace(State::Down(why.into()));
}

/// A connection for calls that stream through.
#[derive(Clone)]
pub(super) struct Streams(SendRequest<Body>);

impl Line for Streams {
    type Message = Body;
    type Reply = Incoming;

    async fn open(connector: &Connector) -> Result<(Self, impl Future<Output = ()> + Send), BoxError> {
        let stream = connector.connect().await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .max_frame_size(FRAME)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(HEADERS)
            .keep_alive_interval(KEEP_ALIVE.0)
            .keep_alive_timeout(KEEP_ALIVE.1)
            .handshake(TokioIo::new(stream))
            .await?;
        let ended = async {
            let ended = connection.await;
            tracing::debug!(?ended, "connection to the model server ended");
        };
        Ok((Self(sender), ended))
    }

    /// Sent again only where it was never sent: the connection closed under it.
    async fn send(mut self, request: Request<Body>) -> Result<Response<Incoming>, Unanswered<Body>> {
        self.0.try_send_request(request).await.map_err(|mut refused| Unanswered {
            again: refused.take_message(),
            error: refused.into_error().to_string(),
        })
    }

    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

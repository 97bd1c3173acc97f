//! Unary calls over one connection to the model server: the request is written whole and at once, the reply read whole.
//!
//! On h2 itself and not on hyper's client, which sends a request's head, waits until it is on its way, and only then looks at the
//! body: two writes and three tasks for each call. Here head and message leave in one write, and the reply wakes the task that
//! waits for it.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use h2::{Ping, PingPong, Reason, RecvStream};
use http::{Request, Response};
use http_body::Frame;
use tokio::sync::Notify;

use super::body::BoxError;
use super::connect::Connector;
use super::count::{Count, Counted};
use super::lane::{FRAME, HEADERS, KEEP_ALIVE, Line, SEND_BUFFER, Unanswered, WINDOWS};
use super::listen::BoxedStream;

/// Calls that were given up are remembered, so many and so long: what the upstream still says of one that is forgotten counts as its
/// error, of which h2 allows a connection 1,024 in all, and callers may give up as many as they like.
const REMEMBERED_RESETS: usize = 4096;
const REMEMBERED_FOR: Duration = Duration::from_secs(10);

/// A connection for unary calls.
#[derive(Clone)]
pub(super) struct Unary {
    sender: SendRequest<Bytes>,
    life: Arc<Life>,
}

/// What is known of a connection's life.
#[derive(Default)]
struct Life {
    /// Calls under way.
    calls: Count,
    /// Replies and parts of replies that came.
    heard: AtomicU64,
    /// A call found that no further one can be sent.
    closed: Notify,
}

impl Life {
    /// Something came.
    fn hear(&self) {
        self.heard.fetch_add(1, Ordering::Relaxed);
    }
}

impl Unary {
    /// A connection over `stream`. The future ends when no further call can be sent.
    async fn over(stream: BoxedStream) -> Result<(Self, impl Future<Output = ()> + Send), h2::Error> {
        let (sender, mut connection) = Builder::new()
            .enable_push(false)
            .initial_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .max_frame_size(FRAME)
            .max_send_buffer_size(SEND_BUFFER)
            .max_header_list_size(HEADERS)
            .max_local_error_reset_streams(None)
            .max_concurrent_reset_streams(REMEMBERED_RESETS)
            .reset_stream_duration(REMEMBERED_FOR)
            .handshake::<_, Bytes>(stream)
            .await?;
        let life = Arc::new(Life::default());
        let pings = connection.ping_pong().expect("asked for once");
        // A task of its own: after a goodbye the calls under way go on while the next connection is made.
        let ended = tokio::spawn(run(connection, keep_alive(pings, Arc::clone(&life))));
        let closed = Arc::clone(&life);
        let until = async move {
            tokio::select! {
                _ = ended => {}
                () = closed.closed.notified() => {}
            }
        };
        Ok((Self { sender, life }, until))
    }
}

impl Line for Unary {
    /// One message with its prefix, or none.
    type Message = Option<Bytes>;
    type Reply = ReplyBody;

    async fn open(connector: &Connector) -> Result<(Self, impl Future<Output = ()> + Send), BoxError> {
        Ok(Self::over(connector.connect().await?).await?)
    }

    /// Sent again also where it was left out, which the upstream says by refusing the stream or by a goodbye that does not count it.
    async fn send(
        mut self,
        request: Request<Option<Bytes>>,
    ) -> Result<Response<ReplyBody>, Unanswered<Option<Bytes>>> {
        let under_way = self.life.calls.one();
        let (head, message) = request.into_parts();
        let again = || Request::from_parts(head.clone(), message.clone());
        let sent = match poll_fn(|context| self.sender.poll_ready(context)).await {
            Ok(()) => self.sender.send_request(Request::from_parts(head.clone(), ()), message.is_none()),
            Err(error) => Err(error),
        };
        let (reply, mut body) = match sent {
            Ok(sent) => sent,
            Err(error) => {
                // The connection takes no more calls, so the next one is made.
                self.life.closed.notify_one();
                return Err(Unanswered { again: Some(again()), error: error.to_string() });
            }
        };
        let whole = match &message {
            // However little of it the upstream takes at once, the rest waits in h2, which shares its memory.
            Some(message) => body.send_data(message.clone(), true),
            None => Ok(()),
        };
        let reply = match whole {
            Ok(()) => reply.await,
            Err(error) => Err(error),
        };
        self.life.hear();
        let life = self.life;
        match reply {
            Ok(reply) => {
                Ok(reply.map(|stream| ReplyBody { stream, data_ended: false, life, _under_way: under_way }))
            }
            Err(error) => {
                if error.is_go_away() {
                    // Nor does it here, and calls that the goodbye did count may keep the connection for long.
                    life.closed.notify_one();
                }
                let again = was_left_out(&error).then(again);
                Err(Unanswered { again, error: error.to_string() })
            }
        }
    }

    fn is_closed(&self) -> bool {
        // Whether a call could be sent is known at once: this handle has none that waits to be opened.
        let ready = self.sender.clone().poll_ready(&mut Context::from_waker(Waker::noop()));
        matches!(ready, Poll::Ready(Err(_)))
    }
}

/// Drives a connection to its end, or until it shows no sign of life.
async fn run(connection: Connection<BoxedStream, Bytes>, silent: impl Future<Output = ()>) {
    tokio::select! {
        ended = connection => tracing::debug!(?ended, "connection to the model server ended"),
        () = silent => tracing::warn!("the model server answers no ping; its connection is given up"),
    }
}

/// Ends when a ping is not answered. One is sent only where calls wait and nothing came for a while: gRPC servers end connections
/// that ping for nothing.
async fn keep_alive(mut pings: PingPong, life: Arc<Life>) {
    let mut heard = 0;
    loop {
        tokio::time::sleep(KEEP_ALIVE.0).await;
        let before = std::mem::replace(&mut heard, life.heard.load(Ordering::Relaxed));
        if life.calls.now() == 0 || heard != before {
            continue;
        }
        match tokio::time::timeout(KEEP_ALIVE.1, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection is at its end already, and says so itself.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => return,
        }
    }
}

/// Whether the upstream said that it never processed the call: it refused the stream, or said goodbye before it.
fn was_left_out(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    error.is_remote() && (refused || error.is_go_away())
}

/// The body of a reply; dropping it before its end resets the call.
pub(super) struct ReplyBody {
    stream: RecvStream,
    data_ended: bool,
    life: Arc<Life>,
    _under_way: Counted,
}

impl http_body::Body for ReplyBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let this = &mut *self;
        let next = if this.data_ended {
            None
        } else {
            let data = ready!(this.stream.poll_data(context));
            this.life.hear();
            data
        };
        let next = match next {
            Some(Ok(data)) => {
                // Given back at once: a reply is read as fast as it comes, up to its limit.
                let _ = this.stream.flow_control().release_capacity(data.len());
                Some(Ok(Frame::data(data)))
            }
            Some(Err(error)) => Some(Err(error)),
            None => {
                this.data_ended = true;
                ready!(this.stream.poll_trailers(context))
                    .map(|trailers| trailers.map(Frame::trailers))
                    .transpose()
            }
        };
        // A reset for no error ends a reply that came before its request was whole.
        let cut_short = |next: &Result<_, h2::Error>| {
            next.as_ref().is_err_and(|error| error.reason() == Some(Reason::NO_ERROR))
        };
        Poll::Ready(next.filter(|next| !cut_short(next)))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }
}

#[cfg(test)]
mod tests;

//! HTTP bodies as gRPC needs them: what leaves has the same frames, trailers and headers as what came.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::sync::mpsc;

/// Any error of a body; its text goes to the log, never to the caller.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Every body that the proxy sends, in either direction.
pub(super) type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A body that streams through: `inner` as it comes, without its empty DATA frames.
///
/// An empty frame that does not end its stream is counted by h2 against the whole connection and never forgiven, so a
/// proxy that relayed them would lose the connection, and every call on it, after about a hundred.
pub(super) fn relay<B>(inner: B) -> Body
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    Relay { inner: inner.map_err(Into::into).boxed_unsync(), is_reply: false, lost: false }.boxed_unsync()
}

/// A reply's body that streams through: as [`relay`], but where its connection is lost it ends with a status, as gRPC's own
/// clients report it. A stream that the model server reset is reset for the same reason.
pub(super) fn relay_reply<B>(inner: B) -> Body
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    Relay { inner: inner.map_err(Into::into).boxed_unsync(), is_reply: true, lost: false }.boxed_unsync()
}

/// One gRPC message, prefix included, and what follows it.
pub(super) fn message(frame: Bytes, trailers: Option<HeaderMap>) -> Body {
    Message { frame: Some(frame), trailers }.boxed_unsync()
}

/// Trailers without a message before them.
pub(super) fn trailers(trailers: HeaderMap) -> Body {
    Message { frame: None, trailers: Some(trailers) }.boxed_unsync()
}

/// A body with nothing in it: a reply that is all trailers.
pub(super) fn empty() -> Body {
    Message { frame: None, trailers: None }.boxed_unsync()
}

/// A body made of what is sent into the channel; it ends when the sender is dropped.
pub(super) fn channel(room: usize) -> (mpsc::Sender<Frame<Bytes>>, Body) {
    let (sender, frames) = mpsc::channel(room);
    (sender, Channel { frames }.boxed_unsync())
}

struct Channel {
    frames: mpsc::Receiver<Frame<Bytes>>,
}

impl HttpBody for Channel {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.frames.poll_recv(context).map(|frame| frame.map(Ok))
    }
}

struct Relay {
    inner: Body,
    is_reply: bool,
    /// The status for a lost connection was given.
    lost: bool,
}

/// Trailers for a reply whose connection was lost.
fn unavailable() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(tonic::Code::Unavailable as i32));
    trailers.insert("grpc-message", HeaderValue::from_static("the connection to the model server broke"));
    trailers
}

/// Whether the peer itself ended the stream, rather than its connection.
fn was_reset(error: &BoxError) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(h2::Error::is_reset)
}

impl HttpBody for Relay {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.lost {
            return Poll::Ready(None);
        }
        loop {
            match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
                Some(Ok(frame)) if frame.data_ref().is_some_and(Bytes::is_empty) => {}
                Some(Err(error)) if self.is_reply && !was_reset(&error) => {
                    tracing::debug!(%error, "connection lost in the midst of a reply");
                    self.lost = true;
                    return Poll::Ready(Some(Ok(Frame::trailers(unavailable()))));
                }
                other => return Poll::Ready(other),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.lost || self.inner.is_end_stream()
    }

    // No size hint: hyper would turn an exact one into a `content-length` that the other side never sent.
}

struct Message {
    frame: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl HttpBody for Message {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let next = match self.frame.take() {
            Some(frame) => Some(Frame::data(frame)),
            None => self.trailers.take().map(Frame::trailers),
        };
        Poll::Ready(next.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.frame.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        // As for `Relay`; only an empty body may say so, for then no DATA frame is sent at all.
        if self.is_end_stream() { SizeHint::with_exact(0) } else { SizeHint::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::StreamBody;

    #[tokio::test]
    async fn a_relayed_body_loses_its_empty_frames_and_nothing_else() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let frames = [
            Frame::data(Bytes::new()),
            Frame::data(Bytes::from_static(b"a")),
            Frame::data(Bytes::new()),
            Frame::data(Bytes::from_static(b"bc")),
            Frame::trailers(trailers.clone()),
        ];
        let stream = tokio_stream_of(frames);
        let mut body = relay(StreamBody::new(stream));
        let mut seen = Vec::new();
        while let Some(frame) = body.frame().await {
            seen.push(frame.unwrap());
        }
        let data: Vec<_> = seen.iter().filter_map(|frame| frame.data_ref().cloned()).collect();
        assert_eq!(data, [Bytes::from_static(b"a"), Bytes::from_static(b"bc")]);
        assert_eq!(seen.last().unwrap().trailers_ref(), Some(&trailers));
        assert_eq!(body.size_hint().exact(), None);
    }

    fn tokio_stream_of(
        frames: impl IntoIterator<Item = Frame<Bytes>, IntoIter: Send + 'static>,
    ) -> impl tokio_stream::Stream<Item = Result<Frame<Bytes>, BoxError>> + Send {
        tokio_stream::iter(frames.into_iter().map(Ok))
    }
}

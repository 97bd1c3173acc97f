//! One gRPC message out of a request's or a reply's body: length checked first, memory grown only as bytes arrive.

use std::io::Read;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::bufread::{GzDecoder, ZlibDecoder};
use http::HeaderMap;
use http_body::Body as HttpBody;
use http_body_util::BodyExt;

use super::body::BoxError;
use super::jobs::job;
use super::quota::{Permit, Quota};

mod messages;

pub(super) use messages::Messages;

/// Flag byte and big-endian length before every message.
pub(super) const PREFIX: usize = 5;

/// A buffer grows by at most this much ahead of what has arrived.
const STEP: usize = 1 << 20;

/// One message with its prefix, exactly as it travelled.
pub(super) struct Frame {
    /// Prefix and payload in one piece of memory.
    pub bytes: Bytes,
    /// Trailers that followed it (replies only).
    pub trailers: Option<HeaderMap>,
    /// The share of the byte budget that it occupies while it lives.
    permit: Option<Permit>,
}

/// How long a message may be, and from which budget its memory is taken.
pub(super) struct Intake<'a> {
    /// Longest payload in bytes, as declared in the prefix.
    pub limit: usize,
    /// The most time from the first poll to the end of the stream.
    pub within: Duration,
    /// The budget, and whose share of it is used.
    pub budget: Option<(&'a Quota, [u8; 16])>,
}

impl Intake<'_> {
    /// Of a reply: it comes when it comes, and nobody's budget holds it.
    pub(super) fn unlimited(limit: usize) -> Self {
        Self { limit, within: Duration::MAX, budget: None }
    }
}

/// Why no single message could be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    /// The stream ended without a byte of a message; its trailers, where it had any.
    #[error("the stream ended without a message")]
    Nothing(HeaderMap),
    /// The stream ended in the midst of a message.
    #[error("the stream ended after {got} bytes of a message")]
    Truncated {
        /// Bytes that had come, prefix included.
        got: usize,
    },
    /// The declared length is above the limit.
    #[error("received message larger than max ({declared} vs. {limit})")]
    TooLarge {
        /// Length in the prefix.
        declared: usize,
        /// The configured limit.
        limit: usize,
    },
    /// A reply with more than one message.
    #[error("expected one message, found more")]
    More,
    /// The first byte is neither 0 nor 1.
    #[error("expected a compression flag of 0 or 1, found {0}")]
    Flag(u8),
    /// The budget for messages in flight is used up, in all or for this caller.
    #[error("the byte budget for messages in flight is used up")]
    NoBudget,
    /// The bytes came too slowly.
    #[error("the message did not arrive within {0:?}")]
    Slow(Duration),
    /// The stream broke.
    #[error("the stream broke: {0}")]
    Broken(BoxError),
}

/// Reads the message of a unary request and returns as soon as it is whole.
///
/// What a caller sends after it is not read: model servers answer the first message and ignore the rest, and so do we, for
/// only the first is forwarded. The length is checked against `intake.limit` and taken from the budget before a byte is
/// stored; a message that comes in one DATA frame is never copied.
pub(super) async fn read_request<B>(body: &mut B, intake: Intake<'_>) -> Result<Frame, FrameError>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let within = intake.within;
    let mut reader = Reader::new(intake);
    let whole = async {
        while !reader.is_whole() {
            match body.frame().await {
                Some(frame) => reader.take(frame.map_err(|error| FrameError::Broken(error.into()))?)?,
                None => break,
            }
        }
        reader.finish()
    };
    tokio::time::timeout(within, whole).await.map_err(|_| FrameError::Slow(within))?
}

/// Reads a unary reply to the end of its stream: one message, then trailers.
pub(super) async fn read_reply<B>(body: &mut B, limit: usize) -> Result<Frame, FrameError>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let mut reader = Reader::new(Intake::unlimited(limit));
    while let Some(frame) = body.frame().await {
        reader.take(frame.map_err(|error| FrameError::Broken(error.into()))?)?;
        if reader.gathered.len() > reader.wanted.unwrap_or(usize::MAX) {
            return Err(FrameError::More);
        }
    }
    reader.finish()
}

/// The first `wanted` bytes of `chunk`, and the rest. What is small beside its chunk is copied: it must not keep memory that nobody
/// counted.
fn apart(mut chunk: Bytes, wanted: usize) -> (Bytes, Bytes) {
    let rest = chunk.split_off(wanted);
    if rest.len() > wanted { (Bytes::copy_from_slice(&chunk), rest) } else { (chunk, rest) }
}

struct Reader<'a> {
    intake: Intake<'a>,
    gathered: Gathered,
    /// Length of prefix and payload, once the prefix is there.
    wanted: Option<usize>,
    trailers: Option<HeaderMap>,
    permit: Option<Permit>,
}

impl<'a> Reader<'a> {
    fn new(intake: Intake<'a>) -> Self {
        Self { intake, gathered: Gathered::default(), wanted: None, trailers: None, permit: None }
    }

    fn is_whole(&self) -> bool {
        self.wanted.is_some_and(|wanted| self.gathered.len() >= wanted)
    }

    fn take(&mut self, frame: http_body::Frame<Bytes>) -> Result<(), FrameError> {
        match frame.into_data() {
            Ok(data) => self.gathered.push(data),
            Err(frame) => self.trailers = frame.into_trailers().ok(),
        }
        if self.wanted.is_none() && self.gathered.len() >= PREFIX {
            let declared = self.gathered.declared()?;
            let limit = self.intake.limit;
            if declared > limit {
                return Err(FrameError::TooLarge { declared, limit });
            }
            if let Some((quota, caller)) = self.intake.budget {
                self.permit = Some(quota.take(caller, declared).ok_or(FrameError::NoBudget)?);
            }
            self.wanted = Some(PREFIX + declared);
        }
        if let Some(wanted) = self.wanted {
            self.gathered.expect(wanted);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Frame, FrameError> {
        let got = self.gathered.len();
        match self.wanted {
            Some(wanted) if got >= wanted => Ok(Frame {
                bytes: apart(std::mem::take(&mut self.gathered).into_bytes(), wanted).0,
                trailers: self.trailers.take(),
                permit: self.permit.take(),
            }),
            None if got == 0 => Err(FrameError::Nothing(self.trailers.take().unwrap_or_default())),
            _ => Err(FrameError::Truncated { got }),
        }
    }
}

/// What has arrived so far: nothing, one chunk as it came, or several copied together.
#[derive(Default)]
enum Gathered {
    #[default]
    Nothing,
    One(Bytes),
    Many(BytesMut),
}

impl Gathered {
    fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::One(bytes) => bytes.len(),
            Self::Many(buffer) => buffer.len(),
        }
    }

    fn push(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        match self {
            Self::Nothing => *self = Self::One(data),
            Self::One(first) => {
                let mut buffer = BytesMut::with_capacity(first.len() + data.len());
                buffer.put_slice(first);
                buffer.put_slice(&data);
                *self = Self::Many(buffer);
            }
            Self::Many(buffer) => buffer.put_slice(&data),
        }
    }

    /// Makes room for the rest of a message of `wanted` bytes, a step ahead at most.
    fn expect(&mut self, wanted: usize) {
        if let Self::Many(buffer) = self {
            let missing = wanted.saturating_sub(buffer.len());
            if buffer.capacity() - buffer.len() < missing.min(STEP) {
                buffer.reserve(missing.min(STEP));
            }
        }
    }

    fn declared(&self) -> Result<usize, FrameError> {
        let mut prefix: &[u8] = match self {
            Self::Nothing => &[],
            Self::One(bytes) => bytes,
            Self::Many(buffer) => buffer,
        };
        match prefix.get_u8() {
            0 | 1 => Ok(prefix.get_u32() as usize),
            flag => Err(FrameError::Flag(flag)),
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Nothing => Bytes::new(),
            Self::One(bytes) => bytes,
            Self::Many(buffer) => buffer.freeze(),
        }
    }
}

/// How a compressed payload is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// As it is.
    Identity,
    /// gzip.
    Gzip,
    /// zlib, which gRPC calls deflate.
    Deflate,
}

impl Encoding {
    /// The encoding that `headers` name; `None` for one that we cannot read, and where they name several: which of them counts
    /// differs from server to server, and one message can be two under two encodings.
    pub(super) fn of(headers: &HeaderMap) -> Option<Encoding> {
        let mut values = headers.get_all("grpc-encoding").iter().map(http::HeaderValue::as_bytes);
        let value = values.next();
        if values.next().is_some() {
            return None;
        }
        match value {
            None | Some(b"identity") => Some(Encoding::Identity),
            Some(b"gzip") => Some(Encoding::Gzip),
            Some(b"deflate") => Some(Encoding::Deflate),
            Some(_) => None,
        }
    }
}

/// Why a compressed payload could not be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum InflateError {
    /// The payload grows above the message limit.
    #[error("the message is larger than {0} bytes once decompressed")]
    TooLarge(usize),
    /// The budget for messages in flight is used up.
    #[error("the byte budget for messages in flight is used up")]
    NoBudget,
    /// Not what its encoding says, or more than that. In the words of the model server.
    #[error("Unexpected error decompressing data for algorithm {0}")]
    Corrupt(&'static str),
}

impl Frame {
    /// An uncompressed message of our own making, in nobody's budget.
    pub(super) fn plain(bytes: Bytes) -> Self {
        Self { bytes, trailers: None, permit: None }
    }

    /// The payload as it can be decoded: shared when plain, else a decompressed copy of at most `limit` bytes, which the
    /// message's budget is charged for as it grows.
    ///
    /// A compressed flag without an encoding means nothing: like Triton, we take such a payload as plain. Decompressing is
    /// long work: it leaves the async threads.
    pub(super) async fn payload(&mut self, encoding: Encoding, limit: usize) -> Result<Bytes, InflateError> {
        let payload = self.bytes.slice(PREFIX..);
        if self.bytes[0] == 0 || payload.is_empty() || encoding == Encoding::Identity {
            return Ok(payload);
        }
        let mut permit = self.permit.take();
        let work = job(move || {
            let plain = open(&payload, encoding, limit, permit.as_mut());
            (permit, plain)
        });
        let (permit, plain) = work.await;
        self.permit = permit;
        plain
    }

    /// Charges the message's budget for `more` bytes that decoding it will take.
    pub(super) fn grow(&mut self, more: usize) -> Result<(), FrameError> {
        let granted = self.permit.as_mut().is_none_or(|permit| permit.grow(more));
        if granted { Ok(()) } else { Err(FrameError::NoBudget) }
    }
}

fn open(
    payload: &[u8],
    encoding: Encoding,
    limit: usize,
    permit: Option<&mut Permit>,
) -> Result<Bytes, InflateError> {
    match encoding {
        Encoding::Identity => Ok(Bytes::copy_from_slice(payload)),
        Encoding::Gzip => inflate("gzip", || GzDecoder::new(payload), GzDecoder::into_inner, limit, permit),
        Encoding::Deflate => {
            inflate("deflate", || ZlibDecoder::new(payload), ZlibDecoder::into_inner, limit, permit)
        }
    }
}

/// All that a decoder of `make`'s gives; `rest` is what it leaves of its input.
///
/// What turns out to be long is counted to its end before it is stored, so that a bomb takes time in proportion to the limit and
/// hardly any memory.
fn inflate<'a, D: Read>(
    encoding: &'static str,
    make: impl Fn() -> D,
    rest: impl Fn(D) -> &'a [u8],
    limit: usize,
    permit: Option<&mut Permit>,
) -> Result<Bytes, InflateError> {
    let corrupt = |_| InflateError::Corrupt(encoding);
    let mut decoder = make();
    let mut plain = Vec::new();
    let short = STEP.min(limit + 1) as u64;
    decoder.by_ref().take(short).read_to_end(&mut plain).map_err(corrupt)?;
    let more =
        std::io::copy(&mut decoder.by_ref().take((limit + 1 - plain.len()) as u64), &mut std::io::sink());
    let length = plain.len() + more.map_err(corrupt)? as usize;
    if length > limit {
        return Err(InflateError::TooLarge(limit));
    }
    // A second gzip member or trailing bytes would be read by one decoder and not by another.
    if !rest(decoder).is_empty() {
        return Err(InflateError::Corrupt(encoding));
    }
    if permit.is_some_and(|permit| !permit.grow(length)) {
        return Err(InflateError::NoBudget);
    }
    if length > plain.len() {
        plain = Vec::with_capacity(length);
        make().read_to_end(&mut plain).map_err(corrupt)?;
    }
    Ok(plain.into())
}

/// `message` behind its prefix, uncompressed, in one piece.
pub(super) fn encode(message: &impl prost::Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX + length);
    frame.put_u8(0);
    frame.put_u32(length as u32);
    message.encode(&mut frame).expect("a BytesMut grows as needed");
    frame.freeze()
}

/// `payload` behind its prefix, uncompressed.
pub(super) fn wrap(payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX + payload.len());
    frame.put_u8(0);
    frame.put_u32(payload.len() as u32);
    frame.put_slice(payload);
    frame.freeze()
}

#[cfg(test)]
mod tests;

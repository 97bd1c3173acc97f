//! One gRPC message out of a request's or a reply's body: length checked first, memory grown only as bytes arrive.

use std::io::Read;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::bufread::{GzDecoder, ZlibDecoder};
use http::HeaderMap;
use http_body::Body as HttpBody;
use http_body_util::BodyExt;

use super::body::BoxError;
use super::quota::{Permit, Quota};

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
    let mut reader = Reader::new(Intake { limit, within: Duration::MAX, budget: None });
    while let Some(frame) = body.frame().await {
        reader.take(frame.map_err(|error| FrameError::Broken(error.into()))?)?;
        if reader.gathered.len() > reader.wanted.unwrap_or(usize::MAX) {
            return Err(FrameError::More);
        }
    }
    reader.finish()
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
                bytes: std::mem::take(&mut self.gathered).into_bytes().slice(..wanted),
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
    /// Bytes after the end of the compressed data.
    #[error("{0} bytes after the end of the compressed message")]
    Trailing(usize),
    /// Not what its encoding says.
    #[error("the message does not decompress: {0}")]
    Corrupt(std::io::Error),
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
        let work = tokio::task::spawn_blocking(move || {
            let plain = open(&payload, encoding, limit, permit.as_mut());
            (permit, plain)
        });
        let (permit, plain) =
            work.await.expect("decompressing does not panic, and the runtime outlives its calls");
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
    // A second gzip member or trailing bytes would be read by one decoder and not by another.
    match encoding {
        Encoding::Identity => Ok(Bytes::copy_from_slice(payload)),
        Encoding::Gzip => {
            let mut decoder = GzDecoder::new(payload);
            let plain = inflate(&mut decoder, limit, permit)?;
            spent(decoder.into_inner()).map(|()| plain)
        }
        Encoding::Deflate => {
            let mut decoder = ZlibDecoder::new(payload);
            let plain = inflate(&mut decoder, limit, permit)?;
            spent(decoder.into_inner()).map(|()| plain)
        }
    }
}

fn inflate(
    decoder: &mut impl Read,
    limit: usize,
    mut permit: Option<&mut Permit>,
) -> Result<Bytes, InflateError> {
    let mut plain = Vec::new();
    loop {
        let before = plain.len();
        decoder.take(STEP as u64).read_to_end(&mut plain).map_err(InflateError::Corrupt)?;
        let more = plain.len() - before;
        if plain.len() > limit {
            return Err(InflateError::TooLarge(limit));
        }
        if more == 0 {
            return Ok(plain.into());
        }
        if permit.as_mut().is_some_and(|permit| !permit.grow(more)) {
            return Err(InflateError::NoBudget);
        }
    }
}

fn spent(rest: &[u8]) -> Result<(), InflateError> {
    if rest.is_empty() { Ok(()) } else { Err(InflateError::Trailing(rest.len())) }
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
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};
    use http_body::Frame as HttpFrame;
    use http_body_util::StreamBody;
    use std::io::Write;

    type Chunk = Result<HttpFrame<Bytes>, BoxError>;
    type Chunks = Vec<Chunk>;

    fn body(chunks: Chunks) -> StreamBody<impl tokio_stream::Stream<Item = Chunk> + Unpin> {
        StreamBody::new(tokio_stream::iter(chunks))
    }

    #[allow(clippy::unnecessary_wraps, reason = "a stream's item")]
    fn data(bytes: &[u8]) -> Chunk {
        Ok(HttpFrame::data(Bytes::copy_from_slice(bytes)))
    }

    #[allow(clippy::unnecessary_wraps, reason = "a stream's item")]
    fn trailers() -> Chunk {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        Ok(HttpFrame::trailers(trailers))
    }

    fn intake(limit: usize) -> Intake<'static> {
        Intake { limit, within: Duration::from_mins(1), budget: None }
    }

    /// `bytes` in pieces of drawn lengths, empty ones among them.
    fn cut(bytes: &[u8], seed: u64) -> Chunks {
        let mut state = seed;
        let mut number = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize
        };
        let mut chunks = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let most = if number() % 3 == 0 { rest.len() } else { rest.len().min(7) };
            let (chunk, after) = rest.split_at(number() % (most + 1));
            chunks.push(data(chunk));
            rest = after;
        }
        chunks
    }

    #[tokio::test]
    async fn a_message_is_the_same_however_it_is_cut() {
        for seed in 0..500 {
            let payload: Vec<u8> = (0..seed as usize * 3 % 400).map(|at| at as u8).collect();
            let whole = wrap(&payload);
            let request = read_request(&mut body(cut(&whole, seed)), intake(400)).await.unwrap();
            assert_eq!(request.bytes, whole, "seed {seed}");

            let mut chunks = cut(&whole, seed + 1);
            chunks.push(trailers());
            let reply = read_reply(&mut body(chunks), 400).await.unwrap();
            assert_eq!(reply.bytes, whole, "seed {seed}");
            assert!(reply.trailers.unwrap().contains_key("grpc-status"));
        }
    }

    #[tokio::test]
    async fn a_message_in_one_piece_is_not_copied() {
        let whole = wrap(&[7; 1000]);
        let chunks = vec![Ok(HttpFrame::data(whole.clone()))];
        let request = read_request(&mut body(chunks), intake(1000)).await.unwrap();
        assert_eq!(request.bytes.as_ptr(), whole.as_ptr());
    }

    #[tokio::test]
    async fn a_message_that_breaks_off_is_truncated_wherever_it_does() {
        let whole = wrap(&[1; 40]);
        for got in 1..whole.len() {
            for seed in 0..4 {
                let cut_off = cut(&whole[..got], seed);
                let error = read_request(&mut body(cut_off), intake(40)).await.err().unwrap();
                assert!(matches!(error, FrameError::Truncated { got: found } if found == got), "{error}");
                let mut cut_off = cut(&whole[..got], seed);
                cut_off.push(trailers());
                let error = read_reply(&mut body(cut_off), 40).await.err().unwrap();
                assert!(matches!(error, FrameError::Truncated { got: found } if found == got), "{error}");
            }
        }
    }

    #[tokio::test]
    async fn a_stream_without_a_message_hands_on_its_trailers() {
        let error = read_reply(&mut body(vec![data(&[]), trailers()]), 40).await.err().unwrap();
        assert!(matches!(error, FrameError::Nothing(trailers) if trailers.contains_key("grpc-status")));
        let error = read_request(&mut body(Vec::new()), intake(40)).await.err().unwrap();
        assert!(matches!(error, FrameError::Nothing(trailers) if trailers.is_empty()));
    }

    #[tokio::test]
    async fn a_length_above_the_limit_is_refused_before_a_byte_of_it_has_come() {
        for declared in [41u32, 1 << 20, u32::MAX] {
            let mut prefix = vec![0];
            prefix.extend(declared.to_be_bytes());
            for seed in 0..4 {
                // The stream would break if anything were read after the prefix.
                let mut chunks = cut(&prefix, seed);
                chunks.push(Err("read on".into()));
                let error = read_request(&mut body(chunks), intake(40)).await.err().unwrap();
                let expected = declared as usize;
                assert!(
                    matches!(error, FrameError::TooLarge { declared, limit: 40 } if declared == expected),
                    "{error}"
                );
            }
        }
        assert!(read_request(&mut body(vec![data(&wrap(&[0; 40]))]), intake(40)).await.is_ok());
    }

    #[tokio::test]
    async fn only_two_flags_are_known() {
        for flag in 0..=255u8 {
            let mut whole = wrap(b"abc").to_vec();
            whole[0] = flag;
            let found = read_request(&mut body(vec![data(&whole)]), intake(40)).await;
            match flag {
                0 | 1 => assert_eq!(found.ok().unwrap().bytes, whole),
                _ => assert!(matches!(found, Err(FrameError::Flag(found)) if found == flag)),
            }
        }
    }

    #[tokio::test]
    async fn the_first_message_of_a_request_is_the_request_and_a_reply_has_no_second() {
        let twice = [wrap(b"first"), wrap(b"second")].concat();
        for seed in 0..20 {
            let request = read_request(&mut body(cut(&twice, seed)), intake(40)).await.unwrap();
            assert_eq!(request.bytes, wrap(b"first"));
            let mut chunks = cut(&twice, seed);
            chunks.push(trailers());
            assert!(matches!(read_reply(&mut body(chunks), 40).await, Err(FrameError::More)));
        }
    }

    #[tokio::test]
    async fn the_budget_is_taken_with_the_prefix_and_given_back_with_the_message() {
        let quota = Quota::new(60, 60);
        let budgeted = || Intake { budget: Some((&quota, [1; 16])), ..intake(50) };
        let first = read_request(&mut body(vec![data(&wrap(&[0; 40]))]), budgeted()).await.unwrap();
        let chunks = vec![data(&wrap(&[0; 40])[..PREFIX]), Err("read on".into())];
        let second = read_request(&mut body(chunks), budgeted()).await;
        assert!(matches!(second, Err(FrameError::NoBudget)));
        drop(first);
        assert!(read_request(&mut body(vec![data(&wrap(&[0; 40]))]), budgeted()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_dawdles_is_given_up() {
        let stalled = tokio_stream::StreamExt::chain(
            tokio_stream::iter([data(&wrap(&[0; 40])[..20])]),
            tokio_stream::pending(),
        );
        let slow = read_request(&mut StreamBody::new(stalled), intake(40)).await;
        assert!(matches!(slow, Err(FrameError::Slow(within)) if within == Duration::from_mins(1)));
    }

    fn compressed(payload: &[u8], encoding: Encoding) -> Vec<u8> {
        match encoding {
            Encoding::Identity => payload.to_vec(),
            Encoding::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(payload).unwrap();
                encoder.finish().unwrap()
            }
            Encoding::Deflate => {
                let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(payload).unwrap();
                encoder.finish().unwrap()
            }
        }
    }

    async fn opened(payload: &[u8], encoding: Encoding, limit: usize) -> Result<Bytes, InflateError> {
        let mut whole = wrap(payload).to_vec();
        whole[0] = 1;
        Frame::plain(whole.into()).payload(encoding, limit).await
    }

    #[tokio::test]
    async fn a_compressed_message_is_opened_up_to_the_limit() {
        let plain: Vec<u8> = (0..3000u32).map(|at| (at * at) as u8).collect();
        for encoding in [Encoding::Identity, Encoding::Gzip, Encoding::Deflate] {
            let packed = compressed(&plain, encoding);
            assert_eq!(opened(&packed, encoding, 3000).await.unwrap(), plain, "{encoding:?}");
        }
        for encoding in [Encoding::Gzip, Encoding::Deflate] {
            let packed = compressed(&plain, encoding);
            assert!(matches!(opened(&packed, encoding, 2999).await, Err(InflateError::TooLarge(2999))));
            for cut_off in [0, 1, 5, packed.len() / 2, packed.len() - 1] {
                let found = opened(&packed[..cut_off], encoding, 3000).await;
                assert!(cut_off == 0 || matches!(found, Err(InflateError::Corrupt(_))), "{cut_off} bytes");
            }
        }
    }

    #[tokio::test]
    async fn a_bomb_is_put_out_at_the_limit() {
        for encoding in [Encoding::Gzip, Encoding::Deflate] {
            let bomb = compressed(&vec![0; 64 << 20], encoding);
            assert!(bomb.len() < 1 << 17);
            assert!(matches!(opened(&bomb, encoding, 1 << 20).await, Err(InflateError::TooLarge(_))));
        }
    }

    #[tokio::test]
    async fn what_stands_after_compressed_data_is_refused() {
        for encoding in [Encoding::Gzip, Encoding::Deflate] {
            let member = compressed(b"one", encoding);
            for more in [&b"x"[..], &compressed(b"two", encoding), &[0; 30]] {
                let found = opened(&[&member, more].concat(), encoding, 1000).await;
                assert!(matches!(found, Err(InflateError::Trailing(bytes)) if bytes == more.len()));
            }
        }
    }

    #[tokio::test]
    async fn a_plain_message_is_shared_whatever_the_headers_say() {
        let whole = wrap(b"plain");
        let payload = Frame::plain(whole.clone()).payload(Encoding::Gzip, 10).await.unwrap();
        assert_eq!(payload.as_ptr(), whole[PREFIX..].as_ptr());
    }

    #[test]
    fn encodings_are_known_by_their_names_in_grpc() {
        let of = |name: &'static str| {
            Encoding::of(&HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-encoding"),
                http::HeaderValue::from_static(name),
            )]))
        };
        assert_eq!(Encoding::of(&HeaderMap::new()), Some(Encoding::Identity));
        assert_eq!(of("identity"), Some(Encoding::Identity));
        assert_eq!(of("gzip"), Some(Encoding::Gzip));
        assert_eq!(of("deflate"), Some(Encoding::Deflate));
        assert_eq!((of("GZIP"), of("br"), of("")), (None, None, None));
    }
}

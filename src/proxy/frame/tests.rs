//! What `frame.rs` promises, case by case.

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
            assert!(matches!(found, Err(InflateError::Corrupt("gzip" | "deflate"))));
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

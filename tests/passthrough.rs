//! A call that is let through is the upstream's affair: bytes on and bytes back, streams, trailers and cancellation included.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use h2::SendStream;
use http::{HeaderMap, HeaderName, HeaderValue};
use refrain::protocol::pb;
use support::client::{AUTHORITY, grpc};
use support::kserve::{self, MODEL_INFER, MODEL_METADATA};
use support::pictures::photo;
use support::upstream::{Step, ok_trailers};
use support::{World, within};
use tokio::sync::{Notify, oneshot};
use tonic::Code;

/// A method that the operator opened.
const STREAM: &str = "/test.Service/Stream";

const ALLOW: &str = "rpc.allow = ['test.Service/Stream']";

fn metadata_question() -> Bytes {
    kserve::frame(&pb::ModelMetadataRequest { name: "clf".into(), version: String::new() })
}

fn headers(pairs: &[(&'static str, &'static [u8])]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap());
    }
    headers
}

/// Sends `data` once the stream's window has room for it.
async fn send_in_window(stream: &mut SendStream<Bytes>, data: Bytes) {
    stream.reserve_capacity(data.len());
    while stream.capacity() < data.len() {
        poll_fn(|context| stream.poll_capacity(context)).await.unwrap().unwrap();
    }
    stream.send_data(data, false).unwrap();
}

/// h2 ends a connection after a hundred empty frames that do not end their stream, and gRPC clients end every request with an
/// empty frame that does: a proxy that relayed it as one that does not would lose its connection to the upstream.
#[tokio::test]
async fn connections_outlive_500_calls_with_empty_frames() {
    let world = World::new().config("mode = 'observe'").start().await;
    let client = world.client().await;
    for turn in 0..500 {
        let question = kserve::frame(&kserve::question([&photo(turn)]));
        for (path, message) in [(MODEL_METADATA, metadata_question()), (MODEL_INFER, question)] {
            let mut call = client.open(grpc(path)).await;
            // We are bound by h2's rule ourselves: no more than a hundred on our own connection.
            if turn < 45 {
                call.data(Bytes::new(), false);
            }
            call.data(message, false);
            call.data(Bytes::new(), true);
            let reply = call.reply().await;
            assert!(reply.is_ok(), "call {turn} to {path}: {reply:?}");
        }
    }
    assert!(!client.is_closed());
    assert_eq!(world.upstream.asked(), 500);
    assert_eq!(world.upstream.opened(), 3, "no connection to the upstream had to be made again");
}

/// The reader stalls until the upstream has sent everything: all 60,000 messages then lie in windows and buffers.
#[tokio::test]
async fn a_reader_that_stalls_before_60_000_tiny_messages_gets_them_all_and_hinders_nobody() {
    const MESSAGES: usize = 60_000;
    let world = World::new().config(ALLOW).start().await;
    let all_sent = Arc::new(Notify::new());
    let sent = Arc::clone(&all_sent);
    world.upstream.on(STREAM, move |mut exchange| {
        let sent = Arc::clone(&sent);
        async move {
            let mut stream = exchange.begin(HeaderMap::new());
            for _ in 0..MESSAGES {
                send_in_window(&mut stream, kserve::wrap(b"twelve bytes")).await;
            }
            sent.notify_one();
            stream.send_trailers(ok_trailers()).unwrap();
        }
    });
    let (stalling, other) = (world.client().await, world.client().await);
    let stalled = stalling.ask(grpc(STREAM), kserve::wrap(b"go")).await;
    within("the upstream sends everything", all_sent.notified()).await;

    for seed in 0..20 {
        assert!(other.infer(&kserve::question([&photo(seed)])).await.is_ok());
        assert!(other.unary(grpc(MODEL_METADATA), metadata_question()).await.is_ok());
    }
    let neighbour = stalling.unary(grpc(MODEL_METADATA), metadata_question()).await;
    assert!(neighbour.is_ok(), "a call on the very same connection: {neighbour:?}");

    let reply = stalled.reply().await;
    assert_eq!(reply.code(), Some(Code::Ok), "{:?}", reply.broken);
    assert_eq!(reply.body.len(), MESSAGES * 17);
    assert!(reply.body.chunks(17).all(|message| message == kserve::wrap(b"twelve bytes")));
}

#[tokio::test]
async fn a_conversation_goes_back_and_forth_message_by_message() {
    let world = World::new().config(ALLOW).start().await;
    world.upstream.on(STREAM, |mut exchange| async move {
        let mut stream = exchange.begin(HeaderMap::new());
        while let Some(data) = exchange.next().await {
            stream.send_data(data.unwrap(), false).unwrap();
        }
        stream.send_trailers(ok_trailers()).unwrap();
    });
    let client = world.client().await;
    let mut call = client.open(grpc(STREAM)).await;
    let mut body = within("headers come before the request ends", call.response).await.unwrap().into_body();
    for turn in 0..100u8 {
        let message = kserve::wrap(&[turn; 9]);
        call.send.send_data(message.clone(), false).unwrap();
        let echo = within("an echo", body.data()).await.unwrap().unwrap();
        body.flow_control().release_capacity(echo.len()).unwrap();
        assert_eq!(echo, message);
    }
    call.send.send_data(Bytes::new(), true).unwrap();
    assert!(within("the end", body.data()).await.is_none());
    let trailers = within("trailers", body.trailers()).await.unwrap().unwrap();
    assert_eq!(trailers, ok_trailers());
}

/// Equality leaves no room for a header of ours: no `user-agent`, no `content-length`, no `grpc-accept-encoding`.
#[tokio::test]
async fn what_a_caller_says_around_its_message_reaches_the_upstream_unchanged() {
    let world = World::new().start().await;
    let client = world.client().await;
    client.infer(&kserve::question([&photo(0)])).await.answer();
    let message = |path| match path {
        MODEL_INFER => kserve::frame(&kserve::question([&photo(1)])),
        _ => metadata_question(),
    };
    for path in [MODEL_METADATA, MODEL_INFER] {
        let sent = headers(&[
            ("content-type", b"application/grpc+proto"),
            ("te", b"trailers"),
            ("user-agent", b"grpc-python/1.68.0 grpc-c/44.1.0"),
            ("grpc-timeout", b"59S"),
            ("grpc-accept-encoding", b"identity, deflate, gzip"),
            ("x-twice", b"second\xffraw"),
            ("x-twice", b"first"),
            ("trace-bin", b"AAEC/w"),
            ("authorization", b"Bearer of news"),
            ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ]);
        let mut request = http::Request::post(format!("http://{AUTHORITY}{path}"));
        *request.headers_mut().unwrap() = sent.clone();
        let message = message(path);
        assert!(client.unary(request, message.clone()).await.is_ok());
        let seen = world.upstream.last(path);
        assert_eq!(seen.body, message);
        assert_eq!(seen.uri.authority().unwrap().as_str(), AUTHORITY);
        assert_eq!(seen.uri.path(), path);
        let mut expected = sent;
        if path == MODEL_INFER {
            // The deadline of what is judged is kept here: see `a_deadline_that_passes_breaks_nobody_elses_call` in tests/triton.
            expected.remove("grpc-timeout");
        }
        assert_eq!(seen.headers, expected);
    }
}

#[tokio::test]
async fn what_the_upstream_says_around_its_message_comes_back_unchanged() {
    let said = headers(&[
        ("grpc-accept-encoding", b"identity, deflate, gzip"),
        ("x-unknown", b"b"),
        ("x-unknown", b"a"),
        ("x-unknown-bin", b"AAEC/w"),
    ]);
    let after = headers(&[("grpc-status-details-bin", b"CAUSBG5vcGU"), ("x-cost", b"2"), ("x-cost", b"1")]);
    let world = World::new().start().await;
    world.upstream.dress(said.clone(), after.clone());
    let (of_pass, after_pass) = (said.clone(), after.clone());
    world.upstream.on(MODEL_METADATA, move |mut exchange| {
        let (headers, trailers) = (of_pass.clone(), after_pass.clone());
        async move {
            exchange.read().await.unwrap();
            exchange.answer_with(kserve::frame(&kserve::metadata()), headers, trailers);
        }
    });
    let client = world.client().await;
    let passed = client.unary(grpc(MODEL_METADATA), metadata_question()).await;
    let forwarded = client.infer(&kserve::question([&photo(1)])).await;
    let replayed = client.infer(&kserve::question([&photo(1)])).await;
    assert_eq!(world.upstream.asked(), 1);
    let (mut headers, mut trailers) = (said, after);
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    for (kind, reply) in [("passed", passed), ("forwarded", forwarded), ("replayed", replayed)] {
        assert_eq!(reply.headers, headers, "{kind}");
        assert_eq!(reply.trailers.as_ref(), Some(&trailers), "{kind}");
    }
}

#[tokio::test]
async fn an_error_with_details_comes_back_unchanged_after_a_message_and_without_one() {
    let details = || {
        headers(&[("grpc-status", b"9"), ("grpc-message", b"not%20now"), ("grpc-status-details-bin", b"CAk")])
    };
    let world = World::new().start().await;
    world.upstream.on(MODEL_METADATA, move |mut exchange| async move {
        exchange.read().await.unwrap();
        let mut stream = exchange.begin(HeaderMap::new());
        stream.send_data(kserve::wrap(b"half an answer"), false).unwrap();
        stream.send_trailers(details()).unwrap();
    });
    let client = world.client().await;
    let reply = client.unary(grpc(MODEL_METADATA), metadata_question()).await;
    assert_eq!(reply.body, kserve::wrap(b"half an answer"));
    assert_eq!(reply.trailers, Some(details()));

    // A headers frame, then trailers, with nothing between them, is another thing than trailers only.
    world.upstream.on(MODEL_METADATA, move |mut exchange| async move {
        exchange.read().await.unwrap();
        exchange.begin(HeaderMap::new()).send_trailers(details()).unwrap();
    });
    let reply = client.unary(grpc(MODEL_METADATA), metadata_question()).await;
    assert_eq!((reply.headers.len(), reply.trailers), (1, Some(details())));
}

#[tokio::test]
async fn a_reply_that_is_all_trailers_stays_one() {
    let world = World::new().start().await;
    world.upstream.on(MODEL_METADATA, |mut exchange| async move {
        exchange.read().await.unwrap();
        exchange.status(Code::NotFound, "no model");
    });
    let client = world.client().await;
    let said = |code: &'static [u8], message: &'static [u8]| {
        headers(&[("content-type", b"application/grpc"), ("grpc-status", code), ("grpc-message", message)])
    };
    let passed = client.unary(grpc(MODEL_METADATA), metadata_question()).await;
    assert_eq!((passed.headers, passed.trailers), (said(b"5", b"no model"), None));

    let world = World::new().start().await;
    let client = world.client().await;
    world.upstream.then(Step::Status(Code::Internal, "no memory"));
    let forwarded = client.infer(&kserve::question([&photo(1)])).await;
    assert_eq!((forwarded.headers, forwarded.trailers), (said(b"13", b"no memory"), None));
}

#[tokio::test]
async fn a_caller_that_cancels_cancels_at_the_upstream() {
    let world = World::new().config(ALLOW).start().await;
    let upstream = world.upstream.clone();
    // Before its headers, and in the midst of its messages.
    world.upstream.on(MODEL_METADATA, move |mut exchange| {
        let upstream = upstream.clone();
        async move {
            exchange.until_reset().await;
            upstream.note_reset();
        }
    });
    let upstream = world.upstream.clone();
    world.upstream.on(STREAM, move |mut exchange| {
        let upstream = upstream.clone();
        async move {
            let mut stream = exchange.begin(HeaderMap::new());
            stream.send_data(kserve::wrap(b"first"), false).unwrap();
            let _ = poll_fn(|context| stream.poll_reset(context)).await;
            upstream.note_reset();
        }
    });
    let client = world.client().await;
    let waiting = client.ask(grpc(MODEL_METADATA), metadata_question()).await;
    world.upstream.until_asked(MODEL_METADATA, 1).await;
    waiting.cancel();
    world.upstream.until_reset(1).await;

    let mut streaming = client.ask(grpc(STREAM), kserve::wrap(b"go")).await;
    let mut body = within("headers", &mut streaming.response).await.unwrap().into_body();
    within("a message", body.data()).await.unwrap().unwrap();
    streaming.cancel();
    world.upstream.until_reset(2).await;

    // A caller that is gone altogether.
    let (gone, told) = oneshot::channel::<()>();
    let vanishing = world.client().await;
    let waiting = vanishing.ask(grpc(MODEL_METADATA), metadata_question()).await;
    world.upstream.until_asked(MODEL_METADATA, 2).await;
    drop((vanishing, waiting, gone));
    assert!(told.await.is_err());
    world.upstream.until_reset(3).await;
}

//! What happens below gRPC: what stands around messages, and their lengths and limits.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use refrain::protocol::pb;
use support::client::grpc;
use support::kserve::{self, MODEL_INFER, MODEL_METADATA};
use support::pictures::photo_question;
use support::upstream::Step;
use support::{Client, World, within};
use tokio::time::Instant;
use tonic::Code;

const STREAM: &str = "/test.Service/Stream";

const ALLOW: &str = "rpc.allow = ['test.Service/Stream']";

const MIB: usize = 1 << 20;

fn metadata_question() -> Bytes {
    kserve::frame(&pb::ModelMetadataRequest { name: "clf".into(), version: String::new() })
}

/// A question about the picture `seed` with `pad` bytes that belong to no input: servers read past them, and the fake sends
/// them back.
fn padded(seed: u64, pad: usize) -> pb::ModelInferRequest {
    let mut question = photo_question(seed);
    question.raw_input_contents.push(vec![7; pad].into());
    question
}

/// A question whose message is exactly `length` bytes.
fn question_of(length: usize) -> pb::ModelInferRequest {
    use prost::Message;
    // From two MiB on the length inside the message takes four bytes, so one rough try tells the rest.
    let rough = padded(1, length - MIB).encoded_len();
    let question = padded(1, 2 * length - MIB - rough);
    assert_eq!(question.encoded_len(), length);
    question
}

/// Of a call that is judged and of one that is not; each with the length that its caller gave, and without.
#[tokio::test]
async fn a_content_length_is_kept_where_there_was_one_and_never_added() {
    let world = World::new().start().await;
    let client = world.client().await;
    let (judged, passed) = (kserve::frame(&photo_question(1)), metadata_question());
    for (path, message) in [(MODEL_INFER, judged), (MODEL_METADATA, passed)] {
        let with = grpc(path).header("content-length", message.len());
        for (request, given) in [(grpc(path), None), (with, Some(message.len().to_string()))] {
            // Another picture each time would be another length; the replay of the second is told by its reply alone.
            let reply = client.unary(request, message.clone()).await;
            assert!(reply.is_ok(), "{reply:?}");
            assert!(reply.headers.get("content-length").is_none(), "{path}: {:?}", reply.headers);
            assert!(reply.headers.get("date").is_none(), "{path}: {:?}", reply.headers);
            if path == MODEL_METADATA || given.is_none() {
                let seen = world.upstream.last(path);
                let length =
                    seen.headers.get("content-length").map(|length| length.to_str().unwrap().to_owned());
                assert_eq!(length, given, "{path}");
            }
        }
    }
    let message = kserve::frame(&photo_question(2));
    let request = grpc(MODEL_INFER).header("content-length", message.len());
    assert!(client.unary(request, message.clone()).await.is_ok());
    let seen = world.upstream.infers().pop().unwrap();
    assert_eq!(seen.headers["content-length"], message.len().to_string());
    assert_eq!(seen.body, message);
}

/// Only the first message of a request goes on; a length that counts the others would not be the forward's.
#[tokio::test]
async fn a_content_length_that_counts_more_than_the_first_message_does_not_go_on() {
    let world = World::new().start().await;
    let client = world.client().await;
    let message = kserve::frame(&photo_question(1));
    let twice = Bytes::from([&message[..], &message[..]].concat());
    let reply = client.unary(grpc(MODEL_INFER).header("content-length", twice.len()), twice).await;
    assert!(reply.is_ok(), "{reply:?}");
    assert_eq!(world.upstream.infers()[0].body, message);
}

/// A model server that states the length of its replies: a replay of another length states its own.
#[tokio::test]
async fn a_replay_states_its_own_length_where_replies_state_theirs() {
    let world = World::new().start().await;
    let length = kserve::frame(&kserve::answer(&photo_question(1), None)).len();
    let headers =
        HeaderMap::from_iter([(HeaderName::from_static("content-length"), HeaderValue::from(length))]);
    world.upstream.dress(headers, HeaderMap::new());
    let client = world.client().await;
    assert!(client.infer(&photo_question(1)).await.is_ok());
    let named = pb::ModelInferRequest { id: "another length".into(), ..photo_question(1) };
    let reply = client.infer(&named).await;
    assert!(reply.is_ok(), "{reply:?}");
    assert_eq!(world.upstream.asked(), 1, "it was a replay");
    assert_eq!(reply.headers["content-length"], reply.body.len().to_string());
}

/// What varies from reply to reply would be stale on a replay, and would tell it where it is missing.
#[tokio::test]
async fn what_varies_around_a_message_is_on_neither_path_and_what_does_not_is_on_both() {
    let world = World::new().start().await;
    let client = world.client().await;
    let dress = |turn: u32| {
        let mut headers = HeaderMap::new();
        let mut add = |name: &'static str, value: String| {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(&value).unwrap());
        };
        add("x-server", "one".into());
        add("x-instance", "a".into());
        add("x-instance", "b".into());
        add("date", format!("Mon, 23 Nov 2026 10:00:{turn:02} GMT"));
        add("x-request-id", format!("request {turn}"));
        add("x-cache", if turn == 3 { "a" } else { "b" }.into());
        if turn.is_multiple_of(2) {
            add("x-sometimes", "here".into());
        }
        let mut trailers = headers.clone();
        trailers.insert("x-count", HeaderValue::from(turn));
        trailers.insert("x-model", HeaderValue::from_static("clf"));
        world.upstream.dress(headers, trailers);
    };
    let mut forwarded = Vec::new();
    for turn in 1..=4 {
        dress(turn);
        forwarded.push(client.infer(&photo_question(u64::from(turn))).await);
    }
    dress(5);
    let replay = client.infer(&photo_question(1)).await;
    assert_eq!(world.upstream.asked(), 4, "it was a replay");
    let last = forwarded.last().unwrap();
    let lines = |headers: &HeaderMap| -> Vec<String> {
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    };
    assert_eq!(lines(&replay.headers), lines(&last.headers), "in the same order too");
    let trailers = replay.trailers.as_ref().unwrap();
    assert_eq!(lines(trailers), lines(last.trailers.as_ref().unwrap()));
    for block in [&replay.headers, trailers] {
        assert_eq!(block["x-server"], "one");
        assert_eq!(block.get_all("x-instance").iter().collect::<Vec<_>>(), ["a", "b"]);
        for varies in ["date", "x-request-id", "x-cache", "x-sometimes", "x-count"] {
            assert!(!block.contains_key(varies), "{varies}");
        }
    }
    assert_eq!(trailers["x-model"], "clf");
    assert_eq!(trailers["grpc-status"], "0");
    for reply in &forwarded[1..] {
        assert!(!reply.headers.contains_key("x-request-id"), "from the second reply on");
    }
    assert_eq!(forwarded[2].headers["x-server"], "one");
}

/// Nothing is hidden under `observe`, so nothing is taken away.
#[tokio::test]
async fn under_observe_what_stands_around_a_message_passes_as_it_is() {
    let world = World::new().config("mode = 'observe'").start().await;
    let client = world.client().await;
    for turn in 1..=3 {
        let name = HeaderName::from_static("x-request-id");
        world.upstream.dress(HeaderMap::from_iter([(name, HeaderValue::from(turn))]), HeaderMap::new());
        let reply = client.infer(&photo_question(turn)).await;
        assert_eq!(reply.headers["x-request-id"], turn.to_string());
    }
}

#[tokio::test]
async fn a_message_of_64_mib_passes_both_ways_whether_it_is_judged_or_not() {
    let world = World::new().config(ALLOW).start().await;
    let client = world.client().await;
    // The answer is a little shorter than the question, which holds the picture: its own way is tried below.
    let question = question_of(64 * MIB);
    let reply = client.infer(&question).await;
    assert!(
        reply.answer().raw_output_contents[1] == question.raw_input_contents[1],
        "the padding comes back"
    );
    assert_eq!(world.upstream.infers()[0].body.len(), 64 * MIB + 5);

    let mut large = kserve::answer(&photo_question(2), None);
    large.raw_output_contents.push(vec![7; 63 * MIB].into());
    let missing = 64 * MIB - prost::Message::encoded_len(&large);
    large.raw_output_contents[1] = vec![7; 63 * MIB + missing].into();
    assert_eq!(prost::Message::encoded_len(&large), 64 * MIB);
    world.upstream.then(Step::Other(large));
    let reply = client.infer(&photo_question(2)).await;
    assert!(reply.is_ok(), "{:?}", reply.broken);
    assert_eq!(reply.body.len(), 64 * MIB + 5);

    world.upstream.on(STREAM, |mut exchange| async move {
        let body = exchange.read().await.unwrap();
        exchange.answer_with(body, HeaderMap::new(), HeaderMap::new());
    });
    let message = kserve::wrap(&vec![7; 64 * MIB]);
    let reply = client.unary(grpc(STREAM), message.clone()).await;
    assert!(reply.is_ok(), "{:?}", reply.broken);
    assert!(reply.body == message);
}

/// Five bytes are all that is sent, so whatever is refused is refused for what it says.
#[tokio::test]
async fn a_byte_more_than_64_mib_is_refused_before_any_of_it_has_come() {
    let world = World::new().start().await;
    let client = world.client().await;
    let mut call = client.open(grpc(MODEL_INFER)).await;
    call.data(Bytes::copy_from_slice(&kserve::prefix(64 * MIB + 1)), false);
    let reply = call.reply().await;
    assert_eq!(reply.code(), Some(Code::ResourceExhausted), "{reply:?}");
    assert_eq!(reply.message(), "received message larger than max (67108865 vs. 67108864)");
    assert!(world.upstream.infers().is_empty());
    assert!(client.infer(&photo_question(1)).await.is_ok(), "the connection goes on");
}

#[tokio::test]
async fn a_body_that_trickles_ends_when_its_time_is_up() {
    let world = World::new().config("limits.read_within = '300ms'").start().await;
    let client = world.client().await;
    let mut call = client.open(grpc(MODEL_INFER)).await;
    let message = kserve::frame(&photo_question(1));
    call.data(message.slice(..100), false);
    let began = Instant::now();
    let trickle = async {
        let mut sent = 100;
        loop {
            // The pace of the slow caller is what this test is about.
            tokio::time::sleep(Duration::from_millis(20)).await;
            if call.send.send_data(message.slice(sent..=sent), false).is_err() {
                break std::future::pending::<()>().await;
            }
            sent += 1;
        }
    };
    let response = within("a refusal", async {
        tokio::select! {
            response = call.response => response,
            () = trickle => unreachable!("it trickles on"),
        }
    });
    let head = response.await.expect("a reply");
    assert_eq!(head.headers()["grpc-status"], (Code::DeadlineExceeded as i32).to_string());
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert!(world.upstream.infers().is_empty());
}

const BUDGET: &str = "
    caller.metadata = 'x-user'
    caller.trusted_peers = ['127.0.0.0/8']
    limits.message_bytes = '1MiB'
    limits.bytes_in_flight = '4MiB'
    limits.bytes_in_flight_per_caller = '1MiB'
";

/// A request that declares `length` bytes and sends none of them.
async fn announce(client: &Client, user: &str, length: usize) -> support::client::Call {
    let mut call = client.open(grpc(MODEL_INFER).header("x-user", user)).await;
    call.data(Bytes::copy_from_slice(&kserve::prefix(length)), false);
    call
}

#[tokio::test]
async fn one_caller_cannot_use_up_the_bytes_of_another() {
    let world = World::new().config(BUDGET).start().await;
    let client = world.client().await;
    let first = announce(&client, "anne", 600 << 10).await;
    let refused = announce(&client, "anne", 600 << 10).await.reply().await;
    assert_eq!(refused.code(), Some(Code::ResourceExhausted), "{refused:?}");
    let ask =
        |user| client.unary(grpc(MODEL_INFER).header("x-user", user), kserve::frame(&photo_question(1)));
    assert!(ask("bert").await.is_ok());
    assert!(ask("anne").await.is_ok(), "what fits her share is let in");
    first.cancel();
    // The share comes back once the sidecar has heard of the cancellation.
    within("the share comes back", async {
        loop {
            let call = announce(&client, "anne", 600 << 10).await;
            let refused = tokio::time::timeout(Duration::from_millis(100), call.reply()).await;
            if refused.is_err() {
                break;
            }
        }
    })
    .await;
}

/// A cancelled caller's forward runs on for `limits.linger`, and its bytes with it: they are not free before it ends.
#[tokio::test]
async fn bytes_that_linger_after_a_cancellation_are_still_the_callers() {
    let world = World::new().config(BUDGET).config("limits.linger = '20s'").start().await;
    let client = world.client().await;
    let ask = |question: &pb::ModelInferRequest| {
        client.ask(grpc(MODEL_INFER).header("x-user", "anne"), kserve::frame(question))
    };
    world.upstream.hold();
    let leader = ask(&padded(1, 600 << 10)).await;
    world.upstream.until_asked(MODEL_INFER, 1).await;
    leader.cancel();
    // A call on the same connection that came after the cancellation is read after it.
    assert!(client.unary(grpc(MODEL_METADATA), metadata_question()).await.is_ok());
    let refused = ask(&padded(2, 600 << 10)).await.reply().await;
    assert_eq!(refused.code(), Some(Code::ResourceExhausted), "600 KiB are still in memory");
    world.upstream.release(1000);
    within("the bytes are free again", async {
        while !ask(&padded(3, 600 << 10)).await.reply().await.is_ok() {}
    })
    .await;
}

#[tokio::test]
async fn a_path_is_known_only_letter_by_letter() {
    let world = World::new().config(ALLOW).start().await;
    let client = world.client().await;
    for path in [
        "/inference.GRPCInferenceService/modelinfer",
        "/inference.GRPCInferenceService/ModelInfer/",
        "/inference.GRPCInferenceService//ModelInfer",
        "//inference.GRPCInferenceService/ModelInfer",
        "/inference.GRPCInferenceService/ModelInfer?a=b",
        "/inference.GRPCInferenceService/ModelInfer%20",
        "/inference.GRPCInferenceService/Model%49nfer",
        "/inference.GRPCInferenceService/../inference.GRPCInferenceService/ModelInfer",
        "/inference.GRPCInferenceService",
        "/inference.grpcinferenceservice/ModelInfer",
        "/test.Service/Stream2",
        "/",
    ] {
        let reply = client.unary(grpc(path), kserve::frame(&photo_question(1))).await;
        assert_eq!((reply.code(), reply.message()), (Some(Code::Unimplemented), String::new()), "{path}");
        assert!(world.upstream.seen(path).is_empty(), "{path}");
    }
    let get = http::Request::get(format!("http://models.example{MODEL_INFER}"));
    assert_eq!(client.unary(get, Bytes::new()).await.code(), Some(Code::Unimplemented));
    let closed = "/inference.GRPCInferenceService/ModelStatistics";
    assert_eq!(client.unary(grpc(closed), Bytes::new()).await.code(), Some(Code::PermissionDenied));
    assert_eq!(world.upstream.asked(), 0);
    assert!(!client.is_closed());
}

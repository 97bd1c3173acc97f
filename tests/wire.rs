//! What happens below gRPC: lengths and limits, connections that end, sockets of every kind, and the end of the sidecar itself.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderName, HeaderValue};
use refrain::protocol::pb;
use rustls_pki_types::CertificateDer;
use support::client::grpc;
use support::kserve::{self, MODEL_INFER, MODEL_METADATA};
use support::pictures::{photo, photo_question};
use support::upstream::Step;
use support::{Client, Fake, World, until, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
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

#[tokio::test]
async fn a_call_in_flight_outlives_the_goodbye_of_its_connection() {
    let world = World::new().config(ALLOW).start().await;
    let (go_on, told) = tokio::sync::watch::channel(false);
    world.upstream.on(STREAM, move |mut exchange| {
        let mut told = told.clone();
        async move {
            let mut stream = exchange.begin(HeaderMap::new());
            stream.send_data(kserve::wrap(b"one"), false).unwrap();
            exchange.connection.go_away();
            told.wait_for(|told| *told).await.unwrap();
            stream.send_data(kserve::wrap(b"two"), false).unwrap();
            stream.send_trailers(support::upstream::ok_trailers()).unwrap();
        }
    });
    let client = world.client().await;
    let before = world.upstream.opened();
    let in_flight = client.ask(grpc(STREAM), kserve::wrap(b"go")).await;
    // The first call after the goodbye finds the connection closed to it and goes over another.
    within("a new connection", async {
        while world.upstream.opened() < before + 2 {
            let next = client.unary(grpc(MODEL_METADATA), metadata_question()).await;
            assert!(next.is_ok(), "{next:?}");
        }
    })
    .await;
    go_on.send_replace(true);
    let reply = in_flight.reply().await;
    assert_eq!(reply.code(), Some(Code::Ok), "{reply:?}");
    assert_eq!(reply.body, [kserve::wrap(b"one"), kserve::wrap(b"two")].concat());
}

#[tokio::test]
async fn a_connection_lost_in_mid_call_ends_the_call_with_a_status_and_the_next_one_works() {
    let world = World::new().config(ALLOW).start().await;
    let arrived = Arc::new(Notify::new());
    let has_arrived = Arc::clone(&arrived);
    world.upstream.on(STREAM, move |mut exchange| {
        let has_arrived = Arc::clone(&has_arrived);
        async move {
            let mut stream = exchange.begin(HeaderMap::new());
            stream.send_data(kserve::wrap(b"one"), false).unwrap();
            has_arrived.notified().await;
            exchange.connection.cut();
            std::future::pending::<()>().await;
        }
    });
    world.upstream.on(MODEL_METADATA, |exchange| async move {
        exchange.connection.cut();
        std::future::pending::<()>().await;
    });
    let client = world.client().await;

    // Before its headers.
    let reply = client.unary(grpc(MODEL_METADATA), metadata_question()).await;
    assert_eq!(reply.code(), Some(Code::Unavailable), "{reply:?}");
    // In the midst of its messages.
    let mut call = client.ask(grpc(STREAM), kserve::wrap(b"go")).await;
    let response = within("headers", &mut call.response).await.unwrap();
    let mut body = response.into_body();
    let first = within("a message", body.data()).await.unwrap().unwrap();
    assert_eq!(first, kserve::wrap(b"one"));
    arrived.notify_one();
    assert!(within("the end", body.data()).await.is_none(), "the stream ends, it does not break");
    let trailers = within("trailers", body.trailers()).await.unwrap().expect("a status");
    assert_eq!(trailers["grpc-status"], (Code::Unavailable as i32).to_string());
}

/// What it cannot decode Triton ends several times over, which breaks the connection; what makes no sense to it, or asks for no model of its own, it
/// refuses once. So nobody shares a connection with the first, and everybody with the second.
#[tokio::test]
async fn only_a_message_that_does_not_decode_goes_over_a_connection_apart() {
    use prost::Message;
    let senseless = pb::ModelInferRequest { inputs: Vec::new(), ..photo_question(2) };
    let misspelt = pb::ModelInferRequest { model_name: "clv".into(), ..photo_question(3) };
    for mode in ["enforce", "observe"] {
        let world = World::new().config(&format!("mode = '{mode}'")).start().await;
        let (apart, shared) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let (note_apart, note_shared) = (Arc::clone(&apart), Arc::clone(&shared));
        world.upstream.on(MODEL_INFER, move |mut exchange| {
            let (apart, shared) = (Arc::clone(&note_apart), Arc::clone(&note_shared));
            async move {
                let body = exchange.read().await.unwrap();
                let decodes = pb::ModelInferRequest::decode(body.slice(5..)).is_ok();
                let kind = if decodes { shared } else { apart };
                kind.lock().unwrap().push(exchange.connection.clone());
                exchange.status(Code::FailedPrecondition, "refused");
            }
        });
        let client = world.client().await;
        let readable = [&photo_question(1), &senseless, &misspelt].map(kserve::frame);
        // Calls take turns on the shared connections: each comes to each of them.
        for message in readable.iter().chain([&kserve::wrap(&[0xff; 20])]).cycle().take(16) {
            let reply = client.unary(grpc(MODEL_INFER), message.clone()).await;
            assert_eq!(reply.code(), Some(Code::FailedPrecondition), "{mode}: {reply:?}");
        }
        let (apart, shared) = (apart.lock().unwrap(), shared.lock().unwrap());
        assert_eq!((apart.len(), shared.len()), (4, 12), "{mode}");
        assert!(apart.iter().all(|one| one.is(&apart[0])), "{mode}");
        assert!(!shared.iter().any(|one| one.is(&apart[0])), "{mode}");
    }
}

#[tokio::test]
async fn a_prediction_whose_connection_is_lost_is_unavailable_and_the_next_one_works() {
    let world = World::new().start().await;
    let client = world.client().await;
    world.upstream.then(Step::Cut);
    let lost = client.infer(&photo_question(1)).await;
    assert_eq!(lost.code(), Some(Code::Unavailable), "{lost:?}");
    assert_eq!(world.upstream.asked(), 1, "what may have been processed is not sent again");
    for seed in 1..5 {
        assert!(client.infer(&photo_question(seed)).await.is_ok(), "a new connection is waited for");
    }
    assert_eq!(world.upstream.asked(), 5);
}

#[tokio::test]
async fn a_prediction_that_the_upstream_refused_unprocessed_is_sent_again() {
    let world = World::new().start().await;
    let client = world.client().await;
    world.upstream.then(Step::Reset(Reason::REFUSED_STREAM));
    let reply = client.infer(&photo_question(1)).await;
    assert!(reply.is_ok(), "{reply:?}");
    assert_eq!(world.upstream.asked(), 2);
    // Any other reset may come after the model was asked.
    world.upstream.then(Step::Reset(Reason::INTERNAL_ERROR));
    let reply = client.infer(&photo_question(2)).await;
    assert_eq!(reply.code(), Some(Code::Unavailable), "{reply:?}");
    assert_eq!(world.upstream.asked(), 3);
}

/// In front of the fake: as many connections as `refusing` says take a call and say goodbye as if it had never come.
async fn refusing_relay(fake: &Fake, refusing: Arc<AtomicUsize>) -> String {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const GOODBYE: [u8; 17] =
        [0, 0, 8, 7, 0, 0, 0, 0, 0, /* last stream */ 0, 0, 0, 0, /* no error */ 0, 0, 0, 0];
    const HEADERS: u8 = 1;
    let upstream = fake.address().trim_start_matches("http://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let refuses =
                refusing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
            let upstream = upstream.clone();
            tokio::spawn(async move {
                if !refuses {
                    let mut onward = TcpStream::connect(upstream).await.unwrap();
                    return drop(copy_bidirectional(&mut stream, &mut onward).await);
                }
                stream.write_all(&SETTINGS).await.unwrap();
                let mut preface = [0; 24];
                stream.read_exact(&mut preface).await.unwrap();
                loop {
                    let mut head = [0; 9];
                    // The sidecar may give an idle connection up.
                    if stream.read_exact(&mut head).await.is_err() {
                        return;
                    }
                    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                    let mut payload = vec![0; length as usize];
                    stream.read_exact(&mut payload).await.unwrap();
                    if head[3] == HEADERS {
                        let _ = stream.write_all(&GOODBYE).await;
                        // Read on until the other side hangs up: a reset would take the goodbye with it.
                        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_call_that_a_goodbye_left_out_is_sent_again_on_the_next_connection() {
    let fake = Fake::start().await;
    let refusing = Arc::new(AtomicUsize::new(2));
    let relay = refusing_relay(&fake, Arc::clone(&refusing)).await;
    let world = World::new().config(&format!("upstream = '{relay}'")).start_before(fake).await;
    let client = world.client().await;
    // Its model is asked for, and the picture put, over connections that both say goodbye at first.
    let reply = client.infer(&photo_question(1)).await;
    assert!(reply.is_ok(), "{reply:?}");
    refusing.store(2, Ordering::SeqCst);
    world.upstream.cut();
    until("both lanes are made again", || refusing.load(Ordering::SeqCst) == 0).await;
    for seed in 2..6 {
        let reply = client.infer(&photo_question(seed)).await;
        assert!(reply.is_ok(), "{reply:?}");
    }
    assert_eq!(world.upstream.asked(), 5, "nothing was sent twice");
}

#[tokio::test]
async fn unix_sockets_and_tcp_serve_on_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    for (number, (unix_in_front, unix_behind)) in
        [(false, false), (true, false), (false, true), (true, true)].into_iter().enumerate()
    {
        let [front, behind] =
            ["front", "behind"].map(|side| folder.path().join(format!("{side}{number}.sock")));
        let fake = if unix_behind { Fake::start_unix(&behind) } else { Fake::start().await };
        let listen = if unix_in_front { format!("unix:{}", front.display()) } else { "127.0.0.1:0".into() };
        let world = World::new().listen(listen).start_before(fake).await;
        let client = world.client().await;
        assert!(client.infer(&photo_question(1)).await.is_ok());
        assert!(client.infer(&photo_question(1)).await.is_ok());
        assert_eq!(world.upstream.asked(), 1, "a peer on a UNIX socket is a caller too");
        assert!(client.unary(grpc(MODEL_METADATA), metadata_question()).await.is_ok());
        drop(client);
        assert!(world.stop().await);
        assert!(!front.exists(), "the socket's file goes with us");
    }
}

#[tokio::test]
async fn callers_come_over_tls_and_nobody_else_does() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let tls = format!("[tls]\ncertificate = '{}'\nkey = '{}'", certificate.display(), key.display());
    let world = World::new().config(&tls).start().await;
    let ca: CertificateDer<'static> = made.cert.der().clone();
    let client = Client::connect_tls(&world.address, ca).await;
    assert!(client.infer(&photo_question(1)).await.is_ok());
    assert!(client.unary(grpc(MODEL_METADATA), metadata_question()).await.is_ok());

    let mut plain = TcpStream::connect(&world.address).await.unwrap();
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    let _ = within("the connection is ended", plain.read_to_end(&mut said)).await;
    assert_ne!(said.get(3), Some(&4), "no HTTP/2 settings without TLS");
}

#[tokio::test]
async fn connections_above_the_limit_are_turned_away_and_a_place_that_is_left_is_free() {
    let world = World::new().config("limits.connections = 2").start().await;
    let (first, second) = (world.client().await, world.client().await);
    for client in [&first, &second] {
        assert!(client.infer(&photo_question(1)).await.is_ok());
    }
    let mut third = TcpStream::connect(&world.address).await.unwrap();
    let mut said = Vec::new();
    let _ = within("the third is turned away", third.read_to_end(&mut said)).await;
    assert!(said.is_empty(), "{said:?}");
    drop(first);
    within("a place is free", async {
        loop {
            // One that is turned away finds its connection ended, during its greeting or at its first call.
            let client = Client::try_connect(&world.address).await;
            let Some(client) = client else { continue };
            let Ok(mut call) = client.try_open(grpc(MODEL_METADATA)).await else { continue };
            if call.send.send_data(metadata_question(), true).is_ok() && call.reply().await.is_ok() {
                break;
            }
        }
    })
    .await;
    assert!(second.infer(&photo_question(2)).await.is_ok());
}

/// Connected, greeted, and from then on without a word, not even to a ping.
async fn silent_peer(address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut settings = [0; 9];
    within("the sidecar's settings", stream.read_exact(&mut settings)).await.unwrap();
    stream
}

#[tokio::test]
async fn callers_that_keep_silent_cannot_stay_its_end() {
    let limits = "limits.drain = '1s'";
    let world = World::new().config(limits).start().await;
    let idle = world.client().await;
    assert!(idle.infer(&photo_question(1)).await.is_ok());
    let began = Instant::now();
    assert!(world.stop().await, "an idle connection that answers is ended at once");
    assert!(began.elapsed() < Duration::from_secs(1));

    let world = World::new().config(limits).start().await;
    let _silent = silent_peer(&world.address).await;
    let _mute = TcpStream::connect(&world.address).await.unwrap();
    let began = Instant::now();
    assert!(!world.stop().await, "they are cut");
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn a_stream_that_never_ends_is_cut_at_the_end_of_the_drain_and_others_end_in_peace() {
    let world = World::new().config(ALLOW).config("limits.drain = '1s'").start().await;
    world.upstream.on(STREAM, |mut exchange| async move {
        let _stream = exchange.begin(HeaderMap::new());
        std::future::pending::<()>().await;
    });
    let (endless, other) = (world.client().await, world.client().await);
    let mut call = endless.ask(grpc(STREAM), kserve::wrap(b"go")).await;
    within("headers", &mut call.response).await.unwrap();
    world.upstream.hold();
    let in_flight = other.start_infer(&photo_question(1)).await;
    world.upstream.until_asked(MODEL_INFER, 1).await;
    let began = Instant::now();
    world.tell_to_stop();
    world.upstream.release(1);
    let reply = in_flight.reply().await;
    assert!(reply.is_ok(), "a call in flight is finished: {reply:?}");
    assert!(!world.stop().await, "the endless one is cut");
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_claimed_forward_outlives_its_caller_by_its_linger_and_no_longer() {
    let world = World::new().config("limits.linger = '200ms'").start().await;
    let client = world.client().await;
    world.upstream.hold();
    let call = client.start_infer(&photo_question(1)).await;
    world.upstream.until_asked(MODEL_INFER, 1).await;
    let cancelled = Instant::now();
    call.cancel();
    world.upstream.until_reset(1).await;
    assert!(cancelled.elapsed() >= Duration::from_millis(200));
    until("its claim is given up", || world.stats().anchors == 0).await;

    // Within its linger it is answered, and remembered.
    let world = World::new().config("limits.linger = '20s'").start().await;
    let client = world.client().await;
    world.upstream.hold();
    let call = client.start_infer(&photo_question(1)).await;
    world.upstream.until_asked(MODEL_INFER, 1).await;
    call.cancel();
    world.upstream.release(1);
    let reply = client.infer(&kserve::question([&photo(1)])).await;
    assert!(reply.is_ok(), "{reply:?}");
    assert_eq!((world.upstream.asked(), world.upstream.resets()), (1, 0));
}

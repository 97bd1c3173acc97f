//! The connections below gRPC: those that end, sockets of every kind, and the end of the sidecar itself.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::HeaderMap;
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

fn metadata_question() -> Bytes {
    kserve::frame(&pb::ModelMetadataRequest { name: "clf".into(), version: String::new() })
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

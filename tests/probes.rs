//! In a pod: the model server's probes are answered whatever the sidecar is busy with, a way round it is seen, and it can be told
//! to leave.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use prost::Message;
use support::client::grpc;
use support::kserve::frame;
use support::pictures::photo_question;
use support::{Fake, Running, World, until, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

const CHECK: &str = "/grpc.health.v1.Health/Check";

/// A server on a thread of its own that says `reply` to every request and remembers what it was asked.
struct Web {
    port: u16,
    asked: Arc<std::sync::Mutex<Vec<String>>>,
}

impl Web {
    fn saying(reply: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked: Arc<std::sync::Mutex<Vec<String>>> = Arc::default();
        let book = Arc::clone(&asked);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = Vec::new();
                let mut piece = [0; 1024];
                while !request.ends_with(b"\r\n\r\n") {
                    match stream.read(&mut piece) {
                        Ok(0) | Err(_) => break,
                        Ok(read) => request.extend_from_slice(&piece[..read]),
                    }
                }
                book.lock().unwrap().push(String::from_utf8_lossy(&request).into_owned());
                let _ = stream.write_all(reply.as_bytes());
            }
        });
        Self { port, asked }
    }
}

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
}

/// Asks and waits for the reply without letting anything else on this thread run: neither the test's runtime nor the sidecar on it.
fn get_in_standstill(address: &str, path: &str) -> String {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
    stream.write_all(request(path).as_bytes()).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    said
}

async fn ask(address: &str, request: &str) -> String {
    converse(TcpStream::connect(address).await.unwrap(), request).await
}

async fn converse(mut stream: TcpStream, request: &str) -> String {
    // A connection over the bound is closed unread, and then nothing was said.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut said = String::new();
    let _ = within("a reply", stream.read_to_string(&mut said)).await;
    said
}

async fn get(address: &str, path: &str) -> String {
    ask(address, &request(path)).await
}

async fn started(replay: &str) -> Running {
    let settings = format!("[probes]\nlisten = '127.0.0.1:0'\nreplay = {replay}");
    World::new().config(&settings).start().await
}

#[tokio::test]
async fn probes_are_answered_while_the_sidecar_stands_still() {
    let web = Web::saying("HTTP/1.1 204 No Content\r\n\r\n");
    let world = started(&format!(
        "{{ 'triton/livez' = {{ http = {{ port = {}, path = '/v2/health/live?a=b', headers = {{ x-mine = 'yes', host = 'me' }} }} }} }}",
        web.port
    ))
    .await;
    let probes = world.probes.clone().unwrap();
    assert!(get_in_standstill(&probes, "/livez").starts_with("HTTP/1.1 200"));
    let said = get_in_standstill(&probes, "/probe/triton/livez");
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    let asked = web.asked.lock().unwrap()[0].to_lowercase();
    assert!(asked.starts_with("get /v2/health/live?a=b http/1.1\r\n"), "{asked}");
    assert!(asked.contains("x-mine: yes\r\n") && asked.contains("host: me\r\n"), "{asked}");
}

#[tokio::test]
async fn a_probe_that_fails_says_why() {
    let broken = Web::saying("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n");
    let moved = Web::saying("HTTP/1.1 302 Found\r\nlocation: http://elsewhere/\r\ncontent-length: 0\r\n\r\n");
    let nonsense = Web::saying("nonsense\r\n\r\n");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let silent_port = silent.local_addr().unwrap().port();
    let world = started(&format!(
        "{{ 'a/livez' = {{ http = {{ port = {} }} }}, 'b/livez' = {{ http = {{ port = {} }} }}, 'c/livez' = {{ http = {{ port = {} }} }}, \
         'd/livez' = {{ http = {{ port = {silent_port} }} }}, 'e/livez' = {{ http = {{ port = {closed} }} }}, \
         'f/readyz' = {{ tcp = {{ port = {silent_port} }} }}, 'g/readyz' = {{ tcp = {{ port = {closed} }} }} }}",
        broken.port, moved.port, nonsense.port
    ))
    .await;
    let probes = world.probes.clone().unwrap();
    for (probe, status, why) in [
        ("a/livez", 503, "status 500"),
        ("b/livez", 200, "ok"),
        ("c/livez", 503, "invalid HTTP"),
        ("d/livez", 503, "no answer within 1 s"),
        ("e/livez", 503, "refused"),
        ("f/readyz", 200, "ok"),
        ("g/readyz", 503, "refused"),
        ("h/readyz", 404, "expected"),
        ("a/readyz", 404, "expected"),
    ] {
        let said = get(&probes, &format!("/probe/{probe}")).await;
        assert!(said.starts_with(&format!("HTTP/1.1 {status}")) && said.contains(why), "{probe}: {said}");
    }
    let posted = request("/livez").replace("GET", "POST");
    assert!(ask(&probes, &posted).await.starts_with("HTTP/1.1 405"));
}

#[tokio::test]
async fn a_probe_is_asked_on_a_port_and_on_a_socket() {
    let folder = tempfile::tempdir().unwrap();
    let (on_port, on_socket) = (Fake::start().await, Fake::start_unix(&folder.path().join("s")));
    let port = on_port.address().rsplit(':').next().unwrap().to_owned();
    for (server, status) in [(&on_port, ServingStatus::Serving), (&on_socket, ServingStatus::NotServing)] {
        server.on(CHECK, move |mut exchange| async move {
            let asked = HealthCheckRequest::decode(exchange.read().await.unwrap().slice(5..)).unwrap();
            assert_eq!(asked.service, "mine");
            let reply = frame(&HealthCheckResponse { status: status.into() });
            exchange.answer_with(reply, http::HeaderMap::new(), support::upstream::ok_trailers());
        });
    }
    let socket = folder.path().join("s").display().to_string();
    let world = started(&format!(
        "{{ 'a/livez' = {{ grpc = {{ port = {port}, service = 'mine' }}, timeout_seconds = 30 }}, \
         'b/livez' = {{ grpc = {{ socket = '{socket}', service = 'mine' }}, timeout_seconds = 30 }}, \
         'c/livez' = {{ tcp = {{ socket = '{socket}' }} }}, 'd/livez' = {{ tcp = {{ socket = '{socket}.not' }} }} }}",
    ))
    .await;
    let probes = world.probes.clone().unwrap();
    let said = get(&probes, "/probe/a/livez").await;
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    let said = get(&probes, "/probe/b/livez").await;
    assert!(said.starts_with("HTTP/1.1 503") && said.contains("NOT_SERVING"), "{said}");
    assert!(get(&probes, "/probe/c/livez").await.starts_with("HTTP/1.1 200"));
    let said = get(&probes, "/probe/d/livez").await;
    assert!(said.starts_with("HTTP/1.1 503") && said.contains("No such file"), "{said}");
}

#[tokio::test]
async fn a_flood_of_probes_neither_reaches_the_model_server_nor_keeps_others_out() {
    let web = Web::saying("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let world = started(&format!("{{ 'a/livez' = {{ http = {{ port = {} }} }} }}", web.port)).await;
    let probes = world.probes.clone().unwrap();
    // Sixteen places for one address: all taken by those who say nothing.
    let mut silent = Vec::new();
    for _ in 0..16 {
        silent.push(TcpStream::connect(&probes).await.unwrap());
    }
    let mut refused = TcpStream::connect(&probes).await.unwrap();
    let ended = within("the seventeenth is closed", refused.read(&mut [0; 1])).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    let other = TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let other = other.connect(probes.parse().unwrap()).await.unwrap();
    assert!(converse(other, &request("/probe/a/livez")).await.starts_with("HTTP/1.1 200"));
    drop(silent);

    // Twelve who ask without a pause, for as long as it takes to ask 600 times.
    let before = web.asked.lock().unwrap().len();
    let answered = Arc::new(AtomicUsize::new(0));
    let begun = tokio::time::Instant::now();
    let askers = (0..12).map(|_| {
        let (probes, answered) = (probes.clone(), Arc::clone(&answered));
        tokio::spawn(async move {
            while answered.load(Ordering::Relaxed) < 600 {
                if get(&probes, "/probe/a/livez").await.starts_with("HTTP/1.1 200") {
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            }
        })
    });
    for asker in askers.collect::<Vec<_>>() {
        within("all are answered", asker).await.unwrap();
    }
    let asked = web.asked.lock().unwrap().len() - before;
    let most = 2 + usize::try_from(begun.elapsed().as_millis() / 100).unwrap();
    assert!(asked <= most, "{asked} replays in {:?}", begun.elapsed());
}

async fn readiness(world: &Running) -> String {
    get(world.admin.as_ref().unwrap(), "/readyz").await
}

async fn exposed_world(check: &str, port: u16) -> Running {
    let settings = format!(
        "[admin]\nlisten = '127.0.0.1:0'\n[bypass]\ncheck = '{check}'\naddress = '127.0.0.1'\nports = [{port}]"
    );
    World::new().config(&settings).start().await
}

async fn health(world: &Running) -> ServingStatus {
    let question = frame(&HealthCheckRequest { service: String::new() });
    let reply = world.client().await.unary(grpc(CHECK), question).await;
    HealthCheckResponse::decode(reply.body.slice(5..)).unwrap().status()
}

#[tokio::test]
async fn a_model_server_that_can_be_reached_past_us_keeps_us_from_being_ready() {
    let open = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = open.local_addr().unwrap().port();
    let world = exposed_world("enforce", port).await;
    let reason = format!("not ready: bypass: the model server can be reached past us at 127.0.0.1:{port}");
    within("the reason is given", async {
        while !readiness(&world).await.contains(&reason) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(readiness(&world).await.starts_with("HTTP/1.1 503"));
    assert_eq!(health(&world).await, ServingStatus::NotServing);
    assert!(world.metrics().contains("refrain_upstream_exposed 1"), "{}", world.metrics());
}

#[tokio::test]
async fn a_warning_or_a_closed_port_does_not() {
    let open = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for (check, port, exposed) in [
        ("warn", open.local_addr().unwrap().port(), "refrain_upstream_exposed 1"),
        ("off", open.local_addr().unwrap().port(), "refrain_upstream_exposed 0"),
        ("enforce", closed, "refrain_upstream_exposed 0"),
    ] {
        let world = exposed_world(check, port).await;
        until("tried", || world.metrics().contains(exposed)).await;
        within("ready", async {
            while !readiness(&world).await.starts_with("HTTP/1.1 200") {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        assert_eq!(health(&world).await, ServingStatus::Serving, "{check}");
    }
}

#[tokio::test]
async fn one_that_is_told_to_leave_is_not_ready_and_serves_on() {
    let world = World::new().config("[admin]\nlisten = '127.0.0.1:0'").start().await;
    let admin = world.admin.clone().unwrap();
    let foreign = "PUT /drain HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n";
    assert!(ask(&admin, foreign).await.starts_with("HTTP/1.1 403"));
    within("ready", async {
        while health(&world).await != ServingStatus::Serving {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(get(&admin, "/drain").await.starts_with("HTTP/1.1 405"));
    assert!(readiness(&world).await.starts_with("HTTP/1.1 200"));

    let drained = tokio::task::spawn_blocking(move || {
        let refrain = env!("CARGO_BIN_EXE_refrain");
        Command::new(refrain).args(["drain", "--within", "0", "--admin", &admin]).output().unwrap()
    });
    let drained = drained.await.unwrap();
    assert!(drained.status.success(), "{}", String::from_utf8_lossy(&drained.stderr));
    let said = readiness(&world).await;
    assert!(said.starts_with("HTTP/1.1 503") && said.contains("not ready: draining"), "{said}");
    within("health says so", async {
        while health(&world).await != ServingStatus::NotServing {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(world.client().await.infer(&photo_question(1)).await.is_ok(), "calls are served");
    assert!(world.stop().await);
}

#[test]
fn without_a_sidecar_there_is_nothing_to_drain() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let drained =
        Command::new(env!("CARGO_BIN_EXE_refrain")).args(["drain", "--admin", &closed]).output().unwrap();
    assert_eq!(drained.status.code(), Some(1));
    let said = String::from_utf8_lossy(&drained.stderr).into_owned();
    assert!(said.contains(&format!("cannot drain: {closed}: ")), "{said}");
}

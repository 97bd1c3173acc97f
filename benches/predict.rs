//! What a call costs: through the sidecar against direct, in one run, interleaved; and what the sidecar's memory comes to.
//!
//! ```text
//! cargo bench --bench predict                          the table: medians and ratios, by size and way
//! cargo bench --bench predict -- telemetry             the same for tracing: off, unsampled, all of it, and collectors that fail
//! cargo bench --bench predict -- runtimes              the same with every connection on one runtime of several threads
//! cargo bench --bench predict -- only enforce 588KiB   one way alone, for a profiler; --rounds N as above
//! cargo bench --bench predict -- memory                resident memory of `refrain proxy` after 100,000 calls; with
//!                                                      OTEL_EXPORTER_OTLP_ENDPOINT set, with tracing
//! ```
//!
//! Everything is on loopback over real sockets: a client that keeps one connection for each way, the sidecar as it is
//! configured, and a model server that reads the request whole, decodes it and answers at once. So the times are of the hop
//! and of what Refrain does; a model's own time, which no call is without, would only make the ratios smaller.
//! Results of `telemetry`: `README.md`.

#![allow(clippy::unwrap_used, reason = "a bench that cannot be set up has nothing to measure")]

use std::convert::Infallible;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use refrain::config::{Config, from_text};
use refrain::protocol::pb;
use refrain::proxy::{Sidecar, Workers};
use refrain::telemetry::Telemetry;
use refrain::timing::FinePacer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

// The allocator of the program itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A session is full, ghosts included, after this many forwarded pictures: only then does a ruling cost what it costs in the long run.
const WARM_UP: usize = 1300;

/// A request's picture: what it is called here, its side, and whether its values are floats.
const SIZES: [Size; 3] = [
    Size { name: "3KiB", side: 32, floats: false, scores: 10 },
    Size { name: "147KiB", side: 224, floats: false, scores: 1000 },
    Size { name: "588KiB", side: 224, floats: true, scores: 1000 },
];

/// A way to the model, and the settings of the sidecar on it.
///
/// `off` passes calls on unread; `enforce` forwards them all, since no picture is like another; `replay` answers the same
/// picture from memory, unheld.
const WAYS: [(&str, &str); 4] = [
    ("direct", ""),
    ("off", "mode = \"off\"\nmodels.\"*588KiB\".range = \"0..1\""),
    ("enforce", "models.\"*588KiB\".range = \"0..1\""),
    ("replay", "timing.mode = \"off\"\nmodels.\"*588KiB\".range = \"0..1\""),
];

/// Ways that differ in what connections are served by: threads with a runtime each, or one runtime of several threads.
const RUNTIMES: [(&str, &str); 5] =
    [WAYS[0], WAYS[1], (ONE_OFF, WAYS[1].1), WAYS[2], (ONE_ENFORCE, WAYS[2].1)];
const ONE_OFF: &str = "off-one";
const ONE_ENFORCE: &str = "enforce-one";

/// Ways that differ in telemetry alone: every call is forwarded. `COLLECTOR` is one that takes everything, `SLOW` one that answers
/// after ten seconds, `REFUSING` one that never takes anything; on port 9 nobody listens.
const TELLING: [(&str, &str); 7] = [
    ("direct", ""),
    ("enforce", ""),
    ("unsampled", "telemetry.endpoint = \"COLLECTOR\"\ntelemetry.sample = 0.0"),
    ("traced", "telemetry.endpoint = \"COLLECTOR\""),
    ("slow", "telemetry.endpoint = \"SLOW\""),
    ("refusing", "telemetry.endpoint = \"REFUSING\""),
    ("dead", "telemetry.endpoint = \"http://127.0.0.1:9\""),
];

#[derive(Clone, Copy)]
struct Size {
    name: &'static str,
    side: usize,
    floats: bool,
    scores: usize,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (words, rounds) = match &words[..] {
        [words @ .., "--rounds", rounds] => (words, rounds.parse().expect("--rounds takes a number")),
        words => (words, 2000),
    };
    match words {
        [] => table(&WAYS, &SIZES, rounds),
        ["runtimes"] => table(&RUNTIMES, &SIZES, rounds),
        ["telemetry"] => table(&TELLING, &SIZES[..2], rounds),
        ["only", way, size] => only(way, size, rounds),
        ["memory"] => memory(),
        _ => eprintln!(
            "expected nothing, `runtimes`, `telemetry`, `only WAY SIZE` or `memory`, then `--rounds N`"
        ),
    }
}

/// Every way by every size, call by call in turn.
fn table(ways: &[(&str, &str)], sizes: &[Size], rounds: usize) {
    let server = on_a_thread_of_its_own(serve_model);
    let ways: Vec<Way> = ways.iter().map(|(name, settings)| Way::open(name, settings, server)).collect();
    println!("{rounds} calls each, microseconds; the ways take turns, call by call");
    println!("{:8} {:9} {:>9} {:>9} {:>9} {:>9}", "picture", "way", "p50", "p90", "p99", "x direct");
    for &size in sizes {
        let times = on_one_thread(take_turns(&ways, size, rounds));
        let direct = at(&times[0], 0.5);
        for (way, times) in ways.iter().zip(&times) {
            let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|share| at(times, share));
            let (name, ratio) = (size.name, p50 / direct);
            println!("{name:8} {:9} {p50:>9.1} {p90:>9.1} {p99:>9.1} {ratio:>9.2}", way.name);
        }
    }
    for way in &ways {
        way.confirm(sizes.len() * (WARM_UP + rounds));
    }
}

/// One way, again and again, for a profiler.
fn only(name: &str, size: &str, rounds: usize) {
    let settings = WAYS.iter().chain(&RUNTIMES).find(|(way, _)| *way == name).expect("a way of the table").1;
    let size = *SIZES.iter().find(|known| known.name == size).expect("a size of the table");
    let way = Way::open(name, settings, on_a_thread_of_its_own(serve_model));
    let times = on_one_thread(take_turns(std::slice::from_ref(&way), size, rounds));
    println!("{name} {}: {:.1} us at the median of {rounds}", size.name, at(&times[0], 0.5));
    way.confirm(WARM_UP + rounds);
}

/// The sorted times of each way, in microseconds.
async fn take_turns(ways: &[Way], size: Size, rounds: usize) -> Vec<Vec<f64>> {
    let mut callers = Vec::with_capacity(ways.len());
    for way in ways {
        callers.push(Caller::connect(way.address).await);
    }
    let same = size.request(0);
    let mut times = vec![Vec::with_capacity(rounds); ways.len()];
    for round in 0..WARM_UP + rounds {
        let fresh = size.request(1 + round as u64);
        // Nobody always comes after the same other: what one leaves to be done would be another's cost.
        for turn in 0..ways.len() {
            let way = (turn + round) % ways.len();
            let request = if ways[way].name == "replay" { &same } else { &fresh };
            let took = callers[way].call(request, None).await;
            if round >= WARM_UP {
                times[way].push(took.as_secs_f64() * 1e6);
            }
        }
    }
    for times in &mut times {
        times.sort_by(f64::total_cmp);
    }
    times
}

fn at(sorted: &[f64], share: f64) -> f64 {
    sorted[(sorted.len() as f64 * share) as usize]
}

/// The sidecar as a process of its own, 100,000 calls of a thousand callers, some of them large, sixteen at a time.
fn memory() {
    const CALLS: u64 = 100_000;
    const AT_ONCE: u64 = 16;
    let server = on_a_thread_of_its_own(serve_model);
    let sidecar = Process::start(server);
    println!("at rest: {}", sidecar.memory());
    on_one_thread(async {
        let work = (0..AT_ONCE).map(|worker| async move {
            let mut caller = Caller::connect(sidecar.address).await;
            for call in (worker..CALLS).step_by(AT_ONCE as usize) {
                let size = if call % 40 == 39 { SIZES[2] } else { SIZES[0] };
                let name = format!("caller-{}", call % 1000);
                caller.call(&size.request(call), Some(&name)).await;
            }
        });
        // The tasks share one thread, as the client of the table does.
        let tasks: Vec<_> = work.map(tokio::task::spawn_local).collect();
        for task in tasks {
            task.await.expect("every call is answered");
        }
    });
    println!("after {CALLS} calls: {}", sidecar.memory());
}

/// One way to the model: where it begins, and what the sidecar on it counts.
struct Way {
    name: String,
    address: SocketAddr,
    telemetry: Option<Arc<Telemetry>>,
}

impl Way {
    fn open(name: &str, settings: &str, server: SocketAddr) -> Self {
        if name == "direct" {
            return Self { name: name.to_owned(), address: server, telemetry: None };
        }
        let mut settings = settings.to_owned();
        for (word, serve) in COLLECTORS {
            if settings.contains(word) {
                let collector = serve();
                settings = settings.replace(word, &format!("http://{collector}"));
            }
        }
        let text = format!("{settings}\nlisten = \"127.0.0.1:0\"\nupstream = \"http://{server}\"");
        let config = Config::from_layers([from_text(&text).unwrap()]).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let on_one = [ONE_OFF, ONE_ENFORCE].contains(&name);
        std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            // As `refrain proxy` has it: connections on threads of their own.
            let runtime = if on_one { &mut runtime } else { runtime.worker_threads(1) };
            runtime.enable_all().build().unwrap().block_on(async move {
                let workers = if on_one { Workers::here() } else { Workers::start().unwrap() };
                let pacer = Arc::new(FinePacer::new().unwrap());
                let sidecar = Sidecar::bind_on(workers, config, pacer).await.unwrap();
                tell.send((sidecar.address().parse().unwrap(), sidecar.telemetry())).unwrap();
                let (_run, stop) = watch::channel(false);
                sidecar.serve(stop).await;
            });
        });
        let (address, telemetry) = told.recv().unwrap();
        Self { name: name.to_owned(), address, telemetry: Some(telemetry) }
    }

    /// A figure is worth nothing if the calls went another way than its name says.
    fn confirm(&self, calls: usize) {
        let Some(totals) = self.telemetry.as_ref().map(|telemetry| telemetry.metrics.totals()) else {
            return;
        };
        let calls = calls as u64;
        let sizes = calls / calls.min((WARM_UP + 1) as u64).max(1);
        let went = match self.name.as_str() {
            "off" | ONE_OFF => totals.passed == calls,
            "enforce" | ONE_ENFORCE | "unsampled" | "traced" | "slow" | "refusing" | "dead" => {
                totals.judged_forward == calls && totals.replayed == 0
            }
            _ => totals.replayed + totals.judged_forward == calls && totals.judged_forward <= sizes,
        };
        assert!(went && totals.refused.is_empty() && totals.shadows == 0, "{}: {totals:?}", self.name);
    }
}

/// `refrain proxy` with a store of 64 MiB, its callers told apart by their metadata.
struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    fn start(server: SocketAddr) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_refrain"))
            .args(["proxy", "--listen", "127.0.0.1:0", "--upstream", &format!("http://{server}")])
            .args(["--caller-metadata", "x-caller", "--trusted-peer", "127.0.0.0/8", "--log-json"])
            .env("REFRAIN_STORE__BYTES", "64MiB")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program was built with this bench");
        let (tell, told) = std::sync::mpsc::channel();
        for log in [
            Box::new(child.stdout.take().unwrap()) as Box<dyn std::io::Read + Send>,
            Box::new(child.stderr.take().unwrap()),
        ] {
            let tell = tell.clone();
            // Read to its end, or a full pipe would stop the sidecar.
            std::thread::spawn(move || {
                for line in BufReader::new(log).lines().map_while(Result::ok) {
                    if let Some((_, rest)) = line.split_once("listening on ") {
                        let address = rest.split(['"', ' ']).next().unwrap_or_default();
                        let _ = tell.send(address.parse().expect("a TCP address"));
                    }
                }
            });
        }
        let address = told.recv_timeout(Duration::from_secs(10)).expect("the sidecar says where it listens");
        Self { child, address }
    }

    /// Resident memory now, and at its highest.
    fn memory(&self) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let figure = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            let kib: f64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0.0);
            kib / 1024.0
        };
        format!("{:.1} MiB resident, {:.1} MiB at most", figure("VmRSS:"), figure("VmHWM:"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client with one connection.
struct Caller {
    sender: SendRequest<Full<Bytes>>,
}

impl Caller {
    async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        Self { sender }
    }

    /// From the request's first byte to the reply's trailers.
    async fn call(&mut self, frame: &Bytes, caller: Option<&str>) -> Duration {
        let mut request = Request::post("http://model.server/inference.GRPCInferenceService/ModelInfer")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", "bench");
        if let Some(caller) = caller {
            request = request.header("x-caller", caller);
        }
        let request = request.body(Full::new(frame.clone())).unwrap();
        self.sender.ready().await.unwrap();
        let begin = Instant::now();
        let reply = self.sender.send_request(request).await.unwrap().into_body().collect().await.unwrap();
        let took = begin.elapsed();
        let status = reply.trailers().and_then(|trailers| trailers.get("grpc-status"));
        assert!(status.is_some_and(|status| status == "0"), "{:?}", reply.trailers());
        took
    }
}

impl Size {
    fn model(&self) -> String {
        format!("classifier-{}", self.name)
    }

    /// A request, prefix and all, with a picture that is like no other seed's: 8 x 8 blocks of drawn colours.
    fn request(&self, seed: u64) -> Bytes {
        let mut colours = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D;
        let mut drawn = || {
            colours = colours.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (colours >> 56) as u8
        };
        let blocks: Vec<[u8; 3]> = (0..64).map(|_| std::array::from_fn(|_| drawn())).collect();
        let pixels = (0..self.side * self.side).flat_map(|position| {
            let (row, column) = (position / self.side, position % self.side);
            blocks[row * 8 / self.side * 8 + column * 8 / self.side]
        });
        let data: Vec<u8> = if self.floats {
            pixels.flat_map(|level| (f32::from(level) / 255.0).to_le_bytes()).collect()
        } else {
            pixels.collect()
        };
        framed(&pb::ModelInferRequest {
            model_name: self.model(),
            inputs: vec![pb::model_infer_request::InferInputTensor {
                name: "image".into(),
                datatype: if self.floats { "FP32" } else { "UINT8" }.into(),
                shape: vec![1, self.side as i64, self.side as i64, 3],
                ..Default::default()
            }],
            raw_input_contents: vec![data.into()],
            ..Default::default()
        })
    }
}

fn framed(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.encoded_len());
    frame.put_u8(0);
    frame.put_u32(message.encoded_len() as u32);
    message.encode(&mut frame).unwrap();
    frame.freeze()
}

fn on_one_thread<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

/// Runs `serve` for the rest of the program and says where it listens.
fn on_a_thread_of_its_own<F>(serve: fn(oneshot::Sender<SocketAddr>) -> F) -> SocketAddr
where
    F: Future<Output = ()> + 'static,
{
    let (tell, told) = oneshot::channel();
    std::thread::spawn(move || on_one_thread(serve(tell)));
    told.blocking_recv().unwrap()
}

/// A KServe server with one model for each size.
async fn serve_model(tell: oneshot::Sender<SocketAddr>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    tell.send(listener.local_addr().unwrap()).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service_fn(answer));
        tokio::spawn(connection);
    }
}

type Start = fn() -> SocketAddr;

/// How each collector is started.
const COLLECTORS: [(&str, Start); 3] = [
    ("COLLECTOR", || on_a_thread_of_its_own(|tell| serve_collector(tell, Duration::ZERO, 200))),
    ("SLOW", || on_a_thread_of_its_own(|tell| serve_collector(tell, Duration::from_secs(10), 200))),
    ("REFUSING", || on_a_thread_of_its_own(|tell| serve_collector(tell, Duration::ZERO, 503))),
];

/// An OTLP collector that reads everything and looks at nothing.
async fn serve_collector(tell: oneshot::Sender<SocketAddr>, after: Duration, status: u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    tell.send(listener.local_addr().unwrap()).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let take = service_fn(move |request: Request<Incoming>| async move {
            request.into_body().collect().await.unwrap();
            tokio::time::sleep(after).await;
            let reply = Response::builder().status(status).body(Full::new(Bytes::new())).unwrap();
            Ok::<_, Infallible>(reply)
        });
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), take));
    }
}

async fn answer(
    request: Request<Incoming>,
) -> Result<Response<http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>>, Infallible> {
    let (head, body) = request.into_parts();
    let message = body.collect().await.unwrap().to_bytes().slice(5..);
    let frame = match head.uri.path().rsplit('/').next() {
        Some("ModelInfer") => {
            let request = pb::ModelInferRequest::decode(message).unwrap();
            let size = SIZES.iter().find(|size| size.model() == request.model_name).expect("a model of ours");
            framed(&scores(size, request))
        }
        Some("ModelMetadata") => {
            let request = pb::ModelMetadataRequest::decode(message).unwrap();
            framed(&pb::ModelMetadataResponse {
                name: request.name,
                versions: vec!["1".into()],
                ..Default::default()
            })
        }
        Some("ServerReady") => framed(&pb::ServerReadyResponse { ready: true }),
        _ => {
            let request = pb::ModelConfigRequest::decode(message).unwrap();
            let size = SIZES.iter().find(|size| size.model() == request.name).expect("a model of ours");
            framed(&pb::ModelConfigResponse { config: Some(configuration(size)) })
        }
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    let body = Full::new(frame).with_trailers(async { Some(Ok(trailers)) }).boxed_unsync();
    Ok(Response::builder().header("content-type", "application/grpc").body(body).unwrap())
}

fn scores(size: &Size, request: pb::ModelInferRequest) -> pb::ModelInferResponse {
    pb::ModelInferResponse {
        model_name: request.model_name,
        model_version: "1".into(),
        id: request.id,
        outputs: vec![pb::model_infer_response::InferOutputTensor {
            name: "scores".into(),
            datatype: "FP32".into(),
            shape: vec![1, size.scores as i64],
            ..Default::default()
        }],
        raw_output_contents: vec![vec![7; size.scores * 4].into()],
        ..Default::default()
    }
}

fn configuration(size: &Size) -> pb::ModelConfig {
    let side = size.side as i64;
    pb::ModelConfig {
        name: size.model(),
        max_batch_size: 8,
        input: vec![pb::ModelInput {
            name: "image".into(),
            data_type: if size.floats { pb::DataType::TypeFp32 } else { pb::DataType::TypeUint8 }.into(),
            dims: vec![side, side, 3],
            ..Default::default()
        }],
        output: vec![pb::ModelOutput {
            name: "scores".into(),
            data_type: pb::DataType::TypeFp32.into(),
            dims: vec![size.scores as i64],
        }],
        ..Default::default()
    }
}

//! The pod's probes, asked in its stead: the model server listens on loopback, where the kubelet does not reach it, so its probes
//! come here and are asked again there. On a thread and a runtime of its own: a busy sidecar must not make the kubelet restart the
//! model server.
//!
//! ```text
//! GET  /livez                       200 while the process answers
//! GET  /probe/CONTAINER/livez       200 where the model server passes that probe, 503 with the reason where not;
//!                                   so for readyz and startupz
//! ```

mod replay;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::admin::text;
use super::listen::origin_of;
use super::quota::Quota;
use crate::config::Probes;
use replay::Replay;

/// Connections at once, in all and from one address: nobody in the cluster can keep the kubelet out.
const CONNECTIONS: (usize, usize) = (512, 16);

/// A connection may take this long beside the probe itself.
const GREETING: Duration = Duration::from_secs(5);

/// An outcome serves those who ask again within this time, so that a flood of probes asks the model server ten times a second.
const FRESH: Duration = Duration::from_millis(100);

/// A bound port that is yet to serve.
pub(super) struct ProbePort {
    listener: std::net::TcpListener,
    probes: Probes,
}

/// Serves until it is dropped.
pub(super) struct Serving {
    address: SocketAddr,
    _stop: oneshot::Sender<Infallible>,
}

impl ProbePort {
    /// Binds the port, where one is set.
    pub(super) fn bind(probes: &Probes) -> io::Result<Option<Self>> {
        let Some(address) = probes.listen else { return Ok(None) };
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Some(Self { listener, probes: probes.clone() }))
    }

    /// Begins to serve, on a thread of its own.
    pub(super) fn serve(self) -> io::Result<Serving> {
        let address = self.listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel::<Infallible>();
        std::thread::Builder::new().name("refrain-probes".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    ended = serve(self) => if let Err(error) = ended {
                        tracing::error!(%error, "probes are not answered");
                    }
                }
            });
        })?;
        Ok(Serving { address, _stop: stop })
    }
}

impl Serving {
    /// Where.
    pub(super) fn address(&self) -> String {
        self.address.to_string()
    }
}

/// One probe: at most one replay of it is under way.
struct Door {
    replay: Replay,
    last: Mutex<Option<(Instant, Result<(), String>)>>,
}

impl Door {
    async fn outcome(&self) -> Result<(), String> {
        let mut last = self.last.lock().await;
        if let Some((when, outcome)) = &*last
            && when.elapsed() < FRESH
        {
            return outcome.clone();
        }
        let outcome = self.replay.ask().await;
        *last = Some((Instant::now(), outcome.clone()));
        outcome
    }
}

async fn serve(port: ProbePort) -> io::Result<()> {
    let listener = TcpListener::from_std(port.listener)?;
    let longest = port.probes.replay.values().map(|probe| probe.timeout).max().unwrap_or_default();
    let doors = port.probes.replay.into_iter();
    let doors: BTreeMap<String, Door> = doors
        .map(|(path, probe)| (path, Door { replay: Replay::new(probe), last: Mutex::default() }))
        .collect();
    let doors = Arc::new(doors);
    let places = Quota::new(CONNECTIONS.0, CONNECTIONS.1);
    let mut connections = JoinSet::new();
    loop {
        let arrival = tokio::select! {
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            arrival = listener.accept() => arrival,
        };
        let Ok((stream, peer)) = arrival else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let Some(place) = places.take(origin_of(peer.ip().to_canonical()), 1) else { continue };
        let doors = Arc::clone(&doors);
        connections.spawn(async move {
            let _place = place;
            // Those who wait for a replay under way may wait for two.
            let _ = tokio::time::timeout(GREETING + 2 * longest, serve_one(stream, doors)).await;
        });
    }
}

async fn serve_one(stream: TcpStream, doors: Arc<BTreeMap<String, Door>>) {
    let service = service_fn(move |request| {
        let doors = Arc::clone(&doors);
        async move { Ok::<_, Infallible>(answer(&request, &doors).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(GREETING)
        .max_buf_size(16 << 10)
        // The kubelet comes anew each time.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection to the probe port ended");
    }
}

async fn answer(request: &Request<Incoming>, doors: &BTreeMap<String, Door>) -> Response<Full<Bytes>> {
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "expected GET\n");
    }
    let path = request.uri().path();
    if path == "/livez" {
        return text(StatusCode::OK, "alive\n");
    }
    match path.strip_prefix("/probe/").and_then(|name| doors.get(name)) {
        None => text(StatusCode::NOT_FOUND, "expected /livez, or /probe/ and a probe of probes.replay\n"),
        Some(door) => match door.outcome().await {
            Ok(()) => text(StatusCode::OK, "ok\n"),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        },
    }
}

//! The operator's port: is it alive, is it ready, what did it count; and on this machine alone, how is it set and whom does
//! it remember. HTTP/1.1 in plain text, for probes, for Prometheus and for `curl`.
//!
//! ```text
//! GET  /livez      200 while the process answers
//! GET  /readyz     200, or 503 with a line for each reason
//! GET  /metrics    Prometheus' text format (0.0.4), whatever is asked for
//! GET  /config     loopback only: what was set, secrets left out
//! GET  /sessions   loopback only: digests, counts and ages
//! PUT  /log        loopback only: what is logged from now on, as --log takes it
//! PUT  /drain      loopback only: calls should go elsewhere from now on; those that come are served
//! ```

use std::convert::Infallible;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::listen::{Arrival, Listener};
use super::predict::Predictor;
use super::quota::Quota;
use crate::session::{Embedded, Store};
use crate::telemetry::{Stock, set_level};

/// Connections at once, and of one address: a probe, a scraper and a person need three, and nobody may keep them out.
const CONNECTIONS: usize = 512;
const CONNECTIONS_OF_ONE: usize = 16;

/// A connection may be silent before a request for this long.
const SILENCE: Duration = Duration::from_secs(5);

/// A connection lasts this long, whoever reads or does not; who wants more makes another.
const LIFE: Duration = Duration::from_secs(30);

/// The longest filter that is taken, in bytes.
const FILTER: usize = 4096;

/// Sessions shown.
const SHOWN: usize = 1000;

const TEXT: &str = "text/plain; charset=utf-8";
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers until it is dropped. While calls in flight end it still answers, and says that it is not ready.
pub(super) async fn serve(
    listener: Listener,
    predictor: Arc<Predictor<Embedded>>,
    draining: watch::Receiver<bool>,
) {
    let places = Quota::new(CONNECTIONS, CONNECTIONS_OF_ONE);
    let mut connections = JoinSet::new();
    loop {
        let arrival = tokio::select! {
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            arrival = listener.accept() => arrival,
        };
        let Ok(arrival) = arrival else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let Some(place) = places.take(arrival.origin(), 1) else { continue };
        let (predictor, draining) = (Arc::clone(&predictor), draining.clone());
        connections.spawn(async move {
            let _place = place;
            serve_one(arrival, predictor, draining).await;
        });
    }
}

async fn serve_one(arrival: Arrival, predictor: Arc<Predictor<Embedded>>, draining: watch::Receiver<bool>) {
    let Ok((stream, peer)) = arrival.shake_hands().await else { return };
    // Who reaches a UNIX socket is on this machine. Of loopback's addresses only its own: a mesh hands on what came from the network
    // under another (127.0.0.6).
    let own = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let local = peer.address.is_none_or(|address| own.contains(&address.to_canonical()));
    let service = service_fn(move |request| {
        let (predictor, draining) = (Arc::clone(&predictor), *draining.borrow());
        async move { Ok::<_, Infallible>(answer(request, &predictor, draining, local).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(SILENCE)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = tokio::time::timeout(LIFE, connection).await {
        tracing::debug!(%error, "a connection to the admin port ended");
    }
}

async fn answer(
    request: Request<Incoming>,
    predictor: &Predictor<Embedded>,
    draining: bool,
    local: bool,
) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let allowed: &[Method] = match path.as_str() {
        "/log" | "/drain" => &[Method::PUT],
        _ => &[Method::GET, Method::HEAD],
    };
    // A page in a browser on this machine may reach the port under a name of its own, which is not ours, or under ours, and then its
    // browser says so.
    let by_a_page = |name: &str| request.headers().contains_key(name);
    let here = local
        && request.headers().get(HOST).is_none_or(names_this_machine)
        && !["origin", "sec-fetch-site"].into_iter().any(by_a_page);
    match path.as_str() {
        "/livez" | "/readyz" | "/metrics" => {}
        "/config" | "/sessions" | "/log" | "/drain" if here => {}
        "/config" | "/sessions" | "/log" | "/drain" => {
            return text(StatusCode::FORBIDDEN, "from this machine only\n");
        }
        _ => return text(StatusCode::NOT_FOUND, "expected /livez, /readyz or /metrics\n"),
    }
    if !allowed.contains(request.method()) {
        let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "");
        let named = allowed.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
        refusal.headers_mut().insert(ALLOW, HeaderValue::try_from(named).expect("methods and commas"));
        return refusal;
    }
    match path.as_str() {
        "/livez" => text(StatusCode::OK, "alive\n"),
        "/readyz" => readiness(predictor, draining),
        "/metrics" => page(StatusCode::OK, CLASSIC, predictor.telemetry.metrics.prometheus()),
        "/config" => {
            let written = predictor.live.load().config.written.redacted();
            page(StatusCode::OK, "application/toml", written)
        }
        "/sessions" => page(StatusCode::OK, "application/json", sessions(predictor)),
        "/drain" => {
            tracing::info!("told to leave: not ready from now on, while calls are served");
            predictor.readiness.leave();
            text(StatusCode::OK, "draining\n")
        }
        _ => log(request).await,
    }
}

/// Whether a `Host` is a name that only this machine has.
fn names_this_machine(host: &HeaderValue) -> bool {
    let Ok(host) = host.to_str() else { return false };
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Why calls should, or should not, be sent here.
fn readiness(predictor: &Predictor<Embedded>, draining: bool) -> Response<Full<Bytes>> {
    let mut reasons = predictor.readiness.reasons();
    if draining {
        reasons.push("draining: calls in flight are ending".to_owned());
    }
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut said = String::new();
    for reason in &reasons {
        let _ = writeln!(said, "not ready: {reason}");
    }
    if reasons.is_empty() {
        said.push_str("ready\n");
    }
    if predictor.live.load().shares_callers() {
        said.push_str(
            "note: calls without an identity of their own are only observed; see caller.metadata\n",
        );
    }
    text(status, said)
}

/// What is held at the moment.
pub(super) fn stock(predictor: &Predictor<Embedded>) -> Stock {
    let stats = predictor.store.stats();
    let gaps = predictor.times.gaps.distances().into_iter();
    Stock {
        sessions: (stats.sessions, stats.established, stats.suspected),
        entries: (stats.anchors, stats.ghosts),
        bytes: (stats.bytes, predictor.store.limits().bytes),
        evictions: stats.departures.by_reason().to_vec(),
        oversized: stats.oversized_answers,
        upstream_ready: predictor.readiness.upstream_ready(),
        upstream_exposed: predictor.readiness.upstream_exposed(),
        gaps: gaps.map(|gap| (predictor.telemetry.metrics.model(&gap.model), gap.distance)).collect(),
    }
}

/// The sessions as JSON, one object a line. Their groups are names that models or settings have; nothing needs more escaping
/// than Rust's own.
fn sessions(predictor: &Predictor<Embedded>) -> String {
    let glances = predictor.store.glances(SHOWN);
    let mut lines = Vec::with_capacity(glances.len());
    for glance in glances {
        let caller = predictor.telemetry.caller_name(&glance.key.caller.0);
        lines.push(format!(
            "  {{\"caller\": \"{caller}\", \"group\": \"{}\", \"verified\": {}, \"established\": {}, \"suspected\": {}, \
             \"anchors\": {}, \"ghosts\": {}, \"bytes\": {}, \"silent_seconds\": {}}}",
            escaped(&glance.key.group),
            glance.verified,
            glance.established,
            glance.suspected,
            glance.anchors,
            glance.ghosts,
            glance.bytes,
            glance.silent.as_secs(),
        ));
    }
    format!("[\n{}\n]\n", lines.join(",\n"))
}

/// Text as it stands inside a JSON string.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '"' | '\\' => {
                escaped.push('\\');
                escaped.push(letter);
            }
            letter if letter.is_control() => {
                let _ = write!(escaped, "\\u{:04x}", letter as u32);
            }
            letter => escaped.push(letter),
        }
    }
    escaped
}

async fn log(request: Request<Incoming>) -> Response<Full<Bytes>> {
    let Ok(body) = Limited::new(request.into_body(), FILTER).collect().await else {
        return text(StatusCode::PAYLOAD_TOO_LARGE, format!("expected at most {FILTER} bytes\n"));
    };
    let filter = String::from_utf8_lossy(&body.to_bytes()).trim().to_owned();
    match set_level(&filter) {
        Ok(()) => {
            tracing::warn!(filter, "what is logged was changed");
            text(StatusCode::OK, format!("{filter}\n"))
        }
        Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}

/// A page of plain text.
pub(super) fn text(status: StatusCode, said: impl Into<Bytes>) -> Response<Full<Bytes>> {
    page(status, TEXT, said)
}

fn page(status: StatusCode, kind: &'static str, said: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(said.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_open_its_own_pages() {
        let named = |host: &str| names_this_machine(&HeaderValue::from_str(host).unwrap());
        for host in ["localhost", "localhost:9902", "127.0.0.1:9902", "127.8.8.8", "[::1]:9902"] {
            assert!(named(host), "{host}");
        }
        for host in ["evil.example", "10.0.0.1:9902", "localhost.evil.example", "", "[::2]:1"] {
            assert!(!named(host), "{host}");
        }
    }

    #[test]
    fn names_stay_inside_their_quotation_marks() {
        assert_eq!(escaped("a\"b\\c\nd\u{e9}"), "a\\\"b\\\\c\\u000ad\u{e9}");
    }
}

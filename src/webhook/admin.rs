//! The operator's port: `/livez`, `/readyz` and `/metrics`, over HTTP/1.1 in plain text.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Shared;
use super::server::{Places, page};

const TEXT: &str = "text/plain; charset=utf-8";
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A connection may be silent before and between requests for this long.
const SILENCE: Duration = Duration::from_secs(30);

/// Answers until it is dropped.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>, stop: watch::Receiver<bool>) {
    let places = Arc::new(Places::default());
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let Some(place) = Places::take(&places, peer) else { continue };
        let (shared, stop) = (Arc::clone(&shared), stop.clone());
        connections.spawn(async move {
            let _place = place;
            let service = service_fn(move |request| {
                let answer = answer(&request, &shared, *stop.borrow());
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(SILENCE)
                .max_buf_size(16 << 10)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the admin port ended");
            }
        });
    }
}

fn answer(request: &Request<Incoming>, shared: &Shared, stopping: bool) -> Response<Full<Bytes>> {
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        return page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "expected GET\n");
    }
    match request.uri().path() {
        "/livez" => page(StatusCode::OK, TEXT, "alive\n"),
        "/readyz" => {
            let reason = if stopping {
                "not ready: stopping\n"
            } else if !shared.served.is_there() {
                "not ready: there is no certificate to serve yet\n"
            } else if shared.metrics.trusted.get() == 0 {
                "not ready: the API server was not told yet to trust our certificate\n"
            } else {
                return page(StatusCode::OK, TEXT, "ready\n");
            };
            page(StatusCode::SERVICE_UNAVAILABLE, TEXT, reason)
        }
        "/metrics" => page(StatusCode::OK, CLASSIC, shared.metrics.page()),
        _ => page(StatusCode::NOT_FOUND, TEXT, "expected /livez, /readyz or /metrics\n"),
    }
}

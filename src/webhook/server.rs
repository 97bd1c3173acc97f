//! `POST /mutate` over HTTPS. The API server alone should ask, but whoever reaches the port may try: connections, header and
//! body times, body sizes and the work at one moment are all bounded, and no one address can take every place.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::Shared;
use super::review::{self, Verdict};

/// The longest review, in bytes. The API server takes objects of at most 3 MiB.
const BODY: usize = 4 << 20;

/// Connections at once, and those of one address.
const CONNECTIONS: (usize, usize) = (256, 64);

/// Bytes of bodies held at one moment, counted as they arrive: who sends slowly holds little.
const HELD: usize = 16 << 20;

/// Reviews answered at one moment. One takes well under a millisecond, and what a hostile one takes in memory meanwhile is
/// many times its length.
const AT_ONCE: usize = 1;

/// A TLS handshake, a request's header, a request's body and a place among those at work each have this long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reviews in flight have this long once we are told to stop.
const LAST: Duration = Duration::from_secs(10);

const BUSY: &str = "too many reviews at once; ask again\n";

/// Serves until `stop` turns true.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    shared: Arc<Shared>,
    mut stop: watch::Receiver<bool>,
) {
    let places = Arc::new(Places::default());
    let room = Arc::new(Room { bytes: Semaphore::new(HELD), desk: Semaphore::new(AT_ONCE) });
    let acceptor = TlsAcceptor::from(tls);
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, peer)) = accepted else {
            // No file descriptors left, or a peer that went away: passing.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let Some(place) = Places::take(&places, peer) else {
            shared.metrics.refused.inc();
            continue;
        };
        let (acceptor, shared, room, stop) =
            (acceptor.clone(), Arc::clone(&shared), Arc::clone(&room), stop.clone());
        connections.spawn(async move {
            let _place = place;
            serve_one(stream, acceptor, shared, room, stop).await;
        });
    }
    // Closed first, so that the API server asks another replica.
    drop(listener);
    let ended = timeout(LAST, async { while connections.join_next().await.is_some() {} });
    if ended.await.is_err() {
        tracing::warn!("reviews were still in flight at the end");
    }
}

async fn serve_one(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    shared: Arc<Shared>,
    room: Arc<Room>,
    mut stop: watch::Receiver<bool>,
) {
    let _ = stream.set_nodelay(true);
    let stream = match timeout(PATIENCE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "no TLS"),
        Err(_) => return tracing::debug!("no TLS in time"),
    };
    let service = service_fn(move |request| {
        let (shared, room) = (Arc::clone(&shared), Arc::clone(&room));
        async move { Ok::<_, Infallible>(answer(request, &shared, &room).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = async { drop(stop.wait_for(|stop| *stop).await) } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}

async fn answer(request: Request<Incoming>, shared: &Arc<Shared>, room: &Room) -> Response<Full<Bytes>> {
    if request.uri().path() != "/mutate" {
        return said(StatusCode::NOT_FOUND, "expected /mutate\n");
    }
    if request.method() != Method::POST {
        let mut refusal = said(StatusCode::METHOD_NOT_ALLOWED, "expected POST\n");
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return refusal;
    }
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.split(';').next().map(str::trim) != Some("application/json") {
        return unreadable(
            shared,
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "expected content-type application/json\n",
        );
    }
    let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let too_long = || {
        let most = format!("expected an AdmissionReview of at most {BODY} bytes\n");
        unreadable(shared, StatusCode::PAYLOAD_TOO_LARGE, most)
    };
    if length.is_some_and(|length: u64| length > BODY as u64) {
        return too_long();
    }
    // Time runs out for the whole body: who sends a byte now and then is served no longer than others.
    let body = match timeout(PATIENCE, read(request.into_body(), &room.bytes)).await {
        Ok(Ok(body)) => body,
        Ok(Err(Unread::TooLong)) => return too_long(),
        Ok(Err(Unread::NoRoom)) => return said(StatusCode::SERVICE_UNAVAILABLE, BUSY),
        Ok(Err(Unread::Ended(error))) => {
            return unreadable(shared, StatusCode::BAD_REQUEST, format!("the body ended early: {error}\n"));
        }
        Err(_) => return unreadable(shared, StatusCode::REQUEST_TIMEOUT, "the body took too long\n"),
    };
    let Ok(Ok(_seat)) = timeout(PATIENCE, room.desk.acquire()).await else {
        return said(StatusCode::SERVICE_UNAVAILABLE, BUSY);
    };
    let (at_work, Body { bytes, held }) = (Arc::clone(shared), body);
    // A large pod takes milliseconds of arithmetic.
    let answered = tokio::task::spawn_blocking(move || review::answer(&bytes, &at_work.settings)).await;
    drop(held);
    match answered {
        Ok(Ok((verdict, answer))) => {
            shared.metrics.count(verdict);
            page(StatusCode::OK, "application/json", answer)
        }
        Ok(Err(reason)) => unreadable(shared, StatusCode::BAD_REQUEST, format!("{reason}\n")),
        Err(error) => {
            tracing::error!(%error, "a review could not be answered");
            said(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the review could not be answered; see the webhook's log\n",
            )
        }
    }
}

/// What reviews in flight share.
#[derive(Debug)]
struct Room {
    bytes: Semaphore,
    desk: Semaphore,
}

/// A body, and its share of the bytes that may be held.
struct Body<'a> {
    bytes: Vec<u8>,
    held: Option<SemaphorePermit<'a>>,
}

/// Why a body was not read to its end.
enum Unread {
    TooLong,
    NoRoom,
    Ended(hyper::Error),
}

async fn read(mut incoming: Incoming, room: &Semaphore) -> Result<Body<'_>, Unread> {
    let mut body = Body { bytes: Vec::new(), held: None };
    while let Some(frame) = incoming.frame().await {
        let Ok(data) = frame.map_err(Unread::Ended)?.into_data() else { continue };
        if body.bytes.len() + data.len() > BODY {
            return Err(Unread::TooLong);
        }
        let more = room.try_acquire_many(data.len() as u32).map_err(|_| Unread::NoRoom)?;
        match &mut body.held {
            Some(held) => held.merge(more),
            none => *none = Some(more),
        }
        body.bytes.extend_from_slice(&data);
    }
    Ok(body)
}

/// What is no review. The API server takes any such answer for a failure and, by the webhook's `failurePolicy: Fail`, refuses
/// the pod.
fn unreadable(shared: &Shared, status: StatusCode, why: impl Into<Bytes>) -> Response<Full<Bytes>> {
    shared.metrics.count(Verdict::Unreadable);
    let mut refusal = said(status, why);
    // The rest of a body that is not read would be taken for the next request.
    refusal.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    refusal
}

fn said(status: StatusCode, what: impl Into<Bytes>) -> Response<Full<Bytes>> {
    page(status, "text/plain; charset=utf-8", what)
}

/// A page of a kind.
pub(super) fn page(status: StatusCode, kind: &'static str, what: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(what.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Who has how many connections open. The lock is held for map accesses alone.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<HashMap<IpAddr, usize>>);

/// A connection's place, free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    address: IpAddr,
}

impl Places {
    /// A place for a connection from `peer`, where there is one.
    pub(super) fn take(places: &Arc<Self>, peer: SocketAddr) -> Option<Place> {
        let address = peer.ip().to_canonical();
        let mut held = places.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = held.values().sum();
        let own = held.get(&address).copied().unwrap_or_default();
        if all >= CONNECTIONS.0 || own >= CONNECTIONS.1 {
            return None;
        }
        held.insert(address, own + 1);
        drop(held);
        Some(Place { places: Arc::clone(places), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = held.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                held.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_takes_every_place() {
        let places = Arc::new(Places::default());
        let from = |last: u8| SocketAddr::from(([10, 0, 0, last], 1));
        let mut held: Vec<_> = (0..CONNECTIONS.1).map(|_| Places::take(&places, from(1)).unwrap()).collect();
        assert!(Places::take(&places, from(1)).is_none(), "one address has its share");
        held.push(Places::take(&places, from(2)).unwrap());
        drop(held);
        assert!(places.0.lock().unwrap().is_empty(), "what is free is forgotten");
    }
}

//! One connection's calls, each to the place that its path names.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::watch;
use tower::{Service, ServiceExt};

use super::body::{Body, BoxError};
use super::listen::{BoxedStream, Peer};
use super::own::OwnLanes;
use super::passthrough;
use super::predict::Predictor;
use super::route::Route;
use super::status::CallError;
use super::stream;
use super::witness::{self, Witness};
use crate::session::Store;

/// Flow-control windows in bytes, of a stream and of a connection; their ratio as in `upstream.rs`.
const WINDOWS: (u32, u32) = (1 << 20, 64 << 20);

/// The largest DATA frame that a caller may send, in bytes.
const FRAME: u32 = 1 << 20;

/// What a connection buffers of bytes not yet sent, per stream.
const SEND_BUFFER: usize = 1 << 20;

/// The longest header block of a call, in bytes.
const HEADERS: u32 = 64 << 10;

/// A silent peer is asked for a sign of life after the first time, and cut off after the second.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));

/// A gRPC service of our own that tonic generated: health.
pub(super) trait OwnService:
    Service<Request<Incoming>, Response = Response<tonic::body::Body>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> OwnService for S where
    S: Service<Request<Incoming>, Response = Response<tonic::body::Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// One connection: what its calls share.
pub(super) struct Connection<S, H> {
    predictor: Arc<Predictor<S>>,
    health: H,
    peer: Arc<Peer>,
    /// Its own connections to the model server.
    lanes: Arc<OwnLanes>,
}

impl<S, H: Clone> Clone for Connection<S, H> {
    fn clone(&self) -> Self {
        Self {
            predictor: Arc::clone(&self.predictor),
            health: self.health.clone(),
            peer: Arc::clone(&self.peer),
            lanes: Arc::clone(&self.lanes),
        }
    }
}

impl<S, H> Connection<S, H>
where
    S: Store,
    H: OwnService,
{
    pub(super) fn new(predictor: Arc<Predictor<S>>, health: H, peer: Peer) -> Self {
        let lanes = Arc::new(predictor.upstream.own_lanes());
        Self { predictor, health, peer: Arc::new(peer), lanes }
    }

    /// Serves the connection until it ends, or until `stop` turns true and its calls have ended.
    pub(super) async fn serve(self, stream: BoxedStream, stop: watch::Receiver<bool>) {
        let streams = self.predictor.live.load().config.limits.streams;
        serve_http2(stream, streams, self, stop).await;
    }

    async fn dispatch(self, mut request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path_and_query().map_or("", |path| path.as_str());
        let is_call = request.method() == Method::POST;
        let route = if is_call { self.predictor.live.load().routes.of(path) } else { Route::Unknown };
        match route {
            Route::Predict(rpc) => self.predictor.predict(rpc, request, &self.peer, &self.lanes).await,
            Route::Stream => stream::serve(&self.predictor, request, &self.peer, &self.lanes).await,
            Route::Pass => {
                let mut witness = self.witness(&request);
                witness.passes_on(self.predictor.upstream.address(), request.headers_mut());
                match passthrough::relay(self.lanes.streams(), request).await {
                    Ok(response) => witness.see_off(response),
                    Err(error) => self.predictor.refuse(error.into(), witness),
                }
            }
            Route::Health => {
                let Ok(response) = self.health.oneshot(request).await;
                response.map(|body| body.map_err(BoxError::from).boxed_unsync())
            }
            Route::Closed => {
                self.predictor.refuse(CallError::Closed(path.to_owned()), self.witness(&request))
            }
            Route::Unknown => self.predictor.refuse(CallError::Unknown, self.witness(&request)),
        }
    }

    fn witness(&self, request: &Request<Incoming>) -> Witness {
        let (predictor, path) = (&self.predictor, witness::named(request.uri().path()));
        let (authority, headers) = (request.uri().authority(), request.headers());
        Witness::of(&predictor.telemetry, path, authority, headers, &self.peer, &predictor.live.load())
    }
}

impl<S, H> Service<Request<Incoming>> for Connection<S, H>
where
    S: Store,
    H: OwnService,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { Ok(this.dispatch(request).await) })
    }
}

/// Serves `service` over one HTTP/2 connection, with the limits that every listener of ours has.
async fn serve_http2<S, B>(stream: BoxedStream, streams: u32, service: S, mut stop: watch::Receiver<bool>)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        // A `date` header would be metadata that the model server never sent.
        .auto_date_header(false)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_frame_size(FRAME)
        .max_send_buf_size(SEND_BUFFER)
        .max_concurrent_streams(streams)
        .max_header_list_size(HEADERS)
        .keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = async { drop(stop.wait_for(|stop| *stop).await) } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

/// Serves a gRPC service of our own on `listener` until `stop` turns true: the demo's model server.
pub async fn serve_local<S, B>(listener: super::Listener, service: S, mut stop: watch::Receiver<bool>)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let arrival = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            arrival = listener.accept() => arrival,
        };
        let Ok(arrival) = arrival else { continue };
        let (service, stop) = (service.clone(), stop.clone());
        connections.spawn(async move {
            if let Ok((stream, _)) = arrival.greet().await {
                serve_http2(stream, 256, service, stop).await;
            }
        });
    }
    connections.shutdown().await;
}

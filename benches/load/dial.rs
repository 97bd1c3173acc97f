//! A client with a few connections to one way, and what it asks of an operator's port.

use std::io::{Read, Write};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

use crate::upstream::OnThisThread;

/// Flow-control windows for replies, of a stream and of a connection.
const WINDOWS: (u32, u32) = (1 << 20, 16 << 20);

/// One connection; its clones share it.
#[derive(Clone)]
pub(crate) struct Caller(SendRequest<Full<Bytes>>);

impl Caller {
    /// `address` is `ip:port` or `unix:/path`.
    pub(crate) async fn connect(address: &str) -> Self {
        let mut builder = http2::Builder::new(OnThisThread);
        builder.initial_stream_window_size(WINDOWS.0).initial_connection_window_size(WINDOWS.1);
        let sender = if let Some(path) = address.strip_prefix("unix:") {
            let stream = UnixStream::connect(path).await.unwrap();
            let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
            tokio::task::spawn_local(connection);
            sender
        } else {
            let stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
            tokio::task::spawn_local(connection);
            sender
        };
        Self(sender)
    }

    /// From the request's first byte to the reply's trailers; an error is what was said instead.
    pub(crate) async fn call(&mut self, frame: Bytes, caller: &str) -> Result<Duration, String> {
        let request = Request::post("http://model.server/inference.GRPCInferenceService/ModelInfer")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", "bench")
            .header("x-caller", caller)
            .body(Full::new(frame))
            .map_err(|error| error.to_string())?;
        self.0.ready().await.map_err(|error| error.to_string())?;
        let begin = Instant::now();
        let reply = self.0.send_request(request).await.map_err(|error| error.to_string())?;
        let (head, mut body) = reply.into_parts();
        let (mut bytes, mut trailers) = (0, HeaderMap::new());
        while let Some(frame) = body.frame().await {
            match frame.map_err(|error| error.to_string())?.into_data() {
                Ok(data) => bytes += data.len(),
                Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
            }
        }
        let took = begin.elapsed();
        let status = trailers.get("grpc-status").or_else(|| head.headers.get("grpc-status"));
        match status {
            Some(status) if status == "0" && bytes > 5 => Ok(took),
            _ => Err(format!("{} {:?} {trailers:?}, {bytes} bytes", head.status, head.headers)),
        }
    }
}

/// The page of metrics at `admin` (`ip:port`).
pub(crate) fn metrics(admin: &str) -> String {
    let mut stream = std::net::TcpStream::connect(admin).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    page
}

/// The sum of all series of `name` on a page of metrics whose labels hold `label`.
pub(crate) fn sum(page: &str, name: &str, label: &str) -> f64 {
    let of_series = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        let rest = series.strip_prefix(name)?;
        let is_it = (rest.is_empty() || rest.starts_with('{')) && rest.contains(label);
        is_it.then(|| value.parse::<f64>().ok()).flatten()
    };
    page.lines().filter_map(of_series).sum()
}

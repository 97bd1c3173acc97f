//! The operator sees everything, the caller nothing.
//!
//! ```text
//! traces.rs     the spans of calls
//! privacy.rs    what nobody is told, and that no caller sees a difference
//! metrics.rs    the page, and what is pushed
//! exporting.rs  collectors that fail, and those that are not to be trusted
//! admin.rs      the operator's port
//! ```

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod admin;
mod exporting;
mod metrics;
mod privacy;
mod traces;

use support::collector::{Collector, Manner};
use support::upstream::ok_trailers;
use support::{Running, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const STREAM: &str = "/inference.GRPCInferenceService/ModelStreamInfer";

/// A sidecar that tells a collector of its calls.
async fn traced(settings: &str) -> (Collector, Running) {
    let collector = Collector::start(Manner::Takes).await;
    let world = World::new().config(&collector.settings()).config(settings).start().await;
    (collector, world)
}

/// The fake model server has the streaming call: messages of ordinary models never get there.
fn has_streams(world: &Running) {
    world.upstream.on(STREAM, |mut exchange| async move {
        let mut sending = exchange.respond.send_response(http::Response::new(()), false).unwrap();
        sending.send_trailers(ok_trailers()).unwrap();
    });
}

/// A page of the admin port, head and all.
async fn get(address: &str, path: &str) -> String {
    ask(address, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")).await
}

async fn ask(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A server that refuses may not read to the end.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said).await;
    String::from_utf8_lossy(&said).into_owned()
}

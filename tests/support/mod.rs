//! A world in a few lines: a fake model server, the sidecar in this process, and a client that writes its own frames.
//!
//! The real Triton is in `tests/triton`; the fake stands beside it for what the real one cannot be made to do: to break off, to
//! refuse, to wait for a word, to answer the same question differently each time.
//!
//! ```text
//! upstream.rs  the fake: what it is asked is remembered, what it answers is scripted
//! collector.rs an OTLP collector that behaves as badly as a test wants
//! client.rs    HTTP/2 without a gRPC library, so that a test sees every header and frame
//! kserve.rs    questions to the fake's model `clf`, and what its answers say
//! tensorflow.rs the same over TensorFlow Serving's calls
//! pictures.rs  drawn pictures: by seed, and near-copies of them
//! pacing.rs    a pacer that holds until it is told
//! ```

// Each test file is a crate of its own and uses a part of this.
#![allow(dead_code)]

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use refrain::config::{Config, from_text};
use refrain::proxy::Sidecar;
use refrain::session::Stats;
use refrain::telemetry::{Telemetry, Totals};
use refrain::timing::{ClockPacer, Pacer};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(crate) mod client;
pub(crate) mod collector;
pub(crate) mod kserve;
pub(crate) mod pacing;
pub(crate) mod pictures;
pub(crate) mod tensorflow;
pub(crate) mod upstream;

pub(crate) use client::Client;
pub(crate) use upstream::Fake;

/// No wait in a test is longer: what has not happened by then will not happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The outcome of `work`, which must come within [`PATIENCE`].
pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(outcome) => outcome,
        Err(_) => unreachable!("{what}: not within {PATIENCE:?}"),
    }
}

/// Waits until `condition` holds, looking often; for what has no event of its own.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    within(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// A sidecar that is yet to start.
pub(crate) struct World {
    config: String,
    listen: String,
    pacer: Arc<dyn Pacer>,
}

/// A sidecar that serves, and the model server behind it.
pub(crate) struct Running {
    /// Where it listens, as settings write it.
    pub(crate) address: String,
    /// The model server.
    pub(crate) upstream: Fake,
    telemetry: Arc<Telemetry>,
    /// Where the operator's port is, where there is one.
    pub(crate) admin: Option<String>,
    /// Where the pod's probes are answered, where they are.
    pub(crate) probes: Option<String>,
    stats: Box<dyn Fn() -> Stats + Send + Sync>,
    stop: watch::Sender<bool>,
    serving: JoinHandle<bool>,
}

impl World {
    /// The defaults on a free port of this machine, without a hold.
    pub(crate) fn new() -> Self {
        Self { config: String::new(), listen: "127.0.0.1:0".into(), pacer: Arc::new(ClockPacer) }
    }

    /// Settings on top, as TOML.
    pub(crate) fn config(mut self, text: &str) -> Self {
        self.config.push_str(text);
        self.config.push('\n');
        self
    }

    /// Another address to listen on.
    pub(crate) fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen = address.into();
        self
    }

    /// Another pacer.
    pub(crate) fn pacer(mut self, pacer: Arc<dyn Pacer>) -> Self {
        self.pacer = pacer;
        self
    }

    /// Starts a fake model server and the sidecar in front of it; returns once the two are connected.
    pub(crate) async fn start(self) -> Running {
        self.start_before(Fake::start().await).await
    }

    /// The same before a model server that is there already, or is yet to come.
    pub(crate) async fn start_before(self, upstream: Fake) -> Running {
        let (listen, upstream_address) = (&self.listen, upstream.address());
        let base = format!("listen = '{listen}'\nupstream = '{upstream_address}'\n[timing]\nmode = 'off'");
        let layers = [&base, &self.config].map(|text| from_text(text).expect("the test's TOML parses"));
        let config = Config::from_layers(layers).expect("the test's settings are valid");
        let sidecar = Sidecar::bind(config, self.pacer).await.expect("a free address can be bound");
        let (stop, stopped) = watch::channel(false);
        let running = Running {
            address: sidecar.address(),
            telemetry: sidecar.telemetry(),
            admin: sidecar.admin_address(),
            probes: sidecar.probes_address(),
            stats: Box::new(sidecar.store()),
            upstream,
            stop,
            serving: tokio::spawn(sidecar.serve(stopped)),
        };
        if running.upstream.is_up() {
            running.upstream.until_asked("/inference.GRPCInferenceService/ServerReady", 1).await;
        }
        running
    }
}

impl Running {
    /// A new connection to the sidecar.
    pub(crate) async fn client(&self) -> Client {
        Client::connect(&self.address).await
    }

    /// What the sidecar counted.
    pub(crate) fn totals(&self) -> Totals {
        self.telemetry.metrics.totals()
    }

    /// Its page of metrics.
    pub(crate) fn metrics(&self) -> String {
        self.telemetry.metrics.prometheus()
    }

    /// What its store holds.
    pub(crate) fn stats(&self) -> Stats {
        (self.stats)()
    }

    /// Tells the sidecar to stop and goes on at once.
    pub(crate) fn tell_to_stop(&self) {
        self.stop.send_replace(true);
    }

    /// Stops the sidecar; true where every connection had ended by itself.
    pub(crate) async fn stop(self) -> bool {
        self.tell_to_stop();
        within("the sidecar stops", self.serving).await.expect("the sidecar does not panic")
    }
}

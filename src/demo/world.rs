//! Everything that the demo runs: the model server, Refrain in front of it, each on a loopback port of its own.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::DemoError;
use super::client::Client;
use super::model::Classifier;
use super::photos::Photo;
use super::server::{CALLER, MODEL, ModelServer};
use crate::config::{Address, Config, from_text};
use crate::proxy::{Listener, Sidecar, serve_local};
use crate::telemetry::Totals;
use crate::timing::FinePacer;

/// More forwarded calls than the time layer asks for.
const KNOWN: usize = 20;

/// A model server and the sidecar before it, both serving.
pub(super) struct World {
    /// The model server itself, for what it counts.
    pub model: Arc<ModelServer>,
    /// Where the bare model answers.
    pub bare: SocketAddr,
    /// Where Refrain answers.
    pub refrain: SocketAddr,
    totals: Box<dyn Fn() -> Totals + Send + Sync>,
    stop: watch::Sender<bool>,
    servers: JoinSet<()>,
}

impl World {
    /// Starts both.
    pub(super) async fn open(classifier: Classifier) -> Result<Self, DemoError> {
        let (stop, stopping) = watch::channel(false);
        let mut servers = JoinSet::new();

        let model = Arc::new(ModelServer::new(classifier)?);
        let any = Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
        let listener = Listener::bind(&any, Arc::new(ArcSwapOption::empty()))
            .await
            .map_err(|error| DemoError::Listen(error.to_string()))?;
        let bare = address(&listener.address())?;
        servers.spawn(serve_local(listener, model.service(), stopping.clone()));

        let settings = Config::from_layers([from_text(&settings(bare))?])?;
        let pacer = FinePacer::new().map_err(|error| DemoError::Thread(error.to_string()))?;
        let sidecar = Sidecar::bind(settings, Arc::new(pacer)).await?;
        let refrain = address(&sidecar.address())?;
        let telemetry = sidecar.telemetry();
        let totals = Box::new(move || telemetry.metrics.totals());
        servers.spawn(async move {
            sidecar.serve(stopping).await;
        });
        Ok(Self { model, bare, refrain, totals, stop, servers })
    }

    /// Asks as many questions, each by a caller that never asked before, as the time layer must know before it gives replies a time: until
    /// then it asks the model for near-copies too, and drops the answers.
    pub(super) async fn make_times_known(&self, photo: &Photo, when: &str) -> Result<(), DemoError> {
        for turn in 0..KNOWN {
            let mut client = Client::connect(self.refrain, &format!("before {when}/{turn}")).await?;
            client.ask(&photo.picture).await?;
        }
        Ok(())
    }

    /// What Refrain has counted so far.
    pub(super) fn totals(&self) -> Totals {
        (self.totals)()
    }

    /// Stops both and waits for them.
    pub(super) async fn close(mut self) -> Result<(), DemoError> {
        self.stop.send_replace(true);
        while let Some(ended) = self.servers.join_next().await {
            ended.map_err(|error| DemoError::Task(error.to_string()))?;
        }
        Ok(())
    }
}

/// The sidecar's settings: every number of judgment, store and time layer by default. The demo says only where the model is, who its
/// callers are, and what its values mean, which is otherwise settled by the first sixteen pictures.
fn settings(model_server: SocketAddr) -> String {
    format!(
        r#"
        listen = "127.0.0.1:0"
        upstream = "http://{model_server}"
        caller = {{ metadata = "{CALLER}", trusted_peers = ["127.0.0.0/8"] }}
        models.{MODEL}.range = "0..1"
        "#
    )
}

fn address(written: &str) -> Result<SocketAddr, DemoError> {
    written.parse().map_err(|_| DemoError::Listen(format!("{written:?} is no address of a port")))
}

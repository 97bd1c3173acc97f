//! The journey: sockets and gRPC. `serve` binds nothing and decides nothing; it puts the pieces in call order.
//!
//! ```text
//! workers.rs      the threads, each with its share of the connections
//! jobs.rs         long work, off them
//! listen.rs       a connection comes in: TCP or UNIX, TLS or plain
//! tls.rs          files into TLS configurations, certificates into names
//! connection.rs   one connection's calls, each to the place that its path names
//! route.rs        which call is this
//! readiness.rs    should calls be sent here
//! health.rs       grpc.health.v1, in the model server's name
//! passthrough.rs  a call that is let through: bytes on and bytes back
//! witness.rs      what the operator is told of each call
//! verdict.rs      what was ruled, in the operator's words
//! call.rs         who asks, under which settings, until when
//! predict.rs      ★ a call that is judged, from first to last
//! stream.rs       a stream of such calls, in order
//! live.rs         the settings that it came under
//! models.rs       what is known of the model that it asks
//! frame.rs        its message, read within bounds
//! quota.rs        and within budgets
//! read.rs         its message into likenesses
//! headers.rs      which of its headers a server may refuse
//! replay.rs       ★ where a replayed row has its answer from, and what hides it
//! release.rs      when its reply leaves
//! forward.rs      the request that goes on to the model server
//! upstream.rs     the model server, and one call to it
//! unary.rs        ... over a connection for such calls
//! lane.rs         a connection that keeps itself up
//! connect.rs      how it is made
//! template.rs     what a reply looks like around its message
//! count.rs        how many of something there are
//! body.rs         bodies that keep frames and trailers as they are
//! status.rs       errors into statuses
//! admin.rs        the operator's own port
//! probes.rs       the pod's probes, asked in its stead
//! bypass.rs       can the model server be reached past us
//! ```

mod workers;
mod jobs;
mod listen;
mod tls;
mod connection;
mod route;
mod readiness;
mod health;
mod passthrough;
mod witness;
mod verdict;
mod call;
mod predict;
mod stream;
mod models;
mod live;
mod frame;
mod quota;
mod read;
mod headers;
mod replay;
mod release;
mod forward;
mod upstream;
mod unary;
mod lane;
mod own;
mod connect;
mod template;
mod count;
mod body;
mod status;
mod admin;
mod probes;
mod bypass;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use connection::serve_local;
pub use listen::Listener;
pub use tls::TlsError;
pub use workers::Workers;

use crate::config::{BypassCheck, Config};
use crate::session::{Embedded, Stats, Store};
use crate::telemetry::Telemetry;
use crate::timing::Pacer;
use connect::Connector;
use connection::Connection;
use live::{Keys, Live};
use predict::Predictor;
use probes::{ProbePort, Serving};
use quota::Quota;
use readiness::Readiness;
use release::Times;
use upstream::Upstream;

/// A sidecar that is put together but not yet serving.
pub struct Sidecar {
    predictor: Arc<Predictor<Embedded>>,
    workers: Workers,
    listener: Listener,
    admin: Option<Listener>,
    probes: Option<Serving>,
    tls: Arc<ArcSwapOption<rustls::ServerConfig>>,
}

/// Changes the configuration of a sidecar that serves.
pub struct Reloader {
    predictor: Arc<Predictor<Embedded>>,
    tls: Arc<ArcSwapOption<rustls::ServerConfig>>,
    locally: bool,
}

/// How often every known model is asked for again, so that a reload is noticed by a session of pure replays too.
const RENEW: Duration = Duration::from_secs(2);

/// How often the store lets go of what is past its life in sessions that nobody visits.
const TIDY: Duration = Duration::from_mins(1);

/// How long the last spans may take to their collector once all calls have ended.
const LAST_EXPORT: Duration = Duration::from_secs(2);

/// Why a sidecar cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// A TLS file is missing or does not fit.
    #[error("TLS: {0}")]
    Tls(#[from] TlsError),
    /// No random numbers, so no keys.
    #[error("no random numbers: {0}")]
    Random(String),
}

impl Sidecar {
    /// Binds `config.listen` and begins to connect to the upstream, which need not be there yet. Everything is served by the
    /// runtime that this is called on.
    pub async fn bind(config: Config, pacer: Arc<dyn Pacer>) -> Result<Self, StartError> {
        Self::bind_on(Workers::here(), config, pacer).await
    }

    /// The same with connections served by `workers`.
    pub async fn bind_on(
        workers: Workers,
        config: Config,
        pacer: Arc<dyn Pacer>,
    ) -> Result<Self, StartError> {
        let server_tls = config.tls.as_ref().map(tls::server).transpose()?.map(Arc::new);
        let tls = Arc::new(ArcSwapOption::new(server_tls));
        let connector = Connector::new(&config.upstream, &config.upstream_tls)?;
        let listener = Listener::bind(&config.listen, Arc::clone(&tls))
            .await
            .map_err(|source| StartError::Listen { address: config.listen.to_string(), source })?;
        let admin = match &config.admin {
            None => None,
            Some(address) => {
                let bound = Listener::bind(address, Arc::default()).await;
                Some(bound.map_err(|source| StartError::Listen { address: address.to_string(), source })?)
            }
        };
        let probes = match ProbePort::bind(&config.probes) {
            Ok(port) => port.map(ProbePort::serve).transpose(),
            Err(error) => Err(error),
        };
        let probes = probes.map_err(|source| StartError::Listen {
            address: config.probes.listen.map(|address| address.to_string()).unwrap_or_default(),
            source,
        })?;
        let variable = |name: &str| std::env::var(name).ok();
        let telemetry = Arc::new(Telemetry::start(&config.telemetry, &variable));
        let keys = Keys { pictures: secret()?, callers: secret()? };
        let upstream = Arc::new(Upstream::open_on(workers.runtimes(), connector));
        let store = Arc::new(Embedded::new(config.store.clone()));
        let readiness = Arc::new(Readiness::new(
            !config.bypass.targets().is_empty(),
            config.bypass.check == BypassCheck::Enforce,
        ));
        let live = Live::new(config, Arc::clone(&upstream), keys, listener.is_local());
        let predictor = Arc::new(Predictor {
            live: ArcSwap::from_pointee(live),
            upstream,
            readiness,
            store,
            times: Times::new(pacer),
            key: secret()?,
            telemetry,
        });
        // Not by the sidecar itself: what it tells must not keep it.
        let watched = Arc::downgrade(&predictor);
        predictor
            .telemetry
            .metrics
            .watch(move || watched.upgrade().map(|predictor| admin::stock(&predictor)));
        Ok(Self { predictor, workers, listener, admin, probes, tls })
    }

    /// The means to change its configuration later.
    pub fn reloader(&self) -> Reloader {
        Reloader {
            predictor: Arc::clone(&self.predictor),
            tls: Arc::clone(&self.tls),
            locally: self.listener.is_local(),
        }
    }

    /// Where it listens, as settings write it.
    pub fn address(&self) -> String {
        self.listener.address()
    }

    /// Where the operator's port is, where there is one.
    pub fn admin_address(&self) -> Option<String> {
        self.admin.as_ref().map(Listener::address)
    }

    /// Where the pod's probes are answered, where they are.
    pub fn probes_address(&self) -> Option<String> {
        self.probes.as_ref().map(Serving::address)
    }

    /// What it counts and tells; readable while it serves.
    pub fn telemetry(&self) -> Arc<Telemetry> {
        Arc::clone(&self.predictor.telemetry)
    }

    /// What its store holds at the moment.
    pub fn store(&self) -> impl Fn() -> Stats + Send + Sync + 'static {
        let store = Arc::clone(&self.predictor.store);
        move || store.stats()
    }

    /// Serves until `stop` turns true, then lets calls in flight end within `limits.drain`.
    ///
    /// True where every connection ended by itself; the others are cut.
    pub async fn serve(self, mut stop: watch::Receiver<bool>) -> bool {
        // The probes are answered until the end.
        let Self { predictor, workers, listener, admin, probes: _probes, .. } = self;
        let limits = predictor.live.load().config.limits.clone();
        let (reporter, health) = health::service();
        let mut helpers = JoinSet::new();
        let readiness = Arc::clone(&predictor.readiness);
        let bypass = predictor.live.load().config.bypass.targets();
        helpers.spawn(bypass::watch(bypass, Arc::clone(&readiness), bypass::dial));
        helpers.spawn(health::watch(Arc::clone(&predictor.upstream), readiness, reporter, stop.clone()));
        helpers.spawn(renew_models(Arc::clone(&predictor)));
        helpers.spawn(tidy_store(Arc::clone(&predictor)));
        if let Some(admin) = admin {
            helpers.spawn(admin::serve(admin, Arc::clone(&predictor), stop.clone()));
        }

        let mut connections = JoinSet::new();
        let places = Quota::new(limits.connections, limits.connections_per_peer);
        let mut crowded = false;
        loop {
            let arrival = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                // Finished connections are let go of as others come.
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
                arrival = listener.accept() => arrival,
            };
            let arrival = match arrival {
                Ok(arrival) => arrival,
                Err(error) => {
                    // No descriptors left, or a peer that went away while it queued: never the end of the listener.
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            };
            let Some(place) = places.take(arrival.origin(), 1) else {
                if !std::mem::replace(&mut crowded, true) {
                    tracing::warn!(
                        "connections are refused: limits.connections or .connections_per_peer is reached"
                    );
                }
                continue;
            };
            crowded = false;
            let (predictor, health, stop) = (Arc::clone(&predictor), health.clone(), stop.clone());
            let (runtime, seat) = workers.seat();
            let connection = async move {
                let _taken = (place, seat);
                match arrival.greet().await {
                    Ok((stream, peer)) => {
                        Connection::new(predictor, health, peer).serve(stream, stop).await;
                    }
                    Err(error) => tracing::debug!(%error, "handshake failed"),
                }
            };
            connections.spawn_on(connection, runtime);
        }
        drop(listener);
        let drained =
            tokio::time::timeout(limits.drain, async { while connections.join_next().await.is_some() {} });
        let drained = drained.await.is_ok();
        if !drained {
            tracing::warn!(
                open = connections.len(),
                "connections were still open at the end of limits.drain"
            );
        }
        connections.shutdown().await;
        helpers.shutdown().await;
        predictor.telemetry.finish(LAST_EXPORT).await;
        drained
    }
}

impl Reloader {
    /// Makes `config` live for every call from now on; calls in flight end as they began. What is remembered stays, unless
    /// pictures are judged otherwise now.
    ///
    /// Returns the sections that take effect only at the next start.
    pub fn reload(&self, config: Config) -> Result<Vec<&'static str>, StartError> {
        let server_tls = config.tls.as_ref().map(tls::server).transpose()?.map(Arc::new);
        let before = self.predictor.live.load_full();
        let fixed = [
            ("listen", config.listen != before.config.listen),
            ("admin", config.admin != before.config.admin),
            ("probes", config.probes != before.config.probes),
            ("bypass", config.bypass != before.config.bypass),
            ("telemetry", !config.telemetry.tells_as(&before.config.telemetry)),
            ("upstream", config.upstream != before.config.upstream),
            ("upstream_tls", config.upstream_tls != before.config.upstream_tls),
            ("store", config.store != before.config.store),
            ("tls", config.tls.is_some() != before.config.tls.is_some()),
        ];
        let judged_otherwise = !config.judges_as(&before.config);
        if config.tls.is_some() == before.config.tls.is_some() {
            self.tls.store(server_tls);
        }
        self.predictor.live.store(Arc::new(before.succeeded_by(config, self.locally)));
        if judged_otherwise {
            tracing::warn!("pictures are judged otherwise now: what was remembered is forgotten");
            self.predictor.store.clear();
        }
        Ok(fixed.into_iter().filter_map(|(section, changed)| changed.then_some(section)).collect())
    }
}

/// Keeps what is known of models fresh, for ever: now and then, and when a reply shows that one was reloaded.
async fn renew_models(predictor: Arc<Predictor<Embedded>>) {
    loop {
        let live = predictor.live.load_full();
        tokio::select! {
            () = tokio::time::sleep(RENEW) => {}
            () = live.models.reloaded() => {}
        }
        predictor.live.load_full().models.renew_all().await;
    }
}

/// Lets go of what is past its life, for ever.
async fn tidy_store(predictor: Arc<Predictor<Embedded>>) {
    loop {
        tokio::time::sleep(TIDY).await;
        predictor.store.tidy();
    }
}

/// A key for this process alone.
fn secret() -> Result<[u8; 32], StartError> {
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(|error| StartError::Random(error.to_string()))?;
    Ok(key)
}

/// What is wrong with the TLS files that `config` names, one sentence each.
pub fn check_tls(config: &Config) -> Vec<String> {
    let server =
        config.tls.as_ref().and_then(|tls| tls::server(tls).err()).map(|error| format!("tls: {error}"));
    let upstream = Connector::new(&config.upstream, &config.upstream_tls).err();
    server.into_iter().chain(upstream.map(|error| format!("upstream_tls: {error}"))).collect()
}

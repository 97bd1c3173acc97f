//! The other role: the API server shows us each pod that is to be protected, and we put the sidecar in or refuse the pod.
//!
//! ```text
//! settings.rs    what the webhook is told
//! server.rs      POST /mutate over HTTPS, bounded in every direction
//! admin.rs       /livez /readyz /metrics
//! review.rs      AdmissionReview in, AdmissionReview out
//! mutation/      ★ a pod and the settings into a patch or a refusal; pure
//! certificates/  what the API server trusts: files, or a CA of our own
//! audit.rs       pods that run already: which of them are open
//! metrics.rs     what is counted
//! ```

mod admin;
pub mod audit;
mod certificates;
mod metrics;
pub mod mutation;
mod review;
mod server;
pub mod settings;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;

pub use certificates::CertificateError;
pub use review::{Verdict, answer};

use certificates::Served;
use metrics::Metrics;
use settings::{Certificates, Settings};

/// Why the webhook cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port cannot be listened on.
    #[error("{address}: {source}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The certificate cannot be used, or the API server not be reached.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// TLS cannot be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// A webhook with its ports open.
#[derive(Debug)]
pub struct Webhook {
    reviews: TcpListener,
    admin: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    shared: Arc<Shared>,
    keeper: certificates::Keeper,
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    settings: Settings,
    metrics: Metrics,
    served: Arc<Served>,
}

impl Webhook {
    /// Opens the ports, and finds the certificate where it is a file's; one of our own is made once it serves.
    pub async fn bind(settings: Settings) -> Result<Self, StartError> {
        let open = async |address| {
            TcpListener::bind(address).await.map_err(|source| StartError::Bind { address, source })
        };
        let (reviews, admin) = (open(settings.listen).await?, open(settings.admin).await?);
        let served = Arc::new(Served::default());
        let tls = certificates::tls(Arc::clone(&served))?;
        let shared = Arc::new(Shared { metrics: Metrics::new(), served, settings });
        let keeper = match &shared.settings.certificates {
            Certificates::Files { certificate, key } => {
                certificates::Keeper::files(certificate, key, &shared.served, &shared.metrics)?
            }
            Certificates::Own(own) => certificates::Keeper::own(own).await?,
        };
        Ok(Self { reviews, admin, tls: Arc::new(tls), shared, keeper })
    }

    /// Where reviews are answered, and where the webhook tells of itself.
    pub fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.reviews.local_addr()?, self.admin.local_addr()?))
    }

    /// Serves until `stop` turns true, then lets reviews in flight end.
    pub async fn serve(self, stop: watch::Receiver<bool>) {
        let keeping = tokio::spawn(self.keeper.keep(Arc::clone(&self.shared)));
        let telling = tokio::spawn(admin::serve(self.admin, Arc::clone(&self.shared), stop.clone()));
        server::serve(self.reviews, self.tls, self.shared, stop).await;
        keeping.abort();
        telling.abort();
    }
}

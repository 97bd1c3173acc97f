//! What the API server trusts us by. Two ways to come by it:
//!
//! ```text
//! files.rs      somebody else makes the certificate (cert-manager, Helm, a Secret): files, read again when they change
//! authority.rs  a CA and a certificate of our own: what to make, renew and hand over, and when (pure)
//! secret.rs     where those are kept, and how the API server is told
//! ```

mod authority;
mod files;
mod secret;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Shared;
use super::metrics::Metrics;
use super::settings::OwnCertificates;
use files::Files;
use secret::Cluster;

/// Why a certificate cannot be had or used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("{file}: {source}")]
    File {
        /// The file.
        file: String,
        /// Why not.
        source: std::io::Error,
    },
    /// What was read is no PEM of that kind.
    #[error("{what}: {source}")]
    Pem {
        /// What was read.
        what: String,
        /// What is wrong with it.
        source: rustls::pki_types::pem::Error,
    },
    /// A chain without certificates, or one that is none.
    #[error("{what}: expected a certificate, found none that can be read")]
    Empty {
        /// What was read.
        what: String,
    },
    /// Key and certificate do not fit each other, or are of a kind that TLS has no use for.
    #[error("{what}: {source}")]
    Unfit {
        /// What was read.
        what: String,
        /// Why not.
        source: rustls::Error,
    },
    /// A certificate of our own cannot be made.
    #[error("making a certificate: {0}")]
    Making(#[from] rcgen::Error),
    /// The API server did not do what it was asked.
    #[error("the API server: {0}")]
    Cluster(#[from] Box<kube::Error>),
    /// The API server cannot be found.
    #[error("the API server cannot be found; certificates.mode = \"self\" needs to run in a cluster: {0}")]
    NoCluster(String),
    /// What another wrote in our Secret.
    #[error("Secret {name}: {what}")]
    Secret {
        /// Its name.
        name: String,
        /// What is wrong with it.
        what: String,
    },
}

/// The certificate that is served at the moment.
#[derive(Debug, Default)]
pub(super) struct Served(ArcSwapOption<CertifiedKey>);

impl Served {
    /// Whether there is one.
    pub(super) fn is_there(&self) -> bool {
        self.0.load().is_some()
    }

    /// Serves the chain and key of `pair` from now on, and notes until when they hold.
    fn serve(&self, pair: &Pair, metrics: &Metrics) {
        metrics.expiry.set(seconds(pair.not_after));
        self.0.store(Some(Arc::clone(&pair.key)));
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

/// A certificate chain with its key, fit to be served.
#[derive(Clone, Debug)]
struct Pair {
    key: Arc<CertifiedKey>,
    not_after: SystemTime,
}

impl Pair {
    /// Reads PEM texts; `what` names them in errors.
    fn read(chain: &[u8], key: &[u8], what: &str) -> Result<Self, CertificateError> {
        let pem = |source| CertificateError::Pem { what: what.to_owned(), source };
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().map_err(pem)?;
        let first = chain.first().ok_or_else(|| CertificateError::Empty { what: what.to_owned() })?;
        let not_after = not_after(first).ok_or_else(|| CertificateError::Empty { what: what.to_owned() })?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(pem)?;
        let provider = rustls::crypto::ring::default_provider();
        // This also refuses a key that is another certificate's: half of a pair was written so far.
        let key = CertifiedKey::from_der(chain, key, &provider)
            .map_err(|source| CertificateError::Unfit { what: what.to_owned(), source })?;
        Ok(Self { key: Arc::new(key), not_after })
    }
}

/// Until when a certificate holds.
fn not_after(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    UNIX_EPOCH.checked_add(std::time::Duration::from_secs(seconds))
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// TLS as the API server speaks it: 1.2 or 1.3, and HTTP/1.1 inside.
pub(super) fn tls(served: Arc<Served>) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(served);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// What keeps the certificate fresh.
#[derive(Debug)]
pub(super) enum Keeper {
    /// Files that somebody else writes.
    Files(Files),
    /// A Secret that we write.
    Own(Box<Cluster>),
}

impl Keeper {
    /// Serves what is in the files, and goes on watching them.
    pub(super) fn files(
        certificate: &Path,
        key: &Path,
        served: &Served,
        metrics: &Metrics,
    ) -> Result<Self, CertificateError> {
        let files = Files::read(certificate, key)?;
        served.serve(files.pair(), metrics);
        // Who made it also tells the API server.
        metrics.trusted.set(1);
        Ok(Self::Files(files))
    }

    /// Finds the API server.
    pub(super) async fn own(settings: &OwnCertificates) -> Result<Self, CertificateError> {
        Ok(Self::Own(Box::new(Cluster::in_cluster(settings).await?)))
    }

    /// Keeps the certificate fresh until it is dropped.
    pub(super) async fn keep(self, shared: Arc<Shared>) {
        match self {
            Self::Files(files) => files.keep(&shared).await,
            Self::Own(cluster) => cluster.keep(&shared.served, &shared.metrics).await,
        }
    }
}

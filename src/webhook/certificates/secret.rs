//! Where our own CA and certificate are kept, and how the API server learns to trust them.
//!
//! Any number of replicas do the same, without a leader: each write of the Secret names the version that it was made from,
//! and one that comes too late reads again. The `caBundle` is told again whenever somebody (a GitOps tool, an upgrade of
//! the chart) takes it back.

use std::time::{Duration, SystemTime};

use futures_util::stream::{BoxStream, StreamExt, select};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde_json::json;

use super::authority::{Kept, Terms};
use super::{CertificateError, Pair, Served};
use crate::webhook::metrics::Metrics;
use crate::webhook::settings::OwnCertificates;

/// How often all is looked over where nothing changes.
const LOOK: Duration = Duration::from_mins(10);

/// When it is tried again after the API server failed.
const AGAIN: Duration = Duration::from_secs(5);

/// Writes that may come too late in a row.
const TRIES: usize = 10;

/// The Secret and the configuration, through the API server.
pub(in crate::webhook) struct Cluster {
    secrets: Api<Secret>,
    configurations: Api<MutatingWebhookConfiguration>,
    settings: OwnCertificates,
    terms: Terms,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Finds the API server as every program in a pod does, or by a kubeconfig outside.
    pub(super) async fn in_cluster(settings: &OwnCertificates) -> Result<Self, CertificateError> {
        let config =
            kube::Config::infer().await.map_err(|error| CertificateError::NoCluster(error.to_string()))?;
        let client = Client::try_from(config).map_err(cluster)?;
        Ok(Self::new(client, settings))
    }

    pub(super) fn new(client: Client, settings: &OwnCertificates) -> Self {
        let namespace = settings.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
        let terms = Terms { host: format!("{}.{namespace}.svc", settings.service), life: settings.life };
        Self {
            secrets: Api::namespaced(client.clone(), &namespace),
            configurations: Api::all(client),
            settings: settings.clone(),
            terms,
        }
    }

    /// Keeps the certificate fresh and trusted, for ever.
    pub(super) async fn keep(self, served: &Served, metrics: &Metrics) {
        let mut changes = self.changes();
        loop {
            let wait = match self.look(SystemTime::now()).await {
                Ok(pair) => {
                    served.serve(&pair, metrics);
                    metrics.trusted.set(1);
                    LOOK
                }
                // What is served stays, and so does what was trusted: an API server in trouble must not make us unready.
                Err(error) => {
                    tracing::error!(%error, "the webhook's certificate cannot be looked after");
                    AGAIN
                }
            };
            let _ = tokio::time::timeout(wait, changes.next()).await;
        }
    }

    /// One look: what is kept is brought up to date, then what is trusted; then the certificate may be served.
    pub(super) async fn look(&self, now: SystemTime) -> Result<Pair, CertificateError> {
        let kept = self.kept(now).await?;
        self.tell(&kept.trusted()).await?;
        kept.pair()
    }

    async fn kept(&self, now: SystemTime) -> Result<Kept, CertificateError> {
        let name = &self.settings.secret;
        for _ in 0..TRIES {
            let found = self.secrets.get_opt(name).await.map_err(cluster)?;
            let kept = found.as_ref().and_then(|secret| Kept::read(secret.data.as_ref()?));
            let Some(next) = Kept::advance(kept.as_ref(), &self.terms, now)? else {
                return kept.ok_or_else(|| CertificateError::Secret {
                    name: name.clone(),
                    what: "it went away while it was looked at".to_owned(),
                });
            };
            let is_new = found.is_none();
            let mut secret = found.unwrap_or_default();
            secret.metadata.name = Some(name.clone());
            secret.data = Some(next.write());
            // The version that was read goes along: a write in between makes this one fail.
            let params = PostParams::default();
            let written = if is_new {
                self.secrets.create(&params, &secret).await
            } else {
                self.secrets.replace(name, &params, &secret).await
            };
            match written {
                Ok(_) => {
                    tracing::info!(secret = name, "certificates of our own written");
                    return Ok(next);
                }
                Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => {
                    tracing::debug!(secret = name, "another replica wrote first");
                }
                Err(error) => return Err(cluster(error)),
            }
        }
        Err(CertificateError::Secret {
            name: name.clone(),
            what: format!("others wrote first {TRIES} times in a row"),
        })
    }

    /// Tells the API server what to trust, for every webhook of the configuration.
    async fn tell(&self, trusted: &str) -> Result<(), CertificateError> {
        let name = &self.settings.configuration;
        let bundle = ByteString(trusted.as_bytes().to_vec());
        for _ in 0..TRIES {
            let found = self.configurations.get(name).await.map_err(cluster)?;
            let webhooks = found.webhooks.iter().flatten().enumerate();
            let stale =
                webhooks.filter(|(_, webhook)| webhook.client_config.ca_bundle.as_ref() != Some(&bundle));
            let changes: Vec<_> = stale
                .flat_map(|(index, webhook)| {
                    // Somebody may have put another webhook in this place since.
                    let at = format!("/webhooks/{index}");
                    let is_it = json!({"op": "test", "path": format!("{at}/name"), "value": webhook.name});
                    [
                        is_it,
                        json!({"op": "add", "path": format!("{at}/clientConfig/caBundle"), "value": bundle}),
                    ]
                })
                .collect();
            if changes.is_empty() {
                return Ok(());
            }
            let changes =
                serde_json::from_value(json!(changes)).expect("operations of RFC 6902 as it writes them");
            let patch = Patch::<MutatingWebhookConfiguration>::Json(changes);
            match self.configurations.patch(name, &PatchParams::default(), &patch).await {
                Ok(_) => {
                    tracing::info!(configuration = name, "the API server was told what to trust");
                    return Ok(());
                }
                // A test that failed, or another write at the same moment.
                Err(kube::Error::Api(status)) if status.code == 409 || status.code == 422 => {}
                Err(error) => return Err(cluster(error)),
            }
        }
        Err(CertificateError::Secret {
            name: self.settings.secret.clone(),
            what: format!(
                "MutatingWebhookConfiguration {name} changed {TRIES} times while it was told what to trust"
            ),
        })
    }

    /// Something about the Secret or the configuration may have changed.
    fn changes(&self) -> BoxStream<'static, ()> {
        let only = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
        let secrets = watcher(self.secrets.clone(), only(&self.settings.secret)).default_backoff().map(drop);
        let configurations = watcher(self.configurations.clone(), only(&self.settings.configuration))
            .default_backoff()
            .map(drop);
        select(secrets, configurations).boxed()
    }
}

fn cluster(error: kube::Error) -> CertificateError {
    CertificateError::Cluster(Box::new(error))
}

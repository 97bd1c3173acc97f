//! Collectors that fail, and those that are not to be trusted.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use refrain::telemetry::{Head, Settings, Telemetry, TrustContext};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::time::Instant;

use crate::support;
use crate::support::collector::{Collector, Manner};
use crate::support::pictures::photo_question;
use crate::support::{World, until};

#[tokio::test]
async fn a_collector_that_is_dead_slow_or_refuses_costs_no_call_anything_but_counters() {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = format!("telemetry.endpoint = 'http://{}'", free.local_addr().unwrap());
    drop(free);
    let slow = Collector::start(Manner::Slow(Duration::from_secs(10))).await;
    let refuses = Collector::start(Manner::Refuses).await;
    for (settings, what) in [(dead, "dead"), (slow.settings(), "slow"), (refuses.settings(), "refusing")] {
        // Among so many drawn pictures some show the same colours.
        let config = format!("store.suspicions = 900\n{settings}");
        let world = World::new().config(&config).start().await;
        let client = world.client().await;
        // More calls than the queue has places.
        let began = Instant::now();
        for number in 0..900 {
            assert!(client.infer(&photo_question(number)).await.is_ok(), "{what}: call {number}");
        }
        assert!(began.elapsed() < Duration::from_secs(9), "{what}: {:?}", began.elapsed());
        let lost = || {
            let page = world.metrics();
            let line = page
                .lines()
                .find(|line| line.starts_with("refrain_telemetry_dropped_total{signal=\"spans\"}"));
            line.unwrap().rsplit(' ').next().unwrap().parse::<u64>().unwrap()
        };
        until(what, || lost() > 0).await;
        let began = Instant::now();
        world.stop().await;
        assert!(began.elapsed() < Duration::from_secs(5), "{what}: the end waits for nobody");
    }
}

/// A certificate for `localhost` that is its own CA, in files too.
struct Identity {
    certificate: PathBuf,
    key: PathBuf,
    made: rcgen::CertifiedKey<rcgen::KeyPair>,
}

impl Identity {
    fn new(folder: &tempfile::TempDir, name: &str) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let [certificate, key] = ["pem", "key"].map(|what| folder.path().join(format!("{name}.{what}")));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        Self { certificate, key, made }
    }

    /// A server that is this, and that takes none but `client` where one is named.
    fn serves(&self, client: Option<&Self>) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = match client {
            None => builder.with_no_client_auth(),
            Some(client) => {
                let mut roots = RootCertStore::empty();
                roots.add(client.made.cert.der().clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let key = PrivateKeyDer::try_from(self.made.signing_key.serialize_der()).unwrap();
        builder.with_single_cert(vec![self.made.cert.der().clone()], key).unwrap()
    }
}

#[tokio::test]
async fn over_https_spans_go_to_the_collector_that_the_ca_vouches_for_and_to_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let [server, client, stranger] =
        ["server", "client", "stranger"].map(|name| Identity::new(&folder, name));
    for (takes, ca, identity, arrives) in [
        (None, Some(&server), None, true),
        (None, Some(&stranger), None, false),
        // The system's own know nothing of it.
        (None, None, None, false),
        (Some(&client), Some(&server), Some(&client), true),
        (Some(&client), Some(&server), Some(&stranger), false),
        (Some(&client), Some(&server), None, false),
    ] {
        let collector = Collector::start_tls(server.serves(takes)).await;
        let file = |path: &PathBuf| path.display().to_string();
        let variables = |name: &str| match name {
            "OTEL_EXPORTER_OTLP_CERTIFICATE" => ca.map(|ca| file(&ca.certificate)),
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE" => identity.map(|identity| file(&identity.certificate)),
            "OTEL_EXPORTER_OTLP_CLIENT_KEY" => identity.map(|identity| file(&identity.key)),
            _ => None,
        };
        let settings = Settings {
            endpoint: Some(collector.address().to_owned()),
            sample: None,
            keep_short_circuits: false,
            trust_context: TrustContext::Never,
            digest_key: None,
            rotate_digests: Duration::ZERO,
        };
        let telemetry = Telemetry::start(&settings, &variables);
        let head = Head { method: "a.B/C", ..Head::default() };
        telemetry.begin(&head).unwrap().end("OK");
        telemetry.finish(support::PATIENCE).await;
        assert_eq!(collector.spans().len(), usize::from(arrives));
        let failed = "refrain_telemetry_failed_exports_total{signal=\"spans\"} 1";
        let page = telemetry.metrics.prometheus();
        assert_eq!(page.contains(failed), !arrives, "{page}");
    }
}

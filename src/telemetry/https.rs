//! OTLP over HTTP to an `https://` collector: whom we take it from, and who we are to it.

use std::sync::Arc;

use hyper_rustls::{ConfigBuilderExt, HttpsConnectorBuilder};
use opentelemetry_http::HttpClient;
use opentelemetry_http::hyper::HyperClient;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::environment::Destination;

/// A client with the files that the environment names; the system's roots serve where it names no CA.
pub(super) fn client(to: &Destination) -> Result<impl HttpClient + use<>, String> {
    let told = |error: rustls::Error| error.to_string();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(told)?;
    let builder = match &to.certificate {
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(file)? {
                roots.add(certificate).map_err(|error| format!("{file}: {error}"))?;
            }
            builder.with_root_certificates(roots)
        }
        None => builder.with_native_roots().map_err(|error| format!("the system's certificates: {error}"))?,
    };
    let config = match &to.identity {
        Some((certificate, key)) => {
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| format!("{key}: {error}"))?;
            builder.with_client_auth_cert(certificates(certificate)?, key).map_err(told)?
        }
        None => builder.with_no_client_auth(),
    };
    let connector = HttpsConnectorBuilder::new().with_tls_config(config).https_only().enable_http1().build();
    Ok(HyperClient::new(connector, to.within, None))
}

fn certificates(file: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    let certificates: Vec<_> = read.map_err(|error| format!("{file}: {error}"))?;
    if certificates.is_empty() {
        return Err(format!("{file}: expected a certificate in PEM, found none"));
    }
    Ok(certificates)
}

//! A certificate that somebody else makes: two files, read again when they change.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{CertificateError, Pair};
use crate::webhook::Shared;

/// How often the files are looked at. A Secret's volume changes by a renamed link, which watching a file does not show.
const LOOK: Duration = Duration::from_secs(2);

/// Both files, and what they held.
#[derive(Debug)]
pub(in crate::webhook) struct Files {
    certificate: PathBuf,
    key: PathBuf,
    texts: (Vec<u8>, Vec<u8>),
    pair: Pair,
}

impl Files {
    /// Reads both.
    pub(super) fn read(certificate: &Path, key: &Path) -> Result<Self, CertificateError> {
        let texts = (text(certificate)?, text(key)?);
        let pair = Pair::read(&texts.0, &texts.1, &certificate.display().to_string())?;
        Ok(Self { certificate: certificate.to_owned(), key: key.to_owned(), texts, pair })
    }

    /// What is to be served.
    pub(super) fn pair(&self) -> &Pair {
        &self.pair
    }

    /// Serves what changed; what cannot be used is told, and the old one stays.
    pub(super) async fn keep(mut self, shared: &Shared) {
        let mut refused = None;
        loop {
            tokio::time::sleep(LOOK).await;
            let texts = match (text(&self.certificate), text(&self.key)) {
                (Ok(certificate), Ok(key)) => (certificate, key),
                (Err(error), _) | (_, Err(error)) => {
                    tracing::debug!(%error, "the certificate cannot be read");
                    continue;
                }
            };
            if texts == self.texts || Some(&texts) == refused.as_ref() {
                continue;
            }
            match Pair::read(&texts.0, &texts.1, &self.certificate.display().to_string()) {
                Ok(pair) => {
                    shared.served.serve(&pair, &shared.metrics);
                    tracing::info!("certificate reloaded");
                    (self.texts, self.pair) = (texts, pair);
                }
                // The next look finds the other half of the pair, perhaps.
                Err(error) => {
                    tracing::error!(%error, "the changed certificate cannot be used; the old one stays");
                    refused = Some(texts);
                }
            }
        }
    }
}

fn text(file: &Path) -> Result<Vec<u8>, CertificateError> {
    std::fs::read(file).map_err(|source| CertificateError::File { file: file.display().to_string(), source })
}

//! A CA and a certificate of our own, as they are kept: what is to be made, renewed or handed over, and when. Pure but for the
//! randomness of keys.
//!
//! ```text
//! nothing => (ca, certificate)
//! certificate at two thirds of its life => a new one by the same CA
//! ca at two thirds of its life => (ca, next): the API server learns to trust both, the old one still signs
//! next known for an hour => (next as ca, the old one as previous): a new certificate, both are still trusted
//! that certificate an hour old => previous is dropped
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{CertificateError, Pair};

/// How far clocks may be apart: certificates begin this much in the past.
const SKEW: Duration = Duration::from_hours(1);

/// How long a change of what is trusted may take to reach every API server.
const SETTLE: Duration = Duration::from_hours(1);

/// A CA lives this many times as long as a certificate.
const CA_LIVES: u32 = 10;

/// For whom certificates are made, and how long they live.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    /// The Service's name as the API server dials it.
    pub(super) host: String,
    /// A certificate's life.
    pub(super) life: Duration,
}

/// What the Secret holds, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    certificate: String,
    key: String,
    ca: String,
    ca_key: String,
    /// A CA that is trusted already and will sign later, with its key.
    next: Option<(String, String)>,
    /// A CA that is still trusted and signs no more.
    previous: Option<String>,
}

impl Kept {
    /// Reads a Secret's data; nothing where something is missing.
    pub(super) fn read(data: &BTreeMap<String, ByteString>) -> Option<Self> {
        let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
        Some(Self {
            certificate: text("tls.crt")?,
            key: text("tls.key")?,
            ca: text("ca.crt")?,
            ca_key: text("ca.key")?,
            next: text("next-ca.crt").zip(text("next-ca.key")),
            previous: text("previous-ca.crt"),
        })
    }

    /// As a Secret's data.
    pub(super) fn write(&self) -> BTreeMap<String, ByteString> {
        let (next, next_key) = self.next.as_ref().map(|(next, key)| (next, key)).unzip();
        let parts = [
            ("tls.crt", Some(&self.certificate)),
            ("tls.key", Some(&self.key)),
            ("ca.crt", Some(&self.ca)),
            ("ca.key", Some(&self.ca_key)),
            ("next-ca.crt", next),
            ("next-ca.key", next_key),
            ("previous-ca.crt", self.previous.as_ref()),
        ];
        let parts = parts.into_iter().filter_map(|(key, text)| Some((key.to_owned(), text?)));
        parts.map(|(key, text)| (key, ByteString(text.clone().into_bytes()))).collect()
    }

    /// Everything that the API server is to trust, PEM.
    pub(super) fn trusted(&self) -> String {
        let next = self.next.as_ref().map(|(next, _)| next);
        [Some(&self.ca), next, self.previous.as_ref()].into_iter().flatten().map(String::as_str).collect()
    }

    /// What is served.
    pub(super) fn pair(&self) -> Result<Pair, CertificateError> {
        Pair::read(self.certificate.as_bytes(), self.key.as_bytes(), "the certificate of our own")
    }

    /// What is to be kept from `now` on; nothing where that is what is kept.
    pub(super) fn advance(
        kept: Option<&Self>,
        terms: &Terms,
        now: SystemTime,
    ) -> Result<Option<Self>, CertificateError> {
        let Some(kept) = kept.filter(|kept| kept.is_usable(now)) else {
            return Self::make(terms, now).map(Some);
        };
        let mut next = kept.clone();
        let is_settled = |pem: &str| Times::of(pem).is_some_and(|times| times.made() + SETTLE <= now);
        if let Some((ca, ca_key)) = kept.next.clone().filter(|(next, _)| is_settled(next)) {
            next.previous = Some(std::mem::replace(&mut next.ca, ca));
            next.ca_key = ca_key;
            next.next = None;
            next.sign(terms, now)?;
        } else if !kept.serves(terms, now) {
            next.sign(terms, now)?;
        } else if kept.previous.is_some() && is_settled(&kept.certificate) {
            next.previous = None;
        }
        if next.next.is_none() && Times::of(&next.ca).is_none_or(|times| times.is_due(now)) {
            next.next = Some(authority(terms, now)?);
        }
        Ok((next != *kept).then_some(next))
    }

    fn make(terms: &Terms, now: SystemTime) -> Result<Self, CertificateError> {
        let (ca, ca_key) = authority(terms, now)?;
        let (certificate, key) = (String::new(), String::new());
        let mut made = Self { certificate, key, ca, ca_key, next: None, previous: None };
        made.sign(terms, now)?;
        Ok(made)
    }

    /// A new certificate by the CA.
    fn sign(&mut self, terms: &Terms, now: SystemTime) -> Result<(), CertificateError> {
        let issuer = Issuer::from_ca_cert_pem(&self.ca, KeyPair::from_pem(&self.ca_key)?)?;
        let mut params = CertificateParams::new(vec![terms.host.clone()])?;
        params.distinguished_name.push(DnType::CommonName, "refrain webhook");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = ((now - SKEW).into(), (now + terms.life).into());
        let key = KeyPair::generate()?;
        self.certificate = params.signed_by(&key, &issuer)?.pem();
        self.key = key.serialize_pem();
        Ok(())
    }

    /// Whether all of it can be read, fits together, and the CA still holds.
    fn is_usable(&self, now: SystemTime) -> bool {
        let signs = KeyPair::from_pem(&self.ca_key).is_ok_and(|key| is_key_of(&key, &self.ca));
        let next = self.next.as_ref().is_none_or(|(next, key)| {
            KeyPair::from_pem(key).is_ok_and(|key| is_key_of(&key, next)) && Times::of(next).is_some()
        });
        let holds = Times::of(&self.ca).is_some_and(|times| now < times.not_after);
        signs && next && holds && self.pair().is_ok()
    }

    /// Whether the certificate is for our host, by the CA, and not due.
    fn serves(&self, terms: &Terms, now: SystemTime) -> bool {
        let is_ours = with(&self.certificate, |certificate| {
            let by = with(&self.ca, |ca| certificate.verify_signature(Some(ca.public_key())).is_ok());
            let names = certificate.subject_alternative_name().ok().flatten();
            let names = names
                .is_some_and(|names| names.value.general_names.contains(&GeneralName::DNSName(&terms.host)));
            names && by.unwrap_or(false)
        });
        is_ours.unwrap_or(false) && Times::of(&self.certificate).is_some_and(|times| !times.is_due(now))
    }
}

/// A new CA and its key.
fn authority(terms: &Terms, now: SystemTime) -> Result<(String, String), CertificateError> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "refrain webhook CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = ((now - SKEW).into(), (now + terms.life * CA_LIVES).into());
    let key = KeyPair::generate()?;
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// From when until when a certificate holds.
#[derive(Clone, Copy, Debug)]
struct Times {
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Times {
    fn of(pem: &str) -> Option<Self> {
        let time = |seconds: i64| {
            SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))
        };
        with(pem, |certificate| {
            let validity = certificate.validity();
            Some(Self {
                not_before: time(validity.not_before.timestamp())?,
                not_after: time(validity.not_after.timestamp())?,
            })
        })?
    }

    fn made(self) -> SystemTime {
        self.not_before + SKEW
    }

    /// Whether two thirds of the life are over.
    fn is_due(self, now: SystemTime) -> bool {
        let life = self.not_after.duration_since(self.made()).unwrap_or_default();
        now >= self.made() + life * 2 / 3
    }
}

fn is_key_of(key: &KeyPair, pem: &str) -> bool {
    use rcgen::PublicKeyData;
    with(pem, |certificate| certificate.public_key().raw == key.subject_public_key_info()).unwrap_or(false)
}

/// What `look` finds in the first certificate of a PEM text.
fn with<T>(pem: &str, look: impl FnOnce(&X509Certificate<'_>) -> T) -> Option<T> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, certificate) = X509Certificate::from_der(&der).ok()?;
    Some(look(&certificate))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::{ServerName, UnixTime};

    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn terms() -> Terms {
        Terms { host: "refrain-webhook.refrain.svc".to_owned(), life: 30 * DAY }
    }

    fn start() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_hours(500_000)
    }

    /// Whether an API server that was told to trust `bundle` accepts what is served.
    fn accepts(bundle: &str, kept: &Kept, now: SystemTime) -> bool {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let chain = kept.pair().unwrap().key.cert.clone();
        let host = ServerName::try_from(terms().host).unwrap();
        let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap());
        verifier.verify_server_cert(&chain[0], &chain[1..], &host, &[], now).is_ok()
    }

    #[test]
    fn over_ten_years_every_certificate_is_trusted_before_it_is_served() {
        let (mut now, terms) = (start(), terms());
        let mut kept = Kept::advance(None, &terms, now).unwrap().unwrap();
        let (mut leaves, mut authorities, mut most) = (1, 1, 1);
        // What the API server knows is an hour's look old.
        let mut known = kept.trusted();
        for _ in 0..24 * 365 * 10 / 6 {
            now += Duration::from_hours(6);
            if let Some(next) = Kept::advance(Some(&kept), &terms, now).unwrap() {
                leaves += usize::from(next.certificate != kept.certificate);
                authorities += usize::from(next.ca != kept.ca);
                assert_eq!(Kept::read(&next.write()).as_ref(), Some(&next), "a Secret holds all of it");
                kept = next;
            }
            assert!(accepts(&known, &kept, now), "served before it was trusted");
            known = kept.trusted();
            assert!(accepts(&known, &kept, now));
            most = most.max(known.matches("BEGIN CERTIFICATE").count());
        }
        assert!((180..=200).contains(&leaves), "{leaves} certificates: one in 20 days");
        assert!((17..=20).contains(&authorities), "{authorities} CAs: one in 200 days");
        assert_eq!(most, 2, "old and new CA at once, never more");
    }

    #[test]
    fn what_cannot_be_used_is_made_anew() {
        let (now, terms) = (start(), terms());
        let kept = Kept::advance(None, &terms, now).unwrap().unwrap();
        assert_eq!(Kept::advance(Some(&kept), &terms, now).unwrap(), None, "nothing to do");
        let broken = [
            Kept { key: String::new(), ..kept.clone() },
            Kept { ca: "no certificate".to_owned(), ..kept.clone() },
            Kept { ca_key: kept.key.clone(), ..kept.clone() },
            Kept { next: Some((kept.ca.clone(), kept.key.clone())), ..kept.clone() },
        ];
        for broken in broken {
            let made = Kept::advance(Some(&broken), &terms, now).unwrap().unwrap();
            assert!(accepts(&made.trusted(), &made, now));
        }
        let later = now + 301 * DAY;
        let made = Kept::advance(Some(&kept), &terms, later).unwrap().unwrap();
        assert!(accepts(&made.trusted(), &made, later), "after ten months without us");
        let moved = Terms { host: "other.svc".to_owned(), ..terms };
        let made = Kept::advance(Some(&kept), &moved, now).unwrap().unwrap();
        assert!(made.ca == kept.ca && made.certificate != kept.certificate, "another host, the same CA");
    }
}

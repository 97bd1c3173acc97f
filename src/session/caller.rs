//! Who asks, as far as it can be verified: the facts of a connection and a call into a [`Caller`].
//!
//! Strongest first: the name in a verified client certificate; the metadata that a trusted peer sets; the digest of an
//! `authorization` that something in front verifies; the peer's address. Nothing that a caller may choose freely is ever an
//! identity, for a fresh value per call would be a fresh past.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use ipnet::IpNet;

use super::CallerDigest;

/// How callers are told apart; see the section `caller` of the configuration.
#[derive(Clone, Debug, Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "four separate questions, each answered by a setting of its own"
)]
pub struct CallerRules {
    /// Peers whose word about the caller is believed.
    pub trusted_peers: Vec<IpNet>,
    /// The same, by the name in the peer's certificate (`uri:`, `dns:` or `email:` and the name).
    pub trusted_certificates: Vec<String>,
    /// Whether an identity is expected in the metadata at all.
    pub by_metadata: bool,
    /// Whether something in front verifies `authorization`.
    pub by_authorization: bool,
    /// Whether a call without a verified identity is refused.
    pub require: bool,
    /// Whether only this machine can reach us, so that a loopback peer is one caller and not many behind a proxy.
    pub listening_locally: bool,
}

/// What a connection and a call say of who asks. Values are raw metadata, as many as the call carries.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// The name in a client certificate that was verified.
    pub certified: Option<&'a str>,
    /// The peer's address; none on a UNIX socket.
    pub address: Option<IpAddr>,
    /// Values of the operator's metadata key.
    pub metadata: Values<'a>,
    /// Values of `authorization`.
    pub authorization: Values<'a>,
}

/// The values of one metadata key, as far as it matters how many there are.
#[derive(Clone, Copy, Debug, Default)]
pub enum Values<'a> {
    /// The key is not there.
    #[default]
    None,
    /// Once.
    One(&'a [u8]),
    /// More than once.
    Many,
}

/// Where a caller's identity comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A verified client certificate.
    Certificate,
    /// Metadata set by a trusted peer.
    Metadata,
    /// A credential verified in front of us.
    Authorization,
    /// The peer's address (IPv6: its /64).
    Address,
    /// The peer at our UNIX socket.
    Socket,
}

/// A caller, named by a keyed digest alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The digest that sessions go by.
    pub digest: CallerDigest,
    /// Where it comes from.
    pub source: Source,
    /// Many callers may stand behind this identity, so no answer may be given across its calls: they are only observed.
    pub shared: bool,
}

impl Caller {
    /// Whether the identity was proved, rather than read off the network.
    pub fn is_verified(&self) -> bool {
        matches!(self.source, Source::Certificate | Source::Metadata | Source::Authorization)
    }
}

/// Why a call has no caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallerError {
    /// An identity that comes twice is no identity.
    #[error("expected the caller's identity once, found it more than once")]
    Twice,
    /// A verified identity is required.
    #[error("expected a verified identity, found none")]
    Required,
}

/// Tells callers apart and remembers which addresses many of them share.
pub struct Callers {
    rules: CallerRules,
    key: [u8; 32],
    addresses: Mutex<HashMap<CallerDigest, Seen>>,
}

/// The addresses remembered; beyond it the map begins anew and learns again.
const ADDRESSES: usize = 65_536;

#[derive(Clone, Copy)]
enum Seen {
    One(CallerDigest),
    Many,
}

impl Callers {
    /// Digests are keyed with `key`, which never leaves the process.
    pub fn new(rules: CallerRules, key: [u8; 32]) -> Self {
        Self { rules, key, addresses: Mutex::default() }
    }

    /// The same callers under other rules: digests stay the same, and so do the addresses known to be shared.
    #[must_use]
    pub fn under(&self, rules: CallerRules) -> Self {
        let addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Self { rules, key: self.key, addresses: Mutex::new(addresses) }
    }

    /// The caller behind `facts`.
    pub fn identify(&self, facts: Facts<'_>) -> Result<Caller, CallerError> {
        let address = facts.address.map(|address| self.digest(Source::Address, &network_of(address)));
        let proxy = self.speaks_for_others(&facts);
        let proved = match (facts.certified, facts.metadata) {
            (_, Values::Many) if proxy => return Err(CallerError::Twice),
            (_, Values::One(value)) if proxy && !value.is_empty() => Some((Source::Metadata, value)),
            // The certificate of a proxy that names nobody is not the caller's.
            (Some(name), _) if proxy => {
                let digest = self.digest(Source::Certificate, name.as_bytes());
                return self.unless_required(Caller { digest, source: Source::Certificate, shared: true });
            }
            (Some(name), _) => Some((Source::Certificate, name.as_bytes())),
            (None, _) if self.rules.by_authorization => match facts.authorization {
                Values::Many => return Err(CallerError::Twice),
                Values::One(value) if !value.is_empty() => Some((Source::Authorization, value)),
                _ => None,
            },
            (None, _) => None,
        };
        let proved = proved.map(|(source, identity)| (source, self.digest(source, identity)));
        if let Some((source, digest)) = proved {
            if let Some(address) = address {
                self.remember(address, digest);
            }
            return Ok(Caller { digest, source, shared: false });
        }
        let caller = match (facts.address, address) {
            (Some(ip), Some(digest)) => {
                let behind_a_proxy = ip.is_loopback() && !self.rules.listening_locally;
                let shared = behind_a_proxy || proxy || self.is_shared(digest);
                Caller { digest, source: Source::Address, shared }
            }
            _ => Caller { digest: self.digest(Source::Socket, b""), source: Source::Socket, shared: false },
        };
        self.unless_required(caller)
    }

    /// Whether the peer is one whose metadata names the caller. A peer with a certificate is trusted by that alone: were its
    /// address enough, any caller with a certificate of its own could call itself something new each time.
    fn speaks_for_others(&self, facts: &Facts<'_>) -> bool {
        let trusted = match (facts.certified, facts.address) {
            (Some(name), _) => self.rules.trusted_certificates.iter().any(|trusted| trusted == name),
            (None, Some(address)) => self.rules.trusted_peers.iter().any(|peers| peers.contains(&address)),
            (None, None) => false,
        };
        self.rules.by_metadata && trusted
    }

    fn unless_required(&self, caller: Caller) -> Result<Caller, CallerError> {
        let proved = caller.is_verified() && !caller.shared;
        if self.rules.require && !proved { Err(CallerError::Required) } else { Ok(caller) }
    }

    fn digest(&self, source: Source, identity: &[u8]) -> CallerDigest {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&[source as u8]).update(identity);
        let mut digest = [0; 16];
        digest.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        CallerDigest(digest)
    }

    fn remember(&self, address: CallerDigest, identity: CallerDigest) {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if addresses.len() >= ADDRESSES && !addresses.contains_key(&address) {
            addresses.clear();
        }
        let seen = addresses.entry(address).or_insert(Seen::One(identity));
        if matches!(seen, Seen::One(first) if *first != identity) {
            *seen = Seen::Many;
        }
    }

    fn is_shared(&self, address: CallerDigest) -> bool {
        let addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(addresses.get(&address), Some(Seen::Many))
    }
}

/// An IPv4 address, or the /64 of an IPv6 one: within that a host may choose as it likes.
fn network_of(address: IpAddr) -> Vec<u8> {
    match address.to_canonical() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets()[..8].to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn callers(change: impl FnOnce(&mut CallerRules)) -> Callers {
        let mut rules = CallerRules {
            trusted_peers: vec!["10.0.0.0/8".parse().unwrap()],
            by_metadata: true,
            ..Default::default()
        };
        change(&mut rules);
        Callers::new(rules, [7; 32])
    }

    fn from(address: &str) -> Facts<'_> {
        Facts { address: Some(address.parse().unwrap()), ..Default::default() }
    }

    #[test]
    fn metadata_names_a_caller_only_from_a_trusted_peer() {
        let callers = callers(|_| {});
        let anne = Facts { metadata: Values::One(b"anne"), ..from("10.1.1.1") };
        let bert = Facts { metadata: Values::One(b"bert"), ..from("10.1.1.1") };
        let liar = Facts { metadata: Values::One(b"anne"), ..from("192.0.2.1") };
        let anne = callers.identify(anne).unwrap();
        assert!(anne.is_verified());
        assert_ne!(anne.digest, callers.identify(bert).unwrap().digest);
        let liar = callers.identify(liar).unwrap();
        assert_eq!((liar.source, liar.digest), {
            let plain = callers.identify(from("192.0.2.1")).unwrap();
            (plain.source, plain.digest)
        });
    }

    #[test]
    fn an_identity_that_comes_twice_is_refused() {
        let twice = Facts { metadata: Values::Many, ..from("10.1.1.1") };
        assert_eq!(callers(|_| {}).identify(twice), Err(CallerError::Twice));
        let elsewhere = Facts { metadata: Values::Many, ..from("192.0.2.1") };
        assert!(callers(|_| {}).identify(elsewhere).is_ok(), "nobody reads it there");
    }

    #[test]
    fn addresses_that_many_share_are_no_callers() {
        let callers = callers(|rules| rules.by_authorization = true);
        assert!(callers.identify(from("127.0.0.1")).unwrap().shared, "a proxy in the pod");
        assert!(callers.identify(from("10.1.1.1")).unwrap().shared, "an ingress that named nobody");
        assert!(!callers.identify(from("192.0.2.1")).unwrap().shared);
        for token in [b"one", b"two"] {
            let facts = Facts { authorization: Values::One(token), ..from("192.0.2.1") };
            assert!(callers.identify(facts).unwrap().is_verified());
        }
        assert!(callers.identify(from("192.0.2.1")).unwrap().shared, "two users were seen there");
    }

    #[test]
    fn a_loopback_peer_is_a_caller_where_only_this_machine_can_call() {
        let callers = callers(|rules| rules.listening_locally = true);
        assert!(!callers.identify(from("127.0.0.1")).unwrap().shared);
        assert!(!callers.identify(Facts::default()).unwrap().shared, "so is the peer of a UNIX socket");
    }

    #[test]
    fn a_required_identity_must_be_a_verified_one() {
        let callers = callers(|rules| rules.require = true);
        assert_eq!(callers.identify(from("192.0.2.1")), Err(CallerError::Required));
        let certified = Facts { certified: Some("uri:spiffe://a/b"), ..from("192.0.2.1") };
        assert_eq!(callers.identify(certified).unwrap().source, Source::Certificate);
    }

    #[test]
    fn a_certificate_is_the_caller_unless_it_is_a_proxys() {
        let callers = callers(|rules| rules.trusted_certificates = vec!["uri:ingress".to_owned()]);
        let name = |certificate, user| Facts {
            certified: Some(certificate),
            metadata: Values::One(user),
            ..from("10.1.1.1")
        };
        let [one, other] = [b"one", b"two"].map(|user| callers.identify(name("uri:anne", user)).unwrap());
        assert_eq!(one, other, "metadata makes no new past of a caller's own certificate");
        let [one, other] = [b"one", b"two"].map(|user| callers.identify(name("uri:ingress", user)).unwrap());
        assert_ne!(one.digest, other.digest);
        let nobody = Facts { certified: Some("uri:ingress"), ..from("10.1.1.1") };
        assert!(callers.identify(nobody).unwrap().shared);
    }

    #[test]
    fn an_ipv6_host_cannot_change_its_past_by_changing_its_address() {
        let callers = callers(|_| {});
        let one = callers.identify(from("2001:db8::1")).unwrap();
        let other = callers.identify(from("2001:db8::ffff:1")).unwrap();
        let elsewhere = callers.identify(from("2001:db8:0:1::1")).unwrap();
        assert_eq!(one.digest, other.digest);
        assert_ne!(one.digest, elsewhere.digest);
        let mapped = callers.identify(from("::ffff:192.0.2.1")).unwrap();
        assert_eq!(mapped.digest, callers.identify(from("192.0.2.1")).unwrap().digest);
    }
}

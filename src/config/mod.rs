//! Every setting: name, unit, range, default, and why.
//!
//! Text in, checked types out: a [`Config`] that exists is valid. Layers, the later over the earlier: the defaults below, one
//! TOML file, environment variables (`REFRAIN_LIMITS__MESSAGE_BYTES=8MiB` for `limits.message_bytes`), command-line flags.
//! Unknown keys are refused and all mistakes are reported at once.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use globset::GlobMatcher;
use http::HeaderName;
use http::uri::Authority;
use ipnet::IpNet;
use rustls::pki_types::ServerName;

use crate::judgment::Rules;
use crate::protocol::tensor::Reading;
use crate::{scores, session, telemetry, timing};

mod pod;
mod read;
mod section;
mod written;

pub use pod::{Bypass, BypassCheck, Place, Probe, Probes, Target};
pub use section::Mistakes;
pub(crate) use section::Section;
pub use written::Written;

/// Where we listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `ip:port`.
    Tcp(SocketAddr),
    /// `unix:/path`.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Where the model server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamAddress {
    /// `http://host:port`.
    Http(Authority),
    /// `https://host:port`, and the name that its certificate must bear.
    Https(Authority, ServerName<'static>),
    /// `unix:/path`.
    Unix(PathBuf),
}

/// TLS on our side of the caller; files are PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// Our certificate chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The CA that every caller's certificate must come from.
    pub client_ca: Option<PathBuf>,
}

/// TLS towards an `https://` upstream; files are PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The CA that its certificate must come from.
    pub ca: Option<PathBuf>,
    /// Our own certificate and key, where it asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name in its certificate, where that is not the host of the address.
    pub server_name: Option<ServerName<'static>>,
}

/// How a caller is told from another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallerSettings {
    /// The metadata key that holds the caller's identity; believed from `trusted_peers` alone.
    pub metadata: Option<HeaderName>,
    /// Peers that set `metadata` themselves and let nobody else set it: an ingress, a mesh proxy.
    pub trusted_peers: Vec<IpNet>,
    /// The same, by the name in the peer's client certificate: `uri:`, `dns:` or `email:` and the name.
    pub trusted_certificates: Vec<String>,
    /// Something in front verifies the `authorization` metadata, so that its digest names the caller.
    pub authorization_verified: bool,
    /// Refuse calls that no identity stronger than an address comes with.
    pub require: bool,
}

/// Bounds on what is in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest message, in bytes.
    pub message_bytes: usize,
    /// Bytes of requests being read or answered, in all.
    pub bytes_in_flight: usize,
    /// The same, of one caller.
    pub bytes_in_flight_per_caller: usize,
    /// Pixels of one picture, counted before it is decoded; part of every model's `reading`.
    pub image_pixels: u32,
    /// Time in which a request must have arrived whole.
    pub read_within: Duration,
    /// Calls held, or waiting for another call's answer, in all; over the cap the upstream is asked and its answer dropped.
    pub held: usize,
    /// The same, of one caller.
    pub held_per_caller: usize,
    /// Calls for which the upstream is asked only to drop its answer, in all; over the cap RESOURCE_EXHAUSTED.
    pub shadows: usize,
    /// The same, of one caller.
    pub shadows_per_caller: usize,
    /// How long a forward that others may wait for runs on after its own caller cancelled.
    pub linger: Duration,
    /// Open connections.
    pub connections: usize,
    /// The same, from one address (IPv6: its /64).
    pub connections_per_peer: usize,
    /// Calls at once on one connection.
    pub streams: u32,
    /// Time for calls in flight to end once we are told to stop.
    pub drain: Duration,
}

/// What is done about a model's calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Near-copies are answered from memory.
    Enforce,
    /// Everything is forwarded; what would have been done is told.
    Observe,
    /// Calls are forwarded unread.
    Off,
}

/// What becomes of a picture that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnreadable {
    /// It is forwarded unjudged.
    Forward,
    /// It is refused.
    Reject,
}

/// Everything that may differ from model to model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSettings {
    /// What is done.
    pub mode: Mode,
    /// Models of one group share likenesses and suspicion; by default each is its own group.
    pub group: Option<String>,
    /// The input that holds the picture, where the first that is shaped like one is not it.
    pub image_input: Option<String>,
    /// How it is read.
    pub reading: Reading,
    /// What becomes of a picture that cannot be read; by default `reject` under enforce, `forward` under observe.
    pub on_unreadable: OnUnreadable,
    /// Other inputs than the picture make another question (`key`), or none (`ignore`).
    pub ignore_extra_inputs: bool,
    /// How long a replay takes.
    pub timing: timing::Mode,
    /// How the scores of replies are written.
    pub scores: scores::Mode,
    /// The numbers of judgment.
    pub rules: Rules,
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where we listen.
    pub listen: Address,
    /// The model server.
    pub upstream: UpstreamAddress,
    /// Where the operator's own port is.
    pub admin: Option<Address>,
    /// The pod's probes that are answered here.
    pub probes: Probes,
    /// Where the model server must not answer.
    pub bypass: Bypass,
    /// TLS towards callers.
    pub tls: Option<ServerTls>,
    /// TLS towards the model server.
    pub upstream_tls: UpstreamTls,
    /// Methods opened by the operator, as `package.Service/Method`.
    pub rpc_allow: Vec<String>,
    /// Who is who.
    pub caller: CallerSettings,
    /// Bounds on what is in flight.
    pub limits: Limits,
    /// Bounds on what is remembered.
    pub store: session::Limits,
    /// What the operator is told.
    pub telemetry: telemetry::Settings,
    /// The settings as they were written.
    pub written: Written,
    /// Settings of models that no pattern matches.
    models: ModelSettings,
    /// Settings by pattern, most specific last.
    patterns: Vec<(GlobMatcher, ModelSettings)>,
}

impl Config {
    /// The configuration that `layers`, merged in order, describe.
    pub fn from_layers(layers: impl IntoIterator<Item = toml::Table>) -> Result<Self, Mistakes> {
        let mut merged = toml::Table::new();
        for layer in layers {
            merge(&mut merged, layer);
        }
        let mut mistakes = Mistakes::default();
        let config = read::read(merged, &mut mistakes);
        if mistakes.0.is_empty() { Ok(config) } else { Err(mistakes) }
    }

    /// Whether pictures are judged as under `other`: the same rules and groups by the same patterns.
    pub fn judges_as(&self, other: &Config) -> bool {
        let judging = |settings: &ModelSettings| {
            (settings.group.clone(), settings.image_input.clone(), settings.reading, settings.rules.clone())
        };
        let patterns = |config: &Config| -> Vec<_> {
            config.patterns.iter().map(|(glob, settings)| (glob.glob().clone(), judging(settings))).collect()
        };
        judging(&self.models) == judging(&other.models) && patterns(self) == patterns(other)
    }

    /// The settings of `model`: those of the longest pattern that matches its name, or its name and `signature` (`name/signature`)
    /// where it has signatures.
    pub fn model(&self, model: &str, signature: &str) -> &ModelSettings {
        let signed = format!("{model}/{signature}");
        let matches = |pattern: &GlobMatcher| {
            pattern.is_match(model) || !signature.is_empty() && pattern.is_match(&signed)
        };
        let matching = self.patterns.iter().rev().find(|(pattern, _)| matches(pattern));
        matching.map_or(&self.models, |(_, settings)| settings)
    }
}

/// The text of a configuration file as a layer.
pub fn from_text(text: &str) -> Result<toml::Table, Mistakes> {
    text.parse().map_err(|error: toml::de::Error| Mistakes(vec![error.to_string().trim_end().to_owned()]))
}

/// Environment variables as a layer: `REFRAIN_A__B` is the key `b` of the section `a`.
///
/// A value that reads as TOML is taken as such (`true`, `8`, `["10.0.0.0/8"]`, `{ ... }`), anything else as text.
pub fn from_environment(variables: impl IntoIterator<Item = (String, String)>) -> toml::Table {
    let mut layer = toml::Table::new();
    for (name, text) in variables {
        let Some(path) = name.strip_prefix("REFRAIN_") else { continue };
        if is_of_a_service(path, &text) {
            continue;
        }
        let parsed: Result<toml::Table, _> = format!("value = {text}").parse();
        let value =
            parsed.ok().and_then(|mut table| table.remove("value")).unwrap_or(toml::Value::String(text));
        let path: Vec<String> = path.split("__").map(str::to_lowercase).collect();
        let nested = path
            .into_iter()
            .rev()
            .fold(value, |value, key| toml::Value::Table(toml::Table::from_iter([(key, value)])));
        if let toml::Value::Table(table) = nested {
            merge(&mut layer, table);
        }
    }
    layer
}

/// Whether Kubernetes set this variable for a Service whose name begins with ours: `REFRAIN_PORT=tcp://…`,
/// `REFRAIN_WEBHOOK_SERVICE_HOST` and their like stand in every container of the Service's namespace.
fn is_of_a_service(path: &str, text: &str) -> bool {
    let words: Vec<&str> = path.split('_').collect();
    let of_a_port = |words: &[&str]| {
        let [port, number, protocol, ..] = words else { return false };
        *port == "PORT" && number.parse::<u16>().is_ok() && ["TCP", "UDP", "SCTP"].contains(protocol)
    };
    let is_link = words.last() == Some(&"PORT")
        && ["tcp://", "udp://", "sctp://"].iter().any(|kind| text.starts_with(kind));
    path.ends_with("SERVICE_HOST")
        || path.contains("SERVICE_PORT")
        || is_link
        || words.windows(3).any(of_a_port)
}

fn merge(into: &mut toml::Table, layer: toml::Table) {
    for (key, value) in layer {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(into)), toml::Value::Table(layer)) => merge(into, layer),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<Config, Mistakes> {
        Config::from_layers([from_text(text)?])
    }

    #[test]
    fn an_empty_configuration_is_the_defaults() {
        let config = config("").unwrap();
        assert_eq!(config.limits.message_bytes, 64 << 20);
        assert_eq!(config.model("any", "").mode, Mode::Enforce);
        assert_eq!(config.model("any", "").rules, Rules::hardened());
        assert_eq!(config.listen, Address::Tcp("0.0.0.0:8001".parse().unwrap()));
    }

    #[test]
    fn every_mistake_is_reported_at_once_by_its_full_name() {
        let mistakes = config(
            r#"
            listen = "somewhere"
            upstream = "ftp://x"
            mode = "maybe"
            colour = 1
            [limits]
            message_bytes = "many"
            held = 0
            [caller]
            metadata = "x-user"
            [models."a*"]
            range = "0..7"
            judgment = { reuse_bits = 300, depth = 3 }
            "#,
        )
        .unwrap_err();
        let keys: Vec<&str> = mistakes.0.iter().filter_map(|line| line.split(": ").next()).collect();
        for key in [
            "listen",
            "upstream",
            "mode",
            "colour",
            "limits.message_bytes",
            "limits.held",
            "caller.trusted_peers",
            "models.\"a*\".range",
            "models.\"a*\".judgment.reuse_bits",
            "models.\"a*\".judgment.depth",
        ] {
            assert_eq!(keys.iter().filter(|found| **found == key).count(), 1, "{key} in {mistakes}");
        }
        assert_eq!(keys.len(), 10, "{mistakes}");
    }

    #[test]
    fn the_longest_pattern_that_matches_decides() {
        let config = config(
            r#"
            mode = "observe"
            [judgment]
            reuse_bits = 7
            [models."clf*"]
            mode = "enforce"
            judgment = { suspect_bits = 30 }
            [models."clf_off*"]
            mode = "off"
            [models."clf_u8/*"]
            group = "signed"
            "#,
        )
        .unwrap();
        assert_eq!(config.model("other", "").mode, Mode::Observe);
        assert_eq!(config.model("other", "").on_unreadable, OnUnreadable::Forward);
        let clf = config.model("clf_u8", "");
        assert_eq!((clf.mode, clf.rules.reuse_bits, clf.rules.suspect_bits), (Mode::Enforce, 7, 30));
        assert_eq!(clf.on_unreadable, OnUnreadable::Reject);
        assert_eq!(config.model("clf_off_1", "").mode, Mode::Off);
        assert_eq!(config.model("clf_u8", "x").group.as_deref(), Some("signed"));
        assert_eq!(config.model("clf_u8", "").group, None);
    }

    #[test]
    fn variables_of_services_that_bear_our_name_are_no_settings() {
        let of_services = [
            ("REFRAIN_SERVICE_HOST", "10.0.0.1"),
            ("REFRAIN_SERVICE_PORT", "443"),
            ("REFRAIN_WEBHOOK_SERVICE_PORT_HTTPS", "443"),
            ("REFRAIN_PORT", "tcp://10.0.0.1:443"),
            ("REFRAIN_PORT_443_TCP", "tcp://10.0.0.1:443"),
            ("REFRAIN_PORT_443_TCP_ADDR", "10.0.0.1"),
            ("REFRAIN_WEBHOOK_PORT_443_TCP_PROTO", "tcp"),
        ];
        let owned = of_services.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(from_environment(owned), toml::Table::new());
        let near = [("REFRAIN_PORT", "443"), ("REFRAIN_IMPORT_TCP", "1")];
        let owned = near.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(from_environment(owned).len(), 2, "what only looks like it is refused by its name");
    }

    #[test]
    fn the_environment_stands_above_the_file() {
        let file = from_text("[limits]\nheld = 5\nshadows = 6").unwrap();
        let environment = from_environment(
            [
                ("REFRAIN_LIMITS__HELD", "7"),
                ("REFRAIN_LIMITS__MESSAGE_BYTES", "8MiB"),
                ("REFRAIN_CALLER__TRUSTED_PEERS", r#"["10.0.0.0/8"]"#),
                ("REFRAIN_CALLER__METADATA", "x-user"),
                ("PATH", "/bin"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        let config = Config::from_layers([file, environment]).unwrap();
        assert_eq!((config.limits.held, config.limits.shadows), (7, 6));
        assert_eq!(config.limits.message_bytes, 8 << 20);
        assert_eq!(config.caller.trusted_peers, ["10.0.0.0/8".parse::<IpNet>().unwrap()]);
    }
}

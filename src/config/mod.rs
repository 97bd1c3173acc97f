//! Every setting: name, unit, range, default, and why.
//!
//! Text in, checked types out: a [`Config`] that exists is valid. Layers, the later over the earlier: the defaults below, one
//! TOML file, environment variables (`REFRAIN_LIMITS__MESSAGE_BYTES=8MiB` for `limits.message_bytes`), command-line flags.
//! Unknown keys are refused and all mistakes are reported at once.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use globset::{Glob, GlobMatcher};
use http::HeaderName;
use http::uri::Authority;
use ipnet::IpNet;
use rustls::pki_types::ServerName;

use crate::judgment::{Anchor, OnSuspected, Profile, Rules};
use crate::protocol::tensor::{Range, Reading};
use crate::{session, timing};

mod section;

pub use section::Mistakes;
use section::Section;

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
    /// How long a replay is held.
    pub timing: timing::Mode,
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
        let config = read(merged, &mut mistakes);
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

    /// The settings of `model`: those of the longest pattern that matches its name.
    pub fn model(&self, model: &str) -> &ModelSettings {
        let matching = self.patterns.iter().rev().find(|(pattern, _)| pattern.is_match(model));
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

const MODES: [(&str, Mode); 3] = [("enforce", Mode::Enforce), ("observe", Mode::Observe), ("off", Mode::Off)];
const PROFILES: [(&str, Profile); 2] = [("paper", Profile::Paper), ("hardened", Profile::Hardened)];
const TIMINGS: [(&str, timing::Mode); 3] =
    [("sample", timing::Mode::Sample), ("mean", timing::Mode::Mean), ("off", timing::Mode::Off)];

fn read(table: toml::Table, mistakes: &mut Mistakes) -> Config {
    let mut top = Section::new("", table, mistakes);
    let listen = address(&mut top, "listen", "0.0.0.0:8001");
    let upstream = upstream(&mut top);
    let tls = server_tls(&mut top);
    let upstream_tls = upstream_tls(&mut top);
    let rpc_allow = top.section("rpc", |rpc| rpc.value("allow", Vec::new()));
    let caller = top.section("caller", caller);
    let limits = top.section("limits", limits);
    let store = top.section("store", store);
    let timing = top.section("timing", |timing| timing.choice("mode", &TIMINGS, timing::Mode::Sample));
    let (models, patterns) = models(&mut top);
    top.end();
    Config { listen, upstream, tls, upstream_tls, rpc_allow, caller, limits, store, timing, models, patterns }
}

fn address(section: &mut Section<'_>, key: &'static str, default: &str) -> Address {
    let written = section.value(key, default.to_owned());
    if let Some(path) = written.strip_prefix("unix:") {
        return Address::Unix(PathBuf::from(path));
    }
    match written.parse() {
        Ok(address) => Address::Tcp(address),
        Err(_) => {
            section.mistake(key, format!("expected ip:port or unix:/path, found {written:?}"));
            Address::Unix(PathBuf::new())
        }
    }
}

fn upstream(section: &mut Section<'_>) -> UpstreamAddress {
    let written = section.value("upstream", "http://127.0.0.1:9001".to_owned());
    parse_upstream(&written).unwrap_or_else(|| {
        section.mistake(
            "upstream",
            format!("expected http://host:port, https://host:port or unix:/path, found {written:?}"),
        );
        UpstreamAddress::Unix(PathBuf::new())
    })
}

fn parse_upstream(written: &str) -> Option<UpstreamAddress> {
    if let Some(path) = written.strip_prefix("unix:") {
        return Some(UpstreamAddress::Unix(PathBuf::from(path.trim_start_matches("//"))));
    }
    let (scheme, rest) = written.split_once("://")?;
    let authority: Authority = rest.trim_end_matches('/').parse().ok()?;
    match scheme {
        "http" => Some(UpstreamAddress::Http(authority)),
        "https" => {
            let host = authority.host().trim_matches(['[', ']']).to_owned();
            let name = ServerName::try_from(host).ok()?;
            Some(UpstreamAddress::Https(authority, name))
        }
        _ => None,
    }
}

fn server_tls(top: &mut Section<'_>) -> Option<ServerTls> {
    top.section("tls", |tls| {
        let certificate: Option<PathBuf> = tls.optional("certificate");
        let key: Option<PathBuf> = tls.optional("key");
        let client_ca = tls.optional("client_ca");
        match (certificate, key) {
            (Some(certificate), Some(key)) => Some(ServerTls { certificate, key, client_ca }),
            (None, None) if client_ca.is_none() => None,
            _ => {
                tls.mistake("certificate", "certificate and key are needed together");
                None
            }
        }
    })
}

fn upstream_tls(top: &mut Section<'_>) -> UpstreamTls {
    top.section("upstream_tls", |tls| {
        let certificate: Option<PathBuf> = tls.optional("certificate");
        let key: Option<PathBuf> = tls.optional("key");
        if certificate.is_some() != key.is_some() {
            tls.mistake("certificate", "certificate and key are needed together");
        }
        let ca = tls.optional("ca");
        let server_name: Option<String> = tls.optional("server_name");
        let server_name = server_name.and_then(|name| {
            ServerName::try_from(name).map_err(|error| tls.mistake("server_name", error)).ok()
        });
        UpstreamTls { ca, identity: certificate.zip(key), server_name }
    })
}

fn caller(section: &mut Section<'_>) -> CallerSettings {
    let metadata: Option<String> = section.optional("metadata");
    let metadata = metadata.and_then(|name| {
        name.parse().map_err(|_| section.mistake("metadata", format!("not a metadata key: {name:?}"))).ok()
    });
    let trusted_peers: Vec<IpNet> = section.value("trusted_peers", Vec::new());
    let trusted_certificates: Vec<String> = section.value("trusted_certificates", Vec::new());
    if metadata.is_some() && trusted_peers.is_empty() && trusted_certificates.is_empty() {
        section.mistake(
            "trusted_peers",
            "metadata names a caller only when it comes from a trusted peer; name one",
        );
    }
    CallerSettings {
        metadata,
        trusted_peers,
        trusted_certificates,
        authorization_verified: section.value("authorization_verified", false),
        require: section.value("require", false),
    }
}

fn limits(section: &mut Section<'_>) -> Limits {
    const MIB: usize = 1 << 20;
    let message_bytes = section.bytes("message_bytes", 64 * MIB);
    let bytes_in_flight = section.bytes("bytes_in_flight", 512 * MIB);
    let per_caller = section.bytes("bytes_in_flight_per_caller", 128 * MIB);
    if message_bytes > per_caller.min(bytes_in_flight) {
        section.mistake(
            "message_bytes",
            "a single message must fit bytes_in_flight and bytes_in_flight_per_caller",
        );
    }
    if message_bytes > u32::MAX as usize {
        section.mistake("message_bytes", "gRPC messages cannot be longer than 4 GiB");
    }
    Limits {
        message_bytes,
        bytes_in_flight,
        bytes_in_flight_per_caller: per_caller,
        read_within: section.duration("read_within", Duration::from_mins(1)),
        held: section.within("held", 4096, 1..=1_000_000),
        held_per_caller: section.within("held_per_caller", 256, 1..=1_000_000),
        shadows: section.within("shadows", 256, 0..=1_000_000),
        shadows_per_caller: section.within("shadows_per_caller", 32, 0..=1_000_000),
        linger: section.duration("linger", Duration::from_secs(10)),
        connections: section.within("connections", 4096, 1..=1_000_000),
        streams: section.within("streams", 256, 1..=100_000),
        drain: section.duration("drain", Duration::from_secs(25)),
    }
}

fn store(section: &mut Section<'_>) -> session::Limits {
    let default = session::Limits::within(section.bytes("bytes", 256 << 20));
    session::Limits {
        anchors_never_hit: section.within("anchors_never_hit", default.anchors_never_hit, 1..=65_536),
        anchors_hit: section.within("anchors_hit", default.anchors_hit, 1..=65_536),
        ttl: section.duration("ttl", default.ttl),
        ghosts: section.within("ghosts", default.ghosts, 0..=1_000_000),
        ghost_ttl: section.duration("ghost_ttl", default.ghost_ttl),
        suspicions: section.within("suspicions", default.suspicions, 1..=1_000_000),
        suspicion_decay: section.duration("suspicion_decay", default.suspicion_decay),
        answer_bytes: section.bytes("answer_bytes", default.answer_bytes),
        sessions: section.within("sessions", default.sessions, 10..=100_000_000),
        session_bytes: section.bytes("session_bytes", default.session_bytes),
        established_forwards: section.within(
            "established_forwards",
            default.established_forwards,
            1..=1_000_000,
        ),
        established_after: section.duration("established_after", default.established_after),
        ..default
    }
}

fn models(top: &mut Section<'_>) -> (ModelSettings, Vec<(GlobMatcher, ModelSettings)>) {
    let mode = top.choice("mode", &MODES, Mode::Enforce);
    let profile = top.choice("profile", &PROFILES, Profile::Hardened);
    let judgment = top.table("judgment");
    let base = base(mode, profile);
    let mut defaults = base.clone();
    defaults.rules = top.nested("judgment", judgment.clone(), |section| rules(section, &base.rules));
    let models = top.table("models");
    let mut patterns: Vec<(usize, GlobMatcher, ModelSettings)> = Vec::new();
    for (pattern, value) in models {
        let name = format!("models.{pattern:?}");
        let toml::Value::Table(table) = value else {
            top.mistake(&name, "expected a table");
            continue;
        };
        let glob = match Glob::new(&pattern) {
            Ok(glob) => glob.compile_matcher(),
            Err(error) => {
                top.mistake(&name, error);
                continue;
            }
        };
        let settings = top.nested(name, table, |section| model(section, mode, profile, &judgment));
        patterns.push((pattern.len(), glob, settings));
    }
    patterns.sort_by_key(|(length, ..)| *length);
    (defaults, patterns.into_iter().map(|(_, glob, settings)| (glob, settings)).collect())
}

fn base(mode: Mode, profile: Profile) -> ModelSettings {
    ModelSettings {
        mode,
        group: None,
        image_input: None,
        reading: Reading { layout: None, bgr: false, range: None },
        on_unreadable: on_unreadable(mode),
        ignore_extra_inputs: false,
        rules: match profile {
            Profile::Paper => Rules::paper(),
            Profile::Hardened => Rules::hardened(),
        },
    }
}

fn on_unreadable(mode: Mode) -> OnUnreadable {
    if mode == Mode::Enforce { OnUnreadable::Reject } else { OnUnreadable::Forward }
}

fn model(section: &mut Section<'_>, mode: Mode, profile: Profile, judgment: &toml::Table) -> ModelSettings {
    let mode = section.choice("mode", &MODES, mode);
    let base = base(mode, section.choice("profile", &PROFILES, profile));
    let mut of_model = judgment.clone();
    merge(&mut of_model, section.table("judgment"));
    ModelSettings {
        mode,
        group: section.optional("group"),
        image_input: section.optional("image_input"),
        reading: Reading {
            layout: section.optional("layout"),
            bgr: section.choice("channels", &[("rgb", false), ("bgr", true)], false),
            range: range(section),
        },
        on_unreadable: section.choice(
            "on_unreadable",
            &[("forward", OnUnreadable::Forward), ("reject", OnUnreadable::Reject)],
            base.on_unreadable,
        ),
        ignore_extra_inputs: section.choice("extra_inputs", &[("key", false), ("ignore", true)], false),
        rules: section.nested("judgment", of_model, |section| rules(section, &base.rules)),
    }
}

/// A name of the closed list, or `scale` and `offset` (a number, or one per channel).
fn range(section: &mut Section<'_>) -> Option<Range> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum PerChannel {
        One(f32),
        Each([f32; 3]),
    }
    let each = |value: Option<PerChannel>, default: f32| match value {
        None => [default; 3],
        Some(PerChannel::One(value)) => [value; 3],
        Some(PerChannel::Each(values)) => values,
    };
    let named = section.optional_choice("range", &Range::NAMED);
    let scale = section.optional::<PerChannel>("scale");
    let offset = section.optional::<PerChannel>("offset");
    if named.is_some() && (scale.is_some() || offset.is_some()) {
        section.mistake("range", "give a range, or scale and offset, not both");
    }
    let written = scale.is_some() || offset.is_some();
    named.or_else(|| written.then(|| Range { scale: each(scale, 1.0), offset: each(offset, 0.0) }))
}

fn rules(section: &mut Section<'_>, base: &Rules) -> Rules {
    Rules {
        profile: base.profile,
        anchor: section.choice(
            "anchor",
            &[("pinned", Anchor::Pinned), ("sliding", Anchor::Sliding)],
            base.anchor,
        ),
        threshold: section.within("threshold", base.threshold, 0.0..=1.0),
        tolerance: section.value("tolerance", base.tolerance),
        flat_contrast: section.within("flat_contrast", base.flat_contrast, 0.0..=255.0),
        cell_level: section.value("cell_level", base.cell_level),
        cell_contrast: section.within("cell_contrast", base.cell_contrast, 0.0..=255.0),
        reuse_bits: section.within("reuse_bits", base.reuse_bits, 0..=256),
        reuse_positions: section.within("reuse_positions", base.reuse_positions, 0..=1024),
        reuse_cells: section.within("reuse_cells", base.reuse_cells, 0..=64),
        guard_share: section.within("guard_share", base.guard_share, 0.0..=1.0),
        guard_level: section.value("guard_level", base.guard_level),
        guard_cell: section.value("guard_cell", base.guard_cell),
        suspect_bits: section.within("suspect_bits", base.suspect_bits, 0..=256),
        suspect_positions: section.within("suspect_positions", base.suspect_positions, 0..=1024),
        suspect_cells: section.within("suspect_cells", base.suspect_cells, 0..=16),
        suspect_level: section.value("suspect_level", base.suspect_level),
        suspect_cast_level: section.value("suspect_cast_level", base.suspect_cast_level),
        max_views: section.within("max_views", base.max_views, 1..=1000),
        on_suspected: section.choice(
            "on_suspected",
            &[
                ("reject", OnSuspected::Reject),
                ("replay", OnSuspected::Replay),
                ("forward", OnSuspected::Forward),
            ],
            base.on_suspected,
        ),
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
        assert_eq!(config.model("any").mode, Mode::Enforce);
        assert_eq!(config.model("any").rules, Rules::hardened());
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
            "#,
        )
        .unwrap();
        assert_eq!(config.model("other").mode, Mode::Observe);
        assert_eq!(config.model("other").on_unreadable, OnUnreadable::Forward);
        let clf = config.model("clf_u8");
        assert_eq!((clf.mode, clf.rules.reuse_bits, clf.rules.suspect_bits), (Mode::Enforce, 7, 30));
        assert_eq!(clf.on_unreadable, OnUnreadable::Reject);
        assert_eq!(config.model("clf_off_1").mode, Mode::Off);
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

//! A merged table into a checked configuration: each setting with its default and its range.

use std::path::PathBuf;
use std::time::Duration;

use globset::{Glob, GlobMatcher};
use http::uri::Authority;
use ipnet::IpNet;
use rustls::pki_types::ServerName;

use super::section::{Mistakes, Section};
use super::{
    Address, CallerSettings, Config, Limits, Mode, ModelSettings, OnUnreadable, ServerTls, UpstreamAddress,
    UpstreamTls, Written, merge, pod,
};
use crate::judgment::{Anchor, MAX_SIDE, OnSuspected, Profile, Rules};
use crate::protocol::tensor::{Range, Reading, Resize, Sees};
use crate::telemetry::{Secret, Settings, TrustContext};
use crate::{scores, session, timing};

const MODES: [(&str, Mode); 3] = [("enforce", Mode::Enforce), ("observe", Mode::Observe), ("off", Mode::Off)];
const PROFILES: [(&str, Profile); 2] = [("paper", Profile::Paper), ("hardened", Profile::Hardened)];
const TIMINGS: [(&str, timing::Mode); 5] = [
    ("sample", timing::Mode::Sample),
    ("bucket", timing::Mode::Bucket),
    ("shadow", timing::Mode::Shadow),
    ("mean", timing::Mode::Mean),
    ("off", timing::Mode::Off),
];

const SCORES: [(&str, scores::Mode); 5] = [
    ("exact", scores::Mode::Exact),
    ("rounded", scores::Mode::Rounded),
    ("jittered", scores::Mode::Jittered),
    ("label", scores::Mode::Label),
    ("decoy", scores::Mode::Decoy),
];

const TRUSTED: [(&str, TrustContext); 3] = [
    ("always", TrustContext::Always),
    ("trusted_peers", TrustContext::TrustedPeers),
    ("never", TrustContext::Never),
];

/// The configuration that `table` describes; what is wrong with it goes into `mistakes`.
pub(super) fn read(table: toml::Table, mistakes: &mut Mistakes) -> Config {
    let written = Written::new(&table);
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
    let admin = top.section("admin", admin);
    let probes = top.section("probes", pod::probes);
    let bypass = top.section("bypass", pod::bypass);
    let telemetry = top.section("telemetry", telemetry);
    let (models, patterns) = models(&mut top, timing, limits.image_pixels);
    top.end();
    Config {
        listen,
        upstream,
        admin,
        probes,
        bypass,
        tls,
        upstream_tls,
        rpc_allow,
        caller,
        limits,
        store,
        telemetry,
        written,
        models,
        patterns,
    }
}

fn address(section: &mut Section<'_>, key: &'static str, default: &str) -> Address {
    let written = section.value(key, default.to_owned());
    parse_address(&written).unwrap_or_else(|| {
        section.mistake(key, format!("expected ip:port or unix:/path, found {written:?}"));
        Address::Unix(PathBuf::new())
    })
}

fn parse_address(written: &str) -> Option<Address> {
    match written.strip_prefix("unix:") {
        Some(path) => Some(Address::Unix(PathBuf::from(path))),
        None => written.parse().ok().map(Address::Tcp),
    }
}

/// The operator's own port; none unless it is named.
fn admin(section: &mut Section<'_>) -> Option<Address> {
    match section.optional::<String>("listen").as_deref() {
        None | Some("") => None,
        Some(written) => match parse_address(written) {
            None => {
                section.mistake("listen", format!("expected ip:port or unix:/path, found {written:?}"));
                None
            }
            address => address,
        },
    }
}

fn telemetry(section: &mut Section<'_>) -> Settings {
    let endpoint: Option<String> =
        section.optional("endpoint").filter(|written: &String| !written.is_empty());
    if let Some(written) = &endpoint
        && !["http://", "https://"].iter().any(|scheme| written.starts_with(scheme))
    {
        section.mistake(
            "endpoint",
            format!("expected http://host:port or https://host:port, found {written:?}"),
        );
    }
    let sample: Option<f64> = section.optional("sample");
    if let Some(share) = sample.filter(|share| !(0.0..=1.0).contains(share)) {
        section.mistake("sample", format!("expected 0 to 1, found {share}"));
    }
    let digest_key: Option<String> = section.optional("digest_key").filter(|key: &String| !key.is_empty());
    let digest_key = digest_key.map(Secret::new);
    if digest_key.as_ref().is_some_and(|key| key.length() < 16) {
        section.mistake("digest_key", "expected at least 16 bytes, as random as can be");
    }
    Settings {
        endpoint,
        sample,
        keep_short_circuits: section.value("keep_short_circuits", false),
        trust_context: section.choice("trust_context", &TRUSTED, TrustContext::TrustedPeers),
        digest_key,
        rotate_digests: section.duration("rotate_digests", Duration::from_hours(24)),
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
        image_pixels: section.within("image_pixels", 1 << 24, 1..=MAX_SIDE * MAX_SIDE),
        read_within: section.duration("read_within", Duration::from_mins(1)),
        held: section.within("held", 4096, 1..=1_000_000),
        held_per_caller: section.within("held_per_caller", 256, 1..=1_000_000),
        shadows: section.within("shadows", 256, 0..=1_000_000),
        shadows_per_caller: section.within("shadows_per_caller", 32, 0..=1_000_000),
        linger: section.duration("linger", Duration::from_secs(10)),
        connections: section.within("connections", 4096, 1..=1_000_000),
        connections_per_peer: section.within("connections_per_peer", 1024, 1..=1_000_000),
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
        suspicions: section.within("suspicions", default.suspicions, 0..=1_000_000),
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

fn models(
    top: &mut Section<'_>,
    timing: timing::Mode,
    most_pixels: u32,
) -> (ModelSettings, Vec<(GlobMatcher, ModelSettings)>) {
    let mode = top.choice("mode", &MODES, Mode::Enforce);
    let profile = top.choice("profile", &PROFILES, Profile::Hardened);
    let judgment = top.table("judgment");
    let scores = top.choice("scores", &SCORES, scores::Mode::Exact);
    let base = ModelSettings { timing, scores, ..base(mode, profile, most_pixels) };
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
        let settings = top.nested(name, table, |section| model(section, &base, profile, &judgment));
        patterns.push((pattern.len(), glob, settings));
    }
    patterns.sort_by_key(|(length, ..)| *length);
    (defaults, patterns.into_iter().map(|(_, glob, settings)| (glob, settings)).collect())
}

fn base(mode: Mode, profile: Profile, most_pixels: u32) -> ModelSettings {
    ModelSettings {
        mode,
        group: None,
        image_input: None,
        reading: Reading { most_pixels, ..Reading::default() },
        on_unreadable: on_unreadable(mode),
        ignore_extra_inputs: false,
        timing: timing::Mode::Sample,
        scores: scores::Mode::Exact,
        rules: match profile {
            Profile::Paper => Rules::paper(),
            Profile::Hardened => Rules::hardened(),
        },
    }
}

fn on_unreadable(mode: Mode) -> OnUnreadable {
    if mode == Mode::Enforce { OnUnreadable::Reject } else { OnUnreadable::Forward }
}

fn model(
    section: &mut Section<'_>,
    of_all: &ModelSettings,
    profile: Profile,
    judgment: &toml::Table,
) -> ModelSettings {
    let mode = section.choice("mode", &MODES, of_all.mode);
    let most_pixels = of_all.reading.most_pixels;
    let base = base(mode, section.choice("profile", &PROFILES, profile), most_pixels);
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
            sees: section.section("sees", sees),
            most_pixels,
        },
        on_unreadable: section.choice(
            "on_unreadable",
            &[("forward", OnUnreadable::Forward), ("reject", OnUnreadable::Reject)],
            base.on_unreadable,
        ),
        ignore_extra_inputs: section.choice("extra_inputs", &[("key", false), ("ignore", true)], false),
        timing: section.choice("timing", &TIMINGS, of_all.timing),
        scores: section.choice("scores", &SCORES, of_all.scores),
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

/// What the model looks at: a crop, after a resize or without one; sides in pixels, width before height.
fn sees(section: &mut Section<'_>) -> Option<Sees> {
    let resize: Option<Resize> = section.optional("resize");
    let Some(crop) = section.optional::<[u32; 2]>("crop") else {
        if resize.is_some() {
            section.mistake("resize", "a resize alone leaves the whole picture; say what is cropped from it");
        }
        return None;
    };
    let target = match resize {
        None => [1, 1],
        Some(Resize::Shorter(side)) => [side, side],
        Some(Resize::Stretch(sides)) => sides,
    };
    for (key, sides) in [("crop", crop), ("resize", target)] {
        if !sides.iter().all(|side| (1..=MAX_SIDE).contains(side)) {
            section.mistake(key, format!("expected sides of 1 to {MAX_SIDE} pixels, found {sides:?}"));
        }
    }
    Some(Sees { resize, crop })
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
        bits_share: section.within("bits_share", base.bits_share, 0.0..=1.0),
        guard_share: section.within("guard_share", base.guard_share, 0.0..=1.0),
        guard_level: section.value("guard_level", base.guard_level),
        guard_cell: section.value("guard_cell", base.guard_cell),
        suspect_bits: section.within("suspect_bits", base.suspect_bits, 0..=256),
        suspect_positions: section.within("suspect_positions", base.suspect_positions, 0..=1024),
        suspect_cells: section.within("suspect_cells", base.suspect_cells, 0..=16),
        suspect_level: section.value("suspect_level", base.suspect_level),
        suspect_cast_level: section.value("suspect_cast_level", base.suspect_cast_level),
        suspect_contrast: section.within("suspect_contrast", base.suspect_contrast, 0.0..=255.0),
        suspect_correlation: section.within("suspect_correlation", base.suspect_correlation, -1.0..=2.0),
        suspect_palette: section.within("suspect_palette", base.suspect_palette, 0.0..=10.0),
        palette_chroma: section.within("palette_chroma", base.palette_chroma, 0.1..=255.0),
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

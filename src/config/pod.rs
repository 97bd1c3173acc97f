//! What a sidecar needs to stand inside a pod: the probes that it answers for the model server, and where the model server must
//! not answer. The injector writes both into the environment; by hand they are seldom wanted.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

use super::section::Section;

/// The most probes and the most ports: a pod has a handful.
const MOST: usize = 64;

/// What a probe's path may end with.
const KINDS: [&str; 3] = ["livez", "readyz", "startupz"];

/// Probes that are answered on a port of their own by asking the model server on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probes {
    /// Where; no probes without it.
    pub listen: Option<SocketAddr>,
    /// What is asked, by path: `container/livez`, `container/readyz`, `container/startupz`.
    pub replay: BTreeMap<String, Probe>,
}

/// One probe as the pod had it, to be asked on loopback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What is asked.
    pub target: Target,
    /// How long an answer may take.
    pub timeout: Duration,
}

/// What a probe asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `GET path`; a status of 200 to 399 is success.
    Http {
        /// The port on loopback.
        port: u16,
        /// Path and query.
        path: PathAndQuery,
        /// Headers of the probe.
        headers: HeaderMap,
    },
    /// It accepts a connection.
    Tcp {
        /// Where.
        at: Place,
    },
    /// `grpc.health.v1` says SERVING.
    Grpc {
        /// Where it is asked.
        at: Place,
        /// The service that is asked about.
        service: String,
    },
}

/// A place on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A port on loopback.
    Port(u16),
    /// A UNIX socket.
    Socket(PathBuf),
}

/// Where the model server must not answer: on the pod's own addresses, which others in the cluster reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bypass {
    /// What is done where it does.
    pub check: BypassCheck,
    /// The pod's own addresses.
    pub addresses: Vec<IpAddr>,
    /// The ports that are tried there.
    pub ports: Vec<u16>,
}

/// What is done about a model server that can be reached past us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BypassCheck {
    /// It is told, and we are not ready.
    Enforce,
    /// It is told.
    Warn,
    /// Nobody looks.
    Off,
}

impl Bypass {
    /// Every address that is tried; none where nobody looks.
    pub fn targets(&self) -> Vec<SocketAddr> {
        if self.check == BypassCheck::Off {
            return Vec::new();
        }
        let at = |address: &IpAddr| self.ports.iter().map(|port| SocketAddr::new(*address, *port)).collect();
        self.addresses.iter().flat_map(|address: &IpAddr| -> Vec<SocketAddr> { at(address) }).collect()
    }
}

/// A probe as it is written, in TOML or JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenProbe {
    http: Option<WrittenHttp>,
    tcp: Option<WrittenTcp>,
    grpc: Option<WrittenGrpc>,
    timeout_seconds: Option<u16>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenHttp {
    port: u16,
    path: Option<String>,
    scheme: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTcp {
    port: Option<u16>,
    socket: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenGrpc {
    port: Option<u16>,
    socket: Option<PathBuf>,
    #[serde(default)]
    service: String,
}

pub(super) fn probes(section: &mut Section<'_>) -> Probes {
    let listen = section.optional::<String>("listen").filter(|written| !written.is_empty());
    let listen = listen.and_then(|written| {
        let parsed = written.parse().ok();
        if parsed.is_none() {
            section.mistake("listen", format!("expected ip:port, found {written:?}"));
        }
        parsed
    });
    // In the environment it is JSON, which is text to TOML.
    let written: Option<Result<BTreeMap<String, WrittenProbe>, String>> = match section.optional("replay") {
        None => None,
        Some(toml::Value::String(text)) if text.trim().is_empty() => None,
        Some(toml::Value::String(text)) => {
            Some(serde_json::from_str(&text).map_err(|error| error.to_string()))
        }
        Some(table) => Some(table.try_into().map_err(|error: toml::de::Error| error.message().to_owned())),
    };
    let written = written.unwrap_or_else(|| Ok(BTreeMap::new())).unwrap_or_else(|error| {
        section.mistake("replay", format!("expected a map from container/livez to a probe: {error}"));
        BTreeMap::new()
    });
    if written.len() > MOST {
        section.mistake("replay", format!("expected at most {MOST} probes, found {}", written.len()));
    }
    let mut replay = BTreeMap::new();
    for (path, probe) in written {
        match known_path(&path).and_then(|()| probe.checked()) {
            Ok(probe) => {
                replay.insert(path, probe);
            }
            Err(why) => section.mistake("replay", format!("{path:?}: {why}")),
        }
    }
    Probes { listen, replay }
}

/// `container/kind`, the container named as Kubernetes allows.
fn known_path(path: &str) -> Result<(), String> {
    let is_name = |name: &str| {
        !name.is_empty()
            && name.bytes().all(|byte| byte == b'-' || byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    match path.split_once('/') {
        Some((container, kind)) if is_name(container) && KINDS.contains(&kind) => Ok(()),
        _ => Err(format!("expected a container's name, a slash and one of {}", KINDS.join(", "))),
    }
}

impl WrittenProbe {
    fn checked(self) -> Result<Probe, String> {
        let target = match (self.http, self.tcp, self.grpc) {
            (Some(http), None, None) => http.checked()?,
            (None, Some(tcp), None) => Target::Tcp { at: place(tcp.port, tcp.socket)? },
            (None, None, Some(grpc)) => {
                Target::Grpc { at: place(grpc.port, grpc.socket)?, service: grpc.service }
            }
            _ => return Err("expected exactly one of http, tcp and grpc".to_owned()),
        };
        let seconds = self.timeout_seconds.unwrap_or(1);
        if !(1..=600).contains(&seconds) {
            return Err(format!("timeout_seconds: expected 1 to 600, found {seconds}"));
        }
        Ok(Probe { target, timeout: Duration::from_secs(u64::from(seconds)) })
    }
}

impl WrittenHttp {
    fn checked(self) -> Result<Target, String> {
        let scheme = self.scheme.as_deref().unwrap_or("HTTP");
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(format!(
                "scheme: expected \"HTTP\", found {scheme:?}: model servers have no other on loopback"
            ));
        }
        let path = self.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
        let parsed: Option<PathAndQuery> = path.parse().ok().filter(|_| path.starts_with('/'));
        let path =
            parsed.ok_or_else(|| format!("path: expected one that begins with a slash, found {path:?}"))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let known = HeaderName::from_str(name).ok().zip(HeaderValue::from_str(value).ok());
            let (name, value) = known.ok_or_else(|| format!("headers: {name:?} is none"))?;
            headers.append(name, value);
        }
        Ok(Target::Http { port: self.port, path, headers })
    }
}

fn place(port: Option<u16>, socket: Option<PathBuf>) -> Result<Place, String> {
    match (port, socket) {
        (Some(port), None) => Ok(Place::Port(port)),
        (None, Some(path)) => Ok(Place::Socket(path)),
        _ => Err("expected either a port or a socket".to_owned()),
    }
}

pub(super) fn bypass(section: &mut Section<'_>) -> Bypass {
    const CHECKS: [(&str, BypassCheck); 3] =
        [("enforce", BypassCheck::Enforce), ("warn", BypassCheck::Warn), ("off", BypassCheck::Off)];
    let check = section.choice("check", &CHECKS, BypassCheck::Enforce);
    let addresses = list(section, "address", "the pod's own addresses");
    let ports: Vec<u16> = list(section, "ports", "ports");
    if ports.len() > MOST {
        section.mistake("ports", format!("expected at most {MOST}, found {}", ports.len()));
    }
    if check != BypassCheck::Off && addresses.is_empty() && !ports.is_empty() {
        section.mistake(
            "address",
            "the ports are tried on the pod's own address; name it, or set check = \"off\"",
        );
    }
    Bypass { check, addresses, ports }
}

/// Several values: a list, one alone, or text with commas between them, as environment variables have it.
fn list<T: FromStr>(section: &mut Section<'_>, key: &'static str, what: &str) -> Vec<T> {
    let words: Vec<String> = match section.optional::<toml::Value>(key) {
        None => Vec::new(),
        Some(toml::Value::String(text)) => text.split(',').map(str::to_owned).collect(),
        Some(toml::Value::Array(values)) => values.iter().map(plain).collect(),
        Some(value) => vec![plain(&value)],
    };
    let words = words.iter().map(|word| word.trim()).filter(|word| !word.is_empty());
    let mut values = Vec::new();
    for word in words {
        match word.parse() {
            Ok(value) => values.push(value),
            Err(_) => section.mistake(key, format!("expected {what}, found {word:?}")),
        }
    }
    values
}

fn plain(value: &toml::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::super::{Config, from_environment, from_text};
    use super::*;

    fn of_environment(variables: &[(&str, &str)]) -> Result<Config, super::super::Mistakes> {
        let owned = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::from_layers([from_environment(owned)])
    }

    #[test]
    fn an_injected_environment_is_read() {
        let config = of_environment(&[
            ("REFRAIN_PROBES__LISTEN", "0.0.0.0:15991"),
            (
                "REFRAIN_PROBES__REPLAY",
                r#"{"triton/livez":{"http":{"port":9002,"path":"/v2/health/live","scheme":"HTTP","headers":{"X-A":"b"}},"timeout_seconds":5},
                    "triton/readyz":{"tcp":{"port":9001}},"tfs/startupz":{"grpc":{"socket":"/run/s","service":"x"}}}"#,
            ),
            ("REFRAIN_BYPASS__ADDRESS", "10.1.2.3,fd00::3"),
            ("REFRAIN_BYPASS__PORTS", "9001,9002"),
            ("REFRAIN_BYPASS__CHECK", "warn"),
        ])
        .unwrap();
        assert_eq!(config.probes.listen, Some("0.0.0.0:15991".parse().unwrap()));
        let live = &config.probes.replay["triton/livez"];
        assert_eq!(live.timeout, Duration::from_secs(5));
        let Target::Http { port, path, headers } = &live.target else { panic!("{live:?}") };
        assert_eq!((*port, path.as_str(), headers["x-a"].to_str().unwrap()), (9002, "/v2/health/live", "b"));
        let at = Place::Port(9001);
        let ready = Probe { target: Target::Tcp { at }, timeout: Duration::from_secs(1) };
        assert_eq!(config.probes.replay["triton/readyz"], ready);
        let at = Place::Socket("/run/s".into());
        assert_eq!(config.probes.replay["tfs/startupz"].target, Target::Grpc { at, service: "x".into() });
        let targets: Vec<String> = config.bypass.targets().iter().map(ToString::to_string).collect();
        assert_eq!(targets, ["10.1.2.3:9001", "10.1.2.3:9002", "[fd00::3]:9001", "[fd00::3]:9002"]);
    }

    #[test]
    fn one_port_is_a_number_to_toml_and_off_tries_none() {
        let one = [("REFRAIN_BYPASS__ADDRESS", "10.1.2.3"), ("REFRAIN_BYPASS__PORTS", "9001")];
        assert_eq!(of_environment(&one).unwrap().bypass.targets().len(), 1);
        let off = [one[0], one[1], ("REFRAIN_BYPASS__CHECK", "off")];
        assert!(of_environment(&off).unwrap().bypass.targets().is_empty());
    }

    #[test]
    fn the_same_in_a_file() {
        let text = "[probes]\nlisten = '127.0.0.1:1'\nreplay.'a/livez' = { tcp = { port = 1 } }\n[bypass]\naddress = '10.0.0.1'\nports = [1, 2]\n";
        let config = Config::from_layers([from_text(text).unwrap()]).unwrap();
        assert_eq!((config.probes.replay.len(), config.bypass.targets().len()), (1, 2));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (variable, value, said) in [
            ("REFRAIN_PROBES__LISTEN", "somewhere", "probes.listen: expected ip:port"),
            ("REFRAIN_PROBES__REPLAY", "{", "probes.replay: expected a map"),
            ("REFRAIN_PROBES__REPLAY", r#"{"a":{"tcp":{"port":1}}}"#, "expected a container's name"),
            ("REFRAIN_PROBES__REPLAY", r#"{"A b/livez":{"tcp":{"port":1}}}"#, "expected a container's name"),
            ("REFRAIN_PROBES__REPLAY", r#"{"a/livez":{"tcp":{"port":70000}}}"#, "expected u16"),
            ("REFRAIN_PROBES__REPLAY", r#"{"a/livez":{"tpc":{"port":1}}}"#, "unknown field"),
            ("REFRAIN_PROBES__REPLAY", r#"{"a/livez":{}}"#, "exactly one of"),
            ("REFRAIN_PROBES__REPLAY", r#"{"a/livez":{"grpc":{}}}"#, "either a port or a socket"),
            ("REFRAIN_PROBES__REPLAY", r#"{"a/livez":{"tcp":{"port":1},"timeout_seconds":0}}"#, "1 to 600"),
            (
                "REFRAIN_PROBES__REPLAY",
                r#"{"a/livez":{"http":{"port":1,"path":"v2"}}}"#,
                "begins with a slash",
            ),
            (
                "REFRAIN_PROBES__REPLAY",
                r#"{"a/livez":{"http":{"port":1,"scheme":"HTTPS"}}}"#,
                "expected \"HTTP\"",
            ),
            ("REFRAIN_PROBES__REPLAY", r#"{"a/livez":{"http":{"port":1,"headers":{"a b":"c"}}}}"#, "is none"),
            ("REFRAIN_BYPASS__CHECK", "maybe", "bypass.check"),
            ("REFRAIN_BYPASS__PORTS", "80,x", "bypass.ports: expected ports, found \"x\""),
            ("REFRAIN_BYPASS__PORTS", "80", "bypass.address"),
            ("REFRAIN_BYPASS__ADDRESS", "here", "bypass.address"),
        ] {
            let mistakes = of_environment(&[(variable, value)]).unwrap_err().to_string();
            assert!(mistakes.contains(said), "{variable}={value}: {mistakes}");
        }
    }
}

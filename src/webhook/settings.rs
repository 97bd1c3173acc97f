//! The webhook's own settings: a TOML file, unknown keys refused, every mistake at once.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::{Mistakes, Section, from_text};

/// What the webhook does and what it puts into pods.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where the API server asks, over HTTPS.
    pub listen: SocketAddr,
    /// Where probes and metrics are answered.
    pub admin: SocketAddr,
    /// The API server's version.
    pub kubernetes: Kubernetes,
    /// Where our certificate comes from.
    pub certificates: Certificates,
    /// What goes into pods.
    pub sidecar: Sidecar,
    /// Whether the model server's own metrics stay reachable from the network.
    pub metrics_exposed: bool,
}

/// A version of Kubernetes, as far as it decides what a pod may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kubernetes {
    /// The first number.
    pub major: u16,
    /// The second.
    pub minor: u16,
}

impl Kubernetes {
    /// Native sidecars: init containers with `restartPolicy: Always`.
    pub const NATIVE_SIDECARS: Self = Self { major: 1, minor: 29 };
    /// `lifecycle.preStop.sleep`.
    pub const SLEEP: Self = Self { major: 1, minor: 30 };
    /// Services find a named port on a native sidecar (kubernetes/kubernetes#127976).
    pub const NAMED_SIDECAR_PORTS: Self = Self { major: 1, minor: 32 };

    /// `1.31`, `v1.31.4-gke.1`, `1.31+`.
    pub fn read(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix('v').unwrap_or(text).split('.');
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?;
        let digits = minor.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(minor.len());
        Some(Self { major, minor: minor[..digits].parse().ok()? })
    }
}

impl fmt::Display for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Where our certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certificates {
    /// Somebody else makes and renews it; the files are read again when they change.
    Files {
        /// The chain, PEM.
        certificate: PathBuf,
        /// Its key, PEM.
        key: PathBuf,
    },
    /// We make a CA and a certificate, keep them in a Secret and tell the API server.
    Own(OwnCertificates),
}

/// What self-made certificates are kept in and told to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnCertificates {
    /// The Secret.
    pub secret: String,
    /// The Service by which the API server calls us.
    pub service: String,
    /// The MutatingWebhookConfiguration whose `caBundle` is kept.
    pub configuration: String,
    /// Where the Secret and the Service are; our own namespace where nothing is said.
    pub namespace: Option<String>,
    /// How long a certificate lives; it is renewed after two thirds of that. A CA lives ten times as long.
    pub life: Duration,
}

/// Which form the sidecar takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Native {
    /// By the version of Kubernetes.
    Auto,
    /// Always an init container that goes on running.
    Always,
    /// Always a plain container.
    Never,
}

/// What the sidecar does where the model server answers on the pod's own address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BypassCheck {
    /// Not ready, with the reason.
    Enforce,
    /// A metric and a log line.
    Warn,
    /// It is not looked for.
    Off,
}

impl BypassCheck {
    /// As the sidecar's own setting has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Warn => "warn",
            Self::Off => "off",
        }
    }
}

/// What goes into pods.
#[derive(Clone, Debug, PartialEq)]
pub struct Sidecar {
    /// The image.
    pub image: String,
    /// When it is pulled.
    pub pull_policy: String,
    /// Which form the sidecar takes.
    pub native: Native,
    /// Requested CPU.
    pub cpu_request: String,
    /// Most CPU; none by default, since throttling adds to every call.
    pub cpu_limit: Option<String>,
    /// Requested memory.
    pub memory_request: String,
    /// Most memory.
    pub memory_limit: String,
    /// Where the sidecar tells of itself.
    pub admin_port: u16,
    /// Where it replays the model server's probes.
    pub probe_port: u16,
    /// For how long it goes on serving once the pod is to end.
    pub drain: Duration,
    /// Whether probes of moved ports are led through the sidecar; a pod that needs it is refused otherwise.
    pub probe_rewrite: bool,
    /// What is done where the model server answers on the pod's own address.
    pub bypass_check: BypassCheck,
    /// The ConfigMap with the sidecar's configuration, in the pod's own namespace.
    pub config_map: String,
    /// What it logs.
    pub log_level: String,
    /// The Secret with the key of callers' names in telemetry (`digest-key`), in the pod's own namespace.
    pub digest_key_secret: Option<String>,
    /// Further environment.
    pub env: BTreeMap<String, String>,
}

impl Sidecar {
    /// Whether the sidecar is an init container that goes on running.
    pub fn is_native(&self, kubernetes: Kubernetes) -> bool {
        match self.native {
            Native::Auto => kubernetes >= Kubernetes::NATIVE_SIDECARS,
            Native::Always => true,
            Native::Never => false,
        }
    }
}

/// Reads the settings, or says everything that is wrong with them.
pub fn read(text: &str) -> Result<Settings, Mistakes> {
    let table = from_text(text)?;
    let mut mistakes = Mistakes::default();
    let mut top = Section::new("", table, &mut mistakes);
    let settings = Settings {
        listen: top.value("listen", SocketAddr::from(([0, 0, 0, 0], 8443))),
        admin: top.value("admin", SocketAddr::from(([0, 0, 0, 0], 15990))),
        kubernetes: kubernetes(&mut top),
        certificates: top.section("certificates", certificates),
        sidecar: top.section("sidecar", sidecar),
        metrics_exposed: top.section("metrics", |section| section.value("exposed", false)),
    };
    let (kubernetes, native) = (settings.kubernetes, settings.sidecar.native);
    if native == Native::Always && kubernetes < Kubernetes::NATIVE_SIDECARS {
        top.mistake(
            "sidecar.native",
            format!("\"always\" needs Kubernetes {}, found {kubernetes}", Kubernetes::NATIVE_SIDECARS),
        );
    }
    top.end();
    if mistakes.0.is_empty() { Ok(settings) } else { Err(mistakes) }
}

fn kubernetes(top: &mut Section<'_>) -> Kubernetes {
    let written: Option<String> = top.optional("kubernetes");
    let read = written.as_deref().and_then(Kubernetes::read);
    if read.is_none() {
        let found = written.map_or_else(|| "nothing".to_owned(), |text| format!("{text:?}"));
        top.mistake(
            "kubernetes",
            format!("expected the API server's version, such as \"1.31\", found {found}"),
        );
    }
    read.unwrap_or(Kubernetes::NATIVE_SIDECARS)
}

#[derive(Clone, Copy)]
enum Mode {
    Files,
    Own,
}

fn certificates(section: &mut Section<'_>) -> Certificates {
    let mode = section.choice("mode", &[("files", Mode::Files), ("self", Mode::Own)], Mode::Own);
    // The keys of the other mode are known too: a chart need not take them out.
    let certificate = section.value("certificate", PathBuf::from("/tls/tls.crt"));
    let key = section.value("key", PathBuf::from("/tls/tls.key"));
    let days = section.within("days", 365_u64, 2..=3650);
    let own = OwnCertificates {
        secret: object(section, "secret", "refrain-webhook-tls"),
        service: object(section, "service", "refrain-webhook"),
        configuration: object(section, "configuration", "refrain"),
        namespace: section.optional("namespace").filter(|name: &String| !name.is_empty()),
        life: Duration::from_hours(24 * days),
    };
    match mode {
        Mode::Files => Certificates::Files { certificate, key },
        Mode::Own => Certificates::Own(own),
    }
}

fn sidecar(section: &mut Section<'_>) -> Sidecar {
    let image: String = section.value("image", String::new());
    if image.trim().is_empty() {
        section.mistake("image", "expected the sidecar's image, found none");
    }
    let sidecar = Sidecar {
        image,
        pull_policy: section
            .choice(
                "pull_policy",
                &[("IfNotPresent", "IfNotPresent"), ("Always", "Always"), ("Never", "Never")],
                "IfNotPresent",
            )
            .to_owned(),
        native: section.choice(
            "native",
            &[("auto", Native::Auto), ("always", Native::Always), ("never", Native::Never)],
            Native::Auto,
        ),
        cpu_request: quantity(section, "cpu_request", "100m"),
        cpu_limit: section
            .optional("cpu_limit")
            .filter(|limit: &String| checked(section, "cpu_limit", limit)),
        memory_request: quantity(section, "memory_request", "128Mi"),
        memory_limit: quantity(section, "memory_limit", "256Mi"),
        admin_port: section.within("admin_port", 15990, 1..=u16::MAX),
        probe_port: section.within("probe_port", 15991, 1..=u16::MAX),
        drain: Duration::from_secs(section.within("drain_seconds", 10, 0..=3600)),
        probe_rewrite: section.value("probe_rewrite", true),
        bypass_check: section.choice(
            "bypass_check",
            &[("enforce", BypassCheck::Enforce), ("warn", BypassCheck::Warn), ("off", BypassCheck::Off)],
            BypassCheck::Enforce,
        ),
        config_map: object(section, "config_map", "refrain-proxy-config"),
        log_level: section.value("log_level", "info".to_owned()),
        digest_key_secret: section
            .optional("digest_key_secret")
            .filter(|name: &String| !name.is_empty())
            .inspect(|name| {
                if !is_object_name(name) {
                    section
                        .mistake("digest_key_secret", format!("expected an object's name, found {name:?}"));
                }
            }),
        env: section.value("env", BTreeMap::new()),
    };
    if sidecar.admin_port == sidecar.probe_port {
        section.mistake(
            "probe_port",
            format!("expected another port than admin_port, found {}", sidecar.probe_port),
        );
    }
    for name in sidecar.env.keys() {
        if OURS.contains(&name.as_str()) {
            section.mistake(
                "env",
                format!("{name} is set for each pod; expected a variable that the webhook does not set"),
            );
        } else if !is_variable(name) {
            section.mistake("env", format!("expected a variable's name, found {name:?}"));
        }
    }
    sidecar
}

/// What the webhook itself sets in the sidecar's environment.
pub(super) const OURS: [&str; 18] = [
    "POD_IP",
    "POD_NAME",
    "POD_NAMESPACE",
    "POD_UID",
    "NODE_NAME",
    "REFRAIN_CONFIG",
    "REFRAIN_LISTEN",
    "REFRAIN_UPSTREAM",
    "REFRAIN_MODE",
    "REFRAIN_LOG",
    "REFRAIN_ADMIN__LISTEN",
    "REFRAIN_PROBES__LISTEN",
    "REFRAIN_PROBES__REPLAY",
    "REFRAIN_BYPASS__ADDRESS",
    "REFRAIN_BYPASS__PORTS",
    "REFRAIN_BYPASS__CHECK",
    "REFRAIN_DRAIN_SECONDS",
    "REFRAIN_TELEMETRY__DIGEST_KEY",
];

fn is_variable(name: &str) -> bool {
    !name.starts_with(|letter: char| letter.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

/// The name of an object, as Kubernetes has them.
fn object(section: &mut Section<'_>, key: &'static str, default: &str) -> String {
    let name = section.value(key, default.to_owned());
    if !is_object_name(&name) {
        section.mistake(key, format!("expected an object's name, found {name:?}"));
    }
    name
}

fn quantity(section: &mut Section<'_>, key: &'static str, default: &str) -> String {
    let written = section.value(key, default.to_owned());
    checked(section, key, &written);
    written
}

fn checked(section: &mut Section<'_>, key: &'static str, written: &str) -> bool {
    let is_right = is_quantity(written);
    if !is_right {
        section.mistake(key, format!("expected an amount such as 100m or 256Mi, found {written:?}"));
    }
    is_right
}

/// Whether a text can be the name of a ConfigMap, a Secret or a Service.
pub(super) fn is_object_name(name: &str) -> bool {
    let is_edge =
        |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    name.len() <= 253
        && is_edge(name.bytes().next())
        && is_edge(name.bytes().last())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte))
}

/// Whether a text is an amount of CPU or memory: a number and one of Kubernetes' suffixes.
pub(super) fn is_quantity(text: &str) -> bool {
    const SUFFIXES: [&str; 14] = ["", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    number.parse::<f64>().is_ok_and(|number| number > 0.0) && SUFFIXES.contains(&suffix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_words_are_enough_and_the_rest_has_defaults() {
        let settings = read("kubernetes = \"v1.31.4-gke.1\"\n[sidecar]\nimage = \"refrain:1\"").unwrap();
        assert_eq!(settings.kubernetes, Kubernetes { major: 1, minor: 31 });
        assert_eq!(settings.listen.port(), 8443);
        assert!(settings.sidecar.is_native(settings.kubernetes) && !settings.metrics_exposed);
        assert!(matches!(settings.certificates, Certificates::Own(own) if own.service == "refrain-webhook"));
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let wrong = "listn = 1\nkubernetes = \"new\"\n[certificates]\nmode = \"none\"\ndays = 1\n[sidecar]\nmemory_limit = \"much\"\n\
                     admin_port = 7\nprobe_port = 7\nenv = { REFRAIN_LISTEN = \"x\", \"1=\" = \"y\" }\nconfig_map = \"A B\"";
        let told = read(wrong).unwrap_err().to_string();
        for part in [
            "listn: unknown key",
            "kubernetes: expected the API server's version",
            "certificates.mode: expected \"files\" or \"self\", found \"none\"",
            "certificates.days: expected 2 to 3650, found 1",
            "sidecar.image: expected the sidecar's image, found none",
            "sidecar.memory_limit: expected an amount",
            "sidecar.probe_port: expected another port",
            "sidecar.env: REFRAIN_LISTEN is set for each pod",
            "sidecar.env: expected a variable's name, found \"1=\"",
            "sidecar.config_map: expected an object's name",
        ] {
            assert!(told.contains(part), "{part} in:\n{told}");
        }
    }

    #[test]
    fn native_sidecars_need_a_kubernetes_that_has_them() {
        let told = read("kubernetes = \"1.28\"\n[sidecar]\nimage = \"x\"\nnative = \"always\"")
            .unwrap_err()
            .to_string();
        assert_eq!(told, "sidecar.native: \"always\" needs Kubernetes 1.29, found 1.28");
    }

    #[test]
    fn amounts_are_those_of_kubernetes() {
        for right in ["1", "100m", "0.5", "256Mi", "2Gi", "1e3".trim_end_matches("e3")] {
            assert!(is_quantity(right), "{right}");
        }
        for wrong in ["", "0", "m", "-1", "1 Gi", "1gb", "1.2.3", "NaN", "inf"] {
            assert!(!is_quantity(wrong), "{wrong}");
        }
    }
}

//! The variables of the OpenTelemetry specification. An empty one counts as none; a wrong one is said and left aside.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::Temporality;

use super::sampling::Sampling;
use super::trace::SCHEMA;

/// How a collector is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// OTLP over gRPC.
    Grpc,
    /// OTLP over HTTP/1.1, as protobuf.
    Http,
}

/// Where one signal goes. Headers and compression are read from the environment by the exporter itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) protocol: Protocol,
    /// By our own settings; by the environment where there is none.
    pub(super) endpoint: Option<String>,
    /// It is spoken to over TLS, whoever names it.
    pub(super) is_https: bool,
    /// How long one request may take.
    pub(super) within: Duration,
    /// A file with the CA that the collector's certificate must come from.
    pub(super) certificate: Option<String>,
    /// Files with our own certificate and key.
    pub(super) identity: Option<(String, String)>,
}

/// How items become batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batching {
    /// Items that may wait.
    pub(super) queue: usize,
    /// Items in one export.
    pub(super) batch: usize,
    /// How long the first of a batch waits at most for others.
    pub(super) delay: Duration,
    /// How long one export may take.
    pub(super) within: Duration,
}

/// How metrics are pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pushing {
    /// From one push to the next.
    pub(super) every: Duration,
    /// How long one push may take.
    pub(super) within: Duration,
}

/// What the environment says of a process's telemetry.
pub(super) struct Environment<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
}

impl<'a> Environment<'a> {
    pub(super) fn new(variable: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { variable }
    }

    fn get(&self, name: &str) -> Option<String> {
        (self.variable)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    fn wrong(name: &str, value: &str) {
        tracing::warn!(value, "{name} has no value of the specification's and counts for nothing");
    }

    /// Whether nothing is to be exported at all.
    pub(super) fn is_disabled(&self) -> bool {
        self.get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// Where `signal` (`TRACES`, `LOGS` or `METRICS`) goes; nowhere unless an endpoint or the exporter is named. `endpoint` is that of our
    /// own settings.
    ///
    /// The specification would export to this very machine by default; beside a model server there is rarely a collector.
    pub(super) fn destination(&self, signal: &str, endpoint: Option<&str>) -> Option<Destination> {
        let of_signal = |what: &str| {
            let own = self.get(&format!("OTEL_EXPORTER_OTLP_{signal}_{what}"));
            own.or_else(|| self.get(&format!("OTEL_EXPORTER_OTLP_{what}")))
        };
        let exporter = format!("OTEL_{signal}_EXPORTER");
        let named = self.get(&exporter);
        match named.as_deref() {
            None | Some("otlp") => {}
            Some("none") => return None,
            // The page is there by the admin port, whatever is pushed.
            Some("prometheus") if signal == "METRICS" => return None,
            Some(other) => Self::wrong(&exporter, other),
        }
        if endpoint.is_none() && of_signal("ENDPOINT").is_none() && named.as_deref() != Some("otlp") {
            return None;
        }
        let protocol = match of_signal("PROTOCOL").as_deref() {
            Some("grpc") => Protocol::Grpc,
            None | Some("http/protobuf") => Protocol::Http,
            Some(other) => {
                Self::wrong("OTEL_EXPORTER_OTLP_PROTOCOL", other);
                Protocol::Http
            }
        };
        let identity = of_signal("CLIENT_CERTIFICATE").zip(of_signal("CLIENT_KEY"));
        let endpoint = endpoint.map(str::to_owned);
        let named = endpoint.clone().or_else(|| of_signal("ENDPOINT")).unwrap_or_default();
        let is_https = named.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"));
        let within = of_signal("TIMEOUT").and_then(|value| {
            let parsed = value.parse().ok().filter(|milliseconds| *milliseconds > 0);
            if parsed.is_none() {
                Self::wrong("OTEL_EXPORTER_OTLP_TIMEOUT", &value);
            }
            parsed
        });
        let within = Duration::from_millis(within.unwrap_or(10_000));
        let certificate = of_signal("CERTIFICATE");
        Some(Destination { protocol, endpoint, is_https, within, certificate, identity })
    }

    /// Which traces are kept.
    pub(super) fn sampling(&self) -> Sampling {
        let Some(name) = self.get("OTEL_TRACES_SAMPLER") else { return Sampling::ALL };
        Sampling::named(&name, self.get("OTEL_TRACES_SAMPLER_ARG").as_deref()).unwrap_or_else(|| {
            Self::wrong("OTEL_TRACES_SAMPLER(_ARG)", &name);
            Sampling::ALL
        })
    }

    /// The positive number that `name` says.
    fn number(&self, name: &str, default: u64) -> u64 {
        let Some(value) = self.get(name) else { return default };
        value.parse().ok().filter(|number| *number > 0).unwrap_or_else(|| {
            Self::wrong(name, &value);
            default
        })
    }

    /// How spans (`BSP`) or log records (`BLRP`) become batches.
    pub(super) fn batching(&self, prefix: &str) -> Batching {
        let number = |what: &str, default| self.number(&format!("OTEL_{prefix}_{what}"), default);
        let delay = if prefix == "BLRP" { 1000 } else { 5000 };
        // A queue is allocated as it fills; still, a number without an end would be none.
        let queue = number("MAX_QUEUE_SIZE", 2048).min(1 << 20) as usize;
        Batching {
            queue,
            batch: (number("MAX_EXPORT_BATCH_SIZE", 512) as usize).min(queue),
            delay: Duration::from_millis(number("SCHEDULE_DELAY", delay)),
            within: Duration::from_millis(number("EXPORT_TIMEOUT", 30_000)),
        }
    }

    /// How metrics are pushed.
    pub(super) fn pushing(&self) -> Pushing {
        // A clock cannot count to times that nobody sees; a year is never, too.
        let time = |name, default| Duration::from_millis(self.number(name, default).min(365 * 86_400_000));
        Pushing {
            every: time("OTEL_METRIC_EXPORT_INTERVAL", 60_000),
            within: time("OTEL_METRIC_EXPORT_TIMEOUT", 30_000),
        }
    }

    /// Whether a push tells all since the start, or what came since the last.
    pub(super) fn temporality(&self) -> Temporality {
        const NAME: &str = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
        let Some(value) = self.get(NAME) else { return Temporality::Cumulative };
        value.parse().unwrap_or_else(|()| {
            Self::wrong(NAME, &value);
            Temporality::Cumulative
        })
    }

    /// Whether `traceparent` and whether `baggage` are passed on.
    pub(super) fn propagators(&self) -> (bool, bool) {
        let Some(listed) = self.get("OTEL_PROPAGATORS") else { return (true, true) };
        let named = |wanted: &str| listed.split(',').any(|name| name.trim() == wanted);
        (named("tracecontext"), named("baggage"))
    }

    /// Who we are: `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`, else `refrain` and its version.
    pub(super) fn resource(&self) -> Resource {
        let mut attributes = vec![
            KeyValue::new("service.name", "refrain"),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ];
        let written = self.get("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
        for pair in written.split(',').filter(|pair| !pair.trim().is_empty()) {
            match pair.split_once('=') {
                Some((name, value)) => {
                    let value = percent_decoded(value.trim());
                    attributes.push(KeyValue::new(name.trim().to_owned(), value));
                }
                None => Self::wrong("OTEL_RESOURCE_ATTRIBUTES", pair),
            }
        }
        if let Some(name) = self.get("OTEL_SERVICE_NAME") {
            attributes.push(KeyValue::new("service.name", name));
        }
        Resource::builder_empty().with_schema_url(attributes, SCHEMA).build()
    }
}

/// `text` with `%XX` as the bytes that they mean; text that is none stays as it is.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code =
            after.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::Key;

    fn with<T>(variables: &[(&str, &str)], look: impl FnOnce(Environment<'_>) -> T) -> T {
        let find = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        look(Environment::new(&find))
    }

    #[test]
    fn without_an_endpoint_nothing_is_exported() {
        assert_eq!(with(&[], |environment| environment.destination("TRACES", None)), None);
        let empty = [("OTEL_EXPORTER_OTLP_ENDPOINT", " "), ("OTEL_TRACES_EXPORTER", "")];
        assert_eq!(with(&empty, |environment| environment.destination("TRACES", None)), None);
        let none = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://x:4318"), ("OTEL_TRACES_EXPORTER", "none")];
        assert_eq!(with(&none, |environment| environment.destination("TRACES", None)), None);
        assert!(with(&none, |environment| environment.destination("LOGS", None)).is_some());
        let scraped =
            [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://x:4318"), ("OTEL_METRICS_EXPORTER", "prometheus")];
        assert_eq!(with(&scraped, |environment| environment.destination("METRICS", None)), None);
        assert!(with(&scraped, |environment| environment.destination("TRACES", None)).is_some());
        let otlp = [("OTEL_TRACES_EXPORTER", "otlp")];
        assert!(with(&otlp, |environment| environment.destination("TRACES", None)).is_some());
    }

    #[test]
    fn the_signals_own_variable_comes_before_the_common_one() {
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://x:4318"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/protobuf"),
        ];
        let protocol =
            |signal| with(&variables, |environment| environment.destination(signal, None).unwrap().protocol);
        assert_eq!((protocol("TRACES"), protocol("LOGS")), (Protocol::Grpc, Protocol::Http));
    }

    #[test]
    fn a_collector_is_spoken_to_over_tls_whoever_names_it_so() {
        let timeout =
            |value| [("OTEL_EXPORTER_OTLP_ENDPOINT", "HTTPS://x"), ("OTEL_EXPORTER_OTLP_TIMEOUT", value)];
        for (value, endpoint, is_https, within) in [
            ("250", None, true, 250),
            ("250", Some("http://y:4318"), false, 250),
            ("soon", Some("https://y"), true, 10_000),
            ("0", None, true, 10_000),
        ] {
            let to = with(&timeout(value), |environment| environment.destination("LOGS", endpoint).unwrap());
            assert_eq!((to.is_https, to.within), (is_https, Duration::from_millis(within)), "{value}");
        }
    }

    #[test]
    fn wrong_values_count_for_nothing() {
        let variables = [
            ("OTEL_SDK_DISABLED", "1"),
            ("OTEL_TRACES_SAMPLER", "dice"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "-3"),
            ("OTEL_BSP_SCHEDULE_DELAY", "250"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "0"),
            ("OTEL_METRIC_EXPORT_TIMEOUT", "18446744073709551615"),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "sometimes"),
        ];
        with(&variables, |environment| {
            assert!(!environment.is_disabled());
            assert_eq!(environment.sampling(), Sampling::ALL);
            let batching = environment.batching("BSP");
            assert_eq!((batching.queue, batching.delay), (2048, Duration::from_millis(250)));
            let year = Duration::from_hours(365 * 24);
            assert_eq!(environment.pushing(), Pushing { every: Duration::from_mins(1), within: year });
            assert_eq!(environment.temporality(), Temporality::Cumulative);
        });
    }

    #[test]
    fn metrics_are_pushed_as_their_variables_say() {
        let variables = [
            ("OTEL_METRIC_EXPORT_INTERVAL", "250"),
            ("OTEL_METRIC_EXPORT_TIMEOUT", "100"),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "LowMemory"),
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://x:4317"),
            ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grpc"),
        ];
        with(&variables, |environment| {
            let [every, within] = [250, 100].map(Duration::from_millis);
            assert_eq!(environment.pushing(), Pushing { every, within });
            assert_eq!(environment.temporality(), Temporality::LowMemory);
            assert_eq!(environment.destination("METRICS", None).unwrap().protocol, Protocol::Grpc);
            assert_eq!(environment.destination("TRACES", None), None);
        });
    }

    #[test]
    fn the_resource_is_what_the_variables_say() {
        let variables = [
            ("OTEL_SERVICE_NAME", "guard"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=x,k8s.pod.name=a%2Cb, broken"),
        ];
        let resource = with(&variables, |environment| environment.resource());
        let get = |name: &'static str| resource.get(&Key::new(name)).map(|value| value.to_string());
        assert_eq!(get("service.name").as_deref(), Some("guard"));
        assert_eq!(get("k8s.pod.name").as_deref(), Some("a,b"));
        assert_eq!(get("service.version").as_deref(), Some(env!("CARGO_PKG_VERSION")));
    }
}

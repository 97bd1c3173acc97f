//! Triton's listeners: gRPC, REST, metrics. All go to loopback, to ports of their own.
//!
//! Checked against tritonserver 2.51: flags are read by `getopt_long` (cut-short names count, `_` for `-` does not, a flag's
//! last occurrence wins, `--` and stray words end it), `--metrics-address` follows `--http-address` where it is not given, and
//! `AIP_MODE=PREDICTION` in the environment opens one more listener.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::command::{CommandLine, Environment, Grammar};
use super::ports::{self, Numbers};
use super::refusal::Refusal;
use super::server::Server;
use super::wishes::Wishes;
use super::{PREFIX, Plan, Upstream};
use crate::webhook::settings::Settings;

const GRAMMAR: Grammar = Grammar {
    program: "tritonserver",
    two_words: true,
    abbreviates: true,
    bare: &["help", "disable-auto-complete-config"],
    guarded: &[
        "allow-grpc",
        "grpc-address",
        "grpc-port",
        "grpc-use-ssl",
        "grpc-use-ssl-mutual",
        "allow-http",
        "http-address",
        "http-port",
        "allow-metrics",
        "metrics-address",
        "metrics-port",
        "allow-sagemaker",
        "allow-vertex-ai",
        "reuse-grpc-port",
        "reuse-http-port",
    ],
    takes_words_alone: false,
};

const LOOPBACK: &str = "127.0.0.1";

/// Opens a listener of its own where it is `PREDICTION`, whatever the flags say of the others.
const VERTEX_MODE: &str = "AIP_MODE";

/// Where Triton listens.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listeners {
    grpc: Listener,
    rest: Option<Listener>,
    metrics: Option<Listener>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Listener {
    address: String,
    port: u16,
}

impl Listener {
    /// Whether only the pod itself reaches it.
    fn is_local(&self) -> bool {
        let address = self.address.trim_matches(['[', ']']);
        address == "localhost"
            || address.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
    }
}

fn listeners(line: &CommandLine, container: &Container) -> Result<Listeners, Refusal> {
    let name = &container.name;
    for (flag, what) in [("allow-sagemaker", "SageMaker"), ("allow-vertex-ai", "Vertex AI")] {
        if line.switch(flag, false)? {
            return Err(Refusal::new(format!(
                "container {name}: --{flag} opens a listener for {what} by which callers would pass Refrain by; set --{flag}=false"
            )));
        }
    }
    if Environment::of(container).may_be(VERTEX_MODE, "PREDICTION") {
        return Err(Refusal::new(format!(
            "container {name}: {VERTEX_MODE} in its env opens a listener for Vertex AI by which callers would pass Refrain by; take \
             {VERTEX_MODE} out"
        )));
    }
    for flag in ["grpc-use-ssl", "grpc-use-ssl-mutual"] {
        if line.switch(flag, false)? {
            return Err(Refusal::new(format!(
                "container {name}: --{flag} puts TLS between Refrain and Triton, which share the pod; take the flag out, and set [tls] in \
                 Refrain's configuration instead"
            )));
        }
    }
    if !line.switch("allow-grpc", true)? {
        return Err(Refusal::new(format!(
            "container {name}: --allow-grpc=false leaves nothing for Refrain to stand in front of; take the flag out"
        )));
    }
    let listener = |what: &str, port: u16| -> Result<Listener, Refusal> {
        let address = line.value(&format!("{what}-address"))?.unwrap_or("0.0.0.0").to_owned();
        let flag = format!("{what}-port");
        match line.port(&flag, port)? {
            0 => Err(Refusal::new(format!(
                "container {name}: --{flag}=0 makes Triton choose a port that nobody knows; name one"
            ))),
            port => Ok(Listener { address, port }),
        }
    };
    let grpc = listener("grpc", 8001)?;
    let rest = if line.switch("allow-http", true)? { Some(listener("http", 8000)?) } else { None };
    let mut metrics =
        if line.switch("allow-metrics", true)? { Some(listener("metrics", 8002)?) } else { None };
    if let (Some(metrics), None) = (&mut metrics, line.value("metrics-address")?)
        && let Some(address) = line.value("http-address")?
    {
        address.clone_into(&mut metrics.address);
    }
    let mut seen = Vec::new();
    for listener in [Some(&grpc), rest.as_ref(), metrics.as_ref()].into_iter().flatten() {
        if seen.contains(&listener.port) {
            return Err(Refusal::new(format!(
                "container {name}: two of Triton's listeners have port {}; give each its own",
                listener.port
            )));
        }
        seen.push(listener.port);
    }
    Ok(Listeners { grpc, rest, metrics })
}

/// What is to be done with a pod's Triton.
pub(super) fn plan(
    pod: &Pod,
    server: &Server<'_>,
    wishes: &Wishes,
    settings: &Settings,
) -> Result<Plan, Refusal> {
    let container = server.container;
    let mut line = CommandLine::read(container, &GRAMMAR)?;
    let listeners = listeners(&line, container)?;
    let name = &container.name;
    if listeners.grpc.is_local() {
        return Err(Refusal::new(format!(
            "container {name}: Triton's gRPC port {} is on loopback already, so something else in the pod serves callers, and Refrain would \
             see all of them as one; take --grpc-address out, and the other server",
            listeners.grpc.port
        )));
    }
    let mut numbers = Numbers::of(pod, &settings.sidecar);
    let mut moved = BTreeMap::new();
    let mut move_to_loopback = |line: &mut CommandLine, what: &str, from: u16| {
        let to = numbers.free_near(from);
        line.set(&format!("{what}-address"), LOOPBACK);
        line.set(&format!("{what}-port"), to);
        moved.insert(from, Some(to));
        to
    };
    let mut warnings = Vec::new();
    let upstream = move_to_loopback(&mut line, "grpc", listeners.grpc.port);
    if let Some(rest) = &listeners.rest {
        if ports::declares(container, rest.port) && !wishes.blocks_rest {
            return Err(Refusal::new(format!(
                "container {name} declares its REST port {}, and Refrain judges gRPC alone, so callers of REST would be cut off; set \
                 annotation {PREFIX}rest: block to close it, or take the port out of ports",
                rest.port
            )));
        }
        move_to_loopback(&mut line, "http", rest.port);
    }
    match &listeners.metrics {
        // It is pinned, since it otherwise follows REST's address to loopback.
        Some(metrics) if settings.metrics_exposed => line.set("metrics-address", &metrics.address),
        Some(metrics) => {
            move_to_loopback(&mut line, "metrics", metrics.port);
            if ports::declares(container, metrics.port) {
                warnings.push(format!(
                    "container {name}: Triton's metrics port {} is closed, since its counters tell which calls reached the model; \
                     metrics.exposed in the webhook's settings leaves it open",
                    metrics.port
                ));
            }
        }
        None => {}
    }
    Ok(Plan {
        server: server.index,
        name: name.clone(),
        serving: listeners.grpc.port,
        upstream: Upstream::Port(upstream),
        moved,
        exposed: listeners.metrics.filter(|_| settings.metrics_exposed).map(|metrics| metrics.port),
        exit_seconds: exit_seconds(&line),
        command: line,
        // Empty is as good as absent, and wins over what the image or an envFrom may say.
        environment: vec![(VERTEX_MODE, "")],
        warnings,
    })
}

/// How long Triton waits for calls in flight once it is told to end.
fn exit_seconds(line: &CommandLine) -> u64 {
    let written = line.value("exit-timeout-secs").ok().flatten();
    written.and_then(|seconds| seconds.parse().ok()).filter(|seconds| *seconds <= 86_400).unwrap_or(30)
}

/// Where a Triton that should be behind the sidecar still answers on the network, by listener.
pub(super) fn exposed(
    container: &Container,
    metrics_exposed: bool,
) -> Result<Vec<(&'static str, u16)>, Refusal> {
    let line = CommandLine::read(container, &GRAMMAR)?;
    let listeners = listeners(&line, container)?;
    let metrics = listeners.metrics.filter(|_| !metrics_exposed);
    let open = |listener: Option<Listener>| listener.filter(|listener| !listener.is_local());
    let open =
        [("gRPC", open(Some(listeners.grpc))), ("REST", open(listeners.rest)), ("metrics", open(metrics))];
    Ok(open.into_iter().filter_map(|(what, listener)| Some((what, listener?.port))).collect())
}

/// Whether the environment cannot open a listener of its own: the variable is there, and what it says was looked at.
pub(super) fn is_pinned(container: &Container) -> bool {
    Environment::of(container).has(VERTEX_MODE)
}

/// Where gRPC is served inside the pod.
pub(super) fn upstream(container: &Container) -> Result<Upstream, Refusal> {
    let line = CommandLine::read(container, &GRAMMAR)?;
    Ok(Upstream::Port(listeners(&line, container)?.grpc.port))
}

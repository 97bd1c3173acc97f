//! A pod and the settings into a patch, or into the sentence that says why there is none. Pure: no clock, no network.
//!
//! The sidecar takes over the number of the model server's gRPC port; the model server goes on behind it, on loopback or on a
//! UNIX socket. A model server that ignored its new flags would find its port taken and crash, so nothing comes up half
//! protected. What cannot be seen through is refused: a pod that is asked for is protected or does not exist.
//!
//! ```text
//! wishes.rs      what the pod's author asks for
//! refusal.rs     why there is no patch
//! server.rs      which container is the model server, and of which kind
//! command.rs     its command line, word for word
//! triton.rs      Triton's listeners: where they are, and where they go
//! tf_serving.rs  TensorFlow Serving's
//! ports.rs       numbers that are free, taken, closed or wanted by others
//! probes.rs      the kubelet's probes, led through the sidecar
//! sidecar.rs     the container that is added
//! drain.rs       the order of the end
//! meshes.rs      who else puts containers into pods
//! settled.rs     a pod that has the sidecar already: the second pass changes nothing
//! ```
//!
//! Pods are read as Kubernetes' own types and changed as JSON, so that what those types do not know stays.

mod command;
mod drain;
mod meshes;
mod ports;
mod probes;
mod refusal;
mod server;
mod settled;
mod sidecar;
mod tf_serving;
mod triton;
mod wishes;

use std::collections::BTreeMap;

use json_patch::Patch;
use k8s_openapi::api::core::v1::{Container, Pod};
use serde::Deserialize;
use serde_json::{Value, json};

pub use refusal::Refusal;
pub(super) use settled::exposed;

use super::settings::Settings;
use command::CommandLine;
use wishes::Wishes;

/// Before every label and annotation of ours.
pub const PREFIX: &str = "refrain.dev/";

/// The sidecar's container.
pub const SIDECAR: &str = "refrain";

/// Which container `kubectl logs` and `kubectl exec` mean.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// What becomes of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It is changed so.
    Patch {
        /// The changes, as JSON Patch.
        patch: Patch,
        /// What its author should know.
        warnings: Vec<String>,
    },
    /// It stays as it is: it has its sidecar, or wants none.
    Unchanged,
    /// It must not come up.
    Refuse(Refusal),
}

/// What is decided of a pod before anything in it is changed.
#[derive(Clone, Debug)]
struct Plan {
    /// Which of the pod's containers is the model server.
    server: usize,
    /// That container's name.
    name: String,
    /// Its command line, as it will be.
    command: CommandLine,
    /// The port that callers know, and that the sidecar takes over.
    serving: u16,
    /// Where the model server answers from now on.
    upstream: Upstream,
    /// Listeners of the model server that leave the network: from where, and where to where they go on.
    moved: BTreeMap<u16, Option<u16>>,
    /// A listener of the model server that stays open, as the settings want it.
    exposed: Option<u16>,
    /// How long the model server may take to end once it is told to, in seconds.
    exit_seconds: u64,
    /// Further environment of the model server.
    environment: Vec<(&'static str, &'static str)>,
    /// What the pod's author should know.
    warnings: Vec<String>,
}

/// Where the model server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upstream {
    /// On a port of the loopback interface.
    Port(u16),
    /// On [`tf_serving::SOCKET`], as this user, which the sidecar must be too.
    Socket { user: i64 },
}

impl Plan {
    /// Every port on which the model server must not answer on the pod's own address.
    fn closed(&self) -> Vec<u16> {
        let mut ports: Vec<u16> = self.moved.keys().copied().filter(|port| *port != self.serving).collect();
        ports.extend(self.moved.values().flatten());
        ports.sort_unstable();
        ports.dedup();
        ports
    }
}

/// Decides what becomes of `pod`, which the API server is about to create.
pub fn mutate(pod: &Value, settings: &Settings) -> Outcome {
    decide(pod, settings).unwrap_or_else(Outcome::Refuse)
}

fn decide(value: &Value, settings: &Settings) -> Result<Outcome, Refusal> {
    let pod =
        Pod::deserialize(value).map_err(|error| Refusal::new(format!("the pod cannot be read: {error}")))?;
    let Some(wishes) = Wishes::read(&pod)? else { return Ok(Outcome::Unchanged) };
    refuse_what_cannot_be_closed(&pod)?;
    if settled::has_sidecar(&pod) {
        return settled::check(&pod, &wishes, settings).map(|()| Outcome::Unchanged);
    }
    let server = server::find(&pod, &wishes)?;
    let mut plan = match server.kind {
        server::Kind::Triton => triton::plan(&pod, &server, &wishes, settings)?,
        server::Kind::TfServing => tf_serving::plan(&pod, &server, &wishes, settings)?,
    };
    ports::refuse_collisions(&pod, &plan, settings)?;
    ports::warn_of_others(&server, &mut plan);
    let replays = probes::plan(&pod, &mut plan, settings)?;
    sidecar::refuse_collisions(&pod, &plan)?;
    meshes::warn(&pod, &mut plan);

    let mut patched = value.clone();
    let container = container_mut(&mut patched, plan.server);
    plan.command.write(container);
    environment(container, &plan);
    let taken = ports::take_over(&mut patched, &plan, settings);
    probes::rewrite(&mut patched, &replays, settings);
    drain::extend(&mut patched, &pod, &mut plan, settings);
    sidecar::add(&mut patched, &plan, &wishes, &taken, &replays, settings);
    meshes::lead_through(&mut patched, &replays, settings);
    mark(&mut patched, &plan, settings);
    sidecar::warn_of_lost_quality(&pod, &wishes, &mut plan, settings);

    Ok(Outcome::Patch { patch: json_patch::diff(value, &patched), warnings: plan.warnings })
}

/// Pods in which the network is not the pod's own, or whose system we are not made for.
fn refuse_what_cannot_be_closed(pod: &Pod) -> Result<(), Refusal> {
    let Some(spec) = &pod.spec else { return Err(Refusal::new("the pod has no spec")) };
    if spec.host_network == Some(true) {
        return Err(Refusal::new(
            "the pod has hostNetwork: true, so its ports are the node's and Refrain cannot take one over; take hostNetwork out",
        ));
    }
    let selects_windows = spec
        .node_selector
        .as_ref()
        .and_then(|labels| labels.get("kubernetes.io/os"))
        .is_some_and(|system| system == "windows");
    if selects_windows || spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        return Err(Refusal::new(
            "the pod is for Windows, and Refrain's image is for Linux; run the model server on Linux",
        ));
    }
    Ok(())
}

/// The model server's further environment; a value of the same name was looked at when the plan was made.
fn environment(container: &mut Value, plan: &Plan) {
    for (name, value) in &plan.environment {
        let variables = list_mut(container, "env");
        match variables.iter_mut().find(|variable| variable["name"] == *name) {
            Some(variable) => *variable = json!({"name": name, "value": value}),
            None => variables.push(json!({"name": name, "value": value})),
        }
    }
}

/// Label and annotations by which others see what was done.
fn mark(pod: &mut Value, plan: &Plan, settings: &Settings) {
    let moved: BTreeMap<String, Option<u16>> =
        plan.moved.iter().map(|(from, to)| (from.to_string(), *to)).collect();
    let status = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "container": plan.name,
        "listen": plan.serving,
        "moved": moved,
    });
    let metadata = object_mut(pod, "metadata");
    object_mut(metadata, "labels")[format!("{PREFIX}injected")] = json!("true");
    let annotations = object_mut(metadata, "annotations");
    annotations[format!("{PREFIX}status")] = json!(status.to_string());
    // A plain container stands first, so that it has its port before the model server starts; `kubectl logs` should still
    // show the model server's.
    if !settings.sidecar.is_native(settings.kubernetes) && annotations.get(DEFAULT_CONTAINER).is_none() {
        annotations[DEFAULT_CONTAINER] = json!(plan.name);
    }
}

/// Every container that goes on running: plain ones, then native sidecars.
fn running(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.iter();
    spec.flat_map(|spec| {
        let native = spec.init_containers.iter().flatten().filter(|container| is_native_sidecar(container));
        spec.containers.iter().chain(native)
    })
}

fn is_native_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn containers(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().map_or(&[], |spec| spec.containers.as_slice())
}

/// Of the pod's plain containers the one at `index`.
fn container_mut(pod: &mut Value, index: usize) -> &mut Value {
    &mut pod["spec"]["containers"][index]
}

/// The object at `key`, made where there is none.
fn object_mut<'a>(parent: &'a mut Value, key: &str) -> &'a mut Value {
    if !parent[key].is_object() {
        parent[key] = json!({});
    }
    &mut parent[key]
}

/// The list at `key`, made where there is none.
fn list_mut<'a>(parent: &'a mut Value, key: &str) -> &'a mut Vec<Value> {
    if !parent[key].is_array() {
        parent[key] = json!([]);
    }
    parent[key].as_array_mut().expect("it was made a list where it was none")
}

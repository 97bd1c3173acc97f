//! A pod that has the sidecar already: a second pass, a copy of a running pod, or somebody's attempt to look like one.
//!
//! Nothing is believed because the pod says so. Its sidecar must be the one that we would have put in, and its model server
//! must be closed; what others added beside that (mounts, variables, defaults of the API server) stays.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, Pod};
use serde::Deserialize;
use serde_json::{Value, json};

use super::command::CommandLine;
use super::refusal::Refusal;
use super::server::{self, Kind, Server};
use super::wishes::Wishes;
use super::{
    PREFIX, Plan, SIDECAR, Upstream, ports, refuse_what_cannot_be_closed, running, sidecar, tf_serving,
    triton,
};
use crate::webhook::settings::Settings;

/// The annotation that says what was done.
pub(super) const STATUS: &str = "status";

/// What an earlier pass wrote.
#[derive(Debug, Deserialize)]
struct Status {
    listen: u16,
    moved: BTreeMap<String, Option<u16>>,
}

/// Whether any container of the pod bears the sidecar's name.
pub(super) fn has_sidecar(pod: &Pod) -> bool {
    sidecars(pod).next().is_some()
}

fn sidecars(pod: &Pod) -> impl Iterator<Item = (&Container, bool)> {
    let spec = pod.spec.iter();
    let all = spec.flat_map(|spec| {
        let init = spec.init_containers.iter().flatten().map(|container| (container, true));
        spec.containers.iter().map(|container| (container, false)).chain(init)
    });
    all.filter(|(container, _)| container.name == SIDECAR)
}

fn differs(what: impl std::fmt::Display) -> Refusal {
    Refusal::new(format!(
        "the pod has a container called {SIDECAR} already, but {what}; take that container and annotation {PREFIX}{STATUS} out of the pod's \
         template, and Refrain puts in its own"
    ))
}

/// Whether a pod with a sidecar is as we would have made it.
pub(super) fn check(pod: &Pod, wishes: &Wishes, settings: &Settings) -> Result<(), Refusal> {
    let server = server::find(pod, wishes)?;
    let plan = plan(pod, &server)?;
    if let Some((what, port)) = open_listeners(&server, settings.metrics_exposed)?.into_iter().next() {
        return Err(differs(format!("the model server's {what} port {port} is open to the network")));
    }
    if server.kind == Kind::Triton && !triton::is_pinned(server.container) {
        return Err(differs("the model server's environment is not as Refrain sets it"));
    }
    for port in plan.moved.keys().filter(|port| **port != plan.serving) {
        if ports::declares(server.container, *port) {
            return Err(differs(format!(
                "container {} still declares port {port}, which is closed",
                plan.name
            )));
        }
    }
    ports::refuse_collisions(pod, &plan, settings)?;
    sidecar_is_ours(pod, &plan, wishes, settings)
}

/// What an earlier pass decided, from its notes and from the model server's own flags.
fn plan(pod: &Pod, server: &Server<'_>) -> Result<Plan, Refusal> {
    let annotations = pod.metadata.annotations.as_ref();
    let written = annotations.and_then(|annotations| annotations.get(&format!("{PREFIX}{STATUS}")));
    let written =
        written.ok_or_else(|| differs(format!("annotation {PREFIX}{STATUS} does not say what was done")))?;
    let unread = |what: String| differs(format!("annotation {PREFIX}{STATUS} cannot be read: {what}"));
    let status: Status = serde_json::from_str(written).map_err(|error| unread(error.to_string()))?;
    let mut moved = BTreeMap::new();
    for (from, to) in status.moved {
        let from = from.parse().map_err(|_| unread(format!("expected a port, found {from:?}")))?;
        moved.insert(from, to);
    }
    let upstream = match server.kind {
        Kind::Triton => triton::upstream(server.container)?,
        Kind::TfServing => tf_serving::upstream(pod, server.container)?,
    };
    Ok(Plan {
        server: server.index,
        name: server.container.name.clone(),
        command: CommandLine::none(),
        serving: status.listen,
        upstream,
        moved,
        exposed: None,
        exit_seconds: 0,
        environment: Vec::new(),
        warnings: Vec::new(),
    })
}

fn open_listeners(server: &Server<'_>, metrics_exposed: bool) -> Result<Vec<(&'static str, u16)>, Refusal> {
    match server.kind {
        Kind::Triton => triton::exposed(server.container, metrics_exposed),
        Kind::TfServing => tf_serving::exposed(server.container),
    }
}

/// Whether the container that bears our name is what we would put in.
fn sidecar_is_ours(pod: &Pod, plan: &Plan, wishes: &Wishes, settings: &Settings) -> Result<(), Refusal> {
    let found: Vec<_> = sidecars(pod).collect();
    let &[(found, is_init)] = found.as_slice() else { return Err(differs("there are two of them")) };
    let is_native = settings.sidecar.is_native(settings.kubernetes);
    if is_init != is_native {
        let place = if is_native { "an init container" } else { "a plain container" };
        return Err(differs(format!("it is not {place}")));
    }
    let wanted = sidecar::container(plan, wishes, &[], &BTreeMap::new(), settings);
    let found = json!(found);
    if found.get("command").is_some_and(|command| *command != json!([])) {
        return Err(differs("it has a command of its own"));
    }
    if found.get("envFrom").is_some_and(|from| *from != json!([])) {
        return Err(differs("it has an envFrom, which may change its settings"));
    }
    for key in ["image", "args", "restartPolicy", "securityContext", "lifecycle"] {
        let (wanted, found) = (&wanted[key], &found[key]);
        if !holds(found, wanted) {
            return Err(differs(format!("its {key} is {found}, expected {wanted}")));
        }
    }
    variables_are_ours(&found["env"], &wanted["env"])?;
    mounts_are_ours(&found["volumeMounts"], &wanted["volumeMounts"])?;
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let volumes: Vec<Value> = volumes.map(|volume| json!(volume)).collect();
    for wanted in sidecar::volumes(plan, wishes, &settings.sidecar) {
        if !volumes.iter().any(|volume| holds(volume, &wanted)) {
            return Err(differs(format!("the pod does not have the volume {wanted}")));
        }
    }
    Ok(())
}

/// Ours are there, unchanged and once; nobody set others that we read.
fn variables_are_ours(found: &Value, wanted: &Value) -> Result<(), Refusal> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut seen = BTreeSet::new();
    let wanted = list(wanted);
    for variable in list(found) {
        let name = variable["name"].as_str().unwrap_or_default().to_owned();
        let expected = wanted.iter().find(|wanted| wanted["name"] == variable["name"]);
        // Which probes were replayed only the first pass knew; and telemetry is others' to complete.
        let is_free = name == "REFRAIN_PROBES__REPLAY" || name.starts_with("OTEL_");
        let is_right = is_free || expected.is_some_and(|expected| holds(&variable, expected));
        if (expected.is_some() || name.starts_with("REFRAIN_")) && !(is_right && seen.insert(name.clone())) {
            return Err(differs(format!("its variable {name} is not as Refrain sets it")));
        }
    }
    let missing =
        wanted.iter().filter_map(|wanted| wanted["name"].as_str()).find(|name| !seen.contains(*name));
    missing.map_or(Ok(()), |name| Err(differs(format!("its variable {name} is missing"))))
}

/// Ours are there, and no other covers them.
fn mounts_are_ours(found: &Value, wanted: &Value) -> Result<(), Refusal> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let (found, wanted) = (list(found), list(wanted));
    if let Some(missing) = wanted.iter().find(|wanted| !found.iter().any(|found| holds(found, wanted))) {
        return Err(differs(format!("it does not mount {}", missing["mountPath"])));
    }
    let is_ours = |mount: &Value| wanted.iter().any(|wanted| holds(mount, wanted));
    for mount in found.iter().filter(|mount| !is_ours(mount)) {
        let path = mount["mountPath"].as_str().unwrap_or_default();
        if sidecar::OWN_PATHS.iter().any(|own| sidecar::meets(path, own)) {
            return Err(differs(format!("{path:?} is mounted over what is its own")));
        }
    }
    Ok(())
}

/// Whether `found` says all that `wanted` says; objects may say more.
fn holds(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| found.get(key).is_some_and(|found| holds(found, wanted)))
        }
        (Value::Array(found), Value::Array(wanted)) => {
            found.len() == wanted.len()
                && found.iter().zip(wanted).all(|(found, wanted)| holds(found, wanted))
        }
        (found, wanted) => found == wanted,
    }
}

/// What is open in a pod that should be protected, a sentence each; nothing where it is closed.
///
/// No settings are at hand here, so what only they could tell (image, ConfigMap) is not looked at, and a metrics port that an
/// earlier pass left alone counts as wanted.
pub(in crate::webhook) fn exposed(value: &Value) -> Vec<String> {
    let pod = match Pod::deserialize(value) {
        Ok(pod) => pod,
        Err(error) => return vec![format!("cannot be read: {error}")],
    };
    let mut told = Vec::new();
    let sidecar = sidecars(&pod).find(|(container, is_init)| !is_init || super::is_native_sidecar(container));
    if sidecar.is_none() {
        told.push("has no sidecar".to_owned());
    }
    told.extend(refuse_what_cannot_be_closed(&pod).err().map(|refusal| refusal.to_string()));
    let server = match server::find(&pod, &Wishes::read(&pod).ok().flatten().unwrap_or_default()) {
        Ok(server) => server,
        Err(refusal) => {
            told.push(refusal.to_string());
            return told;
        }
    };
    let plan = plan(&pod, &server);
    let left_open = |port: u16| plan.as_ref().is_ok_and(|plan| !plan.moved.contains_key(&port));
    match open_listeners(&server, false) {
        Ok(open) => {
            let open = open.into_iter().filter(|(what, port)| *what != "metrics" || !left_open(*port));
            told.extend(open.map(|(what, port)| {
                format!("container {}: {what} port {port} is open to the network", server.container.name)
            }));
        }
        Err(refusal) => told.push(refusal.to_string()),
    }
    if let (Some((container, _)), Ok(plan)) = (sidecar, &plan) {
        let env = container.env.iter().flatten();
        let mut listens = env
            .filter(|variable| variable.name == "REFRAIN_LISTEN")
            .filter_map(|variable| variable.value.as_deref());
        if listens.next_back() != Some(format!("0.0.0.0:{}", plan.serving).as_str()) {
            told.push(format!("the sidecar does not listen on port {}", plan.serving));
        }
        let closed: BTreeSet<u16> = plan.moved.keys().copied().filter(|port| *port != plan.serving).collect();
        for other in running(&pod).filter(|other| other.name != SIDECAR) {
            let open = closed.iter().filter(|port| ports::declares(other, **port));
            told.extend(open.map(|port| {
                format!("container {} declares port {port}, which should be closed", other.name)
            }));
        }
        if matches!(plan.upstream, Upstream::Port(port) if !plan.moved.values().any(|to| *to == Some(port))) {
            told.push("the model server is not where the sidecar was told to look for it".to_owned());
        }
    }
    told
}

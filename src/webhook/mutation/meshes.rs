//! Others who put containers into pods, where their work and ours meet.
//!
//! Istio rewrites the kubelet's probes too: to port 15020 of its own proxy, which finds what to ask in one variable. Where it
//! came before us, that variable still names the ports that moved, so those entries are led through the sidecar, and the
//! sidecar's own probes are led through Istio's port, since under strict mTLS the kubelet reaches no other.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use serde_json::{Value, json};

use super::probes::Replays;
use super::{Plan, SIDECAR, running};
use crate::webhook::settings::Settings;

const ISTIO: &str = "istio-proxy";

/// What Istio's proxy asks for the kubelet, as JSON: path to probe.
const PROBERS: &str = "ISTIO_KUBE_APP_PROBERS";

/// Where Istio's proxy answers for others.
pub(super) const ISTIO_PORT: u16 = 15020;

fn istio(pod: &Pod) -> Option<&Container> {
    running(pod).find(|container| container.name == ISTIO)
}

/// Tells what the pod's author must set elsewhere.
pub(super) fn warn(pod: &Pod, plan: &mut Plan) {
    let labels = pod.metadata.labels.as_ref();
    let wants_istio =
        labels.and_then(|labels| labels.get("sidecar.istio.io/inject")).is_some_and(|value| value == "true");
    if istio(pod).is_some() || wants_istio {
        plan.warnings.push(
            "Istio's proxy stands before Refrain, so all calls come from one address; callers are told apart once Refrain's \
             configuration has caller.metadata = \"x-forwarded-client-cert\" and caller.trusted_peers = [\"127.0.0.6/32\"]"
                .to_owned(),
        );
    }
}

/// Where among the init containers the sidecar goes: first, but after a proxy that its probes go through.
pub(super) fn place_among(init: &[Value]) -> usize {
    init.iter()
        .position(|container| container["name"] == ISTIO && container["restartPolicy"] == "Always")
        .map_or(0, |at| at + 1)
}

/// Probes that Istio took over before us: the container whose each was, the end of its path, and what it asks.
pub(super) fn taken_over(pod: &Pod) -> Vec<(&Container, String, Probe)> {
    let variables = istio(pod).into_iter().flat_map(|proxy| proxy.env.iter().flatten());
    let said = variables
        .filter(|variable| variable.name == PROBERS)
        .filter_map(|variable| variable.value.as_deref());
    let entries =
        said.filter_map(|said| serde_json::from_str::<BTreeMap<String, Probe>>(said).ok()).flatten();
    entries
        .filter_map(|(path, probe)| {
            let (name, end) = path.strip_prefix("/app-health/")?.split_once('/')?;
            Some((running(pod).find(|container| container.name == name)?, end.to_owned(), probe))
        })
        .collect()
}

/// The probers' variable in a pod, and what it says.
fn probers(pod: &mut Value) -> Option<(&mut Value, Value)> {
    let spec = pod.get_mut("spec")?.as_object_mut()?;
    let lists = spec.iter_mut().filter(|(name, _)| *name == "containers" || *name == "initContainers");
    let containers = lists.filter_map(|(_, list)| list.as_array_mut()).flatten();
    let proxy = containers.into_iter().find(|container| container["name"] == ISTIO)?;
    let variables = proxy.get_mut("env")?.as_array_mut()?;
    let variable = variables.iter_mut().find(|variable| variable["name"] == PROBERS)?;
    let said = serde_json::from_str(variable["value"].as_str()?).ok()?;
    Some((variable, said))
}

/// Entries of Istio's that ask a port which moved, as probes of the containers whose they were.
pub(super) fn lead_through(pod: &mut Value, replays: &Replays, settings: &Settings) {
    let probe_port = settings.sidecar.probe_port;
    let Some((variable, mut said)) = probers(pod) else { return };
    let Some(entries) = said.as_object_mut() else { return };
    for path in replays.keys() {
        if let Some(entry) = entries.get_mut(&format!("/app-health/{path}")) {
            let timeout = entry["timeoutSeconds"].clone();
            *entry =
                json!({"httpGet": {"path": format!("/probe/{path}"), "port": probe_port, "scheme": "HTTP"}});
            if !timeout.is_null() {
                entry["timeoutSeconds"] = timeout;
            }
        }
    }
    let own = [
        ("livez", "livenessProbe", probe_port, "/livez"),
        ("readyz", "readinessProbe", settings.sidecar.admin_port, "/readyz"),
        ("startupz", "startupProbe", probe_port, "/livez"),
    ];
    for (end, _, port, path) in own {
        entries.insert(
            format!("/app-health/{SIDECAR}/{end}"),
            json!({"httpGet": {"path": path, "port": port, "scheme": "HTTP"}, "timeoutSeconds": 5}),
        );
    }
    variable["value"] = json!(said.to_string());
    for list in ["containers", "initContainers"] {
        let Some(containers) = pod["spec"].get_mut(list).and_then(Value::as_array_mut) else { continue };
        for container in containers.iter_mut().filter(|container| container["name"] == SIDECAR) {
            for (end, field, ..) in own {
                container[field]["httpGet"] = json!({"path": format!("/app-health/{SIDECAR}/{end}"), "port": ISTIO_PORT, "scheme": "HTTP"});
            }
        }
    }
}

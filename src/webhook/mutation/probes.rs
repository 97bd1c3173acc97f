//! The kubelet's probes of ports that moved, led through the sidecar, which replays them on loopback.
//!
//! The kubelet dials the pod's address, where the model server no longer answers. A probe keeps its times; only what it asks
//! changes: `/probe/<container>/livez`, `readyz` or `startupz` on the sidecar's probe port.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::refusal::Refusal;
use super::{Plan, Upstream, meshes, running, tf_serving};
use crate::webhook::settings::Settings;

/// What the sidecar replays, by the path on its probe port.
pub(super) type Replays = BTreeMap<String, Value>;

/// Each kind of probe: its field, and the last part of its path.
const KINDS: [(&str, &str); 3] =
    [("livenessProbe", "livez"), ("readinessProbe", "readyz"), ("startupProbe", "startupz")];

fn probe_of<'a>(container: &'a Container, field: &str) -> Option<&'a Probe> {
    match field {
        "livenessProbe" => container.liveness_probe.as_ref(),
        "readinessProbe" => container.readiness_probe.as_ref(),
        _ => container.startup_probe.as_ref(),
    }
}

/// What is to be replayed, for all containers: a probe may ask any port of the pod.
pub(super) fn plan(pod: &Pod, plan: &mut Plan, settings: &Settings) -> Result<Replays, Refusal> {
    let mut replays = Replays::new();
    for container in running(pod) {
        refuse_hooks(container, plan)?;
        for (field, path) in KINDS {
            let Some(probe) = probe_of(container, field) else { continue };
            warn_of_commands(container, field, probe, plan);
            let Some(replay) = replay(container, field, probe, plan)? else { continue };
            if !settings.sidecar.probe_rewrite {
                return Err(Refusal::new(format!(
                    "container {}: its {field} asks a port that moves behind Refrain, and sidecar.probe_rewrite is off; use an exec probe, or \
                     turn it on",
                    container.name
                )));
            }
            replays.insert(format!("{}/{path}", container.name), replay);
        }
    }
    for (container, path, probe) in meshes::taken_over(pod) {
        let Some((field, path)) = KINDS.into_iter().find(|(_, known)| *known == path) else { continue };
        if let Some(replay) = replay(container, field, &probe, plan)? {
            replays.insert(format!("{}/{path}", container.name), replay);
        }
    }
    Ok(replays)
}

/// What the sidecar asks in the kubelet's stead; nothing where a probe does not concern us.
fn replay(container: &Container, field: &str, probe: &Probe, plan: &Plan) -> Result<Option<Value>, Refusal> {
    let timeout = probe.timeout_seconds.unwrap_or(1).max(1);
    // With a host of its own a probe does not ask this pod.
    let here = |host: &Option<String>| host.as_deref().is_none_or(str::is_empty);
    let port = |port: &IntOrString| number(container, port).filter(|port| plan.moved.contains_key(port));
    if let Some(http) = probe.http_get.as_ref().filter(|http| here(&http.host)) {
        let Some(from) = port(&http.port) else { return Ok(None) };
        let (true, Some(Some(to))) = (from != plan.serving, plan.moved.get(&from)) else {
            return Err(Refusal::new(format!(
                "container {}: its {field} asks port {from} over HTTP, where {} will not answer HTTP; use tcpSocket on port {} or an exec \
                 probe",
                container.name, plan.name, plan.serving
            )));
        };
        let scheme = http.scheme.as_deref().filter(|scheme| !scheme.is_empty()).unwrap_or("HTTP");
        if scheme != "HTTP" {
            return Err(Refusal::new(format!(
                "container {}: its {field} asks port {from} with scheme: {scheme}, and Refrain asks in the kubelet's stead over HTTP; use \
                 scheme: HTTP, tcpSocket or an exec probe",
                container.name
            )));
        }
        let headers: BTreeMap<_, _> =
            http.http_headers.iter().flatten().map(|header| (&header.name, &header.value)).collect();
        let path = http.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
        let mut asked = json!({"port": to, "path": path, "scheme": scheme});
        if !headers.is_empty() {
            asked["headers"] = json!(headers);
        }
        return Ok(Some(json!({"http": asked, "timeout_seconds": timeout})));
    }
    if let Some(tcp) = probe.tcp_socket.as_ref().filter(|tcp| here(&tcp.host)) {
        let Some(from) = port(&tcp.port) else { return Ok(None) };
        return Ok(Some(json!({"tcp": place(container, field, from, plan)?, "timeout_seconds": timeout})));
    }
    if let Some(grpc) = &probe.grpc {
        let Some(from) = port(&IntOrString::Int(grpc.port)) else { return Ok(None) };
        let mut asked = place(container, field, from, plan)?;
        asked["service"] = json!(grpc.service.as_deref().unwrap_or_default());
        return Ok(Some(json!({"grpc": asked, "timeout_seconds": timeout})));
    }
    Ok(None)
}

/// Where what listened on `from` is to be found from now on.
fn place(container: &Container, field: &str, from: u16, plan: &Plan) -> Result<Value, Refusal> {
    match (plan.moved.get(&from), plan.upstream) {
        (Some(Some(to)), _) => Ok(json!({"port": to})),
        (_, Upstream::Socket { .. }) if from == plan.serving => Ok(json!({"socket": tf_serving::SOCKET})),
        _ => Err(Refusal::new(format!(
            "container {}: its {field} asks port {from} of {}, which Refrain closes; ask port {}, or use an exec probe",
            container.name, plan.name, plan.serving
        ))),
    }
}

/// A port's number; by name it is looked up among the container's own, as the kubelet does.
fn number(container: &Container, port: &IntOrString) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => {
            let declared = container.ports.iter().flatten();
            let named =
                declared.filter(|port| port.name.as_ref() == Some(name)).map(|port| port.container_port);
            named.chain(name.parse().ok()).next().and_then(|number| u16::try_from(number).ok())
        }
    }
}

/// A hook that the kubelet calls on a moved port would fail, and kill the container or cut its end short.
fn refuse_hooks(container: &Container, plan: &Plan) -> Result<(), Refusal> {
    let hooks = container.lifecycle.iter();
    let hooks = hooks.flat_map(|hooks| [("postStart", &hooks.post_start), ("preStop", &hooks.pre_stop)]);
    for (name, hook) in hooks {
        let Some(hook) = hook else { continue };
        let http = hook.http_get.as_ref().map(|http| &http.port);
        let tcp = hook.tcp_socket.as_ref().map(|tcp| &tcp.port);
        let asked = http.or(tcp).and_then(|port| number(container, port));
        if let Some(port) = asked.filter(|port| plan.moved.contains_key(port)) {
            return Err(Refusal::new(format!(
                "container {}: its {name} hook asks port {port}, which moves behind Refrain; use an exec hook",
                container.name
            )));
        }
    }
    Ok(())
}

/// A command may ask a port too, which cannot be seen for certain.
fn warn_of_commands(container: &Container, field: &str, probe: &Probe, plan: &mut Plan) {
    let words: Vec<&String> = probe.exec.iter().flat_map(|exec| exec.command.iter().flatten()).collect();
    let mentions = |port: &u16| {
        let port = port.to_string();
        words
            .iter()
            .any(|word| word.split(|letter: char| !letter.is_ascii_digit()).any(|digits| digits == port))
    };
    let asked: Vec<u16> = plan.moved.keys().copied().filter(mentions).collect();
    for port in asked {
        let now = match plan.moved.get(&port) {
            Some(Some(to)) => format!("is now on 127.0.0.1:{to}"),
            _ => "is closed".to_owned(),
        };
        plan.warnings.push(format!(
            "container {}: its {field} runs a command that names port {port}; what answered there {now}",
            container.name
        ));
    }
}

/// Points the probes that are replayed at the sidecar.
pub(super) fn rewrite(pod: &mut Value, replays: &Replays, settings: &Settings) {
    for list in ["containers", "initContainers"] {
        let Some(containers) = pod["spec"].get_mut(list).and_then(Value::as_array_mut) else { continue };
        for container in containers {
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            for (field, path) in KINDS {
                let path = format!("{name}/{path}");
                let Some(probe) = container.get_mut(field).filter(|_| replays.contains_key(&path)) else {
                    continue;
                };
                // One that a mesh took over stays with it, and is led through there.
                if probe["httpGet"]["port"] == meshes::ISTIO_PORT {
                    continue;
                }
                let Some(probe) = probe.as_object_mut() else { continue };
                for handler in ["httpGet", "tcpSocket", "grpc"] {
                    probe.remove(handler);
                }
                let asked = json!({"path": format!("/probe/{path}"), "port": settings.sidecar.probe_port, "scheme": "HTTP"});
                probe.insert("httpGet".to_owned(), asked);
            }
        }
    }
}

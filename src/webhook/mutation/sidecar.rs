//! The container that is added, with its volumes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::probes::Replays;
use super::refusal::Refusal;
use super::wishes::Wishes;
use super::{Plan, SIDECAR, Upstream, containers, list_mut, meshes, tf_serving};
use crate::webhook::settings::{Settings, Sidecar};

/// The volume with the sidecar's configuration, and where the sidecar sees it. A folder, so that changes arrive.
const CONFIG_VOLUME: &str = "refrain-config";
const CONFIG_FOLDER: &str = "/etc/refrain";

/// The volume in which TensorFlow Serving's socket lies.
const SOCKET_VOLUME: &str = "refrain-upstream";

/// As whom the sidecar runs, unless it must be the model server's user.
const USER: i64 = 65532;

/// Folders of the sidecar that nobody else may cover.
pub(super) const OWN_PATHS: [&str; 3] = [CONFIG_FOLDER, tf_serving::FOLDER, "/refrain"];

/// Names that the pod may not have taken for something else.
pub(super) fn refuse_collisions(pod: &Pod, plan: &Plan) -> Result<(), Refusal> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    for volume in volumes {
        if volume.name == CONFIG_VOLUME || volume.name == SOCKET_VOLUME {
            return Err(Refusal::new(format!(
                "the pod has a volume called {}, which Refrain uses for itself; give it another name",
                volume.name
            )));
        }
    }
    let is_socket = matches!(plan.upstream, Upstream::Socket { .. });
    let mounts = containers(pod)[plan.server].volume_mounts.iter().flatten();
    let covered = mounts.into_iter().find(|mount| is_socket && meets(&mount.mount_path, tf_serving::FOLDER));
    if let Some(mount) = covered {
        return Err(Refusal::new(format!(
            "container {} mounts {}, where Refrain puts TensorFlow Serving's socket; mount it elsewhere",
            plan.name, mount.mount_path
        )));
    }
    Ok(())
}

/// Whether one of two paths lies in the other. One that goes up again may lie anywhere.
pub(super) fn meets(one: &str, other: &str) -> bool {
    let parts = |path: &str| {
        path.split('/').filter(|part| !matches!(*part, "" | ".")).map(str::to_owned).collect::<Vec<_>>()
    };
    let (one, other) = (parts(one), parts(other));
    if one.iter().chain(&other).any(|part| part == "..") {
        return true;
    }
    one.iter().zip(&other).all(|(one, other)| one == other)
}

/// Adds the sidecar and its volumes to a pod.
pub(super) fn add(
    pod: &mut Value,
    plan: &Plan,
    wishes: &Wishes,
    ports: &[Value],
    replays: &Replays,
    settings: &Settings,
) {
    let sidecar = container(plan, wishes, ports, replays, settings);
    let spec = &mut pod["spec"];
    if settings.sidecar.is_native(settings.kubernetes) {
        let init = list_mut(spec, "initContainers");
        init.insert(meshes::place_among(init), sidecar);
    } else {
        // First, so that it has its port before the model server starts.
        list_mut(spec, "containers").insert(0, sidecar);
    }
    list_mut(spec, "volumes").extend(volumes(plan, wishes, &settings.sidecar));
    if let Upstream::Socket { .. } = plan.upstream {
        let containers = list_mut(spec, "containers").iter_mut();
        let mount = json!({"name": SOCKET_VOLUME, "mountPath": tf_serving::FOLDER});
        containers
            .filter(|container| container["name"] == plan.name)
            .for_each(|container| list_mut(container, "volumeMounts").push(mount.clone()));
    }
}

/// The sidecar's volumes: its configuration, and where the socket lies if there is one.
pub(super) fn volumes(plan: &Plan, wishes: &Wishes, sidecar: &Sidecar) -> Vec<Value> {
    let name = wishes.config_map.as_ref().unwrap_or(&sidecar.config_map);
    let mut volumes = vec![json!({"name": CONFIG_VOLUME, "configMap": {"name": name, "optional": false}})];
    if let Upstream::Socket { .. } = plan.upstream {
        volumes.push(json!({"name": SOCKET_VOLUME, "emptyDir": {}}));
    }
    volumes
}

/// The container.
pub(super) fn container(
    plan: &Plan,
    wishes: &Wishes,
    ports: &[Value],
    replays: &Replays,
    settings: &Settings,
) -> Value {
    let sidecar = &settings.sidecar;
    let (admin, probe) = (sidecar.admin_port, sidecar.probe_port);
    let asked = |port: u16, path: &str| json!({"path": path, "port": port, "scheme": "HTTP"});
    let mut mounts = vec![json!({"name": CONFIG_VOLUME, "mountPath": CONFIG_FOLDER, "readOnly": true})];
    if let Upstream::Socket { .. } = plan.upstream {
        mounts.push(json!({"name": SOCKET_VOLUME, "mountPath": tf_serving::FOLDER}));
    }
    let mut ports = ports.to_vec();
    ports.push(json!({"name": "refrain-admin", "containerPort": admin, "protocol": "TCP"}));
    ports.push(json!({"name": "refrain-probes", "containerPort": probe, "protocol": "TCP"}));
    let mut container = json!({
        "name": SIDECAR,
        "image": sidecar.image,
        "imagePullPolicy": sidecar.pull_policy,
        "args": ["proxy"],
        "env": environment(plan, wishes, replays, settings),
        "ports": ports,
        "volumeMounts": mounts,
        "resources": resources(wishes, sidecar),
        "securityContext": security(plan),
        "lifecycle": {"preStop": {"exec": {"command": ["/refrain", "drain"]}}},
        // Of these none waits for the model server before the sidecar has started: as a native sidecar it starts first.
        "startupProbe": {"httpGet": asked(probe, "/livez"), "periodSeconds": 1, "failureThreshold": 30},
        "livenessProbe": {"httpGet": asked(probe, "/livez"), "periodSeconds": 10, "timeoutSeconds": 5},
        "readinessProbe": {"httpGet": asked(admin, "/readyz"), "periodSeconds": 5, "timeoutSeconds": 5},
    });
    if sidecar.is_native(settings.kubernetes) {
        container["restartPolicy"] = json!("Always");
    }
    container
}

/// Everything that a pod's own sidecar must know, in the order in which a person would read it.
fn environment(plan: &Plan, wishes: &Wishes, replays: &Replays, settings: &Settings) -> Vec<Value> {
    let sidecar = &settings.sidecar;
    let field =
        |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    // What refers to others must come after them.
    let mut variables = vec![
        field("POD_IP", "status.podIP"),
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("POD_UID", "metadata.uid"),
        field("NODE_NAME", "spec.nodeName"),
    ];
    let mut set = |name: &str, value: String| variables.push(json!({"name": name, "value": value}));
    set("REFRAIN_CONFIG", format!("{CONFIG_FOLDER}/config.toml"));
    set("REFRAIN_LISTEN", format!("0.0.0.0:{}", plan.serving));
    set(
        "REFRAIN_UPSTREAM",
        match plan.upstream {
            Upstream::Port(port) => format!("http://127.0.0.1:{port}"),
            Upstream::Socket { .. } => format!("unix:{}", tf_serving::SOCKET),
        },
    );
    if let Some(mode) = &wishes.mode {
        set("REFRAIN_MODE", mode.clone());
    }
    set("REFRAIN_LOG", wishes.log_level.as_ref().unwrap_or(&sidecar.log_level).clone());
    set("REFRAIN_ADMIN__LISTEN", format!("0.0.0.0:{}", sidecar.admin_port));
    set("REFRAIN_PROBES__LISTEN", format!("0.0.0.0:{}", sidecar.probe_port));
    set("REFRAIN_PROBES__REPLAY", json!(replays).to_string());
    set("REFRAIN_BYPASS__CHECK", sidecar.bypass_check.as_str().to_owned());
    set("REFRAIN_BYPASS__ADDRESS", "$(POD_IP)".to_owned());
    let closed: Vec<String> = plan.closed().iter().map(u16::to_string).collect();
    if !closed.is_empty() {
        set("REFRAIN_BYPASS__PORTS", closed.join(","));
    }
    set("REFRAIN_DRAIN_SECONDS", sidecar.drain.as_secs().to_string());
    let mut attributes = "k8s.pod.name=$(POD_NAME),k8s.namespace.name=$(POD_NAMESPACE),k8s.pod.uid=$(POD_UID),\
                          k8s.node.name=$(NODE_NAME),k8s.container.name=refrain,service.instance.id=$(POD_UID)"
        .to_owned();
    let further: BTreeMap<_, _> = sidecar.env.iter().collect();
    for (name, value) in further {
        if name == "OTEL_RESOURCE_ATTRIBUTES" {
            attributes = format!("{attributes},{value}");
        } else {
            set(name, value.clone());
        }
    }
    set("OTEL_RESOURCE_ATTRIBUTES", attributes);
    if let Some(secret) = &sidecar.digest_key_secret {
        let key = json!({"name": secret, "key": "digest-key"});
        variables.push(json!({"name": "REFRAIN_TELEMETRY__DIGEST_KEY", "valueFrom": {"secretKeyRef": key}}));
    }
    variables
}

fn resources(wishes: &Wishes, sidecar: &Sidecar) -> Value {
    let mut limits = json!({"memory": wishes.memory_limit.as_ref().unwrap_or(&sidecar.memory_limit)});
    if let Some(cpu) = wishes.cpu_limit.as_ref().or(sidecar.cpu_limit.as_ref()) {
        limits["cpu"] = json!(cpu);
    }
    let requests = json!({
        "cpu": wishes.cpu_request.as_ref().unwrap_or(&sidecar.cpu_request),
        "memory": wishes.memory_request.as_ref().unwrap_or(&sidecar.memory_request),
    });
    json!({"requests": requests, "limits": limits})
}

/// Fit for the *restricted* Pod Security Standard.
pub(super) fn security(plan: &Plan) -> Value {
    let user = match plan.upstream {
        Upstream::Port(_) => USER,
        Upstream::Socket { user } => user,
    };
    json!({
        "runAsNonRoot": true,
        "runAsUser": user,
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

/// A pod whose containers all have limits equal to their requests has its processors to itself; one that differs ends that.
pub(super) fn warn_of_lost_quality(pod: &Pod, wishes: &Wishes, plan: &mut Plan, settings: &Settings) {
    let equal = |name: &str| {
        containers(pod).iter().all(|container| {
            let resources = container.resources.as_ref();
            let limit = resources.and_then(|resources| resources.limits.as_ref()?.get(name));
            let request = resources.and_then(|resources| resources.requests.as_ref()?.get(name));
            limit.is_some() && (request.is_none() || request == limit)
        })
    };
    let sidecar = resources(wishes, &settings.sidecar);
    if equal("cpu") && equal("memory") && sidecar["limits"] != sidecar["requests"] {
        plan.warnings.push(
            "the pod's quality of service was Guaranteed and is Burstable with Refrain in it; annotations refrain.dev/cpu-request, cpu-limit, \
             memory-request and memory-limit, each limit equal to its request, keep it"
                .to_owned(),
        );
    }
}

//! Port numbers: which are free, which are taken over, which are closed, and who else in the pod wants them.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::{Value, json};

use super::refusal::Refusal;
use super::server::Server;
use super::{PREFIX, Plan, SIDECAR, container_mut, running};
use crate::webhook::settings::{Kubernetes, Settings, Sidecar};

/// Whether a container names a port among its own.
pub(super) fn declares(container: &Container, port: u16) -> bool {
    container.ports.iter().flatten().any(|declared| declared.container_port == i32::from(port))
}

/// Every number in the pod that may be somebody's port.
pub(super) struct Numbers(BTreeSet<u16>);

impl Numbers {
    pub(super) fn of(pod: &Pod, sidecar: &Sidecar) -> Self {
        let mut numbers =
            BTreeSet::from([sidecar.admin_port, sidecar.probe_port, 8000, 8001, 8002, 8500, 8501]);
        for container in running(pod) {
            let declared = container.ports.iter().flatten();
            numbers.extend(declared.filter_map(|port| u16::try_from(port.container_port).ok()));
            for text in texts(container) {
                let digits = text.split(|letter: char| !letter.is_ascii_digit());
                numbers.extend(digits.filter_map(|digits| digits.parse::<u16>().ok()));
            }
        }
        Self(numbers)
    }

    /// A number that nobody in the pod mentions, a thousand above `port` where that can be, and from now on taken.
    pub(super) fn free_near(&mut self, port: u16) -> u16 {
        let above = port.checked_add(1000).unwrap_or(20_000);
        let candidates = (above..=u16::MAX).chain((1024..above).rev());
        let free = candidates.into_iter().find(|candidate| !self.0.contains(candidate));
        // A pod is at most 1.5 MiB of text, but a text of all 64,512 numbers would be less than that.
        let free = free.unwrap_or(above);
        self.0.insert(free);
        free
    }
}

/// What a container's words and variables say.
fn texts(container: &Container) -> impl Iterator<Item = &str> {
    let words = container.command.iter().chain(&container.args).flatten();
    let values = container.env.iter().flatten().filter_map(|variable| variable.value.as_ref());
    words.chain(values).map(String::as_str)
}

/// Other containers that hold or dial a port that is taken over or closed.
pub(super) fn refuse_collisions(pod: &Pod, plan: &Plan, settings: &Settings) -> Result<(), Refusal> {
    let sidecar = &settings.sidecar;
    let own = [(sidecar.admin_port, "sidecar.admin_port"), (sidecar.probe_port, "sidecar.probe_port")];
    for container in running(pod).filter(|container| container.name != SIDECAR) {
        for (port, setting) in own {
            if declares(container, port) || (container.name == plan.name && plan.moved.contains_key(&port)) {
                return Err(Refusal::new(format!(
                    "container {} has port {port}, which Refrain uses for itself; change the port there, or {setting} in the webhook's \
                     settings",
                    container.name
                )));
            }
        }
        if container.name == plan.name {
            continue;
        }
        for port in plan.moved.iter().flat_map(|(from, to)| [Some(*from), *to]).flatten() {
            if declares(container, port) {
                return Err(Refusal::new(format!(
                    "container {} declares port {port} as well as the model server {}; give it another port",
                    container.name, plan.name
                )));
            }
        }
        refuse_dialling(container, plan)?;
    }
    Ok(())
}

/// Ports that the model server's container declares and that are none of its listeners: what answers there is not guarded.
pub(super) fn warn_of_others(server: &Server<'_>, plan: &mut Plan) {
    for declared in server.container.ports.iter().flatten() {
        let Ok(port) = u16::try_from(declared.container_port) else { continue };
        if !plan.moved.contains_key(&port) && plan.exposed != Some(port) {
            plan.warnings.push(format!(
                "container {} declares port {port}, on which {} does not listen by its flags; if something answers there, Refrain does not stand \
                 in front of it",
                plan.name,
                server.kind.program()
            ));
        }
    }
}

/// A container that reaches the model server from inside the pod stands before Refrain: its callers could not be told apart;
/// and a listener that was closed does not answer it any more.
fn refuse_dialling(container: &Container, plan: &Plan) -> Result<(), Refusal> {
    let ports: Vec<u16> = plan.moved.keys().copied().collect();
    let variables = container.env.iter().flatten();
    let named = variables.filter_map(|variable| {
        let port = variable.value.as_deref()?.trim().parse::<u16>().ok()?;
        ports.contains(&port).then(|| (format!("variable {}", variable.name), port))
    });
    let dialled = texts(container).filter_map(|text| {
        let port = ports.iter().find(|port| dials(text, **port))?;
        let text = if text.len() > 80 { "its command line or env" } else { text };
        Some((text.to_owned(), *port))
    });
    let Some((what, port)) = named.chain(dialled).next() else { return Ok(()) };
    let name = &container.name;
    Err(Refusal::new(if port == plan.serving {
        format!(
            "container {name} ({what}) uses port {port} of {} inside the pod: Refrain would take all of its callers for one and only observe \
             them; let callers reach port {port} directly, or label the pod {PREFIX}inject: \"false\"",
            plan.name
        )
    } else {
        format!(
            "container {name} ({what}) uses port {port} of {} inside the pod, which Refrain closes; take that out, or label the pod \
             {PREFIX}inject: \"false\"",
            plan.name
        )
    }))
}

/// Whether a text names `port` of this very machine.
fn dials(text: &str, port: u16) -> bool {
    const HERE: [&str; 6] = ["localhost", "127.0.0.1", "[::1]", "0.0.0.0", "[::]", "127.0.0.6"];
    let port = format!(":{port}");
    text.match_indices(&port).any(|(at, _)| {
        let is_whole = !text[at + port.len()..].starts_with(|letter: char| letter.is_ascii_digit());
        is_whole && HERE.iter().any(|host| text[..at].ends_with(host))
    })
}

/// Takes the model server's ports out of its list, and returns those that the sidecar declares from now on.
///
/// A port's name may be what a Service's `targetPort` says. Services look for names in plain containers, and in native
/// sidecars only from Kubernetes 1.32; before that, and where a port of the node is mapped, the entry stays where it is: it
/// says which number serves, and whoever listens there is reached.
pub(super) fn take_over(pod: &mut Value, plan: &Plan, settings: &Settings) -> Vec<Value> {
    let is_native = settings.sidecar.is_native(settings.kubernetes);
    let is_found = !is_native || settings.kubernetes >= Kubernetes::NAMED_SIDECAR_PORTS;
    let container = container_mut(pod, plan.server);
    let Some(ports) = container.get_mut("ports").and_then(Value::as_array_mut) else {
        return vec![json!({"containerPort": plan.serving, "protocol": "TCP"})];
    };
    let number = |port: &Value| port["containerPort"].as_u64().unwrap_or_default();
    let mut taken = Vec::new();
    let mut stays = false;
    ports.retain(|port| {
        let number = number(port);
        if number == u64::from(plan.serving) {
            if !is_found || (is_native && port.get("hostPort").is_some()) {
                stays = true;
                return true;
            }
            taken.push(port.clone());
            return false;
        }
        !plan.moved.keys().any(|closed| u64::from(*closed) == number)
    });
    if ports.is_empty() {
        container.as_object_mut().map(|container| container.remove("ports"));
    }
    if taken.is_empty() && !stays {
        taken.push(json!({"containerPort": plan.serving, "protocol": "TCP"}));
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_dialled_where_this_machine_is_named_with_it() {
        for text in
            ["localhost:8001", "http://127.0.0.1:8001/v2", "--upstream=[::1]:8001", "grpc://0.0.0.0:8001"]
        {
            assert!(dials(text, 8001), "{text}");
        }
        for text in ["localhost:80011", "example.org:8001", "{\"containerPort\":8001}", "localhost:8000"] {
            assert!(!dials(text, 8001), "{text}");
        }
    }
}

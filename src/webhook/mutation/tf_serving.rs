//! TensorFlow Serving's listeners: gRPC goes to a UNIX socket, REST is closed.
//!
//! Its TCP ports cannot be bound to loopback, so a socket is the only way that nobody outside the pod reaches. The socket's
//! file is its user's alone, hence the sidecar must run as the same user, and that must be known and not root. Flags are read
//! as `--flag=value` only, the last occurrence wins.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::command::{CommandLine, Grammar};
use super::ports;
use super::refusal::Refusal;
use super::server::Server;
use super::wishes::Wishes;
use super::{PREFIX, Plan, Upstream};

const GRAMMAR: Grammar = Grammar {
    program: "tensorflow_model_server",
    two_words: false,
    abbreviates: false,
    bare: &[],
    guarded: &["port", "rest_api_port", "grpc_socket_path", "ssl_config_file"],
    takes_words_alone: true,
};

/// The folder that both containers see.
pub(super) const FOLDER: &str = "/run/refrain";

/// The socket in it.
pub(super) const SOCKET: &str = "/run/refrain/upstream.sock";

/// The port for REST that the stock image's script opens.
const REST: u16 = 8501;

struct Listeners {
    grpc: u16,
    rest: u16,
    socket: Option<String>,
}

fn listeners(line: &CommandLine, container: &Container) -> Result<Listeners, Refusal> {
    let name = &container.name;
    if line.value("ssl_config_file")?.is_some_and(|file| !file.is_empty()) {
        return Err(Refusal::new(format!(
            "container {name}: --ssl_config_file puts TLS between Refrain and TensorFlow Serving, which share the pod; take the flag out, \
             and set [tls] in Refrain's configuration instead"
        )));
    }
    // Started by the image's own script REST is open unless the pod's words say otherwise.
    let rest = if container.command.as_ref().is_none_or(Vec::is_empty) { REST } else { 0 };
    Ok(Listeners {
        grpc: line.port("port", 8500)?,
        rest: line.port("rest_api_port", rest)?,
        socket: line.value("grpc_socket_path")?.map(str::to_owned).filter(|path| !path.is_empty()),
    })
}

/// What is to be done with a pod's TensorFlow Serving.
pub(super) fn plan(
    pod: &Pod,
    server: &Server<'_>,
    wishes: &Wishes,
    _: &crate::webhook::settings::Settings,
) -> Result<Plan, Refusal> {
    let container = server.container;
    let name = &container.name;
    let mut line = CommandLine::read(container, &GRAMMAR)?;
    let listeners = listeners(&line, container)?;
    if listeners.grpc == 0 {
        return Err(Refusal::new(format!(
            "container {name}: --port=0 serves no port that Refrain could take over; name the port that callers use"
        )));
    }
    if let Some(socket) = listeners.socket.filter(|socket| socket != SOCKET) {
        return Err(Refusal::new(format!(
            "container {name}: --grpc_socket_path={socket} is another way in beside Refrain; take the flag out"
        )));
    }
    let user = user(pod, container)?;
    let mut moved = BTreeMap::from([(listeners.grpc, None)]);
    if listeners.rest != 0 {
        if ports::declares(container, listeners.rest) && !wishes.blocks_rest {
            return Err(Refusal::new(format!(
                "container {name} declares its REST port {}, and Refrain judges gRPC alone, so callers of REST would be cut off; set \
                 annotation {PREFIX}rest: block to close it, or take the port out of ports",
                listeners.rest
            )));
        }
        moved.insert(listeners.rest, None);
    }
    line.set("port", 0);
    line.set("rest_api_port", 0);
    line.set("grpc_socket_path", SOCKET);
    Ok(Plan {
        server: server.index,
        name: name.clone(),
        serving: listeners.grpc,
        upstream: Upstream::Socket { user },
        moved,
        exposed: None,
        // It ends at once when it is told to.
        exit_seconds: 5,
        command: line,
        environment: Vec::new(),
        warnings: Vec::new(),
    })
}

/// As whom TensorFlow Serving runs.
fn user(pod: &Pod, container: &Container) -> Result<i64, Refusal> {
    let name = &container.name;
    let own = container.security_context.as_ref().and_then(|context| context.run_as_user);
    let pods = || pod.spec.as_ref()?.security_context.as_ref()?.run_as_user;
    match own.or_else(pods) {
        None => Err(Refusal::new(format!(
            "container {name}: TensorFlow Serving is reached through a UNIX socket, which only its own user may open, and that user is not \
             known (the stock image's is root); set securityContext.runAsUser to a number other than 0, such as 1000"
        ))),
        Some(0) => Err(Refusal::new(format!(
            "container {name}: TensorFlow Serving is reached through a UNIX socket, which only its own user may open, and Refrain does not \
             run as root; set securityContext.runAsUser to a number other than 0, such as 1000"
        ))),
        Some(user) => Ok(user),
    }
}

/// Where a TensorFlow Serving that should be behind the sidecar still answers on the network, by listener.
pub(super) fn exposed(container: &Container) -> Result<Vec<(&'static str, u16)>, Refusal> {
    let line = CommandLine::read(container, &GRAMMAR)?;
    let listeners = listeners(&line, container)?;
    Ok([("gRPC", listeners.grpc), ("REST", listeners.rest)]
        .into_iter()
        .filter(|(_, port)| *port != 0)
        .collect())
}

/// Where gRPC is served inside the pod.
pub(super) fn upstream(pod: &Pod, container: &Container) -> Result<Upstream, Refusal> {
    let line = CommandLine::read(container, &GRAMMAR)?;
    match listeners(&line, container)?.socket.as_deref() {
        Some(SOCKET) => Ok(Upstream::Socket { user: user(pod, container)? }),
        _ => Err(Refusal::new(format!(
            "container {}: --grpc_socket_path is not {SOCKET}, where Refrain looks for TensorFlow Serving",
            container.name
        ))),
    }
}

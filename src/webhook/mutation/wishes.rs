//! What the pod's author asks for, by label and annotations.

use k8s_openapi::api::core::v1::Pod;

use super::refusal::Refusal;
use super::server::Kind;
use super::{PREFIX, settled};
use crate::webhook::settings::{is_object_name, is_quantity};

/// Every annotation that has an effect; `status` is what we write.
const KNOWN: [&str; 11] = [
    "config",
    "container",
    "cpu-limit",
    "cpu-request",
    "log-level",
    "memory-limit",
    "memory-request",
    "mode",
    "rest",
    "runtime",
    settled::STATUS,
];

/// What the pod's author asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    pub(super) container: Option<String>,
    pub(super) runtime: Option<Kind>,
    /// Whether callers of REST may be cut off.
    pub(super) blocks_rest: bool,
    pub(super) config_map: Option<String>,
    pub(super) mode: Option<String>,
    pub(super) log_level: Option<String>,
    pub(super) cpu_request: Option<String>,
    pub(super) cpu_limit: Option<String>,
    pub(super) memory_request: Option<String>,
    pub(super) memory_limit: Option<String>,
}

impl Wishes {
    /// Nothing where the pod wants no sidecar. What is written and not understood is refused: a slip of the pen must not
    /// leave a pod unprotected.
    pub(super) fn read(pod: &Pod) -> Result<Option<Self>, Refusal> {
        let labels = pod.metadata.labels.iter().flatten();
        for (name, value) in labels {
            match name.strip_prefix(PREFIX) {
                Some("inject") if value == "false" => return Ok(None),
                Some("inject") if value != "true" => {
                    return Err(expected("label", name, "\"true\" or \"false\"", value));
                }
                _ => {}
            }
        }
        let mut wishes = Self::default();
        for (name, value) in pod.metadata.annotations.iter().flatten() {
            let Some(key) = name.strip_prefix(PREFIX) else { continue };
            let value = value.trim();
            let text = Some(value.to_owned());
            match key {
                "container" => wishes.container = text,
                "runtime" => {
                    let kind = Kind::named(value);
                    wishes.runtime =
                        Some(kind.ok_or_else(|| expected("annotation", name, "triton or tfserving", value))?);
                }
                "rest" if value == "block" => wishes.blocks_rest = true,
                "rest" => return Err(expected("annotation", name, "block", value)),
                "mode" if ["enforce", "observe", "off"].contains(&value) => wishes.mode = text,
                "mode" => return Err(expected("annotation", name, "enforce, observe or off", value)),
                "config" if is_object_name(value) => wishes.config_map = text,
                "config" => return Err(expected("annotation", name, "the name of a ConfigMap", value)),
                "log-level" => wishes.log_level = text,
                "cpu-request" => wishes.cpu_request = amount(name, value)?,
                "cpu-limit" => wishes.cpu_limit = amount(name, value)?,
                "memory-request" => wishes.memory_request = amount(name, value)?,
                "memory-limit" => wishes.memory_limit = amount(name, value)?,
                settled::STATUS => {}
                _ => {
                    let known = KNOWN.join(", ");
                    return Err(Refusal::new(format!(
                        "annotation {name} is not one that Refrain knows; known after {PREFIX} are {known}"
                    )));
                }
            }
        }
        Ok(Some(wishes))
    }
}

fn amount(name: &str, value: &str) -> Result<Option<String>, Refusal> {
    if is_quantity(value) {
        return Ok(Some(value.to_owned()));
    }
    Err(expected("annotation", name, "an amount such as 100m or 256Mi", value))
}

fn expected(what: &str, name: &str, expected: &str, found: &str) -> Refusal {
    Refusal::new(format!("{what} {name}: expected {expected}, found {found:?}"))
}

//! Pods that exist already: which of those that should be protected are open, and where.

use std::collections::BTreeMap;

use serde_json::Value;

use super::mutation::{self, PREFIX};

/// A pod that should be protected and is not, or not everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// `namespace/name`.
    pub pod: String,
    /// What is open, a sentence each.
    pub findings: Vec<String>,
}

/// What was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Pods that ask to be protected.
    pub asked: usize,
    /// Those of them that are open.
    pub open: Vec<Open>,
}

/// Looks at `pods` (a List, or one pod). `namespaces` (a List) tells whose namespaces ask for all of their pods; without it only
/// the pods' own labels count.
pub fn audit(pods: &Value, namespaces: Option<&Value>) -> Result<Audit, String> {
    let asking: BTreeMap<&str, bool> = match namespaces {
        Some(list) => items(list, "Namespace")?.into_iter().filter_map(namespace).collect(),
        None => BTreeMap::new(),
    };
    let mut audit = Audit::default();
    for pod in items(pods, "Pod")? {
        let metadata = &pod["metadata"];
        let namespace = metadata["namespace"].as_str().unwrap_or("default");
        let label = |name: &str| metadata["labels"][format!("{PREFIX}{name}")].as_str();
        let by_namespace =
            asking.get(namespace).copied().unwrap_or(false) && label("inject") != Some("false");
        // A pod that says it is protected must be.
        let asks = label("inject") == Some("true") || label("injected").is_some() || by_namespace;
        let is_over = ["Succeeded", "Failed"].map(Some).contains(&pod["status"]["phase"].as_str());
        if !asks || is_over {
            continue;
        }
        audit.asked += 1;
        let findings = mutation::exposed(pod);
        if !findings.is_empty() {
            let name = metadata["name"].as_str().unwrap_or("?");
            audit.open.push(Open { pod: format!("{namespace}/{name}"), findings });
        }
    }
    Ok(audit)
}

fn namespace(namespace: &Value) -> Option<(&str, bool)> {
    let metadata = &namespace["metadata"];
    let asks = metadata["labels"][format!("{PREFIX}injection")].as_str() == Some("enabled");
    Some((metadata["name"].as_str()?, asks))
}

/// The objects of a list, or the one object.
fn items<'a>(value: &'a Value, kind: &str) -> Result<Vec<&'a Value>, String> {
    if value["kind"] == kind {
        return Ok(vec![value]);
    }
    let items = value["items"].as_array().ok_or_else(|| {
        format!("expected what `kubectl get -o json` prints for {kind}s, found {}", value["kind"])
    })?;
    match items.iter().find(|item| !item["kind"].is_null() && item["kind"] != kind) {
        Some(other) => Err(format!("expected a list of {kind}s, found {} in it", other["kind"])),
        None => Ok(items.iter().collect()),
    }
}

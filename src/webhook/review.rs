//! AdmissionReview in, AdmissionReview out: what the API server asks, and what it is told.

use k8s_openapi::ByteString;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::mutation::{Outcome, mutate};
use super::settings::Settings;

const VERSION: &str = "admission.k8s.io/v1";

/// What the API server sends.
#[derive(Debug, Deserialize)]
struct Review {
    #[serde(rename = "apiVersion")]
    version: String,
    kind: String,
    request: Option<Request>,
}

#[derive(Debug, Deserialize)]
struct Request {
    uid: String,
    kind: GroupVersionKind,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
    operation: String,
    #[serde(default)]
    object: Value,
}

#[derive(Debug, Deserialize, Serialize)]
struct GroupVersionKind {
    group: String,
    version: String,
    kind: String,
}

/// What became of a review, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The pod gets its sidecar.
    Patched,
    /// It stays as it is.
    Unchanged,
    /// It must not come up.
    Refused,
    /// What was sent is no review.
    Unreadable,
}

impl Verdict {
    /// Its name in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Patched => "patched",
            Self::Unchanged => "unchanged",
            Self::Refused => "refused",
            Self::Unreadable => "unreadable",
        }
    }
}

/// The most values in a review. A pod has some hundred; a million empty containers are 3 MB of text and a gigabyte of memory.
const VALUES: usize = 20_000;

/// Answers a review, or says why what was sent is none.
pub fn answer(body: &[u8], settings: &Settings) -> Result<(Verdict, Vec<u8>), String> {
    let values = values(body);
    if values > VALUES {
        return Err(format!("expected an AdmissionReview of at most {VALUES} values, found about {values}"));
    }
    let review: Review = serde_json::from_slice(body)
        .map_err(|error| format!("expected an AdmissionReview of {VERSION}, and this is not one: {error}"))?;
    if review.version != VERSION || review.kind != "AdmissionReview" {
        return Err(format!(
            "expected AdmissionReview of {VERSION}, found {} of {}",
            review.kind, review.version
        ));
    }
    let request = review.request.ok_or("expected a request in the AdmissionReview, found none")?;
    let uid = &request.uid;
    let (verdict, response) = respond(&request, settings);
    let mut response = response;
    response["uid"] = json!(uid);
    let answer = json!({"apiVersion": VERSION, "kind": "AdmissionReview", "response": response});
    Ok((verdict, answer.to_string().into_bytes()))
}

/// How many values a JSON text has at most: each but the first follows a bracket or a comma.
fn values(body: &[u8]) -> usize {
    let (mut count, mut in_string, mut is_escaped) = (1, false, false);
    for byte in body {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' | b',' if !in_string => count += 1,
            _ => {}
        }
    }
    count
}

fn respond(request: &Request, settings: &Settings) -> (Verdict, Value) {
    let GroupVersionKind { group, version, kind } = &request.kind;
    if (group.as_str(), version.as_str(), kind.as_str()) != ("", "v1", "Pod") {
        return refuse(
            request,
            &format!(
                "expected a Pod of v1, found {kind} of {group}/{version}; the webhook's rules name too much"
            ),
        );
    }
    if request.operation != "CREATE" {
        // The words and ports of a pod can no longer be changed; its images can, which the chart's admission policy refuses.
        return (Verdict::Unchanged, json!({"allowed": true}));
    }
    match mutate(&request.object, settings) {
        Outcome::Unchanged => (Verdict::Unchanged, json!({"allowed": true})),
        Outcome::Refuse(refusal) => refuse(request, &refusal.to_string()),
        Outcome::Patch { patch, warnings } => {
            let pod = named(request);
            tracing::info!(pod, operations = patch.0.len(), ?warnings, "pod patched");
            let mut response = json!({
                "allowed": true,
                "patchType": "JSONPatch",
                "patch": ByteString(json!(patch).to_string().into_bytes()),
            });
            if !warnings.is_empty() {
                response["warnings"] =
                    json!(warnings.iter().map(|warning| short(warning)).collect::<Vec<_>>());
            }
            (Verdict::Patched, response)
        }
    }
}

fn refuse(request: &Request, sentence: &str) -> (Verdict, Value) {
    tracing::warn!(pod = named(request), refusal = sentence, "pod refused");
    let status = json!({"code": 403, "reason": "Forbidden", "status": "Failure", "message": format!("refrain: {sentence}")});
    (Verdict::Refused, json!({"allowed": false, "status": status}))
}

/// A pod's name as far as it has one: what a controller makes is named after its owner, later.
fn named(request: &Request) -> String {
    let metadata = &request.object["metadata"];
    let name = Some(request.name.as_str()).filter(|name| !name.is_empty());
    let name = name.or(metadata["name"].as_str()).or(metadata["generateName"].as_str()).unwrap_or("?");
    format!("{}/{name}", request.namespace)
}

/// A warning as long as the API server shows it: 256 bytes.
fn short(warning: &str) -> String {
    const MOST: usize = 256;
    if warning.len() <= MOST {
        return warning.to_owned();
    }
    let end = (0..=MOST - 3).rev().find(|end| warning.is_char_boundary(*end)).unwrap_or(0);
    format!("{}...", &warning[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_outside_of_text() {
        assert_eq!(values(br#"{"a": [1, 2], "b": "{[,,", "c\",[": "\\"}"#), 6);
    }
}

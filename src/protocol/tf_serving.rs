//! TensorFlow Serving's calls: each request as a query, its replies row by row.
//!
//! - `size`: how much memory a request takes once decoded, before it is;
//! - `predict`: Predict, named tensors in and out;
//! - `tensor`, `typed`: a tensor by TensorFlow's own rules, as bytes or in the field of its type;
//! - `outputs`: Predict's replies, taken apart and put together;
//! - `example`: Classify, Regress and MultiInference, which take rows of named features;
//! - `features`: one such row, read so that no parser can read it otherwise;
//! - `results`: their replies, taken apart and put together;
//! - `scores`: the scores in a reply, rewritten.
//!
//! No TensorFlow Serving was there to be measured: the rules are those of its sources and of its own clients' messages.

use super::query::{Family, ModelKey};
use super::tensorflow::serving::{ModelSpec, model_spec::VersionChoice};

pub mod example;
mod features;
mod nested;
mod outputs;
pub mod predict;
mod results;
mod scores;
pub mod size;
mod tensor;
mod typed;
#[cfg(test)]
mod testing;

pub(super) use tensor::datatype_of;

/// The signature that is asked where none is named.
pub const DEFAULT_SIGNATURE: &str = "serving_default";

/// The model that `spec` asks. A version label stands as `label:` and itself: what it means is the server's to say.
fn model_key(spec: Option<&ModelSpec>) -> ModelKey {
    let Some(spec) = spec else {
        return ModelKey { family: Family::TfServing, ..ModelKey::default() };
    };
    let version = match &spec.version_choice {
        None => String::new(),
        Some(VersionChoice::Version(version)) => version.to_string(),
        Some(VersionChoice::VersionLabel(label)) => format!("label:{label}"),
    };
    ModelKey {
        family: Family::TfServing,
        name: spec.name.clone(),
        version,
        signature: signature_name(spec).to_owned(),
    }
}

/// The server's own word for the version of the model that `key` asks, whichever its signature.
pub fn model_spec(key: &ModelKey) -> ModelSpec {
    let version_choice = match key.version.strip_prefix("label:") {
        Some(label) => Some(VersionChoice::VersionLabel(label.to_owned())),
        None => key.version.parse().ok().map(VersionChoice::Version),
    };
    ModelSpec { name: key.name.clone(), version_choice, signature_name: String::new() }
}

/// The signature that `spec` asks.
fn signature_name(spec: &ModelSpec) -> &str {
    if spec.signature_name.is_empty() { DEFAULT_SIGNATURE } else { &spec.signature_name }
}

/// The version asked for by number; empty for the newest, and for a label, whose version is that of its signature.
fn version_asked(spec: Option<&ModelSpec>) -> String {
    match spec.and_then(|spec| spec.version_choice.as_ref()) {
        Some(VersionChoice::Version(version)) => version.to_string(),
        Some(VersionChoice::VersionLabel(_)) | None => String::new(),
    }
}

/// The version that answered, by a reply's own word; empty where it says none.
fn version_told(spec: Option<&ModelSpec>) -> String {
    version_asked(spec)
}

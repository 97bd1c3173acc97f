//! Which outputs a request asks for, and in which form.
//!
//! The model is always asked for all of them, and of a classified output for all its classes: so an answer serves every later
//! request, whichever outputs it names and however many classes it wants.

use std::collections::BTreeMap;

use prost::Message;

use super::digest;
use crate::protocol::pb::{
    self, infer_parameter::ParameterChoice, model_infer_request::InferRequestedOutputTensor,
};
use crate::protocol::query::Refusal;
use crate::protocol::signature::{Signature, TensorSpec};
use crate::protocol::tensor::Datatype;

/// The output parameter that asks for classes in place of a tensor.
const CLASSIFICATION: &str = "classification";

/// More classes than any output has; Triton cuts the number to 32 bits and then to the elements that there are.
const ALL_CLASSES: i64 = i32::MAX as i64;

/// Refuses classes of an output that is no number.
pub(super) fn no_classes_of_text(
    asked: &[InferRequestedOutputTensor],
    signature: &Signature,
) -> Result<(), Refusal> {
    let is_text = |name: &str| {
        let output = signature.outputs.iter().find(|output| output.name == name);
        output.is_some_and(|output| output.datatype == Some(Datatype::Bytes))
    };
    let harmful =
        asked.iter().find(|output| output.parameters.contains_key(CLASSIFICATION) && is_text(&output.name));
    match harmful {
        None => Ok(()),
        Some(output) => Err(Refusal::Dangerous(format!(
            "class result not available for output '{}' due to unsupported type 'BYTES'",
            output.name
        ))),
    }
}

/// What a request says of its outputs.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outputs {
    /// Nothing: all of them, as tensors.
    All,
    /// These outputs of the model's, by name.
    Named {
        /// How each is to be shown.
        shown: BTreeMap<String, Shown>,
        /// Those asked for as tensors beside others' classes, although they have classes too.
        mixed: Vec<String>,
    },
    /// Outputs of a model that tells none: sent as they stand, and answered only as they were answered before.
    Untold(Vec<InferRequestedOutputTensor>),
}

/// How one output is to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// As a tensor.
    Tensor,
    /// As its best classes, so many of them.
    Classes(u32),
}

impl Outputs {
    /// Refused where an output is none of the model's, or its classes are not told as the server wants it: a server that let that
    /// pass would answer a near-copy once for every name.
    pub(super) fn of(
        asked: &[InferRequestedOutputTensor],
        signature: &Signature,
        model: &str,
    ) -> Result<Self, Refusal> {
        if asked.is_empty() {
            return Ok(Self::All);
        }
        if signature.outputs.is_empty() {
            return Ok(Self::Untold(asked.to_vec()));
        }
        let known = |name: &str| signature.outputs.iter().find(|output| output.name == name);
        let mut shown: BTreeMap<String, Shown> = BTreeMap::new();
        for output in asked {
            let as_asked = match output.parameters.get(CLASSIFICATION).map(|value| &value.parameter_choice) {
                None => Shown::Tensor,
                // Cut to 32 bits by the server, to none at all if it comes to that; fewer than one are refused.
                Some(Some(ParameterChoice::Int64Param(classes @ 1..))) => Shown::Classes(*classes as u32),
                Some(_) => {
                    return Err(Refusal::Malformed(
                        "invalid value for 'classification' parameter, expected >= 0".into(),
                    ));
                }
            };
            if known(&output.name).is_none() {
                let name = &output.name;
                return Err(Refusal::Malformed(format!(
                    "unexpected inference output '{name}' for model '{model}'"
                )));
            }
            // Of an output named more than once the first number of classes counts.
            let before = shown.entry(output.name.clone()).or_insert(as_asked);
            if *before == Shown::Tensor {
                *before = as_asked;
            }
        }
        let has_classes = shown.values().any(|shown| *shown != Shown::Tensor);
        let is_mixed = |(name, shown): &(&String, &Shown)| {
            has_classes && **shown == Shown::Tensor && known(name).is_some_and(TensorSpec::has_classes)
        };
        let mixed = shown.iter().filter(is_mixed).map(|(name, _)| name.clone()).collect();
        Ok(Self::Named { shown, mixed })
    }

    /// A keyed digest of the form of the answer; 0 for tensors. Which outputs are named and how many classes are wanted is cut
    /// locally, and so no part of it.
    pub(super) fn form(&self, key: &[u8; 32]) -> u64 {
        let mut hasher = blake3::Hasher::new_keyed(key);
        match self {
            Self::Untold(asked) => {
                for output in asked {
                    digest::absorb(&mut hasher, &output.encode_to_vec());
                }
            }
            Self::Named { mixed, .. } if self.has_classes() => {
                for name in mixed {
                    digest::absorb(&mut hasher, name.as_bytes());
                }
            }
            Self::All | Self::Named { .. } => return 0,
        }
        digest::short(&hasher).max(1)
    }

    fn has_classes(&self) -> bool {
        matches!(self, Self::Named { shown, .. } if shown.values().any(|shown| *shown != Shown::Tensor))
    }

    /// The outputs to ask the upstream for: none for all of them as tensors. Where classes are wanted of one, all that have
    /// classes are asked for all of theirs, but those that are wanted as tensors.
    pub(super) fn to_ask(&self, signature: &Signature) -> Vec<InferRequestedOutputTensor> {
        match self {
            Self::Untold(asked) => asked.clone(),
            Self::Named { shown, .. } if self.has_classes() => {
                let ask = |output: &TensorSpec| {
                    let with_classes = match shown.get(&output.name) {
                        Some(shown) => *shown != Shown::Tensor,
                        None => output.has_classes(),
                    };
                    let all = pb::InferParameter {
                        parameter_choice: Some(ParameterChoice::Int64Param(ALL_CLASSES)),
                    };
                    let parameters =
                        with_classes.then(|| (CLASSIFICATION.to_owned(), all)).into_iter().collect();
                    InferRequestedOutputTensor { name: output.name.clone(), parameters }
                };
                signature.outputs.iter().map(ask).collect()
            }
            Self::All | Self::Named { .. } => Vec::new(),
        }
    }

    /// Whether the signature shows that the server gives these outputs in this form.
    pub(super) fn are_accepted_by(&self, signature: &Signature) -> bool {
        match self {
            Self::All => true,
            Self::Untold(_) => false,
            Self::Named { shown, .. } => shown.iter().all(|(name, shown)| {
                let output = signature.outputs.iter().find(|output| output.name == *name);
                output.is_some_and(|output| *shown == Shown::Tensor || output.has_classes())
            }),
        }
    }

    /// Whether the reply is to hold whatever the server gives.
    pub(super) fn are_all(&self) -> bool {
        !matches!(self, Self::Named { .. })
    }

    /// How the reply to this request shows `output`; none where it does not.
    pub(super) fn shows(&self, output: &str) -> Option<Shown> {
        match self {
            Self::All | Self::Untold(_) => Some(Shown::Tensor),
            Self::Named { shown, .. } => shown.get(output).copied(),
        }
    }

    /// The outputs that a reply must hold by name.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let named = match self {
            Self::Named { shown, .. } => Some(shown.keys()),
            Self::All | Self::Untold(_) => None,
        };
        named.into_iter().flatten().map(String::as_str)
    }
}

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
use crate::protocol::signature::Signature;
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
    /// These outputs of the model's, by name: as a tensor, or as so many classes.
    Named(BTreeMap<String, Shown>),
    /// Something that the server may refuse, or that we read less well than it: sent as it stands, and answered only as it was
    /// answered before.
    Odd(Vec<InferRequestedOutputTensor>),
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
    pub(super) fn of(asked: &[InferRequestedOutputTensor], signature: &Signature) -> Self {
        if asked.is_empty() {
            return Self::All;
        }
        let mut named = BTreeMap::new();
        for output in asked {
            let known = signature.outputs.iter().any(|known| known.name == output.name);
            let shown = match output.parameters.get(CLASSIFICATION).map(|value| &value.parameter_choice) {
                None => Some(Shown::Tensor),
                // Cut to 32 bits by the server; none left is a form of its own, and fewer than none are refused.
                Some(Some(ParameterChoice::Int64Param(classes @ 1..))) => {
                    Some(Shown::Classes(*classes as u32)).filter(|shown| *shown != Shown::Classes(0))
                }
                Some(_) => None,
            };
            let agrees =
                shown.is_some_and(|shown| *named.entry(output.name.clone()).or_insert(shown) == shown);
            if !known || !agrees {
                return Self::Odd(asked.to_vec());
            }
        }
        Self::Named(named)
    }

    /// A keyed digest of the form of the answer; 0 for plain tensors. Which outputs are named and how many classes are wanted is
    /// cut locally, and so no part of it.
    pub(super) fn form(&self, key: &[u8; 32]) -> u64 {
        let mut hasher = blake3::Hasher::new_keyed(key);
        match self {
            Self::Odd(asked) => {
                for output in asked {
                    digest::absorb(&mut hasher, &output.encode_to_vec());
                }
            }
            _ if !self.has_classes() => return 0,
            Self::All => {}
            Self::Named(named) => {
                for (name, _) in named.iter().filter(|(_, shown)| **shown != Shown::Tensor) {
                    digest::absorb(&mut hasher, name.as_bytes());
                }
            }
        }
        digest::short(&hasher).max(1)
    }

    /// Whether some output is asked for as classes.
    pub(super) fn has_classes(&self) -> bool {
        matches!(self, Self::Named(named) if named.values().any(|shown| *shown != Shown::Tensor))
    }

    /// The outputs to ask the upstream for: none for all of them as tensors.
    pub(super) fn to_ask(&self, signature: &Signature) -> Vec<InferRequestedOutputTensor> {
        match self {
            Self::Odd(asked) => asked.clone(),
            Self::Named(named) if self.has_classes() => {
                let ask = |name: &String| {
                    let is_classified = matches!(named.get(name), Some(Shown::Classes(_)));
                    let all = pb::InferParameter {
                        parameter_choice: Some(ParameterChoice::Int64Param(ALL_CLASSES)),
                    };
                    let parameters =
                        is_classified.then(|| (CLASSIFICATION.to_owned(), all)).into_iter().collect();
                    InferRequestedOutputTensor { name: name.clone(), parameters }
                };
                signature.outputs.iter().map(|output| ask(&output.name)).collect()
            }
            Self::All | Self::Named(_) => Vec::new(),
        }
    }

    /// Whether the request's own bytes ask for all that is to be kept.
    pub(super) fn are_sent_as_they_stand(&self) -> bool {
        !matches!(self, Self::Named(_))
    }

    /// Whether the signature shows that the server gives these outputs in this form.
    pub(super) fn are_accepted_by(&self, signature: &Signature) -> bool {
        match self {
            Self::All => true,
            Self::Odd(_) => false,
            Self::Named(named) => named.iter().all(|(name, shown)| {
                let output = signature.outputs.iter().find(|output| output.name == *name);
                output.is_some_and(|output| *shown == Shown::Tensor || output.has_classes())
            }),
        }
    }

    /// How the reply to this request shows `output`; none where it does not.
    pub(super) fn shows(&self, output: &str) -> Option<Shown> {
        match self {
            Self::All | Self::Odd(_) => Some(Shown::Tensor),
            Self::Named(named) => named.get(output).copied(),
        }
    }

    /// The outputs that a reply must hold by name.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let named = match self {
            Self::Named(named) => Some(named.keys()),
            Self::All | Self::Odd(_) => None,
        };
        named.into_iter().flatten().map(String::as_str)
    }
}

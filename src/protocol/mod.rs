//! Wire ⇄ our words: messages into images, and answers back into messages. Knows no sockets.
//!
//! A request that we read otherwise than the model server reads it is a way round the defence, so each reader here follows
//! the server's own rules, measured on a real one (`tests/triton`).
//!
//! - [`query`]: what every protocol's request is made into, which is all that the journey knows of it;
//! - [`size`]: how much memory a request takes once decoded, before it is;
//! - [`signature`]: what a model takes and gives, from its configuration or metadata;
//! - [`triton`]: one `ModelInfer` request as a query;
//! - [`tf_serving`]: TensorFlow Serving's calls as queries;
//! - [`tensor`]: data type, shape, layout and bytes into [`crate::judgment::Image`]s;
//! - [`scores`]: the scores among a reply's bytes, to be rewritten;
//! - [`encoded`]: JPEG, PNG, WebP, GIF and BMP into the same.

use bytes::Bytes;

use query::{Refusal, Request};

/// The messages of the KServe v2 / Triton protocol, generated from `proto/triton`.
#[allow(missing_docs, clippy::pedantic, unreachable_pub)]
pub mod pb {
    tonic::include_proto!("inference");
}

/// TensorFlow's messages, generated from `proto/tensorflow`.
#[allow(missing_docs, clippy::pedantic, unreachable_pub)]
pub mod tensorflow {
    tonic::include_proto!("tensorflow");

    /// The messages of TensorFlow Serving, generated from `proto/tensorflow_serving`.
    pub mod serving {
        tonic::include_proto!("tensorflow.serving");
    }
}

pub mod answer;
mod digest;
pub mod encoded;
pub mod query;
pub mod scores;
pub mod signature;
pub mod size;
pub mod tensor;
pub mod tf_serving;
pub mod triton;
mod wire;

/// The calls that ask a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rpc {
    /// KServe v2's `ModelInfer`, and every message of its `ModelStreamInfer`.
    Infer,
    /// TensorFlow Serving's `Predict`.
    Predict,
    /// TensorFlow Serving's `Classify`.
    Classify,
    /// TensorFlow Serving's `Regress`.
    Regress,
    /// TensorFlow Serving's `MultiInference`.
    MultiInference,
}

impl Rpc {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Infer, Self::Predict, Self::Classify, Self::Regress, Self::MultiInference];

    /// The path of its unary method.
    pub fn path(self) -> &'static str {
        match self {
            Self::Infer => "/inference.GRPCInferenceService/ModelInfer",
            Self::Predict => "/tensorflow.serving.PredictionService/Predict",
            Self::Classify => "/tensorflow.serving.PredictionService/Classify",
            Self::Regress => "/tensorflow.serving.PredictionService/Regress",
            Self::MultiInference => "/tensorflow.serving.PredictionService/MultiInference",
        }
    }

    /// Decodes a request's message, given without its prefix.
    pub fn decode(self, payload: &Bytes) -> Result<Box<dyn Request>, Refusal> {
        match self {
            Self::Infer => triton::decode(payload),
            Self::Predict => tf_serving::predict::decode(payload),
            Self::Classify => tf_serving::example::decode_classify(payload),
            Self::Regress => tf_serving::example::decode_regress(payload),
            Self::MultiInference => tf_serving::example::decode_multi_inference(payload),
        }
    }

    /// An upper bound of the bytes that decoding `payload` allocates. Content that is shared with the payload is not counted again.
    /// Cost: one pass over field keys, none over content except typed numbers' length.
    pub fn decoded_bytes(self, payload: &[u8]) -> usize {
        match self {
            Self::Infer => size::decoded(payload),
            Self::Predict => tf_serving::size::predict(payload),
            Self::Classify | Self::Regress | Self::MultiInference => tf_serving::size::example(payload),
        }
    }
}

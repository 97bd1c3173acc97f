//! Wire ⇄ our words: messages into images, and answers back into messages. Knows no sockets.
//!
//! A request that we read otherwise than the model server reads it is a way round the defence, so each reader here follows
//! the server's own rules, measured on a real one (`tests/triton`).
//!
//! - [`size`]: how much memory a request takes once decoded, before it is;
//! - [`signature`]: what a model takes and gives, from its configuration or metadata;
//! - [`triton`]: one `ModelInfer` request as a [`triton::Query`]: its rows, its form, and the smaller request for some of its rows;
//! - [`tensor`]: data type, shape, layout and bytes into [`crate::judgment::Image`]s;
//! - [`answer`]: a reply into one answer per row, and answers back into a reply.

/// The messages of the KServe v2 / Triton protocol, generated from `proto/triton`.
#[allow(missing_docs, clippy::pedantic, unreachable_pub)]
pub mod pb {
    tonic::include_proto!("inference");
}

pub mod size;
pub mod signature;
pub mod triton;
pub mod tensor;
pub mod answer;

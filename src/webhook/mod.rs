//! The other role: pods in, pods with a sidecar out.

pub mod mutation;
mod review;
pub mod settings;

pub use review::{Verdict, answer};

//! **Refrain** stands in front of an image classifier's model server and remembers what each caller asked. A near-copy of an
//! earlier image gets the earlier answer, after the time that the model would have taken; only dissimilar images reach the
//! model, so attacks that search for an adversarial image by asking about thousands of slightly changed copies learn nothing.
//!
//! The modules, in the order in which a call meets them; `ARCHITECTURE.md` tells the life of a call.

pub mod cli;
pub mod config;
pub mod proxy;
pub mod protocol;
pub mod session;
pub mod judgment;
pub mod scores;
pub mod timing;
pub mod telemetry;
pub mod demo;
pub mod webhook;

//! What was ruled on one message, as the operator is told: attributes of its span, and an event in the log.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;

use super::context::Origin;
use super::metrics::Decision;

/// What was ruled on one message, and what that rests on. Never pixels, fingerprints, scores, labels or identities.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// What becomes of the message: that of its first row which is not simply forwarded.
    pub decision: Decision,
    /// The first cause of that row's ruling.
    pub reason: &'static str,
    /// The model, which the model server knows.
    pub model: Arc<str>,
    /// The version that is expected to serve.
    pub version: String,
    /// The reading of the method.
    pub profile: &'static str,
    /// Rows of the message, those forwarded, replayed and refused. Where calls are only observed, as they were ruled.
    pub rows: Rows,
    /// Whether any row counts against the session.
    pub suspect: bool,
    /// How far that row is from the anchor that decided, else from the nearest; nothing where there is none.
    pub measured: Option<Measured>,
    /// The anchor that answers that row.
    pub anchor: Option<Matched>,
    /// A keyed digest of the caller, made in this process.
    pub caller: [u8; 16],
    /// Where the caller's identity comes from.
    pub source: &'static str,
}

/// How many rows there are of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// In all.
    pub all: usize,
    /// Ruled forward.
    pub forwarded: usize,
    /// Ruled a replay.
    pub replayed: usize,
    /// Ruled a refusal.
    pub refused: usize,
}

/// Distances, each with its radius of reuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Bits of 256 that differ, and the radius.
    pub bits: (u32, u32),
    /// Positions that differ, of how many, and the radius.
    pub positions: (u32, u32, u32),
    /// Fine cells of 64 that are near, and how many must be.
    pub cells: (u32, u32),
}

/// The anchor behind a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matched {
    /// Time since it was forwarded.
    pub age: Duration,
    /// Rows that it has answered, this one included.
    pub hits: u64,
    /// The call that it was forwarded by, where that was traced.
    pub origin: Option<Origin>,
}

impl Verdict {
    /// Whether anything but forwarding was ruled.
    pub fn is_notable(&self) -> bool {
        self.rows.forwarded < self.rows.all
    }

    /// As attributes; `caller` is the caller's name in telemetry.
    pub(super) fn attributes(&self, caller: String) -> Vec<KeyValue> {
        let number = |name: &'static str, value: usize| KeyValue::new(name, value as i64);
        let small = |name: &'static str, value: u32| KeyValue::new(name, i64::from(value));
        let mut attributes = vec![
            KeyValue::new("refrain.decision", self.decision.as_str()),
            KeyValue::new("refrain.decision.reason", self.reason),
            KeyValue::new("refrain.model.name", self.model.to_string()),
            KeyValue::new("refrain.model.version", self.version.clone()),
            KeyValue::new("refrain.hash.algorithm", self.profile),
            number("refrain.batch.size", self.rows.all),
            number("refrain.batch.forwarded", self.rows.forwarded),
            number("refrain.batch.short_circuited", self.rows.replayed),
            number("refrain.batch.rejected", self.rows.refused),
            KeyValue::new("refrain.suspect", self.suspect),
            KeyValue::new("refrain.session.id_hash", caller),
            KeyValue::new("refrain.session.key_source", self.source),
        ];
        if let Some(Measured { bits, positions, cells }) = self.measured {
            attributes.extend([
                small("refrain.hash.distance", bits.0),
                small("refrain.hash.threshold", bits.1),
                small("refrain.pixel.distance", positions.0),
                small("refrain.pixel.positions", positions.1),
                small("refrain.pixel.threshold", positions.2),
                small("refrain.cells.near", cells.0),
                small("refrain.cells.threshold", cells.1),
            ]);
        }
        if let Some(Matched { age, hits, .. }) = self.anchor {
            attributes.push(KeyValue::new("refrain.match.age", age.as_secs_f64()));
            attributes.push(KeyValue::new("refrain.match.count", i64::try_from(hits).unwrap_or(i64::MAX)));
        }
        attributes
    }
}

//! What was ruled on a message, in the operator's words.

use std::sync::Arc;

use super::call::Call;
use super::read::Asked;
use crate::judgment::{Distances, Profile, Rules};
use crate::session::{AnchorFacts, Claim, Judged, Source};
use crate::telemetry::{Decision, Matched, Measured, Nearness, Row, Rows, Telemetry, Trace, Verdict};

/// A verdict that the operator is told when this is dropped, whichever way its call goes. A line of the log takes as long as a ruling does, so
/// a shadow asks the model first.
pub(super) struct Untold {
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) trace: Option<Arc<Trace>>,
    pub(super) verdict: Verdict,
    pub(super) in_stream: bool,
}

impl Drop for Untold {
    fn drop(&mut self) {
        self.telemetry.tell(self.trace.as_ref(), &self.verdict, self.in_stream);
    }
}

/// A row as it is counted; `observed` says that it is forwarded whatever its ruling.
pub(super) fn counted(row: &Judged, observed: bool) -> Row {
    let evidence = &row.evidence;
    let nearest = evidence.nearest.map(|distances| Nearness {
        bits: distances.bits,
        positions: of_1024(distances.positions, distances.of),
        cells: 64 - distances.fine_cells_within.min(64),
    });
    Row {
        decision: decision(&row.claim, observed),
        ruling: match row.claim {
            Claim::Forward(_) => "forward",
            Claim::Replay(_) => "replay",
            Claim::Refuse => "refuse",
        },
        reason: evidence.reason.as_str(),
        suspect: evidence.suspect,
        nearest,
    }
}

/// What was ruled on a message, told by the row `first` of its `rows`.
pub(super) fn verdict<'a>(
    call: &Call,
    asked: &Asked,
    first: &Judged,
    rows: impl Iterator<Item = &'a Judged>,
    observed: bool,
) -> Verdict {
    let model = &asked.model;
    let rules = model.judge.rules();
    let (mut counts, mut suspect) = (Rows::default(), false);
    for row in rows {
        counts.all += 1;
        suspect |= row.evidence.suspect;
        match row.claim {
            Claim::Forward(_) => counts.forwarded += 1,
            Claim::Replay(_) => counts.replayed += 1,
            Claim::Refuse => counts.refused += 1,
        }
    }
    Verdict {
        decision: decision(&first.claim, observed),
        reason: first.evidence.reason.as_str(),
        model: model.name.clone(),
        version: model.version_served(asked.query.version()),
        profile: match rules.profile {
            Profile::Paper => "paper",
            Profile::Hardened => "hardened",
        },
        rows: counts,
        suspect,
        measured: first.evidence.nearest.map(|distances| measured(&distances, rules)),
        anchor: first.anchor.map(|AnchorFacts { age, hits, origin }| Matched { age, hits, origin }),
        caller: call.caller.digest.0,
        source: match call.caller.source {
            Source::Certificate => "certificate",
            Source::Metadata => "metadata",
            Source::Authorization => "authorization",
            Source::Address => "address",
            Source::Socket => "socket",
        },
    }
}

fn decision(claim: &Claim, observed: bool) -> Decision {
    match claim {
        Claim::Forward(_) => Decision::Forwarded,
        _ if observed => Decision::Monitored,
        Claim::Replay(_) => Decision::ShortCircuited,
        Claim::Refuse => Decision::Rejected,
    }
}

fn measured(distances: &Distances, rules: &Rules) -> Measured {
    let of = distances.of;
    let (bits, positions) = match rules.profile {
        Profile::Paper => ((rules.threshold * 256.0) as u32, (rules.threshold * f64::from(of)) as u32),
        Profile::Hardened => (rules.reuse_bits, rules.reuse_positions * of / 1024),
    };
    Measured {
        bits: (distances.bits, bits),
        positions: (distances.positions, of, positions),
        cells: (distances.fine_cells_within, rules.reuse_cells),
    }
}

/// `positions` of `of` as so many of 1,024.
fn of_1024(positions: u32, of: u32) -> u32 {
    (u64::from(positions) * 1024 / u64::from(of.max(1))) as u32
}

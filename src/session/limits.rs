//! How much is remembered: every bound of the session store, with its unit and reason.

use std::time::Duration;

/// The bounds of a store. `Limits::default()` is what the documents promise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Anchors per session that no near-copy has hit yet; first in, first out. Default 128. The `paper` profile
    /// keeps one anchor whatever stands here.
    pub anchors_never_hit: usize,
    /// Anchors per session that a near-copy has hit; the one hit least recently leaves first. Default 128. Kept
    /// apart from the others, so that decoys cannot flush the anchors an attack works around.
    pub anchors_hit: usize,
    /// Life of an anchor from its forward, never prolonged (default 1 h): a model's answer grows old, and a
    /// stream of hits must not keep it for ever. The `paper` profile keeps its anchor until it is replaced.
    pub ttl: Duration,
    /// Ghosts per session (default 1,024, 120 bytes each).
    pub ghosts: usize,
    /// Life of a ghost from the end of its anchor, and the silence after which a session is forgotten (default 24 h).
    pub ghost_ttl: Duration,
    /// Replayed images per session of which it is remembered who answered them (default 1,024, 32 bytes each).
    pub answered: usize,
    /// Suspect rows that are forwarded before a session is suspected (default 0: each is a true answer about a picture that
    /// somebody may be searching around); also the most that is ever counted, but for the first.
    pub suspicions: u32,
    /// Time in which the count falls by one (default 3 h).
    pub suspicion_decay: Duration,
    /// Bytes of all sessions together (default 256 MiB).
    pub bytes: usize,
    /// Bytes of one answer (default 64 KiB: a classifier's scores, not a picture). Of a row with a larger one only the
    /// likeness is kept: its near-copies are suspect and none is replayed.
    pub answer_bytes: usize,
    /// Sessions in all (default 1,000,000).
    pub sessions: usize,
    /// Bytes of one session (default a 64th of `bytes`); never more than the tenth that newcomers are sure of.
    pub session_bytes: usize,
    /// Answered forwards that establish a session (default 32), and …
    pub established_forwards: u32,
    /// … the time they must span (default 10 min): what a flood cannot buy is time.
    pub established_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self::within(256 << 20)
    }
}

impl Limits {
    /// The defaults for a store of this many bytes in all.
    pub fn within(bytes: usize) -> Self {
        Self {
            anchors_never_hit: 128,
            anchors_hit: 128,
            ttl: Duration::from_hours(1),
            ghosts: 1024,
            ghost_ttl: Duration::from_hours(24),
            answered: 1024,
            suspicions: 0,
            suspicion_decay: Duration::from_hours(3),
            bytes,
            answer_bytes: 64 << 10,
            sessions: 1_000_000,
            session_bytes: bytes / 64,
            established_forwards: 32,
            established_after: Duration::from_mins(10),
        }
    }

    /// What one session may hold.
    pub(super) fn per_session(&self) -> usize {
        self.session_bytes.min(self.bytes / 10)
    }

    /// What established sessions may fill, so that newcomers always have a tenth.
    pub(super) fn for_established(&self) -> Room {
        Room { bytes: self.bytes - self.bytes / 10, sessions: self.sessions - self.sessions.div_ceil(10) }
    }

    /// What established sessions of unverified callers may fill: half of that, since a stolen or invented address
    /// costs less than a credential.
    pub(super) fn for_unverified(&self) -> Room {
        let established = self.for_established();
        Room { bytes: established.bytes / 2, sessions: established.sessions / 2 }
    }
}

/// A share of the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Room {
    pub(super) bytes: usize,
    pub(super) sessions: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newcomers_keep_a_tenth_and_verified_callers_half_of_the_rest() {
        let limits = Limits { sessions: 100, ..Limits::within(1000) };
        assert_eq!(limits.for_established(), Room { bytes: 900, sessions: 90 });
        assert_eq!(limits.for_unverified(), Room { bytes: 450, sessions: 45 });
    }

    #[test]
    fn one_session_never_fills_more_than_the_newcomers_tenth() {
        let limits = Limits { session_bytes: 1000, ..Limits::within(1000) };
        assert_eq!(limits.per_session(), 100);
    }
}

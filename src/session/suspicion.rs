//! How often did this session come too near its own past? A count that rises with suspect rows and falls with time.

use std::time::Duration;
use tokio::time::Instant;

/// The count of one session. It outlives the anchors: forgetting images must not forgive the search for them.
#[derive(Debug)]
pub(super) struct Suspicion {
    count: u32,
    /// Since when the present count stands; whole periods of decay are taken off it as they pass.
    since: Instant,
}

impl Suspicion {
    pub(super) fn new(now: Instant) -> Self {
        Self { count: 0, since: now }
    }

    /// Takes off one for each `every` that has passed. A part of a period is kept, so looking often changes nothing.
    pub(super) fn decay(&mut self, every: Duration, now: Instant) {
        if self.count == 0 || every.is_zero() {
            self.count = 0;
            self.since = now;
            return;
        }
        let passed = now.saturating_duration_since(self.since).as_nanos() / every.as_nanos();
        let fallen = u32::try_from(passed).unwrap_or(u32::MAX);
        if fallen >= self.count {
            *self = Self::new(now);
        } else {
            self.count -= fallen;
            self.since += every * fallen;
        }
    }

    /// Counts one suspect row, whatever became of it; the count stops at `most`, or at one where none is forwarded, so a
    /// long attack is not punished for ever.
    pub(super) fn count(&mut self, most: u32) {
        self.count = (self.count + 1).min(most.max(1));
    }

    /// Whether the next suspect row is ruled as a suspected session's. With `most` = 0 it is from the first one on.
    pub(super) fn suspected(&self, most: u32) -> bool {
        self.count >= most
    }

    /// Until when the session is suspected if nothing more is counted; nothing where it is not, or has not had a suspect row
    /// yet. The count goes no higher than suspicion needs, so the first period that passes ends it.
    pub(super) fn suspected_until(&self, most: u32, every: Duration) -> Option<Instant> {
        (self.count >= most.max(1)).then(|| self.since + every.min(FOR_EVER))
    }
}

/// Longer than any process lives, and a time that every clock can count to.
const FOR_EVER: Duration = Duration::from_hours(100 * 365 * 24);

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    #[tokio::test(start_paused = true)]
    async fn the_count_stops_at_the_limit_and_falls_by_one_a_period() {
        let mut suspicion = Suspicion::new(Instant::now());
        for _ in 0..20 {
            suspicion.count(8);
        }
        assert!(suspicion.suspected(8));
        tokio::time::advance((3 * HOUR).saturating_sub(Duration::from_secs(1))).await;
        suspicion.decay(3 * HOUR, Instant::now());
        assert!(suspicion.suspected(8), "one period has not passed yet");
        tokio::time::advance(Duration::from_secs(1)).await;
        suspicion.decay(3 * HOUR, Instant::now());
        assert_eq!(suspicion.count, 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_suspicion_ends_when_decay_would_end_it_whether_or_not_anybody_looks() {
        let mut suspicion = Suspicion::new(Instant::now());
        let began = Instant::now();
        tokio::time::advance(HOUR).await;
        for _ in 0..7 {
            suspicion.count(8);
        }
        assert_eq!(suspicion.suspected_until(8, 3 * HOUR), None);
        suspicion.count(8);
        assert_eq!(suspicion.suspected_until(8, 3 * HOUR), Some(began + 3 * HOUR));
        tokio::time::advance(2 * HOUR).await;
        suspicion.decay(3 * HOUR, Instant::now());
        assert_eq!(suspicion.suspected_until(8, 3 * HOUR), None);
        suspicion.count(8);
        assert_eq!(suspicion.suspected_until(8, 3 * HOUR), Some(began + 6 * HOUR));
        assert_eq!(suspicion.suspected_until(8, Duration::MAX), Some(began + 3 * HOUR + FOR_EVER));
    }

    #[tokio::test(start_paused = true)]
    async fn where_no_suspect_is_forwarded_a_session_is_suspected_from_its_first_one_on() {
        let mut suspicion = Suspicion::new(Instant::now());
        assert!(suspicion.suspected(0), "the first suspect row is ruled as a suspected session's");
        assert_eq!(suspicion.suspected_until(0, HOUR), None, "and nobody is suspected before it");
        for _ in 0..3 {
            suspicion.count(0);
        }
        assert_eq!(suspicion.suspected_until(0, HOUR), Some(Instant::now() + HOUR));
        tokio::time::advance(HOUR).await;
        suspicion.decay(HOUR, Instant::now());
        assert_eq!(suspicion.suspected_until(0, HOUR), None);
        assert!(suspicion.suspected(0));
    }

    #[tokio::test(start_paused = true)]
    async fn looking_often_neither_hastens_nor_delays_the_fall() {
        let mut suspicion = Suspicion::new(Instant::now());
        suspicion.count(8);
        suspicion.count(8);
        for _ in 0..35 {
            tokio::time::advance(HOUR / 10).await;
            suspicion.decay(3 * HOUR, Instant::now());
        }
        assert_eq!(suspicion.count, 1);
        tokio::time::advance(3 * HOUR).await;
        suspicion.decay(3 * HOUR, Instant::now());
        assert_eq!(suspicion.count, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_silence_forgives_all_and_the_next_count_starts_a_fresh_period() {
        let mut suspicion = Suspicion::new(Instant::now());
        suspicion.count(8);
        tokio::time::advance(1000 * HOUR).await;
        suspicion.decay(3 * HOUR, Instant::now());
        suspicion.count(8);
        tokio::time::advance(2 * HOUR).await;
        suspicion.decay(3 * HOUR, Instant::now());
        assert_eq!(suspicion.count, 1);
    }
}

//! What one way is asked next: new pictures in turn, and between them near-copies of those that were answered a while ago.

use bytes::Bytes;

use crate::pictures::{Lots, Payload};

/// What is asked next.
pub(crate) struct Asking {
    /// Pictures begun so far, over all cells.
    pub(crate) next: usize,
    /// The first of which copies are asked.
    pub(crate) from: usize,
    lots: Lots,
    pub(crate) copies: usize,
    pub(crate) failed: usize,
    pub(crate) said: Option<String>,
}

impl Asking {
    /// Goes on where an earlier cell ended.
    pub(crate) fn from(next: usize, seed: u64) -> Self {
        Self { next, from: next, lots: Lots(seed ^ next as u64), copies: 0, failed: 0, said: None }
    }

    /// The next request, and who asks it: a new picture, or a copy of one that was answered a while ago.
    pub(crate) fn next(
        &mut self,
        payload: &Payload,
        requests: &[Bytes],
        copies: f64,
        lag: usize,
    ) -> (Bytes, String) {
        let lot = self.lots.next();
        let oldest = self.from.max(self.next.saturating_sub(lag + 32));
        let behind = self.next.saturating_sub(lag);
        let is_copy = (lot >> 11) as f64 / (1_u64 << 53) as f64 >= 1.0 - copies && behind > oldest;
        if is_copy {
            self.copies += 1;
            let at = oldest + (self.lots.next() % (behind - oldest) as u64) as usize;
            let copy = payload.near_copy(&requests[at % requests.len()], self.lots.next());
            return (copy, caller(payload, at, requests.len()));
        }
        let at = self.next;
        self.next += 1;
        (requests[at % requests.len()].clone(), caller(payload, at, requests.len()))
    }
}

/// One caller asks all; of few pictures each pass is another's, who has not seen them.
fn caller(payload: &Payload, at: usize, pool: usize) -> String {
    if payload.outlives_a_session() { "caller".to_owned() } else { format!("caller-{}", at / pool) }
}

//! Whether calls should be sent here, and if not, why: what `/readyz`, `grpc.health.v1` and the page of metrics say.

use std::net::SocketAddr;

use tokio::sync::watch;

/// What is known, and who is told when it changes.
pub(super) struct Readiness {
    known: watch::Sender<Known>,
    /// Somebody tries whether the model server can be reached past us.
    tried: bool,
    /// That keeps us from being ready.
    strict: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    upstream: bool,
    /// How often the model server came up.
    ups: u64,
    exposure: Exposure,
    leaving: bool,
}

/// Whether the model server answers where it must not.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Exposure {
    /// It was not tried since the model server came up.
    Untried,
    /// Nothing answered; also where nobody looks.
    None,
    /// These answered.
    At(Vec<SocketAddr>),
}

impl Readiness {
    /// Not ready until the model server is, and, where it is `tried` whether it can be reached past us, not before that is known;
    /// `strict` as in the field.
    pub(super) fn new(tried: bool, strict: bool) -> Self {
        let exposure = if tried { Exposure::Untried } else { Exposure::None };
        let known = Known { upstream: false, ups: 0, exposure, leaving: false };
        Self { known: watch::Sender::new(known), tried, strict }
    }

    /// The model server says that it is ready, or that it is not. One that came up may have bound its ports only now, so it is
    /// not known any more that they are closed to others.
    pub(super) fn upstream_is(&self, ready: bool) {
        self.change(|known| {
            if ready && !known.upstream {
                known.ups += 1;
                if self.tried && known.exposure == Exposure::None {
                    known.exposure = Exposure::Untried;
                }
            }
            known.upstream = ready;
        });
    }

    /// Whether the model server is ready.
    pub(super) fn upstream_ready(&self) -> bool {
        self.known.borrow().upstream
    }

    /// How often the model server came up; what a try finds is true of that time.
    pub(super) fn ups(&self) -> u64 {
        self.known.borrow().ups
    }

    /// Whether its ports should be tried now.
    pub(super) fn untried(&self) -> bool {
        self.known.borrow().exposure == Exposure::Untried
    }

    /// A try that began when the model server had come up `ups` times found it at `places`.
    pub(super) fn found_at(&self, ups: u64, places: Vec<SocketAddr>) {
        self.change(|known| {
            if !places.is_empty() {
                known.exposure = Exposure::At(places);
            } else if known.ups == ups {
                known.exposure = Exposure::None;
            } else {
                known.exposure = Exposure::Untried;
            }
        });
    }

    /// Whether the model server was reached past us.
    pub(super) fn upstream_exposed(&self) -> bool {
        matches!(self.known.borrow().exposure, Exposure::At(_))
    }

    /// The pod is about to end: calls should go elsewhere from now on.
    pub(super) fn leave(&self) {
        self.change(|known| known.leaving = true);
    }

    /// Why calls should not be sent here, a line each; none where they should.
    pub(super) fn reasons(&self) -> Vec<String> {
        let known = self.known.borrow().clone();
        let mut reasons = Vec::new();
        if known.leaving {
            reasons.push("draining: told to leave".to_owned());
        }
        if !known.upstream {
            reasons.push("upstream: the model server is not ready".to_owned());
        }
        match known.exposure {
            Exposure::Untried if self.strict => {
                reasons.push(
                    "bypass: whether the model server can be reached past us is not known yet".to_owned(),
                );
            }
            Exposure::At(places) if self.strict => {
                let places: Vec<String> = places.iter().map(ToString::to_string).collect();
                reasons.push(format!(
                    "bypass: the model server can be reached past us at {}",
                    places.join(", ")
                ));
            }
            _ => {}
        }
        reasons
    }

    /// Resolves whenever something became known; the first time at once.
    pub(super) fn changes(&self) -> Changes {
        let mut changes = self.known.subscribe();
        changes.mark_changed();
        Changes(changes)
    }

    fn change(&self, change: impl FnOnce(&mut Known)) {
        self.known.send_if_modified(|known| {
            let before = known.clone();
            change(known);
            *known != before
        });
    }
}

/// News of readiness.
pub(super) struct Changes(watch::Receiver<Known>);

impl Changes {
    /// Waits for the next; for ever where there will be none.
    pub(super) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

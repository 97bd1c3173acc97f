//! A pacer that holds until it is told.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use refrain::timing::Pacer;
use tokio::sync::watch;
use tokio::time::Instant;

/// Holds every call until `release`, whatever its moment, and counts those that it holds.
#[derive(Clone)]
pub(crate) struct Gate {
    open: Arc<watch::Sender<bool>>,
    waiting: Arc<watch::Sender<usize>>,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self { open: Arc::new(watch::Sender::new(false)), waiting: Arc::new(watch::Sender::new(0)) }
    }

    /// Lets go of those that are held, and holds nobody from then on.
    pub(crate) fn release(&self) {
        self.open.send_replace(true);
    }

    /// Calls held at this moment.
    pub(crate) fn held(&self) -> usize {
        *self.waiting.borrow()
    }

    /// Returns once `calls` are held.
    pub(crate) async fn until_held(&self, calls: usize) {
        let mut waiting = self.waiting.subscribe();
        let reached = waiting.wait_for(|waiting| *waiting == calls);
        super::within("calls are held", reached).await.expect("the gate lives as long as the test");
    }
}

struct Waiting(Arc<watch::Sender<usize>>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting -= 1);
    }
}

impl Pacer for Gate {
    fn until(&self, _: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.waiting.send_modify(|waiting| *waiting += 1);
        let (waiting, mut open) = (Waiting(Arc::clone(&self.waiting)), self.open.subscribe());
        Box::pin(async move {
            let _waiting = waiting;
            let _ = open.wait_for(|open| *open).await;
        })
    }
}

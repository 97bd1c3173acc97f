//! No way round: the model server must not answer on the pod's own address. We dial it there as a stranger in the cluster would, at
//! the start, whenever the model server comes up, and every minute.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::net::TcpStream;

use super::readiness::Readiness;

/// How often the ports are tried.
const EVERY: Duration = Duration::from_mins(1);

/// A port that did not accept within this time does not answer: the way there stays inside the pod.
const WITHIN: Duration = Duration::from_secs(1);

/// Tries `targets` for ever and tells `readiness` what `dial` reached.
pub(super) async fn watch<D, F>(targets: Vec<SocketAddr>, readiness: Arc<Readiness>, dial: D)
where
    D: Fn(SocketAddr) -> F,
    F: Future<Output = io::Result<bool>>,
{
    if targets.is_empty() {
        return;
    }
    let mut changes = readiness.changes();
    let mut told = Vec::new();
    loop {
        let ups = readiness.ups();
        let found = join_all(targets.iter().map(|target| reached(&dial, *target))).await;
        let places: Vec<SocketAddr> = found.into_iter().flatten().collect();
        if places != told {
            tell(&places);
            told.clone_from(&places);
        }
        readiness.found_at(ups, places);
        let came_up = async {
            while !readiness.untried() {
                changes.next().await;
            }
        };
        let _ = tokio::time::timeout(EVERY, came_up).await;
    }
}

/// Whether something accepts a connection at `address`.
pub(super) async fn dial(address: SocketAddr) -> io::Result<bool> {
    let stream = TcpStream::connect(address).await?;
    // A dial from a port to that very port connects to itself, and nobody is there.
    Ok(stream.local_addr()? != address)
}

async fn reached<D, F>(dial: &D, target: SocketAddr) -> Option<SocketAddr>
where
    D: Fn(SocketAddr) -> F,
    F: Future<Output = io::Result<bool>>,
{
    match tokio::time::timeout(WITHIN, dial(target)).await {
        Ok(Ok(true)) => Some(target),
        Ok(Err(error)) if error.kind() != io::ErrorKind::ConnectionRefused => {
            tracing::warn!(%target, %error, "cannot tell whether the model server can be reached past us");
            None
        }
        _ => None,
    }
}

fn tell(places: &[SocketAddr]) {
    if places.is_empty() {
        tracing::info!("the model server can no longer be reached past us");
    } else {
        tracing::error!(
            ?places,
            "the model server can be reached past us: bind it to 127.0.0.1 or a UNIX socket (its --grpc-address and \
             --http-address), or close these ports"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::task::JoinHandle;
    use tokio::time::Instant;

    use super::*;

    /// A pod whose ports answer when a test says so, under a clock that stands still.
    struct Pod {
        readiness: Arc<Readiness>,
        open: Arc<Mutex<Vec<u16>>>,
        dialled: Arc<Mutex<Vec<(Duration, u16)>>>,
        watching: JoinHandle<()>,
    }

    impl Pod {
        fn new(strict: bool, ports: &[u16]) -> Self {
            let readiness = Arc::new(Readiness::new(true, strict));
            let (open, dialled): (Arc<Mutex<Vec<u16>>>, Arc<Mutex<Vec<_>>>) = Default::default();
            let targets = ports.iter().map(|port| SocketAddr::from(([10, 0, 0, 1], *port))).collect();
            let start = Instant::now();
            let (door, book) = (Arc::clone(&open), Arc::clone(&dialled));
            let dial = move |target: SocketAddr| {
                book.lock().unwrap().push((start.elapsed(), target.port()));
                let answers = door.lock().unwrap().contains(&target.port());
                async move { if answers { Ok(true) } else { Err(io::ErrorKind::ConnectionRefused.into()) } }
            };
            let watching = tokio::spawn(watch(targets, Arc::clone(&readiness), dial));
            Self { readiness, open, dialled, watching }
        }

        async fn after(&self, seconds: u64) {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            // Everything else that is due runs before the test goes on.
            tokio::task::yield_now().await;
        }

        fn reasons(&self) -> String {
            self.readiness.reasons().join("\n")
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_port_is_tried_at_the_start_and_every_minute() {
        let pod = Pod::new(true, &[1, 2]);
        pod.after(121).await;
        let times: Vec<(u64, u16)> =
            pod.dialled.lock().unwrap().iter().map(|(at, port)| (at.as_secs(), *port)).collect();
        assert_eq!(times, [(0, 1), (0, 2), (60, 1), (60, 2), (120, 1), (120, 2)]);
        assert!(!pod.readiness.upstream_exposed());
        pod.watching.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_model_server_that_comes_up_exposed_is_never_ready() {
        let pod = Pod::new(true, &[1, 2]);
        pod.after(5).await;
        assert!(!pod.reasons().contains("bypass"), "nothing answers yet: {}", pod.reasons());
        pod.open.lock().unwrap().push(2);
        pod.readiness.upstream_is(true);
        pod.after(1).await;
        assert_eq!(pod.reasons(), "bypass: the model server can be reached past us at 10.0.0.1:2");
        assert!(pod.readiness.upstream_exposed());
        pod.open.lock().unwrap().clear();
        pod.after(60).await;
        assert_eq!(pod.reasons(), "", "ready once it is closed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_warning_does_not_keep_us_from_being_ready() {
        let pod = Pod::new(false, &[1]);
        pod.open.lock().unwrap().push(1);
        pod.readiness.upstream_is(true);
        pod.after(1).await;
        assert!(pod.readiness.upstream_exposed() && pod.reasons().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_that_swallows_the_dial_does_not_answer() {
        let readiness = Arc::new(Readiness::new(true, true));
        let targets = vec![SocketAddr::from(([10, 0, 0, 1], 1))];
        readiness.upstream_is(true);
        let watching = tokio::spawn(watch(targets, Arc::clone(&readiness), |_| std::future::pending()));
        tokio::task::yield_now().await;
        assert!(readiness.reasons().join("").contains("not known yet"), "{:?}", readiness.reasons());
        tokio::time::sleep(WITHIN + Duration::from_millis(1)).await;
        assert_eq!(readiness.reasons(), [""; 0]);
        watching.abort();
    }
}

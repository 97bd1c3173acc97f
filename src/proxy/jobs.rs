//! Long work: off the async threads, and as much at once as there are processors.
//!
//! A connection's thread serves others' connections too, and must not be kept from them for longer than a hand-over takes; and
//! work that gets more threads than there are processors keeps those of the connections from running.

use std::sync::LazyLock;

use tokio::sync::Semaphore;

/// One place for each processor, of the whole process.
static PLACES: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from)));

/// Does `work` on a thread of its own, in its turn. A panic in it is the caller's.
pub(super) async fn job<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let place = PLACES.acquire().await.expect("the semaphore is never closed");
    let done = tokio::task::spawn_blocking(move || {
        let _place = place;
        work()
    });
    match done.await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Barrier};
    use std::time::Duration;

    /// Jobs go on by as many together as there are places, so fewer than that never run; and each waits a while for one too many.
    #[tokio::test]
    async fn no_more_jobs_run_at_once_than_there_are_processors() {
        let places = std::thread::available_parallelism().unwrap().get();
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let together = Arc::new(Barrier::new(places));
        let jobs: Vec<_> = (0..2 * places)
            .map(|_| {
                let (running, most) = (Arc::clone(&running), Arc::clone(&most));
                let together = Arc::clone(&together);
                tokio::spawn(job(move || {
                    most.fetch_max(1 + running.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
                    together.wait();
                    let (_never, waits) = std::sync::mpsc::channel::<()>();
                    let _ = waits.recv_timeout(Duration::from_millis(200));
                    running.fetch_sub(1, Ordering::SeqCst);
                }))
            })
            .collect();
        for job in jobs {
            job.await.unwrap();
        }
        assert_eq!(most.load(Ordering::SeqCst), places);
    }

    #[tokio::test]
    async fn a_panic_is_passed_on_and_gives_its_place_back() {
        for _ in 0..2 * std::thread::available_parallelism().unwrap().get() {
            let panicked: Result<(), _> = tokio::spawn(job(|| panic!("on purpose"))).await;
            assert!(panicked.unwrap_err().is_panic());
        }
        assert_eq!(job(|| 7).await, 7);
    }
}

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
    use std::sync::{Arc, Mutex};

    #[tokio::test]
    async fn no_more_jobs_run_at_once_than_there_are_processors() {
        let processors = std::thread::available_parallelism().unwrap().get();
        let (tell, told) = std::sync::mpsc::channel();
        let (go, gone) = std::sync::mpsc::channel();
        let gone = Arc::new(Mutex::new(gone));
        let jobs: Vec<_> = (0..2 * processors)
            .map(|_| {
                let (tell, gone) = (tell.clone(), Arc::clone(&gone));
                tokio::spawn(job(move || {
                    tell.send(()).unwrap();
                    gone.lock().unwrap().recv().unwrap();
                }))
            })
            .collect();
        let begun = tokio::task::spawn_blocking(move || {
            for _ in 0..processors {
                told.recv().unwrap();
            }
            told
        });
        let told = begun.await.unwrap();
        tokio::task::yield_now().await;
        assert!(told.try_recv().is_err(), "the others wait for a place");
        for _ in 0..2 * processors {
            go.send(()).unwrap();
        }
        for job in jobs {
            job.await.unwrap();
        }
        assert_eq!(told.try_iter().count(), processors);
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

//! The threads that serve connections, a runtime on each: a call stays on the thread that its connection came to.
//!
//! A call wakes four tasks on its way: the caller's connection, the call, the model server's connection and the call again.
//! Where one runtime has several threads each of these may be woken on another one, and waking a thread that sleeps costs more
//! than what the tasks do. So every thread has a runtime of its own, its own connections to the model server and its share of
//! the callers' connections. One connection has one thread at most; long work leaves it (`read.rs`).

use std::io;
use tokio::runtime::{self, Handle};
use tokio::sync::oneshot;

use super::count::{Count, Counted};

/// Threads at most, however many processors there are: each has a connection to the model server of its own.
const MOST: usize = 8;

/// Where connections are served.
pub struct Workers {
    workers: Vec<Worker>,
}

struct Worker {
    runtime: Handle,
    /// Connections that it serves.
    seats: Count,
    /// Ends the thread when dropped; none for a runtime that is not ours.
    _until: Option<oneshot::Sender<()>>,
}

impl Workers {
    /// The runtime that this is called on serves every connection.
    pub fn here() -> Self {
        Self { workers: vec![Worker::of(Handle::current(), None)] }
    }

    /// One thread for each processor that we may use, eight at most. They end when this is dropped.
    pub fn start() -> io::Result<Self> {
        let count = std::thread::available_parallelism().map_or(1, usize::from).min(MOST);
        let workers = (0..count).map(|number| Worker::start(&format!("refrain-worker-{number}")));
        Ok(Self { workers: workers.collect::<Result<_, _>>()? })
    }

    /// Their runtimes.
    pub(super) fn runtimes(&self) -> impl Iterator<Item = &Handle> {
        self.workers.iter().map(|worker| &worker.runtime)
    }

    /// The one with the fewest connections, and a connection's place on it, until dropped.
    pub(super) fn seat(&self) -> (&Handle, Counted) {
        let seats = |worker: &&Worker| worker.seats.now();
        let worker = self.workers.iter().min_by_key(seats).expect("there is at least one processor");
        (&worker.runtime, worker.seats.one())
    }
}

impl Worker {
    fn of(runtime: Handle, until: Option<oneshot::Sender<()>>) -> Self {
        Self { runtime, seats: Count::default(), _until: until }
    }

    fn start(name: &str) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (until, ended) = oneshot::channel::<()>();
        std::thread::Builder::new().name(name.into()).spawn(move || {
            // It is never sent: its end is that the sender is dropped.
            let _ = runtime.block_on(ended);
            runtime.shutdown_background();
        })?;
        Ok(Self::of(handle, Some(until)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[tokio::test]
    async fn connections_are_spread_evenly_and_each_stays_on_its_thread() {
        let workers = Workers { workers: vec![Worker::start("a").unwrap(), Worker::start("b").unwrap()] };
        let mut threads = HashMap::new();
        let mut seats = Vec::new();
        for _ in 0..6 {
            let (runtime, seat) = workers.seat();
            let thread = runtime.spawn(async {
                let before = std::thread::current().id();
                tokio::task::yield_now().await;
                assert_eq!(std::thread::current().id(), before);
                before
            });
            seats.push(seat);
            *threads.entry(thread.await.unwrap()).or_insert(0) += 1;
        }
        assert_eq!(threads.values().collect::<Vec<_>>(), [&3, &3]);
        // Who loses its connections gets the next.
        let second = workers.workers[1].runtime.id();
        seats.remove(1);
        assert_eq!(workers.seat().0.id(), second);
    }

    #[tokio::test]
    async fn the_threads_end_with_the_workers() {
        let workers = Workers { workers: vec![Worker::start("c").unwrap()] };
        let task = workers.workers[0].runtime.spawn(std::future::pending::<()>());
        drop(workers);
        assert!(task.await.is_err_and(|error| error.is_cancelled()));
    }
}

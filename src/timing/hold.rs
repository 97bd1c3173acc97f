//! Wait for a moment: on tokio's clock, or to within some tens of microseconds.
//!
//! tokio's timer wheel turns in milliseconds and is 0.2 to 1.7 ms late; that systematic lateness would itself tell a held
//! answer from a forwarded one. [`FinePacer`] waits on a thread of its own instead, and takes off the lateness
//! that it measures.

use super::Pacer;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Waits on tokio's own timer: for tests, which stop that clock, and where a millisecond does not matter.
#[derive(Clone, Copy, Default, Debug)]
pub struct ClockPacer;

impl Pacer for ClockPacer {
    fn until(&self, moment: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(tokio::time::sleep_until(moment))
    }
}

/// Waits on one dedicated thread, asleep until the next moment due; no core is burnt.
///
/// The thread wakes early by a running estimate of how late waits have ended lately (the median, measured where it
/// counts: at the resumption of the task that waited), so that waits end about as often early as late. The estimate is
/// kept within 0..=2 ms; a wait never ends earlier than that. On a paused clock use [`ClockPacer`].
pub struct FinePacer {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    /// Signals that the earliest moment changed, or that the pacer was dropped.
    changed: Condvar,
    bias: Bias,
}

#[derive(Default)]
struct Queue {
    /// Who waits, earliest first. A tree and not a heap, because a wait that is dropped must leave at once, wherever it stands.
    waits: BTreeMap<(Instant, u64), oneshot::Sender<()>>,
    /// Tells waits for the same moment apart.
    next: u64,
    closed: bool,
}

impl FinePacer {
    /// Starts the thread, which ends when the pacer is dropped. Fails where the system has no thread to give.
    pub fn new() -> std::io::Result<Self> {
        let shared =
            Arc::new(Shared { queue: Mutex::default(), changed: Condvar::new(), bias: Bias::default() });
        let thread = shared.clone();
        std::thread::Builder::new().name("refrain-pacer".into()).spawn(move || thread.run())?;
        Ok(Self { shared })
    }

    /// How late waits end at present if nothing were taken off: the running estimate.
    pub fn bias(&self) -> Duration {
        self.shared.bias.get()
    }

    /// How many waits are pending.
    pub fn pending(&self) -> usize {
        self.shared.queue().waits.len()
    }
}

impl Drop for FinePacer {
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.changed.notify_one();
    }
}

impl Pacer for FinePacer {
    fn until(&self, moment: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let ahead = moment.saturating_duration_since(Instant::now());
        if ahead.is_zero() {
            return Box::pin(std::future::ready(()));
        }
        // A wait asked for so late that it cannot be woken in time says nothing of those that can.
        let teaches = ahead > self.shared.bias.get() + Bias::SHORT;
        let (sender, due) = oneshot::channel();
        let (key, first) = {
            let mut queue = self.shared.queue();
            let key = (moment, queue.next);
            queue.next += 1;
            queue.waits.insert(key, sender);
            (key, queue.waits.first_key_value().is_some_and(|(first, _)| *first == key))
        };
        if first {
            self.shared.changed.notify_one();
        }
        Box::pin(Wait { shared: self.shared.clone(), key, due, teaches, over: false, late: None })
    }
}

/// One wait; dropping it takes it out of the queue.
struct Wait {
    shared: Arc<Shared>,
    key: (Instant, u64),
    due: oneshot::Receiver<()>,
    /// Whether the moment at which it ends enters the running estimate.
    teaches: bool,
    /// The thread has taken it out of the queue already.
    over: bool,
    /// The rest of a wait whose pacer was dropped: on tokio's clock, since a hold must never end early.
    late: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Future for Wait {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let moment = self.key.0;
        if self.late.is_none() {
            match Pin::new(&mut self.due).poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => {
                    self.over = true;
                    if self.teaches {
                        self.shared.bias.learn(moment, Instant::now());
                    }
                    return Poll::Ready(());
                }
                Poll::Ready(Err(_pacer_dropped)) => {}
            }
        }
        let late = self.late.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(moment)));
        late.as_mut().poll(context)
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        // The thread may wake once for nothing; it need not be told.
        if !self.over {
            self.shared.queue().waits.remove(&self.key);
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: sleep until the next moment less the bias, wake who is due.
    fn run(&self) {
        let mut queue = self.queue();
        while !queue.closed {
            let Some(first) = queue.waits.first_entry() else {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let wake = first.key().0.checked_sub(self.bias.get()).unwrap_or(first.key().0);
            let rest = wake.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                // A waiter that is gone is no loss.
                let _ = first.remove().send(());
            } else {
                let woken = self.changed.wait_timeout(queue, rest);
                queue = woken.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        // Those who still wait learn that nobody will wake them.
        queue.waits.clear();
    }
}

/// The running median of lateness in nanoseconds: one step up for every wait that ended late, one down for every one
/// that ended early. The step is fixed, so a hiccup of milliseconds counts no more than any other.
#[derive(Default)]
struct Bias(AtomicU64);

impl Bias {
    /// Small against the lateness that is corrected (some 50..150 us), yet there within some dozens of waits.
    const STEP: u64 = 2_000;
    const MOST: u64 = 2_000_000;
    /// What the thread needs to hear of a wait.
    const SHORT: Duration = Duration::from_micros(100);

    fn get(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    fn learn(&self, moment: Instant, ended: Instant) {
        let step = |bias: u64| {
            let next = if ended > moment { bias + Self::STEP } else { bias.saturating_sub(Self::STEP) };
            Some(next.min(Self::MOST))
        };
        // The closure always gives a value, so there is no failure to look at.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    const MS: Duration = Duration::from_millis(1);

    fn poll(wait: &mut Pin<Box<dyn Future<Output = ()> + Send>>) -> Poll<()> {
        wait.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_pacer_ends_at_its_moment_on_a_paused_clock() {
        let start = Instant::now();
        ClockPacer.until(start + 7 * MS).await;
        assert_eq!(start.elapsed(), 7 * MS);
        ClockPacer.until(start).await;
        assert_eq!(start.elapsed(), 7 * MS, "a moment that has passed is not waited for");
    }

    #[tokio::test]
    async fn a_wait_never_ends_earlier_than_the_most_that_is_taken_off() {
        let pacer = FinePacer::new().unwrap();
        for _ in 0..20 {
            let moment = Instant::now() + 3 * MS;
            pacer.until(moment).await;
            assert!(Instant::now() + Duration::from_nanos(Bias::MOST) >= moment);
        }
    }

    #[test]
    fn waits_are_woken_in_the_order_of_their_moments_whatever_the_order_of_asking() {
        struct Note(u32, Arc<Mutex<Vec<u32>>>);
        impl std::task::Wake for Note {
            fn wake(self: Arc<Self>) {
                self.1.lock().unwrap().push(self.0);
            }
        }
        let pacer = FinePacer::new().unwrap();
        let start = Instant::now() + 10 * MS;
        let woken = Arc::new(Mutex::new(Vec::new()));
        let mut waits = [4, 1, 3, 2].map(|ms| (ms, pacer.until(start + ms * MS)));
        for (ms, wait) in &mut waits {
            let waker = Waker::from(Arc::new(Note(*ms, woken.clone())));
            assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        while woken.lock().unwrap().len() < 4 {
            std::thread::yield_now();
        }
        assert_eq!(*woken.lock().unwrap(), [1, 2, 3, 4]);
        assert!(waits.iter_mut().all(|(_, wait)| poll(wait).is_ready()));
        assert_eq!(pacer.pending(), 0);
    }

    #[test]
    fn a_moment_that_has_passed_is_ready_at_once() {
        let pacer = FinePacer::new().unwrap();
        assert!(poll(&mut pacer.until(Instant::now())).is_ready());
        assert_eq!(pacer.pending(), 0);
    }

    #[test]
    fn a_dropped_wait_leaves_the_queue_at_once() {
        let pacer = FinePacer::new().unwrap();
        let later = Instant::now() + Duration::from_hours(1);
        let waits: Vec<_> = (0..100).map(|_| pacer.until(later)).collect();
        assert_eq!(pacer.pending(), 100);
        drop(waits);
        assert_eq!(pacer.pending(), 0);
    }

    #[test]
    fn a_pacer_that_is_dropped_ends_its_thread() {
        let pacer = FinePacer::new().unwrap();
        let shared = Arc::downgrade(&pacer.shared);
        let wait = pacer.until(Instant::now() + Duration::from_hours(1));
        drop(pacer);
        // The thread lets go of the waits and then of what it shares; until then, look again.
        while shared.strong_count() > 1 {
            std::thread::yield_now();
        }
        drop(wait);
        assert_eq!(shared.strong_count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_outlives_its_pacer_and_still_ends_no_earlier_than_it_should() {
        let pacer = FinePacer::new().unwrap();
        let start = Instant::now();
        let wait = pacer.until(start + Duration::from_hours(1));
        drop(pacer);
        wait.await;
        assert_eq!(start.elapsed(), Duration::from_hours(1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_bias_follows_the_median_and_stays_within_its_bounds() {
        let bias = Bias::default();
        let moment = Instant::now() + Duration::from_secs(1);
        bias.learn(moment, moment - MS);
        assert_eq!(bias.get(), Duration::ZERO);
        // Waits end 100 us late before correction; every tenth is caught in a hiccup of 50 ms.
        for i in 0..1000 {
            let late = if i % 10 == 0 { 50 * MS } else { MS / 10 };
            bias.learn(moment, moment + late - bias.get());
        }
        assert!(bias.get().abs_diff(MS / 10) <= MS / 50, "{:?}", bias.get());
        for _ in 0..10_000 {
            bias.learn(moment, moment + MS);
        }
        assert_eq!(bias.get(), 2 * MS);
    }
}

//! How late held replies leave: [`FinePacer`] against tokio's own timer, with 1, 64, 1,000 and 10,000 that wait, idle and beside work on all cores.
//!
//! ```text
//! cargo bench --bench pacer                 the table; some two minutes
//! cargo bench --bench pacer -- --seconds 2  a shorter one
//! ```
//!
//! Each of those who wait sets a moment, waits for it, looks at the clock as the first thing after, and sets the next; moments are spread
//! so that about a thousand are due in a second, whoever waits for them (a hundred where one alone waits). `signed` is how much later than
//! its moment a wait ended, below nought where it was earlier; `off` is the same without its sign. CPU is the pacer's thread's own, and the
//! whole process's where nothing else runs in it, as shares of one core. Results: `README.md`.

#![allow(clippy::unwrap_used, reason = "a bench that cannot be set up has nothing to measure")]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use refrain::timing::{ClockPacer, FinePacer, Pacer, uniform};
use tokio::time::Instant;

/// Waits that are not counted: the pacer learns how late it is.
const WARM_UP: Duration = Duration::from_secs(2);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let seconds = arguments.iter().position(|argument| argument == "--seconds");
    let seconds = seconds.map_or(6, |at| arguments[at + 1].parse().unwrap());
    let cores = std::thread::available_parallelism().unwrap().get();
    println!("{cores} cores; {seconds} s each; lateness in us");
    println!(
        "| pacer | waiting | beside | waits | signed p1 | p50 | p99 | off p50 | p99 | pacer's CPU | all |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
    for busy in [false, true] {
        let work = Work::on(if busy { cores } else { 0 });
        for waiting in [1, 64, 1000, 10_000] {
            for fine in [true, false] {
                let pacer: Arc<dyn Pacer> =
                    if fine { Arc::new(FinePacer::new().unwrap()) } else { Arc::new(ClockPacer) };
                let measured = runtime.block_on(measure(pacer, waiting, Duration::from_secs(seconds)));
                measured.print(if fine { "fine" } else { "tokio" }, waiting, busy);
            }
        }
        drop(work);
    }
}

/// Threads that compute until this is dropped.
struct Work(Arc<AtomicBool>, Vec<std::thread::JoinHandle<()>>);

impl Work {
    fn on(cores: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let compute = |_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut number = 1u64;
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..1000 {
                        number = black_box(number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
                    }
                }
            })
        };
        let threads = (0..cores).map(compute).collect();
        Self(stop, threads)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

struct Measured {
    /// Nanoseconds, ascending.
    late: Vec<i64>,
    pacer_cpu: f64,
    all_cpu: f64,
}

async fn measure(pacer: Arc<dyn Pacer>, waiting: u32, long: Duration) -> Measured {
    let apart = Duration::from_millis(u64::from(waiting).max(10));
    let (begins, ends) = (Instant::now() + WARM_UP, Instant::now() + WARM_UP + long);
    let waiter = |number: u32| {
        let pacer = Arc::clone(&pacer);
        async move {
            let (mut late, mut random) = (Vec::new(), u64::from(number) + 1);
            // The first waits are spread over all of the time that a wait takes, or with many waiters none would end for a while.
            let mut least = 0.0;
            loop {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let moment = Instant::now() + apart.mul_f64(least + uniform(random));
                if moment >= ends {
                    return late;
                }
                least = 0.5;
                pacer.until(moment).await;
                let now = Instant::now();
                let (after, before) =
                    (now.saturating_duration_since(moment), moment.saturating_duration_since(now));
                if moment >= begins {
                    late.push(after.as_nanos() as i64 - before.as_nanos() as i64);
                }
            }
        }
    };
    let waiters: Vec<_> = (0..waiting).map(|number| tokio::spawn(waiter(number))).collect();
    tokio::time::sleep_until(begins).await;
    let before = (cpu_of("refrain-pacer"), cpu_of(""));
    tokio::time::sleep_until(ends).await;
    let after = (cpu_of("refrain-pacer"), cpu_of(""));
    let mut late = Vec::new();
    for waiter in waiters {
        late.extend(waiter.await.unwrap());
    }
    late.sort_unstable();
    let share = |spent: Duration| spent.as_secs_f64() / long.as_secs_f64();
    Measured {
        late,
        pacer_cpu: share(after.0.saturating_sub(before.0)),
        all_cpu: share(after.1.saturating_sub(before.1)),
    }
}

/// What the threads of this process whose name begins with `name` have computed, by the scheduler's own count.
fn cpu_of(name: &str) -> Duration {
    let of = |task: std::fs::DirEntry| -> Option<u64> {
        let read = |what: &str| std::fs::read_to_string(task.path().join(what)).ok();
        read("comm")?.starts_with(name).then_some(())?;
        read("schedstat")?.split_whitespace().next()?.parse().ok()
    };
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    Duration::from_nanos(tasks.filter_map(|task| of(task.ok()?)).sum())
}

impl Measured {
    fn print(&self, pacer: &str, waiting: u32, busy: bool) {
        let mut off: Vec<i64> = self.late.iter().map(|late| late.abs()).collect();
        off.sort_unstable();
        let at = |sorted: &[i64], share: f64| {
            let place = (share * (sorted.len() - 1) as f64).round() as usize;
            format!("{:.0}", sorted[place] as f64 / 1000.0)
        };
        let all = if busy { String::new() } else { format!("{:.1} %", self.all_cpu * 100.0) };
        println!(
            "| {pacer} | {waiting} | {} | {} | {} | {} | {} | {} | {} | {} | {all} |",
            if busy { "work" } else { "nothing" },
            self.late.len(),
            at(&self.late, 0.01),
            at(&self.late, 0.5),
            at(&self.late, 0.99),
            at(&off, 0.5),
            at(&off, 0.99),
            if pacer == "fine" { format!("{:.1} %", self.pacer_cpu * 100.0) } else { String::new() },
        );
    }
}

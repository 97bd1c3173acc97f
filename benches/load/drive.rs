//! Carries out a plan: each cell asks the same of several ways, in turn, in short slices, so that what drifts on the machine hits all alike.
//!
//! The loop is closed: so many calls are under way, and one that ends begins the next. Every call's time is kept.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::asking::Asking;
use crate::dial::{Caller, metrics, sum};
use crate::pictures::Payload;
use crate::process::{cpu_seconds, own_cpu_seconds, resident};

/// What is to be done.
#[derive(Deserialize)]
struct Plan {
    /// By name.
    ways: BTreeMap<String, Way>,
    cells: Vec<Cell>,
    seed: u64,
    /// Counters that are read before and after each cell: a metric's name, and what its labels hold.
    watched: Vec<(String, String)>,
}

/// A way to the model.
#[derive(Deserialize)]
struct Way {
    /// `ip:port` or `unix:/path`.
    address: String,
    /// The processes that it is made of; none of a direct one.
    pids: Vec<u32>,
    /// Where its metrics are, if it has any.
    admin: Option<String>,
}

/// One combination that every way of it is measured under.
#[derive(Deserialize)]
struct Cell {
    name: String,
    payload: String,
    /// The model to ask, where it is not our own upstream's.
    model: Option<String>,
    /// So many pictures, in place of more than a session remembers.
    pool: Option<usize>,
    concurrency: usize,
    connections: usize,
    /// The share of near-copies.
    copies: f64,
    ways: Vec<String>,
    slice_ms: u64,
    /// So many calls for each slice, in place of so long.
    calls: Option<usize>,
    rounds: usize,
    /// Calls to each way before any is timed, the first time that this payload is asked of it.
    warm_up: usize,
}

/// What was seen of one way in one cell. Times are microseconds.
#[derive(Serialize)]
struct Seen<'a> {
    cell: &'a str,
    way: &'a str,
    calls: usize,
    failed: usize,
    seconds: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    most: f64,
    cpu_seconds: f64,
    generator_cpu_seconds: f64,
    resident: u64,
    /// Of each round: its median, and calls a second.
    rounds: Vec<(f64, f64)>,
    /// New pictures asked, and near-copies; those before the first that was timed included.
    new: usize,
    copies: usize,
    /// By how much each watched counter rose meanwhile; none of what has no metrics.
    counted: Option<Vec<f64>>,
    /// What was said instead of an answer, first of all.
    said: Option<String>,
}

/// How far one way has come through the pictures of one payload: Refrain remembers it, so it goes on from cell to cell.
#[derive(Default)]
struct Progress {
    next: usize,
    warm: bool,
}

/// The pictures at hand, and who asks for them.
struct Source {
    payload: Payload,
    requests: Rc<Vec<Bytes>>,
}

pub(crate) async fn all(plan: &Path) {
    let plan: Plan =
        serde_json::from_slice(&std::fs::read(plan).unwrap()).expect("a plan as `drive.rs` has it");
    let mut progress: HashMap<(String, String), Progress> = HashMap::new();
    let mut source: Option<(String, Source)> = None;
    for cell in &plan.cells {
        let mut payload = Payload::named(&cell.payload);
        if let Some(model) = &cell.model {
            payload.model.clone_from(model);
        }
        payload.pool = cell.pool.unwrap_or(payload.pool);
        let key = format!("{} {} of {}", payload.pool, cell.payload, payload.model);
        let source = match source.take() {
            Some((made, at_hand)) if made == key => source.insert((made, at_hand)),
            // The pictures at hand are gone by now: of the largest there are 830 MB.
            _ => {
                eprintln!("making {key}");
                let requests = Rc::new(payload.requests(plan.seed));
                source.insert((key.clone(), Source { payload, requests }))
            }
        };
        let source = &source.1;
        eprintln!("{}", cell.name);
        let mut sessions = Vec::new();
        for name in &cell.ways {
            let way = plan.ways.get(name).expect("a cell names ways of the plan");
            let progress = std::mem::take(progress.entry((name.clone(), key.clone())).or_default());
            sessions.push(Session::open(name, way, cell, source, &plan, progress).await);
        }
        for session in &mut sessions {
            session.warm_up().await;
        }
        for round in 0..cell.rounds {
            // Nobody always comes after the same other: what one leaves to be done would be another's cost.
            for turn in 0..sessions.len() {
                let way = (turn + round) % cell.ways.len();
                sessions[way].slice(Duration::from_millis(cell.slice_ms)).await;
            }
        }
        for session in sessions {
            let name = session.name.to_owned();
            let ended = session.tell();
            progress.insert((name, key.clone()), ended);
        }
    }
}

/// One way in one cell.
struct Session<'a> {
    name: &'a str,
    way: &'a Way,
    cell: &'a Cell,
    source: &'a Source,
    watched: &'a [(String, String)],
    callers: Vec<Caller>,
    asking: Rc<RefCell<Asking>>,
    is_warm: bool,
    /// Pictures begun before this cell.
    began: usize,
    before: Option<String>,
    rounds: Vec<(f64, f64)>,
    taken: Vec<f64>,
    seconds: f64,
    cpu: f64,
    generator_cpu: f64,
}

impl<'a> Session<'a> {
    async fn open(
        name: &'a str,
        way: &'a Way,
        cell: &'a Cell,
        source: &'a Source,
        plan: &'a Plan,
        progress: Progress,
    ) -> Self {
        let mut callers = Vec::new();
        for _ in 0..cell.connections {
            callers.push(Caller::connect(&way.address).await);
        }
        let asking = Asking::from(progress.next, plan.seed);
        Self {
            name,
            way,
            cell,
            source,
            watched: &plan.watched,
            callers,
            asking: Rc::new(RefCell::new(asking)),
            is_warm: progress.warm,
            began: progress.next,
            before: None,
            rounds: Vec::new(),
            taken: Vec::new(),
            seconds: 0.0,
            cpu: 0.0,
            generator_cpu: 0.0,
        }
    }

    /// A session is full after so many calls, and only then does a ruling cost what it costs in the long run.
    async fn warm_up(&mut self) {
        let calls = if self.is_warm { 20 * self.cell.concurrency } else { self.cell.warm_up };
        self.is_warm = true;
        self.before = self.way.admin.as_deref().map(metrics);
        let most = Instant::now() + Duration::from_mins(1);
        self.run(Until::Calls(calls, most), 0.0).await;
        let mut asking = self.asking.borrow_mut();
        asking.from = asking.from.max(asking.next.saturating_sub(64));
    }

    async fn slice(&mut self, length: Duration) {
        let (cpu, own, begin) = (cpu_seconds(&self.way.pids), own_cpu_seconds(), Instant::now());
        let until = match self.cell.calls {
            None => Until::Time(begin + length),
            Some(calls) => Until::Calls(calls, begin + Duration::from_mins(10)),
        };
        let mut taken = self.run(until, self.cell.copies).await;
        let seconds = begin.elapsed().as_secs_f64();
        self.cpu += cpu_seconds(&self.way.pids) - cpu;
        self.generator_cpu += own_cpu_seconds() - own;
        self.seconds += seconds;
        taken.sort_by(f64::total_cmp);
        self.rounds.push((at(&taken, 0.5), taken.len() as f64 / seconds));
        self.taken.append(&mut taken);
    }

    /// All callers at once; the times of their calls in microseconds.
    async fn run(&mut self, until: Until, copies: f64) -> Vec<f64> {
        let left = Rc::new(RefCell::new(match until {
            Until::Calls(calls, _) => calls,
            Until::Time(_) => usize::MAX,
        }));
        let end = match until {
            Until::Calls(_, end) | Until::Time(end) => end,
        };
        let lag = 2 * self.cell.concurrency + 8;
        let mut tasks = JoinSet::new();
        for place in 0..self.cell.concurrency {
            let callers: Vec<Caller> =
                self.callers.iter().skip(place).step_by(self.cell.concurrency).cloned().collect();
            // Of fewer connections than callers, each serves several.
            let spare = self.callers[place % self.callers.len()].clone();
            let mut callers = if callers.is_empty() { vec![spare] } else { callers };
            let (asking, left) = (Rc::clone(&self.asking), Rc::clone(&left));
            let (payload, requests) = (self.source.payload.clone(), Rc::clone(&self.source.requests));
            tasks.spawn_local(async move {
                let (mut taken, mut turn) = (Vec::new(), 0);
                while *left.borrow() > 0 && Instant::now() < end {
                    *left.borrow_mut() -= 1;
                    let (request, pass) = asking.borrow_mut().next(&payload, &requests, copies, lag);
                    let at = turn % callers.len();
                    turn += 1;
                    match callers[at].call(request, &pass).await {
                        Ok(took) => taken.push(took.as_secs_f64() * 1e6),
                        Err(said) => {
                            let mut asking = asking.borrow_mut();
                            asking.failed += 1;
                            asking.said.get_or_insert(said);
                            if asking.failed > 100 {
                                break;
                            }
                        }
                    }
                }
                taken
            });
        }
        let mut taken = Vec::new();
        while let Some(of_one) = tasks.join_next().await {
            taken.append(&mut of_one.unwrap());
        }
        taken
    }

    /// Prints what was seen; how far it came.
    fn tell(mut self) -> Progress {
        self.taken.sort_by(f64::total_cmp);
        let asking = self.asking.borrow();
        let after = self.way.admin.as_deref().map(metrics);
        let counted = self.before.as_ref().zip(after).map(|(before, after)| {
            let since =
                |(name, label): &(String, String)| sum(&after, name, label) - sum(before, name, label);
            self.watched.iter().map(since).collect()
        });
        let seen = Seen {
            cell: &self.cell.name,
            way: self.name,
            calls: self.taken.len(),
            failed: asking.failed,
            seconds: self.seconds,
            p50: at(&self.taken, 0.5),
            p90: at(&self.taken, 0.9),
            p99: at(&self.taken, 0.99),
            most: self.taken.last().copied().unwrap_or(f64::NAN),
            cpu_seconds: self.cpu,
            generator_cpu_seconds: self.generator_cpu,
            resident: resident(&self.way.pids),
            rounds: std::mem::take(&mut self.rounds),
            new: asking.next - self.began,
            copies: asking.copies,
            counted,
            said: asking.said.clone(),
        };
        println!("{}", serde_json::to_string(&seen).expect("numbers and words"));
        Progress { next: asking.next, warm: true }
    }
}

/// When callers stop.
enum Until {
    Time(Instant),
    /// After so many calls, or at a moment if that comes first.
    Calls(usize, Instant),
}

fn at(sorted: &[f64], share: f64) -> f64 {
    let place = (sorted.len() as f64 * share) as usize;
    sorted.get(place.min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

//! How time and memory grow: with the anchors that a row is judged against, with sessions, with the rows of a call.

use std::time::Duration;

use refrain::judgment::Likeness;
use refrain::session::{Limits, Store};
use serde_json::json;
use tokio::time::Instant;

use crate::past::{Expected, Past, likeness, near_copy, pixels};

/// Bytes of an answer: ten classes.
const SCORES: usize = 40;

/// Calls of which a point is made.
const TIMES: usize = 200;

pub(crate) fn all() {
    anchors();
    rows();
    sessions();
}

/// A row against a window of so many anchors: a new one, and a near-copy.
fn anchors() {
    let mut window = 1;
    while window <= 4096 {
        let limits = Limits {
            anchors_never_hit: window,
            anchors_hit: window,
            ghosts: 0,
            bytes: 1 << 30,
            session_bytes: 1 << 29,
            ..Limits::default()
        };
        let past = Past::new(limits, SCORES);
        let empty = past.store.stats().bytes;
        let first = past.fill(1, 0, window);
        let filled = past.store.stats();
        let copies: Vec<Likeness> =
            (0..TIMES).map(|turn| near_copy(&past.judge, (turn % window) as u64, turn)).collect();
        let new: Vec<Likeness> =
            (first..).take(TIMES).map(|seed| likeness(&past.judge, pixels(seed))).collect();
        let ask = |rows: Vec<Likeness>, expected| quartile(rows, |row| past.ask(1, vec![row], expected));
        println!(
            "{}",
            json!({
                "curve": "anchors", "x": window, "copy_ns": ask(copies, Expected::Replay), "new_ns": ask(new, Expected::Forward),
                "accounted": (filled.bytes - empty) as f64 / window as f64,
            })
        );
        window *= 2;
    }
}

/// A call of so many new rows against a full session.
fn rows() {
    let past = Past::new(Limits::default(), SCORES);
    let mut seed = past.fill(1, 128, 128 + 1024);
    for rows in [1, 2, 4, 8, 16, 32, 64, 128] {
        let calls: Vec<Vec<Likeness>> = (0..40)
            .map(|_| {
                seed += rows;
                (seed - rows..seed).map(|seed| likeness(&past.judge, pixels(seed))).collect()
            })
            .collect();
        let new_ns = quartile(calls, |rows| past.ask(1, rows, Expected::Forward));
        println!("{}", json!({ "curve": "rows", "x": rows, "new_ns": new_ns }));
    }
}

/// A known caller's picture again, in a store of so many sessions of one anchor each.
fn sessions() {
    // Each with a picture of his own: likenesses that are clones share memory.
    let limits = Limits { bytes: 16 << 30, sessions: 2_000_000, ..Limits::default() };
    let past = Past::new(limits, SCORES);
    let picture = |seed: u64| likeness(&past.judge, pixels(seed));
    let (before, empty) = (resident(), past.store.stats().bytes);
    let (mut callers, mut upto) = (0, 1);
    while upto <= 1_000_000 {
        while callers < upto {
            past.ask(callers, vec![picture(callers)], Expected::Forward);
            callers += 1;
        }
        let (after, held) = (resident(), past.store.stats());
        assert!(held.sessions as u64 == callers, "{held:?}");
        // Callers drawn from all, so that what is remembered of them is met cold.
        let known = (0..TIMES as u64).map(|turn| crate::pictures::mixed(turn) % callers);
        let known: Vec<(u64, Likeness)> = known.map(|caller| (caller, picture(caller))).collect();
        let known_ns = quartile(known, |(caller, row)| past.ask(caller, vec![row], Expected::Replay));
        // What an allocator had at hand from before hides the first ones.
        let resident = (callers >= 10_000).then(|| (after - before) / callers as f64);
        println!(
            "{}",
            json!({
                "curve": "sessions", "x": callers, "known_ns": known_ns,
                "accounted": (held.bytes - empty) as f64 / callers as f64, "resident": resident,
            })
        );
        upto *= 10;
    }
}

/// The lower quartile of the times of `once` on each of `asked`, in nanoseconds: what grows is seen in the calls that nothing disturbed.
fn quartile<T>(asked: Vec<T>, mut once: impl FnMut(T)) -> f64 {
    let time = |each| {
        let begin = Instant::now();
        once(each);
        begin.elapsed()
    };
    let mut taken: Vec<Duration> = asked.into_iter().map(time).collect();
    taken.sort();
    taken[taken.len() / 4].as_nanos() as f64
}

/// Bytes of this process in memory.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).unwrap() * 1024.0
}

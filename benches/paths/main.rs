//! The hot paths of a call one by one, in this process: instructions, times, growth.
//!
//! ```text
//! paths names              the paths that `count` takes in turn, one a line
//! paths count N            each path N times, for callgrind to count; every path begins with a call of `a_path_begins`
//! paths time               the median time of each, in nanoseconds, as JSON
//! paths growth             time and memory against anchors, sessions and rows, as JSON lines
//! ```
//!
//! `benches/run instructions` and `benches/run growth` start it; `benches/README.md` says what is measured.

#![allow(clippy::unwrap_used, reason = "a bench that cannot be set up has nothing to measure")]

use std::hint::black_box;

use tokio::time::Instant;

mod hot;
mod past;
mod growth;
#[path = "../load/pictures.rs"]
#[allow(dead_code, reason = "the load generator's, which makes more of them")]
mod pictures;

// The allocator of the program itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["names"] => hot::paths(1).iter().for_each(|path| println!("{}", path.name)),
        ["count", times] => count(times.parse().expect("a number of times")),
        ["time"] => time(),
        ["growth"] => growth::all(),
        _ => {
            eprintln!("expected `names`, `count N`, `time` or `growth`, found {words:?}");
            std::process::exit(2);
        }
    }
}

/// Each path so often. What callgrind counts after the first call of `a_path_begins` is the first path's, and so on; what is made beforehand
/// lies before all of them.
fn count(times: usize) {
    for path in hot::paths(times) {
        let mut once = path.once;
        a_path_begins();
        for turn in 0..times {
            once(turn);
        }
        a_path_ends();
    }
}

/// Callgrind ends one count and begins another when this is called.
#[inline(never)]
fn a_path_begins() {
    black_box(());
}

/// The same, so that what a path leaves behind is freed on nobody's account.
#[inline(never)]
fn a_path_ends() {
    black_box(1);
}

fn time() {
    const TIMES: usize = 400;
    for path in hot::paths(TIMES) {
        let mut once = path.once;
        let mut taken: Vec<f64> = (0..TIMES)
            .map(|turn| {
                let begin = Instant::now();
                once(turn);
                begin.elapsed().as_nanos() as f64
            })
            .collect();
        taken.sort_by(f64::total_cmp);
        println!(
            "{}",
            serde_json::json!({ "path": path.name, "ns": taken[TIMES / 2], "p90": taken[TIMES * 9 / 10] })
        );
    }
}

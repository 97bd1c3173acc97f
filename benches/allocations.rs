//! What is allocated: by each hot path, and by the whole program for a call.
//!
//! ```text
//! allocations paths        allocations and bytes of each path of `paths/hot.rs`, once each, as JSON lines
//! allocations proxy ...    the program itself; for each line that it is told, one of JSON with what was allocated until then
//! ```
//!
//! The system's allocator counts, not the program's own; both are asked for the same. `benches/run stages` starts it.

#![allow(clippy::unwrap_used, reason = "a bench that cannot be set up has nothing to measure")]

use std::alloc::System;
use std::io::BufRead;
use std::process::ExitCode;

use stats_alloc::{INSTRUMENTED_SYSTEM, Stats, StatsAlloc};

#[path = "paths/hot.rs"]
mod hot;
#[path = "paths/past.rs"]
mod past;
#[path = "load/pictures.rs"]
#[allow(dead_code, reason = "the load generator's, which makes more of them")]
mod pictures;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Turns of a path of which the last ones count: what is made once is made in the first.
const TURNS: usize = 20;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() != Some("paths") {
        std::thread::spawn(|| {
            for _line in std::io::stdin().lock().lines() {
                println!(
                    "{}",
                    serde_json::json!({ "allocations": made(ALLOCATOR.stats()), "bytes": ALLOCATOR.stats().bytes_allocated })
                );
            }
        });
        return refrain::cli::main();
    }
    for path in hot::paths(TURNS) {
        let mut once = path.once;
        (0..TURNS / 2).for_each(&mut once);
        let before = ALLOCATOR.stats();
        (TURNS / 2..TURNS).for_each(&mut once);
        let after = ALLOCATOR.stats();
        let each = |after: usize, before: usize| (after - before) as f64 / (TURNS - TURNS / 2) as f64;
        let (allocations, bytes) =
            (each(made(after), made(before)), each(after.bytes_allocated, before.bytes_allocated));
        println!("{}", serde_json::json!({ "path": path.name, "allocations": allocations, "bytes": bytes }));
    }
    ExitCode::SUCCESS
}

/// Growing in place is asked of the allocator too.
fn made(stats: Stats) -> usize {
    stats.allocations + stats.reallocations
}

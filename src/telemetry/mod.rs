//! What the operator sees: a log on standard error and counters. Nothing here is ever told to a caller.

mod tally;

pub use tally::{Tally, Totals};

/// Starts logging to standard error: `filter` is a level or directives (`info`, `refrain=debug`), `json` one object a line.
pub fn start_logging(filter: &str, json: bool) {
    let filter = tracing_subscriber::EnvFilter::builder().parse_lossy(filter);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start in one process (tests) keeps the first.
    let _ = if json { builder.json().try_init() } else { builder.with_ansi(false).try_init() };
}

//! The log on standard error.

use std::sync::OnceLock;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

/// Changes the filter of the log that was started.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts logging to standard error: `filter` is a level or directives (`info`, `refrain=debug`), `json` one object a line.
pub fn start_logging(filter: &str, json: bool) {
    let filter = EnvFilter::builder().parse_lossy(filter);
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = if json { lines.json().boxed() } else { lines.with_ansi(false).boxed() };
    // A second start in one process (tests) keeps the first.
    if tracing_subscriber::registry().with(filter).with(lines).try_init().is_ok() {
        let _ = FILTER.set(handle);
    }
}

/// Changes what is logged from now on; an error says what is wrong with `filter`.
pub fn set_level(filter: &str) -> Result<(), String> {
    let parsed = EnvFilter::builder().parse(filter).map_err(|error| error.to_string())?;
    let handle = FILTER.get().ok_or("logging was not started by this process")?;
    handle.reload(parsed).map_err(|error| error.to_string())
}

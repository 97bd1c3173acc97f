//! `refrain proxy`: serve until told to stop.

use std::process::ExitCode;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::config::Config;
use crate::proxy::Sidecar;
use crate::timing::FinePacer;

pub(super) fn run(config: Config) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return cannot_start(error),
    };
    runtime.block_on(serve(config))
}

async fn serve(config: Config) -> ExitCode {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), upstream = ?config.upstream, "refrain");
    let pacer = match FinePacer::new() {
        Ok(pacer) => pacer,
        Err(error) => return cannot_start(error),
    };
    let sidecar = match Sidecar::bind(config, Arc::new(pacer)).await {
        Ok(sidecar) => sidecar,
        Err(error) => return cannot_start(error),
    };
    tracing::info!("listening on {}", sidecar.address());
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(async move {
        told_to_stop().await;
        tracing::info!("stopping");
        let _ = stop.send(true);
    });
    let tally = sidecar.tally();
    let drained = sidecar.serve(stopping).await;
    tracing::info!(totals = ?tally.totals(), drained, "stopped");
    ExitCode::SUCCESS
}

/// Waits for SIGTERM or SIGINT.
async fn told_to_stop() {
    let mut terminate = signal(SignalKind::terminate()).expect("tokio's signal handling is enabled");
    let mut interrupt = signal(SignalKind::interrupt()).expect("tokio's signal handling is enabled");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn cannot_start(error: impl std::fmt::Display) -> ExitCode {
    eprintln!("cannot start: {error}");
    ExitCode::FAILURE
}

//! `refrain proxy`: serve until told to stop.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::Settings;
use crate::config::Config;
use crate::proxy::{Reloader, Sidecar, Workers};
use crate::timing::FinePacer;

/// How often the configuration file, and the TLS files that it names, are looked at.
const LOOK: Duration = Duration::from_secs(2);

pub(super) fn run(settings: &Settings, config: Config) -> ExitCode {
    // Connections have threads of their own; this is for all the rest.
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return cannot_start(error),
    };
    runtime.block_on(serve(settings.clone(), config))
}

async fn serve(settings: Settings, config: Config) -> ExitCode {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), upstream = ?config.upstream, "refrain");
    let pacer = match FinePacer::new() {
        Ok(pacer) => pacer,
        Err(error) => return cannot_start(error),
    };
    let files = watched(&settings, &config);
    let workers = match Workers::start() {
        Ok(workers) => workers,
        Err(error) => return cannot_start(error),
    };
    let sidecar = match Sidecar::bind_on(workers, config, Arc::new(pacer)).await {
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
    tokio::spawn(reload_on_change(settings, files, sidecar.reloader()));
    if let Some(admin) = sidecar.admin_address() {
        tracing::info!("admin on {admin}");
    }
    if let Some(probes) = sidecar.probes_address() {
        tracing::info!("probes on {probes}");
    }
    let telemetry = sidecar.telemetry();
    let drained = sidecar.serve(stopping).await;
    tracing::info!(totals = ?telemetry.metrics.totals(), drained, "stopped");
    ExitCode::SUCCESS
}

/// The files that the configuration came from or names.
fn watched(settings: &Settings, config: &Config) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = settings.config.iter().cloned().collect();
    if let Some(tls) = &config.tls {
        files.extend([&tls.certificate, &tls.key].into_iter().chain(&tls.client_ca).cloned());
    }
    files
}

/// What the files hold; one that cannot be read counts as empty until it can.
async fn contents(files: &[PathBuf]) -> Vec<Vec<u8>> {
    let mut contents = Vec::with_capacity(files.len());
    for file in files {
        contents.push(tokio::fs::read(file).await.unwrap_or_default());
    }
    contents
}

/// Reloads whenever a watched file changes; a wrong configuration is reported and the old one stays.
async fn reload_on_change(settings: Settings, mut files: Vec<PathBuf>, reloader: Reloader) {
    let mut known = contents(&files).await;
    loop {
        tokio::time::sleep(LOOK).await;
        let found = contents(&files).await;
        if found == known {
            continue;
        }
        known = found;
        let config = match settings.load() {
            Ok(config) => config,
            Err(mistakes) => {
                tracing::error!(%mistakes, "the changed configuration is wrong; the old one stays");
                continue;
            }
        };
        files = watched(&settings, &config);
        known = contents(&files).await;
        match reloader.reload(config) {
            Ok(later) if later.is_empty() => tracing::info!("configuration reloaded"),
            Ok(later) => tracing::warn!(at_next_start = ?later, "configuration reloaded, in part"),
            Err(error) => {
                tracing::error!(%error, "the changed configuration cannot be used; the old one stays");
            }
        }
    }
}

/// Waits for SIGTERM or SIGINT.
pub(super) async fn told_to_stop() {
    let mut terminate = signal(SignalKind::terminate()).expect("tokio's signal handling is enabled");
    let mut interrupt = signal(SignalKind::interrupt()).expect("tokio's signal handling is enabled");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

pub(super) fn cannot_start(error: impl std::fmt::Display) -> ExitCode {
    eprintln!("cannot start: {error}");
    ExitCode::FAILURE
}

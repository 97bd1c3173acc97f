//! `refrain webhook`: put sidecars into pods until told to stop.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tokio::sync::watch;

use super::proxy::{cannot_start, told_to_stop};
use super::wrong;
use crate::config::Mistakes;
use crate::webhook::{Webhook as Server, settings};

/// What `refrain webhook` is told.
#[derive(Args, Debug)]
pub(super) struct Webhook {
    /// The webhook's own settings (TOML).
    #[arg(long, value_name = "FILE")]
    settings: PathBuf,
}

impl Webhook {
    pub(super) fn run(&self) -> ExitCode {
        let text = std::fs::read_to_string(&self.settings)
            .map_err(|error| Mistakes(vec![format!("{}: {error}", self.settings.display())]));
        let settings = match text.and_then(|text| settings::read(&text)) {
            Ok(settings) => settings,
            Err(mistakes) => return wrong(&mistakes),
        };
        match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(serve(settings)),
            Err(error) => cannot_start(error),
        }
    }
}

async fn serve(settings: settings::Settings) -> ExitCode {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), kubernetes = %settings.kubernetes, "refrain webhook");
    let webhook = match Server::bind(settings).await {
        Ok(webhook) => webhook,
        Err(error) => return cannot_start(error),
    };
    match webhook.addresses() {
        Ok((reviews, admin)) => tracing::info!("listening on {reviews}, admin on {admin}"),
        Err(error) => return cannot_start(error),
    }
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(async move {
        told_to_stop().await;
        tracing::info!("stopping");
        let _ = stop.send(true);
    });
    webhook.serve(stopping).await;
    tracing::info!("stopped");
    ExitCode::SUCCESS
}

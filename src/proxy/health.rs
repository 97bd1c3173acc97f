//! `grpc.health.v1` in the model server's name: serving when we and the upstream are, and nothing else speaks against it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tonic::Code;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;

use super::readiness::Readiness;
use super::route::{INFERENCE, PREDICTION};
use super::upstream::Upstream;
use crate::protocol::pb;

/// How often the upstream is asked, while it answers and while it does not.
const EVERY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_millis(200));

/// The health service, and the pen that writes what it says.
pub(super) fn service() -> (HealthReporter, HealthServer<impl Health>) {
    tonic_health::server::health_reporter()
}

/// Reports until `draining` turns true, and from then on that we serve no more.
pub(super) async fn watch(
    upstream: Arc<Upstream>,
    readiness: Arc<Readiness>,
    reporter: HealthReporter,
    mut draining: watch::Receiver<bool>,
) {
    tokio::select! {
        () = keep_asking(&upstream, &readiness) => {}
        () = keep_reporting(&readiness, &reporter) => {}
        _ = draining.wait_for(|draining| *draining) => {}
    }
    report(&reporter, ServingStatus::NotServing).await;
}

/// Asks the model server, for ever.
async fn keep_asking(upstream: &Upstream, readiness: &Readiness) {
    let mut known = None;
    loop {
        let ready = is_ready(upstream).await;
        readiness.upstream_is(ready);
        if known.replace(ready) != Some(ready) {
            tracing::info!(ready, "model server readiness");
        }
        tokio::time::sleep(if ready { EVERY.0 } else { EVERY.1 }).await;
    }
}

/// Says what became known, for ever.
async fn keep_reporting(readiness: &Readiness, reporter: &HealthReporter) {
    let mut changes = readiness.changes();
    let mut known = None;
    loop {
        changes.next().await;
        let ready = readiness.reasons().is_empty();
        if known.replace(ready) != Some(ready) {
            report(reporter, if ready { ServingStatus::Serving } else { ServingStatus::NotServing }).await;
        }
    }
}

async fn is_ready(upstream: &Upstream) -> bool {
    let question = upstream.ask::<_, pb::ServerReadyResponse>(
        "/inference.GRPCInferenceService/ServerReady",
        &pb::ServerReadyRequest {},
        Duration::from_secs(2),
    );
    match question.await {
        Ok(Ok(answer)) => answer.ready,
        // TensorFlow Serving has no such question: one that answers is up.
        Ok(Err(status)) => status.code() == Code::Unimplemented,
        Err(_) => false,
    }
}

/// The empty name is the server as a whole; TensorFlow Serving names its services without their package.
async fn report(reporter: &HealthReporter, status: ServingStatus) {
    for service in ["", INFERENCE, PREDICTION, "PredictionService", "ModelService"] {
        reporter.set_service_status(service, status).await;
    }
}

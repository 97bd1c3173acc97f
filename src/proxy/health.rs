//! `grpc.health.v1` in the model server's name: serving when we and the upstream are.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tonic::Code;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;

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
    reporter: HealthReporter,
    mut draining: watch::Receiver<bool>,
) {
    let mut known = None;
    report(&reporter, ServingStatus::NotServing).await;
    loop {
        let ready = is_ready(&upstream).await;
        upstream.ready.store(ready, Ordering::Relaxed);
        if known != Some(ready) {
            tracing::info!(ready, "model server readiness");
            let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
            report(&reporter, status).await;
            known = Some(ready);
        }
        let pause = if ready { EVERY.0 } else { EVERY.1 };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = draining.wait_for(|draining| *draining) => break,
        }
    }
    report(&reporter, ServingStatus::NotServing).await;
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

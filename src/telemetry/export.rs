//! Spans and log records on their way to a collector: bounded queues, and one thread of its own that empties them and pushes
//! the metrics.
//!
//! Nobody who puts something into a queue waits: what does not fit is dropped and counted. The thread is its own so that
//! neither encoding a batch nor a slow collector takes time from calls, held ones least of all.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::InstrumentationScope;
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig, Identity};
use opentelemetry_otlp::{LogExporter, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{LogBatch, LogExporter as _, SdkLogRecord};
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

use super::environment::{Batching, Destination, Protocol};
use super::https;
use super::metrics::Metrics;
use super::push::Push;

/// What waits to be exported.
#[derive(Debug)]
pub(super) struct Queue<T> {
    signal: &'static str,
    sender: mpsc::Sender<T>,
    metrics: Arc<Metrics>,
}

impl<T> Queue<T> {
    /// Puts `item` in, or drops and counts it where there is no room.
    pub(super) fn put(&self, item: T) {
        if self.sender.try_send(item).is_err() {
            self.metrics.lost(self.signal, 1);
        }
    }
}

/// One signal's other end: what empties its queue.
pub(super) struct Outlet<T> {
    signal: &'static str,
    receiver: mpsc::Receiver<T>,
    batching: Batching,
    metrics: Arc<Metrics>,
}

/// A queue of `batching.queue` places for `signal`, and its other end.
pub(super) fn queue<T>(
    signal: &'static str,
    batching: Batching,
    metrics: &Arc<Metrics>,
) -> (Queue<T>, Outlet<T>) {
    let (sender, receiver) = mpsc::channel(batching.queue);
    let queue = Queue { signal, sender, metrics: Arc::clone(metrics) };
    (queue, Outlet { signal, receiver, batching, metrics: Arc::clone(metrics) })
}

/// The thread that exports.
#[derive(Debug)]
pub(super) struct Exporting {
    stop: watch::Sender<bool>,
    done: Mutex<Option<oneshot::Receiver<()>>>,
}

/// Where the three signals go; a signal without a destination has no outlet.
pub(super) struct Outlets {
    pub(super) spans: Option<(Outlet<SpanData>, Destination)>,
    pub(super) logs: Option<(Outlet<SdkLogRecord>, Destination)>,
    pub(super) metrics: Option<(Push, Destination)>,
    pub(super) resource: Resource,
    pub(super) scope: InstrumentationScope,
}

impl Exporting {
    /// Starts the thread. Fails where the system has none to give.
    pub(super) fn start(outlets: Outlets) -> std::io::Result<Self> {
        let (stop, stopping) = watch::channel(false);
        let (finished, done) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("refrain-telemetry".into()).spawn(move || {
            runtime.block_on(outlets.empty(stopping));
            // Nobody may be left to hear it.
            let _ = finished.send(());
        })?;
        Ok(Self { stop, done: Mutex::new(Some(done)) })
    }

    /// Exports what is left, for at most `within`.
    pub(super) async fn finish(&self, within: Duration) {
        self.stop.send_replace(true);
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(done) = done
            && timeout(within, done).await.is_err()
        {
            tracing::warn!("telemetry was still being exported at the end");
        }
    }
}

impl Outlets {
    async fn empty(self, stopping: watch::Receiver<bool>) {
        let Self { spans, logs, metrics, resource, scope } = self;
        let (stop_spans, stop_logs) = (stopping.clone(), stopping.clone());
        let spans = async {
            let Some((outlet, to)) = spans else { return };
            match span_exporter(&to) {
                Ok(mut exporter) => {
                    exporter.set_resource(&resource);
                    outlet.empty(stop_spans, |batch| exporter.export(batch)).await;
                }
                Err(error) => tracing::warn!(%error, "spans cannot be exported"),
            }
        };
        let logs = async {
            let Some((outlet, to)) = logs else { return };
            match log_exporter(&to) {
                Ok(mut exporter) => {
                    exporter.set_resource(&resource);
                    let export = async |batch: Vec<SdkLogRecord>| {
                        let batch: Vec<_> = batch.iter().map(|record| (record, &scope)).collect();
                        exporter.export(LogBatch::new(&batch)).await
                    };
                    outlet.empty(stop_logs, export).await;
                }
                Err(error) => tracing::warn!(%error, "log records cannot be exported"),
            }
        };
        let metrics = async {
            if let Some((push, to)) = metrics {
                push.to(&to, stopping).await;
            }
        };
        tokio::join!(spans, logs, metrics);
    }
}

impl<T> Outlet<T> {
    /// Exports batches until told to stop, and then what is left.
    pub(super) async fn empty(
        mut self,
        mut stopping: watch::Receiver<bool>,
        export: impl AsyncFn(Vec<T>) -> OTelSdkResult,
    ) {
        let mut failing = false;
        loop {
            let mut batch = Vec::new();
            let stop = tokio::select! {
                biased;
                taken = self.fill(&mut batch) => !taken,
                _ = stopping.wait_for(|stop| *stop) => true,
            };
            if stop {
                while let Ok(item) = self.receiver.try_recv() {
                    batch.push(item);
                }
            }
            let mut rest = batch.into_iter().peekable();
            while rest.peek().is_some() {
                let batch: Vec<T> = rest.by_ref().take(self.batching.batch).collect();
                failing = self.export(batch, &export, failing).await;
            }
            if stop {
                return;
            }
        }
    }

    /// Waits for a first item, and then until a batch is full or its time has come. False where nothing will come any more.
    async fn fill(&mut self, batch: &mut Vec<T>) -> bool {
        let Some(first) = self.receiver.recv().await else { return false };
        batch.push(first);
        let until = Instant::now() + self.batching.delay;
        while batch.len() < self.batching.batch {
            let room = self.batching.batch - batch.len();
            match tokio::time::timeout_at(until, self.receiver.recv_many(batch, room)).await {
                Ok(0) => return false,
                Ok(_) => {}
                Err(_) => break,
            }
        }
        true
    }

    /// Exports one batch; whether that failed. The first failure after a success is said, the others are counted.
    async fn export(
        &self,
        batch: Vec<T>,
        export: &impl AsyncFn(Vec<T>) -> OTelSdkResult,
        was_failing: bool,
    ) -> bool {
        let (signal, number) = (self.signal, batch.len());
        let failure = match timeout(self.batching.within, export(batch)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("the collector takes too long".to_owned()),
        };
        match failure {
            None if was_failing => tracing::info!(signal, "the collector takes telemetry again"),
            None => {}
            Some(error) => {
                self.metrics.lost(signal, number);
                self.metrics.export_failed(signal);
                if !was_failing {
                    tracing::warn!(
                        signal,
                        error,
                        "the collector does not take telemetry; what is lost is counted"
                    );
                }
                return true;
            }
        }
        false
    }
}

fn span_exporter(to: &Destination) -> Result<SpanExporter, String> {
    let built = match to.protocol {
        Protocol::Grpc => grpc(SpanExporter::builder().with_tonic(), to)?.build(),
        Protocol::Http => http(SpanExporter::builder().with_http(), to, "v1/traces")?.build(),
    };
    built.map_err(|error| error.to_string())
}

fn log_exporter(to: &Destination) -> Result<LogExporter, String> {
    let built = match to.protocol {
        Protocol::Grpc => grpc(LogExporter::builder().with_tonic(), to)?.build(),
        Protocol::Http => http(LogExporter::builder().with_http(), to, "v1/logs")?.build(),
    };
    built.map_err(|error| error.to_string())
}

/// An exporter over gRPC. What our own settings do not say, it reads from the environment.
pub(super) fn grpc<B: WithExportConfig + WithTonicConfig>(
    mut builder: B,
    to: &Destination,
) -> Result<B, String> {
    if let Some(tls) = tls(to)? {
        builder = builder.with_tls_config(tls);
    }
    Ok(match &to.endpoint {
        Some(endpoint) => builder.with_endpoint(endpoint),
        None => builder,
    })
}

/// The same over HTTP, to `path` of our own endpoint.
pub(super) fn http<B: WithExportConfig + WithHttpConfig>(
    mut builder: B,
    to: &Destination,
    path: &str,
) -> Result<B, String> {
    if to.is_https {
        builder = builder.with_http_client(https::client(to)?);
    }
    Ok(match &to.endpoint {
        Some(endpoint) => builder.with_endpoint(format!("{}/{path}", endpoint.trim_end_matches('/'))),
        None => builder,
    })
}

/// TLS by the files that the environment names; without any, the system's roots serve for an `https://` endpoint.
fn tls(to: &Destination) -> Result<Option<ClientTlsConfig>, String> {
    let read = |path: &String| std::fs::read(path).map_err(|error| format!("{path}: {error}"));
    if to.certificate.is_none() && to.identity.is_none() {
        return Ok(None);
    }
    let mut tls = ClientTlsConfig::new();
    tls = match &to.certificate {
        Some(path) => tls.ca_certificate(Certificate::from_pem(read(path)?)),
        None => tls.with_enabled_roots(),
    };
    if let Some((certificate, key)) = &to.identity {
        tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(Some(tls))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex as StdMutex;

    fn batching(queue: usize, batch: usize) -> Batching {
        Batching { queue, batch, delay: Duration::from_secs(5), within: Duration::from_secs(30) }
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_fit_is_dropped_and_counted_and_nobody_waits() {
        let metrics = Arc::new(Metrics::new());
        let (queue, outlet) = queue("spans", batching(4, 2), &metrics);
        for item in 0..10 {
            queue.put(item);
        }
        assert!(metrics.prometheus().contains("refrain_telemetry_dropped_total{signal=\"spans\"} 6"));
        let exported = StdMutex::new(Vec::new());
        let (stop, stopping) = watch::channel(false);
        let empty = outlet.empty(stopping, async |batch| {
            exported.lock().unwrap().push(batch);
            Ok(())
        });
        stop.send_replace(true);
        empty.await;
        assert_eq!(*exported.lock().unwrap(), [vec![0, 1], vec![2, 3]]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_collector_that_never_answers_costs_a_batch_at_a_time_and_no_more() {
        let metrics = Arc::new(Metrics::new());
        let (queue, outlet) = queue("logs", batching(8, 4), &metrics);
        let (stop, stopping) = watch::channel(false);
        let empties = tokio::spawn(outlet.empty(stopping, async |_| std::future::pending().await));
        for item in 0..4 {
            queue.put(item);
        }
        tokio::time::sleep(Duration::from_secs(31)).await;
        queue.put(4);
        tokio::time::sleep(Duration::from_secs(36)).await;
        let page = metrics.prometheus();
        assert!(page.contains("refrain_telemetry_dropped_total{signal=\"logs\"} 5"), "{page}");
        assert!(page.contains("refrain_telemetry_failed_exports_total{signal=\"logs\"} 2"), "{page}");
        stop.send_replace(true);
        empties.await.unwrap();
    }
}

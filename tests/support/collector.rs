//! An OTLP collector in a few lines: HTTP/1.1 and protobuf. It keeps what it is sent, or behaves as badly as a test wants.
//!
//! The real receiver, and OTLP over gRPC, are in `tests/triton/test_telemetry.py`.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// How it treats what it is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// It takes it.
    Takes,
    /// It says that it is unavailable.
    Refuses,
    /// It answers after this time.
    Slow(Duration),
}

/// Everything that came.
#[derive(Default)]
pub(crate) struct Taken {
    pub(crate) spans: Vec<Span>,
    pub(crate) logs: Vec<LogRecord>,
    /// The metrics of each push, in order of their names.
    pub(crate) metrics: Vec<Vec<Metric>>,
    pub(crate) resource: Option<Resource>,
    /// The schemas that were named for metrics.
    pub(crate) schemas: Vec<String>,
    /// Every byte of every request.
    pub(crate) raw: Vec<u8>,
}

/// A collector that listens.
pub(crate) struct Collector {
    address: String,
    taken: Arc<Mutex<Taken>>,
}

impl Collector {
    pub(crate) async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("a bound port"));
        let taken: Arc<Mutex<Taken>> = Arc::default();
        let keeps = Arc::clone(&taken);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&keeps), manner));
            }
        });
        Self { address, taken }
    }

    /// One that takes everything, over TLS as `localhost`.
    pub(crate) async fn start_tls(tls: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("a bound port").port();
        let taken: Arc<Mutex<Taken>> = Arc::default();
        let (keeps, acceptor) = (Arc::clone(&taken), TlsAcceptor::from(Arc::new(tls)));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Who does not trust it, or is not trusted, goes away.
                if let Ok(stream) = acceptor.accept(stream).await {
                    tokio::spawn(serve(stream, Arc::clone(&keeps), Manner::Takes));
                }
            }
        });
        Self { address: format!("https://localhost:{port}"), taken }
    }

    /// Where it is.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The settings of a sidecar that exports to it.
    pub(crate) fn settings(&self) -> String {
        format!("telemetry.endpoint = '{}'", self.address)
    }

    /// Looks at what has come.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Taken) -> T) -> T {
        look(&self.taken.lock().expect("no test panics while it looks"))
    }

    /// The spans that have come, by start.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let mut spans = self.look(|taken| taken.spans.clone());
        spans.sort_by_key(|span| span.start_time_unix_nano);
        spans
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    keeps: Arc<Mutex<Taken>>,
    manner: Manner,
) {
    let service = service_fn(move |request| take(request, Arc::clone(&keeps), manner));
    // How a connection ends is the sidecar's affair.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn take(
    request: Request<Incoming>,
    keeps: Arc<Mutex<Taken>>,
    manner: Manner,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let body =
        request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let mut response = Response::new(Full::default());
    match manner {
        Manner::Refuses => {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            return Ok(response);
        }
        Manner::Slow(time) => tokio::time::sleep(time).await,
        Manner::Takes => {}
    }
    let mut taken = keeps.lock().expect("no test panics while it looks");
    taken.raw.extend_from_slice(&body);
    match path.as_str() {
        "/v1/traces" => {
            let request = ExportTraceServiceRequest::decode(body).expect("OTLP");
            for resource in request.resource_spans {
                taken.resource = resource.resource;
                taken.spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
            }
        }
        "/v1/logs" => {
            let request = ExportLogsServiceRequest::decode(body).expect("OTLP");
            let logs = request.resource_logs.into_iter().flat_map(|resource| resource.scope_logs);
            taken.logs.extend(logs.flat_map(|scope| scope.log_records));
        }
        "/v1/metrics" => {
            let request = ExportMetricsServiceRequest::decode(body).expect("OTLP");
            let mut metrics = Vec::new();
            for resource in request.resource_metrics {
                taken.resource = resource.resource;
                for scope in resource.scope_metrics {
                    taken.schemas.push(scope.schema_url);
                    metrics.extend(scope.metrics);
                }
            }
            metrics.sort_by(|a, b| a.name.cmp(&b.name));
            taken.metrics.push(metrics);
        }
        _ => *response.status_mut() = StatusCode::NOT_FOUND,
    }
    Ok(response)
}

/// An attribute's value as text.
pub(crate) fn attribute(attributes: &[KeyValue], name: &str) -> Option<String> {
    let value = attributes.iter().find(|pair| pair.key == name)?.value.as_ref()?.value.as_ref()?;
    Some(match value {
        Value::StringValue(text) => text.clone(),
        Value::BoolValue(value) => value.to_string(),
        Value::IntValue(value) => value.to_string(),
        Value::DoubleValue(value) => value.to_string(),
        other => format!("{other:?}"),
    })
}

/// The names of attributes, in order.
pub(crate) fn names(attributes: &[KeyValue]) -> Vec<&str> {
    attributes.iter().map(|pair| pair.key.as_str()).collect()
}

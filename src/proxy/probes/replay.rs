//! One probe, asked on loopback as the kubelet would have asked it on the pod's address.

use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, USER_AGENT};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::super::connect::Connector;
use super::super::upstream::Upstream;
use crate::config::{Place, Probe, Target, UpstreamAddress, UpstreamTls};

/// What is asked, and for how long an answer is waited for.
pub(super) struct Replay {
    question: Question,
    within: Duration,
}

enum Question {
    Http {
        port: u16,
        path: PathAndQuery,
        headers: HeaderMap,
    },
    Tcp {
        at: Place,
    },
    Grpc {
        service: String,
        server: Box<Upstream>,
    },
    /// A place that cannot be dialled at all.
    Nowhere(String),
}

impl Replay {
    /// A probe that can be asked; a gRPC one keeps a connection up from now on.
    pub(super) fn new(probe: Probe) -> Self {
        let question = match probe.target {
            Target::Http { port, path, headers } => Question::Http { port, path, headers },
            Target::Tcp { at } => Question::Tcp { at },
            Target::Grpc { at, service } => match connector(at) {
                Ok(connector) => Question::Grpc { service, server: Box::new(Upstream::open(connector)) },
                Err(why) => Question::Nowhere(why),
            },
        };
        Self { question, within: probe.timeout }
    }

    /// Asks once; an error says in a line why the probe fails.
    pub(super) async fn ask(&self) -> Result<(), String> {
        let late = |_| Err(format!("no answer within {} s", self.within.as_secs()));
        tokio::time::timeout(self.within, self.outcome()).await.unwrap_or_else(late)
    }

    async fn outcome(&self) -> Result<(), String> {
        match &self.question {
            Question::Http { port, path, headers } => http(*port, path, headers).await,
            Question::Tcp { at: Place::Port(port) } => dial(*port).await.map(drop),
            Question::Tcp { at: Place::Socket(path) } => {
                let stream = UnixStream::connect(path).await;
                stream.map(drop).map_err(|error| format!("{}: {error}", path.display()))
            }
            Question::Grpc { service, server } => grpc(server, service, self.within).await,
            Question::Nowhere(why) => Err(why.clone()),
        }
    }
}

fn connector(at: Place) -> Result<Connector, String> {
    let address = match at {
        Place::Port(port) => {
            let authority = format!("{}:{port}", Ipv4Addr::LOCALHOST).parse::<Authority>();
            UpstreamAddress::Http(authority.map_err(|error| error.to_string())?)
        }
        Place::Socket(path) => UpstreamAddress::Unix(path),
    };
    Connector::new(&address, &UpstreamTls::default()).map_err(|error| error.to_string())
}

async fn dial(port: u16) -> Result<TcpStream, String> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
    stream.map_err(|error| format!("127.0.0.1:{port}: {error}"))
}

/// A redirect is success, as it is to the kubelet where it leads elsewhere.
async fn http(port: u16, path: &PathAndQuery, headers: &HeaderMap) -> Result<(), String> {
    let said = |error: hyper::Error| format!("127.0.0.1:{port}: {error}");
    let stream = dial(port).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(said)?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = path.clone().into();
    let host = HeaderValue::try_from(format!("127.0.0.1:{port}")).map_err(|error| error.to_string())?;
    let of_request = request.headers_mut();
    of_request.insert(HOST, host);
    of_request.insert(USER_AGENT, HeaderValue::from_static("kube-probe/refrain"));
    of_request.insert(CONNECTION, HeaderValue::from_static("close"));
    // The probe's own headers are above ours, as with the kubelet.
    of_request.extend(headers.clone());
    let reply = sender.send_request(request);
    tokio::pin!(reply, connection);
    let reply = tokio::select! {
        // The connection ends before its reply is seen where both come at once.
        biased;
        reply = &mut reply => reply,
        ended = &mut connection => match ended {
            Ok(()) => reply.await,
            Err(error) => Err(error),
        },
    };
    let status = reply.map_err(said)?.status();
    if (200..400).contains(&status.as_u16()) {
        Ok(())
    } else {
        Err(format!("127.0.0.1:{port}: status {status}"))
    }
}

async fn grpc(server: &Upstream, service: &str, within: Duration) -> Result<(), String> {
    let question = HealthCheckRequest { service: service.to_owned() };
    let asked = server.ask::<_, HealthCheckResponse>("/grpc.health.v1.Health/Check", &question, within).await;
    let place = server.address();
    match asked {
        Ok(Ok(health)) if health.status() == ServingStatus::Serving => Ok(()),
        Ok(Ok(health)) => Err(format!("{place}: {}", health.status().as_str_name())),
        Ok(Err(status)) => Err(format!("{place}: {:?}: {}", status.code(), status.message())),
        Err(error) => Err(format!("{place}: {error}")),
    }
}

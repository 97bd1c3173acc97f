//! HTTP/2 without a gRPC library: a test writes every frame and sees every header.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use http::{HeaderMap, Request, StatusCode};
use prost::Message;
use refrain::protocol::pb;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tonic::Code;

use super::kserve::{self, MODEL_INFER};
use super::within;

/// The authority that calls name, unless a test names another.
pub(crate) const AUTHORITY: &str = "models.example:8001";

/// One connection.
pub(crate) struct Client {
    sender: SendRequest<Bytes>,
    driver: JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A call that was opened; dropping it cancels it.
pub(crate) struct Call {
    pub(crate) send: SendStream<Bytes>,
    pub(crate) response: ResponseFuture,
}

/// All that came back for a call.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) http: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// None in a reply that is all headers.
    pub(crate) trailers: Option<HeaderMap>,
    /// How the stream ended where it did not end well.
    pub(crate) broken: Option<h2::Error>,
}

/// A gRPC call to `path`, to which headers can be added.
pub(crate) fn grpc(path: &str) -> http::request::Builder {
    Request::post(format!("http://{AUTHORITY}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
}

impl Client {
    /// Connects to an address as settings write it.
    pub(crate) async fn connect(address: &str) -> Self {
        match address.strip_prefix("unix:") {
            Some(path) => Self::over(UnixStream::connect(path).await.expect("the socket is there")).await,
            None => Self::over(dial(address).await.expect("the port is open")).await,
        }
    }

    /// Connects over TLS; the server's certificate is for `localhost` and comes from `ca`.
    pub(crate) async fn connect_tls(address: &str, ca: rustls_pki_types::CertificateDer<'static>) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca).expect("the test's own certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has the default versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = dial(address).await.expect("the port is open");
        let name = rustls_pki_types::ServerName::try_from("localhost").expect("a name");
        Self::over(connector.connect(name, stream).await.expect("the handshake succeeds")).await
    }

    /// A connection over `stream`.
    pub(crate) async fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self::try_over(stream).await.expect("the peer speaks HTTP/2")
    }

    /// The same where the peer may turn us away.
    pub(crate) async fn try_connect(address: &str) -> Option<Self> {
        Self::try_over(dial(address).await.ok()?).await.ok()
    }

    async fn try_over(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<Self, h2::Error> {
        let handshake = h2::client::Builder::new()
            // As in `src/proxy`: a stalled stream of tiny messages must not use up the connection's own budget.
            .initial_window_size(64 << 10)
            .initial_connection_window_size(64 << 20)
            .handshake(stream);
        let (sender, connection) = within("the handshake", handshake).await?;
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, driver })
    }

    /// Whether the connection has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.driver.is_finished()
    }

    /// Opens a call, its request's body to come.
    pub(crate) async fn open(&self, request: http::request::Builder) -> Call {
        self.try_open(request).await.expect("the connection is open")
    }

    /// The same on a connection that may have ended.
    pub(crate) async fn try_open(&self, request: http::request::Builder) -> Result<Call, h2::Error> {
        let request = request.body(()).expect("a well-formed request");
        let mut sender = within("a stream is free", self.sender.clone().ready()).await?;
        let (response, send) = sender.send_request(request, false)?;
        Ok(Call { send, response })
    }

    /// Opens a call and sends its one message.
    pub(crate) async fn ask(&self, request: http::request::Builder, message: Bytes) -> Call {
        let mut call = self.open(request).await;
        call.data(message, true);
        call
    }

    /// A unary call, to its end.
    pub(crate) async fn unary(&self, request: http::request::Builder, message: Bytes) -> Reply {
        self.ask(request, message).await.reply().await
    }

    /// Begins a `ModelInfer`.
    pub(crate) async fn start_infer(&self, question: &pb::ModelInferRequest) -> Call {
        self.ask(grpc(MODEL_INFER), kserve::frame(question)).await
    }

    /// One `ModelInfer`, to its end.
    pub(crate) async fn infer(&self, question: &pb::ModelInferRequest) -> Reply {
        self.start_infer(question).await.reply().await
    }
}

impl Call {
    /// Sends one DATA frame, or as many as it takes.
    pub(crate) fn data(&mut self, data: impl Into<Bytes>, last: bool) {
        self.send.send_data(data.into(), last).expect("the stream is open");
    }

    /// Cancels the call as clients do.
    pub(crate) fn cancel(mut self) {
        self.send.send_reset(Reason::CANCEL);
    }

    /// Reads the reply to its end.
    pub(crate) async fn reply(self) -> Reply {
        // The sending half lives as long as the call: dropping it early would be a cancellation.
        let Self { send: _send, response } = self;
        within("a reply", read(response)).await
    }
}

/// Small frames are sent at once, as gRPC clients do.
async fn dial(address: &str) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn read(response: ResponseFuture) -> Reply {
    let mut reply = Reply {
        http: StatusCode::OK,
        headers: HeaderMap::new(),
        body: Bytes::new(),
        trailers: None,
        broken: None,
    };
    let response = match response.await {
        Ok(response) => response,
        Err(error) => return Reply { broken: Some(error), ..reply },
    };
    let (head, mut body) = response.into_parts();
    (reply.http, reply.headers) = (head.status, head.headers);
    let mut gathered = BytesMut::new();
    while let Some(data) = body.data().await {
        match data {
            Ok(data) => {
                body.flow_control().release_capacity(data.len()).expect("no more than was received");
                gathered.extend_from_slice(&data);
            }
            Err(error) => {
                reply.broken = Some(error);
                break;
            }
        }
    }
    reply.body = gathered.freeze();
    if reply.broken.is_none() {
        match body.trailers().await {
            Ok(trailers) => reply.trailers = trailers,
            Err(error) => reply.broken = Some(error),
        }
    }
    reply
}

impl Reply {
    /// The gRPC status; none where the stream ended without one.
    pub(crate) fn code(&self) -> Option<Code> {
        let status = self.status("grpc-status")?;
        Some(Code::from(status.parse::<i32>().expect("a number")))
    }

    /// The gRPC message.
    pub(crate) fn message(&self) -> String {
        self.status("grpc-message").unwrap_or_default()
    }

    fn status(&self, name: &str) -> Option<String> {
        let value = self.trailers.as_ref().and_then(|trailers| trailers.get(name));
        let value = value.or_else(|| self.headers.get(name))?;
        Some(value.to_str().expect("visible text").to_owned())
    }

    /// Whether it is an OK reply with a message.
    pub(crate) fn is_ok(&self) -> bool {
        self.code() == Some(Code::Ok) && self.body.len() >= 5
    }

    /// The message of an OK reply.
    pub(crate) fn answer(&self) -> pb::ModelInferResponse {
        assert!(self.is_ok(), "not an OK reply: {self:?}");
        pb::ModelInferResponse::decode(self.body.slice(5..)).expect("the reply decodes")
    }

    /// The one row's stamp of an OK reply.
    pub(crate) fn stamp(&self) -> u32 {
        kserve::stamps(&self.answer())[0]
    }
}

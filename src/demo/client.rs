//! The attacker's client: real gRPC over a TCP connection, a picture in, scores or a refusal out.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::metadata::AsciiMetadataValue;
use tower::Service;

use super::DemoError;
use super::model::{CLASSES, Scores};
use super::photos::{Picture, SIDE};
use super::server::{CALLER, INPUT, MODEL};
use crate::protocol::pb;
use pb::grpc_inference_service_client::GrpcInferenceServiceClient;

/// No call of the demo takes this long.
const WITHIN: Duration = Duration::from_secs(20);

/// What comes of one question.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reply {
    /// The model's probabilities, or an earlier picture's: the client cannot tell.
    Scores(Scores),
    /// RESOURCE_EXHAUSTED: a near-copy that may not be answered from memory.
    Refused,
}

/// A connection in the name of one caller.
pub struct Client {
    stub: GrpcInferenceServiceClient<Channel>,
    caller: AsciiMetadataValue,
    server: SocketAddr,
}

impl Client {
    /// Connects to `server` as `caller`.
    pub async fn connect(server: SocketAddr, caller: &str) -> Result<Self, DemoError> {
        let refuse = |why: String| DemoError::Connect { server, why };
        let stream = TcpStream::connect(server).await.map_err(|error| refuse(error.to_string()))?;
        stream.set_nodelay(true).map_err(|error| refuse(error.to_string()))?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|error| refuse(error.to_string()))?;
        // It ends by itself once the sender is gone; how it ends shows in the calls.
        tokio::spawn(connection);
        let origin = Uri::try_from(format!("http://{server}")).map_err(|error| refuse(error.to_string()))?;
        let caller = caller.parse().map_err(|_| refuse(format!("{caller:?} is no metadata value")))?;
        Ok(Self { stub: GrpcInferenceServiceClient::with_origin(Channel(sender), origin), caller, server })
    }

    /// Asks about one picture.
    pub async fn ask(&mut self, picture: &Picture) -> Result<Reply, DemoError> {
        let mut request = tonic::Request::new(question(picture));
        request.metadata_mut().insert(CALLER, self.caller.clone());
        let server = self.server;
        let broken = |why: String| DemoError::Call { server, why };
        match tokio::time::timeout(WITHIN, self.stub.model_infer(request)).await {
            Ok(Ok(reply)) => scores(reply.get_ref()).map(Reply::Scores).ok_or_else(|| {
                broken(format!("expected {CLASSES} scores, found {:?}", reply.get_ref().outputs))
            }),
            Ok(Err(status)) if status.code() == Code::ResourceExhausted => Ok(Reply::Refused),
            Ok(Err(status)) => Err(broken(format!("{:?}: {}", status.code(), status.message()))),
            Err(_) => Err(broken(format!("no answer within {WITHIN:?}"))),
        }
    }
}

fn question(picture: &Picture) -> pb::ModelInferRequest {
    pb::ModelInferRequest {
        model_name: MODEL.to_owned(),
        inputs: vec![pb::model_infer_request::InferInputTensor {
            name: INPUT.to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![1, SIDE as i64, SIDE as i64, 3],
            ..Default::default()
        }],
        raw_input_contents: vec![picture.tensor()],
        ..Default::default()
    }
}

fn scores(reply: &pb::ModelInferResponse) -> Option<Scores> {
    let (values, rest) = reply.raw_output_contents.first()?.as_chunks::<4>();
    let values: Vec<f32> = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    if rest.is_empty() { values.try_into().ok() } else { None }
}

/// An HTTP/2 connection as tonic's client wants one.
struct Channel(SendRequest<tonic::body::Body>);

impl Service<Request<tonic::body::Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

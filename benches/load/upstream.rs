//! A KServe model server that costs nearly nothing: it reads a request's head, throws the rest away as it comes, and answers with a reply
//! that was made beforehand.

use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::path::Path;
use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use refrain::protocol::pb;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use crate::pictures::{Form, MODELS, Payload, framed};

/// Flow-control windows, of a stream and of a connection, and the longest frame. The first and the last are what Triton 2.51 announces.
const WINDOWS: (u32, u32) = (4 << 20, 64 << 20);
const FRAME: u32 = 4 << 20;

/// The most rows of a request.
const MOST_ROWS: i32 = 128;

/// Replies by model and rows.
type Replies = Rc<RefCell<HashMap<(String, usize), Bytes>>>;

/// Serves until the program is ended.
pub(crate) async fn serve(socket: &Path) {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let unix = UnixListener::bind(socket).unwrap();
    println!("{{\"port\": {}}}", tcp.local_addr().unwrap().port());
    let replies = Replies::default();
    loop {
        tokio::select! {
            Ok((stream, _)) = tcp.accept() => {
                stream.set_nodelay(true).unwrap();
                tokio::task::spawn_local(connection(stream, replies.clone()));
            }
            Ok((stream, _)) = unix.accept() => {
                tokio::task::spawn_local(connection(stream, replies.clone()));
            }
        }
    }
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin + 'static, replies: Replies) {
    let serve = service_fn(move |request| answer(request, replies.clone()));
    let connection = http2::Builder::new(OnThisThread)
        .auto_date_header(false)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_frame_size(FRAME)
        .max_concurrent_streams(1024)
        .serve_connection(TokioIo::new(stream), serve);
    // Whoever is compared may end its connections as it likes.
    let _ended = connection.await;
}

/// Runs hyper's tasks where its connection runs.
#[derive(Clone)]
pub(crate) struct OnThisThread;

impl<F: Future + 'static> hyper::rt::Executor<F> for OnThisThread {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

async fn answer(request: Request<Incoming>, replies: Replies) -> Result<Reply, Infallible> {
    let (head, mut body) = request.into_parts();
    let method = head.uri.path().rsplit('/').next().unwrap_or_default().to_owned();
    let mut start: Option<Bytes> = None;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { break };
        if let Ok(data) = frame.into_data() {
            // Of most requests the first frame tells all; one that a proxy cut small is put together again.
            start = Some(match start {
                None => data,
                Some(whole) if whole.len() >= 1024 => whole,
                Some(part) => [part, data].concat().into(),
            });
        }
    }
    let message = start.map(|start| start.slice(start.len().min(5)..)).unwrap_or_default();
    let frame = match &*method {
        "ModelInfer" => match asked(message) {
            Some(asked) => replies
                .borrow_mut()
                .entry(asked)
                .or_insert_with_key(|(model, rows)| scores(model, *rows))
                .clone(),
            None => return Ok(status("3")),
        },
        "ServerReady" => framed(&pb::ServerReadyResponse { ready: true }),
        "ServerLive" => framed(&pb::ServerLiveResponse { live: true }),
        "ModelReady" => framed(&pb::ModelReadyResponse { ready: true }),
        "ModelMetadata" => {
            let name =
                pb::ModelMetadataRequest::decode(message).map(|request| request.name).unwrap_or_default();
            framed(&pb::ModelMetadataResponse { name, versions: vec!["1".into()], ..Default::default() })
        }
        "ModelConfig" => {
            let name =
                pb::ModelConfigRequest::decode(message).map(|request| request.name).unwrap_or_default();
            match MODELS.iter().find(|(model, _)| *model == name) {
                Some((model, scores)) => {
                    framed(&pb::ModelConfigResponse { config: Some(configuration(model, *scores)) })
                }
                None => return Ok(status("5")),
            }
        }
        _ => return Ok(status("12")),
    };
    let trailers =
        HeaderMap::from_iter([("grpc-status".parse().expect("a name"), HeaderValue::from_static("0"))]);
    let body = Full::new(frame).with_trailers(std::future::ready(Some(Ok(trailers)))).boxed_unsync();
    Ok(Response::builder().header("content-type", "application/grpc").body(body).expect("a reply"))
}

/// An error, in headers alone.
fn status(code: &'static str) -> Reply {
    let reply = Response::builder().header("content-type", "application/grpc").header("grpc-status", code);
    reply.body(Full::new(Bytes::new()).boxed_unsync()).expect("a reply")
}

/// The model and the rows of a request of which only the beginning need be here.
fn asked(mut message: Bytes) -> Option<(String, usize)> {
    let mut model = None;
    loop {
        let (field, wire) = decode_key(&mut message).ok()?;
        match (field, wire) {
            (1, WireType::LengthDelimited) => {
                let length = decode_varint(&mut message).ok()? as usize;
                let name = (length <= message.len()).then(|| message.split_to(length))?;
                model = String::from_utf8(name.to_vec()).ok();
            }
            (5, WireType::LengthDelimited) => {
                let length = decode_varint(&mut message).ok()? as usize;
                let input = (length <= message.len()).then(|| message.split_to(length))?;
                let input = pb::model_infer_request::InferInputTensor::decode(input).ok()?;
                return Some((model?, *input.shape.first()? as usize));
            }
            _ => skip_field(wire, field, &mut message, DecodeContext::default()).ok()?,
        }
    }
}

fn scores(model: &str, rows: usize) -> Bytes {
    let classes = MODELS.iter().find(|(name, _)| *name == model).map_or(10, |(_, scores)| *scores);
    framed(&pb::ModelInferResponse {
        model_name: model.to_owned(),
        model_version: "1".into(),
        outputs: vec![pb::model_infer_response::InferOutputTensor {
            name: "scores".into(),
            datatype: "FP32".into(),
            shape: vec![rows as i64, classes as i64],
            ..Default::default()
        }],
        raw_output_contents: vec![vec![7; rows * classes * 4].into()],
        ..Default::default()
    })
}

fn configuration(model: &str, scores: usize) -> pb::ModelConfig {
    let payload = ["3KiB", "147KiB", "588KiB", "jpeg-224", "jpeg-1080p"].map(Payload::named);
    let payload =
        payload.into_iter().find(|payload| payload.model == model).expect("each model has a payload");
    let pixels = vec![payload.height as i64, payload.width as i64, 3];
    let (data_type, dims) = match payload.form {
        Form::Uint8 => (pb::DataType::TypeUint8, pixels),
        Form::Fp32 => (pb::DataType::TypeFp32, pixels),
        Form::Jpeg => (pb::DataType::TypeString, vec![1]),
    };
    pb::ModelConfig {
        name: model.to_owned(),
        max_batch_size: MOST_ROWS,
        input: vec![pb::ModelInput {
            name: "image".into(),
            data_type: data_type.into(),
            dims,
            ..Default::default()
        }],
        output: vec![pb::ModelOutput {
            name: "scores".into(),
            data_type: pb::DataType::TypeFp32.into(),
            dims: vec![scores as i64],
        }],
        ..Default::default()
    }
}

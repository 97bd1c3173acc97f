//! The embedded model server: the classifier behind ModelInfer, in the words of a Triton, so that the sidecar meets what it
//! meets in earnest. It counts whom it was asked by: what is said of forwarded rows is the model server's own word.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::DemoError;
use super::model::{CLASSES, Classifier};
use super::photos::SIDE;
use super::question;
use super::random::Random;
use crate::protocol::pb;
use crate::timing::{FinePacer, Pacer};
use pb::grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer};

/// The model's name.
pub const MODEL: &str = "lenet";

/// Its one version.
pub const VERSION: &str = "1";

/// Its input: FP32 [N, 32, 32, 3], 0..1.
pub const INPUT: &str = "image";

/// Its output: FP32 [N, 10].
pub const OUTPUT: &str = "probabilities";

/// The most pictures of one request.
pub const MAX_BATCH: i64 = 32;

/// The metadata key by which a caller is named; the sidecar believes it, since all the demo's callers are local.
pub const CALLER: &str = "x-demo-caller";

/// The compute time that the latency part adds: log-normal of this median and spread, at most 20 ms.
///
/// The network alone takes a fifth of a millisecond, which no classifier worth protecting does; some milliseconds with a tail
/// to the right are what image models on a GPU show.
pub const COMPUTE: (Duration, f64) = (Duration::from_millis(5), 0.2);

/// The model server.
pub struct ModelServer {
    classifier: Classifier,
    pacer: FinePacer,
    /// The dice of the compute time; none while the model answers as fast as it can.
    compute: Mutex<Option<Random>>,
    /// Rows that it was asked about, by caller.
    asked: Mutex<HashMap<String, u64>>,
}

impl ModelServer {
    /// A server of `classifier`.
    pub fn new(classifier: Classifier) -> Result<Self, DemoError> {
        let pacer = FinePacer::new().map_err(|error| DemoError::Thread(error.to_string()))?;
        Ok(Self { classifier, pacer, compute: Mutex::default(), asked: Mutex::default() })
    }

    /// The gRPC service.
    pub fn service(self: &Arc<Self>) -> GrpcInferenceServiceServer<Self> {
        GrpcInferenceServiceServer::from_arc(Arc::clone(self))
    }

    /// Takes its time from now on, as [`COMPUTE`] says, drawn from `dice`.
    pub fn slow_down(&self, dice: Random) {
        *held(&self.compute) = Some(dice);
    }

    /// How many rows it was asked about in the name of `caller`.
    pub fn asked_by(&self, caller: &str) -> u64 {
        held(&self.asked).get(caller).copied().unwrap_or_default()
    }

    fn compute_time(&self) -> Option<Duration> {
        let mut compute = held(&self.compute);
        let factor = (COMPUTE.1 * compute.as_mut()?.normal()).exp();
        Some(COMPUTE.0.mul_f64(factor).min(Duration::from_millis(20)))
    }

    fn count(&self, caller: Option<&str>, rows: usize) {
        *held(&self.asked).entry(caller.unwrap_or_default().to_owned()).or_default() += rows as u64;
    }
}

/// Each lock is held for one look at what it guards, never across an await.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[tonic::async_trait]
impl GrpcInferenceService for ModelServer {
    async fn server_live(
        &self,
        _: Request<pb::ServerLiveRequest>,
    ) -> Result<Response<pb::ServerLiveResponse>, Status> {
        Ok(Response::new(pb::ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<pb::ServerReadyRequest>,
    ) -> Result<Response<pb::ServerReadyResponse>, Status> {
        Ok(Response::new(pb::ServerReadyResponse { ready: true }))
    }

    async fn model_ready(
        &self,
        request: Request<pb::ModelReadyRequest>,
    ) -> Result<Response<pb::ModelReadyResponse>, Status> {
        let pb::ModelReadyRequest { name, version } = request.get_ref();
        let ready = match question::known(name, version) {
            Ok(()) => true,
            Err(status) if status.code() == tonic::Code::NotFound => false,
            Err(status) => return Err(status),
        };
        Ok(Response::new(pb::ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<pb::ServerMetadataRequest>,
    ) -> Result<Response<pb::ServerMetadataResponse>, Status> {
        Ok(Response::new(pb::ServerMetadataResponse {
            name: "refrain-demo".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: vec!["model_configuration".to_owned()],
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<pb::ModelMetadataRequest>,
    ) -> Result<Response<pb::ModelMetadataResponse>, Status> {
        question::known(&request.get_ref().name, &request.get_ref().version)?;
        let tensor = |name: &str, shape: &[i64]| pb::model_metadata_response::TensorMetadata {
            name: name.to_owned(),
            datatype: "FP32".to_owned(),
            shape: [&[-1], shape].concat(),
        };
        Ok(Response::new(pb::ModelMetadataResponse {
            name: MODEL.to_owned(),
            versions: vec![VERSION.to_owned()],
            platform: "onnx_rten".to_owned(),
            inputs: vec![tensor(INPUT, &IMAGE)],
            outputs: vec![tensor(OUTPUT, &[CLASSES as i64])],
        }))
    }

    async fn model_config(
        &self,
        request: Request<pb::ModelConfigRequest>,
    ) -> Result<Response<pb::ModelConfigResponse>, Status> {
        question::known(&request.get_ref().name, &request.get_ref().version)?;
        let fp32 = pb::DataType::TypeFp32.into();
        let config = pb::ModelConfig {
            name: MODEL.to_owned(),
            platform: "onnx_rten".to_owned(),
            max_batch_size: MAX_BATCH as i32,
            input: vec![pb::ModelInput {
                name: INPUT.to_owned(),
                data_type: fp32,
                format: pb::model_input::Format::Nhwc.into(),
                dims: IMAGE.to_vec(),
                ..Default::default()
            }],
            output: vec![pb::ModelOutput {
                name: OUTPUT.to_owned(),
                data_type: fp32,
                dims: vec![CLASSES as i64],
            }],
            ..Default::default()
        };
        Ok(Response::new(pb::ModelConfigResponse { config: Some(config) }))
    }

    async fn model_infer(
        &self,
        request: Request<pb::ModelInferRequest>,
    ) -> Result<Response<pb::ModelInferResponse>, Status> {
        let arrived = Instant::now();
        let (metadata, _, request) = request.into_parts();
        let values = question::read(&request)?;
        let scores =
            self.classifier.classify(&values).map_err(|error| Status::internal(error.to_string()))?;
        self.count(metadata.get(CALLER).and_then(|caller| caller.to_str().ok()), scores.len());
        if let Some(compute) = self.compute_time() {
            self.pacer.until(arrived + compute).await;
        }
        let mut bytes = BytesMut::with_capacity(4 * CLASSES * scores.len());
        scores.iter().flatten().for_each(|score| bytes.put_f32_le(*score));
        Ok(Response::new(pb::ModelInferResponse {
            model_name: MODEL.to_owned(),
            model_version: VERSION.to_owned(),
            id: request.id,
            outputs: vec![pb::model_infer_response::InferOutputTensor {
                name: OUTPUT.to_owned(),
                datatype: "FP32".to_owned(),
                shape: vec![scores.len() as i64, CLASSES as i64],
                ..Default::default()
            }],
            raw_output_contents: vec![bytes.freeze()],
            ..Default::default()
        }))
    }
}

/// One picture's dimensions.
pub(super) const IMAGE: [i64; 3] = [SIDE as i64, SIDE as i64, 3];

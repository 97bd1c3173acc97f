//! Questions to the fake's model `clf` (UINT8 NHWC [32, 32, 3], 16 rows at most), and what its answers say.

use std::fmt::Write;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use refrain::protocol::pb;

use super::pictures::Picture;

pub(crate) const MODEL_INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
pub(crate) const MODEL_METADATA: &str = "/inference.GRPCInferenceService/ModelMetadata";
pub(crate) const MODEL_CONFIG: &str = "/inference.GRPCInferenceService/ModelConfig";
pub(crate) const SERVER_READY: &str = "/inference.GRPCInferenceService/ServerReady";

/// The model's classes.
pub(crate) const CLASSES: usize = 10;

/// The model's largest batch.
pub(crate) const MAX_BATCH: usize = 16;

/// A question about `pictures`, one a row.
pub(crate) fn question<'a>(pictures: impl IntoIterator<Item = &'a Picture>) -> pb::ModelInferRequest {
    let rows: Vec<&Picture> = pictures.into_iter().collect();
    let data: Vec<u8> = rows.iter().flat_map(|picture| picture.iter().copied()).collect();
    let input = pb::model_infer_request::InferInputTensor {
        name: "image".into(),
        datatype: "UINT8".into(),
        shape: vec![rows.len() as i64, 32, 32, 3],
        ..Default::default()
    };
    pb::ModelInferRequest {
        model_name: "clf".into(),
        inputs: vec![input],
        raw_input_contents: vec![data.into()],
        ..Default::default()
    }
}

/// `message` behind its prefix.
pub(crate) fn frame(message: &impl Message) -> Bytes {
    wrap(&message.encode_to_vec())
}

/// `payload` behind its prefix.
pub(crate) fn wrap(payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + payload.len());
    frame.put_slice(&prefix(payload.len()));
    frame.put_slice(payload);
    frame.freeze()
}

/// What stands before an uncompressed message of this length.
pub(crate) fn prefix(length: usize) -> [u8; 5] {
    let length = u32::try_from(length).expect("a message of less than 4 GiB").to_be_bytes();
    [0, length[0], length[1], length[2], length[3]]
}

/// The scores in a reply, row by row.
pub(crate) fn scores(reply: &pb::ModelInferResponse) -> Vec<Vec<f32>> {
    let values: Vec<f32> = reply.raw_output_contents[0]
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes")))
        .collect();
    values.chunks(CLASSES).map(<[f32]>::to_vec).collect()
}

/// The number of the call that a fresh answer was given to, row by row: see [`Fake::answers_differently`](super::Fake).
pub(crate) fn stamps(reply: &pb::ModelInferResponse) -> Vec<u32> {
    scores(reply).iter().map(|row| row[0] as u32).collect()
}

/// The model's answer; `stamp`, where there is one, stands in place of every row's first score.
pub(crate) fn answer(request: &pb::ModelInferRequest, stamp: Option<u32>) -> pb::ModelInferResponse {
    let pixels = &request.raw_input_contents[0];
    let mut data = Vec::new();
    let rows = pixels.chunks(32 * 32 * 3).map(|row| {
        let mut scores = [0f32; CLASSES];
        for (at, value) in row.iter().enumerate() {
            scores[at % CLASSES] += f32::from(*value);
        }
        scores
    });
    let rows: Vec<_> = rows.collect();
    for mut row in rows.iter().copied() {
        row[0] = stamp.map_or(row[0], |stamp| stamp as f32);
        data.extend(row.iter().flat_map(|score| score.to_le_bytes()));
    }
    let output = pb::model_infer_response::InferOutputTensor {
        name: "probabilities".into(),
        datatype: "FP32".into(),
        shape: vec![rows.len() as i64, CLASSES as i64],
        ..Default::default()
    };
    pb::ModelInferResponse {
        model_name: "clf".into(),
        model_version: "1".into(),
        id: request.id.clone(),
        outputs: vec![output],
        // What a test fills a message with, behind the picture, comes back with the answer.
        raw_output_contents: [data.into()]
            .into_iter()
            .chain(request.raw_input_contents[1..].to_vec())
            .collect(),
        ..Default::default()
    }
}

/// What a model server says to a request that does not fit the model; nothing where it fits.
pub(crate) fn refusal(request: &pb::ModelInferRequest) -> Option<(tonic::Code, String)> {
    let invalid = |why: String| Some((tonic::Code::InvalidArgument, why));
    if request.model_name != "clf" {
        let name = &request.model_name;
        return Some((tonic::Code::NotFound, format!("Request for unknown model: '{name}' is not found")));
    }
    if !["", "1"].contains(&request.model_version.as_str()) {
        return Some((tonic::Code::NotFound, format!("version {} is not found", request.model_version)));
    }
    let [input] = &request.inputs[..] else { return invalid("expected 1 input".into()) };
    if input.datatype != "UINT8" {
        return invalid(format!("expected UINT8, got {}", input.datatype));
    }
    let fits = matches!(input.shape[..], [rows, 32, 32, 3] if (1..=MAX_BATCH as i64).contains(&rows));
    if !fits {
        let mut shape = String::new();
        let _ = write!(shape, "{:?}", input.shape);
        return invalid(format!("unexpected shape {shape}"));
    }
    if let Some(unknown) = request.outputs.iter().find(|output| output.name != "probabilities") {
        return invalid(format!("unexpected inference output '{}'", unknown.name));
    }
    None
}

/// What `ModelMetadata` says of the model.
pub(crate) fn metadata() -> pb::ModelMetadataResponse {
    let tensor = |name: &str, datatype: &str, shape: &[i64]| pb::model_metadata_response::TensorMetadata {
        name: name.into(),
        datatype: datatype.into(),
        shape: shape.to_vec(),
    };
    pb::ModelMetadataResponse {
        name: "clf".into(),
        versions: vec!["1".into()],
        platform: "fake".into(),
        inputs: vec![tensor("image", "UINT8", &[-1, 32, 32, 3])],
        outputs: vec![tensor("probabilities", "FP32", &[-1, CLASSES as i64])],
    }
}

/// What `ModelConfig` says of it.
pub(crate) fn config() -> pb::ModelConfigResponse {
    let input = pb::ModelInput {
        name: "image".into(),
        data_type: pb::DataType::TypeUint8.into(),
        format: pb::model_input::Format::Nhwc.into(),
        dims: vec![32, 32, 3],
        ..Default::default()
    };
    let output = pb::ModelOutput {
        name: "probabilities".into(),
        data_type: pb::DataType::TypeFp32.into(),
        dims: vec![CLASSES as i64],
    };
    let config = pb::ModelConfig {
        name: "clf".into(),
        max_batch_size: MAX_BATCH as i32,
        input: vec![input],
        output: vec![output],
        ..Default::default()
    };
    pb::ModelConfigResponse { config: Some(config) }
}

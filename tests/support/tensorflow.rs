//! The fake as a TensorFlow Serving: Predict of a model `clf` (DT_UINT8 [-1, 32, 32, 3]) that scores as the KServe one does.

use http::HeaderMap;
use prost::Message;
use refrain::protocol::tensorflow::serving::{
    GetModelMetadataResponse, ModelSpec, PredictRequest, PredictResponse, SignatureDefMap,
    model_spec::VersionChoice,
};
use refrain::protocol::tensorflow::{
    DataType, SignatureDef, TensorInfo, TensorProto, TensorShapeProto, tensor_shape_proto::Dim,
};

use super::kserve::{self, CLASSES};
use super::pictures::Picture;
use super::upstream::{Exchange, Fake};

pub(crate) const PREDICT: &str = "/tensorflow.serving.PredictionService/Predict";
const GET_MODEL_METADATA: &str = "/tensorflow.serving.PredictionService/GetModelMetadata";

/// Makes `fake` answer the calls of TensorFlow Serving too.
pub(crate) fn serve(fake: &Fake) {
    fake.on(GET_MODEL_METADATA, |exchange| async move {
        exchange.answer_with(kserve::frame(&metadata()), HeaderMap::new(), HeaderMap::new());
    });
    fake.on(PREDICT, predict);
}

async fn predict(mut exchange: Exchange) {
    let Ok(body) = exchange.read().await else { return };
    let request = PredictRequest::decode(body.slice(5..)).expect("the forwarded question decodes");
    let pixels = &request.inputs["image"].tensor_content;
    let rows: Vec<Picture> = pixels.chunks(32 * 32 * 3).map(<[u8]>::to_vec).collect();
    let scores = kserve::scores(&kserve::answer(&kserve::question(&rows), None));
    let output = TensorProto {
        dtype: DataType::DtFloat.into(),
        tensor_shape: Some(shape(&[rows.len() as i64, CLASSES as i64])),
        // As the server writes numbers where it is not told otherwise.
        float_val: scores.concat(),
        ..TensorProto::default()
    };
    let reply = PredictResponse {
        outputs: [("scores".to_owned(), output)].into(),
        model_spec: Some(ModelSpec { signature_name: "serving_default".into(), ..spec() }),
    };
    exchange.answer_with(kserve::frame(&reply), HeaderMap::new(), HeaderMap::new());
}

/// A question about `pictures`, one a row.
pub(crate) fn question<'a>(pictures: impl IntoIterator<Item = &'a Picture>) -> PredictRequest {
    let rows: Vec<&Picture> = pictures.into_iter().collect();
    let image = TensorProto {
        dtype: DataType::DtUint8.into(),
        tensor_shape: Some(shape(&[rows.len() as i64, 32, 32, 3])),
        tensor_content: rows.into_iter().flatten().copied().collect::<Vec<u8>>().into(),
        ..TensorProto::default()
    };
    PredictRequest {
        model_spec: Some(ModelSpec { name: "clf".into(), ..ModelSpec::default() }),
        inputs: [("image".to_owned(), image)].into(),
        output_filter: Vec::new(),
    }
}

/// The scores in a reply, row by row.
pub(crate) fn scores(body: &[u8]) -> Vec<Vec<f32>> {
    let reply = PredictResponse::decode(&body[5..]).expect("the reply decodes");
    reply.outputs["scores"].float_val.chunks(CLASSES).map(<[f32]>::to_vec).collect()
}

fn metadata() -> GetModelMetadataResponse {
    let tensor = |name: &str, dtype: DataType, dims: &[i64]| {
        let info =
            TensorInfo { dtype: dtype.into(), tensor_shape: Some(shape(dims)), ..TensorInfo::default() };
        [(name.to_owned(), info)].into()
    };
    let signature = SignatureDef {
        inputs: tensor("image", DataType::DtUint8, &[-1, 32, 32, 3]),
        outputs: tensor("scores", DataType::DtFloat, &[-1, CLASSES as i64]),
        method_name: "tensorflow/serving/predict".into(),
        ..SignatureDef::default()
    };
    let signatures = SignatureDefMap { signature_def: [("serving_default".to_owned(), signature)].into() };
    let described = prost_types::Any {
        type_url: "type.googleapis.com/tensorflow.serving.SignatureDefMap".into(),
        value: signatures.encode_to_vec(),
    };
    GetModelMetadataResponse {
        model_spec: Some(spec()),
        metadata: [("signature_def".to_owned(), described)].into(),
    }
}

fn spec() -> ModelSpec {
    ModelSpec {
        name: "clf".into(),
        version_choice: Some(VersionChoice::Version(3)),
        signature_name: String::new(),
    }
}

fn shape(dims: &[i64]) -> TensorShapeProto {
    let dim = dims.iter().map(|&size| Dim { size, name: String::new() }).collect();
    TensorShapeProto { dim, unknown_rank: false }
}

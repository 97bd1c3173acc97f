//! What the tests of this folder have in common: tensors in each encoding, a signature, requests.

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use crate::protocol::signature::Signature;
use crate::protocol::tensor::{Range, Reading};
use crate::protocol::tensorflow::serving::{
    GetModelMetadataResponse, ModelSpec, SignatureDefMap, model_spec::VersionChoice,
};
use crate::protocol::tensorflow::{
    DataType, SignatureDef, TensorInfo, TensorProto, TensorShapeProto, tensor_shape_proto::Dim,
};

/// Values are levels.
pub(super) const READING: Reading =
    Reading { layout: None, bgr: false, range: Some(Range::LEVELS), sees: None, most_pixels: 1 << 24 };

/// A picture of 2 x 2 as a PNG, and its levels.
pub(super) fn png() -> (Vec<u8>, Vec<u8>) {
    let levels: Vec<u8> = (0..12).map(|at| at * 20).collect();
    let picture = image::RgbImage::from_raw(2, 2, levels.clone()).unwrap();
    let mut file = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut file, image::ImageFormat::Png).unwrap();
    (file.into_inner(), levels)
}

/// Types of fixed size, and how large.
pub(super) const NUMBERS: [(DataType, usize); 22] = [
    (DataType::DtFloat, 4),
    (DataType::DtDouble, 8),
    (DataType::DtInt32, 4),
    (DataType::DtUint8, 1),
    (DataType::DtInt16, 2),
    (DataType::DtInt8, 1),
    (DataType::DtComplex64, 8),
    (DataType::DtInt64, 8),
    (DataType::DtBool, 1),
    (DataType::DtQint8, 1),
    (DataType::DtQuint8, 1),
    (DataType::DtQint32, 4),
    (DataType::DtBfloat16, 2),
    (DataType::DtQint16, 2),
    (DataType::DtQuint16, 2),
    (DataType::DtUint16, 2),
    (DataType::DtComplex128, 16),
    (DataType::DtHalf, 2),
    (DataType::DtUint32, 4),
    (DataType::DtUint64, 8),
    (DataType::DtFloat8E5m2, 1),
    (DataType::DtFloat8E4m3fn, 1),
];

pub(super) fn shape(dims: &[i64]) -> TensorShapeProto {
    let dim = dims.iter().map(|&size| Dim { size, name: String::new() }).collect();
    TensorShapeProto { dim, unknown_rank: false }
}

/// A tensor without values.
pub(super) fn tensor(dtype: DataType, dims: &[i64]) -> TensorProto {
    TensorProto { dtype: dtype.into(), tensor_shape: Some(shape(dims)), ..TensorProto::default() }
}

/// A tensor whose values travel as bytes.
pub(super) fn raw(dtype: DataType, dims: &[i64], data: &[u8]) -> TensorProto {
    TensorProto { tensor_content: Bytes::copy_from_slice(data), ..tensor(dtype, dims) }
}

/// A tensor whose values travel in the field of their type.
pub(super) fn typed(dtype: DataType, dims: &[i64], data: &[u8]) -> TensorProto {
    let mut tensor = tensor(dtype, dims);
    let of_four = || data.chunks_exact(4).map(|bytes| <[u8; 4]>::try_from(bytes).unwrap());
    let of_eight = || data.chunks_exact(8).map(|bytes| <[u8; 8]>::try_from(bytes).unwrap());
    let of_two = || data.chunks_exact(2).map(|bytes| <[u8; 2]>::try_from(bytes).unwrap());
    match dtype {
        DataType::DtFloat => tensor.float_val = of_four().map(f32::from_le_bytes).collect(),
        DataType::DtDouble => tensor.double_val = of_eight().map(f64::from_le_bytes).collect(),
        DataType::DtInt32 | DataType::DtQint32 => {
            tensor.int_val = of_four().map(i32::from_le_bytes).collect();
        }
        DataType::DtInt16 | DataType::DtQint16 => {
            tensor.int_val = of_two().map(|bytes| i16::from_le_bytes(bytes).into()).collect();
        }
        DataType::DtUint16 | DataType::DtQuint16 => {
            tensor.int_val = of_two().map(|bytes| u16::from_le_bytes(bytes).into()).collect();
        }
        DataType::DtInt8 | DataType::DtQint8 => {
            tensor.int_val = data.iter().map(|&byte| (byte as i8).into()).collect();
        }
        DataType::DtUint8 | DataType::DtQuint8 => {
            tensor.int_val = data.iter().map(|&byte| byte.into()).collect();
        }
        DataType::DtComplex64 => tensor.scomplex_val = of_four().map(f32::from_le_bytes).collect(),
        DataType::DtInt64 => tensor.int64_val = of_eight().map(i64::from_le_bytes).collect(),
        DataType::DtBool => tensor.bool_val = data.iter().map(|&byte| byte != 0).collect(),
        DataType::DtComplex128 => tensor.dcomplex_val = of_eight().map(f64::from_le_bytes).collect(),
        DataType::DtHalf | DataType::DtBfloat16 => {
            tensor.half_val = of_two().map(|bytes| u16::from_le_bytes(bytes).into()).collect();
        }
        DataType::DtUint32 => tensor.uint32_val = of_four().map(u32::from_le_bytes).collect(),
        DataType::DtUint64 => tensor.uint64_val = of_eight().map(u64::from_le_bytes).collect(),
        DataType::DtFloat8E5m2 | DataType::DtFloat8E4m3fn => tensor.float8_val = Bytes::copy_from_slice(data),
        other => unreachable!("{other:?} has no fixed size"),
    }
    tensor
}

/// A tensor of text whose elements travel as elements.
pub(super) fn text(dims: &[i64], elements: &[&[u8]]) -> TensorProto {
    let string_val = elements.iter().map(|element| Bytes::copy_from_slice(element)).collect();
    TensorProto { string_val, ..tensor(DataType::DtString, dims) }
}

/// The same numbers in each encoding: as bytes, typed, and typed without what repeats at the end; and what they are.
#[derive(Clone, Debug)]
pub(super) struct Encodings {
    pub(super) rows: usize,
    pub(super) data: Vec<u8>,
    pub(super) ways: Vec<TensorProto>,
}

/// Numbers of any type, some of them repeated at the end: `rows` rows of 1 to 6.
pub(super) fn encodings() -> impl Strategy<Value = Encodings> {
    (0..NUMBERS.len(), 1..5usize, 1..7usize).prop_flat_map(|(of, rows, row)| {
        let (dtype, size) = NUMBERS[of];
        let count = rows * row;
        let byte = if dtype == DataType::DtBool { 0..2u8 } else { 0..255u8 };
        (proptest::collection::vec(byte, count * size), 1..=count).prop_map(move |(mut data, given)| {
            let last = data[(given - 1) * size..given * size].to_vec();
            for at in given..count {
                data[at * size..(at + 1) * size].copy_from_slice(&last);
            }
            let dims = [rows as i64, row as i64];
            let ways = vec![
                raw(dtype, &dims, &data),
                typed(dtype, &dims, &data),
                typed(dtype, &dims, &data[..given * size]),
            ];
            Encodings { rows, data, ways }
        })
    })
}

pub(super) fn model(name: &str, version: Option<VersionChoice>, signature_name: &str) -> ModelSpec {
    ModelSpec { name: name.into(), version_choice: version, signature_name: signature_name.into() }
}

pub(super) fn info(dtype: DataType, dims: Option<&[i64]>) -> TensorInfo {
    let unknown = TensorShapeProto { dim: Vec::new(), unknown_rank: true };
    TensorInfo {
        dtype: dtype.into(),
        tensor_shape: Some(dims.map_or(unknown, shape)),
        ..TensorInfo::default()
    }
}

/// What the server says of version 3 of a model with one signature.
pub(super) fn metadata(
    method: &str,
    inputs: &[(&str, TensorInfo)],
    outputs: &[(&str, TensorInfo)],
) -> GetModelMetadataResponse {
    let named = |infos: &[(&str, TensorInfo)]| {
        infos.iter().map(|(name, info)| ((*name).to_owned(), info.clone())).collect()
    };
    let signature = SignatureDef {
        inputs: named(inputs),
        outputs: named(outputs),
        method_name: format!("tensorflow/serving/{method}"),
        ..SignatureDef::default()
    };
    let map = SignatureDefMap { signature_def: [("serving_default".to_owned(), signature)].into() };
    let described = prost_types::Any {
        type_url: "type.googleapis.com/tensorflow.serving.SignatureDefMap".into(),
        value: map.encode_to_vec(),
    };
    GetModelMetadataResponse {
        model_spec: Some(model("clf", Some(VersionChoice::Version(3)), "")),
        metadata: [("signature_def".to_owned(), described)].into(),
    }
}

/// The signature of a model that is asked by Predict.
pub(super) fn signature(inputs: &[(&str, TensorInfo)], outputs: &[(&str, TensorInfo)]) -> Signature {
    Signature::from_signature_def(&metadata("predict", inputs, outputs), "serving_default").unwrap()
}

//! One input of a request: whether its bytes are here, are as many as its shape says, and may be counted at all.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{MOST_ROWS, Refusal};
use crate::protocol::pb;
use crate::protocol::signature::Batching;
use crate::protocol::tensor::Datatype;

/// Refuses a tensor whose bytes are elsewhere. Triton reads a region only where its size stands beside it; anything else that
/// speaks of one it refuses itself.
pub(super) fn no_shared_memory(
    tensor: &str,
    parameters: &BTreeMap<String, pb::InferParameter>,
) -> Result<(), Refusal> {
    use pb::infer_parameter::ParameterChoice::StringParam;
    if !parameters.keys().any(|key| key.starts_with("shared_memory_")) {
        return Ok(());
    }
    let region = parameters.get("shared_memory_region").and_then(|region| region.parameter_choice.as_ref());
    match region {
        Some(StringParam(region)) if parameters.contains_key("shared_memory_byte_size") => {
            Err(Refusal::SharedMemory(region.clone()))
        }
        _ => Err(Refusal::Malformed(format!("incomplete shared-memory parameters for tensor '{tensor}'"))),
    }
}

/// Refuses a shape whose elements, signs aside, cannot be counted in bytes: Triton multiplies them out with wrap-around, and a
/// product that wraps to the right size kills the model's process.
pub(super) fn no_overflow(shape: &[i64], name: &str, model: &str) -> Result<(), Refusal> {
    const MOST: u64 = i64::MAX as u64 / 8;
    let count =
        |product: u64, &dim: &i64| product.checked_mul(dim.unsigned_abs()).filter(|count| *count <= MOST);
    match shape.iter().try_fold(1, count) {
        Some(_) => Ok(()),
        None => Err(Refusal::Dangerous(format!(
            "the element count of input '{name}' for model '{model}' overflows, got shape {shape:?}"
        ))),
    }
}

/// A request's shape, its batch dimension apart.
pub(super) struct Shape {
    pub(super) rows: usize,
    pub(super) dims: Vec<i64>,
    /// Elements in all rows.
    elements: u64,
}

impl Shape {
    pub(super) fn of(
        input: &pb::model_infer_request::InferInputTensor,
        batched: bool,
        batching: Batching,
        (model, id): (&str, &str),
    ) -> Result<Self, Refusal> {
        let (rows, dims) = match (batched, input.shape.split_first()) {
            (false, _) => (1, &input.shape[..]),
            (true, None) => {
                return Err(Refusal::Malformed(format!(
                    "input '{}' has no shape but model requires batch dimension for '{model}'",
                    input.name
                )));
            }
            (true, Some((&rows, dims))) => (rows, dims),
        };
        if batched {
            // Triton cuts the batch dimension to 32 bits and takes 0 for "no batch", so a count that we do not see here
            // must never reach it.
            let most = match batching {
                Batching::UpTo(most) => most,
                Batching::ByDims => MOST_ROWS,
            };
            if rows < 1 || rows > i64::from(most) {
                return Err(Refusal::Dangerous(format!(
                    "[request id: {id}] inference request batch-size must be <= {most} for '{model}'"
                )));
            }
        }
        if dims.iter().any(|&dim| dim < 0) {
            return Err(Refusal::Malformed(format!(
                "unexpected shape for input '{}' for model '{model}', got {:?}",
                input.name, input.shape
            )));
        }
        let elements = rows as u64 * dims.iter().map(|&dim| dim as u64).product::<u64>();
        Ok(Self { rows: rows as usize, dims: dims.to_vec(), elements })
    }

    pub(super) fn must_fit(
        &self,
        datatype: Datatype,
        found: usize,
        name: &str,
        model: &str,
    ) -> Result<(), Refusal> {
        let Some(size) = datatype.size() else { return Ok(()) };
        let expected = self.elements * size as u64;
        if expected == found as u64 {
            return Ok(());
        }
        Err(Refusal::Malformed(format!(
            "[request id: <id_unknown>] input byte size mismatch for input '{name}' for model '{model}'. Expected {expected}, got {found}"
        )))
    }
}

/// Typed elements as raw bytes. Integers keep their least significant bytes, as in Triton: 261 for UINT8 is 5.
pub(super) fn typed(
    contents: &pb::InferTensorContents,
    datatype: Datatype,
    name: &str,
    model: &str,
) -> Result<Bytes, Refusal> {
    let filled = [
        (!contents.bool_contents.is_empty(), "BOOL"),
        (!contents.int_contents.is_empty(), "INT32"),
        (!contents.int64_contents.is_empty(), "INT64"),
        (!contents.uint_contents.is_empty(), "UINT32"),
        (!contents.uint64_contents.is_empty(), "UINT64"),
        (!contents.fp32_contents.is_empty(), "FP32"),
        (!contents.fp64_contents.is_empty(), "FP64"),
        (!contents.bytes_contents.is_empty(), "BYTES"),
    ];
    let own = match datatype {
        Datatype::Bool => "BOOL",
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => "INT32",
        Datatype::Int64 => "INT64",
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => "UINT32",
        Datatype::Uint64 => "UINT64",
        Datatype::Fp32 => "FP32",
        Datatype::Fp64 => "FP64",
        Datatype::Bytes => "BYTES",
        Datatype::Fp16 | Datatype::Bf16 => "",
    };
    if let Some((_, foreign)) = filled.iter().find(|(is_filled, field)| *is_filled && *field != own) {
        return Err(Refusal::Malformed(format!(
            "unexpected explicit tensor data for input tensor '{name}' for model '{model}' of type '{foreign}', expected datatype '{datatype:?}'"
        )));
    }
    let mut data = Vec::new();
    match datatype {
        Datatype::Bool => data.extend(contents.bool_contents.iter().map(|&value| u8::from(value))),
        Datatype::Uint8 => data.extend(contents.uint_contents.iter().map(|&value| value as u8)),
        Datatype::Uint16 => {
            data.extend(contents.uint_contents.iter().flat_map(|&v| (v as u16).to_le_bytes()));
        }
        Datatype::Uint32 => data.extend(contents.uint_contents.iter().flat_map(|v| v.to_le_bytes())),
        Datatype::Uint64 => data.extend(contents.uint64_contents.iter().flat_map(|v| v.to_le_bytes())),
        Datatype::Int8 => data.extend(contents.int_contents.iter().map(|&value| value as u8)),
        Datatype::Int16 => data.extend(contents.int_contents.iter().flat_map(|&v| (v as u16).to_le_bytes())),
        Datatype::Int32 => data.extend(contents.int_contents.iter().flat_map(|v| v.to_le_bytes())),
        Datatype::Int64 => data.extend(contents.int64_contents.iter().flat_map(|v| v.to_le_bytes())),
        Datatype::Fp32 => data.extend(contents.fp32_contents.iter().flat_map(|v| v.to_le_bytes())),
        Datatype::Fp64 => data.extend(contents.fp64_contents.iter().flat_map(|v| v.to_le_bytes())),
        Datatype::Bytes => {
            for element in &contents.bytes_contents {
                data.extend((element.len() as u32).to_le_bytes());
                data.extend_from_slice(element);
            }
        }
        Datatype::Fp16 | Datatype::Bf16 => {}
    }
    Ok(data.into())
}

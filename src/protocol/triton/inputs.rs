//! One input of a request: whether its bytes are here, are as many as its shape says, and may be counted at all.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::answer::skip_elements;
use super::contents;
use crate::protocol::pb;
use crate::protocol::query::{MOST_ROWS, Refusal};
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

/// One input, its elements as raw little-endian bytes, whichever way they travelled.
pub(super) struct Input {
    pub(super) datatype: Datatype,
    /// Dimensions of one row.
    pub(super) dims: Vec<i64>,
    /// Elements of all rows.
    pub(super) data: Bytes,
    pub(super) batched: bool,
    /// Where each row of BYTES elements begins, and where the last ends; empty for elements of one size. An input that is not
    /// batched is one row.
    starts: Vec<usize>,
}

impl Input {
    /// None where BYTES elements are cut off or too many.
    pub(super) fn new(datatype: Datatype, shape: Shape, data: Bytes, batched: bool) -> Option<Self> {
        let Shape { rows, dims, .. } = shape;
        let mut starts = Vec::new();
        if datatype == Datatype::Bytes {
            let elements = dims.iter().product::<i64>() as usize;
            starts.push(0);
            for row in 0..rows {
                starts.push(skip_elements(&data, starts[row], elements)?);
            }
            if starts[rows] != data.len() {
                return None;
            }
        }
        Some(Self { datatype, dims, data, batched, starts })
    }

    /// The bytes of one of the `rows` rows of a batched input.
    pub(super) fn row(&self, row: usize, rows: usize) -> &[u8] {
        match self.starts.get(row..row + 2) {
            Some(bounds) => &self.data[bounds[0]..bounds[1]],
            None => {
                let length = self.data.len() / rows;
                &self.data[row * length..(row + 1) * length]
            }
        }
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
        (model, id): (&str, &str),
    ) -> Result<(), Refusal> {
        let Some(size) = datatype.size() else { return Ok(()) };
        let expected = self.elements * size as u64;
        if expected == found as u64 {
            return Ok(());
        }
        Err(Refusal::Malformed(format!(
            "[request id: {id}] input byte size mismatch for input '{name}' for model '{model}'. Expected {expected}, got {found}"
        )))
    }
}

/// Typed elements as raw bytes; elements of another type are refused, as the server refuses them.
pub(super) fn typed(
    elements: &pb::InferTensorContents,
    datatype: Datatype,
    name: &str,
    model: &str,
) -> Result<Bytes, Refusal> {
    let filled = [
        (!elements.bool_contents.is_empty(), "BOOL"),
        (!elements.int_contents.is_empty(), "INT32"),
        (!elements.int64_contents.is_empty(), "INT64"),
        (!elements.uint_contents.is_empty(), "UINT32"),
        (!elements.uint64_contents.is_empty(), "UINT64"),
        (!elements.fp32_contents.is_empty(), "FP32"),
        (!elements.fp64_contents.is_empty(), "FP64"),
        (!elements.bytes_contents.is_empty(), "BYTES"),
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
    Ok(contents::to_raw(elements, datatype))
}

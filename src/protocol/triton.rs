//! One `ModelInfer` request: its rows, its form, and the request for some of its rows alone.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use prost::Message;

use super::answer::Wanted;
use super::pb;
use super::signature::{Batching, Signature};
use super::tensor::{Datatype, Reading, Tensor, Unreadable};
use crate::judgment::Image;

/// The most rows read of a model that states no `max_batch_size`.
pub const MOST_ROWS: u32 = 4096;

/// Why a request is not judged.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Against the protocol or the model's signature: the upstream refuses it too, and better knows in which words.
    /// Only if it should accept it after all is the caller told ours.
    #[error("{0}")]
    Malformed(String),
    /// What the upstream may accept although it means something else there, or must not see at all.
    #[error("{0}")]
    Dangerous(String),
    /// It names a shared-memory region, whose pixels nobody here can see.
    #[error("Unable to find shared memory region: '{0}'")]
    SharedMemory(String),
    /// No picture that we can read.
    #[error("input '{input}' cannot be read: {why}")]
    Unreadable {
        /// The input's name.
        input: String,
        /// What is wrong with it.
        why: Unreadable,
        /// Whether the model takes no such type or shape either.
        is_foreign: bool,
    },
}

/// A request whose bytes fit its shapes, its picture found; rows are numbered 0 to `rows` - 1.
pub struct Query {
    message: pb::ModelInferRequest,
    /// As decoded from: the message without its prefix.
    payload: Bytes,
    inputs: Vec<Input>,
    image: usize,
    /// Rows in the request, 1 or more.
    pub rows: usize,
    /// Rows can be asked for and answered one by one.
    pub splits: bool,
}

struct Input {
    tensor: Tensor,
    batched: bool,
}

impl Query {
    /// Decodes a request; anything that protobuf refuses is refused as the server would.
    pub fn decode(payload: &Bytes) -> Result<pb::ModelInferRequest, Refusal> {
        pb::ModelInferRequest::decode(payload.clone())
            .map_err(|_| Refusal::Malformed("Unable to parse request".into()))
    }

    /// Reads `message` by the model's `signature`; the picture is the input named `chosen`, else the first shaped like one.
    ///
    /// The signature must have an image input by the same choice. Nothing is copied but typed contents; shapes are
    /// multiplied out and compared with the bytes that are there before any memory is asked for.
    pub fn read(
        message: pb::ModelInferRequest,
        payload: Bytes,
        signature: &Signature,
        chosen: Option<&str>,
    ) -> Result<Self, Refusal> {
        let model = message.model_name.clone();
        let parameters = message.inputs.iter().map(|input| (&input.name, &input.parameters));
        let of_outputs = message.outputs.iter().map(|output| (&output.name, &output.parameters));
        for (tensor, parameters) in parameters.chain(of_outputs) {
            no_shared_memory(tensor, parameters)?;
        }
        let wanted = signature.image_input(chosen).map(|input| input.name.as_str()).unwrap_or_default();
        let Some(image) = message.inputs.iter().position(|input| input.name == wanted) else {
            return Err(Refusal::Malformed(format!("missing required input '{wanted}' for model '{model}'")));
        };
        if message.inputs.iter().filter(|input| input.name == wanted).count() > 1 {
            return Err(Refusal::Malformed(format!("input '{wanted}' already exists in request")));
        }
        let id = if message.id.is_empty() { "<id_unknown>" } else { &message.id };
        let mut raw = message.raw_input_contents.iter();
        let mut inputs = Vec::with_capacity(message.inputs.len());
        let mut rows = None;
        for (at, input) in message.inputs.iter().enumerate() {
            let spec = signature.inputs.iter().find(|spec| spec.name == input.name);
            let batched = spec.is_some_and(|spec| spec.batched);
            let shape = Shape::of(input, batched, signature.batching, (&model, id))?;
            let datatype = Datatype::of_name(&input.datatype).ok_or_else(|| {
                Refusal::Malformed(format!("inference input '{}' data-type is '<invalid>'", input.name))
            })?;
            let data = match &input.contents {
                Some(_) if !message.raw_input_contents.is_empty() => {
                    return Err(Refusal::Malformed(format!(
                        "contents field must not be specified when using raw_input_contents for '{}' for model '{model}'",
                        input.name
                    )));
                }
                Some(contents) => typed(contents, datatype, &input.name, &model)?,
                None => raw.next().cloned().ok_or_else(|| {
                    Refusal::Malformed(format!(
                        "unable to find data for input tensor '{}' for model '{model}' in request.",
                        input.name
                    ))
                })?,
            };
            shape.must_fit(datatype, data.len(), &input.name, &model)?;
            if batched {
                // The image is the measure: another input of another batch size is refused by the server.
                if *rows.get_or_insert(shape.rows) != shape.rows {
                    return Err(Refusal::Malformed(format!(
                        "input '{}' batch size does not match other inputs for '{model}'",
                        input.name
                    )));
                }
            } else if at == image {
                rows.get_or_insert(1);
            }
            inputs.push(Input { tensor: Tensor { datatype, dims: shape.dims, data }, batched });
        }
        let rows = if inputs[image].batched { rows.unwrap_or(1) } else { 1 };
        Ok(Self { splits: signature.splits(), message, payload, inputs, image, rows })
    }

    /// The model asked.
    pub fn model(&self) -> &str {
        &self.message.model_name
    }

    /// The version asked for; empty for the newest.
    pub fn version(&self) -> &str {
        &self.message.model_version
    }

    /// The id, to be echoed.
    pub fn id(&self) -> &str {
        &self.message.id
    }

    /// Bytes of the request, for the time layer's strata.
    pub fn bytes(&self) -> usize {
        self.payload.len()
    }

    /// Row `row` as a picture.
    pub fn image(&self, row: usize, reading: Reading, signature: &Signature) -> Result<Image<'_>, Refusal> {
        let image = &self.inputs[self.image].tensor;
        image.image(row, self.rows, reading).map_err(|why| Refusal::Unreadable {
            input: self.message.inputs[self.image].name.clone(),
            why,
            is_foreign: !self.is_native(self.image, signature),
        })
    }

    /// Whether input `at` has a type and a shape that the model takes.
    fn is_native(&self, at: usize, signature: &Signature) -> bool {
        let (name, tensor) = (&self.message.inputs[at].name, &self.inputs[at].tensor);
        let spec = signature.inputs.iter().find(|spec| spec.name == *name);
        spec.is_some_and(|spec| spec.datatype == Some(tensor.datatype) && spec.takes(&tensor.dims))
    }

    /// Whether the request has inputs besides the picture.
    pub fn has_other_inputs(&self) -> bool {
        self.inputs.len() > 1
    }

    /// A keyed digest of what row `row` gives the model besides the picture; 0 where it gives nothing.
    pub fn other_inputs(&self, row: usize, key: &[u8; 32]) -> u64 {
        if !self.has_other_inputs() {
            return 0;
        }
        let mut hasher = blake3::Hasher::new_keyed(key);
        // By name: the order of inputs is free.
        let mut others: Vec<_> = self.inputs.iter().zip(&self.message.inputs).collect();
        others.remove(self.image);
        others.sort_by(|(_, one), (_, other)| one.name.cmp(&other.name));
        for (input, described) in others {
            absorb(&mut hasher, described.name.as_bytes());
            absorb(&mut hasher, described.datatype.as_bytes());
            for dim in &input.tensor.dims {
                hasher.update(&dim.to_le_bytes());
            }
            let data = if input.batched {
                slice_row(&input.tensor, row, self.rows).unwrap_or_default()
            } else {
                input.tensor.data.clone()
            };
            absorb(&mut hasher, &data);
        }
        short(&hasher)
    }

    /// A keyed digest of the form of the answer: 0 for plain tensors, something else for any other form.
    pub fn form(&self, key: &[u8; 32]) -> u64 {
        if self.wants_plain_outputs() {
            return 0;
        }
        let mut hasher = blake3::Hasher::new_keyed(key);
        for output in &self.message.outputs {
            absorb(&mut hasher, &output.encode_to_vec());
        }
        short(&hasher).max(1)
    }

    /// Whether every output, named or not, is asked for as a plain tensor. The server ignores parameters that it does not know.
    pub fn wants_plain_outputs(&self) -> bool {
        self.message.outputs.iter().all(|output| !output.parameters.contains_key("classification"))
    }

    /// What the reply to this request must hold.
    pub fn wanted(&self) -> Wanted<'_> {
        let names = self.message.outputs.iter().map(|output| output.name.as_str());
        Wanted { id: &self.message.id, outputs: names.collect() }
    }

    /// A keyed digest of everything in the request but pixels, id and free parameters: one form, one digest.
    ///
    /// Parameters that the server itself acts on are part of it, their values included; so are the other inputs' values.
    pub fn validity(&self, key: &[u8; 32]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(key);
        absorb(&mut hasher, self.message.model_name.as_bytes());
        absorb(&mut hasher, self.message.model_version.as_bytes());
        for (input, described) in self.inputs.iter().zip(&self.message.inputs) {
            absorb(&mut hasher, described.name.as_bytes());
            absorb(&mut hasher, described.datatype.as_bytes());
            hasher.update(&(described.shape.len() as u64).to_le_bytes());
            for dim in &described.shape {
                hasher.update(&dim.to_le_bytes());
            }
            if described.name != self.message.inputs[self.image].name {
                absorb(&mut hasher, &input.tensor.data);
            }
        }
        for output in &self.message.outputs {
            absorb(&mut hasher, &output.encode_to_vec());
        }
        for (key, value) in self.message.parameters.iter().filter(|(key, value)| !is_free(key, value)) {
            absorb(&mut hasher, key.as_bytes());
            absorb(&mut hasher, &value.encode_to_vec());
        }
        let mut digest = [0; 16];
        digest.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        digest
    }

    /// Whether the signature alone shows that the model server accepts this form.
    ///
    /// False is no refusal: the form may be fine and merely not provable, for want of a full configuration. What the values
    /// of other inputs do is not in a signature.
    pub fn is_accepted_by(&self, signature: &Signature) -> bool {
        let within = match signature.batching {
            Batching::UpTo(most) => self.rows <= most as usize,
            Batching::ByDims => true,
        };
        let needed = signature.inputs.iter().filter(|spec| !spec.optional);
        let has = |name: &str| self.message.inputs.iter().filter(|input| input.name == name).count();
        signature.complete
            && within
            && needed.clone().all(|spec| has(&spec.name) == 1)
            && self.message.inputs.iter().all(|input| has(&input.name) == 1)
            && (0..self.inputs.len()).all(|at| self.is_native(at, signature))
            && self.version_is_among(&signature.versions)
            && self.names_known_outputs(signature)
            && self.message.parameters.iter().all(|(key, value)| is_free(key, value))
    }

    fn names_known_outputs(&self, signature: &Signature) -> bool {
        let known = |name: &str| signature.outputs.iter().any(|output| output.name == name);
        self.wants_plain_outputs() && self.message.outputs.iter().all(|output| known(&output.name))
    }

    fn version_is_among(&self, versions: &[String]) -> bool {
        let asked = &self.message.model_version;
        asked.is_empty() || versions.contains(&super::signature::canonical_version(asked, versions))
    }

    /// The message to send for all rows: none where the caller's own bytes will do.
    ///
    /// A request that names plain outputs is sent without the names, so that all outputs come back and can be kept.
    /// Names that the model does not have stay, for the server to refuse.
    pub fn for_all_rows(&self, signature: &Signature) -> Option<Bytes> {
        let named = !self.message.outputs.is_empty() && self.names_known_outputs(signature);
        named.then(|| without_outputs(&self.payload))
    }

    /// The message that asks for `rows` alone (ascending, each below [`Query::rows`]).
    pub fn for_rows(&self, rows: &[usize]) -> pb::ModelInferRequest {
        let mut message = self.message.clone();
        if self.wants_plain_outputs() {
            message.outputs.clear();
        }
        message.raw_input_contents.clear();
        for (input, described) in self.inputs.iter().zip(&mut message.inputs) {
            described.contents = None;
            if input.batched {
                described.shape[0] = rows.len() as i64;
                let mut data = BytesMut::new();
                for &row in rows {
                    data.extend_from_slice(&slice_row(&input.tensor, row, self.rows).unwrap_or_default());
                }
                message.raw_input_contents.push(data.freeze());
            } else {
                message.raw_input_contents.push(input.tensor.data.clone());
            }
        }
        message
    }
}

/// Refuses a tensor whose bytes are elsewhere. Triton reads a region only where its size stands beside it; anything else that
/// speaks of one it refuses itself.
fn no_shared_memory(tensor: &str, parameters: &BTreeMap<String, pb::InferParameter>) -> Result<(), Refusal> {
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

/// A parameter that the server hands on without acting on it.
fn is_free(key: &str, value: &pb::InferParameter) -> bool {
    use pb::infer_parameter::ParameterChoice::{Int64Param, Uint64Param};
    let acted_on =
        key.starts_with("triton_") || key.starts_with("sequence_") || key == "priority" || key == "timeout";
    !acted_on && !matches!(value.parameter_choice, None | Some(Uint64Param(_)))
        // A priority that is a whole number changes when an answer comes, not which.
        || (key == "priority" && matches!(value.parameter_choice, Some(Int64Param(0..) | Uint64Param(_))))
        || (key == "timeout" && matches!(value.parameter_choice, Some(Int64Param(_))))
}

/// A request's shape, its batch dimension apart.
struct Shape {
    rows: usize,
    dims: Vec<i64>,
    /// Elements in all rows.
    elements: u64,
}

impl Shape {
    fn of(
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
        let elements = dims.iter().try_fold(rows as u64, |product, &dim| {
            product.checked_mul(dim as u64).filter(|&product| product <= i64::MAX as u64 / 8)
        });
        let elements = elements.ok_or_else(|| {
            Refusal::Dangerous(format!(
                "the element count of input '{}' for model '{model}' overflows, got shape {:?}",
                input.name, input.shape
            ))
        })?;
        Ok(Self { rows: rows as usize, dims: dims.to_vec(), elements })
    }

    fn must_fit(&self, datatype: Datatype, found: usize, name: &str, model: &str) -> Result<(), Refusal> {
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
fn typed(
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

/// The bytes of one row of a batched tensor; none where BYTES elements do not add up.
fn slice_row(tensor: &Tensor, row: usize, rows: usize) -> Option<Bytes> {
    let data = &tensor.data;
    if tensor.datatype.size().is_some() {
        let length = data.len() / rows;
        return Some(data.slice(row * length..(row + 1) * length));
    }
    let elements = tensor.dims.iter().product::<i64>() as usize;
    let start = super::answer::skip_elements(data, 0, row.checked_mul(elements)?)?;
    let end = super::answer::skip_elements(data, start, elements)?;
    Some(data.slice(start..end))
}

/// `payload` without its `outputs` (field 6); everything else, fields that we do not know included, stays as it was.
fn without_outputs(payload: &Bytes) -> Bytes {
    use prost::encoding::{WireType, decode_key, decode_varint};
    const OUTPUTS: u32 = 6;
    let mut kept = BytesMut::with_capacity(payload.len());
    let mut rest = &payload[..];
    while !rest.is_empty() {
        let field = rest;
        let Ok((number, wire_type)) = decode_key(&mut rest) else { break };
        let length = match wire_type {
            WireType::Varint => decode_varint(&mut rest).map(|_| 0),
            WireType::LengthDelimited => decode_varint(&mut rest),
            WireType::SixtyFourBit => Ok(8),
            WireType::ThirtyTwoBit => Ok(4),
            WireType::StartGroup | WireType::EndGroup => Ok(0),
        };
        // The message was decoded before, so every field has its length.
        let Some(after) = length.ok().and_then(|length| rest.get(length as usize..)) else { break };
        rest = after;
        if number != OUTPUTS {
            kept.extend_from_slice(&field[..field.len() - rest.len()]);
        }
    }
    kept.freeze()
}

fn absorb(hasher: &mut blake3::Hasher, part: &[u8]) {
    hasher.update(&(part.len() as u64).to_le_bytes());
    hasher.update(part);
}

fn short(hasher: &blake3::Hasher) -> u64 {
    let digest = hasher.finalize();
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest.as_bytes()[..8]);
    u64::from_le_bytes(bytes)
}

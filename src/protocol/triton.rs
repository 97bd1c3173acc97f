//! One `ModelInfer` request: its rows, its form, and the request for some of its rows alone.

use bytes::{Bytes, BytesMut};
use prost::Message;

use super::answer::Wanted;
use super::pb;
use super::signature::{Batching, Signature};
use super::tensor::{Datatype, Reading, Tensor, Unreadable};
use crate::judgment::Image;
use inputs::{Shape, no_overflow, no_shared_memory, typed};

mod inputs;

/// The most rows read of a model that states no `max_batch_size`.
pub const MOST_ROWS: u32 = 256;

/// The output parameter that asks for classes in place of a tensor.
const CLASSIFICATION: &str = "classification";

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
    /// Where each row of BYTES elements begins, and where the last ends; empty for elements of one size. An input that is not
    /// batched is one row.
    starts: Vec<usize>,
}

impl Input {
    fn new(tensor: Tensor, batched: bool, rows: usize) -> Option<Self> {
        let mut starts = Vec::new();
        if tensor.datatype == Datatype::Bytes {
            let elements = tensor.dims.iter().product::<i64>() as usize;
            starts.push(0);
            for row in 0..rows {
                starts.push(super::answer::skip_elements(&tensor.data, starts[row], elements)?);
            }
            if starts[rows] != tensor.data.len() {
                return None;
            }
        }
        Some(Self { tensor, batched, starts })
    }

    /// The bytes of one row of a batched input.
    fn row(&self, row: usize, rows: usize) -> Bytes {
        let data = &self.tensor.data;
        match self.starts.get(row..row + 2) {
            Some(bounds) => data.slice(bounds[0]..bounds[1]),
            None => {
                let length = data.len() / rows;
                data.slice(row * length..(row + 1) * length)
            }
        }
    }
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
        let names = message.inputs.iter().map(|input| &input.name);
        if let Some(name) =
            names.chain(message.outputs.iter().map(|output| &output.name)).find(|name| name.contains('\0'))
        {
            // Triton's names end at a NUL, so this one would be another's alias.
            return Err(Refusal::Malformed(format!("unexpected name {name:?} for model '{model}'")));
        }
        let parameters = message.inputs.iter().map(|input| (&input.name, &input.parameters));
        let of_outputs = message.outputs.iter().map(|output| (&output.name, &output.parameters));
        for (tensor, parameters) in parameters.chain(of_outputs) {
            no_shared_memory(tensor, parameters)?;
        }
        for input in &message.inputs {
            no_overflow(&input.shape, &input.name, &model)?;
        }
        let wanted = signature.image_input(chosen).map(|input| input.name.as_str()).unwrap_or_default();
        let image_is_batched = signature.image_input(chosen).is_some_and(|input| input.batched);
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
            // Rows are pictures: where those are not batched, a leading -1 of another input counts something else.
            let batched = spec.is_some_and(|spec| spec.batched) && image_is_batched;
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
            let tensor = Tensor { datatype, dims: shape.dims, data };
            let read = Input::new(tensor, batched, shape.rows).ok_or_else(|| {
                Refusal::Malformed(format!("incomplete string data for inference input '{}'", input.name))
            })?;
            inputs.push(read);
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

    /// For each row, a keyed digest of what it gives the model besides the picture; all 0 where there is nothing.
    ///
    /// Every byte is hashed once, however many rows share it.
    pub fn other_inputs(&self, key: &[u8; 32]) -> Vec<u64> {
        if !self.has_other_inputs() {
            return vec![0; self.rows];
        }
        // By name: the order of inputs is free.
        let mut others: Vec<_> = self.inputs.iter().zip(&self.message.inputs).collect();
        others.remove(self.image);
        others.sort_by(|(_, one), (_, other)| one.name.cmp(&other.name));
        let mut shared = blake3::Hasher::new_keyed(key);
        for (input, described) in &others {
            absorb(&mut shared, described.name.as_bytes());
            absorb(&mut shared, described.datatype.as_bytes());
            absorb(
                &mut shared,
                &input.tensor.dims.iter().flat_map(|dim| dim.to_le_bytes()).collect::<Vec<_>>(),
            );
            if !input.batched {
                absorb(&mut shared, &input.tensor.data);
            }
        }
        let shared = shared.finalize();
        let of_row = |row| {
            let mut hasher = blake3::Hasher::new_keyed(key);
            hasher.update(shared.as_bytes());
            for (input, _) in others.iter().filter(|(input, _)| input.batched) {
                absorb(&mut hasher, &input.row(row, self.rows));
            }
            short(&hasher)
        };
        (0..self.rows).map(of_row).collect()
    }

    /// A keyed digest of the form of the answer: 0 for plain tensors, something else for any other form.
    pub fn form(&self, key: &[u8; 32]) -> u64 {
        if self.wants_plain_outputs() {
            return 0;
        }
        // The names and how many classes of each, in one order: what the server ignores makes no other form.
        let mut outputs: Vec<_> = self.message.outputs.iter().collect();
        outputs.sort_by(|one, other| one.name.cmp(&other.name));
        let mut hasher = blake3::Hasher::new_keyed(key);
        for output in outputs {
            absorb(&mut hasher, output.name.as_bytes());
            let classes = output.parameters.get(CLASSIFICATION).map(Message::encode_to_vec);
            absorb(&mut hasher, &classes.unwrap_or_default());
        }
        short(&hasher).max(1)
    }

    /// Whether every output, named or not, is asked for as a plain tensor. The server ignores parameters that it does not know.
    pub fn wants_plain_outputs(&self) -> bool {
        self.message.outputs.iter().all(|output| !output.parameters.contains_key(CLASSIFICATION))
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
        // Counted first: what follows looks at every input for every input.
        self.message.inputs.len() <= signature.inputs.len()
            && signature.complete
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
                    data.extend_from_slice(&input.row(row, self.rows));
                }
                message.raw_input_contents.push(data.freeze());
            } else {
                message.raw_input_contents.push(input.tensor.data.clone());
            }
        }
        message
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

/// `payload` without its `outputs` (field 6); everything else, fields that we do not know included, stays as it was.
fn without_outputs(payload: &Bytes) -> Bytes {
    use prost::encoding::{WireType, decode_key, decode_varint};
    const OUTPUTS: u32 = 6;
    let mut kept = BytesMut::with_capacity(payload.len());
    let mut rest = &payload[..];
    // Inside a group, which only a field that we do not know can be, the numbers are the group's own.
    let mut groups = 0;
    while !rest.is_empty() {
        let field = rest;
        let Ok((number, wire_type)) = decode_key(&mut rest) else { break };
        match wire_type {
            WireType::StartGroup => groups += 1,
            WireType::EndGroup => groups -= 1,
            _ => {}
        }
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
        if number != OUTPUTS || groups > 0 {
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

#[cfg(test)]
mod tests;

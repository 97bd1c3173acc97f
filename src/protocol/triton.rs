//! One `ModelInfer` request, alone or as a message of a stream: its rows, its form, and the request for some of its rows alone.
//!
//! - `inputs`: whether an input's bytes are here, are as many as its shape says, and may be counted at all;
//! - `contents`: typed elements as raw bytes, and back;
//! - `outputs`: which outputs are asked for, and in which form;
//! - `stream`: replies as messages of a stream;
//! - `answer`: a reply into one answer per row, and answers back into a reply;
//! - `scores`: the scores in an answer, rewritten.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use prost::Message;

use super::answer::AnswerError;
use super::query::{Burden, Family, How, MOST_ROWS, ModelKey, Query, Refusal, Request, Told};
use super::scores::Rewrite;
use super::signature::{Batching, Signature, canonical_version};
use super::tensor::{self, Datatype, Unreadable};
use super::wire::{self, Nested};
use super::{digest, encoded, pb};
use crate::judgment::Image;
use inputs::{Input, Shape, no_overflow, no_shared_memory, typed};
use outputs::{Outputs, no_classes_of_text};

mod answer;
mod contents;
mod inputs;
mod outputs;
mod scores;
pub mod stream;

/// The number of `outputs` in a request.
const OUTPUTS: u32 = 6;

/// A decoded `ModelInferRequest`.
pub struct Infer(pb::ModelInferRequest);

/// The messages in a request.
static NESTED: Nested = {
    static LEAF: Nested = Nested(&[]);
    static PARAMETERS: Nested = Nested(&[(2, &LEAF)]);
    static INPUT: Nested = Nested(&[(4, &PARAMETERS), (5, &LEAF)]);
    static OUTPUT: Nested = Nested(&[(2, &PARAMETERS)]);
    Nested(&[(4, &PARAMETERS), (5, &INPUT), (OUTPUTS, &OUTPUT)])
};

/// Decodes a request; anything that protobuf refuses is refused as the server would.
pub fn decode(payload: &Bytes) -> Result<Box<dyn Request>, Refusal> {
    let message = pb::ModelInferRequest::decode(payload.clone()).ok();
    message
        .filter(|_| wire::is_read_by_all(payload, &NESTED))
        .map(|message| Box::new(Infer(message)) as Box<dyn Request>)
        .ok_or_else(|| Refusal::Malformed("Unable to parse request".into()))
}

impl Request for Infer {
    fn asks(&self) -> ModelKey {
        ModelKey { family: Family::Kserve, name: self.0.model_name.clone(), ..ModelKey::default() }
    }

    fn id(&self) -> &str {
        &self.0.id
    }

    fn most_rows(&self) -> usize {
        let first = self.0.inputs.iter().filter_map(|input| input.shape.first());
        first.max().map_or(1, |&rows| rows.clamp(1, i64::from(MOST_ROWS)) as usize)
    }

    /// Triton 2.51 dies of an element count that overflows, and of classes of an output that is no number.
    fn must_not_harm(&self, signature: &Signature) -> Result<(), Refusal> {
        let model = &self.0.model_name;
        for input in &self.0.inputs {
            no_overflow(&input.shape, &input.name, model)?;
        }
        no_classes_of_text(&self.0.outputs, signature)
    }

    fn read(
        self: Box<Self>,
        payload: Bytes,
        signature: &Signature,
        how: How<'_>,
    ) -> Result<Arc<dyn Query>, Refusal> {
        Ok(Arc::new(InferQuery::read(self.0, payload, signature, how)?))
    }
}

/// A `ModelInferRequest` that was read.
struct InferQuery {
    message: pb::ModelInferRequest,
    /// As decoded from: the message without its prefix.
    payload: Bytes,
    inputs: Vec<Input>,
    image: usize,
    reading: tensor::Reading,
    /// Whether each input has a type and a shape that the model takes.
    native: Vec<bool>,
    outputs: Outputs,
    rows: usize,
    splits: bool,
    /// The server told the model's whole configuration.
    complete: bool,
    /// The model states no most rows.
    by_dims: bool,
}

impl InferQuery {
    /// Reads `message` by the model's `signature`, which must have an image input by `how`'s choice.
    fn read(
        message: pb::ModelInferRequest,
        payload: Bytes,
        signature: &Signature,
        how: How<'_>,
    ) -> Result<Self, Refusal> {
        let model = message.model_name.as_str();
        no_aliases(&message)?;
        let parameters = message.inputs.iter().map(|input| (&input.name, &input.parameters));
        let of_outputs = message.outputs.iter().map(|output| (&output.name, &output.parameters));
        for (tensor, parameters) in parameters.chain(of_outputs) {
            no_shared_memory(tensor, parameters)?;
        }
        for input in &message.inputs {
            no_overflow(&input.shape, &input.name, model)?;
        }
        let spec = signature.image_input(how.image_input, how.reading.layout);
        let wanted = spec.map(|input| input.name.as_str()).unwrap_or_default();
        let image_is_batched = spec.is_some_and(|input| input.batched);
        let Some(image) = message.inputs.iter().position(|input| input.name == wanted) else {
            return Err(Refusal::Malformed(format!("missing required input '{wanted}' for model '{model}'")));
        };
        if message.inputs.iter().filter(|input| input.name == wanted).count() > 1 {
            return Err(Refusal::Malformed(format!("input '{wanted}' already exists in request")));
        }
        let contents = contents(&message)?;
        if how.image_input.is_none() && contents[image].0 == Datatype::Bytes && !contents[image].1.is_empty()
        {
            no_text(&contents)?;
        }
        let id = if message.id.is_empty() { "<id_unknown>" } else { &message.id };
        let mut inputs = Vec::with_capacity(message.inputs.len());
        let mut native = Vec::with_capacity(message.inputs.len());
        let mut rows = None;
        for (at, (input, (datatype, data))) in message.inputs.iter().zip(contents).enumerate() {
            let spec = signature.inputs.iter().find(|spec| spec.name == input.name);
            // Rows are pictures: where those are not batched, a leading -1 of another input counts something else.
            let batched = spec.is_some_and(|spec| spec.batched) && image_is_batched;
            let shape = Shape::of(input, batched, signature.batching, (model, id))?;
            shape.must_fit(datatype, data.len(), &input.name, (model, id))?;
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
            native.push(spec.is_some_and(|spec| spec.datatype == Some(datatype) && spec.takes(&shape.dims)));
            inputs.push(Input::new(datatype, shape, data, batched).ok_or_else(|| {
                Refusal::Malformed(format!("incomplete string data for inference input '{}'", input.name))
            })?);
        }
        if !native[image] {
            // Some servers do not look, and would take the same bytes for another picture.
            let (found, dims) = (&message.inputs[image], &inputs[image].dims);
            return Err(Refusal::Malformed(format!(
                "[request id: {id}] unexpected type or shape for input '{wanted}' for model '{model}'. Expected {:?} {:?}, got {} {dims:?}",
                spec.and_then(|spec| spec.datatype),
                spec.map(|spec| &spec.dims),
                found.datatype
            )));
        }
        let rows = if inputs[image].batched { rows.unwrap_or(1) } else { 1 };
        let outputs = Outputs::of(&message.outputs, signature, model)?;
        let splits = signature.splits();
        let reading = how.reading;
        let (complete, by_dims) = (signature.complete, signature.batching == Batching::ByDims);
        Ok(Self {
            message,
            payload,
            inputs,
            image,
            reading,
            native,
            outputs,
            rows,
            splits,
            complete,
            by_dims,
        })
    }

    /// The bytes of row `row` of the picture's input.
    fn row(&self, row: usize) -> &[u8] {
        self.inputs[self.image].row(row, self.rows)
    }

    /// The one element of row `row` of BYTES: its length stands before it.
    fn element(&self, row: usize) -> Result<&[u8], Unreadable> {
        let dims = &self.inputs[self.image].dims;
        if dims.iter().product::<i64>() != 1 {
            return Err(Unreadable::Shape(dims.clone()));
        }
        Ok(&self.row(row)[4..])
    }

    /// The picture of row `row` where it travels as a file.
    fn file(&self, row: usize) -> Option<&[u8]> {
        let is_file = self.inputs[self.image].datatype == Datatype::Bytes;
        is_file.then(|| self.element(row).ok()).flatten()
    }

    fn version_is_among(&self, versions: &[String]) -> bool {
        let asked = &self.message.model_version;
        asked.is_empty() || versions.contains(&canonical_version(asked, versions))
    }
}

impl Query for InferQuery {
    fn rows(&self) -> usize {
        self.rows
    }

    fn splits(&self) -> bool {
        self.splits
    }

    fn version(&self) -> &str {
        &self.message.model_version
    }

    fn burden(&self) -> Burden {
        let mut burden = Burden::default();
        for (at, input) in self.inputs.iter().enumerate() {
            if at == self.image && input.datatype == Datatype::Bytes {
                (0..self.rows).filter_map(|row| self.file(row)).for_each(|file| burden.add_file(file));
            } else {
                burden.tensors += input.data.len();
            }
        }
        burden
    }

    fn decode_bytes(&self) -> usize {
        let files = (0..self.rows).filter_map(|row| self.file(row));
        files.map(|file| encoded::decode_bytes(file, self.reading)).max().unwrap_or(0)
    }

    fn image(&self, row: usize) -> Result<Image<'_>, Refusal> {
        let input = &self.inputs[self.image];
        let image = match input.datatype {
            Datatype::Bytes => self.element(row).and_then(|element| encoded::image(element, self.reading)),
            datatype => tensor::image(datatype, &input.dims, self.row(row), self.reading),
        };
        image.map_err(|why| Refusal::Unreadable {
            input: self.message.inputs[self.image].name.clone(),
            row,
            why,
        })
    }

    fn has_other_inputs(&self) -> bool {
        self.inputs.len() > 1
    }

    /// Every byte is hashed once, however many rows share it.
    fn other_inputs(&self, key: &[u8; 32]) -> Vec<u64> {
        if !self.has_other_inputs() {
            return vec![0; self.rows];
        }
        // By name: the order of inputs is free.
        let mut others: Vec<_> = self.inputs.iter().zip(&self.message.inputs).collect();
        others.remove(self.image);
        others.sort_by(|(_, one), (_, other)| one.name.cmp(&other.name));
        let mut shared = blake3::Hasher::new_keyed(key);
        for (input, described) in &others {
            digest::absorb(&mut shared, described.name.as_bytes());
            digest::absorb(&mut shared, described.datatype.as_bytes());
            let dims: Vec<u8> = input.dims.iter().flat_map(|dim| dim.to_le_bytes()).collect();
            digest::absorb(&mut shared, &dims);
            if !input.batched {
                digest::absorb(&mut shared, &input.data);
            }
        }
        let shared = shared.finalize();
        let of_row = |row| {
            let mut hasher = blake3::Hasher::new_keyed(key);
            hasher.update(shared.as_bytes());
            for (input, _) in others.iter().filter(|(input, _)| input.batched) {
                digest::absorb(&mut hasher, input.row(row, self.rows));
            }
            digest::short(&hasher)
        };
        (0..self.rows).map(of_row).collect()
    }

    fn form(&self, key: &[u8; 32]) -> u64 {
        self.outputs.form(key)
    }

    /// Parameters that the server itself acts on are part of it, their values included; so are the other inputs' values.
    fn validity(&self, key: &[u8; 32]) -> Vec<[u8; 16]> {
        let mut hasher = blake3::Hasher::new_keyed(key);
        digest::absorb(&mut hasher, self.message.model_name.as_bytes());
        digest::absorb(&mut hasher, self.message.model_version.as_bytes());
        for (at, (input, described)) in self.inputs.iter().zip(&self.message.inputs).enumerate() {
            digest::absorb(&mut hasher, described.name.as_bytes());
            digest::absorb(&mut hasher, described.datatype.as_bytes());
            // How many rows may come is the signature's to say.
            let dims = if input.batched { &described.shape[1..] } else { &described.shape };
            digest::absorb(&mut hasher, &dims.iter().flat_map(|dim| dim.to_le_bytes()).collect::<Vec<_>>());
            if at != self.image {
                digest::absorb(&mut hasher, &input.data);
            }
        }
        if self.by_dims {
            hasher.update(&(self.rows.next_power_of_two() as u64).to_le_bytes());
        }
        // A server that tells no configuration may write its reply as the request was written, and refuse data that nobody reads.
        if !self.complete {
            hasher.update(&[u8::from(self.is_typed())]);
            hasher.update(&(self.message.raw_input_contents.len() as u64).to_le_bytes());
        }
        hasher.update(&self.form(key).to_le_bytes());
        for name in self.outputs.names() {
            digest::absorb(&mut hasher, name.as_bytes());
        }
        for (key, value) in self.message.parameters.iter().filter(|(key, value)| !is_free(key, value)) {
            digest::absorb(&mut hasher, key.as_bytes());
            digest::absorb(&mut hasher, &value.encode_to_vec());
        }
        let files = (0..self.rows).filter_map(|row| self.file(row));
        encoded::digests(&hasher, files)
    }

    /// What the values of other inputs do is not in a signature; neither is which sizes a model takes of those that it leaves
    /// open, nor which files it opens.
    fn is_accepted_by(&self, signature: &Signature) -> bool {
        let within = match signature.batching {
            Batching::UpTo(most) => self.rows <= most as usize,
            Batching::ByDims => true,
        };
        let image = &self.message.inputs[self.image].name;
        let is_settled = signature.inputs.iter().any(|spec| {
            spec.name == *image
                && spec.datatype != Some(Datatype::Bytes)
                && spec.dims.iter().all(|&dim| dim >= 0)
        });
        let needed = signature.inputs.iter().filter(|spec| !spec.optional);
        let has = |name: &str| self.message.inputs.iter().filter(|input| input.name == name).count();
        // Counted first: what follows looks at every input for every input.
        self.message.inputs.len() <= signature.inputs.len()
            && signature.complete
            && is_settled
            && within
            // Of a model that states no most rows, one is all that is sure.
            && (self.rows == 1 || signature.batching != Batching::ByDims)
            && needed.clone().all(|spec| has(&spec.name) == 1)
            && self.message.inputs.iter().all(|input| has(&input.name) == 1)
            && self.native.iter().all(|native| *native)
            && self.version_is_among(&signature.versions)
            && self.outputs.are_accepted_by(signature)
            && self.message.parameters.iter().all(|(key, value)| is_free(key, value))
    }

    /// Outputs that the model does not have stay named, for the server to refuse.
    fn for_all_rows(&self, signature: &Signature) -> Option<Bytes> {
        if self.outputs.are_all() {
            return None;
        }
        let mut payload = wire::without(&self.payload, OUTPUTS);
        let all = pb::ModelInferRequest { outputs: self.outputs.to_ask(signature), ..Default::default() };
        all.encode(&mut payload).expect("a BytesMut grows as needed");
        Some(payload.freeze())
    }

    fn for_rows(&self, rows: &[usize], signature: &Signature) -> Bytes {
        let mut message = self.message.clone();
        message.outputs = self.outputs.to_ask(signature);
        message.raw_input_contents.clear();
        for (input, described) in self.inputs.iter().zip(&mut message.inputs) {
            described.contents = None;
            if input.batched {
                described.shape[0] = rows.len() as i64;
                let mut data = BytesMut::new();
                for &row in rows {
                    data.extend_from_slice(input.row(row, self.rows));
                }
                message.raw_input_contents.push(data.freeze());
            } else {
                message.raw_input_contents.push(input.data.clone());
            }
        }
        message.encode_to_vec().into()
    }

    fn is_typed(&self) -> bool {
        self.message.inputs[self.image].contents.is_some()
    }

    fn told(&self, reply: Bytes, rows: usize) -> Result<Told, AnswerError> {
        let parsed = answer::decode(reply.clone())?;
        let kept = if self.rows == 1 {
            Ok(vec![answer::keep_whole(&parsed)])
        } else if self.splits {
            answer::split(&parsed, rows)
        } else {
            Ok(Vec::new())
        };
        let (version, typed) = (parsed.model_version.clone(), answer::is_typed(&parsed));
        let cut = answer::cut(parsed, &self.message.id, &self.outputs).map(|cut| cut.encode_to_vec());
        // Where encoding gives other bytes than the server's, both paths are encoded by us.
        let reply = cut.map(|cut| (cut != reply).then(|| cut.into()));
        Ok(Told { version, typed, rows: kept, reply })
    }

    fn rewritten(&self, answer: Bytes, by: Rewrite<'_>) -> Result<Bytes, AnswerError> {
        let mut row = answer::decode(answer)?;
        scores::rewrite(&mut row, by);
        Ok(row.encode_to_vec().into())
    }

    fn assemble(&self, answers: Vec<Bytes>, typed: Option<bool>) -> Result<Bytes, AnswerError> {
        let rows = answers.into_iter().map(answer::decode).collect::<Result<_, _>>()?;
        let mut reply = answer::join(rows)?;
        if let Some(typed) = typed {
            answer::recast(&mut reply, typed);
        }
        answer::name_sequence(&mut reply, &self.message.parameters);
        let reply = answer::cut(reply, &self.message.id, &self.outputs)?;
        Ok(reply.encode_to_vec().into())
    }
}

/// Refuses names that go on after their end: Triton's end at a NUL, so such a one would be another's alias.
fn no_aliases(message: &pb::ModelInferRequest) -> Result<(), Refusal> {
    let inputs = message.inputs.iter().map(|input| &input.name);
    let mut names = inputs.chain(message.outputs.iter().map(|output| &output.name));
    match names.find(|name| name.contains('\0')) {
        None => Ok(()),
        Some(name) => {
            Err(Refusal::Malformed(format!("unexpected name {name:?} for model '{}'", message.model_name)))
        }
    }
}

/// Each input's type and raw bytes, whichever way they travelled.
fn contents(message: &pb::ModelInferRequest) -> Result<Vec<(Datatype, Bytes)>, Refusal> {
    let model = &message.model_name;
    let mut raw = message.raw_input_contents.iter();
    let of_input = |input: &pb::model_infer_request::InferInputTensor| {
        let name = &input.name;
        let datatype = Datatype::of_name(&input.datatype).ok_or_else(|| {
            Refusal::Malformed(format!("inference input '{name}' data-type is '<invalid>'"))
        })?;
        let data = match &input.contents {
            Some(_) if !message.raw_input_contents.is_empty() => {
                return Err(Refusal::Malformed(format!(
                    "contents field must not be specified when using raw_input_contents for '{name}' for model '{model}'"
                )));
            }
            Some(contents) => typed(contents, datatype, name, model)?,
            // Only an input without contents of its own takes the next raw entry.
            None => raw.next().cloned().ok_or_else(|| {
                Refusal::Malformed(format!(
                    "unable to find data for input tensor '{name}' for model '{model}' in request."
                ))
            })?,
        };
        Ok((datatype, data))
    };
    message.inputs.iter().map(of_input).collect()
}

/// Whether every BYTES element is plain text: a text model's request, though one that takes pictures has the same signature.
fn no_text(contents: &[(Datatype, Bytes)]) -> Result<(), Refusal> {
    let mut texts = contents.iter().filter(|(datatype, _)| *datatype == Datatype::Bytes);
    let is_text =
        texts.all(|(_, data)| answer::elements(data).all(|element| element.is_some_and(encoded::is_text)));
    if is_text { Err(Refusal::Text) } else { Ok(()) }
}

/// A parameter that the server hands on without acting on it.
fn is_free(key: &str, value: &pb::InferParameter) -> bool {
    use pb::infer_parameter::ParameterChoice::{BoolParam, Int64Param, Uint64Param};
    let acted_on =
        key.starts_with("triton_") || key.starts_with("sequence_") || key == "priority" || key == "timeout";
    !acted_on && !matches!(value.parameter_choice, None | Some(Uint64Param(_)))
        // A priority that is a whole number changes when an answer comes, not which.
        || (key == "priority" && matches!(value.parameter_choice, Some(Int64Param(0..) | Uint64Param(_))))
        || (key == "timeout" && matches!(value.parameter_choice, Some(Int64Param(_))))
        || (key == "triton_enable_empty_final_response"
            && matches!(value.parameter_choice, Some(BoolParam(_))))
}

#[cfg(test)]
mod tests;

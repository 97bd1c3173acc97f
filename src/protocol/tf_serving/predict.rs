//! One `PredictRequest`: its rows, and the request for some of them alone.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use prost::Message;

use super::tensor::{Extent, MOST_FILLED, Tensor};
use super::{model_key, nested, outputs, scores, version_asked, version_told};
use crate::judgment::Image;
use crate::protocol::answer::AnswerError;
use crate::protocol::query::{Burden, How, MOST_ROWS, ModelKey, Query, Refusal, Request, Told};
use crate::protocol::scores::Rewrite;
use crate::protocol::signature::{Signature, TensorSpec};
use crate::protocol::tensor::{self, Datatype, Reading, Unreadable};
use crate::protocol::tensorflow::serving::PredictRequest;
use crate::protocol::{digest, encoded, wire};

/// Numbers of a request's fields.
const MODEL_SPEC: u32 = 1;
const INPUTS: u32 = 2;
const OUTPUT_FILTER: u32 = 3;
/// Who asks, by its own word: it changes nothing.
const CLIENT_ID: u32 = 6;

/// A decoded `PredictRequest`.
struct Predict(PredictRequest);

/// Decodes a request; anything that protobuf refuses is refused as the server would.
pub fn decode(payload: &Bytes) -> Result<Box<dyn Request>, Refusal> {
    match PredictRequest::decode(payload.clone()) {
        Ok(message) if wire::is_read_by_all(payload, &nested::PREDICT) => Ok(Box::new(Predict(message))),
        Ok(_) | Err(_) => Err(Refusal::Malformed("Unable to parse request".into())),
    }
}

impl Request for Predict {
    fn asks(&self) -> ModelKey {
        model_key(self.0.model_spec.as_ref())
    }

    /// TensorFlow Serving echoes none.
    fn id(&self) -> &'static str {
        ""
    }

    fn most_rows(&self) -> usize {
        let shapes = self.0.inputs.values().filter_map(|tensor| tensor.tensor_shape.as_ref());
        let first = shapes.filter_map(|shape| shape.dim.first()).map(|dim| dim.size).max();
        first.map_or(1, |rows| rows.clamp(1, i64::from(MOST_ROWS)) as usize)
    }

    /// A few bytes may stand for a tensor of any size, for which the server makes room.
    fn must_not_harm(&self, _: &Signature) -> Result<(), Refusal> {
        match extents(&self.0) {
            Ok(_) | Err(Refusal::Malformed(_)) => Ok(()),
            Err(refusal) => Err(refusal),
        }
    }

    fn read(
        self: Box<Self>,
        payload: Bytes,
        signature: &Signature,
        how: How<'_>,
    ) -> Result<Arc<dyn Query>, Refusal> {
        Ok(Arc::new(PredictQuery::read(self.0, payload, signature, how)?))
    }
}

/// One input of a request.
struct Input {
    alias: String,
    tensor: Tensor,
    /// Whether its first dimension counts the request's rows.
    batched: bool,
    /// Whether it has a type and a shape that the model takes.
    native: bool,
}

impl Input {
    fn row_dims(&self) -> &[i64] {
        if self.batched { &self.tensor.dims[1..] } else { &self.tensor.dims }
    }
}

/// A `PredictRequest` that was read.
struct PredictQuery {
    /// Without its inputs.
    message: PredictRequest,
    /// As decoded from: the message without its prefix.
    payload: Bytes,
    /// In the order of their aliases.
    inputs: Vec<Input>,
    image: usize,
    reading: Reading,
    version: String,
    rows: usize,
    splits: bool,
}

impl PredictQuery {
    /// Reads `message` by the model's `signature`, which must have an image input by `how`'s choice.
    fn read(
        mut message: PredictRequest,
        payload: Bytes,
        signature: &Signature,
        how: How<'_>,
    ) -> Result<Self, Refusal> {
        let extents = extents(&message)?;
        let spec_of = |alias: &str| signature.inputs.iter().find(|spec| spec.name == alias);
        if let Some(extra) = message.inputs.keys().find(|alias| spec_of(alias).is_none()) {
            return Err(Refusal::Malformed(format!(
                "input size does not match signature: sent extra: {extra}"
            )));
        }
        let wanted = signature.image_input(how.image_input, how.reading.layout);
        let Some((wanted, image)) = wanted
            .and_then(|spec| Some((spec, message.inputs.keys().position(|alias| *alias == spec.name)?)))
        else {
            let name = wanted.map(|spec| spec.name.as_str()).unwrap_or_default();
            return Err(Refusal::Malformed(format!("input size does not match signature: missing: {name}")));
        };
        let mut inputs = Vec::with_capacity(message.inputs.len());
        for ((alias, tensor), extent) in std::mem::take(&mut message.inputs).into_iter().zip(extents) {
            let tensor = Tensor::new(tensor, extent, &alias)?;
            inputs.push(Input { alias, tensor, batched: false, native: false });
        }
        let rows = rows_of(&inputs[image], wanted)?;
        let mut even = true;
        for input in &mut inputs {
            let Some(spec) = spec_of(&input.alias) else { continue };
            // Rows are pictures. A first dimension of another size counts something else, and the request stays in one piece.
            input.batched =
                wanted.batched && spec.batched && input.tensor.dims.first() == Some(&(rows as i64));
            even &= input.batched;
            input.native = spec.datatype.is_some()
                && spec.datatype == input.tensor.datatype()
                && spec.batched == input.batched
                && spec.takes(input.row_dims());
        }
        if how.image_input.is_none() && inputs[image].tensor.datatype() == Some(Datatype::Bytes) {
            no_text(&inputs)?;
        }
        if !inputs[image].native {
            // A session does not look at the shape that it is fed, and would take the same bytes for another picture.
            let (expected, found) = (wanted, &inputs[image].tensor);
            return Err(Refusal::Malformed(format!(
                "input '{}' does not match signature: expected {:?} {:?}, found {:?} {:?}",
                wanted.name,
                expected.datatype,
                expected.dims,
                found.datatype(),
                found.dims
            )));
        }
        let version = version_asked(message.model_spec.as_ref());
        let splits = signature.splits() && even;
        Ok(Self { message, payload, inputs, image, reading: how.reading, version, rows, splits })
    }

    /// The one element of row `row` of text.
    fn element(&self, row: usize) -> Result<&Bytes, Unreadable> {
        match self.inputs[self.image].tensor.text(row, self.rows) {
            [element] => Ok(element),
            _ => Err(Unreadable::Shape(self.inputs[self.image].row_dims().to_vec())),
        }
    }

    fn names_known_outputs(&self, signature: &Signature) -> bool {
        let filter = &self.message.output_filter;
        // Counted first: what follows looks at every name for every name. A name that comes twice is refused by the server.
        filter.len() <= signature.outputs.len()
            && filter.iter().enumerate().all(|(at, name)| {
                signature.outputs.iter().any(|output| output.name == *name) && !filter[..at].contains(name)
            })
    }

    /// What of the payload is neither read nor free: options of the server's that we do not know.
    fn rest(&self) -> Bytes {
        let fields = [INPUTS, MODEL_SPEC, OUTPUT_FILTER, CLIENT_ID];
        fields.iter().fold(self.payload.clone(), |rest, &number| wire::without(&rest, number).freeze())
    }
}

/// What each input counts, in the order of their aliases.
///
/// Every shape is counted before any is refused for another reason: the server makes room for one before it looks at the next.
fn extents(message: &PredictRequest) -> Result<Vec<Extent>, Refusal> {
    let mut filled = 0;
    let mut extents = Vec::with_capacity(message.inputs.len());
    let mut malformed = None;
    for (alias, tensor) in &message.inputs {
        match Extent::of(tensor, alias) {
            Ok(extent) => {
                filled += extent.filled;
                extents.push(extent);
            }
            Err(refusal @ Refusal::Malformed(_)) => malformed = malformed.or(Some(refusal)),
            Err(refusal) => return Err(refusal),
        }
        if filled > MOST_FILLED {
            return Err(Refusal::Dangerous("the values of all inputs are too many".into()));
        }
    }
    malformed.map_or(Ok(extents), Err)
}

/// How many pictures `input` holds by its `spec`.
fn rows_of(input: &Input, spec: &TensorSpec) -> Result<usize, Refusal> {
    let (alias, dims) = (&input.alias, &input.tensor.dims);
    if input.tensor.is_empty() {
        return Err(Refusal::Dangerous(format!("input '{alias}' holds nothing, got shape {dims:?}")));
    }
    let rows = match (spec.batched, dims.first()) {
        (false, _) => 1,
        (true, Some(&rows)) => rows,
        (true, None) => {
            return Err(Refusal::Malformed(format!("input '{alias}' has no shape but the model takes rows")));
        }
    };
    if rows > i64::from(MOST_ROWS) {
        return Err(Refusal::Dangerous(format!(
            "expected at most {MOST_ROWS} rows of input '{alias}', found {rows}"
        )));
    }
    Ok(rows as usize)
}

/// Refuses what a text model is asked: plain text in every element, though a model that takes pictures has the same signature.
fn no_text(inputs: &[Input]) -> Result<(), Refusal> {
    let mut elements = inputs.iter().flat_map(|input| input.tensor.text(0, 1));
    if elements.all(|element| encoded::is_text(element)) { Err(Refusal::Text) } else { Ok(()) }
}

impl Query for PredictQuery {
    fn rows(&self) -> usize {
        self.rows
    }

    fn splits(&self) -> bool {
        self.splits
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn burden(&self) -> Burden {
        let mut burden = Burden::default();
        for (at, input) in self.inputs.iter().enumerate() {
            let elements = input.tensor.text(0, 1);
            if at == self.image {
                for file in elements {
                    burden.add_file(file);
                }
            } else {
                burden.tensors += elements.iter().map(Bytes::len).sum::<usize>();
            }
            burden.tensors += input.tensor.numbers(0, 1).len();
        }
        burden
    }

    fn decode_bytes(&self) -> usize {
        let elements = (0..self.rows).filter_map(|row| self.element(row).ok());
        elements.map(|element| encoded::decode_bytes(element, self.reading)).max().unwrap_or(0)
    }

    fn image(&self, row: usize) -> Result<Image<'_>, Refusal> {
        let input = &self.inputs[self.image];
        let image = match input.tensor.datatype() {
            Some(Datatype::Bytes) => {
                self.element(row).and_then(|element| encoded::image(element, self.reading))
            }
            Some(datatype) => {
                tensor::image(datatype, input.row_dims(), input.tensor.numbers(row, self.rows), self.reading)
            }
            None => {
                return Err(Refusal::Dangerous(format!(
                    "input '{}' is of a type that no picture has",
                    input.alias
                )));
            }
        };
        let refused = |why| Refusal::Unreadable { input: input.alias.clone(), row, why };
        image.map_err(refused)
    }

    fn has_other_inputs(&self) -> bool {
        self.inputs.len() > 1
    }

    /// Every byte is hashed once, however many rows share it; the encodings of one tensor give one digest.
    fn other_inputs(&self, key: &[u8; 32]) -> Vec<u64> {
        if !self.has_other_inputs() {
            return vec![0; self.rows];
        }
        let others =
            || self.inputs.iter().enumerate().filter(|(at, _)| *at != self.image).map(|(_, input)| input);
        let mut shared = blake3::Hasher::new_keyed(key);
        for input in others() {
            absorb_described(&mut shared, input, input.row_dims());
            if !input.batched {
                input.tensor.absorb(&mut shared, 0, 1);
            }
        }
        let shared = shared.finalize();
        let of_row = |row| {
            let mut hasher = blake3::Hasher::new_keyed(key);
            hasher.update(shared.as_bytes());
            others().filter(|input| input.batched).for_each(|input| {
                input.tensor.absorb(&mut hasher, row, self.rows);
            });
            digest::short(&hasher)
        };
        (0..self.rows).map(of_row).collect()
    }

    fn form(&self, _: &[u8; 32]) -> u64 {
        0
    }

    fn validity(&self, key: &[u8; 32]) -> Vec<[u8; 16]> {
        let mut hasher = blake3::Hasher::new_keyed(key);
        digest::absorb(&mut hasher, b"Predict");
        digest::absorb(
            &mut hasher,
            &self.message.model_spec.as_ref().map(Message::encode_to_vec).unwrap_or_default(),
        );
        for (at, input) in self.inputs.iter().enumerate() {
            // How many rows may come is the signature's to say.
            absorb_described(&mut hasher, input, input.row_dims());
            hasher.update(&[u8::from(input.batched)]);
            if at != self.image {
                input.tensor.absorb(&mut hasher, 0, 1);
            }
        }
        // The order of names is free.
        let mut names: Vec<_> = self.message.output_filter.iter().collect();
        names.sort_unstable();
        for name in names {
            digest::absorb(&mut hasher, name.as_bytes());
        }
        digest::absorb(&mut hasher, &self.rest());
        // No signature states the most rows that a server takes.
        hasher.update(&(self.rows.next_power_of_two() as u64).to_le_bytes());
        let files = self.inputs[self.image].tensor.text(0, 1).iter().map(|element| &element[..]);
        encoded::digests(&hasher, files)
    }

    /// A signature leaves sizes open that the model does not take, and says nothing of what stands in its text: neither proves
    /// anything.
    fn is_accepted_by(&self, signature: &Signature) -> bool {
        let is_sized = |input: &Input| {
            let spec = signature.inputs.iter().find(|spec| spec.name == input.alias);
            spec.is_some_and(|spec| !spec.of_any_rank && spec.dims.iter().all(|&dim| dim >= 0))
        };
        signature.complete
            && self.rows == 1
            && self.inputs.len() == signature.inputs.len()
            && self.inputs.iter().all(|input| input.native && is_sized(input))
            && self.inputs[self.image].tensor.datatype() != Some(Datatype::Bytes)
            && (self.version.is_empty() || signature.versions.contains(&self.version))
            && self.names_known_outputs(signature)
            && self.rest().is_empty()
    }

    /// Names that the model does not have, and names that come twice, stay for the server to refuse.
    fn for_all_rows(&self, signature: &Signature) -> Option<Bytes> {
        let named = !self.message.output_filter.is_empty() && self.names_known_outputs(signature);
        named.then(|| wire::without(&self.payload, OUTPUT_FILTER).freeze())
    }

    fn for_rows(&self, rows: &[usize], signature: &Signature) -> Bytes {
        let whole = self.for_all_rows(signature).unwrap_or_else(|| self.payload.clone());
        let mut payload: BytesMut = wire::without(&whole, INPUTS);
        let part = |input: &Input| {
            let tensor = if input.batched { input.tensor.rows(rows) } else { input.tensor.message().clone() };
            (input.alias.clone(), tensor)
        };
        let inputs = self.inputs.iter().map(part).collect();
        let part = PredictRequest { inputs, ..PredictRequest::default() };
        part.encode(&mut payload).expect("a BytesMut grows as needed");
        payload.freeze()
    }

    /// The server writes its replies as its own settings say, however a request was written.
    fn is_typed(&self) -> bool {
        false
    }

    fn told(&self, reply: Bytes, rows: usize) -> Result<Told, AnswerError> {
        let parsed = outputs::decode(reply.clone())?;
        let kept = if self.rows == 1 {
            Ok(vec![parsed.encode_to_vec().into()])
        } else if self.splits {
            outputs::split(&parsed, rows)
        } else {
            Ok(Vec::new())
        };
        let version = version_told(parsed.model_spec.as_ref());
        let cut = outputs::cut(parsed, &self.message.output_filter).map(|cut| cut.encode_to_vec());
        // Where encoding gives other bytes than the server's, both paths are encoded by us.
        let reply = cut.map(|cut| (cut != reply).then(|| cut.into()));
        Ok(Told { version, typed: None, rows: kept, reply })
    }

    fn rewritten(&self, answer: Bytes, by: Rewrite<'_>) -> Result<Bytes, AnswerError> {
        let mut row = outputs::decode(answer)?;
        scores::of_predict(&mut row, by);
        Ok(row.encode_to_vec().into())
    }

    fn assemble(&self, answers: Vec<Bytes>, _: Option<bool>) -> Result<Bytes, AnswerError> {
        let rows = answers.into_iter().map(outputs::decode).collect::<Result<_, _>>()?;
        let reply = outputs::cut(outputs::join(rows)?, &self.message.output_filter)?;
        Ok(reply.encode_to_vec().into())
    }
}

/// Adds an input's name, type and `dims` to a digest.
fn absorb_described(hasher: &mut blake3::Hasher, input: &Input, dims: &[i64]) {
    digest::absorb(hasher, input.alias.as_bytes());
    digest::absorb(hasher, &input.tensor.dtype().to_le_bytes());
    digest::absorb(hasher, &dims.iter().flat_map(|dim| dim.to_le_bytes()).collect::<Vec<_>>());
}

#[cfg(test)]
pub(super) mod tests;

//! Classify, Regress and MultiInference: each row an Example, the picture one of its features.

use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use prost::Message;

use super::features::{self, Feature, Features};
use super::nested;
use super::results::{self, Reply};
use super::{model_key, version_asked, version_told};
use crate::judgment::Image;
use crate::protocol::answer::AnswerError;
use crate::protocol::query::{Burden, How, MOST_ROWS, ModelKey, Query, Refusal, Request, Told};
use crate::protocol::scores::Rewrite;
use crate::protocol::signature::Signature;
use crate::protocol::tensor::{Datatype, Reading, Unreadable};
use crate::protocol::tensorflow::serving::{
    ClassificationResponse, InferenceTask, ModelSpec, MultiInferenceResponse, RegressionResponse,
    SerializedExampleList, SerializedExampleListWithContext, SerializedInput, SerializedRequest,
    SerializedTasks, serialized_input::Kind,
};
use crate::protocol::wire::{self, Nested};
use crate::protocol::{digest, encoded};

/// The number of `input` in a request.
const INPUT: u32 = 2;

/// The numbers of what else stands in a request: `model_spec` or `tasks`.
const ASKED: u32 = 1;

/// A list of numbers longer than this, in bytes, may be a picture.
const FEW_NUMBERS: usize = 256;

/// What a context may come to in bytes, counted for every Example that it stands in front of.
const MOST_CONTEXT: usize = 64 << 20;

/// What the settings are shown for a picture that is in no feature.
const UNNAMED: &str = "Example";

/// A decoded request, answered by an `R`.
struct Examples<R> {
    tasks: Vec<InferenceTask>,
    /// The Examples, as they are written.
    rows: Vec<Bytes>,
    /// What stands in front of each of them.
    context: Vec<Bytes>,
    with_context: bool,
    reply: PhantomData<fn() -> R>,
}

/// Decodes a `ClassificationRequest`.
pub fn decode_classify(payload: &Bytes) -> Result<Box<dyn Request>, Refusal> {
    decode::<ClassificationResponse>(payload, "tensorflow/serving/classify")
}

/// Decodes a `RegressionRequest`.
pub fn decode_regress(payload: &Bytes) -> Result<Box<dyn Request>, Refusal> {
    decode::<RegressionResponse>(payload, "tensorflow/serving/regress")
}

/// Decodes a `MultiInferenceRequest`. The server answers all tasks by the version that the first asks.
pub fn decode_multi_inference(payload: &Bytes) -> Result<Box<dyn Request>, Refusal> {
    let message: SerializedTasks = message(payload, &nested::MULTI_INFERENCE)?;
    let mut names = message.tasks.iter().map(|task| model_key(task.model_spec.as_ref()).name);
    if let Some(first) = names.next()
        && names.any(|name| name != first)
    {
        return Err(Refusal::Malformed(
            "All ModelSpecs in a MultiInferenceRequest must access the same model name.".into(),
        ));
    }
    Ok(Box::new(Examples::<MultiInferenceResponse>::of(message.tasks, message.input)))
}

fn decode<R: Reply + 'static>(payload: &Bytes, method: &str) -> Result<Box<dyn Request>, Refusal> {
    let SerializedRequest { model_spec, input } = message(payload, &nested::EXAMPLES)?;
    let task = InferenceTask { model_spec, method_name: method.to_owned() };
    Ok(Box::new(Examples::<R>::of(vec![task], input)))
}

fn message<M: Message + Default>(payload: &Bytes, nested: &Nested) -> Result<M, Refusal> {
    let message = M::decode(payload.clone()).ok().filter(|_| wire::is_read_by_all(payload, nested));
    message.ok_or_else(|| Refusal::Malformed("Unable to parse request".into()))
}

impl<R> Examples<R> {
    fn of(tasks: Vec<InferenceTask>, input: Option<SerializedInput>) -> Self {
        let (rows, context, with_context) = match input.and_then(|input| input.kind) {
            None => (Vec::new(), Vec::new(), false),
            Some(Kind::ExampleList(list)) => (list.examples, Vec::new(), false),
            Some(Kind::ExampleListWithContext(list)) => (list.examples, list.context, true),
        };
        Self { tasks, rows, context, with_context, reply: PhantomData }
    }

    fn model_spec(&self) -> Option<&ModelSpec> {
        self.tasks.first().and_then(|task| task.model_spec.as_ref())
    }
}

impl<R: Reply + 'static> Request for Examples<R> {
    fn asks(&self) -> ModelKey {
        model_key(self.model_spec())
    }

    fn also_asks(&self) -> Vec<ModelKey> {
        let further: BTreeSet<_> =
            self.tasks.iter().skip(1).map(|task| model_key(task.model_spec.as_ref())).collect();
        further.into_iter().filter(|key| *key != self.asks()).collect()
    }

    /// TensorFlow Serving echoes none.
    fn id(&self) -> &'static str {
        ""
    }

    fn most_rows(&self) -> usize {
        self.rows.len().clamp(1, MOST_ROWS as usize)
    }

    /// What an Example holds is in the message.
    fn must_not_harm(&self, _: &Signature) -> Result<(), Refusal> {
        Ok(())
    }

    /// Nothing here is in the signature: what an Example holds is between the caller and the model.
    fn read(self: Box<Self>, payload: Bytes, _: &Signature, how: How<'_>) -> Result<Arc<dyn Query>, Refusal> {
        if self.rows.is_empty() {
            return Err(Refusal::Malformed("Input is empty.".into()));
        }
        // The context is looked through once for every Example.
        let context: usize = self.context.iter().map(Bytes::len).sum();
        if context.saturating_mul(self.rows.len()) > MOST_CONTEXT {
            return Err(Refusal::Dangerous(format!(
                "expected a context of at most {MOST_CONTEXT} bytes for all Examples together, found {context} for each of {}",
                self.rows.len()
            )));
        }
        if self.rows.len() > MOST_ROWS as usize {
            let found = self.rows.len();
            return Err(Refusal::Dangerous(format!("expected at most {MOST_ROWS} examples, found {found}")));
        }
        let context = match &self.context[..] {
            [] => Features::new(),
            [context] => features::read(context)?,
            _ => return Err(Refusal::Dangerous("a context that stands there more than once".into())),
        };
        let mut rows = Vec::with_capacity(self.rows.len());
        for example in &self.rows {
            let features = features::read(example)?;
            // Protobuf takes the empty feature for the example's own, the model's parser passes over it.
            if features.iter().any(|(name, own)| *own == Feature::Absent && context.contains_key(name)) {
                return Err(Refusal::Dangerous("a feature without a list in front of the context's".into()));
            }
            rows.push(features);
        }
        let sources = rows.iter().map(|own| Merged { own, context: &context });
        if how.image_input.is_none() && sources.clone().all(Merged::is_text) {
            return Err(Refusal::Text);
        }
        let pictures = sources
            .enumerate()
            .map(|(row, source)| source.picture(how.image_input).map_err(|refusal| refusal.of_row(row)));
        let pictures = pictures.collect::<Result<_, _>>()?;
        let version = version_asked(self.model_spec());
        Ok(Arc::new(ExampleQuery {
            request: *self,
            payload,
            rows,
            context,
            pictures,
            reading: how.reading,
            version,
        }))
    }
}

/// The features of one row: its own, and those of the context that it does not have.
#[derive(Clone, Copy)]
struct Merged<'a> {
    own: &'a Features,
    context: &'a Features,
}

/// A row's picture: the feature that holds it, and its bytes.
struct Picture {
    name: Bytes,
    bytes: Bytes,
}

impl<'a> Merged<'a> {
    fn iter(self) -> impl Iterator<Item = (&'a Bytes, &'a Feature)> {
        let context = self.context.iter().filter(move |(name, _)| !self.own.contains_key(*name));
        self.own.iter().chain(context)
    }

    /// Whether there is nothing but plain text in it.
    fn is_text(self) -> bool {
        let is_text = |feature: &Feature| match feature {
            Feature::Bytes(values) => values.iter().all(|value| encoded::is_text(value)),
            Feature::Absent => true,
            Feature::Floats(_) | Feature::Integers(_) => false,
        };
        self.iter().next().is_some() && self.iter().all(|(_, feature)| is_text(feature))
    }

    /// The picture in the feature named `chosen`, else in the only one that begins like one.
    ///
    /// Where none is named, nothing beside it may be a picture that is only written otherwise: a list of many numbers, or bytes
    /// that are neither a known container nor text.
    fn picture(self, chosen: Option<&str>) -> Result<Picture, Refusal> {
        if let Some(chosen) = chosen {
            let found = self.iter().find(|(name, _)| ***name == *chosen.as_bytes());
            let (name, feature) = found.ok_or_else(|| no_picture(chosen, Unreadable::Shape(vec![0])))?;
            return only(feature)
                .map(|bytes| Picture { name: name.clone(), bytes })
                .map_err(|why| no_picture(chosen, why));
        }
        let mut picture = None;
        for (name, feature) in self.iter() {
            let shown = || String::from_utf8_lossy(name).into_owned();
            match feature {
                Feature::Bytes(values) if values.iter().all(|value| encoded::is_text(value)) => {}
                Feature::Bytes(_) => {
                    let bytes = only(feature).map_err(|why| no_picture(&shown(), why))?;
                    if encoded::container(&bytes).is_empty() || picture.is_some() {
                        return Err(no_picture(&shown(), Unreadable::Datatype(Datatype::Bytes)));
                    }
                    picture = Some(Picture { name: name.clone(), bytes });
                }
                Feature::Floats(list) if list.len() > FEW_NUMBERS => {
                    return Err(no_picture(&shown(), Unreadable::Datatype(Datatype::Fp32)));
                }
                Feature::Integers(list) if list.len() > FEW_NUMBERS => {
                    return Err(no_picture(&shown(), Unreadable::Datatype(Datatype::Int64)));
                }
                Feature::Floats(_) | Feature::Integers(_) | Feature::Absent => {}
            }
        }
        picture.ok_or_else(|| no_picture(UNNAMED, Unreadable::Shape(Vec::new())))
    }
}

/// The one value of a list of bytes.
fn only(feature: &Feature) -> Result<Bytes, Unreadable> {
    match feature {
        Feature::Bytes(values) => match &values[..] {
            [value] => Ok(value.clone()),
            _ => Err(Unreadable::Shape(vec![values.len() as i64])),
        },
        Feature::Floats(_) => Err(Unreadable::Datatype(Datatype::Fp32)),
        Feature::Integers(_) => Err(Unreadable::Datatype(Datatype::Int64)),
        Feature::Absent => Err(Unreadable::Shape(vec![0])),
    }
}

/// The server may well take what we cannot read, so nothing here is foreign to it.
fn no_picture(feature: &str, why: Unreadable) -> Refusal {
    Refusal::Unreadable { input: feature.to_owned(), row: 0, why }
}

/// A request that was read.
struct ExampleQuery<R> {
    request: Examples<R>,
    /// As decoded from: the message without its prefix.
    payload: Bytes,
    /// The features of each row, without the context's.
    rows: Vec<Features>,
    context: Features,
    pictures: Vec<Picture>,
    reading: Reading,
    version: String,
}

impl<R> ExampleQuery<R> {
    /// The features of one part of a row but for those that `is_picture`.
    fn absorb(hasher: &mut blake3::Hasher, features: &Features, is_picture: impl Fn(&Bytes) -> bool) {
        for (name, feature) in features.iter().filter(|(name, _)| !is_picture(name)) {
            digest::absorb(hasher, name);
            match feature {
                Feature::Bytes(values) => {
                    hasher.update(&[1]);
                    hasher.update(&(values.len() as u64).to_le_bytes());
                    for value in values {
                        digest::absorb(hasher, value);
                    }
                }
                Feature::Floats(list) => {
                    hasher.update(&[2]);
                    digest::absorb(hasher, list);
                }
                Feature::Integers(list) => {
                    hasher.update(&[3]);
                    digest::absorb(hasher, list);
                }
                Feature::Absent => {
                    hasher.update(&[0]);
                }
            }
        }
    }

    /// Adds what is asked of the rows to a digest: which results, by which signatures.
    fn absorb_tasks(&self, hasher: &mut blake3::Hasher) {
        hasher.update(&(self.request.tasks.len() as u64).to_le_bytes());
        for task in &self.request.tasks {
            let ModelKey { name, version, signature, .. } = model_key(task.model_spec.as_ref());
            for part in [&name, &version, &signature, &task.method_name] {
                digest::absorb(hasher, part.as_bytes());
            }
        }
    }
}

impl<R: Reply + 'static> Query for ExampleQuery<R> {
    fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Results stand one for each example.
    fn splits(&self) -> bool {
        true
    }

    fn version(&self) -> &str {
        &self.version
    }

    /// The context is parsed with every row.
    fn burden(&self) -> Burden {
        let mut burden = Burden::default();
        for (row, picture) in self.rows.iter().zip(&self.pictures) {
            burden.add_file(&picture.bytes);
            let features = row.iter().chain(&self.context).filter(|(name, _)| **name != picture.name);
            burden.tensors += features.map(|(_, feature)| feature.bytes()).sum::<usize>();
        }
        burden
    }

    fn decode_bytes(&self) -> usize {
        let sizes = self.pictures.iter().map(|picture| encoded::decode_bytes(&picture.bytes, self.reading));
        sizes.max().unwrap_or(0)
    }

    fn image(&self, row: usize) -> Result<Image<'_>, Refusal> {
        let Picture { name, bytes } = &self.pictures[row];
        let image = encoded::image(bytes, self.reading);
        image.map_err(|why| no_picture(&String::from_utf8_lossy(name), why).of_row(row))
    }

    fn has_other_inputs(&self) -> bool {
        let is_other = |(row, picture): (&Features, &Picture)| row.keys().any(|name| *name != picture.name);
        let of_context = |name: &Bytes| self.pictures.iter().any(|picture| *name != picture.name);
        self.rows.iter().zip(&self.pictures).any(is_other) || self.context.keys().any(of_context)
    }

    /// Every byte is hashed once, however many rows share the context. Lists of numbers count as they are written.
    fn other_inputs(&self, key: &[u8; 32]) -> Vec<u64> {
        if !self.has_other_inputs() {
            return vec![0; self.rows.len()];
        }
        let mut context = blake3::Hasher::new_keyed(key);
        let names: std::collections::BTreeSet<_> =
            self.pictures.iter().map(|picture| &picture.name).collect();
        Self::absorb(&mut context, &self.context, |name| names.contains(name));
        let context = context.finalize();
        let of_row = |(row, picture): (&Features, &Picture)| {
            let mut hasher = blake3::Hasher::new_keyed(key);
            hasher.update(context.as_bytes());
            // Under which name the picture stands is a question of its own, and so is what the context has under another's.
            digest::absorb(&mut hasher, &picture.name);
            for name in names.iter().filter(|name| **name != &picture.name) {
                if let Some((name, feature)) = self.context.get_key_value(*name) {
                    Self::absorb(&mut hasher, &Features::from([(name.clone(), feature.clone())]), |_| false);
                }
            }
            Self::absorb(&mut hasher, row, |name| *name == picture.name);
            digest::short(&hasher)
        };
        self.rows.iter().zip(&self.pictures).map(of_row).collect()
    }

    /// Results are no tensors, and each signature has its own.
    fn form(&self, key: &[u8; 32]) -> u64 {
        let mut hasher = blake3::Hasher::new_keyed(key);
        self.absorb_tasks(&mut hasher);
        digest::absorb(&mut hasher, R::CALL.as_bytes());
        digest::short(&hasher).max(1)
    }

    fn validity(&self, key: &[u8; 32]) -> Vec<[u8; 16]> {
        let mut hasher = blake3::Hasher::new_keyed(key);
        hasher.update(&self.form(key).to_le_bytes());
        hasher.update(&[u8::from(self.request.with_context)]);
        // How many Examples may come is the server's to say; what each may hold besides its picture has to be tried.
        let inputs: BTreeSet<u64> = self.other_inputs(key).into_iter().collect();
        for inputs in inputs {
            hasher.update(&inputs.to_le_bytes());
        }
        let names: BTreeSet<_> = self.pictures.iter().map(|picture| &picture.name).collect();
        for name in names {
            digest::absorb(&mut hasher, name);
        }
        digest::absorb(&mut hasher, &wire::without(&wire::without(&self.payload, INPUT), ASKED));
        encoded::digests(&hasher, self.pictures.iter().map(|picture| &picture.bytes[..]))
    }

    /// A signature says nothing of features.
    fn is_accepted_by(&self, _: &Signature) -> bool {
        false
    }

    fn for_all_rows(&self, _: &Signature) -> Option<Bytes> {
        None
    }

    fn for_rows(&self, rows: &[usize], _: &Signature) -> Bytes {
        let examples = rows.iter().map(|&row| self.request.rows[row].clone()).collect();
        let kind = if self.request.with_context {
            let context = self.request.context.clone();
            Kind::ExampleListWithContext(SerializedExampleListWithContext { examples, context })
        } else {
            Kind::ExampleList(SerializedExampleList { examples })
        };
        let mut payload: BytesMut = wire::without(&self.payload, INPUT);
        let part = SerializedRequest { model_spec: None, input: Some(SerializedInput { kind: Some(kind) }) };
        part.encode(&mut payload).expect("a BytesMut grows as needed");
        payload.freeze()
    }

    /// Results have one form.
    fn is_typed(&self) -> bool {
        false
    }

    fn told(&self, reply: Bytes, rows: usize) -> Result<Told, AnswerError> {
        let parsed: R = results::decode(reply.clone())?;
        let kept = parsed.split(rows);
        let kept = kept.map(|rows| rows.iter().map(|row| Bytes::from(row.encode_to_vec())).collect());
        let encoded = parsed.encode_to_vec();
        // Where encoding gives other bytes than the server's, both paths are encoded by us.
        let ours = (encoded != reply).then(|| encoded.into());
        Ok(Told { version: version_told(parsed.model_spec()), typed: None, rows: kept, reply: Ok(ours) })
    }

    fn rewritten(&self, answer: Bytes, by: Rewrite<'_>) -> Result<Bytes, AnswerError> {
        let mut row: R = results::decode(answer)?;
        row.rewrite(by);
        Ok(row.encode_to_vec().into())
    }

    fn assemble(&self, answers: Vec<Bytes>, _: Option<bool>) -> Result<Bytes, AnswerError> {
        Ok(results::join::<R>(answers)?.encode_to_vec().into())
    }
}

#[cfg(test)]
mod tests;

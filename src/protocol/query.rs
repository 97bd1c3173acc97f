//! What every protocol's request is made into: first a [`Request`], decoded; then, once its model is known, a [`Query`].
//!
//! The journey (`proxy/predict.rs`) knows these two and no message. An adapter, one folder for each protocol, implements both:
//! [`triton`](super::triton) for `ModelInfer`, [`tf_serving`](super::tf_serving) for TensorFlow Serving's calls.

use std::sync::Arc;

use bytes::Bytes;

use super::answer::AnswerError;
use super::encoded;
use super::scores::Rewrite;
use super::signature::Signature;
use super::tensor::{Reading, Unreadable};
use crate::judgment::Image;

/// The most rows read of a model that states no limit.
pub const MOST_ROWS: u32 = 256;

/// The model that a request asks, by all that decides which signature reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelKey {
    /// Which interface it was asked through.
    pub family: Family,
    /// The model's name; settings and likenesses go by it.
    pub name: String,
    /// The version or version label asked for, where versions have signatures of their own (TensorFlow Serving); else empty.
    pub version: String,
    /// The signature asked for (TensorFlow Serving); else empty.
    pub signature: String,
}

/// Servers that describe their models alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// KServe v2: Triton and others.
    #[default]
    Kserve,
    /// TensorFlow Serving.
    TfServing,
}

/// How a model's requests are read, beyond its signature.
#[derive(Clone, Copy, Debug)]
pub struct How<'a> {
    /// The input that holds the picture, where the settings name one.
    pub image_input: Option<&'a str>,
    /// How its values become pixels.
    pub reading: Reading,
}

/// A decoded request whose model is not looked up yet.
pub trait Request: Send + Sync + 'static {
    /// The model it asks.
    fn asks(&self) -> ModelKey;

    /// Further models that its one reply is to speak of; none as a rule.
    fn also_asks(&self) -> Vec<ModelKey> {
        Vec::new()
    }

    /// Its id, which the reply echoes; empty where it has none.
    fn id(&self) -> &str;

    /// An upper bound of its rows, for the byte budget; 1 or more.
    fn most_rows(&self) -> usize;

    /// An error where it would harm the model server, which must then not see it, whatever the model's mode.
    fn must_not_harm(&self, signature: &Signature) -> Result<(), Refusal>;

    /// Reads it by the model's signature. `payload` is what it was decoded from: the message without its prefix.
    ///
    /// Nothing is copied but typed contents; shapes are multiplied out and compared with the bytes that are there before any
    /// memory is asked for. No picture is decoded yet.
    fn read(
        self: Box<Self>,
        payload: Bytes,
        signature: &Signature,
        how: How<'_>,
    ) -> Result<Arc<dyn Query>, Refusal>;
}

/// A request whose bytes fit its shapes, its picture found; rows are numbered 0 to [`Query::rows`] - 1.
pub trait Query: Send + Sync + 'static {
    /// Rows in the request, 1 or more.
    fn rows(&self) -> usize;

    /// Whether rows can be asked for and answered one by one.
    fn splits(&self) -> bool;

    /// The version asked for; empty for the newest.
    fn version(&self) -> &str;

    /// What it gives the model to work on.
    fn burden(&self) -> Burden;

    /// An upper bound of the bytes that decoding any one row's picture takes; 0 where pictures are plain tensors.
    ///
    /// Told from the pictures' headers; an unreadable header costs nothing here and is refused by [`Query::image`].
    fn decode_bytes(&self) -> usize;

    /// Row `row` as a picture.
    fn image(&self, row: usize) -> Result<Image<'_>, Refusal>;

    /// Whether the request has inputs besides the picture.
    fn has_other_inputs(&self) -> bool;

    /// For each row, a keyed digest of what it gives the model besides the picture; all 0 where there is nothing.
    fn other_inputs(&self, key: &[u8; 32]) -> Vec<u64>;

    /// A keyed digest of the form of the answer: 0 for plain tensors, something else for any other form. What a caller may vary
    /// freely is no part of it: which outputs, how many classes, id, parameters.
    fn form(&self, key: &[u8; 32]) -> u64;

    /// Keyed digests of everything in the request but pixels, id and free parameters: one form, one digest. A request with pictures
    /// in several kinds of file has one for each, since what a model opens of one says nothing of another.
    fn validity(&self, key: &[u8; 32]) -> Vec<[u8; 16]>;

    /// Whether the signature alone shows that the model server accepts this form. False is no refusal: the form may be fine and
    /// merely not provable.
    fn is_accepted_by(&self, signature: &Signature) -> bool;

    /// The message (without prefix) to send for all rows: none where the caller's own bytes will do. All outputs come back, whichever
    /// were asked for.
    fn for_all_rows(&self, signature: &Signature) -> Option<Bytes>;

    /// The message that asks for `rows` alone (ascending, each below [`Query::rows`]).
    fn for_rows(&self, rows: &[usize], signature: &Signature) -> Bytes;

    /// Whether its values travelled typed. Some servers write their replies as the request was written (see [`Told::typed`]).
    fn is_typed(&self) -> bool;

    /// What the upstream's OK reply to a forward of `rows` rows says.
    fn told(&self, reply: Bytes, rows: usize) -> Result<Told, AnswerError>;

    /// One row's kept answer with its scores rewritten.
    fn rewritten(&self, answer: Bytes, by: Rewrite<'_>) -> Result<Bytes, AnswerError>;

    /// The rows' kept answers, in order, as the reply to this request: its id, its outputs, its form. Without prefix.
    ///
    /// `typed` is how the server writes its replies to such a request; none where it is not known.
    fn assemble(&self, answers: Vec<Bytes>, typed: Option<bool>) -> Result<Bytes, AnswerError>;
}

/// What a request gives the model to work on, in all rows together: what decides how long the model takes, and nothing that a caller may
/// vary beside it, such as an id, parameters or names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Burden {
    /// Bytes of tensors' elements, in whichever way they travelled.
    pub tensors: usize,
    /// Bytes of the pictures' files.
    pub files: usize,
    /// Pixels in these files, by their headers.
    pub pixels: usize,
}

impl Burden {
    /// As much of one file more.
    pub(super) fn add_file(&mut self, file: &[u8]) {
        self.files += file.len();
        self.pixels += encoded::pixels(file);
    }
}

/// An OK reply, read.
#[derive(Debug)]
pub struct Told {
    /// The version that answered; empty where the server does not say.
    pub version: String,
    /// Whether values travelled typed; none where the reply does not show it.
    pub typed: Option<bool>,
    /// One answer for each row, each kept as the reply that the model would have given to that row alone, empty where rows are
    /// not answered one by one; or why there are none.
    pub rows: Result<Vec<Bytes>, AnswerError>,
    /// The reply as this caller is to have it, without prefix; none where the upstream's own bytes will do.
    pub reply: Result<Option<Bytes>, AnswerError>,
}

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
    /// Plain text where a picture might be, of a model whose settings name no picture: nothing to judge.
    #[error("plain text, no picture")]
    Text,
    /// No picture that we can read.
    #[error("row {row} of input '{input}' cannot be read: {why}")]
    Unreadable {
        /// The input's name.
        input: String,
        /// Which of the request's rows, the first being 0.
        row: usize,
        /// What is wrong with it.
        why: Unreadable,
    },
}

impl Refusal {
    /// The same of row `row`, where it is of one row.
    pub(super) fn of_row(mut self, row: usize) -> Self {
        if let Self::Unreadable { row: named, .. } = &mut self {
            *named = row;
        }
        self
    }
}

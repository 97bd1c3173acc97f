//! A `TensorProto` by TensorFlow's own rules: what its values are, some of its rows alone, and rows put together again.
//!
//! Values stand in `tensor_content`, or in the one field that belongs to the type. Where a field holds fewer values than the shape
//! counts, the last is repeated, and where it holds none they are zero; more are left aside. A shape is counted before anything is
//! made of it: a few bytes may stand for a tensor of any size.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use prost::encoding::{decode_varint, encode_varint};

use super::typed::{self, Values};
use crate::protocol::query::Refusal;
use crate::protocol::tensor::Datatype;
use crate::protocol::tensorflow::{DataType, TensorProto, TensorShapeProto, tensor_shape_proto::Dim};

/// The most bytes that all tensors of one message may gain by repeating values that are not in it.
pub(in crate::protocol) const MOST_FILLED: u64 = 64 << 20;

/// The most dimensions of a tensor.
const MOST_DIMS: usize = 254;

/// Bytes of one element of text beside its content.
const HANDLE: u64 = 64;

/// The type of the pictures that a tensor may hold; none for types that no picture has.
pub(in crate::protocol) fn datatype_of(dtype: DataType) -> Option<Datatype> {
    Some(match dtype {
        DataType::DtFloat => Datatype::Fp32,
        DataType::DtDouble => Datatype::Fp64,
        DataType::DtInt32 => Datatype::Int32,
        DataType::DtUint8 => Datatype::Uint8,
        DataType::DtInt16 => Datatype::Int16,
        DataType::DtInt8 => Datatype::Int8,
        DataType::DtString => Datatype::Bytes,
        DataType::DtInt64 => Datatype::Int64,
        DataType::DtBool => Datatype::Bool,
        DataType::DtBfloat16 => Datatype::Bf16,
        DataType::DtUint16 => Datatype::Uint16,
        DataType::DtHalf => Datatype::Fp16,
        DataType::DtUint32 => Datatype::Uint32,
        DataType::DtUint64 => Datatype::Uint64,
        _ => return None,
    })
}

/// What a tensor counts, found out before anything is made of it.
#[derive(Debug)]
pub(super) struct Extent {
    values: Values,
    dims: Vec<i64>,
    count: usize,
    /// Bytes that repeated values take.
    pub(super) filled: u64,
}

impl Extent {
    /// The extent of `tensor`, which the server reads under the name `alias`. Cost: its dimensions, none of its values.
    ///
    /// Dangerous is what the server makes room for before it refuses it, or at all.
    pub(super) fn of(tensor: &TensorProto, alias: &str) -> Result<Self, Refusal> {
        let malformed =
            |what: &str| Err(Refusal::Malformed(format!("tensor parsing error: {alias}: {what}")));
        let shape = tensor.tensor_shape.as_ref().map_or(&[][..], |shape| &shape.dim);
        let is_ranked = tensor.tensor_shape.as_ref().is_none_or(|shape| !shape.unknown_rank);
        if !is_ranked || shape.len() > MOST_DIMS || shape.iter().any(|dim| dim.size < 0) {
            return malformed("a shape that is not known");
        }
        let dims: Vec<i64> = shape.iter().map(|dim| dim.size).collect();
        let dangerous = || {
            let why = format!("the values of input '{alias}' are too many, got shape {dims:?}");
            Err(Refusal::Dangerous(why))
        };
        // Sizes of 0 count as 1 here: a product that overflows does so in whichever order it is taken.
        let most = dims.iter().try_fold(1i64, |product, &dim| product.checked_mul(dim.max(1)));
        let Some(most) = most.and_then(|most| u64::try_from(most).ok()) else { return dangerous() };
        let count = if dims.contains(&0) { 0 } else { most };
        let values = Values::of(tensor.dtype);
        let content = tensor.tensor_content.len() as u64;
        let filled = match values.map(|values| (values, values.size)) {
            // References, resources and the like, and text whose lengths do not even fit: room is made for them first.
            None => count.saturating_mul(HANDLE),
            Some((_, None)) if content > 0 && content < count => count.saturating_mul(HANDLE),
            Some(_) if content > 0 => 0,
            Some((values, size)) => {
                let missing = count.saturating_sub(values.given(tensor) as u64);
                let last = tensor.string_val.last().map_or(0, |last| last.len() as u64);
                missing.saturating_mul(size.map_or(HANDLE + last, |size| size as u64))
            }
        };
        if filled > MOST_FILLED {
            return dangerous();
        }
        let Some(values) = values else { return malformed("a type that carries no values") };
        match values.size {
            Some(size) if content > 0 && count > 0 && count.checked_mul(size as u64) != Some(content) => {
                malformed("the bytes of another shape")
            }
            None if content > 0 && content < count => malformed("text that is cut off"),
            // What is here is in the message, so it can be counted.
            _ => Ok(Self { values, dims, count: count as usize, filled }),
        }
    }
}

/// A tensor whose values are as many as its shape counts, with the message that it travelled in.
pub(super) struct Tensor {
    message: TensorProto,
    values: Values,
    /// Dimensions, the batch dimension included.
    pub(super) dims: Vec<i64>,
    count: usize,
    data: Data,
}

/// The values of a tensor, whichever way they travelled.
enum Data {
    /// Little-endian, row by row.
    Numbers(Bytes),
    Text(Vec<Bytes>),
}

impl Tensor {
    /// Reads `message`, whose `extent` was taken before. Shares the message's memory but for typed numbers, which are copied.
    pub(super) fn new(message: TensorProto, extent: Extent, alias: &str) -> Result<Self, Refusal> {
        let Extent { values, dims, count, .. } = extent;
        let malformed = |what: &str| Refusal::Malformed(format!("tensor parsing error: {alias}: {what}"));
        let content = &message.tensor_content;
        let data = match values.size {
            _ if count == 0 && values.size.is_some() => Data::Numbers(Bytes::new()),
            _ if count == 0 => Data::Text(Vec::new()),
            Some(_) if !content.is_empty() => Data::Numbers(content.clone()),
            None if !content.is_empty() => {
                Data::Text(elements(content, count).ok_or_else(|| malformed("text that is cut off"))?)
            }
            Some(size) => Data::Numbers(typed::bytes(&message, values, count * size).into()),
            None => {
                let missing = count.saturating_sub(message.string_val.len());
                let last = message.string_val.last().cloned().unwrap_or_default();
                let given = message.string_val.iter().take(count).cloned();
                Data::Text(given.chain(std::iter::repeat_n(last, missing)).collect())
            }
        };
        if let (DataType::DtBool, Data::Numbers(bytes)) = (message.dtype(), &data)
            && bytes.iter().any(|&byte| byte > 1)
        {
            return Err(malformed("truth values other than 0 and 1"));
        }
        Ok(Self { message, values, dims, count, data })
    }

    /// The type, where pictures may have it.
    pub(super) fn datatype(&self) -> Option<Datatype> {
        datatype_of(self.message.dtype())
    }

    /// The type as it was written.
    pub(super) fn dtype(&self) -> i32 {
        self.message.dtype
    }

    /// Whether there is no value in it.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The little-endian bytes of row `row` of `rows` equal ones; none of text.
    pub(super) fn numbers(&self, row: usize, rows: usize) -> &[u8] {
        match &self.data {
            Data::Numbers(bytes) => {
                let length = bytes.len() / rows;
                &bytes[row * length..(row + 1) * length]
            }
            Data::Text(_) => &[],
        }
    }

    /// The elements of row `row` of `rows` equal ones; none of numbers.
    pub(super) fn text(&self, row: usize, rows: usize) -> &[Bytes] {
        match &self.data {
            Data::Numbers(_) => &[],
            Data::Text(elements) => {
                let length = elements.len() / rows;
                &elements[row * length..(row + 1) * length]
            }
        }
    }

    /// The message that it travelled in.
    pub(super) fn message(&self) -> &TensorProto {
        &self.message
    }

    /// Adds the values of one row to a digest.
    pub(super) fn absorb(&self, hasher: &mut blake3::Hasher, row: usize, rows: usize) {
        use crate::protocol::digest;
        digest::absorb(hasher, self.numbers(row, rows));
        for element in self.text(row, rows) {
            digest::absorb(hasher, element);
        }
    }

    /// The tensor that holds `rows` (ascending) of the rows along its first dimension alone, in the encoding that it came in.
    ///
    /// Never larger than what it came in: what was left to repetition stays so.
    pub(super) fn rows(&self, rows: &[usize]) -> TensorProto {
        let all = self.dims.first().map_or(1, |&rows| rows.max(1) as usize);
        let length = self.count / all;
        let ranges = rows.iter().map(|&row| row * length..(row + 1) * length);
        let mut part = TensorProto {
            dtype: self.message.dtype,
            tensor_shape: Some(shape(rows.len() as i64, self.dims.get(1..).unwrap_or_default())),
            version_number: self.message.version_number,
            ..TensorProto::default()
        };
        match &self.data {
            _ if self.count == 0 => {}
            _ if self.message.tensor_content.is_empty() => {
                typed::select(&self.message, self.values, &mut part, ranges);
            }
            Data::Numbers(bytes) => {
                let size = bytes.len() / self.count;
                part.tensor_content = in_one_piece(bytes, ranges.map(|at| at.start * size..at.end * size));
            }
            Data::Text(elements) => {
                part.tensor_content = content_of(ranges.flat_map(|range| &elements[range]));
            }
        }
        part
    }
}

/// Puts the tensors of single rows together along their first dimension, in order and in their own encoding; none where they are
/// not rows of one tensor. `filled` counts what repeated values take, over all tensors that are put together.
pub(super) fn join(rows: &[&TensorProto], filled: &mut u64) -> Option<TensorProto> {
    let first = rows.first()?;
    let shape_of = |row: &TensorProto| row.tensor_shape.clone().unwrap_or_default();
    let (dims, is_typed) = (shape_of(first), first.tensor_content.is_empty());
    if dims.dim.first().is_none_or(|dim| dim.size != 1) {
        return None;
    }
    let mut tensors = Vec::with_capacity(rows.len());
    for &row in rows {
        if row.dtype != first.dtype || shape_of(row) != dims || row.tensor_content.is_empty() != is_typed {
            return None;
        }
        let extent = Extent::of(row, "").ok()?;
        *filled += extent.filled;
        if *filled > MOST_FILLED {
            return None;
        }
        tensors.push(Tensor::new(row.clone(), extent, "").ok()?);
    }
    let count = tensors[0].count;
    let mut joined = TensorProto { tensor_content: Bytes::new(), ..TensorProto::clone(first) };
    if let Some(dim) = joined.tensor_shape.as_mut().and_then(|shape| shape.dim.first_mut()) {
        dim.size = rows.len() as i64;
    }
    if is_typed {
        typed::clear(&mut joined);
        typed::append(rows, tensors[0].values, count, &mut joined);
    } else if tensors[0].values.size.is_none() {
        joined.tensor_content = content_of(tensors.iter().flat_map(|tensor| tensor.text(0, 1)));
    } else {
        let mut content = BytesMut::new();
        for tensor in &tensors {
            content.extend_from_slice(tensor.numbers(0, 1));
        }
        joined.tensor_content = content.freeze();
    }
    Some(joined)
}

fn shape(rows: i64, dims: &[i64]) -> TensorShapeProto {
    let sizes = std::iter::once(rows).chain(dims.iter().copied());
    let dim = sizes.map(|size| Dim { size, name: String::new() }).collect();
    TensorShapeProto { dim, unknown_rank: false }
}

/// Slices of `bytes` in a row; shared where they are one.
fn in_one_piece(bytes: &Bytes, mut ranges: impl Iterator<Item = Range<usize>>) -> Bytes {
    let Some(mut first) = ranges.next() else { return Bytes::new() };
    let mut copied: Option<BytesMut> = None;
    for range in ranges {
        match &mut copied {
            None if range.start == first.end => first.end = range.end,
            None => {
                let mut copy = BytesMut::from(&bytes[first.clone()]);
                copy.extend_from_slice(&bytes[range]);
                copied = Some(copy);
            }
            Some(copy) => copy.extend_from_slice(&bytes[range]),
        }
    }
    copied.map_or_else(|| bytes.slice(first), BytesMut::freeze)
}

/// `count` elements of text that travel as bytes: all lengths first, as varints of 32 bits, then all contents.
fn elements(content: &Bytes, count: usize) -> Option<Vec<Bytes>> {
    let mut rest = &content[..];
    let mut lengths = Vec::with_capacity(count);
    for _ in 0..count {
        let before = rest.len();
        let length = decode_varint(&mut rest).ok()?;
        // TensorFlow reads five bytes at the most, and drops what does not fit 32 bits; nobody writes either.
        if before - rest.len() > 5 {
            return None;
        }
        lengths.push(usize::try_from(u32::try_from(length).ok()?).ok()?);
    }
    let mut at = content.len() - rest.len();
    let mut elements = Vec::with_capacity(count);
    for length in lengths {
        let end = at.checked_add(length).filter(|&end| end <= content.len())?;
        elements.push(content.slice(at..end));
        at = end;
    }
    (at == content.len()).then_some(elements)
}

/// Text as [`elements`] reads it.
fn content_of<'a>(elements: impl Iterator<Item = &'a Bytes> + Clone) -> Bytes {
    let mut content = BytesMut::new();
    elements.clone().for_each(|element| encode_varint(element.len() as u64, &mut content));
    elements.for_each(|element| content.extend_from_slice(element));
    content.freeze()
}

#[cfg(test)]
mod tests;

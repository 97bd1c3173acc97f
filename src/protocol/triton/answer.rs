//! A reply into one answer per row, and answers back into a reply.
//!
//! An answer is kept as the reply that the model would have given had it been asked for that row alone, without an id: what
//! comes out again is decoded by the same code that decodes the model's own replies.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use prost::Message;

use super::contents;
use super::outputs::{Outputs, Shown};
use crate::protocol::answer::AnswerError;
use crate::protocol::pb::{self, infer_parameter::ParameterChoice, model_infer_response::InferOutputTensor};
use crate::protocol::tensor::Datatype;

/// Decodes a reply.
pub(super) fn decode(payload: Bytes) -> Result<pb::ModelInferResponse, AnswerError> {
    pb::ModelInferResponse::decode(payload).map_err(|error| AnswerError::Decode(error.to_string()))
}

/// Takes a reply of `rows` rows apart, along the first dimension of every output.
pub(super) fn split(reply: &pb::ModelInferResponse, rows: usize) -> Result<Vec<Bytes>, AnswerError> {
    let mut parts: Vec<_> = (0..rows).map(|_| bare(reply)).collect();
    let mut raw = reply.raw_output_contents.iter();
    for output in &reply.outputs {
        if output.shape.first() != Some(&(rows as i64)) {
            return Err(AnswerError::Rows { output: output.name.clone(), shape: output.shape.clone(), rows });
        }
        let mut described = output.clone();
        described.shape[0] = 1;
        if typed_contents(reply, output).is_some() {
            described.contents = None;
        }
        let wrong = || AnswerError::Bytes(output.name.clone());
        match typed_contents(reply, output) {
            Some(contents) => {
                for (row, part) in parts.iter_mut().enumerate() {
                    let contents = Some(typed_row(contents, row, rows).ok_or_else(wrong)?);
                    part.outputs.push(InferOutputTensor { contents, ..described.clone() });
                }
            }
            None => {
                let data = raw.next().ok_or_else(wrong)?;
                let slices = raw_rows(data, output, rows).ok_or_else(wrong)?;
                for (part, slice) in parts.iter_mut().zip(slices) {
                    part.outputs.push(described.clone());
                    part.raw_output_contents.push(slice);
                }
            }
        }
    }
    Ok(parts.iter().map(|part| Bytes::from(part.encode_to_vec())).collect())
}

/// A reply that cannot be taken apart, kept whole.
pub(super) fn keep_whole(reply: &pb::ModelInferResponse) -> Bytes {
    let whole = pb::ModelInferResponse { id: String::new(), ..reply.clone() };
    Bytes::from(whole.encode_to_vec())
}

/// Puts rows together along the first dimension, in order. One row alone is itself, split or kept whole.
pub(super) fn join(mut rows: Vec<pb::ModelInferResponse>) -> Result<pb::ModelInferResponse, AnswerError> {
    if rows.len() == 1 {
        return Ok(rows.remove(0));
    }
    let first = rows.first().ok_or(AnswerError::Differ("number"))?;
    let mut joined = bare(first);
    for (at, output) in first.outputs.iter().enumerate() {
        let mut described = output.clone();
        match described.shape.first_mut() {
            Some(first) => *first = rows.len() as i64,
            None => return Err(AnswerError::Differ("outputs")),
        }
        for row in &rows {
            let same = output.shape.first() == Some(&1)
                && row.outputs.len() == first.outputs.len()
                && row.outputs[at].name == output.name
                && row.outputs[at].datatype == output.datatype
                && row.outputs[at].shape == output.shape
                && row.outputs[at].contents.is_some() == output.contents.is_some();
            if !same {
                return Err(AnswerError::Differ("outputs"));
            }
        }
        if typed_contents(first, output).is_some()
            && let Some(contents) = &mut described.contents
        {
            for row in &rows[1..] {
                if let Some(more) = &row.outputs[at].contents {
                    append(contents, more);
                }
            }
        } else {
            let position =
                first.outputs[..at].iter().filter(|output| typed_contents(first, output).is_none()).count();
            let mut data = BytesMut::new();
            for row in &rows {
                data.extend_from_slice(
                    row.raw_output_contents.get(position).ok_or(AnswerError::Differ("bytes"))?,
                );
            }
            joined.raw_output_contents.push(data.freeze());
        }
        joined.outputs.push(described);
    }
    Ok(joined)
}

/// Cuts a reply to what was asked for: its id, and the named outputs, in the model's order as the server has it, classified
/// ones to as many classes as were wanted.
pub(super) fn cut(
    mut reply: pb::ModelInferResponse,
    id: &str,
    wanted: &Outputs,
) -> Result<pb::ModelInferResponse, AnswerError> {
    id.clone_into(&mut reply.id);
    if wanted.are_all() {
        return Ok(reply);
    }
    let typed: Vec<bool> =
        reply.outputs.iter().map(|output| typed_contents(&reply, output).is_some()).collect();
    let mut raw = std::mem::take(&mut reply.raw_output_contents).into_iter();
    for (mut output, typed) in std::mem::take(&mut reply.outputs).into_iter().zip(typed) {
        let mut data = if typed { None } else { raw.next() };
        let Some(shown) = wanted.shows(&output.name) else { continue };
        if let (Shown::Classes(classes), Some(all)) = (shown, &data)
            && Datatype::of_name(&output.datatype) == Some(Datatype::Bytes)
        {
            data = Some(first_classes(&mut output, all, classes)?);
        }
        reply.raw_output_contents.extend(data);
        reply.outputs.push(output);
    }
    let is_there = |name: &str| reply.outputs.iter().any(|output| output.name == name);
    if wanted.names().all(is_there) { Ok(reply) } else { Err(AnswerError::Differ("outputs")) }
}

/// Says of a reply which sequence it belongs to, where the server says it: an ensemble's replies repeat what their own requests
/// said, and what follows of what they did not say.
pub(super) fn name_sequence(
    reply: &mut pb::ModelInferResponse,
    asked: &BTreeMap<String, pb::InferParameter>,
) {
    let unsaid = [
        ("sequence_id", ParameterChoice::Int64Param(0)),
        ("sequence_start", ParameterChoice::BoolParam(false)),
        ("sequence_end", ParameterChoice::BoolParam(false)),
    ];
    for (name, unsaid) in unsaid {
        if let Some(said) = reply.parameters.get_mut(name) {
            let unsaid = pb::InferParameter { parameter_choice: Some(unsaid) };
            *said = asked.get(name).cloned().unwrap_or(unsaid);
        }
    }
}

/// The first `classes` of each row of a classified output, whose last dimension counts them, best first.
fn first_classes(output: &mut InferOutputTensor, all: &Bytes, classes: u32) -> Result<Bytes, AnswerError> {
    let wrong = || AnswerError::Bytes(output.name.clone());
    let (last, rows) = output.shape.split_last().ok_or_else(wrong)?;
    let count = usize::try_from(*last).map_err(|_| wrong())?;
    let kept = count.min(classes as usize);
    if kept == count {
        return Ok(all.clone());
    }
    let rows = rows.iter().try_fold(1usize, |rows, &dim| rows.checked_mul(usize::try_from(dim).ok()?));
    let mut data = BytesMut::new();
    let mut start = 0;
    for _ in 0..rows.ok_or_else(wrong)? {
        let end = skip_elements(all, start, kept).ok_or_else(wrong)?;
        data.extend_from_slice(&all[start..end]);
        start = skip_elements(all, end, count - kept).ok_or_else(wrong)?;
    }
    if let Some(last) = output.shape.last_mut() {
        *last = kept as i64;
    }
    Ok(data.freeze())
}

/// Whether the values of a reply travel typed; none where there are no values to tell by.
pub(super) fn is_typed(reply: &pb::ModelInferResponse) -> Option<bool> {
    reply.outputs.first().map(|output| typed_contents(reply, output).is_some())
}

/// The values of an output that travels typed. Beside raw values an empty `contents` holds none (MLServer writes one).
fn typed_contents<'a>(
    reply: &pb::ModelInferResponse,
    output: &'a InferOutputTensor,
) -> Option<&'a pb::InferTensorContents> {
    let is_empty = |contents: &pb::InferTensorContents| *contents == pb::InferTensorContents::default();
    let contents = output.contents.as_ref()?;
    (reply.raw_output_contents.is_empty() || !is_empty(contents)).then_some(contents)
}

/// Writes a reply's values typed or raw. Left as it is where some output has no typed form.
pub(super) fn recast(reply: &mut pb::ModelInferResponse, typed: bool) {
    if is_typed(reply).is_none_or(|is| is == typed) {
        return;
    }
    let types: Option<Vec<_>> =
        reply.outputs.iter().map(|output| Datatype::of_name(&output.datatype)).collect();
    let Some(types) = types else { return };
    if typed {
        let values = reply.raw_output_contents.iter().zip(&types);
        let values: Option<Vec<_>> = values.map(|(data, of)| contents::of_raw(data, *of)).collect();
        let Some(values) = values.filter(|values| values.len() == types.len()) else { return };
        for (output, values) in reply.outputs.iter_mut().zip(values) {
            output.contents = Some(values);
        }
        reply.raw_output_contents.clear();
    } else {
        for (output, of) in reply.outputs.iter_mut().zip(types) {
            let values = output.contents.take().unwrap_or_default();
            reply.raw_output_contents.push(contents::to_raw(&values, of));
        }
    }
}

fn bare(reply: &pb::ModelInferResponse) -> pb::ModelInferResponse {
    pb::ModelInferResponse {
        model_name: reply.model_name.clone(),
        model_version: reply.model_version.clone(),
        id: String::new(),
        parameters: reply.parameters.clone(),
        outputs: Vec::new(),
        raw_output_contents: Vec::new(),
    }
}

/// Raw bytes into one slice per row.
fn raw_rows(data: &Bytes, output: &InferOutputTensor, rows: usize) -> Option<Vec<Bytes>> {
    if Datatype::of_name(&output.datatype)? != Datatype::Bytes {
        if !data.len().is_multiple_of(rows) {
            return None;
        }
        let length = data.len() / rows;
        return Some((0..rows).map(|row| data.slice(row * length..(row + 1) * length)).collect());
    }
    let tail = output.shape.get(1..)?;
    let elements =
        tail.iter().try_fold(1usize, |product, &dim| product.checked_mul(usize::try_from(dim).ok()?))?;
    let mut slices = Vec::with_capacity(rows);
    let mut start = 0;
    for _ in 0..rows {
        let end = skip_elements(data, start, elements)?;
        slices.push(data.slice(start..end));
        start = end;
    }
    (start == data.len()).then_some(slices)
}

/// Where `elements` BYTES elements that begin at `start` end: each is a 4-byte little-endian length and as many bytes.
pub(super) fn skip_elements(data: &[u8], start: usize, elements: usize) -> Option<usize> {
    let mut at = start;
    for _ in 0..elements {
        let length = data.get(at..at + 4)?;
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
        at = at.checked_add(4 + length).filter(|&end| end <= data.len())?;
    }
    Some(at)
}

/// The BYTES elements of `data` without their lengths; none in place of the first that is cut off.
pub(super) fn elements(data: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    let mut at = Some(0);
    std::iter::from_fn(move || {
        let start = at.filter(|&start| start < data.len())?;
        at = skip_elements(data, start, 1);
        Some(at.map(|end| &data[start + 4..end]))
    })
}

fn typed_row(contents: &pb::InferTensorContents, row: usize, rows: usize) -> Option<pb::InferTensorContents> {
    fn part<T: Clone>(values: &[T], row: usize, rows: usize) -> Option<Vec<T>> {
        let length = values.len() / rows;
        values.len().is_multiple_of(rows).then(|| values[row * length..(row + 1) * length].to_vec())
    }
    Some(pb::InferTensorContents {
        bool_contents: part(&contents.bool_contents, row, rows)?,
        int_contents: part(&contents.int_contents, row, rows)?,
        int64_contents: part(&contents.int64_contents, row, rows)?,
        uint_contents: part(&contents.uint_contents, row, rows)?,
        uint64_contents: part(&contents.uint64_contents, row, rows)?,
        fp32_contents: part(&contents.fp32_contents, row, rows)?,
        fp64_contents: part(&contents.fp64_contents, row, rows)?,
        bytes_contents: part(&contents.bytes_contents, row, rows)?,
    })
}

fn append(contents: &mut pb::InferTensorContents, more: &pb::InferTensorContents) {
    contents.bool_contents.extend_from_slice(&more.bool_contents);
    contents.int_contents.extend_from_slice(&more.int_contents);
    contents.int64_contents.extend_from_slice(&more.int64_contents);
    contents.uint_contents.extend_from_slice(&more.uint_contents);
    contents.uint64_contents.extend_from_slice(&more.uint64_contents);
    contents.fp32_contents.extend_from_slice(&more.fp32_contents);
    contents.fp64_contents.extend_from_slice(&more.fp64_contents);
    contents.bytes_contents.extend_from_slice(&more.bytes_contents);
}

#[cfg(test)]
mod tests;

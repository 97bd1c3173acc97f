//! Predict's replies: into one answer per row, and answers back into a reply.
//!
//! An answer is kept as the reply that the model would have given had it been asked for that row alone: what comes out again is
//! decoded by the same code that decodes the model's own replies.

use bytes::Bytes;
use prost::Message;

use super::tensor::{self, Extent, MOST_FILLED, Tensor};
use crate::protocol::answer::AnswerError;
use crate::protocol::tensorflow::serving::PredictResponse;

/// Decodes a reply.
pub(super) fn decode(payload: Bytes) -> Result<PredictResponse, AnswerError> {
    PredictResponse::decode(payload).map_err(|error| AnswerError::Decode(error.to_string()))
}

/// Takes a reply of `rows` rows apart, along the first dimension of every output.
pub(super) fn split(reply: &PredictResponse, rows: usize) -> Result<Vec<Bytes>, AnswerError> {
    let bare = PredictResponse { model_spec: reply.model_spec.clone(), ..PredictResponse::default() };
    let mut parts = vec![bare; rows];
    let mut filled = 0;
    for (name, output) in &reply.outputs {
        let wrong = |_| AnswerError::Bytes(name.clone());
        let extent = Extent::of(output, name).map_err(wrong)?;
        filled += extent.filled;
        if filled > MOST_FILLED {
            return Err(AnswerError::Bytes(name.clone()));
        }
        let output = Tensor::new(output.clone(), extent, name).map_err(wrong)?;
        if output.dims.first() != Some(&(rows as i64)) {
            return Err(AnswerError::Rows { output: name.clone(), shape: output.dims.clone(), rows });
        }
        for (row, part) in parts.iter_mut().enumerate() {
            part.outputs.insert(name.clone(), output.rows(&[row]));
        }
    }
    Ok(parts.iter().map(|part| Bytes::from(part.encode_to_vec())).collect())
}

/// Puts rows together along the first dimension, in order. One row alone is itself, split or kept whole.
pub(super) fn join(mut rows: Vec<PredictResponse>) -> Result<PredictResponse, AnswerError> {
    if rows.len() == 1 {
        return Ok(rows.remove(0));
    }
    let first = rows.first().ok_or(AnswerError::Differ("number"))?;
    let mut joined = PredictResponse { model_spec: first.model_spec.clone(), ..PredictResponse::default() };
    let mut filled = 0;
    for name in first.outputs.keys() {
        let differ = || AnswerError::Differ("outputs");
        let of_rows: Option<Vec<_>> = rows.iter().map(|row| row.outputs.get(name)).collect();
        let output = tensor::join(&of_rows.ok_or_else(differ)?, &mut filled).ok_or_else(differ)?;
        joined.outputs.insert(name.clone(), output);
    }
    if rows.iter().any(|row| row.outputs.len() != joined.outputs.len()) {
        return Err(AnswerError::Differ("outputs"));
    }
    Ok(joined)
}

/// Cuts a reply to the outputs of `filter`, all of them where it names none.
pub(super) fn cut(mut reply: PredictResponse, filter: &[String]) -> Result<PredictResponse, AnswerError> {
    if filter.is_empty() {
        return Ok(reply);
    }
    let mut outputs = std::mem::take(&mut reply.outputs);
    for name in filter {
        let output = outputs.remove_entry(name).ok_or(AnswerError::Differ("outputs"))?;
        reply.outputs.extend([output]);
    }
    Ok(reply)
}

#[cfg(test)]
mod tests;

//! A reply into one answer per row, and answers back into a reply.
//!
//! An answer is kept as the reply that the model would have given had it been asked for that row alone, without an id: what
//! comes out again is decoded by the same code that decodes the model's own replies.

use bytes::{Bytes, BytesMut};
use prost::Message;

use super::pb;
use super::tensor::Datatype;

/// What a request wants back.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// The id to echo.
    pub id: &'a str,
    /// The outputs by name; empty for all.
    pub outputs: Vec<&'a str>,
}

/// Why a reply cannot be taken apart or put together.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Not a message of this protocol.
    #[error("the reply does not decode: {0}")]
    Decode(String),
    /// An output without the rows asked for.
    #[error("output '{output}' has shape {shape:?}, expected {rows} rows first")]
    Rows {
        /// Its name.
        output: String,
        /// Its shape.
        shape: Vec<i64>,
        /// Rows asked for.
        rows: usize,
    },
    /// An output whose bytes are not those of its shape.
    #[error("output '{0}' does not have the bytes of its shape")]
    Bytes(String),
    /// Rows that do not form one batch.
    #[error("the rows' answers differ in {0}")]
    Differ(&'static str),
}

/// Decodes a reply.
pub fn decode(payload: Bytes) -> Result<pb::ModelInferResponse, AnswerError> {
    pb::ModelInferResponse::decode(payload).map_err(|error| AnswerError::Decode(error.to_string()))
}

/// Takes a reply of `rows` rows apart, along the first dimension of every output.
pub fn split(reply: &pb::ModelInferResponse, rows: usize) -> Result<Vec<Bytes>, AnswerError> {
    let mut parts: Vec<_> = (0..rows).map(|_| bare(reply)).collect();
    let mut raw = reply.raw_output_contents.iter();
    for output in &reply.outputs {
        if output.shape.first() != Some(&(rows as i64)) {
            return Err(AnswerError::Rows { output: output.name.clone(), shape: output.shape.clone(), rows });
        }
        let mut described = output.clone();
        described.shape[0] = 1;
        described.contents = None;
        let wrong = || AnswerError::Bytes(output.name.clone());
        match &output.contents {
            Some(contents) => {
                for (row, part) in parts.iter_mut().enumerate() {
                    let contents = Some(typed_row(contents, row, rows).ok_or_else(wrong)?);
                    part.outputs
                        .push(pb::model_infer_response::InferOutputTensor { contents, ..described.clone() });
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
pub fn keep_whole(reply: &pb::ModelInferResponse) -> Bytes {
    let whole = pb::ModelInferResponse { id: String::new(), ..reply.clone() };
    Bytes::from(whole.encode_to_vec())
}

/// Puts rows together along the first dimension, in order. One row alone is itself, split or kept whole.
pub fn join(mut rows: Vec<pb::ModelInferResponse>) -> Result<pb::ModelInferResponse, AnswerError> {
    if rows.len() == 1 {
        return Ok(rows.remove(0));
    }
    let first = rows.first().ok_or(AnswerError::Differ("number"))?;
    let mut joined = bare(first);
    for (at, output) in first.outputs.iter().enumerate() {
        let mut described = output.clone();
        described.shape[0] = rows.len() as i64;
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
        if let Some(contents) = &mut described.contents {
            for row in &rows[1..] {
                if let Some(more) = &row.outputs[at].contents {
                    append(contents, more);
                }
            }
        } else {
            let position = first.outputs[..at].iter().filter(|output| output.contents.is_none()).count();
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

/// Cuts a reply to what was wanted: its id, and the named outputs, in the model's order as the server has it.
///
/// False where an output that was asked for is not there.
pub fn cut(reply: &mut pb::ModelInferResponse, wanted: &Wanted<'_>) -> bool {
    wanted.id.clone_into(&mut reply.id);
    if wanted.outputs.is_empty() {
        return true;
    }
    let mut raw = std::mem::take(&mut reply.raw_output_contents).into_iter();
    let mut kept = Vec::with_capacity(wanted.outputs.len());
    for output in std::mem::take(&mut reply.outputs) {
        let data = if output.contents.is_none() { raw.next() } else { None };
        if wanted.outputs.contains(&output.name.as_str()) {
            reply.raw_output_contents.extend(data);
            kept.push(output);
        }
    }
    reply.outputs = kept;
    wanted.outputs.iter().all(|name| reply.outputs.iter().any(|output| output.name == **name))
}

/// Whether `reply` holds only what was wanted already.
pub fn is_cut(reply: &pb::ModelInferResponse, wanted: &Wanted<'_>) -> bool {
    wanted.outputs.is_empty()
        || reply.outputs.iter().all(|output| wanted.outputs.contains(&output.name.as_str()))
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
fn raw_rows(
    data: &Bytes,
    output: &pb::model_infer_response::InferOutputTensor,
    rows: usize,
) -> Option<Vec<Bytes>> {
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
mod tests {
    use super::*;
    use pb::model_infer_response::InferOutputTensor;

    fn output(name: &str, datatype: &str, shape: &[i64]) -> InferOutputTensor {
        InferOutputTensor {
            name: name.into(),
            datatype: datatype.into(),
            shape: shape.to_vec(),
            ..Default::default()
        }
    }

    fn text(elements: &[&str]) -> Bytes {
        let mut data = BytesMut::new();
        for element in elements {
            data.extend_from_slice(&(element.len() as u32).to_le_bytes());
            data.extend_from_slice(element.as_bytes());
        }
        data.freeze()
    }

    /// Three rows: scores, labels of different lengths, and a tensor that travels typed between them.
    fn reply() -> pb::ModelInferResponse {
        let mut counts = output("counts", "INT32", &[3, 1]);
        counts.contents = Some(pb::InferTensorContents { int_contents: vec![7, 8, 9], ..Default::default() });
        pb::ModelInferResponse {
            model_name: "clf".into(),
            model_version: "4".into(),
            id: "an id".into(),
            parameters: [("triton_extra".to_owned(), pb::InferParameter::default())].into(),
            outputs: vec![output("scores", "FP32", &[3, 2]), counts, output("labels", "BYTES", &[3, 2])],
            raw_output_contents: vec![
                (0..24u8).collect(),
                text(&["cat", "", "a longer name", "dog", "x", "yz"]),
            ],
        }
    }

    fn rows(reply: &pb::ModelInferResponse) -> Vec<pb::ModelInferResponse> {
        split(reply, 3).unwrap().into_iter().map(|row| decode(row).unwrap()).collect()
    }

    #[test]
    fn a_reply_taken_apart_and_put_together_is_itself_without_its_id() {
        let reply = reply();
        assert_eq!(join(rows(&reply)).unwrap(), pb::ModelInferResponse { id: String::new(), ..reply });
    }

    #[test]
    fn each_row_is_the_reply_to_that_row_alone() {
        let rows = rows(&reply());
        for (row, (labels, count)) in
            [["cat", ""], ["a longer name", "dog"], ["x", "yz"]].iter().zip(7..).enumerate()
        {
            let alone = &rows[row];
            let shapes: Vec<_> = alone.outputs.iter().map(|output| output.shape.clone()).collect();
            assert_eq!(shapes, [[1, 2], [1, 1], [1, 2]]);
            assert_eq!(alone.raw_output_contents[0], (row as u8 * 8..row as u8 * 8 + 8).collect::<Bytes>());
            assert_eq!(alone.raw_output_contents[1], text(labels));
            assert_eq!(alone.outputs[1].contents.as_ref().unwrap().int_contents, [count]);
            assert_eq!((alone.model_version.as_str(), alone.id.as_str()), ("4", ""));
        }
    }

    #[test]
    fn rows_come_together_in_any_order_and_number() {
        let rows = rows(&reply());
        for order in [&[2, 0, 1][..], &[1, 1], &[0, 1, 2, 0, 2]] {
            let joined = join(order.iter().map(|&row| rows[row].clone()).collect()).unwrap();
            let again: Vec<_> = split(&joined, order.len()).unwrap();
            for (at, &row) in order.iter().enumerate() {
                assert_eq!(decode(again[at].clone()).unwrap(), rows[row], "{order:?}");
            }
        }
        assert_eq!(join(vec![rows[1].clone()]).unwrap(), rows[1]);
        assert_eq!(join(Vec::new()), Err(AnswerError::Differ("number")));
    }

    #[test]
    fn a_reply_of_other_rows_or_bytes_is_not_taken_apart() {
        let one_output = |output: InferOutputTensor, raw: Bytes| pb::ModelInferResponse {
            outputs: vec![output],
            raw_output_contents: vec![raw],
            ..Default::default()
        };
        for shape in [&[2, 2][..], &[6], &[]] {
            let reply = one_output(output("scores", "FP32", shape), Bytes::from(vec![0; 24]));
            assert!(matches!(split(&reply, 3), Err(AnswerError::Rows { .. })), "{shape:?}");
        }
        let wrong = Err(AnswerError::Bytes("o".into()));
        for (datatype, raw) in [
            ("FP32", Bytes::from(vec![0; 23])),
            ("NEW", Bytes::from(vec![0; 24])),
            ("BYTES", text(&["a", "b", "c", "d", "e"])),
            ("BYTES", text(&["a", "b", "c", "d", "e", "f", "g"])),
            ("BYTES", Bytes::from(vec![255; 24])),
            ("BYTES", Bytes::from(vec![0; 23])),
        ] {
            assert_eq!(split(&one_output(output("o", datatype, &[3, 2]), raw), 3), wrong, "{datatype}");
        }
        let nothing =
            pb::ModelInferResponse { outputs: vec![output("o", "FP32", &[3, 2])], ..Default::default() };
        assert_eq!(split(&nothing, 3), wrong);
        let mut typed = output("o", "INT32", &[3, 1]);
        typed.contents =
            Some(pb::InferTensorContents { int_contents: vec![1, 2, 3, 4], ..Default::default() });
        assert_eq!(split(&one_output(typed, Bytes::new()), 3), wrong);
    }

    #[test]
    fn rows_of_different_outputs_are_no_batch() {
        let rows = rows(&reply());
        let changes: [fn(&mut pb::ModelInferResponse); 5] = [
            |row| row.outputs[0].name = "other".into(),
            |row| row.outputs[0].datatype = "FP64".into(),
            |row| row.outputs[0].shape = vec![1, 3],
            |row| row.outputs[1].contents = None,
            |row| drop(row.outputs.pop()),
        ];
        for (at, change) in changes.iter().enumerate() {
            let mut other = rows[1].clone();
            change(&mut other);
            let joined = join(vec![rows[0].clone(), other]);
            assert_eq!(joined, Err(AnswerError::Differ("outputs")), "change {at}");
        }
    }

    #[test]
    fn a_reply_is_cut_to_the_outputs_that_were_named_each_with_its_own_bytes() {
        let cases: [(&[&str], &[&str], usize); 5] = [
            (&[], &["scores", "counts", "labels"], 2),
            (&["labels"], &["labels"], 1),
            (&["counts"], &["counts"], 0),
            (&["labels", "scores"], &["scores", "labels"], 2),
            (&["counts", "labels"], &["counts", "labels"], 1),
        ];
        for (named, kept, raw) in cases {
            let mut reply = reply();
            let whole = reply.clone();
            let wanted = Wanted { id: "mine", outputs: named.to_vec() };
            assert_eq!(is_cut(&reply, &wanted), named.is_empty(), "{named:?}");
            assert!(cut(&mut reply, &wanted), "{named:?}");
            assert!(is_cut(&reply, &wanted), "{named:?}");
            let names: Vec<_> = reply.outputs.iter().map(|output| output.name.as_str()).collect();
            assert_eq!((names, reply.raw_output_contents.len()), (kept.to_vec(), raw), "{named:?}");
            assert_eq!(reply.id, "mine");
            if kept.last() == Some(&"labels") {
                assert_eq!(reply.raw_output_contents.last(), whole.raw_output_contents.last());
            }
        }
        assert!(!cut(&mut reply(), &Wanted { id: "", outputs: vec!["scores", "missing"] }));
    }
}

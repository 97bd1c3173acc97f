//! How much memory a request takes once it is decoded, told from its bytes before it is.
//!
//! Two bytes of protobuf can stand for an empty tensor of three hundred, so a message within the length limit could decode to a
//! hundred times its size. The caller's budget is charged for what is counted here first.

use super::wire;

/// Bytes of a decoded message or map entry, generously: its fields, its place in a vector that grows by doubling.
pub(super) const MESSAGE: usize = 1024;

/// Bytes of a string or bytes field beside its content.
pub(super) const HANDLE: usize = 64;

/// An upper bound of the bytes that decoding `payload`, a `ModelInferRequest`, allocates. Content that is shared with the
/// payload is not counted again. Cost: one pass over field keys, none over content except typed numbers' length.
pub fn decoded(payload: &[u8]) -> usize {
    fields(payload, |number, content| match number {
        // inputs
        5 => MESSAGE + fields(content, input),
        // parameters, outputs
        4 | 6 => MESSAGE + content.len() * HANDLE,
        // raw contents share the payload's memory
        7 => HANDLE,
        _ => HANDLE + content.len(),
    })
}

fn input(number: u32, content: &[u8]) -> usize {
    match number {
        // shape: a byte of varint may be eight of integer, in a vector that doubles
        3 => 16 * content.len().max(1),
        4 => MESSAGE + content.len() * HANDLE,
        5 => MESSAGE + fields(content, contents),
        _ => HANDLE + content.len(),
    }
}

/// Typed contents: decoded once as numbers, and copied once as raw bytes.
fn contents(number: u32, content: &[u8]) -> usize {
    match number {
        // int32 and uint32, a byte each at the least
        2 | 4 => 12 * content.len().max(1),
        // int64 and uint64
        3 | 5 => 24 * content.len().max(1),
        // bytes
        8 => HANDLE + content.len(),
        // truth values and floats: a vector that doubles, and the copy
        _ => 3 * content.len().max(8),
    }
}

/// The sum of `cost` over the fields of a message; a field that is not length-delimited has no content. What does not parse
/// costs nothing: decoding stops there too.
pub(super) fn fields(message: &[u8], cost: impl Fn(u32, &[u8]) -> usize) -> usize {
    wire::fields(message).fold(0, |total, field| total.saturating_add(cost(field.number, field.content)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::pb;
    use prost::Message;

    #[test]
    fn a_raw_tensor_costs_next_to_nothing_beyond_itself() {
        let request = pb::ModelInferRequest {
            model_name: "m".into(),
            inputs: vec![pb::model_infer_request::InferInputTensor {
                name: "image".into(),
                datatype: "UINT8".into(),
                shape: vec![1, 224, 224, 3],
                ..Default::default()
            }],
            raw_input_contents: vec![vec![7; 150_528].into()],
            ..Default::default()
        };
        assert!(decoded(&request.encode_to_vec()) < 2000);
    }

    #[test]
    fn many_empty_things_cost_what_they_take() {
        let empty_inputs = [0x2a, 0x00].repeat(1000);
        let taken = 1000 * size_of::<pb::model_infer_request::InferInputTensor>() * 2;
        assert!(decoded(&empty_inputs) >= taken);
        let empty_raws = [0x3a, 0x00].repeat(1000);
        assert!(decoded(&empty_raws) >= 1000 * size_of::<bytes::Bytes>() * 2);
        let mut typed = pb::ModelInferRequest::default();
        typed.inputs.push(pb::model_infer_request::InferInputTensor {
            contents: Some(pb::InferTensorContents { uint64_contents: vec![1; 1000], ..Default::default() }),
            ..Default::default()
        });
        assert!(decoded(&typed.encode_to_vec()) >= 8 * 1000 * 2 + 8 * 1000);
    }

    #[test]
    fn what_does_not_parse_ends_the_count() {
        assert_eq!(decoded(&[0xff; 40]), 0);
        assert_eq!(decoded(&[]), 0);
        decoded(&[0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
    }
}

//! How much memory a request to TensorFlow Serving takes once it is decoded and read, told from its bytes before it is.

use prost::encoding::{WireType, decode_key, decode_varint};

use super::tensor::MOST_FILLED;
use super::typed::Values;
use crate::protocol::size::{HANDLE, MESSAGE, fields};
use crate::protocol::wire;

/// The number of `inputs` in a request.
const INPUTS: u32 = 2;

/// Numbers of a tensor's fields.
const DTYPE: u32 = 1;
const SHAPE: u32 = 2;
const CONTENT: u32 = 4;
const TEXT: u32 = 8;

/// Bytes of one feature of an Example: its name, its list, its place in a map.
const FEATURE: usize = 256;

/// An upper bound of the bytes that decoding and reading `payload`, a `PredictRequest`, allocates, the values that its tensors
/// leave to repetition included. Content that is shared with the payload is not counted again. Cost: one pass over field keys.
pub fn predict(payload: &[u8]) -> usize {
    let inputs = || wire::fields(payload).filter(|field| field.number == INPUTS);
    let made = inputs().fold(0u64, |made, input| made.saturating_add(Made::of(input.content).bytes()));
    let decoded = fields(payload, |number, content| match number {
        INPUTS => MESSAGE + fields(content, |_, value| HANDLE + value.len().min(MESSAGE) + tensor(value)),
        _ => MESSAGE + content.len(),
    });
    // What would take more is refused before it is made.
    decoded.saturating_add(made.min(MOST_FILLED) as usize)
}

/// An upper bound of the bytes that decoding and reading `payload` allocates, a request of Classify, Regress or MultiInference.
pub fn example(payload: &[u8]) -> usize {
    fields(payload, |number, content| match number {
        2 => {
            MESSAGE
                + fields(content, |_, list| {
                    MESSAGE + fields(list, |_, example| HANDLE + FEATURE + features(example))
                })
        }
        _ => MESSAGE + content.len(),
    })
}

fn features(example: &[u8]) -> usize {
    let values = |_, list: &[u8]| fields(list, |_, _| HANDLE);
    let feature = |number, feature: &[u8]| if number == 2 { fields(feature, values) } else { 0 };
    fields(example, |_, features| fields(features, |_, entry| FEATURE + fields(entry, feature)))
}

/// A tensor: decoded once as values, and copied once as raw bytes.
fn tensor(content: &[u8]) -> usize {
    MESSAGE
        + fields(content, |number, content| match number {
            SHAPE => MESSAGE + fields(content, |_, dim| MESSAGE + dim.len()),
            // content, which is shared, and text
            CONTENT | TEXT => 2 * HANDLE,
            // floats and doubles: a vector that doubles, and the copy
            5 | 6 | 9 | 12 => 3 * content.len().max(16),
            // integers of 32 bits, a byte each at the least
            7 | 13 | 16 => 12 * content.len().max(1),
            // integers of 64 bits
            10 | 17 => 24 * content.len().max(1),
            // truth values
            11 => 3 * content.len().max(8),
            _ => HANDLE + content.len(),
        })
}

/// What reading makes of a tensor beyond what it holds.
struct Made {
    dtype: u64,
    /// Elements that the shape counts.
    count: u64,
    /// Bytes of the content.
    content: u64,
    /// Bytes of the longest element of text.
    longest: u64,
}

impl Made {
    /// Of the entry of one input: where its value stands there more than once, it is merged.
    fn of(entry: &[u8]) -> Self {
        let mut made = Self { dtype: 0, count: 1, content: 0, longest: 0 };
        for field in wire::fields(entry).flat_map(|value| wire::fields(value.content)) {
            let length = field.content.len() as u64;
            match field.number {
                DTYPE => made.dtype = number(field.whole),
                SHAPE => {
                    let dims = wire::fields(field.content).flat_map(|dim| wire::fields(dim.content));
                    for size in dims.filter(|field| field.wire_type == WireType::Varint) {
                        made.count = made.count.saturating_mul(number(size.whole).max(1));
                    }
                }
                CONTENT => made.content = made.content.max(length),
                TEXT => made.longest = made.longest.max(length),
                _ => {}
            }
        }
        made
    }

    fn bytes(&self) -> u64 {
        let handle = HANDLE as u64;
        match Values::of(self.dtype as i32).map(|values| values.size) {
            None => 0,
            // Handles of the elements, whose lengths take a byte each at the least.
            Some(None) if self.content > 0 => self.count.min(self.content).saturating_mul(handle),
            Some(None) => self.count.saturating_mul(handle + self.longest),
            Some(Some(_)) if self.content > 0 => 0,
            Some(Some(size)) => self.count.saturating_mul(size as u64),
        }
    }
}

/// The number in a field, key and all.
fn number(mut field: &[u8]) -> u64 {
    decode_key(&mut field).and_then(|_| decode_varint(&mut field)).unwrap_or(0)
}

#[cfg(test)]
mod tests;

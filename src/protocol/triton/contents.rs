//! Typed elements as raw bytes, and back.

use bytes::Bytes;

use super::answer::skip_elements;
use crate::protocol::pb;
use crate::protocol::tensor::Datatype;

/// The elements as raw little-endian bytes. Integers keep their least significant bytes, as in Triton: 261 for UINT8 is 5.
///
/// Only the field of `datatype` is looked at; FP16 and BF16 have none.
pub(super) fn to_raw(contents: &pb::InferTensorContents, datatype: Datatype) -> Bytes {
    let mut data = Vec::new();
    match datatype {
        Datatype::Bool => data.extend(contents.bool_contents.iter().map(|&value| u8::from(value))),
        Datatype::Uint8 => data.extend(contents.uint_contents.iter().map(|&value| value as u8)),
        Datatype::Uint16 => {
            data.extend(contents.uint_contents.iter().flat_map(|&v| (v as u16).to_le_bytes()));
        }
        Datatype::Uint32 => data.extend(contents.uint_contents.iter().flat_map(|v| v.to_le_bytes())),
        Datatype::Uint64 => data.extend(contents.uint64_contents.iter().flat_map(|v| v.to_le_bytes())),
        Datatype::Int8 => data.extend(contents.int_contents.iter().map(|&value| value as u8)),
        Datatype::Int16 => data.extend(contents.int_contents.iter().flat_map(|&v| (v as u16).to_le_bytes())),
        Datatype::Int32 => data.extend(contents.int_contents.iter().flat_map(|v| v.to_le_bytes())),
        Datatype::Int64 => data.extend(contents.int64_contents.iter().flat_map(|v| v.to_le_bytes())),
        Datatype::Fp32 => data.extend(contents.fp32_contents.iter().flat_map(|v| v.to_le_bytes())),
        Datatype::Fp64 => data.extend(contents.fp64_contents.iter().flat_map(|v| v.to_le_bytes())),
        Datatype::Bytes => {
            for element in &contents.bytes_contents {
                data.extend((element.len() as u32).to_le_bytes());
                data.extend_from_slice(element);
            }
        }
        Datatype::Fp16 | Datatype::Bf16 => {}
    }
    data.into()
}

/// Raw bytes as typed elements; none for a type without a field, and for bytes that are no elements of the type.
pub(super) fn of_raw(data: &Bytes, datatype: Datatype) -> Option<pb::InferTensorContents> {
    fn each<const N: usize, T>(data: &[u8], value: impl Fn([u8; N]) -> T) -> Option<Vec<T>> {
        let (elements, rest) = data.as_chunks::<N>();
        rest.is_empty().then(|| elements.iter().map(|element| value(*element)).collect())
    }
    let mut contents = pb::InferTensorContents::default();
    match datatype {
        Datatype::Bool => contents.bool_contents = each(data, |[byte]| byte != 0)?,
        Datatype::Uint8 => contents.uint_contents = each(data, |[byte]| u32::from(byte))?,
        Datatype::Uint16 => contents.uint_contents = each(data, |v| u32::from(u16::from_le_bytes(v)))?,
        Datatype::Uint32 => contents.uint_contents = each(data, u32::from_le_bytes)?,
        Datatype::Uint64 => contents.uint64_contents = each(data, u64::from_le_bytes)?,
        Datatype::Int8 => contents.int_contents = each(data, |v| i32::from(i8::from_le_bytes(v)))?,
        Datatype::Int16 => contents.int_contents = each(data, |v| i32::from(i16::from_le_bytes(v)))?,
        Datatype::Int32 => contents.int_contents = each(data, i32::from_le_bytes)?,
        Datatype::Int64 => contents.int64_contents = each(data, i64::from_le_bytes)?,
        Datatype::Fp32 => contents.fp32_contents = each(data, f32::from_le_bytes)?,
        Datatype::Fp64 => contents.fp64_contents = each(data, f64::from_le_bytes)?,
        Datatype::Bytes => {
            let mut at = 0;
            while at < data.len() {
                let end = skip_elements(data, at, 1)?;
                contents.bytes_contents.push(data.slice(at + 4..end));
                at = end;
            }
        }
        Datatype::Fp16 | Datatype::Bf16 => return None,
    }
    Some(contents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_come_back_from_their_raw_bytes() {
        let data = Bytes::from((0..48u8).map(|byte| byte.wrapping_mul(77)).collect::<Vec<_>>());
        for datatype in [
            Datatype::Uint8,
            Datatype::Uint16,
            Datatype::Uint32,
            Datatype::Uint64,
            Datatype::Int8,
            Datatype::Int16,
            Datatype::Int32,
            Datatype::Int64,
            Datatype::Fp32,
            Datatype::Fp64,
        ] {
            assert_eq!(to_raw(&of_raw(&data, datatype).unwrap(), datatype), data, "{datatype:?}");
        }
        let truths = Bytes::from_static(&[0, 1, 1, 0]);
        assert_eq!(to_raw(&of_raw(&truths, Datatype::Bool).unwrap(), Datatype::Bool), truths);
        let texts = Bytes::from_static(b"\x02\0\0\0ab\0\0\0\0\x01\0\0\0c");
        assert_eq!(to_raw(&of_raw(&texts, Datatype::Bytes).unwrap(), Datatype::Bytes), texts);
    }

    #[test]
    fn bytes_that_are_no_elements_have_no_typed_form() {
        let data = Bytes::from_static(&[1, 2, 3]);
        for datatype in [Datatype::Uint16, Datatype::Fp64, Datatype::Bytes, Datatype::Fp16, Datatype::Bf16] {
            assert_eq!(of_raw(&data, datatype), None, "{datatype:?}");
        }
    }
}

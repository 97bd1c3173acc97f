//! Values that travel in the field of their type rather than as bytes: as bytes, some of them alone, and rows in a row.

use std::ops::Range;

use bytes::Bytes;

use crate::protocol::tensorflow::{DataType, TensorProto};

/// Where the values of a type stand when they travel typed, and how many bytes one takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Values {
    field: Field,
    /// Bytes of one value; none of text, whose elements say their own length.
    pub(super) size: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Float,
    Double,
    Int,
    Text,
    /// Pairs of floats.
    Complex,
    Int64,
    Bool,
    /// Pairs of doubles.
    DoubleComplex,
    /// Bit patterns of 16 bits.
    Half,
    Uint32,
    Uint64,
    /// Bit patterns of 8 bits.
    Float8,
}

impl Values {
    /// Of the type `dtype`; none for references, resources, variants and what TensorFlow packs below a byte: no request of ours
    /// carries those.
    pub(super) fn of(dtype: i32) -> Option<Self> {
        let (field, size) = match DataType::try_from(dtype).ok()? {
            DataType::DtFloat => (Field::Float, 4),
            DataType::DtDouble => (Field::Double, 8),
            DataType::DtInt32 | DataType::DtQint32 => (Field::Int, 4),
            DataType::DtInt16 | DataType::DtUint16 | DataType::DtQint16 | DataType::DtQuint16 => {
                (Field::Int, 2)
            }
            DataType::DtInt8 | DataType::DtUint8 | DataType::DtQint8 | DataType::DtQuint8 => (Field::Int, 1),
            DataType::DtString => return Some(Self { field: Field::Text, size: None }),
            DataType::DtComplex64 => (Field::Complex, 8),
            DataType::DtInt64 => (Field::Int64, 8),
            DataType::DtBool => (Field::Bool, 1),
            DataType::DtComplex128 => (Field::DoubleComplex, 16),
            DataType::DtHalf | DataType::DtBfloat16 => (Field::Half, 2),
            DataType::DtUint32 => (Field::Uint32, 4),
            DataType::DtUint64 => (Field::Uint64, 8),
            DataType::DtFloat8E5m2 | DataType::DtFloat8E4m3fn => (Field::Float8, 1),
            DataType::DtInvalid | DataType::DtResource | DataType::DtVariant => return None,
        };
        Some(Self { field, size: Some(size) })
    }

    /// How many values `tensor` gives in the field of its type.
    pub(super) fn given(self, tensor: &TensorProto) -> usize {
        match self.field {
            Field::Float => tensor.float_val.len(),
            Field::Double => tensor.double_val.len(),
            Field::Int => tensor.int_val.len(),
            Field::Text => tensor.string_val.len(),
            Field::Complex => tensor.scomplex_val.len() / 2,
            Field::Int64 => tensor.int64_val.len(),
            Field::Bool => tensor.bool_val.len(),
            Field::DoubleComplex => tensor.dcomplex_val.len() / 2,
            Field::Half => tensor.half_val.len(),
            Field::Uint32 => tensor.uint32_val.len(),
            Field::Uint64 => tensor.uint64_val.len(),
            Field::Float8 => tensor.float8_val.len(),
        }
    }
}

/// The first `length` bytes of numbers that travel typed, the last repeated where there are fewer. Integers keep their least
/// significant bytes, as in TensorFlow: 261 for UINT8 is 5.
pub(super) fn bytes(tensor: &TensorProto, values: Values, length: usize) -> Vec<u8> {
    let size = values.size.unwrap_or(1);
    let given = values.given(tensor).min(length / size);
    let mut data = Vec::with_capacity(length);
    match values.field {
        Field::Float => data.extend(tensor.float_val[..given].iter().flat_map(|value| value.to_le_bytes())),
        Field::Double => data.extend(tensor.double_val[..given].iter().flat_map(|value| value.to_le_bytes())),
        Field::Int => low_bytes(&tensor.int_val[..given], size, &mut data),
        Field::Half => low_bytes(&tensor.half_val[..given], size, &mut data),
        Field::Complex => {
            data.extend(tensor.scomplex_val[..2 * given].iter().flat_map(|value| value.to_le_bytes()));
        }
        Field::Int64 => data.extend(tensor.int64_val[..given].iter().flat_map(|value| value.to_le_bytes())),
        Field::Bool => data.extend(tensor.bool_val[..given].iter().map(|&value| u8::from(value))),
        Field::DoubleComplex => {
            data.extend(tensor.dcomplex_val[..2 * given].iter().flat_map(|value| value.to_le_bytes()));
        }
        Field::Uint32 => data.extend(tensor.uint32_val[..given].iter().flat_map(|value| value.to_le_bytes())),
        Field::Uint64 => data.extend(tensor.uint64_val[..given].iter().flat_map(|value| value.to_le_bytes())),
        Field::Float8 => data.extend_from_slice(&tensor.float8_val[..given]),
        Field::Text => {}
    }
    if given == 0 {
        data.resize(length, 0);
        return data;
    }
    let mut last = [0; 16];
    last[..size].copy_from_slice(&data[(given - 1) * size..]);
    while data.len() < length {
        data.extend_from_slice(&last[..size]);
    }
    data
}

fn low_bytes(values: &[i32], size: usize, data: &mut Vec<u8>) {
    match size {
        1 => data.extend(values.iter().map(|&value| value as u8)),
        2 => data.extend(values.iter().flat_map(|&value| (value as u16).to_le_bytes())),
        _ => data.extend(values.iter().flat_map(|value| value.to_le_bytes())),
    }
}

/// Puts the values in `ranges`, ascending, of `from` into `into`. Repetition is kept: once only the last value is left to come,
/// it is written once.
pub(super) fn select(
    from: &TensorProto,
    values: Values,
    into: &mut TensorProto,
    ranges: impl Iterator<Item = Range<usize>>,
) {
    fn part<T: Clone>(values: &[T], per: usize, ranges: impl Iterator<Item = Range<usize>>) -> Vec<T> {
        let given = values.len() / per;
        let mut part = Vec::new();
        for range in ranges.filter(|range| given > 0 && !range.is_empty()) {
            let start = range.start.min(given - 1);
            part.extend_from_slice(&values[start * per..range.end.min(given).max(start + 1) * per]);
            if range.end >= given {
                break;
            }
        }
        part
    }
    match values.field {
        Field::Float => into.float_val = part(&from.float_val, 1, ranges),
        Field::Double => into.double_val = part(&from.double_val, 1, ranges),
        Field::Int => into.int_val = part(&from.int_val, 1, ranges),
        Field::Text => into.string_val = part(&from.string_val, 1, ranges),
        Field::Complex => into.scomplex_val = part(&from.scomplex_val, 2, ranges),
        Field::Int64 => into.int64_val = part(&from.int64_val, 1, ranges),
        Field::Bool => into.bool_val = part(&from.bool_val, 1, ranges),
        Field::DoubleComplex => into.dcomplex_val = part(&from.dcomplex_val, 2, ranges),
        Field::Half => into.half_val = part(&from.half_val, 1, ranges),
        Field::Uint32 => into.uint32_val = part(&from.uint32_val, 1, ranges),
        Field::Uint64 => into.uint64_val = part(&from.uint64_val, 1, ranges),
        Field::Float8 => into.float8_val = part(&from.float8_val, 1, ranges).into(),
    }
}

/// Puts the values of `rows`, of which each counts `count`, one after the other into `into`. Repetition is written out but in
/// the last row; where no row gives a value, none is written.
pub(super) fn append(rows: &[&TensorProto], values: Values, count: usize, into: &mut TensorProto) {
    fn all<'a, T: Clone + Default + 'a>(
        rows: &[&'a TensorProto],
        of: impl Fn(&'a TensorProto) -> &'a [T],
        count: usize,
    ) -> Vec<T> {
        let mut joined = Vec::new();
        if rows.iter().all(|row| of(row).is_empty()) {
            return joined;
        }
        for (at, row) in rows.iter().enumerate() {
            let given = &of(row)[..of(row).len().min(count)];
            joined.extend_from_slice(given);
            let is_done = at + 1 == rows.len() && !given.is_empty();
            if !is_done {
                let last = given.last().cloned().unwrap_or_default();
                joined.extend(std::iter::repeat_n(last, count - given.len()));
            }
        }
        joined
    }
    /// The last pair repeats as a pair, so each row is written out.
    fn pairs<T: Copy + Default>(
        rows: &[&TensorProto],
        of: impl Fn(&TensorProto) -> &[T],
        count: usize,
    ) -> Vec<T> {
        let mut joined = Vec::new();
        for row in rows {
            let given = (of(row).len() / 2).min(count);
            let given = &of(row)[..2 * given];
            joined.extend_from_slice(given);
            let last = given.last_chunk::<2>().copied().unwrap_or_default();
            for _ in given.len() / 2..count {
                joined.extend_from_slice(&last);
            }
        }
        joined
    }
    match values.field {
        Field::Float => into.float_val = all(rows, |row| &row.float_val, count),
        Field::Double => into.double_val = all(rows, |row| &row.double_val, count),
        Field::Int => into.int_val = all(rows, |row| &row.int_val, count),
        Field::Text => into.string_val = all::<Bytes>(rows, |row| &row.string_val, count),
        Field::Complex => into.scomplex_val = pairs(rows, |row| &row.scomplex_val, count),
        Field::Int64 => into.int64_val = all(rows, |row| &row.int64_val, count),
        Field::Bool => into.bool_val = all(rows, |row| &row.bool_val, count),
        Field::DoubleComplex => into.dcomplex_val = pairs(rows, |row| &row.dcomplex_val, count),
        Field::Half => into.half_val = all(rows, |row| &row.half_val, count),
        Field::Uint32 => into.uint32_val = all(rows, |row| &row.uint32_val, count),
        Field::Uint64 => into.uint64_val = all(rows, |row| &row.uint64_val, count),
        Field::Float8 => into.float8_val = all(rows, |row| &row.float8_val[..], count).into(),
    }
}

/// Takes every typed value out.
pub(super) fn clear(tensor: &mut TensorProto) {
    *tensor = TensorProto {
        dtype: tensor.dtype,
        tensor_shape: tensor.tensor_shape.take(),
        version_number: tensor.version_number,
        tensor_content: std::mem::take(&mut tensor.tensor_content),
        ..TensorProto::default()
    };
}

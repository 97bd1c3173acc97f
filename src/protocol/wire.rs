//! Protobuf fields as they stand in a message, for what is looked at or left out without decoding it.

use bytes::BytesMut;
use prost::encoding::{WireType, decode_key, decode_varint};

/// One field: its number, its wire type, what it holds (empty unless it is length-delimited) and all of its bytes.
pub(super) struct Field<'a> {
    pub(super) number: u32,
    pub(super) wire_type: WireType,
    pub(super) content: &'a [u8],
    pub(super) whole: &'a [u8],
}

/// The fields of a message in order, those inside groups and the groups' own ends included; ends where the bytes do not parse.
pub(super) fn fields(mut rest: &[u8]) -> impl Iterator<Item = Field<'_>> {
    std::iter::from_fn(move || {
        let start = rest;
        let (number, wire_type) = decode_key(&mut rest).ok()?;
        let length = match wire_type {
            WireType::Varint => decode_varint(&mut rest).map(|_| 0),
            WireType::SixtyFourBit => Ok(8),
            WireType::LengthDelimited => decode_varint(&mut rest),
            WireType::StartGroup | WireType::EndGroup => Ok(0),
            WireType::ThirtyTwoBit => Ok(4),
        };
        let (content, after) = rest.split_at_checked(usize::try_from(length.ok()?).ok()?)?;
        rest = after;
        let content = if wire_type == WireType::LengthDelimited { content } else { &[] };
        Some(Field { number, wire_type, content, whole: &start[..start.len() - after.len()] })
    })
}

/// `payload`, a message that was decoded before, without its fields `number`; everything else, fields that we do not know
/// included, stays as it was.
pub(super) fn without(payload: &[u8], number: u32) -> BytesMut {
    let mut kept = BytesMut::with_capacity(payload.len());
    // Inside a group, which only a field that we do not know can be, the numbers are the group's own.
    let mut groups = 0;
    for field in fields(payload) {
        match field.wire_type {
            WireType::StartGroup => groups += 1,
            WireType::EndGroup => groups -= 1,
            _ => {}
        }
        if field.number != number || groups > 0 {
            kept.extend_from_slice(field.whole);
        }
    }
    kept
}

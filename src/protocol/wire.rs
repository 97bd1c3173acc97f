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

/// Which fields of a message are messages themselves, and which of theirs.
pub(super) struct Nested(pub(super) &'static [(u32, &'static Nested)]);

/// The longest key or length that every decoder reads: 32 bits in groups of seven.
const LONGEST: usize = 5;

/// Whether every decoder reads `payload`, which ours did, as ours: no key and no length, of its own or of what is `nested` in it, is
/// written with more bytes than any number needs. Ours reads up to ten bytes, Google's for C++ five.
pub(super) fn is_read_by_all(payload: &[u8], nested: &Nested) -> bool {
    let mut groups = 0;
    for field in fields(payload) {
        let about = field.whole.len() - field.content.len();
        let fits = match field.wire_type {
            WireType::Varint => bytes_of_key(field.whole) <= LONGEST,
            WireType::SixtyFourBit => about <= LONGEST + 8,
            WireType::ThirtyTwoBit => about <= LONGEST + 4,
            WireType::StartGroup | WireType::EndGroup => about <= LONGEST,
            WireType::LengthDelimited => {
                let key = bytes_of_key(field.whole);
                key <= LONGEST && about - key <= LONGEST
            }
        };
        match field.wire_type {
            WireType::StartGroup => groups += 1,
            WireType::EndGroup => groups -= 1,
            _ => {}
        }
        let inner = nested.0.iter().find(|(number, _)| *number == field.number && groups == 0);
        if !fits || inner.is_some_and(|(_, inner)| !is_read_by_all(field.content, inner)) {
            return false;
        }
    }
    true
}

/// The bytes of the varint that a field begins with.
fn bytes_of_key(field: &[u8]) -> usize {
    1 + field.iter().take_while(|&&byte| byte >= 0x80).count()
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

#[cfg(test)]
mod tests {
    use super::*;

    static LEAF: Nested = Nested(&[]);
    static TREE: Nested = Nested(&[(5, &Nested(&[(2, &LEAF)]))]);

    /// `number` in a varint of `bytes` bytes.
    fn varint(number: u64, bytes: usize) -> Vec<u8> {
        let digit = |at: usize| (number >> (7 * at)) as u8 & 0x7f | if at + 1 < bytes { 0x80 } else { 0 };
        (0..bytes).map(digit).collect()
    }

    fn delimited(number: u64, key: usize, length: usize, content: &[u8]) -> Vec<u8> {
        [varint(number << 3 | 2, key), varint(content.len() as u64, length), content.to_vec()].concat()
    }

    #[test]
    fn keys_and_lengths_of_more_than_five_bytes_are_found_wherever_they_are_read() {
        let leaf = delimited(1, 1, 1, b"x");
        for (key, length, fits) in [(1, 1, true), (5, 5, true), (6, 1, false), (1, 6, false), (10, 1, false)]
        {
            let own = delimited(7, key, length, &leaf);
            let inner = delimited(5, 1, 2, &delimited(2, 1, 2, &delimited(1, key, length, b"x")));
            let in_bytes = delimited(7, 1, 2, &own);
            assert_eq!(is_read_by_all(&own, &TREE), fits, "{key} {length}");
            assert_eq!(is_read_by_all(&inner, &TREE), fits, "{key} {length}, nested");
            assert!(is_read_by_all(&in_bytes, &TREE), "what is no message is not looked into");
        }
        for (wire_type, value) in
            [(0, varint(3, 10)), (1, vec![0; 8]), (5, vec![0; 4]), (3, varint(9 << 3 | 4, 1))]
        {
            for (key, fits) in [(5, true), (6, false)] {
                let field = [varint(9 << 3 | wire_type, key), value.clone()].concat();
                assert_eq!(is_read_by_all(&field, &TREE), fits, "{wire_type} {key}");
            }
        }
    }

    #[test]
    fn a_group_has_numbers_of_its_own() {
        let long = delimited(1, 6, 1, b"");
        let group = [varint(9 << 3 | 3, 1), delimited(5, 1, 1, &long), varint(9 << 3 | 4, 1)].concat();
        assert!(is_read_by_all(&group, &TREE));
        assert!(!is_read_by_all(&[group, delimited(5, 1, 1, &delimited(2, 1, 1, &long))].concat(), &TREE));
    }
}

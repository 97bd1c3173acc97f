//! Which Examples are read, and which are not read by every parser alike.

use super::*;
use crate::protocol::tensorflow::{self, BytesList, Example, FloatList, Int64List, feature::Kind};
use prost::Message;

fn entry_of(name: &[u8], feature: &[u8]) -> Vec<u8> {
    field(FIRST, &[field(FIRST, name), field(SECOND, feature)].concat())
}

fn field(key: u8, content: &[u8]) -> Vec<u8> {
    [&[key, content.len() as u8][..], content].concat()
}

fn read_of(entries: &[Vec<u8>]) -> Result<Features, Refusal> {
    read(&field(FIRST, &entries.concat()).into())
}

#[test]
fn what_libraries_write_is_read() {
    let kinds = [
        ("image", Kind::BytesList(BytesList { value: vec!["a".into(), "bc".into()] })),
        ("size", Kind::Int64List(Int64List { value: vec![2, -1] })),
        ("weight", Kind::FloatList(FloatList { value: vec![0.5] })),
    ];
    let mut example = Example::default();
    for (name, kind) in kinds {
        let feature = tensorflow::Feature { kind: Some(kind) };
        example.features.get_or_insert_default().feature.insert(name.into(), feature);
    }
    example.features.get_or_insert_default().feature.insert("none".into(), tensorflow::Feature::default());
    let features = read(&example.encode_to_vec().into()).unwrap();
    assert_eq!(features[&b"image"[..]], Feature::Bytes(vec!["a".into(), "bc".into()]));
    assert!(matches!(&features[&b"size"[..]], Feature::Integers(list) if list.len() == 13));
    assert!(matches!(&features[&b"weight"[..]], Feature::Floats(list) if list.len() == 6));
    assert_eq!(features[&b"none"[..]], Feature::Absent);
    assert_eq!(read(&Bytes::new()).unwrap(), Features::new());
    let parts = [field(FIRST, &entry_of(b"a", b"")), field(FIRST, &entry_of(b"b", b""))].concat();
    assert_eq!(read(&parts.into()).unwrap().len(), 2, "features in two parts");
    let swapped = field(FIRST, &[field(SECOND, b""), field(FIRST, b"a")].concat());
    assert_eq!(read_of(&[swapped]).unwrap().len(), 1, "a map's entries have no order");
}

#[test]
fn what_parsers_read_differently_is_dangerous() {
    let bytes = field(FIRST, &field(FIRST, b"x"));
    let floats = field(SECOND, b"");
    for (name, entries) in [
        ("a feature twice", vec![entry_of(b"a", &bytes), entry_of(b"a", &bytes)]),
        ("two lists", vec![entry_of(b"a", &[bytes.clone(), floats.clone()].concat())]),
        ("two lists of a kind", vec![entry_of(b"a", &[bytes.clone(), bytes.clone()].concat())]),
        ("an unknown list", vec![entry_of(b"a", &field(0x22, b""))]),
        ("an unknown value", vec![entry_of(b"a", &field(FIRST, &field(SECOND, b"x")))]),
        (
            "two names",
            vec![field(FIRST, &[field(FIRST, b"a"), field(FIRST, b"b"), field(SECOND, b"")].concat())],
        ),
        ("an unknown field of features", vec![field(THIRD, b"")]),
        ("a key of two bytes", vec![[&[0x8a, 0x00, 0x05][..], b"\x0a\x01a\x12\x00"].concat()]),
    ] {
        assert!(matches!(read_of(&entries), Err(Refusal::Dangerous(_))), "{name}");
    }
    for (name, example) in [("an unknown field", &[0x10, 0x01][..]), ("a group", &[0x0b, 0x0c])] {
        assert!(matches!(read(&Bytes::copy_from_slice(example)), Err(Refusal::Dangerous(_))), "{name}");
    }
}

#[test]
fn what_does_not_parse_is_malformed() {
    for example in
        [&[0x0a, 0x05][..], &[0x0a, 0x02, 0x0a, 0x09], &[0xff; 12], b"\x0a\x07\x0a\x05\x0a\x01\xff\x12\x00"]
    {
        assert!(matches!(read(&Bytes::copy_from_slice(example)), Err(Refusal::Malformed(_))), "{example:x?}");
    }
}

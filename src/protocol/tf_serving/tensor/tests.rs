//! TensorFlow's rules, case by case, and as laws.

use super::super::testing::{NUMBERS, encodings, raw, tensor, text, typed};
use super::*;
use proptest::prelude::*;

fn read(message: &TensorProto) -> Result<Tensor, Refusal> {
    Tensor::new(message.clone(), Extent::of(message, "x")?, "x")
}

fn numbers(message: &TensorProto) -> Vec<u8> {
    read(message).unwrap().numbers(0, 1).to_vec()
}

fn elements_of(message: &TensorProto) -> Vec<Bytes> {
    read(message).unwrap().text(0, 1).to_vec()
}

#[test]
fn content_wins_and_must_be_of_the_shape() {
    let mut both = raw(DataType::DtUint8, &[2, 2], &[1, 2, 3, 4]);
    both.int_val = vec![9; 4];
    assert_eq!(numbers(&both), [1, 2, 3, 4]);
    for length in [1, 3, 5, 8] {
        let wrong = raw(DataType::DtUint8, &[2, 2], &vec![7; length]);
        assert!(matches!(read(&wrong), Err(Refusal::Malformed(_))), "{length} bytes");
    }
}

#[test]
fn missing_values_repeat_the_last_and_none_are_zero() {
    for (given, expected) in [
        (&[][..], [0, 0, 0, 0]),
        (&[7], [7, 7, 7, 7]),
        (&[1, 2], [1, 2, 2, 2]),
        (&[1, 2, 3, 4], [1, 2, 3, 4]),
        (&[1, 2, 3, 4, 5, 6], [1, 2, 3, 4]),
    ] {
        for (dtype, size) in NUMBERS.into_iter().filter(|(dtype, _)| *dtype != DataType::DtBool) {
            let wide = |values: &[u8]| values.iter().flat_map(|&v| vec![v; size]).collect::<Vec<_>>();
            assert_eq!(numbers(&typed(dtype, &[2, 2], &wide(given))), wide(&expected), "{dtype:?} {given:?}");
        }
    }
    for (given, expected) in [(&[][..], [""; 3]), (&["a"], ["a"; 3]), (&["a", "b"], ["a", "b", "b"])] {
        let given: Vec<_> = given.iter().map(|element: &&str| element.as_bytes()).collect();
        assert_eq!(elements_of(&text(&[3], &given)), expected.map(str::as_bytes));
    }
}

#[test]
fn typed_values_keep_their_least_significant_bytes() {
    for (dtype, expected) in [
        (DataType::DtUint8, &[5u8, 255][..]),
        (DataType::DtInt8, &[5, 255]),
        (DataType::DtUint16, &[5, 1, 255, 255]),
        (DataType::DtInt16, &[5, 1, 255, 255]),
        (DataType::DtInt32, &[5, 1, 0, 0, 255, 255, 255, 255]),
    ] {
        let message = TensorProto { int_val: vec![261, -1], ..tensor(dtype, &[2]) };
        assert_eq!(numbers(&message), expected, "{dtype:?}");
    }
    for dtype in [DataType::DtHalf, DataType::DtBfloat16] {
        let message = TensorProto { half_val: vec![0x3c00, 0x1_3f80], ..tensor(dtype, &[2]) };
        assert_eq!(numbers(&message), [0x00, 0x3c, 0x80, 0x3f], "{dtype:?}");
    }
}

#[test]
fn a_field_of_another_type_gives_nothing() {
    let message = TensorProto { float_val: vec![1.0; 2], ..tensor(DataType::DtUint8, &[2]) };
    assert_eq!(numbers(&message), [0, 0]);
    let message = TensorProto { half_val: vec![1; 2], ..tensor(DataType::DtUint16, &[2]) };
    assert_eq!(numbers(&message), [0; 4]);
    let message = TensorProto { scomplex_val: vec![1.0; 3], ..tensor(DataType::DtComplex64, &[2]) };
    assert_eq!(numbers(&message), [1.0f32.to_le_bytes(); 4].concat(), "half a pair is none");
}

#[test]
fn text_in_content_stands_after_all_its_lengths() {
    let message = |content: &[u8]| raw(DataType::DtString, &[3], content);
    assert_eq!(elements_of(&message(b"\x02\x00\x01abc")), [&b"ab"[..], b"", b"c"]);
    assert_eq!(elements_of(&message(b"\x82\x00\x00\x01abc")), [&b"ab"[..], b"", b"c"]);
    for cut_off in [
        &b"\x02\x00\x01ab"[..],
        b"\x02\x00\x01abcd",
        b"\x02\x00",
        b"\x02\x00\x80",
        b"\x82\x80\x80\x80\x80\x00\x00\x01abc",
        b"\xff\xff\xff\xff\x7f\x00\x00",
    ] {
        assert!(matches!(read(&message(cut_off)), Err(Refusal::Malformed(_))), "{cut_off:x?}");
    }
}

#[test]
fn truth_values_are_0_or_1() {
    assert_eq!(numbers(&raw(DataType::DtBool, &[2], &[0, 1])), [0, 1]);
    assert!(matches!(read(&raw(DataType::DtBool, &[2], &[0, 2])), Err(Refusal::Malformed(_))));
}

#[test]
fn shapes_and_types_that_the_server_does_not_read_are_malformed() {
    let mut unranked = tensor(DataType::DtFloat, &[]);
    unranked.tensor_shape.as_mut().unwrap().unknown_rank = true;
    let references = [101, 107, 119].map(|dtype| TensorProto { dtype, ..tensor(DataType::DtFloat, &[1]) });
    let below_a_byte = [29, 30].map(|dtype| TensorProto { dtype, ..tensor(DataType::DtFloat, &[1]) });
    let without =
        [DataType::DtInvalid, DataType::DtResource, DataType::DtVariant].map(|dtype| tensor(dtype, &[1]));
    let shapes = [
        tensor(DataType::DtFloat, &[-1]),
        tensor(DataType::DtFloat, &[2, -2]),
        tensor(DataType::DtFloat, &[1; 255]),
    ];
    for message in references.iter().chain(&below_a_byte).chain(&without).chain(&shapes).chain([&unranked]) {
        assert!(matches!(read(message), Err(Refusal::Malformed(_))), "{message:?}");
    }
    let scalar = TensorProto { tensor_shape: None, ..typed(DataType::DtUint8, &[], &[7]) };
    assert_eq!(numbers(&scalar), [7]);
    assert!(read(&tensor(DataType::DtFloat, &[0, 5])).unwrap().is_empty());
}

#[test]
fn a_shape_that_stands_for_too_much_is_dangerous_before_anything_is_made_of_it() {
    let one = |dtype, dims: &[i64]| TensorProto { float_val: vec![1.0], ..tensor(dtype, dims) };
    for message in [
        one(DataType::DtFloat, &[100_000, 100_000]),
        one(DataType::DtFloat, &[(MOST_FILLED / 4) as i64 + 2]),
        one(DataType::DtFloat, &[i64::MAX]),
        one(DataType::DtFloat, &[i64::MAX, i64::MAX, 0]),
        // The server makes room for these before it looks at them.
        one(DataType::DtVariant, &[1 << 40]),
        one(DataType::DtResource, &[1 << 40]),
        raw(DataType::DtString, &[1 << 40], b"\x01a"),
        text(&[1 << 10], &[&vec![0; 1 << 17]]),
        text(&[1 << 30], &[]),
    ] {
        assert!(
            matches!(Extent::of(&message, "x"), Err(Refusal::Dangerous(_))),
            "{:?}",
            message.tensor_shape
        );
    }
    let most = one(DataType::DtFloat, &[(MOST_FILLED / 4) as i64 + 1]);
    assert_eq!(Extent::of(&most, "x").unwrap().filled, MOST_FILLED);
}

#[test]
fn a_row_keeps_the_encoding_it_came_in() {
    let whole = typed(DataType::DtUint8, &[4, 2], &[1, 2, 3]);
    let rows = |rows: &[usize]| read(&whole).unwrap().rows(rows);
    assert_eq!(rows(&[0]), typed(DataType::DtUint8, &[1, 2], &[1, 2]));
    assert_eq!(rows(&[1]), typed(DataType::DtUint8, &[1, 2], &[3]));
    assert_eq!(rows(&[2, 3]), typed(DataType::DtUint8, &[2, 2], &[3]));
    assert_eq!(rows(&[0, 3]), typed(DataType::DtUint8, &[2, 2], &[1, 2, 3]));
    let whole = raw(DataType::DtUint8, &[3, 2], &[1, 2, 3, 4, 5, 6]);
    let rows = |rows: &[usize]| read(&whole).unwrap().rows(rows);
    assert_eq!(rows(&[1, 2]), raw(DataType::DtUint8, &[2, 2], &[3, 4, 5, 6]));
    assert_eq!(rows(&[0, 2]), raw(DataType::DtUint8, &[2, 2], &[1, 2, 5, 6]));
    let whole = raw(DataType::DtString, &[3], b"\x02\x00\x01abc");
    assert_eq!(read(&whole).unwrap().rows(&[0, 2]), raw(DataType::DtString, &[2], b"\x02\x01abc"));
    let whole = text(&[3], &[b"a", b"b"]);
    assert_eq!(read(&whole).unwrap().rows(&[1, 2]), text(&[2], &[b"b"]));
    let zeros = tensor(DataType::DtInt64, &[3, 2]);
    assert_eq!(read(&zeros).unwrap().rows(&[1]), tensor(DataType::DtInt64, &[1, 2]));
}

#[test]
fn rows_of_different_tensors_are_not_put_together() {
    let one = || raw(DataType::DtUint8, &[1, 2], &[1, 2]);
    for other in [
        raw(DataType::DtInt8, &[1, 2], &[1, 2]),
        raw(DataType::DtUint8, &[1, 1], &[1]),
        raw(DataType::DtUint8, &[1, 2], &[1]),
        typed(DataType::DtUint8, &[1, 2], &[1, 2]),
        raw(DataType::DtUint8, &[2, 2], &[1, 2, 3, 4]),
        raw(DataType::DtUint8, &[], &[1]),
    ] {
        assert_eq!(join(&[&one(), &other], &mut 0), None, "{other:?}");
    }
    let wide = tensor(DataType::DtUint8, &[1, MOST_FILLED as i64]);
    assert_eq!(join(&[&wide, &wide], &mut 0), None, "more than may be repeated");
}

proptest! {
    #[test]
    fn every_encoding_of_a_tensor_reads_alike(of in encodings()) {
        for message in &of.ways {
            prop_assert_eq!(numbers(message), &of.data[..]);
        }
    }

    #[test]
    fn rows_cut_out_are_the_rows_of_the_whole(of in encodings(), chosen in any::<u8>()) {
        let rows: Vec<usize> = (0..of.rows).filter(|row| chosen & (1 << row) != 0).collect();
        let length = of.data.len() / of.rows;
        let expected: Vec<u8> = rows.iter().flat_map(|row| of.data[row * length..(row + 1) * length].to_vec()).collect();
        prop_assume!(!rows.is_empty());
        for message in &of.ways {
            let part = read(message).unwrap().rows(&rows);
            prop_assert_eq!(part.tensor_content.is_empty(), message.tensor_content.is_empty());
            prop_assert!(prost::Message::encoded_len(&part) <= prost::Message::encoded_len(message));
            prop_assert_eq!(numbers(&part), &expected[..]);
        }
    }

    #[test]
    fn rows_put_together_are_the_whole(of in encodings()) {
        for message in &of.ways {
            let whole = read(message).unwrap();
            let rows: Vec<_> = (0..of.rows).map(|row| whole.rows(&[row])).collect();
            let joined = join(&rows.iter().collect::<Vec<_>>(), &mut 0).unwrap();
            prop_assert_eq!(joined.tensor_content.is_empty(), message.tensor_content.is_empty());
            prop_assert_eq!(numbers(&joined), &of.data[..]);
            if message == &of.ways[0] {
                prop_assert_eq!(&joined, message);
            }
        }
    }

    #[test]
    fn text_reads_alike_whole_and_in_rows(elements in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..6)) {
        let slices: Vec<&[u8]> = elements.iter().map(|element| &element[..]).collect();
        let dims = [elements.len() as i64];
        let as_elements = text(&dims, &slices);
        let owned: Vec<Bytes> = elements.iter().cloned().map(Bytes::from).collect();
        let as_content = raw(DataType::DtString, &dims, &content_of(owned.iter()));
        for message in [&as_elements, &as_content] {
            prop_assert_eq!(elements_of(message), &owned[..]);
            let whole = read(message).unwrap();
            let rows: Vec<_> = (0..owned.len()).map(|row| whole.rows(&[row])).collect();
            prop_assert_eq!(elements_of(&rows[0]), &owned[..1]);
            let joined = join(&rows.iter().collect::<Vec<_>>(), &mut 0).unwrap();
            prop_assert_eq!(&joined, message);
        }
    }
}

//! What a `PredictRequest` is read as, case by case.

use std::time::Duration;

use proptest::prelude::*;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::super::size;
use super::super::testing::{self, READING, encodings, info, model, raw, signature, tensor, text, typed};
use super::*;
use crate::protocol::query::Family;
use crate::protocol::tensorflow::serving::model_spec::VersionChoice;
use crate::protocol::tensorflow::{DataType, TensorProto};

const KEY: &[u8; 32] = &[7; 32];

/// A classifier of pictures of 2 x 2, with a threshold for each row.
fn pictures() -> Signature {
    signature(
        &[
            ("image", info(DataType::DtUint8, Some(&[-1, 2, 2, 3]))),
            ("threshold", info(DataType::DtFloat, Some(&[-1]))),
        ],
        &[
            ("labels", info(DataType::DtString, Some(&[-1]))),
            ("scores", info(DataType::DtFloat, Some(&[-1, 10]))),
        ],
    )
}

/// One that takes encoded pictures.
fn encoded_pictures() -> Signature {
    signature(
        &[("image_bytes", info(DataType::DtString, Some(&[-1])))],
        &[("scores", info(DataType::DtFloat, Some(&[-1, 10])))],
    )
}

fn request(inputs: Vec<(&str, TensorProto)>) -> PredictRequest {
    PredictRequest {
        model_spec: Some(model("clf", None, "")),
        inputs: inputs.into_iter().map(|(alias, tensor)| (alias.to_owned(), tensor)).collect(),
        output_filter: Vec::new(),
    }
}

/// Three pictures and their thresholds.
pub(in super::super) fn three() -> PredictRequest {
    let levels: Vec<u8> = (0..36).collect();
    let thresholds: Vec<u8> = [0.5f32, 0.5, 0.9].iter().flat_map(|value| value.to_le_bytes()).collect();
    request(vec![
        ("image", raw(DataType::DtUint8, &[3, 2, 2, 3], &levels)),
        ("threshold", typed(DataType::DtFloat, &[3], &thresholds)),
    ])
}

/// The first row of [`three`] alone.
fn one_row() -> PredictRequest {
    decoded(&read(&three()).unwrap().for_rows(&[0], &pictures()))
}

fn how(image_input: Option<&str>) -> How<'_> {
    How { image_input, reading: READING }
}

fn read_by(
    message: &PredictRequest,
    signature: &Signature,
    image_input: Option<&str>,
) -> Result<Arc<dyn Query>, Refusal> {
    let payload = Bytes::from(message.encode_to_vec());
    decode(&payload).unwrap().read(payload, signature, how(image_input))
}

pub(in super::super) fn read(message: &PredictRequest) -> Result<Arc<dyn Query>, Refusal> {
    read_by(message, &pictures(), None)
}

fn decoded(payload: &[u8]) -> PredictRequest {
    PredictRequest::decode(payload).unwrap()
}

#[test]
fn a_model_is_asked_by_name_version_label_and_signature() {
    for (spec, version, signature, asked) in [
        (model("clf", None, ""), "", "serving_default", ""),
        (model("clf", Some(VersionChoice::Version(12)), "x"), "12", "x", "12"),
        (model("clf", Some(VersionChoice::Version(0)), ""), "0", "serving_default", "0"),
        (
            model("clf", Some(VersionChoice::VersionLabel("stable".into())), ""),
            "label:stable",
            "serving_default",
            "",
        ),
    ] {
        let message = PredictRequest { model_spec: Some(spec), ..three() };
        let key = decode(&message.encode_to_vec().into()).unwrap().asks();
        let expected = ModelKey {
            family: Family::TfServing,
            name: "clf".into(),
            version: version.into(),
            signature: signature.into(),
        };
        assert_eq!(key, expected);
        assert_eq!(read(&message).unwrap().version(), asked);
    }
}

#[test]
fn rows_are_the_pictures_along_the_first_dimension() {
    let query = read(&three()).unwrap();
    assert_eq!((query.rows(), query.splits(), query.form(KEY)), (3, true, 0));
    for row in 0..3 {
        let levels: Vec<u8> = (row as u8 * 12..row as u8 * 12 + 12).collect();
        assert_eq!(query.image(row).unwrap().rgb(), levels);
    }
    let payload = three().encode_to_vec().into();
    assert_eq!(decode(&payload).unwrap().most_rows(), 3);
}

#[test]
fn the_picture_is_the_input_that_is_named_or_shaped_or_the_only_text() {
    let two = signature(
        &[
            ("a", info(DataType::DtFloat, Some(&[-1, 4]))),
            ("b", info(DataType::DtUint8, Some(&[-1, 2, 2, 3]))),
            ("c", info(DataType::DtUint8, Some(&[-1, 2, 2, 3]))),
        ],
        &[("scores", info(DataType::DtFloat, Some(&[-1, 10])))],
    );
    let picture = |level| raw(DataType::DtUint8, &[1, 2, 2, 3], &[level; 12]);
    let message =
        request(vec![("a", tensor(DataType::DtFloat, &[1, 4])), ("b", picture(1)), ("c", picture(2))]);
    for (named, level) in [(None, 1), (Some("b"), 1), (Some("c"), 2)] {
        let query = read_by(&message, &two, named).unwrap();
        assert_eq!(query.image(0).unwrap().rgb(), [level; 12], "{named:?}");
    }
    let message = request(vec![("image_bytes", text(&[2], &[b"\xff\xd8\xff\x01", b"\xff\xd8\xff\x02"]))]);
    assert_eq!(read_by(&message, &encoded_pictures(), None).unwrap().rows(), 2);
}

#[test]
fn an_input_of_any_rank_is_read_where_it_is_named() {
    let any =
        signature(&[("x", info(DataType::DtUint8, None))], &[("y", info(DataType::DtFloat, Some(&[-1])))]);
    let message = request(vec![("x", raw(DataType::DtUint8, &[2, 2, 2, 3], &[7; 24]))]);
    assert!(any.image_input(None, None).is_none());
    let query = read_by(&message, &any, Some("x")).unwrap();
    assert_eq!((query.rows(), query.splits()), (2, true));
    assert_eq!(query.image(1).unwrap().rgb(), [7; 12]);
    assert!(!query.is_accepted_by(&any), "a shape that nobody stated proves nothing");
}

#[test]
fn text_is_passed_where_no_picture_is_named() {
    let of = |elements: &[&[u8]]| request(vec![("image_bytes", text(&[elements.len() as i64], elements))]);
    let read = |message: PredictRequest, named| read_by(&message, &encoded_pictures(), named);
    assert!(matches!(read(of(&[b"hello", b"world"]), None), Err(Refusal::Text)));
    assert!(read(of(&[b"hello", b"\xff\xd8\xff\x00"]), None).is_ok());
    let query = read(of(&[b"hello"]), Some("image_bytes")).unwrap();
    assert!(matches!(query.image(0), Err(Refusal::Unreadable { .. })));
}

#[test]
fn an_element_of_text_is_decoded_whichever_way_it_travels() {
    let (file, levels) = testing::png();
    let dims = [2];
    let content = [&[1, file.len() as u8][..], b"?", &file].concat();
    for tensor in [text(&dims, &[b"?", &file]), raw(DataType::DtString, &dims, &content)] {
        let query =
            read_by(&request(vec![("image_bytes", tensor)]), &encoded_pictures(), Some("image_bytes"))
                .unwrap();
        assert_eq!(query.image(1).unwrap().rgb(), levels);
        assert!(query.decode_bytes() > 0);
        assert!(matches!(query.image(0), Err(Refusal::Unreadable { .. })));
    }
}

#[test]
fn a_row_of_text_is_one_picture() {
    let jpeg: &[u8] = b"\xff\xd8\xff\x00";
    let message = request(vec![("image_bytes", text(&[1, 2], &[jpeg, jpeg]))]);
    assert!(matches!(read_by(&message, &encoded_pictures(), None), Err(Refusal::Malformed(_))));
    let message = request(vec![("image_bytes", text(&[1], &[jpeg]))]);
    assert!(read_by(&message, &encoded_pictures(), None).is_ok_and(|query| query.rows() == 1));
}

#[test]
fn what_does_not_add_up_is_refused() {
    type Change = fn(&mut PredictRequest);
    let image = |message: &mut PredictRequest, tensor| message.inputs.insert("image".into(), tensor);
    let malformed: [(&str, Change); 6] = [
        ("no image", |message| {
            message.inputs.remove("image");
        }),
        ("an input that the signature does not know", |message| {
            message.inputs.insert("other".into(), tensor(DataType::DtFloat, &[1]));
        }),
        ("bytes of another shape", |message| {
            message.inputs.get_mut("image").unwrap().tensor_content.truncate(35);
        }),
        ("a rank that is not known", |message| {
            message.inputs.get_mut("image").unwrap().tensor_shape.as_mut().unwrap().unknown_rank = true;
        }),
        ("a size below zero", |message| {
            message.inputs.get_mut("image").unwrap().tensor_shape.as_mut().unwrap().dim[0].size = -3;
        }),
        ("no rows", |message| {
            message.inputs.insert("image".into(), raw(DataType::DtUint8, &[], &[7]));
        }),
    ];
    for (name, change) in malformed {
        let mut message = three();
        change(&mut message);
        assert!(matches!(read(&message), Err(Refusal::Malformed(_))), "{name}");
    }
    for tensor in [
        tensor(DataType::DtUint8, &[0, 2, 2, 3]),
        tensor(DataType::DtUint8, &[1, 0, 2, 3]),
        tensor(DataType::DtUint8, &[257, 2, 2, 3]),
        tensor(DataType::DtUint8, &[1, 100_000, 100_000, 3]),
    ] {
        let mut message = three();
        image(&mut message, tensor);
        assert!(
            matches!(read(&message), Err(Refusal::Dangerous(_))),
            "{:?}",
            message.inputs["image"].tensor_shape
        );
    }
}

#[test]
fn inputs_that_stand_for_much_are_refused_at_once_and_in_sum() {
    let one = |size| TensorProto { float_val: vec![0.5], ..tensor(DataType::DtFloat, &[size, size]) };
    let mut message = three();
    message.inputs.insert("threshold".into(), one(100_000));
    let started = tokio::time::Instant::now();
    assert!(matches!(read(&message), Err(Refusal::Dangerous(_))));
    assert!(started.elapsed() < Duration::from_millis(50));
    // Each of these may stand for as much alone.
    let both = request(vec![("image", one(3000)), ("threshold", one(3000))]);
    assert!(matches!(read(&both), Err(Refusal::Dangerous(_))));
    let harms = |message: &PredictRequest| {
        let request = decode(&message.encode_to_vec().into()).unwrap();
        matches!(request.must_not_harm(&pictures()), Err(Refusal::Dangerous(_)))
    };
    assert!(harms(&message) && harms(&both) && !harms(&three()));
    assert!(
        !harms(&request(vec![("image", raw(DataType::DtUint8, &[7], b"short"))])),
        "the server refuses it itself"
    );
    // What the server would make room for is refused before what it only finds out then.
    let mut message = three();
    message.inputs.insert("a".into(), TensorProto::default());
    message.inputs.insert("b".into(), one(100_000));
    assert!(matches!(read(&message), Err(Refusal::Dangerous(_))));
}

#[test]
fn another_type_or_shape_than_the_models_is_the_servers_to_refuse() {
    let mut message = three();
    message.inputs.insert("image".into(), tensor(DataType::DtBool, &[3, 2, 2, 3]));
    assert!(matches!(read(&message), Err(Refusal::Malformed(_))));
    for (dtype, dims) in [(DataType::DtComplex64, [3, 2, 2, 3]), (DataType::DtUint8, [3, 1, 4, 3])] {
        message.inputs.insert("image".into(), tensor(dtype, &dims));
        assert!(matches!(read(&message), Err(Refusal::Malformed(_))), "{dtype:?} {dims:?}");
    }
}

#[test]
fn other_inputs_are_told_apart_row_by_row_and_whichever_way_they_travel() {
    let query = read(&three()).unwrap();
    let digests = query.other_inputs(KEY);
    assert!(query.has_other_inputs() && digests[0] == digests[1] && digests[0] != digests[2]);
    let mut message = three();
    let content: Vec<u8> = [0.5f32, 0.5, 0.9].iter().flat_map(|value| value.to_le_bytes()).collect();
    message.inputs.insert("threshold".into(), raw(DataType::DtFloat, &[3], &content));
    assert_eq!(read(&message).unwrap().other_inputs(KEY), digests);
    message.inputs.remove("threshold");
    let query = read(&message).unwrap();
    assert!(!query.has_other_inputs() && query.other_inputs(KEY) == [0; 3]);
}

#[test]
fn an_input_of_another_batch_size_keeps_the_request_in_one_piece() {
    let mut message = three();
    message.inputs.insert("threshold".into(), tensor(DataType::DtFloat, &[2]));
    let query = read(&message).unwrap();
    assert!(!query.splits() && query.rows() == 3 && !query.is_accepted_by(&pictures()));
    let one = signature(
        &[("image", info(DataType::DtUint8, Some(&[2, 2, 3])))],
        &[("scores", info(DataType::DtFloat, Some(&[10])))],
    );
    let message = request(vec![("image", raw(DataType::DtUint8, &[2, 2, 3], &[7; 12]))]);
    let query = read_by(&message, &one, None).unwrap();
    assert!(query.rows() == 1 && !query.splits() && query.image(0).unwrap().rgb() == [7; 12]);
}

#[test]
fn the_request_for_some_rows_holds_those_rows_and_what_we_do_not_know() {
    let mut payload = three().encode_to_vec();
    let unknown = [0x2a, 0x02, 0x08, 0x01, 0x32, 0x01, 0x63, 0x9b, 0x06, 0x10, 0x01, 0x9c, 0x06];
    payload.extend(unknown);
    let payload = Bytes::from(payload);
    let query = decode(&payload).unwrap().read(payload.clone(), &pictures(), how(None)).unwrap();
    let sent = query.for_rows(&[0, 2], &pictures());
    let part = decoded(&sent);
    let levels: Vec<u8> = (0..12).chain(24..36).collect();
    assert_eq!(part.inputs["image"], raw(DataType::DtUint8, &[2, 2, 2, 3], &levels));
    assert_eq!(part.inputs["threshold"].float_val, [0.5, 0.9]);
    assert_eq!(part.model_spec, three().model_spec);
    assert!(sent.windows(unknown.len()).any(|window| window == unknown));
    assert!(!query.is_accepted_by(&pictures()), "what we do not know may change anything");
}

#[test]
fn a_request_that_names_outputs_is_sent_without_their_names() {
    let named = |names: &[&str]| {
        let output_filter = names.iter().map(|&name| name.to_owned()).collect();
        read(&PredictRequest { output_filter, ..three() }).unwrap()
    };
    assert_eq!(named(&[]).for_all_rows(&pictures()), None);
    for names in [&["scores"][..], &["scores", "labels"]] {
        let query = named(names);
        assert_eq!(decoded(&query.for_all_rows(&pictures()).unwrap()), three());
        assert!(decoded(&query.for_rows(&[1], &pictures())).output_filter.is_empty());
        assert!(!query.is_accepted_by(&pictures()), "no signature says how many rows a server takes");
        let output_filter = names.iter().map(|&name| name.to_owned()).collect();
        let query = read(&PredictRequest { output_filter, ..one_row() }).unwrap();
        assert!(query.is_accepted_by(&pictures()));
    }
    // The server refuses these in its own words.
    for names in [&["unknown"][..], &["scores", "unknown"], &["scores", "scores"]] {
        let query = named(names);
        assert_eq!(query.for_all_rows(&pictures()), None);
        assert_eq!(decoded(&query.for_rows(&[1], &pictures())).output_filter, names);
        assert!(!query.is_accepted_by(&pictures()), "{names:?}");
    }
}

#[test]
fn the_filter_is_cut_out_and_every_other_byte_stays() {
    let mut number_of = {
        let mut state = 3u64;
        move |end: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % end
        }
    };
    for _ in 0..200 {
        let (mut whole, mut expected) = (Vec::new(), Vec::new());
        for _ in 0..number_of(10) {
            let number = [1, 3, 5, 6, 7, 100][number_of(6)];
            let mut field = Vec::new();
            if number == 100 && number_of(2) == 0 {
                encode_key(number, WireType::StartGroup, &mut field);
                // The group's own field 3.
                field.extend([0x1a, 0x01, 0x61]);
                encode_key(number, WireType::EndGroup, &mut field);
            } else {
                encode_key(number, WireType::LengthDelimited, &mut field);
                let length = if number == 1 { 0 } else { number_of(300) };
                encode_varint(length as u64, &mut field);
                field.extend(vec![b'x'; length]);
            }
            whole.extend(&field);
            if number != 3 {
                expected.extend(field);
            }
        }
        assert!(PredictRequest::decode(&whole[..]).is_ok());
        assert_eq!(wire::without(&whole, OUTPUT_FILTER), expected);
    }
}

#[test]
fn a_form_is_proved_by_its_signature_alone() {
    type Change = fn(&mut PredictRequest);
    let changes: [(&str, bool, Change); 7] = [
        ("as it is", true, |_| {}),
        ("a known version", true, |m| m.model_spec = Some(model("clf", Some(VersionChoice::Version(3)), ""))),
        ("another version", false, |m| {
            m.model_spec = Some(model("clf", Some(VersionChoice::Version(4)), ""));
        }),
        ("a label", true, |m| {
            m.model_spec = Some(model("clf", Some(VersionChoice::VersionLabel("a".into())), ""));
        }),
        ("without an input", false, |m| {
            m.inputs.remove("threshold");
        }),
        ("another type", false, |m| {
            m.inputs.insert("threshold".into(), tensor(DataType::DtDouble, &[1]));
        }),
        ("another rank", false, |m| {
            m.inputs.insert("threshold".into(), tensor(DataType::DtFloat, &[1, 1]));
        }),
    ];
    for (name, is_accepted, change) in changes {
        let mut message = one_row();
        change(&mut message);
        assert_eq!(read(&message).unwrap().is_accepted_by(&pictures()), is_accepted, "{name}");
    }
    let open = signature(
        &[("image", info(DataType::DtUint8, Some(&[-1, -1, -1, 3])))],
        &[("scores", info(DataType::DtFloat, Some(&[-1, 10])))],
    );
    let message = request(vec![("image", tensor(DataType::DtUint8, &[1, 2, 2, 3]))]);
    assert!(
        !read_by(&message, &open, None).unwrap().is_accepted_by(&open),
        "a size left open proves nothing"
    );
    let message = request(vec![("image_bytes", text(&[1], &[b"\xff\xd8\xff\x00"]))]);
    let query = read_by(&message, &encoded_pictures(), None).unwrap();
    assert!(!query.is_accepted_by(&encoded_pictures()), "neither does text");
}

#[test]
fn validity_covers_everything_but_pixels_and_what_is_free() {
    type Change = fn(&mut PredictRequest);
    let of = |message: &PredictRequest| read(message).unwrap().validity(KEY);
    let same = of(&three());
    let mut message = three();
    message.inputs.insert("image".into(), raw(DataType::DtUint8, &[3, 2, 2, 3], &[9; 36]));
    assert_eq!(of(&message), same, "pixels");
    let changes: [(&str, Change); 5] = [
        ("the model", |m| m.model_spec = Some(model("other", None, ""))),
        ("the version", |m| m.model_spec = Some(model("clf", Some(VersionChoice::Version(3)), ""))),
        ("the signature", |m| m.model_spec = Some(model("clf", None, "x"))),
        ("another input", |m| m.inputs.get_mut("threshold").unwrap().float_val[0] = 0.4),
        ("the outputs", |m| m.output_filter.push("scores".into())),
    ];
    for (name, change) in changes {
        let mut message = three();
        change(&mut message);
        assert_ne!(of(&message), same, "{name}");
    }
    let extended = |tail: &[u8]| {
        let payload = Bytes::from([&three().encode_to_vec(), tail].concat());
        decode(&payload).unwrap().read(payload, &pictures(), how(None)).unwrap().validity(KEY)
    };
    assert_eq!(extended(&[0x32, 0x01, 0x63]), same, "who asks is free");
    assert_ne!(extended(&[0x2a, 0x02, 0x08, 0x01]), same, "an option");
    let encoded = |bytes: &[u8]| {
        let message = request(vec![("image_bytes", text(&[1], &[bytes]))]);
        read_by(&message, &encoded_pictures(), Some("image_bytes")).unwrap().validity(KEY)
    };
    assert_eq!(encoded(b"\xff\xd8\xff\x00"), encoded(b"\xff\xd8\xff\x01"));
    assert_ne!(
        encoded(b"\xff\xd8\xff\x00"),
        encoded(b"\x89PNG\r\n\x1a\n"),
        "not every model opens each container"
    );
}

#[test]
fn the_last_of_two_inputs_of_one_name_counts() {
    let one = |level| request(vec![("image", raw(DataType::DtUint8, &[1, 2, 2, 3], &[level; 12]))]);
    let payload = Bytes::from([one(1).encode_to_vec(), one(2).encode_to_vec()].concat());
    let query = decode(&payload).unwrap().read(payload, &pictures(), how(None)).unwrap();
    assert_eq!(query.image(0).unwrap().rgb(), [2; 12]);
}

proptest! {
    #[test]
    fn every_encoding_of_a_picture_is_the_same_picture(levels in proptest::collection::vec(any::<u8>(), 12), given in 1..12usize) {
        let mut levels = levels;
        let last = levels[given - 1];
        levels[given..].fill(last);
        let dims = [1, 2, 2, 3];
        for tensor in [
            raw(DataType::DtUint8, &dims, &levels),
            typed(DataType::DtUint8, &dims, &levels),
            typed(DataType::DtUint8, &dims, &levels[..given]),
        ] {
            let query = read(&request(vec![("image", tensor)])).unwrap();
            let image = query.image(0).unwrap();
            prop_assert_eq!(image.rgb(), &levels[..]);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused_and_take_no_more_than_was_said(
        mut payload in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..200),
            Just(three().encode_to_vec()),
            encodings().prop_map(|of| request(vec![("image", of.ways[2].clone())]).encode_to_vec()),
        ],
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6),
    ) {
        for (at, byte) in changes {
            if !payload.is_empty() {
                let at = at.index(payload.len());
                payload[at] = byte;
            }
        }
        let payload = Bytes::from(payload);
        let most = size::predict(&payload);
        if let Ok(message) = PredictRequest::decode(payload.clone()) {
            let any = testing::signature(&[("image", info(DataType::DtUint8, None)), ("threshold", info(DataType::DtFloat, None))], &[]);
            if let Ok(query) = PredictQuery::read(message, payload, &any, how(Some("image"))) {
                let made: usize = query.inputs.iter().map(|input| input.tensor.numbers(0, 1).len() + 32 * input.tensor.text(0, 1).len()).sum();
                prop_assert!(made <= most, "{made} bytes made, {most} said");
                for row in 0..query.rows() {
                    let _ = query.image(row);
                }
                let _ = (query.other_inputs(KEY), query.validity(KEY), query.for_rows(&[0], &any));
            }
        }
    }
}

#[test]
fn work_is_what_the_server_makes_of_a_tensor_whichever_way_it_travels() {
    let whole = read(&three()).unwrap().burden();
    assert_eq!(whole, Burden { tensors: 36 + 12, files: 0, pixels: 0 });
    // Three numbers stand for 36.
    let mut filled = three();
    filled.inputs.insert("image".into(), typed(DataType::DtUint8, &[3, 2, 2, 3], &[1, 2, 3]));
    assert_eq!(read(&filled).unwrap().burden(), whole);
    let files: [&[u8]; 2] = [b"GIF89a not much of a picture", b"BM nor this"];
    let pictures = request(vec![("image_bytes", text(&[2], &files))]);
    let burden = read_by(&pictures, &encoded_pictures(), None).unwrap().burden();
    assert_eq!(burden, Burden { tensors: 0, files: 28 + 11, pixels: 0 });
}

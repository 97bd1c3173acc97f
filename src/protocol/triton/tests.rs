//! What `triton.rs` promises, case by case.

use super::*;
use prost::encoding::{WireType, encode_key, encode_varint};

/// Numbers without order, the same on every machine.
fn drawn(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed;
    move |end| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % end
    }
}

/// One field of any wire type, its content without meaning.
fn field(number: u32, number_of: &mut impl FnMut(usize) -> usize, depth: usize) -> Vec<u8> {
    let mut field = Vec::new();
    let bytes = |length, number_of: &mut dyn FnMut(usize) -> usize| -> Vec<u8> {
        (0..length).map(|_| number_of(256) as u8).collect()
    };
    match number_of(if depth < 3 { 5 } else { 4 }) {
        0 => {
            encode_key(number, WireType::Varint, &mut field);
            encode_varint(number_of(1 << 30) as u64, &mut field);
        }
        1 => {
            encode_key(number, WireType::SixtyFourBit, &mut field);
            field.extend(bytes(8, number_of));
        }
        2 => {
            encode_key(number, WireType::ThirtyTwoBit, &mut field);
            field.extend(bytes(4, number_of));
        }
        3 => {
            encode_key(number, WireType::LengthDelimited, &mut field);
            let length = number_of(300);
            encode_varint(length as u64, &mut field);
            field.extend(bytes(length, number_of));
        }
        _ => {
            encode_key(number, WireType::StartGroup, &mut field);
            for _ in 0..number_of(4) {
                // Inside a group every number is the group's own, six as well.
                let inner = 1 + number_of(8) as u32;
                field.extend(self::field(inner, number_of, depth + 1));
            }
            encode_key(number, WireType::EndGroup, &mut field);
        }
    }
    field
}

#[test]
fn a_request_without_its_outputs_keeps_every_other_byte() {
    for seed in 0..400 {
        let mut number_of = drawn(seed);
        let (mut whole, mut expected) = (Vec::new(), Vec::new());
        for _ in 0..number_of(12) {
            let known = pb::ModelInferRequest {
                model_name: "m".repeat(number_of(3)),
                raw_input_contents: vec![vec![6; number_of(200)].into(); number_of(3)],
                ..Default::default()
            };
            let outputs = pb::ModelInferRequest {
                outputs: vec![
                    pb::model_infer_request::InferRequestedOutputTensor {
                        name: "o".repeat(number_of(200)),
                        ..Default::default()
                    };
                    number_of(3)
                ],
                ..Default::default()
            };
            match number_of(3) {
                0 => {
                    whole.extend(known.encode_to_vec());
                    expected.extend(known.encode_to_vec());
                }
                1 => whole.extend(outputs.encode_to_vec()),
                _ => {
                    let number = [8, 15, 16, 2047, 2048, 100_000][number_of(6)];
                    let unknown = field(number, &mut number_of, 0);
                    whole.extend(&unknown);
                    expected.extend(unknown);
                }
            }
        }
        let whole = Bytes::from(whole);
        assert!(decode(&whole).is_ok(), "seed {seed}: what is cut was decoded before");
        assert_eq!(wire::without(&whole, OUTPUTS), expected, "seed {seed}");
    }
}

fn signature() -> Signature {
    let config = pb::ModelConfig {
        max_batch_size: 4,
        input: vec![pb::ModelInput {
            name: "image".into(),
            data_type: pb::DataType::TypeUint8.into(),
            dims: vec![2, 2, 3],
            ..Default::default()
        }],
        output: vec![pb::ModelOutput {
            name: "scores".into(),
            data_type: pb::DataType::TypeFp32.into(),
            dims: vec![10],
        }],
        ..Default::default()
    };
    Signature::from_config(&config, vec!["1".into()])
}

fn request(rows: i64) -> pb::ModelInferRequest {
    pb::ModelInferRequest {
        model_name: "clf".into(),
        inputs: vec![pb::model_infer_request::InferInputTensor {
            name: "image".into(),
            datatype: "UINT8".into(),
            shape: vec![rows, 2, 2, 3],
            ..Default::default()
        }],
        raw_input_contents: vec![(0..rows as u8 * 12).collect()],
        ..Default::default()
    }
}

fn read(message: pb::ModelInferRequest) -> Result<InferQuery, Refusal> {
    let payload = Bytes::from(message.encode_to_vec());
    let reading = tensor::Reading { range: Some(tensor::Range::LEVELS), ..tensor::Reading::default() };
    InferQuery::read(message, payload, &signature(), How { image_input: None, reading })
}

fn decoded(payload: &[u8]) -> pb::ModelInferRequest {
    pb::ModelInferRequest::decode(payload).unwrap()
}

#[test]
fn the_request_for_some_rows_holds_those_rows() {
    let query = read(request(4)).unwrap();
    for rows in [&[0][..], &[3], &[1, 2], &[0, 1, 2, 3]] {
        let message = decoded(&query.for_rows(rows, &signature()));
        assert_eq!(message.inputs[0].shape, [rows.len() as i64, 2, 2, 3]);
        let expected: Vec<u8> = rows.iter().flat_map(|&row| row as u8 * 12..row as u8 * 12 + 12).collect();
        assert_eq!(message.raw_input_contents, [expected]);
    }
}

#[test]
fn work_is_the_elements_however_they_travel_and_nothing_that_makes_none() {
    let burden = |message| read(message).unwrap().burden();
    assert_eq!(burden(request(2)), Burden { tensors: 24, files: 0, pixels: 0 });
    let mut typed = request(2);
    typed.inputs[0].contents = Some(pb::InferTensorContents {
        uint_contents: typed.raw_input_contents.remove(0).into_iter().map(u32::from).collect(),
        ..Default::default()
    });
    assert_eq!(burden(typed), burden(request(2)));
    let mut dressed = request(2);
    dressed.id = "x".repeat(5000);
    dressed.parameters.insert("x".repeat(5000), pb::InferParameter::default());
    dressed.outputs.push(named("scores"));
    assert_eq!(burden(dressed), burden(request(2)));
}

/// A large plain picture's file is as long as a small noisy one's.
#[test]
fn the_work_of_files_is_their_bytes_and_their_pixels() {
    let config = pb::ModelConfig {
        name: "clf".into(),
        max_batch_size: 4,
        input: vec![pb::ModelInput {
            name: "image".into(),
            data_type: pb::DataType::TypeString.into(),
            dims: vec![1],
            ..Default::default()
        }],
        ..Default::default()
    };
    let signature = Signature::from_config(&config, vec!["1".into()]);
    let file = |name: &str| {
        std::fs::read(format!("{}/tests/fixtures/encoded/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    };
    let files = ["flat.gif", "drawn.png"].map(file);
    let mut message = request(2);
    message.inputs[0].datatype = "BYTES".into();
    message.inputs[0].shape = vec![2, 1];
    let element = |file: &Vec<u8>| [&(file.len() as u32).to_le_bytes()[..], file].concat();
    message.raw_input_contents = vec![files.iter().flat_map(element).collect()];
    let payload = Bytes::from(message.encode_to_vec());
    let how = How { image_input: None, reading: tensor::Reading::default() };
    let burden = InferQuery::read(message, payload, &signature, how).unwrap().burden();
    let pixels = files.iter().map(|file| encoded::image(file, tensor::Reading::default()).unwrap());
    let pixels = pixels.map(|image| image.width() as usize * image.height() as usize).sum();
    assert_eq!(burden, Burden { tensors: 0, files: files[0].len() + files[1].len(), pixels });
    assert!(pixels > 0);
}

#[test]
fn a_request_that_names_outputs_is_sent_without_their_names() {
    assert_eq!(read(request(1)).unwrap().for_all_rows(&signature()), None);
    let mut message = request(1);
    message.outputs.push(named("scores"));
    let sent = read(message).unwrap().for_all_rows(&signature()).unwrap();
    assert_eq!(decoded(&sent), request(1));
}

#[test]
fn a_request_that_does_not_add_up_is_not_read() {
    type Change = fn(&mut pb::ModelInferRequest);
    let malformed: [(&str, Change); 9] = [
        ("another input", |message| message.inputs[0].name = "other".into()),
        ("the input twice", |message| {
            message.inputs.push(message.inputs[0].clone());
            message.raw_input_contents.push(message.raw_input_contents[0].clone());
        }),
        ("unknown type", |message| message.inputs[0].datatype = "uint8".into()),
        ("no bytes", |message| message.raw_input_contents.clear()),
        ("a byte too few", |message| message.raw_input_contents[0].truncate(11)),
        ("a size below zero", |message| message.inputs[0].shape[1] = -2),
        ("no shape", |message| message.inputs[0].shape.clear()),
        ("raw and typed", |message| {
            message.inputs[0].contents = Some(pb::InferTensorContents::default());
        }),
        ("values of another type", |message| {
            message.raw_input_contents.clear();
            let fp32_contents = vec![0.0; 12];
            message.inputs[0].contents =
                Some(pb::InferTensorContents { fp32_contents, ..Default::default() });
        }),
    ];
    for (name, change) in malformed {
        let mut message = request(1);
        change(&mut message);
        assert!(matches!(read(message), Err(Refusal::Malformed(_))), "{name}");
    }
    for shape in [&[5, 2, 2, 3], &[0, 2, 2, 3], &[-1, 2, 2, 3], &[1, i64::MAX, i64::MAX, 3]] {
        let mut message = request(1);
        message.inputs[0].shape = shape.to_vec();
        assert!(matches!(read(message), Err(Refusal::Dangerous(_))), "{shape:?}");
    }
}

#[test]
fn typed_values_keep_their_least_significant_bytes() {
    let mut message = request(1);
    message.raw_input_contents.clear();
    let uint_contents = (0..12).map(|value| 256 + value).collect();
    message.inputs[0].contents = Some(pb::InferTensorContents { uint_contents, ..Default::default() });
    let query = read(message).unwrap();
    assert_eq!(query.image(0).unwrap().rgb(), (0..12u8).collect::<Vec<_>>());
}

/// A request for `classes` of the model's only output.
fn classified(classes: i64) -> pb::ModelInferRequest {
    let mut message = request(2);
    let parameter = pb::InferParameter {
        parameter_choice: Some(pb::infer_parameter::ParameterChoice::Int64Param(classes)),
    };
    message.outputs.push(pb::model_infer_request::InferRequestedOutputTensor {
        name: "scores".into(),
        parameters: [("classification".to_owned(), parameter)].into(),
    });
    message
}

/// The server's reply to two rows of `classes` classes each.
fn classes(classes: usize) -> pb::ModelInferResponse {
    let element = |row: usize, class: usize| {
        let text = format!("0.{row}:{class}:{}", "x".repeat(class));
        [&(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
    };
    let data: Vec<u8> =
        (0..2).flat_map(|row| (0..classes).flat_map(move |class| element(row, class))).collect();
    pb::ModelInferResponse {
        model_name: "clf".into(),
        model_version: "1".into(),
        outputs: vec![pb::model_infer_response::InferOutputTensor {
            name: "scores".into(),
            datatype: "BYTES".into(),
            shape: vec![2, classes as i64],
            ..Default::default()
        }],
        raw_output_contents: vec![data.into()],
        ..Default::default()
    }
}

#[test]
fn all_classes_are_asked_for_and_as_many_given_as_were_wanted() {
    let key = [7; 32];
    let all = Bytes::from(classes(10).encode_to_vec());
    let plain = read(request(2)).unwrap();
    for wanted in [1, 3, 10, 99] {
        let query = read(classified(wanted)).unwrap();
        let sent = decoded(&query.for_all_rows(&signature()).unwrap());
        assert_eq!(sent.outputs, classified(i64::from(i32::MAX)).outputs);
        assert_eq!(decoded(&query.for_rows(&[1], &signature())).outputs, sent.outputs);
        let told = query.told(all.clone(), 2).unwrap();
        let expected = Bytes::from(classes(wanted.min(10) as usize).encode_to_vec());
        assert_eq!(told.reply.unwrap().unwrap_or(all.clone()), expected);
        assert_eq!(query.assemble(told.rows.unwrap(), Some(false)).unwrap(), expected);
        assert_eq!(query.form(&key), read(classified(1)).unwrap().form(&key));
        assert_ne!(query.form(&key), plain.form(&key));
        assert!(query.is_accepted_by(&signature()));
    }
}

#[test]
fn a_number_of_classes_is_cut_as_the_server_cuts_it() {
    let all = Bytes::from(classes(10).encode_to_vec());
    for (asked, given) in [((1 << 32) + 2, 2), (1 << 40, 0), (i64::MAX, 10)] {
        let told = read(classified(asked)).unwrap().told(all.clone(), 2).unwrap();
        let expected = Bytes::from(classes(given).encode_to_vec());
        assert_eq!(told.reply.unwrap().unwrap_or(all.clone()), expected, "{asked}");
    }
    let mut twice = classified(4);
    twice.outputs.insert(0, named("scores"));
    twice.outputs.extend(classified(2).outputs);
    let told = read(twice).unwrap().told(all, 2).unwrap();
    assert_eq!(told.reply.unwrap().unwrap(), classes(4).encode_to_vec(), "the first number counts");
}

#[test]
fn what_the_server_refuses_of_outputs_and_shapes_is_left_to_it() {
    type Change = fn(&mut pb::ModelInferRequest);
    let changes: [(&str, Change); 5] = [
        ("no class", |message| *message = classified(0)),
        ("fewer", |message| *message = classified(-1)),
        ("another output", |message| message.outputs.push(named("unknown"))),
        ("another shape of as many bytes", |message| message.inputs[0].shape = vec![1, 4, 1, 3]),
        ("another type of as many bytes", |message| message.inputs[0].datatype = "INT8".into()),
    ];
    for (name, change) in changes {
        let mut message = request(1);
        change(&mut message);
        assert!(matches!(read(message), Err(Refusal::Malformed(_))), "{name}");
    }
}

fn named(output: &str) -> pb::model_infer_request::InferRequestedOutputTensor {
    pb::model_infer_request::InferRequestedOutputTensor { name: output.into(), ..Default::default() }
}

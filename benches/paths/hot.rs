//! The paths: what a call does between sockets, each in a closure that does it once.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use refrain::judgment::Likeness;
use refrain::protocol::query::{How, Query};
use refrain::protocol::signature::Signature;
use refrain::protocol::tensor::{Range, Reading};
use refrain::protocol::{Rpc, pb};
use refrain::session::Limits;

use crate::past::{Expected, Past, judge, likeness, near_copy, pixels};
use crate::pictures::Payload;

/// Anchors of a full session that near-copies have hit; as many others; and ghosts.
const HIT: usize = 128;
const OTHERS: usize = 128 + 1024;

/// Bytes of an answer: the scores of a thousand classes.
const ANSWER: usize = 4000;

/// Rows of the batch.
const ROWS: usize = 32;

/// One path.
pub(crate) struct Path {
    pub(crate) name: &'static str,
    /// Does it for the so-manieth time.
    pub(crate) once: Box<dyn FnMut(usize)>,
}

/// All paths, what they need made for `times` times.
pub(crate) fn paths(times: usize) -> Vec<Path> {
    let mut paths = vec![
        likeness_of("likeness 32 UINT8 NHWC", "UINT8", 32, false),
        likeness_of("likeness 32 UINT8 NCHW", "UINT8", 32, true),
        likeness_of("likeness 32 FP32 NHWC", "FP32", 32, false),
        likeness_of("likeness 224 UINT8 NHWC", "UINT8", 224, false),
        likeness_of("likeness 224 UINT8 NCHW", "UINT8", 224, true),
        likeness_of("likeness 224 FP32 NHWC", "FP32", 224, false),
        likeness_of("likeness 224 FP32 NCHW", "FP32", 224, true),
        likeness_of_jpeg("likeness 224 JPEG"),
        read_of("read 32 UINT8", "UINT8", 32, 1),
        read_of("read 224 FP32", "FP32", 224, 1),
        read_of("read 32 rows of 32 UINT8", "UINT8", 32, ROWS),
        told("answer kept", 1),
        told("32 answers cut and kept", ROWS),
        assembled("reply assembled", 1),
        assembled("reply of 32 rows assembled", ROWS),
    ];
    paths.extend(judged(times));
    paths
}

fn likeness_of(name: &'static str, datatype: &str, side: usize, planar: bool) -> Path {
    let judge = judge();
    let query = query(datatype, side, 1, planar);
    Path {
        name,
        once: Box::new(move |_| {
            let image = query.image(0).unwrap();
            black_box(judge.likeness(&image));
        }),
    }
}

fn likeness_of_jpeg(name: &'static str) -> Path {
    let judge = judge();
    let payload = Payload::named("jpeg-224");
    let request = payload.request(1).slice(5..);
    let signature = signature("BYTES", 224, false);
    let query = Rpc::Infer.decode(&request).unwrap().read(request, &signature, how(Range::LEVELS)).unwrap();
    Path {
        name,
        once: Box::new(move |_| {
            black_box(judge.likeness(&query.image(0).unwrap()));
        }),
    }
}

/// A message decoded, and read by its model's signature.
fn read_of(name: &'static str, datatype: &str, side: usize, rows: usize) -> Path {
    let payload: Bytes = message(datatype, side, rows, false).encode_to_vec().into();
    let signature = signature(datatype, side, false);
    Path {
        name,
        once: Box::new(move |_| {
            let request = Rpc::Infer.decode(&payload).unwrap();
            black_box(request.read(payload.clone(), &signature, how(datatype_range(&signature))).unwrap());
        }),
    }
}

/// What is kept of the model's reply.
fn told(name: &'static str, rows: usize) -> Path {
    let query = query("UINT8", 32, rows, false);
    let reply = reply(rows);
    Path { name, once: Box::new(move |_| drop(black_box(query.told(reply.clone(), rows).unwrap()))) }
}

/// The reply to a call that is answered from memory.
fn assembled(name: &'static str, rows: usize) -> Path {
    let query = query("UINT8", 32, rows, false);
    let kept = query.told(reply(rows), rows).unwrap();
    let (answers, typed) = (kept.rows.unwrap(), kept.typed);
    Path { name, once: Box::new(move |_| drop(black_box(query.assemble(answers.clone(), typed).unwrap()))) }
}

/// A row against a full session: new, a near-copy of an anchor, and one of its pictures again. Each is settled too.
fn judged(times: usize) -> Vec<Path> {
    let past = Past::new(Limits::default(), ANSWER);
    let first = past.fill(1, HIT, OTHERS);
    let past = Arc::new(past);
    let new: Vec<Likeness> =
        (first..).map(|seed| likeness(&past.judge, pixels(seed))).take(times + ROWS * times).collect();
    let copies: Vec<Likeness> =
        (0..times).map(|turn| near_copy(&past.judge, (turn % HIT) as u64, 1000 + turn)).collect();
    let exact: Vec<Likeness> = (0..HIT).map(|seed| likeness(&past.judge, pixels(seed as u64))).collect();
    let (one, many) = new.split_at(times);
    let (one, many) = (one.to_vec(), many.to_vec());
    let path = |name, rows: Vec<Likeness>, each: usize, expected| {
        let past = Arc::clone(&past);
        let once = move |turn: usize| {
            let at = turn * each % rows.len();
            past.ask(1, rows[at..at + each].to_vec(), expected);
        };
        Path { name, once: Box::new(once) }
    };
    let anchors_alone = Past::new(Limits { ghosts: 0, ..Limits::default() }, ANSWER);
    let next = anchors_alone.fill(1, HIT, HIT);
    let others: Vec<Likeness> =
        (next..).map(|seed| likeness(&past.judge, pixels(seed))).take(times).collect();
    // Near-copies and repeats first: new pictures would in time push the anchors out that these are of.
    vec![
        path("judged: a near-copy", copies, 1, Expected::Replay),
        path("judged: a repeat", exact, 1, Expected::Replay),
        path("judged: new", one, 1, Expected::Forward),
        path("judged: 32 new rows", many, ROWS, Expected::Forward),
        Path {
            name: "judged: new, 256 anchors and no ghosts",
            once: Box::new(move |turn| anchors_alone.ask(1, vec![others[turn].clone()], Expected::Forward)),
        },
    ]
}

fn query(datatype: &str, side: usize, rows: usize, planar: bool) -> Arc<dyn Query> {
    let payload: Bytes = message(datatype, side, rows, planar).encode_to_vec().into();
    let signature = signature(datatype, side, planar);
    let request = Rpc::Infer.decode(&payload).unwrap();
    request.read(payload, &signature, how(datatype_range(&signature))).unwrap()
}

fn how(range: Range) -> How<'static> {
    How { image_input: None, reading: Reading { range: Some(range), ..Reading::default() } }
}

fn datatype_range(signature: &Signature) -> Range {
    if signature.inputs[0].datatype.is_some_and(refrain::protocol::tensor::Datatype::is_float) {
        Range::UNIT
    } else {
        Range::LEVELS
    }
}

fn dims(side: usize, planar: bool) -> Vec<i64> {
    let side = side as i64;
    if planar { vec![3, side, side] } else { vec![side, side, 3] }
}

fn signature(datatype: &str, side: usize, planar: bool) -> Signature {
    let format = match datatype {
        "BYTES" => pb::model_input::Format::None,
        _ if planar => pb::model_input::Format::Nchw,
        _ => pb::model_input::Format::Nhwc,
    };
    let (data_type, dims) = match datatype {
        "FP32" => (pb::DataType::TypeFp32, dims(side, planar)),
        "UINT8" => (pb::DataType::TypeUint8, dims(side, planar)),
        _ => (pb::DataType::TypeString, vec![1]),
    };
    let config = pb::ModelConfig {
        name: "model".into(),
        max_batch_size: 128,
        input: vec![pb::ModelInput {
            name: "image".into(),
            data_type: data_type.into(),
            format: format.into(),
            dims,
            ..Default::default()
        }],
        output: vec![pb::ModelOutput {
            name: "scores".into(),
            data_type: pb::DataType::TypeFp32.into(),
            dims: vec![(ANSWER / 4) as i64],
        }],
        ..Default::default()
    };
    Signature::from_config(&config, vec!["1".into()])
}

/// A request whose pictures are blocks of drawn colours, of any size.
fn message(datatype: &str, side: usize, rows: usize, planar: bool) -> pb::ModelInferRequest {
    let mut data = Vec::new();
    for row in 0..rows {
        let small = pixels(row as u64);
        let level =
            |y: usize, x: usize, channel: usize| small[(y * 32 / side * 32 + x * 32 / side) * 3 + channel];
        let each: Vec<u8> = if planar {
            (0..3 * side * side).map(|at| level(at / side % side, at % side, at / (side * side))).collect()
        } else {
            (0..3 * side * side).map(|at| level(at / 3 / side, at / 3 % side, at % 3)).collect()
        };
        match datatype {
            "FP32" => data.extend(each.iter().flat_map(|&level| (f32::from(level) / 255.0).to_le_bytes())),
            _ => data.extend(each),
        }
    }
    let mut shape = vec![rows as i64];
    shape.extend(dims(side, planar));
    pb::ModelInferRequest {
        model_name: "model".into(),
        inputs: vec![pb::model_infer_request::InferInputTensor {
            name: "image".into(),
            datatype: datatype.into(),
            shape,
            ..Default::default()
        }],
        raw_input_contents: vec![data.into()],
        ..Default::default()
    }
}

fn reply(rows: usize) -> Bytes {
    let reply = pb::ModelInferResponse {
        model_name: "model".into(),
        model_version: "1".into(),
        outputs: vec![pb::model_infer_response::InferOutputTensor {
            name: "scores".into(),
            datatype: "FP32".into(),
            shape: vec![rows as i64, (ANSWER / 4) as i64],
            ..Default::default()
        }],
        raw_output_contents: vec![vec![7; ANSWER * rows].into()],
        ..Default::default()
    };
    reply.encode_to_vec().into()
}

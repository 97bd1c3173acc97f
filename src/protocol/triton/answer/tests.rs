//! What `answer.rs` promises, case by case.

use super::*;

fn output(name: &str, datatype: &str, shape: &[i64]) -> InferOutputTensor {
    InferOutputTensor {
        name: name.into(),
        datatype: datatype.into(),
        shape: shape.to_vec(),
        ..Default::default()
    }
}

fn text(elements: &[&str]) -> Bytes {
    let mut data = BytesMut::new();
    for element in elements {
        data.extend_from_slice(&(element.len() as u32).to_le_bytes());
        data.extend_from_slice(element.as_bytes());
    }
    data.freeze()
}

/// Three rows: scores, labels of different lengths, and a tensor that travels typed between them.
fn reply() -> pb::ModelInferResponse {
    let mut counts = output("counts", "INT32", &[3, 1]);
    counts.contents = Some(pb::InferTensorContents { int_contents: vec![7, 8, 9], ..Default::default() });
    pb::ModelInferResponse {
        model_name: "clf".into(),
        model_version: "4".into(),
        id: "an id".into(),
        parameters: [("triton_extra".to_owned(), pb::InferParameter::default())].into(),
        outputs: vec![output("scores", "FP32", &[3, 2]), counts, output("labels", "BYTES", &[3, 2])],
        raw_output_contents: vec![(0..24u8).collect(), text(&["cat", "", "a longer name", "dog", "x", "yz"])],
    }
}

fn rows(reply: &pb::ModelInferResponse) -> Vec<pb::ModelInferResponse> {
    split(reply, 3).unwrap().into_iter().map(|row| decode(row).unwrap()).collect()
}

#[test]
fn a_reply_taken_apart_and_put_together_is_itself_without_its_id() {
    let reply = reply();
    assert_eq!(join(rows(&reply)).unwrap(), pb::ModelInferResponse { id: String::new(), ..reply });
}

#[test]
fn each_row_is_the_reply_to_that_row_alone() {
    let rows = rows(&reply());
    for (row, (labels, count)) in
        [["cat", ""], ["a longer name", "dog"], ["x", "yz"]].iter().zip(7..).enumerate()
    {
        let alone = &rows[row];
        let shapes: Vec<_> = alone.outputs.iter().map(|output| output.shape.clone()).collect();
        assert_eq!(shapes, [[1, 2], [1, 1], [1, 2]]);
        assert_eq!(alone.raw_output_contents[0], (row as u8 * 8..row as u8 * 8 + 8).collect::<Bytes>());
        assert_eq!(alone.raw_output_contents[1], text(labels));
        assert_eq!(alone.outputs[1].contents.as_ref().unwrap().int_contents, [count]);
        assert_eq!((alone.model_version.as_str(), alone.id.as_str()), ("4", ""));
    }
}

#[test]
fn rows_come_together_in_any_order_and_number() {
    let rows = rows(&reply());
    for order in [&[2, 0, 1][..], &[1, 1], &[0, 1, 2, 0, 2]] {
        let joined = join(order.iter().map(|&row| rows[row].clone()).collect()).unwrap();
        let again: Vec<_> = split(&joined, order.len()).unwrap();
        for (at, &row) in order.iter().enumerate() {
            assert_eq!(decode(again[at].clone()).unwrap(), rows[row], "{order:?}");
        }
    }
    assert_eq!(join(vec![rows[1].clone()]).unwrap(), rows[1]);
    assert_eq!(join(Vec::new()), Err(AnswerError::Differ("number")));
}

#[test]
fn a_reply_of_other_rows_or_bytes_is_not_taken_apart() {
    let one_output = |output: InferOutputTensor, raw: Bytes| pb::ModelInferResponse {
        outputs: vec![output],
        raw_output_contents: vec![raw],
        ..Default::default()
    };
    for shape in [&[2, 2][..], &[6], &[]] {
        let reply = one_output(output("scores", "FP32", shape), Bytes::from(vec![0; 24]));
        assert!(matches!(split(&reply, 3), Err(AnswerError::Rows { .. })), "{shape:?}");
    }
    let wrong = Err(AnswerError::Bytes("o".into()));
    for (datatype, raw) in [
        ("FP32", Bytes::from(vec![0; 23])),
        ("NEW", Bytes::from(vec![0; 24])),
        ("BYTES", text(&["a", "b", "c", "d", "e"])),
        ("BYTES", text(&["a", "b", "c", "d", "e", "f", "g"])),
        ("BYTES", Bytes::from(vec![255; 24])),
        ("BYTES", Bytes::from(vec![0; 23])),
    ] {
        assert_eq!(split(&one_output(output("o", datatype, &[3, 2]), raw), 3), wrong, "{datatype}");
    }
    let nothing =
        pb::ModelInferResponse { outputs: vec![output("o", "FP32", &[3, 2])], ..Default::default() };
    assert_eq!(split(&nothing, 3), wrong);
    let mut typed = output("o", "INT32", &[3, 1]);
    typed.contents = Some(pb::InferTensorContents { int_contents: vec![1, 2, 3, 4], ..Default::default() });
    assert_eq!(split(&one_output(typed, Bytes::new()), 3), wrong);
}

#[test]
fn rows_of_different_outputs_are_no_batch() {
    let rows = rows(&reply());
    let changes: [fn(&mut pb::ModelInferResponse); 5] = [
        |row| row.outputs[0].name = "other".into(),
        |row| row.outputs[0].datatype = "FP64".into(),
        |row| row.outputs[0].shape = vec![1, 3],
        |row| row.outputs[1].contents = None,
        |row| drop(row.outputs.pop()),
    ];
    for (at, change) in changes.iter().enumerate() {
        let mut other = rows[1].clone();
        change(&mut other);
        let joined = join(vec![rows[0].clone(), other]);
        assert_eq!(joined, Err(AnswerError::Differ("outputs")), "change {at}");
    }
}

#[test]
fn a_reply_is_cut_to_the_outputs_that_were_named_each_with_its_own_bytes() {
    let cases: [(&[&str], &[&str], usize); 5] = [
        (&[], &["scores", "counts", "labels"], 2),
        (&["labels"], &["labels"], 1),
        (&["counts"], &["counts"], 0),
        (&["labels", "scores"], &["scores", "labels"], 2),
        (&["counts", "labels"], &["counts", "labels"], 1),
    ];
    for (named, kept, raw) in cases {
        let whole = reply();
        let wanted = wanted(named);
        let reply = cut(whole.clone(), "mine", &wanted).unwrap();
        let names: Vec<_> = reply.outputs.iter().map(|output| output.name.as_str()).collect();
        assert_eq!((names, reply.raw_output_contents.len()), (kept.to_vec(), raw), "{named:?}");
        assert_eq!(reply.id, "mine");
        if kept.last() == Some(&"labels") {
            assert_eq!(reply.raw_output_contents.last(), whole.raw_output_contents.last());
        }
    }
    assert!(cut(reply(), "", &wanted(&["scores", "missing"])).is_err());
}

fn wanted(names: &[&str]) -> Outputs {
    match names {
        [] => Outputs::All,
        names => {
            let shown = names.iter().map(|name| ((*name).to_owned(), Shown::Tensor)).collect();
            Outputs::Named { shown, mixed: Vec::new() }
        }
    }
}

#[test]
fn a_reply_is_written_typed_or_raw_and_back() {
    let mut whole = reply();
    recast(&mut whole, false);
    assert_eq!(
        whole.raw_output_contents.len(),
        2,
        "typed and raw mixed: left as it is told by its first output"
    );
    let mut raw = reply();
    raw.outputs.remove(1);
    let mut typed = raw.clone();
    recast(&mut typed, true);
    assert_eq!((is_typed(&typed), typed.raw_output_contents.len()), (Some(true), 0));
    assert_eq!(typed.outputs[1].contents.as_ref().unwrap().bytes_contents[2], "a longer name");
    recast(&mut typed, false);
    assert_eq!(typed, raw);
    raw.outputs[0].datatype = "FP16".into();
    let before = raw.clone();
    recast(&mut raw, true);
    assert_eq!(raw, before, "FP16 has no typed form");
}

#[test]
fn a_reply_that_names_a_sequence_names_that_of_its_own_request() {
    let parameter = |choice| pb::InferParameter { parameter_choice: Some(choice) };
    let number = |id| parameter(ParameterChoice::Int64Param(id));
    let mut reply = reply();
    let before = reply.clone();
    name_sequence(&mut reply, &[("sequence_id".to_owned(), number(7))].into());
    assert_eq!(reply, before, "one that names none is left alone");
    for name in ["sequence_id", "sequence_start"] {
        reply.parameters.insert(name.into(), number(3));
    }
    name_sequence(&mut reply, &[("sequence_id".to_owned(), number(7))].into());
    assert_eq!(reply.parameters["sequence_id"], number(7));
    assert_eq!(reply.parameters["sequence_start"], parameter(ParameterChoice::BoolParam(false)));
}

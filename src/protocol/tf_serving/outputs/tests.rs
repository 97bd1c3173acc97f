//! What becomes of Predict's replies, case by case.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::predict::tests::{read, three};
use super::super::testing::{encodings, model, tensor, text, typed};
use super::*;
use crate::protocol::tensorflow::DataType;
use crate::protocol::tensorflow::serving::{PredictRequest, model_spec::VersionChoice};

/// The reply to [`three`].
fn reply(rows: i64) -> PredictResponse {
    let scores: Vec<u8> = (0..rows * 40).map(|value| value as u8).collect();
    let labels: Vec<_> = (0..rows).map(|row| vec![b'a' + row as u8; row as usize]).collect();
    let labels: Vec<&[u8]> = labels.iter().map(|label| &label[..]).collect();
    PredictResponse {
        outputs: BTreeMap::from([
            ("labels".to_owned(), text(&[rows], &labels)),
            ("scores".to_owned(), typed(DataType::DtFloat, &[rows, 10], &scores)),
        ]),
        model_spec: Some(model("clf", Some(VersionChoice::Version(3)), "serving_default")),
    }
}

#[test]
fn a_reply_is_kept_row_by_row_and_put_together_for_any_filter() {
    let query = read(&three()).unwrap();
    let whole = Bytes::from(reply(3).encode_to_vec());
    let told = query.told(whole.clone(), 3).unwrap();
    assert_eq!((&told.version[..], told.typed), ("3", None));
    assert_eq!(told.reply, Ok(None), "the server's own bytes will do");
    let kept = told.rows.unwrap();
    assert_eq!(kept.len(), 3);
    assert_eq!(query.assemble(kept.clone(), None).unwrap(), whole);
    let named = PredictRequest { output_filter: vec!["scores".into()], ..three() };
    let named = read(&named).unwrap();
    let cut = PredictResponse::decode(named.assemble(kept.clone(), None).unwrap()).unwrap();
    assert_eq!(cut.outputs.keys().collect::<Vec<_>>(), ["scores"]);
    assert_eq!(
        (&cut.outputs["scores"], &cut.model_spec),
        (&reply(3).outputs["scores"], &reply(3).model_spec)
    );
    let told = named.told(whole, 3).unwrap();
    assert_eq!(PredictResponse::decode(told.reply.unwrap().unwrap()).unwrap(), cut);
    assert_eq!(told.rows.unwrap(), kept, "all outputs are kept, whichever were asked for");
    let missing = read(&PredictRequest { output_filter: vec!["other".into()], ..three() }).unwrap();
    assert_eq!(missing.assemble(kept, None), Err(AnswerError::Differ("outputs")));
}

#[test]
fn a_reply_that_is_written_in_another_order_is_written_by_us_on_both_paths() {
    let query = read(&three()).unwrap();
    let mut disordered = PredictResponse { outputs: BTreeMap::new(), ..reply(3) }.encode_to_vec();
    for name in ["scores", "labels"] {
        let output = reply(3).outputs.remove_entry(name).unwrap();
        disordered.extend(PredictResponse { outputs: [output].into(), model_spec: None }.encode_to_vec());
    }
    let told = query.told(disordered.into(), 3).unwrap();
    assert_eq!(told.reply.unwrap().unwrap(), reply(3).encode_to_vec());
}

#[test]
fn a_reply_of_other_rows_cannot_be_kept() {
    let query = read(&three()).unwrap();
    let told = query.told(reply(2).encode_to_vec().into(), 3).unwrap();
    assert!(matches!(told.rows, Err(AnswerError::Rows { rows: 3, .. })));
    assert!(matches!(query.told(Bytes::from_static(b"\xff"), 3), Err(AnswerError::Decode(_))));
    let kept = query.told(reply(3).encode_to_vec().into(), 3).unwrap().rows.unwrap();
    let other = PredictResponse { outputs: BTreeMap::new(), ..reply(1) }.encode_to_vec();
    assert_eq!(
        query.assemble(vec![kept[0].clone(), other.clone().into()], None),
        Err(AnswerError::Differ("outputs"))
    );
    assert_eq!(
        query.assemble(vec![other.into(), kept[0].clone()], None),
        Err(AnswerError::Differ("outputs"))
    );
    assert_eq!(query.assemble(Vec::new(), None), Err(AnswerError::Differ("number")));
    let mut vast = reply(3);
    vast.outputs.insert("vast".into(), tensor(DataType::DtFloat, &[3, 1 << 40]));
    let told = query.told(vast.encode_to_vec().into(), 3).unwrap();
    assert_eq!(told.rows.unwrap_err(), AnswerError::Bytes("vast".into()));
}

#[test]
fn one_row_is_kept_whole_whatever_its_outputs_look_like() {
    let mut message = three();
    message.inputs.remove("threshold");
    message.inputs.insert("image".into(), tensor(DataType::DtUint8, &[1, 2, 2, 3]));
    let query = read(&message).unwrap();
    let mut odd = reply(1);
    odd.outputs.insert("total".into(), tensor(DataType::DtFloat, &[]));
    let told = query.told(odd.encode_to_vec().into(), 1).unwrap();
    assert_eq!(query.assemble(told.rows.unwrap(), None).unwrap(), odd.encode_to_vec());
}

proptest! {
    #[test]
    fn replies_taken_apart_and_put_together_are_themselves(of in encodings()) {
        for output in &of.ways {
            let outputs = BTreeMap::from([("scores".to_owned(), output.clone())]);
            let whole = PredictResponse { outputs, ..reply(1) };
            let parts = split(&whole, of.rows).unwrap();
            let parts = parts.into_iter().map(|part| decode(part).unwrap()).collect();
            let joined = join(parts).unwrap();
            if output.tensor_content.is_empty() {
                // Repetition may be written out.
                let data = |reply: &PredictResponse| {
                    let output = &reply.outputs["scores"];
                    Tensor::new(output.clone(), Extent::of(output, "").unwrap(), "").unwrap().numbers(0, 1).to_vec()
                };
                prop_assert_eq!(data(&joined), data(&whole));
            } else {
                prop_assert_eq!(joined, whole);
            }
        }
    }
}

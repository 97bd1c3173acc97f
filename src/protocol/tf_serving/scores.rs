//! The scores in a reply, to be rewritten: Predict's outputs of floats, Classify's classes, Regress's values.

use half::{bf16, f16};

use super::tensor::datatype_of;
use crate::protocol::scores::{Rewrite, classes_of, rewrite_singles, rewritten};
use crate::protocol::tensor::Datatype;
use crate::protocol::tensorflow::TensorProto;
use crate::protocol::tensorflow::serving::{
    ClassificationResult, MultiInferenceResponse, PredictResponse, RegressionResult, inference_result,
};

/// Rewrites what stands along the last dimension of every output of floats.
pub(super) fn of_predict(reply: &mut PredictResponse, by: Rewrite<'_>) {
    for (name, output) in &mut reply.outputs {
        of_tensor(output, &mut |scores| by(name, scores));
    }
}

fn of_tensor(output: &mut TensorProto, by: &mut dyn FnMut(&mut [f64])) {
    let dims = output.tensor_shape.iter().flat_map(|shape| &shape.dim);
    let classes = classes_of(&dims.map(|dim| dim.size).collect::<Vec<_>>());
    let Some(of) = datatype_of(output.dtype()) else { return };
    if !output.tensor_content.is_empty() {
        if let Some(data) = rewritten(&output.tensor_content, of, classes, by) {
            output.tensor_content = data;
        }
        return;
    }
    match of {
        Datatype::Fp64 => output.double_val.chunks_exact_mut(classes).for_each(by),
        Datatype::Fp32 => rewrite_singles(&mut output.float_val, classes, by),
        Datatype::Fp16 | Datatype::Bf16 => {
            let is_bf16 = of == Datatype::Bf16;
            let wide = |bits: &i32| {
                let bits = *bits as u16;
                if is_bf16 { bf16::from_bits(bits).to_f64() } else { f16::from_bits(bits).to_f64() }
            };
            let mut scores: Vec<f64> = output.half_val.iter().map(wide).collect();
            scores.chunks_exact_mut(classes).for_each(by);
            let bits = |score: f64| {
                if is_bf16 { bf16::from_f64(score).to_bits() } else { f16::from_f64(score).to_bits() }
            };
            output.half_val = scores.into_iter().map(|score| i32::from(bits(score))).collect();
        }
        _ => {}
    }
}

/// Rewrites each row's classes, all at once.
pub(super) fn of_classes(result: &mut ClassificationResult, by: Rewrite<'_>) {
    for row in &mut result.classifications {
        let mut scores: Vec<f32> = row.classes.iter().map(|class| class.score).collect();
        let count = scores.len().max(1);
        rewrite_singles(&mut scores, count, &mut |scores| by("classes", scores));
        for (class, score) in row.classes.iter_mut().zip(scores) {
            class.score = score;
        }
    }
}

/// Rewrites each row's value.
pub(super) fn of_values(result: &mut RegressionResult, by: Rewrite<'_>) {
    for row in &mut result.regressions {
        let mut value = [row.value];
        rewrite_singles(&mut value, 1, &mut |scores| by("value", scores));
        [row.value] = value;
    }
}

/// Rewrites the results of every task.
pub(super) fn of_tasks(reply: &mut MultiInferenceResponse, by: Rewrite<'_>) {
    for task in &mut reply.results {
        match &mut task.result {
            Some(inference_result::Result::ClassificationResult(result)) => of_classes(result, by),
            Some(inference_result::Result::RegressionResult(result)) => of_values(result, by),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tensorflow::DataType;
    use crate::protocol::tensorflow::serving::{Class, Classifications, InferenceResult, Regression};
    use crate::protocol::tf_serving::testing::{raw, tensor};

    fn halved(_: &str, scores: &mut [f64]) {
        assert_eq!(scores.len(), 2);
        for score in scores {
            *score /= 2.0;
        }
    }

    fn predicted(output: TensorProto) -> TensorProto {
        let mut reply = PredictResponse::default();
        reply.outputs.insert("p".into(), output);
        of_predict(&mut reply, &mut halved);
        reply.outputs.remove("p").unwrap()
    }

    #[test]
    fn floats_are_rewritten_wherever_they_stand() {
        let floats =
            |scores: [f32; 2]| scores.iter().flat_map(|score| score.to_le_bytes()).collect::<Vec<u8>>();
        let found = predicted(raw(DataType::DtFloat, &[1, 2], &floats([3.0, 1.0])));
        assert_eq!(found.tensor_content, floats([1.5, 0.5]));
        let typed = TensorProto { float_val: vec![3.0, 1.0], ..tensor(DataType::DtFloat, &[1, 2]) };
        assert_eq!(predicted(typed).float_val, [1.5, 0.5]);
        let typed = TensorProto { double_val: vec![3.0, 1.0], ..tensor(DataType::DtDouble, &[1, 2]) };
        assert_eq!(predicted(typed).double_val, [1.5, 0.5]);
        let bits = |score: f32| i32::from(f16::from_f32(score).to_bits());
        let typed = TensorProto { half_val: vec![bits(3.0), bits(1.0)], ..tensor(DataType::DtHalf, &[1, 2]) };
        assert_eq!(predicted(typed).half_val, [bits(1.5), bits(0.5)]);
        let integers = TensorProto { int64_val: vec![4, 2], ..tensor(DataType::DtInt64, &[1, 2]) };
        assert_eq!(predicted(integers).int64_val, [4, 2]);
    }

    #[test]
    fn numbers_of_bfloat16_are_rewritten_as_such() {
        let bits = |score: f32| bf16::from_f32(score).to_bits();
        assert_ne!(bits(3.0), f16::from_f32(3.0).to_bits());
        let [before, after] = [[3.0, 1.0], [1.5, 0.5]].map(|scores| scores.map(bits));
        let half_val = before.map(i32::from).to_vec();
        let typed = TensorProto { half_val, ..tensor(DataType::DtBfloat16, &[1, 2]) };
        assert_eq!(predicted(typed).half_val, after.map(i32::from));
        let bytes = |scores: [u16; 2]| scores.map(u16::to_le_bytes).concat();
        let content = raw(DataType::DtBfloat16, &[1, 2], &bytes(before));
        assert_eq!(predicted(content).tensor_content, bytes(after));
    }

    fn classified(rows: &[[f32; 2]]) -> ClassificationResult {
        let class = |label: &str, score| Class { label: label.into(), score };
        let row =
            |[cat, dog]: &[f32; 2]| Classifications { classes: vec![class("cat", *cat), class("dog", *dog)] };
        ClassificationResult { classifications: rows.iter().map(row).collect() }
    }

    fn regressed(values: &[f32]) -> RegressionResult {
        RegressionResult { regressions: values.iter().map(|&value| Regression { value }).collect() }
    }

    /// What was asked to be rewritten, each output by its name.
    fn halving(asked: &mut Vec<(String, Vec<f64>)>) -> impl FnMut(&str, &mut [f64]) {
        |name, scores| {
            asked.push((name.to_owned(), scores.to_vec()));
            for score in scores {
                *score /= 2.0;
            }
        }
    }

    #[test]
    fn a_rows_classes_are_rewritten_together_and_keep_their_labels() {
        let mut result = classified(&[[3.0, 1.0], [0.5, 0.25]]);
        result.classifications.insert(1, Classifications::default());
        let mut asked = Vec::new();
        of_classes(&mut result, &mut halving(&mut asked));
        let mut expected = classified(&[[1.5, 0.5], [0.25, 0.125]]);
        expected.classifications.insert(1, Classifications::default());
        assert_eq!(result, expected);
        let classes = |scores: [f64; 2]| ("classes".to_owned(), scores.to_vec());
        assert_eq!(asked, [classes([3.0, 1.0]), classes([0.5, 0.25])]);
    }

    #[test]
    fn a_rows_value_is_rewritten_alone() {
        let (mut result, mut asked) = (regressed(&[3.0, 0.5]), Vec::new());
        of_values(&mut result, &mut halving(&mut asked));
        assert_eq!(result, regressed(&[1.5, 0.25]));
        assert_eq!(asked, [3.0, 0.5].map(|value| ("value".to_owned(), vec![value])));
    }

    #[test]
    fn every_task_is_rewritten_as_what_it_is() {
        use inference_result::Result::{ClassificationResult as Classes, RegressionResult as Values};
        let reply = |classes, values| MultiInferenceResponse {
            results: [Some(Classes(classes)), None, Some(Values(values))]
                .map(|result| InferenceResult { result, ..InferenceResult::default() })
                .to_vec(),
        };
        let (mut result, mut asked) = (reply(classified(&[[3.0, 1.0]]), regressed(&[5.0])), Vec::new());
        of_tasks(&mut result, &mut halving(&mut asked));
        assert_eq!(result, reply(classified(&[[1.5, 0.5]]), regressed(&[2.5])));
        assert_eq!(asked.len(), 2);
    }
}

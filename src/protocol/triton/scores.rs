//! The scores in a reply, to be rewritten: outputs of floats, and classes with their scores as text.

use bytes::{BufMut, Bytes, BytesMut};

use super::answer::elements;
use crate::protocol::pb;
use crate::protocol::scores::{Rewrite, classes_of, rewrite_singles, rewritten};
use crate::protocol::tensor::Datatype;

/// Rewrites every vector of scores: what stands along the last dimension of an output of floats, and the classes of a classified one.
/// Outputs of other types, and text that is no list of classes, stay as they are.
pub(super) fn rewrite(reply: &mut pb::ModelInferResponse, by: Rewrite<'_>) {
    let are_raw = !reply.raw_output_contents.is_empty();
    let mut raw = reply.raw_output_contents.iter_mut();
    for output in &mut reply.outputs {
        let (name, classes) = (&output.name, classes_of(&output.shape));
        let mut by = |scores: &mut [f64]| by(name, scores);
        if are_raw {
            let Some(data) = raw.next() else { return };
            let changed = match Datatype::of_name(&output.datatype) {
                Some(Datatype::Bytes) => classified(data, classes, &mut by),
                Some(of) => rewritten(data, of, classes, &mut by),
                None => None,
            };
            *data = changed.unwrap_or_else(|| data.clone());
        } else if let Some(contents) = &mut output.contents {
            rewrite_singles(&mut contents.fp32_contents, classes, &mut by);
            contents.fp64_contents.chunks_exact_mut(classes).for_each(by);
        }
    }
}

/// One class as text: `score:index` or `score:index:label`.
struct Class<'a> {
    score: f64,
    decimals: usize,
    index: usize,
    /// What follows the score.
    rest: &'a str,
}

impl<'a> Class<'a> {
    /// None where this is no class of so many.
    fn read(text: &'a [u8], classes: usize) -> Option<Self> {
        let (score, rest) = std::str::from_utf8(text).ok()?.split_once(':')?;
        let decimals = score.split_once('.')?.1.len();
        let index = rest.split(':').next()?.parse().ok().filter(|index| *index < classes)?;
        Some(Self { score: score.parse().ok()?, decimals, index, rest })
    }
}

/// Classes as text, best first. The scores are rewritten in the order of the indices, in which the output itself has them, and
/// written with as many decimals as they had.
fn classified(data: &Bytes, classes: usize, by: &mut dyn FnMut(&mut [f64])) -> Option<Bytes> {
    let listed: Vec<Class<'_>> =
        elements(data).map(|element| Class::read(element?, classes)).collect::<Option<_>>()?;
    let mut bytes = BytesMut::with_capacity(data.len());
    for row in listed.chunks(classes) {
        let mut scores = vec![f64::NAN; classes];
        for class in row {
            scores[class.index] = class.score;
        }
        // Of a list that is not whole some are no numbers, and nothing is rewritten.
        by(&mut scores);
        for class in row {
            let text = format!("{:.*}:{}", class.decimals, scores[class.index], class.rest);
            bytes.put_u32_le(text.len() as u32);
            bytes.put_slice(text.as_bytes());
        }
    }
    Some(bytes.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::pb::model_infer_response::InferOutputTensor;

    fn halved(name: &str, scores: &mut [f64]) {
        assert_eq!(name, "p");
        for score in scores {
            *score /= 2.0;
        }
    }

    fn reply(datatype: &str, shape: &[i64], data: Vec<u8>) -> pb::ModelInferResponse {
        let output = InferOutputTensor {
            name: "p".into(),
            datatype: datatype.into(),
            shape: shape.to_vec(),
            ..InferOutputTensor::default()
        };
        pb::ModelInferResponse {
            outputs: vec![output],
            raw_output_contents: vec![data.into()],
            ..pb::ModelInferResponse::default()
        }
    }

    fn of_raw(mut reply: pb::ModelInferResponse) -> Vec<u8> {
        rewrite(&mut reply, &mut halved);
        reply.raw_output_contents[0].to_vec()
    }

    #[test]
    fn floats_are_rewritten_and_other_numbers_are_not() {
        let floats =
            |scores: [f32; 2]| scores.iter().flat_map(|score| score.to_le_bytes()).collect::<Vec<u8>>();
        assert_eq!(of_raw(reply("FP32", &[1, 2], floats([3.0, 1.0]))), floats([1.5, 0.5]));
        assert_eq!(of_raw(reply("UINT8", &[1, 2], vec![4, 2])), [4, 2]);
        assert_eq!(of_raw(reply("FP32", &[1, 2], vec![1, 2, 3])), [1, 2, 3], "torn");
    }

    fn text(classes: &[&str]) -> Vec<u8> {
        let element = |class: &&str| [&(class.len() as u32).to_le_bytes()[..], class.as_bytes()].concat();
        classes.iter().flat_map(element).collect()
    }

    #[test]
    fn classes_as_text_keep_their_order_their_labels_and_their_decimals() {
        let before = text(&["0.500000:2:frog: green", "0.300000:0", "0.200000:1:cat"]);
        let after = text(&["0.250000:2:frog: green", "0.150000:0", "0.100000:1:cat"]);
        assert_eq!(of_raw(reply("BYTES", &[1, 3], before)), after);
        for words in [&["frog", "cat"][..], &["1:2", "3:4"], &["0.5:9", "0.5:1"]] {
            assert_eq!(of_raw(reply("BYTES", &[1, 2], text(words))), text(words), "no classes");
        }
    }

    #[test]
    fn typed_scores_are_rewritten_too() {
        let mut typed = reply("FP32", &[1, 2], Vec::new());
        typed.raw_output_contents.clear();
        typed.outputs[0].contents = Some(pb::InferTensorContents {
            fp32_contents: vec![1.0, 3.0],
            ..pb::InferTensorContents::default()
        });
        rewrite(&mut typed, &mut halved);
        assert_eq!(typed.outputs[0].contents.as_ref().unwrap().fp32_contents, [0.5, 1.5]);
    }
}

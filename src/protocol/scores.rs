//! Scores among a reply's bytes, to be rewritten, whichever protocol they came in.

use bytes::Bytes;
use half::{bf16, f16};

use super::tensor::Datatype;

/// Rewrites the scores of one picture's classes, which stand in an output of this name.
pub type Rewrite<'a> = &'a mut dyn FnMut(&str, &mut [f64]);

/// Little-endian floats with every `classes` of them rewritten; none where `data` is no floats.
pub(super) fn rewritten(
    data: &[u8],
    of: Datatype,
    classes: usize,
    by: &mut dyn FnMut(&mut [f64]),
) -> Option<Bytes> {
    let mut each = |mut scores: Vec<f64>| {
        scores.chunks_exact_mut(classes).for_each(&mut *by);
        scores
    };
    Some(match of {
        Datatype::Fp16 => {
            let scores = each(numbers(data, |bytes| f16::from_le_bytes(bytes).to_f64())?);
            written(&scores, |score| f16::from_f64(score).to_le_bytes())
        }
        Datatype::Bf16 => {
            let scores = each(numbers(data, |bytes| bf16::from_le_bytes(bytes).to_f64())?);
            written(&scores, |score| bf16::from_f64(score).to_le_bytes())
        }
        Datatype::Fp32 => {
            let scores = each(numbers(data, |bytes| f64::from(f32::from_le_bytes(bytes)))?);
            written(&scores, |score| (score as f32).to_le_bytes())
        }
        Datatype::Fp64 => written(&each(numbers(data, f64::from_le_bytes)?), f64::to_le_bytes),
        _ => return None,
    })
}

/// The scores of floats that travel one by one, rewritten in place.
pub(super) fn rewrite_singles(scores: &mut [f32], classes: usize, by: &mut dyn FnMut(&mut [f64])) {
    let mut wide: Vec<f64> = scores.iter().map(|score| f64::from(*score)).collect();
    wide.chunks_exact_mut(classes).for_each(by);
    for (score, wide) in scores.iter_mut().zip(wide) {
        *score = wide as f32;
    }
}

/// How many classes an output of this shape has: its last dimension.
pub(super) fn classes_of(shape: &[i64]) -> usize {
    shape.last().and_then(|last| usize::try_from(*last).ok()).unwrap_or(1).max(1)
}

fn numbers<const N: usize>(data: &[u8], number: impl Fn([u8; N]) -> f64) -> Option<Vec<f64>> {
    let (numbers, rest) = data.as_chunks::<N>();
    rest.is_empty().then(|| numbers.iter().map(|bytes| number(*bytes)).collect())
}

fn written<const N: usize>(scores: &[f64], bytes: impl Fn(f64) -> [u8; N]) -> Bytes {
    scores.iter().flat_map(|score| bytes(*score)).collect::<Vec<u8>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_of_every_float_type_are_rewritten_class_by_class() {
        let all = [0.5, 3.0, -1.0, 0.0];
        let written = |times: f64| -> Vec<(Datatype, Vec<u8>)> {
            let scores = all.map(|score| score * times);
            let of = |bytes: &dyn Fn(f64) -> Vec<u8>| scores.iter().flat_map(|score| bytes(*score)).collect();
            vec![
                (Datatype::Fp16, of(&|score| f16::from_f64(score).to_le_bytes().to_vec())),
                (Datatype::Bf16, of(&|score| bf16::from_f64(score).to_le_bytes().to_vec())),
                (Datatype::Fp32, of(&|score| (score as f32).to_le_bytes().to_vec())),
                (Datatype::Fp64, of(&|score| score.to_le_bytes().to_vec())),
            ]
        };
        let mut calls = 0;
        let mut halve = |scores: &mut [f64]| {
            calls += 1;
            assert_eq!(scores.len(), 2);
            for score in scores {
                *score /= 2.0;
            }
        };
        for ((of, before), (_, after)) in written(1.0).into_iter().zip(written(0.5)) {
            assert_eq!(rewritten(&before, of, 2, &mut halve).unwrap(), after, "{of:?}");
        }
        assert_eq!(rewritten(&[1, 2, 3, 4], Datatype::Uint8, 2, &mut halve), None);
        assert_eq!(rewritten(&[1, 2, 3], Datatype::Fp32, 2, &mut halve), None);
        assert_eq!(calls, 8);
    }
}

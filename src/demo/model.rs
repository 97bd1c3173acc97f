//! The embedded classifier: a small real network that was trained on CIFAR-10, run by `rten`.

use std::sync::Arc;

use rten::{Model, RunOptions, ThreadPool};
use rten_tensor::NdTensorView;
use rten_tensor::prelude::*;

use super::DemoError;
use super::photos::SIDE;

/// How many classes it knows.
pub const CLASSES: usize = 10;

/// Its classes, in the order of its scores.
pub const LABELS: [&str; CLASSES] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// One picture's probabilities, in the order of [`LABELS`].
pub type Scores = [f32; CLASSES];

/// Values of one picture: 32 x 32 x 3.
pub const VALUES: usize = 3 * SIDE * SIDE;

/// The most probable class, the first of equals.
pub fn top(scores: &Scores) -> usize {
    (1..CLASSES).fold(0, |best, class| if scores[class] > scores[best] { class } else { best })
}

/// The classifier.
pub struct Classifier {
    network: Model,
    /// One thread: the network is too small to be shared out, and sums in one order give the same scores each time.
    thread: Arc<ThreadPool>,
}

impl Classifier {
    /// Loads the network that is part of the program.
    pub fn embedded() -> Result<Self, DemoError> {
        let network = Model::load_static_slice(include_bytes!("model/lenet-cifar10.onnx"))
            .map_err(|error| DemoError::Model(error.to_string()))?;
        Ok(Self { network, thread: Arc::new(ThreadPool::with_num_threads(1)) })
    }

    /// The probabilities of each picture; `values` are the pictures' own, 3,072 each, height x width x channels, 0..1.
    pub fn classify(&self, values: &[f32]) -> Result<Vec<Scores>, DemoError> {
        let rows = values.len() / VALUES;
        let refuse = |why: String| DemoError::Model(why);
        let input = NdTensorView::try_from_data([rows, SIDE, SIDE, 3], values)
            .map_err(|error| refuse(error.to_string()))?;
        let options = RunOptions::default().with_thread_pool(Some(Arc::clone(&self.thread)));
        let output = self.network.run_one(input.into(), Some(options));
        let output = output.map_err(|error| refuse(error.to_string()))?;
        let output: NdTensorView<'_, f32, 2> = (&output)
            .try_into()
            .map_err(|_| refuse("expected a row of scores for each picture".to_owned()))?;
        let scores = output.to_vec();
        let (rows_of_scores, rest) = scores.as_chunks::<CLASSES>();
        if rows_of_scores.len() != rows || !rest.is_empty() {
            return Err(refuse(format!("expected {rows} x {CLASSES} scores, found {}", scores.len())));
        }
        Ok(rows_of_scores.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_those_of_the_model() {
        assert_eq!(include_str!("model/labels.txt").lines().collect::<Vec<_>>(), LABELS);
    }

    #[test]
    fn a_batch_is_classified_as_its_pictures_alone() {
        let classifier = Classifier::embedded().unwrap();
        let values: Vec<f32> = (0..5 * VALUES).map(|i| (i * 7919 % 256) as f32 / 255.0).collect();
        let batch = classifier.classify(&values).unwrap();
        assert_eq!(batch.len(), 5);
        for (row, scores) in values.chunks(VALUES).zip(&batch) {
            let alone = classifier.classify(row).unwrap()[0];
            assert!(alone.iter().zip(scores).all(|(a, b)| (a - b).abs() < 1e-5));
            assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        }
        assert_eq!(classifier.classify(&[]).map(|rows| rows.len()).unwrap_or_default(), 0);
    }

    #[test]
    fn the_first_of_equals_is_the_top() {
        let mut scores = [0.0; CLASSES];
        assert_eq!(top(&scores), 0);
        scores[4] = 0.5;
        scores[7] = 0.5;
        assert_eq!(top(&scores), 4);
    }
}

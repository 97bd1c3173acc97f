//! Replies of Classify, Regress and MultiInference: into one answer per row, and answers back into a reply.
//!
//! Each answer is kept as the reply that the model would have given to that row alone.

use bytes::Bytes;
use prost::Message;

use super::scores;
use crate::protocol::answer::AnswerError;
use crate::protocol::scores::Rewrite;
use crate::protocol::tensorflow::serving::{
    ClassificationResponse, ClassificationResult, InferenceResult, ModelSpec, MultiInferenceResponse,
    RegressionResponse, RegressionResult, inference_result,
};

/// A reply whose results stand one for each row.
pub(super) trait Reply: Message + Default {
    /// The call that it answers.
    const CALL: &'static str;

    /// Which model answered.
    fn model_spec(&self) -> Option<&ModelSpec>;

    /// The reply to each of its `rows` rows alone.
    fn split(&self, rows: usize) -> Result<Vec<Self>, AnswerError>;

    /// The results of `next`, the reply to the rows that follow, behind those of this one.
    fn extend(&mut self, next: Self) -> Result<(), AnswerError>;

    /// Rewrites the scores of its results.
    fn rewrite(&mut self, by: Rewrite<'_>);
}

/// Decodes a reply.
pub(super) fn decode<R: Reply>(payload: Bytes) -> Result<R, AnswerError> {
    R::decode(payload).map_err(|error| AnswerError::Decode(error.to_string()))
}

/// Puts the answers of rows together, in order.
pub(super) fn join<R: Reply>(answers: Vec<Bytes>) -> Result<R, AnswerError> {
    let mut answers = answers.into_iter().map(decode::<R>);
    let mut joined = answers.next().ok_or(AnswerError::Differ("number"))??;
    for answer in answers {
        joined.extend(answer?)?;
    }
    Ok(joined)
}

impl Reply for ClassificationResponse {
    const CALL: &'static str = "Classify";

    fn model_spec(&self) -> Option<&ModelSpec> {
        self.model_spec.as_ref()
    }

    fn split(&self, rows: usize) -> Result<Vec<Self>, AnswerError> {
        let results = self.result.as_ref().map_or(&[][..], |result| &result.classifications);
        let row = |classes| Self {
            result: Some(ClassificationResult { classifications: vec![classes] }),
            model_spec: self.model_spec.clone(),
        };
        Ok(counted("classifications", results, rows)?.iter().cloned().map(row).collect())
    }

    fn extend(&mut self, next: Self) -> Result<(), AnswerError> {
        let results = self.result.get_or_insert_default();
        results.classifications.extend(next.result.unwrap_or_default().classifications);
        Ok(())
    }

    fn rewrite(&mut self, by: Rewrite<'_>) {
        scores::of_classes(self.result.get_or_insert_default(), by);
    }
}

impl Reply for RegressionResponse {
    const CALL: &'static str = "Regress";

    fn model_spec(&self) -> Option<&ModelSpec> {
        self.model_spec.as_ref()
    }

    fn split(&self, rows: usize) -> Result<Vec<Self>, AnswerError> {
        let results = self.result.as_ref().map_or(&[][..], |result| &result.regressions);
        let row = |value| Self {
            result: Some(RegressionResult { regressions: vec![value] }),
            model_spec: self.model_spec.clone(),
        };
        Ok(counted("regressions", results, rows)?.iter().copied().map(row).collect())
    }

    fn extend(&mut self, next: Self) -> Result<(), AnswerError> {
        let results = self.result.get_or_insert_default();
        results.regressions.extend(next.result.unwrap_or_default().regressions);
        Ok(())
    }

    fn rewrite(&mut self, by: Rewrite<'_>) {
        scores::of_values(self.result.get_or_insert_default(), by);
    }
}

impl Reply for MultiInferenceResponse {
    const CALL: &'static str = "MultiInference";

    fn model_spec(&self) -> Option<&ModelSpec> {
        self.results.first().and_then(|result| result.model_spec.as_ref())
    }

    fn split(&self, rows: usize) -> Result<Vec<Self>, AnswerError> {
        use inference_result::Result::{ClassificationResult as Classes, RegressionResult as Values};
        let mut parts = vec![Self::default(); rows];
        for task in &self.results {
            let of_rows: Vec<_> = match &task.result {
                Some(Classes(result)) => {
                    let rows = counted("classifications", &result.classifications, rows)?.iter().cloned();
                    rows.map(|row| Classes(ClassificationResult { classifications: vec![row] })).collect()
                }
                Some(Values(result)) => {
                    let rows = counted("regressions", &result.regressions, rows)?.iter().copied();
                    rows.map(|row| Values(RegressionResult { regressions: vec![row] })).collect()
                }
                None => return Err(AnswerError::Bytes("results".into())),
            };
            for (part, result) in parts.iter_mut().zip(of_rows) {
                let model_spec = task.model_spec.clone();
                part.results.push(InferenceResult { model_spec, result: Some(result) });
            }
        }
        Ok(parts)
    }

    fn extend(&mut self, next: Self) -> Result<(), AnswerError> {
        use inference_result::Result::{ClassificationResult as Classes, RegressionResult as Values};
        if self.results.len() != next.results.len() {
            return Err(AnswerError::Differ("tasks"));
        }
        for (task, next) in self.results.iter_mut().zip(next.results) {
            match (&mut task.result, next.result) {
                (Some(Classes(results)), Some(Classes(next))) => {
                    results.classifications.extend(next.classifications);
                }
                (Some(Values(results)), Some(Values(next))) => results.regressions.extend(next.regressions),
                _ => return Err(AnswerError::Differ("tasks")),
            }
        }
        Ok(())
    }

    fn rewrite(&mut self, by: Rewrite<'_>) {
        scores::of_tasks(self, by);
    }
}

/// `results` if they are as many as the rows asked for.
fn counted<'a, T>(name: &str, results: &'a [T], rows: usize) -> Result<&'a [T], AnswerError> {
    if results.len() == rows {
        return Ok(results);
    }
    Err(AnswerError::Rows { output: name.to_owned(), shape: vec![results.len() as i64], rows })
}

//! How well a model does on data: the loss of every row, and what it answers.

mod answers;
mod evaluator;
mod options;

use cpift_engine::{Real, View};

use crate::batch::RowLoss;
use crate::data::{Dataset, Row, evaluation_batches};
use crate::error::{Error, Result};
use crate::progress::{EvaluationPhase, EvaluationProgress, Score};
use crate::tokenizer::Tokenizer;
use crate::transformer::Transformer;
pub use answers::{Answer, AnswerSettings, Answers, check_answers, generation_bytes, most_tokens};
pub(crate) use evaluator::load_rows;
pub use evaluator::{Evaluator, FileScore, FileSettings, RowScore};
pub use options::longest_document;

/// What an evaluation tells on its way; an error it returns ends the evaluation.
pub type Observe<'a> = &'a mut dyn FnMut(EvaluationProgress) -> Result<()>;

/// What is measured.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The data set.
    pub dataset: &'a Dataset,
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Some of its rows, as indices in the order they are measured in; all when none.
    pub rows: Option<&'a [usize]>,
    /// How answers are generated and judged; none to measure losses alone.
    pub answers: Option<&'a AnswerSettings>,
}

impl<'a> Request<'a> {
    /// Indices of the rows that are measured.
    fn indices(&self) -> Vec<usize> {
        match self.rows {
            Some(rows) => rows.to_vec(),
            None => (0..self.dataset.len()).collect(),
        }
    }

    fn rows_of(&self, indices: &[usize]) -> Vec<&'a Row> {
        indices.iter().map(|&index| &self.dataset.rows()[index]).collect()
    }
}

/// Some rows' losses and answers, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct RowScores {
    /// Loss of each row.
    pub losses: Vec<RowLoss>,
    /// What was answered to each row; none when no answers were asked for.
    pub answers: Option<Answers>,
}

impl RowScores {
    /// Those of some rows, by index; without what was answered unless `answers` is true.
    pub fn of_rows(&self, rows: &[usize], answers: bool) -> Self {
        let of = |all: &Answers| Answers {
            kind: all.kind,
            rows: rows.iter().map(|&row| all.rows[row].clone()).collect(),
        };
        Self {
            losses: rows.iter().map(|&row| self.losses[row]).collect(),
            answers: self.answers.as_ref().filter(|_| answers).map(of),
        }
    }

    /// The score of all rows together.
    pub fn score(&self) -> Score {
        let tokens: usize = self.losses.iter().map(|row| row.tokens).sum();
        Score {
            loss: self.losses.iter().map(|row| row.sum).sum::<f64>() / tokens as f64,
            score: self.answers.as_ref().map(|answers| answers.share(|answer| answer.right)),
            score_kind: self.answers.as_ref().map(|answers| answers.kind).unwrap_or_default(),
            exact_match: self.answers.as_ref().map(|answers| answers.share(|answer| answer.exact)),
            choice_by_loss: self.answers.as_ref().and_then(Answers::choice_by_loss),
            tokens: tokens as u64,
            rows: self.losses.len() as u64,
        }
    }
}

/// Measures a model.
///
/// # Errors
/// A row longer than the transformer's batches, a loss that is not a number, a reference that cannot be compared with,
/// or what `observe` says.
pub fn evaluate<T: Real>(
    transformer: &mut Transformer<T>,
    weights: View<'_, T>,
    request: &Request<'_>,
    observe: Observe<'_>,
) -> Result<RowScores> {
    let losses = measure_losses(transformer, weights, request, observe)?;
    let answers = match request.answers {
        Some(settings) => Some(answers::answer(transformer, weights, request, settings, observe)?),
        None => None,
    };
    Ok(RowScores { losses, answers })
}

fn measure_losses<T: Real>(
    transformer: &mut Transformer<T>,
    weights: View<'_, T>,
    request: &Request<'_>,
    observe: Observe<'_>,
) -> Result<Vec<RowLoss>> {
    let indices = request.indices();
    let mut losses = Vec::with_capacity(indices.len());
    let name = request.dataset.name();
    for evaluation in evaluation_batches(&name, request.rows_of(&indices), transformer.max_tokens())? {
        let batch = evaluation?.batch;
        let position_losses = transformer.loss(weights, &batch)?;
        losses.extend(batch.document_losses(&position_losses)?);
        observe(EvaluationProgress {
            phase: EvaluationPhase::Losses,
            done: losses.len(),
            rows: indices.len(),
        })?;
    }
    if let Some(row) = losses.iter().position(|row| !row.sum.is_finite()) {
        return Err(Error::Job(format!(
            "the loss of {} is {}: the model's weights are damaged or too large",
            request.dataset.describe_row(&request.dataset.rows()[indices[row]]),
            losses[row].sum
        )));
    }
    Ok(losses)
}

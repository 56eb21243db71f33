//! Data sets as batches for evaluation, in file order, and what is measured per row.

use std::ops::Range;

use super::{Dataset, Row};
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// Some consecutive rows of a data set: document `i` of the batch is row `rows.start + i`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvaluationBatch {
    /// Indices of the rows.
    pub rows: Range<usize>,
    /// Their tokens, one document a row.
    pub batch: Batch,
}

/// All rows of a data set in file order, as many in a batch as fit into `max_tokens` tokens. Batches are
/// made as they are asked for.
///
/// # Errors
/// When a row is longer than `max_tokens`.
pub fn evaluation_batches(
    dataset: &Dataset,
    max_tokens: usize,
) -> Result<impl Iterator<Item = Result<EvaluationBatch>>> {
    let longest = dataset.longest_row();
    if longest > max_tokens {
        return Err(Error::format(
            &dataset.name(),
            format!("has a row of {longest} tokens, and a batch may have {max_tokens}"),
        ));
    }
    let mut start = 0;
    Ok(std::iter::from_fn(move || {
        let rows = dataset.rows().get(start..).filter(|rows| !rows.is_empty())?;
        let mut tokens = 0;
        let fitting = rows.iter().take_while(|row| {
            tokens += row.tokens.len();
            tokens <= max_tokens
        });
        let end = start + fitting.count();
        let result = batch_of(dataset, start..end);
        start = end;
        Some(result)
    }))
}

fn batch_of(dataset: &Dataset, rows: Range<usize>) -> Result<EvaluationBatch> {
    let mut batch = Batch::new();
    for row in &dataset.rows()[rows.clone()] {
        batch.push(&row.tokens, &row.supervised)?;
    }
    Ok(EvaluationBatch { rows, batch })
}

/// True when a generated answer says what the row's does: both decoded up to the first of `stop`
/// ([`Dataset::stop_tokens`]), without control tokens, trimmed.
pub fn is_exact_match(row: &Row, generated: &[u32], tokenizer: &Tokenizer, stop: &[u32]) -> bool {
    tokenizer.answer_text(row.answer(), stop) == tokenizer.answer_text(generated, stop)
}

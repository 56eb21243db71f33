//! Rows as batches for evaluation, in their order.

use std::ops::Range;
use std::path::Path;

use super::Row;
use crate::batch::Batch;
use crate::error::{Error, Result};

/// Some consecutive rows: document `i` of the batch is row `rows.start + i`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvaluationBatch {
    /// Indices of the rows.
    pub rows: Range<usize>,
    /// Their tokens, one document a row.
    pub batch: Batch,
}

/// Some rows in their order, as many in a batch as fit into `max_tokens` tokens; `name` is that of their data set.
/// Batches are made as they are asked for.
///
/// # Errors
/// When a row is longer than `max_tokens`.
pub fn evaluation_batches<'a>(
    name: &Path,
    rows: Vec<&'a Row>,
    max_tokens: usize,
) -> Result<impl Iterator<Item = Result<EvaluationBatch>> + use<'a>> {
    let longest = rows.iter().map(|row| row.tokens.len()).max().unwrap_or(0);
    if longest > max_tokens {
        let reason = format!("has a row of {longest} tokens, and a batch may have {max_tokens}");
        return Err(Error::format(name, reason));
    }
    let mut start = 0;
    Ok(std::iter::from_fn(move || {
        let left = rows.get(start..).filter(|rows| !rows.is_empty())?;
        let mut tokens = 0;
        let fitting = left.iter().take_while(|row| {
            tokens += row.tokens.len();
            tokens <= max_tokens
        });
        let end = start + fitting.count();
        let result = batch_of(&rows[start..end], start..end);
        start = end;
        Some(result)
    }))
}

fn batch_of(rows: &[&Row], indices: Range<usize>) -> Result<EvaluationBatch> {
    let mut batch = Batch::new();
    for row in rows {
        batch.push(&row.tokens, &row.supervised)?;
    }
    Ok(EvaluationBatch { rows: indices, batch })
}

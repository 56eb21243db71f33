//! What one forward and backward pass works on.

use crate::error::{Error, Result};

/// Target of a position that is not supervised.
pub const IGNORE: u32 = u32::MAX;

/// A micro-batch: documents concatenated without padding.
///
/// Attention and positions restart at every document, so documents never see each other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// Token ids (N).
    pub tokens: Vec<u32>,
    /// The token each position is to predict (N): its successor in the document, or [`IGNORE`].
    pub targets: Vec<u32>,
    /// First token of each document, and N at the end (documents + 1).
    pub document_starts: Vec<usize>,
}

/// Loss of one row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowLoss {
    /// Sum of negative log-likelihoods of its supervised tokens, in nats.
    pub sum: f64,
    /// Number of supervised tokens.
    pub tokens: usize,
}

impl Batch {
    /// A batch without documents.
    pub fn new() -> Self {
        Self { tokens: Vec::new(), targets: Vec::new(), document_starts: vec![0] }
    }

    /// Adds one document. `supervised[i]` says whether token `i` is to be predicted (from the tokens
    /// before it; the first token of a document never is).
    ///
    /// # Errors
    /// When the two lengths differ.
    pub fn push(&mut self, tokens: &[u32], supervised: &[bool]) -> Result<()> {
        if tokens.len() != supervised.len() {
            return Err(Error::Job(format!(
                "a document of {} tokens came with {} supervision flags",
                tokens.len(),
                supervised.len()
            )));
        }
        if tokens.is_empty() {
            return Ok(());
        }
        self.tokens.extend_from_slice(tokens);
        let next = tokens.iter().zip(supervised).skip(1);
        self.targets.extend(next.map(|(&token, &wanted)| if wanted { token } else { IGNORE }));
        self.targets.push(IGNORE);
        self.document_starts.push(self.tokens.len());
        Ok(())
    }

    /// Number of documents.
    pub fn documents(&self) -> usize {
        self.document_starts.len() - 1
    }

    /// Number of supervised tokens: positions that have a target.
    pub fn supervised_tokens(&self) -> usize {
        self.targets.iter().filter(|&&target| target != IGNORE).count()
    }

    /// The loss of each document, given one for each position (N).
    ///
    /// # Errors
    /// When the number of losses is not that of the tokens.
    pub fn document_losses(&self, losses: &[f32]) -> Result<Vec<RowLoss>> {
        if losses.len() != self.tokens.len() {
            return Err(Error::Job(format!("{} losses came for {} tokens", losses.len(), self.tokens.len())));
        }
        let document = |bounds: &[usize]| {
            let positions = bounds[0]..bounds[1];
            let targets = &self.targets[positions.clone()];
            let supervised = targets.iter().zip(&losses[positions]).filter(|(target, _)| **target != IGNORE);
            supervised.fold(RowLoss { sum: 0.0, tokens: 0 }, |total, (_, &loss)| RowLoss {
                sum: total.sum + f64::from(loss),
                tokens: total.tokens + 1,
            })
        };
        Ok(self.document_starts.windows(2).map(document).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_the_next_token_of_the_same_document() {
        let mut batch = Batch::new();
        batch.push(&[5, 6, 7], &[false, false, true]).unwrap();
        batch.push(&[8, 9], &[true, true]).unwrap();
        assert_eq!(batch.targets, [IGNORE, 7, IGNORE, 9, IGNORE]);
        assert_eq!(batch.document_starts, [0, 3, 5]);
        assert_eq!(batch.supervised_tokens(), 2);
    }
}

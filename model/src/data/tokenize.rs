//! Examples to rows of tokens: what is context, what is supervised.

use super::notice::Notice;
use super::rows::Example;
use super::templates::ChatTemplates;
use crate::error::Reasoned;
use crate::tokenizer::Tokenizer;

/// One row of data as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Line of the file, counted from 1.
    pub line: usize,
    /// Token ids, from the beginning of the prompt to the end of the last answer.
    pub tokens: Vec<u32>,
    /// Which tokens are to be predicted, from those before them; the first never is.
    pub supervised: Vec<bool>,
    /// Tokens before the last answer: what a model is given to generate it.
    pub prompt_length: usize,
}

impl Row {
    fn new(line: usize) -> Self {
        Self { line, tokens: Vec::new(), supervised: Vec::new(), prompt_length: 0 }
    }

    pub(super) fn push(&mut self, ids: &[u32], supervised: bool) {
        self.tokens.extend_from_slice(ids);
        self.supervised.resize(self.tokens.len(), supervised);
        if let Some(first) = self.supervised.first_mut() {
            *first = false;
        }
    }

    /// Number of tokens to be predicted.
    pub fn supervised_tokens(&self) -> usize {
        self.supervised.iter().filter(|&&supervised| supervised).count()
    }

    /// What a model is given to generate the last answer.
    pub fn prompt(&self) -> &[u32] {
        &self.tokens[..self.prompt_length]
    }

    /// The last answer, with the token that ends it.
    pub fn answer(&self) -> &[u32] {
        &self.tokens[self.prompt_length..]
    }

    /// Leaves the first `length` tokens.
    pub(crate) fn truncate(&mut self, length: usize) {
        self.tokens.truncate(length);
        self.supervised.truncate(length);
        self.prompt_length = self.prompt_length.min(length);
    }
}

/// Turns examples into rows.
pub(crate) struct RowMaker<'a> {
    pub tokenizer: &'a Tokenizer,
    /// Needed for messages only.
    pub templates: Option<&'a ChatTemplates>,
}

impl RowMaker<'_> {
    /// The row of an example; the error says what is wrong with the line, `notices` gets what its owner
    /// might not expect.
    pub fn row(&self, line: usize, example: &Example, notices: &mut Vec<Notice>) -> Reasoned<Row> {
        let mut row = Row::new(line);
        match example {
            Example::Completion { prompt, completion } => {
                row.push(
                    &self.tokenizer.prompt_ids(prompt).map_err(|reason| format!("the prompt {reason}"))?,
                    false,
                );
                row.prompt_length = row.tokens.len();
                row.push(&self.answer_ids(completion)?, true);
                row.push(&[self.tokenizer.eos()], true);
            }
            Example::Text { text } => {
                row.push(self.tokenizer.prefix(), false);
                row.prompt_length = row.tokens.len();
                row.push(&self.answer_ids(text)?, true);
                row.push(&[self.tokenizer.eos()], true);
            }
            Example::Messages(conversation) => self.conversation(&mut row, conversation, notices)?,
        }
        if row.supervised_tokens() == 0 {
            return Err("has no supervised token: the answer gives no tokens".into());
        }
        Ok(row)
    }

    pub(super) fn answer_ids(&self, text: &str) -> Reasoned<Vec<u32>> {
        let ids = self.tokenizer.plain_ids(text).map_err(|reason| format!("the answer {reason}"))?;
        if ids.is_empty() {
            Err("has no supervised token: the answer gives no tokens".into())
        } else {
            Ok(ids)
        }
    }
}

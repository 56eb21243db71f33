//! Examples to rows of tokens: what is context, what is supervised.

use super::Position;
use super::example::Example;
use super::notice::Notice;
use super::settings::DataSettings;
use crate::chat_template::ChatTemplates;
use crate::control_tokens::aliases;
use crate::error::Reasoned;
use crate::recipe::{Learn, SpecialTokens};
use crate::tokenizer::Tokenizer;

/// One row of data as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Where it comes from.
    pub position: Position,
    /// Token ids, from the beginning of the prompt to the end of the last answer.
    pub tokens: Vec<u32>,
    /// Which tokens are to be predicted, from those before them; the first never is.
    pub supervised: Vec<bool>,
    /// Tokens before the last answer: what a model is given to generate it.
    pub prompt_length: usize,
}

impl Row {
    pub(super) fn new(position: Position) -> Self {
        Self { position, tokens: Vec::new(), supervised: Vec::new(), prompt_length: 0 }
    }

    /// The row, if there is something to learn in it.
    pub(super) fn checked(self) -> Reasoned<Self> {
        match self.supervised_tokens() {
            0 => Err("has no supervised token: the answer gives no tokens".into()),
            _ => Ok(self),
        }
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

    /// The row for people to read: decoded with its control tokens, part by part, each with whether it is supervised.
    pub fn decoded_parts(&self, tokenizer: &Tokenizer) -> impl Iterator<Item = (String, bool)> {
        let mut start = 0;
        self.supervised.chunk_by(|one, next| one == next).map(move |flags| {
            let tokens = &self.tokens[start..start + flags.len()];
            start += flags.len();
            (tokenizer.decode_with_control_tokens(tokens), flags[0])
        })
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
    /// What control strings outside of messages are.
    pub special_tokens: SpecialTokens,
    /// What of a conversation is learnt.
    pub learn: Learn,
}

impl<'a> RowMaker<'a> {
    /// Makes rows as the settings say.
    pub fn new(
        tokenizer: &'a Tokenizer,
        templates: Option<&'a ChatTemplates>,
        settings: &DataSettings,
    ) -> Self {
        let DataSettings { special_tokens, learn, .. } = *settings;
        Self { tokenizer, templates, special_tokens, learn }
    }

    /// The rows of an example, which is one but for conversations whose template changes earlier answers; the error
    /// says what is wrong with the line, `notices` gets what its owner might not expect.
    pub fn rows(
        &self,
        position: Position,
        example: &Example,
        notices: &mut Vec<Notice>,
    ) -> Reasoned<Vec<Row>> {
        let mut row = Row::new(position);
        match example {
            Example::Completion { prompt, completion } => {
                let prompt = self.marked(prompt, notices).map_err(|reason| format!("the prompt {reason}"))?;
                let answer = self.marked(completion, notices).map_err(answer_error)?;
                let ids =
                    self.tokenizer.prompt_ids(&prompt).map_err(|reason| format!("the prompt {reason}"))?;
                row.push(&ids, false);
                row.prompt_length = row.tokens.len();
                let ids = self.ids_after(&prompt, &ids, &answer).map_err(answer_error)?;
                self.push_answer(&mut row, &ids)?;
            }
            Example::Text { text } => {
                let text = self.marked(text, notices).map_err(answer_error)?;
                let ids = self.tokenizer.prompt_ids(&text).map_err(answer_error)?;
                let prefix = self.tokenizer.prefix();
                let length = if ids.starts_with(prefix) { prefix.len() } else { 0 };
                row.push(&ids[..length], false);
                row.prompt_length = length;
                self.push_answer(&mut row, &ids[length..])?;
            }
            Example::Messages(conversation) => return self.conversation(position, conversation, notices),
        }
        row.checked().map(|row| vec![row])
    }

    /// A text with its control tokens as aliases.
    fn marked(&self, text: &str, notices: &mut Vec<Notice>) -> Reasoned<String> {
        let marked = self.tokenizer.marked(text, self.special_tokens)?;
        if aliases(&marked).next().is_some() && !notices.contains(&Notice::ControlTokens) {
            notices.push(Notice::ControlTokens);
        }
        Ok(marked)
    }

    /// Adds an answer, and EOS unless the answer ends with a control token that ends sequences.
    fn push_answer(&self, row: &mut Row, ids: &[u32]) -> Reasoned<()> {
        let last = ids.last().ok_or("has no supervised token: the answer gives no tokens")?;
        row.push(ids, true);
        if !(self.tokenizer.stop_tokens().contains(last) && self.tokenizer.is_control(*last)) {
            row.push(&[self.tokenizer.eos()], true);
        }
        Ok(())
    }

    /// Ids of an answer that follows a context, both with control tokens as aliases: as the two are tokenized
    /// together where that leaves the context's ids as generation sees them, else the answer's as they come
    /// out within a text.
    pub(super) fn ids_after(&self, context: &str, context_ids: &[u32], answer: &str) -> Reasoned<Vec<u32>> {
        // Text behind a control token is tokenized independently of what is before it.
        let context = &context[aliases(context).last().map_or(0, |alias| alias.start)..];
        let before = self.tokenizer.aliased_ids(context)?;
        let together = self.tokenizer.aliased_ids(&format!("{context}{answer}"))?;
        match together.strip_prefix(before.as_slice()) {
            Some(ids) if context_ids.ends_with(&before) => Ok(ids.to_vec()),
            _ => self.tokenizer.ids_within(answer),
        }
    }
}

fn answer_error(reason: String) -> String {
    format!("the answer {reason}")
}

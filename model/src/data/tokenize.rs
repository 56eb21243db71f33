//! Examples to rows of tokens: what is context, what is supervised.

use serde_json::Value;

use super::chat::ChatTemplate;
use super::notice::Notice;
use super::rows::{Example, is_answer};
use crate::error::Reasoned;
use crate::tokenizer::Tokenizer;
use crate::tokenizer::control::aliases;

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

    fn push(&mut self, ids: &[u32], supervised: bool) {
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
    pub template: Option<&'a ChatTemplate>,
}

impl RowMaker<'_> {
    /// The row of an example; the error says what is wrong with the line, `notices` gets what its owner
    /// might not expect.
    pub fn row(&self, line: usize, example: &Example, _notices: &mut Vec<Notice>) -> Reasoned<Row> {
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
            Example::Messages { messages, tools } => self.conversation(&mut row, messages, tools)?,
        }
        if row.supervised_tokens() == 0 {
            return Err("has no supervised token: the answer gives no tokens".into());
        }
        Ok(row)
    }

    fn answer_ids(&self, text: &str) -> Reasoned<Vec<u32>> {
        let ids = self.tokenizer.plain_ids(text).map_err(|reason| format!("the answer {reason}"))?;
        if ids.is_empty() {
            Err("has no supervised token: the answer gives no tokens".into())
        } else {
            Ok(ids)
        }
    }

    /// A conversation is rendered once, whole. Every assistant turn is supervised, from where generation
    /// would begin (the messages before it rendered with a generation prompt) to the token that ends the
    /// turn. A turn whose generation prompt does not begin the whole (templates that rewrite earlier turns)
    /// is context only; if that is the last one, the row is its generation prompt, the answer as it stands
    /// and the end of the turn.
    fn conversation(&self, row: &mut Row, messages: &[Value], tools: &Value) -> Reasoned<()> {
        let template = self.template.ok_or("needs a chat template")?;
        let hidden: Vec<Value> =
            messages.iter().map(|message| template.hide_strings(message)).collect::<Result<_, _>>()?;
        let tools = template.hide_strings(tools)?;
        let whole = template.render(&hidden, &tools, false)?;

        let last = messages.len() - 1;
        let last_prompt = template.render(&hidden[..last], &tools, true)?;
        let Some(last_turn) = whole.strip_prefix(last_prompt.as_str()) else {
            return self.last_answer_alone(row, &last_prompt, &whole, &messages[last]);
        };
        let turn_end = self.turn_end(last_turn);

        let mut starts = Vec::new();
        for index in (0..last).filter(|&index| is_answer(&messages[index])) {
            // A template may refuse a beginning of the conversation: that turn is context then.
            let prompt = template.render(&hidden[..index], &tools, true);
            if let Some(prompt) = prompt.ok().filter(|prompt| whole.starts_with(prompt.as_str())) {
                starts.push(prompt.len());
            }
        }
        starts.push(last_prompt.len());

        let mut done = 0;
        for (index, &start) in starts.iter().enumerate() {
            let limit = starts.get(index + 1).copied().unwrap_or(whole.len());
            let is_last = index + 1 == starts.len();
            let end = match self.first_end(&whole[start..limit], turn_end) {
                Some(length) => start + length,
                None if is_last => start + whole[start..].trim_end().len(),
                None => continue,
            };
            if start < done || end <= start {
                continue;
            }
            let context = &whole[done..start];
            let context_ids = self.tokenizer.aliased_ids(context)?;
            row.push(&context_ids, false);
            row.prompt_length = row.tokens.len();
            row.push(&self.ids_after(context, &context_ids, &whole[start..end])?, true);
            done = end;
        }
        if turn_end.is_none() {
            row.push(&[self.tokenizer.eos()], true);
        }
        Ok(())
    }

    /// The token that ends a turn: the first of the tokenizer's stop tokens in the rendered last turn, else
    /// its last control token (ChatML over a base model's tokenizer).
    fn turn_end(&self, last_turn: &str) -> Option<u32> {
        let stop = self.tokenizer.stop_tokens();
        let ids = || aliases(last_turn).map(|alias| alias.id);
        ids().find(|id| stop.contains(id)).or_else(|| ids().last())
    }

    /// Length of a turn up to and with the token that ends it.
    fn first_end(&self, turn: &str, turn_end: Option<u32>) -> Option<usize> {
        let stop = self.tokenizer.stop_tokens();
        let ends = |id: u32| Some(id) == turn_end || stop.contains(&id);
        aliases(turn).find(|alias| ends(alias.id)).map(|alias| alias.end)
    }

    /// Ids of an answer that follows a context: as the two are tokenised together where that leaves the
    /// context's ids as generation sees them, else tokenised apart.
    fn ids_after(&self, context: &str, context_ids: &[u32], answer: &str) -> Reasoned<Vec<u32>> {
        let together = self.tokenizer.aliased_ids(&format!("{context}{answer}"))?;
        match together.strip_prefix(context_ids) {
            Some(answer_ids) => Ok(answer_ids.to_vec()),
            None => self.tokenizer.aliased_ids(answer),
        }
    }

    fn last_answer_alone(&self, row: &mut Row, prompt: &str, whole: &str, message: &Value) -> Reasoned<()> {
        let answer = message["content"].as_str().map(str::trim).filter(|text| !text.is_empty());
        let answer = answer.ok_or("the chat template does not begin tool calls as it asks for an answer")?;
        row.push(&self.tokenizer.aliased_ids(prompt)?, false);
        row.prompt_length = row.tokens.len();
        row.push(&self.answer_ids(answer)?, true);
        let stop = self.tokenizer.stop_tokens();
        let written = aliases(whole).map(|alias| alias.id).filter(|id| stop.contains(id)).last();
        row.push(&[written.unwrap_or(self.tokenizer.eos())], true);
        Ok(())
    }
}

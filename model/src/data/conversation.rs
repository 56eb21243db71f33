//! Conversations to rows of tokens: which parts of the rendered text are answers.

use serde_json::Value;

use super::messages::is_answer;
use super::tokenize::{Row, RowMaker};
use crate::error::Reasoned;
use crate::tokenizer::control::aliases;

impl RowMaker<'_> {
    /// A conversation is rendered once, whole. Every assistant turn is supervised, from where generation
    /// would begin (the messages before it rendered with a generation prompt) to the token that ends the
    /// turn. A turn whose generation prompt does not begin the whole (templates that rewrite earlier turns)
    /// is context only; if that is the last one, the row is its generation prompt, the answer as it stands
    /// and the end of the turn.
    pub(super) fn conversation(&self, row: &mut Row, messages: &[Value], tools: &Value) -> Reasoned<()> {
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
            let context_ids = self.ids_after(&whole[..done], &row.tokens, context)?;
            row.push(&context_ids, false);
            row.prompt_length = row.tokens.len();
            row.push(&self.ids_after(&whole[..start], &row.tokens, &whole[start..end])?, true);
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

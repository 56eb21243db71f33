//! An answer while it is generated: its text, as far as further tokens cannot change it, and what ends it.

use serde::Serialize;

use super::Stop;
use crate::tokenizer::Tokenizer;

/// What the decoder writes for bytes that are no character, or not yet one.
const REPLACEMENT: char = '\u{fffd}';

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// The model ended it.
    Stop,
    /// It is as long as it may be.
    Length,
    /// A stop string came.
    StopString,
    /// Whoever watched had seen enough.
    Interrupted,
}

/// What was generated for one prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The text, without control tokens, up to a stop string.
    pub text: String,
    /// Every token that was generated, with the one that ended the answer.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub ended: Ended,
}

/// An answer that is being generated.
pub struct AnswerText<'a> {
    tokenizer: &'a Tokenizer,
    stop: &'a Stop,
    /// Most tokens.
    limit: usize,
    ids: Vec<u32>,
    /// What was handed out.
    shown: String,
    ended: Option<Ended>,
}

impl<'a> AnswerText<'a> {
    /// An answer of up to `limit` tokens.
    pub fn new(tokenizer: &'a Tokenizer, stop: &'a Stop, limit: usize) -> Self {
        Self {
            tokenizer,
            stop,
            limit,
            ids: Vec::new(),
            shown: String::new(),
            ended: (limit == 0).then_some(Ended::Length),
        }
    }

    /// Adds a token; says why the answer ends with it, if it does.
    pub fn push(&mut self, id: u32) -> Option<Ended> {
        self.ids.push(id);
        self.ended = if self.stop.tokens().contains(&id) {
            Some(Ended::Stop)
        } else if self.stop.has_strings() && self.stop.find(&self.settled()).is_some() {
            Some(Ended::StopString)
        } else if self.ids.len() >= self.limit {
            Some(Ended::Length)
        } else {
            None
        };
        self.ended
    }

    /// Most tokens.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// The text that came since the last call, as far as it is certain: characters of which bytes are missing, and what
    /// may become a stop string, are held back.
    pub fn new_text(&mut self) -> String {
        let text = match self.ended {
            Some(_) => self.whole(),
            None => {
                let mut settled = self.settled();
                settled.truncate(settled.len() - self.stop.open_bytes(&settled));
                settled
            }
        };
        let Some(new) = text.strip_prefix(self.shown.as_str()).map(str::to_owned) else {
            // A decoder that changes what is before a token: nothing can be taken back, the end says it whole.
            return if self.ended.is_some() { format!("\n{text}") } else { String::new() };
        };
        self.shown = text;
        new
    }

    /// The answer; what has not ended was interrupted.
    pub fn finish(self) -> Answer {
        Answer { text: self.whole(), ended: self.ended.unwrap_or(Ended::Interrupted), ids: self.ids }
    }

    /// The text so far, up to a stop string.
    fn whole(&self) -> String {
        // What the folder lists as an end may be a word of the text; a token set apart from words is none.
        let is_mark = |id: &u32| self.stop.tokens().contains(id) && self.tokenizer.is_added(*id);
        let length = self.ids.len() - usize::from(self.ids.last().is_some_and(is_mark));
        let mut text = self.tokenizer.decode(&self.ids[..length]);
        text.truncate(self.stop.find(&text).unwrap_or(text.len()));
        text
    }

    /// The text that further tokens do not change.
    fn settled(&self) -> String {
        // A run of bytes is one with the bytes behind it.
        let open = self.ids.iter().rev().take_while(|&&id| self.tokenizer.is_byte(id)).count();
        let mut text = self.tokenizer.decode(&self.ids[..self.ids.len() - open]);
        text.truncate(text.trim_end_matches(REPLACEMENT).len());
        text
    }
}

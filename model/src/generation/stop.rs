//! What ends an answer.

use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// Tokens and texts at which an answer ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stop {
    /// Tokens of the model's folder that end texts.
    tokens: Vec<u32>,
    /// Texts that the answer is cut before, none of them empty.
    strings: Vec<String>,
}

impl Stop {
    /// The tokens of a model's folder, with `end_of_turn` where an answer is one of a conversation, and the given
    /// strings. A string that stands for a control token is that token.
    ///
    /// # Errors
    /// A string is empty, or holds a control token beside other text.
    pub fn new(tokenizer: &Tokenizer, end_of_turn: Option<u32>, strings: &[String]) -> Result<Self> {
        let mut stop = Self { tokens: tokenizer.stop_tokens().to_vec(), strings: Vec::new() };
        stop.tokens.extend(end_of_turn.filter(|id| !stop.tokens.contains(id)));
        for string in strings {
            let refuse =
                |reason: &str| Err(Error::setting("--stop", format!("`{}` {reason}", string.escape_debug())));
            match tokenizer.control_token(string) {
                _ if string.is_empty() => return refuse("is empty: name a text"),
                Some(id) => stop.tokens.push(id),
                None if tokenizer.has_control_token(string) => {
                    return refuse("holds a control token beside other text: name the token alone");
                }
                None => stop.strings.push(string.clone()),
            }
        }
        Ok(stop)
    }

    /// The tokens.
    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Whether there are texts to look for.
    pub(super) fn has_strings(&self) -> bool {
        !self.strings.is_empty()
    }

    /// Where the first of the strings begins in the text.
    pub(super) fn find(&self, text: &str) -> Option<usize> {
        self.strings.iter().filter_map(|string| text.find(string.as_str())).min()
    }

    /// Bytes at the end of a text without a stop string that may be the beginning of one.
    pub(super) fn open_bytes(&self, text: &str) -> usize {
        let begins = |length: &usize| {
            let end = text.len() - length;
            text.is_char_boundary(end) && self.strings.iter().any(|string| string.starts_with(&text[end..]))
        };
        let longest = self.strings.iter().map(String::len).max().unwrap_or(0);
        (1..=longest.min(text.len())).rev().find(begins).unwrap_or(0)
    }
}

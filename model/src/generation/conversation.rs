//! A conversation with a model, turn by turn.

use std::ops::ControlFlow;

use serde_json::{Value, json};

use super::{Answer, GenerationSettings, Generator, KeptText};
use crate::data::{Notice, PromptMaker};
use crate::error::{Error, Result};
use crate::transformer::{RandomSampling, Sampling};

/// A conversation of which every turn is answered with all turns before it in view.
pub struct Conversation<'a> {
    generator: &'a Generator,
    prompts: &'a PromptMaker<'a>,
    messages: Vec<Value>,
    /// What was computed for the turns so far.
    kept: KeptText,
    /// Answers so far: every one has random numbers of its own.
    answers: u64,
}

impl<'a> Conversation<'a> {
    /// One without messages.
    pub fn new(generator: &'a Generator, prompts: &'a PromptMaker<'a>) -> Self {
        Self { generator, prompts, messages: Vec::new(), kept: KeptText::default(), answers: 0 }
    }

    /// Forgets all turns.
    pub fn clear(&mut self) {
        self.messages.clear();
    }

    /// Answers a user's message, and keeps both. `notices` gets what the user might not expect of the chat template, `show`
    /// the text as in [`Generator::stream`]. A message that cannot be answered, or is answered with nothing, is not
    /// kept.
    ///
    /// # Errors
    /// The chat template refuses the messages, they are longer than the model's positions, or what `show` says.
    pub fn ask(
        &mut self,
        text: &str,
        settings: &GenerationSettings,
        notices: &mut Vec<Notice>,
        show: &mut (dyn FnMut(&str) -> Result<ControlFlow<()>> + Send),
    ) -> Result<Answer> {
        let mut messages = self.messages.clone();
        messages.push(json!({"role": "user", "content": text}));
        let refuse = |reason| Error::setting("conversation", reason);
        let prompt = self.prompts.of_messages(messages.clone(), notices).map_err(refuse)?;
        self.generator.check_prompt(&prompt.ids).map_err(refuse)?;
        let mut settings = settings.clone();
        if let Sampling::Random(RandomSampling { stream, .. }) = &mut settings.sampling {
            *stream = stream.wrapping_add(self.answers);
        }
        let answer = self.generator.stream_on(&prompt.ids, &settings, &mut self.kept, show)?;
        self.answers += 1;
        if !answer.text.trim().is_empty() {
            messages.push(json!({"role": "assistant", "content": answer.text}));
            self.messages = messages;
        }
        Ok(answer)
    }
}

//! Rows of a prompt and its answer: as texts, or as the messages of a conversation.

use serde_json::{Map, Value, json};

use super::example::Example;
use super::fields::{answer_field, text_field};
use super::messages::{Conversation, Extras, json_list};
use super::notice::Notice;
use crate::error::Reasoned;

/// The fields of a prompt and its answer.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub prompt: String,
    pub answer: String,
    /// What is added to the prompt where it is there and not empty.
    pub input: Option<String>,
    pub system: Option<String>,
    pub history: Option<String>,
    pub tools: Option<String>,
    /// True when the recipe names them.
    pub named: bool,
}

/// How prompt and answer are written where they are texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PromptFormat {
    /// One behind the other, as they are.
    Plain,
    /// In the format of [`instruction_prompt`].
    Alpaca,
    /// `Question: …`, and in the next line `Answer: …`.
    QuestionAnswer,
}

/// A prompt and its answer, with what precedes them.
#[derive(Debug, Default)]
pub(super) struct PromptCompletion {
    pub system: String,
    /// Earlier questions with their answers.
    pub history: Vec<[String; 2]>,
    pub prompt: String,
    /// What is added to the prompt.
    pub input: String,
    pub answer: String,
    pub extras: Extras,
}

impl PromptCompletion {
    /// The parts of a row. What only a conversation has a place for is refused where it is not to be one (`chat`).
    pub fn of_fields(
        mut row: Map<String, Value>,
        (fields, format): (&Fields, PromptFormat),
        chat: bool,
        notices: &mut Vec<Notice>,
    ) -> Reasoned<Self> {
        let extras =
            if chat { Extras::take(&mut row, fields.tools.as_deref(), notices)? } else { Extras::default() };
        let prompt = text_field(&row, &fields.prompt)?.to_owned();
        let answer = answer_field(&row, &fields.answer)?.to_owned();
        let mut parts = Self {
            prompt,
            answer,
            input: optional_text(&row, fields.input.as_deref())?,
            extras,
            ..Self::default()
        };
        if chat {
            parts.system = optional_text(&row, fields.system.as_deref())?;
            parts.history = read_history(&mut row, fields.history.as_deref(), notices)?;
        } else if format != PromptFormat::Plain {
            refuse_further_turns(&row, fields)?;
        }
        Ok(parts)
    }

    /// The prompt and the answer as texts.
    pub fn into_text(self, format: PromptFormat) -> Reasoned<Example> {
        let (prompt, completion) = match format {
            PromptFormat::Plain => (self.prompt, self.answer),
            PromptFormat::Alpaca => (instruction_prompt(&self.prompt, &self.input), self.answer),
            PromptFormat::QuestionAnswer => {
                (format!("Question: {}\nAnswer:", self.prompt), format!(" {}", self.answer))
            }
        };
        Ok(Example::Completion { prompt, completion })
    }

    /// A system message, the earlier turns, the prompt with its input in the next line, and the answer.
    pub fn into_conversation(self, notices: &mut Vec<Notice>) -> Reasoned<Conversation> {
        let message = |role: &str, content: String| json!({"role": role, "content": content});
        let mut messages = Vec::with_capacity(2 * self.history.len() + 3);
        if !self.system.is_empty() {
            messages.push(message("system", self.system));
        }
        for [question, answer] in self.history {
            messages.extend([message("user", question), message("assistant", answer)]);
        }
        let prompt = match self.input.as_str() {
            "" => self.prompt,
            input => format!("{}\n{input}", self.prompt),
        };
        messages.extend([message("user", prompt), message("assistant", self.answer)]);
        Conversation::new(messages, 0, self.extras, notices)
    }
}

/// The prompt of an instruction row, in Alpaca's format:
///
/// ```text
/// Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.
///
/// ### Instruction:
/// {instruction}
///
/// ### Input:
/// {input}
///
/// ### Response:
/// ```
///
/// and a line break at the end. Without an input the first line is `Below is an instruction that describes
/// a task. Write a response that appropriately completes the request.`, and the input's part is left out.
pub fn instruction_prompt(instruction: &str, input: &str) -> String {
    let request = "Write a response that appropriately completes the request.";
    if input.is_empty() {
        format!(
            "Below is an instruction that describes a task. {request}\n\n\
             ### Instruction:\n{instruction}\n\n### Response:\n"
        )
    } else {
        format!(
            "Below is an instruction that describes a task, paired with an input that provides further \
             context. {request}\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
        )
    }
}

/// The text of a field, empty where it is not there or null.
fn optional_text(row: &Map<String, Value>, field: Option<&str>) -> Reasoned<String> {
    match field {
        Some(field) if row.get(field).is_some_and(|value| !value.is_null()) => {
            Ok(text_field(row, field)?.to_owned())
        }
        _ => Ok(String::new()),
    }
}

/// Earlier turns: a list of pairs of question and answer, or a string that holds it as JSON.
pub(super) fn read_history(
    row: &mut Map<String, Value>,
    field: Option<&str>,
    notices: &mut Vec<Notice>,
) -> Reasoned<Vec<[String; 2]>> {
    let Some(field) = field else { return Ok(Vec::new()) };
    let list = json_list(row.remove(field), field, notices)?.unwrap_or_default();
    let turns = list.into_iter().enumerate().map(|(index, turn)| {
        let turn: [String; 2] = serde_json::from_value(turn).map_err(|_| {
            format!("`{field}` has a turn {} that is not a list of a question and its answer", index + 1)
        })?;
        match turn[1].trim() {
            "" => Err(format!("`{field}` has a turn {} with an empty answer", index + 1)),
            _ => Ok(turn),
        }
    });
    turns.collect()
}

/// A text has no place for a system message or earlier turns.
fn refuse_further_turns(row: &Map<String, Value>, fields: &Fields) -> Reasoned<()> {
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        _ => false,
    };
    for field in [&fields.system, &fields.history, &fields.tools].into_iter().flatten() {
        let counts = fields.named || Some(field) != fields.tools.as_ref();
        if counts && row.get(field).is_some_and(|value| !is_empty(value)) {
            return Err(format!(
                "has a `{field}`, for which a prompt as a text has no place: set task.chat = true, with a model \
                 folder that has a chat template, or remove the field"
            ));
        }
    }
    Ok(())
}

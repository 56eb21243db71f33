//! Rows of files as examples: the parts of a row, and whether they are messages or texts.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::example::Example;
use super::fields::answer_field;
use super::messages;
use super::notice::Notice;
use super::prompt_completion::{PromptCompletion, PromptFormat};
use super::row_schema::RowSchema;
use super::settings::DataSettings;
use crate::error::Reasoned;
use crate::recipe::Learn;

/// What the rows of a file become; the same for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RowFormat {
    /// A prompt and its answer, both texts.
    Completion,
    /// Conversations that the chat template writes.
    Messages,
    /// As [`Self::Completion`], the prompt in the format of [`instruction_prompt`].
    Instruction,
    /// A text of which all is learnt.
    Text,
}

/// Reads rows as the first one and the settings say.
pub(crate) struct RowReader {
    schema: RowSchema,
    /// True when prompts and answers become messages.
    chat: bool,
    learn: Learn,
}

impl RowReader {
    /// A reader of rows like this one. `has_template` says whether there is a chat template.
    pub fn new(first: &Map<String, Value>, settings: &DataSettings, has_template: bool) -> Reasoned<Self> {
        let schema = RowSchema::of(first, settings)?;
        let chat = schema.is_chat(first, settings, has_template)?;
        if !chat && settings.learn == Learn::Template {
            return Err(
                "is no conversation, and task.learn = \"template\" takes what a chat template marks: remove \
                        it, or set task.chat = true"
                    .into(),
            );
        }
        Ok(Self { schema, chat, learn: settings.learn })
    }

    /// What the rows become.
    pub fn format(&self) -> RowFormat {
        match &self.schema {
            _ if self.chat => RowFormat::Messages,
            RowSchema::Text { .. } => RowFormat::Text,
            RowSchema::Fields { format: PromptFormat::Alpaca, .. } => RowFormat::Instruction,
            _ => RowFormat::Completion,
        }
    }

    /// Reads the fields of a row; `notices` gets what its owner might not expect.
    pub fn example(&self, row: Map<String, Value>, notices: &mut Vec<Notice>) -> Reasoned<Example> {
        self.schema.check(&row)?;
        let has_flag = self.refuse_rejected(&row)?;
        if self.schema.is_recognised() {
            let is_read = |field: &str| {
                self.schema.reads(field, self.chat)
                    || (field == LABEL && has_flag)
                    || self.is_read_as_text(&row, field)
            };
            let unread = row.keys().filter(|field| !is_read(field));
            notices.extend(unread.map(|field| Notice::UnreadField(field.clone())));
        }
        let conversation = match &self.schema {
            RowSchema::Text { field } => {
                return Ok(Example::Text { text: answer_field(&row, field)?.to_owned() });
            }
            RowSchema::Messages(fields) => messages::read(row, fields, notices)?,
            RowSchema::MessageLists => messages::read_prompt_and_completion(row, notices)?,
            RowSchema::Fields { fields, format } => {
                let parts = PromptCompletion::of_fields(row, (fields, *format), self.chat, notices)?;
                if !self.chat {
                    return parts.into_text(*format);
                }
                parts.into_conversation(notices)?
            }
            RowSchema::Templates(templates) => {
                let parts = templates.prompt_completion(row, notices)?;
                if !self.chat {
                    return parts.into_text(PromptFormat::Plain);
                }
                parts.into_conversation(notices)?
            }
        };
        Ok(Example::Messages(match self.learn {
            Learn::Last => conversation.with_last_answer_only(),
            Learn::All | Learn::Template => conversation,
        }))
    }

    /// Whether a field is the lines of the `text` that is read, as text files have both: it says nothing else.
    fn is_read_as_text(&self, row: &Map<String, Value>, field: &str) -> bool {
        let RowSchema::Text { field: text } = &self.schema else { return false };
        match (row.get(text), row.get(field)) {
            (Some(Value::String(text)), Some(Value::Array(lines))) => {
                text.lines().map(Some).eq(lines.iter().map(Value::as_str))
            }
            _ => false,
        }
    }

    /// Refuses a row whose answer is marked as rejected; says whether the row has such a mark.
    fn refuse_rejected(&self, row: &Map<String, Value>) -> Reasoned<bool> {
        let label = row.get(LABEL).unwrap_or(&Value::Null);
        // The recipe may say that the field is something else.
        let is_named = !self.schema.is_recognised() && self.schema.reads(LABEL, self.chat);
        if is_named || matches!(self.schema, RowSchema::Templates(_)) {
            return Ok(false);
        }
        // A number beside a `text` is its class.
        let is_class = matches!(self.schema, RowSchema::Text { .. }) && label.is_number();
        let flag = match label {
            Value::String(text) if text.eq_ignore_ascii_case("false") => Ok(Some(false)),
            label => messages::flag(LABEL, label),
        };
        match flag {
            _ if is_class => Ok(false),
            Ok(Some(false)) => Err("has a `label` of false, which marks an answer as rejected: leave such rows out \
                                    (rows with true can be learnt), or rename the field if it means something else"
                .into()),
            flag => Ok(flag.is_ok()),
        }
    }
}

/// The field in which KTO's rows say whether an answer is wanted. Other data sets keep a class in it.
const LABEL: &str = "label";

//! By which fields rows are read: as the recipe says, or as the fields of the first row suggest.

use serde_json::{Map, Value};

use super::fields::found;
use super::messages::MessageFields;
use super::prompt_completion::{Fields, PromptFormat};
use super::row_templates::RowTemplates;
use super::settings::DataSettings;
use crate::error::{Reasoned, clip};
use crate::recipe::Columns;

/// Where the parts of a row stand.
#[derive(Debug)]
pub(super) enum RowSchema {
    /// A text of which all is learnt.
    Text { field: String },
    /// A list of messages.
    Messages(MessageFields),
    /// `prompt` and `completion`, both lists of messages (TRL's conversational rows).
    MessageLists,
    /// A prompt and its answer.
    Fields { fields: Fields, format: PromptFormat },
    /// Prompt and answer made by the recipe's templates.
    Templates(RowTemplates),
}

/// Pairs of fields that are a question and its answer.
const PAIRS: [(&str, &str); 7] = [
    ("question", "answer"),
    ("query", "response"),
    ("problem", "solution"),
    ("question", "response"),
    ("prompt", "response"),
    ("input", "output"),
    ("input", "target"),
];

/// Fields without which a question of [`PAIRS`] cannot be answered.
const PARTS_OF_QUESTIONS: [&str; 7] =
    ["context", "passage", "article", "choices", "options", "hypothesis", "endings"];

/// Further fields that are read of rows which become messages.
const OF_CONVERSATIONS: [&str; 1] = ["chat_template_kwargs"];

impl RowSchema {
    /// That of the first row.
    pub fn of(first: &Map<String, Value>, settings: &DataSettings) -> Reasoned<Self> {
        let columns = &settings.columns;
        let schema = match (RowTemplates::of(settings)?, columns) {
            (Some(templates), _) => Self::Templates(templates),
            (None, Columns { text: Some(text), .. }) => Self::Text { field: text.clone() },
            (None, Columns { messages: Some(messages), .. }) => Self::Messages(MessageFields {
                messages: messages.clone(),
                system: columns.system.clone(),
                tools: columns.tools.clone(),
                named: true,
            }),
            (None, Columns { prompt: Some(prompt), answer: Some(answer), .. }) => Self::Fields {
                fields: Fields {
                    prompt: prompt.clone(),
                    answer: answer.clone(),
                    input: None,
                    system: columns.system.clone(),
                    history: columns.history.clone(),
                    tools: columns.tools.clone(),
                    named: true,
                },
                format: PromptFormat::QuestionAnswer,
            },
            _ => return Self::recognise(first),
        };
        if let Some((key, column)) = columns.named().find(|(_, column)| !first.contains_key(*column)) {
            return Err(no_column(key, column, first));
        }
        Ok(schema)
    }

    /// The first that the row's fields allow. A row of Alpaca's own files, which has `text` beside the three,
    /// is an instruction.
    fn recognise(row: &Map<String, Value>) -> Reasoned<Self> {
        let has = |field: &str| row.contains_key(field);
        let lists = |field: &str| matches!(row.get(field), Some(Value::Array(list)) if list.iter().any(Value::is_object));
        let fields = |prompt: &str, answer: &str, input: Option<&str>| Fields {
            prompt: prompt.to_owned(),
            answer: answer.to_owned(),
            input: input.map(str::to_owned),
            system: Some("system".to_owned()),
            history: Some("history".to_owned()),
            tools: Some("tools".to_owned()),
            named: false,
        };
        let messages = |messages: &str, system: Option<&str>| {
            Self::Messages(MessageFields {
                messages: messages.to_owned(),
                system: system.map(str::to_owned),
                tools: Some("tools".to_owned()),
                named: false,
            })
        };
        if lists("prompt") && lists("completion") {
            return Ok(Self::MessageLists);
        }
        if has("prompt") && has("completion") {
            let fields = fields("prompt", "completion", None);
            return Ok(Self::Fields { fields, format: PromptFormat::Plain });
        }
        if has("messages") {
            return Ok(messages("messages", None));
        }
        if let Some(name) = ["conversations", "conversation"].into_iter().find(|name| has(name)) {
            return Ok(messages(name, Some("system")));
        }
        for (answer, input) in [("output", "input"), ("response", "context"), ("response", "input")] {
            if has("instruction") && has(answer) && (answer == "output" || has(input)) {
                let fields = fields("instruction", answer, Some(input));
                return Ok(Self::Fields { fields, format: PromptFormat::Alpaca });
            }
        }
        if has("text") {
            return Ok(Self::Text { field: "text".to_owned() });
        }
        if has("chosen") && has("rejected") {
            return Err(
                "has `chosen` and `rejected` answers, and preferences cannot be learnt: to learn the chosen \
                        ones, write them as `completion` (beside `prompt`) or as `messages`"
                    .into(),
            );
        }
        let mut pairs = PAIRS.iter().filter(|(prompt, answer)| has(prompt) && has(answer));
        let Some(&(prompt, answer)) = pairs.next() else {
            return Err(format!(
                "has no fields this program knows (found {}): use `prompt` and `completion`, `messages`, \
                 `conversations`, `question` and `answer`, `instruction` and `output`, or `text`, or name the columns \
                 in [task.columns]",
                found(row)
            ));
        };
        if let Some((other, its_answer)) = pairs.next() {
            return Err(format!(
                "has `{prompt}` and `{answer}`, and `{other}` and `{its_answer}`: name the columns to learn in \
                 [task.columns], prompt and answer"
            ));
        }
        if let Some(part) = PARTS_OF_QUESTIONS.iter().find(|field| has(field)) {
            return Err(format!(
                "has `{part}` beside `{prompt}`: say in the recipe how they make a prompt, as task.prompt = \
                 \"{{{{{part}}}}}\\n{{{{{prompt}}}}}\" with task.answer = \"{{{{{answer}}}}}\", or leave it out with \
                 [task.columns]"
            ));
        }
        Ok(Self::Fields { fields: fields(prompt, answer, None), format: PromptFormat::QuestionAnswer })
    }

    /// Whether rows of it become messages: as the recipe says, else as suits it.
    pub fn is_chat(
        &self,
        first: &Map<String, Value>,
        settings: &DataSettings,
        has_template: bool,
    ) -> Reasoned<bool> {
        match (self, settings.chat) {
            (Self::Text { field }, Some(true)) => Err(format!(
                "is a text (`{field}`), and task.chat = true needs a prompt and an answer: remove it"
            )),
            (Self::Messages(_) | Self::MessageLists, Some(false)) => {
                Err("is a conversation, which task.chat = false cannot make a text: remove it".into())
            }
            (Self::Fields { .. } | Self::Templates(_), Some(chat)) => Ok(chat),
            (Self::Text { .. }, _) => Ok(false),
            (Self::Messages(_) | Self::MessageLists, _) => Ok(true),
            (Self::Templates(templates), None) => Ok(templates.has_turns()),
            (Self::Fields { format, .. }, None) => Ok(match format {
                PromptFormat::Plain => false,
                PromptFormat::Alpaca => {
                    has_template && ["system", "history"].iter().any(|field| first.contains_key(*field))
                }
                PromptFormat::QuestionAnswer => has_template,
            }),
        }
    }

    /// True when it was recognised from the fields, not named by the recipe.
    pub fn is_recognised(&self) -> bool {
        match self {
            Self::Text { field } => field == "text",
            Self::Messages(fields) => !fields.named,
            Self::MessageLists => true,
            Self::Fields { fields, .. } => !fields.named,
            Self::Templates(_) => false,
        }
    }

    /// The fields that every row has, with the key of the recipe that names them.
    fn required(&self) -> Vec<(&'static str, &str)> {
        match self {
            Self::Text { field } => vec![("text", field)],
            Self::Messages(fields) => vec![("messages", &fields.messages)],
            Self::MessageLists => vec![("prompt", "prompt"), ("answer", "completion")],
            Self::Fields { fields, .. } => vec![("prompt", &fields.prompt), ("answer", &fields.answer)],
            Self::Templates(_) => Vec::new(),
        }
    }

    /// True when the field is read of such a row.
    pub fn reads(&self, field: &str, chat: bool) -> bool {
        let is = |name: &Option<String>| name.as_deref() == Some(field);
        let further = match self {
            Self::Text { .. } | Self::MessageLists => field == "tools" && chat,
            Self::Messages(fields) => is(&fields.system) || is(&fields.tools),
            Self::Fields { fields, format } => {
                let of_turns = is(&fields.system) || is(&fields.history);
                is(&fields.input)
                    || (of_turns && (chat || *format != PromptFormat::Plain))
                    || (is(&fields.tools) && chat)
            }
            Self::Templates(_) => false,
        };
        further
            || self.required().iter().any(|(_, name)| *name == field)
            || (chat && OF_CONVERSATIONS.contains(&field))
    }

    /// Refuses a row that has not its fields.
    pub fn check(&self, row: &Map<String, Value>) -> Reasoned<()> {
        let required = self.required();
        let Some((key, missing)) = required.iter().find(|(_, field)| !row.contains_key(*field)) else {
            return Ok(());
        };
        if !self.is_recognised() {
            return Err(no_column(key, missing, row));
        }
        Self::recognise(row)?;
        let fields: Vec<String> = required.iter().map(|(_, field)| format!("`{field}`")).collect();
        Err(format!(
            "has not the fields of the first row ({}): every row of a file has the same format",
            fields.join(" and ")
        ))
    }
}

fn no_column(key: &str, column: &str, row: &Map<String, Value>) -> String {
    format!("has no column `{}`, which task.columns.{key} names: it has {}", clip(column), found(row))
}

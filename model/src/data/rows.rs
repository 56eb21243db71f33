//! Rows of files: which of the four shapes a file has, and its rows as examples.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::messages::{self, Conversation};
use super::notice::Notice;
use crate::error::{Reasoned, clip};

/// What the rows of a file look like; recognised from its first row, and the same for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shape {
    /// `{"prompt": …, "completion": …}`, both strings.
    Completion,
    /// `{"messages": [{"role": …, "content": …}, …]}`, with `"tools"` where the template takes them.
    Messages,
    /// `{"instruction": …, "input": …, "output": …}`; `input` may be missing or empty, `system` and
    /// `history` must be. The prompt is [`instruction_prompt`].
    Instruction,
    /// `{"text": …}`: all of it is learnt.
    Text,
}

impl Shape {
    /// The fields that make the shape, as messages name them.
    pub fn fields(self) -> &'static str {
        match self {
            Self::Completion => "`prompt` and `completion`",
            Self::Messages => "`messages`",
            Self::Instruction => "`instruction` and `output`",
            Self::Text => "`text`",
        }
    }

    /// Every field that is read of such a row.
    fn reads(self) -> &'static [&'static str] {
        match self {
            Self::Completion => &["prompt", "completion"],
            Self::Messages => &["messages", "tools", "chat_template_kwargs"],
            Self::Instruction => &["instruction", "input", "output", "system", "history"],
            Self::Text => &["text"],
        }
    }

    /// The shape of one row: the first that its fields allow. A row of Alpaca's own
    /// files, which has `text` beside the three, is an instruction.
    pub(super) fn recognise(row: &Map<String, Value>) -> Reasoned<Self> {
        let has = |field: &str| row.contains_key(field);
        if has("prompt") && has("completion") {
            Ok(Self::Completion)
        } else if has("messages") {
            Ok(Self::Messages)
        } else if has("instruction") && has("output") {
            Ok(Self::Instruction)
        } else if has("text") {
            Ok(Self::Text)
        } else if has("chosen") && has("rejected") {
            Err("has `chosen` and `rejected` answers, and preferences cannot be learnt: to learn the chosen \
                 ones, write them as `completion` (beside `prompt`) or as `messages`"
                .into())
        } else {
            let found: Vec<String> = row.keys().take(8).map(|key| format!("`{}`", clip(key))).collect();
            let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
            Err(format!(
                "has no fields this program knows (found {found}): use `prompt` and `completion`, `messages`, \
                 `instruction` and `output`, or `text`"
            ))
        }
    }
}

/// What is to be learnt from one row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Example {
    Completion { prompt: String, completion: String },
    Messages(Conversation),
    Text { text: String },
}

/// The prompt of an instruction row, in Alpaca's form:
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

/// Reads the fields of one row of the first row's shape; `notices` gets what its owner might not expect.
pub(crate) fn example(row: Map<String, Value>, shape: Shape, notices: &mut Vec<Notice>) -> Reasoned<Example> {
    Shape::recognise(&row)?;
    if !complete(shape, &row) {
        return Err(format!(
            "has not the fields of the first row ({}): every row of a file has the same shape",
            shape.fields()
        ));
    }
    let has_flag = refuse_rejected(shape, &row)?;
    let is_read = |field: &str| shape.reads().contains(&field) || (field == LABEL && has_flag);
    let unread = row.keys().filter(|field| !is_read(field));
    notices.extend(unread.map(|field| Notice::UnreadField(field.clone())));
    Ok(match shape {
        Shape::Completion => Example::Completion {
            prompt: text_field(&row, "prompt")?.to_owned(),
            completion: answer_field(&row, "completion")?.to_owned(),
        },
        Shape::Instruction => {
            refuse_further_turns(&row)?;
            let input =
                if row.get("input").is_none_or(Value::is_null) { "" } else { text_field(&row, "input")? };
            Example::Completion {
                prompt: instruction_prompt(text_field(&row, "instruction")?, input),
                completion: answer_field(&row, "output")?.to_owned(),
            }
        }
        Shape::Text => Example::Text { text: answer_field(&row, "text")?.to_owned() },
        Shape::Messages => Example::Messages(messages::read(row, notices)?),
    })
}

fn complete(shape: Shape, row: &Map<String, Value>) -> bool {
    let fields: &[&str] = match shape {
        Shape::Completion => &["prompt", "completion"],
        Shape::Messages => &["messages"],
        Shape::Instruction => &["instruction", "output"],
        Shape::Text => &["text"],
    };
    fields.iter().all(|field| row.contains_key(*field))
}

/// The field in which KTO's rows say whether an answer is wanted. Other data sets keep a class in it.
const LABEL: &str = "label";

/// Refuses a row whose answer is marked as rejected; says whether the row has such a mark.
fn refuse_rejected(shape: Shape, row: &Map<String, Value>) -> Reasoned<bool> {
    let label = row.get(LABEL).unwrap_or(&Value::Null);
    // A number beside a `text` is its class.
    let is_class = shape == Shape::Text && label.is_number();
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

/// The form of an instruction's prompt has no place for a system prompt or earlier turns.
fn refuse_further_turns(row: &Map<String, Value>) -> Reasoned<()> {
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        _ => false,
    };
    for field in ["system", "history"] {
        if row.get(field).is_some_and(|value| !is_empty(value)) {
            return Err(format!(
                "has a `{field}`, for which the prompt of an `instruction` has no place: write the row as \
                 `messages`, or remove the field"
            ));
        }
    }
    Ok(())
}

fn text_field<'a>(row: &'a Map<String, Value>, field: &str) -> Reasoned<&'a str> {
    match row.get(field) {
        Some(Value::String(text)) => Ok(text),
        Some(Value::Array(values)) if values.first().is_some_and(Value::is_object) => Err(format!(
            "`{field}` is a list of messages, which is not built: write one list, `messages` (every answer in \
             it is learnt)"
        )),
        _ => Err(format!("`{field}` is not a string")),
    }
}

fn answer_field<'a>(row: &'a Map<String, Value>, field: &str) -> Reasoned<&'a str> {
    let text = text_field(row, field)?;
    if text.trim().is_empty() {
        Err(format!("`{field}` is empty: there is no answer to learn"))
    } else {
        Ok(text)
    }
}

//! How the rows of a task's files are read and which of their answers are learnt.

use serde::{Deserialize, Serialize};

/// Which answers of a conversation are learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Learn {
    /// Every one; what the chat template marks with `generation` where it has such marks.
    #[default]
    All,
    /// The last.
    Last,
    /// What the chat template marks with `generation`; without such marks no row can be used.
    Template,
}

/// `[task.columns]`: the names that the parts of a row have in the task's files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Columns {
    /// What is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// What is learnt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// The system message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Earlier turns: a list of pairs of question and answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<String>,
    /// A list of messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<String>,
    /// The tools that the chat template is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<String>,
    /// A text of which all is learnt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl Columns {
    /// The keys that are set, each with the column it names.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all = [
            ("prompt", &self.prompt),
            ("answer", &self.answer),
            ("system", &self.system),
            ("history", &self.history),
            ("messages", &self.messages),
            ("tools", &self.tools),
            ("text", &self.text),
        ];
        all.into_iter().filter_map(|(key, column)| Some((key, column.as_deref()?)))
    }

    /// True when no column is named.
    pub fn is_empty(&self) -> bool {
        self.named().next().is_none()
    }
}

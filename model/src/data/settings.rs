//! How a file's rows become tokens.

use serde::Serialize;

use super::Shots;
use crate::recipe::{Columns, Learn, ModelSettings, SpecialTokens, TaskSettings};

/// What is done with a row longer than the longest allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub enum LongRows {
    /// It is left out, and counted.
    #[default]
    Skip,
    /// Its end is cut off, and it is counted; a row that loses all its supervised tokens is left out.
    Truncate,
}

/// Everything beside the files and the tokenizer that decides what the rows of a data set are.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DataSettings {
    /// Most tokens of a row, EOS included.
    pub max_length: usize,
    /// What is done with longer ones.
    pub long_rows: LongRows,
    /// Most rows: the first ones that can be used.
    pub limit: Option<usize>,
    /// True for the files of a recipe's task, whose keys a message may name.
    pub is_of_task: bool,
    /// Rows that cannot be used are left out and counted, instead of the first being an error.
    pub skip_invalid: bool,
    /// What control strings outside of messages are.
    pub special_tokens: SpecialTokens,
    /// Which answers of a conversation are learnt.
    pub learn: Learn,
    /// Whether prompts and answers become messages; what the schema of the rows suggests where it is not set.
    pub chat: Option<bool>,
    /// Jinja templates that make a row's parts from its fields.
    pub prompt: Option<String>,
    /// The one of the answer.
    pub answer: Option<String>,
    /// The one of the system message.
    pub system: Option<String>,
    /// Names of the files' columns.
    pub columns: Columns,
    /// Examples before every row.
    pub shots: Shots,
}

impl Default for DataSettings {
    /// Rows of any length, read as a task that sets nothing has them.
    fn default() -> Self {
        Self::of_measured(&TaskSettings::default())
    }
}

impl DataSettings {
    /// The settings for measuring files that no recipe names, read as those of a task with these settings. Rows have any
    /// length.
    pub fn of_measured(task: &TaskSettings) -> Self {
        let model = ModelSettings { max_length: usize::MAX, ..ModelSettings::default() };
        Self { is_of_task: false, ..Self::of_evaluation(&model, task) }
    }

    /// The same with rows of at most so many tokens, as a recipe with `model.max_length` and `model.truncate` has them.
    pub fn with_max_length(self, max_length: usize, truncate: bool) -> Self {
        Self { max_length, long_rows: if truncate { LongRows::Truncate } else { LongRows::Skip }, ..self }
    }

    /// The settings of a recipe's task for its evaluation files.
    pub fn of_evaluation(model: &ModelSettings, task: &TaskSettings) -> Self {
        Self { limit: task.eval_limit, ..Self::of_task(model, task) }
    }

    /// The settings of a recipe's task for its training files.
    pub fn of_task(model: &ModelSettings, task: &TaskSettings) -> Self {
        Self {
            max_length: model.max_length,
            long_rows: if model.truncate { LongRows::Truncate } else { LongRows::Skip },
            limit: task.limit,
            is_of_task: true,
            skip_invalid: task.skip_invalid,
            special_tokens: task.special_tokens,
            learn: task.learn,
            chat: task.chat,
            prompt: task.prompt.clone(),
            answer: task.answer.clone(),
            system: task.system.clone(),
            columns: task.columns.clone(),
            shots: Shots::default(),
        }
    }
}

//! How a file's rows become tokens.

use serde::Serialize;

use super::Shots;
use crate::recipe::{ModelSettings, SpecialTokens, TaskSettings};

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
    /// What control strings outside of messages are.
    pub special_tokens: SpecialTokens,
    /// Examples before every row.
    pub shots: Shots,
}

impl Default for DataSettings {
    /// Rows of any length, read as a task that sets nothing has them.
    fn default() -> Self {
        Self {
            max_length: usize::MAX,
            long_rows: LongRows::Skip,
            special_tokens: SpecialTokens::default(),
            shots: Shots::default(),
        }
    }
}

impl DataSettings {
    /// The settings of a recipe's task.
    pub fn of_task(model: &ModelSettings, task: &TaskSettings) -> Self {
        Self {
            max_length: model.max_length,
            long_rows: if model.truncate { LongRows::Truncate } else { LongRows::Skip },
            special_tokens: task.special_tokens,
            shots: Shots::default(),
        }
    }
}

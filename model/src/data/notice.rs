//! What a person should know about the rows of a file, though they are used.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Something about a row that its owner might not expect.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Notice {
    /// A field that nothing reads.
    UnreadField(String),
    /// Strings in a text that are learnt as the control tokens they stand for.
    ControlTokens,
    /// Conversations, rendered with the base's chat template, of a task that brings the model of this folder,
    /// which has another one.
    OtherTemplate(String),
}

impl fmt::Display for Notice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnreadField(field) => write!(formatter, "the field `{}` is not read", field.escape_debug()),
            Self::ControlTokens => formatter.write_str(
                "control tokens in the text are learnt as such; task.special_tokens = \"escape\" reads them as \
                 plain text",
            ),
            Self::OtherTemplate(folder) => write!(
                formatter,
                "the messages are rendered with the base's chat template, and that of {folder} differs"
            ),
        }
    }
}

/// One [`Notice`] about a file: how many rows it concerns, and the first of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileNotice {
    /// What it is about.
    pub notice: Notice,
    /// Rows that it concerns.
    pub rows: usize,
    /// Line of the first of them, counted from 1.
    pub first_line: usize,
}

impl fmt::Display for FileNotice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { notice, rows, first_line } = self;
        let rows = if *rows == 1 { "1 row".to_owned() } else { format!("{rows} rows") };
        write!(formatter, "{notice} ({rows}, first in line {first_line})")
    }
}

/// Most kinds of notices that are kept of a file: one with a field name of its own in every row has many.
const MOST_KINDS: usize = 32;

/// Gathers the notices of a file, row by row in file order.
#[derive(Debug, Default)]
pub(crate) struct Notices(BTreeMap<Notice, (usize, usize)>);

impl Notices {
    /// Adds what was noticed about the row of a line.
    pub fn add(&mut self, line: usize, notices: Vec<Notice>) {
        for notice in notices {
            if self.0.len() < MOST_KINDS || self.0.contains_key(&notice) {
                self.0.entry(notice).or_insert((0, line)).0 += 1;
            }
        }
    }

    /// One entry for each kind, in the order of [`Notice`].
    pub fn finish(self) -> Vec<FileNotice> {
        let entry = |(notice, (rows, first_line))| FileNotice { notice, rows, first_line };
        self.0.into_iter().map(entry).collect()
    }
}

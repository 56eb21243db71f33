//! What a person should know about the rows of a file, though they are used.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Position, Unit};
use crate::counts::counted;

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
    /// Messages behind the last answer.
    AfterLastAnswer,
    /// Two messages of the assistant, one behind the other.
    ConsecutiveAnswers,
    /// A list that is a string of JSON.
    ListAsText(String),
    /// Messages of a role that chat templates know by another name, passed on under that.
    RoleRenamed {
        /// The row's name.
        from: String,
        /// The usual name.
        to: String,
    },
    /// Messages of a `completion` that are not the assistant's.
    CompletionContext,
    /// A reasoning under a name that the template does not read, passed on under another.
    ReasoningRenamed {
        /// The row's name.
        from: String,
        /// The template's name.
        to: String,
    },
    /// Contents in several parts that the template cannot take.
    JoinedParts,
    /// Arguments of tool calls that are strings of JSON, passed on as objects.
    ArgumentsAsObjects,
    /// Arguments of tool calls that are objects, passed on as strings of JSON.
    ArgumentsAsText,
    /// Messages of a role that the template does not write.
    MessageLeftOut(String),
    /// Tools that the template does not write.
    ToolsLeftOut,
    /// Tool calls that the template does not write.
    ToolCallsLeftOut,
    /// Answers that are nothing but tool calls, which the template does not write.
    CallsAsText,
    /// An answer whose text the template does not write as it stands.
    AnswerLeftOut,
    /// Reasoning of an answer before the last that the template does not write.
    EarlierReasoning,
    /// Reasoning that is lost.
    ReasoningNotLearnt,
    /// Reasoning of the last answer, written back where the template leaves it out.
    ReasoningRestored,
    /// An answer without reasoning behind a prompt that opens one.
    EmptyReasoning,
    /// An answer that is not learnt.
    ContextOnly,
    /// Rows to evaluate on that also stand among those to train on.
    AlsoTrained,
    /// Answers of which nothing is learnt but their end.
    OnlyEnds,
    /// Answers none of which ends with a token that ends generation.
    Endless,
    /// Answers that the template changes once others follow.
    Expanded,
    /// A template's marks that leave out what ends the turn.
    UnmarkedEnd,
    /// More answers that the template changes than one conversation becomes rows: so many at most.
    TooManyRows(usize),
    /// So many kinds of notices that are not kept.
    MoreKinds(usize),
}

impl fmt::Display for Notice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnreadField(field) => write!(formatter, "the field `{}` is not read", field.escape_debug()),
            Self::OtherTemplate(folder) => write!(
                formatter,
                "the messages are rendered with the base's chat template, and that of {folder} differs"
            ),
            Self::ReasoningRenamed { from, to } => {
                write!(formatter, "`{from}` is passed to the chat template as `{to}`, which it reads")
            }
            Self::ListAsText(field) => {
                write!(formatter, "`{}` is a string: the JSON in it is read", field.escape_debug())
            }
            Self::RoleRenamed { from, to } => {
                write!(
                    formatter,
                    "messages of the role `{}` are those of the role `{to}`",
                    from.escape_debug()
                )
            }
            Self::MessageLeftOut(role) => {
                let role = role.escape_debug();
                write!(formatter, "the chat template leaves out a message of the role `{role}`")
            }
            Self::TooManyRows(most) => write!(
                formatter,
                "a conversation becomes at most {most} rows, one for each answer that the chat template changes \
                 once others follow: its first answers are not learnt"
            ),
            Self::MoreKinds(count) => {
                let least = if *count == MOST_MORE_KINDS { "at least " } else { "" };
                let kinds = if *count == 1 { "kind of notice is" } else { "kinds of notices are" };
                write!(formatter, "{least}{count} more {kinds} not listed")
            }
            other => formatter.write_str(other.sentence()),
        }
    }
}

impl Notice {
    /// What is said where nothing of the row is named.
    fn sentence(&self) -> &'static str {
        match self {
            Self::UnreadField(_) => "a field is not read",
            Self::ReasoningRenamed { .. } => "a reasoning is passed to the chat template under another name",
            Self::ListAsText(_) => "a list is a string: the JSON in it is read",
            Self::RoleRenamed { .. } => "a role has another name than chat templates know",
            Self::CompletionContext => {
                "messages of `completion` that are not the assistant's are context: they are not learnt"
            }
            Self::MessageLeftOut(_) => "the chat template leaves out a message",
            Self::OtherTemplate(_) => "the messages are rendered with the base's chat template",
            Self::ControlTokens => {
                "control tokens in the text are learnt as such; task.special_tokens = \"escape\" reads them as \
                 plain text"
            }
            Self::AfterLastAnswer => {
                "messages behind the last answer are left out, since nothing is learnt from them"
            }
            Self::ConsecutiveAnswers => {
                "two messages of the assistant follow each other: each is learnt as a turn of its own"
            }
            Self::JoinedParts => {
                "contents in several parts are joined with line breaks, since the chat template cannot take parts"
            }
            Self::ArgumentsAsObjects => {
                "arguments of tool calls are strings of JSON: the chat template gets the objects in them"
            }
            Self::ArgumentsAsText => {
                "arguments of tool calls are objects: the chat template gets them as strings of JSON"
            }
            Self::ToolsLeftOut => "the chat template does not write the `tools`",
            Self::ToolCallsLeftOut => "the chat template does not write `tool_calls`: they are not learnt",
            Self::CallsAsText => {
                "the chat template does not write `tool_calls`: an answer that is nothing else is learnt as their \
                 JSON"
            }
            Self::AnswerLeftOut => {
                "the chat template does not write the text of an answer as it stands: it is not learnt so"
            }
            Self::EarlierReasoning => {
                "the chat template leaves out the reasoning of an answer before the last: it is not learnt"
            }
            Self::ReasoningNotLearnt => {
                "the chat template leaves out the reasoning of an answer: it is not learnt"
            }
            Self::ReasoningRestored => {
                "the chat template leaves out the reasoning of the last answer: it is learnt all the same"
            }
            Self::EmptyReasoning => {
                "the generation prompt opens reasoning and the answer has none: an empty one is learnt before it"
            }
            Self::ContextOnly => {
                "an answer is not learnt, since the chat template writes it otherwise than generation begins it"
            }
            Self::AlsoTrained => {
                "rows to evaluate on also stand in the training files: what is measured on them was learnt"
            }
            Self::OnlyEnds => "an answer is nothing but its end: there is nothing else to learn from it",
            Self::Endless => {
                "no answer ends with a token that ends generation: the model does not learn where to stop"
            }
            Self::Expanded => {
                "the chat template changes earlier answers once others follow: each is learnt in a row of its own, \
                 as it would be generated (task.learn = \"last\" learns the last only)"
            }
            Self::TooManyRows(_) => "a conversation becomes too many rows: its first answers are not learnt",
            Self::MoreKinds(_) => "more kinds of notices are not listed",
            Self::UnmarkedEnd => {
                "the chat template's `generation` marks leave out what ends the last turn: it is not learnt"
            }
        }
    }
}

/// One [`Notice`] about the files of a data set: how many rows it concerns, and which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileNotice {
    /// What it is about.
    pub notice: Notice,
    /// Rows that it concerns.
    pub rows: usize,
    /// Files that these are in.
    pub files: usize,
    /// The first of them.
    pub first: Position,
    /// The last of them.
    pub last: Position,
}

impl FileNotice {
    /// A notice about the rows in these places, which are in file order; none without a row.
    pub(super) fn of(notice: Notice, mut positions: impl Iterator<Item = Position>) -> Option<Self> {
        let mut of_all = Self::new(notice, positions.next()?);
        positions.for_each(|position| of_all.add(position));
        Some(of_all)
    }

    fn new(notice: Notice, first: Position) -> Self {
        Self { notice, rows: 1, files: 1, first, last: first }
    }

    fn add(&mut self, position: Position) {
        self.rows += 1;
        self.files += usize::from(position.file != self.last.file);
        self.last = position;
    }

    /// The notice as a line that begins with the name of the first row's file.
    pub(super) fn describe(&self, files: &[PathBuf]) -> String {
        format!("{}: {self}", files[self.first.file].display())
    }
}

impl fmt::Display for FileNotice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { notice, rows, first, .. } = self;
        let rows = counted(*rows as u64, "row");
        let files = if self.files == 1 { String::new() } else { format!(" in {} files", self.files) };
        let unit = match first.unit {
            Unit::Line => "line",
            Unit::Row => "row",
        };
        write!(formatter, "{notice} ({rows}{files}, first in {unit} {})", first.number)
    }
}

/// Most kinds of notices that are kept of a data set: one with a field name of its own in every row has many.
const MOST_KINDS: usize = 32;

/// Most kinds beyond those that are counted.
const MOST_MORE_KINDS: usize = 1000;

/// Gathers the notices of a data set, row by row in file order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Notices {
    kinds: Vec<FileNotice>,
    /// Hashes of the kinds beyond those.
    more: BTreeSet<u64>,
    /// The rows that these concern.
    more_rows: Option<FileNotice>,
}

impl Notices {
    /// Adds what was noticed about the row there.
    pub fn add(&mut self, position: Position, notices: Vec<Notice>) {
        let mut is_counted = false;
        for notice in notices {
            if let Some(known) = self.kinds.iter_mut().find(|known| known.notice == notice) {
                known.add(position);
            } else if self.kinds.len() < MOST_KINDS {
                self.kinds.push(FileNotice::new(notice, position));
            } else {
                if self.more.len() < MOST_MORE_KINDS {
                    let hash = blake3::hash(format!("{notice:?}").as_bytes());
                    self.more.insert(u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap_or_default()));
                }
                match &mut self.more_rows {
                    _ if is_counted => {}
                    Some(rows) => rows.add(position),
                    none => *none = Some(FileNotice::new(Notice::MoreKinds(0), position)),
                }
                is_counted = true;
            }
        }
    }

    /// One entry for each kind, in the order of [`Notice`].
    pub fn finish(&self) -> Vec<FileNotice> {
        let more = self.more_rows.clone();
        let more = more.map(|rows| FileNotice { notice: Notice::MoreKinds(self.more.len()), ..rows });
        let mut notices: Vec<FileNotice> = self.kinds.iter().cloned().chain(more).collect();
        notices.sort_by(|one, other| one.notice.cmp(&other.notice));
        notices
    }
}

//! What a file that a run reads is to the run, whatever its path.

use std::fmt;
use std::str::FromStr;

use crate::serde_text::serde_as_text;

/// What a file is to a run. In its records it is text: `base/tokenizer.json`, `task.code.train`, and `task.code.train/2`
/// for the second file of the task; `measure.general text.eval` for rows that are never trained on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InputRole {
    /// The configuration of a model that starts from random weights.
    Config,
    /// A file of the base model, by its name in the base's folder.
    Base(String),
    /// A file of a task's rows.
    Data {
        /// The task's name.
        task: String,
        /// What its rows are for.
        split: Split,
        /// Which of the task's files it is, counted from 0.
        index: usize,
    },
    /// A file of the rows of a `[[measure]]`.
    Measure {
        /// The measure's name.
        measure: String,
        /// Which of the measure's files it is, counted from 0.
        index: usize,
    },
    /// A file of the model that a task brings instead of a probe.
    Model {
        /// The task's name.
        task: String,
        /// The file's name.
        file: String,
    },
}

/// What rows of a task are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// To train on.
    Train,
    /// To evaluate on.
    Eval,
}

impl Split {
    /// Name of the recipe's key.
    fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Eval => "eval",
        }
    }
}

impl InputRole {
    /// Whether it is about the files that `task` is trained on.
    pub fn trains(&self, task: &str) -> bool {
        matches!(self, Self::Data { task: own, split: Split::Train, .. } if own == task)
    }

    /// Whether it is about the model that all start from.
    pub fn is_of_base(&self) -> bool {
        matches!(self, Self::Config | Self::Base(_))
    }

    /// Whether what is measured of base and probes depends on the file, and not only how probes are trained.
    pub fn is_measured(&self) -> bool {
        !matches!(self, Self::Data { split: Split::Train, .. })
    }
}

const CONFIG: &str = "model.config";
const BASE: &str = "base/";
const TASK: &str = "task.";
const MEASURE: &str = "measure.";

impl fmt::Display for InputRole {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config => text.write_str(CONFIG),
            Self::Base(file) => write!(text, "{BASE}{file}"),
            Self::Data { task, split, index } => {
                write!(text, "{TASK}{task}.{}{}", split.name(), number(*index))
            }
            Self::Measure { measure, index } => {
                write!(text, "{MEASURE}{measure}.{}{}", Split::Eval.name(), number(*index))
            }
            Self::Model { task, file } => write!(text, "{TASK}{task}.model/{file}"),
        }
    }
}

/// The number of a file, behind the first.
fn number(index: usize) -> String {
    if index == 0 { String::new() } else { format!("/{}", index + 1) }
}

/// A text that is no role.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not what a file can be to a run")]
pub struct UnknownRole(String);

impl FromStr for InputRole {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        if text == CONFIG {
            return Ok(Self::Config);
        }
        if let Some(file) = text.strip_prefix(BASE) {
            return Ok(Self::Base(file.to_owned()));
        }
        let role = Self::of_task(text).or_else(|| Self::of_measure(text));
        role.ok_or_else(|| UnknownRole(text.to_owned()))
    }
}

impl InputRole {
    /// Name, part, and what follows a slash, of what begins with `prefix`.
    fn parts<'a>(text: &'a str, prefix: &str) -> Option<(&'a str, &'a str, Option<&'a str>)> {
        // Names of tasks and measures have dots and no slashes.
        let (key, rest) = match text.split_once('/') {
            Some((key, rest)) => (key, Some(rest)),
            None => (text, None),
        };
        let (name, part) = key.strip_prefix(prefix)?.rsplit_once('.')?;
        Some((name, part, rest))
    }

    fn of_measure(text: &str) -> Option<Self> {
        let (measure, part, rest) = Self::parts(text, MEASURE)?;
        let index = index(rest)?;
        (part == Split::Eval.name()).then(|| Self::Measure { measure: measure.to_owned(), index })
    }

    fn of_task(text: &str) -> Option<Self> {
        let (task, part, rest) = Self::parts(text, TASK)?;
        let task = task.to_owned();
        let split = match part {
            "model" => return Some(Self::Model { task, file: rest?.to_owned() }),
            "train" => Split::Train,
            "eval" => Split::Eval,
            _ => return None,
        };
        Some(Self::Data { task, split, index: index(rest)? })
    }
}

/// The index of a file from its number.
fn index(number: Option<&str>) -> Option<usize> {
    match number {
        Some(number) => number.parse::<usize>().ok()?.checked_sub(1),
        None => Some(0),
    }
}

serde_as_text!(InputRole);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_role_are_the_same() {
        let data = |task: &str, split, index| InputRole::Data { task: task.to_owned(), split, index };
        let roles = [
            ("model.config", InputRole::Config),
            ("base/templates/a.train", InputRole::Base("templates/a.train".to_owned())),
            ("task.code.train", data("code", Split::Train, 0)),
            ("task.code.train.train/12", data("code.train", Split::Train, 11)),
            ("task.a.b.eval", data("a.b", Split::Eval, 0)),
            (
                "measure.general text.eval/2",
                InputRole::Measure { measure: "general text".to_owned(), index: 1 },
            ),
            (
                "task.code.model/x.train",
                InputRole::Model { task: "code".to_owned(), file: "x.train".to_owned() },
            ),
        ];
        for (text, role) in roles {
            assert_eq!(role.to_string(), text);
            assert_eq!(text.parse::<InputRole>().unwrap(), role);
        }
        for text in [
            "",
            "task.code",
            "task.code.train/",
            "task.code.train/0",
            "task.code.model",
            "code.train",
            "measure.a.train",
        ] {
            assert_eq!(
                text.parse::<InputRole>().unwrap_err().to_string(),
                format!("`{text}` is not what a file can be to a run")
            );
        }
    }

    #[test]
    fn every_file_of_rows_to_train_on_is_one() {
        for text in ["task.code.train", "task.code.train/2"] {
            let role: InputRole = text.parse().unwrap();
            assert!(role.trains("code") && !role.trains("cod") && !role.is_measured(), "{text}");
        }
        for text in [
            "model.config",
            "base/config.json",
            "task.code.eval/2",
            "task.code.model/x.train",
            "measure.code.eval",
        ] {
            let role: InputRole = text.parse().unwrap();
            assert!(!role.trains("code") && role.is_measured(), "{text}");
        }
    }
}

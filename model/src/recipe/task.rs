//! `[[task]]`: one task.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::rows::{Columns, Learn};
use crate::error::{Error, FileAction, Result};
use crate::files::invalid_pattern;
use crate::hub::SCHEME;
use crate::score::Scoring;

/// `[[task]]`: one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskSettings {
    /// Name, used in reports and as a folder's name.
    pub name: String,
    /// Files to train on.
    pub train: DataFiles,
    /// Files to evaluate on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval: Option<DataFiles>,
    /// Share of this task's rows in mixed training, relative to the other tasks'.
    pub weight: f64,
    /// How often an epoch goes through this task's training rows, where `mixture.shares` is `rows` or the task is
    /// trained alone; also 0.5 or 2.5. With other shares it lengthens the epoch of all tasks.
    pub repeat: f64,
    /// How often a training goes through this task's rows, alone or in any mixture, in place of the training's own
    /// `epochs`. In a mixture the other tasks share what they have together. Where `steps` say how long a training is, it
    /// is a proportion: to the rows of tasks that are gone through once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// An existing fine-tune of the same base: its probe is skipped, importance is the difference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// Share of the training rows that are held back to evaluate on, where there is no file for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_share: Option<f64>,
    /// Most rows to train on: the first ones that can be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Most rows to evaluate on: the first ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_limit: Option<usize>,
    /// Leave out rows that cannot be used, and say how many, instead of stopping at the first.
    pub skip_invalid: bool,
    /// What control strings in this task's texts are.
    pub special_tokens: SpecialTokens,
    /// Which answers of a conversation are learnt.
    pub learn: Learn,
    /// True: prompts and answers become messages for the chat template; false: they are texts. What the form of the
    /// rows suggests where it is not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat: Option<bool>,
    /// A Jinja template with the row's fields as variables, which makes the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// A template like `prompt`, which makes the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// A template like `prompt`, which makes the system message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// How the answers to the evaluation rows are judged.
    pub score: Scoring,
    /// Whether prompts to measure on are answered; else their loss is all that is measured, and `score` means nothing.
    #[serde(skip_serializing_if = "is_true")]
    pub answers: bool,
    /// Most tokens of a generated answer; by the references and the score when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<usize>,
    /// Training rows that are put before every evaluation row as examples.
    pub shots: usize,
    /// Names of the files' columns. The last field, since TOML has sections behind values.
    #[serde(skip_serializing_if = "Columns::is_empty")]
    pub columns: Columns,
}

impl Default for TaskSettings {
    fn default() -> Self {
        Self {
            name: String::new(),
            train: DataFiles::default(),
            eval: None,
            weight: 1.0,
            repeat: 1.0,
            epochs: None,
            model: None,
            eval_share: None,
            limit: None,
            eval_limit: None,
            skip_invalid: false,
            special_tokens: SpecialTokens::Parse,
            learn: Learn::All,
            chat: None,
            prompt: None,
            answer: None,
            system: None,
            score: Scoring::Exact,
            answers: true,
            max_new_tokens: None,
            shots: 0,
            columns: Columns::default(),
        }
    }
}

/// Whether a key that came later is at its default, which is not written: a run that was begun before goes on.
pub(super) fn is_true(value: &bool) -> bool {
    *value
}

/// What a string that stands for a control token is (`<|im_end|>`, `<s>`) where rows are texts. In messages, also those
/// made of prompts and answers, it is always text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpecialTokens {
    /// The control token, as in data that a chat template was already applied to.
    #[default]
    Parse,
    /// Text like any other.
    Escape,
}

/// Files of a task: one path or a list of them, each of which may be a glob pattern.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DataFiles(Vec<PathBuf>);

impl DataFiles {
    /// These paths, in order.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        Self(paths.into_iter().collect())
    }

    /// The paths and patterns, in order.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(PathBuf::as_path)
    }

    /// Fails where a file that is not on the hub is not there.
    pub(super) fn require_local(&self) -> Result<()> {
        let is_local = |path: &&PathBuf| !path.to_string_lossy().starts_with(SCHEME);
        for file in Self::new(self.0.iter().filter(is_local).cloned()).expand()? {
            file.metadata().map_err(Error::file(&file, FileAction::Read))?;
        }
        Ok(())
    }

    /// The place in a list of the first path for which [`DataFiles::require_local`] fails; none where one path is all
    /// there is, or it takes all of them to fail.
    pub(super) fn first_missing(&self) -> Option<usize> {
        let is_missing = |path: &PathBuf| Self::new([path.clone()]).require_local().is_err();
        self.0.iter().position(is_missing).filter(|_| self.0.len() > 1)
    }

    /// The files that the paths and patterns name, in the recipe's order; those of a pattern by name. A path that
    /// exists is no pattern.
    ///
    /// # Errors
    /// A pattern is not valid, or no file matches it.
    pub fn expand(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for path in &self.0 {
            let text = path.to_string_lossy();
            if path.exists() || !text.contains(['*', '?', '[']) {
                files.push(path.clone());
                continue;
            }
            let before = files.len();
            for found in glob::glob(&text).map_err(|error| invalid_pattern(path, &error))? {
                let found = found.map_err(|error| {
                    let folder = error.path().to_owned();
                    Error::file(&folder, FileAction::Read)(error.into())
                })?;
                if found.is_file() {
                    files.push(found);
                }
            }
            if files.len() == before {
                return Err(Error::format(path, "no file matches this pattern"));
            }
        }
        for (index, file) in files.iter().enumerate() {
            if files[..index].contains(file) {
                return Err(Error::format(
                    file,
                    "is named twice: its rows would count twice (`repeat` does that)",
                ));
            }
        }
        Ok(files)
    }
}

impl Serialize for DataFiles {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [path] => path.serialize(serializer),
            paths => paths.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for DataFiles {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Paths;
        impl<'de> Visitor<'de> for Paths {
            type Value = DataFiles;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a path in quotes, or a list of them")
            }

            fn visit_str<E: de::Error>(self, path: &str) -> std::result::Result<DataFiles, E> {
                Ok(DataFiles(vec![path.into()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<DataFiles, A::Error> {
                let mut paths = Vec::new();
                while let Some(path) = list.next_element::<PathBuf>()? {
                    if path.as_os_str().is_empty() {
                        return Err(de::Error::custom("has an empty path"));
                    }
                    paths.push(path);
                }
                if paths.is_empty() {
                    return Err(de::Error::custom("is an empty list: name at least one file"));
                }
                Ok(DataFiles(paths))
            }
        }
        deserializer.deserialize_any(Paths)
    }
}

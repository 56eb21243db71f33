//! `[[measure]]`: rows that models are measured on and that none is trained on.

use serde::{Deserialize, Serialize};

use super::rows::{Columns, Learn};
use super::task::{DataFiles, SpecialTokens, TaskSettings, is_true};
use crate::score::Scoring;

/// `[[measure]]`: rows that say what training costs in what no task asks for. Every key is one of [`TaskSettings`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MeasureSettings {
    /// Name, used in reports; no task has it.
    pub name: String,
    /// Files to evaluate on.
    pub eval: DataFiles,
    /// Most rows: the first ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_limit: Option<usize>,
    /// Leave out rows that cannot be used, and say how many, instead of stopping at the first.
    pub skip_invalid: bool,
    /// What control strings in the texts are.
    pub special_tokens: SpecialTokens,
    /// Which answers of a conversation the loss is taken on.
    pub learn: Learn,
    /// Whether prompts and answers become messages for the chat template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat: Option<bool>,
    /// A Jinja template which makes the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The one of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// The one of the system message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// How answers are judged.
    pub score: Scoring,
    /// Whether prompts are answered; else their loss is all that is measured.
    #[serde(skip_serializing_if = "is_true")]
    pub answers: bool,
    /// Most tokens of a generated answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<usize>,
    /// Names of the files' columns. The last field, since TOML has sections behind values.
    #[serde(skip_serializing_if = "Columns::is_empty")]
    pub columns: Columns,
}

impl Default for MeasureSettings {
    fn default() -> Self {
        Self {
            name: String::new(),
            eval: DataFiles::default(),
            eval_limit: None,
            skip_invalid: false,
            special_tokens: SpecialTokens::default(),
            learn: Learn::default(),
            chat: None,
            prompt: None,
            answer: None,
            system: None,
            score: Scoring::default(),
            answers: true,
            max_new_tokens: None,
            columns: Columns::default(),
        }
    }
}

impl MeasureSettings {
    /// A task that reads and judges the same rows, and has none to train on.
    pub fn as_task(&self) -> TaskSettings {
        let Self { name, eval, columns, score, prompt, answer, system, .. } = self.clone();
        TaskSettings {
            name,
            eval: Some(eval),
            eval_limit: self.eval_limit,
            skip_invalid: self.skip_invalid,
            special_tokens: self.special_tokens,
            learn: self.learn,
            chat: self.chat,
            prompt,
            answer,
            system,
            score,
            answers: self.answers,
            max_new_tokens: self.max_new_tokens,
            columns,
            ..TaskSettings::default()
        }
    }

    /// Why a key of a task is none of a measure; none for other keys.
    pub(super) fn why_not(key: &str) -> Option<&'static str> {
        match key {
            "train" | "weight" | "repeat" | "epochs" | "limit" | "eval_share" | "model" => Some(
                "is about training, and a [[measure]] is never trained: leave it out (`eval` and `eval_limit` say \
                 what is measured)",
            ),
            "shots" => {
                Some("takes examples from rows to train on, of which a [[measure]] has none: leave it out")
            }
            _ => None,
        }
    }
}

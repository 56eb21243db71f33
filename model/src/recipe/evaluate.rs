//! `[evaluate]`: measuring while a model is trained.

use serde::{Deserialize, Serialize};

/// Which weights a method's last training ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// Those of the last step.
    #[default]
    Last,
    /// Those that were best when they were evaluated: the mean of the tasks' scores, each between the base's and its
    /// specialist's (`Score::quality`), was highest.
    Best,
}

/// `[evaluate]`: measuring while a model is trained, on a sample of every task's evaluation rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EvaluateSettings {
    /// Optimizer steps between evaluations; 0 measures between stages only.
    pub every: u64,
    /// Rows of every task that are measured, the same every time.
    pub rows: usize,
    /// Generate answers and judge them, beside the loss.
    pub answers: bool,
    /// Which weights the method's last training (stage 4, or that of a baseline) ends with.
    pub keep: Keep,
    /// The task by which the best is chosen; by the mean over all tasks when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Evaluations without a better one after which the method's last training ends; 0 never ends it.
    pub patience: u64,
    /// A task is reported as soon as its loss is this share above the base model's; 0 reports none.
    pub alarm: f64,
}

impl Default for EvaluateSettings {
    fn default() -> Self {
        Self { every: 0, rows: 64, answers: true, keep: Keep::Last, task: None, patience: 0, alarm: 0.1 }
    }
}

impl EvaluateSettings {
    /// True when what is measured decides what is trained.
    pub fn decides(&self) -> bool {
        self.every > 0 && (self.keep == Keep::Best || self.patience > 0)
    }
}

//! The closing table of a job.

use serde::{Deserialize, Serialize};

use super::{Column, Score, perplexity_text};
use crate::recipe::Method;
use crate::score::ScoreKind;
use crate::table::Table;

/// The closing table and where things are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobReport {
    /// The method.
    pub method: Method,
    /// Columns of the table.
    pub columns: Vec<Column>,
    /// Rows of the table.
    pub tasks: Vec<TaskScores>,
    /// Frozen coordinates checked bit for bit over all parts of stage 4.
    pub frozen_verified: u64,
    /// Wall time in seconds, of all processes that worked on the run.
    pub seconds: f64,
    /// Optimizer steps made.
    pub steps: u64,
    /// Folder of the final model; none when `--until` ended the job before.
    pub model: Option<std::path::PathBuf>,
}

/// One task's row of the closing table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskScores {
    /// The task.
    pub task: String,
    /// One per column; none where it was not evaluated.
    pub scores: Vec<Option<Score>>,
}

impl TaskScores {
    /// How the task's answers were judged; none where none was.
    pub fn score_kind(&self) -> Option<ScoreKind> {
        self.scores.iter().flatten().find(|score| score.share().is_some()).map(|score| score.score_kind)
    }
}

impl JobReport {
    /// How the answers of all tasks were judged; none where tasks differ in it.
    pub fn score_kind(&self) -> Option<ScoreKind> {
        ScoreKind::common(self.tasks.iter().filter_map(TaskScores::score_kind))
    }

    /// The closing table as Markdown: loss, perplexity and score of every task by column, and how long it took.
    pub fn markdown(&self) -> String {
        format!(
            "{}{} optimizer steps in {:.0} s; {} frozen parameters found unchanged, bit for bit.\n",
            self.score_table(),
            self.steps,
            self.seconds,
            self.frozen_verified
        )
    }

    /// Loss, perplexity and score of every task by column, as Markdown.
    pub fn score_table(&self) -> String {
        let cell = |score: &Option<Score>| {
            let Some(score) = score else { return "–".to_owned() };
            let share = score.share().map(|share| format!(" / {:.1} %", 100.0 * share));
            let by_loss = score.choice_by_loss.map(|share| format!(" ({:.1} % by loss)", 100.0 * share));
            let perplexity = perplexity_text(score.perplexity());
            format!(
                "{:.4} ({perplexity}){}{}",
                score.loss,
                share.unwrap_or_default(),
                by_loss.unwrap_or_default()
            )
        };
        let kind = self.score_kind();
        let name = |task: &TaskScores| match (kind, task.score_kind()) {
            (None, Some(kind)) => format!("{} ({})", task.task, kind.name()),
            _ => task.task.clone(),
        };
        let headings = std::iter::once("task".to_owned()).chain(self.columns.iter().map(Column::to_string));
        let mut table = Table::new(headings);
        for task in &self.tasks {
            table.row(std::iter::once(name(task)).chain(task.scores.iter().map(cell)));
        }
        let legend = match kind.unwrap_or_default() {
            ScoreKind::Exact if kind.is_some() => {
                "Loss in nats per supervised token (perplexity) / rows answered exactly by greedy generation."
                    .to_owned()
            }
            _ => {
                let kind = kind
                    .map_or("each task's score".to_owned(), |kind| format!("the score `{}`", kind.name()));
                format!(
                    "Loss in nats per supervised token (perplexity) / rows answered right by greedy generation, by {kind}."
                )
            }
        };
        format!("{}\n{legend}\n", table.markdown())
    }
}

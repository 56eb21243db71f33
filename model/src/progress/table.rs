//! The closing table of a job.

use serde::{Deserialize, Serialize};

use super::{Column, Score, counted, perplexity_text};
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
            "# {} by the method `{}`\n\n{}{} in {:.0} s; {} found unchanged, bit for bit.\n",
            counted(self.tasks.len() as u64, "task"),
            self.method.name(),
            self.score_table(),
            counted(self.steps, "optimizer step"),
            self.seconds,
            counted(self.frozen_verified, "frozen parameter")
        )
    }

    /// Means of a column's losses and scores over the tasks; without what a task lacks, since a mean over fewer tasks
    /// would mislead.
    fn mean_cell(&self, column: usize) -> String {
        let scores = || self.tasks.iter().map(|task| task.scores.get(column).copied().flatten());
        let loss = mean(scores().map(|score| Some(score?.loss)));
        let share = mean(scores().map(|score| score?.share()));
        let share = share.map(|share| format!(" / {:.1} %", 100.0 * share)).unwrap_or_default();
        loss.map_or("–".to_owned(), |loss| format!("{loss:.4}{share}"))
    }

    /// Loss, perplexity and score of every task by column, and the means over the tasks, as Markdown.
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
        if self.tasks.len() > 1 {
            let mean = (0..self.columns.len()).map(|column| self.mean_cell(column));
            table.row(std::iter::once("mean".to_owned()).chain(mean));
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

/// The mean; none where one of the values is missing, or there is none.
fn mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let values: Vec<f64> = values.collect::<Option<_>>()?;
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

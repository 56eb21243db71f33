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
    /// What was measured and never trained; in no mean.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measures: Vec<TaskScores>,
    /// Frozen coordinates checked bit for bit over all parts of stage 4.
    pub frozen_verified: u64,
    /// Wall time in seconds, of all processes that worked on the run.
    pub seconds: f64,
    /// Optimizer steps made.
    pub steps: u64,
    /// Folder of the final model; none when `--until` ended the job before.
    pub model: Option<std::path::PathBuf>,
}

/// One task's, or measure's, row of the closing table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskScores {
    /// The task or measure.
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

/// Losses, perplexities and scores of what is measured and never trained, with the change against the base; none
/// where that is nothing.
pub fn measures_table(columns: &[Column], measures: &[TaskScores]) -> Option<Table> {
    let has_scores =
        |&column: &usize| measures.iter().any(|row| row.scores.get(column).is_some_and(Option::is_some));
    let measured: Vec<usize> = (0..columns.len()).filter(has_scores).collect();
    if measured.is_empty() {
        return None;
    }
    let is_base = |column: usize| columns[column] == Column::Base;
    let mut headings = vec!["measured only".to_owned(), String::new()];
    for &column in &measured {
        headings.push(columns[column].to_string());
        headings.extend((!is_base(column)).then(|| "change".to_owned()));
    }
    let mut table = Table::new(headings);
    let points = |share: f64| format!("{:.1} %", 100.0 * share);
    let more_points = |share: f64, base: f64| format!("{:+.1}", 100.0 * (share - base));
    for row in measures {
        let base = (0..columns.len()).find(|&column| is_base(column));
        let score = |column: usize| row.scores.get(column).and_then(Option::as_ref);
        let base = base.and_then(score);
        let mut add = |name: &str,
                       value: &dyn Fn(&Score) -> Option<f64>,
                       text: &dyn Fn(f64) -> String,
                       change: &dyn Fn(f64, f64) -> String| {
            let values = measured.iter().map(|&column| (column, score(column).and_then(value)));
            let values: Vec<_> = values.collect();
            if values.iter().all(|(_, value)| value.is_none()) {
                return;
            }
            let before = base.and_then(value);
            let mut cells = vec![row.task.clone(), name.to_owned()];
            for (column, value) in values {
                cells.push(value.map_or("–".to_owned(), text));
                let changed = value.zip(before).map_or("–".to_owned(), |(now, before)| change(now, before));
                cells.extend((!is_base(column)).then_some(changed));
            }
            table.row(cells);
        };
        let kind = row.score_kind().unwrap_or_default().name();
        add("loss", &|score| Some(score.loss), &|loss| format!("{loss:.4}"), &|now, base| {
            format!("{:+.4}", now - base)
        });
        add("perplexity", &|score| Some(score.perplexity()), &perplexity_text, &|now, base| {
            format!("{:+.1} %", 100.0 * (now / base - 1.0))
        });
        add(kind, &Score::share, &points, &more_points);
        add(&format!("{kind} by loss"), &|score| score.choice_by_loss, &points, &more_points);
    }
    Some(table)
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

    /// Loss, perplexity and score of every task by column, and the means over the tasks, as Markdown; then what is
    /// measured only.
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
        let measures = measures_table(&self.columns, &self.measures).map(|table| {
            format!(
                "\nMeasured only, never trained, and in no mean. Change: against the base, of scores in points.\n\n{}\n",
                table.markdown()
            )
        });
        format!("{}\n{legend}\n{}", table.markdown(), measures.unwrap_or_default())
    }
}

/// The mean; none where one of the values is missing, or there is none.
fn mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let values: Vec<f64> = values.collect::<Option<_>>()?;
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

//! The report of one run.

mod answers;
pub(super) mod cores;
mod fusion;
mod integration;
pub(super) mod overlap;
mod provenance;
mod samples;
mod scores;
mod training;

use cpift_model::Recipe;
use cpift_model::job::RunFolder;
use cpift_model::progress::{Column, Score};
use cpift_model::recipe::Method;
use cpift_model::score::ScoreKind;

use super::document::{Document, Section};
use crate::display::units::{counted, duration, grouped};

/// Columns of the closing table in their order.
const COLUMNS: [Column; 4] = [Column::Base, Column::Probe, Column::Fused, Column::Final];

/// What every part of the report looks at.
pub(super) struct Context<'a> {
    run: &'a RunFolder,
    recipe: &'a Recipe,
    /// Tasks in the recipe's order.
    tasks: Vec<String>,
    /// What is measured and never trained, in the recipe's order.
    measures: Vec<String>,
    /// Columns of the closing table that have a score.
    columns: Vec<Column>,
}

impl Context<'_> {
    /// How a task's answers were judged; none where none was.
    fn score_kind(&self, task: &str) -> Option<ScoreKind> {
        let mut scores = self.columns.iter().filter_map(|column| self.score(column, task));
        scores.find(|score| score.share().is_some()).map(|score| score.score_kind)
    }

    /// The kind of all tasks' scores; none where they differ.
    fn common_kind(&self) -> Option<ScoreKind> {
        ScoreKind::common(self.tasks.iter().filter_map(|task| self.score_kind(task)))
    }

    /// Names of all that has rows to evaluate: the tasks, then what is measured only.
    fn evaluated(&self) -> impl Iterator<Item = &String> {
        self.tasks.iter().chain(&self.measures)
    }

    fn score(&self, column: &Column, task: &str) -> Option<&Score> {
        if let Some(result) = &self.run.result {
            let column = result.columns.iter().position(|other| other == column)?;
            let row = result.tasks.iter().chain(&result.measures).find(|row| row.task == task)?;
            return row.scores.get(column)?.as_ref();
        }
        self.run.scores.get(column)?.get(task)
    }
}

/// The report of a run, finished or not.
pub fn document(run: &RunFolder, recipe: &Recipe, title: String) -> Document {
    let columns: Vec<Column> = match &run.result {
        Some(result) => result.columns.clone(),
        None => COLUMNS.into_iter().filter(|column| run.scores.contains_key(column)).collect(),
    };
    let tasks = match &run.result {
        Some(result) => result.tasks.iter().map(|row| row.task.clone()).collect(),
        None => recipe.task.iter().map(|task| task.name.clone()).collect(),
    };
    let measures = recipe.measure.iter().map(|measure| measure.name.clone()).collect();
    let context = Context { run, recipe, tasks, measures, columns };
    let sections: [Option<Section>; 9] = [
        Some(scores::section(&context)),
        answers::section(&context),
        training::section(&context),
        samples::section(&context),
        cores::section(&context),
        overlap::section(&context),
        fusion::section(&context),
        integration::section(&context),
        Some(provenance::section(&context)),
    ];
    let mut data = vec![scores::data(&context), training::data(&context)];
    data.extend(scores::measures_data(&context));
    data.extend(answers::data(&context));
    data.extend(samples::data(&context));
    data.extend(cores::data(&context));
    data.extend(overlap::data(&context));
    data.extend(fusion::data(&context));
    Document { title, lead: lead(&context), sections: sections.into_iter().flatten().collect(), data }
}

/// What was run in one line.
fn lead(context: &Context<'_>) -> String {
    let run = context.run;
    let method = match context.recipe.method {
        Method::Cpift => "CPI-FT (arXiv 2508.21741)".to_owned(),
        method => format!("method {}", method.name()),
    };
    let mut parts = vec![method, counted(context.tasks.len() as u64, "task")];
    if let Some(record) = &run.record {
        parts.push(format!("{} parameters", grouped(record.plan.parameters)));
    }
    let seconds = run.result.as_ref().map_or(run.seconds, |result| result.seconds);
    parts.push(format!("{} in {}", counted(run.steps.len() as u64, "optimizer step"), duration(seconds)));
    if let Some(process) = run.record.as_ref().and_then(|record| record.first_process()) {
        parts.push(process.began.split('T').next().unwrap_or_default().to_owned());
    }
    parts.join(" · ")
}

/// What a column is called.
fn column_title(column: &Column) -> String {
    match column {
        Column::Base => "base model".to_owned(),
        Column::Probe => "own probe".to_owned(),
        other => other.to_string(),
    }
}

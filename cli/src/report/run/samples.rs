//! What was measured while models were trained: losses and scores on a sample of every task's rows, and what of every
//! task each training has seen.

use cpift_model::progress::{SampleScore, StepReport, TrainingStage};

use super::Context;
use crate::display::units::{grouped, percent};
use crate::report::chart::NARROW;
use crate::report::chart::lines::LineChart;
use crate::report::document::{Block, Data, Figure, Section, Table, number};

/// Height of a chart.
const HEIGHT: f64 = 200.0;
/// Most charts of one training; the files have the others' data.
const MOST_CHARTS: usize = 24;

/// The section of evaluations while training; none where there was none.
pub fn section(context: &Context<'_>) -> Option<Section> {
    let mut blocks = Vec::new();
    for (stage, part) in trainings(context) {
        let steps: Vec<&StepReport> = context
            .run
            .steps
            .iter()
            .filter(|step| step.stage == stage && step.part == part && samples(step).next().is_some())
            .collect();
        let figures: Vec<Figure> = context
            .evaluated()
            .flat_map(|task| charts(stage, &part, task, &steps))
            .take(MOST_CHARTS)
            .collect();
        if !figures.is_empty() {
            let title = format!("{stage} {part}");
            let caption = format!(
                "{}: loss and score of every task{} on {} of its evaluation rows, the same every time.",
                title.trim_end(),
                if context.measures.is_empty() { "" } else { ", and of what is measured only," },
                context.recipe.evaluate.rows
            );
            blocks.push(Block::Figures { caption, figures });
        }
    }
    (!blocks.is_empty()).then_some(Section { id: "during", title: "While training", blocks })
}

/// What was measured after a step: of every task, then of what is measured only.
fn samples(step: &StepReport) -> impl Iterator<Item = &SampleScore> {
    step.evaluation.iter().chain(&step.measures)
}

/// Every training by stage and part, in order.
fn trainings(context: &Context<'_>) -> Vec<(TrainingStage, String)> {
    let mut found: Vec<(TrainingStage, String)> = Vec::new();
    for step in &context.run.steps {
        let name = (step.stage, step.part.clone());
        if !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

/// The loss of a task, and its score where answers were judged.
fn charts(stage: TrainingStage, part: &str, task: &str, steps: &[&StepReport]) -> Vec<Figure> {
    let found: Vec<_> = steps
        .iter()
        .filter_map(|step| {
            let sample = samples(step).find(|sample| sample.task == task)?;
            Some((step.number as f64, sample.score))
        })
        .collect();
    let Some((_, last)) = found.last() else { return Vec::new() };
    let chart = |title: String, y_label: &str, values: Vec<(f64, f64)>, colour| {
        let name = format!("sample-{stage}-{part}-{title}").replace([' ', ':'], "-");
        let chart = LineChart {
            title,
            y_label: y_label.to_owned(),
            x_label: "optimizer step".to_owned(),
            values,
            colour,
            ..LineChart::default()
        };
        Figure::narrow(name, chart.title.clone(), chart.draw(NARROW, HEIGHT))
    };
    let losses = found.iter().map(|(step, score)| (*step, score.loss)).collect();
    let mut figures = vec![chart(format!("loss of {task}"), "loss, nats per supervised token", losses, 1)];
    let shares: Vec<(f64, f64)> =
        found.iter().filter_map(|(step, score)| score.share().map(|share| (*step, 100.0 * share))).collect();
    if !shares.is_empty() {
        let title = format!("score of {task} ({})", last.score_kind.name());
        figures.push(chart(title, "right answers, %", shares, 2));
    }
    figures
}

/// What each training of several tasks took of each: rows and supervised tokens.
pub fn mixtures(context: &Context<'_>) -> Option<Block> {
    let mut table = Table::captioned(
        "What every training of several tasks took of each.",
        ["training", "task", "rows", "share", "supervised tokens", "share"],
    );
    for (stage, part) in trainings(context) {
        let of_training = |step: &&StepReport| step.stage == stage && step.part == part;
        let mut taken: Vec<(&str, u64, u64)> = Vec::new();
        for share in context.run.steps.iter().filter(of_training).flat_map(|step| &step.task_shares) {
            match taken.iter_mut().find(|(task, ..)| *task == share.task) {
                Some((_, rows, tokens)) => {
                    *rows += share.rows;
                    *tokens += share.supervised_tokens;
                }
                None => taken.push((&share.task, share.rows, share.supervised_tokens)),
            }
        }
        if taken.len() < 2 {
            continue;
        }
        let all_rows: u64 = taken.iter().map(|(_, rows, _)| rows).sum();
        let all_tokens: u64 = taken.iter().map(|(_, _, tokens)| tokens).sum();
        for (task, rows, tokens) in taken {
            table.row([
                format!("{stage} {part}").trim_end().to_owned(),
                task.to_owned(),
                grouped(rows),
                percent(rows as f64 / all_rows.max(1) as f64),
                grouped(tokens),
                percent(tokens as f64 / all_tokens.max(1) as f64),
            ]);
        }
    }
    (!table.rows.is_empty()).then_some(Block::Table(table))
}

/// `samples.csv`: a line per evaluation and task; none where there was none.
pub fn data(context: &Context<'_>) -> Option<Data> {
    let mut data =
        Data::new("samples", &["stage", "part", "step", "task", "loss", "score", "kind", "seconds"]);
    let mut is_empty = true;
    for step in &context.run.steps {
        for sample in samples(step) {
            is_empty = false;
            data.row([
                step.stage.to_string(),
                step.part.clone(),
                step.number.to_string(),
                sample.task.clone(),
                sample.score.loss.to_string(),
                number(sample.score.share()),
                sample.score.score_kind.name().to_owned(),
                step.evaluation_seconds.to_string(),
            ]);
        }
    }
    (!is_empty).then_some(data)
}

//! Methods by tasks, under both budgets.

use cpift_model::compare::results::{Budget, Comparison, Interval, MethodResult, RowKind};
use cpift_model::progress::Score;

use super::{budget_title, interval_caption, interval_text};
use crate::display::comparison::perplexities;
use crate::display::losses::losses_table;
use crate::display::units::{bytes, duration, grouped};
use crate::report::chart::NARROW;
use crate::report::chart::bars::{Bar, BarChart};
use crate::report::chart::heat::{Cell, HeatMap};
use crate::report::document::{Block, Data, Figure, Section, Table, number};

/// The section `Results`.
pub fn section(comparison: &Comparison) -> Section {
    let mut blocks = Vec::new();
    for budget in [Budget::Total, Budget::Given] {
        let rows = under(comparison, budget);
        if !rows.is_empty() {
            blocks.push(Block::Table(table(comparison, budget, &rows)));
            blocks.push(Block::Table(losses(comparison, budget, &rows)));
            blocks.push(charts(comparison, budget, &rows));
            blocks.extend(by_task(comparison, budget, &rows));
        }
    }
    if blocks.is_empty() {
        blocks.push(Block::Notice("This comparison has no method yet.".to_owned()));
    } else {
        let methods = comparison.methods.iter().filter(|method| method.kind == RowKind::Method);
        blocks.push(Block::Table(perplexities(comparison, &methods.collect::<Vec<_>>())));
    }
    Section { id: "results", title: "Results", blocks }
}

/// The rows that count under a budget; where they are too many for pictures, of the ablations only the one that others are
/// compared with.
fn under(comparison: &Comparison, budget: Budget) -> Vec<&MethodResult> {
    let mut rows = comparison.rows_under(budget);
    if rows.len() > MOST_ROWS {
        rows.retain(|row| row.kind == RowKind::Method || row.name == comparison.against);
    }
    rows
}

/// How the names of a budget's pictures end.
fn file_suffix(budget: Budget) -> &'static str {
    match budget {
        Budget::Total => "total",
        Budget::Given => "given",
    }
}

/// Most rows of a budget's tables and pictures that have ablations too.
const MOST_ROWS: usize = 32;

fn table(comparison: &Comparison, budget: Budget, methods: &[&MethodResult]) -> Table {
    let budget_text = match budget {
        Budget::Total => "All optimizer steps count, those of the specialists included.",
        Budget::Given => "The specialists exist already: only the steps after them count.",
    };
    let answered =
        if comparison.score_title() == "exact" { "exactly" } else { "right by the task’s score" };
    let against = format!("to {}", comparison.against);
    let mut headings = vec![budget_title(budget).to_owned()];
    headings.extend(comparison.task_titles());
    headings.extend(["normalised", &against, "worst task", "steps", "time", "memory"].map(str::to_owned));
    let mut table = Table::captioned(
        format!(
            "{budget_text} Tasks: rows of the evaluation file answered {answered}, in % (loss in nats where a task has no \
             prompts). Normalised: each task between the base model = 0 and its own specialist = 1, mean over the tasks; \
             {against}: the difference with the same seed, mean over the seeds; worst task: the least of \
             them. Steps and time after the specialists, memory at the peak. {}",
            interval_caption(comparison)
        ),
        headings,
    );
    for (name, pick) in [("base model", true), ("own specialists", false)] {
        let mut row = vec![name.to_owned()];
        for task in 0..comparison.tasks.len() {
            let scores: Vec<&Score> = comparison
                .references
                .iter()
                .map(|reference| if pick { &reference.base[task] } else { &reference.specialist[task] })
                .collect();
            row.push(score_text(&scores));
        }
        row.extend([if pick { "0" } else { "1" }, "", "", "", "", ""].map(str::to_owned));
        table.row(row);
    }
    for method in methods {
        let mut row = vec![method.name.clone()];
        row.extend(method.summary.tasks.iter().map(|task| match task.share() {
            Some(share) => interval_text(Some(&share), 100.0, 1),
            None => interval_text(Some(&task.loss), 1.0, 3),
        }));
        let summary = &method.summary;
        row.push(interval_text(summary.mean_normalised.as_ref(), 1.0, 3));
        row.push(interval_text(comparison.difference(method, budget).as_ref(), 1.0, 3));
        let worst = summary.worst_task.and_then(|task| comparison.tasks.get(task));
        let worst_value = interval_text(summary.worst_normalised.as_ref(), 1.0, 3);
        row.push(worst.map_or_else(|| "–".to_owned(), |task| format!("{task} {worst_value}")));
        row.push(grouped(method.steps));
        row.push(duration(summary.seconds.mean));
        row.push(summary.peak_memory_bytes.map_or("–".to_owned(), bytes));
        table.row(row);
    }
    table
}

/// The losses, which say something where hardly any row is answered right.
fn losses(comparison: &Comparison, budget: Budget, rows: &[&MethodResult]) -> Table {
    let mut table = losses_table(comparison, budget_title(budget), budget, rows);
    budget_title(budget).clone_into(&mut table.head[0][0].0);
    // The first and the last column are names.
    for cell in table.rows.iter_mut().flat_map(|row| row.iter_mut().skip(2).take(4)) {
        *cell = if cell == "-" { "–".to_owned() } else { cell.replace('-', "−") };
    }
    table.caption = format!(
        "Loss in nats per supervised token, mean over the tasks: less is better. To the base and to {}: the difference with \
         the same seed; worst task: the one whose loss changed for the worst against the base. Steps: those that count. {}",
        comparison.against,
        interval_caption(comparison)
    );
    table
}

/// Up to so many tasks the map of methods by tasks is narrow.
const MOST_TASKS_NARROW: usize = 7;

/// Every method on every task; none where there is nothing to compare.
fn by_task(comparison: &Comparison, budget: Budget, methods: &[&MethodResult]) -> Option<Block> {
    if methods.len() < 2 {
        return None;
    }
    let tasks = comparison.tasks.len();
    // What is tinted, and its text: higher is better.
    let value = |method: &MethodResult, task: usize| {
        let summary = &method.summary.tasks[task];
        match summary.share() {
            Some(share) => (share.mean, format!("{:.0}", 100.0 * share.mean)),
            None => (-summary.loss.mean, format!("{:.3}", summary.loss.mean)),
        }
    };
    let range = |task: usize| {
        let values = methods.iter().map(|method| value(method, task).0);
        values
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
    };
    let ranges: Vec<(f64, f64)> = (0..tasks).map(range).collect();
    let cell = |method: &MethodResult, task: usize| {
        let (value, text) = value(method, task);
        let (low, high) = ranges[task];
        Cell {
            tint: Some(if high > low { (value - low) / (high - low) } else { 0.5 }),
            colour: 3,
            tip: format!("{} on {}: {text}", method.name, comparison.tasks[task]),
            lines: vec![text],
        }
    };
    let title = format!("Every method on every task, {}", budget_title(budget));
    let map = HeatMap {
        title: title.clone(),
        rows: methods.iter().map(|method| method.name.clone()).collect(),
        columns: comparison.tasks.clone(),
        cells: methods.iter().map(|row| (0..tasks).map(|task| cell(row, task)).collect()).collect(),
        blocks: Vec::new(),
        row_height: Some(22.0),
    };
    let name = format!("tasks-{}", file_suffix(budget));
    let figure = if tasks > MOST_TASKS_NARROW {
        Figure::wide(name, title, |width| map.draw(width))
    } else {
        Figure::narrow(name, title, map.draw(NARROW))
    };
    Some(Block::Figures {
        caption: "Rows answered right in %, or the loss of a task without answers; mean over the seeds. Green: from the worst \
                  method of a task to its best."
            .to_owned(),
        figures: vec![figure],
    })
}

/// Share answered right over the seeds in %, or the loss where there is none.
fn score_text(scores: &[&Score]) -> String {
    match Interval::of_all(scores.iter().map(|score| score.share())) {
        Some(share) => interval_text(Some(&share), 100.0, 1),
        None => {
            let losses: Vec<f64> = scores.iter().map(|score| score.loss).collect();
            interval_text(Interval::of(&losses).as_ref(), 1.0, 3)
        }
    }
}

fn charts(comparison: &Comparison, budget: Budget, methods: &[&MethodResult]) -> Block {
    let chart = |title: &str, value: &dyn Fn(&MethodResult) -> Option<Interval>| {
        let bar = |method: &&MethodResult| {
            let interval = value(method);
            Bar {
                name: method.name.clone(),
                value: interval.map(|interval| interval.mean),
                error: interval.and_then(|interval| interval.half_width),
                text: interval_text(interval.as_ref(), 1.0, 3),
                colour: if method.name == comparison.against { 2 } else { 1 },
            }
        };
        BarChart {
            title: format!("{title}, {}", budget_title(budget)),
            x_label: "base model = 0, own specialist = 1".to_owned(),
            bars: methods.iter().map(bar).collect(),
            range: (0.0, 1.0),
        }
    };
    let mean = chart("Normalised score", &|method| method.summary.mean_normalised);
    let worst = chart("Worst task", &|method| method.summary.worst_normalised);
    let orange = comparison.reference_row(budget).map_or(String::new(), |reference| {
        format!("Orange: {}, which the others are compared with. ", reference.name)
    });
    let name = file_suffix(budget);
    let figure = |kind: &str, chart: BarChart| {
        Figure::narrow(format!("{kind}-{name}"), chart.title.clone(), chart.draw(NARROW))
    };
    Block::Figures {
        caption: format!(
            "Normalised score of every method: its mean over the tasks, and its worst task’s. {orange}{}",
            interval_caption(comparison)
        ),
        figures: vec![figure("normalised", mean), figure("worst", worst)],
    }
}

/// What every row of the tables is.
pub fn rows_explained(comparison: &Comparison) -> Vec<(String, String)> {
    let explain = |method: &MethodResult| {
        let settings = match method.settings.is_empty() {
            true => String::new(),
            false => format!(" ({})", method.settings.join(", ")),
        };
        (method.name.clone(), format!("{}{settings}", method.title))
    };
    comparison.methods.iter().map(explain).collect()
}

/// `results.csv`: a line per row, seed and task.
pub fn data(comparison: &Comparison) -> Data {
    let headings = [
        "row",
        "kind",
        "family",
        "budgets",
        "steps",
        "seed",
        "task",
        "loss",
        "exact_match",
        "normalised",
        "seconds",
        "peak_memory_bytes",
        "score_kind",
        "score",
        "perplexity",
    ];
    let mut data = Data::new("results", &headings);
    for method in &comparison.methods {
        let budgets: Vec<&str> = method.budgets.iter().map(|&budget| budget_title(budget)).collect();
        for run in &method.runs {
            let tasks = comparison.tasks.iter().zip(&run.scores).zip(&run.normalised);
            for ((task, score), normalised) in tasks {
                data.row([
                    method.name.clone(),
                    format!("{:?}", method.kind).to_lowercase(),
                    method.family.clone(),
                    budgets.join("; "),
                    method.steps.to_string(),
                    run.seed.to_string(),
                    task.clone(),
                    score.loss.to_string(),
                    number(score.exact_match),
                    number(*normalised),
                    run.seconds.to_string(),
                    run.peak_memory_bytes.map_or(String::new(), |bytes| bytes.to_string()),
                    score.score_kind.name().to_owned(),
                    number(score.share()),
                    score.perplexity().to_string(),
                ]);
            }
        }
    }
    data
}

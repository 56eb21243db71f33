//! The closing table, and the same as charts.

use cpift_model::compare::results::Interval;
use cpift_model::progress::Score;

use super::{Context, column_title};
use crate::display::units::percent;
use crate::report::chart::Shape;
use crate::report::chart::dots::{Dot, DotChart, Marker};
use crate::report::chart::lines::significant;
use crate::report::document::{Block, Data, Figure, Section, Table, number};

/// Markers of the columns, told apart by shape and by colour.
const MARKERS: [Marker; 4] = [
    Marker { shape: Shape::Circle, class: "hollow s0" },
    Marker { shape: Shape::Diamond, class: "f5" },
    Marker { shape: Shape::Square, class: "f4" },
    Marker { shape: Shape::Circle, class: "f1" },
];

/// The section `Results`.
pub fn section(context: &Context<'_>) -> Section {
    let mut blocks = Vec::new();
    if let Some(state) = state(context) {
        blocks.push(Block::Notice(state));
    }
    if context.columns.is_empty() {
        blocks.push(Block::Text("Nothing has been measured yet.".to_owned()));
    } else {
        blocks.push(Block::Table(table(context)));
        blocks.push(charts(context));
    }
    Section { id: "results", title: "Results", blocks }
}

/// What a run that is not complete has come to.
fn state(context: &Context<'_>) -> Option<String> {
    let run = context.run;
    if run.result.is_some() {
        return None;
    }
    let made = run.steps.len();
    let planned = run.record.as_ref().map(|record| record.plan.steps());
    let of = planned.map_or(String::new(), |planned| format!(" of {planned} planned"));
    let measured = match context.columns.last() {
        Some(column) => format!("the last column measured is “{}”", column_title(column)),
        None => "nothing has been measured".to_owned(),
    };
    Some(format!(
        "This run is not complete: {made}{of} optimizer steps are made, and {measured}. Below is what there is \
         so far; `cpift-engine train … --resume` goes on with it."
    ))
}

fn table(context: &Context<'_>) -> Table {
    let of = |column: &str| vec![(column_title(column).to_owned(), 2)];
    let first = std::iter::once((String::new(), 1));
    let second = std::iter::once("task").chain(context.columns.iter().flat_map(|_| ["loss", "exact"]));
    let mut table = Table {
        caption: "Loss: mean negative log-likelihood in nats per supervised token of the task’s evaluation file. Exact: \
                  share of its rows whose greedy answer is the row’s, character for character. Each column is one \
                  model measured on the whole file; – was not measured."
            .to_owned(),
        head: vec![
            first.chain(context.columns.iter().flat_map(|column| of(column))).collect(),
            second.map(|heading| (heading.to_owned(), 1)).collect(),
        ],
        ..Table::default()
    };
    for task in &context.tasks {
        let cells = context.columns.iter().flat_map(|column| cells(context.score(column, task)));
        table.row(std::iter::once(task.clone()).chain(cells));
    }
    if context.tasks.len() > 1 {
        let cells = context.columns.iter().flat_map(|column| mean_cells(context, column));
        table.summary(std::iter::once("mean".to_owned()).chain(cells));
    }
    table
}

fn cells(score: Option<&Score>) -> [String; 2] {
    let Some(score) = score else { return ["–".to_owned(), "–".to_owned()] };
    [format!("{:.4}", score.loss), score.exact_match.map_or("–".to_owned(), percent)]
}

/// Means of a column; none where a task has no value, since a mean over fewer tasks would mislead.
fn mean_cells(context: &Context<'_>, column: &str) -> [String; 2] {
    let mean = |value: &dyn Fn(&Score) -> Option<f64>| {
        let values = context.tasks.iter().map(|task| value(context.score(column, task)?));
        Interval::of_all(values).map(|interval| interval.mean)
    };
    let loss = mean(&|score| Some(score.loss)).map_or("–".to_owned(), |loss| format!("{loss:.4}"));
    [loss, mean(&|score| score.exact_match).map_or("–".to_owned(), percent)]
}

fn charts(context: &Context<'_>) -> Block {
    let chart = |title: &str, x_label: &str, range, value: &dyn Fn(&Score) -> Option<f64>| {
        let mut dots = Vec::new();
        for (index, column) in context.columns.iter().enumerate() {
            for (row, task) in context.tasks.iter().enumerate() {
                let Some(value) = context.score(column, task).and_then(value) else { continue };
                let tip = format!("{task}, {}: {}", column_title(column), significant(value));
                dots.push(Dot { row, value, marker: MARKERS[index % MARKERS.len()], tip });
            }
        }
        let named = |(index, column): (usize, &String)| {
            (MARKERS[index % MARKERS.len()], column_title(column).to_owned())
        };
        DotChart {
            title: title.to_owned(),
            x_label: x_label.to_owned(),
            legend: context.columns.iter().enumerate().map(named).collect(),
            rows: context.tasks.clone(),
            dots,
            range,
            joined: true,
        }
    };
    let mut figures = Vec::new();
    let exact = chart("Exact match", "rows answered exactly, %", Some((0.0, 100.0)), &|score| {
        Some(100.0 * score.exact_match?)
    });
    let loss = chart("Loss", "nats per supervised token", None, &|score| Some(score.loss));
    for (name, chart) in [("exact-match", exact), ("loss", loss)] {
        if !chart.dots.is_empty() {
            let label = format!("{} of every task", chart.title);
            figures.push(Figure::narrow(name, label, chart.draw(crate::report::chart::NARROW)));
        }
    }
    Block::Figures {
        caption: "The table as a picture: each task from the base model on.".to_owned(),
        figures,
    }
}

/// `scores.csv`.
pub fn data(context: &Context<'_>) -> Data {
    let mut data = Data::new("scores", &["task", "column", "loss", "exact_match", "tokens", "rows"]);
    for task in &context.tasks {
        for column in &context.columns {
            let Some(score) = context.score(column, task) else { continue };
            data.row([
                task.clone(),
                column.clone(),
                score.loss.to_string(),
                number(score.exact_match),
                score.tokens.to_string(),
                score.rows.to_string(),
            ]);
        }
    }
    data
}

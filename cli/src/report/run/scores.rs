//! The closing table, and the same as charts.

use cpift_model::compare::results::Interval;
use cpift_model::progress::{Column, Score, TaskScores, measures_table, perplexity_text};
use cpift_model::score::ScoreKind;

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
        blocks.extend(measures(context).map(Block::Table));
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
    let of = |column: &Column| vec![(column_title(column), 3)];
    let first = std::iter::once((String::new(), 1));
    let title = score_title(context);
    let second =
        std::iter::once("task").chain(context.columns.iter().flat_map(|_| ["loss", "perplexity", title]));
    let mut table = Table {
        caption: format!(
            "Loss: mean negative log-likelihood in nats per supervised token of the task’s evaluation file; perplexity: \
             e to the power of it. {} Each \
             column is one model measured on the whole file; – was not measured.",
            score_explained(context)
        ),
        head: vec![
            first.chain(context.columns.iter().flat_map(of)).collect(),
            second.map(|heading| (heading.to_owned(), 1)).collect(),
        ],
        ..Table::default()
    };
    for task in &context.tasks {
        let cells = context.columns.iter().flat_map(|column| cells(context.score(column, task)));
        let kind = context.score_kind(task).filter(|_| title == MIXED);
        let name = kind.map_or(task.clone(), |kind| format!("{task} ({})", kind.name()));
        table.row(std::iter::once(name).chain(cells));
    }
    if context.tasks.len() > 1 {
        let cells = context.columns.iter().flat_map(|column| mean_cells(context, column));
        table.summary(std::iter::once("mean".to_owned()).chain(cells));
    }
    table
}

/// What is measured and never trained, with the change against the base; none where that is nothing.
fn measures(context: &Context<'_>) -> Option<Table> {
    let row = |name: &String| TaskScores {
        task: name.clone(),
        scores: context.columns.iter().map(|column| context.score(column, name).copied()).collect(),
    };
    let rows: Vec<TaskScores> = context.measures.iter().map(row).collect();
    let mut table = measures_table(&context.columns, &rows)?;
    let cells = table.rows.iter_mut().flat_map(|row| row.iter_mut().skip(2));
    cells.for_each(|cell| *cell = cell.replace('-', "−"));
    table.caption = "What training costs in what no task asks for: measured, never trained, and in no mean. Change: against \
                     the base model, of scores in points."
        .to_owned();
    Some(table)
}

/// Heading of scores that differ in kind.
const MIXED: &str = "score";

fn score_title(context: &Context<'_>) -> &'static str {
    let is_mixed = context.tasks.iter().any(|task| context.score_kind(task).is_some());
    match context.common_kind() {
        None if is_mixed => MIXED,
        kind => kind.unwrap_or_default().name(),
    }
}

/// What the score of each kind says that occurs, in a sentence or several.
fn score_explained(context: &Context<'_>) -> String {
    let kinds = [
        (
            ScoreKind::Exact,
            "Exact: share of its rows whose greedy answer is the row’s, character for character.",
        ),
        (
            ScoreKind::Contains,
            "Contains: share of its rows whose greedy answer contains the row’s, as whole words.",
        ),
        (ScoreKind::Number, "Number: share of its rows whose greedy answer ends in the number of the row’s."),
        (
            ScoreKind::Choice,
            "Choice: share of its rows whose greedy answer names the letter of the row’s; in brackets, of which that \
             option has the lowest loss.",
        ),
        (
            ScoreKind::Regex,
            "Regex: share of its rows in whose greedy answer the task’s pattern finds what it finds in the row’s.",
        ),
        (
            ScoreKind::Json,
            "Json: share of its rows whose greedy answer is JSON that says what the row’s does.",
        ),
    ];
    let found: Vec<ScoreKind> = context.tasks.iter().filter_map(|task| context.score_kind(task)).collect();
    let occurs = |kind: ScoreKind| found.contains(&kind) || (found.is_empty() && kind == ScoreKind::Exact);
    let sentences: Vec<&str> =
        kinds.into_iter().filter(|(kind, _)| occurs(*kind)).map(|(_, sentence)| sentence).collect();
    sentences.join(" ")
}

fn cells(score: Option<&Score>) -> [String; 3] {
    let Some(score) = score else { return ["–"; 3].map(str::to_owned) };
    let by_loss = score.choice_by_loss.map_or(String::new(), |share| format!(" ({})", percent(share)));
    [
        format!("{:.4}", score.loss),
        perplexity_text(score.perplexity()),
        score.share().map_or("–".to_owned(), percent) + &by_loss,
    ]
}

/// Means of a column; none where a task has no value, since a mean over fewer tasks would mislead.
fn mean_cells(context: &Context<'_>, column: &Column) -> [String; 3] {
    let mean = |value: &dyn Fn(&Score) -> Option<f64>| {
        let values = context.tasks.iter().map(|task| value(context.score(column, task)?));
        Interval::of_all(values).map(|interval| interval.mean)
    };
    let loss = mean(&|score| Some(score.loss)).map_or("–".to_owned(), |loss| format!("{loss:.4}"));
    // The mean of perplexities would be that of the worst task.
    [loss, String::new(), mean(&Score::share).map_or("–".to_owned(), percent)]
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
        let named =
            |(index, column): (usize, &Column)| (MARKERS[index % MARKERS.len()], column_title(column));
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
    let (title, x_label) = match context.common_kind() {
        Some(ScoreKind::Exact) => ("Exact match", "rows answered exactly, %"),
        _ => ("Score", "rows answered right, %"),
    };
    let share = chart(title, x_label, Some((0.0, 100.0)), &|score| Some(100.0 * score.share()?));
    let loss = chart("Loss", "nats per supervised token", None, &|score| Some(score.loss));
    for (name, chart) in [("exact-match", share), ("loss", loss)] {
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

const HEADINGS: [&str; 10] = [
    "task",
    "column",
    "loss",
    "exact_match",
    "tokens",
    "rows",
    "score_kind",
    "score",
    "choice_by_loss",
    "perplexity",
];

/// `scores.csv`.
pub fn data(context: &Context<'_>) -> Data {
    data_of(context, "scores", &context.tasks)
}

/// `measures.csv`, the same of what is measured only; none where that is nothing.
pub fn measures_data(context: &Context<'_>) -> Option<Data> {
    (!context.measures.is_empty()).then(|| data_of(context, "measures", &context.measures))
}

fn data_of(context: &Context<'_>, file: &'static str, names: &[String]) -> Data {
    let mut data = Data::new(file, &HEADINGS);
    for task in names {
        for column in &context.columns {
            let Some(score) = context.score(column, task) else { continue };
            data.row([
                task.clone(),
                column.to_string(),
                score.loss.to_string(),
                number(score.exact_match),
                score.tokens.to_string(),
                score.rows.to_string(),
                score.score_kind.name().to_owned(),
                number(score.share()),
                number(score.choice_by_loss),
                score.perplexity().to_string(),
            ]);
        }
    }
    data
}

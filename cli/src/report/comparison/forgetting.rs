//! Two tasks one after the other: what the first loses while the second is learnt.

use cpift_model::compare::results::{Comparison, Forgetting, ForgettingMethod, Interval};

use super::{interval_caption, interval_text};
use crate::display::units::grouped;
use crate::report::chart::NARROW;
use crate::report::chart::bars::{Bar, BarChart};
use crate::report::chart::heat::{Cell, HeatMap};
use crate::report::document::{Block, Data, Figure, Section, Table, number};

/// From this many tasks on a matrix takes a whole line.
const WIDE_FROM: usize = 8;

/// The section `Forgetting`; none where it was not asked for.
pub fn section(comparison: &Comparison) -> Option<Section> {
    let forgetting = comparison.forgetting.as_ref()?;
    let text = format!(
        "Every ordered pair of tasks: {} optimizer steps on the first, then {} on the second, in {} ways.",
        grouped(forgetting.first_steps),
        grouped(forgetting.second_steps),
        forgetting.methods.len()
    );
    let blocks = vec![
        Block::Text(text),
        Block::Table(table(comparison, forgetting)),
        bars(comparison, forgetting),
        matrices(comparison, forgetting),
    ];
    Some(Section { id: "forgetting", title: "Forgetting", blocks })
}

fn table(comparison: &Comparison, forgetting: &Forgetting) -> Table {
    let mut table = Table::captioned(
        format!(
            "Change in {} in points, mean over all pairs. On the first task it is the standard backward transfer \
             of two tasks. {}",
            score_name(comparison),
            interval_caption(comparison)
        ),
        ["second task learnt by", "change on the first", "change on the second"],
    );
    for method in &forgetting.methods {
        table.row([
            method.name.clone(),
            interval_text(Some(&method.first_change), 100.0, 1),
            interval_text(Some(&method.second_change), 100.0, 1),
        ]);
    }
    table
}

fn bars(comparison: &Comparison, forgetting: &Forgetting) -> Block {
    let chart = |title: &str, colour, value: fn(&ForgettingMethod) -> &Interval| {
        let bar = |method: &ForgettingMethod| {
            let interval = value(method);
            Bar {
                name: method.name.clone(),
                value: Some(100.0 * interval.mean),
                error: interval.half_width.map(|half| 100.0 * half),
                text: interval_text(Some(interval), 100.0, 1),
                colour,
            }
        };
        BarChart {
            title: title.to_owned(),
            x_label: format!("change in {}, points", score_name(comparison)),
            bars: forgetting.methods.iter().map(bar).collect(),
            range: (0.0, 0.0),
        }
    };
    let first = chart("On the first task", 2, |method| &method.first_change);
    let second = chart("On the second task", 3, |method| &method.second_change);
    let figure = |name: &str, chart: BarChart| Figure::narrow(name, chart.title.clone(), chart.draw(NARROW));
    Block::Figures {
        caption: format!("The table as a picture. {}", interval_caption(comparison)),
        figures: vec![figure("forgetting-first", first), figure("forgetting-second", second)],
    }
}

fn matrices(comparison: &Comparison, forgetting: &Forgetting) -> Block {
    let all = forgetting.methods.iter().flat_map(|method| method.change.iter().flatten().flatten());
    let most = all.fold(0.01_f64, |most, change| most.max(change.abs()));
    let cell = |method: &ForgettingMethod, i: usize, j: usize| {
        let Some(change) = method.change[i][j] else { return Cell::default() };
        let points = format!("{:+.0}", 100.0 * change).replace('-', "−");
        Cell {
            tint: Some(change.abs() / most),
            colour: if change < 0.0 { 2 } else { 3 },
            tip: format!("{} after {}: {points} points", comparison.tasks[i], comparison.tasks[j]),
            lines: vec![points],
        }
    };
    let tasks = comparison.tasks.len();
    let figure = |method: &ForgettingMethod| {
        let map = HeatMap {
            title: method.name.clone(),
            rows: comparison.tasks.clone(),
            columns: comparison.tasks.clone(),
            cells: (0..tasks).map(|i| (0..tasks).map(|j| cell(method, i, j)).collect()).collect(),
            blocks: Vec::new(),
            row_height: Some(28.0),
        };
        let (name, label) = (format!("forgetting-{}", method.name), format!("forgetting by {}", method.name));
        if tasks >= WIDE_FROM {
            Figure::wide(name, label, |width| map.draw(width))
        } else {
            Figure::narrow(name, label, map.draw(NARROW))
        }
    };
    Block::Figures {
        caption: format!(
            "Change in {} of the row’s task, in points, while the column’s task is learnt after it; mean over the \
             seeds. Orange: forgotten; green: gained.",
            score_name(comparison)
        ),
        figures: forgetting.methods.iter().map(figure).collect(),
    }
}

/// What the changes are changes of.
fn score_name(comparison: &Comparison) -> String {
    match comparison.score_title() {
        "exact" => "exact match".to_owned(),
        "score" => "each task’s score".to_owned(),
        kind => format!("the score `{kind}`"),
    }
}

/// `forgetting.csv`: a line per way, seed and ordered pair.
pub fn data(comparison: &Comparison) -> Option<Data> {
    let forgetting = comparison.forgetting.as_ref()?;
    let headings =
        ["method", "seed", "first", "second", "first_before", "first_after", "second_before", "second_after"];
    let mut data = Data::new("forgetting", &headings);
    for method in &forgetting.methods {
        for pair in &method.pairs {
            data.row([
                method.name.clone(),
                pair.seed.to_string(),
                comparison.tasks[pair.first].clone(),
                comparison.tasks[pair.second].clone(),
                number(pair.first_before.share()),
                number(pair.first_after.share()),
                number(pair.second_before.share()),
                number(pair.second_after.share()),
            ]);
        }
    }
    Some(data)
}

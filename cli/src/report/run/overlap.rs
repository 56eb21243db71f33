//! How the cores overlap, and the groups that leads to.

use cpift_model::progress::GroupReport;

use super::Context;
use crate::display::overlap::lift;
use crate::display::units::percent;
use crate::report::chart::NARROW;
use crate::report::chart::heat::{Cell, HeatMap};
use crate::report::chart::lines::significant;
use crate::report::document::{Block, Data, Figure, Section, number};

/// From this many tasks on a map takes a whole line.
const WIDE_FROM: usize = 8;

/// The section `Overlap and groups`; none before stage 2.
pub fn section(context: &Context<'_>) -> Option<Section> {
    context.run.groups.as_ref().map(describe)
}

/// The same of a report.
pub fn describe(report: &GroupReport) -> Section {
    let mut blocks = Vec::new();
    if report.tasks.len() > 1 {
        if report.chance >= report.threshold && report.threshold > 0.0 {
            blocks.push(Block::Notice(format!(
                "Chance alone ({}) reaches the threshold {}: these groups mean nothing. Lower core.fraction or raise \
                 group.threshold.",
                significant(report.chance),
                report.threshold
            )));
        }
        blocks.push(maps(report));
    }
    let name = |group: &Vec<usize>| {
        let names: Vec<&str> = group.iter().map(|&task| report.tasks[task].as_str()).collect();
        names.join(", ")
    };
    let groups = report.groups.iter().enumerate();
    let mut facts: Vec<(String, String)> =
        groups.map(|(index, group)| (format!("group {}", index + 1), name(group))).collect();
    facts.push(("joined from an overlap of".to_owned(), report.threshold.to_string()));
    blocks.push(Block::Facts(facts));
    Section { id: "overlap", title: "Overlap and groups", blocks }
}

fn maps(report: &GroupReport) -> Block {
    // Tasks in the order of their groups, so that a group is a block on the diagonal.
    let order: Vec<usize> = report.groups.iter().flatten().copied().collect();
    let mut blocks = Vec::new();
    let mut start = 0;
    for group in &report.groups {
        blocks.push((start, start + group.len()));
        start += group.len();
    }
    let names: Vec<String> = order.iter().map(|&task| report.tasks[task].clone()).collect();
    let map = |title: &str, cell: &dyn Fn(usize, usize) -> Cell| HeatMap {
        title: title.to_owned(),
        rows: names.clone(),
        columns: names.clone(),
        cells: order.iter().map(|&i| order.iter().map(|&j| cell(i, j)).collect()).collect(),
        blocks: blocks.clone(),
        row_height: None,
    };
    let pairs = || order.iter().flat_map(|&i| order.iter().map(move |&j| (i, j))).filter(|(i, j)| i != j);
    let most = pairs().map(|(i, j)| report.jaccard[i][j]).fold(3.0 * report.chance, f64::max);
    let overlap = map("Overlap (Jaccard, × chance)", &|i, j| {
        if i == j {
            return Cell::default();
        }
        let value = report.jaccard[i][j];
        let lift = format!("×{}", lift(value, report.chance));
        Cell {
            tint: Some(value / most.max(f64::MIN_POSITIVE)),
            colour: 1,
            tip: format!(
                "{} and {}: Jaccard {}, {lift} chance",
                report.tasks[i],
                report.tasks[j],
                significant(value)
            ),
            lines: vec![significant(value), lift],
        }
    });
    let signs = map("Moved to the same side, %", &|i, j| {
        let Some(share) = report.sign_agreement[i][j].filter(|_| i != j) else { return Cell::default() };
        Cell {
            tint: Some((2.0 * share - 1.0).abs()),
            colour: if share >= 0.5 { 3 } else { 2 },
            lines: vec![format!("{:.0}", 100.0 * share)],
            tip: format!(
                "{} and {}: {} of the shared parameters moved to the same side",
                report.tasks[i],
                report.tasks[j],
                percent(share)
            ),
        }
    });
    let figure = |name: &str, label: &str, map: &HeatMap| {
        if names.len() >= WIDE_FROM {
            Figure::wide(name, label, |width| map.draw(width))
        } else {
            Figure::narrow(name, label, map.draw(NARROW))
        }
    };
    Block::Figures {
        caption: format!(
            "First: |Ci ∩ Cj| / |Ci ∪ Cj| of every two cores; two random cores of this size would have {} (chance), and × \
             is how many times that it is. The darkest tint stands for {}, the largest overlap or three times chance. Second: of \
             the parameters in both cores, how many both probes moved to the same side: green above one half, orange \
             below. Outlined: groups, in the order they are trained.",
            significant(report.chance),
            significant(most)
        ),
        figures: vec![
            figure("overlap", "overlap of every two cores", &overlap),
            figure("sign-agreement", "agreement in sign of every two cores", &signs),
        ],
    }
}

/// `overlap.csv`.
pub fn data(context: &Context<'_>) -> Option<Data> {
    context.run.groups.as_ref().map(data_of)
}

/// The same of a report.
pub fn data_of(report: &GroupReport) -> Data {
    let mut data =
        Data::new("overlap", &["first", "second", "jaccard", "chance", "sign_agreement", "same_group"]);
    let group_of = |task: usize| report.groups.iter().position(|group| group.contains(&task));
    for (i, first) in report.tasks.iter().enumerate() {
        for (j, second) in report.tasks.iter().enumerate().skip(i + 1) {
            data.row([
                first.clone(),
                second.clone(),
                report.jaccard[i][j].to_string(),
                report.chance.to_string(),
                number(report.sign_agreement[i][j]),
                (group_of(i) == group_of(j)).to_string(),
            ]);
        }
    }
    data
}

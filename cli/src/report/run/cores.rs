//! Where the cores sit: by layer and by kind of tensor.

use cpift_model::progress::{CoreReport, TaskCore};
use cpift_model::recipe::CoreSettings;

use super::Context;
use crate::display::units::{grouped, percent};
use crate::report::chart::heat::{Cell, HeatMap};
use crate::report::document::{Block, Data, Figure, Section, Table};

/// Height of a row of the maps.
const ROW: f64 = 20.0;

/// The section `Cores`; none before stage 1b.
pub fn section(context: &Context<'_>) -> Option<Section> {
    let report = context.run.cores.as_ref()?;
    let importance = context.recipe.probe.importance.name();
    Some(describe(report, &context.recipe.core, importance))
}

/// The same of cores that were chosen so, by this importance.
pub fn describe(report: &CoreReport, settings: &CoreSettings, importance: &str) -> Section {
    let mut table = Table::captioned(
        "Parameters: how many the core holds. Move: ‖θi − θ0‖ / ‖θ0‖, how far the probe went from the base. Threshold: \
         the least importance in the core.",
        ["task", "parameters", "move", "threshold"],
    );
    for core in &report.tasks {
        table.row([
            core.task.clone(),
            grouped(core.size),
            format!("{:.2} %", 100.0 * core.relative_move),
            format!("{:.2e}", core.threshold),
        ]);
    }
    let map = |title: &str, name: &str, counts: fn(&TaskCore) -> &Parts, model: &Parts| {
        let map = shares(report, title, counts, model);
        let label = format!("share of every core {}", title.to_lowercase());
        if map.columns.len() > 8 {
            Figure::wide(name, label, |width| map.draw(width))
        } else {
            Figure::narrow(name, label, map.draw(crate::report::chart::NARROW))
        }
    };
    let figures = vec![
        map("By layer", "cores-by-layer", |core| &core.by_layer, &report.model_by_layer),
        map("By kind of tensor", "cores-by-kind", |core| &core.by_kind, &report.model_by_kind),
    ];
    let mut caption =
        "Share of each core’s parameters in %, by where they lie; every column sums to 100.".to_owned();
    if !report.model_by_layer.is_empty() {
        caption.push_str(
            " Column “all”: the same for all parameters of the model, what an even choice would give.",
        );
    }
    let excluded = &settings.exclude;
    if !excluded.is_empty() {
        caption
            .push_str(&format!(" Tensors with {} in their name are never in a core.", excluded.join(" or ")));
    }
    let text = format!(
        "A task’s core is the {} of the parameters that matter most to it (importance = {importance}, scope = {}).",
        percent(settings.fraction),
        format!("{:?}", settings.scope).to_lowercase()
    );
    let blocks = vec![Block::Text(text), Block::Table(table), Block::Figures { caption, figures }];
    Section { id: "cores", title: "Cores", blocks }
}

type Parts = Vec<(String, u64)>;

fn shares(report: &CoreReport, title: &str, counts: fn(&TaskCore) -> &Parts, model: &Parts) -> HeatMap {
    let mut columns: Vec<(String, &Parts, usize)> = Vec::new();
    if !model.is_empty() {
        columns.push(("all".to_owned(), model, 6));
    }
    columns.extend(report.tasks.iter().map(|core| (core.task.clone(), counts(core), 1)));
    let rows: Vec<String> = columns
        .last()
        .map_or(Vec::new(), |(_, parts, _)| parts.iter().map(|(name, _)| name.clone()).collect());
    let share = |parts: &Parts, row: &String| {
        let total: u64 = parts.iter().map(|(_, count)| count).sum();
        let count = parts.iter().find(|(name, _)| name == row).map_or(0, |(_, count)| *count);
        100.0 * count as f64 / total.max(1) as f64
    };
    let all = columns.iter().flat_map(|(_, parts, _)| rows.iter().map(move |row| share(parts, row)));
    let most = all.fold(f64::MIN_POSITIVE, f64::max);
    let cell = |row: &String, (name, parts, colour): &(String, &Parts, usize)| {
        let share = share(parts, row);
        Cell {
            tint: Some(share / most),
            colour: *colour,
            lines: vec![if share == 0.0 { "0".to_owned() } else { format!("{share:.1}") }],
            tip: format!("{name}, {row}: {share:.2} %"),
        }
    };
    HeatMap {
        title: title.to_owned(),
        cells: rows.iter().map(|row| columns.iter().map(|column| cell(row, column)).collect()).collect(),
        columns: columns.into_iter().map(|(name, ..)| name).collect(),
        rows,
        blocks: Vec::new(),
        row_height: Some(ROW),
    }
}

/// `cores.csv`.
pub fn data(context: &Context<'_>) -> Option<Data> {
    context.run.cores.as_ref().map(data_of)
}

/// The same of a report.
pub fn data_of(report: &CoreReport) -> Data {
    let mut data = Data::new("cores", &["task", "by", "part", "parameters"]);
    let mut add = |task: &str, by: &str, parts: &Parts| {
        for (part, count) in parts {
            data.row([task.to_owned(), by.to_owned(), part.clone(), count.to_string()]);
        }
    };
    for core in &report.tasks {
        add(&core.task, "layer", &core.by_layer);
        add(&core.task, "kind", &core.by_kind);
    }
    add("", "layer", &report.model_by_layer);
    add("", "kind", &report.model_by_kind);
    data
}

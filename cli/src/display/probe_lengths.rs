//! Tables about importance after probes of several lengths.

use cpift_model::compare::results::{Agreement, Interval, LengthResults, SaliencyAtLength};
use cpift_model::stages::saliency::Saliency;
use cpift_model::table::Table;

use super::units::percent;

/// The fraction that the tables show; the report page has all.
const SHOWN: f64 = 0.01;

/// Agreement of cores, and what transplanting them brings.
pub fn tables(lengths: &LengthResults) -> Vec<Table> {
    let mut tables = Vec::new();
    if let Some(place) = lengths.fractions.iter().position(|fraction| *fraction == SHOWN) {
        let caption = format!(
            "Importance by probe length: overlap of cores of {} between seeds of a task / between tasks (chance {:.4})",
            percent(SHOWN),
            lengths.chance[place]
        );
        tables.push(by_length(lengths, caption, |found| agreement(&found.overlaps[place], 3)));
    }
    let caption = "Rank correlation of importance between seeds of a task / between tasks".to_owned();
    tables.push(by_length(lengths, caption, |found| agreement(&found.correlation, 2)));
    for (place, fraction) in lengths.transplants.iter().enumerate() {
        let caption = format!(
            "Share of a probe’s gain that the base has with {} of the probe’s parameters, in %",
            percent(*fraction)
        );
        let mut table = by_length(lengths, caption, |found| gain(found.gains[place]));
        let random = lengths.random_gains.iter().map(|gains| gain(gains[place]));
        table.row(["random".to_owned(), String::new()].into_iter().chain(random));
        tables.push(table);
    }
    tables
}

/// A row for each saliency, a column for each length.
fn by_length(lengths: &LengthResults, caption: String, cell: impl Fn(&SaliencyAtLength) -> String) -> Table {
    let steps = lengths.steps.iter().map(|steps| super::units::counted(*steps, "step"));
    let headings = ["importance".to_owned(), "formula".to_owned()].into_iter().chain(steps);
    let mut table = Table::captioned(caption, headings.collect::<Vec<_>>());
    for saliency in Saliency::ALL {
        let cells = lengths.saliencies.iter().filter(|found| found.saliency == saliency).map(&cell);
        let names = [saliency.name(), saliency.formula()].map(str::to_owned);
        table.row(names.into_iter().chain(cells));
    }
    table
}

fn agreement(agreement: &Agreement, digits: usize) -> String {
    let mean =
        |value: Option<Interval>| value.map_or("-".to_owned(), |value| format!("{:.digits$}", value.mean));
    format!("{} / {}", mean(agreement.seeds), mean(agreement.tasks))
}

fn gain(gain: Option<Interval>) -> String {
    gain.map_or("-".to_owned(), |gain| super::comparison::with_interval(gain, 100.0, 1))
}

//! Ablations: what changing one choice of CPI-FT does.

use cpift_model::compare::results::{Comparison, MethodResult, RowKind};

use super::{budget_title, interval_caption, interval_text};
use crate::display::units::grouped;
use crate::report::chart::NARROW;
use crate::report::chart::bars::{Bar, BarChart};
use crate::report::document::{Block, Data, Figure, Section, Table, number};

/// The section `Ablations`; none where there are none.
pub fn section(comparison: &Comparison) -> Option<Section> {
    let ablations = ablations(comparison);
    if ablations.is_empty() {
        return None;
    }
    let mut table = Table::captioned(
        format!(
            "CPI-FT with one choice changed. Difference: to {} with the same seed, mean over the seeds. {}",
            comparison.against,
            interval_caption(comparison)
        ),
        ["ablation", "choice", "steps", "normalised", "difference", "under", "worst task"],
    );
    for method in &ablations {
        table.row([
            method.name.clone(),
            method.family.clone(),
            grouped(method.steps),
            interval_text(method.summary.mean_normalised.as_ref(), 1.0, 3),
            interval_text(comparison.difference(method, comparison.main_budget(method)).as_ref(), 1.0, 3),
            budget_title(comparison.main_budget(method)).to_owned(),
            interval_text(method.summary.worst_normalised.as_ref(), 1.0, 3),
        ]);
    }
    let mut families: Vec<&str> = ablations.iter().map(|method| method.family.as_str()).collect();
    families.sort_by_key(|family| ablations.iter().position(|method| method.family == **family));
    families.dedup();
    let reach =
        ablations.iter().filter_map(|method| comparison.difference(method, comparison.main_budget(method)));
    let reach = reach.map(|interval| interval.mean.abs()).fold(0.01, f64::max);
    let figure = |family: &str| {
        let members = ablations.iter().filter(|method| method.family == family);
        let bar = |method: &&MethodResult| {
            let difference = comparison.difference(method, comparison.main_budget(method));
            Bar {
                name: method.name.clone(),
                value: difference.map(|interval| interval.mean),
                error: difference.and_then(|interval| interval.half_width),
                text: interval_text(difference.as_ref(), 1.0, 3),
                colour: if difference.is_some_and(|interval| interval.mean < 0.0) { 2 } else { 3 },
            }
        };
        let chart = BarChart {
            title: if family.is_empty() { "other".to_owned() } else { family.to_owned() },
            x_label: "difference in normalised score".to_owned(),
            bars: members.map(bar).collect(),
            range: (-reach, reach),
        };
        Figure::narrow(format!("ablation-{family}"), format!("ablations of {family}"), chart.draw(NARROW))
    };
    let figures = families.into_iter().map(figure).collect();
    let caption = format!(
        "Difference in normalised score to {}, by the choice that was changed; to the left is worse. {}",
        comparison.against,
        interval_caption(comparison)
    );
    let blocks = vec![Block::Figures { caption, figures }, Block::Table(table)];
    Some(Section { id: "ablations", title: "Ablations", blocks })
}

fn ablations(comparison: &Comparison) -> Vec<&MethodResult> {
    comparison.methods.iter().filter(|method| method.kind == RowKind::Ablation).collect()
}

/// `ablations.csv`.
pub fn data(comparison: &Comparison) -> Data {
    let mut data =
        Data::new("ablations", &["ablation", "family", "difference", "half_width", "seeds", "budget"]);
    for method in ablations(comparison) {
        let difference = comparison.difference(method, comparison.main_budget(method));
        data.row([
            method.name.clone(),
            method.family.clone(),
            number(difference.map(|interval| interval.mean)),
            number(difference.and_then(|interval| interval.half_width)),
            difference.map_or(String::new(), |interval| interval.count.to_string()),
            budget_title(comparison.main_budget(method)).to_owned(),
        ]);
    }
    data
}

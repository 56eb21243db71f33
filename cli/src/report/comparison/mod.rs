//! The report of a comparison: every method and ablation over seeds and budgets.

mod ablations;
mod forgetting;
mod measures;
mod methods;
mod overlaps;
mod probe_lengths;

use cpift_model::compare::results::{Budget, Comparison, Interval};

use super::document::{Block, Document, Section, Table};
use crate::display::comparison::with_interval;
use crate::display::units::{bytes, counted, duration, grouped};

/// The report of a comparison.
pub fn document(comparison: &Comparison, title: String) -> Document {
    let sections = [
        Some(methods::section(comparison)),
        measures::section(comparison),
        ablations::section(comparison),
        overlaps::section(comparison),
        forgetting::section(comparison),
        probe_lengths::section(comparison),
        Some(provenance(comparison)),
    ];
    let mut data = vec![methods::data(comparison), ablations::data(comparison), overlaps::data(comparison)];
    data.extend(forgetting::data(comparison));
    data.extend(probe_lengths::data(comparison));
    data.extend(measures::data(comparison));
    let lead = [
        format!("{} methods and ablations", comparison.methods.len()),
        counted(comparison.tasks.len() as u64, "task"),
        counted(comparison.seeds.len() as u64, "seed"),
        format!("{} parameters", grouped(comparison.origin.parameters)),
    ];
    Document { title, lead: lead.join(" · "), sections: sections.into_iter().flatten().collect(), data }
}

/// How a budget is called.
fn budget_title(budget: Budget) -> &'static str {
    match budget {
        Budget::Total => "equal total steps",
        Budget::Given => "specialists given",
    }
}

/// A mean with half its interval, times `factor`; – where it was not measured.
fn interval_text(interval: Option<&Interval>, factor: f64, decimals: usize) -> String {
    interval.map_or_else(
        || "–".to_owned(),
        |&interval| with_interval(interval, factor, decimals).replace('-', "−"),
    )
}

/// What an interval is, for captions.
fn interval_caption(comparison: &Comparison) -> String {
    match comparison.seeds.len() {
        0 | 1 => "One seed: there are no intervals.".to_owned(),
        seeds => format!("± and whiskers: 95 % interval of the mean over {seeds} seeds (Student’s t)."),
    }
}

fn provenance(comparison: &Comparison) -> Section {
    let origin = &comparison.origin;
    let fact = |name: &str, value: String| (name.to_owned(), value);
    let steps = &comparison.steps;
    let mut facts = vec![
        fact("made by", origin.program.clone()),
        fact("command", origin.command.clone()),
        fact("seeds", comparison.seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")),
        fact(
            "optimizer steps",
            format!(
                "{} for a specialist; {} in all under equal total steps; {} after the specialists where they are given",
                grouped(steps.specialist),
                grouped(steps.total),
                grouped(steps.given)
            ),
        ),
        fact("device", origin.device.clone()),
        fact(
            "threads",
            format!("{} of each run, {} side by side", origin.threads, counted(origin.jobs as u64, "run")),
        ),
        fact("machine", origin.system.clone()),
    ];
    facts.extend(origin.processor.clone().map(|name| fact("processor", name)));
    facts.push(fact("parameters", grouped(origin.parameters)));
    let mut specialists = Table::captioned(
        "The specialists (probes) that scores are normalised by, one set for each seed.",
        ["seed", "wall time", "peak memory"],
    );
    for reference in &comparison.references {
        specialists.row([
            reference.seed.to_string(),
            duration(reference.seconds),
            reference.peak_memory_bytes.map_or("–".to_owned(), bytes),
        ]);
    }
    let mut inputs = Table::of_text(
        "Every file the comparison reads, by the beginning of its BLAKE3 hash.",
        ["file", "BLAKE3"],
    );
    for input in &origin.inputs {
        inputs.row([input.file.clone(), input.blake3.chars().take(16).collect()]);
    }
    let blocks = vec![
        Block::Facts(facts),
        Block::Facts(methods::rows_explained(comparison)),
        Block::Table(specialists),
        Block::Table(inputs),
        Block::Code { summary: "The whole recipe".to_owned(), text: origin.recipe.clone() },
    ];
    Section { id: "run", title: "What was run", blocks }
}

//! `export` and `apply`: what was written.

use std::path::Path;

use cpift_model::export::{ApplyReport, DeltaReport, LoraReport, LoraTensor, Treatment};
use cpift_model::files::human_bytes;
use cpift_model::table::Table;

use super::path_from_here;
use super::style::Style;
use super::table::aligned;
use super::units::{counted, duration, grouped, percent};

/// What a delta holds, for a person.
pub fn delta(report: &DeltaReport, out: &Path, style: Style) -> String {
    let share = report.changed as f64 / report.parameters.max(1) as f64;
    format!(
        "{} {}\n{} of {} parameters ({}), in {} of {}\n{}, {} of the model's weights\n",
        style.bold("exported to"),
        style.green(path_from_here(out)),
        grouped(report.changed),
        grouped(report.parameters),
        percent(share),
        grouped(report.changed_tensors as u64),
        counted(report.tensors as u64, "tensor"),
        human_bytes(report.bytes),
        percent(report.bytes as f64 / report.model_bytes.max(1) as f64),
    )
}

/// What an adapter keeps of an update, by kind of tensor, for a person.
pub fn adapter(report: &LoraReport, out: &Path, style: Style) -> String {
    let mut table = Table::new(["tensors", "number", "stored", "relative error", "energy kept"]);
    for (kind, tensors) in by_kind(&report.tensors) {
        let stored = match tensors[0].treatment {
            Treatment::LowRank => format!("rank {}", report.rank),
            Treatment::Saved => "whole".to_owned(),
            Treatment::Left => "not at all".to_owned(),
        };
        let (error, kept) = kept(&tensors);
        table.row([kind, tensors.len().to_string(), stored, format!("{error:.3}"), percent(kept)]);
    }
    table.summary([
        "the whole update".to_owned(),
        report.tensors.len().to_string(),
        String::new(),
        format!("{:.3}", report.relative_error),
        percent(report.energy_kept),
    ]);
    let mut text =
        format!("{} {}\n{}", style.bold("exported to"), style.green(path_from_here(out)), aligned(&table));
    for (reason, number) in left(&report.tensors) {
        let number = style.yellow(counted(number, "tensor"));
        text.push_str(&format!("{number} left out, the base's stay: {reason}\n"));
    }
    text.push_str(&format!(
        "{}, {} parameters; each tensor's error is in {}\n",
        human_bytes(report.bytes),
        grouped(report.parameters),
        path_from_here(&out.join("report.md"))
    ));
    text
}

/// Why tensors are left out, and how many for each reason.
fn left(tensors: &[LoraTensor]) -> Vec<(&str, u64)> {
    let mut reasons: Vec<(&str, u64)> = Vec::new();
    for reason in tensors.iter().filter_map(|tensor| tensor.reason.as_deref()) {
        match reasons.iter_mut().find(|(other, _)| *other == reason) {
            Some((_, number)) => *number += 1,
            None => reasons.push((reason, 1)),
        }
    }
    reasons
}

/// Tensors of the same name but for their layer that are stored in the same way, in the order of the first of each.
fn by_kind(tensors: &[LoraTensor]) -> Vec<(String, Vec<&LoraTensor>)> {
    let mut kinds: Vec<(String, Vec<&LoraTensor>)> = Vec::new();
    for tensor in tensors {
        let is_number = |part: &str| part.chars().all(|c| c.is_ascii_digit());
        let parts = tensor.name.split('.').map(|part| if is_number(part) { "*" } else { part });
        let kind = parts.collect::<Vec<_>>().join(".");
        let is_same = |(other, of_kind): &&mut (String, Vec<&LoraTensor>)| {
            *other == kind && of_kind[0].treatment == tensor.treatment
        };
        match kinds.iter_mut().find(is_same) {
            Some((_, of_kind)) => of_kind.push(tensor),
            None => kinds.push((kind, vec![tensor])),
        }
    }
    kinds
}

/// Relative error and share of the energy that is kept of several tensors' updates together.
fn kept(tensors: &[&LoraTensor]) -> (f64, f64) {
    let total: f64 = tensors.iter().map(|tensor| tensor.energy).sum();
    let lost: f64 = tensors.iter().map(|tensor| tensor.energy * (1.0 - tensor.energy_kept)).sum();
    let share = if total > 0.0 { lost / total } else { 0.0 };
    (share.max(0.0).sqrt(), 1.0 - share)
}

/// What came out of a delta and its base, for a person.
pub fn applied(report: &ApplyReport, out: &Path, style: Style) -> String {
    format!(
        "{} {}\n{} of {} parameters are the delta's, the rest the base's: every tensor is what was exported\n{} written in {}\n",
        style.bold("applied into"),
        style.green(path_from_here(out)),
        grouped(report.changed),
        grouped(report.parameters),
        human_bytes(report.bytes),
        duration(report.seconds),
    )
}

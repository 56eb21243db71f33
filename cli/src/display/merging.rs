//! `merge`: how far it is, and what was done.

use std::path::Path;

use cpift_model::files::human_bytes;
use cpift_model::merge::{Merge, MergeReport};

use super::path_from_here;
use super::style::Style;
use super::transfer::Transfer;
use super::units::{counted, duration, grouped, percent};

/// For a merge that is about to begin.
pub fn progress(merge: &Merge, method: &str, terminal: bool) -> Transfer {
    let (parameters, files) = (grouped(merge.parameters()), counted(merge.shards() as u64, "file"));
    let title = format!("merging by {method}: {parameters} parameters into {files}");
    Transfer::new(title, merge.notices(), terminal)
}

/// What a merge did, for a person.
pub fn render(report: &MergeReport, out: &Path, style: Style) -> String {
    let MergeReport { tensors, read, written, seconds, .. } = *report;
    let bytes = read + written;
    let mut text = format!("{} {}\n", style.bold("merged into"), path_from_here(out));
    if report.interpolations > 0 {
        let (all, linear) = (counted(report.interpolations, "interpolation"), report.linear);
        text.push_str(&format!("{all}, {linear} of them along a straight line\n"));
    }
    let core = report.transplanted + report.conflicts;
    if core > 0 {
        let (core, several) = (super::units::grouped(core), super::units::grouped(report.conflicts));
        text.push_str(&format!("{core} parameters in cores, {several} of them in several\n"));
    }
    let share = if seconds > 0.0 { (report.disk_seconds / seconds).min(1.0) } else { 1.0 };
    let rate = if seconds > 0.0 { human_bytes((bytes as f64 / seconds) as u64) } else { human_bytes(bytes) };
    text.push_str(&format!(
        "{}, {} read and {} written in {}: {rate} a second, {} of the disk's rate\n",
        counted(tensors as u64, "tensor"),
        human_bytes(read),
        human_bytes(written),
        duration(seconds),
        percent(share),
    ));
    text
}

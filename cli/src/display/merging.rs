//! `merge`: how far it is, and what was done.

use std::path::Path;

use cpift_model::files::human_bytes;
use cpift_model::merge::{Merge, MergeProgress, MergeReport};
use indicatif::{ProgressBar, ProgressStyle};

use super::style::Style;
use super::units::{counted, duration, percent};
use super::{notices, path_from_here, tell};

/// Shares of the work after which a line is written where there is no bar.
const LINES: u64 = 10;

/// How far a merge is, on standard error: a bar, or lines where there is none.
pub struct Merging {
    title: String,
    notices: Vec<String>,
    terminal: bool,
    bar: Option<ProgressBar>,
    lines: u64,
}

impl Merging {
    /// For a merge that is about to begin.
    pub fn new(merge: &Merge, method: &str, terminal: bool) -> Self {
        let parameters = super::units::grouped(merge.parameters());
        let files = counted(merge.shards() as u64, "file");
        let title = format!("merging by {method}: {parameters} parameters into {files}");
        Self { title, notices: merge.notices().to_vec(), terminal, bar: None, lines: 0 }
    }

    /// Shows what is done.
    pub fn update(&mut self, progress: MergeProgress) {
        let MergeProgress { done, total } = progress;
        if done == 0 {
            tell(&format!("{}\n", self.title));
            notices(self.notices.iter());
            self.bar = self.terminal.then(|| {
                let template = ProgressStyle::with_template(
                    "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
                );
                ProgressBar::new(total).with_style(template.unwrap_or_else(|_| ProgressStyle::default_bar()))
            });
        }
        if let Some(bar) = &self.bar {
            return bar.set_position(done);
        }
        let line = done.saturating_mul(LINES).checked_div(total).unwrap_or_default();
        // A merge of seconds needs none between.
        if line > self.lines && total > 1 << 30 {
            self.lines = line;
            tell(&format!("{} of {}\n", human_bytes(done), human_bytes(total)));
        }
    }
}

impl Drop for Merging {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
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

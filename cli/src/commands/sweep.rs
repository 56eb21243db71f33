//! `merge --sweep`.

use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use cpift_engine::Device;
use cpift_model::files::require_empty;
use cpift_model::merge::{MergeProgress, Method};
use cpift_model::sweep::{Measurement, Output, Sweep, SweepProgress};
use cpift_model::{Result, sweep};

use super::Chosen;
use super::eval::{require_files, task};
use super::merge::request;
use crate::args::merge::Merge;
use crate::display::evaluation::Evaluation;
use crate::display::style::Style;
use crate::display::table::shorten;
use crate::display::transfer::Transfer;
use crate::display::{self, path_from_here, print, print_json, sweeping, tell};
use crate::{interrupt, report};

/// Merges with several values of a number, and keeps the best model.
pub fn run(sweep: &Sweep, arguments: &Merge, threads: Option<NonZeroUsize>) -> Result<()> {
    let interrupt = interrupt::install("stopping; what is measured stays")?;
    // What is wrong is found before a long download.
    require_empty(&arguments.out)?;
    let task = task(&arguments.sweep.measuring)?;
    require_files(&arguments.sweep.data)?;
    let chosen = super::Chosen::open(&arguments.sweep.device.device, threads)?;
    let compute = chosen.compute(&arguments.sweep.precision)?;
    let data = super::with_hub(|hub| {
        let paths: Result<Vec<_>> = arguments.sweep.data.iter().map(|path| hub.data_paths(path)).collect();
        Ok(paths?.concat())
    })?;
    let request = request(arguments)?;
    let generate = arguments.sweep.measuring.generate;
    let measurement = Measurement { device: &chosen.device, compute, data: &data, task: &task, generate };
    let device = Device::cpu(threads)?;
    let output = Output { device: &device, folder: &arguments.out, resume: arguments.resume };
    let stop = interrupt.begin();
    let mut shown = Shown {
        sweep,
        method: request.method,
        chosen: &chosen,
        data: &data,
        terminal: std::io::stderr().is_terminal(),
        merge: None,
        evaluation: None,
    };
    let found =
        sweep::run(sweep, &request, &measurement, output, &stop, &mut |progress| shown.update(progress));
    drop(shown);
    let found = found?;
    display::notices(found.notices.iter());
    let written = report::write_sweep(&arguments.out, &found)?;
    if arguments.json {
        return print_json(&found);
    }
    let style = Style::of(&std::io::stdout());
    let page = path_from_here(&written.page);
    print(&format!("{}{} {page}\n", sweeping::render(&found, &arguments.out, style), style.bold("report")))
}

/// What a person sees of a sweep under way.
struct Shown<'a> {
    sweep: &'a Sweep,
    method: Method,
    chosen: &'a Chosen,
    data: &'a [PathBuf],
    terminal: bool,
    /// The title of the merge under way, and how far that is.
    merge: Option<(String, Transfer)>,
    /// The value and the file, by their numbers, that a model is measured with, and how far that is.
    evaluation: Option<(usize, usize, Evaluation)>,
}

impl Shown<'_> {
    fn update(&mut self, progress: SweepProgress<'_>) {
        let Sweep { key, values } = self.sweep;
        let key = key.name();
        match progress {
            SweepProgress::Begin(notices) => {
                super::announce_fully(self.chosen);
                tell(&format!("merging by {} with {} values of {key}\n", self.method.name(), values.len()));
                display::notices(notices.iter());
            }
            SweepProgress::Merging(number, progress) => {
                let count = format!("{} of {}", number + 1, values.len());
                self.merging(format!("merging with {key} {}  ({count})", values[number]), progress);
            }
            SweepProgress::MergingBest(number, progress) => {
                self.merging(format!("merging with {key} {}, the best", values[number]), progress);
            }
            SweepProgress::Measuring(number, file, progress) => {
                self.merge = None;
                if self.evaluation.as_ref().is_none_or(|(value, other, _)| (*value, *other) != (number, file))
                {
                    // The bar before is gone first.
                    self.evaluation = None;
                    let name = shorten(&self.data[file].display().to_string(), 32);
                    let title = format!("{key} {} on {name}", values[number]);
                    self.evaluation = Some((number, file, Evaluation::begin(&title, self.terminal)));
                }
                if let Some((_, _, evaluation)) = &mut self.evaluation {
                    evaluation.update(progress);
                }
            }
            SweepProgress::Measured(_, point) => {
                self.evaluation = None;
                tell(&format!("{key} {}: {}\n", point.value, sweeping::measured(point)));
            }
        }
    }

    fn merging(&mut self, title: String, progress: MergeProgress) {
        if self.merge.as_ref().is_none_or(|(other, _)| *other != title) {
            self.merge = None;
            let transfer = Transfer::new(title.clone(), &[], self.terminal);
            self.merge = Some((title, transfer));
        }
        if let Some((_, transfer)) = &mut self.merge {
            transfer.update(progress.done, progress.total);
        }
    }
}

//! `compare`, and `compare-unit`, one run of it.

use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use cpift_model::compare::results::Comparison;
use cpift_model::compare::{
    CompareOptions, Measuring, Prepared, Progress, RunOptions, Selection, Unit, WorkOptions,
    compared_hub_sources, require_unused, work,
};
use cpift_model::files::write_bytes_atomically;
use cpift_model::job::ProbeLengths;
use cpift_model::recipe::{RecipeParts, Source};
use cpift_model::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::compare::{Compare, CompareUnit};
use crate::display::style::Style;
use crate::display::units::{counted, duration, percent};
use crate::display::{comparison, print, print_json, progress, tell};
use crate::interrupt;

/// Runs a comparison to its end, or to where it is stopped.
pub fn run(arguments: &Compare, threads: Option<NonZeroUsize>) -> Result<()> {
    let interrupt = interrupt::install("stopping after this step with a checkpoint")?;
    let threads = threads.unwrap_or(NonZeroUsize::MIN);
    let recipe = &arguments.recipe;
    let mut source = Source::read(&recipe.path, &recipe.overrides)?;
    let out = arguments.out.clone().unwrap_or_else(|| default_folder(&recipe.path));
    if !arguments.resume {
        require_unused(&out)?;
    }
    let chosen = super::Chosen::open(&recipe.device.device, Some(threads))?;
    let pinned = if arguments.resume { compared_hub_sources(&out)? } else { Vec::new() };
    super::resolve(&mut source, RecipeParts::All, &pinned)?;
    let stop = interrupt.begin();
    let selection = Selection {
        methods: arguments.methods.clone(),
        ablations: arguments.ablations.clone(),
        rows: arguments.rows.clone(),
    };
    let lengths = probe_lengths(arguments);
    let cache = super::token_cache();
    let options = CompareOptions {
        source: &source,
        selection: &selection,
        seeds: arguments.seeds.unwrap_or(if arguments.quick { 1 } else { 3 }),
        against: arguments.against.as_deref(),
        forgetting: arguments.forgetting,
        probe_lengths: lengths.as_ref(),
        device: &recipe.device.device,
        threads,
        cache: cache.as_deref(),
    };
    let prepared = Prepared::new(&chosen.device, &options)?;
    chosen.announce();
    super::announce_ignored_fields(super::models(&source.recipe(&[])?));
    if let Some(measuring) = prepared.measuring() {
        tell(&format!("{}\n", describe(measuring)));
    }

    let mut shown = Shown::default();
    let found = prepared.run(RunOptions {
        out: &out,
        resume: arguments.resume,
        jobs: arguments.jobs.unwrap_or_else(|| default_jobs(threads)).get(),
        program: format!("cpift-engine {}", env!("CPIFT_VERSION")),
        command: interrupt::command(),
        worker: &|unit| unit_command(arguments, &out, unit, threads),
        stop: &stop,
        observer: &mut |progress| shown.update(progress),
    })?;
    drop(shown);
    finish(arguments, &out, &found)
}

/// The lengths that probes are measured at, where that is asked for; they are checked with the recipe.
fn probe_lengths(arguments: &Compare) -> Option<ProbeLengths> {
    let Compare { probe_lengths, transplants, .. } = arguments;
    (!probe_lengths.is_empty())
        .then(|| ProbeLengths { steps: probe_lengths.clone(), transplants: transplants.clone() })
}

/// What becomes of `[evaluate]`, in a line.
fn describe(measuring: Measuring) -> String {
    match measuring {
        Measuring::LeftOut => {
            "[evaluate] is left out: without keep = \"best\" or patience it changes no result".to_owned()
        }
        Measuring::Decides { evaluations, share } => format!(
            "[evaluate] decides which weights are kept, in all runs: {} while training, at most {} more to \
             compute",
            counted(evaluations, "evaluation"),
            percent(share)
        ),
    }
}

fn finish(arguments: &Compare, out: &Path, found: &Comparison) -> Result<()> {
    write_bytes_atomically(&out.join("table.md"), comparison::markdown(found).as_bytes())?;
    if arguments.json {
        return print_json(found);
    }
    let style = Style::of(&std::io::stdout());
    let place = format!("{} {}\n", style.bold("all of it"), out.join("results.json").display());
    print(&format!("{}{place}", comparison::render(found, style)))
}

fn unit_command(arguments: &Compare, out: &Path, unit: &Unit, threads: NonZeroUsize) -> Result<Command> {
    let program = std::env::current_exe()
        .map_err(|error| Error::Job(format!("this program cannot be found to start runs: {error}")))?;
    let mut command = Command::new(program);
    command.arg("compare-unit").arg(out).arg(&unit.id);
    command.args(["--device", &arguments.recipe.device.device, "--threads", &threads.to_string()]);
    if arguments.keep_models {
        command.arg("--keep-models");
    }
    Ok(command)
}

/// One run of a comparison, in the process that the comparison started for it; false when another process works on
/// it.
pub fn run_unit(arguments: &CompareUnit, threads: Option<NonZeroUsize>) -> Result<bool> {
    let stop = interrupt::install("stopping after this step with a checkpoint")?.begin();
    let chosen = super::Chosen::open(&arguments.device.device, threads)?;
    let cache = super::token_cache();
    let options = WorkOptions {
        device: &chosen.device,
        cache: cache.as_deref(),
        keep_models: arguments.keep_models,
        stop: &stop,
        log: &mut progress::Progress::new(Style::PLAIN, false, None, Arc::clone(&stop)),
    };
    work(&arguments.folder, &arguments.id, options)
}

fn default_folder(recipe: &Path) -> PathBuf {
    let run = super::train::default_run_folder(recipe);
    let name = run.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    run.with_file_name(format!("{name}-compare"))
}

fn default_jobs(threads: NonZeroUsize) -> NonZeroUsize {
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    NonZeroUsize::new(cores.get() / threads.get()).unwrap_or(NonZeroUsize::MIN)
}

/// How far the comparison is, on standard error: a bar, or a line for every run where there is none.
#[derive(Default)]
struct Shown {
    began: bool,
    bar: Option<ProgressBar>,
}

impl Shown {
    fn update(&mut self, progress: &Progress<'_>) {
        let Progress { runs, done, jobs, .. } = *progress;
        if !std::mem::replace(&mut self.began, true) {
            self.bar = std::io::stderr().is_terminal().then(|| {
                let template = ProgressStyle::with_template("{bar:30} {msg}");
                let style = template.unwrap_or_else(|_| ProgressStyle::default_bar());
                ProgressBar::new(progress.steps).with_style(style)
            });
            let all = counted(runs as u64, "run");
            tell(&format!("{all}, {done} of them done, {jobs} side by side\n"));
            return;
        }
        let left = progress
            .seconds_left
            .map_or("time left unknown".to_owned(), |seconds| format!("{} left", duration(seconds)));
        let summary = format!("{done} of {runs} runs, {left}, {jobs} side by side");
        match (&self.bar, progress.ended) {
            (Some(bar), _) => {
                bar.set_position(progress.steps_done);
                bar.set_message(summary);
            }
            (None, Some(unit)) => tell(&format!("{summary} {}\n", unit.id)),
            (None, None) => {}
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

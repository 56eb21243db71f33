//! `train`.

use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cpift_engine::ranks::{Launcher, Place};
use cpift_engine::{Device, Ranks};
use cpift_model::job::{self, Job, JobOptions, recorded_hub_sources};
use cpift_model::progress::{Event, Observer};
use cpift_model::recipe::{RecipeParts, Source};
use cpift_model::{Error, Result, machine};

use super::Chosen;
use crate::args::Parallel;
use crate::display::progress::Progress;
use crate::display::style::Style;
use crate::display::{self, print, reports};
use crate::interrupt::Interrupt;
use crate::ranks::{Group, Member, launch};
use crate::{args, interrupt, ranks};

/// Runs a recipe to its end, or to where it is stopped; by several processes where they were started together.
pub fn run(arguments: &args::Train, threads: Option<NonZeroUsize>) -> Result<ExitCode> {
    // A probe apart is made by one process, whatever started it.
    let device = arguments.recipe.device.device.as_str();
    let member = Member::of_environment(device).filter(|_| arguments.probe.is_none());
    match (member, arguments.gpus) {
        (Some(member), Some(_)) if member.place.launcher != Launcher::Own => {
            let reason = format!("starts processes itself, and {} has", member.place.launcher.name());
            Err(Error::setting("--gpus", reason))
        }
        (Some(member), _) => run_with_others(&member, arguments, threads),
        (None, Some(gpus @ 2..)) => {
            if !matches!(device, "auto" | "cuda") {
                let reason = format!(
                    "is {gpus}, one process for each of the GPUs 0, 1, …, and the device is {device}"
                );
                return Err(Error::setting("--gpus", reason));
            }
            launch::run(gpus)
        }
        (None, gpus) => {
            let interrupt = interrupt::install(STOPPING)?;
            let device = if gpus.is_some() && device == "auto" { "cuda" } else { device };
            let open = || Chosen::open(device, threads).map_err(Error::from);
            let work = Work {
                probe: arguments.probe.as_deref(),
                resume: arguments.resume,
                ranks: None,
                interrupt: &interrupt,
                is_silent: false,
            };
            train(read(arguments)?, arguments, open, &work)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn run_with_others(
    member: &Member,
    arguments: &args::Train,
    threads: Option<NonZeroUsize>,
) -> Result<ExitCode> {
    let group = Group::join(member)?;
    // A signal that reaches all is rank 0's to act on, but while each trains a probe of its own.
    let interrupt = match member.place.rank {
        0 => interrupt::install(STOPPING)?,
        _ => interrupt::install_silently()?,
    };
    let begun = read(arguments).and_then(|source| {
        if !arguments.resume && member.place.rank == 0 {
            job::require_unused(&out_folder(arguments))?;
        }
        Ok((source, group.gpu()?))
    });
    let (source, gpu) = match group.agree(begun, Source::to_text) {
        Ok(agreed) => agreed,
        Err(code) => return group.leave(Ok(code)),
    };
    let name = match arguments.recipe.device.device.as_str() {
        "auto" => "cpu",
        name => name,
    };
    let started = group.guard(|| -> Result<_> {
        let device = gpu.map_or_else(|| Device::from_name(name, threads), Ok)?;
        let has_probes = make_probes(member, &source, arguments, &device, &interrupt)?;
        group.wait()?;
        Ok((group.ranks(&device)?, device, has_probes))
    });
    let (ranks, device, has_probes) = match started {
        Ok(started) => started,
        Err(error) => return group.leave(Err(error)),
    };
    let worked = group.guard(|| match member.place.rank {
        0 => {
            let resume = arguments.resume || has_probes;
            let work =
                Work { probe: None, resume, ranks: Some(&ranks), interrupt: &interrupt, is_silent: false };
            train(source, arguments, || Ok(Chosen::of(device)), &work).map(|()| ExitCode::SUCCESS)
        }
        _ => ranks::work(&device, &ranks),
    });
    if worked.as_ref().err().is_none_or(|error| matches!(error, Error::Interrupted { .. })) {
        // While all are there. After a failure a device may wait for the others without end.
        drop(ranks);
    }
    group.leave(worked)
}

/// Makes this process's share of the probes, where they are shared by tasks; whether they are.
fn make_probes(
    member: &Member,
    source: &Source,
    arguments: &args::Train,
    device: &Device,
    interrupt: &Interrupt,
) -> Result<bool> {
    if arguments.parallel == Parallel::Rows {
        return Ok(false);
    }
    let Place { rank, size, .. } = member.place;
    let tasks = job::probed_tasks(&source.recipe(&[])?);
    let least = if arguments.parallel == Parallel::Auto { size } else { 1 };
    if tasks.len() < least {
        return Ok(false);
    }
    for name in tasks.iter().skip(rank).step_by(size) {
        let work =
            Work { probe: Some(name), resume: arguments.resume, ranks: None, interrupt, is_silent: rank > 0 };
        train(source.clone(), arguments, || Ok(Chosen::of(device.clone())), &work)?;
    }
    Ok(true)
}

/// What the first signal says.
const STOPPING: &str = "stopping after this step with a checkpoint";

/// The recipe, as the command line has it.
fn read(arguments: &args::Train) -> Result<Source> {
    let mut overrides = arguments.recipe.overrides.clone();
    if arguments.tensorboard {
        overrides.push("metrics.tensorboard=true".to_owned());
    }
    Source::read(&arguments.recipe.path, &overrides)
}

/// What a process does of a run.
struct Work<'a> {
    /// The probe of this task alone.
    probe: Option<&'a str>,
    resume: bool,
    /// With whom, as rank 0.
    ranks: Option<&'a Ranks>,
    interrupt: &'a Interrupt,
    /// Another process speaks.
    is_silent: bool,
}

fn train(
    mut source: Source,
    arguments: &args::Train,
    open: impl FnOnce() -> Result<Chosen>,
    work: &Work<'_>,
) -> Result<()> {
    let out = out_folder(arguments);
    // What is cheap to check is checked before anything is fetched.
    let continues = work.resume || work.probe.is_some();
    match continues {
        true => job::require_run_or_unused(&out)?,
        false => job::require_unused(&out)?,
    }
    let chosen = open()?;
    // What is continued is continued with the same model and data, even where the hub has others by now.
    let pinned = if continues { recorded_hub_sources(&out)? } else { Vec::new() };
    super::resolve(&mut source, RecipeParts::All, &pinned)?;
    let recipe = source.recipe(&[])?;
    let job = super::with_preparation(|preparation| {
        let options = JobOptions {
            recipe: &recipe,
            out: &out,
            resume: work.resume,
            until: arguments.until.filter(|_| work.probe.is_none()),
            probe: work.probe,
            probes: None,
            study: None,
            preparation,
            ranks: work.ranks,
        };
        Job::prepare(&chosen.device, &options)
    })?;
    // Of several processes that share the probes one says at the end what was made.
    let is_told = arguments.probe.is_some();
    if let (Some(name), Some(folder)) = (work.probe, job.made_probe()?) {
        if !is_told {
            return Ok(());
        }
        let there = format!("the probe of {name} is there already: {}\n", folder.display());
        return print(&format!("{there}{}", after_probe(&job, Style::of(&std::io::stdout()))));
    }
    job.check_memory()?;
    let stop = work.interrupt.begin();
    if work.is_silent {
        return job.run(&mut Quiet { stop }).map(drop);
    }
    super::announce_ignored_fields(super::models(&recipe));
    if work.probe.is_none() && work.ranks.is_none() {
        display::notices(ranks::notice(&arguments.recipe.device.device).iter());
    }
    let rate = machine::matmul_rate(&chosen.device, job.compute())?;
    let stderr = std::io::stderr();
    let mut progress = Progress::new(Style::of(&stderr), stderr.is_terminal(), Some(rate), stop)
        .with_notice(chosen.notice());
    let report = job.run(&mut progress)?;
    drop(progress);
    if work.probe.is_some() && !is_told {
        return Ok(());
    }
    let style = Style::of(&std::io::stdout());
    let scores = reports::scores(&report, style);
    let ending = match work.probe {
        Some(name) => format!("the probe of {name} is made\n{}", after_probe(&job, style)),
        None => reports::ending(&report, &out, style),
    };
    print(&format!("\n{scores}{ending}"))
}

/// The job of a process that leaves the terminal to another.
struct Quiet {
    stop: Arc<AtomicBool>,
}

impl Observer for Quiet {
    fn event(&mut self, _: Event<'_>) {}

    fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

fn out_folder(arguments: &args::Train) -> PathBuf {
    arguments.out.clone().unwrap_or_else(|| default_run_folder(&arguments.recipe.path))
}

/// What is left to do of stage 1, and what to run when all is done.
fn after_probe(job: &Job, style: Style) -> String {
    let (missing, command) = (job.missing_probes(), interrupt::command_without_probe());
    let text = match missing.is_empty() {
        true => format!("all probes of the run are there; go on with\n  {command}"),
        false => format!(
            "missing: {} (--probe NAME makes one); when all are there, or to train what is missing in one process\n  {command}",
            missing.join(", ")
        ),
    };
    format!("{}\n", style.dim(text))
}

/// `runs/NAME`: the recipe's file name without its ending, or the name of its folder when the file has the
/// name that says nothing, recipe.toml.
pub fn default_run_folder(recipe: &Path) -> PathBuf {
    let absolute = std::path::absolute(recipe).unwrap_or_else(|_| recipe.to_owned());
    let stem = absolute.file_stem().filter(|stem| *stem != "recipe");
    let folder = absolute.parent().and_then(Path::file_name);
    Path::new("runs").join(stem.or(folder).unwrap_or("run".as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_folders_are_named_after_their_recipe() {
        assert_eq!(default_run_folder(Path::new("a/b/lora.toml")), Path::new("runs/lora"));
        assert_eq!(default_run_folder(Path::new("examples/seesaw/recipe.toml")), Path::new("runs/seesaw"));
    }
}

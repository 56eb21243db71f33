//! `train`.

use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cpift_engine::{Device, Ranks};
use cpift_model::job::{self, Job, JobOptions, recorded_hub_sources};
use cpift_model::recipe::{RecipeParts, Source};
use cpift_model::{Error, Result, machine};

use crate::display::progress::Progress;
use crate::display::style::Style;
use crate::display::{self, print, reports};
use crate::interrupt::Interrupt;
use crate::ranks::Group;
use crate::{args, interrupt, ranks};

/// Runs a recipe to its end, or to where it is stopped; by several processes where they were started together.
pub fn run(arguments: &args::Train, threads: Option<NonZeroUsize>) -> Result<ExitCode> {
    // A probe apart is made by one process, whatever started it.
    let Some(place) = ranks::place().filter(|_| arguments.probe.is_none()) else {
        let interrupt = interrupt::install(STOPPING)?;
        train(read(arguments)?, arguments, threads, interrupt, None)?;
        return Ok(ExitCode::SUCCESS);
    };
    let group = Group::join(&place)?;
    // A signal that reaches all is rank 0's to act on.
    let interrupt = match place.rank {
        0 => Some(interrupt::install(STOPPING)?),
        _ => interrupt::leave_to_others().map(|()| None)?,
    };
    let source = match group.agree(read(arguments), Source::to_text) {
        Ok(source) => source,
        Err(code) => return group.leave(Ok(code)),
    };
    let worked = match interrupt {
        Some(interrupt) => {
            train(source, arguments, threads, interrupt, Some(group.ranks())).map(|()| ExitCode::SUCCESS)
        }
        None => Device::cpu(threads).map_err(Error::from).and_then(|cpu| ranks::work(&cpu, group.ranks())),
    };
    group.leave(worked)
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

fn train(
    mut source: Source,
    arguments: &args::Train,
    threads: Option<NonZeroUsize>,
    interrupt: Interrupt,
    ranks: Option<&Ranks>,
) -> Result<()> {
    let out = arguments.out.clone().unwrap_or_else(|| default_run_folder(&arguments.recipe.path));
    // What is cheap to check is checked before anything is fetched.
    let continues = arguments.resume || arguments.probe.is_some();
    match continues {
        true => job::require_run_or_unused(&out)?,
        false => job::require_unused(&out)?,
    }
    let chosen = match (ranks, arguments.recipe.device.device.as_str()) {
        // Ranks train on CPUs.
        (Some(_), "auto") => super::Chosen::open("cpu", threads)?,
        (_, device) => super::Chosen::open(device, threads)?,
    };
    // What is continued is continued with the same model and data, even where the hub has others by now.
    let pinned = if continues { recorded_hub_sources(&out)? } else { Vec::new() };
    super::resolve(&mut source, RecipeParts::All, &pinned)?;
    let recipe = source.recipe(&[])?;
    let job = super::with_preparation(|preparation| {
        let options = JobOptions {
            recipe: &recipe,
            out: &out,
            resume: arguments.resume,
            until: arguments.until,
            probe: arguments.probe.as_deref(),
            probes: None,
            pairs: None,
            preparation,
            ranks,
        };
        Job::prepare(&chosen.device, &options)
    })?;
    if let (Some(name), Some(folder)) = (&arguments.probe, job.made_probe()?) {
        let there = format!("the probe of {name} is there already: {}\n", folder.display());
        return print(&format!("{there}{}", after_probe(&job, Style::of(&std::io::stdout()))));
    }
    job.check_memory()?;
    super::announce_ignored_fields(super::models(&recipe));
    display::notices(ranks::notice().filter(|_| arguments.probe.is_none()).iter());
    let rate = machine::matmul_rate(&chosen.device, job.compute())?;
    let stderr = std::io::stderr();
    let mut progress = Progress::new(Style::of(&stderr), stderr.is_terminal(), Some(rate), interrupt.begin())
        .with_notice(chosen.notice());
    let report = job.run(&mut progress)?;
    drop(progress);
    let style = Style::of(&std::io::stdout());
    let scores = reports::scores(&report, style);
    let ending = match &arguments.probe {
        Some(name) => format!("the probe of {name} is made\n{}", after_probe(&job, style)),
        None => reports::ending(&report, &out, style),
    };
    print(&format!("\n{scores}{ending}"))
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

//! `train`.

use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use cpift_model::job::{self, Job, JobOptions, recorded_hub_sources};
use cpift_model::recipe::{RecipeParts, Source};
use cpift_model::{Result, machine};

use crate::display::progress::Progress;
use crate::display::style::Style;
use crate::display::{print, reports};
use crate::{args, interrupt};

/// Runs a recipe to its end, or to where it is stopped.
pub fn run(arguments: &args::Train, threads: Option<NonZeroUsize>) -> Result<()> {
    let interrupt = interrupt::install("stopping after this step with a checkpoint")?;
    let mut overrides = arguments.recipe.overrides.clone();
    if arguments.tensorboard {
        overrides.push("metrics.tensorboard=true".to_owned());
    }
    let mut source = Source::read(&arguments.recipe.path, &overrides)?;
    let out = arguments.out.clone().unwrap_or_else(|| default_run_folder(&arguments.recipe.path));
    // What is cheap to check is checked before anything is fetched.
    match arguments.resume {
        true => job::require_run_or_unused(&out)?,
        false => job::require_unused(&out)?,
    }
    let chosen = super::Chosen::open(&arguments.recipe.device.device, threads)?;
    // What is continued is continued with the same model and data, even where the hub has others by now.
    let pinned = if arguments.resume { recorded_hub_sources(&out)? } else { Vec::new() };
    super::resolve(&mut source, RecipeParts::All, &pinned)?;
    let recipe = source.recipe(&[])?;
    let job = super::with_preparation(|preparation| {
        let options = JobOptions {
            recipe: &recipe,
            out: &out,
            resume: arguments.resume,
            until: arguments.until,
            probes: None,
            pairs: None,
            preparation,
        };
        Job::prepare(&chosen.device, &options)
    })?;
    job.check_memory()?;
    super::announce_ignored_fields(super::models(&recipe));
    let rate = machine::matmul_rate(&chosen.device, job.compute())?;
    let stderr = std::io::stderr();
    let mut progress = Progress::new(Style::of(&stderr), stderr.is_terminal(), Some(rate), interrupt.begin())
        .with_notice(chosen.notice());
    let report = job.run(&mut progress)?;
    drop(progress);
    let style = Style::of(&std::io::stdout());
    print(&format!("\n{}{}", reports::scores(&report, style), reports::ending(&report, &out, style)))
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

//! The whole job: a recipe in, a run folder with a better model out.
//!
//! [`Job::prepare`] makes every check that can be made before the first step; [`Job::run`] then goes
//! through the stages. Each stage appears in the run folder whole or not at all, and a job prepared with
//! `resume` continues after the last whole one, inside a fine-tune from its newest checkpoint, to the
//! same final bits as a run that was never interrupted.

mod baseline;
mod card;
mod cores;
mod cpift;
mod data;
mod disk;
mod folder;
mod identity;
mod input_role;
mod inputs;
mod measured;
mod memory;
mod model_files;
mod models;
pub(crate) mod names;
mod pairs;
mod plan;
mod probe_lengths;
mod probe_run;
mod ranks;
mod record;
mod removed_probes;
mod sampled;
mod seal;
mod session;
mod stage_memory;
mod state;
mod study;
mod take_over;
mod training;
mod trainings;
mod weights;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use cpift_engine::{Device, Ranks};

use crate::data::Preparation;
use crate::error::{Error, Result};
use crate::files::{self, FolderLock, KnownFiles, Origin};
use crate::progress::{Event, JobReport, Observer, Plan};
use crate::recipe::{Method, Recipe, Stage};
use crate::state_type::StateType;
use crate::transformer::ComputeType;
pub(crate) use cores::SavedCores;
pub use data::{RecipeData, TaskData};
pub use folder::RunFolder;
use identity::RunIdentity;
pub use input_role::{InputRole, Split, UnknownRole};
use inputs::Inputs;
pub use memory::check_memory;
use names::{FINAL, RECIPE, origin_of, probe_place};
pub use pairs::PairMethod;
use plan::Steps;
pub use probe_lengths::{LengthReport, ProbeLengths, TransplantLoss, length_scores};
use probe_run::ProbeRun;
pub use record::{InputFile, recorded_hub_sources};
pub(crate) use seal::{read as read_sealed, write as write_sealed};
use session::Session;
pub use study::Study;
pub use trainings::probed_tasks;

/// What a job is made from.
#[derive(Debug, Clone, Copy)]
pub struct JobOptions<'a> {
    /// The recipe, paths absolute or relative to the working folder.
    pub recipe: &'a Recipe,
    /// The run folder.
    pub out: &'a Path,
    /// Continue what is in the run folder.
    pub resume: bool,
    /// End after this stage.
    pub until: Option<Stage>,
    /// Make the probe of the task of this name and nothing else, beside other processes that make others of the same run:
    /// that is gone on with when all are there. What such a process has begun of the probe is always continued.
    pub probe: Option<&'a str>,
    /// Another run, of the same base, tasks and seed, whose probes and measurements of them and of the base are
    /// taken over.
    pub probes: Option<&'a Path>,
    /// What to do instead of the recipe's method.
    pub study: Option<&'a Study>,
    /// Where tokenized data is kept between runs, and who is told how far its making is.
    pub preparation: Preparation<'a>,
    /// The ranks that train together, of which this is rank 0; none where it is alone. The others
    /// [work](crate::trainer::work) for it.
    pub ranks: Option<&'a Ranks>,
}

/// A job whose inputs are open and checked.
pub struct Job {
    recipe: Recipe,
    /// The same as TOML, with every default filled in: written to the run folder, and compared on resume.
    recipe_text: String,
    /// The folder that the job works in: the run folder, or that of its probe.
    out: PathBuf,
    resume: bool,
    until: Option<Stage>,
    study: Option<Study>,
    /// The probe that the job makes, where it makes one alone.
    probe_run: Option<ProbeRun>,
    device: Device,
    inputs: Inputs,
    identity: RunIdentity,
    /// Files whose content has been looked at, which must stay what it was.
    known: KnownFiles,
    /// The files the job reads; they are hashed when a run begins or is continued.
    files: OnceLock<Vec<InputFile>>,
    /// The run folder, held from the start where a run was begun in it, else from when this one begins.
    lock: OnceLock<FolderLock>,
    steps: Steps,
    /// What the job computes in.
    compute: ComputeType,
    /// How the optimizer's state is kept.
    state: StateType,
    /// Most tokens of a micro-batch.
    max_tokens: usize,
    /// Whether the probes stay when all is made of them.
    keeps_probes: bool,
    /// What the job does.
    plan: Plan,
    /// What the run does that it is a part of.
    run_plan: Plan,
    /// Who trains with this process.
    ranks: Ranks,
}

impl Job {
    /// Opens and checks everything; reads no weights and writes nothing but the token cache.
    ///
    /// # Errors
    /// Whatever is wrong with recipe, model, data or run folder, by key, file or line.
    pub fn prepare(device: &Device, options: &JobOptions<'_>) -> Result<Self> {
        let recipe = options.recipe;
        let recipe_text = recipe.to_toml()?;
        let probe_run = options.probe.map(|name| ProbeRun::new(recipe, options.out, name)).transpose()?;
        let resume = options.resume || probe_run.is_some();
        match resume {
            true => require_run_or_unused(options.out)?,
            false => require_unused(options.out)?,
        }
        // Another process that works there is told of before anything is read and hashed.
        let lock = match &probe_run {
            Some(probe) => probe.lock_again().map(|()| OnceLock::new())?,
            None => FolderLock::take_again(options.out)?.map(OnceLock::from).unwrap_or_default(),
        };
        let begun = if resume { RunIdentity::read(options.out)? } else { None };
        if let Some(begun) = &begun {
            // What the recipe says is compared before it is opened; what `auto` stands for follows from that.
            check_earlier(options.out, &recipe_text, &RunIdentity::of(recipe, options.study, begun.state)?)?;
        }
        if let (Some(stage), true) = (options.until, recipe.method != Method::Cpift) {
            let reason = format!("ends after stage `{}`, which only the method `cpift` has", stage.name());
            return Err(Error::setting("--until", reason));
        }
        let compute = recipe.model.precision.on("model.precision", device)?;
        if let Some(study) = options.study {
            study.check(recipe)?;
        }
        let ranks = options.ranks.cloned().unwrap_or_default();
        ranks::check(recipe, ranks.size())?;
        if probe_run.is_some() && ranks.size() > 1 {
            let reason = format!("is made by one process, not by {} ranks", ranks.size());
            return Err(Error::setting("--probe", reason));
        }
        let (known, mut files) = (KnownFiles::default(), OnceLock::new());
        let inputs = device.scope(|| Inputs::open(recipe, &options.preparation, options.probes, &known))?;
        if resume {
            let now = device.scope(|| record::describe_all(recipe, &inputs, &known))?;
            record::check(options.out, &now)?;
            files = now.into();
        }
        let steps = Steps::count(recipe, &inputs)?;
        let max_tokens = plan::max_tokens(recipe, &inputs)?;
        let begun = begun.map(|begun| begun.state);
        let mut run_plan = memory::choose_saving(recipe, begun, device, ranks.size(), |saving| {
            plan::plan(recipe, &inputs, &steps, device, compute, saving, max_tokens)
        })?;
        // One that makes a probe alone removes none.
        let keeps_probes =
            probe_run.is_some() || plan::decide_on_probes(recipe, &inputs, options.out, &mut run_plan)?;
        let plan = match &probe_run {
            Some(probe) => plan::plan_of_probe(&run_plan, recipe, &inputs, probe.task),
            None => run_plan.clone(),
        };
        let identity = RunIdentity::of(recipe, options.study, plan.state)?;
        Ok(Self {
            recipe: recipe.clone(),
            recipe_text,
            out: probe_run.as_ref().map_or(options.out, |probe| &probe.work).to_owned(),
            resume,
            until: options.until,
            study: options.study.cloned(),
            probe_run,
            device: device.clone(),
            inputs,
            identity,
            known,
            files,
            lock,
            steps,
            compute,
            state: plan.state,
            max_tokens,
            keeps_probes,
            plan,
            run_plan,
            ranks,
        })
    }

    /// The files the job reads, by content.
    fn files(&self) -> Result<&[InputFile]> {
        if self.files.get().is_none() {
            let found =
                self.device.scope(|| record::describe_all(&self.recipe, &self.inputs, &self.known))?;
            // Nobody else sets it in between.
            let _ = self.files.set(found);
        }
        Ok(self.files.get().map_or(&[], Vec::as_slice))
    }

    /// The folder of the run that the job makes or is a part of.
    fn run_folder(&self) -> &Path {
        self.probe_run.as_ref().map_or(&self.out, |probe| &probe.run)
    }

    /// The tasks that the job is about.
    fn worked_on(&self) -> Vec<usize> {
        self.probe_run.as_ref().map_or_else(|| self.inputs.all_tasks(), |probe| vec![probe.task])
    }

    /// Makes the folder that the job works in and holds it, until the job is dropped.
    fn enter_folder(&self) -> Result<()> {
        if let Some(probe) = &self.probe_run {
            return probe.enter(self, &self.run_plan);
        }
        files::require_writable(&self.out)?;
        if self.lock.get().is_none() {
            // Nobody else sets it in between.
            let _ = self.lock.set(FolderLock::take(&self.out)?);
        }
        Ok(())
    }

    /// What the probe of a task is, in this run or in another that has the same.
    fn probe_origin(&self, task: usize) -> Result<Origin> {
        let identity = identity::of_probe(&self.recipe, task, self.steps.probe, self.state, self.files()?)?;
        Ok(origin_of(&identity, &probe_place(&self.inputs.tasks[task].name)))
    }

    /// Fails unless the run folder, which this process has locked, is still as [`Job::prepare`] found it: another
    /// process may have begun a run there since.
    fn check_locked_folder(&self) -> Result<()> {
        if self.resume {
            require_run_or_unused(&self.out)?;
            check_earlier(&self.out, &self.recipe_text, &self.identity)?;
            require_state(&self.out, &self.identity)?;
            record::check(&self.out, self.files()?)
        } else {
            require_unused(&self.out)
        }
    }

    /// What the job will do.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What the job computes in.
    pub fn compute(&self) -> ComputeType {
        self.compute
    }

    /// Fails when the job needs more memory than the device and the host have, before any of it is taken.
    ///
    /// # Errors
    /// Saying what to lower.
    pub fn check_memory(&self) -> Result<()> {
        memory::check_memory(&self.plan, &self.device)
    }

    /// Runs the job to its end, or to the stage it is to end after.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when the observer asked to stop (everything is saved), or what went wrong;
    /// stages that were complete stay as they are.
    pub fn run(&self, observer: &mut dyn Observer) -> Result<JobReport> {
        if let (Some(probe), Some(_)) = (&self.probe_run, self.made_probe()?) {
            return self.report_made_probe(probe, observer);
        }
        self.check_memory()?;
        let run = self.run_folder();
        let is_new = !run.exists();
        let without_probes = plan::most_of(&disk::stage_disk(&self.recipe, &self.inputs, self.state, false));
        match &self.probe_run {
            Some(probe) => probe.check_folder(&self.plan)?,
            None => plan::check_run_folder(run, &self.plan, without_probes)?,
        }
        let session = Session::open(self, observer).inspect_err(|_| {
            if is_new {
                // Only an empty folder goes: one in which nothing has begun.
                let _ = std::fs::remove_dir(run);
            }
        });
        let mut session =
            session.map_err(|error| memory::explain_out_of_memory(error, &self.plan, &self.device))?;
        session.observer.event(Event::Started(&self.plan));
        session.show_samples();
        if self.probe_run.is_none() {
            session.take_over_probe_runs()?;
        }
        let report = match (&self.probe_run, &self.study, self.recipe.method) {
            (Some(probe), ..) => session.run_one_probe(probe.task),
            (None, Some(Study::Pairs(method)), _) => session.run_pairs(*method),
            (None, Some(Study::ProbeLengths(lengths)), _) => session.run_probe_lengths(lengths),
            (None, None, Method::Cpift) => session.run_cpift(),
            (None, None, _) => session.run_baseline(),
        };
        if matches!(report, Ok(_) | Err(Error::Interrupted { .. })) {
            session.trainer.end()?;
        }
        let report =
            report.map_err(|error| memory::explain_out_of_memory(error, &self.plan, &self.device))?;
        // Its files are closed before its folder may get another name.
        drop(session);
        self.probe_run.as_ref().map_or(Ok(()), ProbeRun::publish)?;
        observer.event(Event::Finished(&report));
        Ok(report)
    }
}

/// What a job made from `recipe` would do with so many ranks; checks all that [`Job::prepare`] does but for the run folder,
/// and reads the models' weights once, for those that training would refuse.
///
/// # Errors
/// As [`Job::prepare`]; a weight is NaN or infinite.
pub fn plan_recipe(
    device: &Device,
    recipe: &Recipe,
    preparation: &Preparation<'_>,
    ranks: usize,
) -> Result<Plan> {
    ranks::check(recipe, ranks)?;
    Planner::open(device, recipe, preparation)?.plan(recipe, ranks)
}

/// What [`plan_recipe`] reads, for the plans of several recipes of the same model, tasks and files.
pub(crate) struct Planner<'a> {
    device: &'a Device,
    compute: ComputeType,
    inputs: Inputs,
}

impl<'a> Planner<'a> {
    /// Opens what `recipe` names, and reads the models' weights once.
    ///
    /// # Errors
    /// As [`plan_recipe`].
    pub fn open(device: &'a Device, recipe: &Recipe, preparation: &Preparation<'_>) -> Result<Self> {
        let compute = recipe.model.precision.on("model.precision", device)?;
        let inputs = device.scope(|| Inputs::open(recipe, preparation, None, &KnownFiles::default()))?;
        device.scope(|| inputs.check_weights())?;
        Ok(Self { device, compute, inputs })
    }

    /// What a job made from `recipe` would do.
    ///
    /// # Errors
    /// As [`plan_recipe`].
    pub fn plan(&self, recipe: &Recipe, ranks: usize) -> Result<Plan> {
        let Self { device, compute, inputs } = self;
        let steps = Steps::count(recipe, inputs)?;
        let max_tokens = plan::max_tokens(recipe, inputs)?;
        memory::choose_saving(recipe, None, device, ranks, |saving| {
            plan::plan(recipe, inputs, &steps, device, *compute, saving, max_tokens)
        })
    }
}

/// Every file that a job made from `recipe` reads, with the BLAKE3 hash of its content in hexadecimal.
///
/// # Errors
/// As [`Job::prepare`], or a file cannot be read.
pub fn input_files(
    device: &Device,
    recipe: &Recipe,
    preparation: &Preparation<'_>,
) -> Result<Vec<(PathBuf, String)>> {
    device.scope(|| {
        let known = KnownFiles::default();
        let inputs = Inputs::open(recipe, preparation, None, &known)?;
        let files = record::describe_all(recipe, &inputs, &known)?;
        let mut found: Vec<(PathBuf, String)> = Vec::with_capacity(files.len());
        for file in files {
            if !found.iter().any(|(path, _)| *path == file.path) {
                found.push((file.path, file.blake3));
            }
        }
        Ok(found)
    })
}

/// Fails when a run cannot begin in a folder because there is something in it.
///
/// # Errors
/// Naming the folder and what to do.
pub fn require_unused(out: &Path) -> Result<()> {
    files::require_unused(out).map_err(|error| match out.is_dir() {
        // What the folder holds cannot be seen, or it is none.
        _ if !matches!(error, Error::Format { .. }) => error,
        true if folder::holds_a_run(out) => Error::format(
            out,
            "already holds a run: continue it with --resume, or name another folder with --out",
        ),
        true => Error::format(out, NO_RUN),
        false => error,
    })
}

/// Why a run neither begins nor continues in a folder of other files: it would be mixed with them, and a recipe.toml
/// of theirs be replaced.
const NO_RUN: &str = "holds files that are no run; choose another --out";

/// Fails when a folder holds other files than those of a run: nothing there can be continued.
///
/// # Errors
/// Naming the folder and what to do.
pub fn require_run_or_unused(out: &Path) -> Result<()> {
    match out.is_dir() && folder::holds_a_run(out) {
        true => Ok(()),
        false => require_unused(out),
    }
}

/// Fails where the run's state is kept otherwise than `auto` stands for here: another process was faster to begin it.
fn require_state(run: &Path, now: &RunIdentity) -> Result<()> {
    match RunIdentity::read(run)? {
        Some(begun) if begun.state != now.state => {
            let reason = "another process has just begun this run, and keeps the optimizer's state otherwise \
                          (train.memory = \"auto\"): run the same command again";
            Err(Error::format(run, reason))
        }
        _ => Ok(()),
    }
}

/// Fails when the run folder holds another run than one that this recipe continues. Where the record of the settings
/// is lost, what is there of the run says itself whether it belongs to this one.
fn check_earlier(out: &Path, recipe_text: &str, now: &RunIdentity) -> Result<()> {
    let path = out.join(RECIPE);
    let Some(earlier) = RunIdentity::read(out)? else { return Ok(()) };
    if earlier.recipe != now.recipe {
        // Where another process has just begun the run, it is not there yet.
        let text = if path.exists() { files::read_text(&path)? } else { String::new() };
        return Err(identity::different_recipe(&path, &text, recipe_text));
    }
    let model = out.join(FINAL);
    if earlier.dtype != now.dtype && model.exists() {
        let reason = format!(
            "cannot be changed any more: {} is written; undo the change, or start a new run",
            model.display()
        );
        return Err(Error::setting("model.dtype", reason));
    }
    Ok(())
}

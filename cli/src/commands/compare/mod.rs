//! `compare`: what is to be run, and the table of what came out.

mod schedule;
mod unit;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use cpift_model::compare::results::{BudgetSteps, Comparison, InputHash, Origin};
use cpift_model::compare::{Collection, ComparisonFolder, Row, Selection, Subject, Unit, collect, rows};
use cpift_model::files::{write_bytes_atomically, write_json_atomically};
use cpift_model::job::{Way, input_files, plan_recipe};
use cpift_model::progress::Plan;
use cpift_model::settings::{Stage, TrainSettings};
use cpift_model::{Error, Result};

use crate::args::compare::Compare;
use crate::display::style::Style;
use crate::display::{comparison, print, print_json};
use crate::interrupt;
use crate::recipe::{self, Loaded};

pub use unit::{BUSY, run as run_unit};

/// Runs a comparison to its end, or to where it is stopped.
pub fn run(arguments: &Compare, threads: Option<NonZeroUsize>) -> Result<()> {
    let stop = interrupt::install("stopping after this step with a checkpoint")?.begin();
    let threads = threads.unwrap_or(NonZeroUsize::MIN);
    let path = &arguments.recipe.path;
    let Loaded { recipe, text } = resolve(arguments, &[])?;
    check_tasks(&recipe)?;
    let chosen = super::Chosen::open(&arguments.recipe.device.device, Some(threads))?;
    let cache = super::token_cache();
    let planned = plan_recipe(&chosen.device, &recipe, cache.as_deref())?;
    let steps = budget_steps(&planned);
    let selection = Selection { methods: arguments.methods.clone(), ablations: arguments.ablations.clone() };
    let rows = rows(&recipe, steps, &selection)?;
    let count = arguments.seeds.unwrap_or(if arguments.quick { 1 } else { 3 });
    let seeds: Vec<u64> = (0..count).map(|index| recipe.seed.wrapping_add(index)).collect();

    let root = recipe_folder(path);
    let inputs = input_files(&chosen.device, &recipe, cache.as_deref())?;
    let subject = Subject {
        recipe: text.replace(&root, ""),
        inputs: inputs
            .into_iter()
            .map(|(file, blake3)| InputHash { file: file.display().to_string().replace(&root, ""), blake3 })
            .collect(),
        device: arguments.recipe.device.device.clone(),
        threads: threads.get(),
    };
    let subject_text = subject_text(&subject)?;
    let mut work = Work { arguments, root, subject_text, units: Vec::new(), probes: BTreeMap::new() };
    let collection = work.plan(rows, &seeds, steps)?;
    chosen.announce();

    let out = arguments.out.clone().unwrap_or_else(|| default_folder(path));
    let folder = ComparisonFolder::open(&out, &subject, arguments.resume)?;
    work.units.iter().try_for_each(|unit| folder.write_unit(unit))?;
    let jobs = arguments.jobs.unwrap_or_else(|| default_jobs(threads));
    let workers = schedule::Workers {
        folder: &folder,
        jobs: jobs.get(),
        threads,
        device: &arguments.recipe.device.device,
        keep_models: arguments.keep_models,
        stop,
    };
    workers.run(&work.units)?;

    let origin = origin(&planned, subject, jobs.get());
    let tasks = recipe.task.iter().map(|task| task.name.clone()).collect();
    let found = collect(&folder, Collection { origin, tasks, ..collection })?;
    finish(arguments, &folder, &found)
}

fn finish(arguments: &Compare, folder: &ComparisonFolder, found: &Comparison) -> Result<()> {
    write_json_atomically(&folder.root().join("results.json"), found)?;
    let table = comparison::markdown(found);
    write_bytes_atomically(&folder.root().join("table.md"), table.as_bytes())?;
    if arguments.json {
        return print_json(found);
    }
    let style = Style::of(&std::io::stdout());
    let place = format!("{} {}\n", style.bold("all of it"), folder.root().join("results.json").display());
    print(&format!("{}{place}", comparison::render(found, style)))
}

/// The recipe with these settings; the method is `cpift` unless they name another.
fn resolve(arguments: &Compare, settings: &[String]) -> Result<Loaded> {
    let mut overrides = arguments.recipe.overrides.clone();
    overrides.push("method=cpift".to_owned());
    overrides.extend_from_slice(settings);
    recipe::load(&arguments.recipe.path, &overrides)
}

fn check_tasks(recipe: &cpift_model::Recipe) -> Result<()> {
    if recipe.task.len() < 2 {
        return Err(Error::setting("task", "a comparison needs at least two tasks"));
    }
    match recipe.task.iter().find(|task| task.eval.is_none()) {
        Some(task) => {
            let key = format!("task.{}.eval", task.name);
            Err(Error::setting(key, "is missing: a comparison measures every task on rows of its own"))
        }
        None => Ok(()),
    }
}

/// Steps of the specialists, and of what follows them.
fn budget_steps(plan: &Plan) -> BudgetSteps {
    let probes = plan.trainings.iter().filter(|training| training.title.starts_with("probe "));
    let specialists: u64 = probes.clone().map(|training| training.steps).sum();
    BudgetSteps {
        specialist: probes.map(|training| training.steps).next().unwrap_or(0),
        total: plan.steps(),
        given: plan.steps() - specialists,
    }
}

/// The units of a comparison while they are being made.
struct Work<'a> {
    arguments: &'a Compare,
    /// The recipe's folder, which names of units do not depend on.
    root: String,
    /// What is the same for all units.
    subject_text: String,
    units: Vec<Unit>,
    /// What the specialists are trained with, by the name of their unit.
    probes: BTreeMap<String, TrainSettings>,
}

impl Work<'_> {
    /// Makes all units and says which row consists of which. Origin and tasks are left empty.
    fn plan(&mut self, rows: Vec<Row>, seeds: &[u64], steps: BudgetSteps) -> Result<Collection> {
        let mut rows: Vec<(Row, Vec<String>)> = rows.into_iter().map(|row| (row, Vec::new())).collect();
        let (mut specialists, mut importance, mut pairs) = (Vec::new(), Vec::new(), Vec::new());
        for &seed in seeds {
            let probes = self.specialists(seed, &[], steps.total - steps.given)?;
            for (row, units) in &mut rows {
                let probes = if row.specialist_settings.is_empty() {
                    probes.clone()
                } else {
                    let own = self.specialists(seed, &row.specialist_settings, row.specialist_steps)?;
                    let kind = row.specialist_settings[0].strip_prefix("probe.importance=");
                    if let Some(kind) = kind {
                        match importance.iter_mut().find(|(known, _)| known == kind) {
                            Some((_, ids)) => push(ids, &own),
                            None => importance.push((kind.to_owned(), vec![own.clone()])),
                        }
                    }
                    own
                };
                let unit = Unit { until: row.until, steps: row.steps, ..Unit::after(seed, &probes) };
                units.push(self.unit(&row.name, unit, &row.settings)?);
            }
            if self.arguments.forgetting {
                for way in Way::ALL {
                    let ordered = self.task_count()? as u64;
                    let unit = Unit {
                        pairs: Some(way),
                        steps: ordered * (ordered - 1) * steps.specialist,
                        ..Unit::after(seed, &probes)
                    };
                    let id = self.unit(&format!("pairs {}", way.name()), unit, &[])?;
                    match pairs.iter_mut().find(|(known, _)| *known == way) {
                        Some((_, ids)) => push(ids, &id),
                        None => pairs.push((way, vec![id])),
                    }
                }
            }
            specialists.push(probes);
        }
        let origin = Origin::default();
        let seeds = seeds.to_vec();
        Ok(Collection { origin, tasks: Vec::new(), seeds, steps, specialists, rows, importance, pairs })
    }

    fn task_count(&self) -> Result<usize> {
        Ok(resolve(self.arguments, &[])?.recipe.task.len())
    }

    fn specialists(&mut self, seed: u64, settings: &[String], steps: u64) -> Result<String> {
        let unit = Unit { until: Some(Stage::Group), probes: None, steps, ..Unit::after(seed, "") };
        self.unit("specialists", unit, settings)
    }

    /// Adds a unit, unless one that comes to the same is there; returns its name.
    fn unit(&mut self, name: &str, unit: Unit, settings: &[String]) -> Result<String> {
        let settings = [vec![format!("seed={}", unit.seed)], settings.to_vec()].concat();
        let mut loaded = resolve(self.arguments, &settings)?;
        if let Some(probes) = unit.probes.as_ref().and_then(|id| self.probes.get(id)) {
            // They are taken over: what a row changes in `[train]` does not reach them.
            loaded.recipe.probe.training = probes.clone();
            loaded.text = recipe::render(&loaded.recipe, &self.arguments.recipe.path)?;
        }
        let unit = Unit { recipe: loaded.text, ..unit }.named(name, &self.subject_text, &self.root)?;
        let id = unit.id.clone();
        if unit.is_specialists() {
            self.probes.insert(id.clone(), loaded.recipe.probe.training);
        }
        // The same work may have been given another row's name.
        match self.units.iter().find(|known| known.hash() == unit.hash() && known.seed == unit.seed) {
            Some(known) => Ok(known.id.clone()),
            None => {
                self.units.push(unit);
                Ok(id)
            }
        }
    }
}

fn push(ids: &mut Vec<String>, id: &str) {
    if ids.last().is_none_or(|last| last != id) {
        ids.push(id.to_owned());
    }
}

fn subject_text(subject: &Subject) -> Result<String> {
    // The recipe of every unit is hashed with it; the subject's own would part what is shared.
    let Subject { inputs, device, threads, .. } = subject;
    let text = serde_json::to_string(&(env!("CARGO_PKG_VERSION"), inputs, device, threads));
    text.map_err(|error| Error::Job(error.to_string()))
}

fn origin(plan: &Plan, subject: Subject, jobs: usize) -> Origin {
    Origin {
        program: format!("cpift-engine {}", env!("CPIFT_VERSION")),
        command: interrupt::command(),
        recipe: subject.recipe,
        inputs: subject.inputs,
        device: plan.device.clone(),
        threads: subject.threads,
        jobs,
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        processor: cpift_model::machine::processor(),
        parameters: plan.parameters,
    }
}

fn recipe_folder(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let folder: PathBuf = absolute.parent().unwrap_or(Path::new("/")).components().collect();
    format!("{}/", folder.display())
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

//! From a recipe and what is asked of it to the units of a comparison.

use std::num::NonZeroUsize;
use std::path::Path;

use cpift_engine::Device;

use super::collect::Collection;
use super::family::Family;
use super::folder::{ComparisonSpec, Unit};
use super::results::{BudgetSteps, Comparison, InputHash, Origin};
use super::rows::Row;
use super::selection::{Selection, rows};
use crate::data::Preparation;
use crate::error::{Error, Result};
use crate::job::{PairMethod, Planner, ProbeLengths, input_files};
use crate::machine;
use crate::progress::{Plan, TrainingKind};
use crate::recipe::{
    Backbone, Edit, EvaluateSettings, ImportanceKind, Method, Recipe, Schedule, Source, Stage, StateMemory,
};
use crate::state_type::StateType;

/// What is compared.
#[derive(Debug, Clone, Copy)]
pub struct CompareOptions<'a> {
    /// The recipe; its method and seed are set by the comparison.
    pub source: &'a Source,
    /// Which rows.
    pub selection: &'a Selection,
    /// Number of seeds, from the recipe's on.
    pub seeds: u64,
    /// Name of the row that others are compared with; `cpift` when none is chosen.
    pub against: Option<&'a str>,
    /// Also train every pair of tasks one after the other.
    pub forgetting: bool,
    /// Also measure probes at several lengths.
    pub probe_lengths: Option<&'a ProbeLengths>,
    /// The device, by the name a run can open it with.
    pub device: &'a str,
    /// Threads of every run.
    pub threads: NonZeroUsize,
    /// Folder of tokenized data that is kept between runs; none tokenizes every time.
    pub cache: Option<&'a Path>,
}

/// A comparison whose inputs are checked: all its units are known, and none is run.
#[derive(Debug)]
pub struct Prepared {
    pub(super) spec: ComparisonSpec,
    pub(super) units: Vec<Unit>,
    pub(super) collection: Collection,
    measuring: Option<Measuring>,
}

/// What becomes of a recipe's `[evaluate]` in a comparison.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Measuring {
    /// It decides nothing, and no run measures while it trains.
    LeftOut,
    /// It decides which weights are kept, and is part of every run.
    Decides {
        /// Evaluations while training in all runs.
        evaluations: u64,
        /// What they add at most to the floating-point operations of training, as a share of these.
        share: f64,
    },
}

impl Prepared {
    /// What becomes of the recipe's `[evaluate]`; none where there is none.
    pub fn measuring(&self) -> Option<Measuring> {
        self.measuring
    }

    /// Opens and checks everything; writes nothing but the token cache.
    ///
    /// # Errors
    /// Whatever is wrong with recipe, model, data or selection, by key, file or line.
    pub fn new(device: &Device, options: &CompareOptions<'_>) -> Result<Self> {
        let CompareOptions { source, threads, cache, .. } = *options;
        let recipe = source.recipe(&[Edit::Method(Method::Cpift)])?;
        check_tasks(&recipe)?;
        if let Some(lengths) = options.probe_lengths {
            lengths.check(&recipe)?;
        }
        let preparation = Preparation { cache, ..Preparation::default() };
        let (planned, memory) = {
            let planner = Planner::open(device, &recipe, &preparation)?;
            (planner.plan(&recipe, 1)?, state_of_all(&planner, source)?)
        };
        let recipe = source.recipe(&[Edit::Method(Method::Cpift), Edit::TrainMemory(memory)])?;
        let steps = budget_steps(&planned);
        let rows = rows(&recipe, steps, options.selection)?;
        check_reference(options.against, &rows)?;
        let root = format!("{}/", source.folder().display());
        let inputs = input_files(device, &recipe, &preparation)?.into_iter();
        let spec = ComparisonSpec {
            recipe: recipe.to_toml()?.replace(&root, ""),
            inputs: inputs
                .map(|(file, blake3)| InputHash {
                    file: file.display().to_string().replace(&root, ""),
                    blake3,
                })
                .collect(),
            device: options.device.to_owned(),
            threads: threads.get(),
            hub: recipe.hub.clone(),
        };
        let mut units = Units { source, root, spec: spec_text(&spec)?, memory, units: Vec::new() };
        let seeds: Vec<u64> = (0..options.seeds).map(|index| recipe.seed.wrapping_add(index)).collect();
        let origin = origin(&planned, &spec);
        let studies = Studies { forgetting: options.forgetting, probe_lengths: options.probe_lengths };
        let is_measured = recipe.evaluate.every > 0;
        let against = options.against.unwrap_or(Comparison::DEFAULT).to_owned();
        let empty = Collection::new(origin, recipe, seeds, steps, against);
        let collection = units.collection(empty, rows, studies)?;
        let measuring = is_measured.then(|| measuring(&units.units, &planned));
        Ok(Self { spec, units: units.units, collection, measuring })
    }
}

/// What `train.memory` is in every unit: they are compared with each other, and take over each other's probes. `auto` goes
/// by the row that takes the most memory.
fn state_of_all(planner: &Planner<'_>, source: &Source) -> Result<StateMemory> {
    let most = source.recipe(&[Edit::Method(Method::Cpift), Edit::FuseBackbone(Backbone::Ties)])?;
    if most.train.memory != StateMemory::Auto {
        return Ok(most.train.memory);
    }
    Ok(match planner.plan(&most, 1)?.state {
        StateType::Exact => StateMemory::Exact,
        StateType::Compact => StateMemory::Compact,
        StateType::Offload => StateMemory::Offload,
    })
}

fn measuring(units: &[Unit], plan: &Plan) -> Measuring {
    let of_unit = |unit: &Unit| match (unit.recipe.evaluate.every, unit.is_specialists()) {
        (0, _) => 0,
        // One at the end of every probe, of its own task.
        (_, true) => 1,
        (every, false) => unit.steps.div_ceil(every),
    };
    let evaluations: u64 = units.iter().map(of_unit).sum();
    if !units.iter().any(|unit| unit.recipe.evaluate.decides()) {
        return Measuring::LeftOut;
    }
    let steps: u64 = units.iter().map(|unit| unit.steps).sum();
    let flops_per_step = plan.training_flops / plan.steps().max(1) as f64;
    let training = flops_per_step * steps as f64;
    Measuring::Decides {
        evaluations,
        share: evaluations as f64 * plan.flops_per_evaluation / training.max(1.0),
    }
}

fn check_tasks(recipe: &Recipe) -> Result<()> {
    if recipe.task.len() < 2 {
        return Err(Error::setting("task", "a comparison needs at least two tasks"));
    }
    match recipe.task.iter().find(|task| task.eval.is_none() && task.eval_share.is_none()) {
        Some(task) => {
            let key = format!("task.{}.eval", task.name);
            Err(Error::setting(key, "is missing: a comparison measures every task on rows of its own"))
        }
        None => Ok(()),
    }
}

/// A row that was chosen for others to be compared with is one of them.
fn check_reference(against: Option<&str>, rows: &[Row]) -> Result<()> {
    match against.filter(|name| rows.iter().all(|row| row.name != *name)) {
        Some(name) => {
            let reason =
                format!("there is no row `{name}` in this comparison: add it to --rows or --methods");
            Err(Error::setting("--against", reason))
        }
        None => Ok(()),
    }
}

/// Steps of the specialists, and of what follows them.
fn budget_steps(plan: &Plan) -> BudgetSteps {
    let probes = plan.trainings.iter().filter(|training| training.kind == TrainingKind::Probe);
    let specialists: u64 = probes.clone().map(|training| training.steps).sum();
    BudgetSteps {
        specialist: probes.map(|training| training.steps).next().unwrap_or(0),
        total: plan.steps(),
        given: plan.steps() - specialists,
    }
}

/// What is studied beside the rows of the table.
#[derive(Clone, Copy)]
struct Studies<'a> {
    forgetting: bool,
    probe_lengths: Option<&'a ProbeLengths>,
}

/// The units of a comparison while they are being made.
struct Units<'a> {
    source: &'a Source,
    /// The recipe's folder, which names of units do not depend on.
    root: String,
    /// What is the same for all units.
    spec: String,
    /// How the optimizer's state is kept in all of them.
    memory: StateMemory,
    units: Vec<Unit>,
}

impl Units<'_> {
    /// Makes all units and says which row consists of which.
    fn collection(&mut self, empty: Collection, rows: Vec<Row>, studies: Studies<'_>) -> Result<Collection> {
        let mut collection = empty;
        let (steps, ordered) = (collection.steps, collection.tasks.len() as u64);
        collection.rows = rows.into_iter().map(|row| (row, Vec::new())).collect();
        for seed in collection.seeds.clone() {
            let probes = self.specialists(seed, &[], steps.total - steps.given)?;
            for (row, units) in &mut collection.rows {
                let probes = if row.specialist_edits.is_empty() {
                    probes.clone()
                } else {
                    let own = self.specialists(seed, &row.specialist_edits, row.specialist_steps)?;
                    if let (Some(Family::Importance), [Edit::ProbeImportance(kind), ..]) =
                        (row.family, &row.specialist_edits[..])
                    {
                        add(&mut collection.importance, *kind, &own);
                    }
                    own
                };
                let unit = Unit { until: row.until, steps: row.steps, ..Unit::after(seed, &probes) };
                units.push(self.unit(&row.name, unit, &row.edits)?);
            }
            for method in PairMethod::ALL.into_iter().filter(|_| studies.forgetting) {
                let pairs = ordered * (ordered - 1);
                let unit = Unit {
                    pairs: Some(method),
                    steps: pairs * steps.specialist,
                    ..Unit::after(seed, &probes)
                };
                let id = self.unit(&format!("pairs {}", method.name()), unit, &[])?;
                add(&mut collection.pairs, method, &id);
            }
            if let Some(lengths) = studies.probe_lengths {
                let id = self.probe_lengths(seed, &probes, lengths, ordered)?;
                collection.probe_lengths.get_or_insert_with(|| (lengths.clone(), Vec::new())).1.push(id);
            }
            collection.specialists.push(probes);
        }
        Ok(collection)
    }

    fn specialists(&mut self, seed: u64, edits: &[Edit], steps: u64) -> Result<String> {
        let unit = Unit { until: Some(Stage::Group), probes: None, steps, ..Unit::after(seed, "") };
        self.unit("specialists", unit, edits)
    }

    /// Probes at one learning rate from the first step on: so a longer one is a shorter one that went on.
    fn probe_lengths(
        &mut self,
        seed: u64,
        probes: &str,
        lengths: &ProbeLengths,
        tasks: u64,
    ) -> Result<String> {
        let steps = lengths.steps.last().copied().unwrap_or_default();
        let unit = Unit {
            probe_lengths: Some(lengths.clone()),
            steps: tasks.saturating_mul(steps),
            ..Unit::after(seed, probes)
        };
        let edits = [
            Edit::ProbeSteps(steps),
            Edit::ProbeImportance(ImportanceKind::Path),
            Edit::ProbeSchedule(Schedule::Constant),
            Edit::ProbeWarmup(0.0),
        ];
        self.unit("probe lengths", unit, &edits)
    }

    /// Adds a unit, unless one that comes to the same is there; returns its name.
    fn unit(&mut self, name: &str, unit: Unit, edits: &[Edit]) -> Result<String> {
        let base = [Edit::Method(Method::Cpift), Edit::Seed(unit.seed), Edit::TrainMemory(self.memory)];
        let mut recipe = self.source.recipe(&[&base, edits].concat())?;
        let specialists = unit.probes.as_ref().and_then(|id| self.units.iter().find(|known| known.id == *id));
        if let Some(specialists) = specialists.filter(|_| unit.probe_lengths.is_none()) {
            // They are taken over: what a row changes in `[train]` does not reach them.
            recipe.probe.training = specialists.recipe.probe.training.clone();
        }
        recipe.evaluate = measured(&recipe.evaluate, &unit);
        let unit = Unit { recipe, ..unit }.named(name, &self.spec, &self.root)?;
        // The same work may have been given another row's name.
        match self.units.iter().find(|known| known.hash() == unit.hash() && known.seed == unit.seed) {
            Some(known) => Ok(known.id.clone()),
            None => {
                let id = unit.id.clone();
                self.units.push(unit);
                Ok(id)
            }
        }
    }
}

/// The part of `[evaluate]` that decides something in a unit: measuring takes time, and nobody looks at the curves of so
/// many runs.
fn measured(settings: &EvaluateSettings, unit: &Unit) -> EvaluateSettings {
    if !settings.decides() || unit.study().is_some() {
        return EvaluateSettings::default();
    }
    // Specialists end with their last step, which is measured: normalised scores lie between it and the base.
    let every = if unit.is_specialists() { NEVER_BEFORE_THE_END } else { settings.every };
    EvaluateSettings { every, ..settings.clone() }
}

/// Steps between evaluations that no training has.
const NEVER_BEFORE_THE_END: u64 = 1_000_000_000_000;

/// Adds a unit to those of `key`, once.
fn add<K: PartialEq>(lists: &mut Vec<(K, Vec<String>)>, key: K, id: &str) {
    match lists.iter_mut().find(|(known, _)| *known == key) {
        Some((_, ids)) if ids.last().is_some_and(|last| last == id) => {}
        Some((_, ids)) => ids.push(id.to_owned()),
        None => lists.push((key, vec![id.to_owned()])),
    }
}

fn spec_text(spec: &ComparisonSpec) -> Result<String> {
    // The recipe of every unit is hashed with it; that of the comparison would part what is shared.
    let ComparisonSpec { inputs, device, threads, .. } = spec;
    let text = serde_json::to_string(&(env!("CARGO_PKG_VERSION"), inputs, device, threads));
    text.map_err(|error| Error::Job(error.to_string()))
}

/// Program, command and runs side by side are filled in when the comparison is run.
fn origin(plan: &Plan, spec: &ComparisonSpec) -> Origin {
    Origin {
        recipe: spec.recipe.clone(),
        inputs: spec.inputs.clone(),
        device: plan.device.clone(),
        threads: spec.threads,
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        processor: machine::processor(),
        parameters: plan.parameters,
        ..Origin::default()
    }
}

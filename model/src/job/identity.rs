//! What a run and its stages are, so that nothing of another run is taken for a part of it.
//!
//! All of it goes by content: where recipe, data and run folder lie does not count, so that they can be moved.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Study;
use super::names::IDENTITY;
use super::record::InputFile;
use crate::error::{Error, Result};
use crate::files::{self, hash_texts, read_json};
use crate::recipe::{
    CheckpointSettings, DataFiles, EvaluateSettings, ImportanceKind, MetricsSettings, Recipe,
    RecomputeSetting, SaveDtype, StateMemory, TaskSettings,
};
use crate::score::Scoring;
use crate::state_type::StateType;
use crate::transformer::Recompute;

/// Keys of a resolved recipe that may differ when a run is continued: what nothing is computed from, what gives the same
/// bits, and paths, since the content of the files is compared.
const MAY_DIFFER: [&str; 14] = [
    "model.base",
    "model.config",
    "model.dtype",
    "task.train",
    "task.eval",
    "task.model",
    "measure.eval",
    "train.recompute",
    "probe.recompute",
    "integrate.recompute",
    "checkpoint.every",
    "checkpoint.keep",
    "checkpoint.keep_probes",
    "metrics.tensorboard",
];

/// What a run folder was begun with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunIdentity {
    /// Hash of the recipe's settings.
    pub recipe: String,
    /// Number type of the final model, which may be changed until that is written.
    pub dtype: SaveDtype,
    /// How the optimizer's state is kept, but for where: what `train.memory = "auto"` stands for. Earlier versions had one kind.
    #[serde(default)]
    pub state: StateType,
}

impl RunIdentity {
    /// What a run of this recipe with this state is, the content of its files left out. `study` is what is done instead
    /// of the recipe's method.
    ///
    /// # Errors
    /// None in practice: the settings are plain.
    pub fn of(recipe: &Recipe, study: Option<&Study>, state: StateType) -> Result<Self> {
        let settings = json(&without_what_may_differ(recipe))?;
        let study = study.map(Study::identity).transpose()?.unwrap_or_default();
        let recipe_hash = hash_texts(["cpift-engine run 4", &settings, &study]);
        Ok(Self { recipe: recipe_hash, dtype: recipe.model.dtype, state: state.on_the_device() })
    }

    /// Reads what the run folder was begun with, if it says.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn read(run: &Path) -> Result<Option<Self>> {
        read_json(&run.join(IDENTITY))
    }

    /// Writes it to the run folder.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, run: &Path) -> Result<()> {
        files::write_json_atomically(&run.join(IDENTITY), self)
    }
}

/// What everything in a run follows from: its settings and the content of the files it reads.
pub fn of_run(run: &RunIdentity, inputs: &[InputFile]) -> String {
    let files = texts_of(inputs.iter());
    hash_texts([run.recipe.as_str(), run.state.name()].into_iter().chain(files.iter().map(String::as_str)))
}

/// What a task's probe follows from. Runs that differ only in what comes after have the same probes.
///
/// # Errors
/// None in practice: the settings are plain.
pub fn of_probe(
    recipe: &Recipe,
    task: usize,
    steps: u64,
    state: StateType,
    inputs: &[InputFile],
) -> Result<String> {
    let recipe = without_what_may_differ(recipe);
    let mut probe = recipe.probe.clone();
    // The controls choose otherwise among the same importance.
    if matches!(probe.importance, ImportanceKind::Random | ImportanceKind::Inverse) {
        probe.importance = ImportanceKind::Net;
    }
    // What it stands for says `state`.
    probe.training.memory = StateMemory::default();
    let mut task = recipe.task[task].clone();
    // What is measured, what is mixed and what is brought instead of a probe does not go into one.
    (task.weight, task.eval, task.model) = (1.0, None, None);
    (task.eval_limit, task.score, task.max_new_tokens, task.shots) = (None, Scoring::default(), None, 0);
    task.answers = true;
    let settings = json(&(recipe.seed, &recipe.model, &probe, steps, state.on_the_device(), &task))?;
    let is_read = |file: &&InputFile| file.role.trains(&task.name) || file.role.is_of_base();
    let files = texts_of(inputs.iter().filter(is_read));
    let settings = ["cpift-engine probe 5", settings.as_str()];
    Ok(hash_texts(settings.into_iter().chain(files.iter().map(String::as_str))))
}

/// Role and content of files, as they go into a hash.
fn texts_of<'a>(files: impl Iterator<Item = &'a InputFile>) -> Vec<String> {
    files.flat_map(|file| [file.role.to_string(), file.blake3.clone()]).collect()
}

/// Fails when a run that was begun with the recipe text `earlier` is not to be continued with `now`.
///
/// # Errors
/// Naming the first line that differs.
pub fn different_recipe(path: &Path, earlier: &str, now: &str) -> Error {
    let mut section = String::new();
    let mut different = Vec::new();
    for (now, then) in now.lines().zip(earlier.lines()) {
        if let Some(name) = now.trim().strip_prefix('[') {
            section = name.trim_matches(['[', ']']).to_owned();
        }
        let key = now.split(['=', ':']).next().unwrap_or_default().trim();
        if now != then && !MAY_DIFFER.contains(&format!("{section}.{key}").as_str()) {
            different.push((section == "evaluate", now, then));
        }
    }
    // What is only measured may differ: it is named where nothing else differs.
    let line =
        different.iter().min_by_key(|(is_measuring, ..)| *is_measuring).map(|(_, now, then)| (now, then));
    let reason = match line {
        Some((now, then)) => format!(
            "the run was begun with `{}`, the recipe now says `{}`: undo that, or start a new run",
            then.trim(),
            now.trim()
        ),
        None => format!(
            "the run was begun with another recipe or by another version of cpift-engine, as {IDENTITY} beside it has it: undo the change, or start a new run"
        ),
    };
    Error::format(path, reason)
}

fn without_what_may_differ(recipe: &Recipe) -> Recipe {
    let mut recipe = recipe.clone();
    recipe.model.dtype = SaveDtype::default();
    for training in [&mut recipe.train, &mut recipe.probe.training, &mut recipe.integrate.training] {
        training.recompute = RecomputeSetting::Of(Recompute::Nothing);
        if training.memory == StateMemory::Offload {
            training.memory = StateMemory::Compact;
        }
    }
    recipe.checkpoint = CheckpointSettings::default();
    recipe.metrics = MetricsSettings::default();
    if !recipe.evaluate.decides() {
        recipe.evaluate = EvaluateSettings::default();
    }
    let forget = |path: &mut Option<PathBuf>| *path = path.as_ref().map(|_| PathBuf::new());
    forget(&mut recipe.model.base);
    forget(&mut recipe.model.config);
    for TaskSettings { train, eval, model, .. } in &mut recipe.task {
        *train = DataFiles::default();
        *eval = eval.as_ref().map(|_| DataFiles::default());
        forget(model);
    }
    for measure in &mut recipe.measure {
        measure.eval = DataFiles::default();
    }
    recipe
}

fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::Job(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::different_recipe;
    use std::path::Path;

    #[test]
    fn a_difference_that_counts_is_named_before_one_of_paths() {
        let (earlier, now) = (
            "seed = 1\n[model]\nbase = \"/a\"\n[train]\nepochs = 2",
            "seed = 1\n[model]\nbase = \"/b\"\n[train]\nepochs = 3",
        );
        let message = different_recipe(Path::new("recipe.toml"), earlier, now).to_string();
        assert!(message.contains("begun with `epochs = 2`, the recipe now says `epochs = 3`"), "{message}");
    }

    #[test]
    fn keys_count_by_their_section() {
        let recipe = |checkpoint, evaluate| {
            format!("[checkpoint]\nevery = {checkpoint}\n[evaluate]\nevery = {evaluate}\n")
        };
        let message = different_recipe(Path::new("recipe.toml"), &recipe(1, 2), &recipe(3, 4)).to_string();
        assert!(message.contains("begun with `every = 2`, the recipe now says `every = 4`"), "{message}");
    }

    #[test]
    fn the_record_is_named_where_the_recipes_are_the_same() {
        let message = different_recipe(Path::new("recipe.toml"), "seed = 1", "seed = 1").to_string();
        assert!(message.contains("as identity.json beside it has it"), "{message}");
    }
}

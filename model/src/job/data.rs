//! The rows of a recipe's tasks.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::ModelConfig;
use crate::data::{DataSettings, Dataset, Position, Preparation, Shots};
use crate::error::{Error, Result};
use crate::recipe::{DataFiles, MeasureSettings, ModelSettings, Recipe, TaskSettings};
use crate::tokenizer::Tokenizer;

/// The files of a task by name, its patterns resolved.
pub(super) struct TaskFiles {
    train: Vec<PathBuf>,
    eval: Option<Vec<PathBuf>>,
}

impl TaskFiles {
    /// The files that a task's settings name.
    ///
    /// # Errors
    /// As [`DataFiles::expand`].
    pub fn of(task: &TaskSettings) -> Result<Self> {
        let eval = task.eval.as_ref().map(DataFiles::expand).transpose()?;
        Ok(Self { train: task.train.expand()?, eval })
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &PathBuf> {
        self.train.iter().chain(self.eval.iter().flatten())
    }
}

/// The data of one task, as a model is trained on it and evaluated.
#[derive(Debug)]
pub struct TaskData {
    /// The task's name.
    pub name: String,
    /// Rows to train on.
    pub train: Dataset,
    /// Rows to evaluate on.
    pub eval: Option<Arc<Dataset>>,
    /// What ends an answer where examples precede its row as text.
    pub(super) end: Option<String>,
}

impl TaskData {
    /// Reads the rows of a recipe's task. `positions` is the most tokens that the model takes.
    ///
    /// # Errors
    /// A file or row that cannot be used, by file and line.
    pub(super) fn open(
        recipe: &Recipe,
        task: &TaskSettings,
        files: &TaskFiles,
        tokenizer: &Tokenizer,
        positions: usize,
        preparation: &Preparation<'_>,
    ) -> Result<Self> {
        let load = |files: &[PathBuf], settings: &DataSettings| {
            Dataset::load_observed(files, tokenizer, settings, preparation)
        };
        let training = DataSettings::of_task(&recipe.model, task);
        let draw = |among: Option<&HashSet<Position>>| {
            Shots::draw(&files.train, task.shots, recipe.seed, &training, tokenizer, among)
        };
        let train = load(&files.train, &training)?;
        let (name, plain) = (task.name.clone(), DataSettings::of_evaluation(&recipe.model, task));
        if let Some(share) = task.eval_share {
            let (train, mut eval) = train.split(share)?;
            eval.limit(task.eval_limit);
            // Rows are held back by their content, which examples are no part of: those are drawn of the rows that stay.
            let shots = draw(Some(&train.positions()))?;
            let end = shots.end(&training, tokenizer);
            if !shots.is_empty() {
                let settings = DataSettings { max_length: positions, shots, ..plain };
                eval = Dataset::load_records(&files.train, tokenizer, &settings, &eval.positions())?;
            }
            return Ok(Self { name, train, eval: Some(Arc::new(eval)), end });
        }
        let shots = draw(None)?;
        let end = shots.end(&training, tokenizer);
        let Some(eval_files) = &files.eval else { return Ok(Self { name, train, eval: None, end }) };
        let mut eval = load(eval_files, &plain)?;
        let notice = eval.also_in(&[&train]);
        if !shots.is_empty() {
            // `max_length` is about rows that are trained on: with examples before them they may be longer.
            eval = load(eval_files, &DataSettings { max_length: positions, shots, ..plain })?;
        }
        eval.add_file_notice(notice);
        Ok(Self { name, train, eval: Some(Arc::new(eval)), end })
    }
}

/// The files that a measure's settings name.
///
/// # Errors
/// As [`DataFiles::expand`].
pub(super) fn measure_files(measure: &MeasureSettings) -> Result<Vec<PathBuf>> {
    measure.eval.expand()
}

/// The rows of a `[[measure]]`.
#[derive(Debug)]
pub struct MeasureData {
    /// The measure's name.
    pub name: String,
    /// The rows, none of which is trained on for its sake.
    pub eval: Arc<Dataset>,
}

impl MeasureData {
    /// Reads the rows of a recipe's measure, whose settings are those of a task. `trained` are the rows of all tasks.
    ///
    /// # Errors
    /// A file or row that cannot be used, by file and line.
    pub(super) fn open(
        recipe: &Recipe,
        settings: &TaskSettings,
        files: &[PathBuf],
        tokenizer: &Tokenizer,
        trained: &[&Dataset],
        preparation: &Preparation<'_>,
    ) -> Result<Self> {
        let reading = DataSettings::of_evaluation(&recipe.model, settings);
        let mut eval = Dataset::load_observed(files, tokenizer, &reading, preparation)?;
        let notice = eval.also_in(trained);
        eval.add_file_notice(notice);
        Ok(Self { name: settings.name.clone(), eval: Arc::new(eval) })
    }
}

/// The data of some tasks and measures, and the tokenizer that made their tokens.
pub struct RecipeData {
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The tasks in the recipe's order.
    pub tasks: Vec<TaskData>,
    /// What is measured and never trained, in the recipe's order.
    pub measures: Vec<MeasureData>,
}

impl RecipeData {
    /// Reads and tokenizes the rows of a recipe's tasks and measures, or of the one of a name. Of the model only its
    /// tokenizer is read, and where examples precede rows its configuration.
    ///
    /// # Errors
    /// No task or measure of that name; a file, row, tokenizer or configuration that cannot be used.
    pub fn open(recipe: &Recipe, task: Option<&str>, preparation: &Preparation<'_>) -> Result<Self> {
        recipe.validate()?;
        let tokenizer = Tokenizer::from_folder(tokenizer_folder(&recipe.model))?;
        let wanted = |name: &str| task.is_none_or(|task| task == name);
        let is_measure = recipe.measure.iter().any(|measure| task == Some(&measure.name));
        let names = recipe.task.iter().map(|task| &task.name);
        let names: Vec<&str> =
            names.chain(recipe.measure.iter().map(|measure| &measure.name)).map(String::as_str).collect();
        if let Some(task) = task.filter(|_| !names.iter().any(|name| wanted(name))) {
            let reason = format!("there is no task `{task}`: the recipe has {}", names.join(", "));
            return Err(Error::setting("--task", reason));
        }
        // Rows of a measure are looked for in those of all tasks.
        let tasks = recipe.task.iter().filter(|task| is_measure || wanted(&task.name)).map(|task| {
            let positions =
                if task.shots > 0 { model_config(&recipe.model)?.max_positions } else { usize::MAX };
            TaskData::open(recipe, task, &TaskFiles::of(task)?, &tokenizer, positions, preparation)
        });
        let mut tasks = tasks.collect::<Result<Vec<_>>>()?;
        let trained: Vec<&Dataset> = tasks.iter().map(|task| &task.train).collect();
        let measures = recipe.measure.iter().filter(|measure| wanted(&measure.name)).map(|measure| {
            let files = measure_files(measure)?;
            MeasureData::open(recipe, &measure.as_task(), &files, &tokenizer, &trained, preparation)
        });
        let measures = measures.collect::<Result<Vec<_>>>()?;
        if is_measure {
            tasks.clear();
        }
        Ok(Self { tokenizer, tasks, measures })
    }
}

/// The configuration of the model a job starts from.
///
/// # Errors
/// As [`ModelConfig::read`].
pub(super) fn model_config(settings: &ModelSettings) -> Result<ModelConfig> {
    let path = settings.base.as_ref().or(settings.config.as_ref());
    ModelConfig::read(path.map_or(Path::new("config.json"), PathBuf::as_path))
}

/// The folder that the tokenizer and the other files are in: the base's, or that of the configuration.
pub(super) fn tokenizer_folder(settings: &ModelSettings) -> &Path {
    match (&settings.base, &settings.config) {
        (Some(folder), _) => folder,
        (None, Some(config)) if config.is_dir() => config,
        (None, config) => config.as_deref().and_then(Path::parent).unwrap_or(Path::new(".")),
    }
}

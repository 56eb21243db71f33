//! What the recipe names, opened and checked before the first step.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cpift_engine::{Layout, ViewMut};

use super::data::{MeasureData, TaskData, TaskFiles, measure_files, model_config, tokenizer_folder};
use super::model_files::snapshot_model;
use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::data::order::{permutation, stream};
use crate::data::{
    Dataset, Notice, Preparation, RowFormat, Sampler, SamplerSettings, Source, balanced_sample,
};
use crate::error::{Error, Result};
use crate::evaluation::{AnswerSettings, check_answers, longest_document};
use crate::files::KnownFiles;
use crate::recipe::{EvaluateSettings, ImportanceKind, ModelSettings, Recipe, TaskSettings, TrainSettings};
use crate::score::Scoring;
use crate::tokenizer::Tokenizer;
use crate::transformer::initialize;

/// The model a job starts from (θ0).
#[derive(Debug)]
pub struct Base {
    /// Its configuration.
    pub config: ModelConfig,
    /// Folder of its tokenizer and the other files that are copied through.
    pub folder: PathBuf,
    /// Its weights; none to start from random ones.
    pub checkpoint: Option<Checkpoint>,
    seed: u64,
}

impl Base {
    fn open(settings: &ModelSettings, seed: u64) -> Result<Self> {
        if let Some(folder) = &settings.base {
            let checkpoint = Checkpoint::open(folder)?;
            let config = checkpoint.config().clone();
            return Ok(Self { config, folder: folder.clone(), checkpoint: Some(checkpoint), seed });
        }
        let config = model_config(settings)?;
        Ok(Self { config, folder: tokenizer_folder(settings).to_owned(), checkpoint: None, seed })
    }

    /// Reads the weights, or makes the random ones of the seed.
    ///
    /// # Errors
    /// A file cannot be read, or a weight is not finite.
    pub fn load_into(&self, weights: ViewMut<'_, f32>) -> Result<()> {
        match &self.checkpoint {
            Some(checkpoint) => checkpoint.load_into(weights),
            None => initialize(&self.config, &self.config.layout()?, self.seed, weights),
        }
    }
}

/// One task, ready to train and evaluate.
#[derive(Debug)]
pub struct Task {
    /// Name from the recipe.
    pub name: String,
    /// Share in mixed training.
    pub weight: f64,
    /// How often an epoch goes through its rows.
    pub repeat: f64,
    /// How often a training goes through them, where the task says so.
    pub epochs: Option<f64>,
    /// Rows to train on.
    pub train: Arc<Dataset>,
    /// Rows to evaluate on, where there are some.
    pub evaluated: Option<Evaluated>,
    /// An existing fine-tune that takes the place of the probe.
    pub model: Option<Checkpoint>,
}

impl Task {
    /// Rows to evaluate on.
    pub fn eval(&self) -> Option<&Arc<Dataset>> {
        self.evaluated.as_ref().map(|evaluated| &evaluated.rows)
    }

    /// How often an epoch of a training with these settings goes through the task's rows, and whether it does so whatever
    /// the tasks' shares.
    fn repeat_in(&self, settings: &TrainSettings) -> (f64, bool) {
        match self.epochs {
            Some(epochs) => (epochs / settings.epochs.unwrap_or(1.0), true),
            None => (self.repeat, false),
        }
    }
}

/// Rows that models are evaluated on: those of a task, or of a `[[measure]]`.
#[derive(Debug)]
pub struct Evaluated {
    /// Name of the task or measure.
    pub name: String,
    /// The rows.
    pub rows: Arc<Dataset>,
    /// Which of them are measured while training.
    pub sample: Vec<usize>,
    /// How prompts are answered and the answers judged; none where there are none.
    pub answers: Option<AnswerSettings>,
    /// Tokens of the longest document that evaluation takes.
    pub longest: usize,
}

/// What the checks opened.
pub struct Inputs {
    /// The base model.
    pub base: Base,
    /// Layout of its flat parameters.
    pub layout: Layout,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The tasks in the recipe's order.
    pub tasks: Vec<Task>,
    /// What is measured and never trained, in the recipe's order.
    pub measures: Vec<Evaluated>,
    /// For every task the rows of the balanced sample of stage 4.
    pub sample: Vec<Vec<usize>>,
    /// The run folder whose probes are taken over; none to train them.
    pub probes: Option<PathBuf>,
}

impl Inputs {
    /// Opens and checks everything the recipe names. `probes` is the run folder whose probes are taken over. How the
    /// files are before they are read is remembered in `known`.
    ///
    /// # Errors
    /// Whatever is missing, damaged or does not fit, by file, line or key.
    pub fn open(
        recipe: &Recipe,
        preparation: &Preparation<'_>,
        probes: Option<&Path>,
        known: &KnownFiles,
    ) -> Result<Self> {
        recipe.validate()?;
        let files = recipe.task.iter().map(TaskFiles::of).collect::<Result<Vec<_>>>()?;
        let measured = recipe.measure.iter().map(measure_files).collect::<Result<Vec<_>>>()?;
        let rows = files.iter().flat_map(TaskFiles::all).chain(measured.iter().flatten());
        snapshot_all(recipe, rows, known);
        let base = Base::open(&recipe.model, recipe.seed)?;
        let layout = base.config.layout()?;
        let tokenizer = Tokenizer::from_folder(&base.folder)?;
        tokenizer.check_vocabulary(&base.folder, base.config.vocabulary)?;
        if recipe.model.max_length > base.config.max_positions {
            let reason = format!(
                "is {}, and the model was made for at most {} positions",
                recipe.model.max_length, base.config.max_positions
            );
            return Err(Error::setting("model.max_length", reason));
        }
        let tasks = files
            .iter()
            .enumerate()
            .map(|(index, files)| open_task(recipe, index, files, &base, &tokenizer, preparation))
            .collect::<Result<Vec<_>>>()?;
        let trained: Vec<&Dataset> = tasks.iter().map(|task| task.train.as_ref()).collect();
        let measures = measured
            .iter()
            .enumerate()
            .map(|(index, files)| open_measure(recipe, index, files, &tokenizer, &trained, preparation))
            .collect::<Result<Vec<_>>>()?;
        let rows: Vec<usize> = tasks.iter().map(|task| task.train.len()).collect();
        let sample = balanced_sample(&rows, recipe.integrate.sample, recipe.seed);
        Ok(Self { base, layout, tokenizer, tasks, measures, sample, probes: probes.map(Path::to_owned) })
    }

    /// Whether the job itself trains a task's probe.
    pub fn trains_probe(&self, task: usize) -> bool {
        self.probes.is_none() && self.tasks[task].model.is_none()
    }

    /// What a person should know about the models and the tokenizer, a line each.
    pub fn model_notices(&self) -> impl Iterator<Item = &String> {
        let base = match &self.base.checkpoint {
            Some(checkpoint) => checkpoint.notices(),
            None => self.base.config.notices(),
        };
        base.iter()
            .chain(self.tasks.iter().filter_map(|task| task.model.as_ref()).flat_map(Checkpoint::notices))
            .chain(self.tokenizer.notice())
    }

    /// Reads the weights of all models once and keeps none: finds what training would meet in them.
    ///
    /// # Errors
    /// A file cannot be read, or a weight is NaN or infinite.
    pub fn check_weights(&self) -> Result<()> {
        let models = self.tasks.iter().filter_map(|task| task.model.as_ref());
        self.base.checkpoint.iter().chain(models).try_for_each(Checkpoint::check_weights)
    }

    /// All training rows of some tasks, for a training with these settings.
    pub fn whole(&self, tasks: &[usize], settings: &TrainSettings) -> Vec<Source> {
        let source = |&task: &usize| {
            let Task { train, weight, .. } = &self.tasks[task];
            let (repeat, is_fixed) = self.tasks[task].repeat_in(settings);
            Source { repeat, is_fixed, ..Source::whole(train.clone(), *weight) }
        };
        tasks.iter().map(source).collect()
    }

    /// The balanced sample's rows of some tasks, for stage 4, each task's weight times what `emphasis` says.
    pub fn sampled(&self, tasks: &[usize], recipe: &Recipe, emphasis: impl Fn(usize) -> f64) -> Vec<Source> {
        let mut sources = self.whole(tasks, &recipe.integrate.training);
        for (source, &task) in sources.iter_mut().zip(tasks) {
            source.rows.clone_from(&self.sample[task]);
        }
        if tasks.iter().any(|&task| emphasis(task) != 1.0) {
            Source::by_weights(&mut sources, &recipe.mixture);
        }
        for (source, &task) in sources.iter_mut().zip(tasks) {
            source.weight *= emphasis(task);
        }
        sources
    }

    /// Names of some tasks.
    pub fn names(&self, tasks: &[usize]) -> Vec<String> {
        tasks.iter().map(|&task| self.tasks[task].name.clone()).collect()
    }

    /// Indices of all tasks.
    pub fn all_tasks(&self) -> Vec<usize> {
        (0..self.tasks.len()).collect()
    }

    /// What models are evaluated on of some tasks.
    pub fn evaluated_of(&self, tasks: &[usize]) -> impl Iterator<Item = &Evaluated> + Clone {
        tasks.iter().filter_map(|&task| self.tasks[task].evaluated.as_ref())
    }

    /// What models are evaluated on: the rows of all tasks, then those of the measures.
    pub fn evaluated(&self) -> impl Iterator<Item = &Evaluated> + Clone {
        self.tasks.iter().filter_map(|task| task.evaluated.as_ref()).chain(&self.measures)
    }

    /// Tokens that evaluation needs room for: the longest row to evaluate.
    pub fn longest_eval_row(&self) -> usize {
        self.evaluated().map(|evaluated| evaluated.longest).max().unwrap_or(0)
    }
}

/// Remembers how all files are that the recipe names, before the first is read; `rows` are those of rows.
fn snapshot_all<'a>(recipe: &Recipe, rows: impl Iterator<Item = &'a PathBuf>, known: &KnownFiles) {
    let base = [&recipe.model.base, &recipe.model.config].into_iter().flatten();
    let models = base.chain(recipe.task.iter().filter_map(|task| task.model.as_ref()));
    for path in models {
        // A configuration may be given as the file itself; the other files of its folder are read as well.
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
        snapshot_model(known, folder);
        known.snapshot(path);
    }
    rows.for_each(|path| known.snapshot(path));
}

fn open_task(
    recipe: &Recipe,
    index: usize,
    files: &TaskFiles,
    base: &Base,
    tokenizer: &Tokenizer,
    preparation: &Preparation<'_>,
) -> Result<Task> {
    let settings = &recipe.task[index];
    let positions = base.config.max_positions;
    let data = TaskData::open(recipe, settings, files, tokenizer, positions, preparation)?;
    let mut train = data.train;
    let key = format!("task[{index}]");
    let evaluated = data
        .eval
        .map(|eval| Evaluated::of(eval, recipe, settings, &key, index, tokenizer, data.end))
        .transpose()?;
    let mut model = settings.model.as_deref().map(Checkpoint::open).transpose()?;
    if base.config.tied {
        // A tune saved with a head of its own, which is the embedding, fits.
        model = model.map(Checkpoint::into_tied).transpose()?;
    }
    if let (Some(model), Some(folder)) = (&model, &settings.model) {
        if let Some(difference) = model.config().mismatch(&base.config) {
            return Err(Error::format(folder, format!("is not a fine-tune of the base: {difference}")));
        }
        if matches!(
            recipe.probe.importance,
            ImportanceKind::Path | ImportanceKind::Fisher | ImportanceKind::FisherNet
        ) {
            let reason = format!(
                "cannot be measured on task `{}`, which brings an existing model: use `net`, or remove task.model",
                settings.name
            );
            return Err(Error::setting("probe.importance", reason));
        }
        if folder.join("tokenizer.json").is_file() {
            let other = Tokenizer::from_folder(folder)?;
            tokenizer.check_same(&other)?;
            if train.format() == RowFormat::Messages && !tokenizer.has_template_of(&other) {
                train.add_notice(Notice::OtherTemplate(folder.display().to_string()));
            }
        }
    }
    Ok(Task {
        name: settings.name.clone(),
        weight: settings.weight,
        repeat: settings.repeat,
        epochs: settings.epochs,
        train: Arc::new(train),
        evaluated,
        model,
    })
}

/// `trained` are the rows of all tasks.
fn open_measure(
    recipe: &Recipe,
    index: usize,
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    trained: &[&Dataset],
    preparation: &Preparation<'_>,
) -> Result<Evaluated> {
    let settings = recipe.measure[index].as_task();
    let data = MeasureData::open(recipe, &settings, files, tokenizer, trained, preparation)?;
    // Samples are drawn as for a task behind the others.
    let place = recipe.task.len() + index;
    Evaluated::of(data.eval, recipe, &settings, &format!("measure[{index}]"), place, tokenizer, None)
}

/// Which rows of an evaluation set are measured while training: as many of each task, the same every time, in the order
/// of the file.
fn sample_rows(settings: &EvaluateSettings, seed: u64, task: usize, rows: usize) -> Vec<usize> {
    if settings.every == 0 {
        return Vec::new();
    }
    let mut sampled = permutation(rows, &mut stream(seed, "evaluation sample", task, 0));
    sampled.truncate(settings.rows);
    sampled.sort_unstable();
    sampled
}

impl Evaluated {
    /// `key` is the section of these settings, `place` what the sample is drawn by, `end` what ends an answer where examples
    /// precede its row as text.
    fn of(
        rows: Arc<Dataset>,
        recipe: &Recipe,
        settings: &TaskSettings,
        key: &str,
        place: usize,
        tokenizer: &Tokenizer,
        end: Option<String>,
    ) -> Result<Self> {
        if !rows.has_prompts() && (settings.score != Scoring::Exact || settings.max_new_tokens.is_some()) {
            let name = if settings.max_new_tokens.is_some() { "max_new_tokens" } else { "score" };
            let reason =
                format!("is about answers, and {} has `text` rows, without prompts", rows.name().display());
            return Err(Error::setting(format!("{key}.{name}"), reason));
        }
        let is_answered = rows.has_prompts() && settings.answers;
        let answers = is_answered.then(|| AnswerSettings {
            scoring: settings.score.clone(),
            max_new_tokens: settings.max_new_tokens,
            end,
        });
        if let Some(answers) = &answers {
            check_answers(&rows, tokenizer, answers)?;
        }
        let longest = longest_document(&rows, tokenizer, answers.as_ref())?;
        let sample = sample_rows(&recipe.evaluate, recipe.seed, place, rows.len());
        Ok(Self { name: settings.name.clone(), rows, sample, answers, longest })
    }
}

/// The sampler of one fine-tune (or part of one).
///
/// # Errors
/// As [`Sampler::new`].
pub fn sampler(
    recipe: &Recipe,
    settings: &TrainSettings,
    sources: Vec<Source>,
    purpose: &str,
) -> Result<Sampler> {
    let sampler_settings = SamplerSettings {
        seed: recipe.seed,
        purpose: purpose.to_owned(),
        batch_size: settings.batch_size,
        accumulate: settings.accumulate,
        max_length: recipe.model.max_length,
        shuffle: settings.shuffle,
        pack: settings.pack,
        mixture: recipe.mixture.clone(),
    };
    Sampler::new(sources, sampler_settings)
}

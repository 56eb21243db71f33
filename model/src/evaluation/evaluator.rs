//! A model folder, loaded to be measured on files.

use std::path::{Path, PathBuf};

use cpift_engine::{Device, Real, View};
use serde::Serialize;

use super::{Answer, AnswerSettings, Observe, Request, RowScores, check_answers, evaluate, longest_document};
use crate::config::ModelConfig;
use crate::counts::counted;
use crate::data::{Counts, DataSettings, Dataset, Position, Unit};
use crate::error::{Error, Result};
use crate::loaded::{BATCH_TOKENS, LoadedModel, Weights};
use crate::recipe::TaskSettings;
use crate::score::ScoreKind;
use crate::tokenizer::Tokenizer;
use crate::transformer::{ComputeType, Transformer};

/// Some of these rows by number, the others by how many they are.
fn name_rows(positions: &[Position]) -> String {
    const NAMED: usize = 8;
    let unit = match positions.first().map(|position| position.unit) {
        Some(Unit::Row) => "row",
        _ => "line",
    };
    let named: Vec<String> =
        positions.iter().take(NAMED).map(|position| position.number.to_string()).collect();
    match (named.as_slice(), positions.len().saturating_sub(NAMED)) {
        ([number], _) => format!("{unit} {number} is"),
        (named, 0) => format!("{unit}s {} are", named.join(", ")),
        (named, more) => format!("{unit}s {} and {more} more are", named.join(", ")),
    }
}

/// The rows that are not measured, or not whole, since they are longer than was asked for, as a line; none where all are,
/// or where the data set says so itself.
fn left_out(dataset: &Dataset) -> Option<String> {
    let Counts { too_long, truncated, .. } = dataset.counts();
    let (all, longer) = (dataset.len() + too_long, too_long + truncated);
    (longer > 0 && 2 * longer <= all).then(|| {
        let rows = counted(longer as u64, "row");
        let what = if truncated == 0 { "left out" } else { "cut or left out" };
        format!("{}: {rows} of {all} longer than --max-length: {what}", dataset.name().display())
    })
}

/// A model folder, loaded to be measured on files.
pub struct Evaluator {
    model: LoadedModel,
}

/// What is measured of files.
#[derive(Debug, Clone, Default)]
pub struct FileSettings {
    /// How answers are generated and judged; none to measure losses alone.
    pub answers: Option<AnswerSettings>,
    /// How rows are read, examples before them among it.
    pub reading: DataSettings,
}

impl FileSettings {
    /// As a task reads its rows and judges answers; models answer where `generate` says so. Rows have any length.
    pub fn of_task(task: &TaskSettings, generate: bool, tokenizer: &Tokenizer) -> Self {
        Self::new(DataSettings::of_measured(task), task, generate, tokenizer)
    }

    /// Rows that are read in another way, answers that are judged as a task has it.
    pub fn new(reading: DataSettings, task: &TaskSettings, generate: bool, tokenizer: &Tokenizer) -> Self {
        let answers = generate.then(|| AnswerSettings {
            scoring: task.score.clone(),
            max_new_tokens: task.max_new_tokens,
            end: reading.shots.end(&reading, tokenizer),
        });
        Self { answers, reading }
    }
}

/// Scores of one file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FileScore {
    /// The file.
    pub path: PathBuf,
    /// Mean negative log-likelihood per supervised token, in nats.
    pub loss: f64,
    /// Supervised tokens.
    pub tokens: u64,
    /// How the answers were judged, when they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score_kind: Option<ScoreKind>,
    /// Share of rows answered right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Share of rows whose greedy answer is the row's, character for character.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact_match: Option<f64>,
    /// Share of rows whose option has the lowest loss, for choices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub choice_by_loss: Option<f64>,
    /// What a person should know about the file's rows, a line each.
    pub notices: Vec<String>,
    /// Each row, in file order.
    pub rows: Vec<RowScore>,
}

/// Score of one row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RowScore {
    /// Mean negative log-likelihood per supervised token, in nats.
    pub loss: f64,
    /// Supervised tokens.
    pub tokens: u64,
    /// What was answered, when asked for.
    #[serde(flatten)]
    pub answer: Option<Answer>,
}

impl Evaluator {
    /// Loads a Hugging Face folder, to compute in this type.
    ///
    /// # Errors
    /// What is missing, damaged or not supported in it.
    pub fn open(device: &Device, folder: &Path, compute: ComputeType) -> Result<Self> {
        Ok(Self { model: LoadedModel::open(device, folder, compute)? })
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.model.tokenizer
    }

    /// What a person should know about the model, a line each.
    pub fn notices(&self) -> &[String] {
        &self.model.notices
    }

    /// Measures the model on a file of rows, and tells `observe` how far it is. Rows longer than the model's positions
    /// are an error: a score of the rest would pass for the file's.
    ///
    /// # Errors
    /// The file cannot be read, a row is too long, a reference cannot be compared with, or what `observe` says.
    pub fn evaluate(
        &mut self,
        data: &Path,
        settings: &FileSettings,
        observe: Observe<'_>,
    ) -> Result<FileScore> {
        let LoadedModel { device, config, tokenizer, .. } = &self.model;
        let dataset = load_rows((device, config, tokenizer), data, settings)?;
        let scored = match &self.model.weights {
            Weights::F32(weights) => self.score(weights.view(), &dataset, settings, observe)?,
            Weights::Bf16(weights) => self.score(weights.view(), &dataset, settings, observe)?,
        };
        let score = scored.score();
        let (kind, answers) = match scored.answers {
            Some(answers) => (Some(answers.kind), answers.rows),
            None => (None, Vec::new()),
        };
        let mut answers = answers.into_iter();
        let rows = scored.losses.iter().map(|row| RowScore {
            loss: row.sum / row.tokens as f64,
            tokens: row.tokens as u64,
            answer: answers.next(),
        });
        Ok(FileScore {
            path: data.to_owned(),
            loss: score.loss,
            tokens: score.tokens,
            score_kind: kind,
            score: score.score,
            exact_match: score.exact_match,
            choice_by_loss: score.choice_by_loss,
            rows: rows.collect(),
            notices: dataset.described_notices().chain(left_out(&dataset)).collect(),
        })
    }

    fn score<T: Real>(
        &self,
        weights: View<'_, T>,
        dataset: &Dataset,
        settings: &FileSettings,
        observe: Observe<'_>,
    ) -> Result<RowScores> {
        let LoadedModel { device, config, tokenizer, .. } = &self.model;
        let answers = settings.answers.as_ref();
        let request = Request { dataset, tokenizer, rows: None, answers };
        let longest = longest_document(dataset, tokenizer, answers)?;
        let max_tokens = longest.max(BATCH_TOKENS.min(dataset.tokens()));
        let mut transformer = Transformer::for_inference(config, device, max_tokens)?;
        evaluate(&mut transformer, weights, &request, observe)
    }
}

/// The rows of a file, checked before anything is computed.
///
/// # Errors
/// The file cannot be read, a row is longer than the model's positions, or answers cannot be asked for or compared with.
pub fn load_rows(
    (device, config, tokenizer): (&Device, &ModelConfig, &Tokenizer),
    data: &Path,
    settings: &FileSettings,
) -> Result<Dataset> {
    let longest = config.max_positions;
    let reading = &settings.reading;
    let dataset = device.scope(|| Dataset::load(&[data.to_owned()], tokenizer, reading, None))?;
    let too_long = dataset.rows().iter().filter(|row| row.tokens.len() > longest);
    let positions: Vec<Position> = too_long.map(|row| row.position).collect();
    if !positions.is_empty() {
        let remedy = match reading.shots.is_empty() {
            true => "shorten or remove what is there",
            false => "use fewer --shots",
        };
        let reason =
            format!("{} longer than the model's {longest} positions: {remedy}", name_rows(&positions));
        return Err(Error::format(data, reason));
    }
    if let Some(answers) = &settings.answers {
        if !dataset.has_prompts() {
            let reason = "has `text` rows, which have no prompt to answer: leave out --generate";
            return Err(Error::format(data, reason));
        }
        check_answers(&dataset, tokenizer, answers)?;
    }
    Ok(dataset)
}

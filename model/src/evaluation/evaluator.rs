//! A model folder, loaded to be measured on files and to generate.

use std::path::{Path, PathBuf};

use cpift_engine::ops::round;
use cpift_engine::{Buffer, Device, Real, View, bf16};
use serde::Serialize;

use super::{Answer, AnswerSettings, Observe, Request, RowScores, check_answers, evaluate, longest_document};
use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::data::{DataSettings, Dataset, Shots};
use crate::error::{Error, Result};
use crate::recipe::SpecialTokens;
use crate::score::ScoreKind;
use crate::tokenizer::Tokenizer;
use crate::transformer::{ComputeType, Generation, Sampling, Transformer};

/// Tokens of an evaluation batch where nothing else sets them.
const BATCH_TOKENS: usize = 2048;

/// Some of these lines by number, the others by how many they are.
fn name_lines(lines: &[usize]) -> String {
    const NAMED: usize = 8;
    let named: Vec<String> = lines.iter().take(NAMED).map(usize::to_string).collect();
    match (named.as_slice(), lines.len().saturating_sub(NAMED)) {
        ([line], _) => format!("line {line} is"),
        (named, 0) => format!("lines {} are", named.join(", ")),
        (named, more) => format!("lines {} and {more} more are", named.join(", ")),
    }
}

/// A model folder, loaded to be evaluated and to generate.
pub struct Evaluator {
    device: Device,
    config: ModelConfig,
    notices: Vec<String>,
    tokenizer: Tokenizer,
    weights: Weights,
}

/// Weights in the type they are computed with.
enum Weights {
    F32(Buffer<f32>),
    Bf16(Buffer<bf16>),
}

/// What is measured of files.
#[derive(Debug, Clone, Default)]
pub struct FileSettings {
    /// How answers are generated and judged; none to measure losses alone.
    pub answers: Option<AnswerSettings>,
    /// Examples before every row.
    pub shots: Shots,
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
        let checkpoint = Checkpoint::open(folder)?;
        let tokenizer = Tokenizer::from_folder(folder)?;
        tokenizer.check_vocabulary(folder, checkpoint.config().vocabulary)?;
        let mut weights = Buffer::zeros(device, checkpoint.layout().len())?;
        device.scope(|| checkpoint.load_into(weights.view_mut()))?;
        let weights = match compute {
            ComputeType::F32 => Weights::F32(weights),
            ComputeType::Bf16 => {
                let mut rounded = Buffer::zeros(device, weights.len())?;
                round::to_bf16(device, weights.view(), rounded.view_mut())?;
                Weights::Bf16(rounded)
            }
        };
        let notices = checkpoint.notices().to_vec();
        Ok(Self { device: device.clone(), config: checkpoint.config().clone(), notices, tokenizer, weights })
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// What a person should know about the model, a line each.
    pub fn notices(&self) -> &[String] {
        &self.notices
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
        let dataset = self.load(data, settings)?;
        let scored = match &self.weights {
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
            notices: dataset.described_notices().collect(),
        })
    }

    /// The rows of a file, checked before anything is computed.
    fn load(&self, data: &Path, settings: &FileSettings) -> Result<Dataset> {
        let longest = self.config.max_positions;
        let data_settings = DataSettings { shots: settings.shots.clone(), ..DataSettings::default() };
        let dataset =
            self.device.scope(|| Dataset::load(&[data.to_owned()], &self.tokenizer, &data_settings, None))?;
        let too_long = dataset.rows().iter().filter(|row| row.tokens.len() > longest);
        let lines: Vec<usize> = too_long.map(|row| row.position.number).collect();
        if !lines.is_empty() {
            let remedy = match settings.shots.is_empty() {
                true => "shorten or remove what is there",
                false => "use fewer --shots",
            };
            let reason =
                format!("{} longer than the model's {longest} positions: {remedy}", name_lines(&lines));
            return Err(Error::format(data, reason));
        }
        if let Some(answers) = &settings.answers {
            if !dataset.has_prompts() {
                let reason = "has `text` rows, which have no prompt to answer: leave out --generate";
                return Err(Error::format(data, reason));
            }
            check_answers(&dataset, &self.tokenizer, answers)?;
        }
        Ok(dataset)
    }

    fn score<T: Real>(
        &self,
        weights: View<'_, T>,
        dataset: &Dataset,
        settings: &FileSettings,
        observe: Observe<'_>,
    ) -> Result<RowScores> {
        let answers = settings.answers.as_ref();
        let request = Request { dataset, tokenizer: &self.tokenizer, rows: None, answers };
        let longest = longest_document(dataset, &self.tokenizer, answers)?;
        let max_tokens = longest.max(BATCH_TOKENS.min(dataset.tokens()));
        let mut transformer = Transformer::for_inference(&self.config, &self.device, max_tokens)?;
        evaluate(&mut transformer, weights, &request, observe)
    }

    /// Continues a prompt: greedily, or at random at `temperature`, at most to the model's last position.
    ///
    /// # Errors
    /// An empty prompt, one longer than the model's positions, or a temperature that is not above 0.
    pub fn generate(
        &mut self,
        prompt: &str,
        max_new_tokens: usize,
        temperature: Option<f64>,
        seed: u64,
    ) -> Result<String> {
        let prompt = self.tokenizer.encode_prompt(prompt, SpecialTokens::default())?;
        let room = self.config.max_positions.saturating_sub(prompt.len());
        if prompt.is_empty() || room == 0 {
            let reason = format!(
                "has {} tokens: use 1 to {}, the model's positions less one",
                prompt.len(),
                self.config.max_positions - 1
            );
            return Err(Error::setting("--prompt", reason));
        }
        let sampling = match temperature {
            None => Sampling::Greedy,
            Some(temperature) => Sampling::Temperature { temperature: temperature as f32, seed },
        };
        let max_new_tokens = max_new_tokens.min(room);
        // What ends the text may be a word of it, where generation_config.json says so.
        let stop = self.tokenizer.stop_tokens().to_vec();
        let generation = Generation { max_new_tokens, stop, keep_stop: true, sampling };
        let answer = match &self.weights {
            Weights::F32(weights) => self.answer(weights.view(), prompt, &generation)?,
            Weights::Bf16(weights) => self.answer(weights.view(), prompt, &generation)?,
        };
        Ok(self.tokenizer.decode(&answer))
    }

    fn answer<T: Real>(
        &self,
        weights: View<'_, T>,
        prompt: Vec<u32>,
        generation: &Generation,
    ) -> Result<Vec<u32>> {
        let mut transformer = Transformer::for_inference(&self.config, &self.device, prompt.len())?;
        let answers = self.device.scope(|| transformer.generate(weights, &[prompt], generation))?;
        Ok(answers.into_iter().next().unwrap_or_default())
    }
}

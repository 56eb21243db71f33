//! How well a model does on data: loss per row, and exact match of greedy answers.

use std::path::{Path, PathBuf};

use cpift_engine::ops::round;
use cpift_engine::{Buffer, Device, Real, View, bf16};
use serde::Serialize;

use crate::batch::RowLoss;
use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::data::{DataSettings, Dataset, Row, evaluation_batches, is_exact_match};
use crate::error::{Error, Result};
use crate::progress::Score;
use crate::recipe::SpecialTokens;
use crate::tokenizer::Tokenizer;
use crate::transformer::{ComputeType, Generation, Sampling, Transformer};

/// Tokens of an evaluation batch where nothing else sets them.
const BATCH_TOKENS: usize = 2048;

/// Rows whose answers are generated side by side and limited to the length of the longest among them.
const ANSWERED_TOGETHER: usize = 128;

/// Tokens a generated answer may be longer than the row's: one of the same length but another ending is
/// then seen as different.
const ANSWER_SLACK: usize = 8;

/// One data set's losses and matches, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct RowScores {
    /// Loss of each row, in file order.
    pub losses: Vec<RowLoss>,
    /// Rows whose greedy answer is the row's; none when no answers were generated.
    pub matches: Option<usize>,
}

impl RowScores {
    /// The whole data set's score.
    pub fn score(&self) -> Score {
        let tokens: usize = self.losses.iter().map(|row| row.tokens).sum();
        let rows = self.losses.len();
        Score {
            loss: self.losses.iter().map(|row| row.sum).sum::<f64>() / tokens as f64,
            exact_match: self.matches.map(|matches| matches as f64 / rows as f64),
            tokens: tokens as u64,
            rows: rows as u64,
        }
    }
}

/// Scores a model on a data set; `generate` asks for greedy answers too.
///
/// # Errors
/// A row longer than the transformer's batches, or a loss that is not a number.
pub fn evaluate<T: Real>(
    transformer: &mut Transformer<T>,
    weights: View<'_, T>,
    dataset: &Dataset,
    tokenizer: &Tokenizer,
    generate: bool,
) -> Result<RowScores> {
    let mut losses = Vec::with_capacity(dataset.len());
    for evaluation in evaluation_batches(dataset, transformer.max_tokens())? {
        let evaluation = evaluation?;
        let position_losses = transformer.loss(weights, &evaluation.batch)?;
        losses.extend(evaluation.batch.document_losses(&position_losses)?);
    }
    if let Some(row) = losses.iter().position(|row| !row.sum.is_finite()) {
        return Err(Error::Job(format!(
            "the loss of {} is {}: the model's weights are damaged or too large",
            dataset.describe_row(&dataset.rows()[row]),
            losses[row].sum
        )));
    }
    let matches =
        if generate { Some(count_matches(transformer, weights, dataset, tokenizer)?) } else { None };
    Ok(RowScores { losses, matches })
}

fn count_matches<T: Real>(
    transformer: &mut Transformer<T>,
    weights: View<'_, T>,
    dataset: &Dataset,
    tokenizer: &Tokenizer,
) -> Result<usize> {
    let stop = dataset.stop_tokens(tokenizer);
    let mut matches = 0;
    if let Some(row) = dataset.rows().iter().find(|row| row.prompt().is_empty()) {
        return Err(dataset.row_error(row, "has an empty prompt: there is nothing to answer"));
    }
    for rows in dataset.rows().chunks(ANSWERED_TOGETHER) {
        let prompts: Vec<Vec<u32>> = rows.iter().map(|row| row.prompt().to_vec()).collect();
        let longest = rows.iter().map(|row| row.answer().len()).max().unwrap_or(0);
        let generation = Generation {
            max_new_tokens: longest + ANSWER_SLACK,
            stop: stop.clone(),
            keep_stop: false,
            sampling: Sampling::Greedy,
        };
        let answers = transformer.generate(weights, &prompts, &generation)?;
        let is_match = |(row, answer): &(&Row, &Vec<u32>)| is_exact_match(row, answer, tokenizer, &stop);
        matches += rows.iter().zip(&answers).filter(is_match).count();
    }
    Ok(matches)
}

/// Bytes that answering a data set's prompts takes beyond what a transformer for batches of `max_tokens`
/// tokens holds: above all keys and values.
pub fn generation_bytes<T: Real>(config: &ModelConfig, max_tokens: usize, dataset: &Dataset) -> usize {
    if !dataset.has_prompts() {
        return 0;
    }
    let of_rows = |rows: &[Row]| {
        let longest = |length: fn(&Row) -> usize| rows.iter().map(length).max().unwrap_or(0);
        let (prompt, answer) = (longest(|row| row.prompt().len()), longest(|row| row.answer().len()));
        Transformer::<T>::generation_bytes(config, max_tokens, rows.len(), prompt, answer + ANSWER_SLACK)
    };
    dataset.rows().chunks(ANSWERED_TOGETHER).map(of_rows).max().unwrap_or(0)
}

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

/// Scores of one file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FileScore {
    /// The file.
    pub path: PathBuf,
    /// Mean negative log-likelihood per supervised token, in nats.
    pub loss: f64,
    /// Supervised tokens.
    pub tokens: u64,
    /// Share of rows whose greedy answer is the row's, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact_match: Option<f64>,
    /// What a person should know about the file's rows, a line each.
    pub notices: Vec<String>,
    /// Each row, in file order.
    pub rows: Vec<RowScore>,
}

/// Score of one row.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RowScore {
    /// Mean negative log-likelihood per supervised token, in nats.
    pub loss: f64,
    /// Supervised tokens.
    pub tokens: u64,
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

    /// What a person should know about the model, a line each.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Scores the model on a JSONL file; `generate` asks for greedy answers too. Rows longer than the
    /// model's positions are an error: a score of the rest would pass for the file's.
    ///
    /// # Errors
    /// The file cannot be read, line by line, or a row is too long.
    pub fn evaluate(&mut self, data: &Path, generate: bool) -> Result<FileScore> {
        let longest = self.config.max_positions;
        let dataset = self
            .device
            .scope(|| Dataset::load(&[data.to_owned()], &self.tokenizer, &DataSettings::default(), None))?;
        let too_long = dataset.rows().iter().filter(|row| row.tokens.len() > longest);
        let lines: Vec<usize> = too_long.map(|row| row.position.number).collect();
        if !lines.is_empty() {
            let reason = format!(
                "{} longer than the model's {longest} positions: shorten or remove what is there",
                name_lines(&lines)
            );
            return Err(Error::format(data, reason));
        }
        if generate && !dataset.has_prompts() {
            return Err(Error::format(
                data,
                "has `text` rows, which have no prompt to answer: leave out --generate",
            ));
        }
        let scored = match &self.weights {
            Weights::F32(weights) => self.score(weights.view(), &dataset, generate)?,
            Weights::Bf16(weights) => self.score(weights.view(), &dataset, generate)?,
        };
        let score = scored.score();
        let row = |row: &RowLoss| RowScore { loss: row.sum / row.tokens as f64, tokens: row.tokens as u64 };
        Ok(FileScore {
            path: data.to_owned(),
            loss: score.loss,
            tokens: score.tokens,
            exact_match: score.exact_match,
            notices: dataset.described_notices().collect(),
            rows: scored.losses.iter().map(row).collect(),
        })
    }

    fn score<T: Real>(&self, weights: View<'_, T>, dataset: &Dataset, generate: bool) -> Result<RowScores> {
        let max_tokens = dataset.longest_row().max(BATCH_TOKENS.min(dataset.tokens()));
        let mut transformer = Transformer::for_inference(&self.config, &self.device, max_tokens)?;
        self.device.scope(|| evaluate(&mut transformer, weights, dataset, &self.tokenizer, generate))
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

//! What a model answers, and whether that is right.

use std::path::PathBuf;

use cpift_engine::{Device, Real, View};
use serde::{Deserialize, Serialize};

use super::options::{Options, right_by_loss};
use super::{Observe, Request};
use crate::config::ModelConfig;
use crate::data::{Dataset, Row};
use crate::error::Result;
use crate::progress::{EvaluationPhase, EvaluationProgress};
use crate::score::{ScoreKind, Scoring};
use crate::tokenizer::Tokenizer;
use crate::transformer::{Generation, Sampling, Transformer};

/// Rows whose answers are generated side by side.
const ANSWERED_TOGETHER: usize = 128;

/// The same on a CPU where answers may be long: a token of so many rows already takes the arithmetic that a CPU has,
/// and how far the evaluation is shows more often.
const LONG_ANSWERED_TOGETHER: usize = 16;

/// Tokens from which on answers are long.
const LONG_ANSWER: usize = 128;

/// Tokens a generated answer may be longer than the row's: one of the same length but another ending is
/// then seen as different.
const ANSWER_SLACK: usize = 8;

/// Tokens that an answer may have at least where it is not compared as a whole: room for working before the result,
/// which references need not have. Twice what most solutions of grade-school mathematics take.
const ROOM_FOR_WORKING: usize = 256;

/// How answers are generated and judged.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AnswerSettings {
    /// When an answer is right.
    pub scoring: Scoring,
    /// Most tokens of an answer. When not given, 8 more than the longest reference, and from 256 on unless the answer
    /// is compared as a whole.
    pub max_new_tokens: Option<usize>,
    /// Text that ends an answer: what begins the next example where examples precede a prompt.
    pub end: Option<String>,
}

impl AnswerSettings {
    /// Most tokens of the answers to some rows of a data set, by a model for so many positions.
    fn limit<'a>(
        &self,
        dataset: &Dataset,
        rows: impl Iterator<Item = &'a Row> + Clone,
        max_positions: usize,
    ) -> usize {
        let room = rows.clone().map(|row| max_positions.saturating_sub(row.prompt().len())).max();
        self.wanted(dataset, rows).min(room.unwrap_or(0))
    }

    /// The same whatever the model.
    fn wanted<'a>(&self, dataset: &Dataset, rows: impl Iterator<Item = &'a Row>) -> usize {
        let longest = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or(0) + ANSWER_SLACK;
        match (self.max_new_tokens, &self.scoring) {
            (Some(limit), _) => limit,
            (None, Scoring::Exact) => longest(&mut rows.map(|row| row.answer().len())),
            // Of all rows: a verdict does not depend on the rows beside it.
            (None, _) => {
                longest(&mut dataset.rows().iter().map(|row| row.answer().len())).max(ROOM_FOR_WORKING)
            }
        }
    }

    /// A generated text up to where the next example would begin.
    fn cut<'a>(&self, text: &'a str) -> &'a str {
        let end = self.end.as_ref().and_then(|end| text.find(end.as_str()));
        text[..end.unwrap_or(text.len())].trim()
    }
}

/// What was answered to one row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The row's file; empty in records of earlier versions.
    #[serde(default)]
    pub file: PathBuf,
    /// The row's number in it, from 1: the line, of forms that have a row a line.
    pub row: usize,
    /// What the model was given, control tokens written out.
    pub prompt: String,
    /// What the row has as its answer.
    pub reference: String,
    /// What was generated, up to the token that ends answers.
    pub answer: String,
    /// What is compared of the reference.
    pub expected: String,
    /// What is compared of the answer; none where it has nothing of the kind.
    pub found: Option<String>,
    /// Whether the answer is right.
    pub right: bool,
    /// Whether it is the reference, character for character.
    pub exact: bool,
    /// Whether it was cut off at the most tokens that an answer may have.
    pub cut: bool,
    /// Whether the right option has the lowest loss, for choices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub right_by_loss: Option<bool>,
}

/// The answers to some rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Answers {
    /// How they were judged.
    pub kind: ScoreKind,
    /// One for each row.
    pub rows: Vec<Answer>,
}

impl Answers {
    /// Share of rows of which something is true.
    pub fn share(&self, is: impl Fn(&Answer) -> bool) -> f64 {
        self.rows.iter().filter(|answer| is(answer)).count() as f64 / self.rows.len() as f64
    }

    /// Share of rows whose option has the lowest loss; none where that was not measured of every row.
    pub fn choice_by_loss(&self) -> Option<f64> {
        let all = self.rows.iter().map(|answer| answer.right_by_loss).collect::<Option<Vec<bool>>>()?;
        Some(all.iter().filter(|&&right| right).count() as f64 / all.len() as f64)
    }

    /// Up to `most` answers, evenly over all rows.
    pub fn sample(&self, most: usize) -> Vec<Answer> {
        let count = most.min(self.rows.len());
        (0..count).map(|index| self.rows[index * self.rows.len() / count].clone()).collect()
    }
}

/// Checks that every row of a data set has a prompt to answer and a reference to compare with.
///
/// # Errors
/// Naming the first row that has not.
pub fn check_answers(dataset: &Dataset, tokenizer: &Tokenizer, settings: &AnswerSettings) -> Result<()> {
    let request = Request { dataset, tokenizer, rows: None, answers: Some(settings) };
    let indices = request.indices();
    let options = Options::of(dataset, tokenizer, &settings.scoring, &indices);
    check_rows(&request, &indices, settings, &options)
}

/// [`check_answers`] for the rows of these indices.
fn check_rows(
    request: &Request<'_>,
    indices: &[usize],
    settings: &AnswerSettings,
    options: &Options,
) -> Result<()> {
    let Request { dataset, tokenizer, .. } = *request;
    let rows = request.rows_of(indices);
    if let Some(row) = rows.iter().find(|row| row.prompt().is_empty()) {
        return Err(dataset.row_error(row, "has an empty prompt: there is nothing to answer"));
    }
    if settings.scoring == Scoring::Exact {
        return Ok(());
    }
    let stop = dataset.stop_tokens(tokenizer);
    for (&index, row) in indices.iter().zip(rows) {
        let reference = tokenizer.answer_text(row.answer(), &stop);
        settings.scoring.expected(&reference, &options.letters(index)).map_err(|reason| {
            let kind = settings.scoring.kind().name();
            dataset.row_error(row, &format!("cannot be scored by `{kind}`: its answer {reason}"))
        })?;
    }
    Ok(())
}

/// Generates the answers to the rows greedily and judges them.
pub(super) fn answer<T: Real>(
    transformer: &mut Transformer<T>,
    weights: View<'_, T>,
    request: &Request<'_>,
    settings: &AnswerSettings,
    observe: Observe<'_>,
) -> Result<Answers> {
    let Request { dataset, tokenizer, .. } = *request;
    let indices = request.indices();
    let options = Options::of(dataset, tokenizer, &settings.scoring, &indices);
    check_rows(request, &indices, settings, &options)?;
    let stop = dataset.stop_tokens(tokenizer);
    let max_positions = transformer.config().max_positions;
    let together = rows_together(transformer.is_on_cpu(), settings.wanted(dataset, dataset.rows().iter()));
    let mut answers = Vec::with_capacity(indices.len());
    let progress = |done| EvaluationProgress { phase: EvaluationPhase::Answers, done, rows: indices.len() };
    // The losses are all there: from here on what shows is the answers.
    observe(progress(0))?;
    for chunk in indices.chunks(together) {
        let rows = request.rows_of(chunk);
        let max_new_tokens = settings.limit(dataset, rows.iter().copied(), max_positions);
        let prompts: Vec<Vec<u32>> = rows.iter().map(|row| row.prompt().to_vec()).collect();
        let sampling = Sampling::Greedy;
        let generation = Generation { max_new_tokens, stop: stop.clone(), keep_stop: false, sampling };
        let before = answers.len();
        let mut count = |done| observe(progress(before + done));
        let generated = transformer.generate_counted(weights, &prompts, &generation, &mut count)?;
        for ((&index, row), mut ids) in chunk.iter().zip(rows).zip(generated) {
            let limit = max_new_tokens.min(max_positions.saturating_sub(row.prompt().len()));
            let cut = ids.len() >= limit;
            ids.truncate(limit);
            let reference = tokenizer.answer_text(row.answer(), &stop);
            let text = tokenizer.answer_text(&ids, &stop);
            let answer = settings.cut(&text).to_owned();
            let judged = settings.scoring.judge(&reference, &answer, &options.letters(index));
            let verdict = judged.map_err(|reason| dataset.row_error(row, &reason))?;
            answers.push(Answer {
                file: dataset.files()[row.position.file].clone(),
                row: row.position.number,
                prompt: tokenizer.decode_with_control_tokens(row.prompt()),
                exact: reference == answer,
                reference,
                cut: cut && answer.len() == text.len(),
                answer,
                expected: verdict.expected,
                found: verdict.found,
                right: verdict.right,
                right_by_loss: None,
            });
        }
    }
    if settings.scoring == Scoring::Choice
        && let Some(right) = right_by_loss(transformer, weights, request, &options, observe)?
    {
        answers.iter_mut().zip(right).for_each(|(answer, right)| answer.right_by_loss = Some(right));
    }
    Ok(Answers { kind: settings.scoring.kind(), rows: answers })
}

fn rows_together(is_on_cpu: bool, limit: usize) -> usize {
    if is_on_cpu && limit >= LONG_ANSWER { LONG_ANSWERED_TOGETHER } else { ANSWERED_TOGETHER }
}

/// Bytes that answering a data set's prompts, and those of a sample of its rows, takes beyond what a transformer for
/// batches of `max_tokens` tokens holds: above all keys and values.
pub fn generation_bytes<T: Real>(
    config: &ModelConfig,
    device: &Device,
    max_tokens: usize,
    dataset: &Dataset,
    sample: &[usize],
    settings: &AnswerSettings,
) -> usize {
    let of_rows = |rows: &[&Row]| {
        let prompt = rows.iter().map(|row| row.prompt().len()).max().unwrap_or(0);
        let answer = settings.limit(dataset, rows.iter().copied(), config.max_positions);
        Transformer::<T>::generation_bytes(config, max_tokens, rows.len(), prompt, answer)
    };
    let is_on_cpu = matches!(device, Device::Cpu(_));
    let together = rows_together(is_on_cpu, settings.wanted(dataset, dataset.rows().iter()));
    let all: Vec<&Row> = dataset.rows().iter().collect();
    // A sample puts other rows side by side.
    let sampled: Vec<&Row> = sample.iter().map(|&row| &dataset.rows()[row]).collect();
    all.chunks(together).chain(sampled.chunks(together)).map(of_rows).max().unwrap_or(0)
}

/// Tokens that measuring some rows of a data set computes at most, answers as long as they may be; without `settings`
/// losses alone. What measuring options by their losses takes is not counted.
pub fn most_tokens(
    dataset: &Dataset,
    rows: &[usize],
    settings: Option<&AnswerSettings>,
    max_positions: usize,
) -> u64 {
    let rows: Vec<&Row> = rows.iter().map(|&row| &dataset.rows()[row]).collect();
    let measured: usize = rows.iter().map(|row| row.tokens.len()).sum();
    let Some(settings) = settings else { return measured as u64 };
    let limit = settings.wanted(dataset, rows.iter().copied());
    let answered = rows.iter().map(|row| (row.prompt().len() + limit).min(max_positions));
    (measured + answered.sum::<usize>()) as u64
}

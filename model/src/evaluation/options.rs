//! Options of questions: which there are, and which of them a model finds most likely.

use std::collections::{BTreeSet, HashMap};

use cpift_engine::{Real, View};

use super::{AnswerSettings, Observe, Request};
use crate::data::{Dataset, Row, evaluation_batches};
use crate::error::{Reasoned, Result};
use crate::progress::{EvaluationPhase, EvaluationProgress};
use crate::score::{Choice, Scoring, choices_in, letter_in, reasoning_end, with_choice};
use crate::tokenizer::Tokenizer;
use crate::transformer::Transformer;

/// Rows whose options are measured between two signs of progress.
const MEASURED_TOGETHER: usize = 64;

/// The options of some rows of a data set, by the row's index; none unless answers are choices.
pub struct Options(HashMap<usize, Vec<Choice>>);

impl Options {
    /// A row's options are those its prompt lists; where it lists none, the letters that occur as references of all such
    /// rows of the data set, which is then read whole: a row has the same options whichever it is measured with.
    pub fn of(dataset: &Dataset, tokenizer: &Tokenizer, scoring: &Scoring, indices: &[usize]) -> Self {
        if *scoring != Scoring::Choice {
            return Self(HashMap::new());
        }
        let listed = |row: &Row| choices_in(&tokenizer.decode(row.prompt()));
        let mut options: HashMap<usize, Vec<Choice>> =
            indices.iter().map(|&index| (index, listed(&dataset.rows()[index]))).collect();
        if options.values().any(Vec::is_empty) {
            let lists_none = |(index, row): &(usize, &Row)| match options.get(index) {
                Some(options) => options.is_empty(),
                None => listed(row).is_empty(),
            };
            let rows = dataset.rows().iter().enumerate().filter(lists_none).map(|(_, row)| row);
            let known = letters_of_references(rows, dataset, tokenizer);
            for options in options.values_mut().filter(|options| options.is_empty()) {
                options.clone_from(&known);
            }
        }
        Self(options)
    }

    /// The letters of a row's options.
    pub fn letters(&self, row: usize) -> Vec<char> {
        self.0.get(&row).into_iter().flatten().map(|choice| choice.letter).collect()
    }

    /// The row with each of its options as its answer, and which of them is its own. None where there is nothing to
    /// choose from.
    fn candidates(&self, index: usize, row: &Row, tokenizer: &Tokenizer) -> Reasoned<Option<Candidates>> {
        let options = self.0.get(&index).map_or(&[][..], Vec::as_slice);
        let is_text = |id: &&u32| !(tokenizer.is_control(**id) || tokenizer.is_added(**id));
        let ending = row.answer().iter().rev().take_while(|id| !is_text(id)).count();
        let (ids, ending) = row.answer().split_at(row.answer().len() - ending);
        let text = tokenizer.decode(ids);
        let start = reasoning_end(&text);
        let Some((range, letter)) = letter_in(&text[start..], &self.letters(index)) else { return Ok(None) };
        let named = start + range.start..start + range.end;
        let own = options.iter().position(|option| option.letter == letter);
        let Some(own) = own.filter(|_| options.len() > 1) else { return Ok(None) };
        // A decoder may leave out the space that an answer begins with.
        let spaced = format!(" {text}");
        let lead = if tokenizer.ids_within(&text)? != ids && tokenizer.ids_within(&spaced)? == ids {
            " "
        } else {
            ""
        };
        let with = |option: &Choice| -> Reasoned<Row> {
            let answer = with_choice(&text, &named, &options[own], option);
            let mut tokens = row.prompt().to_vec();
            tokens.extend(tokenizer.ids_within(&format!("{lead}{answer}"))?);
            tokens.extend(ending);
            let mut supervised = vec![false; row.prompt().len()];
            supervised.resize(tokens.len(), true);
            Ok(Row { tokens, supervised, ..row.clone() })
        };
        let rows = options.iter().map(with).collect::<Reasoned<Vec<Row>>>()?;
        Ok(Some(Candidates { rows, own }))
    }
}

/// The letters that occur as references of some rows, as options without text.
fn letters_of_references<'a>(
    rows: impl Iterator<Item = &'a Row>,
    dataset: &Dataset,
    tokenizer: &Tokenizer,
) -> Vec<Choice> {
    let stop = dataset.stop_tokens(tokenizer);
    let letter = |row: &Row| {
        let reference = tokenizer.answer_text(row.answer(), &stop);
        letter_in(&reference[reasoning_end(&reference)..], &[]).map(|(_, letter)| letter)
    };
    let letters: BTreeSet<char> = rows.filter_map(letter).collect();
    letters.into_iter().map(|letter| Choice { letter, text: String::new() }).collect()
}

/// A row with each of its options as its answer.
struct Candidates {
    rows: Vec<Row>,
    /// Which of them is the row's own.
    own: usize,
}

/// For every row whether the option that is right has the lowest loss, summed over the tokens of the answer, of all.
/// None where a row has nothing to choose from.
pub fn right_by_loss<T: Real>(
    transformer: &mut Transformer<T>,
    weights: View<'_, T>,
    request: &Request<'_>,
    options: &Options,
    observe: Observe<'_>,
) -> Result<Option<Vec<bool>>> {
    let Request { dataset, tokenizer, .. } = *request;
    let indices = request.indices();
    let mut right = Vec::with_capacity(indices.len());
    for chunk in indices.chunks(MEASURED_TOGETHER) {
        let of_row = |&index: &usize| {
            let row = &dataset.rows()[index];
            options.candidates(index, row, tokenizer).map_err(|reason| dataset.row_error(row, &reason))
        };
        let Some(candidates) = chunk.iter().map(of_row).collect::<Result<Option<Vec<_>>>>()? else {
            return Ok(None);
        };
        let rows: Vec<&Row> = candidates.iter().flat_map(|candidates| &candidates.rows).collect();
        let mut losses = Vec::with_capacity(rows.len());
        for evaluation in evaluation_batches(&dataset.name(), rows, transformer.max_tokens())? {
            let batch = evaluation?.batch;
            let position_losses = transformer.loss(weights, &batch)?;
            losses.extend(batch.document_losses(&position_losses)?);
        }
        let mut losses = losses.into_iter().map(|loss| loss.sum);
        for Candidates { rows, own } in &candidates {
            let of_row: Vec<f64> = losses.by_ref().take(rows.len()).collect();
            let is_beaten = of_row.iter().enumerate().any(|(other, loss)| {
                // Of equal losses the first option's counts.
                *loss < of_row[*own] || (*loss == of_row[*own] && other < *own)
            });
            right.push(!is_beaten);
        }
        let done = right.len();
        observe(EvaluationProgress { phase: EvaluationPhase::Options, done, rows: indices.len() })?;
    }
    Ok(Some(right))
}

/// Tokens of the longest document that evaluating a data set takes: a row, or a row with another option.
///
/// # Errors
/// An option cannot be tokenized.
pub fn longest_document(
    dataset: &Dataset,
    tokenizer: &Tokenizer,
    settings: Option<&AnswerSettings>,
) -> Result<usize> {
    let mut longest = dataset.longest_row();
    let Some(settings) = settings.filter(|settings| settings.scoring == Scoring::Choice) else {
        return Ok(longest);
    };
    let all: Vec<usize> = (0..dataset.len()).collect();
    let options = Options::of(dataset, tokenizer, &settings.scoring, &all);
    for (index, row) in dataset.rows().iter().enumerate() {
        let candidates =
            options.candidates(index, row, tokenizer).map_err(|reason| dataset.row_error(row, &reason))?;
        let lengths = candidates.iter().flat_map(|candidates| &candidates.rows).map(|row| row.tokens.len());
        longest = lengths.fold(longest, usize::max);
    }
    Ok(longest)
}

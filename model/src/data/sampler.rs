//! Which rows each optimizer step sees.
//!
//! The rows of all sources form an endless stream, epoch after epoch. An epoch draws as many rows as the
//! sources have together, each source's share by its weight and the mixture's settings; every source goes through all its rows, in
//! an order of its own, before any comes again. Rows become sequences (one each, or several packed), and
//! step `s` takes the `batch_size · accumulate` sequences from number `s · batch_size · accumulate` on.
//! Everything follows from the settings and the step's number, so a resumed run needs no state.

use std::sync::Arc;

use super::order::{permutation, shuffle, stream};
use super::{Dataset, Row};
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::recipe::{MixtureOrder, MixtureSettings, MixtureShares};

/// Sequences that a row may still join while packing: the last this many.
const PACKING_WINDOW: usize = 64;

/// Rows to sample from, and how often relative to the other sources.
#[derive(Debug, Clone)]
pub struct Source {
    /// The data.
    pub dataset: Arc<Dataset>,
    /// Which of its rows, by index.
    pub rows: Vec<usize>,
    /// Share of what [`MixtureSettings::shares`] says, relative to the other sources' weights.
    pub weight: f64,
    /// How often an epoch goes through the rows, where shares go by rows or there is no other source.
    pub repeat: f64,
    /// True: an epoch goes through the rows as often as `repeat` says in any case, and `weight` does not count.
    pub is_fixed: bool,
}

impl Source {
    /// All rows of a data set.
    pub fn whole(dataset: Arc<Dataset>, weight: f64) -> Self {
        let rows = (0..dataset.len()).collect();
        Self { dataset, rows, weight, repeat: 1.0, is_fixed: false }
    }

    /// Rows it gives to an epoch by itself.
    fn size(&self) -> f64 {
        self.rows.len() as f64 * self.repeat
    }

    /// Its part of the rows of an epoch, relative to that of other sources that are not fixed.
    pub fn part(&self, mixture: &MixtureSettings) -> f64 {
        match mixture.shares {
            MixtureShares::Equal | MixtureShares::Rows => self.weight * mixture.size_part(self.size()),
            MixtureShares::Tokens => {
                let mean = self.mean(Row::supervised_tokens);
                self.weight * mixture.size_part(self.size() * mean) / mean
            }
        }
    }

    /// Gives sources that are fixed weights that come to the same rows relative to each other and to the others, so that
    /// weights can be changed.
    pub fn by_weights(sources: &mut [Self], mixture: &MixtureSettings) {
        let of_others = |value: &dyn Fn(&Self) -> f64| {
            sources.iter().filter(|source| !source.is_fixed).map(value).sum::<f64>()
        };
        let (parts, rows) = (of_others(&|source| source.part(mixture)), of_others(&Self::size));
        let part_of_row = if rows > 0.0 { parts / rows } else { 1.0 };
        for source in sources.iter_mut().filter(|source| source.is_fixed) {
            source.weight = 1.0;
            source.weight = part_of_row * source.size() / source.part(mixture);
            source.is_fixed = false;
        }
    }

    /// Something of a row, on average.
    fn mean(&self, of: fn(&Row) -> usize) -> f64 {
        let rows = self.dataset.rows();
        let sum: usize = self.rows.iter().filter_map(|&row| rows.get(row)).map(of).sum();
        sum as f64 / self.rows.len() as f64
    }
}

/// How rows become steps.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplerSettings {
    /// The recipe's seed.
    pub seed: u64,
    /// What the order is for (`probe`, `integrate`, …): another purpose gives another order.
    pub purpose: String,
    /// Sequences in a micro-batch.
    pub batch_size: usize,
    /// Micro-batches in a step.
    pub accumulate: usize,
    /// Most tokens in a packed sequence.
    pub max_length: usize,
    /// A new random order every epoch; otherwise rows come in file order.
    pub shuffle: bool,
    /// Several rows in a sequence; otherwise one.
    pub pack: bool,
    /// How the sources are mixed.
    pub mixture: MixtureSettings,
}

/// What one optimizer step works on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepBatches {
    /// The micro-batches, in order.
    pub micro: Vec<Batch>,
    /// For each micro-batch and document: the source and the row's index in its data set.
    pub documents: Vec<Vec<SampledRow>>,
    /// Supervised tokens of all micro-batches: what the summed loss is divided by.
    pub supervised_tokens: usize,
    /// Rows taken from each source.
    pub rows_per_source: Vec<usize>,
}

/// One row of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampledRow {
    /// Index of the source.
    pub source: usize,
    /// Index of the row in the source's data set.
    pub row: usize,
}

/// The batches of every step, by the step's number.
pub struct Sampler {
    sources: Vec<Source>,
    settings: SamplerSettings,
    /// Rows each source gives to an epoch.
    shares: Vec<usize>,
    /// Number of sequences before each epoch, as far as known; the first is 0.
    sequences_before: Vec<u64>,
    /// The epochs used last.
    recent: Vec<Arc<Epoch>>,
}

/// The stream's part of one epoch.
struct Epoch {
    number: u64,
    /// All rows, sequence after sequence.
    draws: Vec<SampledRow>,
    /// First row of each sequence, and the number of rows at the end.
    starts: Vec<usize>,
}

impl Epoch {
    fn sequences(&self) -> u64 {
        self.starts.len() as u64 - 1
    }
}

impl Sampler {
    /// # Errors
    /// When there is nothing to sample, a weight is not a positive number, a row index is out of range, or
    /// a row is longer than a packed sequence.
    pub fn new(sources: Vec<Source>, settings: SamplerSettings) -> Result<Self> {
        if sources.is_empty() {
            return Err(Error::Job("there is no data to sample from".into()));
        }
        if settings.batch_size == 0 || settings.accumulate == 0 {
            return Err(Error::Job("batch_size and accumulate must be at least 1".into()));
        }
        for source in &sources {
            let path = &source.dataset.name();
            if source.rows.is_empty() {
                return Err(Error::format(path, "gives no rows to sample from"));
            }
            if !(source.weight.is_finite() && source.weight > 0.0) {
                return Err(Error::format(
                    path,
                    format!("has the weight {}: use more than 0", source.weight),
                ));
            }
            if let Some(row) = source.rows.iter().find(|&&row| row >= source.dataset.len()) {
                return Err(Error::format(
                    path,
                    format!("has no row {row}: it has {}", source.dataset.len()),
                ));
            }
            let longest = longest_row(source);
            if settings.pack && longest > settings.max_length {
                return Err(Error::format(
                    path,
                    format!("has a row of {longest} tokens, and sequences have {}", settings.max_length),
                ));
            }
        }
        let shares = epoch_shares(&sources, &settings.mixture);
        Ok(Self { sources, settings, shares, sequences_before: vec![0], recent: Vec::new() })
    }

    /// The batches of a step, counted from 0.
    ///
    /// # Errors
    /// When the step's number is beyond what can be counted.
    pub fn batches(&mut self, step: u64) -> Result<StepBatches> {
        let sequences = self.settings.batch_size as u64 * self.settings.accumulate as u64;
        let first =
            step.checked_mul(sequences).ok_or_else(|| Error::Job(format!("step {step} is too large")))?;
        let mut result = StepBatches {
            micro: Vec::with_capacity(self.settings.accumulate),
            documents: Vec::with_capacity(self.settings.accumulate),
            supervised_tokens: 0,
            rows_per_source: vec![0; self.sources.len()],
        };
        for micro in 0..self.settings.accumulate as u64 {
            let mut batch = Batch::new();
            let mut documents = Vec::new();
            for sequence in 0..self.settings.batch_size as u64 {
                let (epoch, index) = self.find(first + micro * self.settings.batch_size as u64 + sequence);
                for &draw in &epoch.draws[epoch.starts[index]..epoch.starts[index + 1]] {
                    let row = &self.sources[draw.source].dataset.rows()[draw.row];
                    batch.push(&row.tokens, &row.supervised)?;
                    result.rows_per_source[draw.source] += 1;
                    documents.push(draw);
                }
            }
            result.supervised_tokens += batch.supervised_tokens();
            result.micro.push(batch);
            result.documents.push(documents);
        }
        Ok(result)
    }

    /// Steps for a number of passes over the data (1.5 is one and a half), rounded up, at least 1.
    pub fn steps_for_epochs(&mut self, epochs: f64) -> u64 {
        let whole = epochs.max(0.0).floor() as u64;
        let share = epochs.max(0.0).fract();
        let mut sequences = self.sequences_before(whole);
        if share > 0.0 {
            let next = self.sequences_before(whole + 1) - sequences;
            // 1e-9 less: 0.1 · 30 is 3, whatever floating point says.
            sequences += (share * next as f64 - 1e-9).ceil() as u64;
        }
        sequences.div_ceil(self.settings.batch_size as u64 * self.settings.accumulate as u64).max(1)
    }

    /// Tokens of an epoch, on average.
    pub fn tokens_per_epoch(&self) -> f64 {
        let tokens = |(source, &share): (&Source, &usize)| source.mean(|row| row.tokens.len()) * share as f64;
        self.sources.iter().zip(&self.shares).map(tokens).sum()
    }

    /// Sequences of the first epoch.
    pub fn sequences_per_epoch(&mut self) -> u64 {
        self.sequences_before(1)
    }

    /// Most tokens a micro-batch can have: what activations are planned for.
    pub fn max_micro_batch_tokens(&self) -> usize {
        let longest = self.sources.iter().map(longest_row).max().unwrap_or(0);
        let sequence = if self.settings.pack { self.settings.max_length } else { longest };
        self.settings.batch_size.saturating_mul(sequence)
    }

    /// The epoch that holds a sequence of the stream, and the sequence's index in it.
    fn find(&mut self, sequence: u64) -> (Arc<Epoch>, usize) {
        if !self.settings.pack {
            let per_epoch = self.shares.iter().sum::<usize>() as u64;
            return (self.epoch(sequence / per_epoch), (sequence % per_epoch) as usize);
        }
        let mut number = 0;
        while self.sequences_before(number + 1) <= sequence {
            number += 1;
        }
        let index = sequence - self.sequences_before(number);
        (self.epoch(number), index as usize)
    }

    /// Sequences in all epochs before this one. Packing makes their number depend on the order, so the
    /// epochs up to here are built once.
    fn sequences_before(&mut self, epoch: u64) -> u64 {
        if !self.settings.pack {
            return epoch * self.shares.iter().sum::<usize>() as u64;
        }
        while (self.sequences_before.len() as u64) <= epoch {
            let number = self.sequences_before.len() as u64 - 1;
            let before = self.sequences_before[number as usize] + self.epoch(number).sequences();
            self.sequences_before.push(before);
        }
        self.sequences_before[epoch as usize]
    }

    fn epoch(&mut self, number: u64) -> Arc<Epoch> {
        if let Some(epoch) = self.recent.iter().find(|epoch| epoch.number == number) {
            return epoch.clone();
        }
        let draws = self.draw(number);
        let epoch = if self.settings.pack {
            self.pack(number, &draws)
        } else {
            Epoch { number, starts: (0..=draws.len()).collect(), draws }
        };
        let epoch = Arc::new(epoch);
        if self.recent.len() == 2 {
            self.recent.remove(0);
        }
        self.recent.push(epoch.clone());
        epoch
    }

    /// The rows of an epoch in order.
    fn draw(&self, number: u64) -> Vec<SampledRow> {
        let settings = &self.settings;
        let mut order = interleaved(&self.shares);
        let shuffled = settings.shuffle && settings.mixture.order == MixtureOrder::Shuffled;
        if shuffled && self.sources.len() > 1 {
            let purpose = format!("{}/sources", settings.purpose);
            shuffle(&mut order, &mut stream(settings.seed, &purpose, 0, number));
        }
        let mut rows: Vec<_> =
            (0..self.sources.len()).map(|source| self.source_rows(source, number).into_iter()).collect();
        order
            .into_iter()
            .filter_map(|source| rows[source].next().map(|row| SampledRow { source, row }))
            .collect()
    }

    /// The rows a source gives to an epoch: its next `share` rows, over passes of its own.
    fn source_rows(&self, source: usize, epoch: u64) -> Vec<usize> {
        let rows = &self.sources[source].rows;
        let share = self.shares[source];
        let mut position = epoch * share as u64;
        let mut taken = Vec::with_capacity(share);
        while taken.len() < share {
            let pass = position / rows.len() as u64;
            let start = (position % rows.len() as u64) as usize;
            let length = (rows.len() - start).min(share - taken.len());
            if self.settings.shuffle {
                let mut random = stream(self.settings.seed, &self.settings.purpose, source, pass);
                let order = permutation(rows.len(), &mut random);
                taken.extend(order[start..start + length].iter().map(|&index| rows[index]));
            } else {
                taken.extend_from_slice(&rows[start..start + length]);
            }
            position += length as u64;
        }
        taken
    }

    /// First fit within a window: each row joins the oldest of the last sequences that has room for it,
    /// else begins a new one. Rows are never split.
    fn pack(&self, number: u64, draws: &[SampledRow]) -> Epoch {
        let mut sequences: Vec<Vec<SampledRow>> = Vec::new();
        let mut lengths: Vec<usize> = Vec::new();
        for &draw in draws {
            let length = self.sources[draw.source].dataset.rows()[draw.row].tokens.len();
            let window = lengths.len().saturating_sub(PACKING_WINDOW);
            let fitting = lengths[window..].iter().position(|used| used + length <= self.settings.max_length);
            match fitting {
                Some(offset) => {
                    sequences[window + offset].push(draw);
                    lengths[window + offset] += length;
                }
                None => {
                    sequences.push(vec![draw]);
                    lengths.push(length);
                }
            }
        }
        let mut starts = vec![0];
        starts.extend(sequences.iter().scan(0, |rows, sequence| {
            *rows += sequence.len();
            Some(*rows)
        }));
        Epoch { number, draws: sequences.into_iter().flatten().collect(), starts }
    }
}

fn longest_row(source: &Source) -> usize {
    let rows = source.dataset.rows();
    source.rows.iter().filter_map(|&row| rows.get(row)).map(|row| row.tokens.len()).max().unwrap_or(0)
}

/// Rows of each source in an epoch, which has as many as the sources have together, each as often as it is repeated: of
/// fixed sources these; of the others by weight, rounded by the largest remainder (ties to the earlier source). At least
/// 1 each.
fn epoch_shares(sources: &[Source], mixture: &MixtureSettings) -> Vec<usize> {
    let shared: Vec<&Source> = sources.iter().filter(|source| !source.is_fixed).collect();
    let mut shared = shared_rows(&shared, mixture).into_iter();
    let share = |source: &Source| match source.is_fixed {
        true => source.size().round() as usize,
        // One for each that is not fixed.
        false => shared.next().unwrap_or_default(),
    };
    sources.iter().map(share).map(|share| share.max(1)).collect()
}

/// As many rows as sources have together, divided by weight.
fn shared_rows(sources: &[&Source], mixture: &MixtureSettings) -> Vec<usize> {
    let total = sources.iter().map(|source| source.size()).sum::<f64>().round() as usize;
    let parts: Vec<f64> = sources.iter().map(|source| source.part(mixture)).collect();
    let all: f64 = parts.iter().sum();
    let exact: Vec<f64> = parts.iter().map(|part| total as f64 * (part / all)).collect();
    let mut shares: Vec<usize> = exact.iter().map(|share| share.floor() as usize).collect();
    let missing = total.saturating_sub(shares.iter().sum());
    let mut by_remainder: Vec<usize> = (0..sources.len()).collect();
    by_remainder.sort_by(|&a, &b| exact[b].fract().total_cmp(&exact[a].fract()).then(a.cmp(&b)));
    for &source in by_remainder.iter().take(missing) {
        shares[source] += 1;
    }
    shares
}

/// Each source's index as often as its share says, spread evenly.
fn interleaved(shares: &[usize]) -> Vec<usize> {
    let mut places: Vec<(f64, usize)> = Vec::with_capacity(shares.iter().sum());
    for (source, &share) in shares.iter().enumerate() {
        places.extend((0..share).map(|index| ((index as f64 + 0.5) / share as f64, source)));
    }
    places.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    places.into_iter().map(|(_, source)| source).collect()
}

/// A balanced sample (docs/algorithm.md, stage 4): the same number of rows from every data set, `fraction` of
/// their mean number of rows, rounded, at least 1 and at most the smallest set's. Given the data sets'
/// numbers of rows, it returns the sampled rows of each, in file order; which, the seed decides.
pub fn balanced_sample(rows: &[usize], fraction: f64, seed: u64) -> Vec<Vec<usize>> {
    let Some(&smallest) = rows.iter().min() else { return Vec::new() };
    let mean = rows.iter().sum::<usize>() as f64 / rows.len() as f64;
    let count = ((fraction * mean).round() as usize).max(1).min(smallest);
    let sample = |(index, &rows): (usize, &usize)| {
        let mut sampled = permutation(rows, &mut stream(seed, "balanced sample", index, 0));
        sampled.truncate(count);
        sampled.sort_unstable();
        sampled
    };
    rows.iter().enumerate().map(sample).collect()
}

//! Generation: prompts through the packed forward pass once, then one token per row and step over a
//! cache of keys and values.

mod continuation;

use std::ops::ControlFlow;

use cpift_engine::ops::attention::Documents;
use cpift_engine::{Buffer, Real, View};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::cache::KeyValueCache;
use super::forward::Attend;
use super::sampling::{Sampling, largest};
use super::{RotaryTables, Transformer};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
pub use continuation::TextCache;

/// Most rows generated side by side: beyond, the weights' traffic is shared well enough.
const MOST_ROWS: usize = 128;
/// Most bytes of keys, values and states held at once (more only where a single row needs them).
const CACHE_BYTES: usize = 512 << 20;

/// How far to generate, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// Most tokens to add to a prompt.
    pub max_new_tokens: usize,
    /// Tokens that end a text.
    pub stop: Vec<u32>,
    /// Whether the token that ends a text is part of what is returned.
    pub keep_stop: bool,
    /// How the next token is chosen.
    pub sampling: Sampling,
}

/// Told every token that was added to a prompt, with the prompt's index. `Break` ends that prompt's text; an error ends
/// all.
pub type ObserveToken<'a> = &'a mut (dyn FnMut(usize, u32) -> Result<ControlFlow<()>> + Send);

/// Told after every step how many texts are complete. An error ends all.
pub type ObserveCount<'a> = &'a mut dyn FnMut(usize) -> Result<()>;

/// A prompt being continued.
struct Row<'a> {
    /// Of the prompt, among all.
    index: usize,
    prompt: &'a [u32],
    generated: Vec<u32>,
    random: ChaCha8Rng,
    done: bool,
}

impl<T: Real> Transformer<T> {
    /// Continues every prompt; returns what was added to each, in their order.
    ///
    /// Prompts are worked on in groups; rows that are finished cost nothing further.
    ///
    /// # Errors
    /// An empty prompt, one longer than the planned `max_tokens`, a token outside the vocabulary, a
    /// sampling that is impossible, logits that are not numbers.
    pub fn generate(
        &mut self,
        weights: View<'_, T>,
        prompts: &[Vec<u32>],
        generation: &Generation,
    ) -> Result<Vec<Vec<u32>>> {
        self.generate_counted(weights, prompts, generation, &mut |_| Ok(()))
    }

    /// As [`Transformer::generate`], and tells after every step how many texts are complete.
    ///
    /// # Errors
    /// As [`Transformer::generate`], or what `count` says.
    pub fn generate_counted(
        &mut self,
        weights: View<'_, T>,
        prompts: &[Vec<u32>],
        generation: &Generation,
        count: ObserveCount<'_>,
    ) -> Result<Vec<Vec<u32>>> {
        let mut go_on = |_, _| Ok(ControlFlow::Continue(()));
        self.generate_all(weights, prompts, generation, &mut go_on, count)
    }

    /// As [`Transformer::generate`], and tells every token on the way.
    ///
    /// # Errors
    /// As [`Transformer::generate`], or what `observe` says.
    pub fn generate_observed(
        &mut self,
        weights: View<'_, T>,
        prompts: &[Vec<u32>],
        generation: &Generation,
        observe: ObserveToken<'_>,
    ) -> Result<Vec<Vec<u32>>> {
        self.generate_all(weights, prompts, generation, observe, &mut |_| Ok(()))
    }

    fn generate_all(
        &mut self,
        weights: View<'_, T>,
        prompts: &[Vec<u32>],
        generation: &Generation,
        observe: ObserveToken<'_>,
        count: ObserveCount<'_>,
    ) -> Result<Vec<Vec<u32>>> {
        self.check_length("weights", weights.len())?;
        self.check_prompts(prompts, generation)?;
        if generation.max_new_tokens == 0 {
            return Ok(vec![Vec::new(); prompts.len()]);
        }
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
        let capacity = longest.checked_add(generation.max_new_tokens).ok_or_else(|| {
            let reason = format!("is {}: no text can be that long", generation.max_new_tokens);
            Error::setting("--max-new-tokens", reason)
        })?;
        self.reach_positions(capacity)?;
        let group = rows_together::<T>(&self.config, self.max_tokens, capacity);
        let slots = group.min(prompts.len());
        let mut cache = KeyValueCache::new(&self.config, &self.device, slots, capacity)?;

        let row = |(index, prompt)| Row::new(index, prompt, &generation.sampling);
        let mut rows: Vec<Row<'_>> = prompts.iter().map(Vec::as_slice).enumerate().map(row).collect();
        let mut complete = 0;
        for rows in rows.chunks_mut(group) {
            let mut count_of_group = |done| count(complete + done);
            self.generate_group(weights, rows, generation, &mut cache, observe, &mut count_of_group)?;
            complete += rows.len();
        }
        Ok(rows.into_iter().map(|row| row.generated).collect())
    }

    /// Bytes that [`Transformer::generate`] takes beyond what the transformer holds, for prompts of which
    /// the longest has `longest_prompt` tokens.
    pub fn generation_bytes(
        config: &ModelConfig,
        max_tokens: usize,
        prompts: usize,
        longest_prompt: usize,
        max_new_tokens: usize,
    ) -> usize {
        let capacity = longest_prompt.saturating_add(max_new_tokens);
        let rows = rows_together::<T>(config, max_tokens, capacity).min(prompts);
        // Logits on the device and on the host, both f32; the last hidden states; slot and length.
        let row = config.hidden * size_of::<T>() + 2 * (config.vocabulary + 1) * size_of::<f32>();
        let positions = if capacity > max_tokens { RotaryTables::bytes(config, capacity) } else { 0 };
        let slot = KeyValueCache::<T>::bytes_per_slot(config, capacity).saturating_add(row);
        rows.saturating_mul(slot).saturating_add(positions)
    }

    fn check_prompts(&self, prompts: &[Vec<u32>], generation: &Generation) -> Result<()> {
        check_sampling(generation)?;
        for (index, prompt) in prompts.iter().enumerate() {
            if prompt.is_empty() {
                return Err(Error::Job(format!(
                    "prompt {index} has no tokens; there is nothing to continue"
                )));
            }
            if prompt.len() > self.max_tokens {
                return Err(Error::Job(format!(
                    "prompt {index} has {} tokens, more than the {} planned",
                    prompt.len(),
                    self.max_tokens
                )));
            }
        }
        Ok(())
    }

    /// Makes the rotary tables longer where generated texts go beyond the batches planned for.
    fn reach_positions(&mut self, positions: usize) -> Result<()> {
        if positions > self.rotary.positions() {
            self.rotary = RotaryTables::new(&self.config, &self.device, positions)?;
        }
        Ok(())
    }

    fn generate_group(
        &mut self,
        weights: View<'_, T>,
        rows: &mut [Row<'_>],
        generation: &Generation,
        cache: &mut KeyValueCache<T>,
        observe: ObserveToken<'_>,
        count: ObserveCount<'_>,
    ) -> Result<()> {
        let device = self.device.clone();
        let mut last_hidden = Buffer::zeros(&self.device, rows.len() * self.config.hidden)?;
        let mut logits = Buffer::zeros(&self.device, rows.len() * self.config.vocabulary)?;
        device.scope(|| self.prefill(weights, rows, cache, &mut last_hidden))?;
        let mut active: Vec<usize> = (0..rows.len()).collect();
        while !active.is_empty() {
            device.scope(|| -> Result<()> {
                let hidden = last_hidden.slice(0..active.len() * self.config.hidden);
                let mut logits = logits.slice_mut(0..active.len() * self.config.vocabulary);
                self.project(weights, hidden, logits.reborrow())?;
                let logits = logits.as_view().to_vec()?;
                for (&row, logits) in active.iter().zip(logits.chunks(self.config.vocabulary)) {
                    rows[row].take(logits, generation, observe)?;
                }
                active.retain(|&row| !rows[row].done);
                match active.is_empty() {
                    true => Ok(()),
                    false => self.decode(weights, rows, &active, cache, &mut last_hidden),
                }
            })?;
            // Between steps, on the caller's thread: whoever counts need not be able to change threads.
            count(rows.len() - active.len())?;
        }
        Ok(())
    }

    /// Runs the prompts, as many at once as fit a batch; leaves the last token's normed hidden state of
    /// each in `last_hidden` `[rows, C]`.
    fn prefill(
        &mut self,
        weights: View<'_, T>,
        rows: &[Row<'_>],
        cache: &mut KeyValueCache<T>,
        last_hidden: &mut Buffer<T>,
    ) -> Result<()> {
        let hidden = self.config.hidden;
        let mut first = 0;
        while first < rows.len() {
            let (mut tokens, mut rotary_rows, mut starts) = (Vec::new(), Vec::new(), vec![0]);
            for row in &rows[first..] {
                if tokens.len() + row.prompt.len() > self.max_tokens {
                    break;
                }
                tokens.extend_from_slice(row.prompt);
                rotary_rows.extend(self.rotary.rows(0..row.prompt.len(), row.prompt.len()));
                starts.push(tokens.len());
            }
            self.load_tokens(&tokens, &rotary_rows)?;
            let documents = Documents::new(&starts)?;
            let (pass, activations, timings) = self.pass(weights, tokens.len());
            let mut attend = Attend::Prefill { documents: &documents, cache, first_slot: first };
            pass.forward(activations, &mut attend, false, timings)?;
            for (row, end) in (first..).zip(&starts[1..]) {
                let last = activations.scratch.normed.slice((end - 1) * hidden..end * hidden);
                last_hidden.slice_mut(row * hidden..(row + 1) * hidden).copy_from(last)?;
            }
            first += documents.len();
        }
        Ok(())
    }

    /// Runs the newest token of every active row; leaves its normed hidden state in `last_hidden` `[active, C]`.
    fn decode(
        &mut self,
        weights: View<'_, T>,
        rows: &[Row<'_>],
        active: &[usize],
        cache: &mut KeyValueCache<T>,
        last_hidden: &mut Buffer<T>,
    ) -> Result<()> {
        let newest = |&row: &usize| rows[row].generated.last().copied().unwrap_or_default();
        let length = |row: usize| rows[row].prompt.len() + rows[row].generated.len();
        let hidden = self.config.hidden;
        let tokens: Vec<u32> = active.iter().map(newest).collect();
        let rotary_rows = active.iter().map(|&row| (length(row) - 1..length(row), length(row)));
        let rotary_rows: Vec<u32> =
            rotary_rows.flat_map(|(position, tokens)| self.rotary.rows(position, tokens)).collect();
        self.load_tokens(&tokens, &rotary_rows)?;
        cache.set_rows(active.iter().map(|&row| (row as u32, length(row) as u32)))?;
        let (pass, activations, timings) = self.pass(weights, active.len());
        pass.forward(activations, &mut Attend::Cache(cache), false, timings)?;
        let newest = activations.scratch.normed.slice(0..active.len() * hidden);
        last_hidden.slice_mut(0..newest.len()).copy_from(newest)?;

        // A text that outgrows the first context is computed anew, as in `transformers`: its keys have other angles now.
        for (index, &row) in active.iter().enumerate() {
            if self.config.context_of(length(row)) != self.config.context_of(length(row) - 1) {
                let text = [rows[row].prompt, &rows[row].generated].concat();
                let last = self.fill(weights, &text, 0, cache, row)?;
                last_hidden.slice_mut(index * hidden..(index + 1) * hidden).copy_from(last.view())?;
            }
        }
        Ok(())
    }

    /// Computes the tokens of a text from `start` on behind those whose keys and values the slot has, as many at once as
    /// fit a batch; returns the last one's normed hidden state `[C]`.
    fn fill(
        &mut self,
        weights: View<'_, T>,
        text: &[u32],
        start: usize,
        cache: &mut KeyValueCache<T>,
        slot: usize,
    ) -> Result<Buffer<T>> {
        let hidden = self.config.hidden;
        let mut last_hidden = Buffer::zeros(&self.device, hidden)?;
        let mut start = start;
        for chunk in text[start..].chunks(self.max_tokens) {
            let positions = start..start + chunk.len();
            let rotary_rows: Vec<u32> = self.rotary.rows(positions.clone(), text.len()).collect();
            self.load_tokens(chunk, &rotary_rows)?;
            let documents = Documents::new(&[0, chunk.len()])?;
            cache.reserve_rows(&self.device, chunk.len())?;
            let (pass, activations, timings) = self.pass(weights, chunk.len());
            let mut attend = if start == 0 {
                Attend::Prefill { documents: &documents, cache, first_slot: slot }
            } else {
                // Every token is a row that sees the slot up to itself.
                cache.set_rows(positions.map(|position| (slot as u32, position as u32 + 1)))?;
                Attend::Cache(cache)
            };
            pass.forward(activations, &mut attend, false, timings)?;
            let last = activations.scratch.normed.slice((chunk.len() - 1) * hidden..chunk.len() * hidden);
            last_hidden.view_mut().copy_from(last)?;
            start += chunk.len();
        }
        Ok(last_hidden)
    }
}

fn check_sampling(generation: &Generation) -> Result<()> {
    match &generation.sampling {
        Sampling::Random(random) => {
            random.fault().map_or(Ok(()), |(key, reason)| Err(Error::setting(key, reason)))
        }
        Sampling::Greedy => Ok(()),
    }
}

/// Rows that are generated side by side, where each may come to `capacity` tokens.
fn rows_together<T: Real>(config: &ModelConfig, max_tokens: usize, capacity: usize) -> usize {
    let slot_bytes = KeyValueCache::<T>::bytes_per_slot(config, capacity).max(1);
    (CACHE_BYTES / slot_bytes).clamp(1, MOST_ROWS).min(max_tokens)
}

impl<'a> Row<'a> {
    /// A prompt to which nothing has been added, with random numbers of its own.
    fn new(index: usize, prompt: &'a [u32], sampling: &Sampling) -> Self {
        let (seed, stream) = match sampling {
            Sampling::Greedy => (0, 0),
            Sampling::Random(random) => (random.seed, random.stream),
        };
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(stream.wrapping_add(index as u64));
        Self { index, prompt, generated: Vec::new(), random, done: false }
    }

    /// Chooses the next token and stops at the end of the text or of the allowance, or where `observe` says.
    fn take(&mut self, logits: &[f32], generation: &Generation, observe: ObserveToken<'_>) -> Result<()> {
        let largest = largest(logits).ok_or_else(|| {
            Error::Job("the model's logits are not numbers: its weights are damaged".to_owned())
        })?;
        let token = match &generation.sampling {
            Sampling::Greedy => largest as u32,
            Sampling::Random(random) => random.choose(logits, logits[largest], self.random.random()),
        };
        self.done = generation.stop.contains(&token);
        if !self.done || generation.keep_stop {
            self.generated.push(token);
            self.done |= self.generated.len() == generation.max_new_tokens;
            self.done |= observe(self.index, token)?.is_break();
        }
        Ok(())
    }
}

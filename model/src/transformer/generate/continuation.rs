//! Generation that goes on from a text whose keys and values, or states, are kept: of a longer text only what is new is
//! computed.

use std::ops::ControlFlow;

use cpift_engine::{Buffer, Device, Real, View};

use super::{Generation, KeyValueCache, Row, Transformer, check_sampling};
use crate::config::{Context, ModelConfig};
use crate::error::{Error, Result};

/// What the layers keep of one text, for texts that begin like it. Of a model with states it is of use to those alone that
/// begin with all of it: a chat template that leaves something of earlier turns out has every turn computed anew.
#[derive(Debug)]
pub struct TextCache<T: Real> {
    cache: KeyValueCache<T>,
    /// The tokens that it is of.
    tokens: Vec<u32>,
    /// Most tokens there is room for.
    capacity: usize,
    /// The angles by which its keys were turned.
    context: Context,
}

impl<T: Real> TextCache<T> {
    /// One of no text.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn new(config: &ModelConfig, device: &Device) -> Result<Self> {
        let cache = KeyValueCache::new(config, device, 1, 0)?;
        Ok(Self { cache, tokens: Vec::new(), capacity: 0, context: Context::First })
    }

    /// Tokens that need not be computed of a text: those that it begins with and that are there, but not its last one. Of
    /// a model with states, all that are there or none.
    pub fn common(&self, text: &[u32]) -> usize {
        let same = self.tokens.iter().zip(text).take_while(|(known, token)| known == token).count();
        let common = same.min(text.len().saturating_sub(1));
        if self.cache.has_states() && common < self.tokens.len() { 0 } else { common }
    }

    /// Forgets all but what need not be computed of a text, and makes room for `capacity` tokens.
    fn keep_beginning(
        &mut self,
        text: &[u32],
        capacity: usize,
        config: &ModelConfig,
        device: &Device,
    ) -> Result<()> {
        self.tokens.truncate(self.common(text));
        if capacity > self.capacity {
            // Twice as much as before: a long conversation is not copied at every turn.
            let capacity = capacity.max((2 * self.capacity).min(config.max_positions));
            let mut larger = KeyValueCache::new(config, device, 1, capacity)?;
            larger.copy_first(&self.cache, self.tokens.len())?;
            (self.cache, self.capacity) = (larger, capacity);
        }
        Ok(())
    }
}

impl<T: Real> Transformer<T> {
    /// Continues a text as [`Transformer::generate_observed`] does a prompt, and leaves in `kept` the keys and values of
    /// the text and of what was added. What the text begins with and `kept` has is not computed again.
    ///
    /// The text may be longer than the planned `max_tokens`.
    ///
    /// # Errors
    /// As [`Transformer::generate_observed`], or what `observe` says.
    pub fn continue_text(
        &mut self,
        weights: View<'_, T>,
        text: &[u32],
        generation: &Generation,
        kept: &mut TextCache<T>,
        observe: &mut (dyn FnMut(u32) -> Result<ControlFlow<()>> + Send),
    ) -> Result<Vec<u32>> {
        self.check_length("weights", weights.len())?;
        if text.is_empty() {
            return Err(Error::Job("a text has no tokens; there is nothing to continue".into()));
        }
        check_sampling(generation)?;
        if generation.max_new_tokens == 0 {
            return Ok(Vec::new());
        }
        let capacity = text.len().saturating_add(generation.max_new_tokens);
        self.reach_positions(capacity)?;
        let device = self.device.clone();
        kept.keep_beginning(text, capacity, &self.config, &device)?;
        let mut row = Row::new(0, text, &generation.sampling);
        let mut observe = |_: usize, token: u32| observe(token);
        device.scope(|| -> Result<()> {
            let mut logits = Buffer::zeros(&self.device, self.config.vocabulary)?;
            let mut whole = text.to_vec();
            let mut last_hidden = self.feed(weights, &whole, kept)?;
            loop {
                self.project(weights, last_hidden.view(), logits.view_mut())?;
                row.take(&logits.view().to_vec()?, generation, &mut observe)?;
                match row.generated.last() {
                    Some(&newest) if !row.done => whole.push(newest),
                    _ => return Ok(()),
                }
                last_hidden = self.feed(weights, &whole, kept)?;
            }
        })?;
        Ok(row.generated)
    }

    /// Computes what `kept` has not of a text; returns the last token's normed hidden state `[C]`.
    fn feed(&mut self, weights: View<'_, T>, text: &[u32], kept: &mut TextCache<T>) -> Result<Buffer<T>> {
        let context = self.config.context_of(text.len());
        if context != std::mem::replace(&mut kept.context, context) {
            // A text that outgrew the first context is computed anew: its keys have other angles now.
            kept.tokens.clear();
        }
        let last_hidden = self.fill(weights, text, kept.tokens.len(), &mut kept.cache, 0)?;
        kept.tokens.extend_from_slice(&text[kept.tokens.len()..]);
        Ok(last_hidden)
    }
}

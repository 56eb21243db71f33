//! A model folder, loaded to answer prompts.

use std::ops::ControlFlow;
use std::path::Path;

use cpift_engine::{Device, Real, View, bf16};

use super::{Answer, AnswerText, Stop};
use crate::data::{PromptMaker, PromptSettings};
use crate::error::{Error, Result};
use crate::loaded::{BATCH_TOKENS, LoadedModel, Weights};
use crate::tokenizer::Tokenizer;
use crate::transformer::{ComputeType, Generation, RandomSampling, Sampling, TextCache, Transformer};

/// Prompts answered side by side where nothing is said: on a CPU few already take the arithmetic that it has.
const TOGETHER_ON_CPU: usize = 16;
const TOGETHER_ON_GPU: usize = 128;

/// How answers are generated.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationSettings {
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// What ends an answer.
    pub stop: Stop,
    /// Prompts answered side by side; as suits the device when not given. It changes no answer.
    pub together: Option<usize>,
}

/// How far the answers to many prompts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnsweringProgress {
    /// Answers that are complete.
    pub done: usize,
    /// Prompts in all.
    pub prompts: usize,
}

/// Shown every answer that has a new token; `Break` ends the answer, an error all of them.
type ObserveAnswer<'a> = &'a mut (dyn FnMut(&mut AnswerText<'_>) -> Result<ControlFlow<()>> + Send);

/// What was computed of a prompt and its answer, for prompts that begin like them. One of a generator is of no use for
/// another.
#[derive(Debug, Default)]
pub struct KeptText {
    f32: Option<TextCache<f32>>,
    bf16: Option<TextCache<bf16>>,
}

/// What a transformer is told to generate answers of up to `max_new_tokens` to prompts, of which the first has this index
/// among all.
fn generation(settings: &GenerationSettings, max_new_tokens: usize, first: usize) -> Generation {
    let sampling = match settings.sampling {
        Sampling::Greedy => Sampling::Greedy,
        Sampling::Random(random) => {
            Sampling::Random(RandomSampling { stream: random.stream.wrapping_add(first as u64), ..random })
        }
    };
    Generation { max_new_tokens, stop: settings.stop.tokens().to_vec(), keep_stop: true, sampling }
}

/// A model folder, loaded to answer prompts.
pub struct Generator {
    model: LoadedModel,
}

impl Generator {
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

    /// Makes prompts for the model.
    ///
    /// # Errors
    /// As [`PromptMaker::new`].
    pub fn prompts(&self, settings: PromptSettings) -> Result<PromptMaker<'_>> {
        PromptMaker::new(self.tokenizer(), settings)
    }

    /// Checks that a prompt leaves the model room for an answer; the error is only the reason.
    ///
    /// # Errors
    /// It has no token, or as many as the model has positions.
    pub fn check_prompt(&self, ids: &[u32]) -> std::result::Result<(), String> {
        let longest = self.model.config.max_positions - 1;
        match ids.len() {
            0 => Err("has no tokens: there is nothing to continue or to answer".into()),
            tokens if tokens > longest => Err(format!(
                "has {tokens} tokens, and the model has {} positions: use at most {longest} tokens",
                longest + 1
            )),
            _ => Ok(()),
        }
    }

    /// Answers one prompt, at most to the model's last position. `show` is given the text as it is generated, piece by
    /// piece, and ends the answer with `Break`.
    ///
    /// # Errors
    /// The prompt does not pass [`Self::check_prompt`], the sampling is impossible, or what `show` says.
    pub fn stream(
        &self,
        prompt: &[u32],
        settings: &GenerationSettings,
        show: &mut (dyn FnMut(&str) -> Result<ControlFlow<()>> + Send),
    ) -> Result<Answer> {
        self.check_prompt(prompt).map_err(Error::Job)?;
        let mut answers = [self.begin(prompt, settings)];
        self.generate(&[prompt], &mut answers, settings, 0, &mut |answer| show(&answer.new_text()))?;
        let [answer] = answers;
        Ok(answer.finish())
    }

    /// As [`Self::stream`], and keeps in `kept` what was computed of the prompt and the answer: of a later prompt that begins
    /// like them only the rest is computed. It changes no answer but for rounding.
    ///
    /// # Errors
    /// As [`Self::stream`].
    pub fn stream_on(
        &self,
        prompt: &[u32],
        settings: &GenerationSettings,
        kept: &mut KeptText,
        show: &mut (dyn FnMut(&str) -> Result<ControlFlow<()>> + Send),
    ) -> Result<Answer> {
        self.check_prompt(prompt).map_err(Error::Job)?;
        let mut answer = self.begin(prompt, settings);
        let generation = generation(settings, answer.limit(), 0);
        let mut push = |token: u32| {
            let ended = answer.push(token).is_some();
            let seen = show(&answer.new_text())?;
            Ok(if ended { ControlFlow::Break(()) } else { seen })
        };
        let LoadedModel { device, config, weights, .. } = &self.model;
        match weights {
            Weights::F32(weights) => {
                let kept = kept.f32.get_or_insert(TextCache::new(config, device)?);
                self.continue_text(weights.view(), prompt, &generation, kept, &mut push)?;
            }
            Weights::Bf16(weights) => {
                let kept = kept.bf16.get_or_insert(TextCache::new(config, device)?);
                self.continue_text(weights.view(), prompt, &generation, kept, &mut push)?;
            }
        }
        Ok(answer.finish())
    }

    fn continue_text<T: Real>(
        &self,
        weights: View<'_, T>,
        prompt: &[u32],
        generation: &Generation,
        kept: &mut TextCache<T>,
        push: &mut (dyn FnMut(u32) -> Result<ControlFlow<()>> + Send),
    ) -> Result<()> {
        let new = prompt.len() - kept.common(prompt);
        let mut transformer =
            Transformer::for_inference(&self.model.config, &self.model.device, new.min(BATCH_TOKENS))?;
        transformer.continue_text(weights, prompt, generation, kept, push)?;
        Ok(())
    }

    /// Answers prompts in batches, at most to the model's last position, and gives every batch of answers to `take` in
    /// the order of the prompts. `observe` is told how far it is with every token.
    ///
    /// # Errors
    /// A prompt does not pass [`Self::check_prompt`], the sampling is impossible, or what `observe` or `take` says.
    pub fn answer_all(
        &self,
        prompts: &[&[u32]],
        settings: &GenerationSettings,
        observe: &mut (dyn FnMut(AnsweringProgress) -> Result<()> + Send),
        take: &mut dyn FnMut(usize, Answer) -> Result<()>,
    ) -> Result<()> {
        prompts.iter().try_for_each(|prompt| self.check_prompt(prompt)).map_err(Error::Job)?;
        let together = settings.together.unwrap_or(match self.model.device {
            Device::Cpu(_) => TOGETHER_ON_CPU,
            Device::Gpu(_) => TOGETHER_ON_GPU,
        });
        let mut done = 0;
        for (batch, of_batch) in prompts.chunks(together).enumerate() {
            let first = batch * together;
            let mut answers: Vec<_> = of_batch.iter().map(|prompt| self.begin(prompt, settings)).collect();
            self.generate(of_batch, &mut answers, settings, first, &mut |answer| {
                done += usize::from(answer.has_ended());
                observe(AnsweringProgress { done, prompts: prompts.len() })?;
                Ok(ControlFlow::Continue(()))
            })?;
            for (index, answer) in (first..).zip(answers) {
                take(index, answer.finish())?;
            }
        }
        Ok(())
    }

    /// An answer with no token yet.
    fn begin<'a>(&'a self, prompt: &[u32], settings: &'a GenerationSettings) -> AnswerText<'a> {
        let room = self.model.config.max_positions.saturating_sub(prompt.len());
        AnswerText::new(&self.model.tokenizer, &settings.stop, settings.max_new_tokens.min(room))
    }

    /// Generates the answers to prompts, of which the first has this index among all.
    fn generate(
        &self,
        prompts: &[&[u32]],
        answers: &mut [AnswerText<'_>],
        settings: &GenerationSettings,
        first: usize,
        observe: ObserveAnswer<'_>,
    ) -> Result<()> {
        let longest = answers.iter().map(AnswerText::limit).max().unwrap_or(0);
        let generation = generation(settings, longest, first);
        match &self.model.weights {
            Weights::F32(weights) => {
                self.generate_with(weights.view(), prompts, answers, &generation, observe)
            }
            Weights::Bf16(weights) => {
                self.generate_with(weights.view(), prompts, answers, &generation, observe)
            }
        }
    }

    fn generate_with<T: Real>(
        &self,
        weights: View<'_, T>,
        prompts: &[&[u32]],
        answers: &mut [AnswerText<'_>],
        generation: &Generation,
        observe: ObserveAnswer<'_>,
    ) -> Result<()> {
        let lengths = prompts.iter().map(|prompt| prompt.len());
        let longest = lengths.clone().max().unwrap_or(0).max(prompts.len());
        let max_tokens = longest.max(BATCH_TOKENS.min(lengths.sum()));
        let mut transformer = Transformer::for_inference(&self.model.config, &self.model.device, max_tokens)?;
        let prompts: Vec<Vec<u32>> = prompts.iter().map(|prompt| prompt.to_vec()).collect();
        let mut push = |index: usize, token: u32| {
            let ended = answers[index].push(token).is_some();
            let seen = observe(&mut answers[index])?;
            Ok(if ended { ControlFlow::Break(()) } else { seen })
        };
        transformer.generate_observed(weights, &prompts, generation, &mut push)?;
        Ok(())
    }
}

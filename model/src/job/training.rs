//! One fine-tune: the loop over steps, with checkpoints, resume and the check of frozen coordinates.

use std::sync::Arc;

use cpift_engine::ops::transplant::gather;
use cpift_engine::{Device, Mask, View};

use super::cores::RunCores;
use super::session::Session;
use super::state::TrainingState;
use super::weights::require_fit;
use crate::data::{Source, StepBatches};
use crate::error::{Error, Result};
use crate::files::Origin;
use crate::progress::{Event, StepReport, TrainingStage};
use crate::recipe::TrainSettings;
use crate::stages::pieces::pieces;
use crate::trainer::Step;

/// A fine-tune, in one or more consecutive parts.
pub struct Training<'a> {
    /// The first half of its checkpoints' name.
    pub stage: TrainingStage,
    /// The probe's task; empty otherwise.
    pub part: &'a str,
    /// Settings of all parts.
    pub settings: &'a TrainSettings,
    /// Start schedule and moments anew in every part; else one schedule and one set of moments run through.
    pub restart: bool,
    /// The parts, in order.
    pub parts: Vec<TrainingPart<'a>>,
    /// What its result is and is made from; the place is filled in.
    pub origin: Origin,
    /// True for the method's last training, whose weights are the result: `evaluate.keep` and `patience` are about it.
    pub is_last: bool,
}

/// Consecutive steps on the same data with the same frozen coordinates.
pub struct TrainingPart<'a> {
    /// What is trained, for a person.
    pub title: String,
    /// Optimizer steps.
    pub steps: u64,
    /// The data.
    pub sources: Vec<Source>,
    /// Names of the data's tasks, one per source.
    pub source_names: Vec<String>,
    /// Names the order of the rows. Parts that share it share one stream of rows, the later continuing
    /// where the earlier ended.
    pub purpose: String,
    /// Coordinates that keep their bits.
    pub frozen: FrozenSet<'a>,
}

/// Coordinates that keep their bits in a part of a training: their mask is made when the part begins, and held no longer.
pub enum FrozenSet<'a> {
    /// None.
    Nothing,
    /// Those in the core of any of these tasks; none where there are no tasks.
    Cores(&'a RunCores<'a>, Vec<usize>),
    /// A random half of every tensor, another for every number.
    RandomHalf(usize),
    /// As many as the core of a task has, at random.
    AsManyAs {
        /// The core.
        cores: &'a RunCores<'a>,
        /// The task.
        task: usize,
        /// What the choice follows from.
        seed: u64,
    },
}

/// What is done between two parts of a training: see [`Session::train_measured`].
pub type AfterPart<'f, S> = &'f mut dyn FnMut(&mut S, usize) -> Result<()>;

impl Training<'_> {
    /// The name of its checkpoints and of its lines of the metrics.
    pub fn name(&self) -> String {
        self.stage.training(self.part)
    }
}

impl Session<'_> {
    /// Runs a fine-tune from the weights as they are, or from its newest checkpoint. At the end its
    /// checkpoints are still there: whoever saves the result calls `checkpoints.forget`.
    ///
    /// Returns the number of frozen coordinates that were checked, summed over the parts.
    ///
    /// # Errors
    /// When the loss is not a number, a frozen coordinate changed, a checkpoint cannot be written, or a stop
    /// was asked for.
    pub fn train(&mut self, training: Training<'_>) -> Result<u64> {
        self.train_measured(training, None)
    }

    /// The same. Where there is an `after_part` it is called behind every part that this call reaches the end of, with the
    /// part's number: the part's weights and state are in the trainer then, and in a checkpoint, and must be so again when it
    /// returns. When a training is continued that stopped there, it is called again.
    ///
    /// # Errors
    /// As [`Session::train`], and those of `after_part`.
    pub fn train_measured(
        &mut self,
        training: Training<'_>,
        mut after_part: Option<AfterPart<'_, Self>>,
    ) -> Result<u64> {
        let key = training.name();
        self.trainer.begin()?;
        let mut damaged = Vec::new();
        let found = self.checkpoints.read_newest(&key, &mut self.trainer, &training.origin, &mut damaged)?;
        for error in damaged {
            let text =
                format!("{error}; an earlier checkpoint, or the beginning of the training, is gone on from");
            self.observer.event(Event::Notice(&text));
        }
        let (mut state, recorded) = found.unwrap_or_default();
        // A step whose evaluation was interrupted is recorded once that is made.
        let recorded_steps = state.step.saturating_sub(u64::from(state.pending.is_some()));
        self.metrics.rewind(training.stage, training.part, recorded_steps)?;
        self.tell_lost_metrics(&key, recorded.as_ref());
        let total: u64 = training.parts.iter().map(|part| part.steps).sum();
        let mut start = 0;
        for (index, part) in training.parts.iter().enumerate() {
            let end = start + part.steps;
            let is_pending = state.pending.is_some() && state.step == end;
            if (state.step < end || is_pending) && !self.has_ended(&state) {
                let shared_before: u64 = training.parts[..index]
                    .iter()
                    .filter(|earlier| earlier.purpose == part.purpose)
                    .map(|earlier| earlier.steps)
                    .sum();
                let span = Span { start, end, total, data_offset: shared_before };
                let frozen = self.mask_of(&part.frozen)?.map(Arc::new);
                let part = RunningPart { training: &training, index, span, key: &key, frozen };
                self.train_part(&part, &mut state)?;
                if after_part.is_some() {
                    self.save_state(&key, &training.origin, &state)?;
                }
            }
            if let Some(after_part) = after_part.as_mut().filter(|_| state.step == end) {
                after_part(self, index)?;
            }
            start = end;
        }
        self.take_best(&training, &state)?;
        Ok(state.frozen_verified)
    }

    fn train_part(&mut self, part: &RunningPart<'_>, state: &mut TrainingState) -> Result<()> {
        let RunningPart { training, span, frozen, .. } = part;
        let (settings, of) = (training.settings, part.part());
        let mut sampler = self.sampler(settings, of.sources.clone(), &of.purpose)?;
        self.begin_part(part, state)?;
        self.trainer.freeze(frozen.as_ref())?;
        let frozen_count = frozen.as_ref().map_or(0, |mask| mask.count() as u64);
        if let Some(report) = state.pending.take() {
            self.finish_step(part, state, report)?;
        }
        while state.step < span.end && !self.has_ended(state) {
            let local = state.step - span.start;
            let (scheduled, schedule_steps) =
                if training.restart { (local, span.end - span.start) } else { (state.step, span.total) };
            let batches = sampler.batches(span.data_offset + local)?;
            let step = Step { stage: training.stage, settings, index: scheduled, schedule_steps };
            let made = self.trainer.step(step, &batches, &of.source_names);
            let mut report = made.map_err(|error| explain(error, of, state.step, &batches))?;
            state.step += 1;
            report.part = training.part.to_owned();
            (report.number, report.steps) = (state.step, span.total);
            (report.phase, report.frozen) = (1 + part.index as u64, frozen_count);
            self.finish_step(part, state, report)?;
        }
        self.trainer.freeze(None)?;
        self.observer.event(Event::TrainingFinished { title: &of.title });
        Ok(())
    }

    /// Evaluates after a step where that is due, records it, and saves the state where that is.
    fn finish_step(
        &mut self,
        part: &RunningPart<'_>,
        state: &mut TrainingState,
        mut report: StepReport,
    ) -> Result<()> {
        let training = part.training;
        if let Err(error) = self.evaluate_step(training, state, &mut report) {
            if matches!(error, Error::Interrupted { .. }) {
                // The step is made; its evaluation comes first when the run is continued.
                state.pending = Some(report);
                self.save_state(part.key, &training.origin, state)?;
            }
            return Err(error);
        }
        self.metrics.append(&report)?;
        self.observer.event(Event::Step(&report));
        if state.step == part.span.end || self.has_ended(state) {
            self.verify_frozen(part, state)?;
        }
        self.checkpoint_if_due(part.key, &training.origin, state, part.span)
    }

    fn begin_part(&mut self, part: &RunningPart<'_>, state: &mut TrainingState) -> Result<()> {
        let span = part.span;
        self.observer.event(Event::TrainingStarted {
            title: &part.part().title,
            step: state.step - span.start,
            steps: span.end - span.start,
        });
        if state.step == span.start {
            if part.training.restart {
                self.trainer.restart()?;
            }
            state.frozen_hash = part.frozen.as_ref().map(|mask| self.hash_of(mask)).transpose()?;
        }
        Ok(())
    }

    /// The mask of coordinates that keep their bits.
    fn mask_of(&self, frozen: &FrozenSet<'_>) -> Result<Option<Mask>> {
        match *frozen {
            FrozenSet::Nothing => Ok(None),
            FrozenSet::Cores(cores, ref tasks) => cores.union(tasks),
            FrozenSet::RandomHalf(number) => self.random_half(number).map(Some),
            FrozenSet::AsManyAs { cores, task, seed } => {
                let size = cores.report().tasks[task].size as usize;
                self.random_parameters(size, seed).map(Some)
            }
        }
    }

    /// Saves the state every so many steps, and when a stop is asked for, which it then carries out.
    fn checkpoint_if_due(
        &mut self,
        key: &str,
        origin: &Origin,
        state: &TrainingState,
        span: Span,
    ) -> Result<()> {
        let stop = self.observer.stop_requested();
        let every = self.job.recipe.checkpoint.every;
        let due = every > 0 && state.step.is_multiple_of(every) && state.step < span.total;
        if stop || due {
            self.save_state(key, origin, state)?;
        }
        if stop {
            let position = format!("after step {} of {} of {}", state.step, span.total, key);
            return Err(Error::Interrupted { position });
        }
        Ok(())
    }

    /// Makes room on the disk for `bytes` by a training's oldest checkpoints, if there is too little; the newest stays.
    ///
    /// # Errors
    /// As [`Checkpoints::make_room`](super::state::Checkpoints::make_room).
    pub(super) fn make_room(&mut self, training: &str, bytes: u64) -> Result<()> {
        let removed = self.checkpoints.make_room(training, bytes, 1)?;
        self.tell_removed(training, &removed);
        Ok(())
    }

    /// Says which checkpoints had to make room.
    fn tell_removed(&mut self, training: &str, steps: &[u64]) {
        if !steps.is_empty() {
            let steps: Vec<String> = steps.iter().map(u64::to_string).collect();
            let text = format!(
                "{training}: the disk is short of room, so checkpoints were removed before `checkpoint.keep` asks for \
                 it: those of step {}",
                steps.join(", ")
            );
            self.observer.event(Event::Notice(&text));
        }
    }

    fn save_state(&mut self, key: &str, origin: &Origin, state: &TrainingState) -> Result<()> {
        let origin = self.with_metrics(origin.clone(), key)?;
        let removed = self.checkpoints.write(key, state, &mut self.trainer, origin)?;
        self.tell_removed(key, &removed);
        self.save_progress()?;
        self.observer.event(Event::Checkpoint { step: state.step });
        require_fit(self.job, &mut self.trainer)
    }

    /// A hash of the frozen coordinates' bits.
    fn hash_of(&mut self, mask: &Mask) -> Result<String> {
        hash_coordinates(&self.job.device, self.trainer.weights()?, mask)
    }

    /// Checks that every frozen coordinate has the bits it had when the part began (docs/algorithm.md, stage 4).
    fn verify_frozen(&mut self, part: &RunningPart<'_>, state: &mut TrainingState) -> Result<()> {
        let (Some(mask), Some(before)) = (&part.frozen, &state.frozen_hash) else { return Ok(()) };
        if self.hash_of(mask)? != *before {
            return Err(Error::Job(format!(
                "a frozen parameter changed during {}: a bug, please report it",
                part.part().title
            )));
        }
        state.frozen_verified += mask.count() as u64;
        Ok(())
    }
}

/// A part of a training that is worked on.
struct RunningPart<'a> {
    training: &'a Training<'a>,
    /// Its place among the training's parts.
    index: usize,
    span: Span,
    /// Name of the training's checkpoints.
    key: &'a str,
    /// Coordinates that keep their bits.
    frozen: Option<Arc<Mask>>,
}

impl RunningPart<'_> {
    fn part(&self) -> &TrainingPart<'_> {
        &self.training.parts[self.index]
    }
}

/// Where a part lies in its training.
#[derive(Debug, Clone, Copy)]
struct Span {
    /// First step of the part, over the whole training.
    start: u64,
    /// Step after its last.
    end: u64,
    /// Steps of the whole training.
    total: u64,
    /// Steps that earlier parts took from the same stream of rows.
    data_offset: u64,
}

/// Names the step, the rows and the checkpoint to go back to.
fn explain(error: Error, part: &TrainingPart<'_>, step: u64, batches: &StepBatches) -> Error {
    let Error::Job(reason) = error else { return error };
    let rows = batches.documents.iter().flatten().take(3).map(|draw| {
        let dataset = &part.sources[draw.source].dataset;
        dataset.describe_row(&dataset.rows()[draw.row])
    });
    let rows: Vec<String> = rows.collect();
    Error::Job(format!(
        "{reason} at step {} of {} (rows {}, …); nothing of this step was kept. \
         Lower learning_rate, or set clip, and start a new run",
        step + 1,
        part.title,
        rows.join(", ")
    ))
}

/// A hash of the coordinates' bits by ascending index, which are read a piece at a time.
fn hash_coordinates(device: &Device, weights: View<'_, f32>, mask: &Mask) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for range in pieces(weights.len()) {
        let values = gather(device, weights.slice(range.clone()), &mask.slice(range))?;
        hasher.update(bytemuck::cast_slice(&values));
    }
    Ok(hasher.finalize().to_hex().to_string())
}

//! Evaluation while a model is trained: a sample of the rows of every task and measure, the best weights so far, and when to
//! end.

use std::time::Instant;

use super::inputs::Evaluated;
use super::session::Session;
use super::state::{Best, SMALL_FILES, TrainingState};
use super::training::Training;
use crate::error::Result;
use crate::evaluation::{Request, RowScores};
use crate::progress::{Column, Event, Measured, SampleScore, Score, StepReport};
use crate::recipe::Keep;

impl Session<'_> {
    /// Whether a model, that of a column, has yet to be measured on the samples of some tasks.
    pub(super) fn lacks_samples(&self, column: &Column, tasks: &[usize]) -> bool {
        let settings = &self.job.recipe.evaluate;
        let column = column.sample(settings);
        let mut evaluated = self.job.inputs.evaluated_of(tasks);
        settings.every > 0 && evaluated.any(|evaluated| !self.has_score(&column, &evaluated.name))
    }

    /// Measures the model that the trainer holds, that of a column, on the samples of some tasks, where
    /// [`Session::evaluate`] has not taken that from what it measured of all rows: the other rows may have been measured
    /// before the samples were asked for.
    ///
    /// # Errors
    /// As [`Session::evaluate`].
    pub(super) fn evaluate_samples(&mut self, column: &Column, tasks: &[usize]) -> Result<()> {
        let job = self.job;
        job.inputs.evaluated_of(tasks).try_for_each(|evaluated| self.evaluate_sample(column, evaluated))
    }

    /// [`Session::evaluate_samples`] of all tasks and measures.
    ///
    /// # Errors
    /// As [`Session::evaluate`].
    pub(super) fn evaluate_all_samples(&mut self, column: &Column) -> Result<()> {
        let job = self.job;
        job.inputs.evaluated().try_for_each(|evaluated| self.evaluate_sample(column, evaluated))
    }

    fn evaluate_sample(&mut self, column: &Column, evaluated: &Evaluated) -> Result<()> {
        let settings = &self.job.recipe.evaluate;
        let (sampled, name) = (column.sample(settings), &evaluated.name);
        if settings.every == 0 || self.has_score(&sampled, name) {
            return Ok(());
        }
        self.check_stop(&format!("before evaluating {column} on {name}"))?;
        self.observer.event(Event::EvaluationStarted { column: &sampled, task: name });
        let score = self.measure_sample(evaluated, Measured::Column(&sampled))?;
        self.observer.event(Event::Evaluated { column: &sampled, task: name, score: &score });
        self.keep_score(&sampled, name, score)
    }

    /// Keeps of what was measured of all rows of a task or measure what concerns its sample.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn keep_sample(
        &mut self,
        column: &Column,
        evaluated: &Evaluated,
        scored: &RowScores,
    ) -> Result<()> {
        let settings = &self.job.recipe.evaluate;
        if settings.every == 0 {
            return Ok(());
        }
        let score = scored.of_rows(&evaluated.sample, settings.answers).score();
        self.keep_score(&column.sample(settings), &evaluated.name, score)
    }

    /// Whether a training ends before its last step, since patience has run out.
    pub(super) fn has_ended(&self, state: &TrainingState) -> bool {
        let patience = self.job.recipe.evaluate.patience;
        patience > 0 && state.evaluations_since_best >= patience
    }

    /// Evaluates after a step, where that is due: adds to its report what came out, and remembers the best weights.
    ///
    /// # Errors
    /// An evaluation fails or is interrupted; the weights cannot be saved.
    pub(super) fn evaluate_step(
        &mut self,
        training: &Training<'_>,
        state: &mut TrainingState,
        report: &mut StepReport,
    ) -> Result<()> {
        let settings = &self.job.recipe.evaluate;
        let is_last = state.step == report.steps;
        if settings.every == 0 || !(state.step.is_multiple_of(settings.every) || is_last) {
            return Ok(());
        }
        let started = Instant::now();
        let inputs = &self.job.inputs;
        let is_wanted = |name: &str| training.part.is_empty() || training.part == name;
        let tasks = inputs.tasks.iter().filter_map(|task| task.evaluated.as_ref());
        let mut measure = |evaluated: &Evaluated| {
            let in_training = Measured::Training { stage: training.stage, part: training.part };
            let score = self.measure_sample(evaluated, in_training)?;
            Ok(SampleScore { task: evaluated.name.clone(), score })
        };
        let scores =
            tasks.filter(|task| is_wanted(&task.name)).map(&mut measure).collect::<Result<Vec<_>>>()?;
        // A probe is about its own task alone.
        let measures = inputs.measures.iter().filter(|_| training.part.is_empty());
        let measures = measures.map(&mut measure).collect::<Result<Vec<_>>>()?;
        self.alarm(scores.iter().chain(&measures), state, &training.name());
        if training.is_last {
            self.compare_with_best(&scores, state, training)?;
        }
        (report.evaluation, report.measures) = (scores, measures);
        report.evaluation_seconds = started.elapsed().as_secs_f64();
        Ok(())
    }

    fn measure_sample(&mut self, evaluated: &Evaluated, measured: Measured<'_>) -> Result<Score> {
        let Evaluated { name, rows: dataset, sample, answers, .. } = evaluated;
        let answers = answers.as_ref().filter(|_| self.job.recipe.evaluate.answers);
        let tokenizer = &self.job.inputs.tokenizer;
        let request = Request { dataset, tokenizer, rows: Some(sample), answers };
        Ok(self.measure(measured, name, &request)?.score())
    }

    /// Says at once on what the model has become worse than the base, each once in a training.
    fn alarm<'s>(
        &mut self,
        scores: impl Iterator<Item = &'s SampleScore>,
        state: &mut TrainingState,
        training: &str,
    ) {
        let alarm = self.job.recipe.evaluate.alarm;
        let column = Column::Base.sample(&self.job.recipe.evaluate);
        for SampleScore { task, score } in scores {
            let Some(base) = self.score(&column, task).filter(|_| alarm > 0.0) else { continue };
            let is_worse = score.loss > base.loss * (1.0 + alarm);
            if is_worse && !state.alarmed.contains(task) {
                state.alarmed.push(task.clone());
                let text = format!(
                    "{task} is worse than on the base model after step {} of {training}: loss {:.4}, on the base {:.4}",
                    state.step, score.loss, base.loss
                );
                self.observer.event(Event::Notice(&text));
            }
        }
    }

    fn compare_with_best(
        &mut self,
        scores: &[SampleScore],
        state: &mut TrainingState,
        training: &Training<'_>,
    ) -> Result<()> {
        let settings = &self.job.recipe.evaluate;
        if !settings.decides() {
            return Ok(());
        }
        let [base, probe] = [Column::Base, Column::Probe].map(|column| column.sample(settings));
        let counts = |score: &&SampleScore| settings.task.as_ref().is_none_or(|task| *task == score.task);
        let counted: Vec<(f64, f64)> = scores
            .iter()
            .filter(counts)
            .filter_map(|SampleScore { task, score }| {
                // The base is measured before anything is trained.
                let base = self.score(&base, task)?;
                let quality = score.quality(&base, self.score(&probe, task).as_ref());
                Some((quality, base.loss - score.loss))
            })
            .collect();
        let mean = |value: fn(&(f64, f64)) -> f64| {
            counted.iter().map(value).sum::<f64>() / counted.len().max(1) as f64
        };
        let now = Best { step: state.step, quality: mean(|each| each.0), below_base: mean(|each| each.1) };
        if state.best.is_none_or(|best| now.is_better_than(&best)) {
            state.best = Some(now);
            state.evaluations_since_best = 0;
            if settings.keep == Keep::Best {
                let bytes = self.trainer.layout().len() as u64 * size_of::<f32>() as u64;
                self.make_room(&training.name(), bytes + SMALL_FILES)?;
                self.checkpoints.write_best(
                    &training.name(),
                    state.step,
                    &mut self.trainer,
                    training.origin.clone(),
                )?;
            }
            return Ok(());
        }
        state.evaluations_since_best += 1;
        Ok(())
    }

    /// Puts the best weights of the method's last training into the trainer, where they are to be kept.
    ///
    /// # Errors
    /// They cannot be read.
    pub(super) fn take_best(&mut self, training: &Training<'_>, state: &TrainingState) -> Result<()> {
        let Some(best) = state.best.filter(|_| training.is_last) else { return Ok(()) };
        if self.has_ended(state) {
            let text = format!(
                "the training ends after step {}: no evaluation was better than that after step {}",
                state.step, best.step
            );
            self.observer.event(Event::Notice(&text));
        }
        if self.job.recipe.evaluate.keep == Keep::Best && best.step != state.step {
            self.checkpoints.read_best(&training.name(), best.step, &mut self.trainer, &training.origin)?;
            let of = match &self.job.recipe.evaluate.task {
                Some(task) => format!("normalised score of {task}"),
                None => "mean normalised score".to_owned(),
            };
            let text = format!(
                "the weights after step {} are kept, which were the best: {of} {:.3}",
                best.step, best.quality
            );
            self.observer.event(Event::Notice(&text));
        }
        Ok(())
    }
}

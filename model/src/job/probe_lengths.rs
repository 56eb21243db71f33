//! How importance depends on the length of a probe: every task's probe measured after several numbers of steps.
//!
//! What a probe moves is scored by every [`Saliency`]; the scores of a sample of the parameters, the same in all runs of
//! a model, are kept, from which overlaps and rank correlations follow. Where that is asked for, each saliency's most
//! important parameters are transplanted into the base and the loss is measured: what the core alone is worth.

use std::path::Path;

use cpift_engine::ops::select::{self, Order};
use cpift_engine::{Buffer, Device, Mask, Segment};
use serde::{Deserialize, Serialize};

use super::names::{REPORT, probe_length_place};
use super::session::Session;
use super::training::{FrozenSet, Training, TrainingPart};
use crate::checkpoint::{NamedTensor, TensorData, TensorFile, WeightType, write_tensors};
use crate::error::{Error, Result};
use crate::evaluation::Request;
use crate::files::AtomicFolder;
use crate::progress::{Column, JobReport, Measured, TrainingStage};
use crate::recipe::{ImportanceKind, MOST_STEPS, Recipe};
use crate::stages::core;
use crate::stages::saliency::{Moved, Saliency};
use crate::trainer::{StatePart, Trainer};

/// Most parameters whose scores are kept.
const SAMPLED: usize = 1 << 18;
/// Which these are follows from this.
const SAMPLE_SEED: u64 = 0x70_72_6f_62_65;
/// File of the scores.
const SCORES: &str = "scores.safetensors";

/// At which lengths probes are measured, and what of them is transplanted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbeLengths {
    /// Optimizer steps, ascending.
    pub steps: Vec<u64>,
    /// Shares of the parameters whose transplant into the base is measured, from above 0 to 1.
    pub transplants: Vec<f64>,
}

impl ProbeLengths {
    /// Fails where the numbers cannot be, or a task has no probe to train.
    ///
    /// # Errors
    /// Naming the option of `compare`, or the recipe's key.
    pub fn check(&self, recipe: &Recipe) -> Result<()> {
        let is_ascending = self.steps.is_sorted_by(|a, b| a < b);
        if !is_ascending || !self.steps.first().is_some_and(|first| (1..=MOST_STEPS).contains(first)) {
            let reason = format!("must be numbers of steps from 1 to {MOST_STEPS} that ascend");
            return Err(Error::setting("--probe-lengths", reason));
        }
        if self.steps.last().is_some_and(|last| *last > MOST_STEPS) {
            return Err(Error::setting("--probe-lengths", format!("are at most {MOST_STEPS} steps")));
        }
        if let Some(share) = self.transplants.iter().find(|share| !(**share > 0.0 && **share <= 1.0)) {
            return Err(Error::setting(
                "--transplants",
                format!("{share} is not a share above 0 and up to 1"),
            ));
        }
        let is_repeated = |(place, share): &(usize, &f64)| self.transplants[..*place].contains(share);
        if let Some((_, share)) = self.transplants.iter().enumerate().find(is_repeated) {
            return Err(Error::setting("--transplants", format!("{share} occurs twice: name it once")));
        }
        match recipe.task.iter().find(|task| task.model.is_some()) {
            Some(task) => {
                let reason = "brings an existing model: its probe has no lengths to measure";
                Err(Error::setting(format!("task.{}.model", task.name), reason))
            }
            None => Ok(()),
        }
    }

    /// [`ProbeLengths::check`] of the recipe of a run, whose probes are to be the longest and to accumulate `path`.
    pub(super) fn check_run(&self, recipe: &Recipe) -> Result<()> {
        self.check(recipe)?;
        if recipe.probe.training.steps != self.steps.last().copied() {
            return Err(Error::setting("probe.steps", "must be the longest of the lengths"));
        }
        if recipe.probe.importance != ImportanceKind::Path {
            return Err(Error::setting("probe.importance", "must be `path`, which is accumulated"));
        }
        Ok(())
    }
}

/// What was measured of a task's probe at one length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LengthReport {
    /// Optimizer steps of the probe.
    pub steps: u64,
    /// Parameters whose scores are kept.
    pub sampled: u64,
    /// Of so many that can be in a core.
    pub eligible: u64,
    /// The probe's loss on its task.
    pub loss: f64,
    /// The loss of the base with some of the probe's parameters.
    pub transplants: Vec<TransplantLoss>,
}

/// The base with a core of a probe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TransplantLoss {
    /// By what the core was chosen; none at random.
    pub saliency: Option<Saliency>,
    /// Its share of the parameters.
    pub fraction: f64,
    /// Loss on the probe's task.
    pub loss: f64,
}

/// The scores that were kept of a probe, by this saliency, read into the memory of `device`. `folder` is that of its length,
/// and holds `report`.
///
/// # Errors
/// They are missing or damaged.
pub fn length_scores(
    device: &Device,
    folder: &Path,
    report: &LengthReport,
    saliency: Saliency,
) -> Result<Vec<f32>> {
    let mut scores = Buffer::zeros(device, report.sampled as usize)?;
    let file = TensorFile::open(&folder.join(SCORES))?;
    file.read_floats(saliency.name(), &[report.sampled as usize], scores.view_mut())?;
    Ok(scores.to_vec()?)
}

/// What is the same for all probes of a run.
struct Studied<'s> {
    lengths: &'s ProbeLengths,
    /// The base's weights.
    base: Vec<f32>,
    /// Parameters whose scores are kept.
    sample: Mask,
    /// Parameters that can be in a core.
    eligible: usize,
}

/// How a probe has moved, and where it is.
struct Probe {
    weights: Vec<f32>,
    path: Vec<f32>,
    gradients: Vec<f32>,
    squares: Vec<f32>,
}

impl Probe {
    /// What is in the trainer.
    fn read(trainer: &mut Trainer) -> Result<Self> {
        Ok(Self {
            weights: trainer.weights()?.to_vec()?,
            path: trainer.state(StatePart::Importance)?.to_vec()?,
            gradients: trainer.state(StatePart::FirstMoment)?.to_vec()?,
            squares: trainer.state(StatePart::SecondMoment)?.to_vec()?,
        })
    }

    /// How a parameter has moved.
    fn moved(&self, base: &[f32], index: usize) -> Moved {
        Moved {
            movement: self.weights[index] - base[index],
            path: self.path[index],
            gradient: self.gradients[index],
            square: self.squares[index],
        }
    }
}

impl Session<'_> {
    /// Trains every task's probe and measures it at every length. The report has the base's scores alone; what was measured
    /// is in the run folder.
    pub(super) fn run_probe_lengths(&mut self, lengths: &ProbeLengths) -> Result<JobReport> {
        let job = self.job;
        self.load_base()?;
        self.evaluate_all(&Column::Base)?;
        let is_eligible = |segment: &&Segment| !job.recipe.core.excludes(&segment.name);
        let eligible =
            job.inputs.layout.segments().iter().filter(is_eligible).map(|segment| segment.length).sum();
        let sample = self.random_parameters(SAMPLED.min(eligible), SAMPLE_SEED)?;
        let base = self.trainer.weights()?.to_vec()?;
        let studied = Studied { lengths, base, sample, eligible };
        for task in job.inputs.all_tasks() {
            self.measure_lengths(&studied, task)?;
        }
        self.report(&[Column::Base])
    }

    fn measure_lengths(&mut self, studied: &Studied<'_>, task: usize) -> Result<()> {
        let name = &self.job.inputs.tasks[task].name;
        let key = TrainingStage::Probe.training(name);
        let steps = &studied.lengths.steps;
        if self.has_measured(name, steps)? {
            return self.checkpoints.forget(&key);
        }
        self.train_lengths(studied, task)?;
        if !self.has_measured(name, steps)? {
            // A length was removed that comes before the checkpoint which was gone on from.
            self.checkpoints.forget(&key)?;
            self.train_lengths(studied, task)?;
        }
        self.checkpoints.forget(&key)
    }

    /// Trains a task's probe from the base or its newest checkpoint, and measures it at the lengths that lie ahead.
    fn train_lengths(&mut self, studied: &Studied<'_>, task: usize) -> Result<()> {
        let job = self.job;
        let (settings, name) = (&job.recipe.probe.training, &job.inputs.tasks[task].name);
        let key = TrainingStage::Probe.training(name);
        let steps = &studied.lengths.steps;
        self.load_base()?;
        let befores = std::iter::once(0).chain(steps.iter().copied());
        let part = |(&end, before): (&u64, u64)| TrainingPart {
            title: format!("probe {name} to step {end}"),
            steps: end - before,
            sources: job.inputs.whole(&[task], settings),
            source_names: vec![name.clone()],
            // That of an ordinary probe: the same rows in the same order.
            purpose: "probe".to_owned(),
            frozen: FrozenSet::Nothing,
        };
        let training = Training {
            stage: TrainingStage::Probe,
            part: name,
            settings,
            restart: false,
            parts: steps.iter().zip(befores).map(part).collect(),
            origin: self.origin(&key, &[]),
            is_last: false,
        };
        self.train_measured(
            training,
            Some(&mut |session, part| session.measure_length(studied, task, steps[part])),
        )?;
        Ok(())
    }

    /// Whether everything of a task was measured before.
    fn has_measured(&mut self, task: &str, steps: &[u64]) -> Result<bool> {
        for &steps in steps {
            let place = probe_length_place(task, steps);
            let origin = self.origin(&place, &[]);
            if !self.is_complete(&self.job.out.join(&place), &origin)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Measures the probe in the trainer, unless that was done before.
    fn measure_length(&mut self, studied: &Studied<'_>, task: usize, steps: u64) -> Result<()> {
        let job = self.job;
        let place = probe_length_place(&job.inputs.tasks[task].name, steps);
        let folder = job.out.join(&place);
        let origin = self.origin(&place, &[]);
        if self.is_complete(&folder, &origin)? {
            return Ok(());
        }
        let probe = Probe::read(&mut self.trainer)?;
        let loss = self.loss_of(task)?;
        let transplants = self.transplant_losses(studied, &probe, task)?;
        let sampled = studied.sample.count();
        let report = LengthReport {
            steps,
            sampled: sampled as u64,
            eligible: studied.eligible as u64,
            loss,
            transplants,
        };
        let scores = |saliency: Saliency| {
            let values = studied.sample.indices().map(|index| saliency.of(probe.moved(&studied.base, index)));
            Buffer::from_slice(&job.device, &values.collect::<Vec<_>>())
        };
        let scores = Saliency::ALL.into_iter().map(scores).collect::<std::result::Result<Vec<_>, _>>()?;
        let named = Saliency::ALL.into_iter().zip(&scores);
        let tensors: Vec<_> = named
            .map(|(saliency, scores)| NamedTensor {
                name: saliency.name().to_owned(),
                shape: vec![sampled],
                data: TensorData::Floats(scores.view(), WeightType::F32),
            })
            .collect();
        let mut writing = AtomicFolder::create(&folder)?;
        writing.write(SCORES, |file| write_tensors(file, &tensors, None))?;
        writing.write_json(REPORT, &report)?;
        self.commit(writing, origin)
    }

    /// Losses of the base with the probe's most important parameters, by every saliency and at random.
    fn transplant_losses(
        &mut self,
        studied: &Studied<'_>,
        probe: &Probe,
        task: usize,
    ) -> Result<Vec<TransplantLoss>> {
        let mut losses = Vec::new();
        let fractions = &studied.lengths.transplants;
        if fractions.is_empty() {
            return Ok(losses);
        }
        for saliency in Saliency::ALL {
            let scores = self.scores_of(studied, probe, saliency)?;
            for &fraction in fractions {
                let core = self.core_of(studied, &scores, fraction)?;
                let loss = self.transplant_loss(studied, probe, task, &core)?;
                losses.push(TransplantLoss { saliency: Some(saliency), fraction, loss });
            }
        }
        let seed = core::control_seed(self.job.recipe.seed, task);
        for &fraction in fractions {
            let core = self.random_parameters(select::share_of(fraction, studied.eligible), seed)?;
            let loss = self.transplant_loss(studied, probe, task, &core)?;
            losses.push(TransplantLoss { saliency: None, fraction, loss });
        }
        self.trainer.weights_mut()?.copy_from_host(&probe.weights)?;
        Ok(losses)
    }

    /// Loss of the base with the probe's parameters in this core.
    fn transplant_loss(
        &mut self,
        studied: &Studied<'_>,
        probe: &Probe,
        task: usize,
        core: &Mask,
    ) -> Result<f64> {
        let mut mixed = studied.base.clone();
        core.indices().for_each(|index| mixed[index] = probe.weights[index]);
        self.trainer.weights_mut()?.copy_from_host(&mixed)?;
        self.loss_of(task)
    }

    /// Scores of all parameters by a saliency.
    fn scores_of(&self, studied: &Studied<'_>, probe: &Probe, saliency: Saliency) -> Result<Buffer<f32>> {
        let of = |index| saliency.of(probe.moved(&studied.base, index));
        let values: Vec<f32> = (0..studied.base.len()).map(of).collect();
        Ok(Buffer::from_slice(&self.job.device, &values)?)
    }

    /// A share of the parameters with the largest scores.
    fn core_of(&self, studied: &Studied<'_>, scores: &Buffer<f32>, fraction: f64) -> Result<Mask> {
        let job = self.job;
        let count = select::share_of(fraction, studied.eligible);
        let is_eligible = |segment: &Segment| !job.recipe.core.excludes(&segment.name);
        let (scores, order) = (scores.view(), Order::Largest);
        Ok(select::top_k(&job.device, &job.inputs.layout, scores, count, order, is_eligible)?.0)
    }

    /// Loss of the trainer's weights on a task's rows to evaluate on.
    fn loss_of(&mut self, task: usize) -> Result<f64> {
        let job = self.job;
        let task = &job.inputs.tasks[task];
        let Some(eval) = task.eval() else {
            return Err(Error::setting(
                format!("task.{}.eval", task.name),
                "is missing: probes are measured on it",
            ));
        };
        let request = Request { dataset: eval, tokenizer: &job.inputs.tokenizer, rows: None, answers: None };
        let measured = Measured::Training { stage: TrainingStage::Probe, part: &task.name };
        Ok(self.measure(measured, &task.name, &request)?.score().loss)
    }
}

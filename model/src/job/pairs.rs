//! How much of a first task is forgotten while a second is learnt, for every ordered pair of tasks and several
//! methods to learn the second: the paper's second table.

use rand_chacha::rand_core::Rng;
use serde::{Deserialize, Serialize};

use super::cores::RunCores;
use super::models::RunModels;
use super::names::{CORE, probe_place};
use super::session::Session;
use super::training::{FrozenSet, Training, TrainingPart};
use crate::data::order;
use crate::error::Result;
use crate::progress::{Column, JobReport, TrainingStage};
use crate::stages::models::TaskModels;

/// How the second task is trained, from the first task's probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PairMethod {
    /// Plainly.
    Sequential,
    /// With some rows of the first task among its own (`replay.share`).
    Replay,
    /// With a random half of every tensor frozen.
    Half,
    /// With the first task's core frozen.
    Cpift,
    /// With as many random parameters frozen as the first task's core has: the control of `cpift`.
    Random,
}

impl PairMethod {
    /// All, in the order of tables.
    pub const ALL: [Self; 5] = [Self::Sequential, Self::Replay, Self::Half, Self::Cpift, Self::Random];

    /// Lower-case name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sequential => "sequential",
            Self::Replay => "replay",
            Self::Half => "half",
            Self::Cpift => "cpift",
            Self::Random => "random",
        }
    }

    /// What is done, in one line.
    pub fn title(self) -> &'static str {
        match self {
            Self::Sequential => "plain fine-tuning on the second task",
            Self::Replay => "with rows of the first task among those of the second",
            Self::Half => "with a random half of every tensor frozen",
            Self::Cpift => "with the first task's core frozen",
            Self::Random => "with as many random parameters frozen as the core has",
        }
    }
}

impl Session<'_> {
    /// Trains and evaluates every ordered pair. The report has columns of base and probes, and of every first task
    /// and pair.
    pub(super) fn run_pairs(&mut self, method: PairMethod) -> Result<JobReport> {
        let job = self.job;
        let tasks = job.inputs.all_tasks();
        self.load_base()?;
        self.evaluate_all(&Column::Base)?;
        self.evaluate_all_samples(&Column::Base)?;
        self.probe(&tasks)?;
        let cores = self.select_cores()?;
        let mut columns = vec![Column::Base, Column::Probe];
        for &first in &tasks {
            let column = Column::After(job.inputs.tasks[first].name.clone());
            let others: Vec<usize> = tasks.iter().copied().filter(|&task| task != first).collect();
            RunModels::new(job).read_weights(first, self.trainer.weights_mut()?)?;
            self.evaluate(&column, &others)?;
            columns.push(column);
            for &second in &others {
                columns.push(self.run_pair(first, second, method, &cores)?);
            }
        }
        self.report(&columns)
    }

    fn run_pair(
        &mut self,
        first: usize,
        second: usize,
        method: PairMethod,
        cores: &RunCores<'_>,
    ) -> Result<Column> {
        let job = self.job;
        let name = |task: usize| &job.inputs.tasks[task].name;
        let column = Column::Pair { first: name(first).clone(), second: name(second).clone() };
        if [first, second].iter().all(|&task| self.has_score(&column, name(task))) {
            return Ok(column);
        }
        let weights = self.trainer.weights_mut()?;
        RunModels::new(job).read_weights(first, weights)?;
        let (sources, source_names) = match method {
            PairMethod::Replay => (
                self.with_replay(&[second], &[first], &job.recipe.probe.training),
                job.inputs.names(&[second, first]),
            ),
            _ => (job.inputs.whole(&[second], &job.recipe.probe.training), job.inputs.names(&[second])),
        };
        let part = format!("{}-{}", first, second);
        let training = TrainingStage::Pairs.training(&part);
        let origin = self.origin(&training, &[CORE, &probe_place(name(first))]);
        self.train(Training {
            stage: TrainingStage::Pairs,
            part: &part,
            settings: &job.recipe.probe.training,
            restart: false,
            is_last: false,
            parts: vec![TrainingPart {
                title: format!("{} after {}", name(second), name(first)),
                steps: job.steps.probe,
                sources,
                source_names,
                purpose: format!("pair {part}"),
                frozen: self.frozen_in_pair(first, second, method, cores),
            }],
            origin,
        })?;
        self.evaluate(&column, &[first, second])?;
        self.checkpoints.forget(&training)?;
        Ok(column)
    }

    fn frozen_in_pair<'c>(
        &self,
        first: usize,
        second: usize,
        method: PairMethod,
        cores: &'c RunCores<'c>,
    ) -> FrozenSet<'c> {
        let job = self.job;
        let pair = first * job.inputs.tasks.len() + second;
        match method {
            PairMethod::Sequential | PairMethod::Replay => FrozenSet::Nothing,
            PairMethod::Half => FrozenSet::RandomHalf(pair),
            PairMethod::Cpift => FrozenSet::Cores(cores, vec![first]),
            PairMethod::Random => {
                let seed = order::stream(job.recipe.seed, "random pair", pair, 0).next_u64();
                FrozenSet::AsManyAs { cores, task: first, seed }
            }
        }
    }
}

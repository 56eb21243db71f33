//! What CPI-FT is measured against: joint, sequential and staged fine-tuning, dual-stage mixing and half
//! fine-tuning.

use cpift_engine::ops::select::{self, Order, Scope};
use cpift_engine::{Mask, Segment};
use rand_chacha::rand_core::Rng;

use super::names::GROUPS;
use super::plan::split_evenly;
use super::session::Session;
use super::training::{FrozenSet, Training, TrainingPart};
use super::trainings::half_rounds;
use crate::data::{Source, order};
use crate::error::Result;
use crate::files::Origin;
use crate::progress::{Column, JobReport, TrainingStage};
use crate::recipe::{Method, ReplaySettings, TrainSettings};

impl Session<'_> {
    /// Runs a baseline from the base to the final model.
    pub(super) fn run_baseline(&mut self) -> Result<JobReport> {
        let method = self.job.recipe.method;
        let columns: &[Column] = match method {
            Method::Staged => &[Column::Base, Column::Probe, Column::Final],
            _ => &[Column::Base, Column::Final],
        };
        self.evaluate_all(&Column::Base)?;
        self.evaluate_all_samples(&Column::Base)?;
        let groups = if method == Method::Staged {
            self.make_probes()?;
            let cores = self.select_cores()?;
            let groups = self.group(&cores)?;
            self.remove_probes()?;
            groups
        } else {
            Vec::new()
        };
        // Nothing but the base and the data went into it where there are no groups.
        let made_from: &[&str] = if method == Method::Staged { &[GROUPS] } else { &[] };
        let stage = TrainingStage::Method(method);
        let training = stage.name();
        if !self.reuse_final(training, made_from)? {
            self.load_base()?;
            let origin = self.origin(training, made_from);
            let tasks = self.job.inputs.all_tasks();
            let frozen_verified = match method {
                Method::Joint => self.train_staged(stage, &[tasks], origin)?,
                Method::Staged => self.train_staged(stage, &groups, origin)?,
                Method::Replay => self.train_replay(origin)?,
                Method::Half => self.train_half(origin)?,
                Method::Sequential | Method::Cpift => {
                    let alone: Vec<Vec<usize>> = tasks.into_iter().map(|task| vec![task]).collect();
                    self.train_staged(stage, &alone, origin)?
                }
            };
            self.save_final(frozen_verified, training, made_from)?;
            self.checkpoints.forget(training)?;
        }
        self.evaluate_all(&Column::Final)?;
        self.finish(columns)
    }

    /// Fine-tunes through groups of tasks one after the other, each a fine-tune of its own (schedule and
    /// moments anew) as it is done by hand; nothing is frozen. One group is plain joint training. Like all
    /// trainings it returns the number of frozen coordinates that were checked.
    pub(super) fn train_staged(
        &mut self,
        stage: TrainingStage,
        groups: &[Vec<usize>],
        origin: Origin,
    ) -> Result<u64> {
        let job = self.job;
        let part = |(index, members): (usize, &Vec<usize>)| {
            let names = job.inputs.names(members);
            let title = if groups.len() == 1 {
                stage.name().to_owned()
            } else {
                format!("{stage} part {}/{} ({})", index + 1, groups.len(), names.join(", "))
            };
            let per_task = &job.steps.per_task;
            let steps = if job.recipe.method == Method::Joint {
                per_task.iter().sum()
            } else {
                members.iter().map(|&task| per_task[task]).sum()
            };
            TrainingPart {
                title,
                steps,
                sources: job.inputs.whole(members, &job.recipe.train),
                source_names: names,
                purpose: format!("{stage} part {}", index + 1),
                frozen: FrozenSet::Nothing,
            }
        };
        let parts = groups.iter().enumerate().map(part).collect();
        let settings = &job.recipe.train;
        // A staged backbone is fused afterwards.
        let is_last = stage != TrainingStage::Backbone;
        self.train(Training { stage, part: "", settings, restart: true, parts, origin, is_last })
    }

    /// Dual-stage mixing (arXiv 2310.05492): most tasks mixed, then the last with some rows of the others.
    fn train_replay(&mut self, origin: Origin) -> Result<u64> {
        let job = self.job;
        let settings = &job.recipe.replay;
        let is_last = |task: usize| match settings.last.is_empty() {
            true => task + 1 == job.inputs.tasks.len(),
            false => settings.last.contains(&job.inputs.tasks[task].name),
        };
        let (last, first): (Vec<usize>, Vec<usize>) =
            job.inputs.all_tasks().into_iter().partition(|&task| is_last(task));
        let stages = [
            (&first, job.inputs.whole(&first, &job.recipe.train), job.inputs.names(&first)),
            (
                &last,
                self.with_replay(&last, &first, &job.recipe.train),
                job.inputs.names(&[&last[..], &first].concat()),
            ),
        ];
        let parts =
            stages.into_iter().enumerate().map(|(index, (tasks, sources, source_names))| TrainingPart {
                title: format!("replay part {}/2 ({})", index + 1, job.inputs.names(tasks).join(", ")),
                steps: tasks.iter().map(|&task| job.steps.per_task[task]).sum(),
                sources,
                source_names,
                purpose: format!("replay part {}", index + 1),
                frozen: FrozenSet::Nothing,
            });
        let parts = parts.collect();
        let settings = &job.recipe.train;
        self.train(Training {
            stage: TrainingStage::Method(Method::Replay),
            part: "",
            settings,
            restart: true,
            parts,
            origin,
            is_last: true,
        })
    }

    /// All rows of the tasks `new`, and of the tasks `old` so many that they are the share of the recipe.
    pub(super) fn with_replay(&self, new: &[usize], old: &[usize], settings: &TrainSettings) -> Vec<Source> {
        let ReplaySettings { share, .. } = self.job.recipe.replay;
        let mut sources = self.job.inputs.whole(new, settings);
        let mut replayed = self.job.inputs.whole(old, settings);
        let mixture = &self.job.recipe.mixture;
        Source::by_weights(&mut sources, mixture);
        Source::by_weights(&mut replayed, mixture);
        let part = |sources: &[Source]| sources.iter().map(|source| source.part(mixture)).sum::<f64>();
        let factor = share / (1.0 - share) * part(&sources) / part(&replayed);
        replayed.iter_mut().for_each(|source| source.weight *= factor);
        sources.extend(replayed);
        sources
    }

    /// Half fine-tuning (arXiv 2404.18466), the random control of freezing: all tasks mixed under one
    /// schedule, in rounds, in each of which another random half of every tensor is frozen.
    fn train_half(&mut self, origin: Origin) -> Result<u64> {
        let job = self.job;
        let tasks = job.inputs.all_tasks();
        let rounds = half_rounds(&job.recipe);
        let steps = split_evenly(job.steps.per_task.iter().sum(), &vec![1; rounds as usize]);
        let mut parts = Vec::new();
        for (round, steps) in steps.into_iter().enumerate() {
            parts.push(TrainingPart {
                title: format!("half round {}/{rounds}", round + 1),
                steps,
                sources: job.inputs.whole(&tasks, &job.recipe.train),
                source_names: job.inputs.names(&tasks),
                purpose: "half".to_owned(),
                frozen: FrozenSet::RandomHalf(round),
            });
        }
        let settings = &job.recipe.train;
        self.train(Training {
            stage: TrainingStage::Method(Method::Half),
            part: "",
            settings,
            restart: false,
            parts,
            origin,
            is_last: true,
        })
    }

    /// A random half of every tensor, another for every round.
    pub(super) fn random_half(&self, round: usize) -> Result<Mask> {
        let job = self.job;
        let seed = order::stream(job.recipe.seed, "half", round, 0).next_u64();
        let options = select::Options { fraction: 0.5, scope: Scope::Tensor, order: Order::Random { seed } };
        // A random order looks at no score: any values over the layout do.
        let scores = self.trainer.any_values();
        Ok(select::select(&job.device, &job.inputs.layout, scores, &options, |_| true)?.mask)
    }

    /// So many random parameters among those that may be in a core.
    pub(super) fn random_parameters(&self, count: usize, seed: u64) -> Result<Mask> {
        let job = self.job;
        let eligible = |segment: &Segment| !job.recipe.core.excludes(&segment.name);
        // As above.
        let (scores, order) = (self.trainer.any_values(), Order::Random { seed });
        Ok(select::top_k(&job.device, &job.inputs.layout, scores, count, order, eligible)?.0)
    }
}

//! The method of the paper: probe → core → group → fuse → integrate.

use cpift_engine::Layout;
use cpift_engine::ops::norm::squared_norm;
use cpift_engine::ops::subtract::subtract;
use cpift_engine::ops::transplant::gather;

use super::cores::RunCores;
use super::models::RunModels;
use super::names::{CORE, FUSED, GROUPS, IMPORTANCE, REPORT, probe_place};
use super::plan::split_evenly;
use super::session::Session;
use super::training::{FrozenSet, Training, TrainingPart};
use super::trainings::stored_importance;
use super::weights::require_fit;
use super::{cores, seal};
use crate::checkpoint::{Checkpoint, NamedTensor, TensorData, WeightType, layout_tensors, write_tensors};
use crate::error::{Error, Result};
use crate::files::{AtomicFolder, Origin, read_json};
use crate::progress::{
    Column, CoreReport, Event, FusionReport, GroupReport, JobReport, TaskCore, TrainingStage,
};
use crate::recipe::{Backbone, Frozen, IntegrateData, Stage};
use crate::stages::fuse::{Core, Cores, fuse};
use crate::stages::models::TaskModels;
use crate::stages::pieces::{LayoutPart, pieces};
use crate::stages::{core, group};
use crate::trainer::StateView;

/// Columns of the closing table.
const COLUMNS: [Column; 4] = [Column::Base, Column::Probe, Column::Fused, Column::Final];

impl<'a> Session<'a> {
    /// Runs the stages in order, each from the run folder when it is there already.
    pub(super) fn run_cpift(&mut self) -> Result<JobReport> {
        let until = self.job.until;
        self.evaluate_all(&Column::Base)?;
        self.evaluate_all_samples(&Column::Base)?;
        self.make_probes()?;
        if until == Some(Stage::Probe) {
            return self.report(&COLUMNS[..2]);
        }
        let cores = self.select_cores()?;
        if until == Some(Stage::Core) {
            return self.report(&COLUMNS[..2]);
        }
        let groups = self.group(&cores)?;
        if until == Some(Stage::Group) {
            return self.report(&COLUMNS[..2]);
        }
        self.fuse(&cores, &groups)?;
        self.remove_probes()?;
        self.evaluate_all(&Column::Fused)?;
        if until == Some(Stage::Fuse) {
            return self.report(&COLUMNS[..3]);
        }
        self.integrate(&cores, &groups)?;
        self.evaluate_all(&Column::Final)?;
        self.finish(&COLUMNS)
    }

    /// Stage 1 for some tasks: a fine-tune of each from θ0, or the model that the task brings.
    pub(super) fn probe(&mut self, tasks: &[usize]) -> Result<()> {
        tasks.iter().try_for_each(|&task| self.probe_task(task))
    }

    fn probe_task(&mut self, index: usize) -> Result<()> {
        let job = self.job;
        let mut models = RunModels::new(job);
        let task = &job.inputs.tasks[index];
        let folder = models.probe_folder(index);
        let origin = self.probe_origin(index)?;
        let is_complete = task.model.is_some() || self.is_complete(&folder, &origin)?;
        if !is_complete && !job.inputs.trains_probe(index) {
            return Err(Error::format(&folder, self.why_missing(&folder)));
        }
        if is_complete {
            if task.model.is_none() {
                if job.inputs.trains_probe(index) {
                    self.tell_lost_metrics_of(&folder, &TrainingStage::Probe.training(&task.name))?;
                }
                self.checkpoints.forget(&TrainingStage::Probe.training(&task.name))?;
                self.observer.event(Event::StageReused { stage: Stage::Probe, part: &task.name });
            }
            if !self.has_score(&Column::Probe, &task.name) || self.lacks_samples(&Column::Probe, &[index]) {
                models.read_weights(index, self.trainer.weights_mut()?)?;
                self.evaluate(&Column::Probe, &[index])?;
                self.evaluate_samples(&Column::Probe, &[index])?;
            }
            return Ok(());
        }
        self.load_base()?;
        self.train(Training {
            stage: TrainingStage::Probe,
            part: &task.name,
            settings: &job.recipe.probe.training,
            restart: false,
            parts: vec![TrainingPart {
                title: format!("probe {}", task.name),
                steps: job.steps.probe,
                sources: job.inputs.whole(&[index], &job.recipe.probe.training),
                source_names: vec![task.name.clone()],
                purpose: "probe".to_owned(),
                frozen: FrozenSet::Nothing,
            }],
            origin: origin.clone(),
            is_last: false,
        })?;
        let key = TrainingStage::Probe.training(&task.name);
        let stored = stored_importance(&job.recipe, job.state);
        let importance = stored.map_or(0, |_| job.state.bytes_of_part(&job.inputs.layout));
        self.make_room(&key, self.model_files().bytes() + importance as u64)?;
        let mut writing = AtomicFolder::create(&folder)?;
        self.add_model(&mut writing, &self.model_files())?;
        if let Some(part) = stored {
            let importance = self.trainer.state(part)?;
            let tensors = importance_tensors(&job.inputs.layout, importance)?;
            writing.write(IMPORTANCE, |file| write_tensors(file, &tensors, None))?;
        }
        let origin = self.with_metrics(origin, &key)?;
        self.commit(writing, origin)?;
        self.checkpoints.forget(&key)?;
        require_fit(job, &mut self.trainer)?;
        self.evaluate(&Column::Probe, &[index])
    }

    /// Stage 1b: every task's core parameters.
    pub(super) fn select_cores(&mut self) -> Result<RunCores<'a>> {
        let origin = self.core_origin();
        if self.is_complete(&self.job.out.join(CORE), &origin)? {
            self.observer.event(Event::StageReused { stage: Stage::Core, part: "" });
            return self.open_cores();
        }
        let mut writing = AtomicFolder::create(&self.job.out.join(CORE))?;
        let mut thresholds = Vec::new();
        let layout = &self.job.inputs.layout;
        let mut report = CoreReport {
            tasks: Vec::new(),
            model_by_layer: core::all_by_layer(layout),
            model_by_kind: core::all_by_kind(layout),
        };
        for task in 0..self.job.inputs.tasks.len() {
            self.check_stop("before selecting cores")?;
            let (core, described) = self.select_core(task)?;
            cores::write(&mut writing, layout, &core)?;
            thresholds.push(core.thresholds);
            report.tasks.push(described);
        }
        cores::write_report(&mut writing, report, thresholds)?;
        self.commit(writing, origin)?;
        self.open_cores()
    }

    /// What the cores are, which are made from the probes.
    pub(super) fn core_origin(&self) -> Origin {
        let probes: Vec<String> = self.job.inputs.tasks.iter().map(|task| probe_place(&task.name)).collect();
        self.origin(CORE, &probes.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The cores that are in the run folder.
    fn open_cores(&mut self) -> Result<RunCores<'a>> {
        let cores = RunCores::open(self.job)?;
        self.observer.event(Event::Cores(cores.report()));
        Ok(cores)
    }

    fn select_core(&mut self, task: usize) -> Result<(Core, TaskCore)> {
        let job = self.job;
        let (device, layout, name) = (&job.device, &job.inputs.layout, &job.inputs.tasks[task].name);
        let mut models = RunModels::new(job);
        let (mut update, mut base) = self.trainer.scratch_buffers()?;
        // Padding, which files leave as it is, would count in the norms.
        base.fill(0.0)?;
        update.fill(0.0)?;
        models.read_base(base.reborrow())?;
        models.read_weights(task, update.reborrow())?;
        let base_norm = squared_norm(device, base.as_view(), None)?.sqrt();
        subtract(device, update.reborrow(), base.as_view())?;
        let move_norm = squared_norm(device, update.as_view(), None)?.sqrt();

        let mut importance = update;
        if models.has_importance(task) {
            let whole = LayoutPart::whole(layout);
            models.read_importance(task, &whole, importance.reborrow(), base.as_view())?;
        }
        let kind = (job.recipe.probe.importance, core::control_seed(job.recipe.seed, task));
        let core = core::select(device, layout, name, importance.as_view(), &job.recipe.core, kind)?;
        let threshold = core.thresholds.iter().copied().fold(f32::INFINITY, f32::min);
        let described = TaskCore {
            task: name.clone(),
            size: core.mask.count() as u64,
            threshold: f64::from(threshold),
            relative_move: move_norm / base_norm.max(f64::MIN_POSITIVE),
            by_layer: core::by_layer(layout, &core.mask),
            by_kind: core::by_kind(layout, &core.mask),
        };
        Ok((core, described))
    }

    /// Stage 2: groups of tasks whose cores overlap.
    pub(super) fn group(&mut self, cores: &RunCores<'_>) -> Result<Vec<Vec<usize>>> {
        let path = self.job.out.join(GROUPS);
        let origin = self.origin(GROUPS, &[CORE]);
        let report = match seal::read::<GroupReport>(&path, &origin)? {
            Some((report, content)) => {
                self.remember(GROUPS, content);
                report
            }
            None => {
                let report = self.compare(cores)?;
                let content = seal::write(&path, &origin, &report)?;
                self.remember(GROUPS, content);
                report
            }
        };
        self.observer.event(Event::Groups(&report));
        Ok(report.groups)
    }

    fn compare(&mut self, cores: &RunCores<'_>) -> Result<GroupReport> {
        let recipe = &self.job.recipe;
        let signs = self.update_signs(cores)?;
        let count = cores.count();
        let mut jaccard = vec![vec![1.0; count]; count];
        let mut sign_agreement = vec![vec![None; count]; count];
        // Two cores are held at a time.
        for i in 0..count {
            let first = cores.read(i)?.mask;
            for j in i..count {
                let other = if j == i { None } else { Some(cores.read(j)?.mask) };
                let second = other.as_ref().unwrap_or(&first);
                let shared = first.intersection_count(second)?;
                let agreeing = signs[i].agreeing(&first, &signs[j], second)?;
                let agreement = (shared > 0).then(|| agreeing as f64 / shared as f64);
                let overlap = first.jaccard(second)?;
                for (i, j) in [(i, j), (j, i)] {
                    (jaccard[i][j], sign_agreement[i][j]) = (overlap, agreement);
                }
            }
        }
        let groups = group::group(&jaccard, &recipe.group, recipe.seed);
        Ok(GroupReport {
            tasks: (0..count).map(|task| cores.task(task).to_owned()).collect(),
            jaccard,
            chance: group::chance_overlap(recipe.core.fraction),
            sign_agreement,
            threshold: recipe.group.threshold,
            groups,
        })
    }

    fn update_signs(&mut self, cores: &RunCores<'_>) -> Result<Vec<group::UpdateSigns>> {
        let device = &self.job.device;
        let mut models = RunModels::new(self.job);
        let (mut weights, mut base) = self.trainer.scratch_buffers()?;
        models.read_base(base.reborrow())?;
        let mut signs = Vec::new();
        for task in 0..cores.count() {
            models.read_weights(task, weights.reborrow())?;
            let core = cores.read(task)?.mask;
            let mut of_task = group::UpdateSigns::new(core.count());
            for range in pieces(core.len()) {
                let part = core.slice(range.clone());
                let before = gather(device, base.as_view().slice(range.clone()), &part)?;
                let after = gather(device, weights.as_view().slice(range), &part)?;
                of_task.push(&before, &after);
            }
            signs.push(of_task);
        }
        Ok(signs)
    }

    /// Stage 3: the fused model, in the trainer's weights and in `fused/`.
    fn fuse(&mut self, cores: &RunCores<'_>, groups: &[Vec<usize>]) -> Result<()> {
        let job = self.job;
        let folder = job.out.join(FUSED);
        let is_trained = job.recipe.fuse.backbone == Backbone::Staged;
        let training = TrainingStage::Backbone.name();
        let origin = self.origin(FUSED, &[CORE, GROUPS]);
        if self.is_complete(&folder, &origin)? {
            if is_trained {
                self.tell_lost_metrics_of(&folder, training)?;
            }
            self.observer.event(Event::StageReused { stage: Stage::Fuse, part: "" });
            let report: Option<FusionReport> = read_json(&folder.join(REPORT))?;
            if let Some(report) = &report {
                self.observer.event(Event::Fused(report));
            }
            let fused = Checkpoint::open(&folder)?;
            return job.device.scope(|| fused.load_into(self.trainer.weights_mut()?));
        }
        if is_trained {
            self.load_base()?;
            self.train_staged(TrainingStage::Backbone, groups, origin.clone())?;
        }
        let buffers = self.trainer.fusion_buffers()?;
        let mut models = RunModels::new(job);
        let (layout, seed) = (&job.inputs.layout, job.recipe.seed);
        let report = fuse(&job.device, layout, &job.recipe.fuse, cores, &mut models, seed, buffers)?;
        self.make_room(training, self.model_files().bytes())?;
        let mut writing = AtomicFolder::create(&folder)?;
        self.add_model(&mut writing, &self.model_files())?;
        writing.write_json(REPORT, &report)?;
        let origin = if is_trained { self.with_metrics(origin, training)? } else { origin };
        self.commit(writing, origin)?;
        self.checkpoints.forget(training)?;
        require_fit(job, &mut self.trainer)?;
        self.observer.event(Event::Fused(&report));
        Ok(())
    }

    /// Stage 4: fine-tuning on a balanced sample, one part per group, cores of other groups frozen.
    fn integrate(&mut self, cores: &RunCores<'_>, groups: &[Vec<usize>]) -> Result<()> {
        let made_from = [FUSED, GROUPS];
        let name = TrainingStage::Integrate.name();
        if self.reuse_final(name, &made_from)? {
            return self.checkpoints.forget(name);
        }
        let settings = &self.job.recipe.integrate;
        let shares: Vec<u64> = groups.iter().map(|members| members.len() as u64).collect();
        let steps = split_evenly(self.job.steps.integrate, &shares);
        let parts = (0..groups.len()).map(|part| self.integration_part(part, steps[part], cores, groups));
        let parts = parts.collect();
        let training = Training {
            stage: TrainingStage::Integrate,
            part: "",
            settings: &settings.training,
            restart: settings.restart,
            parts,
            origin: self.origin(name, &made_from),
            is_last: true,
        };
        let frozen_verified = self.train(training)?;
        self.save_final(frozen_verified, name, &made_from)?;
        self.checkpoints.forget(name)
    }

    fn integration_part<'c>(
        &self,
        part: usize,
        steps: u64,
        cores: &'c RunCores<'c>,
        groups: &[Vec<usize>],
    ) -> TrainingPart<'c> {
        let inputs = &self.job.inputs;
        let settings = &self.job.recipe.integrate;
        let emphasis = |task: usize| if groups[part].contains(&task) { settings.emphasis } else { 1.0 };
        let same_everywhere = settings.data == IntegrateData::Mixed && settings.emphasis == 1.0;
        let tasks = match settings.data {
            IntegrateData::Mixed => inputs.all_tasks(),
            IntegrateData::Group => groups[part].clone(),
        };
        let purpose =
            if same_everywhere { "integrate".to_owned() } else { format!("integrate part {}", part + 1) };
        TrainingPart {
            title: format!(
                "integrate part {}/{} ({})",
                part + 1,
                groups.len(),
                inputs.names(&groups[part]).join(", ")
            ),
            steps,
            sources: inputs.sampled(&tasks, &self.job.recipe, emphasis),
            source_names: inputs.names(&tasks),
            purpose,
            frozen: match settings.frozen {
                Frozen::Half => FrozenSet::RandomHalf(part),
                frozen => FrozenSet::Cores(cores, frozen_tasks(part, frozen, groups)),
            },
        }
    }
}

/// The tasks whose cores keep their bits in a part of stage 4.
fn frozen_tasks(part: usize, frozen: Frozen, groups: &[Vec<usize>]) -> Vec<usize> {
    let is_frozen = |group: usize| match frozen {
        Frozen::Prior => group < part,
        Frozen::Others => group != part,
        Frozen::All => true,
        Frozen::None | Frozen::Half => false,
    };
    let groups = groups.iter().enumerate().filter(|(group, _)| is_frozen(*group));
    groups.flat_map(|(_, members)| members).copied().collect()
}

/// The importance of a probe, as it is stored.
fn importance_tensors<'a>(layout: &Layout, importance: StateView<'a>) -> Result<Vec<NamedTensor<'a>>> {
    match importance {
        StateView::F32(values) => layout_tensors(layout, "", values, WeightType::F32),
        StateView::Bf16(values) => Ok(layout
            .segments()
            .iter()
            .map(|segment| NamedTensor {
                name: segment.name.clone(),
                shape: segment.shape.clone(),
                data: TensorData::Bf16(values.slice(segment.range())),
            })
            .collect()),
    }
}

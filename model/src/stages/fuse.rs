//! Stage 3: fusion of the task models into one, cores transplanted and the rest joined by SLERP.
//!
//! What happens to a tensor depends on no other, so fusion goes through the parameters in parts of whole tensors: of every
//! model but the base one part is in memory at a time.

use cpift_engine::ops::slerp::{self, Fallback};
use cpift_engine::ops::transplant::{gather, scatter, transplant};
use cpift_engine::{Device, Layout, Mask, View, ViewMut};

use crate::error::Result;
use crate::progress::{FusionReport, SlerpReport};
use crate::recipe::{Backbone, Conflict, FoldWeight, FuseSettings, Interpolation, SlerpSpace};
use crate::stages::merge::{self, Draw, Merge};
use crate::stages::models::{Buffers, PartBuffers, PartModels, PartOf, TaskModels};
use crate::stages::pieces::{LayoutPart, parts};

/// One task's core set Ci.
#[derive(Debug, Clone)]
pub struct Core {
    /// The task's name.
    pub task: String,
    /// Ci as bits over the flat layout.
    pub mask: Mask,
    /// For every segment the least importance in the core: what importances of different tasks are
    /// measured by. One value throughout in the global scope.
    pub thresholds: Vec<f32>,
}

/// Where cores come from: read one at a time, so that memory does not grow with their number.
pub trait Cores {
    /// How many there are.
    fn count(&self) -> usize;

    /// The name of a core's task.
    fn task(&self, index: usize) -> &str;

    /// Reads a core.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read(&self, index: usize) -> Result<Core>;

    /// Reads a part of a core.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read_part(&self, index: usize, part: &LayoutPart) -> Result<Core>;
}

impl Cores for Vec<Core> {
    fn count(&self) -> usize {
        self.len()
    }

    fn task(&self, index: usize) -> &str {
        &self[index].task
    }

    fn read(&self, index: usize) -> Result<Core> {
        Ok(self[index].clone())
    }

    fn read_part(&self, index: usize, part: &LayoutPart) -> Result<Core> {
        let Core { task, mask, thresholds } = &self[index];
        Ok(Core {
            task: task.clone(),
            mask: mask.slice(part.range.clone()),
            thresholds: thresholds[part.segments.clone()].to_vec(),
        })
    }
}

/// Fuses the task models into `buffers.backbone`, part by part. For [`Backbone::Staged`] it holds that model already; any
/// other backbone is made here. `seed` is what the random choices of the DARE backbones follow from.
///
/// # Errors
/// When a model cannot be read, has values that are not finite, or memory runs out.
pub fn fuse(
    device: &Device,
    layout: &Layout,
    settings: &FuseSettings,
    cores: &dyn Cores,
    models: &mut dyn TaskModels,
    seed: u64,
    buffers: Buffers<'_>,
) -> Result<FusionReport> {
    fuse_parts(device, &parts(layout)?, settings, cores, models, seed, buffers)
}

/// [`fuse()`] in these parts of the layout: however it is divided, the same bits.
///
/// # Errors
/// As that.
pub fn fuse_parts(
    device: &Device,
    parts: &[LayoutPart],
    settings: &FuseSettings,
    cores: &dyn Cores,
    models: &mut dyn TaskModels,
    seed: u64,
    buffers: Buffers<'_>,
) -> Result<FusionReport> {
    let Buffers { mut backbone, mut operand, mut base } = buffers;
    models.read_base(base.reborrow())?;
    let tasks: Vec<&str> = (0..cores.count()).map(|index| cores.task(index)).collect();
    let mut slerps = vec![Vec::new(); tasks.len()];
    let mut sum = Transplanted::default();
    for part in parts {
        let range = part.range.clone();
        let transplanted = (0..tasks.len()).filter(|_| settings.transplant);
        let cores = transplanted.map(|index| cores.read_part(index, part)).collect::<Result<Vec<Core>>>()?;
        let fusion = PartFusion {
            layout: &part.layout,
            settings,
            tasks: &tasks,
            cores,
            draw: Draw { seed, first: range.start },
        };
        let buffers = PartBuffers {
            backbone: backbone.reborrow().slice(range.clone()),
            operand: operand.reborrow().slice(0..range.len()),
            base: base.as_view().slice(range),
        };
        let (part_slerps, transplanted) = fusion.run(device, &mut PartOf { models, part }, buffers)?;
        slerps.iter_mut().zip(part_slerps).for_each(|(all, of_part)| all.extend(of_part));
        sum.add(transplanted);
    }
    Ok(FusionReport {
        backbone: backbone_name(settings.backbone).to_owned(),
        slerps: slerps.into_iter().flatten().collect(),
        transplanted: sum.alone,
        conflicts: sum.conflicts,
        sign_conflicts: sum.sign_conflicts,
    })
}

/// The fusion of one part of the parameters.
pub struct PartFusion<'a> {
    /// Of the part.
    pub layout: &'a Layout,
    /// How models are fused.
    pub settings: &'a FuseSettings,
    /// Names of the tasks.
    pub tasks: &'a [&'a str],
    /// Each task's core in the part; none where none is transplanted.
    pub cores: Vec<Core>,
    /// What random choices follow from.
    pub draw: Draw,
}

/// Coordinates that were transplanted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Transplanted {
    /// In one core.
    pub alone: u64,
    /// In several.
    pub conflicts: u64,
    /// Of these, those with updates of both signs.
    pub sign_conflicts: u64,
}

impl Transplanted {
    /// Adds those of another part.
    pub fn add(&mut self, other: Self) {
        self.alone += other.alone;
        self.conflicts += other.conflicts;
        self.sign_conflicts += other.sign_conflicts;
    }
}

impl PartFusion<'_> {
    /// Fuses the part into `buffers.backbone`: what was interpolated, by task, and what was transplanted. See [`fuse`].
    ///
    /// # Errors
    /// As that.
    pub fn run(
        self,
        device: &Device,
        models: &mut dyn PartModels,
        buffers: PartBuffers<'_>,
    ) -> Result<(Vec<Vec<SlerpReport>>, Transplanted)> {
        let Self { layout, settings, tasks, cores, draw } = self;
        let PartBuffers { mut backbone, mut operand, base } = buffers;
        let (any, several) = owners(layout.len(), &cores)?;
        if settings.backbone == Backbone::Base {
            backbone.copy_from(base)?;
        }
        if let Some(kind) = Merge::of(settings) {
            let buffers = PartBuffers { backbone: backbone.reborrow(), operand: operand.reborrow(), base };
            merge::merge_part(device, layout, &kind, (tasks.len(), draw), models, buffers)?;
        }
        let mut slerps = vec![Vec::new(); tasks.len()];
        let mut conflicts = Conflicts { base: gather(device, base, &several)?, tasks: Vec::new() };
        let is_lerp = settings.interpolation == Interpolation::Lerp;
        let each_is_used =
            settings.transplant || matches!(settings.backbone, Backbone::Mean | Backbone::Last);
        for index in (0..tasks.len()).filter(|_| each_is_used) {
            models.read(index, operand.reborrow())?;
            match settings.backbone {
                Backbone::Mean if index == 0 => backbone.copy_from(operand.as_view())?,
                Backbone::Mean => {
                    let options = slerp::Options {
                        weight: fold_weight(settings.weight, index),
                        // Every angle is below infinity.
                        epsilon: if is_lerp { f64::INFINITY } else { settings.epsilon },
                        base: (settings.space == SlerpSpace::Delta).then_some(base),
                        skip: Some(&any),
                    };
                    let reports =
                        slerp::slerp(device, layout, backbone.reborrow(), operand.as_view(), &options)?;
                    slerps[index] = reports
                        .iter()
                        .map(|report| describe(layout, tasks[index], report, is_lerp))
                        .collect();
                }
                Backbone::Last if index + 1 == tasks.len() => {
                    copy_outside(device, backbone.reborrow(), operand.as_view(), &any)?;
                }
                _ => {}
            }
            let Some(core) = cores.get(index) else { continue };
            let alone = core.mask.and_not(&several)?;
            transplant(device, backbone.reborrow(), operand.as_view(), &alone)?;
            let shared = core.mask.and(&several)?;
            let weights = gather(device, operand.as_view(), &shared)?;
            let importance = if settings.conflict == Conflict::Max {
                models.read_importance(index, operand.reborrow(), base)?;
                gather(device, operand.as_view(), &shared)?
            } else {
                Vec::new()
            };
            let relative_importance = relative(layout, &shared, importance, &core.thresholds);
            let claimed = places(&several, conflicts.base.len(), &shared);
            conflicts.tasks.push(SharedCoordinates { claimed, weights, relative_importance });
        }
        let (values, sign_conflicts) = conflicts.resolve(settings.conflict);
        scatter(device, backbone, &several, &values)?;
        let conflicts = several.count() as u64;
        Ok((slerps, Transplanted { alone: any.count() as u64 - conflicts, conflicts, sign_conflicts }))
    }
}

/// The coordinates in at least one core, and those in several.
fn owners(length: usize, cores: &[Core]) -> Result<(Mask, Mask)> {
    let (mut any, mut several) = (Mask::zeros(length), Mask::zeros(length));
    for core in cores {
        several.insert_shared(&any, &core.mask)?;
        any.union_with(&core.mask)?;
    }
    Ok((any, several))
}

/// Weight of the task at `index` (from 0) in the fold: 1/i with i counted from 1, or the constant.
fn fold_weight(weight: FoldWeight, index: usize) -> f64 {
    match weight {
        FoldWeight::Running => 1.0 / (index + 1) as f64,
        FoldWeight::Constant(weight) => weight,
    }
}

/// Copies everything but the coordinates of `mask`, which were transplanted before.
fn copy_outside(
    device: &Device,
    mut target: ViewMut<'_, f32>,
    source: View<'_, f32>,
    mask: &Mask,
) -> Result<()> {
    let kept = gather(device, target.as_view(), mask)?;
    target.copy_from(source)?;
    Ok(scatter(device, target, mask, &kept)?)
}

/// Importances of the coordinates of `shared`, each over its tensor's threshold.
fn relative(layout: &Layout, shared: &Mask, mut importance: Vec<f32>, thresholds: &[f32]) -> Vec<f32> {
    let mut segments = layout.segments().iter().zip(thresholds).peekable();
    for (index, value) in shared.indices().zip(&mut importance) {
        while segments.next_if(|(segment, _)| segment.range().end <= index).is_some() {}
        let threshold = segments.peek().map_or(1.0, |(_, threshold)| **threshold);
        *value = (value.abs() / threshold.max(f32::MIN_POSITIVE)).min(f32::MAX);
    }
    importance
}

/// Which of the coordinates of `several`, counted from 0, are in `shared`, which has no others.
fn places(several: &Mask, count: usize, shared: &Mask) -> Mask {
    let mut places = Mask::zeros(count);
    let members = several.indices().enumerate().filter(|&(_, index)| shared.get(index));
    members.for_each(|(place, _)| places.set(place, true));
    places
}

fn describe(layout: &Layout, task: &str, report: &slerp::SegmentReport, is_lerp: bool) -> SlerpReport {
    let fallback = report.fallback.map(|fallback| match fallback {
        Fallback::SmallAngle if is_lerp => "asked for",
        Fallback::SmallAngle => "small angle",
        Fallback::ZeroNorm => "zero norm",
        Fallback::Antipodal => "antipodal",
    });
    SlerpReport {
        task: task.to_owned(),
        tensor: layout.segment(report.segment).name.clone(),
        angle: report.angle,
        fallback: fallback.map(str::to_owned),
    }
}

fn backbone_name(backbone: Backbone) -> &'static str {
    match backbone {
        Backbone::Mean => "mean",
        Backbone::Base => "base",
        Backbone::Last => "last",
        Backbone::Staged => "staged",
        Backbone::Average => "average",
        Backbone::Arithmetic => "arithmetic",
        Backbone::Ties => "ties",
        Backbone::Dare => "dare",
        Backbone::DareTies => "dare-ties",
    }
}

/// The coordinates in several cores, with what each task has there: few, so held as lists.
struct Conflicts {
    /// θ0 at those coordinates.
    base: Vec<f32>,
    tasks: Vec<SharedCoordinates>,
}

/// What one task has at the coordinates it shares with others.
struct SharedCoordinates {
    /// Which of the conflicting coordinates these are, counted from 0.
    claimed: Mask,
    weights: Vec<f32>,
    /// Importance over the task's threshold; empty when the rule does not ask for it.
    relative_importance: Vec<f32>,
}

/// What one task would make of one coordinate.
#[derive(Clone, Copy)]
struct Candidate {
    weight: f32,
    update: f32,
    relative_importance: f32,
}

impl Conflicts {
    /// The value of every conflicting coordinate in ascending order, and how many have updates of both signs.
    fn resolve(&self, rule: Conflict) -> (Vec<f32>, u64) {
        let mut next = vec![0; self.tasks.len()];
        let mut candidates = Vec::with_capacity(self.tasks.len());
        let mut sign_conflicts = 0;
        let mut values = Vec::with_capacity(self.base.len());
        for (place, &base) in self.base.iter().enumerate() {
            candidates.clear();
            for (task, next) in self.tasks.iter().zip(&mut next) {
                if task.claimed.get(place) {
                    let weight = task.weights[*next];
                    let relative_importance = task.relative_importance.get(*next).copied().unwrap_or(0.0);
                    candidates.push(Candidate { weight, update: weight - base, relative_importance });
                    *next += 1;
                }
            }
            let moves_to = |up: bool| {
                candidates
                    .iter()
                    .any(|candidate| if up { candidate.update > 0.0 } else { candidate.update < 0.0 })
            };
            sign_conflicts += u64::from(moves_to(true) && moves_to(false));
            values.push(choose(&candidates, rule));
        }
        (values, sign_conflicts)
    }
}

/// The value of one coordinate that several tasks have in their cores (docs/algorithm.md, stage 3, step 3).
fn choose(candidates: &[Candidate], rule: Conflict) -> f32 {
    let mean = |wanted: &dyn Fn(&Candidate) -> bool| {
        let (sum, count) = candidates
            .iter()
            .filter(|candidate| wanted(candidate))
            .fold((0.0, 0u32), |(sum, count), candidate| (sum + f64::from(candidate.weight), count + 1));
        (sum / f64::from(count)) as f32
    };
    match rule {
        Conflict::Last => candidates[candidates.len() - 1].weight,
        Conflict::Mean => mean(&|_| true),
        Conflict::Max => {
            let larger = |best: Candidate, candidate: &Candidate| {
                if candidate.relative_importance > best.relative_importance { *candidate } else { best }
            };
            candidates[1..].iter().fold(candidates[0], larger).weight
        }
        Conflict::Sign => {
            let ups = candidates.iter().filter(|candidate| candidate.update > 0.0).count();
            let downs = candidates.iter().filter(|candidate| candidate.update < 0.0).count();
            let total: f64 = candidates.iter().map(|candidate| f64::from(candidate.update)).sum();
            // As many on either side: the sum of the updates decides.
            if ups > downs || (ups == downs && total > 0.0) {
                mean(&|candidate| candidate.update > 0.0)
            } else if downs > 0 {
                mean(&|candidate| candidate.update < 0.0)
            } else {
                mean(&|_| true)
            }
        }
    }
}

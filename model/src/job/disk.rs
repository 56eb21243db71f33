//! What a run folder takes, stage by stage.

use cpift_engine::ops::adamw::ImportanceKind as Accumulate;

use super::inputs::Inputs;
use super::trainings::{accumulated, has_probes, stored_importance};
use super::weights::weight_type_of;
use crate::checkpoint::ModelFiles;
use crate::progress::StageKind;
use crate::recipe::{Backbone, Keep, Method, Recipe};
use crate::state_type::StateType;

/// What the run folder takes in a stage, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageDisk {
    /// The stage.
    pub stage: StageKind,
    /// Most of it, where there is no room for more: with one checkpoint. Older ones stay as long as there is room.
    pub most: u64,
    /// When the stage is complete.
    pub after: u64,
}

/// What the folder of a process takes that makes one probe: the model and its importance, and beside them one checkpoint.
pub fn probe_disk(recipe: &Recipe, inputs: &Inputs, state: StateType) -> StageDisk {
    let Sizes { checkpoint, probe, importance } = Sizes::of(recipe, inputs, state);
    StageDisk { stage: StageKind::Probe, most: checkpoint + importance + probe, after: probe }
}

/// Bytes of what several stages write.
struct Sizes {
    /// A checkpoint, without importance, which is of no use outside of probes.
    checkpoint: u64,
    /// A probe with its importance.
    probe: u64,
    /// Importance in a checkpoint.
    importance: u64,
}

impl Sizes {
    fn of(recipe: &Recipe, inputs: &Inputs, state: StateType) -> Self {
        let model = ModelFiles::new(&inputs.base.config, None).bytes();
        let elements = inputs.layout.len() as u64;
        let flat = elements * size_of::<f32>() as u64;
        let of_part = state.bytes_of_part(&inputs.layout) as u64;
        let is_accumulated = accumulated(recipe, state) != Accumulate::None;
        let importance = if is_accumulated { of_part } else { 0 };
        let stored = stored_importance(recipe, state).map_or(0, |_| of_part);
        let checkpoint = flat + 2 * elements * state.storage().moments.bytes() as u64;
        Self { checkpoint, probe: model + stored, importance }
    }
}

/// The stages of a job, in order, with what the run folder takes: models, importance, masks and checkpoints. Whether probes
/// stay is for the caller to say.
pub fn stage_disk(recipe: &Recipe, inputs: &Inputs, state: StateType, keeps_probes: bool) -> Vec<StageDisk> {
    let files = |dtype| ModelFiles { dtype, ..ModelFiles::new(&inputs.base.config, None) }.bytes();
    let (model, last_model) =
        (ModelFiles::new(&inputs.base.config, None).bytes(), files(weight_type_of(recipe)));
    let elements = inputs.layout.len() as u64;
    let flat = elements * size_of::<f32>() as u64;
    let Sizes { checkpoint, probe, importance } = Sizes::of(recipe, inputs, state);
    let tasks = inputs.all_tasks();
    let probes = if has_probes(recipe.method) {
        tasks.iter().filter(|&&task| inputs.trains_probe(task)).count() as u64 * probe
    } else {
        0
    };
    let removed = if keeps_probes { 0 } else { probes };
    let mut stages = Vec::new();
    let mut held = 0;
    // While a stage takes `passing` more, and leaves `left`; `gone` is removed when it is complete.
    let mut add = |stage, passing: u64, left: u64, gone: u64| {
        let most = held + passing + left;
        held = held + left - gone;
        stages.push(StageDisk { stage, most, after: held });
    };
    let is_cpift = recipe.method == Method::Cpift;
    if has_probes(recipe.method) {
        let training = if probes > 0 { checkpoint + importance } else { 0 };
        add(StageKind::Probe, training, probes, 0);
        add(StageKind::Core, 0, tasks.len() as u64 * elements / 8, 0);
        add(StageKind::Group, 0, 0, if is_cpift { 0 } else { removed });
    }
    if is_cpift {
        let training = if recipe.fuse.backbone == Backbone::Staged { checkpoint } else { 0 };
        add(StageKind::Fuse, training, model, removed);
    }
    // The best weights: those of the checkpoint, and a new one.
    let best = if recipe.evaluate.decides() && recipe.evaluate.keep == Keep::Best { 2 * flat } else { 0 };
    let last = if is_cpift { StageKind::Integrate } else { StageKind::Train };
    add(last, checkpoint + best, last_model, 0);
    stages
}

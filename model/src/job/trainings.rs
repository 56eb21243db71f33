//! Which trainings a recipe asks for, and what they accumulate.

use cpift_engine::ops::adamw::ImportanceKind as Accumulate;

use crate::recipe::{Backbone, ImportanceKind, Method, Recipe, TrainSettings};
use crate::state_type::StateType;
use crate::trainer::StatePart;

/// Whether the method begins with probes.
pub fn has_probes(method: Method) -> bool {
    matches!(method, Method::Cpift | Method::Staged)
}

/// Names of the tasks that a recipe trains a probe for.
pub fn probed_tasks(recipe: &Recipe) -> Vec<String> {
    let has_probe = |task: &&crate::recipe::TaskSettings| task.model.is_none() && has_probes(recipe.method);
    recipe.task.iter().filter(has_probe).map(|task| task.name.clone()).collect()
}

/// Rounds of the method `half`, each with a half of its own frozen.
pub fn half_rounds(recipe: &Recipe) -> u64 {
    recipe.half.rounds.unwrap_or(recipe.task.len() as u64)
}

/// True when `[train]` itself is trained with: by the baselines, and for a staged backbone.
pub fn trains_plainly(recipe: &Recipe) -> bool {
    recipe.method != Method::Cpift || recipe.fuse.backbone == Backbone::Staged
}

/// The settings of each kind of training that the job makes.
pub fn trainings_settings(recipe: &Recipe) -> Vec<&TrainSettings> {
    sections(recipe).into_iter().map(|(_, settings)| settings).collect()
}

/// The same with the recipe's section that each is in.
pub fn sections(recipe: &Recipe) -> Vec<(&'static str, &TrainSettings)> {
    let mut settings = Vec::new();
    if has_probes(recipe.method) {
        settings.push(("probe", &recipe.probe.training));
    }
    if trains_plainly(recipe) {
        settings.push(("train", &recipe.train));
    }
    if recipe.method == Method::Cpift {
        settings.push(("integrate", &recipe.integrate.training));
    }
    settings
}

/// What the optimizer accumulates of importance.
pub fn accumulated(recipe: &Recipe, state: StateType) -> Accumulate {
    match has_probes(recipe.method) {
        true => state.accumulated(recipe.probe.importance),
        false => Accumulate::None,
    }
}

/// What of the optimizer's state a probe stores beside its model, for its importance; nothing where that is what the model
/// is away from the base.
pub fn stored_importance(recipe: &Recipe, state: StateType) -> Option<StatePart> {
    match recipe.probe.importance {
        ImportanceKind::FisherNet if has_probes(recipe.method) => Some(StatePart::SecondMoment),
        _ => (accumulated(recipe, state) != Accumulate::None).then_some(StatePart::Importance),
    }
}

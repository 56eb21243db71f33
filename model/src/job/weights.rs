//! The weights a job trains: read before the first step, and small enough for the final model's number type.

use std::path::Path;

use super::Job;
use super::models::RunModels;
use super::trainings::accumulated;
use crate::checkpoint::{Checkpoint, WeightType};
use crate::error::{Error, Result};
use crate::recipe::{Recipe, SaveDtype};
use crate::stages::models::TaskModels;
use crate::trainer::{Setup, Trainer};

/// Fails when a weight that was trained has become too large for the final model's number type. Everything is saved by
/// then: it can be continued with another type.
///
/// # Errors
/// Naming the weight.
pub fn require_fit(job: &Job, trainer: &mut Trainer) -> Result<()> {
    match trainer.too_large_for(weight_type(job))? {
        Some(reason) => Err(Error::Job(format!(
            "in training {reason}, the `model.dtype` that the final model is to be written with: continue with \
             --resume and model.dtype = \"f32\" or \"bf16\""
        ))),
        None => Ok(()),
    }
}

/// What a job trains with, the base's weights in it. The models that tasks bring are read once, so that a
/// weight that is not a number is found before the first step, not after the probes of other tasks.
///
/// # Errors
/// Memory runs out, or a model cannot be read or does not fit the final model's number type.
pub fn open_trainer(job: &Job) -> Result<Trainer> {
    let inputs = &job.inputs;
    let setup = Setup {
        config: inputs.base.config.clone(),
        compute: job.compute,
        max_tokens: job.max_tokens,
        recompute: job.plan.recompute,
        importance: accumulated(&job.recipe, job.state),
        state: job.state,
    };
    let mut trainer = Trainer::open(&job.device, &setup, &job.ranks)?;
    let mut models = RunModels::new(job);
    for (index, task) in inputs.tasks.iter().enumerate() {
        if let Some(model) = &task.model {
            models.read_weights(index, trainer.weights_mut()?)?;
            require_fit_of_input(job, &mut trainer, model)?;
        }
    }
    models.read_base(trainer.weights_mut()?)?;
    if let Some(checkpoint) = &inputs.base.checkpoint {
        require_fit_of_input(job, &mut trainer, checkpoint)?;
    }
    Ok(trainer)
}

/// Fails when a weight of a model that the job starts from is too large for the final model's number type.
fn require_fit_of_input(job: &Job, trainer: &mut Trainer, model: &Checkpoint) -> Result<()> {
    let Some(reason) = trainer.too_large_for(weight_type(job))? else { return Ok(()) };
    let file = model.files().next().unwrap_or(Path::new("model"));
    let reason = format!("{reason}, which the final model is to be written as: use \"f32\" or \"bf16\"");
    Err(Error::setting("model.dtype", format!("{}: {reason}", file.display())))
}

/// Number type of the final model's file.
pub fn weight_type(job: &Job) -> WeightType {
    weight_type_of(&job.recipe)
}

/// The same, as a recipe says it.
pub fn weight_type_of(recipe: &Recipe) -> WeightType {
    match recipe.model.dtype {
        SaveDtype::F32 => WeightType::F32,
        SaveDtype::Bf16 => WeightType::BF16,
        SaveDtype::F16 => WeightType::F16,
    }
}

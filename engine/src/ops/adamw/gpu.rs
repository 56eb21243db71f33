//! GPU: one kernel for each combination of storage, importance and frozen coordinates.

use cpift_kernels::adamw::{StateOf, Step, StoredState, StoredWeights, adamw_step};

use super::{Coefficients, Gradient, GradientsView, Parameters, State, Weights, stored_differently};
use crate::error::Result;
use crate::gpu::GpuDevice;
use crate::mask::Mask;

pub(super) fn step(
    gpu: &GpuDevice,
    parameters: Parameters<'_>,
    gradient: Gradient<'_>,
    coefficients: &Coefficients,
) -> Result<()> {
    let Parameters { weights, state, .. } = parameters;
    let state = match (gradient.values, state) {
        (GradientsView::F32(gradient), State::F32(first, second, importance)) => StoredState::F32(StateOf {
            gradient: gradient.on(gpu),
            moment1: first.on(gpu),
            moment2: second.on(gpu),
            importance: importance.map(|sums| sums.on(gpu)),
        }),
        (GradientsView::Bf16(gradient), State::Bf16(first, second, importance)) => {
            StoredState::Bf16(StateOf {
                gradient: gradient.on(gpu),
                moment1: first.on(gpu),
                moment2: second.on(gpu),
                importance: importance.map(|sums| sums.on(gpu)),
            })
        }
        _ => return Err(stored_differently()),
    };
    let step = Step {
        weights: match weights {
            Weights::F32(weights) => StoredWeights::F32(weights.on(gpu)),
            Weights::Split(planes) => StoredWeights::Split(planes.rounded.on(gpu), planes.lower.on(gpu)),
        },
        frozen: gradient.frozen.map(|mask: &Mask| mask.on(gpu)).transpose()?,
        scale: match gradient.clip {
            Some(clip) => clip.factor().on(gpu),
            None => gpu.one()?,
        },
    };
    Ok(adamw_step(gpu.launcher(), state, step, coefficients)?)
}

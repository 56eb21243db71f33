//! GPU: one kernel for each combination of weights' and moments' storage, importance and frozen coordinates.

use cpift_kernels::adamw::{self, Step, StoredWeights, adamw_step};

use super::{Coefficients, Gradient, Moments, Parameters, Weights};
use crate::error::Result;
use crate::gpu::GpuDevice;
use crate::mask::Mask;

pub(super) fn step(
    gpu: &GpuDevice,
    parameters: Parameters<'_>,
    gradient: Gradient<'_>,
    coefficients: &Coefficients,
) -> Result<()> {
    let Parameters { weights, moments, importance } = parameters;
    let moments = match moments {
        Moments::F32(first, second) => adamw::Moments::F32(first.on(gpu), second.on(gpu)),
        Moments::Bf16(first, second) => adamw::Moments::Bf16(first.on(gpu), second.on(gpu)),
    };
    let step = Step {
        gradient: gradient.values.on(gpu),
        weights: match weights {
            Weights::F32(weights) => StoredWeights::F32(weights.on(gpu)),
            Weights::Split(planes) => StoredWeights::Split(planes.rounded.on(gpu), planes.lower.on(gpu)),
        },
        importance: importance.map(|sums| sums.on(gpu)),
        frozen: gradient.frozen.map(|mask: &Mask| mask.on(gpu)).transpose()?,
        scale: match gradient.clip {
            Some(clip) => clip.factor().on(gpu),
            None => gpu.one()?,
        },
    };
    Ok(adamw_step(gpu.launcher(), moments, step, coefficients)?)
}

//! GPU: one kernel for each combination of importance, frozen coordinates and the copy.

use cpift_kernels::adamw::{Step, adamw_step};

use super::{Coefficients, Gradient, Parameters};
use crate::error::Result;
use crate::gpu::GpuDevice;
use crate::mask::Mask;

pub(super) fn step(
    gpu: &GpuDevice,
    parameters: Parameters<'_>,
    gradient: Gradient<'_>,
    coefficients: &Coefficients,
) -> Result<()> {
    let Parameters { weights, moment1, moment2, importance, copy } = parameters;
    let step = Step {
        gradient: gradient.values.on(gpu),
        weights: weights.on(gpu),
        moment1: moment1.on(gpu),
        moment2: moment2.on(gpu),
        importance: importance.map(|sums| sums.on(gpu)),
        frozen: gradient.frozen.map(|mask: &Mask| mask.on(gpu)).transpose()?,
        copy: copy.map(|copy| copy.on(gpu)),
        scale: match gradient.clip {
            Some(clip) => clip.factor().on(gpu),
            None => gpu.one()?,
        },
    };
    Ok(adamw_step(gpu.launcher(), step, coefficients)?)
}

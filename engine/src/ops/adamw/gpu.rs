//! GPU: one kernel for each combination of importance, frozen coordinates and the copy.

use cpift_kernels::adamw::*;

use super::{Coefficients, Gradient, Importance, Parameters};
use crate::error::Result;
use crate::gpu::{GpuDevice, GpuMemory};
use crate::mask::Mask;

pub(super) fn step(
    gpu: &GpuDevice,
    parameters: Parameters<'_>,
    gradient: Gradient<'_>,
    coefficients: &Coefficients,
) -> Result<()> {
    let Parameters { weights, moment1, moment2, importance, copy } = parameters;
    let count = weights.len() as u64;
    let frozen = gradient.frozen.map(|mask: &Mask| mask.on(gpu)).transpose()?;
    let one = GpuMemory::<f32>::from_slice(gpu, &[1.0])?;
    let clip = gradient.clip.map_or_else(|| one.all().argument(), |clip| clip.factor().on(gpu));
    macro_rules! launch {
        ($kernel:ident $(, $buffer:expr)*) => {
            $kernel(
                gpu.launcher(),
                gradient.values.on(gpu),
                weights.on(gpu),
                moment1.on(gpu),
                moment2.on(gpu),
                $($buffer,)*
                clip,
                count,
                coefficients.gradient_scale,
                coefficients.weight_factor,
                coefficients.beta1,
                coefficients.gradient_weight,
                coefficients.beta2,
                coefficients.square_weight,
                coefficients.root_correction,
                coefficients.epsilon,
                coefficients.step_size,
            )
        };
    }
    let copy = copy.map(|copy| copy.on(gpu));
    match (importance, frozen, copy) {
        (Importance::None, None, None) => launch!(adamw),
        (Importance::None, None, Some(copy)) => launch!(adamw_bf16, copy),
        (Importance::None, Some(frozen), None) => launch!(adamw_frozen, frozen),
        (Importance::None, Some(frozen), Some(copy)) => launch!(adamw_frozen_bf16, frozen, copy),
        (Importance::Net(sums), None, None) => launch!(adamw_net, sums.on(gpu)),
        (Importance::Net(sums), None, Some(copy)) => launch!(adamw_net_bf16, sums.on(gpu), copy),
        (Importance::Net(sums), Some(frozen), None) => launch!(adamw_net_frozen, sums.on(gpu), frozen),
        (Importance::Net(sums), Some(frozen), Some(copy)) => {
            launch!(adamw_net_frozen_bf16, sums.on(gpu), frozen, copy)
        }
        (Importance::Path(sums), None, None) => launch!(adamw_path, sums.on(gpu)),
        (Importance::Path(sums), None, Some(copy)) => launch!(adamw_path_bf16, sums.on(gpu), copy),
        (Importance::Path(sums), Some(frozen), None) => launch!(adamw_path_frozen, sums.on(gpu), frozen),
        (Importance::Path(sums), Some(frozen), Some(copy)) => {
            launch!(adamw_path_frozen_bf16, sums.on(gpu), frozen, copy)
        }
        (Importance::Fisher(sums), None, None) => launch!(adamw_fisher, sums.on(gpu)),
        (Importance::Fisher(sums), None, Some(copy)) => launch!(adamw_fisher_bf16, sums.on(gpu), copy),
        (Importance::Fisher(sums), Some(frozen), None) => launch!(adamw_fisher_frozen, sums.on(gpu), frozen),
        (Importance::Fisher(sums), Some(frozen), Some(copy)) => {
            launch!(adamw_fisher_frozen_bf16, sums.on(gpu), frozen, copy)
        }
    }?;
    Ok(())
}

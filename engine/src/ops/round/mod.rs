//! Rounding f32 to bf16: the weights that products read.
//!
//! target\[i\] = source\[i\], rounded by [dither](cpift_kernels::dither), as [`split`](crate::ops::split) rounds: what is
//! trained and what is loaded compute with the same weights. Traffic: 6 bytes per element.

mod cpu;

use cpift_kernels::elementwise::round_f32_to_bf16;
use half::bf16;

use crate::buffer::{View, ViewMut};
use crate::device::Device;
use crate::error::{Result, check_length};

/// Overwrites `target` with `source`, rounded.
///
/// # Errors
/// When the lengths differ.
pub fn to_bf16(device: &Device, source: View<'_, f32>, target: ViewMut<'_, bf16>) -> Result<()> {
    check_length("round", "target", target.len(), source.len())?;
    match device {
        Device::Cpu(cpu) => cpu.run(|| cpu::to_bf16(source.host(), target.host())),
        Device::Gpu(gpu) => {
            let count = source.len() as u64;
            round_f32_to_bf16(gpu.launcher(), source.on(gpu), target.on(gpu), count)?;
        }
    }
    Ok(())
}

//! Adding f32 to bf16: `target ← target + x`, rounded to nearest even once, element by element.
//!
//! What one operation adds to a gradient that is stored in bf16 ([`crate::ops::gradients`]). No backward: it is never
//! differentiated. Traffic: 8 bytes per element.

mod cpu;

use cpift_kernels::elementwise::accumulate_bf16;
use half::bf16;

use crate::buffer::{View, ViewMut};
use crate::device::Device;
use crate::error::{Result, check_length};
use crate::ops::work::Work;

/// Adds `x` to `target`.
///
/// # Errors
/// Lengths that differ.
pub fn accumulate(device: &Device, target: ViewMut<'_, bf16>, x: View<'_, f32>) -> Result<()> {
    check_length("accumulate", "x", x.len(), target.len())?;
    match device {
        Device::Cpu(cpu) => cpu.run(|| cpu::accumulate(target.host(), x.host())),
        Device::Gpu(gpu) => {
            let count = target.len() as u64;
            accumulate_bf16(gpu.launcher(), target.on(gpu), x.on(gpu), count)?;
        }
    }
    Ok(())
}

/// Work of [`accumulate`] on so many elements.
pub fn work(elements: usize) -> Work {
    Work::new(8 * elements, elements)
}

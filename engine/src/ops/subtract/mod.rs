//! What a model adds to its base: `target ← target − other`, element by element.
//!
//! Importance of an existing fine-tune (docs/algorithm.md, stage 1, `net`) is this difference. No backward:
//! it is never differentiated. Traffic: 12 bytes per element.

mod cpu;

use cpift_kernels::elementwise::subtract_f32;

use crate::buffer::{View, ViewMut};
use crate::device::Device;
use crate::error::{Result, check_length};
use crate::ops::work::Work;

/// Subtracts `other` from `target`.
///
/// # Errors
/// Lengths that differ.
pub fn subtract(device: &Device, target: ViewMut<'_, f32>, other: View<'_, f32>) -> Result<()> {
    check_length("subtract", "other", other.len(), target.len())?;
    match device {
        Device::Cpu(cpu) => cpu.run(|| cpu::subtract(target.host(), other.host())),
        Device::Gpu(gpu) => {
            let count = target.len() as u64;
            subtract_f32(gpu.launcher(), target.on(gpu), other.on(gpu), count)?;
        }
    }
    Ok(())
}

/// Work of [`subtract`] on so many elements.
pub fn work(elements: usize) -> Work {
    Work::new(12 * elements, elements)
}

//! Adding f32 to bf16: `target ← target + x`, rounded [stochastically](cpift_kernels::stochastic), element by element.
//!
//! What one operation adds to a gradient that is stored in bf16 ([`crate::ops::gradients`]). Rounded to nearest, what is
//! less than half a unit of the sum would be lost. No backward: it is never differentiated. Traffic: 8 bytes per element.

mod cpu;

use cpift_kernels::elementwise::accumulate_bf16;
use cpift_kernels::stochastic::seed_of_step;
use half::bf16;

use crate::buffer::{View, ViewMut};
use crate::device::Device;
use crate::error::{Result, check_length};
use crate::ops::work::Work;

/// Adds `x` to `target`, whose first element is element `first` of the whole. Random bits follow from an element's index
/// and from `number`: that of the micro-batch.
///
/// # Errors
/// Lengths that differ.
pub fn accumulate(
    device: &Device,
    target: ViewMut<'_, bf16>,
    x: View<'_, f32>,
    first: usize,
    number: usize,
) -> Result<()> {
    check_length("accumulate", "x", x.len(), target.len())?;
    let seed = seed_of_step(number as u64);
    match device {
        Device::Cpu(cpu) => cpu.run(|| cpu::accumulate(target.host(), x.host(), first, seed)),
        Device::Gpu(gpu) => {
            let count = target.len() as u64;
            accumulate_bf16(gpu.launcher(), target.on(gpu), x.on(gpu), count, first as u64, seed)?;
        }
    }
    Ok(())
}

/// Work of [`accumulate`] on so many elements.
pub fn work(elements: usize) -> Work {
    Work::new(8 * elements, elements)
}

//! Multiplying by a number: `factor · x`, and the residual stream with a factor, `residual + factor · delta`.
//!
//! Gemma scales its embeddings, Granite those, its residual additions and its logits. A product with a constant is its
//! own derivative: the gradient of x, or of delta, is [`forward`] of the gradient; that of residual is the gradient.

mod cpu;

pub use cpu::OnCpu;

use cpift_kernels::scale as kernels;

use crate::buffer::{View, ViewMut};
use crate::device::Device;
use crate::error::{Result, check_length};
use crate::ops::work::Work;

/// Writes `factor · x` to `y`; both have the same length. Reads 1, writes 1 element each.
///
/// # Errors
/// Lengths that differ.
pub fn forward<T: OnCpu>(device: &Device, factor: f32, x: View<'_, T>, y: ViewMut<'_, T>) -> Result<()> {
    check_length("scale", "y", y.len(), x.len())?;
    match device {
        Device::Gpu(gpu) => kernels::scale(gpu.launcher(), x.on(gpu), y.on(gpu), x.len() as u64, factor)?,
        Device::Cpu(cpu) => T::forward(cpu, factor, x.host(), y.host()),
    }
    Ok(())
}

/// [`forward`] in place: `x ← factor · x`.
///
/// # Errors
/// When the device has failed.
pub fn forward_in_place<T: OnCpu>(device: &Device, factor: f32, x: ViewMut<'_, T>) -> Result<()> {
    match device {
        Device::Gpu(gpu) => {
            let count = x.len() as u64;
            kernels::scale_in_place(gpu.launcher(), x.on(gpu), count, factor)?;
        }
        Device::Cpu(cpu) => T::forward_in_place(cpu, factor, x.host()),
    }
    Ok(())
}

/// Writes `residual + factor · delta` to `sum`; all three have the same length. Reads 2, writes 1 element each.
///
/// # Errors
/// Lengths that differ.
pub fn add<T: OnCpu>(
    device: &Device,
    residual: View<'_, T>,
    factor: f32,
    delta: View<'_, T>,
    sum: ViewMut<'_, T>,
) -> Result<()> {
    const OP: &str = "scaled addition";
    check_length(OP, "delta", delta.len(), residual.len())?;
    check_length(OP, "sum", sum.len(), residual.len())?;
    match device {
        Device::Gpu(gpu) => {
            let count = residual.len() as u64;
            let (residual, delta) = (residual.on(gpu), delta.on(gpu));
            kernels::scale_add(gpu.launcher(), residual, delta, sum.on(gpu), count, factor)?;
        }
        Device::Cpu(cpu) => T::add(cpu, residual.host(), factor, delta.host(), sum.host()),
    }
    Ok(())
}

/// Work of [`forward`] and [`forward_in_place`] on so many elements.
pub fn forward_work(elements: usize, element: usize) -> Work {
    Work::new(2 * elements * element, elements)
}

/// Work of [`add`] on so many elements.
pub fn add_work(elements: usize, element: usize) -> Work {
    Work::new(3 * elements * element, 2 * elements)
}

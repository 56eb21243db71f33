//! The gate of a SwiGLU MLP: `activation = silu(gate) · up`, with `silu(x) = x σ(x)`.
//!
//! Elementwise; the projections around it are [`linear`](super::linear)s. The backward works in place
//! on the three buffers it needs, so it takes no memory of its own.

mod cpu;
mod gpu;

use crate::buffer::{View, ViewMut};
use crate::device::Device;
use crate::error::{Result, check_length};
use crate::ops::work::Work;
use crate::real::Real;

/// Writes `silu(gate) · up` to `activation`; all three have the same length. Reads 2, writes 1 element each.
///
/// # Errors
/// Lengths that differ.
pub fn forward<T: Real>(
    device: &Device,
    gate: View<'_, T>,
    up: View<'_, T>,
    activation: ViewMut<'_, T>,
) -> Result<()> {
    const OP: &str = "gated_mlp";
    check_length(OP, "up", up.len(), gate.len())?;
    check_length(OP, "activation", activation.len(), gate.len())?;
    match device {
        Device::Gpu(gpu) => gpu::forward(gpu, gate, up, activation)?,
        Device::Cpu(cpu) => cpu::forward(cpu, gate.floats()?, up.floats()?, activation.floats()?),
    }
    Ok(())
}

/// Turns what the forward had into gradients, in place. Reads 3 and writes 3 elements each.
///
/// | buffer | before | after |
/// |---|---|---|
/// | `gate` | gate | d_gate = d_activation · up · σ(gate) (1 + gate (1 − σ(gate))) |
/// | `up` | up | d_up = d_activation · silu(gate) |
/// | `activation` | d_activation | activation, computed again for the weight gradient of the projection after it |
///
/// # Errors
/// Lengths that differ.
pub fn backward<T: Real>(
    device: &Device,
    gate: ViewMut<'_, T>,
    up: ViewMut<'_, T>,
    activation: ViewMut<'_, T>,
) -> Result<()> {
    const OP: &str = "gated_mlp backward";
    check_length(OP, "up", up.len(), gate.len())?;
    check_length(OP, "activation", activation.len(), gate.len())?;
    match device {
        Device::Gpu(gpu) => gpu::backward(gpu, gate, up, activation)?,
        Device::Cpu(cpu) => cpu::backward(cpu, gate.floats()?, up.floats()?, activation.floats()?),
    }
    Ok(())
}

/// Work of [`forward`] on so many elements.
pub fn forward_work(elements: usize, element: usize) -> Work {
    Work::new(3 * elements * element, 5 * elements)
}

/// Work of [`backward`] on so many elements.
pub fn backward_work(elements: usize, element: usize) -> Work {
    Work::new(6 * elements * element, 11 * elements)
}

//! The gate of an MLP: `activation = f(gate) · up`, f being silu, `x σ(x)` (SwiGLU), or the tanh form of GELU.
//!
//! Elementwise; the projections around it are [`linear`](super::linear)s. The backward works in place
//! on the three buffers it needs, so it takes no memory of its own.
//!
//! # What fusing it with the projections would save
//! N tokens, C hidden, I intermediate, bf16 on a GPU. Forward, the two projections and the gate move
//! 4·N·C + 4·C·I + 10·N·I bytes. As one product of both weights with the gate in its epilogue, gate and up are not
//! read back: 4·N·I less (8·N·I where the backward does not need them). For 8192 tokens at an H100's 3.35 TB/s that
//! is 48 µs of a layer's 1.2 ms (forward and backward at 600 TFLOP/s) for Qwen2.5-0.5B, 4 %, and 185 µs of 19 ms for
//! 7B, 1 %: worth doing for small models, and the next step here; a tile has to interleave columns of both weights
//! within a warp, which the product kernels cannot yet. The backward reads what it writes in place, once: there a
//! fusion would save the write and read of the activation's gradient, 4·N·I as well, but needs three more operands
//! in the epilogue of a product whose registers are full. These are counts, not measurements.

mod cpu;

pub use cpu::OnCpu;

use cpift_kernels::gated_mlp as kernels;

use crate::buffer::{View, ViewMut};
use crate::device::Device;
use crate::error::{Result, check_length};
use crate::ops::work::Work;

/// What the gate goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x · σ(x).
    Silu,
    /// `gelu_pytorch_tanh`: 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))).
    GeluTanh,
}

impl Activation {
    /// Of the polynomial that the kernels take the sigmoid of.
    fn coefficients(self) -> [f32; 2] {
        match self {
            Self::Silu => kernels::SILU,
            Self::GeluTanh => kernels::GELU_TANH,
        }
    }
}

/// Writes `f(gate) · up` to `activation`, f being `function`; all three have the same length. Reads 2, writes 1 element each.
///
/// # Errors
/// Lengths that differ.
pub fn forward<T: OnCpu>(
    device: &Device,
    function: Activation,
    gate: View<'_, T>,
    up: View<'_, T>,
    activation: ViewMut<'_, T>,
) -> Result<()> {
    const OP: &str = "gated_mlp";
    check_length(OP, "up", up.len(), gate.len())?;
    check_length(OP, "activation", activation.len(), gate.len())?;
    match device {
        Device::Gpu(gpu) => {
            let (count, [linear, cubic]) = (gate.len() as u64, function.coefficients());
            kernels::gated_mlp(
                gpu.launcher(),
                gate.on(gpu),
                up.on(gpu),
                activation.on(gpu),
                count,
                linear,
                cubic,
            )?;
        }
        Device::Cpu(cpu) => T::forward(cpu, function, gate.host(), up.host(), activation.host()),
    }
    Ok(())
}

/// Turns what the forward had into gradients, in place. Reads 3 and writes 3 elements each.
///
/// | buffer | before | after |
/// |---|---|---|
/// | `gate` | gate | d_gate = d_activation · up · f'(gate) |
/// | `up` | up | d_up = d_activation · f(gate) |
/// | `activation` | d_activation | activation, computed again for the weight gradient of the projection after it |
///
/// # Errors
/// Lengths that differ.
pub fn backward<T: OnCpu>(
    device: &Device,
    function: Activation,
    gate: ViewMut<'_, T>,
    up: ViewMut<'_, T>,
    activation: ViewMut<'_, T>,
) -> Result<()> {
    const OP: &str = "gated_mlp backward";
    check_length(OP, "up", up.len(), gate.len())?;
    check_length(OP, "activation", activation.len(), gate.len())?;
    match device {
        Device::Gpu(gpu) => {
            let (count, [linear, cubic]) = (gate.len() as u64, function.coefficients());
            kernels::gated_mlp_backward(
                gpu.launcher(),
                gate.on(gpu),
                up.on(gpu),
                activation.on(gpu),
                count,
                linear,
                cubic,
            )?;
        }
        Device::Cpu(cpu) => T::backward(cpu, function, gate.host(), up.host(), activation.host()),
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

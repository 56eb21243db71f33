//! Norm of the gradient, for clipping and for noticing that training has broken.
//!
//! Traffic: one read of the gradient, 4 bytes per element (and 1 bit of the mask).

mod cpu;
mod gpu;

use crate::buffer::View;
use crate::device::Device;
use crate::error::{Result, check_length};
use crate::mask::Mask;

/// Σ g², frozen coordinates left out (ALGORITHM stage 4: they take no part in the clipping norm).
///
/// Squares and sums are f64: no gradient of finite f32 overflows. A NaN or an infinity in an
/// unfrozen coordinate makes the result NaN or infinite; frozen coordinates are not looked at.
///
/// # Errors
/// When the mask is not over as many elements as the gradient has.
pub fn squared_norm(device: &Device, gradient: View<'_, f32>, frozen: Option<&Mask>) -> Result<f64> {
    if let Some(mask) = frozen {
        check_length("squared_norm", "frozen", mask.len(), gradient.len())?;
    }
    match device {
        Device::Cpu(cpu) => Ok(cpu.run(|| cpu::squared_norm(gradient.host(), frozen.map(Mask::words)))),
        Device::Gpu(gpu) => gpu::squared_norm(gpu, gradient, frozen),
    }
}

/// The factor that brings a gradient of norm `norm` to at most `maximum`, as PyTorch's
/// `clip_grad_norm_` computes it: min(1, maximum / (norm + 1e-6)).
pub fn clip_factor(norm: f64, maximum: f64) -> f64 {
    (maximum / (norm + 1e-6)).min(1.0)
}

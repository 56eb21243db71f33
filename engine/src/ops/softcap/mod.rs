//! The soft cap of logits that are read out: `cap · tanh(x / cap)`, element by element.
//!
//! No backward: where a loss is computed, [`cross_entropy`](super::cross_entropy) has the cap and its gradient, and
//! [`attention`](super::attention) has that of its scores.

mod cpu;

use cpift_kernels::softcap::softcap_in_place;

use crate::buffer::ViewMut;
use crate::device::Device;
use crate::error::{Result, check};
use crate::ops::work::Work;

/// Bounds `logits` in place. Reads and writes 4 bytes each.
///
/// # Errors
/// A cap that is not above 0 or not finite.
pub fn in_place(device: &Device, cap: f32, logits: ViewMut<'_, f32>) -> Result<()> {
    const OP: &str = "softcap";
    check_cap(OP, Some(cap))?;
    match device {
        Device::Gpu(gpu) => {
            let count = logits.len() as u64;
            softcap_in_place(gpu.launcher(), logits.on(gpu), count, cap)?;
        }
        Device::Cpu(cpu) => cpu::in_place(cpu, cap, logits.host()),
    }
    Ok(())
}

/// Work of [`in_place`] on so many logits.
pub fn work(elements: usize) -> Work {
    Work::new(8 * elements, 14 * elements)
}

/// What a soft cap must be, here and in other operations.
pub(super) fn check_cap(op: &'static str, cap: Option<f32>) -> Result<()> {
    let fits = cap.is_none_or(|cap| cap > 0.0 && cap.is_finite());
    check(op, fits, || format!("a soft cap of {} is not a number above 0", cap.unwrap_or_default()))
}

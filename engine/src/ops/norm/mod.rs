//! Norm of the gradient, for clipping and for noticing that training has broken.
//!
//! Traffic: one read of the gradient, 4 bytes per element or 2 in bf16 (and 1 bit of the mask).

mod cpu;
mod gpu;

use crate::buffer::{Buffer, View};
use crate::device::Device;
use crate::error::{Result, check, check_length};
use crate::mask::Mask;
use crate::ops::gradients::GradientsView;
use crate::ops::work::{Work, mask_bytes};
use crate::ranks::Ranks;

/// Σ g², frozen coordinates left out (docs/algorithm.md, stage 4: they take no part in the clipping norm).
///
/// Squares and sums are f64: no gradient of finite f32 overflows. A NaN or an infinity in an
/// unfrozen coordinate makes the result NaN or infinite; frozen coordinates are not looked at.
///
/// # Errors
/// When the mask is not over as many elements as the gradient has.
pub fn squared_norm<'a>(
    device: &Device,
    gradient: impl Into<GradientsView<'a>>,
    frozen: Option<&Mask>,
) -> Result<f64> {
    let gradient = gradient.into();
    if let Some(mask) = frozen {
        check_length("squared_norm", "frozen", mask.len(), gradient.len())?;
    }
    match device {
        Device::Cpu(cpu) => Ok(cpu.run(|| on_cpu(gradient, frozen))),
        Device::Gpu(gpu) => gpu::squared_norm(gpu, gradient, frozen),
    }
}

fn on_cpu(gradient: GradientsView<'_>, frozen: Option<&Mask>) -> f64 {
    let frozen = frozen.map(Mask::words);
    match gradient {
        GradientsView::F32(values) => cpu::squared_norm(values.host(), frozen),
        GradientsView::Bf16(values) => cpu::squared_norm(values.host(), frozen),
    }
}

const OP: &str = "clip";

/// The norm of a gradient and the factor that clips it, left on the device: a step that uses the factor
/// need not wait for it.
#[derive(Debug)]
pub struct Clip {
    device: Device,
    /// Sums of parts of the gradient, on a GPU.
    partials: Buffer<f64>,
    /// Σ g² `[1]`.
    squared_norm: Buffer<f64>,
    /// The factor `[1]`: NaN where the norm is not finite.
    factor: Buffer<f32>,
}

impl Clip {
    /// For gradients of `length` elements.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn new(device: &Device, length: usize) -> Result<Self> {
        let partials = match device {
            Device::Cpu(_) => 0,
            Device::Gpu(_) => gpu::partial_count(length),
        };
        Ok(Self {
            device: device.clone(),
            partials: Buffer::zeros(device, partials)?,
            squared_norm: Buffer::zeros(device, 1)?,
            factor: Buffer::zeros(device, 1)?,
        })
    }

    /// Finds the norm of `gradient`, as [`squared_norm`] does, and the factor that brings it to at most
    /// `maximum` ([`clip_factor`]); an infinite maximum clips nothing.
    ///
    /// # Errors
    /// Another length than planned, a mask that is not over as many elements, a maximum that is not above 0.
    pub fn measure<'a>(
        &mut self,
        gradient: impl Into<GradientsView<'a>>,
        frozen: Option<&Mask>,
        maximum: f64,
    ) -> Result<()> {
        let gradient = gradient.into();
        if let Device::Gpu(_) = self.device {
            check_length(OP, "gradient", gpu::partial_count(gradient.len()), self.partials.len())?;
        }
        self.measure_over(&Ranks::alone(), gradient, frozen, maximum)
    }

    /// [`Clip::measure`] of a gradient of which each of several ranks has a range, with as much of the mask; ranges
    /// are no longer than planned.
    ///
    /// # Errors
    /// As [`Clip::measure`], or another rank has ended.
    pub fn measure_over<'a>(
        &mut self,
        ranks: &Ranks,
        gradient: impl Into<GradientsView<'a>>,
        frozen: Option<&Mask>,
        maximum: f64,
    ) -> Result<()> {
        let gradient = gradient.into();
        if let Some(mask) = frozen {
            check_length(OP, "frozen", mask.len(), gradient.len())?;
        }
        check(OP, maximum > 0.0, || format!("maximum = {maximum} must be > 0"))?;
        match &self.device {
            Device::Cpu(cpu) => {
                let mut squared = [cpu.run(|| on_cpu(gradient, frozen))];
                ranks.sum(&mut squared)?;
                self.set(squared[0], maximum)
            }
            Device::Gpu(gpu) => {
                let count = gpu::partial_count(gradient.len());
                check(OP, count <= self.partials.len(), || {
                    format!("a range of {} elements is longer than was planned", gradient.len())
                })?;
                let (partials, squared) = (self.partials.slice_mut(0..count), self.squared_norm.view_mut());
                gpu::squared_norm_into(gpu, gradient, frozen, partials, squared)?;
                ranks.sum_view(self.squared_norm.view_mut())?;
                gpu::clip(gpu, self.squared_norm.view(), maximum, self.factor.view_mut())
            }
        }
    }

    fn set(&mut self, squared_norm: f64, maximum: f64) -> Result<()> {
        let is_finite = squared_norm.is_finite();
        let factor = if is_finite { clip_factor(squared_norm.sqrt(), maximum) } else { f64::NAN };
        self.squared_norm.view_mut().fill(squared_norm)?;
        self.factor.view_mut().fill(factor as f32)
    }

    /// The norm last measured. On a GPU this waits for it.
    ///
    /// # Errors
    /// When the device has failed.
    pub fn norm(&self) -> Result<f64> {
        Ok(self.squared_norm.to_vec()?[0].sqrt())
    }

    /// [`Clip::norm`], and what is in a view: on a GPU with one wait for both.
    ///
    /// # Errors
    /// As [`Clip::norm`].
    pub fn norm_with(&self, values: View<'_, f32>) -> Result<(f64, Vec<f32>)> {
        let (squared, values) = self.squared_norm.view().to_vec_with(values)?;
        Ok((squared[0].sqrt(), values))
    }

    /// The factor last measured `[1]`.
    pub fn factor(&self) -> View<'_, f32> {
        self.factor.view()
    }
}

/// The factor that brings a gradient of norm `norm` to at most `maximum`, as PyTorch's
/// `clip_grad_norm_` computes it: min(1, maximum / (norm + 1e-6)).
pub fn clip_factor(norm: f64, maximum: f64) -> f64 {
    (maximum / (norm + 1e-6)).min(1.0)
}

/// Work of [`squared_norm`] of so many elements of so many bytes.
pub fn work(elements: usize, element: usize, masked: bool) -> Work {
    let mask = if masked { mask_bytes(elements) } else { 0 };
    Work::new(element * elements + mask, 2 * elements)
}

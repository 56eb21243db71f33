//! Spherical interpolation of models, in place (docs/algorithm.md, stage 3, step 1).
//!
//! The unit is one tensor. With a and b the two models' values of it (or, in delta space, what they
//! add to the base), over the coordinates that are not skipped, θ the angle between them and w the weight:
//!
//! ```text
//! a ← sin((1−w)·θ)/sin θ · a + sin(w·θ)/sin θ · b
//! ```
//!
//! and linear interpolation, (1−w)·a + w·b, where θ is too small, a norm is zero, or the vectors are
//! opposite. Sums and the combination are f64, rounded once to f32.
//!
//! Traffic: two passes; the first reads both models (and the base), the second reads them again
//! and writes the backbone: 20 bytes per parameter, 28 in delta space.

mod cpu;
mod gpu;
pub mod tile;

use crate::buffer::{View, ViewMut};
use crate::device::Device;
use crate::error::{Error, Result, check, check_length};
use crate::layout::{Layout, SegmentId};
use crate::mask::Mask;
use crate::ops::work::{Work, mask_bytes};

const OP: &str = "slerp";

/// How to interpolate.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// Share of the other model, in [0, 1]: 1/i for the i-th of a running mean.
    pub weight: f64,
    /// Angles below this, in radians, are interpolated linearly; the paper's default is 1e-6.
    pub epsilon: f64,
    /// The base model, to interpolate in delta space; `None` interpolates the weights.
    pub base: Option<View<'a, f32>>,
    /// Coordinates left as they are, that also take no part in angles and norms: the cores.
    pub skip: Option<&'a Mask>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self { weight: 0.5, epsilon: 1e-6, base: None, skip: None }
    }
}

/// Why a tensor was interpolated linearly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// The angle is below epsilon, where both ways give the same.
    SmallAngle,
    /// One of the vectors is zero (or everything is skipped) and has no direction.
    ZeroNorm,
    /// The vectors are opposite, so that no shortest arc is defined.
    Antipodal,
}

/// What happened to one tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SegmentReport {
    /// Which tensor.
    pub segment: SegmentId,
    /// Angle between the two vectors in radians, in [0, π]; 0 when a norm is zero.
    pub angle: f64,
    /// Why interpolation was linear, or `None` when it was spherical.
    pub fallback: Option<Fallback>,
}

/// Replaces `backbone` by its interpolation with `other`, tensor by tensor, and reports on every
/// tensor in the layout's order. All views and the mask are over the layout's elements.
///
/// # Errors
/// Lengths that differ, a weight outside [0, 1], or values that are not finite (naming the tensor);
/// the backbone is then as before.
pub fn slerp(
    device: &Device,
    layout: &Layout,
    backbone: ViewMut<'_, f32>,
    other: View<'_, f32>,
    options: &Options<'_>,
) -> Result<Vec<SegmentReport>> {
    check_length(OP, "backbone", backbone.len(), layout.len())?;
    check_length(OP, "other", other.len(), layout.len())?;
    if let Some(base) = options.base {
        check_length(OP, "base", base.len(), layout.len())?;
    }
    if let Some(skip) = options.skip {
        check_length(OP, "skip", skip.len(), layout.len())?;
    }
    let Options { weight, epsilon, .. } = *options;
    check(OP, (0.0..=1.0).contains(&weight), || format!("weight = {weight} must be in [0, 1]"))?;
    check(OP, epsilon >= 0.0, || format!("epsilon = {epsilon} must be >= 0"))?;
    match device {
        Device::Cpu(cpu) => cpu.run(|| cpu::slerp(layout, backbone.host(), other.host(), options)),
        Device::Gpu(gpu) => gpu::slerp(gpu, layout, backbone, other, options),
    }
}

/// Sums over one tensor, or a part of it, of the two vectors a and b.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sums {
    /// |a|².
    pub backbone: f64,
    /// |b|².
    pub other: f64,
    /// a·b.
    pub product: f64,
    /// |a−b|², summed by itself: small angles cannot be had from the other three.
    pub difference: f64,
}

impl Sums {
    /// Adds the sums of another part.
    pub fn add(&mut self, part: &Self) {
        self.backbone += part.backbone;
        self.other += part.other;
        self.product += part.product;
        self.difference += part.difference;
    }
}

/// Factors of the two vectors in the result.
#[derive(Debug, Clone, Copy, Default)]
pub struct Factors {
    /// Of the backbone, a.
    pub backbone: f64,
    /// Of the other model, b.
    pub other: f64,
}

/// Report and factors of every tensor.
fn plans(layout: &Layout, sums: &[Sums], options: &Options<'_>) -> Result<Vec<(SegmentReport, Factors)>> {
    sums.iter().enumerate().map(|(segment, sums)| plan(layout, segment, sums, options)).collect()
}

/// Angle, fallback and factors of one tensor.
fn plan(
    layout: &Layout,
    segment: usize,
    sums: &Sums,
    options: &Options<'_>,
) -> Result<(SegmentReport, Factors)> {
    for (squared_norm, model) in [(sums.backbone, "backbone"), (sums.other, "other model")] {
        if !squared_norm.is_finite() {
            let reason = format!(
                "`{}` of the {model} has values that are not finite",
                layout.segments()[segment].name
            );
            return Err(Error::Argument { op: OP, reason });
        }
    }
    let (angle, fallback, factors) = tile::plan(sums, options.weight, options.epsilon);
    Ok((SegmentReport { segment: SegmentId(segment), angle, fallback }, factors))
}

/// Work of [`slerp`] on so many parameters, in the space of weights or of differences from a base: two passes.
pub fn work(parameters: usize, delta: bool, skip: bool) -> Work {
    let (bytes, flops) = if delta { (28, 17) } else { (20, 12) };
    let mask = if skip { 2 * mask_bytes(parameters) } else { 0 };
    Work::new(bytes * parameters + mask, flops * parameters)
}

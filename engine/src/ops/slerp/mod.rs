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

use crate::buffer::{View, ViewMut};
use crate::device::Device;
use crate::error::{Error, Result, check, check_length};
use crate::layout::{Layout, SegmentId};
use crate::mask::Mask;
use crate::ops::work::{Work, mask_bytes};

const OP: &str = "slerp";

/// Vectors closer than this to opposite, in radians, are interpolated linearly whatever [`Options::epsilon`] is.
///
/// Both factors are about 1/(π−θ) there and nearly cancel. With sums rounded to 1e-16, θ is known to 1e-16/(π−θ),
/// and the result to 1e-16/(π−θ)³: at this margin 1e-7, f32's own precision, and nothing at all at 1e-6.
const ANTIPODAL_MARGIN: f64 = 1e-3;

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
struct Sums {
    /// |a|².
    backbone: f64,
    /// |b|².
    other: f64,
    /// a·b.
    product: f64,
    /// |a−b|², summed by itself: small angles cannot be had from the other three.
    difference: f64,
}

/// Factors of the two vectors in the result.
#[derive(Debug, Clone, Copy, Default)]
struct Factors {
    backbone: f64,
    other: f64,
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
    let angle = angle(sums);
    let fallback = if sums.backbone == 0.0 || sums.other == 0.0 {
        Some(Fallback::ZeroNorm)
    } else if angle == 0.0 || angle < options.epsilon {
        Some(Fallback::SmallAngle)
    } else if std::f64::consts::PI - angle < options.epsilon.max(ANTIPODAL_MARGIN) {
        Some(Fallback::Antipodal)
    } else {
        None
    };
    let weight = options.weight;
    let factors = match fallback {
        Some(_) => Factors { backbone: 1.0 - weight, other: weight },
        None => Factors {
            backbone: ((1.0 - weight) * angle).sin() / angle.sin(),
            other: (weight * angle).sin() / angle.sin(),
        },
    };
    Ok((SegmentReport { segment: SegmentId(segment), angle, fallback }, factors))
}

/// The angle as 2·atan2(|â−b̂|, |â+b̂|), accurate at both ends where the cosine is flat.
///
/// |â∓b̂|²·|a||b| = 2·(|a||b| ∓ a·b) loses all digits to cancellation as θ² approaches the rounding
/// of the sums. The same quantity is |a−b|² − (|a|−|b|)², exact for equal norms at any angle,
/// worse than the first only when the norms are far apart.
fn angle(sums: &Sums) -> f64 {
    let (backbone_norm, other_norm) = (sums.backbone.sqrt(), sums.other.sqrt());
    let norms = backbone_norm * other_norm;
    if norms == 0.0 {
        return 0.0;
    }
    let norm_gap = (sums.backbone - sums.other) / (backbone_norm + other_norm);
    let apart = if norm_gap * norm_gap < norms {
        sums.difference - norm_gap * norm_gap
    } else {
        2.0 * (norms - sums.product)
    };
    let together = 2.0 * (norms + sums.product);
    2.0 * apart.max(0.0).sqrt().atan2(together.max(0.0).sqrt())
}

/// Work of [`slerp`] on so many parameters, in the space of weights or of differences from a base: two passes.
pub fn work(parameters: usize, delta: bool, skip: bool) -> Work {
    let (bytes, flops) = if delta { (28, 17) } else { (20, 12) };
    let mask = if skip { 2 * mask_bytes(parameters) } else { 0 };
    Work::new(bytes * parameters + mask, flops * parameters)
}

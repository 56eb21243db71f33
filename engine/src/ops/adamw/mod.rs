//! AdamW in one pass over memory: gradient scaling, moments, decoupled decay, update, importance,
//! frozen coordinates, and the rounded weights that products in bf16 read.
//!
//! With g the scaled gradient and t the step, counted from 1 (PyTorch's semantics):
//!
//! ```text
//! m ← β1·m + (1−β1)·g            v ← β2·v + (1−β2)·g²
//! p ← p·(1 − lr·decay) − lr/(1−β1ᵗ) · m / (√v/√(1−β2ᵗ) + ε)
//! ```
//!
//! Importance (docs/algorithm.md, stage 1) is accumulated from the update as rounded to f32: `net` sums
//! p_new − p_old, `path` its absolute value, `fisher` g².
//!
//! Weights are f32, or [split](crate::ops::split) into two planes, of which one is what products in bf16 read: the same bits
//! in the same 4 bytes. It is rounded by [dither](cpift_kernels::dither), so that its mean follows the weights': rounded to
//! nearest, a weight would not move until its updates have added up to half a unit of bf16.
//!
//! Gradients, moments and importance are stored in f32, or in bf16: all but gradients by
//! [stochastic rounding](cpift_kernels::stochastic), whose random bits are a function of index and step. The update goes by
//! the moments before they are rounded.
//!
//! Traffic per parameter: 28 bytes (reads p, g, m, v; writes p, m, v), 18 with g, m, v in bf16, 8 or 4 more with
//! importance, and one bit of the mask. Reading and writing the same lines leaves nothing for non-temporal stores to save.

mod cpu;
mod gpu;
mod optimizer;

pub use optimizer::{AdamW, Moments, MomentsView, StateMut, StateView};

use bytemuck::Pod;
use cpift_kernels::adamw::Coefficients;
use cpift_kernels::stochastic::seed_of_step;
use half::bf16;

use crate::buffer::{Placement, ViewMut};
use crate::device::Device;
use crate::error::{Error, Result, check, check_length};
use crate::mask::Mask;
use crate::ops::gradients::GradientsView;
use crate::ops::norm::Clip;
use crate::ops::split::Planes;
use crate::ops::work::{Work, mask_bytes};

const OP: &str = "adamw";

/// What of the way a parameter moves is accumulated (docs/algorithm.md, stage 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ImportanceKind {
    /// Nothing.
    #[default]
    None,
    /// Displacement: Σ Δp, whose absolute value is |θ_end − θ_start| (the paper's importance).
    Net,
    /// Length of the way: Σ |Δp|.
    Path,
    /// Empirical Fisher information: Σ g².
    Fisher,
}

/// The accumulator of one step's importance, one number per parameter.
pub type Importance<'a, S = f32> = cpift_kernels::adamw::Importance<ViewMut<'a, S>>;

/// Number type that moments are stored in, and with them gradients and importance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MomentType {
    /// As they are computed.
    #[default]
    F32,
    /// Half the memory, by [stochastic rounding](cpift_kernels::stochastic).
    Bf16,
}

impl MomentType {
    /// Bytes of one moment.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => size_of::<f32>(),
            Self::Bf16 => size_of::<bf16>(),
        }
    }
}

/// How an optimizer's state and its gradients are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StateStorage {
    /// In which number type.
    pub moments: MomentType,
    /// In which memory.
    pub placement: Placement,
}

impl From<MomentType> for StateStorage {
    /// In the device's own memory.
    fn from(moments: MomentType) -> Self {
        Self { moments, placement: Placement::Device }
    }
}

/// Weights, as they are stored.
#[derive(Debug)]
pub enum Weights<'a> {
    /// In f32.
    F32(ViewMut<'a, f32>),
    /// In two planes, by the indices they were [split](crate::ops::split) by.
    Split(Planes<'a>),
}

impl Weights<'_> {
    /// Number of weights.
    fn len(&self) -> usize {
        match self {
            Self::F32(weights) => weights.len(),
            Self::Split(planes) => planes.rounded.len(),
        }
    }
}

impl<'a> From<ViewMut<'a, f32>> for Weights<'a> {
    fn from(weights: ViewMut<'a, f32>) -> Self {
        Self::F32(weights)
    }
}

impl<'a> From<Planes<'a>> for Weights<'a> {
    fn from(planes: Planes<'a>) -> Self {
        Self::Split(planes)
    }
}

/// First and second moments and importance, in the type they are stored in.
#[derive(Debug)]
pub enum State<'a> {
    /// As they are computed.
    F32(ViewMut<'a, f32>, ViewMut<'a, f32>, Importance<'a, f32>),
    /// By [stochastic rounding](cpift_kernels::stochastic).
    Bf16(ViewMut<'a, bf16>, ViewMut<'a, bf16>, Importance<'a, bf16>),
}

impl State<'_> {
    /// Of the moments, and of importance where there is any.
    fn lengths(&self) -> (usize, usize, Option<usize>) {
        match self {
            Self::F32(first, second, importance) => (first.len(), second.len(), sums_of(importance)),
            Self::Bf16(first, second, importance) => (first.len(), second.len(), sums_of(importance)),
        }
    }
}

/// Numbers of an accumulator.
fn sums_of<S: Pod>(importance: &Importance<'_, S>) -> Option<usize> {
    match importance {
        Importance::None => None,
        Importance::Net(sums) | Importance::Path(sums) | Importance::Fisher(sums) => Some(sums.len()),
    }
}

/// Hyper-parameters of a step; the defaults are PyTorch's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hyper {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay of the first moment, in [0, 1).
    pub beta1: f64,
    /// Decay of the second moment, in [0, 1).
    pub beta2: f64,
    /// Added to the root of the second moment, outside the root; above 0.
    pub epsilon: f64,
    /// Decoupled weight decay: the weight shrinks by learning_rate · weight_decay.
    pub weight_decay: f64,
}

impl Default for Hyper {
    fn default() -> Self {
        Self { learning_rate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 1e-2 }
    }
}

/// What a step writes: a whole model or a range of it, all of one length.
#[derive(Debug)]
pub struct Parameters<'a> {
    /// Index of the first parameter in the whole, by which split weights and state in bf16 are rounded.
    pub first: usize,
    /// The weights.
    pub weights: Weights<'a>,
    /// Moments, and the accumulator of importance.
    pub state: State<'a>,
}

/// What a step reads.
#[derive(Debug, Clone, Copy)]
pub struct Gradient<'a> {
    /// The accumulated gradient, stored as the moments are.
    pub values: GradientsView<'a>,
    /// Factor applied to it, for unscaling or clipping ([`crate::ops::norm::clip_factor`]).
    pub scale: f64,
    /// Another factor, measured on the device. Where it is not finite the step changes nothing: who reads
    /// the norm later sees why.
    pub clip: Option<&'a Clip>,
    /// Coordinates whose weight, moments and importance keep their bits (docs/algorithm.md, stage 4); of a NaN, only
    /// that it is one where weights are split.
    pub frozen: Option<&'a Mask>,
}

/// One AdamW step, number `step` counted from 1. See the [module](self) for the formulas.
///
/// # Errors
/// Lengths that differ, or hyper-parameters outside their range.
pub fn step(
    device: &Device,
    parameters: Parameters<'_>,
    gradient: Gradient<'_>,
    hyper: &Hyper,
    step: u64,
) -> Result<()> {
    let length = parameters.weights.len();
    check_length(OP, "gradient", gradient.values.len(), length)?;
    let (first_moments, second_moments, sums) = parameters.state.lengths();
    check_length(OP, "first moments", first_moments, length)?;
    check_length(OP, "second moments", second_moments, length)?;
    check_length(OP, "importance", sums.unwrap_or(length), length)?;
    if let Weights::Split(planes) = &parameters.weights {
        check_length(OP, "lower halves", planes.lower.len(), length)?;
    }
    if let Some(mask) = gradient.frozen {
        check_length(OP, "frozen", mask.len(), length)?;
    }
    let mut coefficients = coefficients(hyper, step, gradient.scale)?;
    match device {
        Device::Cpu(cpu) => {
            if let Some(clip) = gradient.clip {
                coefficients.gradient_scale *= clip.factor().host()[0];
            }
            if coefficients.gradient_scale.is_finite() {
                cpu.run(|| cpu::step(parameters, gradient, &coefficients))?;
            }
        }
        Device::Gpu(gpu) => {
            coefficients.first = parameters.first as u32;
            gpu::step(gpu, parameters, gradient, &coefficients)?;
        }
    }
    Ok(())
}

/// Gradients and moments in different types.
fn stored_differently() -> Error {
    Error::Argument { op: OP, reason: "gradients must be stored in the moments' type".to_owned() }
}

/// Factors of one step that are the same for every parameter: computed in f64, rounded once.
fn coefficients(hyper: &Hyper, step: u64, gradient_scale: f64) -> Result<Coefficients> {
    let Hyper { learning_rate, beta1, beta2, epsilon, weight_decay } = *hyper;
    let not_negative = |value: f64| value.is_finite() && value >= 0.0;
    check(OP, step >= 1, || "steps are counted from 1, got 0".to_owned())?;
    check(OP, not_negative(learning_rate), || format!("learning_rate = {learning_rate} must be >= 0"))?;
    check(OP, (0.0..1.0).contains(&beta1), || format!("beta1 = {beta1} must be in [0, 1)"))?;
    check(OP, (0.0..1.0).contains(&beta2), || format!("beta2 = {beta2} must be in [0, 1)"))?;
    check(OP, epsilon.is_finite() && epsilon as f32 > 0.0, || format!("epsilon = {epsilon} must be > 0"))?;
    check(OP, not_negative(weight_decay), || format!("weight_decay = {weight_decay} must be >= 0"))?;
    check(OP, gradient_scale.is_finite(), || format!("gradient scale = {gradient_scale} must be finite"))?;
    let rounding_seed = seed_of_step(step);
    let step = step as f64;
    Ok(Coefficients {
        gradient_scale: gradient_scale as f32,
        weight_factor: (1.0 - learning_rate * weight_decay) as f32,
        beta1: beta1 as f32,
        gradient_weight: (1.0 - beta1) as f32,
        beta2: beta2 as f32,
        square_weight: (1.0 - beta2) as f32,
        root_correction: (1.0 - beta2.powf(step)).sqrt() as f32,
        epsilon: epsilon as f32,
        step_size: (learning_rate / (1.0 - beta1.powf(step))) as f32,
        rounding_seed,
        first: 0,
    })
}

/// Work of a [`step`] on so many parameters.
pub fn work(parameters: usize, importance: ImportanceKind, moments: MomentType, frozen: bool) -> Work {
    let (sums, flops) = match importance {
        ImportanceKind::None => (0, 16),
        ImportanceKind::Net | ImportanceKind::Path => (1, 18),
        ImportanceKind::Fisher => (1, 17),
    };
    // Gradients are read; weights, both moments and importance are read and written.
    let bytes = 2 * size_of::<f32>() + (5 + 2 * sums) * moments.bytes();
    let mask = if frozen { mask_bytes(parameters) } else { 0 };
    Work::new(bytes * parameters + mask, flops * parameters)
}

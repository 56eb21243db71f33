//! AdamW over all parameters in one pass: gradient scaling, moments, decoupled decay, update, importance,
//! frozen coordinates and the bf16 copy of the weights.
//!
//! With g the scaled gradient and t the step, counted from 1:
//!
//! ```text
//! g = gradient·(scale[0]·factor)
//! m ← β1·m + (1−β1)·g            v ← β2·v + (1−β2)·g²
//! p ← p·(1 − lr·decay) − lr/(1−β1ᵗ) · m / (√v/√(1−β2ᵗ) + ε)
//! ```
//!
//! Importance adds, from the update as rounded to f32, p_new − p_old (`net`), |p_new − p_old| (`path`) or g²
//! (`fisher`). All operations round to nearest and stand in the order of the engine's CPU version: the
//! results are the same bits. The copy is rounded by [`dither`](crate::dither).
//!
//! Coordinates whose bit in `frozen` is set (element j is bit j % 32 of word j / 32) keep weight, moments and
//! importance bit for bit. If the product of `scale[0]` and `factor` is not finite, nothing is written at all: the
//! scale may come from a norm that is still on the device, and the host learns only later that training has broken.
//!
//! One kernel for each combination: none or one of the importances, `_frozen`, and `_bf16` with the copy of
//! the weights. Each thread has four consecutive elements, by 16-byte accesses (8 for the copy); those
//! behind the last multiple of four go one by one. No barriers; elements are independent.
//!
//! Traffic: 28 bytes per parameter, 36 with importance, 1 bit more with `frozen`, 2 bytes more with the copy.
//! About 20 operations, of which two divisions and a root are several instructions; about 10 of integers
//! for the copy.

use crate::dither::dither_to_bf16;
#[cfg(not(target_arch = "nvptx64"))]
use crate::launch::{Launch, LaunchError, Slice, SliceMut};
use crate::simt::*;

/// Threads of a block.
const BLOCK: u32 = 256;
/// Elements of a block: four per thread.
const CHUNK: u64 = 4 * BLOCK as u64;

/// What is added to the importance, as a constant parameter, so that each is compiled on its own.
const NONE: u8 = 0;
const NET: u8 = 1;
const PATH: u8 = 2;
const FISHER: u8 = 3;

/// What the kernel reads and writes of every element.
#[derive(Clone, Copy)]
struct Buffers {
    gradient: Global<f32>,
    weights: GlobalMut<f32>,
    moment1: GlobalMut<f32>,
    moment2: GlobalMut<f32>,
    importance: Option<GlobalMut<f32>>,
    frozen: Option<Global<u32>>,
    copy: Option<GlobalMut<Bf16>>,
}

/// Factors that are the same for every element.
#[derive(Debug, Clone, Copy)]
pub struct Coefficients {
    /// Of the gradient; for a launcher, beside `scale`.
    pub gradient_scale: f32,
    /// 1 − lr·decay.
    pub weight_factor: f32,
    /// β1.
    pub beta1: f32,
    /// 1 − β1.
    pub gradient_weight: f32,
    /// β2.
    pub beta2: f32,
    /// 1 − β2.
    pub square_weight: f32,
    /// √(1 − β2ᵗ).
    pub root_correction: f32,
    /// ε.
    pub epsilon: f32,
    /// lr/(1 − β1ᵗ).
    pub step_size: f32,
}

/// One element.
#[derive(Clone, Copy)]
struct Parameter {
    weight: f32,
    moment1: f32,
    moment2: f32,
    importance: f32,
}

impl Parameter {
    /// The step, or the same again if the lowest bit of `frozen` is set.
    #[inline(always)]
    fn step<const IMPORTANCE: u8>(self, gradient: f32, frozen: u32, coefficients: Coefficients) -> Self {
        let gradient = gradient * coefficients.gradient_scale;
        let moment1 = fma(coefficients.gradient_weight, gradient, coefficients.beta1 * self.moment1);
        let square = gradient * gradient;
        let moment2 = fma(coefficients.square_weight, square, coefficients.beta2 * self.moment2);
        let denominator = divide(sqrt(moment2), coefficients.root_correction) + coefficients.epsilon;
        let decayed = self.weight * coefficients.weight_factor;
        let weight = decayed - divide(coefficients.step_size * moment1, denominator);
        let importance = self.importance
            + match IMPORTANCE {
                NET => weight - self.weight,
                PATH => abs(weight - self.weight),
                FISHER => square,
                _ => 0.0,
            };
        // Not a branch, into which the compiler would move the arithmetic and the gradient's load.
        let frozen = lane_mask(frozen, 0);
        Self {
            weight: blend(frozen, self.weight, weight),
            moment1: blend(frozen, self.moment1, moment1),
            moment2: blend(frozen, self.moment2, moment2),
            importance: blend(frozen, self.importance, importance),
        }
    }
}

#[inline(always)]
fn step<const IMPORTANCE: u8>(buffers: Buffers, count: usize, coefficients: Coefficients) {
    let first = 4 * global_thread_idx();
    if first + 4 <= count {
        step_four::<IMPORTANCE>(buffers, first, coefficients);
    } else {
        for index in first..count {
            step_one::<IMPORTANCE>(buffers, index, coefficients);
        }
    }
}

#[inline(always)]
fn step_four<const IMPORTANCE: u8>(buffers: Buffers, first: usize, coefficients: Coefficients) {
    let gradient = buffers.gradient.load_vector::<F32x4>(first);
    let mut weights = buffers.weights.load_vector::<F32x4>(first);
    let mut moments1 = buffers.moment1.load_vector::<F32x4>(first);
    let mut moments2 = buffers.moment2.load_vector::<F32x4>(first);
    let mut sums = F32x4([0.0; 4]);
    if let Some(importance) = buffers.importance {
        sums = importance.load_vector::<F32x4>(first);
    }
    let mut frozen = 0;
    if let Some(words) = buffers.frozen {
        frozen = words.load(first / 32) >> (first % 32);
    }
    for lane in 0..4 {
        let before = Parameter {
            weight: weights.0[lane],
            moment1: moments1.0[lane],
            moment2: moments2.0[lane],
            importance: sums.0[lane],
        };
        let after = before.step::<IMPORTANCE>(gradient.0[lane], frozen >> lane, coefficients);
        weights.0[lane] = after.weight;
        moments1.0[lane] = after.moment1;
        moments2.0[lane] = after.moment2;
        sums.0[lane] = after.importance;
    }
    // Not before the loads, which would then have to wait for the scale's.
    if !coefficients.gradient_scale.is_finite() {
        return;
    }
    buffers.weights.store_vector(first, weights);
    buffers.moment1.store_vector(first, moments1);
    buffers.moment2.store_vector(first, moments2);
    if let Some(importance) = buffers.importance {
        importance.store_vector(first, sums);
    }
    if let Some(target) = buffers.copy {
        let rounded = |lane| dither_to_bf16(weights.0[lane], first + lane);
        target.store_vector(first, Bf16x4(core::array::from_fn(rounded)));
    }
}

#[inline(always)]
fn step_one<const IMPORTANCE: u8>(buffers: Buffers, index: usize, coefficients: Coefficients) {
    let mut before = Parameter {
        weight: buffers.weights.load(index),
        moment1: buffers.moment1.load(index),
        moment2: buffers.moment2.load(index),
        importance: 0.0,
    };
    if let Some(importance) = buffers.importance {
        before.importance = importance.load(index);
    }
    let mut frozen = 0;
    if let Some(words) = buffers.frozen {
        frozen = words.load(index / 32) >> (index % 32);
    }
    let after = before.step::<IMPORTANCE>(buffers.gradient.load(index), frozen, coefficients);
    if !coefficients.gradient_scale.is_finite() {
        return;
    }
    buffers.weights.store(index, after.weight);
    buffers.moment1.store(index, after.moment1);
    buffers.moment2.store(index, after.moment2);
    if let Some(importance) = buffers.importance {
        importance.store(index, after.importance);
    }
    if let Some(target) = buffers.copy {
        target.store(index, dither_to_bf16(after.weight, index));
    }
}

/// The kernel of one combination; the names in brackets are its buffers beside those that all have.
macro_rules! adamw_kernel {
    ($name:ident = $kind:ident [$($importance:ident)?] [$($frozen:ident)?] [$($copy:ident)?]) => {
        kernel! {
            /// Formulas, rounding, traffic: [`self`](crate::adamw).
            pub fn $name { block: BLOCK, grid: count.div_ceil(CHUNK), shared: 0 } (
                gradient: read f32 [count] align 16,
                weights: update f32 [count] align 16,
                moment1: update f32 [count] align 16,
                moment2: update f32 [count] align 16,
                $($importance: update f32 [count] align 16,)?
                $($frozen: read u32 [count.div_ceil(32)],)?
                $($copy: write Bf16 [count] align 16,)?
                scale: read f32 [1],
                count: scalar u64,
                factor: scalar f32,
                weight_factor: scalar f32,
                beta1: scalar f32,
                gradient_weight: scalar f32,
                beta2: scalar f32,
                square_weight: scalar f32,
                root_correction: scalar f32,
                epsilon: scalar f32,
                step_size: scalar f32,
            ) {
                let buffers = Buffers {
                    gradient,
                    weights,
                    moment1,
                    moment2,
                    importance: option!($($importance)?),
                    frozen: option!($($frozen)?),
                    copy: option!($($copy)?),
                };
                let coefficients = Coefficients {
                    gradient_scale: scale.load(0) * factor,
                    weight_factor,
                    beta1,
                    gradient_weight,
                    beta2,
                    square_weight,
                    root_correction,
                    epsilon,
                    step_size,
                };
                step::<$kind>(buffers, count as usize, coefficients);
            }
        }
    };
}

/// Where importance is accumulated, if it is: one f32 per parameter.
#[cfg(not(target_arch = "nvptx64"))]
#[derive(Debug)]
pub enum Importance<S> {
    /// Nowhere.
    None,
    /// Adds p_new − p_old.
    Net(S),
    /// Adds |p_new − p_old|.
    Path(S),
    /// Adds the square of the scaled gradient.
    Fisher(S),
}

#[cfg(not(target_arch = "nvptx64"))]
impl<S> Importance<S> {
    /// The same in `into` of where it is.
    pub fn map<T>(self, into: impl FnOnce(S) -> T) -> Importance<T> {
        match self {
            Self::None => Importance::None,
            Self::Net(sums) => Importance::Net(into(sums)),
            Self::Path(sums) => Importance::Path(into(sums)),
            Self::Fisher(sums) => Importance::Fisher(into(sums)),
        }
    }
}

/// What a step of [`adamw_step`] reads and writes.
#[cfg(not(target_arch = "nvptx64"))]
#[derive(Debug)]
pub struct Step<'a> {
    /// As it was accumulated.
    pub gradient: Slice<'a, f32>,
    /// The weights.
    pub weights: SliceMut<'a, f32>,
    /// First moments.
    pub moment1: SliceMut<'a, f32>,
    /// Second moments.
    pub moment2: SliceMut<'a, f32>,
    /// Importance.
    pub importance: Importance<SliceMut<'a, f32>>,
    /// Coordinates that keep their bits.
    pub frozen: Option<Slice<'a, u32>>,
    /// Receives the new weights in bf16, rounded by [`dither`](crate::dither).
    pub copy: Option<SliceMut<'a, Bf16>>,
    /// A factor of the gradient, `[1]`.
    pub scale: Slice<'a, f32>,
}

/// Launches the kernel of a step; `buffer` are those beside the ones that all have.
#[cfg(not(target_arch = "nvptx64"))]
macro_rules! launch {
    ($kernel:ident, $launcher:ident, $step:ident, $coefficients:ident, [$($buffer:ident)*]) => {{
        let count = $step.weights.len() as u64;
        $kernel(
            $launcher,
            $step.gradient,
            $step.weights,
            $step.moment1,
            $step.moment2,
            $($buffer,)*
            $step.scale,
            count,
            $coefficients.gradient_scale,
            $coefficients.weight_factor,
            $coefficients.beta1,
            $coefficients.gradient_weight,
            $coefficients.beta2,
            $coefficients.square_weight,
            $coefficients.root_correction,
            $coefficients.epsilon,
            $coefficients.step_size,
        )
    }};
}

/// All kernels, and the launcher that chooses among them. By importance: the kernel alone, with frozen coordinates,
/// with the copy, with both.
macro_rules! adamw {
    ($(
        $variant:ident $(($importance:ident))? = $kind:ident:
        $alone:ident, $with_frozen:ident, $with_copy:ident, $with_both:ident;
    )*) => {
        $(
            adamw_kernel! { $alone = $kind [$($importance)?] [] [] }
            adamw_kernel! { $with_frozen = $kind [$($importance)?] [frozen] [] }
            adamw_kernel! { $with_copy = $kind [$($importance)?] [] [copy] }
            adamw_kernel! { $with_both = $kind [$($importance)?] [frozen] [copy] }
        )*

        /// One step, by the kernel for its importance, frozen coordinates and copy.
        ///
        /// # Errors
        /// A buffer too short or misaligned, or what the launcher reports.
        #[cfg(not(target_arch = "nvptx64"))]
        pub fn adamw_step(
            launcher: &dyn Launch,
            step: Step<'_>,
            coefficients: &Coefficients,
        ) -> Result<(), LaunchError> {
            match (step.importance, step.frozen, step.copy) {
                $(
                    (Importance::$variant $(($importance))?, None, None) => {
                        launch!($alone, launcher, step, coefficients, [$($importance)?])
                    }
                    (Importance::$variant $(($importance))?, Some(frozen), None) => {
                        launch!($with_frozen, launcher, step, coefficients, [$($importance)? frozen])
                    }
                    (Importance::$variant $(($importance))?, None, Some(copy)) => {
                        launch!($with_copy, launcher, step, coefficients, [$($importance)? copy])
                    }
                    (Importance::$variant $(($importance))?, Some(frozen), Some(copy)) => {
                        launch!($with_both, launcher, step, coefficients, [$($importance)? frozen copy])
                    }
                )*
            }
        }
    };
}

adamw! {
    None = NONE: adamw, adamw_frozen, adamw_bf16, adamw_frozen_bf16;
    Net(importance) = NET: adamw_net, adamw_net_frozen, adamw_net_bf16, adamw_net_frozen_bf16;
    Path(importance) = PATH: adamw_path, adamw_path_frozen, adamw_path_bf16, adamw_path_frozen_bf16;
    Fisher(importance) = FISHER: adamw_fisher, adamw_fisher_frozen, adamw_fisher_bf16, adamw_fisher_frozen_bf16;
}

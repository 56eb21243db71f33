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
//! results are the same bits.
//!
//! Coordinates whose bit in `frozen` is set (element j is bit j % 32 of word j / 32) keep weight, moments and importance bit for bit. If the
//! product of `scale[0]` and `factor` is not finite, nothing is written at all: the scale may come from a
//! norm that is still on the device, and the host learns only later that training has broken.
//!
//! One kernel for each combination: none or one of the importances, `_frozen`, and `_bf16` with the copy of
//! the weights. Each thread has four consecutive elements, by 16-byte accesses (8 for the copy); those
//! behind the last multiple of four go one by one. No barriers; elements are independent.
//!
//! Traffic: 28 bytes per parameter, 36 with importance, 1 bit more with `frozen`, 2 bytes more with the copy.
//! About 20 operations, of which two divisions and a root are several instructions.

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
#[derive(Clone, Copy)]
struct Coefficients {
    gradient_scale: f32,
    weight_factor: f32,
    beta1: f32,
    gradient_weight: f32,
    beta2: f32,
    square_weight: f32,
    root_correction: f32,
    epsilon: f32,
    step_size: f32,
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
        target.store_vector(first, Bf16x4(weights.0.map(Bf16::from_f32)));
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
        target.store(index, Bf16::from_f32(after.weight));
    }
}

/// `None`, or the handle.
macro_rules! option {
    () => {
        None
    };
    ($handle:ident) => {
        Some($handle)
    };
}

/// The kernel of one combination; the names in brackets are its buffers beside those that all have.
macro_rules! adamw {
    (
        $(#[$meta:meta])* $name:ident = $kind:ident
        [$($importance:ident)?] [$($frozen:ident)?] [$($copy:ident)?]
    ) => {
        kernel! {
            $(#[$meta])*
            ///
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

adamw! { /** Plain AdamW. */ adamw = NONE [] [] [] }
adamw! { /** With frozen coordinates. */ adamw_frozen = NONE [] [frozen] [] }
adamw! { /** With the bf16 copy. */ adamw_bf16 = NONE [] [] [copy] }
adamw! { /** With frozen coordinates and the bf16 copy. */ adamw_frozen_bf16 = NONE [] [frozen] [copy] }
adamw! { /** With `net` importance. */ adamw_net = NET [importance] [] [] }
adamw! { /** With `net` importance and frozen coordinates. */ adamw_net_frozen = NET [importance] [frozen] [] }
adamw! { /** With `net` importance and the bf16 copy. */ adamw_net_bf16 = NET [importance] [] [copy] }
adamw! { /** With all, `net` importance. */ adamw_net_frozen_bf16 = NET [importance] [frozen] [copy] }
adamw! { /** With `path` importance. */ adamw_path = PATH [importance] [] [] }
adamw! { /** With `path` importance and frozen coordinates. */ adamw_path_frozen = PATH [importance] [frozen] [] }
adamw! { /** With `path` importance and the bf16 copy. */ adamw_path_bf16 = PATH [importance] [] [copy] }
adamw! { /** With all, `path` importance. */ adamw_path_frozen_bf16 = PATH [importance] [frozen] [copy] }
adamw! { /** With `fisher` importance. */ adamw_fisher = FISHER [importance] [] [] }
adamw! { /** With `fisher` importance and frozen coordinates. */ adamw_fisher_frozen = FISHER [importance] [frozen] [] }
adamw! { /** With `fisher` importance and the bf16 copy. */ adamw_fisher_bf16 = FISHER [importance] [] [copy] }
adamw! { /** With all, `fisher` importance. */ adamw_fisher_frozen_bf16 = FISHER [importance] [frozen] [copy] }

//! AdamW over all parameters in one pass: gradient scaling, moments, decoupled decay, update, importance,
//! frozen coordinates, and the rounded weights that products read.
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
//! Weights are stored in f32, or split into two planes: rounded to bf16 by [`dither`](crate::dither), as products read
//! them, and the lower halves of their bits. Both together are the weights in f32, bit for bit.
//!
//! Coordinates whose bit in `frozen` is set (element j is bit j % 32 of word j / 32) keep weight, moments and
//! importance bit for bit. If the product of `scale[0]` and `factor` is not finite, nothing is written at all: the
//! scale may come from a norm that is still on the device, and the host learns only later that training has broken.
//!
//! Gradients, moments and importance are stored in f32, or in bf16: all but gradients by
//! [stochastic rounding](crate::stochastic), the update going by what they are before they are rounded.
//!
//! Both roundings go by an element's index in the whole, of which the elements may be a range that begins at `first`.
//!
//! One kernel for each combination: none or one of the importances, `_frozen`, `_split` weights, and `_state_bf16`. Each
//! thread has four consecutive elements, by 16-byte accesses (8 for 16-bit types); those behind the last multiple of four go
//! one by one. No barriers; elements are independent.
//!
//! Traffic: 28 bytes per parameter, 18 with state in bf16; 8 or 4 more with importance, 1 bit more with `frozen`, the same with
//! split weights. About 20 operations, of which two divisions and a root are several instructions; about 26 of integers
//! for split weights, and 23 for moments in bf16.

#[cfg(not(target_arch = "nvptx64"))]
use crate::launch::{Launch, LaunchError, Slice, SliceMut};
use crate::simt::*;
use crate::stochastic::{random_bits, third_bits};

mod storage;

use storage::{Planes, State, Weights};

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
struct Buffers<W: Weights, S: State> {
    gradient: Global<S>,
    weights: W,
    moment1: GlobalMut<S>,
    moment2: GlobalMut<S>,
    importance: Option<GlobalMut<S>>,
    frozen: Option<Global<u32>>,
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
    /// By which state in bf16 is rounded ([`stochastic::seed_of_step`](crate::stochastic::seed_of_step)).
    pub rounding_seed: u32,
    /// Index of the first element in the whole, by which is rounded; indices beyond 32 bits begin again.
    pub first: u32,
}

impl Coefficients {
    /// The random bits of an element of the buffers.
    #[inline(always)]
    fn random_bits(&self, index: usize) -> u32 {
        random_bits(in_whole(self.first, index), self.rounding_seed)
    }
}

/// The index in the whole of an element of buffers that begin at `first`.
#[inline(always)]
fn in_whole(first: u32, index: usize) -> usize {
    first.wrapping_add(index as u32) as usize
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
fn step<const IMPORTANCE: u8, W: Weights, S: State>(
    buffers: Buffers<W, S>,
    count: usize,
    coefficients: Coefficients,
) {
    let first = 4 * global_thread_idx();
    if first + 4 <= count {
        step_four::<IMPORTANCE, W, S>(buffers, first, coefficients);
    } else {
        for index in first..count {
            step_one::<IMPORTANCE, W, S>(buffers, index, coefficients);
        }
    }
}

#[inline(always)]
fn step_four<const IMPORTANCE: u8, W: Weights, S: State>(
    buffers: Buffers<W, S>,
    first: usize,
    coefficients: Coefficients,
) {
    let gradient = S::load(buffers.gradient, first);
    let mut weights = buffers.weights.load_four(first);
    let mut moments1 = S::load(buffers.moment1.as_read(), first);
    let mut moments2 = S::load(buffers.moment2.as_read(), first);
    let mut sums = [0.0; 4];
    if let Some(importance) = buffers.importance {
        sums = S::load(importance.as_read(), first);
    }
    let mut frozen = 0;
    if let Some(words) = buffers.frozen {
        frozen = words.load(first / 32) >> (first % 32);
    }
    for lane in 0..4 {
        let before = Parameter {
            weight: weights[lane],
            moment1: moments1[lane],
            moment2: moments2[lane],
            importance: sums[lane],
        };
        let after = before.step::<IMPORTANCE>(gradient[lane], frozen >> lane, coefficients);
        weights[lane] = after.weight;
        moments1[lane] = after.moment1;
        moments2[lane] = after.moment2;
        sums[lane] = after.importance;
    }
    // Not before the loads, which would then have to wait for the scale's.
    if !coefficients.gradient_scale.is_finite() {
        return;
    }
    buffers.weights.store_four(first, weights);
    let bits: [u32; 4] = core::array::from_fn(|lane| coefficients.random_bits(first + lane));
    S::store_four(buffers.moment1, first, moments1, bits);
    S::store_four(buffers.moment2, first, moments2, bits.map(|bits| bits >> 16));
    if let Some(importance) = buffers.importance {
        S::store_four(importance, first, sums, bits.map(third_bits));
    }
}

#[inline(always)]
fn step_one<const IMPORTANCE: u8, W: Weights, S: State>(
    buffers: Buffers<W, S>,
    index: usize,
    coefficients: Coefficients,
) {
    let mut before = Parameter {
        weight: buffers.weights.load(index),
        moment1: buffers.moment1.load(index).to_f32(),
        moment2: buffers.moment2.load(index).to_f32(),
        importance: 0.0,
    };
    if let Some(importance) = buffers.importance {
        before.importance = importance.load(index).to_f32();
    }
    let mut frozen = 0;
    if let Some(words) = buffers.frozen {
        frozen = words.load(index / 32) >> (index % 32);
    }
    let after = before.step::<IMPORTANCE>(buffers.gradient.load(index).to_f32(), frozen, coefficients);
    if !coefficients.gradient_scale.is_finite() {
        return;
    }
    buffers.weights.store(index, after.weight);
    let bits = coefficients.random_bits(index);
    S::store_one(buffers.moment1, index, after.moment1, bits);
    S::store_one(buffers.moment2, index, after.moment2, bits >> 16);
    if let Some(importance) = buffers.importance {
        S::store_one(importance, index, after.importance, third_bits(bits));
    }
}

/// The kernel of one combination; behind the type of gradients, moments and importance stands their alignment, and the names in
/// brackets are its buffers beside those that all have.
macro_rules! adamw_kernel {
    (
        $name:ident = $kind:ident, $state:ident by $align:literal:
        [$($weights:ident)?] [$($rounded:ident $lower:ident)?]
        [$($importance:ident)?] [$($frozen:ident)?] [$($seed:ident)?] [$($first:ident)?]
    ) => {
        kernel! {
            /// Formulas, rounding, traffic: [`self`](crate::adamw).
            pub fn $name { block: BLOCK, grid: count.div_ceil(CHUNK), shared: 0 } (
                gradient: read $state [count] align $align,
                $($weights: update f32 [count] align 16,)?
                $($rounded: update Bf16 [count] align 8, $lower: update u16 [count] align 8,)?
                moment1: update $state [count] align $align,
                moment2: update $state [count] align $align,
                $($importance: update $state [count] align $align,)?
                $($frozen: read u32 [count.div_ceil(32)],)?
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
                $($seed: scalar u32,)?
                $($first: scalar u32,)?
            ) {
                // Not looked at where nothing is rounded.
                let first = 0 $(+ $first)?;
                let buffers = Buffers {
                    gradient,
                    weights: $($weights)? $(Planes { $rounded, $lower, first })?,
                    moment1,
                    moment2,
                    importance: option!($($importance)?),
                    frozen: option!($($frozen)?),
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
                    // Not looked at where state is f32.
                    rounding_seed: 0 $(+ $seed)?,
                    first,
                };
                step::<$kind, _, $state>(buffers, count as usize, coefficients);
            }
        }
    };
}

/// Where importance is accumulated, if it is: one number per parameter.
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

/// Weights, as they are stored.
#[cfg(not(target_arch = "nvptx64"))]
#[derive(Debug)]
pub enum StoredWeights<'a> {
    /// In f32.
    F32(SliceMut<'a, f32>),
    /// Rounded by [`dither`](crate::dither), with the lower halves of their bits.
    Split(SliceMut<'a, Bf16>, SliceMut<'a, u16>),
}

#[cfg(not(target_arch = "nvptx64"))]
impl StoredWeights<'_> {
    /// Number of weights.
    fn len(&self) -> usize {
        match self {
            Self::F32(weights) => weights.len(),
            Self::Split(rounded, _) => rounded.len(),
        }
    }
}

/// Gradient, moments and importance in one type.
#[cfg(not(target_arch = "nvptx64"))]
#[derive(Debug)]
pub struct StateOf<'a, S: Element> {
    /// The gradient.
    pub gradient: Slice<'a, S>,
    /// First moments.
    pub moment1: SliceMut<'a, S>,
    /// Second moments.
    pub moment2: SliceMut<'a, S>,
    /// Importance.
    pub importance: Importance<SliceMut<'a, S>>,
}

/// The same in the type they are stored in.
#[cfg(not(target_arch = "nvptx64"))]
#[derive(Debug)]
pub enum StoredState<'a> {
    /// As they are computed.
    F32(StateOf<'a, f32>),
    /// Moments and importance by [stochastic rounding](crate::stochastic).
    Bf16(StateOf<'a, Bf16>),
}

/// What a step of [`adamw_step`] reads and writes beside that.
#[cfg(not(target_arch = "nvptx64"))]
#[derive(Debug)]
pub struct Step<'a> {
    /// The weights.
    pub weights: StoredWeights<'a>,
    /// Coordinates that keep their bits.
    pub frozen: Option<Slice<'a, u32>>,
    /// A factor of the gradient, `[1]`.
    pub scale: Slice<'a, f32>,
}

/// Launches the kernel of a step; `weights` are their one or two buffers, and `buffer` those beside the ones that all
/// have.
#[cfg(not(target_arch = "nvptx64"))]
macro_rules! launch {
    (
        $kernel:ident, $launcher:ident, $step:ident, $count:ident, $state:expr, $coefficients:ident,
        [$($weights:ident)*] [$($buffer:ident)*] [$($seed:ident)?] [$($first:ident)?]
    ) => {{
        let (gradient, moment1, moment2) = $state;
        $kernel(
            $launcher,
            gradient,
            $($weights,)*
            moment1,
            moment2,
            $($buffer,)*
            $step.scale,
            $count,
            $coefficients.gradient_scale,
            $coefficients.weight_factor,
            $coefficients.beta1,
            $coefficients.gradient_weight,
            $coefficients.beta2,
            $coefficients.square_weight,
            $coefficients.root_correction,
            $coefficients.epsilon,
            $coefficients.step_size,
            $($coefficients.$seed,)?
            $($coefficients.$first,)?
        )
    }};
}

/// The kernels for state of one type and alignment, and the function that chooses among them. By importance: the
/// kernel for weights in f32, that with frozen coordinates, and the same two for split weights.
macro_rules! adamw {
    ($choose:ident, $state:ident by $align:literal $seed:tt $first:tt; $(
        $variant:ident $(($importance:ident))? = $kind:ident:
        $alone:ident, $with_frozen:ident, $split:ident, $split_with_frozen:ident;
    )*) => {
        $(
            adamw_kernel! { $alone = $kind, $state by $align: [weights] [] [$($importance)?] [] $seed $first }
            adamw_kernel! {
                $with_frozen = $kind, $state by $align: [weights] [] [$($importance)?] [frozen] $seed $first
            }
            adamw_kernel! { $split = $kind, $state by $align: [] [rounded lower] [$($importance)?] [] $seed [first] }
            adamw_kernel! {
                $split_with_frozen = $kind, $state by $align:
                [] [rounded lower] [$($importance)?] [frozen] $seed [first]
            }
        )*

        /// One step by the kernel for its weights, importance and frozen coordinates, on state of this type.
        #[cfg(not(target_arch = "nvptx64"))]
        fn $choose(
            launcher: &dyn Launch,
            step: Step<'_>,
            state: StateOf<'_, $state>,
            coefficients: &Coefficients,
        ) -> Result<(), LaunchError> {
            let count = step.weights.len() as u64;
            let StateOf { gradient, moment1, moment2, importance } = state;
            let state = (gradient, moment1, moment2);
            match (importance, step.frozen, step.weights) {
                $(
                    (Importance::$variant $(($importance))?, None, StoredWeights::F32(weights)) => {
                        launch!(
                            $alone, launcher, step, count, state, coefficients,
                            [weights] [$($importance)?] $seed $first
                        )
                    }
                    (Importance::$variant $(($importance))?, Some(frozen), StoredWeights::F32(weights)) => {
                        launch!(
                            $with_frozen, launcher, step, count, state, coefficients,
                            [weights] [$($importance)? frozen] $seed $first
                        )
                    }
                    (Importance::$variant $(($importance))?, None, StoredWeights::Split(rounded, lower)) => {
                        launch!(
                            $split, launcher, step, count, state, coefficients,
                            [rounded lower] [$($importance)?] $seed [first]
                        )
                    }
                    (
                        Importance::$variant $(($importance))?,
                        Some(frozen),
                        StoredWeights::Split(rounded, lower),
                    ) => {
                        launch!(
                            $split_with_frozen, launcher, step, count, state, coefficients,
                            [rounded lower] [$($importance)? frozen] $seed [first]
                        )
                    }
                )*
            }
        }
    };
}

adamw! { with_f32_state, f32 by 16 [] [];
    None = NONE: adamw, adamw_frozen, adamw_split, adamw_frozen_split;
    Net(importance) = NET: adamw_net, adamw_net_frozen, adamw_net_split, adamw_net_frozen_split;
    Path(importance) = PATH: adamw_path, adamw_path_frozen, adamw_path_split, adamw_path_frozen_split;
    Fisher(importance) = FISHER: adamw_fisher, adamw_fisher_frozen, adamw_fisher_split,
        adamw_fisher_frozen_split;
}

adamw! { with_bf16_state, Bf16 by 8 [rounding_seed] [first];
    None = NONE: adamw_state_bf16, adamw_frozen_state_bf16, adamw_split_state_bf16,
        adamw_frozen_split_state_bf16;
    Net(importance) = NET: adamw_net_state_bf16, adamw_net_frozen_state_bf16, adamw_net_split_state_bf16,
        adamw_net_frozen_split_state_bf16;
    Path(importance) = PATH: adamw_path_state_bf16, adamw_path_frozen_state_bf16,
        adamw_path_split_state_bf16, adamw_path_frozen_split_state_bf16;
    Fisher(importance) = FISHER: adamw_fisher_state_bf16, adamw_fisher_frozen_state_bf16,
        adamw_fisher_split_state_bf16, adamw_fisher_frozen_split_state_bf16;
}

/// One step, by the kernel for its weights, state and frozen coordinates.
///
/// # Errors
/// A buffer too short or misaligned, or what the launcher reports.
#[cfg(not(target_arch = "nvptx64"))]
pub fn adamw_step(
    launcher: &dyn Launch,
    state: StoredState<'_>,
    step: Step<'_>,
    coefficients: &Coefficients,
) -> Result<(), LaunchError> {
    match state {
        StoredState::F32(state) => with_f32_state(launcher, step, state, coefficients),
        StoredState::Bf16(state) => with_bf16_state(launcher, step, state, coefficients),
    }
}

//! CPU: the shard is halved down to chunks, a chunk goes block by block of one mask word.

use half::bf16;

use cpift_kernels::stochastic::{random_bits, round_to_bf16, third_bits};

use super::{
    Coefficients, Gradient, GradientsView, Importance, Parameters, State, Weights, stored_differently,
};
use crate::cpu::simd::vectorize;
use crate::error::Result;
use crate::float::{Float, join_slice, split_slice};
use crate::mask::{Mask, WORD_BITS};

/// Elements one thread takes at a time; a multiple of [`WORD_BITS`].
const CHUNK: usize = 1 << 16;

/// Values of [`Importance`] as a constant parameter, so that each is compiled on its own.
const NONE: u8 = 0;
const NET: u8 = 1;
const PATH: u8 = 2;
const FISHER: u8 = 3;

/// A number type that gradients, moments and importance are stored in.
trait Stored: Float {
    /// `value`, rounded by the lower 16 of these bits where it has to be.
    fn round(value: f32, bits: u32) -> Self;
}

impl Stored for f32 {
    #[inline(always)]
    fn round(value: f32, _: u32) -> Self {
        value
    }
}

impl Stored for bf16 {
    #[inline(always)]
    fn round(value: f32, bits: u32) -> Self {
        bf16::from_bits(round_to_bf16(value, bits).0)
    }
}

pub(super) fn step(
    parameters: Parameters<'_>,
    gradient: Gradient<'_>,
    coefficients: &Coefficients,
) -> Result<()> {
    let Parameters { first: start, weights, state } = parameters;
    let others = (start, weights, gradient.frozen.map_or(&[][..], Mask::words));
    match (gradient.values, state) {
        (GradientsView::F32(gradient), State::F32(first, second, importance)) => {
            let state = (gradient.host(), first.host(), second.host(), importance);
            step_on_state(state, others, coefficients);
        }
        (GradientsView::Bf16(gradient), State::Bf16(first, second, importance)) => {
            let state = (gradient.host(), first.host(), second.host(), importance);
            step_on_state(state, others, coefficients);
        }
        _ => return Err(stored_differently()),
    }
    Ok(())
}

/// What is stored in one type.
type OneType<'a, S> = (&'a [S], &'a mut [S], &'a mut [S], Importance<'a, S>);

fn step_on_state<S: Stored>(
    (gradients, moment1, moment2, importance): OneType<'_, S>,
    (start, weights, frozen): (usize, Weights<'_>, &[u64]),
    coefficients: &Coefficients,
) {
    let (weights, rounded, lower): (&mut [f32], &mut [bf16], &mut [u16]) = match weights {
        Weights::F32(weights) => (weights.host(), &mut [], &mut []),
        Weights::Split(planes) => (&mut [], planes.rounded.host(), planes.lower.host()),
    };
    let shard = Shard {
        first: start,
        gradients,
        weights,
        rounded,
        lower,
        moment1,
        moment2,
        importance: &mut [],
        frozen,
    };
    match importance {
        Importance::None => step_of_kind::<NONE, S>(shard, coefficients),
        Importance::Net(sums) => {
            step_of_kind::<NET, S>(Shard { importance: sums.host(), ..shard }, coefficients)
        }
        Importance::Path(sums) => {
            step_of_kind::<PATH, S>(Shard { importance: sums.host(), ..shard }, coefficients);
        }
        Importance::Fisher(sums) => {
            step_of_kind::<FISHER, S>(Shard { importance: sums.host(), ..shard }, coefficients);
        }
    }
}

fn step_of_kind<const IMPORTANCE: u8, S: Stored>(shard: Shard<'_, S>, coefficients: &Coefficients) {
    if shard.rounded.is_empty() {
        step_shard::<IMPORTANCE, false, S>(shard, coefficients);
    } else {
        step_shard::<IMPORTANCE, true, S>(shard, coefficients);
    }
}

/// A range of everything. `importance` and `frozen` are empty where there is none, `weights` where they are split, both of
/// their planes where they are not.
struct Shard<'a, S> {
    /// Index of the first element, by which split weights and state in bf16 are rounded.
    first: usize,
    gradients: &'a [S],
    weights: &'a mut [f32],
    rounded: &'a mut [bf16],
    lower: &'a mut [u16],
    moment1: &'a mut [S],
    moment2: &'a mut [S],
    importance: &'a mut [S],
    frozen: &'a [u64],
}

impl<'a, S> Shard<'a, S> {
    fn split_at(self, middle: usize) -> (Self, Self) {
        let (gradients, right_gradients) = self.gradients.split_at(middle);
        let (weights, right_weights) = self.weights.split_at_mut(middle.min(self.weights.len()));
        let (rounded, right_rounded) = self.rounded.split_at_mut(middle.min(self.rounded.len()));
        let (lower, right_lower) = self.lower.split_at_mut(middle.min(self.lower.len()));
        let (moment1, right_moment1) = self.moment1.split_at_mut(middle);
        let (moment2, right_moment2) = self.moment2.split_at_mut(middle);
        let (importance, right_importance) = self.importance.split_at_mut(middle.min(self.importance.len()));
        let (frozen, right_frozen) = self.frozen.split_at((middle / WORD_BITS).min(self.frozen.len()));
        let right = Shard {
            first: self.first + middle,
            gradients: right_gradients,
            weights: right_weights,
            rounded: right_rounded,
            lower: right_lower,
            moment1: right_moment1,
            moment2: right_moment2,
            importance: right_importance,
            frozen: right_frozen,
        };
        let first = self.first;
        (Shard { first, gradients, weights, rounded, lower, moment1, moment2, importance, frozen }, right)
    }
}

/// Elements are independent, so how the shard is divided does not show in the result.
fn step_shard<const IMPORTANCE: u8, const SPLIT: bool, S: Stored>(
    shard: Shard<'_, S>,
    coefficients: &Coefficients,
) {
    let length = shard.gradients.len();
    if length <= CHUNK {
        vectorize!(|| step_chunk::<IMPORTANCE, SPLIT, S>(shard, coefficients));
        return;
    }
    let (left, right) = shard.split_at((length / 2).next_multiple_of(CHUNK));
    rayon::join(
        || step_shard::<IMPORTANCE, SPLIT, S>(left, coefficients),
        || step_shard::<IMPORTANCE, SPLIT, S>(right, coefficients),
    );
}

#[inline(always)]
fn step_chunk<const IMPORTANCE: u8, const SPLIT: bool, S: Stored>(
    shard: Shard<'_, S>,
    coefficients: &Coefficients,
) {
    let (gradients, last_gradients) = shard.gradients.as_chunks::<WORD_BITS>();
    let (weights, last_weights) = shard.weights.as_chunks_mut::<WORD_BITS>();
    let (rounded, last_rounded) = shard.rounded.as_chunks_mut::<WORD_BITS>();
    let (lower, last_lower) = shard.lower.as_chunks_mut::<WORD_BITS>();
    let (moment1, last_moment1) = shard.moment1.as_chunks_mut::<WORD_BITS>();
    let (moment2, last_moment2) = shard.moment2.as_chunks_mut::<WORD_BITS>();
    let (importance, last_importance) = shard.importance.as_chunks_mut::<WORD_BITS>();
    let frozen_word = |block: usize| shard.frozen.get(block).copied().unwrap_or(0);
    let (mut joined, mut unused) = ([0.0; WORD_BITS], [S::default(); WORD_BITS]);

    let blocks = gradients.iter().zip(moment1.iter_mut().zip(moment2)).enumerate();
    for (index, (gradients, (moment1, moment2))) in blocks {
        let (first, frozen) = (shard.first + index * WORD_BITS, frozen_word(index));
        if frozen == u64::MAX {
            continue;
        }
        if SPLIT {
            join_slice(&rounded[index], &lower[index], first, &mut joined);
        }
        let weights = if SPLIT { &mut joined } else { &mut weights[index] };
        let sums = if IMPORTANCE == NONE { &mut unused } else { &mut importance[index] };
        let block = Block { first, gradients, weights, moment1, moment2, importance: sums };
        step_block::<IMPORTANCE, S>(block, frozen, coefficients);
        if SPLIT {
            split_slice(&joined, first, &mut rounded[index], &mut lower[index]);
        }
    }

    if !last_gradients.is_empty() {
        let first = shard.first + gradients.len() * WORD_BITS;
        let mut padded_weights = pad(last_weights);
        if SPLIT {
            join_slice(last_rounded, last_lower, first, &mut padded_weights);
        }
        let mut padded_moment1 = pad(last_moment1);
        let mut padded_moment2 = pad(last_moment2);
        let mut padded_importance = pad(last_importance);
        let block = Block {
            first,
            gradients: &pad(last_gradients),
            weights: &mut padded_weights,
            moment1: &mut padded_moment1,
            moment2: &mut padded_moment2,
            importance: &mut padded_importance,
        };
        step_block::<IMPORTANCE, S>(block, frozen_word(gradients.len()), coefficients);
        last_weights.copy_from_slice(&padded_weights[..last_weights.len()]);
        split_slice(&padded_weights, first, last_rounded, last_lower);
        last_moment1.copy_from_slice(&padded_moment1[..last_moment1.len()]);
        last_moment2.copy_from_slice(&padded_moment2[..last_moment2.len()]);
        last_importance.copy_from_slice(&padded_importance[..last_importance.len()]);
    }
}

/// `values` followed by zeros.
fn pad<T: Float>(values: &[T]) -> [T; WORD_BITS] {
    let mut padded = [T::default(); WORD_BITS];
    padded[..values.len()].copy_from_slice(values);
    padded
}

/// The elements of one mask word.
struct Block<'a, S> {
    first: usize,
    gradients: &'a [S; WORD_BITS],
    weights: &'a mut [f32; WORD_BITS],
    moment1: &'a mut [S; WORD_BITS],
    moment2: &'a mut [S; WORD_BITS],
    importance: &'a mut [S; WORD_BITS],
}

#[inline(always)]
fn step_block<const IMPORTANCE: u8, S: Stored>(
    block: Block<'_, S>,
    frozen: u64,
    coefficients: &Coefficients,
) {
    match frozen {
        0 => step_lanes::<IMPORTANCE, false, S>(block, 0, coefficients),
        _ => step_lanes::<IMPORTANCE, true, S>(block, frozen, coefficients),
    }
}

/// The formulas of the operation. Lanes are loaded, computed and stored group by group, so that the
/// compiler keeps them in vector registers without having to prove that the arrays do not overlap.
#[inline(always)]
fn step_lanes<const IMPORTANCE: u8, const MASKED: bool, S: Stored>(
    block: Block<'_, S>,
    frozen: u64,
    coefficients: &Coefficients,
) {
    const LANES: usize = 16;
    let groups = block.gradients.as_chunks::<LANES>().0.iter();
    let groups = groups.zip(block.weights.as_chunks_mut::<LANES>().0);
    let groups = groups.zip(block.moment1.as_chunks_mut::<LANES>().0);
    let groups = groups.zip(block.moment2.as_chunks_mut::<LANES>().0);
    let groups = groups.zip(block.importance.as_chunks_mut::<LANES>().0);
    for (group, ((((gradients, weights), moments1), moments2), sums)) in groups.enumerate() {
        let frozen = (frozen >> (group * LANES)) as u32;
        let (old_moments1, old_moments2) = (moments1.map(S::to_f32), moments2.map(S::to_f32));
        let (mut new_weights, mut new_moments1) = (*weights, old_moments1);
        let old_sums = sums.map(S::to_f32);
        let (mut new_moments2, mut new_sums) = (old_moments2, old_sums);
        for lane in 0..LANES {
            let gradient = gradients[lane].to_f32() * coefficients.gradient_scale;
            let weight = weights[lane];
            let moment1 =
                coefficients.gradient_weight.mul_add(gradient, coefficients.beta1 * old_moments1[lane]);
            let square = gradient * gradient;
            let moment2 = coefficients.square_weight.mul_add(square, coefficients.beta2 * old_moments2[lane]);
            let denominator = moment2.sqrt() / coefficients.root_correction + coefficients.epsilon;
            let decayed = weight * coefficients.weight_factor;
            let new_weight = decayed - coefficients.step_size * moment1 / denominator;
            let sum = old_sums[lane]
                + match IMPORTANCE {
                    NET => new_weight - weight,
                    PATH => (new_weight - weight).abs(),
                    FISHER => square,
                    _ => 0.0,
                };
            // All ones where the coordinate is frozen.
            let keep = if MASKED { (frozen >> lane & 1).wrapping_neg() } else { 0 };
            new_weights[lane] = blend(keep, weight, new_weight);
            new_moments1[lane] = blend(keep, old_moments1[lane], moment1);
            new_moments2[lane] = blend(keep, old_moments2[lane], moment2);
            new_sums[lane] = blend(keep, old_sums[lane], sum);
        }
        *weights = new_weights;
        for lane in 0..LANES {
            let bits = random_bits(block.first + group * LANES + lane, coefficients.rounding_seed);
            moments1[lane] = S::round(new_moments1[lane], bits);
            moments2[lane] = S::round(new_moments2[lane], bits >> 16);
            if IMPORTANCE != NONE {
                sums[lane] = S::round(new_sums[lane], third_bits(bits));
            }
        }
    }
}

/// The bits of `old` where `keep` has ones, of `new` where it has zeros: without a branch, which
/// the compiler would otherwise put around the arithmetic, lane by lane.
#[inline(always)]
fn blend(keep: u32, old: f32, new: f32) -> f32 {
    f32::from_bits((old.to_bits() & keep) | (new.to_bits() & !keep))
}

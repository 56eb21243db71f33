//! CPU: the shard is halved down to chunks, a chunk goes block by block of one mask word.

use bytemuck::cast;
use half::bf16;

use cpift_kernels::dither::{dither_to_bf16, lower_half, undo};
use cpift_kernels::simt::Bf16;
use cpift_kernels::stochastic::{random_bits, round_result_to_bf16, round_to_bf16, third_bits};

use super::{
    Coefficients, Gradient, GradientsView, Importance, Parameters, State, Weights, stored_differently,
};
use crate::cpu::simd::vectorize;
use crate::error::Result;
use crate::float::Float;
use crate::mask::{Mask, WORD_BITS};

/// Elements one thread takes at a time; a multiple of [`WORD_BITS`].
const CHUNK: usize = 1 << 16;

/// Elements that are loaded, computed and stored together: a few vector registers of every operand.
const LANES: usize = 16;

/// Values of [`Importance`] as a constant parameter, so that each is compiled on its own.
const NONE: u8 = 0;
const NET: u8 = 1;
const PATH: u8 = 2;
const FISHER: u8 = 3;

/// A number type that gradients, moments and importance are stored in.
trait Stored: Float {
    /// `value`, rounded by the lower 16 of these bits where it has to be.
    fn round(value: f32, bits: u32) -> Self;

    /// Steps a group, whose weights are split or not.
    #[inline(always)]
    fn step_group<const IMPORTANCE: u8, const MASKED: bool, const SPLIT: bool>(
        group: Group<'_, Self>,
        frozen: u32,
        coefficients: &Coefficients,
    ) {
        step_lanes::<IMPORTANCE, MASKED, SPLIT, Self>(group, frozen, coefficients);
    }
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

    #[inline(always)]
    fn step_group<const IMPORTANCE: u8, const MASKED: bool, const SPLIT: bool>(
        group: Group<'_, Self>,
        frozen: u32,
        coefficients: &Coefficients,
    ) {
        if SPLIT {
            step_pairs::<IMPORTANCE, MASKED>(group, frozen, coefficients);
        } else {
            step_lanes::<IMPORTANCE, MASKED, false, Self>(group, frozen, coefficients);
        }
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
    let mut unused = Unused::<S>::default();

    let blocks = gradients.iter().zip(moment1.iter_mut().zip(moment2)).enumerate();
    for (index, (gradients, (moment1, moment2))) in blocks {
        let frozen = frozen_word(index);
        if frozen == u64::MAX {
            continue;
        }
        let block = Block {
            first: shard.first + index * WORD_BITS,
            gradients,
            weights: if SPLIT { &mut unused.weights } else { &mut weights[index] },
            rounded: if SPLIT { &mut rounded[index] } else { &mut unused.rounded },
            lower: if SPLIT { &mut lower[index] } else { &mut unused.lower },
            moment1,
            moment2,
            importance: if IMPORTANCE == NONE { &mut unused.importance } else { &mut importance[index] },
        };
        step_block::<IMPORTANCE, SPLIT, S>(block, frozen, coefficients);
    }

    if !last_gradients.is_empty() {
        let mut padded_weights = pad(last_weights);
        let mut padded_rounded = pad(last_rounded);
        let mut padded_lower = pad(last_lower);
        let mut padded_moment1 = pad(last_moment1);
        let mut padded_moment2 = pad(last_moment2);
        let mut padded_importance = pad(last_importance);
        let block = Block {
            first: shard.first + gradients.len() * WORD_BITS,
            gradients: &pad(last_gradients),
            weights: &mut padded_weights,
            rounded: &mut padded_rounded,
            lower: &mut padded_lower,
            moment1: &mut padded_moment1,
            moment2: &mut padded_moment2,
            importance: &mut padded_importance,
        };
        step_block::<IMPORTANCE, SPLIT, S>(block, frozen_word(gradients.len()), coefficients);
        last_weights.copy_from_slice(&padded_weights[..last_weights.len()]);
        last_rounded.copy_from_slice(&padded_rounded[..last_rounded.len()]);
        last_lower.copy_from_slice(&padded_lower[..last_lower.len()]);
        last_moment1.copy_from_slice(&padded_moment1[..last_moment1.len()]);
        last_moment2.copy_from_slice(&padded_moment2[..last_moment2.len()]);
        last_importance.copy_from_slice(&padded_importance[..last_importance.len()]);
    }
}

/// `values` followed by zeros.
fn pad<T: Copy + Default>(values: &[T]) -> [T; WORD_BITS] {
    let mut padded = [T::default(); WORD_BITS];
    padded[..values.len()].copy_from_slice(values);
    padded
}

/// What a block has in the place of operands that there are not.
struct Unused<S> {
    weights: [f32; WORD_BITS],
    rounded: [bf16; WORD_BITS],
    lower: [u16; WORD_BITS],
    importance: [S; WORD_BITS],
}

impl<S: Stored> Default for Unused<S> {
    fn default() -> Self {
        Self { weights: pad(&[]), rounded: pad(&[]), lower: pad(&[]), importance: pad(&[]) }
    }
}

/// Consecutive elements, of which `first` is the index of the first: a mask word's, or a group of them.
struct Elements<'a, S, const LENGTH: usize> {
    first: usize,
    gradients: &'a [S; LENGTH],
    weights: &'a mut [f32; LENGTH],
    rounded: &'a mut [bf16; LENGTH],
    lower: &'a mut [u16; LENGTH],
    moment1: &'a mut [S; LENGTH],
    moment2: &'a mut [S; LENGTH],
    importance: &'a mut [S; LENGTH],
}

type Block<'a, S> = Elements<'a, S, WORD_BITS>;
type Group<'a, S> = Elements<'a, S, LANES>;

#[inline(always)]
fn step_block<const IMPORTANCE: u8, const SPLIT: bool, S: Stored>(
    block: Block<'_, S>,
    frozen: u64,
    coefficients: &Coefficients,
) {
    match frozen {
        0 => step_groups::<IMPORTANCE, false, SPLIT, S>(block, 0, coefficients),
        _ => step_groups::<IMPORTANCE, true, SPLIT, S>(block, frozen, coefficients),
    }
}

#[inline(always)]
fn step_groups<const IMPORTANCE: u8, const MASKED: bool, const SPLIT: bool, S: Stored>(
    block: Block<'_, S>,
    frozen: u64,
    coefficients: &Coefficients,
) {
    let groups = block.gradients.as_chunks::<LANES>().0.iter();
    let groups = groups.zip(block.weights.as_chunks_mut::<LANES>().0);
    let groups = groups.zip(block.rounded.as_chunks_mut::<LANES>().0);
    let groups = groups.zip(block.lower.as_chunks_mut::<LANES>().0);
    let groups = groups.zip(block.moment1.as_chunks_mut::<LANES>().0);
    let groups = groups.zip(block.moment2.as_chunks_mut::<LANES>().0);
    let groups = groups.zip(block.importance.as_chunks_mut::<LANES>().0);
    for (index, ((((((gradients, weights), rounded), lower), moment1), moment2), importance)) in
        groups.enumerate()
    {
        let first = block.first + index * LANES;
        let group = Elements { first, gradients, weights, rounded, lower, moment1, moment2, importance };
        S::step_group::<IMPORTANCE, MASKED, SPLIT>(group, (frozen >> (index * LANES)) as u32, coefficients);
    }
}

/// Steps a group lane by lane. All is copied, computed in one loop and stored, so that the compiler makes one loop of
/// vectors of it, without having to prove that the arrays do not overlap, and hashes an index once for all that is rounded
/// by it.
#[inline(always)]
fn step_lanes<const IMPORTANCE: u8, const MASKED: bool, const SPLIT: bool, S: Stored>(
    group: Group<'_, S>,
    frozen: u32,
    coefficients: &Coefficients,
) {
    let Elements { first, gradients, weights, rounded, lower, moment1, moment2, importance } = group;
    let (mut new_weights, mut new_rounded, mut new_lower) = (*weights, *rounded, *lower);
    let (mut new_moment1, mut new_moment2, mut new_importance) = (*moment1, *moment2, *importance);
    for lane in 0..LANES {
        let index = first + lane;
        let weight = if SPLIT {
            undo(Bf16(new_rounded[lane].to_bits()), new_lower[lane], index)
        } else {
            new_weights[lane]
        };
        let before = Values {
            weight,
            moment1: new_moment1[lane].to_f32(),
            moment2: new_moment2[lane].to_f32(),
            importance: new_importance[lane].to_f32(),
        };
        let gradient = gradients[lane].to_f32();
        let after = before.step::<IMPORTANCE, MASKED>(gradient, frozen >> lane & 1, coefficients);
        if SPLIT {
            new_rounded[lane] = bf16::from_bits(dither_to_bf16(after.weight, index).0);
            new_lower[lane] = lower_half(after.weight);
        } else {
            new_weights[lane] = after.weight;
        }
        let bits = random_bits(index, coefficients.rounding_seed);
        new_moment1[lane] = S::round(after.moment1, bits);
        new_moment2[lane] = S::round(after.moment2, bits >> 16);
        if IMPORTANCE != NONE {
            new_importance[lane] = S::round(after.importance, third_bits(bits));
        }
    }
    if SPLIT {
        (*rounded, *lower) = (new_rounded, new_lower);
    } else {
        *weights = new_weights;
    }
    (*moment1, *moment2) = (new_moment1, new_moment2);
    if IMPORTANCE != NONE {
        *importance = new_importance;
    }
}

/// Words of a group of elements of 16 bits.
const PAIRS: usize = LANES / 2;

/// [`step_lanes`] where everything has 16 bits: in words of two elements, which are widened by a shift and a mask and
/// packed again likewise, where single ones would be moved from lane to lane.
#[inline(always)]
fn step_pairs<const IMPORTANCE: u8, const MASKED: bool>(
    group: Group<'_, bf16>,
    frozen: u32,
    coefficients: &Coefficients,
) {
    let Elements { first, gradients, rounded, lower, moment1, moment2, importance, .. } = group;
    let gradients: [u32; PAIRS] = cast(*gradients);
    let (mut all_rounded, mut all_lower): ([u32; PAIRS], [u32; PAIRS]) = (cast(*rounded), cast(*lower));
    let mut all_moment1: [u32; PAIRS] = cast(*moment1);
    let mut all_moment2: [u32; PAIRS] = cast(*moment2);
    let mut all_importance: [u32; PAIRS] = cast(*importance);
    for pair in 0..PAIRS {
        let gradient = halves(gradients[pair]);
        let (mut rounded, mut lower) = (halves(all_rounded[pair]), halves(all_lower[pair]));
        let (mut moment1, mut moment2) = (halves(all_moment1[pair]), halves(all_moment2[pair]));
        let mut importance = halves(all_importance[pair]);
        for half in 0..2 {
            let lane = 2 * pair + half;
            let index = first + lane;
            let before = Values {
                weight: undo(Bf16(rounded[half]), lower[half], index),
                moment1: Bf16(moment1[half]).to_f32(),
                moment2: Bf16(moment2[half]).to_f32(),
                importance: Bf16(importance[half]).to_f32(),
            };
            let gradient = Bf16(gradient[half]).to_f32();
            let after = before.step::<IMPORTANCE, MASKED>(gradient, frozen >> lane & 1, coefficients);
            (rounded[half], lower[half]) = (dither_to_bf16(after.weight, index).0, lower_half(after.weight));
            let bits = random_bits(index, coefficients.rounding_seed);
            moment1[half] = round_result_to_bf16(after.moment1, bits).0;
            moment2[half] = round_result_to_bf16(after.moment2, bits >> 16).0;
            if IMPORTANCE != NONE {
                importance[half] = round_to_bf16(after.importance, third_bits(bits)).0;
            }
        }
        (all_rounded[pair], all_lower[pair]) = (cast(rounded), cast(lower));
        (all_moment1[pair], all_moment2[pair]) = (cast(moment1), cast(moment2));
        all_importance[pair] = cast(importance);
    }
    (*rounded, *lower) = (cast(all_rounded), cast(all_lower));
    (*moment1, *moment2) = (cast(all_moment1), cast(all_moment2));
    if IMPORTANCE != NONE {
        *importance = cast(all_importance);
    }
}

/// The two elements in a word, in their order.
#[inline(always)]
fn halves(word: u32) -> [u16; 2] {
    cast(word)
}

/// What belongs to an element and changes in a step.
struct Values {
    weight: f32,
    moment1: f32,
    moment2: f32,
    importance: f32,
}

impl Values {
    /// The formulas of the operation; `frozen` is 1 or 0.
    #[inline(always)]
    fn step<const IMPORTANCE: u8, const MASKED: bool>(
        self,
        gradient: f32,
        frozen: u32,
        coefficients: &Coefficients,
    ) -> Self {
        let gradient = gradient * coefficients.gradient_scale;
        let moment1 = coefficients.gradient_weight.mul_add(gradient, coefficients.beta1 * self.moment1);
        let square = gradient * gradient;
        let moment2 = coefficients.square_weight.mul_add(square, coefficients.beta2 * self.moment2);
        let denominator = moment2.sqrt() / coefficients.root_correction + coefficients.epsilon;
        let decayed = self.weight * coefficients.weight_factor;
        let weight = decayed - coefficients.step_size * moment1 / denominator;
        let importance = self.importance
            + match IMPORTANCE {
                NET => weight - self.weight,
                PATH => (weight - self.weight).abs(),
                FISHER => square,
                _ => 0.0,
            };
        // All ones where the coordinate is frozen.
        let keep = if MASKED { frozen.wrapping_neg() } else { 0 };
        Self {
            weight: blend(keep, self.weight, weight),
            moment1: blend(keep, self.moment1, moment1),
            moment2: blend(keep, self.moment2, moment2),
            importance: blend(keep, self.importance, importance),
        }
    }
}

/// The bits of `old` where `keep` has ones, of `new` where it has zeros: without a branch, which
/// the compiler would otherwise put around the arithmetic, lane by lane.
#[inline(always)]
fn blend(keep: u32, old: f32, new: f32) -> f32 {
    f32::from_bits((old.to_bits() & keep) | (new.to_bits() & !keep))
}

//! Element by element: fill, round to bf16, split into halves and join them, add to bf16, subtract.
//!
//! All have one shape: blocks of 256 threads, each thread one group of 4 elements (f32, u32) or 8 (where
//! bf16 takes part), so that the wider side moves 16 bytes at a time; buffers that do not start at a multiple
//! of 16 bytes are walked one element at a time. No shared memory, no barriers, one thread per element.

use crate::dither::{dither_to_bf16, lower_half, undo};
use crate::simt::*;
use crate::stochastic::{random_bits, round_to_bf16};

/// Threads of a block.
const BLOCK: u32 = 256;
/// Elements of a block, four per thread.
const CHUNK_4: u64 = 4 * BLOCK as u64;
/// Elements of a block, eight per thread.
const CHUNK_8: u64 = 8 * BLOCK as u64;

kernel! {
    /// out[i] = value. Writes 4 B per element.
    pub fn fill_f32 { block: BLOCK, grid: count.div_ceil(CHUNK_4), shared: 0 } (
        out: write f32 [count],
        count: scalar u64,
        value: scalar f32,
    ) {
        cover::<4, BLOCK>(
            count,
            out.is_aligned(),
            |index| out.store_vector(index, F32x4([value; 4])),
            |index| out.store(index, value),
        );
    }
}

kernel! {
    /// y[i] = x[i], rounded by [`dither`](crate::dither). Moves 6 B per element.
    pub fn round_f32_to_bf16 { block: BLOCK, grid: count.div_ceil(CHUNK_8), shared: 0 } (
        x: read f32 [count],
        y: write Bf16 [count],
        count: scalar u64,
    ) {
        cover::<8, BLOCK>(
            count,
            x.is_aligned() && y.is_aligned(),
            |index| {
                let values = <f32 as Pack<8>>::load(x, index);
                let rounded = |lane| dither_to_bf16(values[lane], index + lane);
                y.store_vector(index, Bf16x8(core::array::from_fn(rounded)));
            },
            |index| y.store(index, dither_to_bf16(x.load(index), index)),
        );
    }
}

kernel! {
    /// x[i] rounded by [`dither`](crate::dither) as element `first + i`, and its lower half. Moves 8 B per element.
    pub fn split_f32 { block: BLOCK, grid: count.div_ceil(CHUNK_8), shared: 0 } (
        x: read f32 [count],
        rounded: write Bf16 [count],
        lower: write u16 [count],
        count: scalar u64,
        first: scalar u64,
    ) {
        let first = first as usize;
        cover::<8, BLOCK>(
            count,
            x.is_aligned() && rounded.is_aligned() && lower.is_aligned(),
            |index| {
                let values = <f32 as Pack<8>>::load(x, index);
                let round = |lane| dither_to_bf16(values[lane], first + index + lane);
                rounded.store_vector(index, Bf16x8(core::array::from_fn(round)));
                lower.store_vector(index, U16x8(values.map(lower_half)));
            },
            |index| {
                rounded.store(index, dither_to_bf16(x.load(index), first + index));
                lower.store(index, lower_half(x.load(index)));
            },
        );
    }
}

kernel! {
    /// What [`split_f32`] split as the same elements, together again, bit for bit. Moves 8 B per element.
    pub fn join_f32 { block: BLOCK, grid: count.div_ceil(CHUNK_8), shared: 0 } (
        rounded: read Bf16 [count],
        lower: read u16 [count],
        y: write f32 [count],
        count: scalar u64,
        first: scalar u64,
    ) {
        let first = first as usize;
        cover::<8, BLOCK>(
            count,
            rounded.is_aligned() && lower.is_aligned() && y.is_aligned(),
            |index| {
                let (rounded, lower) =
                    (rounded.load_vector::<Bf16x8>(index).0, lower.load_vector::<U16x8>(index).0);
                let value = |lane| undo(rounded[lane], lower[lane], first + index + lane);
                <f32 as Pack<8>>::store(y, index, core::array::from_fn(value));
            },
            |index| y.store(index, undo(rounded.load(index), lower.load(index), first + index)),
        );
    }
}

kernel! {
    /// target[i] += x[i], rounded [stochastically](crate::stochastic) as element `first + i`. 8 B and one flop per element.
    pub fn accumulate_bf16 { block: BLOCK, grid: count.div_ceil(CHUNK_8), shared: 0 } (
        target: update Bf16 [count],
        x: read f32 [count],
        count: scalar u64,
        first: scalar u64,
        seed: scalar u32,
    ) {
        let round = |sum: f32, index: usize| round_to_bf16(sum, random_bits(first as usize + index, seed));
        cover::<8, BLOCK>(
            count,
            target.is_aligned() && x.is_aligned(),
            |index| {
                let before = <Bf16 as Pack<8>>::load(target.as_read(), index);
                let x = <f32 as Pack<8>>::load(x, index);
                let sum = |lane| round(before[lane] + x[lane], index + lane);
                target.store_vector(index, Bf16x8(core::array::from_fn(sum)));
            },
            |index| target.store(index, round(target.load(index).to_f32() + x.load(index), index)),
        );
    }
}

kernel! {
    /// target[i] −= other[i]. 12 B and one flop per element.
    pub fn subtract_f32 { block: BLOCK, grid: count.div_ceil(CHUNK_4), shared: 0 } (
        target: update f32 [count],
        other: read f32 [count],
        count: scalar u64,
    ) {
        cover::<4, BLOCK>(
            count,
            target.is_aligned() && other.is_aligned(),
            |index| subtract::<4>(target, other, index),
            |index| subtract::<1>(target, other, index),
        );
    }
}

/// target −= other.
#[inline(always)]
fn subtract<const N: usize>(target: GlobalMut<f32>, other: Global<f32>, index: usize)
where
    f32: Pack<N>,
{
    let mut difference = <f32 as Pack<N>>::load(target.as_read(), index);
    let other = <f32 as Pack<N>>::load(other, index);
    for lane in 0..N {
        difference[lane] -= other[lane];
    }
    <f32 as Pack<N>>::store(target, index, difference);
}

//! Products with a number, element by element: x·factor, and residual + factor·delta.
//!
//! Blocks of 256 threads, 16 bytes of each buffer per thread; buffers that do not start at a multiple of 16 bytes are
//! walked one element at a time. No shared memory, no barriers, one thread per element. Arithmetic is in f32, rounded
//! once; E is f32 or bf16.

use crate::simt::*;

/// Threads of a block.
const BLOCK: u32 = 256;

/// y = factor·x; both may be one buffer.
#[inline(always)]
fn multiply<E: Pack<N>, const N: usize>(x: Global<E>, y: GlobalMut<E>, factor: f32, index: usize) {
    E::store(y, index, E::load(x, index).map(|x| factor * x));
}

/// sum = residual + factor·delta.
#[inline(always)]
fn add<E: Pack<N>, const N: usize>(
    (residual, delta): (Global<E>, Global<E>),
    sum: GlobalMut<E>,
    factor: f32,
    index: usize,
) {
    let (mut sums, delta) = (E::load(residual, index), E::load(delta, index));
    for lane in 0..N {
        sums[lane] = fma(factor, delta[lane], sums[lane]);
    }
    E::store(sum, index, sums);
}

kernel! {
    /// y[i] = factor·x[i]. Reads 1 and writes 1 element each.
    pub fn scale<E> = scale_f32, scale_bf16; {
        block: BLOCK,
        grid: count.div_ceil(vector_length::<E>() as u64 * u64::from(BLOCK)),
        shared: 0,
    } (
        x: read E [count],
        y: write E [count],
        count: scalar u64,
        factor: scalar f32,
    ) {
        cover::<{ vector_length::<E>() }, BLOCK>(
            count,
            x.is_aligned() && y.is_aligned(),
            |index| multiply::<E, { vector_length::<E>() }>(x, y, factor, index),
            |index| multiply::<E, 1>(x, y, factor, index),
        );
    }
}

kernel! {
    /// x[i] becomes factor·x[i]. Reads 1 and writes 1 element each.
    pub fn scale_in_place<E> = scale_in_place_f32, scale_in_place_bf16; {
        block: BLOCK,
        grid: count.div_ceil(vector_length::<E>() as u64 * u64::from(BLOCK)),
        shared: 0,
    } (
        x: update E [count],
        count: scalar u64,
        factor: scalar f32,
    ) {
        cover::<{ vector_length::<E>() }, BLOCK>(
            count,
            x.is_aligned(),
            |index| multiply::<E, { vector_length::<E>() }>(x.as_read(), x, factor, index),
            |index| multiply::<E, 1>(x.as_read(), x, factor, index),
        );
    }
}

kernel! {
    /// sum[i] = residual[i] + factor·delta[i]. Reads 2 and writes 1 element each.
    pub fn scale_add<E> = scale_add_f32, scale_add_bf16; {
        block: BLOCK,
        grid: count.div_ceil(vector_length::<E>() as u64 * u64::from(BLOCK)),
        shared: 0,
    } (
        residual: read E [count],
        delta: read E [count],
        sum: write E [count],
        count: scalar u64,
        factor: scalar f32,
    ) {
        cover::<{ vector_length::<E>() }, BLOCK>(
            count,
            residual.is_aligned() && delta.is_aligned() && sum.is_aligned(),
            |index| add::<E, { vector_length::<E>() }>((residual, delta), sum, factor, index),
            |index| add::<E, 1>((residual, delta), sum, factor, index),
        );
    }
}

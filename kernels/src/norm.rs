//! Norm of the gradient, and from it the factor that clips, without the host.
//!
//! [`norm_squared_partials`] or [`norm_squared_partials_frozen`], or those with `_bf16` for gradients in bf16, then [`norm_sum_partials`], then [`norm_clip_scale`],
//! whose result is what the AdamW kernels read as `scale`. The number of partial sums depends on the
//! number of elements alone, never on the device: results are the same bits everywhere.

use crate::simt::*;

/// Threads of a block.
const BLOCK: u32 = 256;
/// Vectors a thread loads before it adds them up, so that enough bytes are on their way.
const UNROLL: usize = 4;
/// Elements a block has at least: four rounds of all its threads.
const CHUNK: u64 = (4 * UNROLL) as u64 * BLOCK as u64 * 4;
/// Most partial sums, and blocks: more than any device runs at a time.
const PARTIALS: u64 = 2048;
/// Bytes of shared memory for a block's sum: one f64 per warp.
const SHARED: u64 = 8 * (BLOCK / WARP) as u64;

/// Partial sums that the norm of `count` elements has: between 1 and 2048.
pub const fn partial_count(count: u64) -> u64 {
    let chunks = count.div_ceil(CHUNK);
    if chunks == 0 {
        1
    } else if chunks > PARTIALS {
        PARTIALS
    } else {
        chunks
    }
}

/// Adds the squares of the block's elements up and stores the sum as partial sum of this block.
#[inline(always)]
fn partial_sum<E: Pack<4>>(
    gradient: Global<E>,
    frozen: Option<Global<u32>>,
    partials: GlobalMut<f64>,
    count: usize,
) {
    let stride = 4 * grid_dim() as usize * BLOCK as usize;
    let mut first = 4 * global_thread_idx();
    let mut sums = [0.0; 4];
    while first + (UNROLL - 1) * stride + 4 <= count {
        let mut values = [[0.0; 4]; UNROLL];
        for (round, values) in values.iter_mut().enumerate() {
            *values = load_unfrozen(gradient, frozen, first + round * stride);
        }
        for values in values {
            add_squares(&mut sums, values);
        }
        first += UNROLL * stride;
    }
    while first + 4 <= count {
        add_squares(&mut sums, load_unfrozen(gradient, frozen, first));
        first += stride;
    }
    for index in first..count {
        let mut bits = 0;
        if let Some(words) = frozen {
            bits = words.load(index / 32) >> (index % 32);
        }
        let value = f64::from(blend(lane_mask(bits, 0), 0.0, gradient.load(index).to_f32()));
        sums[0] = fma_f64(value, value, sums[0]);
    }
    let sum = block_sum_f64((sums[0] + sums[1]) + (sums[2] + sums[3]), Shared::new(0, BLOCK / WARP));
    if thread_idx() == 0 {
        partials.store(block_idx() as usize, sum);
    }
}

/// Four elements, zero where frozen: chosen, not multiplied, since a frozen NaN must not count.
#[inline(always)]
fn load_unfrozen<E: Pack<4>>(gradient: Global<E>, frozen: Option<Global<u32>>, first: usize) -> [f32; 4] {
    let mut values = E::load(gradient, first);
    if let Some(words) = frozen {
        let bits = words.load(first / 32) >> (first % 32);
        for (lane, value) in values.iter_mut().enumerate() {
            *value = blend(lane_mask(bits, lane), 0.0, *value);
        }
    }
    values
}

#[inline(always)]
fn add_squares(sums: &mut [f64; 4], values: [f32; 4]) {
    for (lane, sum) in sums.iter_mut().enumerate() {
        let value = f64::from(values[lane]);
        *sum = fma_f64(value, value, *sum);
    }
}

kernel! {
    /// partials[block] = Σ gradient² over every element of the block, in f64, where a square of f32 is exact.
    ///
    /// A grid-stride loop over chunks of 1,024 elements, four a thread. The order of additions is fixed. All
    /// threads reach the barriers of the block's sum. Reads 4 B per element; one product and sum in f64.
    pub fn norm_squared_partials { block: BLOCK, grid: partial_count(count), shared: SHARED } (
        gradient: read f32 [count] align 16,
        partials: write f64 [partial_count(count)],
        count: scalar u64,
    ) {
        partial_sum(gradient, None, partials, count as usize);
    }
}

kernel! {
    /// [`norm_squared_partials`] with the coordinates left out whose bit in `frozen` is set, NaN or not.
    ///
    /// Reads 4 B and 1 bit per element.
    pub fn norm_squared_partials_frozen { block: BLOCK, grid: partial_count(count), shared: SHARED } (
        gradient: read f32 [count] align 16,
        frozen: read u32 [count.div_ceil(32)],
        partials: write f64 [partial_count(count)],
        count: scalar u64,
    ) {
        partial_sum(gradient, Some(frozen), partials, count as usize);
    }
}

kernel! {
    /// [`norm_squared_partials`] of a gradient in bf16. Reads 2 B per element.
    pub fn norm_squared_partials_bf16 { block: BLOCK, grid: partial_count(count), shared: SHARED } (
        gradient: read Bf16 [count] align 8,
        partials: write f64 [partial_count(count)],
        count: scalar u64,
    ) {
        partial_sum(gradient, None, partials, count as usize);
    }
}

kernel! {
    /// [`norm_squared_partials_frozen`] of a gradient in bf16. Reads 2 B and 1 bit per element.
    pub fn norm_squared_partials_frozen_bf16 { block: BLOCK, grid: partial_count(count), shared: SHARED } (
        gradient: read Bf16 [count] align 8,
        frozen: read u32 [count.div_ceil(32)],
        partials: write f64 [partial_count(count)],
        count: scalar u64,
    ) {
        partial_sum(gradient, Some(frozen), partials, count as usize);
    }
}

kernel! {
    /// sum[0] = Σ partials, by one block in a fixed order; all its threads reach the barriers.
    pub fn norm_sum_partials { block: BLOCK, grid: 1, shared: SHARED } (
        partials: read f64 [count],
        sum: write f64 [1],
        count: scalar u32,
    ) {
        let mut own = 0.0;
        let mut index = thread_idx();
        while index < count {
            own += partials.load(index as usize);
            index += BLOCK;
        }
        let total = block_sum_f64(own, Shared::new(0, BLOCK / WARP));
        if thread_idx() == 0 {
            sum.store(0, total);
        }
    }
}

kernel! {
    /// scale[0] = min(1, maximum/(norm + 1e-6))·unscale with norm = √squared_norm[0]·unscale: the factor that
    /// turns the gradient as it is stored into the clipped one, after PyTorch's `clip_grad_norm_`.
    ///
    /// An infinite maximum clips nothing. A squared norm that is not finite gives NaN, on which AdamW changes
    /// nothing. Computed in f64 by one thread, rounded once.
    pub fn norm_clip_scale { block: 32, grid: 1, shared: 0 } (
        squared_norm: read f64 [1],
        scale: write f32 [1],
        maximum: scalar f64,
        unscale: scalar f64,
    ) requires { maximum > 0.0, unscale > 0.0 } {
        if thread_idx() == 0 {
            let squared = squared_norm.load(0);
            let ratio = maximum / (sqrt_f64(squared) * unscale + 1e-6);
            let factor = if ratio < 1.0 { ratio } else { 1.0 };
            scale.store(0, if squared.is_finite() { (factor * unscale) as f32 } else { f32::NAN });
        }
    }
}

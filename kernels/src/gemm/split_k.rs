//! Split-K: products of few tiles and many terms, whose k is divided among blocks.
//!
//! Where C is small and k large (gradients of the weights of small layers, of hidden states behind a large head), tiles
//! are fewer than multiprocessors. Then several blocks share a tile: each sums its split of k and writes f32 sums to a
//! workspace `[splits, m, n]`, and [`gemm_split_k_sum_f32`] or [`gemm_split_k_sum_bf16`] adds them in the order of the
//! splits. There are no atomics, so that a product has the same bits in every run; they depend on the number of splits,
//! and so on the sizes and the device. Besides the operands, 8 bytes per element and split are moved.

use super::epilogue::{Epilogue, origin};
use super::{sizes, tensor};
use crate::simt::*;

/// Threads of a block that adds splits.
const BLOCK: u32 = 256;
/// Elements of a thread of it.
const EACH: usize = 8;

/// The range of k of split `split` of `splits`: whole stages but for the last, which may have none.
#[inline(always)]
fn k_range(k: u32, splits: u32, split: u32) -> (u32, u32) {
    let length = k.div_ceil(tensor::TILE_K).div_ceil(splits) * tensor::TILE_K;
    let first = (split * length).min(k);
    (first, (first + length).min(k))
}

macro_rules! split_kernels {
    ($mma_m:literal, $mma_n:literal, $warps:literal, $prefetch:literal, $min_blocks:literal, $nn:ident, $tn:ident) => {
        split_kernel! {
            "sums\\[p\\] = a·b over split p of k; sums `[splits, m, n]`, a `[m, k]`, b `[k, n]`.",
            $nn, $mma_m, $mma_n, $warps, $prefetch, $min_blocks, k_major true
        }
        split_kernel! {
            "sums\\[p\\] = aᵀ·b over split p of k; sums `[splits, m, n]`, a `[k, m]`, b `[k, n]`.",
            $tn, $mma_m, $mma_n, $warps, $prefetch, $min_blocks, k_major false
        }
    };
}

macro_rules! split_kernel {
    (
        $formula:literal, $name:ident, $mma_m:literal, $mma_n:literal, $warps:literal, $prefetch:literal,
        $min_blocks:literal, k_major $k_major:literal
    ) => {
        kernel! {
            #[doc = $formula]
            ///
            /// On tensor cores. A block per tile and split, the tiles of a split one after another, each as in the
            /// other kernels for products. All threads reach every barrier. Reads a tile's height and width of
            /// operands per element along k, writes every element once per split; two operations per element of C and k.
            pub fn $name {
                block: $warps * WARP,
                grid: tensor::count(m, n, $mma_m, $mma_n, $warps) * splits,
                shared: tensor::shared_bytes($mma_m, $mma_n, $warps, $prefetch),
                min_blocks: $min_blocks,
                tensor_cores: KeepsAccumulators,
            } (
                a: read Bf16 [m * k] align 16,
                b: read Bf16 [k * n] align 16,
                sums: write f32 [splits * m * n] align 16,
                m: scalar u64,
                n: scalar u64,
                k: scalar u64,
                splits: scalar u32,
            ) requires {
                m < 1 << 31, n < 1 << 31, k < 1 << 31, (if $k_major { k } else { m }).is_multiple_of(8),
                n.is_multiple_of(8), splits > 0, splits < 1 << 16,
            } {
                let sizes = sizes(m, n, k);
                let (height, width) = (tensor::rows($mma_m), tensor::columns($mma_n, $warps));
                let tiles = sizes.m.div_ceil(height) * sizes.n.div_ceil(width);
                let (tile, split) = (block_idx() % tiles, block_idx() / tiles);
                let first = origin(sizes, tile, height, width);
                let k_range = k_range(sizes.k, splits, split);
                let product =
                    tensor::product::<$k_major, false, $mma_m, $mma_n, $warps, $prefetch>(a, b, sizes, first, k_range);
                let sums = sums.offset(split as usize * (m as usize * n as usize));
                tensor::finish(product, sums, sizes, first, Epilogue::Write);
            }
        }
    };
}
split_kernels!(4, 8, 4, 1, 2, gemm_nn_split_k_128x128, gemm_tn_split_k_128x128);
split_kernels!(2, 4, 4, 4, 3, gemm_nn_split_k_64x64, gemm_tn_split_k_64x64);

/// The sum of `N` elements over the splits, in their order, and of what is there.
#[inline(always)]
fn add<C: Pack<N>, const N: usize>(
    sums: Global<f32>,
    out: GlobalMut<C>,
    (count, splits, accumulate): (usize, u32, bool),
    index: usize,
) where
    f32: Pack<N>,
{
    let mut total = <f32 as Pack<N>>::load(sums, index);
    for split in 1..splits as usize {
        let more = <f32 as Pack<N>>::load(sums, split * count + index);
        for lane in 0..N {
            total[lane] += more[lane];
        }
    }
    if accumulate {
        let before = C::load(out.as_read(), index);
        for lane in 0..N {
            total[lane] += before[lane];
        }
    }
    C::store(out, index, total);
}

kernel! {
    /// out = Σ over p of sums\[p\], or out += that if `accumulate` is 1; out `[count]`, sums
    /// `[splits, count]`. Splits are added in their order, in f32; out is rounded once, to nearest even.
    ///
    /// Eight elements to a thread. No barriers. Reads every sum once and out where it accumulates,
    /// writes out once; `splits` − 1 additions, or `splits`, per element.
    pub fn gemm_split_k_sum<E> = gemm_split_k_sum_f32, gemm_split_k_sum_bf16; {
        block: BLOCK,
        grid: count.div_ceil(u64::from(BLOCK) * EACH as u64),
        shared: 0,
    } (
        sums: read f32 [splits * count] align 16,
        out: update E [count],
        count: scalar u64,
        splits: scalar u32,
        accumulate: scalar u32,
    ) requires { splits > 0, accumulate <= 1 } {
        let how = (count as usize, splits, accumulate == 1);
        let aligned = out.is_aligned() && count.is_multiple_of(EACH as u64);
        cover::<EACH, BLOCK>(
            count,
            aligned,
            |index| add::<E, EACH>(sums, out, how, index),
            |index| add::<E, 1>(sums, out, how, index),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_cover_k_once_in_whole_tiles() {
        for (k, splits) in [(8, 1), (8, 3), (32, 2), (296, 4), (4096, 7), (151_936, 16)] {
            let mut next = 0;
            for split in 0..splits {
                let (first, end) = k_range(k, splits, split);
                assert!(first == next && first <= end, "{k} in {splits}: split {split} is {first}..{end}");
                assert!(first.is_multiple_of(tensor::TILE_K) || first == k);
                next = end;
            }
            assert_eq!(next, k, "{splits} splits");
        }
    }
}

//! Products of few tiles and many terms, cut along k so that more multiprocessors have something to do.
//!
//! Where C is small and k large (gradients of the weights of small layers, of hidden states behind a large
//! head), tiles are fewer than multiprocessors. Then several blocks share a tile: each sums the levels of one
//! part of k and leaves f32 sums in a place of its own, `[parts, m, n]`, and [`gemm_split_k_sum_f32`] or
//! [`gemm_split_k_sum_bf16`] adds them in the order of the parts. There are no atomics, so that a product has the same
//! bits in every run; they depend on the number of parts, and so on the sizes and the device. Besides the
//! operands, 8 bytes per element and part are moved. How many parts pay is `Cut`'s to say.

use super::output::{Finish, origin};
use super::{sizes, tensor};
use crate::simt::*;

/// Threads of a block that adds parts.
const BLOCK: u32 = 256;
/// Elements of a thread of it.
const EACH: usize = 8;

/// The levels of part `part` of `parts`: whole stages but for the last, which may have none.
#[inline(always)]
fn levels(k: u32, parts: u32, part: u32) -> (u32, u32) {
    let length = k.div_ceil(tensor::DEPTH).div_ceil(parts) * tensor::DEPTH;
    let first = (part * length).min(k);
    (first, (first + length).min(k))
}

macro_rules! part_kernels {
    ($tall:literal, $wide:literal, $warps:literal, $ahead:literal, $resident:literal, $nn:ident, $tn:ident) => {
        part_kernel! {
            "sums\\[p\\] = a·b over part p of k; sums `[parts, m, n]`, a `[m, k]`, b `[k, n]`.",
            $nn, $tall, $wide, $warps, $ahead, $resident, along_k true
        }
        part_kernel! {
            "sums\\[p\\] = aᵀ·b over part p of k; sums `[parts, m, n]`, a `[k, m]`, b `[k, n]`.",
            $tn, $tall, $wide, $warps, $ahead, $resident, along_k false
        }
    };
}

macro_rules! part_kernel {
    (
        $formula:literal, $name:ident, $tall:literal, $wide:literal, $warps:literal, $ahead:literal,
        $resident:literal, along_k $along_k:literal
    ) => {
        kernel! {
            #[doc = $formula]
            ///
            /// On tensor cores. A block per tile and part, the tiles of a part one after another, each as in the
            /// other kernels for products. All threads reach every barrier. Reads a tile's height and width of
            /// operands per level, writes every element once per part; two operations per element and level.
            pub fn $name {
                block: $warps * WARP,
                grid: tensor::count(m, n, $tall, $wide, $warps) * parts,
                shared: tensor::shared_bytes($tall, $wide, $warps, $ahead),
                resident: $resident,
                tensor: Held,
            } (
                a: read Bf16 [m * k] align 16,
                b: read Bf16 [k * n] align 16,
                sums: write f32 [parts * m * n] align 16,
                m: scalar u64,
                n: scalar u64,
                k: scalar u64,
                parts: scalar u32,
            ) requires {
                m < 1 << 31, n < 1 << 31, k < 1 << 31, (if $along_k { k } else { m }).is_multiple_of(8),
                n.is_multiple_of(8), parts > 0, parts < 1 << 16,
            } {
                let sizes = sizes(m, n, k);
                let (height, width) = (tensor::rows($tall), tensor::columns($wide, $warps));
                let tiles = sizes.m.div_ceil(height) * sizes.n.div_ceil(width);
                let (tile, part) = (block_idx() % tiles, block_idx() / tiles);
                let first = origin(sizes, tile, height, width);
                let levels = levels(sizes.k, parts, part);
                let product =
                    tensor::product::<$along_k, false, $tall, $wide, $warps, $ahead>(a, b, sizes, first, levels);
                let sums = sums.offset(part as usize * (m as usize * n as usize));
                tensor::finish(product, sums, sizes, first, Finish::Write);
            }
        }
    };
}
part_kernels!(4, 8, 4, 1, 2, gemm_nn_split_k_128x128, gemm_tn_split_k_128x128);
part_kernels!(2, 4, 4, 4, 3, gemm_nn_split_k_64x64, gemm_tn_split_k_64x64);

/// The sum of `N` elements over the parts, in their order, and of what is there.
#[inline(always)]
fn add<C: Pack<N>, const N: usize>(
    sums: Global<f32>,
    out: GlobalMut<C>,
    (count, parts, accumulate): (usize, u32, bool),
    index: usize,
) where
    f32: Pack<N>,
{
    let mut total = <f32 as Pack<N>>::load(sums, index);
    for part in 1..parts as usize {
        let more = <f32 as Pack<N>>::load(sums, part * count + index);
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

macro_rules! add_kernel {
    ($name:ident, $real:ident) => {
        kernel! {
            /// out = Σ over p of sums\[p\], or out += that if `accumulate` is 1; out `[count]`, sums
            /// `[parts, count]`. Parts are added in their order, in f32; out is rounded once, to nearest even.
            ///
            /// Eight elements to a thread. No barriers. Reads every sum once and out where it accumulates,
            /// writes out once; `parts` − 1 additions, or `parts`, per element.
            pub fn $name { block: BLOCK, grid: count.div_ceil(u64::from(BLOCK) * EACH as u64), shared: 0 } (
                sums: read f32 [parts * count] align 16,
                out: update $real [count],
                count: scalar u64,
                parts: scalar u32,
                accumulate: scalar u32,
            ) requires { parts > 0, accumulate <= 1 } {
                let how = (count as usize, parts, accumulate == 1);
                let aligned = out.is_aligned() && count.is_multiple_of(EACH as u64);
                cover::<EACH, BLOCK>(
                    count,
                    aligned,
                    |index| add::<$real, EACH>(sums, out, how, index),
                    |index| add::<$real, 1>(sums, out, how, index),
                );
            }
        }
    };
}
add_kernel!(gemm_split_k_sum_f32, f32);
add_kernel!(gemm_split_k_sum_bf16, Bf16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_all_levels_once_from_whole_stages_on() {
        for (k, parts) in [(8, 1), (8, 3), (32, 2), (296, 4), (4096, 7), (151_936, 16)] {
            let mut next = 0;
            for part in 0..parts {
                let (first, end) = levels(k, parts, part);
                assert!(first == next && first <= end, "{k} in {parts}: part {part} is {first}..{end}");
                assert!(first.is_multiple_of(tensor::DEPTH) || first == k);
                next = end;
            }
            assert_eq!(next, k, "{parts} parts");
        }
    }
}

//! Products of attention's forward pass by warpgroups.

use core::arch::asm;

use super::{Mbarrier, sync_warp};
use crate::simt::{AFragments, Accumulators, MatrixDescriptor, lane_id, warpgroup_sizes};

macro_rules! scores_alone {
    ([$q:ident $k:ident $scores:ident $next:ident]
        $_values:tt $_n:tt $shape:literal [$($step:tt)*] $j:tt $_sums:tt $_behind:tt $alone:tt) => {
        begin_and_await!(
            ["mov.b64 a, {q}; mov.b64 b, {k};" $(, scores_step!($step $shape $alone))*],
            $next, [], [out $scores $j],
            q = in(reg64) $q.descriptor(),
            k = in(reg64) $k.descriptor(),
        )
    };
}

macro_rules! values_alone {
    ([$p:ident $v:ident $sums:ident $next:ident]
        $shape:tt $n:tt $_scores:literal $_steps:tt [$($j:tt)*] $eights:tt $_behind:tt $_alone:tt) => {
        begin_and_await!(
            [$(values_step!($j $shape $eights)),*],
            $next, [in $p [$($j)*]], [inout $sums $n],
            v = in(reg64) $v.descriptor(),
        )
    };
}

macro_rules! scores_and_values {
    ([$q:ident $k:ident $scores:ident $p:ident $v:ident $sums:ident $next:ident]
        $values:tt $n:tt $shape:literal [$($step:tt)*] [$($j:tt)*] $eights:tt $behind:tt $_alone:tt) => {
        begin_and_await!(
            [
                "mov.b64 a, {q}; mov.b64 b, {k};"
                $(, scores_step!($step $shape $behind))*
                $(, values_step!($j $values $eights))*
            ],
            $next, [in $p [$($j)*]], [inout $sums $n out $scores [$($j)*]],
            q = in(reg64) $q.descriptor(),
            k = in(reg64) $k.descriptor(),
            v = in(reg64) $v.descriptor(),
        )
    };
}

/// Products of attention for the sizes that there are: instruction of the values, or of the rest behind 64 columns, and
/// sums; instruction and steps of
/// the scores, and the keys by 16; and by eights, behind the weights, the registers of the sums, those of the scores
/// behind these, and those of the scores alone.
macro_rules! by_size {
    ($products:ident $arguments:tt) => {
        #[allow(unconditional_panic)] // Constant conditions, which the lint does not know.
        if const { N == 4 } {
            $products!($arguments "m64n64k16" [0 1 2 3]
                "m64n128k16" [first next next next] [0 1 2 3 4 5 6 7]
                [4 5 6 7] [8 9 10 11 12 13 14 15] [0 1 2 3 4 5 6 7])
        } else if const { N == 5 } {
            $products!($arguments ("m64n16k16" behind 1024) [0 1 2 3 4]
                "m64n128k16" [first next next next tile_of_128] [0 1 2 3 4 5 6 7]
                [4 5 6 7 8] [9 10 11 12 13 14 15 16] [0 1 2 3 4 5 6 7])
        } else if const { N == 6 } {
            $products!($arguments ("m64n32k16" behind 1024) [0 1 2 3 4 5]
                "m64n128k16" [first next next next tile_of_128 next] [0 1 2 3 4 5 6 7]
                [4 5 6 7 8 9] [10 11 12 13 14 15 16 17] [0 1 2 3 4 5 6 7])
        } else if const { N == 8 } {
            $products!($arguments "m64n128k16" [0 1 2 3 4 5 6 7]
                "m64n128k16" [first next next next tile_of_128 next next next] [0 1 2 3 4 5 6 7]
                [4 5 6 7 8 9 10 11] [12 13 14 15 16 17 18 19] [0 1 2 3 4 5 6 7])
        } else {
            $products!($arguments "m64n256k16" [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15]
                "m64n64k16" [first next next next tile_of_64 next next next tile_of_64 next next next
                    tile_of_64 next next next] [0 1 2 3]
                [2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17] [18 19 20 21] [0 1 2 3])
        }
    };
}

/// q·kᵀ, by the tensor cores, for the threads of a warpgroup as in [`warpgroup_multiply`]: 64 queries by `16·J` keys.
///
/// Both are along k, which is a head's `16·N` elements: tiles of 64 elements lie one behind the other. Lane 0 of
/// every warp arrives at `next` as soon as the products have begun. There are [`these`](warpgroup_sizes) sizes.
#[inline(always)]
pub fn warpgroup_scores<const N: usize, const J: usize>(
    q: MatrixDescriptor,
    k: MatrixDescriptor,
    next: Mbarrier,
) -> Accumulators<J> {
    const { assert!(warpgroup_sizes(N, J)) };
    let mut scores = [[[0.0; 4]; 2]; J];
    sync_warp();
    // SAFETY: as in `warpgroup_multiply`; `next` is an initialised barrier, by the kernel's contract.
    unsafe {
        by_size!(scores_alone [q k scores next]);
    }
    scores
}

/// sums += p·v, otherwise as [`warpgroup_scores`]: `p` are the weights of `16·J` keys in registers; `v`, across k, has
/// `16·N` elements for each, in tiles of 64 elements.
#[inline(always)]
pub fn warpgroup_add_values<const N: usize, const J: usize>(
    p: &AFragments<J>,
    v: MatrixDescriptor,
    sums: &mut Accumulators<N>,
    next: Mbarrier,
) {
    const { assert!(warpgroup_sizes(N, J)) };
    sync_warp();
    // SAFETY: as for `warpgroup_scores`.
    unsafe {
        by_size!(values_alone [p v sums next]);
    }
}

/// [`warpgroup_scores`] of the next keys and [`warpgroup_add_values`] of these, begun together.
#[inline(always)]
pub fn warpgroup_scores_and_values<const N: usize, const J: usize>(
    (q, k): (MatrixDescriptor, MatrixDescriptor),
    (p, v): (&AFragments<J>, MatrixDescriptor),
    sums: &mut Accumulators<N>,
    next: Mbarrier,
) -> Accumulators<J> {
    const { assert!(warpgroup_sizes(N, J)) };
    let mut scores = [[[0.0; 4]; 2]; J];
    sync_warp();
    // SAFETY: as for `warpgroup_scores`.
    unsafe {
        by_size!(scores_and_values [q k scores p v sums next]);
    }
    scores
}

//! Products of attention's backward pass by warpgroups: of 64 rows by tiles of 64.

use core::arch::asm;

use super::{Mbarrier, sync_warp};
use crate::simt::{AFragments, Accumulators, MatrixDescriptor, lane_id, warpgroup_narrow_sizes};

macro_rules! two_scores {
    ([$a:ident $b:ident $c:ident $d:ident $scores:ident $others:ident $next:ident]
        $_shape:tt $_n:tt [$($step:tt)*] $_behind_one:tt $_behind_two:tt $_others:tt) => {
        begin_and_await!(
            [
                "mov.b64 a, {a}; mov.b64 b, {b};"
                $(, scores_step!($step "m64n64k16" [0 1 2 3]))*
                , "mov.b64 a, {c}; mov.b64 b, {d};"
                $(, scores_step!($step "m64n64k16" [4 5 6 7]))*
            ],
            $next, [], [out $scores [0 1 2 3] out $others [0 1 2 3]],
            a = in(reg64) $a.descriptor(),
            b = in(reg64) $b.descriptor(),
            c = in(reg64) $c.descriptor(),
            d = in(reg64) $d.descriptor(),
        )
    };
}

macro_rules! narrow_values {
    ([$p:ident $v:ident $sums:ident $next:ident]
        $shape:tt $n:tt $_steps:tt $eights:tt $_behind_two:tt $_others:tt) => {
        begin_and_await!(
            [
                values_step!(0 $shape $eights), values_step!(1 $shape $eights),
                values_step!(2 $shape $eights), values_step!(3 $shape $eights)
            ],
            $next, [in $p [0 1 2 3]], [inout $sums $n],
            v = in(reg64) $v.descriptor(),
        )
    };
}

macro_rules! two_values {
    ([$p:ident $v:ident $sums:ident $q:ident $w:ident $others:ident $next:ident]
        $shape:tt $n:tt $_steps:tt $_behind_one:tt $eights:tt $more:tt) => {
        begin_and_await!(
            [
                values_step!(0 $shape $eights), values_step!(1 $shape $eights),
                values_step!(2 $shape $eights), values_step!(3 $shape $eights),
                values_step!(4 of_others $shape $more), values_step!(5 of_others $shape $more),
                values_step!(6 of_others $shape $more), values_step!(7 of_others $shape $more)
            ],
            $next, [in $p [0 1 2 3] in $q [0 1 2 3]], [inout $sums $n inout $others $n],
            v = in(reg64) $v.descriptor(),
            w = in(reg64) $w.descriptor(),
        )
    };
}

/// The products above by the size of a head: instruction and columns of the sums, steps of the scores; and by eights
/// the registers of sums behind one list of weights, behind two, and of other sums behind these.
macro_rules! by_head {
    ($products:ident $arguments:tt) => {
        #[allow(unconditional_panic)] // Constant conditions, which the lint does not know.
        if const { N == 4 } {
            $products!($arguments "m64n64k16" [0 1 2 3] [first next next next]
                [2 3 4 5] [4 5 6 7] [8 9 10 11])
        } else if const { N == 5 } {
            $products!($arguments ("m64n16k16" behind 512) [0 1 2 3 4] [first next next next tile_of_64]
                [2 3 4 5 6] [4 5 6 7 8] [9 10 11 12 13])
        } else if const { N == 6 } {
            $products!($arguments ("m64n32k16" behind 512) [0 1 2 3 4 5] [first next next next tile_of_64 next]
                [2 3 4 5 6 7] [4 5 6 7 8 9] [10 11 12 13 14 15])
        } else {
            $products!($arguments "m64n128k16" [0 1 2 3 4 5 6 7]
                [first next next next tile_of_64 next next next]
                [2 3 4 5 6 7 8 9] [4 5 6 7 8 9 10 11] [12 13 14 15 16 17 18 19])
        }
    };
}

/// a·bᵀ and c·dᵀ, begun together, otherwise as [`warpgroup_scores`](super::warpgroup_scores): each of 64 lines by 64,
/// heads of 64, 80, 96 or 128 elements.
#[inline(always)]
pub fn warpgroup_two_scores<const N: usize>(
    (a, b): (MatrixDescriptor, MatrixDescriptor),
    (c, d): (MatrixDescriptor, MatrixDescriptor),
    next: Mbarrier,
) -> (Accumulators<4>, Accumulators<4>) {
    const { assert!(warpgroup_narrow_sizes(N)) };
    let (mut scores, mut others) = ([[[0.0; 4]; 2]; 4], [[[0.0; 4]; 2]; 4]);
    sync_warp();
    // SAFETY: as for `warpgroup_scores`.
    unsafe {
        by_head!(two_scores [a b c d scores others next]);
    }
    (scores, others)
}

/// sums += p·v over 64 keys, otherwise as [`warpgroup_add_values`](super::warpgroup_add_values).
#[inline(always)]
pub fn warpgroup_add_narrow_values<const N: usize>(
    p: &AFragments<4>,
    v: MatrixDescriptor,
    sums: &mut Accumulators<N>,
    next: Mbarrier,
) {
    const { assert!(warpgroup_narrow_sizes(N)) };
    sync_warp();
    // SAFETY: as for `warpgroup_scores`.
    unsafe {
        by_head!(narrow_values [p v sums next]);
    }
}

/// sums += p·v and others += q·w, begun together, each as by [`warpgroup_add_narrow_values`].
#[inline(always)]
pub fn warpgroup_add_two_values<const N: usize>(
    (p, v, sums): (&AFragments<4>, MatrixDescriptor, &mut Accumulators<N>),
    (q, w, others): (&AFragments<4>, MatrixDescriptor, &mut Accumulators<N>),
    next: Mbarrier,
) {
    const { assert!(warpgroup_narrow_sizes(N)) };
    sync_warp();
    // SAFETY: as for `warpgroup_scores`.
    unsafe {
        by_head!(two_values [p v sums q w others next]);
    }
}

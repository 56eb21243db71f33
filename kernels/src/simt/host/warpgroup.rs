//! Products by warpgroups (`wgmma`), as documented.

use super::super::warpgroup::{STEP_K_MAJOR, STEP_MN_MAJOR, SWIZZLED_COLUMNS, next_tile};
use super::{Mbarrier, sync_warp};
use crate::emulator::instructions::{self, Point, SharedOperand, WgmmaA, WgmmaInstruction};
use crate::simt::{
    AFragments, Accumulators, MatrixDescriptor, WarpgroupAccumulators, lane_id, warpgroup_narrow_sizes,
    warpgroup_sizes,
};

/// sums += a·b over 64 along k, by the tensor cores: for all threads of four warps, the first of them warp 0, 4,
/// 8 and so on. Sums are of 64 rows and 128 · `HALVES` columns, see [`WarpgroupAccumulators`].
///
/// What copies have written to the operands is read right away, what threads have behind [`fence_proxy_async`] and
/// a barrier; when this returns, they have been read.
///
/// Sums in order of k with one rounding a step; hardware adds in an order of its own.
#[track_caller]
pub fn warpgroup_multiply<const A_K_MAJOR: bool, const B_K_MAJOR: bool, const HALVES: usize>(
    sums: &mut WarpgroupAccumulators<HALVES>,
    a: MatrixDescriptor,
    b: MatrixDescriptor,
) {
    const { assert!(HALVES == 1 || HALVES == 2) };
    let instructions = [0, 16, 32, 48].map(|k_offset| {
        let at = |operand: MatrixDescriptor, k_major| SharedOperand {
            bits: operand.at_k(k_offset, k_major),
            k_major,
        };
        WgmmaInstruction {
            a: WgmmaA::Shared(at(a, A_K_MAJOR)),
            b: at(b, B_K_MAJOR),
            columns: 128 * HALVES as u32,
            accumulate: true,
            sums: sums.as_mut_ptr().cast(),
        }
    });
    // SAFETY: the sums are as many, and borrowed.
    unsafe { instructions::warpgroup_multiply(Point::caller(), &instructions) };
}

/// q·kᵀ, by the tensor cores, for the threads of a warpgroup as in [`warpgroup_multiply`]: 64 queries by `16·J` keys.
///
/// Both are along k, which is a head's `16·N` elements: tiles of 64 elements lie one behind the other. Lane 0 of
/// every warp arrives at `next` as soon as the products have begun. There are [`these`](warpgroup_sizes) sizes.
#[track_caller]
pub fn warpgroup_scores<const N: usize, const J: usize>(
    q: MatrixDescriptor,
    k: MatrixDescriptor,
    next: Mbarrier,
) -> Accumulators<J> {
    const { assert!(warpgroup_sizes(N, J)) };
    let mut scores = [[[f32::NAN; 4]; 2]; J];
    tell(next);
    multiply(&scores_steps(N, (q, k), &mut scores));
    scores
}

/// sums += p·v, otherwise as [`warpgroup_scores`]: `p` are the weights of `16·J` keys in registers; `v`, across k, has
/// `16·N` elements for each, in tiles of 64 elements.
#[track_caller]
pub fn warpgroup_add_values<const N: usize, const J: usize>(
    p: &AFragments<J>,
    v: MatrixDescriptor,
    sums: &mut Accumulators<N>,
    next: Mbarrier,
) {
    const { assert!(warpgroup_sizes(N, J)) };
    tell(next);
    multiply(&values_steps((p, v), sums));
}

/// [`warpgroup_scores`] of the next keys and [`warpgroup_add_values`] of these, begun together.
#[track_caller]
pub fn warpgroup_scores_and_values<const N: usize, const J: usize>(
    (q, k): (MatrixDescriptor, MatrixDescriptor),
    (p, v): (&AFragments<J>, MatrixDescriptor),
    sums: &mut Accumulators<N>,
    next: Mbarrier,
) -> Accumulators<J> {
    const { assert!(warpgroup_sizes(N, J)) };
    let mut scores = [[[f32::NAN; 4]; 2]; J];
    tell(next);
    multiply(&[scores_steps(N, (q, k), &mut scores), values_steps((p, v), sums)].concat());
    scores
}

/// a·bᵀ and c·dᵀ, begun together, otherwise as [`warpgroup_scores`]: each of 64 lines by 64, heads of 64, 80, 96 or 128
/// elements.
#[track_caller]
pub fn warpgroup_two_scores<const N: usize>(
    one: (MatrixDescriptor, MatrixDescriptor),
    other: (MatrixDescriptor, MatrixDescriptor),
    next: Mbarrier,
) -> (Accumulators<4>, Accumulators<4>) {
    const { assert!(warpgroup_narrow_sizes(N)) };
    let (mut scores, mut others) = ([[[f32::NAN; 4]; 2]; 4], [[[f32::NAN; 4]; 2]; 4]);
    tell(next);
    multiply(&[scores_steps(N, one, &mut scores), scores_steps(N, other, &mut others)].concat());
    (scores, others)
}

/// sums += p·v over 64 keys, otherwise as [`warpgroup_add_values`].
#[track_caller]
pub fn warpgroup_add_narrow_values<const N: usize>(
    p: &AFragments<4>,
    v: MatrixDescriptor,
    sums: &mut Accumulators<N>,
    next: Mbarrier,
) {
    const { assert!(warpgroup_narrow_sizes(N)) };
    tell(next);
    multiply(&values_steps((p, v), sums));
}

/// sums += p·v and others += q·w, begun together, each as by [`warpgroup_add_narrow_values`].
#[track_caller]
pub fn warpgroup_add_two_values<const N: usize>(
    (p, v, sums): (&AFragments<4>, MatrixDescriptor, &mut Accumulators<N>),
    (q, w, others): (&AFragments<4>, MatrixDescriptor, &mut Accumulators<N>),
    next: Mbarrier,
) {
    const { assert!(warpgroup_narrow_sizes(N)) };
    tell(next);
    multiply(&[values_steps((p, v), sums), values_steps((q, w), others)].concat());
}

/// Over the `16·n` elements of a head.
fn scores_steps<const J: usize>(
    n: usize,
    (q, k): (MatrixDescriptor, MatrixDescriptor),
    scores: &mut Accumulators<J>,
) -> Vec<WgmmaInstruction> {
    let at = |operand: MatrixDescriptor, lines: u64, step: u64| {
        let tile = next_tile(lines) + 3 * STEP_K_MAJOR;
        let bits = operand.descriptor() + step / 4 * tile + step % 4 * STEP_K_MAJOR;
        SharedOperand { bits, k_major: true }
    };
    let sums = scores.as_mut_ptr().cast();
    let instruction = |step: u64| WgmmaInstruction {
        a: WgmmaA::Shared(at(q, 64, step)),
        b: at(k, 16 * J as u64, step),
        columns: 16 * J as u32,
        accumulate: step > 0,
        sums,
    };
    (0..n as u64).map(instruction).collect()
}

/// Over the `16·J` keys that the weights are of.
fn values_steps<const N: usize, const J: usize>(
    (p, v): (&AFragments<J>, MatrixDescriptor),
    sums: &mut Accumulators<N>,
) -> Vec<WgmmaInstruction> {
    let sums: *mut f32 = sums.as_mut_ptr().cast();
    let columns = 16 * N as u32;
    // Instructions end where what is swizzled together does: 64 columns, then the rest.
    let first = if columns.is_multiple_of(SWIZZLED_COLUMNS) { columns } else { SWIZZLED_COLUMNS };
    let parts = [(0, first), (first, columns - first)].into_iter().filter(|&(_, columns)| columns > 0);
    let instruction = |(step, &weights): (u64, &[u32; 4]), (begin, columns): (u32, u32)| {
        let tile = u64::from(begin / SWIZZLED_COLUMNS) * v.leading();
        WgmmaInstruction {
            a: WgmmaA::Registers(weights),
            b: SharedOperand { bits: v.descriptor() + step * STEP_MN_MAJOR + tile, k_major: false },
            columns,
            accumulate: true,
            sums: sums.wrapping_add(begin as usize / 2),
        }
    };
    (0..).zip(p).flat_map(|step| parts.clone().map(move |part| instruction(step, part))).collect()
}

/// Products begin: no lane waits for anything before any more.
#[track_caller]
fn tell(next: Mbarrier) {
    sync_warp();
    if lane_id() == 0 {
        next.arrive();
    }
}

/// Waits for the warpgroup, and for its products to be made: of sums as long as the sizes say, which the caller borrows.
#[track_caller]
fn multiply(steps: &[WgmmaInstruction]) {
    // SAFETY: every list above comes from sums of that many columns, borrowed until this returns.
    unsafe { instructions::warpgroup_multiply(Point::caller(), steps) };
}

/// Gives registers of this thread's back, so that it has `COUNT`, a multiple of 8. For all threads of a warpgroup.
pub fn setmaxnreg_dec<const COUNT: u32>() {}

/// Waits until there are registers for this thread to have `COUNT`, a multiple of 8. For all threads of a warpgroup.
pub fn setmaxnreg_inc<const COUNT: u32>() {}

//! Products by groups of four warps (`wgmma`), as documented.

use super::super::group::{STEP_ACROSS, STEP_ALONG, next_tile};
use super::{Arrivals, sync_warp};
use crate::emulator::instructions::{self, Description, GroupA, GroupInstruction, Point};
use crate::simt::{GroupSums, Operand, Operands, Sums, group_sizes, lane_id, narrow_group_sizes};

/// sums += a·b over 64 levels of k, by the tensor cores: for all threads of four warps, the first of them warp 0, 4,
/// 8 and so on. Sums are of 64 rows and 128 · `HALVES` columns, see [`GroupSums`].
///
/// What copies have written to the operands is read right away, what threads have behind [`fence_async`] and
/// a barrier; when this returns, they have been read.
///
/// Sums in order of k with one rounding a step; hardware adds in an order of its own.
#[track_caller]
pub fn multiply_by_group<const A_ALONG_K: bool, const B_ALONG_K: bool, const HALVES: usize>(
    sums: &mut GroupSums<HALVES>,
    a: Operand,
    b: Operand,
) {
    const { assert!(HALVES == 1 || HALVES == 2) };
    let instructions = [0, 16, 32, 48].map(|level| {
        let at = |operand: Operand, along_k| Description { bits: operand.level(level, along_k), along_k };
        GroupInstruction {
            a: GroupA::Shared(at(a, A_ALONG_K)),
            b: at(b, B_ALONG_K),
            columns: 128 * HALVES as u32,
            accumulate: true,
            sums: sums.as_mut_ptr().cast(),
        }
    });
    // SAFETY: the sums are as many, and borrowed.
    unsafe { instructions::multiply_by_group(Point::caller(), &instructions) };
}

/// q·kᵀ, by the tensor cores, for the threads of a group as in [`multiply_by_group`]: 64 queries by `16·J` keys.
///
/// Both are along k, which is a head's `16·N` elements: tiles of 64 elements lie one behind the other. Lane 0 of
/// every warp arrives at `next` as soon as the products have begun. There are [`these`](group_sizes) sizes.
#[track_caller]
pub fn scores_by_group<const N: usize, const J: usize>(q: Operand, k: Operand, next: Arrivals) -> Sums<J> {
    const { assert!(group_sizes(N, J)) };
    let mut scores = [[[f32::NAN; 4]; 2]; J];
    tell(next);
    multiply(&scores_steps(N, (q, k), &mut scores));
    scores
}

/// sums += p·v, otherwise as [`scores_by_group`]: `p` are the weights of `16·J` keys in registers; `v`, across k, has
/// `16·N` elements for each, in tiles of 64 elements.
#[track_caller]
pub fn add_values_by_group<const N: usize, const J: usize>(
    p: &Operands<J>,
    v: Operand,
    sums: &mut Sums<N>,
    next: Arrivals,
) {
    const { assert!(group_sizes(N, J)) };
    tell(next);
    multiply(&values_steps((p, v), sums));
}

/// [`scores_by_group`] of the next keys and [`add_values_by_group`] of these, begun together.
#[track_caller]
pub fn scores_and_values_by_group<const N: usize, const J: usize>(
    (q, k): (Operand, Operand),
    (p, v): (&Operands<J>, Operand),
    sums: &mut Sums<N>,
    next: Arrivals,
) -> Sums<J> {
    const { assert!(group_sizes(N, J)) };
    let mut scores = [[[f32::NAN; 4]; 2]; J];
    tell(next);
    multiply(&[scores_steps(N, (q, k), &mut scores), values_steps((p, v), sums)].concat());
    scores
}

/// a·bᵀ and c·dᵀ, begun together, otherwise as [`scores_by_group`]: each of 64 lines by 64, heads of 64, 80, 96 or 128
/// elements.
#[track_caller]
pub fn two_scores_by_group<const N: usize>(
    one: (Operand, Operand),
    other: (Operand, Operand),
    next: Arrivals,
) -> (Sums<4>, Sums<4>) {
    const { assert!(narrow_group_sizes(N)) };
    let (mut scores, mut others) = ([[[f32::NAN; 4]; 2]; 4], [[[f32::NAN; 4]; 2]; 4]);
    tell(next);
    multiply(&[scores_steps(N, one, &mut scores), scores_steps(N, other, &mut others)].concat());
    (scores, others)
}

/// sums += p·v over 64 keys, otherwise as [`add_values_by_group`].
#[track_caller]
pub fn add_narrow_values_by_group<const N: usize>(
    p: &Operands<4>,
    v: Operand,
    sums: &mut Sums<N>,
    next: Arrivals,
) {
    const { assert!(narrow_group_sizes(N)) };
    tell(next);
    multiply(&values_steps((p, v), sums));
}

/// sums += p·v and others += q·w, begun together, each as by [`add_narrow_values_by_group`].
#[track_caller]
pub fn add_two_values_by_group<const N: usize>(
    (p, v, sums): (&Operands<4>, Operand, &mut Sums<N>),
    (q, w, others): (&Operands<4>, Operand, &mut Sums<N>),
    next: Arrivals,
) {
    const { assert!(narrow_group_sizes(N)) };
    tell(next);
    multiply(&[values_steps((p, v), sums), values_steps((q, w), others)].concat());
}

/// Over the `16·n` elements of a head.
fn scores_steps<const J: usize>(
    n: usize,
    (q, k): (Operand, Operand),
    scores: &mut Sums<J>,
) -> Vec<GroupInstruction> {
    let at = |operand: Operand, lines: u64, step: u64| {
        let tile = next_tile(lines) + 3 * STEP_ALONG;
        let bits = operand.description() + step / 4 * tile + step % 4 * STEP_ALONG;
        Description { bits, along_k: true }
    };
    let sums = scores.as_mut_ptr().cast();
    let instruction = |step: u64| GroupInstruction {
        a: GroupA::Shared(at(q, 64, step)),
        b: at(k, 16 * J as u64, step),
        columns: 16 * J as u32,
        accumulate: step > 0,
        sums,
    };
    (0..n as u64).map(instruction).collect()
}

/// Over the `16·J` keys that the weights are of.
fn values_steps<const N: usize, const J: usize>(
    (p, v): (&Operands<J>, Operand),
    sums: &mut Sums<N>,
) -> Vec<GroupInstruction> {
    let sums = sums.as_mut_ptr().cast();
    let instruction = |(step, &weights): (u64, &[u32; 4])| GroupInstruction {
        a: GroupA::Registers(weights),
        b: Description { bits: v.description() + step * STEP_ACROSS, along_k: false },
        columns: 16 * N as u32,
        accumulate: true,
        sums,
    };
    (0..).zip(p).map(instruction).collect()
}

/// Products begin: no lane waits for anything before any more.
#[track_caller]
fn tell(next: Arrivals) {
    sync_warp();
    if lane_id() == 0 {
        next.arrive();
    }
}

/// Waits for the group, and for its products to be made: of sums as long as the sizes say, which the caller borrows.
#[track_caller]
fn multiply(steps: &[GroupInstruction]) {
    // SAFETY: every list above comes from sums of that many columns, borrowed until this returns.
    unsafe { instructions::multiply_by_group(Point::caller(), steps) };
}

/// Gives registers of this thread's back, so that it has `COUNT`, a multiple of 8. For all threads of a group.
pub fn release_registers<const COUNT: u32>() {}

/// Waits until there are registers for this thread to have `COUNT`, a multiple of 8. For all threads of a group.
pub fn acquire_registers<const COUNT: u32>() {}

//! Copies of tiles, mbarriers and products by warpgroups: right ones are, and what is wrong with
//! broken ones is named.

use crate::common::{Buffer, SCHEDULES, random, widen};
use cpift_kernels::emulator::{Cause, Emulator, Fault};
use cpift_kernels::kernel;
use cpift_kernels::launch::LaunchError;
use cpift_kernels::simt::*;

/// Errors that the kernel below can be told to make.
mod wrong {
    pub const NOTHING: u32 = 0;
    /// The warpgroup does not wait until a stage has arrived.
    pub const NO_WAIT_FOR_FULL: u32 = 1;
    /// It waits for the phase before.
    pub const FULL_PARITY: u32 = 2;
    /// It gives a stage back before it has read it.
    pub const EARLY_RELEASE: u32 = 3;
    /// The fetching thread does not wait until a place is free.
    pub const NO_WAIT_FOR_EMPTY: u32 = 4;
    /// It waits for the phase behind.
    pub const EMPTY_PARITY: u32 = 5;
    /// It announces fewer bytes than it copies.
    pub const FEWER_BYTES: u32 = 6;
    /// It announces more.
    pub const MORE_BYTES: u32 = 7;
    /// A place is free when three warps of four have read it.
    pub const FEWER_ARRIVALS: u32 = 8;
    /// TMA is not told of the barriers.
    pub const NO_FENCE: u32 = 9;
    /// Nor are the other threads.
    pub const NO_BARRIER: u32 = 10;
    /// A warp does not take part in the product.
    pub const A_WARP_LESS: u32 = 11;
    /// The fetching thread returns while its last copy is under way, and nobody waits for it.
    pub const LEFTOVER: u32 = 12;
}

/// Bytes of A and of both in a stage.
const A_BYTES: u32 = 64 * 128;
const STAGE: u32 = A_BYTES + 128 * 128;
/// Stages.
const RING: u32 = 2;

kernel! {
    /// out = a·bᵀ; out `[64, 128]`, a `[64, k]`, b `[128, k]`. Four warps multiply, a lane of the fifth is the producer.
    pub fn ring { block: 160, grid: 1, shared: u64::from(RING * STAGE + 32), architecture: "sm_90a" } (
        a: tensor_map Bf16 [64 * k] align 16 of [64, k] by 64 at 0,
        b: tensor_map Bf16 [128 * k] align 16 of [128, k] by 128 at 1,
        out: write f32 [64 * 128],
        k: scalar u64,
        wrong: scalar u32,
    ) {
        let full = |slot: u32| Mbarrier::new(RING * STAGE + 8 * slot);
        let empty = |slot: u32| Mbarrier::new(RING * STAGE + 16 + 8 * slot);
        let stage_a = |slot: u32| Shared::<Bf16>::new(slot * STAGE, A_BYTES / 2);
        let stage_b = |slot: u32| Shared::<Bf16>::new(slot * STAGE + A_BYTES, (STAGE - A_BYTES) / 2);
        if thread_idx() == 0 {
            for slot in 0..RING {
                full(slot).init(1);
                empty(slot).init(if wrong == wrong::FEWER_ARRIVALS { 3 } else { 4 });
            }
            if wrong != wrong::NO_FENCE {
                fence_mbarrier_init();
            }
        }
        if wrong != wrong::NO_BARRIER {
            sync_threads();
        }
        let stages = (k as u32).div_ceil(64);
        if warp_id() == 4 {
            for stage in 0..if lane_id() == 0 { stages } else { 0 } {
                let (slot, parity) = (stage % RING, stage / RING % 2);
                if wrong == wrong::EMPTY_PARITY {
                    empty(slot).wait(parity);
                } else if wrong != wrong::NO_WAIT_FOR_EMPTY {
                    empty(slot).wait(parity ^ 1);
                }
                full(slot).arrive_expect_tx(match wrong {
                    wrong::FEWER_BYTES => STAGE - 128,
                    wrong::MORE_BYTES => STAGE + 128,
                    _ => STAGE,
                });
                a.copy(0, 64 * stage, stage_a(slot), full(slot));
                b.copy(0, 64 * stage, stage_b(slot), full(slot));
            }
        } else {
            let mut sums = [[[0.0; 4]; 16]; 1];
            for stage in 0..stages - u32::from(wrong == wrong::LEFTOVER) {
                let (slot, parity) = (stage % RING, stage / RING % 2);
                if wrong == wrong::FULL_PARITY {
                    full(slot).wait(parity ^ 1);
                } else if wrong != wrong::NO_WAIT_FOR_FULL {
                    full(slot).wait(parity);
                }
                if wrong == wrong::EARLY_RELEASE && lane_id() == 0 {
                    empty(slot).arrive();
                }
                if wrong != wrong::A_WARP_LESS || warp_id() != 2 {
                    let (a, b) = (MatrixDescriptor::k_major(stage_a(slot)), MatrixDescriptor::k_major(stage_b(slot)));
                    warpgroup_multiply::<true, true, 1>(&mut sums, a, b);
                }
                if wrong != wrong::EARLY_RELEASE && lane_id() == 0 {
                    empty(slot).arrive();
                }
            }
            write(out, &sums);
        }
    }
}

/// Writes a warpgroup's sums, `[64, 128]`.
fn write(out: GlobalMut<f32>, sums: &WarpgroupAccumulators<1>) {
    for (tile, part) in sums[0].iter().enumerate() {
        for (index, &sum) in part.iter().enumerate() {
            let row = 16 * warp_id() + lane_id() / 4 + 8 * (index as u32 / 2);
            let column = 8 * tile as u32 + 2 * (lane_id() % 4) + index as u32 % 2;
            out.store((row * 128 + column) as usize, sum);
        }
    }
}

/// k of the tests: the pipeline is passed twice and a half, the last stage reaches over the edge.
const K: usize = 4 * 64 + 24;

fn run(schedule: usize, wrong: u32) -> (Result<(), LaunchError>, Buffer<f32>) {
    let (a, b, mut out) = (random::<Bf16>(1, 64 * K), random::<Bf16>(2, 128 * K), Buffer::poisoned(64 * 128));
    let emulator = Emulator::new(SCHEDULES[schedule]).like((9, 0), 1);
    (ring(&emulator, a.read(), b.read(), out.write(), K as u64, wrong), out)
}

/// A row of the one by a row of the other.
fn product(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn a_ring_of_stages_gives_the_product_in_every_schedule() {
    let (a, b) = (widen(random::<Bf16>(1, 64 * K).as_slice()), widen(random::<Bf16>(2, 128 * K).as_slice()));
    for schedule in 0..3 {
        let (result, out) = run(schedule, wrong::NOTHING);
        result.expect("runs");
        for (index, &sum) in out.as_slice().iter().enumerate() {
            let expected = product(&a[index / 128 * K..][..K], &b[index % 128 * K..][..K]);
            assert!((f64::from(sum) - expected).abs() < 1e-4, "{index}: {sum} instead of {expected}");
        }
    }
}

#[track_caller]
fn fault(result: Result<(), LaunchError>) -> Fault {
    match result {
        Err(LaunchError::Fault(fault)) => *fault,
        other => panic!("no fault: {other:?}"),
    }
}

/// The fault of an error in every schedule.
#[track_caller]
fn faults(wrong: u32) -> [Fault; 3] {
    [0, 1, 2].map(|schedule| fault(run(schedule, wrong).0))
}

#[test]
fn stages_that_have_not_arrived_are_found() {
    for error in [wrong::NO_WAIT_FOR_FULL, wrong::FULL_PARITY] {
        for fault in faults(error) {
            // A copy may not even have begun.
            assert!(
                matches!(
                    fault.cause,
                    Cause::Race { earlier: "is still copying to", .. }
                        | Cause::Uninitialised { .. }
                        | Cause::Unawaited { .. }
                ),
                "{error}: {fault}"
            );
        }
    }
}

#[test]
fn stages_that_are_overwritten_too_early_are_found() {
    for error in [wrong::EARLY_RELEASE, wrong::NO_WAIT_FOR_EMPTY, wrong::FEWER_ARRIVALS] {
        for fault in faults(error) {
            let copying = matches!(fault.cause, Cause::Race { earlier: "is still copying to", .. });
            // Or the phase in progress is not the one meant: it has all its arrivals, or never will.
            let arrivals = error != wrong::EARLY_RELEASE
                && matches!(fault.cause, Cause::Mbarrier { .. } | Cause::Deadlock(_));
            assert!(copying || arrivals, "{error}: {fault}");
        }
    }
}

#[test]
fn phases_that_do_not_end_are_reported_with_those_who_wait() {
    for error in [wrong::EMPTY_PARITY, wrong::FEWER_BYTES, wrong::MORE_BYTES] {
        for fault in faults(error) {
            assert!(matches!(fault.cause, Cause::Deadlock(_)), "{error}: {fault}");
            assert!(fault.threads.0.contains(&64), "{error}: {fault}");
        }
    }
    let message = fault(run(0, wrong::MORE_BYTES).0).to_string();
    let expected = "kernel ring, block (0, 0, 0), threads 0-128: deadlock: threads 0-127: waits for the phase of parity 0 at the barrier at byte 49152, at ";
    assert!(message.starts_with(expected), "{message}");
    let missing =
        "; 0 of 1 threads and 128 bytes are missing in phase 0; thread 128 (warp 4, lane 0): waits for";
    assert!(message.contains(missing), "{message}");
}

#[test]
fn barriers_that_others_do_not_know_of_are_found() {
    for fault in faults(wrong::NO_FENCE) {
        assert!(fault.to_string().contains("thread 0 initialised without fence_mbarrier_init"), "{fault}");
    }
    for fault in faults(wrong::NO_BARRIER) {
        assert!(matches!(fault.cause, Cause::Mbarrier { .. }), "{fault}");
    }
}

#[test]
fn a_group_multiplies_as_a_whole() {
    for fault in faults(wrong::A_WARP_LESS) {
        assert!(matches!(fault.cause, Cause::Divergence(_) | Cause::Race { .. }), "{fault}");
    }
}

#[test]
fn copies_must_be_waited_for_before_the_end() {
    // In other orders it is done while earlier ones are waited for.
    let fault = fault(run(0, wrong::LEFTOVER).0);
    assert!(fault.to_string().contains("is still under way"), "{fault}");
}

#[test]
fn devices_without_the_instructions_refuse() {
    let (a, b, mut out) = (random::<Bf16>(1, 64 * 8), random::<Bf16>(2, 128 * 8), Buffer::poisoned(64 * 128));
    let emulator = Emulator::new(SCHEDULES[0]);
    let refused = ring(&emulator, a.read(), b.read(), out.write(), 8, 0).unwrap_err();
    let expected = "kernel ring is for sm_90a alone, the device has compute capability 8.0";
    assert_eq!(refused.to_string(), expected);
    let emulator = Emulator::new(SCHEDULES[0]).like((9, 0), 1);
    let refused = ring(&emulator, a.read(), b.read(), out.write(), 0, 0).unwrap_err();
    let expected = "kernel ring: a has 64 by 0 rows and columns: each must be from 1 to 2^31 - 1";
    assert_eq!(refused.to_string(), expected);
}

/// How threads write the operands below.
mod how {
    pub const RIGHT: u32 = 0;
    /// Chunks are where they would be without a swizzle.
    pub const NOT_SWIZZLED: u32 = 1;
    /// The tensor cores are not told.
    pub const NOT_FENCED: u32 = 2;
    /// The next 64 columns lie elsewhere than said.
    pub const APART: u32 = 3;
}

kernel! {
    /// out = aᵀ·b over k = 64; out `[64, 128]`, a `[64, 64]`, b `[64, 128]`, which threads write to shared memory
    /// as the tensor cores want them: b as two tiles of 64 columns.
    pub fn by_hand { block: 128, grid: 1, shared: 3 * 8192, architecture: "sm_90a" } (
        a: read Bf16 [64 * 64],
        b: read Bf16 [64 * 128],
        out: write f32 [64 * 128],
        how: scalar u32,
    ) {
        for (byte, source, columns) in [(0, a, 64), (8192, b, 128)] {
            let tiles = Shared::<Bf16>::new(byte, 64 * columns);
            let mut index = thread_idx();
            while index < 64 * columns {
                let (k, column) = (index / columns, index % columns);
                let (tile, column) = (column / 64, column % 64);
                let chunk = if how == how::NOT_SWIZZLED { column / 8 } else { (column / 8) ^ (k % 8) };
                let at = tile * 4096 + k * 64 + chunk * 8 + column % 8;
                tiles.store(at, source.load(index as usize));
                index += 128;
            }
        }
        if how != how::NOT_FENCED {
            fence_proxy_async();
        }
        sync_threads();
        let mut sums = [[[0.0; 4]; 16]; 1];
        let apart = if how == how::APART { 8192 - 1024 } else { 8192 };
        let a = MatrixDescriptor::mn_major(Shared::new(0, 64 * 64), 8192);
        let b = MatrixDescriptor::mn_major(Shared::new(8192, 64 * 128), apart);
        warpgroup_multiply::<false, false, 1>(&mut sums, a, b);
        write(out, &sums);
    }
}

#[test]
fn operands_are_read_where_their_descriptions_say() {
    let (a, b) = (random::<Bf16>(1, 64 * 64), random::<Bf16>(2, 64 * 128));
    let (left, right) = (widen(a.as_slice()), widen(b.as_slice()));
    for (how, is_right) in [(how::RIGHT, true), (how::NOT_SWIZZLED, false), (how::APART, false)] {
        let mut out = Buffer::poisoned(64 * 128);
        let emulator = Emulator::new(SCHEDULES[0]).like((9, 0), 1);
        by_hand(&emulator, a.read(), b.read(), out.write(), how).expect("runs");
        let worst = out.as_slice().iter().enumerate().fold(0.0f64, |worst, (index, &sum)| {
            let terms = (0..64).map(|k| left[k * 64 + index / 128] * right[k * 128 + index % 128]);
            worst.max((f64::from(sum) - terms.sum::<f64>()).abs())
        });
        assert_eq!(worst < 1e-5, is_right, "{how}: off by {worst}");
    }
}

#[test]
fn what_threads_write_must_be_made_known_to_the_tensor_cores() {
    let (a, b, mut out) =
        (random::<Bf16>(1, 64 * 64), random::<Bf16>(2, 64 * 128), Buffer::poisoned(64 * 128));
    let emulator = Emulator::new(SCHEDULES[0]).like((9, 0), 1);
    let fault = fault(by_hand(&emulator, a.read(), b.read(), out.write(), how::NOT_FENCED));
    assert!(matches!(fault.cause, Cause::Unfenced { .. }), "{fault}");
}

//! Tensor cores by their lane maps, and asynchronous copies that are not waited for.

use crate::common::{SCHEDULES, random, slice_mut};
use cpift_kernels::emulator::{Cause, Emulator, Schedule};
use cpift_kernels::kernel;
use cpift_kernels::launch::LaunchError;
use cpift_kernels::simt::*;

kernel! {
    /// d = a·b + c of one warp: a 16×16 by rows, b 16×8 given as its transpose by rows, c 16×8.
    ///
    /// Both operands are copied to shared memory asynchronously and loaded as matrices.
    pub fn one_tile { block: 32, grid: 1, shared: 768 } (
        a: read Bf16 [256] align 16,
        b_transposed: read Bf16 [128] align 16,
        c: read f32 [128],
        d: write f32 [128],
    ) {
        let lane = lane_id();
        let (tile_a, tile_b) = (Shared::<Bf16>::new(0, 256), Shared::<Bf16>::new(512, 128));
        tile_a.copy_async(8 * lane, a, 8 * lane as usize, true);
        commit_copies();
        if lane < 16 {
            tile_b.copy_async(8 * lane, b_transposed, 8 * lane as usize, true);
        }
        commit_copies();
        wait_copies::<0>();
        sync_warp();
        // Matrices 0 to 3 of a: upper left, lower left, upper right, lower right.
        let fragment_a = tile_a.load_matrices(lane % 16 * 16 + lane / 16 * 8);
        // Two matrices hold b; the other two are loaded again and not used.
        let [b0, b1, ..] = tile_b.load_matrices(lane % 8 * 16 + lane / 8 % 2 * 8);
        let at = |index: usize| {
            let (row, column) = (lane / 4 + 8 * (index as u32 / 2), lane % 4 * 2 + index as u32 % 2);
            (row * 8 + column) as usize
        };
        let before = [c.load(at(0)), c.load(at(1)), c.load(at(2)), c.load(at(3))];
        let sums = matrix_multiply(fragment_a, [b0, b1], before);
        for (index, sum) in sums.into_iter().enumerate() {
            d.store(at(index), sum);
        }
    }
}

#[test]
fn a_tile_through_shared_memory_is_the_product() {
    let (a, b_transposed, c) = (random::<Bf16>(1, 256), random::<Bf16>(2, 128), random::<f32>(3, 128));
    for schedule in SCHEDULES {
        let mut d = vec![f32::NAN; 128];
        let emulator = Emulator::new(schedule);
        one_tile(&emulator, a.read(), b_transposed.read(), c.read(), slice_mut(&mut d)).unwrap();
        for row in 0..16 {
            for column in 0..8 {
                let product = |k: usize| {
                    let (a, b) = (a.as_slice()[row * 16 + k], b_transposed.as_slice()[column * 16 + k]);
                    f64::from(a.to_f32()) * f64::from(b.to_f32())
                };
                let expected = f64::from(c.as_slice()[row * 8 + column]) + (0..16).map(product).sum::<f64>();
                let error = (f64::from(d[row * 8 + column]) - expected).abs();
                assert!(error < 1e-5, "[{row}, {column}]: off by {error}");
            }
        }
    }
}

kernel! {
    /// out = the four 8×8 matrices of x, transposed each.
    pub fn transpose { block: 32, grid: 1, shared: 512 } (
        x: read Bf16 [256] align 16, out: write Bf16 [256],
    ) {
        let lane = lane_id();
        let tile = Shared::<Bf16>::new(0, 256);
        tile.store_vector(8 * lane, x.load_vector::<Bf16x8>(8 * lane as usize));
        sync_warp();
        let words = tile.load_matrices_transposed(8 * lane);
        for (matrix, word) in words.into_iter().enumerate() {
            let index = matrix * 64 + (lane / 4 * 8 + lane % 4 * 2) as usize;
            out.store(index, Bf16(word as u16));
            out.store(index + 1, Bf16((word >> 16) as u16));
        }
    }
}

#[test]
fn matrices_are_transposed() {
    let x = random::<Bf16>(4, 256);
    let mut out = vec![Bf16(0xffff); 256];
    transpose(&Emulator::new(Schedule::Reverse), x.read(), slice_mut(&mut out)).unwrap();
    for (index, &element) in out.iter().enumerate() {
        let (matrix, row, column) = (index / 64, index / 8 % 8, index % 8);
        assert_eq!(element, x.as_slice()[matrix * 64 + column * 8 + row]);
    }
}

kernel! {
    /// Broken: waits for all groups but the one it then reads.
    pub fn missing_wait { block: 32, grid: 1, shared: 1024 } (x: read f32 [256] align 16, out: write f32 [32]) {
        let lane = lane_id();
        let tiles = Shared::<f32>::new(0, 256);
        for stage in 0..2 {
            tiles.copy_async(128 * stage + 4 * lane, x, (128 * stage + 4 * lane) as usize, true);
            commit_copies();
        }
        wait_copies::<1>();
        sync_warp();
        out.store(lane as usize, tiles.load(128 + lane));
    }
}

#[test]
fn reading_what_is_still_being_copied_is_found() {
    let x = random::<f32>(5, 256);
    for schedule in SCHEDULES {
        let mut out = vec![f32::NAN; 32];
        match missing_wait(&Emulator::new(schedule), x.read(), slice_mut(&mut out)) {
            Err(LaunchError::Fault(fault)) => {
                assert!(matches!(fault.cause, Cause::Race { earlier: "is still copying to", .. }), "{fault}");
            }
            other => panic!("no fault: {other:?}"),
        }
    }
}

kernel! {
    /// Loads three stages, two of which have a place. Broken if `late` is 1: the next stage goes to the place of
    /// the one that is loaded from, not to the free one.
    pub fn ring { block: 64, grid: 1, shared: 2048 } (
        x: read Bf16 [2048] align 16, out: write u32 [256], late: scalar u32,
    ) {
        let thread = thread_idx();
        let stages = Shared::<Bf16>::new(0, 1024);
        let mut sums = [0u32; 4];
        stages.copy_async(8 * thread, x, 8 * thread as usize, true);
        commit_copies();
        for stage in 0..3 {
            wait_copies::<0>();
            sync_threads();
            let slot = 512 * (stage % 2);
            let words = stages.load_matrices(slot + 8 * (thread + 32) % 512);
            let free = 512 * ((stage + 1 + late) % 2);
            stages.copy_async(free + 8 * thread, x, (512 * (stage + 1) + 8 * thread) as usize, true);
            commit_copies();
            for (sum, word) in sums.iter_mut().zip(words) {
                *sum ^= word;
            }
        }
        for (index, sum) in sums.into_iter().enumerate() {
            out.store(4 * thread as usize + index, sum);
        }
    }
}

#[test]
fn copying_over_a_stage_that_is_still_read_is_found() {
    let x = random::<Bf16>(7, 2048);
    for schedule in SCHEDULES {
        let mut out = vec![u32::MAX; 256];
        let emulator = Emulator::new(schedule);
        ring(&emulator, x.read(), slice_mut(&mut out), 0).unwrap();
        match ring(&emulator, x.read(), slice_mut(&mut out), 1) {
            Err(LaunchError::Fault(fault)) => {
                assert!(matches!(fault.cause, Cause::Race { .. }), "{fault}");
            }
            other => panic!("no fault: {other:?}"),
        }
    }
}

kernel! {
    /// out = x where it is valid, zeros elsewhere.
    pub fn predicated_copy { block: 32, grid: 1, shared: 512 } (
        x: read f32 [4 * valid] align 16, out: write f32 [128], valid: scalar u32,
    ) {
        let lane = lane_id();
        let tile = Shared::<f32>::new(0, 128);
        tile.copy_async(4 * lane, x, 4 * lane as usize, lane < valid);
        commit_copies();
        wait_copies::<0>();
        for index in 4 * lane..4 * lane + 4 {
            out.store(index as usize, tile.load(index));
        }
    }
}

#[test]
fn copies_that_are_not_valid_read_nothing_and_write_zeros() {
    let x = random::<f32>(6, 20);
    let mut out = vec![f32::NAN; 128];
    predicated_copy(&Emulator::new(Schedule::Forward), x.read(), slice_mut(&mut out), 5).unwrap();
    assert_eq!(&out[..20], x.as_slice());
    assert!(out[20..].iter().all(|&value| value == 0.0));
}

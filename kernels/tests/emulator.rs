//! The emulator runs right kernels right, and names what is wrong with broken ones.

use cpift_kernels::emulator::{Cause, Emulator, Fault, Schedule};
use cpift_kernels::kernel;
use cpift_kernels::launch::{LaunchError, Slice, SliceMut};
use cpift_kernels::simt::*;

const SCHEDULES: [Schedule; 3] = [Schedule::Forward, Schedule::Reverse, Schedule::Shuffled(17)];

fn slice<T: Element>(values: &[T]) -> Slice<'_, T> {
    // SAFETY: host memory, borrowed for the lifetime of the result.
    unsafe { Slice::new(values.as_ptr() as u64, values.len()) }
}

fn slice_mut<T: Element>(values: &mut [T]) -> SliceMut<'_, T> {
    // SAFETY: host memory, borrowed mutably for the lifetime of the result.
    unsafe { SliceMut::new(values.as_mut_ptr() as u64, values.len()) }
}

/// Aligned to 16 bytes at element `offset`, with NaN in it.
struct Aligned(Vec<F32x4>);

impl Aligned {
    fn new(length: usize) -> Self {
        Self(vec![F32x4([f32::NAN; 4]); length.div_ceil(4)])
    }

    fn as_mut(&mut self, length: usize) -> &mut [f32] {
        // SAFETY: four f32 each, without padding.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), length) }
    }
}

fn fault(result: Result<(), LaunchError>) -> Fault {
    match result {
        Err(LaunchError::Fault(fault)) => *fault,
        other => panic!("no fault: {other:?}"),
    }
}

kernel! {
    /// out[row] = Σ of the row, by the whole block.
    pub fn row_sums { block: 128, grid: rows, shared: 16 } (
        x: read f32 [rows * columns],
        out: write f32 [rows],
        rows: scalar u32,
        columns: scalar u32,
    ) requires { columns > 0, rows * columns < 1 << 31 } {
        let (row, columns) = (block_idx() as usize, columns as usize);
        let mut sum = 0.0;
        let mut column = thread_idx() as usize;
        while column < columns {
            sum += x.load(row * columns + column);
            column += block_dim() as usize;
        }
        let sum = block_sum(sum, Shared::new(0, 4));
        if thread_idx() == 0 {
            out.store(row, sum);
        }
    }
}

#[test]
fn reductions_are_right_and_the_same_in_all_schedules() {
    let (rows, columns) = (5, 301);
    let x: Vec<f32> = (0..rows * columns).map(|i| ((i * 7919) % 1009) as f32 / 1009.0 - 0.3).collect();
    let mut results = Vec::new();
    for schedule in SCHEDULES {
        let mut out = vec![f32::NAN; rows];
        let emulator = Emulator::new(schedule);
        row_sums(&emulator, slice(&x), slice_mut(&mut out), rows as u32, columns as u32).expect("runs");
        results.push(out);
    }
    for (row, &sum) in results[0].iter().enumerate() {
        let expected: f64 = x[row * columns..(row + 1) * columns].iter().map(|&x| f64::from(x)).sum();
        assert!((f64::from(sum) - expected).abs() < 1e-4, "row {row}: {sum} instead of {expected}");
    }
    assert!(results.iter().all(|result| *result == results[0]));
}

#[test]
fn contracts_are_checked_before_anything_runs() {
    let emulator = Emulator::new(Schedule::Forward);
    let (x, mut out) = (vec![1.0; 12], vec![f32::NAN; 3]);
    let short = row_sums(&emulator, slice(&x[..11]), slice_mut(&mut out), 3, 4).expect_err("x is short");
    assert_eq!(short.to_string(), "kernel row_sums: x has 11 elements, needs 12");
    let requirement = row_sums(&emulator, slice(&x), slice_mut(&mut out), 3, 0).expect_err("no columns");
    assert_eq!(
        requirement.to_string(),
        "kernel row_sums requires columns > 0; its numbers are rows = 3, columns = 0"
    );
    // SAFETY: never accessed.
    let null = unsafe { Slice::new(0, 12) };
    let null = row_sums(&emulator, null, slice_mut(&mut out), 3, 4).expect_err("null");
    assert_eq!(null.to_string(), "kernel row_sums: x is null");
    // SAFETY: never accessed.
    let odd = unsafe { Slice::new(x.as_ptr() as u64 + 2, 11) };
    let odd = row_sums(&emulator, odd, slice_mut(&mut out), 2, 4).expect_err("misaligned");
    assert!(matches!(odd, LaunchError::Misaligned { argument: "x", align: 4, .. }), "{odd}");
    assert!(out.iter().all(|out| out.is_nan()));
}

kernel! {
    /// Broken: reads its neighbour's value without a barrier.
    pub fn missing_barrier { block: 64, grid: 1, shared: 256 } (out: write f32 [64]) {
        let values = Shared::<f32>::new(0, 64);
        values.store(thread_idx(), thread_idx() as f32);
        out.store(thread_idx() as usize, values.load((thread_idx() + 1) % 64));
    }
}

#[test]
fn missing_barrier_is_found_in_every_schedule() {
    for schedule in SCHEDULES {
        let mut out = vec![0.0; 64];
        let fault = fault(missing_barrier(&Emulator::new(schedule), slice_mut(&mut out)));
        assert_eq!(fault.kernel, "missing_barrier");
        // Which it is depends on who comes first.
        assert!(matches!(fault.cause, Cause::Race { .. } | Cause::Uninitialised { .. }), "{fault}");
    }
}

kernel! {
    /// Broken: the second round overwrites what others may still be reading.
    pub fn missing_second_barrier { block: 64, grid: 1, shared: 256 } (out: write f32 [64]) {
        let values = Shared::<f32>::new(0, 64);
        let mut sum = 0.0;
        for round in 0..2 {
            values.store(thread_idx(), (thread_idx() + round) as f32);
            sync_threads();
            sum += values.load((thread_idx() + 1) % 64);
        }
        out.store(thread_idx() as usize, sum);
    }
}

#[test]
fn write_after_read_without_a_barrier_is_found() {
    for schedule in SCHEDULES {
        let mut out = vec![0.0; 64];
        let fault = fault(missing_second_barrier(&Emulator::new(schedule), slice_mut(&mut out)));
        assert!(matches!(
            fault.cause,
            Cause::Race { earlier: "read", .. } | Cause::Race { earlier: "wrote", .. }
        ));
    }
}

kernel! {
    /// Broken: the last block does not look where the buffer ends.
    pub fn out_of_bounds { block: 32, grid: count.div_ceil(32), shared: 0 } (
        x: read f32 [count], out: write f32 [count], count: scalar u32,
    ) {
        let index = global_thread_idx();
        out.store(index, x.load(index));
    }
}

#[test]
fn out_of_bounds_access_is_named() {
    let (x, mut out) = (vec![1.0; 40], vec![0.0; 40]);
    let fault = fault(out_of_bounds(&Emulator::new(Schedule::Forward), slice(&x), slice_mut(&mut out), 40));
    assert_eq!(fault.block, [1, 0, 0]);
    assert_eq!(fault.threads.0, [8]);
    let message = fault.to_string();
    let expected = "kernel out_of_bounds, block (1, 0, 0), thread 8 (warp 0, lane 8): load from x[40], which has 40 elements";
    assert!(message.starts_with(expected), "{message}");
}

kernel! {
    /// Broken: half of the shared array is never written.
    pub fn uninitialised_shared { block: 64, grid: 1, shared: 256 } (out: write f32 [64]) {
        let values = Shared::<f32>::new(0, 64);
        if thread_idx() < 32 {
            values.store(thread_idx(), 1.0);
        }
        sync_threads();
        out.store(thread_idx() as usize, values.load(thread_idx()));
    }
}

#[test]
fn uninitialised_shared_memory_is_found() {
    let mut out = vec![0.0; 64];
    let fault = fault(uninitialised_shared(&Emulator::new(Schedule::Forward), slice_mut(&mut out)));
    assert!(matches!(fault.cause, Cause::Uninitialised { byte: 128, .. }), "{fault}");
    assert_eq!(fault.threads.0, [32]);
}

kernel! {
    /// Broken: only some threads of the block reach the barrier.
    pub fn divergent_barrier { block: 64, grid: 2, shared: 0 } (out: write f32 [64]) {
        if thread_idx() < 40 {
            sync_threads();
        }
        out.store(thread_idx() as usize, 1.0);
    }
}

#[test]
fn divergent_barrier_is_found() {
    let mut out = vec![0.0; 64];
    let fault = fault(divergent_barrier(&Emulator::new(Schedule::Forward), slice_mut(&mut out)));
    assert_eq!(fault.threads.0, (40..64).collect::<Vec<_>>());
    let message = fault.to_string();
    assert!(message.contains("threads 40-63 (warp 1, lanes 8-31): divergence"), "{message}");
    assert!(message.contains("has returned"), "{message}");
}

kernel! {
    /// Broken: a shuffle under a condition on the lane.
    pub fn divergent_shuffle { block: 32, grid: 1, shared: 0 } (out: write f32 [32]) {
        let mut value = thread_idx() as f32;
        if lane_id() != 5 {
            value = shuffle_xor(value, 1);
        }
        out.store(thread_idx() as usize, value);
    }
}

#[test]
fn divergent_shuffle_is_found() {
    let mut out = vec![0.0; 32];
    let fault = fault(divergent_shuffle(&Emulator::new(Schedule::Reverse), slice_mut(&mut out)));
    assert_eq!(fault.threads.0, [5]);
    assert!(fault.to_string().contains("the rest of warp 0 waits in shuffle_xor"), "{fault}");
}

kernel! {
    /// Broken: 16 bytes at any element.
    pub fn misaligned_vector { block: 32, grid: 1, shared: 0 } (out: write f32 [36] align 16) {
        if thread_idx() == 3 {
            out.store_vector(2, F32x4([1.0; 4]));
        }
    }
}

#[test]
fn misaligned_vector_access_is_named() {
    let mut memory = Aligned::new(36);
    let fault = fault(misaligned_vector(&Emulator::new(Schedule::Forward), slice_mut(memory.as_mut(36))));
    assert!(matches!(fault.cause, Cause::Misaligned { parameter: "out", index: 2, .. }), "{fault}");
    assert_eq!(fault.threads.0, [3]);
}

kernel! {
    /// Every exchange of a warp.
    pub fn warp_operations { block: 32, grid: 1, shared: 128 } (out: write u32 [7 * 32]) {
        let lane = lane_id();
        let values = Shared::<u32>::new(0, 32);
        values.store(lane, 100 + lane);
        sync_warp();
        let results = [
            shuffle_xor(lane, 5),
            shuffle_down(lane, 3),
            shuffle_idx(lane, 40),
            ballot(lane.is_multiple_of(3)),
            u32::from(any(lane == 31)),
            u32::from(all(lane < 31)),
            values.load(31 - lane),
        ];
        for (row, result) in results.into_iter().enumerate() {
            out.store(row * 32 + lane as usize, result);
        }
    }
}

#[test]
fn warp_operations_do_what_they_say() {
    for schedule in SCHEDULES {
        let mut out = vec![u32::MAX; 7 * 32];
        warp_operations(&Emulator::new(schedule), slice_mut(&mut out)).expect("runs");
        let thirds = (0..32).filter(|lane| lane % 3 == 0).map(|lane| 1 << lane).sum::<u32>();
        for lane in 0..32u32 {
            let down = if lane + 3 < 32 { lane + 3 } else { lane };
            let expected = [lane ^ 5, down, 8, thirds, 1, 0, 131 - lane];
            for (row, expected) in expected.into_iter().enumerate() {
                assert_eq!(out[row * 32 + lane as usize], expected, "row {row}, lane {lane}");
            }
        }
    }
}

kernel! {
    /// Counts values by their last three bits.
    pub fn histogram { block: 64, grid: 3, shared: 32 } (
        values: read u32 [count], counts: update u32 [8], count: scalar u32,
    ) {
        let bins = Shared::<u32>::new(0, 8);
        if thread_idx() < 8 {
            bins.store(thread_idx(), 0);
        }
        sync_threads();
        let mut index = global_thread_idx();
        while index < count as usize {
            bins.atomic_add(values.load(index) & 7, 1);
            index += (grid_dim() * block_dim()) as usize;
        }
        sync_threads();
        if thread_idx() < 8 {
            counts.atomic_add(thread_idx() as usize, bins.load(thread_idx()));
        }
    }
}

#[test]
fn atomics_count() {
    let values: Vec<u32> = (0..1000).map(|i: u32| i.wrapping_mul(2_654_435_761) >> 7).collect();
    for schedule in SCHEDULES {
        let mut counts = vec![5; 8];
        histogram(&Emulator::new(schedule), slice(&values), slice_mut(&mut counts), 1000).expect("runs");
        for (bin, &count) in (0u32..).zip(&counts) {
            let expected = values.iter().filter(|&value| value & 7 == bin).count() as u32;
            assert_eq!(count, 5 + expected);
        }
    }
}

kernel! {
    /// Broken: an index out of range in the body.
    pub fn panics { block: 32, grid: 1, shared: 0 } (out: write f32 [32]) {
        let table = [1.0, 2.0];
        out.store(thread_idx() as usize, table[thread_idx() as usize]);
    }
}

#[test]
fn panics_of_the_body_are_faults() {
    let mut out = vec![0.0; 32];
    let fault = fault(panics(&Emulator::new(Schedule::Forward), slice_mut(&mut out)));
    assert_eq!(fault.threads.0, [2]);
    assert!(matches!(fault.cause, Cause::Panic(_)), "{fault}");
}

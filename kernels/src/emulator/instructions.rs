//! What a running thread does that the emulator has a part in, one function each: the device API on hosts calls
//! them, and so does what executes a kernel in another form than its source.
//!
//! Each takes the [`Point`] it is called for, by which messages name it and threads that meet are compared.

use std::ops::Range;

use super::async_proxy::TmaCopy;
use super::rules::{Mutation, Rules};
use super::shared::SharedMemory;
use super::tensor_cores::{TileA, TileB, TileSums, multiply_tile};
use super::thread::{MbarrierWait, Wait, WarpOperation, count, suspend, with};
use super::traffic::Access;
use crate::fault::Cause;
use crate::tensor_map::TensorMapLayout;
use crate::values::halves;

pub use super::shared::Kind;
pub use super::thread::{Point, SharedOperand, WgmmaA, WgmmaInstruction, WgmmaOperation, Words, fault};

/// Blocks in each direction, and this thread's.
pub fn grid_and_block() -> ([u32; 3], [u32; 3]) {
    with(|context| (context.grid, context.block))
}

/// Index of this thread in its block.
pub fn thread() -> u32 {
    with(|context| context.thread.get())
}

/// Counts an access to global memory: bytes of the buffer that argument `parameter` is.
pub fn note_access(stores: bool, parameter: usize, bytes: Range<usize>) {
    let access = if stores { Access::Store } else { Access::Load };
    count(|counter| counter.access(access, parameter, bytes));
}

/// Barrier of the block.
pub fn barrier(point: Point) {
    suspend(Wait::Barrier(point));
}

/// Barrier of the warp.
pub fn warp_barrier(point: Point) {
    let operation = WarpOperation { name: "sync_warp", point, combine: |_, _| {}, orders_memory: true };
    suspend(Wait::Warp(operation, [0; 16]));
}

/// Hands `words` in and waits for what the warp makes of all lanes'.
fn exchange(name: &'static str, point: Point, words: Words, combine: fn(&mut [Words; 32], Rules)) -> Words {
    suspend(Wait::Warp(WarpOperation { name, point, combine, orders_memory: false }, words))
}

/// The value of lane `source`; `name` is what it is called.
pub fn shuffle(name: &'static str, point: Point, value: u32, source: u32) -> u32 {
    let mut words = [0; 16];
    (words[0], words[1]) = (value, source);
    exchange(name, point, words, |lanes, rules| {
        let values = lanes.map(|words| words[0]);
        let beyond = u32::from(rules.has(Mutation::ShufflesOffByOne));
        for words in lanes {
            words[0] = values[(words[1] + beyond) as usize % 32];
        }
    })[0]
}

/// Bit i is `predicate` of lane i.
pub fn ballot(point: Point, predicate: bool) -> u32 {
    let mut words = [0; 16];
    words[0] = u32::from(predicate);
    exchange("ballot", point, words, |lanes, _| {
        let bits = (0..32).fold(0, |bits, lane| bits | lanes[lane][0] << lane);
        lanes.iter_mut().for_each(|words| words[0] = bits);
    })[0]
}

/// a·b + c on the warp's tensor cores; see [`matrix_multiply`](crate::simt::matrix_multiply).
pub fn multiply(point: Point, a: [u32; 4], b: [u32; 2], c: [f32; 4]) -> [f32; 4] {
    let mut words: Words = [0; 16];
    words[..4].copy_from_slice(&a);
    words[4..6].copy_from_slice(&b);
    words[6..10].copy_from_slice(&c.map(f32::to_bits));
    // The warp's 2·16·8·16, in 32 parts.
    count(|counter| counter.multiply(2 * 16 * 8 * 16 / 32));
    let words = exchange("matrix_multiply", point, words, multiply_fragments);
    std::array::from_fn(|index| f32::from_bits(words[6 + index]))
}

fn multiply_fragments(lanes: &mut [Words; 32], rules: Rules) {
    let order_a = rules.order(Mutation::FragmentsOfAExchanged);
    let order_b = if rules.has(Mutation::FragmentsOfBExchanged) { [1, 0] } else { [0, 1] };
    let order_sums = rules.order(Mutation::FragmentsOfSumsExchanged);
    let (mut a, mut b): (TileA, TileB) = Default::default();
    let mut sums = TileSums::default();
    for (lane, words) in lanes.iter().enumerate() {
        let (group, first) = (lane / 4, lane % 4 * 2);
        for (index, &word) in order_a.into_iter().zip(&words[..4]) {
            let (row, k) = (group + index % 2 * 8, first + index / 2 * 8);
            a[row][k..k + 2].copy_from_slice(&halves(word));
        }
        for (index, &word) in order_b.into_iter().zip(&words[4..6]) {
            let k = first + index * 8;
            for (line, half) in b[k..k + 2].iter_mut().zip(halves(word)) {
                line[group] = half;
            }
        }
        for (index, part) in order_sums.into_iter().enumerate() {
            sums[group + 8 * (part / 2)][first + part % 2] = f32::from_bits(words[6 + index]);
        }
    }
    multiply_tile(&a, &b, &mut sums);
    for (lane, words) in lanes.iter_mut().enumerate() {
        for (index, part) in order_sums.into_iter().enumerate() {
            words[6 + index] = sums[lane / 4 + 8 * (part / 2)][lane % 4 * 2 + part % 2].to_bits();
        }
    }
}

/// Four 8×8 matrices for the warp, of which this lane brings a row of 16 bytes; see
/// [`load_matrices`](crate::simt::Shared::load_matrices).
pub fn exchange_rows(point: Point, row: [u32; 4], transposed: bool) -> [u32; 4] {
    let mut words: Words = [0; 16];
    words[..4].copy_from_slice(&row);
    let words = if transposed {
        exchange("load_matrices_transposed", point, words, |lanes, rules| {
            if rules.has(Mutation::MatricesNotTransposed) {
                return distribute_rows(lanes, rules);
            }
            let rows = *lanes;
            let exchanged = usize::from(rules.has(Mutation::MatrixRowsExchanged));
            for (lane, words) in lanes.iter_mut().enumerate() {
                let column = lane / 4;
                for (matrix, word) in rules.order(Mutation::MatricesExchanged).into_iter().zip(words) {
                    let element = |row: usize| {
                        rows[8 * matrix + (row ^ exchanged)][column / 2] >> (16 * (column % 2)) & 0xffff
                    };
                    *word = element(lane % 4 * 2) | element(lane % 4 * 2 + 1) << 16;
                }
            }
        })
    } else {
        exchange("load_matrices", point, words, distribute_rows)
    };
    std::array::from_fn(|matrix| words[matrix])
}

/// Each lane gets two elements of a row of each matrix, whose rows lanes brought.
fn distribute_rows(lanes: &mut [Words; 32], rules: Rules) {
    let rows = *lanes;
    let exchanged = usize::from(rules.has(Mutation::MatrixRowsExchanged));
    for (lane, words) in lanes.iter_mut().enumerate() {
        for (matrix, word) in rules.order(Mutation::MatricesExchanged).into_iter().zip(words) {
            *word = rows[8 * matrix + ((lane / 4) ^ exchanged)][lane % 4];
        }
    }
}

/// Checks and notes an access to `bytes` bytes of shared memory from `byte` on, inside of the bytes of `array`. The
/// pointer is to them, valid for that until the thread waits for something.
pub fn access_shared(
    point: Point,
    kind: Kind,
    array: Range<u64>,
    byte: u64,
    bytes: usize,
    align: usize,
) -> *mut u8 {
    let checked = with(|context| {
        let mut shared = context.shared.borrow_mut();
        let total = shared.bytes();
        let byte = check_range(point, kind, (array, total), byte, bytes, align)?;
        shared.access(context.thread.get(), kind, byte, bytes as u32, &|| point.to_string())?;
        // SAFETY: inside the memory, checked above.
        Ok(unsafe { shared.pointer().add(byte as usize) })
    });
    checked.unwrap_or_else(|cause| fault(cause))
}

/// Stores bytes to shared memory from `byte` on, a multiple of their number, inside of the bytes of `array`. Threads may
/// store the same to the same bytes without order.
pub fn store_shared(point: Point, array: Range<u64>, byte: u64, bytes: &[u8]) {
    let stored = with(|context| {
        let mut shared = context.shared.borrow_mut();
        let total = shared.bytes();
        let byte = check_range(point, Kind::Store, (array, total), byte, bytes.len(), bytes.len())?;
        shared.store(context.thread.get(), byte, bytes, &|| point.to_string())
    });
    stored.unwrap_or_else(|cause| fault(cause));
}

/// Checks that an access to shared memory is inside of the bytes of `array`, and of all, and aligned.
fn check_range(
    point: Point,
    kind: Kind,
    (array, total): (Range<u64>, u32),
    byte: u64,
    bytes: usize,
    align: usize,
) -> Result<u32, Cause> {
    let access = if kind == Kind::Load { "load from" } else { "store to" };
    let end = byte + bytes as u64;
    if byte < array.start || end > array.end || end > u64::from(total) {
        let (array, location) = ((array.start, array.end), point.to_string());
        return Err(Cause::SharedOutOfBounds { access, byte, array, total, location });
    }
    if !byte.is_multiple_of(align as u64) {
        return Err(Cause::Misaligned {
            access,
            parameter: "shared memory",
            index: byte as usize / align,
            address: byte as usize,
            location: point.to_string(),
        });
    }
    Ok(byte as u32)
}

/// Starts a copy of `bytes` to `byte` on, which [`access_shared`] has checked as a store of 16 bytes.
pub fn start_copy(byte: u32, bytes: [u8; 16]) {
    with(|context| context.shared.borrow_mut().start_copy(context.thread.get(), byte, bytes));
}

/// Puts the copies this thread has started since the last call into one group.
pub fn commit_copies() {
    with(|context| context.shared.borrow_mut().commit_copies(context.thread.get()));
}

/// Waits until all but the `latest` last groups of this thread's copies are there.
pub fn wait_copies(latest: usize) {
    with(|context| context.shared.borrow_mut().wait_copies(context.thread.get(), latest));
}

/// Begins phase 0 of the mbarrier at `byte`.
pub fn mbarrier_init(point: Point, byte: u32, count: u32) {
    // As a write of eight bytes it is inside the memory, aligned, and of no other use.
    let start = u64::from(byte);
    let place = access_shared(point, Kind::Store, start..start + 8, start, 8, 8);
    // SAFETY: eight bytes, aligned, as checked.
    unsafe { place.cast::<u64>().write(0) };
    change(point, |shared, thread, location| shared.mbarrier_init(thread, byte, count, location));
}

/// Ends the use of the mbarrier at `byte`, whose memory may then be used otherwise.
pub fn mbarrier_inval(point: Point, byte: u32) {
    let start = u64::from(byte);
    access_shared(point, Kind::Store, start..start + 8, start, 8, 8);
    change(point, |shared, thread, location| shared.mbarrier_inval(thread, byte, location));
}

/// This thread has arrived at the barrier at `byte`, and announces so many bytes of copies.
pub fn mbarrier_arrive(point: Point, byte: u32, bytes: u32) {
    change(point, |shared, thread, location| shared.arrive(thread, byte, bytes, location));
}

/// Waits until the phase of this parity is over; gives whether it was at once.
pub fn mbarrier_wait(point: Point, byte: u32, parity: u32) -> bool {
    let mut over = false;
    change(point, |shared, thread, location| {
        over = shared.poll(thread, byte, parity, location)?;
        Ok(())
    });
    if !over {
        suspend(Wait::Mbarrier(MbarrierWait { byte, parity, point }));
    }
    over
}

/// Makes what this thread has written to shared memory known to TMA and the tensor cores.
pub fn fence_proxy_async(point: Point) {
    change(point, |shared, thread, _| {
        shared.fence(thread);
        Ok(())
    });
}

/// Starts copying the tile of a matrix, which is argument `parameter`, whose first element is at `row` and `column`,
/// to `byte`; it arrives at `barrier`.
pub fn tma_copy(
    point: Point,
    (parameter, matrix): (usize, TensorMapLayout),
    (row, column): (u32, u32),
    byte: u32,
    barrier: u32,
) {
    change(point, |shared, thread, location| {
        shared.start_tma_copy(TmaCopy { thread, matrix, parameter, row, column, byte, barrier }, location)
    });
}

/// Begins products with the other threads of its warpgroup, and waits until they are done.
///
/// # Safety
/// At the sums of each instruction are half as many f32 as it has columns, which nothing else uses meanwhile.
pub unsafe fn warpgroup_multiply(point: Point, instructions: &[WgmmaInstruction]) {
    suspend(Wait::Warpgroup(WgmmaOperation { point, instructions }));
}

/// Does something to the block's shared memory as the current thread; a fault ends the launch.
fn change(point: Point, work: impl FnOnce(&mut SharedMemory, u32, &dyn Fn() -> String) -> Result<(), Cause>) {
    let result =
        with(|context| work(&mut context.shared.borrow_mut(), context.thread.get(), &|| point.to_string()));
    result.unwrap_or_else(|cause| fault(cause));
}

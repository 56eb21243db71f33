//! What Hopper alone has (sm_90a), as documented: arrival barriers, the copy engine, products by groups of warps.

use std::marker::PhantomData;
use std::panic::Location;

use super::Shared;
use crate::emulator::Cause;
use crate::emulator::shared::SharedMemory;
use crate::emulator::thread::{
    ArrivalWait, Description, GroupA, GroupInstruction, GroupOperation, Wait, fault, suspend, with,
};
use crate::emulator::tiles::TileCopy;
use crate::launch::Argument;
use crate::simt::{Bf16, Element, GroupSums, Operand};
use crate::tiled::TiledMatrix;

/// A matrix of which tiles are copied to shared memory.
#[derive(Debug, Clone, Copy)]
pub struct Tiles<T: Element> {
    matrix: TiledMatrix,
    elements: PhantomData<T>,
}

impl<T: Element> Tiles<T> {
    /// The matrix passed at `index`, which steps on.
    #[doc(hidden)]
    pub fn bind(arguments: &[Argument], index: &mut usize) -> Self {
        *index += 1;
        match arguments[*index - 1] {
            Argument::Tiles(matrix) => Self { matrix, elements: PhantomData },
            other => panic!("argument {index} is {other:?}, not a matrix to copy tiles from"),
        }
    }

    /// Starts copying the tile whose first element is at `row` and `column`, to `to`: rows of 128 bytes, see
    /// [permutation](crate::simt#tiles-in-shared-memory). Its bytes count as arrived at `arrivals` once they are
    /// there. For one thread.
    #[track_caller]
    pub fn copy(self, row: u32, column: u32, to: Shared<T>, arrivals: Arrivals) {
        let (byte, matrix, barrier) = (to.byte(), self.matrix, arrivals.byte);
        change(|shared, thread, location| {
            if to.bytes() < u64::from(matrix.tile_bytes()) {
                let array = (u64::from(byte), u64::from(byte) + to.bytes());
                let (access, total, byte) = ("copy of a tile to", shared.bytes(), u64::from(byte));
                return Err(Cause::SharedOutOfBounds { access, byte, array, total, location: location() });
            }
            shared.start_tile(TileCopy { thread, matrix, row, column, byte, barrier }, location)
        });
    }
}

/// A barrier in shared memory at which threads and the bytes of copies arrive (`mbarrier`).
#[derive(Debug, Clone, Copy)]
pub struct Arrivals {
    byte: u32,
}

impl Arrivals {
    /// At byte `byte` of the block's dynamic shared memory, a multiple of 8.
    pub fn new(byte: u32) -> Self {
        Self { byte }
    }

    /// Begins phase 0, in which `count` arrivals of threads are awaited. By one thread, before a
    /// [`fence_arrivals`] of it and a barrier of the block.
    #[track_caller]
    pub fn init(self, count: u32) {
        // As a write of eight bytes it is inside the memory, aligned, and of no other use.
        Shared::<u64>::new(self.byte, 1).store(0, 0);
        change(|shared, thread, _| {
            shared.init_arrivals(thread, self.byte, count);
            Ok(())
        });
    }

    /// This thread has arrived: what it did before is done for those who wait.
    #[track_caller]
    pub fn arrive(self) {
        self.arrive_expecting(0);
    }

    /// As [`Arrivals::arrive`], and the phase awaits so many bytes of copies more.
    #[track_caller]
    pub fn arrive_expecting(self, bytes: u32) {
        change(|shared, thread, location| shared.arrive(thread, self.byte, bytes, location));
    }

    /// Waits until the phase of this parity is over: that of the phase in progress, or of the one before,
    /// which returns at once. Phases are even and odd by turns, beginning with 0.
    #[track_caller]
    pub fn wait(self, parity: u32) {
        let mut over = false;
        change(|shared, thread, location| {
            over = shared.poll(thread, self.byte, parity, location)?;
            Ok(())
        });
        if !over {
            let location = Location::caller();
            suspend(Wait::Arrivals(ArrivalWait { byte: self.byte, parity, location }));
        }
    }
}

/// Makes barriers that this thread has initialised known to the copy engine.
#[track_caller]
pub fn fence_arrivals() {
    fence_async();
}

/// Makes what this thread has written to shared memory known to the copy engine and the tensor cores, behind a
/// barrier.
#[track_caller]
pub fn fence_async() {
    change(|shared, thread, _| {
        shared.fence(thread);
        Ok(())
    });
}

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
    suspend(Wait::Group(GroupOperation {
        location: Location::caller(),
        instructions: &raw const instructions,
    }));
}

/// Does something to the block's shared memory as the current thread; a fault ends the launch.
#[track_caller]
fn change(work: impl FnOnce(&mut SharedMemory, u32, &dyn Fn() -> String) -> Result<(), Cause>) {
    let location = Location::caller();
    let result = with(|context| {
        work(&mut context.shared.borrow_mut(), context.thread.get(), &|| location.to_string())
    });
    result.unwrap_or_else(|cause| fault(cause));
}

/// Where `shared` lies, as operands' descriptions have it: the emulator's memory begins at 0.
pub(in crate::simt) fn address_of(shared: Shared<Bf16>) -> u32 {
    shared.byte()
}

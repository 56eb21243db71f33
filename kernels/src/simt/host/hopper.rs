//! What Hopper alone has (sm_90a), as documented: mbarriers and TMA; `wgmma` is in `warpgroup`.

use std::marker::PhantomData;

use super::Shared;
use crate::emulator::Cause;
use crate::emulator::instructions::{self, Point};
use crate::emulator::thread::{fault, with};
use crate::launch::Argument;
use crate::simt::{Bf16, Element};
use crate::tensor_map::TensorMapLayout;

/// A matrix of which tiles are copied to shared memory.
#[derive(Debug, Clone, Copy)]
pub struct TensorMap<T: Element> {
    matrix: TensorMapLayout,
    /// The kernel's parameter.
    parameter: usize,
    elements: PhantomData<T>,
}

impl<T: Element> TensorMap<T> {
    /// The matrix passed at `index`, which steps on.
    #[doc(hidden)]
    pub fn bind(arguments: &[Argument], index: &mut usize) -> Self {
        *index += 1;
        match arguments[*index - 1] {
            Argument::TensorMap(matrix) => Self { matrix, parameter: *index - 1, elements: PhantomData },
            other => panic!("argument {index} is {other:?}, not a matrix to copy tiles from"),
        }
    }

    /// Starts copying the tile whose first element is at `row` and `column`, to `to`: rows of 128 bytes, see
    /// [swizzle](crate::simt#tiles-in-shared-memory). Its bytes count as arrived at `mbarrier` once they are
    /// there. For one thread.
    #[track_caller]
    pub fn copy(self, row: u32, column: u32, to: Shared<T>, mbarrier: Mbarrier) {
        let Self { matrix, parameter, .. } = self;
        let (byte, barrier) = (to.byte(), mbarrier.byte);
        let point = Point::caller();
        if to.bytes() < u64::from(matrix.box_bytes()) {
            let array = (u64::from(byte), u64::from(byte) + to.bytes());
            let (access, byte, location) = ("copy of a tile to", u64::from(byte), point.to_string());
            let total = with(|context| context.shared.borrow().bytes());
            fault(Cause::SharedOutOfBounds { access, byte, array, total, location });
        }
        instructions::tma_copy(point, (parameter, matrix), (row, column), byte, barrier);
    }
}

/// A barrier in shared memory at which threads and the bytes of copies arrive.
#[derive(Debug, Clone, Copy)]
pub struct Mbarrier {
    byte: u32,
}

impl Mbarrier {
    /// At byte `byte` of the block's dynamic shared memory, a multiple of 8.
    pub fn new(byte: u32) -> Self {
        Self { byte }
    }

    /// Begins phase 0, in which `count` arrivals of threads are awaited. By one thread, before a
    /// [`fence_mbarrier_init`] of it and a barrier of the block.
    #[track_caller]
    pub fn init(self, count: u32) {
        instructions::mbarrier_init(Point::caller(), self.byte, count);
    }

    /// This thread has arrived: what it did before is done for those who wait.
    #[track_caller]
    pub fn arrive(self) {
        self.arrive_expect_tx(0);
    }

    /// As [`Mbarrier::arrive`], and the phase awaits so many bytes of copies more.
    #[track_caller]
    pub fn arrive_expect_tx(self, bytes: u32) {
        instructions::mbarrier_arrive(Point::caller(), self.byte, bytes);
    }

    /// Waits until the phase of this parity is over: that of the phase in progress, or of the one before,
    /// which returns at once. Phases are even and odd by turns, beginning with 0.
    #[track_caller]
    pub fn wait(self, parity: u32) {
        instructions::mbarrier_wait(Point::caller(), self.byte, parity);
    }
}

/// Makes barriers that this thread has initialised known to TMA.
#[track_caller]
pub fn fence_mbarrier_init() {
    fence_proxy_async();
}

/// Makes what this thread has written to shared memory known to TMA and the tensor cores, behind a
/// barrier.
#[track_caller]
pub fn fence_proxy_async() {
    instructions::fence_proxy_async(Point::caller());
}

/// Where `shared` lies, as operands' descriptions have it: the emulator's memory begins at 0.
pub(in crate::simt) fn address_of(shared: Shared<Bf16>) -> u32 {
    shared.byte()
}

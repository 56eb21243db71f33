//! What Hopper alone has (sm_90a): mbarriers and TMA; `wgmma` is in `warpgroup`.

use core::arch::asm;
use core::marker::PhantomData;

use super::Shared;
use crate::simt::{Bf16, Element};

/// A tensor map as a kernel's parameter. The driver wants it aligned to 64 bytes, more than rustc gives a
/// parameter; `cargo ptx` writes that into the PTX.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
pub struct TensorMapParameter([u64; 16]);

/// A matrix of which tiles are copied to shared memory.
#[derive(Clone, Copy)]
pub struct TensorMap<T: Element> {
    /// Of the tensor map, in the kernel's parameters.
    map: u64,
    elements: PhantomData<T>,
}

/// The [`TensorMap`] of the parameter at `$position`. Its address is asked for by its name: one taken in Rust would be
/// that of a copy on the stack.
#[doc(hidden)]
#[macro_export]
macro_rules! tensor_map_parameter {
    ($element:ident, $value:ident, $kernel:ident, $position:literal) => {{
        let _ = $value;
        let map: u64;
        core::arch::asm!(
            concat!(
                "{{ .reg .b64 own; mov.b64 own, ", stringify!($kernel), "_param_", $position,
                "; cvta.param.u64 {}, own; }}"
            ),
            out(reg64) map,
            options(pure, nomem, nostack),
        );
        $crate::simt::TensorMap::<$element>::from_map(map)
    }};
}

impl<T: Element> TensorMap<T> {
    /// # Safety
    /// `map` is the generic address of a tensor map of a matrix of `T`, valid while the kernel runs.
    #[inline(always)]
    pub unsafe fn from_map(map: u64) -> Self {
        Self { map, elements: PhantomData }
    }

    /// Starts copying the tile whose first element is at `row` and `column`, to `to`: rows of 128 bytes, see
    /// [swizzle](crate::simt#tiles-in-shared-memory). Its bytes count as arrived at `mbarrier` once they are
    /// there. For one thread.
    #[inline(always)]
    pub fn copy(self, row: u32, column: u32, to: Shared<T>, mbarrier: Mbarrier) {
        // SAFETY: a tile fits at `to`, by the kernel's contract; its matrix is readable by the launcher's.
        unsafe {
            asm!("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [{}], [{}, {{{}, {}}}], [{}];",
                in(reg32) to.at(0), in(reg64) self.map, in(reg32) column, in(reg32) row,
                in(reg32) mbarrier.address, options(nostack));
        }
    }
}

/// A barrier in shared memory at which threads and the bytes of copies arrive.
#[derive(Clone, Copy)]
pub struct Mbarrier {
    address: u32,
}

impl Mbarrier {
    /// At byte `byte` of the block's dynamic shared memory, a multiple of 8.
    #[inline(always)]
    pub fn new(byte: u32) -> Self {
        Self { address: Shared::<u64>::new(byte, 1).at(0) }
    }

    /// Where it is.
    #[inline(always)]
    pub(super) fn address(self) -> u32 {
        self.address
    }

    /// Begins phase 0, in which `count` arrivals of threads are awaited. By one thread, before a
    /// [`fence_mbarrier_init`] of it and a barrier of the block.
    #[inline(always)]
    pub fn init(self, count: u32) {
        // SAFETY: inside the block's shared memory and aligned, by the kernel's contract.
        unsafe {
            asm!("mbarrier.init.shared::cta.b64 [{}], {};", in(reg32) self.address, in(reg32) count,
                options(nostack));
        }
    }

    /// This thread has arrived: what it did before is done for those who wait.
    #[inline(always)]
    pub fn arrive(self) {
        // SAFETY: an initialised barrier, by the kernel's contract.
        unsafe {
            asm!("mbarrier.arrive.shared::cta.b64 _, [{}];", in(reg32) self.address, options(nostack));
        }
    }

    /// As [`Mbarrier::arrive`], and the phase awaits so many bytes of copies more.
    #[inline(always)]
    pub fn arrive_expect_tx(self, bytes: u32) {
        // SAFETY: as for `arrive`.
        unsafe {
            asm!("mbarrier.arrive.expect_tx.shared::cta.b64 _, [{}], {};", in(reg32) self.address,
                in(reg32) bytes, options(nostack));
        }
    }

    /// Waits until the phase of this parity is over: that of the phase in progress, or of the one before,
    /// which returns at once. Phases are even and odd by turns, beginning with 0. A wait of [`LONGEST_WAIT`]
    /// ends the launch with an error.
    #[inline(always)]
    pub fn wait(self, parity: u32) {
        if self.is_over(parity) {
            return;
        }
        let start = nanoseconds();
        while !self.is_over(parity) {
            if nanoseconds().wrapping_sub(start) > LONGEST_WAIT {
                // What `cargo ptx` makes of a `trap`, which assemblers of CUDA 12.3 to 12.6 are the worse for.
                // SAFETY: ends the launch.
                unsafe { asm!("brkpt;", options(nomem, nostack)) };
            }
        }
    }

    /// Whether the phase is over, asked once: the answer may come after a time that the hardware limits.
    #[inline(always)]
    fn is_over(self, parity: u32) -> bool {
        let over: u32;
        // SAFETY: as for `arrive`.
        unsafe {
            asm!("{{ .reg .pred over; mbarrier.try_wait.parity.shared::cta.b64 over, [{}], {};",
                "selp.u32 {}, 1, 0, over; }}",
                in(reg32) self.address, in(reg32) parity, out(reg32) over, options(nostack));
        }
        over != 0
    }
}

/// Nanoseconds that [`Mbarrier::wait`] waits at most: 10 s, where what is awaited takes microseconds, and some
/// milliseconds if other processes have the device in between. By the clock, since how long the hardware takes to say
/// no is its own affair: a number of questions would be a fraction of a millisecond on one device, hours on another.
const LONGEST_WAIT: u64 = 10_000_000_000;

/// The device's clock.
#[inline(always)]
fn nanoseconds() -> u64 {
    let now: u64;
    // SAFETY: reads a clock.
    unsafe { asm!("mov.u64 {}, %globaltimer;", out(reg64) now, options(nomem, nostack)) };
    now
}

/// Makes barriers that this thread has initialised known to TMA.
#[inline(always)]
pub fn fence_mbarrier_init() {
    // SAFETY: orders memory accesses alone.
    unsafe {
        asm!("fence.mbarrier_init.release.cluster;", "fence.proxy.async.shared::cta;", options(nostack));
    }
}

/// Makes what this thread has written to shared memory known to TMA and the tensor cores, behind a
/// barrier.
#[inline(always)]
pub fn fence_proxy_async() {
    // SAFETY: orders memory accesses alone.
    unsafe { asm!("fence.proxy.async.shared::cta;", options(nostack)) };
}

/// Where `shared` lies, as operands' descriptions have it.
#[inline(always)]
pub(in crate::simt) fn address_of(shared: Shared<Bf16>) -> u32 {
    shared.at(0)
}

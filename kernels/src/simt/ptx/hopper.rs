//! What Hopper alone has (sm_90a): arrival barriers, the copy engine, products by groups of warps.

use core::arch::asm;
use core::marker::PhantomData;

use super::{Shared, sync_warp};
use crate::simt::{Bf16, Element, GroupSums, Operand};

/// A tensor map as a kernel's parameter. The driver wants it aligned to 64 bytes, more than rustc gives a
/// parameter; `cargo ptx` writes that into the PTX.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
pub struct TileParameter([u64; 16]);

/// A matrix of which tiles are copied to shared memory.
#[derive(Clone, Copy)]
pub struct Tiles<T: Element> {
    /// Of the tensor map, in the kernel's parameters.
    map: u64,
    elements: PhantomData<T>,
}

/// The [`Tiles`] of the parameter at `$place`. Its address is asked for by its name: one taken in Rust would be
/// that of a copy on the stack.
#[doc(hidden)]
#[macro_export]
macro_rules! tile_parameter {
    ($element:ident, $value:ident, $kernel:ident, $place:literal) => {{
        let _ = $value;
        let map: u64;
        core::arch::asm!(
            concat!(
                "{{ .reg .b64 own; mov.b64 own, ", stringify!($kernel), "_param_", $place,
                "; cvta.param.u64 {}, own; }}"
            ),
            out(reg64) map,
            options(pure, nomem, nostack),
        );
        $crate::simt::Tiles::<$element>::from_map(map)
    }};
}

impl<T: Element> Tiles<T> {
    /// # Safety
    /// `map` is the generic address of a tensor map of a matrix of `T`, valid while the kernel runs.
    #[inline(always)]
    pub unsafe fn from_map(map: u64) -> Self {
        Self { map, elements: PhantomData }
    }

    /// Starts copying the tile whose first element is at `row` and `column`, to `to`: rows of 128 bytes, see
    /// [permutation](crate::simt#tiles-in-shared-memory). Its bytes count as arrived at `arrivals` once they are
    /// there. For one thread.
    #[inline(always)]
    pub fn copy(self, row: u32, column: u32, to: Shared<T>, arrivals: Arrivals) {
        // SAFETY: a tile fits at `to`, by the kernel's contract; its matrix is readable by the launcher's.
        unsafe {
            asm!("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [{}], [{}, {{{}, {}}}], [{}];",
                in(reg32) to.at(0), in(reg64) self.map, in(reg32) column, in(reg32) row,
                in(reg32) arrivals.address, options(nostack));
        }
    }
}

/// A barrier in shared memory at which threads and the bytes of copies arrive (`mbarrier`).
#[derive(Clone, Copy)]
pub struct Arrivals {
    address: u32,
}

impl Arrivals {
    /// At byte `byte` of the block's dynamic shared memory, a multiple of 8.
    #[inline(always)]
    pub fn new(byte: u32) -> Self {
        Self { address: Shared::<u64>::new(byte, 1).at(0) }
    }

    /// Begins phase 0, in which `count` arrivals of threads are awaited. By one thread, before a
    /// [`fence_arrivals`] of it and a barrier of the block.
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

    /// As [`Arrivals::arrive`], and the phase awaits so many bytes of copies more.
    #[inline(always)]
    pub fn arrive_expecting(self, bytes: u32) {
        // SAFETY: as for `arrive`.
        unsafe {
            asm!("mbarrier.arrive.expect_tx.shared::cta.b64 _, [{}], {};", in(reg32) self.address,
                in(reg32) bytes, options(nostack));
        }
    }

    /// Waits until the phase of this parity is over: that of the phase in progress, or of the one before,
    /// which returns at once. Phases are even and odd by turns, beginning with 0.
    #[inline(always)]
    pub fn wait(self, parity: u32) {
        loop {
            let over: u32;
            // SAFETY: as for `arrive`.
            unsafe {
                asm!("{{ .reg .pred over; mbarrier.try_wait.parity.shared::cta.b64 over, [{}], {};",
                    "selp.u32 {}, 1, 0, over; }}",
                    in(reg32) self.address, in(reg32) parity, out(reg32) over, options(nostack));
            }
            if over != 0 {
                break;
            }
        }
    }
}

/// Makes barriers that this thread has initialised known to the copy engine.
#[inline(always)]
pub fn fence_arrivals() {
    // SAFETY: orders memory accesses alone.
    unsafe {
        asm!("fence.mbarrier_init.release.cluster;", "fence.proxy.async.shared::cta;", options(nostack));
    }
}

/// Makes what this thread has written to shared memory known to the copy engine and the tensor cores, behind a
/// barrier.
#[inline(always)]
pub fn fence_async() {
    // SAFETY: orders memory accesses alone.
    unsafe { asm!("fence.proxy.async.shared::cta;", options(nostack)) };
}

/// Registers of sums in the template below, for 128 columns and for 256.
macro_rules! sums {
    (1) => {
        concat!(
            "{0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}, {8}, {9}, {10}, {11}, {12}, {13}, {14}, {15}, ",
            "{16}, {17}, {18}, {19}, {20}, {21}, {22}, {23}, {24}, {25}, {26}, {27}, {28}, {29}, {30}, {31}, ",
            "{32}, {33}, {34}, {35}, {36}, {37}, {38}, {39}, {40}, {41}, {42}, {43}, {44}, {45}, {46}, {47}, ",
            "{48}, {49}, {50}, {51}, {52}, {53}, {54}, {55}, {56}, {57}, {58}, {59}, {60}, {61}, {62}, {63}",
        )
    };
    (2) => {
        concat!(
            "{0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}, {8}, {9}, {10}, {11}, {12}, {13}, {14}, {15}, ",
            "{16}, {17}, {18}, {19}, {20}, {21}, {22}, {23}, {24}, {25}, {26}, {27}, {28}, {29}, {30}, {31}, ",
            "{32}, {33}, {34}, {35}, {36}, {37}, {38}, {39}, {40}, {41}, {42}, {43}, {44}, {45}, {46}, {47}, ",
            "{48}, {49}, {50}, {51}, {52}, {53}, {54}, {55}, {56}, {57}, {58}, {59}, {60}, {61}, {62}, {63}, ",
            "{64}, {65}, {66}, {67}, {68}, {69}, {70}, {71}, {72}, {73}, {74}, {75}, {76}, {77}, {78}, {79}, ",
            "{80}, {81}, {82}, {83}, {84}, {85}, {86}, {87}, {88}, {89}, {90}, {91}, {92}, {93}, {94}, {95}, ",
            "{96}, {97}, {98}, {99}, {100}, {101}, {102}, {103}, {104}, {105}, {106}, {107}, {108}, {109}, {110}, {111}, ",
            "{112}, {113}, {114}, {115}, {116}, {117}, {118}, {119}, {120}, {121}, {122}, {123}, {124}, {125}, {126}, {127}",
        )
    };
}

/// Four products of 16 levels each, begun together and waited for. All in one `asm!`: nothing can come in between,
/// and sums stay in the registers that the tensor cores write while the thread goes on.
macro_rules! products {
    ($halves:tt, $shape:literal, $sums:ident, $a:ident, $b:ident, [$($half:literal)*]) => {
        products!(@ $halves, $shape, $sums, $a, $b, [$($half [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15])*])
    };
    (@ $halves:tt, $shape:literal, $sums:ident, $a:ident, $b:ident, [$($half:literal [$($tile:literal)*])*]) => {
        asm!(
            "wgmma.fence.sync.aligned;",
            products!(@ $halves, $shape, "a0", "b0"),
            products!(@ $halves, $shape, "a1", "b1"),
            products!(@ $halves, $shape, "a2", "b2"),
            products!(@ $halves, $shape, "a3", "b3"),
            "wgmma.commit_group.sync.aligned;",
            "wgmma.wait_group.sync.aligned 0;",
            $($(
                inout(reg32) $sums[$half][$tile][0],
                inout(reg32) $sums[$half][$tile][1],
                inout(reg32) $sums[$half][$tile][2],
                inout(reg32) $sums[$half][$tile][3],
            )*)*
            a0 = in(reg64) $a.level(0, A_ALONG_K),
            a1 = in(reg64) $a.level(16, A_ALONG_K),
            a2 = in(reg64) $a.level(32, A_ALONG_K),
            a3 = in(reg64) $a.level(48, A_ALONG_K),
            b0 = in(reg64) $b.level(0, B_ALONG_K),
            b1 = in(reg64) $b.level(16, B_ALONG_K),
            b2 = in(reg64) $b.level(32, B_ALONG_K),
            b3 = in(reg64) $b.level(48, B_ALONG_K),
            a_across = const { !A_ALONG_K as i32 },
            b_across = const { !B_ALONG_K as i32 },
            options(nostack),
        )
    };
    (@ $halves:tt, $shape:literal, $a:literal, $b:literal) => {
        concat!(
            "wgmma.mma_async.sync.aligned.", $shape, ".f32.bf16.bf16 {{", sums!($halves), "}}, {", $a, "}, {", $b,
            "}, 1, 1, 1, {a_across}, {b_across};"
        )
    };
}

/// sums += a·b over 64 levels of k, by the tensor cores: for all threads of four warps, the first of them warp 0, 4,
/// 8 and so on. Sums are of 64 rows and 128 · `HALVES` columns, see [`GroupSums`].
///
/// What copies have written to the operands is read right away, what threads have behind [`fence_async`] and
/// a barrier; when this returns, they have been read.
#[inline(always)]
pub fn multiply_by_group<const A_ALONG_K: bool, const B_ALONG_K: bool, const HALVES: usize>(
    sums: &mut GroupSums<HALVES>,
    a: Operand,
    b: Operand,
) {
    const { assert!(HALVES == 1 || HALVES == 2) };
    // Convergent, which `asm!` is not: it keeps what follows from being copied into the sides of a branch.
    sync_warp();
    // SAFETY: reads the operands, which are inside the block's shared memory by the kernel's contract, and changes
    // the sums alone.
    unsafe {
        #[allow(unconditional_panic)] // Constant conditions, which the lint does not know.
        if const { HALVES == 2 } {
            products!(2, "m64n256k16", sums, a, b, [0 1]);
        } else {
            products!(1, "m64n128k16", sums, a, b, [0]);
        }
    }
}

/// Where `shared` lies, as operands' descriptions have it.
#[inline(always)]
pub(in crate::simt) fn address_of(shared: Shared<Bf16>) -> u32 {
    shared.at(0)
}

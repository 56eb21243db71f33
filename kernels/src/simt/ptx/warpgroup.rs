//! `wgmma`: products by warpgroups, of four warps each.
//!
//! What belongs together is one `asm!`, from the fence to the wait: nothing can come in between, and sums stay in the
//! registers that the tensor cores write while the thread goes on. AFragments of it are numbered: registers are named in
//! the template by eights, in the order in which they are listed behind it.

use core::arch::asm;

use super::super::warpgroup::{STEP_K_MAJOR, STEP_MN_MAJOR, next_tile};
use super::sync_warp;
use crate::simt::{MatrixDescriptor, WarpgroupAccumulators};

/// Eight registers in a template.
#[rustfmt::skip]
macro_rules! eight {
    (0) => { "{0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}" };
    (1) => { "{8}, {9}, {10}, {11}, {12}, {13}, {14}, {15}" };
    (2) => { "{16}, {17}, {18}, {19}, {20}, {21}, {22}, {23}" };
    (3) => { "{24}, {25}, {26}, {27}, {28}, {29}, {30}, {31}" };
    (4) => { "{32}, {33}, {34}, {35}, {36}, {37}, {38}, {39}" };
    (5) => { "{40}, {41}, {42}, {43}, {44}, {45}, {46}, {47}" };
    (6) => { "{48}, {49}, {50}, {51}, {52}, {53}, {54}, {55}" };
    (7) => { "{56}, {57}, {58}, {59}, {60}, {61}, {62}, {63}" };
    (8) => { "{64}, {65}, {66}, {67}, {68}, {69}, {70}, {71}" };
    (9) => { "{72}, {73}, {74}, {75}, {76}, {77}, {78}, {79}" };
    (10) => { "{80}, {81}, {82}, {83}, {84}, {85}, {86}, {87}" };
    (11) => { "{88}, {89}, {90}, {91}, {92}, {93}, {94}, {95}" };
    (12) => { "{96}, {97}, {98}, {99}, {100}, {101}, {102}, {103}" };
    (13) => { "{104}, {105}, {106}, {107}, {108}, {109}, {110}, {111}" };
    (14) => { "{112}, {113}, {114}, {115}, {116}, {117}, {118}, {119}" };
    (15) => { "{120}, {121}, {122}, {123}, {124}, {125}, {126}, {127}" };
    (16) => { "{128}, {129}, {130}, {131}, {132}, {133}, {134}, {135}" };
    (17) => { "{136}, {137}, {138}, {139}, {140}, {141}, {142}, {143}" };
    (18) => { "{144}, {145}, {146}, {147}, {148}, {149}, {150}, {151}" };
    (19) => { "{152}, {153}, {154}, {155}, {156}, {157}, {158}, {159}" };
    (20) => { "{160}, {161}, {162}, {163}, {164}, {165}, {166}, {167}" };
    (21) => { "{168}, {169}, {170}, {171}, {172}, {173}, {174}, {175}" };
}

/// Four registers in a template.
#[rustfmt::skip]
macro_rules! four {
    (0) => { "{0}, {1}, {2}, {3}" };
    (1) => { "{4}, {5}, {6}, {7}" };
    (2) => { "{8}, {9}, {10}, {11}" };
    (3) => { "{12}, {13}, {14}, {15}" };
    (4) => { "{16}, {17}, {18}, {19}" };
    (5) => { "{20}, {21}, {22}, {23}" };
    (6) => { "{24}, {25}, {26}, {27}" };
    (7) => { "{28}, {29}, {30}, {31}" };
}

/// Registers in a template, by eights.
macro_rules! registers {
    ($first:tt $($more:tt)*) => {
        concat!(eight!($first) $(, ", ", eight!($more))*)
    };
}

/// Four products of 16 along k each, begun together and waited for.
macro_rules! products {
    ($shape:literal, $eights:tt, $sums:ident, $a:ident, $b:ident, [$($half:literal)*]) => {
        products!(@ $shape, $eights, $sums, $a, $b, [$($half [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15])*])
    };
    (@ $shape:literal, $eights:tt, $sums:ident, $a:ident, $b:ident, [$($half:literal [$($tile:literal)*])*]) => {
        asm!(
            "wgmma.fence.sync.aligned;",
            products!(@ $shape, $eights, "a0", "b0"),
            products!(@ $shape, $eights, "a1", "b1"),
            products!(@ $shape, $eights, "a2", "b2"),
            products!(@ $shape, $eights, "a3", "b3"),
            "wgmma.commit_group.sync.aligned;",
            "wgmma.wait_group.sync.aligned 0;",
            $($(
                inout(reg32) $sums[$half][$tile][0],
                inout(reg32) $sums[$half][$tile][1],
                inout(reg32) $sums[$half][$tile][2],
                inout(reg32) $sums[$half][$tile][3],
            )*)*
            a0 = in(reg64) $a.at_k(0, A_K_MAJOR),
            a1 = in(reg64) $a.at_k(16, A_K_MAJOR),
            a2 = in(reg64) $a.at_k(32, A_K_MAJOR),
            a3 = in(reg64) $a.at_k(48, A_K_MAJOR),
            b0 = in(reg64) $b.at_k(0, B_K_MAJOR),
            b1 = in(reg64) $b.at_k(16, B_K_MAJOR),
            b2 = in(reg64) $b.at_k(32, B_K_MAJOR),
            b3 = in(reg64) $b.at_k(48, B_K_MAJOR),
            a_across = const { !A_K_MAJOR as i32 },
            b_across = const { !B_K_MAJOR as i32 },
            options(nostack),
        )
    };
    (@ $shape:literal, [$($eights:tt)*], $a:literal, $b:literal) => {
        concat!(
            "wgmma.mma_async.sync.aligned.", $shape, ".f32.bf16.bf16 {{", registers!($($eights)*), "}}, {", $a, "}, {", $b,
            "}, 1, 1, 1, {a_across}, {b_across};"
        )
    };
}

/// sums += a·b over 64 along k, by the tensor cores: for all threads of four warps, the first of them warp 0, 4,
/// 8 and so on. Sums are of 64 rows and 128 · `HALVES` columns, see [`WarpgroupAccumulators`].
///
/// What copies have written to the operands is read right away, what threads have behind [`fence_proxy_async`] and
/// a barrier; when this returns, they have been read.
#[inline(always)]
pub fn warpgroup_multiply<const A_K_MAJOR: bool, const B_K_MAJOR: bool, const HALVES: usize>(
    sums: &mut WarpgroupAccumulators<HALVES>,
    a: MatrixDescriptor,
    b: MatrixDescriptor,
) {
    const { assert!(HALVES == 1 || HALVES == 2) };
    // Convergent, which `asm!` is not: it keeps what follows from being copied into the sides of a branch.
    sync_warp();
    // SAFETY: reads the operands, which are inside the block's shared memory by the kernel's contract, and changes
    // the sums alone.
    unsafe {
        #[allow(unconditional_panic)] // Constant conditions, which the lint does not know.
        if const { HALVES == 2 } {
            products!("m64n256k16", [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15], sums, a, b, [0 1]);
        } else {
            products!("m64n128k16", [0 1 2 3 4 5 6 7], sums, a, b, [0]);
        }
    }
}

// What the templates below add to descriptions from one step to the next.
const _: () =
    assert!(STEP_K_MAJOR == 2 && STEP_MN_MAJOR == 128 && next_tile(64) == 506 && next_tile(128) == 1018);

/// An instruction over 16 elements of the head; the first one's products take the place of what was there. `next` is in
/// the same tiles of 64 along k as the one before; in the next ones queries have 64 lines, keys 64 or 128.
macro_rules! scores_step {
    (first $shape:literal $scores:tt) => { scores_step!(@ "", $shape, $scores, "0") };
    (next $shape:literal $scores:tt) => {
        scores_step!(@ "add.s64 a, a, 2; add.s64 b, b, 2; ", $shape, $scores, "1")
    };
    (tile_of_64 $shape:literal $scores:tt) => {
        scores_step!(@ "add.s64 a, a, 506; add.s64 b, b, 506; ", $shape, $scores, "1")
    };
    (tile_of_128 $shape:literal $scores:tt) => {
        scores_step!(@ "add.s64 a, a, 506; add.s64 b, b, 1018; ", $shape, $scores, "1")
    };
    (@ $move:literal, $shape:literal, [$($eights:tt)*], $adds:literal) => {
        concat!(
            $move, "wgmma.mma_async.sync.aligned.", $shape, ".f32.bf16.bf16 {{", registers!($($eights)*),
            "}}, a, b, ", $adds, ", 1, 1, 0, 0;"
        )
    };
}

/// Instructions over 16 keys, with the weights in four registers by their number. What is swizzled together has 64
/// columns: more that are no multiple of it, as of heads with 80 or 96 elements, are 64 and the rest, each by an
/// instruction of its own. One over all of them would end within what is swizzled together, which no layout of the PTX
/// ISA does (wgmma: Shared Memory Matrix Layout). The rest is so many chunks of 16 bytes behind.
macro_rules! values_step {
    (0 $shape:tt $sums:tt) => { values_step!(@ 0, "mov.b64 b, {v}; ", $shape, $sums) };
    // Of a second list of weights and values.
    (4 of_others $shape:tt $sums:tt) => { values_step!(@ 4, "mov.b64 b, {w}; ", $shape, $sums) };
    ($step:tt of_others $shape:tt $sums:tt) => { values_step!($step $shape $sums) };
    ($step:tt $shape:tt $sums:tt) => { values_step!(@ $step, "add.s64 b, b, 128; ", $shape, $sums) };
    (@ $step:tt, $move:literal, ($rest:literal behind $apart:literal), [$a:tt $b:tt $c:tt $d:tt $($more:tt)*]) => {
        concat!(
            values_step!(@ $step, $move, "m64n64k16", [$a $b $c $d]), " add.s64 a, b, ", $apart, "; ",
            values_step!(from a $step, $rest, [$($more)*])
        )
    };
    (@ $step:tt, $move:literal, $shape:literal, $sums:tt) => {
        concat!($move, values_step!(from b $step, $shape, $sums))
    };
    (from $values:ident $step:tt, $shape:literal, [$($eights:tt)*]) => {
        concat!(
            "wgmma.mma_async.sync.aligned.", $shape, ".f32.bf16.bf16 {{", registers!($($eights)*), "}}, {{",
            four!($step), "}}, ", stringify!($values), ", 1, 1, 1, 1;"
        )
    };
}

/// `asm!` for products of attention, around the `$steps` that are given; one lane of a warp says that they have begun.
/// Registers are those of the weights, four for 16 keys, then those of the sums, eight for 16 columns.
macro_rules! begin_and_await {
    (
        [$($step:expr),*], $next:ident,
        [$(in $weights:ident [$($j:tt)*])*], [$($kind:ident $sums:ident [$($n:tt)*])*],
        $($operands:tt)*
    ) => {
        asm!(
            "{{ .reg .b64 a, b; .reg .pred tells;",
            "setp.ne.u32 tells, {tells}, 0;",
            "wgmma.fence.sync.aligned;",
            $($step,)*
            "wgmma.commit_group.sync.aligned;",
            "@tells mbarrier.arrive.shared::cta.b64 _, [{next}];",
            "wgmma.wait_group.sync.aligned 0; }}",
            $($(
                in(reg32) $weights[$j][0], in(reg32) $weights[$j][1],
                in(reg32) $weights[$j][2], in(reg32) $weights[$j][3],
            )*)*
            $($(
                $kind(reg32) $sums[$n][0][0], $kind(reg32) $sums[$n][0][1],
                $kind(reg32) $sums[$n][0][2], $kind(reg32) $sums[$n][0][3],
                $kind(reg32) $sums[$n][1][0], $kind(reg32) $sums[$n][1][1],
                $kind(reg32) $sums[$n][1][2], $kind(reg32) $sums[$n][1][3],
            )*)*
            $($operands)*
            tells = in(reg32) u32::from(lane_id() == 0),
            next = in(reg32) $next.address(),
            options(nostack),
        )
    };
}

/// Gives registers of this thread's back, so that it has `COUNT`, a multiple of 8. For all threads of a warpgroup.
#[inline(always)]
pub fn setmaxnreg_dec<const COUNT: u32>() {
    sync_warp();
    // SAFETY: the assembler sees to it that the registers in use are kept.
    unsafe { asm!("setmaxnreg.dec.sync.aligned.u32 {};", const COUNT, options(nomem, nostack)) };
}

/// Waits until there are registers for this thread to have `COUNT`, a multiple of 8. For all threads of a warpgroup.
#[inline(always)]
pub fn setmaxnreg_inc<const COUNT: u32>() {
    sync_warp();
    // SAFETY: changes how many registers there are, and none of those in use.
    unsafe { asm!("setmaxnreg.inc.sync.aligned.u32 {};", const COUNT, options(nomem, nostack)) };
}

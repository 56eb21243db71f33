//! Products on Hopper: which tile, and whether its kernels are better than those for all devices.

use crate::gemm_hopper::*;
use crate::launch::{Launch, LaunchError, Slice, SliceMut};
use crate::simt::{Bf16, Real};

/// Tiles of the kernels here, and the smallest one's of `gemm`, which does better on few.
const HALVES: [usize; 2] = [2, 1];
/// The name of the self-test of the kernels here.
pub const SELF_TEST: &str = gemm_nt_hopper_128x256::KERNEL.family;
/// How much longer a multiprocessor takes for an element of a tile of 128 by 128 than of 128 by 256, which reads a
/// quarter less. A design figure, not measured.
const COST_OF_HALF: f64 = 1.15;
/// The same for a tile of 64 by 64 by the tensor instructions of sm_80, of which Hopper does about two thirds as
/// many. Not measured.
const COST_OF_SMALL: f64 = 2.5;

/// Work of the multiprocessor that has most, in elements of C as the largest tile does them.
fn time(tiles: u64, area: u64, cost: f64, multiprocessors: u32) -> f64 {
    tiles.div_ceil(multiprocessors.into()) as f64 * area as f64 * cost
}

/// Halves of the tile for a C of `m` by `n`, with which a kernel here does better than those of
/// [`gemm`](crate::gemm): the one with the least work for the multiprocessor that has most. None on other devices,
/// for an empty product, where smaller tiles are better, unless operands are moved in `chunks` (aligned to 16
/// bytes, with last dimensions that are multiples of 8), and where these kernels do not pass their self-test.
pub fn choose(launcher: &dyn Launch, chunks: bool, [m, n, k]: [u64; 3]) -> Option<usize> {
    if launcher.compute_capability() != (9, 0) || !chunks || m == 0 || n == 0 || k == 0 {
        return None;
    }
    let multiprocessors = launcher.multiprocessors();
    let of = |halves: usize| {
        let area = u64::from(product::ROWS * product::columns(halves));
        let cost = if halves == 2 { 1.0 } else { COST_OF_HALF };
        time(product::count(m, n, halves), area, cost, multiprocessors)
    };
    let small = time(m.div_ceil(64) * n.div_ceil(64), 64 * 64, COST_OF_SMALL, multiprocessors);
    let best = HALVES.into_iter().min_by(|&a, &b| of(a).total_cmp(&of(b)))?;
    (of(best) <= small && launcher.passes_self_test(SELF_TEST)).then_some(best)
}

/// out = a·bᵀ (+ bias in every row), in f32 or bf16, by tiles of 128 by 128 · `halves`; see
/// [`gemm_nt_hopper_128x256`].
///
/// # Errors
/// A size of zero, a buffer too short, or what the launcher reports.
pub fn gemm_nt_hopper<E: Real>(
    launcher: &dyn Launch,
    halves: usize,
    a: Slice<'_, Bf16>,
    b: Slice<'_, Bf16>,
    bias: Option<Slice<'_, E>>,
    out: SliceMut<'_, E>,
    [m, n, k]: [u64; 3],
) -> Result<(), LaunchError> {
    let launch = if halves == 2 { gemm_nt_hopper_128x256 } else { gemm_nt_hopper_128x128 };
    let (tiles, biased) = (product::count(m, n, halves), u32::from(bias.is_some()));
    launch(launcher, a, b, bias.unwrap_or_default(), out, m, n, k, tiles, launcher.multiprocessors(), biased)
}

/// out = a·b, or out += a·b to `accumulate`, by tiles of 128 by 128 · `halves`; see [`gemm_nn_hopper_128x256`].
///
/// # Errors
/// As for [`gemm_nt_hopper`].
pub fn gemm_nn_hopper(
    launcher: &dyn Launch,
    halves: usize,
    a: Slice<'_, Bf16>,
    b: Slice<'_, Bf16>,
    out: SliceMut<'_, Bf16>,
    [m, n, k]: [u64; 3],
    accumulate: bool,
) -> Result<(), LaunchError> {
    let launch = if halves == 2 { gemm_nn_hopper_128x256 } else { gemm_nn_hopper_128x128 };
    let tiles = product::count(m, n, halves);
    launch(launcher, a, b, out, m, n, k, tiles, launcher.multiprocessors(), u32::from(accumulate))
}

/// out += aᵀ·b, by tiles of 128 by 128 · `halves`; see [`gemm_tn_hopper_128x256`].
///
/// # Errors
/// As for [`gemm_nt_hopper`].
pub fn gemm_tn_hopper(
    launcher: &dyn Launch,
    halves: usize,
    a: Slice<'_, Bf16>,
    b: Slice<'_, Bf16>,
    out: SliceMut<'_, f32>,
    [m, n, k]: [u64; 3],
) -> Result<(), LaunchError> {
    let launch = if halves == 2 { gemm_tn_hopper_128x256 } else { gemm_tn_hopper_128x128 };
    let tiles = product::count(m, n, halves);
    launch(launcher, a, b, out, m, n, k, tiles, launcher.multiprocessors())
}

//! Launchers that choose the kernel.

use super::*;
use crate::gemm_hopper;
use crate::launch::{Launch, LaunchError, Slice, SliceMut};

/// Fewer large tiles than this leave most of a GPU idle, so that small ones win.
const MANY_TILES: u64 = 64;

/// Whether the kernel for large tiles should compute a C of `m` by `n` by fused multiply-adds.
fn large(m: u64, n: u64) -> bool {
    m.min(n) > u64::from(tile::side(SMALL)) && tile::count(m, n, LARGE) >= MANY_TILES
}

/// Tiles of the kernels on tensor cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tile {
    Of128x256,
    Of128x128,
    Of64x64,
}

impl Tile {
    const ALL: [Self; 3] = [Self::Of128x256, Self::Of128x128, Self::Of64x64];

    /// Rows and columns.
    fn sides(self) -> (u64, u64) {
        match self {
            Self::Of128x256 => (128, 256),
            Self::Of128x128 => (128, 128),
            Self::Of64x64 => (64, 64),
        }
    }

    /// How much of an operand's every element a multiprocessor reads per operation, next to the largest
    /// tile's: small tiles read more. A design figure, not measured.
    fn cost(self) -> f64 {
        match self {
            Self::Of128x256 => 1.0,
            Self::Of128x128 => 1.1,
            Self::Of64x64 => 1.5,
        }
    }

    /// Time of the multiprocessor that has most to do, in multiply-adds of the largest tile's kind, where every
    /// one of `splits` blocks to a tile sums `depth` elements along k.
    fn time(self, [m, n]: [u64; 2], splits: u64, depth: u64, multiprocessors: u32) -> f64 {
        let (rows, columns) = self.sides();
        let blocks = m.div_ceil(rows) * n.div_ceil(columns) * splits;
        blocks.div_ceil(multiprocessors.into()) as f64 * (rows * columns * depth) as f64 * self.cost()
    }

    /// The tile for a C of `m` by `n`: that with the least work for the multiprocessor that has most.
    fn choose(m: u64, n: u64, multiprocessors: u32) -> Self {
        let time = |tile: &Self| tile.time([m, n], 1, 1, multiprocessors);
        Self::ALL.into_iter().min_by(|a, b| time(a).total_cmp(&time(b))).unwrap_or(Self::Of64x64)
    }
}

/// Most bytes of the sums of splits.
pub const SPLIT_K_BYTES: u64 = 32 << 20;
/// Most splits.
const MAX_SPLITS: u64 = 16;
/// Elements along k that a split has at least: below, filling the pipeline takes as long as what comes through it.
const MIN_SPLIT_K: u64 = 256;
/// Multiply-adds that a multiprocessor does while a byte per multiprocessor is moved, about: 78 on an A100, 147
/// on an H100 at the rates on paper. A design figure, not measured.
const PER_BYTE: f64 = 100.0;
/// The same while one more kernel is launched: 2 µs.
const PER_LAUNCH: f64 = 4e6;

/// How a product on tensor cores is divided among blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SplitK {
    tile: Tile,
    /// Splits of k, see [`split_k`].
    splits: u64,
}

impl SplitK {
    /// The fastest for these sizes, by the work of the multiprocessor that has most, and by what splits move.
    fn choose([m, n, k]: [u64; 3], multiprocessors: u32) -> Self {
        let whole = Tile::choose(m, n, multiprocessors);
        let mut best = (whole.time([m, n], 1, k, multiprocessors), Self { tile: whole, splits: 1 });
        for tile in [Tile::Of128x128, Tile::Of64x64] {
            let most = (k / MIN_SPLIT_K).min(SPLIT_K_BYTES / (4 * m * n).max(1)).min(MAX_SPLITS);
            for splits in 2..=most {
                let sums = tile.time([m, n], splits, k.div_ceil(splits), multiprocessors);
                // Every split's sums are written and read.
                let moved = (8 * splits * m * n) as f64 / f64::from(multiprocessors) * PER_BYTE;
                let time = sums + moved + PER_LAUNCH;
                if time < best.0 {
                    best = (time, Self { tile, splits });
                }
            }
        }
        best.1
    }
}

/// In how many splits of k [`gemm_nn_split_k_bf16`] or [`gemm_tn_split_k_bf16`] should sum a product on this device:
/// 1 where that does not pay. Their sums take 4·splits·m·n bytes, at most [`SPLIT_K_BYTES`].
pub fn gemm_splits(launcher: &dyn Launch, sizes: [u64; 3]) -> u32 {
    choose_split_k(launcher, sizes).splits as u32
}

/// What [`gemm_hopper`] takes is not split: it divides the work among as many blocks as there are multiprocessors.
fn choose_split_k(launcher: &dyn Launch, sizes @ [m, n, _]: [u64; 3]) -> SplitK {
    let multiprocessors = launcher.multiprocessors();
    match gemm_hopper::choose(launcher, true, sizes) {
        Some(_) => SplitK { tile: Tile::choose(m, n, multiprocessors), splits: 1 },
        None => SplitK::choose(sizes, multiprocessors),
    }
}

/// Whether operands can be copied 16 bytes at a time: aligned, and with last dimensions that are multiples of
/// eight elements.
fn by_chunks(a: &Slice<'_, Bf16>, b: &Slice<'_, Bf16>, last: [u64; 2]) -> bool {
    a.is_aligned() && b.is_aligned() && last.iter().all(|size| size.is_multiple_of(tensor::CHUNK.into()))
}

/// The kernel for a C of `m` by `n`: of those on tensor cores, by their tiles as in [`Tile::ALL`], where operands are
/// copied in `chunks`; otherwise of those by fused multiply-adds, for large tiles and for small ones.
fn kernel<K: Copy>(
    launcher: &dyn Launch,
    chunks: bool,
    [m, n]: [u64; 2],
    on_tensor_cores: [K; 3],
    by_multiply_adds: [K; 2],
) -> K {
    match chunks {
        true => on_tensor_cores[Tile::choose(m, n, launcher.multiprocessors()) as usize],
        false => by_multiply_adds[usize::from(!large(m, n))],
    }
}

/// out = a·bᵀ (+ bias in every row); out `[m, n]`, a `[m, k]`, b `[n, k]`, bias `[n]`.
///
/// # Errors
/// A buffer too short, a size from 2^31 on, or what the launcher reports.
pub fn gemm_nt_f32(
    launcher: &dyn Launch,
    a: Slice<'_, f32>,
    b: Slice<'_, f32>,
    bias: Option<Slice<'_, f32>>,
    out: SliceMut<'_, f32>,
    [m, n, k]: [u64; 3],
) -> Result<(), LaunchError> {
    let launch = if large(m, n) { gemm_nt_f32_128 } else { gemm_nt_f32_32 };
    let biased = u32::from(bias.is_some());
    launch(launcher, a, b, bias.unwrap_or_default(), out, m, n, k, biased)
}

/// out = a·b, or out += a·b to `accumulate`; out `[m, n]`, a `[m, k]`, b `[k, n]`.
///
/// # Errors
/// A buffer too short, a size from 2^31 on, or what the launcher reports.
pub fn gemm_nn_f32(
    launcher: &dyn Launch,
    a: Slice<'_, f32>,
    b: Slice<'_, f32>,
    out: SliceMut<'_, f32>,
    [m, n, k]: [u64; 3],
    accumulate: bool,
) -> Result<(), LaunchError> {
    let launch = if large(m, n) { gemm_nn_f32_128 } else { gemm_nn_f32_32 };
    launch(launcher, a, b, out, m, n, k, u32::from(accumulate))
}

/// out += aᵀ·b; out `[m, n]`, a `[k, m]`, b `[k, n]`.
///
/// # Errors
/// A buffer too short, a size from 2^31 on, or what the launcher reports.
pub fn gemm_tn_f32(
    launcher: &dyn Launch,
    a: Slice<'_, f32>,
    b: Slice<'_, f32>,
    out: SliceMut<'_, f32>,
    [m, n, k]: [u64; 3],
) -> Result<(), LaunchError> {
    let launch = if large(m, n) { gemm_tn_f32_128 } else { gemm_tn_f32_32 };
    launch(launcher, a, b, out, m, n, k)
}

/// [`gemm_nt_f32`] in bf16, on tensor cores where operands are aligned and k is a multiple of 8; by
/// [`gemm_hopper`] where that is better.
///
/// # Errors
/// As for [`gemm_nt_f32`].
pub fn gemm_nt_bf16(
    launcher: &dyn Launch,
    a: Slice<'_, Bf16>,
    b: Slice<'_, Bf16>,
    bias: Option<Slice<'_, Bf16>>,
    out: SliceMut<'_, Bf16>,
    [m, n, k]: [u64; 3],
) -> Result<(), LaunchError> {
    let chunks = by_chunks(&a, &b, [k, k]);
    if let Some(halves) = gemm_hopper::choose(launcher, chunks, [m, n, k]) {
        return gemm_hopper::gemm_nt_hopper(launcher, halves, a, b, bias, out, [m, n, k]);
    }
    let on_tensor_cores = [gemm_nt_bf16_128x256, gemm_nt_bf16_128x128, gemm_nt_bf16_64x64];
    let launch = kernel(launcher, chunks, [m, n], on_tensor_cores, [gemm_nt_bf16_128, gemm_nt_bf16_32]);
    let biased = u32::from(bias.is_some());
    launch(launcher, a, b, bias.unwrap_or_default(), out, m, n, k, biased)
}

/// out = a·bᵀ of bf16 operands, in f32: logits, whose rounding would show in the loss. On tensor cores, and by
/// [`gemm_hopper`], as [`gemm_nt_bf16`].
///
/// # Errors
/// As for [`gemm_nt_f32`].
pub fn gemm_nt_bf16_f32(
    launcher: &dyn Launch,
    a: Slice<'_, Bf16>,
    b: Slice<'_, Bf16>,
    out: SliceMut<'_, f32>,
    [m, n, k]: [u64; 3],
) -> Result<(), LaunchError> {
    let chunks = by_chunks(&a, &b, [k, k]);
    if let Some(halves) = gemm_hopper::choose(launcher, chunks, [m, n, k]) {
        return gemm_hopper::gemm_nt_f32_hopper(launcher, halves, a, b, None, out, [m, n, k]);
    }
    let on_tensor_cores = [gemm_nt_bf16_f32_128x256, gemm_nt_bf16_f32_128x128, gemm_nt_bf16_f32_64x64];
    let launch =
        kernel(launcher, chunks, [m, n], on_tensor_cores, [gemm_nt_bf16_f32_128, gemm_nt_bf16_f32_32]);
    launch(launcher, a, b, out, m, n, k)
}

/// [`gemm_nn_f32`] in bf16, on tensor cores where operands are aligned and n and k are multiples of 8; by
/// [`gemm_hopper`] where that is better.
///
/// # Errors
/// As for [`gemm_nn_f32`].
pub fn gemm_nn_bf16(
    launcher: &dyn Launch,
    a: Slice<'_, Bf16>,
    b: Slice<'_, Bf16>,
    out: SliceMut<'_, Bf16>,
    [m, n, k]: [u64; 3],
    accumulate: bool,
) -> Result<(), LaunchError> {
    let chunks = by_chunks(&a, &b, [k, n]);
    if let Some(halves) = gemm_hopper::choose(launcher, chunks, [m, n, k]) {
        return gemm_hopper::gemm_nn_hopper(launcher, halves, a, b, out, [m, n, k], accumulate);
    }
    let on_tensor_cores = [gemm_nn_bf16_128x256, gemm_nn_bf16_128x128, gemm_nn_bf16_64x64];
    let launch = kernel(launcher, chunks, [m, n], on_tensor_cores, [gemm_nn_bf16_128, gemm_nn_bf16_32]);
    launch(launcher, a, b, out, m, n, k, u32::from(accumulate))
}

/// [`gemm_tn_f32`] of bf16 operands, on tensor cores where they are aligned and m and n are multiples of 8; by
/// [`gemm_hopper`] where that is better.
///
/// # Errors
/// As for [`gemm_tn_f32`].
pub fn gemm_tn_bf16(
    launcher: &dyn Launch,
    a: Slice<'_, Bf16>,
    b: Slice<'_, Bf16>,
    out: SliceMut<'_, f32>,
    [m, n, k]: [u64; 3],
) -> Result<(), LaunchError> {
    let chunks = by_chunks(&a, &b, [m, n]);
    if let Some(halves) = gemm_hopper::choose(launcher, chunks, [m, n, k]) {
        return gemm_hopper::gemm_tn_hopper(launcher, halves, a, b, out, [m, n, k]);
    }
    let on_tensor_cores = [gemm_tn_bf16_128x256, gemm_tn_bf16_128x128, gemm_tn_bf16_64x64];
    let launch = kernel(launcher, chunks, [m, n], on_tensor_cores, [gemm_tn_bf16_128, gemm_tn_bf16_32]);
    launch(launcher, a, b, out, m, n, k)
}

/// [`gemm_nn_bf16`] in the [`gemm_splits`] that the sizes ask for, whose sums go into `sums`, `[splits, m, n]`.
/// Operands that tensor cores do not take are multiplied in one.
///
/// # Errors
/// As for [`gemm_nn_bf16`].
pub fn gemm_nn_split_k_bf16(
    launcher: &dyn Launch,
    [a, b]: [Slice<'_, Bf16>; 2],
    mut sums: SliceMut<'_, f32>,
    out: SliceMut<'_, Bf16>,
    [m, n, k]: [u64; 3],
    accumulate: bool,
) -> Result<(), LaunchError> {
    let split_k = choose_split_k(launcher, [m, n, k]);
    if split_k.splits == 1 || !by_chunks(&a, &b, [k, n]) {
        return gemm_nn_bf16(launcher, a, b, out, [m, n, k], accumulate);
    }
    let launch = if split_k.tile == Tile::Of64x64 { gemm_nn_split_k_64x64 } else { gemm_nn_split_k_128x128 };
    launch(launcher, a, b, sums.reborrow(), m, n, k, split_k.splits as u32)?;
    gemm_split_k_sum_bf16(launcher, sums.as_read(), out, m * n, split_k.splits as u32, u32::from(accumulate))
}

/// [`gemm_tn_bf16`] in splits, as [`gemm_nn_split_k_bf16`].
///
/// # Errors
/// As for [`gemm_tn_bf16`].
pub fn gemm_tn_split_k_bf16(
    launcher: &dyn Launch,
    [a, b]: [Slice<'_, Bf16>; 2],
    mut sums: SliceMut<'_, f32>,
    out: SliceMut<'_, f32>,
    [m, n, k]: [u64; 3],
) -> Result<(), LaunchError> {
    let split_k = choose_split_k(launcher, [m, n, k]);
    if split_k.splits == 1 || !by_chunks(&a, &b, [m, n]) {
        return gemm_tn_bf16(launcher, a, b, out, [m, n, k]);
    }
    let launch = if split_k.tile == Tile::Of64x64 { gemm_tn_split_k_64x64 } else { gemm_tn_split_k_128x128 };
    launch(launcher, a, b, sums.reborrow(), m, n, k, split_k.splits as u32)?;
    gemm_split_k_sum_f32(launcher, sums.as_read(), out, m * n, split_k.splits as u32, 1)
}

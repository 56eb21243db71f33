//! Products: which kernel computes one.

use super::gemm_hopper;
use crate::gemm::*;
use crate::launch::{Launch, LaunchError, Slice, SliceMut};
use crate::simt::{Bf16, Real};

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

/// What computes a product of bf16.
enum Choice {
    /// [`gemm_hopper`], by tiles of so many halves.
    Hopper(usize),
    /// The kernel of this index: three on tensor cores, by their tiles as in [`Tile::ALL`], for operands that are
    /// copied in chunks; then those by fused multiply-adds, for large tiles and for small ones.
    Kernel(usize),
}

/// The choice for operands with these last dimensions.
fn choose(
    launcher: &dyn Launch,
    [a, b]: [&Slice<'_, Bf16>; 2],
    last: [u64; 2],
    sizes @ [m, n, _]: [u64; 3],
) -> Choice {
    let chunks = by_chunks(a, b, last);
    match gemm_hopper::choose(launcher, chunks, sizes) {
        Some(halves) => Choice::Hopper(halves),
        None if chunks => Choice::Kernel(Tile::choose(m, n, launcher.multiprocessors()) as usize),
        None => Choice::Kernel(Tile::ALL.len() + usize::from(!large(m, n))),
    }
}

/// Element types of operands of products.
///
/// Products of bf16 are computed on tensor cores where operands are aligned and their last dimensions are multiples of
/// 8, by [`gemm_hopper`] where that is better, and otherwise by fused multiply-adds; those of f32 always by the latter.
pub trait GemmElement: Real {
    /// out = a·bᵀ (+ bias in every row); out `[m, n]`, a `[m, k]`, b `[n, k]`, bias `[n]`.
    ///
    /// # Errors
    /// A buffer too short, a size from 2^31 on, or what the launcher reports.
    fn gemm_nt(
        launcher: &dyn Launch,
        a: Slice<'_, Self>,
        b: Slice<'_, Self>,
        bias: Option<Slice<'_, Self>>,
        out: SliceMut<'_, Self>,
        sizes: [u64; 3],
    ) -> Result<(), LaunchError>;

    /// out = a·bᵀ in f32, not rounded to the operands' type: logits, whose rounding would show in the loss.
    ///
    /// # Errors
    /// As for [`GemmElement::gemm_nt`].
    fn gemm_nt_unrounded(
        launcher: &dyn Launch,
        a: Slice<'_, Self>,
        b: Slice<'_, Self>,
        out: SliceMut<'_, f32>,
        sizes: [u64; 3],
    ) -> Result<(), LaunchError>;

    /// In how many splits of k [`GemmElement::gemm_nn`] and [`GemmElement::gemm_tn`] sum a product on this device: 1
    /// where splitting does not pay. Their sums take 4·splits·m·n bytes, at most [`SPLIT_K_BYTES`].
    fn gemm_splits(launcher: &dyn Launch, sizes: [u64; 3]) -> u32;

    /// out = a·b, or out += a·b to `accumulate`; out `[m, n]`, a `[m, k]`, b `[k, n]`. The sums of splits go into
    /// `sums`, `[splits, m, n]`, which is not used where there is one split.
    ///
    /// # Errors
    /// As for [`GemmElement::gemm_nt`].
    fn gemm_nn(
        launcher: &dyn Launch,
        factors: [Slice<'_, Self>; 2],
        sums: SliceMut<'_, f32>,
        out: SliceMut<'_, Self>,
        sizes: [u64; 3],
        accumulate: bool,
    ) -> Result<(), LaunchError>;

    /// out += aᵀ·b; out `[m, n]`, a `[k, m]`, b `[k, n]`. Sums as of [`GemmElement::gemm_nn`].
    ///
    /// # Errors
    /// As for [`GemmElement::gemm_nt`].
    fn gemm_tn(
        launcher: &dyn Launch,
        factors: [Slice<'_, Self>; 2],
        sums: SliceMut<'_, f32>,
        out: SliceMut<'_, f32>,
        sizes: [u64; 3],
    ) -> Result<(), LaunchError>;
}

impl GemmElement for f32 {
    fn gemm_nt(
        launcher: &dyn Launch,
        a: Slice<'_, Self>,
        b: Slice<'_, Self>,
        bias: Option<Slice<'_, Self>>,
        out: SliceMut<'_, Self>,
        [m, n, k]: [u64; 3],
    ) -> Result<(), LaunchError> {
        let launch = if large(m, n) { gemm_nt_128 } else { gemm_nt_32 };
        let biased = u32::from(bias.is_some());
        launch(launcher, a, b, bias.unwrap_or_default(), out, m, n, k, biased)
    }

    fn gemm_nt_unrounded(
        launcher: &dyn Launch,
        a: Slice<'_, Self>,
        b: Slice<'_, Self>,
        out: SliceMut<'_, f32>,
        sizes: [u64; 3],
    ) -> Result<(), LaunchError> {
        Self::gemm_nt(launcher, a, b, None, out, sizes)
    }

    fn gemm_splits(_: &dyn Launch, _: [u64; 3]) -> u32 {
        1
    }

    fn gemm_nn(
        launcher: &dyn Launch,
        [a, b]: [Slice<'_, Self>; 2],
        _: SliceMut<'_, f32>,
        out: SliceMut<'_, Self>,
        [m, n, k]: [u64; 3],
        accumulate: bool,
    ) -> Result<(), LaunchError> {
        let launch = if large(m, n) { gemm_nn_128 } else { gemm_nn_32 };
        launch(launcher, a, b, out, m, n, k, u32::from(accumulate))
    }

    fn gemm_tn(
        launcher: &dyn Launch,
        [a, b]: [Slice<'_, Self>; 2],
        _: SliceMut<'_, f32>,
        out: SliceMut<'_, f32>,
        [m, n, k]: [u64; 3],
    ) -> Result<(), LaunchError> {
        let launch = if large(m, n) { gemm_tn_128 } else { gemm_tn_32 };
        launch(launcher, a, b, out, m, n, k)
    }
}

impl GemmElement for Bf16 {
    fn gemm_nt(
        launcher: &dyn Launch,
        a: Slice<'_, Self>,
        b: Slice<'_, Self>,
        bias: Option<Slice<'_, Self>>,
        out: SliceMut<'_, Self>,
        sizes @ [m, n, k]: [u64; 3],
    ) -> Result<(), LaunchError> {
        let kernels =
            [gemm_nt_bf16_128x256, gemm_nt_bf16_128x128, gemm_nt_bf16_64x64, gemm_nt_128, gemm_nt_32];
        match choose(launcher, [&a, &b], [k, k], sizes) {
            Choice::Hopper(halves) => gemm_hopper::gemm_nt_hopper(launcher, halves, a, b, bias, out, sizes),
            Choice::Kernel(index) => {
                let biased = u32::from(bias.is_some());
                kernels[index](launcher, a, b, bias.unwrap_or_default(), out, m, n, k, biased)
            }
        }
    }

    fn gemm_nt_unrounded(
        launcher: &dyn Launch,
        a: Slice<'_, Self>,
        b: Slice<'_, Self>,
        out: SliceMut<'_, f32>,
        sizes @ [m, n, k]: [u64; 3],
    ) -> Result<(), LaunchError> {
        let kernels = [
            gemm_nt_bf16_f32_128x256,
            gemm_nt_bf16_f32_128x128,
            gemm_nt_bf16_f32_64x64,
            gemm_nt_bf16_f32_128,
            gemm_nt_bf16_f32_32,
        ];
        match choose(launcher, [&a, &b], [k, k], sizes) {
            Choice::Hopper(halves) => gemm_hopper::gemm_nt_hopper(launcher, halves, a, b, None, out, sizes),
            Choice::Kernel(index) => kernels[index](launcher, a, b, out, m, n, k),
        }
    }

    fn gemm_splits(launcher: &dyn Launch, sizes: [u64; 3]) -> u32 {
        choose_split_k(launcher, sizes).splits as u32
    }

    fn gemm_nn(
        launcher: &dyn Launch,
        [a, b]: [Slice<'_, Self>; 2],
        mut sums: SliceMut<'_, f32>,
        out: SliceMut<'_, Self>,
        sizes @ [m, n, k]: [u64; 3],
        accumulate: bool,
    ) -> Result<(), LaunchError> {
        let SplitK { tile, splits } = choose_split_k(launcher, sizes);
        if splits > 1 && by_chunks(&a, &b, [k, n]) {
            let launch = if tile == Tile::Of64x64 { gemm_nn_split_k_64x64 } else { gemm_nn_split_k_128x128 };
            launch(launcher, a, b, sums.reborrow(), m, n, k, splits as u32)?;
            return gemm_split_k_sum(launcher, sums.as_read(), out, m * n, splits as u32, accumulate.into());
        }
        gemm_nn_bf16(launcher, [a, b], out, sizes, accumulate)
    }

    fn gemm_tn(
        launcher: &dyn Launch,
        [a, b]: [Slice<'_, Self>; 2],
        mut sums: SliceMut<'_, f32>,
        out: SliceMut<'_, f32>,
        sizes @ [m, n, k]: [u64; 3],
    ) -> Result<(), LaunchError> {
        let SplitK { tile, splits } = choose_split_k(launcher, sizes);
        if splits > 1 && by_chunks(&a, &b, [m, n]) {
            let launch = if tile == Tile::Of64x64 { gemm_tn_split_k_64x64 } else { gemm_tn_split_k_128x128 };
            launch(launcher, a, b, sums.reborrow(), m, n, k, splits as u32)?;
            return gemm_split_k_sum(launcher, sums.as_read(), out, m * n, splits as u32, 1);
        }
        gemm_tn_bf16(launcher, [a, b], out, sizes)
    }
}

/// [`GemmElement::gemm_nn`] of bf16 without splits.
///
/// # Errors
/// As for [`GemmElement::gemm_nt`].
pub fn gemm_nn_bf16(
    launcher: &dyn Launch,
    [a, b]: [Slice<'_, Bf16>; 2],
    out: SliceMut<'_, Bf16>,
    sizes @ [m, n, k]: [u64; 3],
    accumulate: bool,
) -> Result<(), LaunchError> {
    let kernels = [gemm_nn_bf16_128x256, gemm_nn_bf16_128x128, gemm_nn_bf16_64x64, gemm_nn_128, gemm_nn_32];
    match choose(launcher, [&a, &b], [k, n], sizes) {
        Choice::Hopper(halves) => gemm_hopper::gemm_nn_hopper(launcher, halves, a, b, out, sizes, accumulate),
        Choice::Kernel(index) => kernels[index](launcher, a, b, out, m, n, k, accumulate.into()),
    }
}

/// [`GemmElement::gemm_tn`] of bf16 without splits.
///
/// # Errors
/// As for [`GemmElement::gemm_nt`].
pub fn gemm_tn_bf16(
    launcher: &dyn Launch,
    [a, b]: [Slice<'_, Bf16>; 2],
    out: SliceMut<'_, f32>,
    sizes @ [m, n, k]: [u64; 3],
) -> Result<(), LaunchError> {
    let kernels = [gemm_tn_bf16_128x256, gemm_tn_bf16_128x128, gemm_tn_bf16_64x64, gemm_tn_128, gemm_tn_32];
    match choose(launcher, [&a, &b], [m, n], sizes) {
        Choice::Hopper(halves) => gemm_hopper::gemm_tn_hopper(launcher, halves, a, b, out, sizes),
        Choice::Kernel(index) => kernels[index](launcher, a, b, out, m, n, k),
    }
}

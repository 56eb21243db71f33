//! Products of large matrices.
//!
//! As in BLIS: a micro-kernel makes a tile of C in registers from a panel of rows of A and one of columns
//! of B, both packed in the order it reads them. The threads pack one operand together, a chunk of it that
//! stays in the shared cache; of the other each packs the part it multiplies next into its own cache.
//!
//! f32 is multiplied by the widest vectors of the processor (`floats.rs`), bf16 by AMX (`tiles.rs`, `amx.rs`), by the dot
//! products of AVX-512 (`pairs.rs`), or widened to f32 while it is packed. A few rows by a matrix that lies row by row
//! pack nothing of that (`few_rows.rs`).
//!
//! Measured on two Zen 3 cores whose peak is 100 GFLOP/s each, f32, shapes of transformer layers: 79 to 92
//! GFLOP/s a core with 1024 tokens, 67 to 73 where C is a gradient of 512 by 512 or fewer, against 63 to 85
//! of the crate `matrixmultiply` in turns with it. Prefetching is worth nothing there. On two cores of a Xeon of 2023 whose
//! peak is 189 GFLOP/s each: 145 to 160 a core, as oneDNN's; prefetching B's panel and storing the tile from registers
//! are worth 5 and 6 %.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod few_rows;
pub(crate) mod floats;
pub(crate) mod kernel;
mod pack;
#[cfg(target_arch = "x86_64")]
pub(crate) mod pairs;
mod path;
mod product;
#[cfg(test)]
pub(crate) mod stand_in;
pub(crate) mod tiles;

use half::bf16;

use self::floats::Floats;
use self::kernel::Kernel;
pub use self::path::{Bf16Path, amx_refusal, bf16_path};
use super::CpuDevice;
#[cfg(target_arch = "x86_64")]
use super::simd::Instructions;
use super::simd::{Baseline, Level};
use crate::float::Float;

/// A matrix to read: rows and columns at any stride in a slice.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a, T = f32> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// A row-major matrix. Panics unless `data` holds exactly its elements.
    pub fn new(data: &'a [T], rows: usize, columns: usize) -> Self {
        assert_eq!(data.len(), rows * columns, "matrix of {rows} by {columns}");
        Self { data, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// Rows `row_stride` elements apart, the first at the start of `data`. Panics unless `data` holds them.
    pub(crate) fn strided(data: &'a [T], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(rows == 0 || (rows - 1) * row_stride + columns <= data.len(), "rows of {columns}");
        Self { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// Rows and columns.
    pub(crate) fn size(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    /// The same elements with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// What happens to the elements C has before the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// C ← A·B; what C held is not read.
    Overwrite,
    /// C ← C + A·B.
    Accumulate,
}

/// C ← A·B or C + A·B, with C row-major `[a.rows, b.columns]`. Panics when the sizes disagree.
///
/// Sums are f32 over the whole inner dimension, whatever the types; a bf16 result is rounded once.
///
/// Every element of C is summed by one thread in an order that depends on the inner dimension alone:
/// the result has the same bits for every number of threads.
pub fn multiply<T: Factor, O: Float>(
    cpu: &CpuDevice,
    a: Matrix<T>,
    b: Matrix<T>,
    update: Update,
    c: &mut [O],
) {
    assert_eq!(a.columns, b.rows, "inner dimensions");
    assert_eq!(c.len(), a.rows * b.columns, "C");
    if a.columns == 0 && update == Update::Overwrite {
        c.fill(O::default());
    }
    if c.is_empty() || a.columns == 0 {
        return;
    }
    T::multiply(Multiplication { cpu, a, b, update, c });
}

/// What [`multiply`] is asked for: no size is zero.
pub struct Multiplication<'a, T, O> {
    cpu: &'a CpuDevice,
    a: Matrix<'a, T>,
    b: Matrix<'a, T>,
    update: Update,
    c: &'a mut [O],
}

impl<T: Float, O: Float> Task<T> for Multiplication<'_, T, O> {
    fn run<K: Kernel<Element = T>>(self, kernel: K) {
        product::run(kernel, self);
    }
}

#[cfg(target_arch = "x86_64")]
impl<O: Float> Multiplication<'_, f32, O> {
    /// With few rows.
    fn run_few(self, instructions: impl Instructions) {
        match self.a.rows {
            ..=8 => few_rows::run(Floats::<_, _, 8, { few_rows::TILE }>::new(instructions), self),
            _ => few_rows::run(Floats::<_, _, 16, { few_rows::TILE }>::new(instructions), self),
        }
    }
}

/// Work that is the same for every kernel.
pub trait Task<T> {
    /// Does it.
    fn run<K: Kernel<Element = T>>(self, kernel: K);
}

/// Types of which the CPU has products.
pub trait Factor: Float {
    /// Runs `task` with the kernel of this processor that is best for the type. Where its tiles are made in the
    /// registers of AVX-512, they have `R` rows in f32 arithmetic and `D` by dot products, at most 12, so that there is
    /// room for all of them.
    fn choose<const R: usize, const D: usize>(task: impl Task<Self>);

    /// Runs a product with the instructions of this processor that are best for the type and the sizes.
    fn multiply<O: Float>(multiplication: Multiplication<'_, Self, O>);
}

impl Factor for f32 {
    fn choose<const R: usize, const D: usize>(task: impl Task<Self>) {
        choose_floats::<Self, R>(task);
    }

    fn multiply<O: Float>(multiplication: Multiplication<'_, Self, O>) {
        match Level::detect() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(avx512) if few_rows::fits(&multiplication, 1) => multiplication.run_few(avx512),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(avx2) if few_rows::fits(&multiplication, 1) => multiplication.run_few(avx2),
            _ => Self::choose::<TILE_ROWS, TILE_ROWS>(multiplication),
        }
    }
}

impl Factor for bf16 {
    fn choose<const R: usize, const D: usize>(task: impl Task<Self>) {
        match path::detect() {
            #[cfg(target_arch = "x86_64")]
            path::Path::Amx(tiles) => task.run(tiles),
            #[cfg(target_arch = "x86_64")]
            path::Path::Avx512Bf16(instructions) => task.run(pairs::Dots::<D> { instructions }),
            path::Path::Widened => choose_floats::<Self, R>(task),
        }
    }

    fn multiply<O: Float>(multiplication: Multiplication<'_, Self, O>) {
        match path::detect() {
            #[cfg(target_arch = "x86_64")]
            path::Path::Avx512Bf16(instructions) if few_rows::fits(&multiplication, 2) => {
                few_rows::run(pairs::Dots::<{ pairs::LANES }> { instructions }, multiplication);
            }
            _ => Self::choose::<TILE_ROWS, TILE_ROWS>(multiplication),
        }
    }
}

/// Rows of the tiles of large products, where the registers are those of AVX-512.
const TILE_ROWS: usize = 12;

/// In f32 arithmetic. Tiles fill the vector registers: with 12 rows 24 of 32, else 12 of 16, and 8 of 16 (or 32) half
/// as wide.
fn choose_floats<T: Float, const R: usize>(task: impl Task<T>) {
    match Level::detect() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(avx512) => task.run(Floats::<T, _, R, 32>::new(avx512)),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(avx2) => task.run(Floats::<T, _, 6, 16>::new(avx2)),
        Level::Baseline => task.run(Floats::<T, _, 4, 8>::new(Baseline)),
    }
}

#[cfg(test)]
mod tests;

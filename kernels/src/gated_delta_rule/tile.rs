//! Products of 64 rows by all threads of a block together.
//!
//! A block is 16 threads down and `ACROSS` across; a thread has the rows `4·down + 0..4` and the columns `4·across + 0..4`.
//! The left operand is staged in shared memory, by 32 of the products' depth at a time and one depth behind the other, so
//! that a thread loads its rows as a vector. The right operand lies in shared memory, or is staged beside.

use crate::simt::*;

/// Rows of a tile.
pub const ROWS: u32 = 64;
/// Depth that is staged at a time.
const DEPTH: u32 = 32;
/// Elements from one depth of a staged operand to the next, and from row to row of a square matrix.
pub const PITCH: u32 = ROWS + 4;
/// Bytes of one staged operand.
pub const STAGING: u32 = 4 * DEPTH * PITCH;
/// Depths between two looks at whether it is the last; operands in shared memory have as many more rows of zeros as make
/// their rows a multiple.
pub const STEP: u32 = 4;
/// Most elements of an operand that a thread stages.
const MOST: usize = 16;

/// Rows and columns that a thread has of a product.
pub const SIDE: usize = 4;

/// What a thread has of a product.
pub type Sums = [[f32; SIDE]; SIDE];

/// Which of an operand's directions lies in memory one behind the other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Neighbours in depth.
    Depth,
    /// Neighbouring rows of the left operand, or columns of the right one.
    Across,
}

/// A thread's place, and the staging memory.
#[derive(Clone, Copy)]
pub struct Tile<const ACROSS: u32> {
    left: Shared<f32>,
    right: Shared<f32>,
}

impl<const ACROSS: u32> Tile<ACROSS> {
    /// Threads of a block.
    pub const BLOCK: u32 = 16 * ACROSS;
    /// Elements of an operand that each thread stages.
    const STAGED: usize = (ROWS * DEPTH / Self::BLOCK) as usize;

    /// With one staged operand, or two, at the beginning of shared memory.
    #[inline(always)]
    pub fn new() -> Self {
        Self { left: Shared::new(0, DEPTH * PITCH), right: Shared::new(STAGING, DEPTH * PITCH) }
    }

    /// First row of this thread.
    #[inline(always)]
    pub fn row(self) -> u32 {
        thread_idx() / ACROSS * 4
    }

    /// First column of this thread.
    #[inline(always)]
    pub fn column(self) -> u32 {
        thread_idx() % ACROSS * 4
    }

    /// sums\[i\]\[j\] += Σ_d left(row + i, d)·right\[d\]\[column + j\], right in shared memory, its rows `pitch` apart.
    ///
    /// All threads must call it. Begins by reading what `left` reads, then a barrier, behind which `right` is seen.
    #[inline(always)]
    pub fn multiply(
        self,
        sums: &mut Sums,
        depth: u32,
        (order, left): (Order, impl Fn(u32, u32) -> f32),
        (right, pitch): (Shared<f32>, u32),
    ) {
        let mut first = 0;
        while first < depth {
            let values = self.load(order, depth - first, |row, d| left(row, first + d));
            sync_threads();
            self.store(order, self.left, values);
            sync_threads();
            self.add(sums, DEPTH.min(depth - first), (right, first * pitch, pitch));
            first += DEPTH;
        }
    }

    /// The same of a right operand that is staged, `right(d, column)`; of blocks 16 across alone.
    #[inline(always)]
    pub fn multiply_staged(
        self,
        sums: &mut Sums,
        depth: u32,
        (order, left): (Order, impl Fn(u32, u32) -> f32),
        (right_order, right): (Order, impl Fn(u32, u32) -> f32),
    ) {
        const { assert!(ACROSS == 16) };
        let mut first = 0;
        while first < depth {
            let values = self.load(order, depth - first, |row, d| left(row, first + d));
            let right_values = self.load(right_order, depth - first, |column, d| right(first + d, column));
            sync_threads();
            self.store(order, self.left, values);
            self.store(right_order, self.right, right_values);
            sync_threads();
            self.add(sums, DEPTH.min(depth - first), (self.right, 0, PITCH));
            first += DEPTH;
        }
    }

    /// Row, or column, and depth of this thread's staged element number `step`.
    #[inline(always)]
    fn place(order: Order, step: usize) -> (u32, u32) {
        let index = thread_idx() + Self::BLOCK * step as u32;
        if order == Order::Depth { (index / DEPTH, index % DEPTH) } else { (index % ROWS, index / ROWS) }
    }

    /// What this thread stages; 0 from `depth` on.
    #[inline(always)]
    fn load(self, order: Order, depth: u32, value: impl Fn(u32, u32) -> f32) -> [f32; MOST] {
        let mut values = [0.0; MOST];
        unroll!(step in MOST {
            if step < Self::STAGED {
                let (across, d) = Self::place(order, step);
                if d < depth {
                    values[step] = value(across, d);
                }
            }
        });
        values
    }

    #[inline(always)]
    fn store(self, order: Order, operand: Shared<f32>, values: [f32; MOST]) {
        unroll!(step in MOST {
            if step < Self::STAGED {
                let (across, d) = Self::place(order, step);
                operand.store(d * PITCH + across, values[step]);
            }
        });
    }

    /// Adds the products of a staged part.
    #[inline(always)]
    fn add(self, sums: &mut Sums, depth: u32, (right, first, pitch): (Shared<f32>, u32, u32)) {
        let (row, column) = (self.row(), self.column());
        let mut d = 0;
        while d < depth {
            for step in 0..STEP {
                let left = self.left.load_vector::<F32x4>((d + step) * PITCH + row).0;
                let right = right.load_vector::<F32x4>(first + (d + step) * pitch + column).0;
                for i in 0..4 {
                    for j in 0..4 {
                        sums[i][j] = fma(left[i], right[j], sums[i][j]);
                    }
                }
            }
            d += STEP;
        }
    }

    /// Stores sums to an array in shared memory, its rows `pitch` apart.
    #[inline(always)]
    pub fn keep(self, sums: &Sums, array: Shared<f32>, pitch: u32) {
        for i in 0..4 {
            array.store_vector((self.row() + i as u32) * pitch + self.column(), F32x4(sums[i]));
        }
    }
}

/// `sums`, each row times its factor.
#[inline(always)]
pub fn scale_rows(sums: &mut Sums, factor: impl Fn(u32) -> f32) {
    for i in 0..4 {
        let factor = factor(i as u32);
        for j in 0..4 {
            sums[i][j] *= factor;
        }
    }
}

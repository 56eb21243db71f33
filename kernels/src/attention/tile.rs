//! Products of tiles, by all threads of a block together.
//!
//! A block works on tiles of [`TILE`] rows. Its threads are a grid of 16 across and `TILE / ROWS` down: a
//! thread has the `ROWS` rows `down + i·TILE/ROWS`, and of a product either the four columns
//! `across + 16·j` (scores) or `4·across + 64·j + 0..4` for j < `N` (results as wide as a head). So lanes
//! next to each other read shared memory without bank conflicts, and rows are broadcast.
//!
//! Operands are staged in shared memory as f32, a part at a time.

use super::TILE;
use crate::simt::*;
use crate::softcap::Softcap;

/// Threads across a tile.
pub const ACROSS: u32 = 16;
/// Score columns of a thread.
pub const COLUMNS: usize = 4;
/// Columns of operands staged for scores.
const DEPTH: u32 = 32;
/// Elements from one staged row to the next: lanes that read neighbouring rows meet in no bank.
const DEPTH_PITCH: u32 = DEPTH + 4;
/// Elements of the staging memory: two tiles of [`DEPTH`] columns, or [`STAGED`] of rows.
const STAGING: u32 = 2 * TILE * DEPTH_PITCH;
/// Elements of rows staged for a sum of rows.
const STAGED: u32 = 2 * TILE * DEPTH;
/// Elements a thread stages at a time.
const PACK: u32 = 8;
/// Elements of a vector of f32.
const QUAD: usize = 4;
/// Elements from one row of weights to the next: two rows fill all banks.
const WEIGHTS_PITCH: u32 = TILE + 16;
/// Bytes of shared memory of a block.
pub const SHARED: u64 = 4 * (STAGING + TILE * WEIGHTS_PITCH) as u64;

/// Scores of a thread.
pub type Scores<const ROWS: usize> = [[f32; COLUMNS]; ROWS];
/// Results of a thread.
pub type Accumulators<const ROWS: usize, const N: usize> = [[[f32; 4]; N]; ROWS];

/// Consecutive tokens of one head.
pub struct Rows<E: Pack<8>> {
    /// Of all tokens and heads.
    pub data: Global<E>,
    /// Index of the first token's first element.
    pub first: usize,
    /// Elements from token to token.
    pub stride: usize,
    /// Tokens, at least one.
    pub count: u32,
}

impl<E: Pack<8>> Clone for Rows<E> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}
impl<E: Pack<8>> Copy for Rows<E> {}

impl<E: Pack<8>> Rows<E> {
    /// Eight elements from `column` of `row` on, of the last row where there are fewer.
    #[inline(always)]
    fn load(self, row: u32, column: u32) -> [f32; 8] {
        let row = row.min(self.count - 1) as usize;
        E::load(self.data, self.first + row * self.stride + column as usize)
    }
}

/// A thread's place, and the block's shared memory.
#[derive(Clone, Copy)]
pub struct Tile<const ROWS: usize> {
    head_dim: u32,
    staging: Shared<f32>,
    weights: Shared<f32>,
}

impl<const ROWS: usize> Tile<ROWS> {
    /// Threads down a tile.
    const DOWN: u32 = TILE / ROWS as u32;
    /// Threads of a block.
    const BLOCK: u32 = ACROSS * Self::DOWN;
    /// Packs that each thread stages.
    const PACKS: usize = (STAGED / PACK / Self::BLOCK) as usize;

    /// For heads of `head_dim` elements.
    #[inline(always)]
    pub fn new(head_dim: u32) -> Self {
        Self {
            head_dim,
            staging: Shared::new(0, STAGING),
            weights: Shared::new(4 * STAGING, TILE * WEIGHTS_PITCH),
        }
    }

    /// Row `i` of this thread.
    #[inline(always)]
    pub fn row(self, i: usize) -> u32 {
        thread_idx() / ACROSS + Self::DOWN * i as u32
    }

    /// Score column `j` of this thread.
    #[inline(always)]
    pub fn column(self, j: usize) -> u32 {
        thread_idx() % ACROSS + ACROSS * j as u32
    }

    /// Whether this thread is the first of those that share its rows.
    #[inline(always)]
    pub fn leads_rows(self) -> bool {
        thread_idx().is_multiple_of(ACROSS)
    }

    /// The product of each row of `a` and each of `b`: scores\[i\]\[j\] = Σ_d a\[row(i)\]\[d\]·b\[column(j)\]\[d\].
    ///
    /// All threads must call it. Begins by a barrier, so that what was staged before may still be in use.
    #[inline(always)]
    pub fn dot_products<E: Pack<8>>(self, a: Rows<E>, b: Rows<E>) -> Scores<ROWS> {
        let mut scores = [[0.0; 4]; ROWS];
        let mut first = 0;
        while first < self.head_dim {
            self.stage(|i, index| {
                let (row, column) = (index / DEPTH, index % DEPTH);
                // What lies behind the head is staged, but not used.
                let source = (first + column).min(self.head_dim - PACK);
                let place = row * DEPTH_PITCH + column;
                (place, if i < Self::PACKS / 2 { a.load(row, source) } else { b.load(row - TILE, source) })
            });
            let depth = DEPTH.min(self.head_dim - first);
            let mut d = 0;
            while d < depth {
                let b = |j| self.staging.load_vector::<F32x4>((TILE + self.column(j)) * DEPTH_PITCH + d).0;
                let columns = [b(0), b(1), b(2), b(3)];
                unroll!(i in ROWS {
                    let row = self.staging.load_vector::<F32x4>(self.row(i) * DEPTH_PITCH + d).0;
                    add_dot_products(&mut scores[i], row, columns);
                });
                d += 4;
            }
            first += DEPTH;
        }
        scores
    }

    /// Makes `weights` those of [`Tile::add_weighted_rows`]. Between its last call and this one all threads
    /// must have met.
    #[inline(always)]
    pub fn set_weights(self, weights: &Scores<ROWS>) {
        unroll!(i in ROWS {
            for j in 0..4 {
                self.weights.store(self.row(i) * WEIGHTS_PITCH + self.column(j), weights[i][j]);
            }
        });
    }

    /// sums\[i\] += Σ_s weights\[row(i)\]\[s\]·rows\[s\]; weights behind the last row must be 0.
    ///
    /// All threads must call it. Begins by a barrier, behind which the weights are seen.
    #[inline(always)]
    pub fn add_weighted_rows<E: Pack<8>, const N: usize>(
        self,
        rows: Rows<E>,
        sums: &mut Accumulators<ROWS, N>,
    ) {
        let width = 4 * ACROSS * N as u32;
        let staged = STAGED / width;
        let mut first = 0;
        while first < rows.count {
            self.stage(|_, index| {
                let (row, column) = (index / width, index % width);
                (index, rows.load(first + row, column.min(self.head_dim - PACK)))
            });
            let count = staged.min(rows.count - first);
            let mut s = 0;
            while s < count {
                let mut weights = [[0.0; 4]; ROWS];
                unroll!(i in ROWS {
                    let place = self.row(i) * WEIGHTS_PITCH + first + s;
                    weights[i] = self.weights.load_vector::<F32x4>(place).0;
                });
                unroll!(element in QUAD {
                    unroll!(j in N {
                        let place = (s + element as u32) * width + self.result_column(j);
                        let values = self.staging.load_vector::<F32x4>(place).0;
                        add_to_rows(sums, &weights, values, element, j);
                    });
                });
                s += 4;
            }
            first += staged;
        }
    }

    /// Writes the first `count` rows of `sums` from index `first` of `out` on, `stride` elements apart.
    ///
    /// All threads must call it. Uses the memory of the weights; begins by a barrier.
    #[inline(always)]
    pub fn store<E: Pack<8>, const N: usize>(
        self,
        sums: &Accumulators<ROWS, N>,
        out: GlobalMut<E>,
        (first, stride, count): (usize, usize, u32),
    ) {
        unroll!(j in N {
            sync_threads();
            unroll!(i in ROWS {
                let place = self.row(i) * WEIGHTS_PITCH + thread_idx() % ACROSS * 4;
                self.weights.store_vector(place, F32x4(sums[i][j]));
            });
            sync_threads();
            let mut index = thread_idx() * PACK;
            while index < TILE * TILE {
                let (row, within) = (index / TILE, index % TILE);
                let column = TILE * j as u32 + within;
                if row < count && column < self.head_dim {
                    let place = row * WEIGHTS_PITCH + within;
                    let [a, b, c, d] = self.weights.load_vector::<F32x4>(place).0;
                    let [e, f, g, h] = self.weights.load_vector::<F32x4>(place + 4).0;
                    let index = first + row as usize * stride + column as usize;
                    E::store(out, index, [a, b, c, d, e, f, g, h]);
                }
                index += Self::BLOCK * PACK;
            }
        });
    }

    /// First of this thread's result columns `j`; where the head ends before, its last ones, whose sums
    /// then count for nothing.
    #[inline(always)]
    fn result_column(self, j: usize) -> u32 {
        (thread_idx() % ACROSS * 4 + TILE * j as u32).min(self.head_dim - 4)
    }

    /// Fills the staging memory between two barriers. `load` gives, for this thread's pack `i` and its
    /// element, where it goes and the values.
    #[inline(always)]
    fn stage(self, load: impl Fn(usize, u32) -> (u32, [f32; 8])) {
        let pack = |i: usize| load(i, (thread_idx() + Self::BLOCK * i as u32) * PACK);
        let mut packs = [pack(0); 4];
        unroll!(i in QUAD {
            if i > 0 && i < Self::PACKS {
                packs[i] = pack(i);
            }
        });
        sync_threads();
        unroll!(i in QUAD {
            if i < Self::PACKS {
                let (place, [a, b, c, d, e, f, g, h]) = packs[i];
                self.staging.store_vector(place, F32x4([a, b, c, d]));
                self.staging.store_vector(place + 4, F32x4([e, f, g, h]));
            }
        });
        sync_threads();
    }
}

/// scores\[j\] += row·columns\[j\], over four elements.
#[inline(always)]
fn add_dot_products(scores: &mut [f32; 4], row: [f32; 4], columns: [[f32; 4]; 4]) {
    for element in 0..4 {
        for j in 0..4 {
            scores[j] = fma(row[element], columns[j][element], scores[j]);
        }
    }
}

/// sums\[i\]\[j\] += weights\[i\]\[element\]·values for every row.
#[inline(always)]
fn add_to_rows<const ROWS: usize, const N: usize>(
    sums: &mut Accumulators<ROWS, N>,
    weights: &Scores<ROWS>,
    values: [f32; 4],
    element: usize,
    j: usize,
) {
    unroll!(i in ROWS {
        for c in 0..4 {
            sums[i][j][c] = fma(weights[i][element], values[c], sums[i][j][c]);
        }
    });
}

/// Puts a cap on every product.
#[inline(always)]
pub fn cap_products<const ROWS: usize>(products: &mut Scores<ROWS>, cap: Softcap) {
    unroll!(i in ROWS {
        products[i] = products[i].map(|product| cap.apply(product));
    });
}

/// Multiplies a row of results.
#[inline(always)]
pub fn scale_row<const N: usize>(row: &mut [[f32; 4]; N], factor: f32) {
    unroll!(j in N {
        row[j] = row[j].map(|value| value * factor);
    });
}

/// Largest value of the threads that share a row.
#[inline(always)]
pub fn row_max(mut value: f32) -> f32 {
    value = max(value, shuffle_xor(value, 8));
    value = max(value, shuffle_xor(value, 4));
    value = max(value, shuffle_xor(value, 2));
    max(value, shuffle_xor(value, 1))
}

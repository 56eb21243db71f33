//! Backward: with g = d_output·w, w = weight_offset + weight, and m = mean(g·x), per row d_x += r (g − x r² m), and over all rows
//! d_weight += Σ d_output·x·r.
//!
//! One pass over the rows does both. A thread always has the same columns, so it gathers d_weight over all
//! its rows in registers; a block adds its threads' and leaves one row of partial sums. A second kernel adds
//! those, in order. How many blocks there are decides what is added in which order, so it is the launch's
//! to say, by the sizes alone: [`backward_blocks`].

use super::*;

/// Blocks the backward is best run with: two for each multiprocessor of an H100, or one per group of rows
/// where there are fewer.
#[cfg(not(target_arch = "nvptx64"))]
pub const fn backward_blocks(rows: u64, columns: u64) -> u32 {
    let rows_of_block = if columns <= SHORT {
        Lanes::<SHORT_ROW_THREADS>::ROWS
    } else if columns <= MIDDLE {
        Lanes::<WARP>::ROWS
    } else {
        Block::ROWS
    };
    let groups = rows.div_ceil(rows_of_block as u64);
    if groups < 264 { groups as u32 } else { 264 }
}

#[derive(Clone, Copy)]
struct Gradient<E: Element> {
    input: Global<E>,
    weight: Global<E>,
    inverse_rms: Global<f32>,
    d_output: Global<E>,
    d_input: GlobalMut<E>,
    partials: GlobalMut<f32>,
    rows: u64,
    columns: u32,
    weight_offset: f32,
}

impl<E: Real> Gradient<E> {
    /// Every group takes one row of each round.
    #[inline(always)]
    fn run<T: ThreadGroup, const N: usize, const PARTS: usize>(self)
    where
        E: Pack<N>,
        f32: Pack<N>,
    {
        let columns = self.columns as usize;
        let (first, step) = (N * T::rank() as usize, N * T::SIZE as usize);
        let behind = first + PARTS * step;
        let rows_of_round = grid_dim() as usize * T::ROWS as usize;
        let mut partials = [[0.0; N]; PARTS];
        let mut round = 0;
        while round < self.rows as usize {
            let row = round + block_idx() as usize * T::ROWS as usize + T::index() as usize;
            let (end, inverse_rms) =
                if row < self.rows as usize { (columns, self.inverse_rms.load(row)) } else { (0, 0.0) };
            let start = row * columns;

            let (mut x, mut gradient) = ([[0.0; N]; PARTS], [[0.0; N]; PARTS]);
            unroll!(part in PARTS {
                let column = first + part * step;
                if column < end {
                    x[part] = E::load(self.input, start + column);
                    gradient[part] = E::load(self.d_output, start + column);
                }
            });
            let mut dot = 0.0;
            unroll!(part in PARTS {
                let column = first + part * step;
                if column < end {
                    for lane in 0..N {
                        partials[part][lane] =
                            fma(gradient[part][lane], x[part][lane] * inverse_rms, partials[part][lane]);
                    }
                    gradient[part] = self.weighted(gradient[part], column);
                    dot = add_products(dot, gradient[part], x[part]);
                }
            });
            let mut column = behind;
            while T::SIZE == BLOCK && column < end {
                let x = E::load(self.input, start + column);
                let gradient = E::load(self.d_output, start + column);
                self.add_partials(round == 0, column, gradient, x, inverse_rms);
                dot = add_products(dot, self.weighted(gradient, column), x);
                column += step;
            }

            let mean = divide(T::sum(dot), self.columns as f32);
            let pull = inverse_rms * inverse_rms * mean;
            unroll!(part in PARTS {
                gradient[part] = pulled(gradient[part], x[part], pull);
            });
            // Only now that x is done with: the registers do not suffice for both.
            let mut sums = [[0.0; N]; PARTS];
            unroll!(part in PARTS {
                let column = first + part * step;
                if column < end {
                    sums[part] = E::load(self.d_input.as_read(), start + column);
                }
            });
            unroll!(part in PARTS {
                let column = first + part * step;
                if column < end {
                    let sum = add_scaled(sums[part], gradient[part], inverse_rms);
                    E::store(self.d_input, start + column, sum);
                }
            });
            column = behind;
            while T::SIZE == BLOCK && column < end {
                let x = E::load(self.input, start + column);
                let gradient = self.weighted(E::load(self.d_output, start + column), column);
                let sum = E::load(self.d_input.as_read(), start + column);
                let sum = add_scaled(sum, pulled(gradient, x, pull), inverse_rms);
                E::store(self.d_input, start + column, sum);
                column += step;
            }
            round += rows_of_round;
        }
        if T::SIZE == BLOCK {
            unroll!(part in PARTS {
                let column = first + part * step;
                if column < columns {
                    let index = block_idx() as usize * columns + column;
                    <f32 as Pack<N>>::store(self.partials, index, partials[part]);
                }
            });
        } else {
            self.add_up::<T, N, PARTS>(partials);
        }
    }

    #[inline(always)]
    fn weighted<const N: usize>(self, mut gradient: [f32; N], column: usize) -> [f32; N]
    where
        E: Pack<N>,
    {
        let weight = E::load(self.weight, column);
        for lane in 0..N {
            gradient[lane] *= self.weight_offset + weight[lane];
        }
        gradient
    }

    /// For the columns that have no register: adds to the block's partial sums in memory, which nobody
    /// else reaches.
    #[inline(always)]
    fn add_partials<const N: usize>(
        self,
        first_row: bool,
        column: usize,
        gradient: [f32; N],
        x: [f32; N],
        inverse_rms: f32,
    ) where
        f32: Pack<N>,
    {
        let index = block_idx() as usize * self.columns as usize + column;
        let mut partial =
            if first_row { [0.0; N] } else { <f32 as Pack<N>>::load(self.partials.as_read(), index) };
        for lane in 0..N {
            partial[lane] = fma(gradient[lane], x[lane] * inverse_rms, partial[lane]);
        }
        <f32 as Pack<N>>::store(self.partials, index, partial);
    }

    /// Adds the partial sums of the block's teams: within warps, then over the warps in order.
    #[inline(always)]
    fn add_up<T: ThreadGroup, const N: usize, const PARTS: usize>(self, mut partials: [[f32; N]; PARTS]) {
        let sums = Shared::<f32>::new(0, WARPS * self.columns);
        unroll!(part in PARTS {
            for lane in 0..N {
                if T::SIZE < WARP {
                    partials[part][lane] += shuffle_xor(partials[part][lane], 8);
                    partials[part][lane] += shuffle_xor(partials[part][lane], 16);
                }
                let column = (N as u32) * (T::rank() + part as u32 * T::SIZE) + lane as u32;
                if lane_id() < T::SIZE && column < self.columns {
                    sums.store(warp_id() * self.columns + column, partials[part][lane]);
                }
            }
        });
        sync_threads();
        let mut column = thread_idx();
        while column < self.columns {
            let mut sum = 0.0;
            for warp in 0..WARPS {
                sum += sums.load(warp * self.columns + column);
            }
            self.partials.store(block_idx() as usize * self.columns as usize + column as usize, sum);
            column += BLOCK;
        }
    }
}

#[inline(always)]
fn add_products<const N: usize>(mut sum: f32, left: [f32; N], right: [f32; N]) -> f32 {
    for lane in 0..N {
        sum = fma(left[lane], right[lane], sum);
    }
    sum
}

/// g − x·pull.
#[inline(always)]
fn pulled<const N: usize>(mut gradient: [f32; N], x: [f32; N], pull: f32) -> [f32; N] {
    for lane in 0..N {
        gradient[lane] = fma(-x[lane], pull, gradient[lane]);
    }
    gradient
}

/// sum + factor·x.
#[inline(always)]
fn add_scaled<const N: usize>(mut sum: [f32; N], x: [f32; N], factor: f32) -> [f32; N] {
    for lane in 0..N {
        sum[lane] = fma(factor, x[lane], sum[lane]);
    }
    sum
}

macro_rules! backward {
    ($group:ty, columns up to $limit:expr, $parts_1:ident; $name:ident = $($entry:ident),*;) => {
        kernel! {
            /// d_input += r (g − input·r² mean(g·input)) with g = d_output·(weight_offset + weight), per row; and partials
            /// `[blocks, columns]`, whose sum over blocks is Σ d_output·input·r over all rows.
            ///
            /// `inverse_rms` is r as the forward wrote it. Every thread reaches every barrier and shuffle:
            /// rounds are the same for all, threads without a row take part with zeros. Order of summation:
            /// a thread's rows, its warp, the block's warps. Four element moves and about 10 flops per
            /// element.
            pub fn $name<E> = $($entry),*; { block: BLOCK, grid: blocks, shared: <$group>::shared(columns) } (
                input: read E [rows * columns],
                weight: read E [columns],
                inverse_rms: read f32 [rows],
                d_output: read E [rows * columns],
                d_input: update E [rows * columns],
                partials: write f32 [blocks * columns],
                rows: scalar u64,
                columns: scalar u32,
                blocks: scalar u32,
                weight_offset: scalar f32,
            ) requires {
                rows > 0,
                rows < 1 << 32,
                columns > 0,
                columns <= $limit,
                blocks > 0,
                blocks <= rows.div_ceil(u64::from(<$group>::ROWS)),
            } {
                let _ = blocks;
                let gradient =
                    Gradient { input, weight, inverse_rms, d_output, d_input, partials, rows, columns, weight_offset };
                let aligned = input.is_aligned()
                    && weight.is_aligned()
                    && d_output.is_aligned()
                    && d_input.is_aligned()
                    && partials.is_aligned();
                if aligned && columns.is_multiple_of(const { vector_length::<E>() as u32 }) {
                    gradient.run::<$group, { vector_length::<E>() }, { parts::<E>() }>();
                } else {
                    gradient.run::<$group, 1, $parts_1>();
                }
            }
        }
    };
}

backward! {
    Lanes<SHORT_ROW_THREADS>, columns up to SHORT, PARTS_1;
    rms_norm_backward_short = rms_norm_backward_short_f32, rms_norm_backward_short_bf16;
}
backward! {
    Lanes<WARP>, columns up to MIDDLE, PARTS_1;
    rms_norm_backward_middle = rms_norm_backward_middle_f32, rms_norm_backward_middle_bf16;
}
backward! {
    Block, columns up to ANY, LONG_PARTS_1;
    rms_norm_backward_long = rms_norm_backward_long_f32, rms_norm_backward_long_bf16;
}

kernel! {
    /// d_weight[column] += Σ partials[block, column] over the blocks.
    ///
    /// A block takes 32 columns, one a lane; warp w adds blocks w, w + 8, … in order, then the warps' sums are
    /// added in order. Every thread reaches the barrier. Reads 4 B per partial sum.
    pub fn rms_norm_weight_gradient { block: BLOCK, grid: columns.div_ceil(u64::from(WARP)), shared: 4 * u64::from(BLOCK) } (
        partials: read f32 [blocks * columns],
        d_weight: update f32 [columns],
        columns: scalar u32,
        blocks: scalar u32,
    ) {
        let sums = Shared::<f32>::new(0, BLOCK);
        let column = (block_idx() * WARP + lane_id()) as usize;
        let mut sum = 0.0;
        if column < columns as usize {
            let mut block = warp_id();
            while block < blocks {
                sum += partials.load(block as usize * columns as usize + column);
                block += WARPS;
            }
        }
        sums.store(thread_idx(), sum);
        sync_threads();
        if warp_id() == 0 && column < columns as usize {
            let mut total = 0.0;
            for warp in 0..WARPS {
                total += sums.load(warp * WARP + lane_id());
            }
            d_weight.store(column, d_weight.load(column) + total);
        }
    }
}

//! Forward, also of the sum with a residual.

use super::*;

/// Where x comes from.
trait Source<E: Pack<N>, const N: usize>: Copy {
    /// x from element `index` on.
    fn load(self, index: usize) -> [f32; N];
    /// Stores x where it is to be kept.
    fn keep(self, index: usize, x: [f32; N]);
}

/// x is a buffer.
#[derive(Clone, Copy)]
struct Input<E: Element>(Global<E>);

impl<E: Pack<N>, const N: usize> Source<E, N> for Input<E> {
    #[inline(always)]
    fn load(self, index: usize) -> [f32; N] {
        E::load(self.0, index)
    }

    #[inline(always)]
    fn keep(self, _: usize, _: [f32; N]) {}
}

/// x is a sum, kept as E: the backward will see that, so r is of it too.
#[derive(Clone, Copy)]
struct Sum<E: Element> {
    residual: Global<E>,
    delta: Global<E>,
    sum: GlobalMut<E>,
}

impl<E: Pack<N>, const N: usize> Source<E, N> for Sum<E> {
    #[inline(always)]
    fn load(self, index: usize) -> [f32; N] {
        let (mut x, delta) = (E::load(self.residual, index), E::load(self.delta, index));
        for lane in 0..N {
            x[lane] = E::from_f32(x[lane] + delta[lane]).to_f32();
        }
        x
    }

    #[inline(always)]
    fn keep(self, index: usize, x: [f32; N]) {
        E::store(self.sum, index, x);
    }
}

#[derive(Clone, Copy)]
struct Norm<E: Element> {
    weight: Global<E>,
    output: GlobalMut<E>,
    inverse_rms: GlobalMut<f32>,
    rows: u64,
    columns: u32,
    epsilon: f32,
    weight_offset: f32,
}

impl<E: Real> Norm<E> {
    /// One row per group.
    #[inline(always)]
    fn run<T: ThreadGroup, S: Source<E, N>, const N: usize, const PARTS: usize>(self, source: S)
    where
        E: Pack<N>,
    {
        let row = block_idx() as usize * T::ROWS as usize + T::index() as usize;
        let columns = self.columns as usize;
        // Threads without a row have no columns either: they only take part in the sum.
        let end = if row < self.rows as usize { columns } else { 0 };
        let start = row * columns;
        let (first, step) = (N * T::rank() as usize, N * T::SIZE as usize);
        let behind = first + PARTS * step;

        let mut x = [[0.0; N]; PARTS];
        unroll!(part in PARTS {
            let column = first + part * step;
            if column < end {
                x[part] = source.load(start + column);
            }
        });
        let mut squares = 0.0;
        unroll!(part in PARTS {
            squares = add_squares(squares, x[part]);
        });
        let mut column = behind;
        while T::SIZE == BLOCK && column < end {
            squares = add_squares(squares, source.load(start + column));
            column += step;
        }
        let mean = divide(T::sum(squares), self.columns as f32);
        let inverse_rms = divide(1.0, sqrt(mean + self.epsilon));

        unroll!(part in PARTS {
            let column = first + part * step;
            if column < end {
                self.finish(source, start, column, x[part], inverse_rms);
            }
        });
        column = behind;
        while T::SIZE == BLOCK && column < end {
            self.finish(source, start, column, source.load(start + column), inverse_rms);
            column += step;
        }
        if end > 0 && T::rank() == 0 {
            self.inverse_rms.store(row, inverse_rms);
        }
    }

    #[inline(always)]
    fn finish<S: Source<E, N>, const N: usize>(
        self,
        source: S,
        start: usize,
        column: usize,
        mut x: [f32; N],
        inverse_rms: f32,
    ) where
        E: Pack<N>,
    {
        let weight = <E as Pack<N>>::load(self.weight, column);
        source.keep(start + column, x);
        for lane in 0..N {
            x[lane] = x[lane] * inverse_rms * (self.weight_offset + weight[lane]);
        }
        E::store(self.output, start + column, x);
    }
}

#[inline(always)]
fn add_squares<const N: usize>(mut squares: f32, x: [f32; N]) -> f32 {
    for lane in 0..N {
        squares = fma(x[lane], x[lane], squares);
    }
    squares
}

macro_rules! forward {
    (
        $group:ty, columns up to $limit:expr, shared $shared:expr;
        $plain:ident = $($plain_entry:ident),*;
        $residual:ident = $($residual_entry:ident),*;
    ) => {
        kernel! {
            /// output = input·r·(weight_offset + weight) per row, and r to inverse_rms. See the module for the three sizes.
            ///
            /// Each block takes 256 / (threads of a row) rows. Every thread reaches the barriers (long rows) and
            /// shuffles. One order of summation. Two element moves and about 4 flops per element.
            pub fn $plain<E> = $($plain_entry),*; {
                block: BLOCK,
                grid: rows.div_ceil(u64::from(<$group>::ROWS)),
                shared: $shared,
            } (
                input: read E [rows * columns],
                weight: read E [columns],
                output: write E [rows * columns],
                inverse_rms: write f32 [rows],
                rows: scalar u64,
                columns: scalar u32,
                epsilon: scalar f32,
                weight_offset: scalar f32,
            ) requires { rows < 1 << 32, columns > 0, columns <= $limit } {
                let norm = Norm { weight, output, inverse_rms, rows, columns, epsilon, weight_offset };
                let aligned = input.is_aligned() && weight.is_aligned() && output.is_aligned();
                if aligned && columns.is_multiple_of(const { vector_length::<E>() as u32 }) {
                    norm.run::<$group, _, { vector_length::<E>() }, { parts::<E>() }>(Input(input));
                } else {
                    norm.run::<$group, _, 1, PARTS_1>(Input(input));
                }
            }
        }

        kernel! {
            /// sum = residual + delta; output = sum·r·(weight_offset + weight) per row, and r to inverse_rms.
            ///
            /// As the kernel without residual; four element moves per element.
            pub fn $residual<E> = $($residual_entry),*; {
                block: BLOCK,
                grid: rows.div_ceil(u64::from(<$group>::ROWS)),
                shared: $shared,
            } (
                residual: read E [rows * columns],
                delta: read E [rows * columns],
                weight: read E [columns],
                sum: write E [rows * columns],
                output: write E [rows * columns],
                inverse_rms: write f32 [rows],
                rows: scalar u64,
                columns: scalar u32,
                epsilon: scalar f32,
                weight_offset: scalar f32,
            ) requires { rows < 1 << 32, columns > 0, columns <= $limit } {
                let norm = Norm { weight, output, inverse_rms, rows, columns, epsilon, weight_offset };
                let aligned = residual.is_aligned()
                    && delta.is_aligned()
                    && sum.is_aligned()
                    && weight.is_aligned()
                    && output.is_aligned();
                let source = Sum { residual, delta, sum };
                if aligned && columns.is_multiple_of(const { vector_length::<E>() as u32 }) {
                    norm.run::<$group, _, { vector_length::<E>() }, { parts::<E>() }>(source);
                } else {
                    norm.run::<$group, _, 1, PARTS_1>(source);
                }
            }
        }
    };
}

forward! {
    Lanes<SHORT_ROW_THREADS>, columns up to SHORT, shared 0;
    rms_norm_short = rms_norm_short_f32, rms_norm_short_bf16;
    rms_norm_residual_short = rms_norm_residual_short_f32, rms_norm_residual_short_bf16;
}
forward! {
    Lanes<WARP>, columns up to MIDDLE, shared 0;
    rms_norm_middle = rms_norm_middle_f32, rms_norm_middle_bf16;
    rms_norm_residual_middle = rms_norm_residual_middle_f32, rms_norm_residual_middle_bf16;
}
forward! {
    Block, columns up to ANY, shared SCRATCH;
    rms_norm_long = rms_norm_long_f32, rms_norm_long_bf16;
    rms_norm_residual_long = rms_norm_residual_long_f32, rms_norm_residual_long_bf16;
}

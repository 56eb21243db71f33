//! Embedding: one row of a table for every token, and the sums of its gradients by token.
//!
//! The backward takes the tokens grouped: for every token that occurs the list of its positions, ascending.
//! One thread owns a table row's element and adds in that order, so that sums have one order and need no
//! atomics. E is f32 or bf16; the table's gradient is f32.

use crate::simt::*;

/// Threads of a block.
const BLOCK: u32 = 256;
/// Rows a block copies, one per warp.
const ROWS: u64 = (BLOCK / WARP) as u64;
/// Threads of a block of the backward.
const COLUMN_BLOCK: u32 = 128;

/// Copies a row by a warp, `N` elements of `load` and `store` at a time.
#[inline(always)]
fn copy_row<T: Copy, const N: usize>(columns: usize, load: impl Fn(usize) -> T, store: impl Fn(usize, T)) {
    let step = N * WARP as usize;
    let mut column = N * lane_id() as usize;
    while column < columns {
        store(column, load(column));
        column += step;
    }
}

/// Adds the rows of one group to `N` columns of the table's gradient.
#[inline(always)]
fn add_rows<E: Pack<N>, const N: usize>(
    d_output: Global<E>,
    positions: Global<u32>,
    (first, last): (usize, usize),
    columns: usize,
    d_row: GlobalMut<f32>,
    column: usize,
) where
    f32: Pack<N>,
{
    let row = |index: usize| E::load(d_output, positions.load(index) as usize * columns + column);
    let mut sum = <f32 as Pack<N>>::load(d_row.as_read(), column);
    let mut index = first;
    while index + 4 <= last {
        let (a, b, c, d) = (row(index), row(index + 1), row(index + 2), row(index + 3));
        for lane in 0..N {
            sum[lane] = (((sum[lane] + a[lane]) + b[lane]) + c[lane]) + d[lane];
        }
        index += 4;
    }
    while index < last {
        let row = row(index);
        for lane in 0..N {
            sum[lane] += row[lane];
        }
        index += 1;
    }
    <f32 as Pack<N>>::store(d_row, column, sum);
}

kernel! {
    /// output[n] = table[tokens[n]], bit by bit; table `[vocabulary, columns]`, output `[rows, columns]`.
    ///
    /// Every token is below `vocabulary`. One warp a row, 16 bytes per lane and access where
    /// columns are a multiple of that and the buffers are aligned to it, else one element. No shared
    /// memory, no barriers. Two element moves per element.
    pub fn embedding<E> = embedding_f32, embedding_bf16; {
        block: BLOCK,
        grid: rows.div_ceil(ROWS),
        shared: 0,
    } (
        table: read E [vocabulary * columns],
        tokens: read u32 [rows],
        output: write E [rows * columns],
        rows: scalar u64,
        vocabulary: scalar u32,
        columns: scalar u32,
    ) requires { rows < 1 << 32, rows == 0 || vocabulary > 0 } {
        let row = block_idx() as usize * ROWS as usize + warp_id() as usize;
        if row < rows as usize {
            let columns = columns as usize;
            let (from, to) = (tokens.load(row) as usize * columns, row * columns);
            if columns.is_multiple_of(const { vector_length::<E>() }) && table.is_aligned() && output.is_aligned() {
                copy_row::<<E as Real>::Vector, { vector_length::<E>() }>(
                    columns,
                    |column| table.load_vector(from + column),
                    |column, value| output.store_vector(to + column, value),
                );
            } else {
                copy_row::<E, 1>(
                    columns,
                    |column| table.load(from + column),
                    |column, value| output.store(to + column, value),
                );
            }
        }
    }
}

kernel! {
    /// d_table[tokens[g]] += Σ d_output[positions[i]] over starts[g] ≤ i < starts[g + 1], in the order
    /// of i, for every group g; d_output `[rows, columns]`, d_table f32 `[vocabulary, columns]`.
    ///
    /// Tokens are below `vocabulary` and differ, starts ascend to at most `rows`, positions are
    /// below `rows`. Grid (groups, columns); a thread owns the columns of one 16-byte vector, or
    /// single ones where columns are no multiple of that or the buffers not aligned. No shared
    /// memory, no barriers. Reads each element of d_output once, reads and writes the table rows
    /// that occur; one flop per element.
    pub fn embedding_backward<E> = embedding_backward_f32, embedding_backward_bf16; {
        block: COLUMN_BLOCK,
        grid: (groups, columns.div_ceil(vector_length::<E>() as u64 * u64::from(COLUMN_BLOCK))),
        shared: 0,
    } (
        d_output: read E [rows * columns],
        positions: read u32 [rows],
        starts: read u32 [groups + 1],
        tokens: read u32 [groups],
        d_table: update f32 [vocabulary * columns],
        rows: scalar u64,
        groups: scalar u32,
        vocabulary: scalar u32,
        columns: scalar u32,
    ) requires { rows < 1 << 32, groups <= rows, groups <= vocabulary } {
        let (group, columns) = (block_idx() as usize, columns as usize);
        let range = (starts.load(group) as usize, starts.load(group + 1) as usize);
        let d_row = d_table.offset(tokens.load(group) as usize * columns);
        let base = block_idx_y() as usize * (const { vector_length::<E>() } * COLUMN_BLOCK as usize);
        if columns.is_multiple_of(const { vector_length::<E>() }) && d_output.is_aligned() && d_table.is_aligned() {
            let column = base + const { vector_length::<E>() } * thread_idx() as usize;
            if column < columns {
                add_rows::<E, { vector_length::<E>() }>(d_output, positions, range, columns, d_row, column);
            }
        } else {
            for step in 0..const { vector_length::<E>() as u32 } {
                let column = base + (step * COLUMN_BLOCK + thread_idx()) as usize;
                if column < columns {
                    add_rows::<E, 1>(d_output, positions, range, columns, d_row, column);
                }
            }
        }
    }
}

//! Embedding on the CPU. Both directions only copy and add whole rows.

use rayon::prelude::*;

use super::Shape;
use crate::cpu::rows_per_chunk;
use crate::cpu::simd::vectorize;
use crate::device::CpuDevice;
use crate::number::{Number, on_cpu};

on_cpu! {
    /// Types that embeddings are in.
    fn forward = forward(
        cpu: &CpuDevice,
        shape: &Shape,
        table: &[Self],
        tokens: &[u32],
        output: &mut [Self],
    );
    fn backward = backward(
        cpu: &CpuDevice,
        shape: &Shape,
        tokens: &[u32],
        d_output: &[Self],
        d_table: &mut [f32],
    );
}

/// Parts the table is cut into in the backward; each is written by one task.
const TABLE_PARTS: usize = 64;

pub fn forward<T: Number>(cpu: &CpuDevice, shape: &Shape, table: &[T], tokens: &[u32], output: &mut [T]) {
    let hidden = shape.hidden;
    if hidden == 0 {
        return;
    }
    let rows = rows_per_chunk(hidden);
    cpu.run(|| {
        output.par_chunks_mut(rows * hidden).zip(tokens.par_chunks(rows)).for_each(|(output, tokens)| {
            for (row, &token) in output.chunks_exact_mut(hidden).zip(tokens) {
                row.copy_from_slice(&table[token as usize * hidden..][..hidden]);
            }
        });
    });
}

/// Every task walks all tokens and adds those of its part of the table: no two tasks write the same
/// row, and a row's additions always come in token order.
pub fn backward<T: Number>(
    cpu: &CpuDevice,
    shape: &Shape,
    tokens: &[u32],
    d_output: &[T],
    d_table: &mut [f32],
) {
    let hidden = shape.hidden;
    if hidden == 0 || shape.vocabulary == 0 {
        return;
    }
    let part_rows = shape.vocabulary.div_ceil(TABLE_PARTS);
    cpu.run(|| {
        d_table.par_chunks_mut(part_rows * hidden).enumerate().for_each(|(part, d_rows)| {
            let first = part * part_rows;
            let last = first + d_rows.len() / hidden;
            vectorize!(|| {
                for (&token, d_output) in tokens.iter().zip(d_output.chunks_exact(hidden)) {
                    let is_padding = shape.padding == Some(token);
                    let token = token as usize;
                    if !is_padding && (first..last).contains(&token) {
                        let d_row = &mut d_rows[(token - first) * hidden..][..hidden];
                        d_row.iter_mut().zip(d_output).for_each(|(sum, value)| *sum += value.to_f32());
                    }
                }
            });
        });
    });
}

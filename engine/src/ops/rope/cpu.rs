//! Rotary position embedding on the CPU.

use rayon::prelude::*;

use super::Shape;
use crate::cpu::rows_per_chunk;
use crate::cpu::simd::vectorize;
use crate::device::CpuDevice;
use crate::number::{Number, on_cpu};

on_cpu! {
    /// Types that heads are in.
    fn rotate = rotate(
        cpu: &CpuDevice,
        shape: &Shape,
        tables: (&[f32], &[f32]),
        positions: &[u32],
        x: &mut [Self],
        inverse: bool,
    );
}

fn rotate<T: Number>(
    cpu: &CpuDevice,
    shape: &Shape,
    tables: (&[f32], &[f32]),
    positions: &[u32],
    x: &mut [T],
    inverse: bool,
) {
    match inverse {
        false => rotate_tokens::<T, false>(cpu, shape, tables, positions, x),
        true => rotate_tokens::<T, true>(cpu, shape, tables, positions, x),
    }
}

fn rotate_tokens<T: Number, const INVERSE: bool>(
    cpu: &CpuDevice,
    shape: &Shape,
    (cos, sin): (&[f32], &[f32]),
    positions: &[u32],
    x: &mut [T],
) {
    let half = shape.rotary_dim / 2;
    let width = shape.heads * shape.head_dim;
    if width == 0 {
        return;
    }
    let tokens = rows_per_chunk(width);
    cpu.run(|| {
        x.par_chunks_mut(tokens * width).zip(positions.par_chunks(tokens)).for_each(|(x, positions)| {
            vectorize!(|| {
                for (x, &position) in x.chunks_exact_mut(width).zip(positions) {
                    let cos = &cos[position as usize * half..][..half];
                    let sin = &sin[position as usize * half..][..half];
                    for head in x.chunks_exact_mut(shape.head_dim) {
                        rotate_head::<T, INVERSE>(cos, sin, &mut head[..2 * half]);
                    }
                }
            });
        });
    });
}

#[inline(always)]
fn rotate_head<T: Number, const INVERSE: bool>(cos: &[f32], sin: &[f32], head: &mut [T]) {
    let (first, second) = head.split_at_mut(cos.len());
    for (((first, second), &cos), &sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        let sin = if INVERSE { -sin } else { sin };
        let (x1, x2) = (first.to_f32(), second.to_f32());
        *first = T::from_f32(x1 * cos - x2 * sin);
        *second = T::from_f32(x2 * cos + x1 * sin);
    }
}

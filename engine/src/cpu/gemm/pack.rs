//! Packing: an operand's elements in the order the micro-kernel reads them.
//!
//! An operand is seen as lanes (rows of A, columns of B) along the inner dimension. A panel holds `W`
//! lanes, and all of them at one inner index lie side by side. Where lanes run out, zeros fill the panel.

use std::ops::Range;

use super::Matrix;
use crate::cpu::simd::Instructions;
use crate::real::Real;

/// Most inner indices of a panel.
pub const LONGEST: usize = 768;

/// Inner indices packed of one panel before the next panel's turn: the lines of the source that panels
/// share are then still in the cache.
const STRIP: usize = 16;

/// Columns and rows of the blocks that are transposed in registers.
const BLOCK: usize = 8;

/// Stands for lanes that are not there. As long as the longest panel.
static ZEROS: [f32; LONGEST] = [0.0; LONGEST];

/// Packs elements `depth` of the rows `lanes` of `source` into `panels`, panel after panel.
#[inline(always)]
pub fn pack<T: Real, const W: usize>(
    instructions: impl Instructions,
    source: Matrix<T>,
    lanes: Range<usize>,
    depth: Range<usize>,
    panels: &mut [[f32; W]],
) {
    debug_assert_eq!(panels.len(), lanes.len().div_ceil(W) * depth.len());
    if source.column_stride == 1 {
        for (panel, first) in panels.chunks_exact_mut(depth.len()).zip(lanes.clone().step_by(W)) {
            transpose_panel(instructions, source, first..lanes.end.min(first + W), depth.clone(), panel);
        }
    } else {
        copy_panels(source, lanes, depth, panels);
    }
}

/// Packs one panel of lanes that each lie in one run of memory.
#[inline(always)]
fn transpose_panel<T: Real, const W: usize>(
    instructions: impl Instructions,
    source: Matrix<T>,
    lanes: Range<usize>,
    depth: Range<usize>,
    panel: &mut [[f32; W]],
) {
    let lane = |lane: usize| -> &[T] {
        if lane < lanes.len() {
            &source.data[(lanes.start + lane) * source.row_stride..][depth.clone()]
        } else {
            &bytemuck::cast_slice(&ZEROS)[..depth.len()]
        }
    };
    for group in (0..W).step_by(BLOCK) {
        let lanes: [&[T]; BLOCK] = std::array::from_fn(|index| lane(group + index));
        let (blocks, rest) = panel.as_chunks_mut::<BLOCK>();
        for (block, target) in blocks.iter_mut().enumerate() {
            let mut rows = [[0.0; BLOCK]; BLOCK];
            for (row, lane) in rows.iter_mut().zip(&lanes) {
                let lane: &[T; BLOCK] = lane[block * BLOCK..].first_chunk().expect("a whole block");
                *row = lane.map(T::to_f32);
            }
            let rows = instructions.transpose(rows);
            for (target, row) in target.iter_mut().zip(&rows) {
                copy_group(target, group, row);
            }
        }
        let first = depth.len() - rest.len();
        for (p, target) in rest.iter_mut().enumerate() {
            let row: [f32; BLOCK] = std::array::from_fn(|lane| lanes[lane][first + p].to_f32());
            copy_group(target, group, &row);
        }
    }
}

/// Copies into the lanes `group..group + BLOCK` of a panel's row, or those of them that it has.
#[inline(always)]
fn copy_group<const W: usize>(target: &mut [f32; W], group: usize, lanes: &[f32; BLOCK]) {
    // Lengths that the compiler knows: copies of a few registers, not calls.
    if group + BLOCK <= W {
        target[group..group + BLOCK].copy_from_slice(lanes);
    } else {
        target[W - W % BLOCK..].copy_from_slice(&lanes[..W % BLOCK]);
    }
}

/// Packs panels of lanes that lie side by side in memory.
#[inline(always)]
fn copy_panels<T: Real, const W: usize>(
    source: Matrix<T>,
    lanes: Range<usize>,
    depth: Range<usize>,
    panels: &mut [[f32; W]],
) {
    let length = depth.len();
    for strip in depth.clone().step_by(STRIP) {
        let strip = strip..depth.end.min(strip + STRIP);
        let place = strip.start - depth.start;
        for (panel, first) in panels.chunks_exact_mut(length).zip(lanes.clone().step_by(W)) {
            let rows = panel[place..].iter_mut().zip(strip.clone());
            if first + W <= lanes.end {
                for (target, p) in rows {
                    widen(target, &source.data[p * source.column_stride + first..][..W]);
                }
            } else {
                let left = lanes.end - first;
                for (target, p) in rows {
                    widen(&mut target[..left], &source.data[p * source.column_stride + first..][..left]);
                    target[left..].fill(0.0);
                }
            }
        }
    }
}

#[inline(always)]
fn widen<T: Real>(target: &mut [f32], source: &[T]) {
    target.iter_mut().zip(source).for_each(|(target, value)| *target = value.to_f32());
}

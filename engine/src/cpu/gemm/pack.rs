//! Packing: an operand's elements in the order the micro-kernel reads them.
//!
//! An operand is seen as lanes (rows of A, columns of B) along the inner dimension. A panel holds `W`
//! lanes, and the words of all of them at one step of the inner dimension lie side by side. Where lanes run
//! out, zeros fill the panel.

use std::marker::PhantomData;
use std::ops::Range;

use half::bf16;

use super::Matrix;
use crate::cpu::simd::Instructions;
use crate::float::Float;

/// Most steps of a panel.
pub const LONGEST: usize = 768;

/// Steps packed of one panel before the next panel's turn: the lines of the source that panels share are
/// then still in the cache.
const STRIP: usize = 16;

/// Columns and rows of the blocks that are transposed in registers.
const BLOCK: usize = 8;

/// What a panel's words of 4 bytes hold.
pub trait Packing {
    /// Elements of the operand.
    type Element: Float;
    /// Elements of a lane in one word.
    const STEP: usize;

    /// The word of the next elements of a lane, `STEP` of them, or those that are left.
    fn word(elements: &[Self::Element]) -> f32;
}

/// One element as f32.
pub struct Widened<T>(PhantomData<T>);

impl<T: Float> Packing for Widened<T> {
    type Element = T;
    const STEP: usize = 1;

    #[inline(always)]
    fn word(elements: &[T]) -> f32 {
        elements[0].to_f32()
    }
}

/// Two elements, the first in the lower half.
pub struct Pairs;

impl Packing for Pairs {
    type Element = bf16;
    const STEP: usize = 2;

    #[inline(always)]
    fn word(elements: &[bf16]) -> f32 {
        let upper = elements.get(1).map_or(0, |element| element.to_bits());
        f32::from_bits(u32::from(upper) << 16 | u32::from(elements[0].to_bits()))
    }
}

/// Packs elements `depth` of the rows `lanes` of `source` into `panels`, panel after panel of `steps` words of
/// each lane: of as many as it takes, or more, which are then zeros.
#[inline(always)]
pub fn pack<P: Packing, const W: usize>(
    instructions: impl Instructions,
    source: Matrix<P::Element>,
    lanes: Range<usize>,
    depth: Range<usize>,
    steps: usize,
    panels: &mut [[f32; W]],
) {
    let used = depth.len().div_ceil(P::STEP);
    debug_assert_eq!(panels.len(), lanes.len().div_ceil(W) * steps);
    if steps > used {
        panels.chunks_exact_mut(steps).for_each(|panel| panel[used..].fill([0.0; W]));
    }
    if source.column_stride == 1 {
        for (panel, first) in panels.chunks_exact_mut(steps).zip(lanes.clone().step_by(W)) {
            let lanes = first..lanes.end.min(first + W);
            transpose_panel::<P, W>(instructions, source, lanes, depth.clone(), &mut panel[..used]);
        }
    } else {
        copy_panels::<P, W>(source, lanes, depth, steps, panels);
    }
}

/// Packs one panel of lanes that each lie in one run of memory.
#[inline(always)]
fn transpose_panel<P: Packing, const W: usize>(
    instructions: impl Instructions,
    source: Matrix<P::Element>,
    lanes: Range<usize>,
    depth: Range<usize>,
    panel: &mut [[f32; W]],
) {
    let lane = |lane: usize| {
        // Those that are not there are zeroed below.
        let lane = lanes.start + if lane < lanes.len() { lane } else { 0 };
        &source.data[lane * source.row_stride..][depth.clone()]
    };
    let whole_blocks = depth.len() / (BLOCK * P::STEP);
    let (blocks, rest) = panel.split_at_mut(whole_blocks * BLOCK);
    let rest_start = whole_blocks * BLOCK * P::STEP;
    for group in (0..W).step_by(BLOCK) {
        let lanes: [&[P::Element]; BLOCK] = std::array::from_fn(|index| lane(group + index));
        for (block, target) in blocks.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
            let mut rows = [[0.0; BLOCK]; BLOCK];
            for index in 0..BLOCK {
                let elements = &lanes[index][block * BLOCK * P::STEP..][..BLOCK * P::STEP];
                for word in 0..BLOCK {
                    rows[index][word] = P::word(&elements[word * P::STEP..][..P::STEP]);
                }
            }
            let rows = instructions.transpose(rows);
            for index in 0..BLOCK {
                copy_group(&mut target[index], group, &rows[index]);
            }
        }
        for (step, target) in rest.iter_mut().enumerate() {
            let elements = rest_start + step * P::STEP..depth.len().min(rest_start + (step + 1) * P::STEP);
            let row: [f32; BLOCK] = lanes.map(|lane| P::word(&lane[elements.clone()]));
            copy_group(target, group, &row);
        }
    }
    if lanes.len() < W {
        for target in panel {
            target[lanes.len()..].fill(0.0);
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
fn copy_panels<P: Packing, const W: usize>(
    source: Matrix<P::Element>,
    lanes: Range<usize>,
    depth: Range<usize>,
    steps: usize,
    panels: &mut [[f32; W]],
) {
    let used = depth.len().div_ceil(P::STEP);
    for strip in (0..used).step_by(STRIP) {
        let strip = strip..used.min(strip + STRIP);
        for (panel, first) in panels.chunks_exact_mut(steps).zip(lanes.clone().step_by(W)) {
            for (target, step) in panel[strip.clone()].iter_mut().zip(strip.clone()) {
                let start = depth.start + step * P::STEP;
                let left = (lanes.end - first).min(W);
                let row = |p: usize| &source.data[p * source.column_stride + first..][..left];
                let (elements, next) =
                    (row(start), (P::STEP > 1 && start + 1 < depth.end).then(|| row(start + 1)));
                if let Some(elements) = elements.first_chunk::<W>() {
                    // Arrays, since the compiler can make vectors of them.
                    let next = next.and_then(|next| next.first_chunk::<W>()).copied();
                    *target = interleaved::<P, W>(*elements, next);
                } else {
                    let mut padded = [[P::Element::default(); W]; 2];
                    padded[0][..left].copy_from_slice(elements);
                    if let Some(next) = next {
                        padded[1][..left].copy_from_slice(next);
                    }
                    *target = interleaved::<P, W>(padded[0], Some(padded[1]));
                }
            }
        }
    }
}

/// Words of the elements of `W` lanes at one inner index and, where there is one, at the next: zeros otherwise.
#[inline(always)]
fn interleaved<P: Packing, const W: usize>(
    elements: [P::Element; W],
    next: Option<[P::Element; W]>,
) -> [f32; W] {
    let next = next.unwrap_or([P::Element::default(); W]);
    let mut words = [0.0; W];
    for lane in 0..W {
        words[lane] = P::word(&[elements[lane], next[lane]][..P::STEP]);
    }
    words
}

/// Packs elements `depth` of the rows `lanes` of `source` into `panels`, panel after panel of `W` lanes and block
/// after block of `N` words: those of a lane lie side by side, and lane after lane. Zeros stand for what there is
/// not of the last block.
#[inline(always)]
pub fn pack_blocks<P: Packing, const W: usize, const N: usize>(
    instructions: impl Instructions,
    source: Matrix<P::Element>,
    lanes: Range<usize>,
    depth: Range<usize>,
    panels: &mut [f32],
) {
    let blocks = depth.len().div_ceil(N * P::STEP);
    let panels = panels.as_chunks_mut::<N>().0.as_chunks_mut::<W>().0;
    debug_assert_eq!(panels.len(), lanes.len().div_ceil(W) * blocks);
    for (panel, first) in panels.chunks_exact_mut(blocks).zip(lanes.clone().step_by(W)) {
        let lanes = first..lanes.end.min(first + W);
        for (block, start) in panel.iter_mut().zip(depth.clone().step_by(N * P::STEP)) {
            let depth = start..depth.end.min(start + N * P::STEP);
            if source.column_stride == 1 {
                copy_block::<P, W, N>(source, lanes.clone(), depth, block);
            } else {
                transpose_block::<P, W, N>(instructions, source, lanes.clone(), depth, block);
            }
        }
    }
}

/// One block of lanes that each lie in one run of memory.
#[inline(always)]
fn copy_block<P: Packing, const W: usize, const N: usize>(
    source: Matrix<P::Element>,
    lanes: Range<usize>,
    depth: Range<usize>,
    block: &mut [[f32; N]; W],
) {
    let left = lanes.len();
    for (target, lane) in block.iter_mut().zip(lanes) {
        let lane = &source.data[lane * source.row_stride..][depth.clone()];
        if lane.len() == N * P::STEP {
            *target = std::array::from_fn(|word| P::word(&lane[word * P::STEP..][..P::STEP]));
        } else {
            target.fill(0.0);
            lane.chunks(P::STEP).zip(target).for_each(|(elements, target)| *target = P::word(elements));
        }
    }
    block[left..].fill([0.0; N]);
}

/// One block of lanes that lie side by side in memory.
#[inline(always)]
fn transpose_block<P: Packing, const W: usize, const N: usize>(
    instructions: impl Instructions,
    source: Matrix<P::Element>,
    lanes: Range<usize>,
    depth: Range<usize>,
    block: &mut [[f32; N]; W],
) {
    let mut words = [[0.0; W]; N];
    let steps = depth.len().div_ceil(P::STEP);
    copy_panels::<P, W>(source, lanes, depth, steps, &mut words[..steps]);
    for lane in (0..W).step_by(BLOCK) {
        for word in (0..N).step_by(BLOCK) {
            let corner =
                std::array::from_fn(|i| *words[word + i][lane..].first_chunk().expect("whole blocks"));
            for (i, words) in instructions.transpose(corner).iter().enumerate() {
                block[lane + i][word..][..BLOCK].copy_from_slice(words);
            }
        }
    }
}

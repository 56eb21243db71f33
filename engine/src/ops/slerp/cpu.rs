//! CPU: both passes run over pieces of tensors; a piece's sums are kept apart and added in order.

use rayon::prelude::*;

use super::{Factors, Options, SegmentReport, Sums, plan};
use crate::cpu::pieces::{Piece, pieces, split_mut};
use crate::cpu::simd::vectorize;
use crate::error::Result;
use crate::layout::Layout;
use crate::mask::{Mask, WORD_BITS};

/// Elements per piece. Part of the result's bits: never a function of the thread count.
const CHUNK: usize = 1 << 15;
/// Independent sums inside a piece, so that additions overlap.
const LANES: usize = 8;

pub(super) fn slerp(
    layout: &Layout,
    backbone: &mut [f32],
    other: &[f32],
    options: &Options<'_>,
) -> Result<Vec<SegmentReport>> {
    let pieces = pieces(layout, CHUNK);
    let inputs =
        Inputs { other, base: options.base.map(|base| base.host()), skip: options.skip.map(Mask::words) };

    let piece_sums: Vec<Sums> =
        pieces.par_iter().map(|piece| inputs.of(piece).sums(&backbone[piece.range.clone()])).collect();
    let mut sums = vec![Sums::default(); layout.segments().len()];
    for (piece, part) in pieces.iter().zip(&piece_sums) {
        let total = &mut sums[piece.segment];
        total.backbone += part.backbone;
        total.other += part.other;
        total.product += part.product;
        total.difference += part.difference;
    }
    let plans: Vec<(SegmentReport, Factors)> = sums
        .iter()
        .enumerate()
        .map(|(segment, sums)| plan(layout, segment, sums, options))
        .collect::<Result<_>>()?;

    let targets = split_mut(backbone, pieces.iter().map(|piece| piece.range.clone()));
    pieces.par_iter().zip(targets).for_each(|(piece, target)| {
        inputs.of(piece).combine(target, plans[piece.segment].1);
    });
    Ok(plans.into_iter().map(|(report, _)| report).collect())
}

/// What is read, for everything or for one piece.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    other: &'a [f32],
    base: Option<&'a [f32]>,
    skip: Option<&'a [u64]>,
}

impl<'a> Inputs<'a> {
    fn of(&self, piece: &Piece) -> Inputs<'a> {
        Inputs {
            other: &self.other[piece.range.clone()],
            base: self.base.map(|base| &base[piece.range.clone()]),
            skip: self.skip.map(|words| &words[piece.words()]),
        }
    }

    fn sums(&self, backbone: &[f32]) -> Sums {
        match self.base {
            None => vectorize!(|| sums_of_piece::<false>(backbone, self)),
            Some(_) => vectorize!(|| sums_of_piece::<true>(backbone, self)),
        }
    }

    fn combine(&self, backbone: &mut [f32], factors: Factors) {
        match self.base {
            None => vectorize!(|| combine_piece::<false>(backbone, self, factors)),
            Some(_) => vectorize!(|| combine_piece::<true>(backbone, self, factors)),
        }
    }

    /// The values of other model, base and skipped bits that belong to block `index`, zeros after the end.
    #[inline(always)]
    fn block<const DELTA: bool>(&self, index: usize) -> Block {
        let base = if DELTA { self.base.unwrap_or(&[]) } else { &[] };
        Block {
            other: load(self.other, index),
            base: if DELTA { load(base, index) } else { [0.0; WORD_BITS] },
            skip: self.skip.map_or(0, |words| words[index]),
        }
    }
}

/// The elements of one mask word.
struct Block {
    other: [f32; WORD_BITS],
    base: [f32; WORD_BITS],
    skip: u64,
}

/// Block `index` of `values`, filled with zeros after the end: they add nothing to any sum.
#[inline(always)]
fn load(values: &[f32], index: usize) -> [f32; WORD_BITS] {
    let rest = &values[index * WORD_BITS..];
    rest.first_chunk().copied().unwrap_or_else(|| {
        let mut padded = [0.0; WORD_BITS];
        padded[..rest.len()].copy_from_slice(rest);
        padded
    })
}

#[inline(always)]
fn sums_of_piece<const DELTA: bool>(backbone: &[f32], inputs: &Inputs<'_>) -> Sums {
    let mut lanes = [[0.0_f64; LANES]; 4];
    for index in 0..backbone.len().div_ceil(WORD_BITS) {
        let block = inputs.block::<DELTA>(index);
        let mut own = load(backbone, index);
        let mut other = block.other;
        let mut base = block.base;
        if block.skip == u64::MAX {
            continue;
        }
        if block.skip != 0 {
            for lane in 0..WORD_BITS {
                let keep = block.skip >> lane & 1 == 0;
                own[lane] = if keep { own[lane] } else { 0.0 };
                other[lane] = if keep { other[lane] } else { 0.0 };
                base[lane] = if keep { base[lane] } else { 0.0 };
            }
        }
        let groups = own.as_chunks::<LANES>().0.iter().zip(other.as_chunks::<LANES>().0);
        for ((own, other), base) in groups.zip(base.as_chunks::<LANES>().0) {
            for lane in 0..LANES {
                let base = if DELTA { f64::from(base[lane]) } else { 0.0 };
                let a = if DELTA { f64::from(own[lane]) - base } else { f64::from(own[lane]) };
                let b = if DELTA { f64::from(other[lane]) - base } else { f64::from(other[lane]) };
                lanes[0][lane] = a.mul_add(a, lanes[0][lane]);
                lanes[1][lane] = b.mul_add(b, lanes[1][lane]);
                lanes[2][lane] = a.mul_add(b, lanes[2][lane]);
                lanes[3][lane] = (a - b).mul_add(a - b, lanes[3][lane]);
            }
        }
    }
    let [backbone, other, product, difference] = lanes.map(|lanes| lanes.iter().sum());
    Sums { backbone, other, product, difference }
}

#[inline(always)]
fn combine_piece<const DELTA: bool>(backbone: &mut [f32], inputs: &Inputs<'_>, factors: Factors) {
    for (index, target) in backbone.chunks_mut(WORD_BITS).enumerate() {
        let block = inputs.block::<DELTA>(index);
        if block.skip == u64::MAX {
            continue;
        }
        let own = load(target, 0);
        let mut result = [0.0; WORD_BITS];
        for lane in 0..WORD_BITS {
            let base = f64::from(block.base[lane]);
            let (a, b) = (f64::from(own[lane]), f64::from(block.other[lane]));
            let combined = if DELTA {
                factors.backbone.mul_add(a - base, factors.other.mul_add(b - base, base))
            } else {
                factors.backbone.mul_add(a, factors.other * b)
            };
            result[lane] = combined as f32;
        }
        if block.skip != 0 {
            for lane in 0..WORD_BITS {
                result[lane] = if block.skip >> lane & 1 == 0 { result[lane] } else { own[lane] };
            }
        }
        target.copy_from_slice(&result[..target.len()]);
    }
}

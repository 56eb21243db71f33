//! CPU: both passes run over pieces of tensors; a piece's sums are kept apart and added in order.

use rayon::prelude::*;

use super::{Factors, Options, SegmentReport, Sums, plans};
use crate::cpu::pieces::{Piece, pieces, split_mut};
use crate::cpu::simd::vectorize;
use crate::error::Result;
use crate::layout::Layout;
use crate::mask::{Mask, WORD_BITS};

/// Elements per piece. Part of the result's bits: never a function of the thread count.
pub(super) const CHUNK: usize = 1 << 15;
/// Independent sums inside a piece, so that additions overlap.
const LANES: usize = 8;

/// The elements of one mask word.
type Block = [f32; WORD_BITS];

pub(super) fn slerp(
    layout: &Layout,
    backbone: &mut [f32],
    other: &[f32],
    options: &Options<'_>,
) -> Result<Vec<SegmentReport>> {
    let pieces = pieces(layout, CHUNK);
    let inputs =
        HostInputs { other, base: options.base.map(|base| base.host()), skip: options.skip.map(Mask::words) };

    let piece_sums: Vec<Sums> =
        pieces.par_iter().map(|piece| inputs.of(piece).sums(&backbone[piece.range.clone()])).collect();
    let mut sums = vec![Sums::default(); layout.segments().len()];
    for (piece, part) in pieces.iter().zip(&piece_sums) {
        sums[piece.segment].add(part);
    }
    let plans = plans(layout, &sums, options)?;

    let targets = split_mut(backbone, pieces.iter().map(|piece| piece.range.clone()));
    pieces.par_iter().zip(targets).for_each(|(piece, target)| {
        inputs.of(piece).combine(target, plans[piece.segment].1);
    });
    Ok(plans.into_iter().map(|(report, _)| report).collect())
}

/// What is read, for everything or for one piece.
#[derive(Clone, Copy)]
pub(super) struct HostInputs<'a> {
    pub(super) other: &'a [f32],
    pub(super) base: Option<&'a [f32]>,
    pub(super) skip: Option<&'a [u64]>,
}

impl<'a> HostInputs<'a> {
    fn of(&self, piece: &Piece) -> HostInputs<'a> {
        HostInputs {
            other: &self.other[piece.range.clone()],
            base: self.base.map(|base| &base[piece.range.clone()]),
            skip: self.skip.map(|words| &words[piece.words()]),
        }
    }

    pub(super) fn sums(&self, backbone: &[f32]) -> Sums {
        match self.base {
            None => vectorize!(|| sums_of_piece::<false>(backbone, self)),
            Some(_) => vectorize!(|| sums_of_piece::<true>(backbone, self)),
        }
    }

    pub(super) fn combine(&self, backbone: &mut [f32], factors: Factors) {
        match self.base {
            None => vectorize!(|| combine_piece::<false>(backbone, self, factors)),
            Some(_) => vectorize!(|| combine_piece::<true>(backbone, self, factors)),
        }
    }

    /// The bits of the mask's word `index`.
    #[inline(always)]
    fn skipped(&self, index: usize) -> u64 {
        self.skip.map_or(0, |words| words[index])
    }
}

/// What is added up, in every lane of a vector.
#[derive(Default)]
struct Lanes {
    backbone: [f64; LANES],
    other: [f64; LANES],
    product: [f64; LANES],
    difference: [f64; LANES],
}

impl Lanes {
    /// Apart: additions across a vector, seen beside the loop, keep the compiler from vectorising it.
    #[inline(never)]
    fn total(&self) -> Sums {
        Sums {
            backbone: self.backbone.iter().sum(),
            other: self.other.iter().sum(),
            product: self.product.iter().sum(),
            difference: self.difference.iter().sum(),
        }
    }
}

#[inline(always)]
fn sums_of_piece<const DELTA: bool>(backbone: &[f32], inputs: &HostInputs<'_>) -> Sums {
    let (backbone, last_backbone) = backbone.as_chunks();
    let (other, last_other) = inputs.other.as_chunks();
    let (base, last_base) = inputs.base.unwrap_or(&[]).as_chunks();
    let mut lanes = Lanes::default();
    for (index, (backbone, other)) in backbone.iter().zip(other).enumerate() {
        let base = if DELTA { &base[index] } else { &[0.0; WORD_BITS] };
        add_block::<DELTA>(backbone, other, base, inputs.skipped(index), &mut lanes);
    }
    if !last_backbone.is_empty() {
        let skipped = inputs.skipped(backbone.len());
        // The zeros it is filled up with add nothing to any sum.
        add_block::<DELTA>(&pad(last_backbone), &pad(last_other), &pad(last_base), skipped, &mut lanes);
    }
    lanes.total()
}

#[inline(always)]
fn add_block<const DELTA: bool>(
    backbone: &Block,
    other: &Block,
    base: &Block,
    skipped: u64,
    lanes: &mut Lanes,
) {
    match skipped {
        0 => add_lanes::<DELTA, false>(backbone, other, base, 0, lanes),
        u64::MAX => {}
        _ => add_lanes::<DELTA, true>(backbone, other, base, skipped, lanes),
    }
}

#[inline(always)]
fn add_lanes<const DELTA: bool, const MASKED: bool>(
    backbone: &Block,
    other: &Block,
    base: &Block,
    skipped: u64,
    lanes: &mut Lanes,
) {
    let groups = backbone.as_chunks::<LANES>().0.iter().zip(other.as_chunks::<LANES>().0);
    for (group, ((backbone, other), base)) in groups.zip(base.as_chunks::<LANES>().0).enumerate() {
        // Selecting, not multiplying: a skipped NaN must not count.
        let kept = |values: &[f32; LANES]| -> [f64; LANES] {
            std::array::from_fn(|lane| {
                let skip = if MASKED { skip_bits(skipped, group, lane) } else { 0 };
                f64::from(f32::from_bits(values[lane].to_bits() & !skip))
            })
        };
        let (mut a, mut b) = (kept(backbone), kept(other));
        if DELTA {
            let base = kept(base);
            a = subtract(&a, &base);
            b = subtract(&b, &base);
        }
        let difference = subtract(&a, &b);
        add_products(&mut lanes.backbone, &a, &a);
        add_products(&mut lanes.other, &b, &b);
        add_products(&mut lanes.product, &a, &b);
        add_products(&mut lanes.difference, &difference, &difference);
    }
}

#[inline(always)]
fn subtract(a: &[f64; LANES], b: &[f64; LANES]) -> [f64; LANES] {
    std::array::from_fn(|lane| a[lane] - b[lane])
}

/// A loop of its own for each sum: only so does the compiler see vectors in them.
#[inline(always)]
fn add_products(sums: &mut [f64; LANES], a: &[f64; LANES], b: &[f64; LANES]) {
    for lane in 0..LANES {
        sums[lane] = a[lane].mul_add(b[lane], sums[lane]);
    }
}

#[inline(always)]
fn combine_piece<const DELTA: bool>(backbone: &mut [f32], inputs: &HostInputs<'_>, factors: Factors) {
    let (backbone, last_backbone) = backbone.as_chunks_mut();
    let (other, last_other) = inputs.other.as_chunks();
    let (base, last_base) = inputs.base.unwrap_or(&[]).as_chunks();
    for (index, (backbone, other)) in backbone.iter_mut().zip(other).enumerate() {
        let base = if DELTA { &base[index] } else { &[0.0; WORD_BITS] };
        combine_block::<DELTA>(backbone, other, base, inputs.skipped(index), factors);
    }
    if !last_backbone.is_empty() {
        let mut padded = pad(last_backbone);
        let skipped = inputs.skipped(backbone.len());
        combine_block::<DELTA>(&mut padded, &pad(last_other), &pad(last_base), skipped, factors);
        last_backbone.copy_from_slice(&padded[..last_backbone.len()]);
    }
}

#[inline(always)]
fn combine_block<const DELTA: bool>(
    backbone: &mut Block,
    other: &Block,
    base: &Block,
    skipped: u64,
    factors: Factors,
) {
    match skipped {
        0 => combine_lanes::<DELTA, false>(backbone, other, base, 0, factors),
        u64::MAX => {}
        _ => combine_lanes::<DELTA, true>(backbone, other, base, skipped, factors),
    }
}

#[inline(always)]
fn combine_lanes<const DELTA: bool, const MASKED: bool>(
    backbone: &mut Block,
    other: &Block,
    base: &Block,
    skipped: u64,
    factors: Factors,
) {
    let groups = backbone.as_chunks_mut::<LANES>().0.iter_mut().zip(other.as_chunks::<LANES>().0);
    for (group, ((backbone, other), base)) in groups.zip(base.as_chunks::<LANES>().0).enumerate() {
        let mut result = *backbone;
        for lane in 0..LANES {
            let (a, b) = (f64::from(backbone[lane]), f64::from(other[lane]));
            let combined = if DELTA {
                let base = f64::from(base[lane]);
                factors.backbone.mul_add(a - base, factors.other.mul_add(b - base, base))
            } else {
                factors.backbone.mul_add(a, factors.other * b)
            } as f32;
            let skip = if MASKED { skip_bits(skipped, group, lane) } else { 0 };
            result[lane] = f32::from_bits((backbone[lane].to_bits() & skip) | (combined.to_bits() & !skip));
        }
        *backbone = result;
    }
}

/// All ones where a lane's coordinate is skipped: for selecting without a branch.
#[inline(always)]
fn skip_bits(skipped: u64, group: usize, lane: usize) -> u32 {
    ((skipped >> (group * LANES)) as u32 >> lane & 1).wrapping_neg()
}

/// `values` followed by zeros.
fn pad(values: &[f32]) -> Block {
    let mut padded = [0.0; WORD_BITS];
    padded[..values.len()].copy_from_slice(values);
    padded
}

//! Core selection: exactly k coordinates by importance, in O(D) (docs/algorithm.md, stage 1b).
//!
//! Scores compare by absolute value, which for f32 is the order of their bits without the sign. A
//! sample tells between which two scores the k-th largest very likely lies. One read marks everything
//! above them and collects what lies between; of these few the k-th is found, ties going to the lower
//! index. Where the sample is wrong or too many lie between, scores are counted instead: by their upper
//! bits in a first read, within one bin in a second. Nothing is sorted.
//!
//! Traffic: 4 bytes per score and one bit of the mask; 12 to 16 more where the sample does not help.

mod cpu;
mod gpu;
pub mod streaming;

use std::collections::BTreeMap;

use crate::buffer::View;
use crate::cpu::pieces::{Piece, pieces};
use crate::device::Device;
use crate::error::{Error, Result, check, check_length};
use crate::layout::{Layout, Segment};
use crate::mask::Mask;
use crate::ops::work::{Work, mask_bytes};

const OP: &str = "select";

/// Elements per piece of work; a multiple of the mask's words.
const CHUNK: usize = 1 << 16;

/// Which coordinates come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// The largest |score|: cores.
    #[default]
    Largest,
    /// The smallest |score|: the control `inverse`.
    Smallest,
    /// By a hash of the seed and the coordinate, whatever the scores: the control `random`.
    Random {
        /// Same seed, same coordinates.
        seed: u64,
    },
}

/// Among which coordinates the fraction is taken.
#[derive(Debug, Clone, Copy, Default)]
pub enum Scope<'a> {
    /// All coordinates at once: the paper's core set.
    #[default]
    Global,
    /// Every tensor by itself.
    Tensor,
    /// Every group of segments by itself, for example a layer. Holds the group's number for each
    /// segment of the layout, in its order.
    Groups(&'a [usize]),
}

/// What to select.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// k is ⌊fraction · D⌋, where D counts the eligible coordinates of the scope. In [0, 1].
    pub fraction: f64,
    /// Among which coordinates.
    pub scope: Scope<'a>,
    /// Which come first.
    pub order: Order,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self { fraction: 0.01, scope: Scope::Global, order: Order::Largest }
    }
}

/// A core set.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    /// The coordinates.
    pub mask: Mask,
    /// For every segment the |score| of the last coordinate taken in its scope, the k-th. `None`
    /// where nothing was taken, and for [`Order::Random`], which knows no threshold.
    pub thresholds: Vec<Option<f32>>,
}

/// Selects the fraction of the options in every scope: exactly ⌊fraction · D⌋ coordinates, ties to
/// the lower index, padding never. Segments that are not `eligible` are left out of the selection
/// and of D. `scores` are over the layout's elements.
///
/// # Errors
/// Lengths that differ, a fraction outside [0, 1], or a NaN among the scores (naming the tensor).
pub fn select(
    device: &Device,
    layout: &Layout,
    scores: View<'_, f32>,
    options: &Options<'_>,
    eligible: impl Fn(&Segment) -> bool,
) -> Result<Selection> {
    let Options { fraction, scope, order } = *options;
    check_length(OP, "scores", scores.len(), layout.len())?;
    check(OP, (0.0..=1.0).contains(&fraction), || format!("fraction = {fraction} must be in [0, 1]"))?;
    if let Scope::Groups(groups) = scope {
        check_length(OP, "groups", groups.len(), layout.segments().len())?;
    }
    let mut pieces_of_scope = BTreeMap::<usize, Vec<Piece>>::new();
    for piece in eligible_pieces(layout, eligible) {
        let scope = match scope {
            Scope::Global => 0,
            Scope::Tensor => piece.segment,
            Scope::Groups(groups) => groups[piece.segment],
        };
        pieces_of_scope.entry(scope).or_default().push(piece);
    }
    let mut selection =
        Selection { mask: Mask::zeros(layout.len()), thresholds: vec![None; layout.segments().len()] };
    for pieces in pieces_of_scope.values() {
        let k = share_of(fraction, count(pieces));
        let threshold = mark(device, layout, scores, pieces, (k, order), &mut selection.mask)?;
        for piece in pieces {
            selection.thresholds[piece.segment] = threshold;
        }
    }
    Ok(selection)
}

/// ⌊fraction · count⌋.
pub fn share_of(fraction: f64, count: usize) -> usize {
    // A hair more, so that 0.29 of 100 is 29 although 0.29 * 100.0 is 28.999…
    ((fraction * count as f64 * (1.0 + 1e-12)).floor() as usize).min(count)
}

/// Selects exactly `k` coordinates among all eligible ones, ties to the lower index; returns them
/// and the k-th |score| (`None` for k = 0 and [`Order::Random`]).
///
/// # Errors
/// Lengths that differ, fewer than `k` eligible coordinates, or a NaN among the scores.
pub fn top_k(
    device: &Device,
    layout: &Layout,
    scores: View<'_, f32>,
    k: usize,
    order: Order,
    eligible: impl Fn(&Segment) -> bool,
) -> Result<(Mask, Option<f32>)> {
    check_length(OP, "scores", scores.len(), layout.len())?;
    let pieces = eligible_pieces(layout, eligible);
    let available = count(&pieces);
    check(OP, k <= available, || format!("k = {k} of only {available} eligible coordinates"))?;
    let mut mask = Mask::zeros(layout.len());
    let threshold = mark(device, layout, scores, &pieces, (k, order), &mut mask)?;
    Ok((mask, threshold))
}

fn eligible_pieces(layout: &Layout, eligible: impl Fn(&Segment) -> bool) -> Vec<Piece> {
    let eligible: Vec<bool> = layout.segments().iter().map(eligible).collect();
    let mut pieces = pieces(layout, CHUNK);
    pieces.retain(|piece| eligible[piece.segment]);
    pieces
}

fn count(pieces: &[Piece]) -> usize {
    pieces.iter().map(|piece| piece.range.len()).sum()
}

/// Adds the first `k` coordinates of the pieces in the given order to the mask; returns the k-th |score|.
fn mark(
    device: &Device,
    layout: &Layout,
    scores: View<'_, f32>,
    pieces: &[Piece],
    (k, order): (usize, Order),
    mask: &mut Mask,
) -> Result<Option<f32>> {
    if k == 0 {
        return Ok(None);
    }
    let words = mask.words_mut();
    let marked = match device {
        Device::Gpu(gpu) => gpu::mark(gpu, scores, pieces, k, order, words)?,
        Device::Cpu(cpu) => {
            let scores = scores.host();
            cpu.run(|| cpu::mark(scores, pieces, k, order, words))
        }
    };
    marked.map_err(|cpu::NotANumber { segment, index }| {
        let Segment { name, offset, .. } = &layout.segments()[segment];
        Error::Argument {
            op: OP,
            reason: format!("the score of `{name}`, element {}, is NaN", index - offset),
        }
    })
}

/// Work of [`select`] among so many scores: one read of them, unless they do not matter, and one write of the
/// mask. A GPU reads them once for every digit of the key that it counts, and once to mark.
pub fn work(scores: usize, order: Order, on_gpu: bool) -> Work {
    let passes = match order {
        Order::Random { .. } => 0,
        _ if on_gpu => cpift_kernels::select::DIGITS.len() + 1,
        _ => 1,
    };
    Work::new(4 * passes * scores + mask_bytes(scores), 0)
}

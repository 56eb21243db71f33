//! Two passes: counting by the keys' upper bits, which tells in which bin the k-th lies; marking
//! what lies above that bin and counting the bin itself by the lower bits, before it is settled.

use rayon::prelude::*;

use super::{INFINITY, Keys, LOWER_BITS, NotANumber, UPPER_BINS, Work, at_least, blocks, boundary, inside};
use crate::cpu::pieces::Piece;
use crate::cpu::simd::vectorize;
use crate::mask::set_bits;

const LOWER_BINS: usize = 1 << LOWER_BITS;
const LOWER_MASK: u32 = (1 << LOWER_BITS) - 1;

impl<K: Keys> Work<'_, '_, K> {
    /// Sets the bits; returns the k-th key.
    pub(super) fn mark_by_counting(
        self,
        find_nan: impl Fn() -> Result<(), NotANumber>,
    ) -> Result<u32, NotANumber> {
        let Self { keys, pieces, k, pieces_per_part, targets } = self;
        let counts: Vec<Vec<u32>> =
            pieces.par_chunks(pieces_per_part).map(|part| vectorize!(|| count_upper(keys, part))).collect();
        let upper_counts = total(counts.iter());
        let not_finite = |bin: usize| keys.magnitude((bin as u32) << LOWER_BITS) | LOWER_MASK >= INFINITY;
        if (0..UPPER_BINS).any(|bin| upper_counts[bin] > 0 && not_finite(bin)) {
            find_nan()?;
        }
        let (upper, rest) = boundary(&upper_counts, k);

        let mut parts: Vec<Boundary> = pieces
            .par_chunks(pieces_per_part)
            .zip(targets.par_chunks_mut(pieces_per_part))
            .map(|(part, targets)| vectorize!(|| mark_above(keys, part, targets, upper as u32)))
            .collect();
        let (lower, mut ties) = boundary(&total(parts.iter().map(|part| &part.lower_counts)), rest);
        for part in &mut parts {
            part.ties = ties.min(part.lower_counts[lower] as usize);
            ties -= part.ties;
        }
        let threshold = (upper as u32) << LOWER_BITS | lower as u32;
        let settle = parts.into_par_iter().zip(pieces.par_chunks(pieces_per_part));
        settle.zip(targets.par_chunks_mut(pieces_per_part)).for_each(|((boundary, part), targets)| {
            mark_boundary(keys, part, targets, &boundary, threshold);
        });
        Ok(threshold)
    }
}

/// Sums of histograms, bin by bin.
fn total<'a>(histograms: impl Iterator<Item = &'a Vec<u32>>) -> Vec<u64> {
    let mut total = Vec::new();
    for histogram in histograms {
        total.resize(histogram.len(), 0);
        total.iter_mut().zip(histogram).for_each(|(sum, &count)| *sum += u64::from(count));
    }
    total
}

/// Counts the keys by their upper bits.
#[inline(always)]
fn count_upper<K: Keys>(keys: K, part: &[Piece]) -> Vec<u32> {
    let mut histogram = vec![0; UPPER_BINS];
    for (word, lanes) in part.iter().flat_map(blocks) {
        for &key in &keys.block(word)[..lanes] {
            histogram[(key >> LOWER_BITS) as usize % UPPER_BINS] += 1;
        }
    }
    histogram
}

/// What one part of the pieces holds in the bin where the k-th key lies.
struct Boundary {
    /// The bin by lower bits.
    lower_counts: Vec<u32>,
    /// Mask words with coordinates in the bin, as piece of the part, word of the piece, and bits.
    candidates: Vec<(u32, u32, u64)>,
    /// How many coordinates of the part that equal the k-th key are among the k.
    ties: usize,
}

#[inline(always)]
fn mark_above<K: Keys>(keys: K, part: &[Piece], targets: &mut [&mut [u64]], upper: u32) -> Boundary {
    let mut boundary = Boundary { lower_counts: vec![0; LOWER_BINS], candidates: Vec::new(), ties: 0 };
    for (piece_index, (piece, target)) in (0..).zip(part.iter().zip(targets)) {
        for (word_index, ((word, lanes), target)) in (0..).zip(blocks(piece).zip(target.iter_mut())) {
            let keys = keys.block(word);
            let from_boundary = at_least(&keys, upper << LOWER_BITS) & inside(lanes);
            if from_boundary == 0 {
                continue;
            }
            let above = at_least(&keys, (upper + 1) << LOWER_BITS) & from_boundary;
            *target |= above;
            let candidates = from_boundary & !above;
            if candidates != 0 {
                boundary.candidates.push((piece_index, word_index, candidates));
                for bit in set_bits(candidates) {
                    boundary.lower_counts[keys[bit as usize] as usize % LOWER_BINS] += 1;
                }
            }
        }
    }
    boundary
}

/// Settles the coordinates of the boundary bin: those above the k-th key, and the first of its equals.
fn mark_boundary<K: Keys>(
    keys: K,
    part: &[Piece],
    targets: &mut [&mut [u64]],
    boundary: &Boundary,
    threshold: u32,
) {
    let mut ties = boundary.ties;
    for &(piece, word, candidates) in &boundary.candidates {
        let (piece, word) = (piece as usize, word as usize);
        let keys = keys.block(part[piece].words().start + word);
        for bit in set_bits(candidates) {
            let key = keys[bit as usize];
            let tie = key == threshold && ties > 0;
            ties -= usize::from(tie);
            targets[piece][word] |= u64::from(key > threshold || tie) << bit;
        }
    }
}

//! CPU: counting by upper bits, marking and counting by lower bits, settling the boundary bin.

use rayon::prelude::*;

use super::Order;
use crate::cpu::pieces::{Piece, split_mut};
use crate::cpu::simd::vectorize;
use crate::mask::{WORD_BITS, set_bits};

/// A key has 31 bits: f32 without the sign. The upper 15 (exponent and 7 bits of the mantissa) make
/// a histogram whose busy part stays in the first-level cache; the other 16 refine one of its bins.
const LOWER_BITS: u32 = 16;
const UPPER_BINS: usize = 1 << 15;
const LOWER_BINS: usize = 1 << LOWER_BITS;
const MAGNITUDE: u32 = 0x7fff_ffff;
/// Magnitudes from here on, infinity aside, are NaN.
const INFINITY: u32 = 0x7f80_0000;

/// Where a NaN was found.
pub(super) struct NotANumber {
    pub(super) segment: usize,
    pub(super) index: usize,
}

/// Sets the bits of the `k` first coordinates (1 ≤ k ≤ number of coordinates in the pieces).
pub(super) fn mark(
    scores: &[f32],
    pieces: &[Piece],
    k: usize,
    order: Order,
    words: &mut [u64],
) -> Result<Option<f32>, NotANumber> {
    let flip = match order {
        Order::Largest => 0,
        Order::Smallest => MAGNITUDE,
        Order::Random { seed } => {
            mark_keys(Hashes { seed }, pieces, k, words, |_| Ok(()))?;
            return Ok(None);
        }
    };
    let key = mark_keys(Magnitudes { scores, flip }, pieces, k, words, |histogram| {
        let first_not_finite = (INFINITY >> LOWER_BITS) as usize;
        let flip = (flip >> LOWER_BITS) as usize;
        let all_finite = (first_not_finite..UPPER_BINS).all(|bin| histogram[bin ^ flip] == 0);
        if all_finite { Ok(()) } else { find_nan(scores, pieces) }
    })?;
    Ok(Some(f32::from_bits(key ^ flip)))
}

/// The slow way, only when there are scores that are not finite: infinities are allowed.
fn find_nan(scores: &[f32], pieces: &[Piece]) -> Result<(), NotANumber> {
    for piece in pieces {
        if let Some(position) = scores[piece.range.clone()].iter().position(|score| score.is_nan()) {
            return Err(NotANumber { segment: piece.segment, index: piece.range.start + position });
        }
    }
    Ok(())
}

/// Keys of 31 bits of every coordinate; the largest are selected.
trait Keys: Copy + Sync {
    /// The keys of one mask word's coordinates. Of those beyond the segment's end nothing is used.
    fn block(self, word: usize) -> [u32; WORD_BITS];
}

/// |score| as its bits, or the complement of it for the smallest first.
#[derive(Clone, Copy)]
struct Magnitudes<'a> {
    scores: &'a [f32],
    flip: u32,
}

impl Keys for Magnitudes<'_> {
    #[inline(always)]
    fn block(self, word: usize) -> [u32; WORD_BITS] {
        let scores = &self.scores[word * WORD_BITS..][..WORD_BITS];
        std::array::from_fn(|lane| (scores[lane].to_bits() & MAGNITUDE) ^ self.flip)
    }
}

/// A hash of seed and coordinate: the finaliser of SplitMix64 over a Weyl sequence.
#[derive(Clone, Copy)]
struct Hashes {
    seed: u64,
}

impl Keys for Hashes {
    #[inline(always)]
    fn block(self, word: usize) -> [u32; WORD_BITS] {
        let mix = |mut state: u64| {
            state = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            state = (state ^ state >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            state ^ state >> 31
        };
        let start = mix(self.seed);
        std::array::from_fn(|lane| {
            let index = (word * WORD_BITS + lane) as u64;
            (mix(start.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15))) >> 33) as u32
        })
    }
}

/// Sets the bits of the `k` largest keys, ties to the lower index; returns the k-th.
fn mark_keys<K: Keys>(
    keys: K,
    pieces: &[Piece],
    k: usize,
    words: &mut [u64],
    check_histogram: impl FnOnce(&[u64]) -> Result<(), NotANumber>,
) -> Result<u32, NotANumber> {
    // A few parts per thread even out their speed. Counts are integers: the division does not show.
    let pieces_per_part = pieces.len().div_ceil(4 * rayon::current_num_threads());

    let upper_counts: Vec<Vec<u64>> =
        pieces.par_chunks(pieces_per_part).map(|part| vectorize!(|| count_upper(keys, part))).collect();
    let upper_counts = total(upper_counts.iter());
    check_histogram(&upper_counts)?;
    let (upper, rest) = boundary(&upper_counts, k);

    let mut targets = split_mut(words, pieces.iter().map(Piece::words));
    let boundaries: Vec<Boundary> = pieces
        .par_chunks(pieces_per_part)
        .zip(targets.par_chunks_mut(pieces_per_part))
        .map(|(part, targets)| vectorize!(|| mark_above(keys, part, targets, upper as u32)))
        .collect();
    let (lower, mut ties) = boundary(&total(boundaries.iter().map(|part| &part.lower_counts)), rest);

    let threshold = (upper as u32) << LOWER_BITS | lower as u32;
    for &(word, candidates) in boundaries.iter().flat_map(|part| &part.candidates) {
        let keys = keys.block(word);
        for bit in set_bits(candidates) {
            let key = keys[bit as usize];
            let tie = key == threshold && ties > 0;
            ties -= usize::from(tie);
            words[word] |= u64::from(key > threshold || tie) << bit;
        }
    }
    Ok(threshold)
}

/// Sums of histograms, bin by bin.
fn total<'a>(histograms: impl Iterator<Item = &'a Vec<u64>>) -> Vec<u64> {
    let mut total = Vec::new();
    for histogram in histograms {
        total.resize(histogram.len(), 0);
        total.iter_mut().zip(histogram).for_each(|(sum, count)| *sum += count);
    }
    total
}

/// The bin of the k-th largest key, and how many keys of that bin belong to the k largest.
fn boundary(histogram: &[u64], k: usize) -> (usize, usize) {
    let mut remaining = k;
    for (bin, &count) in histogram.iter().enumerate().rev() {
        match remaining.checked_sub(count as usize) {
            Some(after) if after > 0 => remaining = after,
            _ => return (bin, remaining),
        }
    }
    (0, remaining)
}

/// The mask words of a piece, each with the lanes that lie inside the segment.
#[inline(always)]
fn blocks(piece: &Piece) -> impl Iterator<Item = (usize, usize)> {
    let end = piece.range.end;
    piece.words().map(move |word| (word, (end - word * WORD_BITS).min(WORD_BITS)))
}

#[inline(always)]
fn count_upper<K: Keys>(keys: K, part: &[Piece]) -> Vec<u64> {
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
    lower_counts: Vec<u64>,
    /// Mask words with coordinates in the bin, and which.
    candidates: Vec<(usize, u64)>,
}

#[inline(always)]
fn mark_above<K: Keys>(keys: K, part: &[Piece], targets: &mut [&mut [u64]], upper: u32) -> Boundary {
    let mut boundary = Boundary { lower_counts: vec![0; LOWER_BINS], candidates: Vec::new() };
    for (piece, target) in part.iter().zip(targets) {
        for ((word, lanes), target) in blocks(piece).zip(target.iter_mut()) {
            let keys = keys.block(word);
            let inside = u64::MAX >> (WORD_BITS - lanes);
            *target |= bits(&keys, |key| key >> LOWER_BITS > upper) & inside;
            let candidates = bits(&keys, |key| key >> LOWER_BITS == upper) & inside;
            if candidates != 0 {
                boundary.candidates.push((word, candidates));
                for bit in set_bits(candidates) {
                    boundary.lower_counts[keys[bit as usize] as usize % LOWER_BINS] += 1;
                }
            }
        }
    }
    boundary
}

/// One bit per key. Comparisons become bytes of 0 or 1; a product gathers eight of them at a time.
#[inline(always)]
fn bits(keys: &[u32; WORD_BITS], predicate: impl Fn(u32) -> bool) -> u64 {
    let mut flags = [0_u8; WORD_BITS];
    for (flag, &key) in flags.iter_mut().zip(keys) {
        *flag = u8::from(predicate(key));
    }
    let mut word = 0;
    for (index, &byte_flags) in flags.as_chunks::<8>().0.iter().enumerate() {
        let gathered = u64::from_le_bytes(byte_flags).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        word |= gathered << (8 * index);
    }
    word
}

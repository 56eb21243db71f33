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
/// Pieces that are counted together at most: their coordinates fit the counters' 32 bits.
const PIECES_PER_PART: usize = (1 << 31) / super::CHUNK;
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
    /// Whether counting may pass over small keys. Not where NaN would be among them.
    fn small_keys_are_valid(self) -> bool;

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
    fn small_keys_are_valid(self) -> bool {
        self.flip == 0
    }

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
    fn small_keys_are_valid(self) -> bool {
        true
    }

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
    let pieces_per_part = pieces.len().div_ceil(4 * rayon::current_num_threads()).min(PIECES_PER_PART);

    let count_from = |lowest: u32| {
        let counts: Vec<Vec<u32>> = pieces
            .par_chunks(pieces_per_part)
            .map(|part| vectorize!(|| count_upper(keys, part, lowest)))
            .collect();
        total(counts.iter())
    };
    let mut upper_counts = count_from(guess_lowest(keys, pieces, k));
    if upper_counts.iter().sum::<u64>() < k as u64 {
        upper_counts = count_from(0);
    }
    check_histogram(&upper_counts)?;
    let (upper, rest) = boundary(&upper_counts, k);

    let mut targets = split_mut(words, pieces.iter().map(Piece::words));
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

/// Sums of histograms, bin by bin.
fn total<'a>(histograms: impl Iterator<Item = &'a Vec<u32>>) -> Vec<u64> {
    let mut total = Vec::new();
    for histogram in histograms {
        total.resize(histogram.len(), 0);
        total.iter_mut().zip(histogram).for_each(|(sum, &count)| *sum += u64::from(count));
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

/// A bin that the k-th key very likely lies in or above, from a sample; 0 where sampling does not pay.
///
/// Counting only the keys from there on is several times faster than counting all of them, since
/// whole vectors of smaller keys are passed over. A wrong guess shows in the total, and costs a second count.
fn guess_lowest<K: Keys>(keys: K, pieces: &[Piece], k: usize) -> u32 {
    /// One word in this many is sampled.
    const STRIDE: usize = 256;
    let available: usize = pieces.iter().map(|piece| piece.range.len()).sum();
    if !keys.small_keys_are_valid() || available < 1 << 20 || k > available / 4 {
        return 0;
    }
    let mut histogram = vec![0_u64; UPPER_BINS];
    let mut sampled = 0;
    for (word, lanes) in pieces.iter().flat_map(blocks).filter(|(word, _)| word % STRIDE == 0) {
        sampled += lanes;
        for &key in &keys.block(word)[..lanes] {
            histogram[(key >> LOWER_BITS) as usize] += 1;
        }
    }
    // A quarter more than the share expected, and many deviations where that share is small.
    let expected = k as f64 * sampled as f64 / available as f64;
    let wanted = (1.25 * expected + 10.0 * expected.sqrt()) as usize + 100;
    boundary(&histogram, wanted.min(sampled)).0 as u32
}

/// Counts the keys whose upper bits are at least `lowest` by their upper bits.
#[inline(always)]
fn count_upper<K: Keys>(keys: K, part: &[Piece], lowest: u32) -> Vec<u32> {
    let mut histogram = vec![0; UPPER_BINS];
    for (word, lanes) in part.iter().flat_map(blocks) {
        let keys = keys.block(word);
        if lowest == 0 {
            for &key in &keys[..lanes] {
                histogram[(key >> LOWER_BITS) as usize % UPPER_BINS] += 1;
            }
        } else {
            for bit in set_bits(at_least(&keys, lowest << LOWER_BITS) & inside(lanes)) {
                histogram[(keys[bit as usize] >> LOWER_BITS) as usize % UPPER_BINS] += 1;
            }
        }
    }
    histogram
}

/// The bits of the first `lanes` coordinates of a word.
#[inline(always)]
fn inside(lanes: usize) -> u64 {
    u64::MAX >> (WORD_BITS - lanes)
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

/// The bits of the keys that are at least `bound`. Comparisons become bytes of 0 or 1, eight of which
/// a product gathers at a time; most words have no such key and are passed over before that.
#[inline(always)]
fn at_least(keys: &[u32; WORD_BITS], bound: u32) -> u64 {
    if keys.iter().fold(0, |largest, &key| largest.max(key)) < bound {
        return 0;
    }
    let mut flags = [0_u8; WORD_BITS];
    for (flag, &key) in flags.iter_mut().zip(keys) {
        *flag = u8::from(key >= bound);
    }
    let mut word = 0;
    for (index, &byte_flags) in flags.as_chunks::<8>().0.iter().enumerate() {
        let gathered = u64::from_le_bytes(byte_flags).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        word |= gathered << (8 * index);
    }
    word
}

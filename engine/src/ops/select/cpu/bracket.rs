//! One pass: everything above a bracket of the k-th key is marked, what lies in the bracket is collected
//! and then settled.

use std::ops::Range;

use rayon::prelude::*;

use super::super::CHUNK;
use super::{
    INFINITY, Keys, LANES, LOWER_BITS, NotANumber, UPPER_BINS, Work, at_least, blocks, boundary, inside,
};
use crate::cpu::pieces::Piece;
use crate::cpu::simd::vectorize;
use crate::mask::{WORD_BITS, set_bits};

/// Fewer coordinates are not sampled.
const SAMPLED_FROM: usize = 1 << 18;
/// Of one mask word in this many some elements are sampled.
const SAMPLED_WORDS: usize = 64;
/// Share of the coordinates in the bracket beyond which it does not pay.
const MOST_CANDIDATES: f64 = 0.125;

/// Keys between which the k-th very likely lies, from a sample; `None` where sampling does not pay, or too
/// many keys lie between them, as where many are equal.
pub(super) fn sample_bracket<K: Keys>(keys: K, pieces: &[Piece], k: usize) -> Option<Range<u32>> {
    let available: usize = pieces.iter().map(|piece| piece.range.len()).sum();
    if available < SAMPLED_FROM {
        return None;
    }
    // Copied first, so that many reads are under way at once.
    let mut sample = Vec::with_capacity(available / SAMPLED_WORDS);
    for lanes in pieces.iter().flat_map(sampled_lanes) {
        sample.extend_from_slice(&keys.group(lanes.start)[..lanes.len()]);
    }
    let sampled = sample.len();
    if sampled < available / (16 * SAMPLED_WORDS) {
        return None;
    }
    let mut histogram = vec![0_u64; UPPER_BINS];
    sample.iter().for_each(|key| histogram[(key >> LOWER_BITS) as usize] += 1);
    // Many deviations, because neighbours in a tensor are alike.
    let expected = k as f64 * sampled as f64 / available as f64;
    let margin = 12.0 * expected.sqrt() + 16.0;
    let lowest = boundary(&histogram, ((expected + margin) as usize).clamp(1, sampled)).0;
    // Of the upper end the whole bin is in the bracket; nothing lies above the last.
    let highest =
        if expected > margin { boundary(&histogram, (expected - margin) as usize).0 + 1 } else { UPPER_BINS };
    let in_bracket: u64 = histogram[lowest..highest].iter().sum();
    let lowest = if expected + margin < sampled as f64 { lowest } else { 0 };
    let crowded = in_bracket as f64 > sampled as f64 * MOST_CANDIDATES;
    (!crowded).then_some((lowest as u32) << LOWER_BITS..(highest as u32) << LOWER_BITS)
}

/// The sampled elements of a piece: sixteen neighbours, a line of the cache, in one word of every
/// [`SAMPLED_WORDS`]. Which is left to a hash, so that no column of a matrix is sampled alone.
pub(super) fn sampled_lanes(piece: &Piece) -> impl Iterator<Item = Range<usize>> {
    let words = piece.words();
    let end = piece.range.end;
    (words.start / SAMPLED_WORDS..words.end.div_ceil(SAMPLED_WORDS)).filter_map(move |window| {
        let hash = (window as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let word = window * SAMPLED_WORDS + hash as usize % SAMPLED_WORDS;
        let start = word * WORD_BITS + (hash as usize / SAMPLED_WORDS) % (WORD_BITS / LANES) * LANES;
        (words.contains(&word) && start < end).then(|| start..(start + LANES).min(end))
    })
}

impl<K: Keys> Work<'_, '_, K> {
    /// In one pass, given a bracket of the k-th key; `None` where it does not hold that key, or too much.
    pub(super) fn mark_by_bracket(
        &mut self,
        bracket: &Range<u32>,
        find_nan: impl Fn() -> Result<(), NotANumber>,
    ) -> Result<Option<u32>, NotANumber> {
        let Self { keys, pieces, k, pieces_per_part, .. } = *self;
        let mut parts: Vec<InBracket> = pieces
            .par_chunks(pieces_per_part)
            .zip(self.targets.par_chunks_mut(pieces_per_part))
            .map(|(part, targets)| vectorize!(|| mark_above_bracket(keys, part, targets, bracket)))
            .collect();
        if parts.iter().any(|part| part.largest_magnitude > INFINITY) {
            find_nan()?;
        }
        let above: usize = parts.iter().map(|part| part.above).sum();
        let candidates: usize = parts.iter().map(|part| part.keys.len()).sum();
        if parts.iter().any(|part| part.overflown) || k <= above || k > above + candidates {
            return Ok(None);
        }
        let mut candidates: Vec<u32> = parts.iter().flat_map(|part| &part.keys).copied().collect();
        let wanted = k - above;
        let first_wanted = candidates.len() - wanted;
        let (_, &mut threshold, larger) = candidates.select_nth_unstable(first_wanted);
        let mut ties = wanted - larger.iter().filter(|&&key| key > threshold).count();
        for part in &mut parts {
            part.ties = part.keys.iter().filter(|&&key| key == threshold).count().min(ties);
            ties -= part.ties;
        }
        let settle = parts.into_par_iter().zip(self.targets.par_chunks_mut(pieces_per_part));
        settle.for_each(|(part, targets)| part.mark(targets, threshold));
        Ok(Some(threshold))
    }
}

/// What one part of the pieces holds in the bracket.
struct InBracket {
    /// How many coordinates lie above it, all of them marked.
    above: usize,
    /// Mask words with coordinates in the bracket, as piece of the part, word of the piece, and bits.
    candidates: Vec<(u32, u32, u64)>,
    /// The keys of these coordinates, in order.
    keys: Vec<u32>,
    /// More candidates than were to be expected: the rest of the part was not looked at.
    overflown: bool,
    /// The largest |score| of the part, as its bits.
    largest_magnitude: u32,
    /// How many coordinates of the part that equal the k-th key are among the k.
    ties: usize,
}

impl InBracket {
    /// Settles the coordinates of the bracket: those above the k-th key, and the first of its equals.
    fn mark(&self, targets: &mut [&mut [u64]], threshold: u32) {
        let mut ties = self.ties;
        let mut keys = self.keys.iter();
        for &(piece, word, candidates) in &self.candidates {
            for (bit, &key) in set_bits(candidates).zip(&mut keys) {
                let tie = key == threshold && ties > 0;
                ties -= usize::from(tie);
                targets[piece as usize][word as usize] |= u64::from(key > threshold || tie) << bit;
            }
        }
    }
}

#[inline(always)]
fn mark_above_bracket<K: Keys>(
    keys: K,
    part: &[Piece],
    targets: &mut [&mut [u64]],
    bracket: &Range<u32>,
) -> InBracket {
    let elements: usize = part.iter().map(|piece| piece.range.len()).sum();
    let most_candidates = ((elements as f64 * MOST_CANDIDATES) as usize).max(CHUNK);
    let mut found = InBracket {
        above: 0,
        candidates: Vec::new(),
        keys: Vec::new(),
        overflown: false,
        largest_magnitude: 0,
        ties: 0,
    };
    let mut candidates_of_piece = [0; CHUNK / WORD_BITS];
    for (piece_index, (piece, target)) in (0..).zip(part.iter().zip(targets)) {
        let candidates = &mut candidates_of_piece[..target.len()];
        found.largest_magnitude =
            found.largest_magnitude.max(compare_piece(keys, piece, bracket, target, candidates));
        for (word_index, ((word, _), &mut candidates)) in (0..).zip(blocks(piece).zip(candidates)) {
            if candidates != 0 {
                found.candidates.push((piece_index, word_index, candidates));
                // The scores are still in the cache.
                for bit in set_bits(candidates).map(|bit| bit as usize) {
                    let group = keys.group(word * WORD_BITS + bit / LANES * LANES);
                    found.keys.push(group[bit % LANES]);
                }
            }
        }
        found.above += target.iter().map(|word| word.count_ones() as usize).sum::<usize>();
        if found.keys.len() > most_candidates {
            found.overflown = true;
            break;
        }
    }
    found
}

/// Writes the bits of a piece's keys above the bracket to `above` and those in it to `candidates`; returns
/// the largest |score|. Without branches, since whether a word has such bits is like the toss of a coin.
#[inline(always)]
fn compare_piece<K: Keys>(
    keys: K,
    piece: &Piece,
    bracket: &Range<u32>,
    above: &mut [u64],
    candidates: &mut [u64],
) -> u32 {
    let mut largest_magnitudes = [0_u32; LANES];
    for ((word, lanes), (above, candidates)) in blocks(piece).zip(above.iter_mut().zip(candidates)) {
        let block = keys.block(word);
        for group in block.as_chunks::<LANES>().0 {
            for lane in 0..LANES {
                largest_magnitudes[lane] = largest_magnitudes[lane].max(keys.magnitude(group[lane]));
            }
        }
        *above = at_least(&block, bracket.end) & inside(lanes);
        *candidates = at_least(&block, bracket.start) & inside(lanes) & !*above;
    }
    largest_magnitudes.into_iter().fold(0, u32::max)
}

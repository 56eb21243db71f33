//! CPU: in two passes over the keys, see [`counting`].

mod counting;
#[cfg(test)]
mod tests;

use super::Order;
use crate::cpu::pieces::{Piece, split_mut};
use crate::mask::WORD_BITS;
use crate::random;

/// A key has 31 bits: f32 without the sign. The upper 15 (exponent and 7 bits of the mantissa) make
/// a histogram whose busy part stays in the first-level cache; the other 16 refine one of its bins.
const LOWER_BITS: u32 = 16;
const UPPER_BINS: usize = 1 << 15;
/// Keys that are compared side by side.
const LANES: usize = 16;
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

/// Sets the bits of the `k` first coordinates (1 ≤ k ≤ number of coordinates in the pieces). The pieces'
/// words are empty before.
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
            mark_keys(Hashes { seed }, pieces, k, words, || Ok(()))?;
            return Ok(None);
        }
    };
    let key = mark_keys(Magnitudes { scores, flip }, pieces, k, words, || find_nan(scores, pieces))?;
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
    /// The |score| of a key, for finding NaN; 0 where there are no scores.
    fn magnitude(self, key: u32) -> u32;

    /// The keys of so many coordinates from `start` on, a multiple of their number. Of those beyond the
    /// segment's end nothing is used.
    fn group(self, start: usize) -> [u32; LANES];

    /// The keys of one mask word's coordinates.
    #[inline(always)]
    fn block(self, word: usize) -> [u32; WORD_BITS] {
        let mut block = [0; WORD_BITS];
        for (index, group) in block.as_chunks_mut().0.iter_mut().enumerate() {
            *group = self.group(word * WORD_BITS + index * LANES);
        }
        block
    }
}

/// |score| as its bits, or the complement of it for the smallest first.
#[derive(Clone, Copy)]
struct Magnitudes<'a> {
    scores: &'a [f32],
    flip: u32,
}

impl Keys for Magnitudes<'_> {
    #[inline(always)]
    fn magnitude(self, key: u32) -> u32 {
        key ^ self.flip
    }

    #[inline(always)]
    fn group(self, start: usize) -> [u32; LANES] {
        let scores = &self.scores[start..][..LANES];
        let mut keys = [0; LANES];
        for lane in 0..LANES {
            keys[lane] = (scores[lane].to_bits() & MAGNITUDE) ^ self.flip;
        }
        keys
    }
}

/// A hash of seed and coordinate.
#[derive(Clone, Copy)]
struct Hashes {
    seed: u64,
}

impl Keys for Hashes {
    #[inline(always)]
    fn magnitude(self, _: u32) -> u32 {
        0
    }

    #[inline(always)]
    fn group(self, first: usize) -> [u32; LANES] {
        let start = random::mix(self.seed);
        let mut keys = [0; LANES];
        for (index, key) in (first as u64..).zip(&mut keys) {
            *key = (random::at(start, index) >> 33) as u32;
        }
        keys
    }
}

/// Sets the bits of the `k` largest keys, ties to the lower index; returns the k-th. `find_nan` is asked
/// where a key may be that of NaN.
fn mark_keys<K: Keys>(
    keys: K,
    pieces: &[Piece],
    k: usize,
    words: &mut [u64],
    find_nan: impl Fn() -> Result<(), NotANumber>,
) -> Result<u32, NotANumber> {
    // A few parts per thread even out their speed. Counts are integers: the division does not show.
    let pieces_per_part = pieces.len().div_ceil(4 * rayon::current_num_threads()).min(PIECES_PER_PART);
    let mut targets = split_mut(words, pieces.iter().map(Piece::words));
    Work { keys, pieces, targets: &mut targets, k, pieces_per_part }.mark_by_counting(find_nan)
}

/// What is selected, and from what. `targets` are the mask words of the pieces.
struct Work<'a, 'b, K> {
    keys: K,
    pieces: &'a [Piece],
    targets: &'a mut [&'b mut [u64]],
    k: usize,
    pieces_per_part: usize,
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

/// The bits of the first `lanes` coordinates of a word.
#[inline(always)]
fn inside(lanes: usize) -> u64 {
    u64::MAX >> (WORD_BITS - lanes)
}

/// The bits of the keys that are at least `bound`. Each lane of a vector collects its bits of four groups
/// of keys; lanes are then joined.
#[inline(always)]
fn at_least(keys: &[u32; WORD_BITS], bound: u32) -> u64 {
    let mut halves = [[0_u32; LANES]; 2];
    for (group, keys) in keys.as_chunks::<LANES>().0.iter().enumerate() {
        for lane in 0..LANES {
            halves[group / 2][lane] |= u32::from(keys[lane] >= bound) << (group % 2 * LANES + lane);
        }
    }
    let [lower, upper] = halves.map(|lanes| u64::from(lanes.into_iter().fold(0, |all, lane| all | lane)));
    lower | upper << 32
}

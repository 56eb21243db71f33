//! Exact selection of the k largest keys of 31 bits, by radix: histograms, a threshold, marks.
//!
//! Keys are |score| as its bits, or the complement of it for the smallest first; or hashes of the index. The
//! selection goes over *pieces*: piece p is `lengths[p]` elements from `starts[p]` on, a multiple of 32; no two
//! pieces have an element or a word of the mask in common, and none is longer than 2^31. Element j is bit j % 32 of word j / 32.
//!
//! 1. `select_count_…`, once for each of [`DIGITS`] from the highest: how many keys have which digit, among
//!    those that agree with the k-th key in the digits above. The host finds the k-th key's digit in that.
//! 2. `select_mark_…` sets the bits of the keys above the k-th, and counts its equals, piece by piece.
//! 3. `select_ties_…` sets the bits of the first equals of each piece, as many as the host says.
//!
//! One block works on one piece. Counts are integers, so that their order does not matter; the rest has one
//! order. Each step reads 4 B per element (hashes: nothing); the mask is 1/8 B.

use crate::simt::*;

/// Threads of a block.
const BLOCK: u32 = 256;
/// Warps of a block.
const WARPS: u32 = BLOCK / WARP;
/// Copies of a histogram in shared memory: keys are much alike, and equal ones wait for each other.
const COPIES: u32 = 4;
/// Words of the mask that a warp makes at a time.
const WORDS: usize = 4;
/// Elements of them.
const GROUP: u32 = WORDS as u32 * WARP;

/// Lowest bit and number of values of every digit of a key, from the highest.
pub const DIGITS: [(u32, u32); 3] = [(20, 1 << 11), (10, 1 << 10), (0, 1 << 10)];
/// The bits of a score that a key is made of.
pub const MAGNITUDE: u32 = 0x7fff_ffff;
/// The magnitude of infinity; larger ones are NaN.
pub const INFINITY: u32 = 0x7f80_0000;

/// Keys of 31 bits of every element.
trait Keys: Copy {
    /// That of element `index`.
    fn key(self, index: usize) -> u32;
}

/// |score| as its bits, with those of `flip` inverted.
#[derive(Clone, Copy)]
struct Magnitudes {
    scores: Global<f32>,
    flip: u32,
}

impl Keys for Magnitudes {
    #[inline(always)]
    fn key(self, index: usize) -> u32 {
        (self.scores.load(index).to_bits() & MAGNITUDE) ^ self.flip
    }
}

/// A hash of seed and index: the finaliser of SplitMix64 over a Weyl sequence.
#[derive(Clone, Copy)]
struct Hashes {
    seed: u64,
}

impl Keys for Hashes {
    #[inline(always)]
    fn key(self, index: usize) -> u32 {
        let weyl = (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mix(mix(self.seed).wrapping_add(weyl)) >> 33) as u32
    }
}

#[inline(always)]
fn mix(mut state: u64) -> u64 {
    state = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ state >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ state >> 31
}

/// The piece of this block.
#[derive(Clone, Copy)]
struct Piece {
    start: usize,
    length: u32,
}

impl Piece {
    #[inline(always)]
    fn new(starts: Global<u64>, lengths: Global<u32>) -> Self {
        let piece = block_idx() as usize;
        Self { start: starts.load(piece) as usize, length: lengths.load(piece) }
    }

    /// This lane's keys in the words from element `first` of the piece on, one a word; `None` outside.
    #[inline(always)]
    fn keys<K: Keys>(self, keys: K, first: u32) -> [Option<u32>; WORDS] {
        let mut group = [None; WORDS];
        unroll!(word in WORDS {
            let index = first + word as u32 * WARP + lane_id();
            if index < self.length {
                group[word] = Some(keys.key(self.start + index as usize));
            }
        });
        group
    }

    /// Where in the mask lane `word` finds word `word` from element `first` of the piece on, if it has one.
    #[inline(always)]
    fn word(self, first: u32) -> Option<usize> {
        let first = first + lane_id() * WARP;
        let has_one = lane_id() < WORDS as u32 && first < self.length;
        if has_one { Some((self.start + first as usize) / WARP as usize) } else { None }
    }

    /// Adds the digits of the keys to the counts: `key >> shift` minus `lowest`, where that is below `bins`.
    #[inline(always)]
    fn count<K: Keys>(self, keys: K, shift: u32, lowest: u32, bins: u32, counts: GlobalMut<u64>) {
        let copies = Shared::<u32>::new(0, COPIES * bins);
        let mut slot = thread_idx();
        while slot < COPIES * bins {
            copies.store(slot, 0);
            slot += BLOCK;
        }
        sync_threads();
        let mut first = warp_id() * GROUP;
        while first < self.length {
            let group = self.keys(keys, first);
            unroll!(word in WORDS {
                if let Some(key) = group[word] {
                    let digit = (key >> shift).wrapping_sub(lowest);
                    if digit < bins {
                        copies.atomic_add(digit * COPIES + lane_id() % COPIES, 1);
                    }
                }
            });
            first += BLOCK * WORDS as u32;
        }
        sync_threads();
        let mut bin = thread_idx();
        while bin < bins {
            let mut count = 0;
            for copy in 0..COPIES {
                count += copies.load(bin * COPIES + copy);
            }
            if count > 0 {
                counts.atomic_add(bin as usize, u64::from(count));
            }
            bin += BLOCK;
        }
    }

    /// Writes the piece's words: the keys above the threshold. Notes how many are equal to it.
    #[inline(always)]
    fn mark<K: Keys>(self, keys: K, threshold: u32, words: GlobalMut<u32>, equals: GlobalMut<u32>) {
        let mut equal = 0;
        let mut first = warp_id() * GROUP;
        while first < self.length {
            let group = self.keys(keys, first);
            let mut own = 0;
            unroll!(word in WORDS {
                let above = ballot(group[word].is_some_and(|key| key > threshold));
                equal += ballot(group[word] == Some(threshold)).count_ones();
                if lane_id() == word as u32 {
                    own = above;
                }
            });
            if let Some(index) = self.word(first) {
                words.store(index, own);
            }
            first += BLOCK * WORDS as u32;
        }
        let sums = Shared::<u32>::new(0, WARPS);
        if lane_id() == 0 {
            sums.store(warp_id(), equal);
        }
        sync_threads();
        if thread_idx() == 0 {
            let mut total = 0;
            for warp in 0..WARPS {
                total += sums.load(warp);
            }
            equals.store(block_idx() as usize, total);
        }
    }

    /// Sets the bits of the first `take` keys that are equal to the threshold.
    #[inline(always)]
    fn mark_ties<K: Keys>(self, keys: K, threshold: u32, take: u32, words: GlobalMut<u32>) {
        // Two halves in turn, so that one barrier a round is enough.
        let counts = Shared::<u32>::new(0, 2 * WARPS);
        let (mut half, mut before, mut round) = (0, 0, 0);
        while round < self.length && before < take {
            let first = round + warp_id() * GROUP;
            let group = self.keys(keys, first);
            let (mut equal, mut ranks) = ([0; WORDS], [0; WORDS]);
            let mut count = 0;
            unroll!(word in WORDS {
                equal[word] = ballot(group[word] == Some(threshold));
                ranks[word] = count;
                count += equal[word].count_ones();
            });
            if lane_id() == 0 {
                counts.store(half + warp_id(), count);
            }
            sync_threads();
            let mut rank = before;
            for warp in 0..WARPS {
                let count = counts.load(half + warp);
                before += count;
                if warp < warp_id() {
                    rank += count;
                }
            }
            let below = (1 << lane_id()) - 1;
            let mut own = 0;
            unroll!(word in WORDS {
                let is_equal = equal[word] >> lane_id() & 1 == 1;
                let rank = rank + ranks[word] + (equal[word] & below).count_ones();
                let taken = ballot(is_equal && rank < take);
                if lane_id() == word as u32 {
                    own = taken;
                }
            });
            if let Some(index) = self.word(first)
                && own != 0
            {
                words.store(index, words.load(index) | own);
            }
            half = WARPS - half;
            round += BLOCK * WORDS as u32;
        }
    }
}

/// `$count` elements, and what else the keys are made of.
macro_rules! select {
    (
        $count_keys:ident, $mark:ident, $mark_ties:ident, $count:ident, $keys:expr,
        ($($parameter:ident: $direction:ident $element:ident $([$length:expr])?),*)
    ) => {
        kernel! {
            /// counts[d] += number of keys with `key >> shift` = lowest + d, for d < bins.
            ///
            /// Shared memory: 4 histograms. Every thread reaches both barriers. Counts are added atomically.
            pub fn $count_keys { block: BLOCK, grid: pieces, shared: 4 * u64::from(COPIES) * bins } (
                $($parameter: $direction $element $([$length])?,)*
                starts: read u64 [pieces],
                lengths: read u32 [pieces],
                counts: update u64 [bins],
                pieces: scalar u32,
                shift: scalar u32,
                lowest: scalar u32,
                bins: scalar u32,
            ) requires { shift < 32, bins > 0, bins <= 1 << 11 } {
                let _ = $count;
                Piece::new(starts, lengths).count($keys, shift, lowest, bins, counts);
            }
        }

        kernel! {
            /// Writes the words of every piece: bits of the keys above the threshold, and zeros. equals[p] =
            /// number of keys of piece p equal to it.
            ///
            /// A warp owns whole words. Every thread reaches the barrier and, of a warp, every ballot.
            pub fn $mark { block: BLOCK, grid: pieces, shared: 4 * u64::from(WARPS) } (
                $($parameter: $direction $element $([$length])?,)*
                starts: read u64 [pieces],
                lengths: read u32 [pieces],
                words: update u32 [$count.div_ceil(u64::from(WARP))],
                equals: write u32 [pieces],
                pieces: scalar u32,
                threshold: scalar u32,
            ) {
                let _ = $count;
                Piece::new(starts, lengths).mark($keys, threshold, words, equals);
            }
        }

        kernel! {
            /// Sets the bits of the first takes[p] keys of piece p that are equal to the threshold.
            ///
            /// Pieces that take none are not read. All threads of a block agree on every round, so that they
            /// reach its barrier and ballots. Ranks are a prefix over lanes, words and warps.
            pub fn $mark_ties { block: BLOCK, grid: pieces, shared: 8 * u64::from(WARPS) } (
                $($parameter: $direction $element $([$length])?,)*
                starts: read u64 [pieces],
                lengths: read u32 [pieces],
                takes: read u32 [pieces],
                words: update u32 [$count.div_ceil(u64::from(WARP))],
                pieces: scalar u32,
                threshold: scalar u32,
            ) {
                let _ = $count;
                let take = takes.load(block_idx() as usize);
                Piece::new(starts, lengths).mark_ties($keys, threshold, take, words);
            }
        }
    };
}
select!(
    select_count_scores,
    select_mark_scores,
    select_ties_scores,
    count,
    Magnitudes { scores, flip },
    (scores: read f32 [count], count: scalar u64, flip: scalar u32)
);
select!(
    select_count_hashes,
    select_mark_hashes,
    select_ties_hashes,
    count,
    Hashes { seed },
    (count: scalar u64, seed: scalar u64)
);

kernel! {
    /// found[p] = index in piece p of its first NaN, or `u32::MAX` where it has none.
    ///
    /// Every thread reaches the barrier and shuffles. Reads 4 B per element.
    pub fn select_find_nan { block: BLOCK, grid: pieces, shared: 4 * u64::from(WARPS) } (
        scores: read f32 [count],
        count: scalar u64,
        starts: read u64 [pieces],
        lengths: read u32 [pieces],
        found: write u32 [pieces],
        pieces: scalar u32,
    ) {
        let _ = count;
        let piece = Piece::new(starts, lengths);
        let keys = Magnitudes { scores, flip: 0 };
        let (mut lowest, mut index) = (u32::MAX, thread_idx());
        while index < piece.length && lowest == u32::MAX {
            if keys.key(piece.start + index as usize) > INFINITY {
                lowest = index;
            }
            index += BLOCK;
        }
        let mut distance = WARP / 2;
        while distance > 0 {
            lowest = lowest.min(shuffle_xor(lowest, distance));
            distance /= 2;
        }
        let warps = Shared::<u32>::new(0, WARPS);
        if lane_id() == 0 {
            warps.store(warp_id(), lowest);
        }
        sync_threads();
        if thread_idx() == 0 {
            for warp in 0..WARPS {
                lowest = lowest.min(warps.load(warp));
            }
            found.store(block_idx() as usize, lowest);
        }
    }
}

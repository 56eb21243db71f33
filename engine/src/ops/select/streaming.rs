//! The same selection for scores that never are in memory together: they come a tile at a time, twice to find the k-th
//! largest magnitude, once more to mark what is selected.
//!
//! A [`Tally`] counts in one reading, any number of them side by side: counts are integers, so the division between
//! them does not show.

use crate::buffer::View;
use crate::cpu::simd::vectorize;
use crate::device::Device;
use crate::error::{Result, check_length};
use crate::layout::Layout;
use crate::mask::{Mask, WORD_BITS, set_bits};

/// A key has 31 bits, f32 without the sign; the lower ones refine a bin of the upper ones.
const LOWER_BITS: u32 = 16;
const UPPER_BINS: usize = 1 << 15;
const LOWER_BINS: usize = 1 << LOWER_BITS;
const MAGNITUDE: u32 = 0x7fff_ffff;

/// Counts of magnitudes by the upper bits of their keys, or of those in one such bin by the lower bits.
#[derive(Debug, Clone)]
pub struct Tally {
    counts: Vec<u64>,
    bin: Option<u32>,
}

/// Where the k-th largest magnitude lies: what a first reading tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bin {
    /// Upper bits of its key.
    bin: u32,
    /// Which it is, from the largest of the bin on.
    rank: u64,
}

/// The k-th largest magnitude.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Threshold {
    /// All above it are among the k largest.
    pub magnitude: f32,
    /// So many of those equal to it are.
    pub ties: u64,
    /// So many are equal to it.
    pub equal: u64,
}

impl Tally {
    /// For a first reading.
    pub fn first() -> Self {
        Self { counts: vec![0; UPPER_BINS], bin: None }
    }

    /// For a second one.
    pub fn second(bin: Bin) -> Self {
        Self { counts: vec![0; LOWER_BINS], bin: Some(bin.bin) }
    }

    /// Counts scores by their magnitudes.
    pub fn add(&mut self, scores: &[f32]) {
        let counts = self.counts.as_mut_slice();
        match self.bin {
            None => {
                for score in scores {
                    let key = score.to_bits() & MAGNITUDE;
                    counts[(key >> LOWER_BITS) as usize % UPPER_BINS] += 1;
                }
            }
            Some(bin) => {
                for scores in scores.chunks(WORD_BITS) {
                    for index in set_bits(vectorize!(|| in_bin(scores, bin))) {
                        let key = scores[index as usize].to_bits() & MAGNITUDE;
                        counts[key as usize % LOWER_BINS] += 1;
                    }
                }
            }
        }
    }

    /// Adds what another one counted in the same reading.
    pub fn join(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, other)| *count += other);
    }

    /// After a first reading: where the k-th largest lies. `k` is from 1 to the number of scores.
    pub fn bin(&self, k: u64) -> Bin {
        let (bin, rank) = self.find(k);
        Bin { bin: bin as u32, rank }
    }

    /// After a second reading: the k-th largest.
    pub fn threshold(&self, bin: Bin) -> Threshold {
        let (lower, ties) = self.find(bin.rank);
        let magnitude = f32::from_bits(bin.bin << LOWER_BITS | lower as u32);
        Threshold { magnitude, ties, equal: self.counts[lower] }
    }

    fn find(&self, rank: u64) -> (usize, u64) {
        let mut remaining = rank;
        for (bin, &count) in self.counts.iter().enumerate().rev() {
            match remaining.checked_sub(count) {
                Some(after) if after > 0 => remaining = after,
                _ => return (bin, remaining),
            }
        }
        (0, remaining)
    }
}

#[inline(always)]
fn in_bin(scores: &[f32], bin: u32) -> u64 {
    let bit =
        |(lane, score): (usize, &f32)| u64::from((score.to_bits() & MAGNITUDE) >> LOWER_BITS == bin) << lane;
    scores.iter().enumerate().map(bit).fold(0, |word, bit| word | bit)
}

/// How many scores have this magnitude.
pub fn count_equal(scores: &[f32], magnitude: f32) -> u64 {
    vectorize!(|| scores.iter().map(|score| u32::from(score.abs() == magnitude)).sum::<u32>()).into()
}

/// Bits of the scores above a magnitude and of the first `ties` that are equal to it; what is left of `ties`. Bits
/// behind the last score are 0.
pub fn mark_largest(scores: &[f32], magnitude: f32, mut ties: u64, words: &mut [u64]) -> u64 {
    for (scores, word) in scores.chunks(WORD_BITS).zip(words) {
        let (above, equal) = vectorize!(|| compare(scores, magnitude));
        *word = above;
        take_ties(word, equal, &mut ties);
    }
    ties
}

/// Bits of the scores above a magnitude, and of those equal to it: for whoever learns only later which of these to take.
pub fn mark_above_and_equal(scores: &[f32], magnitude: f32) -> (Vec<u64>, Vec<u64>) {
    scores.chunks(WORD_BITS).map(|scores| vectorize!(|| compare(scores, magnitude))).unzip()
}

/// Adds the first `ties` bits of `equal` to a word, as many as there are; `ties` counts down.
pub fn take_ties(word: &mut u64, equal: u64, ties: &mut u64) {
    let count = u64::from(equal.count_ones());
    if count <= *ties {
        *word |= equal;
        *ties -= count;
    } else if *ties > 0 {
        set_bits(equal).take(*ties as usize).for_each(|bit| *word |= 1 << bit);
        *ties = 0;
    }
}

/// The scores of a layout above a magnitude and the first `ties` that are equal to it, which count down: one after the
/// other the layouts of a model's parts have the k largest of all.
///
/// # Errors
/// Lengths that differ, or when the device has failed.
pub fn mask_largest(
    device: &Device,
    layout: &Layout,
    scores: View<'_, f32>,
    magnitude: f32,
    ties: &mut u64,
) -> Result<Mask> {
    check_length("select", "scores", scores.len(), layout.len())?;
    let mut mask = Mask::zeros(layout.len());
    let of_gpu;
    let scores = match device {
        Device::Cpu(_) => scores.host(),
        Device::Gpu(_) => {
            of_gpu = scores.to_vec()?;
            &of_gpu
        }
    };
    let words = mask.words_mut();
    for segment in layout.segments() {
        let range = segment.range();
        *ties = mark_largest(&scores[range.clone()], magnitude, *ties, &mut words[range.start / WORD_BITS..]);
    }
    Ok(mask)
}

#[inline(always)]
fn compare(scores: &[f32], magnitude: f32) -> (u64, u64) {
    let (mut above, mut equal) = (0, 0);
    for (lane, score) in scores.iter().enumerate() {
        above |= u64::from(score.abs() > magnitude) << lane;
        equal |= u64::from(score.abs() == magnitude) << lane;
    }
    (above, equal)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In one piece or many, the k largest by magnitude, ties to the lower index.
    #[test]
    fn tiles_select_what_sorting_would() {
        let scores: Vec<f32> =
            (0..1000_u32).map(|index| ((index * 37 % 101) as f32 - 50.0) * 0.25).chain([0.0, -0.0]).collect();
        for k in [1, 7, 100, 555, 1001, 1002] {
            let mut order: Vec<usize> = (0..scores.len()).collect();
            order.sort_by(|&a, &b| scores[b].abs().total_cmp(&scores[a].abs()));
            let mut expected: Vec<usize> = order[..k].to_vec();
            expected.sort_unstable();

            let mut first = Tally::first();
            for tile in scores.chunks(129) {
                let mut part = Tally::first();
                part.add(tile);
                first.join(&part);
            }
            let bin = first.bin(k as u64);
            let mut second = Tally::second(bin);
            scores.chunks(77).for_each(|tile| second.add(tile));
            let threshold = second.threshold(bin);
            let equal: u64 = scores.chunks(100).map(|tile| count_equal(tile, threshold.magnitude)).sum();
            assert_eq!(equal, threshold.equal);
            let (mut ties, mut selected) = (threshold.ties, Vec::new());
            for (number, tile) in scores.chunks(2 * WORD_BITS).enumerate() {
                let mut words = [u64::MAX; 2];
                ties = mark_largest(tile, threshold.magnitude, ties, &mut words);
                for (word, bits) in words.into_iter().enumerate().take(tile.len().div_ceil(WORD_BITS)) {
                    selected.extend(set_bits(bits).map(|bit| (2 * number + word) * WORD_BITS + bit as usize));
                }
            }
            assert_eq!(ties, 0);
            assert_eq!(selected, expected, "k = {k}");
        }
    }
}

//! Selection kernels, driven as a host drives them, against sorting.

use crate::common::*;
use cpift_kernels::emulator::Emulator;
use cpift_kernels::select::*;

/// Starts and lengths: one element, ragged words, several rounds of a block, and a gap.
const PIECES: [(u64, u32); 5] = [(0, 1), (64, 100), (192, 2500), (2752, 31), (2816, 1056)];
const COUNT: usize = 3900;

/// Which keys.
#[derive(Clone, Copy)]
enum Order {
    Magnitudes { flip: u32 },
    Hashes { seed: u64 },
}

struct Device<'a> {
    emulator: &'a Emulator,
    scores: &'a [f32],
    order: Order,
    starts: Vec<u64>,
    lengths: Vec<u32>,
}

impl Device<'_> {
    fn count(&self, shift: u32, lowest: u32, bins: u32) -> Vec<u64> {
        let mut counts = vec![0; bins as usize];
        let (starts, lengths) = (slice(&self.starts), slice(&self.lengths));
        let (count, pieces) = (COUNT as u64, self.starts.len() as u32);
        let (scores, target) = (slice(self.scores), slice_mut(&mut counts));
        match self.order {
            Order::Magnitudes { flip } => select_count_scores(
                self.emulator,
                scores,
                count,
                flip,
                starts,
                lengths,
                target,
                pieces,
                shift,
                lowest,
                bins,
            ),
            Order::Hashes { seed } => select_count_hashes(
                self.emulator,
                count,
                seed,
                starts,
                lengths,
                target,
                pieces,
                shift,
                lowest,
                bins,
            ),
        }
        .unwrap();
        counts
    }

    fn mark(&self, words: &mut [u32], threshold: u32) -> Vec<u32> {
        let mut equals = vec![u32::MAX; self.starts.len()];
        let (starts, lengths) = (slice(&self.starts), slice(&self.lengths));
        let (count, pieces) = (COUNT as u64, self.starts.len() as u32);
        let (scores, words, target) = (slice(self.scores), slice_mut(words), slice_mut(&mut equals));
        match self.order {
            Order::Magnitudes { flip } => select_mark_scores(
                self.emulator,
                scores,
                count,
                flip,
                starts,
                lengths,
                words,
                target,
                pieces,
                threshold,
            ),
            Order::Hashes { seed } => select_mark_hashes(
                self.emulator,
                count,
                seed,
                starts,
                lengths,
                words,
                target,
                pieces,
                threshold,
            ),
        }
        .unwrap();
        equals
    }

    fn mark_ties(&self, words: &mut [u32], threshold: u32, takes: &[u32]) {
        let (starts, lengths) = (slice(&self.starts), slice(&self.lengths));
        let (count, pieces) = (COUNT as u64, self.starts.len() as u32);
        let (scores, words, takes) = (slice(self.scores), slice_mut(words), slice(takes));
        match self.order {
            Order::Magnitudes { flip } => select_ties_scores(
                self.emulator,
                scores,
                count,
                flip,
                starts,
                lengths,
                takes,
                words,
                pieces,
                threshold,
            ),
            Order::Hashes { seed } => select_ties_hashes(
                self.emulator,
                count,
                seed,
                starts,
                lengths,
                takes,
                words,
                pieces,
                threshold,
            ),
        }
        .unwrap();
    }

    /// All steps; words that belong to no piece keep the poison.
    fn select(&self, k: u64) -> Vec<u32> {
        let (mut remaining, mut key) = (k, 0);
        for (shift, bins) in DIGITS {
            let lowest = key << bins.trailing_zeros();
            let counts = self.count(shift, lowest, bins);
            let mut digit = bins - 1;
            while counts[digit as usize] < remaining {
                remaining -= counts[digit as usize];
                digit -= 1;
            }
            key = lowest + digit;
        }
        let mut words = vec![0xdead_beef; COUNT.div_ceil(32)];
        let equals = self.mark(&mut words, key);
        let takes: Vec<u32> = equals
            .iter()
            .map(|&equals| {
                let take = remaining.min(u64::from(equals));
                remaining -= take;
                take as u32
            })
            .collect();
        assert_eq!(remaining, 0);
        self.mark_ties(&mut words, key, &takes);
        words
    }
}

/// SplitMix64 at a place of its sequence that starts at the mixed seed.
fn hash(seed: u64, index: u64) -> u32 {
    let mix = |mut state: u64| {
        state = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ state >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        state ^ state >> 31
    };
    (mix(mix(seed).wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15))) >> 33) as u32
}

fn oracle(scores: &[f32], order: Order, k: usize) -> Vec<u32> {
    let mut words = vec![0xdead_beef; COUNT.div_ceil(32)];
    let mut ranked = Vec::new();
    for (start, length) in PIECES {
        for word in start / 32..(start + u64::from(length)).div_ceil(32) {
            words[word as usize] = 0;
        }
        for index in start..start + u64::from(length) {
            let key = match order {
                Order::Magnitudes { flip } => (scores[index as usize].to_bits() & MAGNITUDE) ^ flip,
                Order::Hashes { seed } => hash(seed, index),
            };
            ranked.push((std::cmp::Reverse(key), index as usize));
        }
    }
    ranked.sort_unstable();
    for &(_, index) in &ranked[..k] {
        words[index / 32] |= 1 << (index % 32);
    }
    words
}

/// Numbers of all sizes, many of them equal, zeros of both signs and infinities.
fn scores() -> Vec<f32> {
    let random = random::<f32>(11, COUNT);
    let score = |(index, &x): (u64, &f32)| match bits(12, index) % 8 {
        0 => 0.25 * x.signum(),
        1 => 0.0 * x,
        2 if index % 97 == 0 => f32::INFINITY * x,
        3 => x * 1e-30,
        _ => x,
    };
    (0..).zip(random.as_slice()).map(score).collect()
}

#[test]
fn selects_as_sorting_does() {
    let scores = scores();
    let all = PIECES.iter().map(|piece| piece.1 as usize).sum::<usize>();
    let magnitudes = |flip| Order::Magnitudes { flip };
    for order in [magnitudes(0), magnitudes(MAGNITUDE), Order::Hashes { seed: 5 }] {
        for schedule in SCHEDULES {
            let (starts, lengths) = PIECES.into_iter().unzip();
            let device =
                Device { emulator: &Emulator::new(schedule), scores: &scores, order, starts, lengths };
            for k in [1, 36, 700, 2300, all - 1, all] {
                assert!(device.select(k as u64) == oracle(&scores, order, k), "k = {k}");
            }
        }
    }
}

#[test]
fn the_first_nan_of_every_piece_is_found() {
    let mut scores = scores();
    // One thread meets both of piece 2.
    for index in [130, 150, 192 + 2499, 192 + 2499 - 256, 2816 + 1055, 2816 + 300, 2815] {
        scores[index] = f32::from_bits(0xffc0_0001);
    }
    let (starts, lengths): (Vec<u64>, Vec<u32>) = PIECES.into_iter().unzip();
    for schedule in SCHEDULES {
        let mut found = vec![7; PIECES.len()];
        select_find_nan(
            &Emulator::new(schedule),
            slice(&scores),
            COUNT as u64,
            slice(&starts),
            slice(&lengths),
            slice_mut(&mut found),
            PIECES.len() as u32,
        )
        .unwrap();
        assert_eq!(found, [u32::MAX, 66, 2499 - 256, u32::MAX, 300]);
    }
}

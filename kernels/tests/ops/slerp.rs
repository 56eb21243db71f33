//! SLERP's two passes: sums against f64, application bit for bit.

use crate::common::{Buffer, SCHEDULES, bits, random, slice, to_bits};
use cpift_kernels::emulator::{Emulator, Schedule};
use cpift_kernels::slerp::*;

/// Tensors by start and length; between them and at the end there is padding.
const SEGMENTS: [(usize, usize); 5] = [(0, 37), (64, 0), (64, 1), (128, 3001), (3200, 64)];
const COUNT: usize = 3264;
/// Short pieces, so that a tensor has several.
const PIECE: usize = 1088;

/// Pieces as the kernels take them.
struct Pieces {
    starts: Vec<u64>,
    lengths: Vec<u32>,
    segments: Vec<u32>,
    /// The first piece of each tensor, and the number of all.
    first: Vec<u32>,
}

impl Pieces {
    fn new() -> Self {
        let mut pieces = Self { starts: vec![], lengths: vec![], segments: vec![], first: vec![] };
        for (segment, (start, length)) in (0..).zip(SEGMENTS) {
            pieces.first.push(pieces.starts.len() as u32);
            for first in (0..length).step_by(PIECE) {
                pieces.starts.push((start + first) as u64);
                pieces.lengths.push((length - first).min(PIECE) as u32);
                pieces.segments.push(segment);
            }
        }
        pieces.first.push(pieces.starts.len() as u32);
        pieces
    }

    fn count(&self) -> u32 {
        self.starts.len() as u32
    }
}

struct Inputs {
    backbone: Buffer<f32>,
    other: Buffer<f32>,
    base: Option<Buffer<f32>>,
    skip: Option<Vec<u32>>,
}

impl Inputs {
    fn new(delta: bool, masked: bool) -> Self {
        let mut inputs = Self {
            backbone: random(1, COUNT),
            other: random(2, COUNT),
            base: delta.then(|| random(3, COUNT)),
            skip: masked.then(|| (0..COUNT as u64 / 32).map(|word| bits(4, word) as u32).collect()),
        };
        for index in 0..COUNT {
            let in_segment = SEGMENTS.iter().any(|&(start, length)| (start..start + length).contains(&index));
            // Neither padding nor skipped coordinates may get into a sum.
            if !in_segment || inputs.skipped(index) {
                inputs.other.as_mut_slice()[index] = f32::NAN;
            }
        }
        inputs
    }

    fn skipped(&self, index: usize) -> bool {
        self.skip.as_ref().is_some_and(|words| words[index / 32] >> (index % 32) & 1 == 1)
    }

    fn base_at(&self, index: usize) -> f64 {
        self.base.as_ref().map_or(0.0, |base| f64::from(base.as_slice()[index]))
    }

    /// The four sums of each tensor.
    fn sums(&self, schedule: Schedule, pieces: &Pieces) -> Vec<f64> {
        let emulator = Emulator::new(schedule);
        let mut piece_sums = Buffer::<f64>::poisoned(4 * pieces.starts.len());
        let mut sums = Buffer::<f64>::poisoned(4 * SEGMENTS.len());
        let (own, other, out) = (self.backbone.read(), self.other.read(), piece_sums.write());
        let (starts, lengths, n) = (slice(&pieces.starts), slice(&pieces.lengths), pieces.count());
        let count = COUNT as u64;
        let result = match (&self.base, &self.skip) {
            (None, None) => slerp_sums(&emulator, own, other, starts, lengths, out, count, n),
            (None, Some(skip)) => {
                slerp_sums_skip(&emulator, own, other, slice(skip), starts, lengths, out, count, n)
            }
            (Some(base), None) => {
                slerp_sums_delta(&emulator, own, other, base.read(), starts, lengths, out, count, n)
            }
            (Some(base), Some(skip)) => {
                let (base, skip) = (base.read(), slice(skip));
                slerp_sums_delta_skip(&emulator, own, other, base, skip, starts, lengths, out, count, n)
            }
        };
        result.expect("runs");
        let segments = SEGMENTS.len() as u32;
        slerp_segment_sums(&emulator, piece_sums.read(), slice(&pieces.first), sums.write(), n, segments)
            .expect("runs");
        sums.as_slice().to_vec()
    }

    fn apply(&self, schedule: Schedule, pieces: &Pieces, factors: &[f64]) -> Buffer<f32> {
        let emulator = Emulator::new(schedule);
        let mut result = Buffer::from_slice(self.backbone.as_slice());
        let (own, other, factors) = (result.write(), self.other.read(), slice(factors));
        let (starts, lengths, n) = (slice(&pieces.starts), slice(&pieces.lengths), pieces.count());
        let (which, count, all) = (slice(&pieces.segments), COUNT as u64, SEGMENTS.len() as u32);
        match (&self.base, &self.skip) {
            (None, None) => {
                slerp_apply(&emulator, own, other, starts, lengths, which, factors, count, n, all)
            }
            (None, Some(skip)) => {
                let skip = slice(skip);
                slerp_apply_skip(&emulator, own, other, skip, starts, lengths, which, factors, count, n, all)
            }
            (Some(base), None) => {
                let base = base.read();
                slerp_apply_delta(&emulator, own, other, base, starts, lengths, which, factors, count, n, all)
            }
            (Some(base), Some(skip)) => {
                let (base, skip) = (base.read(), slice(skip));
                slerp_apply_delta_skip(
                    &emulator, own, other, base, skip, starts, lengths, which, factors, count, n, all,
                )
            }
        }
        .expect("runs");
        result
    }
}

const VARIANTS: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

#[test]
fn sums_are_those_of_f64() {
    let pieces = Pieces::new();
    for (delta, masked) in VARIANTS {
        let inputs = Inputs::new(delta, masked);
        let results = SCHEDULES.map(|schedule| inputs.sums(schedule, &pieces));
        assert!(results.iter().all(|result| *result == results[0]));
        for (segment, (start, length)) in SEGMENTS.into_iter().enumerate() {
            let mut expected = [0.0; 4];
            for index in (start..start + length).filter(|&index| !inputs.skipped(index)) {
                let a = f64::from(inputs.backbone.as_slice()[index]) - inputs.base_at(index);
                let b = f64::from(inputs.other.as_slice()[index]) - inputs.base_at(index);
                for (sum, term) in expected.iter_mut().zip([a * a, b * b, a * b, (a - b) * (a - b)]) {
                    *sum += term;
                }
            }
            for (kind, expected) in expected.into_iter().enumerate() {
                let actual = results[0][4 * segment + kind];
                // The oracle adds 3000 terms one by one: 3000·2^-53 of a sum up to 3000.
                let what = format!("{delta} {masked} {segment} {kind}");
                assert!((actual - expected).abs() < 1e-9, "{what}: {actual} {expected}");
            }
        }
    }
}

#[test]
fn application_has_the_bits_of_the_cpu() {
    let pieces = Pieces::new();
    let factors: Vec<f64> =
        (0..2 * SEGMENTS.len() as u64).map(|index| bits(9, index) as f64 / 2f64.powi(64)).collect();
    for (delta, masked) in VARIANTS {
        let inputs = Inputs::new(delta, masked);
        let results = SCHEDULES.map(|schedule| to_bits(inputs.apply(schedule, &pieces, &factors).as_slice()));
        assert!(results.iter().all(|result| *result == results[0]));
        let mut expected = to_bits(inputs.backbone.as_slice());
        for (segment, (start, length)) in SEGMENTS.into_iter().enumerate() {
            let (own_factor, other_factor) = (factors[2 * segment], factors[2 * segment + 1]);
            for index in (start..start + length).filter(|&index| !inputs.skipped(index)) {
                let a = f64::from(inputs.backbone.as_slice()[index]);
                let b = f64::from(inputs.other.as_slice()[index]);
                let base = inputs.base_at(index);
                let combined = if delta {
                    own_factor.mul_add(a - base, other_factor.mul_add(b - base, base))
                } else {
                    own_factor.mul_add(a, other_factor * b)
                };
                let exact = own_factor * (a - base) + other_factor * (b - base) + base;
                assert!((combined - exact).abs() < 1e-14);
                expected[index] = (combined as f32).to_bits();
            }
        }
        assert!(results[0] == expected, "{delta} {masked}");
    }
}

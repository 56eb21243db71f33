//! Rotary embedding kernels against an f64 oracle.

use crate::common::*;
use cpift_kernels::emulator::Emulator;
use cpift_kernels::rope::rope;
use cpift_kernels::simt::{Bf16, Real};

const POSITIONS: u32 = 23;

/// Angles that differ for every position and pair.
fn angle(position: u32, pair: u32) -> f64 {
    0.37 * f64::from(position) / (1.0 + f64::from(pair))
}

fn table(half: u32, function: impl Fn(f64) -> f64) -> Buffer<f32> {
    let angles = (0..POSITIONS).flat_map(|position| (0..half).map(move |pair| angle(position, pair)));
    Buffer::from_slice(&angles.map(|angle| function(angle) as f32).collect::<Vec<f32>>())
}

/// Rotates by the angles times `sign`.
fn oracle(positions: &[u32], heads: u32, half: u32, sign: f64, x: &[f64]) -> Vec<f64> {
    let half = half as usize;
    let mut y = vec![f64::NAN; x.len()];
    for (row, (x, y)) in x.chunks_exact(2 * half).zip(y.chunks_exact_mut(2 * half)).enumerate() {
        let position = positions[row / heads as usize];
        for pair in 0..half {
            let (sin, cos) = (sign * angle(position, pair as u32)).sin_cos();
            y[pair] = x[pair] * cos - x[half + pair] * sin;
            y[half + pair] = x[half + pair] * cos + x[pair] * sin;
        }
    }
    y
}

trait Element: Real {
    /// f32: three roundings and a rounded table. bf16: the result's rounding, 2^-8 of it, and a little.
    const TOLERANCE: f64;
}

impl Element for f32 {
    const TOLERANCE: f64 = 2e-7;
}

impl Element for Bf16 {
    const TOLERANCE: f64 = 4e-3;
}

fn rotate<E: Real>(
    emulator: &Emulator,
    [cos, sin]: [&Buffer<f32>; 2],
    positions: &[u32],
    x: &mut Buffer<E>,
    (heads, half): (u32, u32),
    inverse: u32,
) {
    let tokens = positions.len() as u32;
    let (cos, sin, positions, x) = (cos.read(), sin.read(), slice(positions), x.write());
    rope(emulator, cos, sin, positions, x, POSITIONS, tokens, heads, half, inverse).expect("runs");
}

fn check<E: Element>(tokens: usize, heads: u32, half: u32) {
    let seed = u64::from(heads * half) + tokens as u64;
    let positions: Vec<u32> =
        (0..tokens as u64).map(|index| (bits(seed, index) % u64::from(POSITIONS)) as u32).collect();
    let tables = [&table(half, f64::cos), &table(half, f64::sin)];
    let x = random::<E>(seed + 100, tokens * (heads * 2 * half) as usize);
    for (inverse, sign) in [(0, 1.0), (1, -1.0)] {
        let [y, others @ ..] = SCHEDULES.map(|schedule| {
            let mut y = Buffer::from_slice(x.as_slice());
            rotate(&Emulator::new(schedule), tables, &positions, &mut y, (heads, half), inverse);
            y
        });
        let what = format!("{tokens} tokens, {heads} heads, half {half}, inverse {inverse}");
        let expected = oracle(&positions, heads, half, sign, &widen(x.as_slice()));
        assert_close(&what, y.as_slice(), &expected, E::TOLERANCE);
        for other in others {
            assert_eq!(to_bits(other.as_slice()), to_bits(y.as_slice()), "{what}");
        }
    }
}

#[test]
fn rotations_match_the_oracle_in_every_schedule() {
    for (tokens, heads, half) in
        [(1, 1, 1), (9, 3, 5), (4, 2, 32), (41, 8, 64), (70, 5, 40), (3, 9, 8), (6, 1, 12)]
    {
        check::<f32>(tokens, heads, half);
        check::<Bf16>(tokens, heads, half);
    }
}

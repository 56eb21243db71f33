//! Rotary embedding kernels against an f64 oracle.

use crate::common::*;
use cpift_kernels::emulator::Emulator;
use cpift_kernels::launch::LaunchError;
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
fn oracle(positions: &[u32], (heads, half, head_dim): (u32, u32, u32), sign: f64, x: &[f64]) -> Vec<f64> {
    let (half, head_dim) = (half as usize, head_dim as usize);
    let mut y = x.to_vec();
    for (row, (x, y)) in x.chunks_exact(head_dim).zip(y.chunks_exact_mut(head_dim)).enumerate() {
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
    (heads, half, head_dim): (u32, u32, u32),
    inverse: u32,
) {
    let tokens = positions.len() as u32;
    let (cos, sin, positions, x) = (cos.read(), sin.read(), slice(positions), x.write());
    rope(emulator, cos, sin, positions, x, POSITIONS, tokens, heads, half, head_dim, inverse).expect("runs");
}

fn check<E: Element>(tokens: usize, (heads, half, head_dim): (u32, u32, u32)) {
    let seed = u64::from(heads * half) + tokens as u64;
    let positions: Vec<u32> =
        (0..tokens as u64).map(|index| (bits(seed, index) % u64::from(POSITIONS)) as u32).collect();
    let tables = [&table(half, f64::cos), &table(half, f64::sin)];
    let x = random::<E>(seed + 100, tokens * (heads * head_dim) as usize);
    for (inverse, sign) in [(0, 1.0), (1, -1.0)] {
        let [y, others @ ..] = SCHEDULES.map(|schedule| {
            let mut y = Buffer::from_slice(x.as_slice());
            rotate(&Emulator::new(schedule), tables, &positions, &mut y, (heads, half, head_dim), inverse);
            y
        });
        let what = format!("{tokens} tokens, {heads} heads of {head_dim}, half {half}, inverse {inverse}");
        let expected = oracle(&positions, (heads, half, head_dim), sign, &widen(x.as_slice()));
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
        check::<f32>(tokens, (heads, half, 2 * half));
        check::<Bf16>(tokens, (heads, half, 2 * half));
    }
}

/// By vectors, and with a rest of the head, or half of the rotated part, that they do not fit.
#[test]
fn the_rest_of_a_head_stays() {
    for (tokens, heads) in
        [(4, (2, 32, 80)), (5, (5, 8, 24)), (3, (2, 8, 20)), (6, (1, 12, 32)), (2, (3, 1, 3))]
    {
        check::<f32>(tokens, heads);
        check::<Bf16>(tokens, heads);
    }
}

#[test]
fn more_to_rotate_than_a_head_has_is_refused() {
    let (table, mut x) = (table(8, f64::cos), random::<f32>(1, 8));
    let positions = [0];
    let tables = (table.read(), table.read());
    let result = rope(
        &Emulator::new(SCHEDULES[0]),
        tables.0,
        tables.1,
        slice(&positions),
        x.write(),
        POSITIONS,
        1,
        1,
        8,
        8,
        0,
    );
    assert!(matches!(result, Err(LaunchError::Requirement { .. })), "{result:?}");
}

//! What nvcc makes of shuffles, votes, shared memory, cp.async, ldmatrix and mma.sync.

use cpift_kernels::simt::Bf16;
use source::emulator::{Rules, Schedule};

use super::products::multiply;
use super::{Launch, compare, launch, must_be_right, ptx_of, read, updated, word};
use crate::common::{Buffer, bits, random, widen};

const TEXT: &str = ptx_of!("cuda_generic.sm_80");

/// Whole numbers from -20 to 20, whose sums are exact.
fn whole(length: usize) -> Vec<f32> {
    (0..length).map(|place| (bits(1, place as u64) % 41) as f32 - 20.0).collect()
}

pub fn reductions(rules: Rules, schedule: Schedule) -> Result<(), String> {
    let length = 1000;
    let x = whole(length);
    let (mut sums, mut prefix) = (Buffer::<f32>::poisoned(64), Buffer::<f32>::poisoned(length));
    let (mut ballots, mut largest) = (Buffer::<u32>::poisoned(32), Buffer::<f32>::poisoned(4));
    let input = Buffer::from_slice(&x);
    let given = [
        read(&input),
        updated(&mut sums),
        updated(&mut prefix),
        updated(&mut ballots),
        updated(&mut largest),
        word(length),
    ];
    let launched = Launch { kernel: "reductions", grid: [4, 1, 1], block: 256, shared: 0 };
    launch(TEXT, launched, &given, rules, schedule)?;
    // Beyond the end are zeros.
    let x: Vec<f64> = (0..1024).map(|place| x.get(place).map_or(0.0, |&x| x.into())).collect();
    let warps: Vec<&[f64]> = x.chunks(32).collect();
    let expected: Vec<f64> = warps.iter().flat_map(|warp| [warp.iter().sum(); 2]).collect();
    compare("sums", sums.as_slice(), &expected, 0.0)?;
    // The sum so far, the fourth of its eight, and whether their sum is positive.
    let prefix_of = |place: usize| {
        let so_far: f64 = x[place / 32 * 32..=place].iter().sum();
        let eight = &x[place / 8 * 8..][..8];
        so_far + 1000.0 * eight[3] + if eight.iter().sum::<f64>() > 0.0 { 1e6 } else { 0.0 }
    };
    let expected: Vec<f64> = (0..length).map(prefix_of).collect();
    compare("sums so far", prefix.as_slice(), &expected, 0.0)?;
    let ballot = |warp: &&[f64]| (0..32).fold(0u32, |bits, lane| bits | u32::from(warp[lane] > 0.0) << lane);
    let expected: Vec<u32> = warps.iter().map(ballot).collect();
    if ballots.as_slice() != expected {
        return Err(format!("votes are {:x?}, not {expected:x?}", ballots.as_slice()));
    }
    let expected: Vec<f64> =
        x.chunks(256).map(|block| block.iter().copied().fold(f64::MIN, f64::max)).collect();
    compare("largest", largest.as_slice(), &expected, 0.0)
}

fn transpose(rules: Rules, schedule: Schedule) -> Result<(), String> {
    let (rows, columns) = (70, 50);
    let (x, mut y) = (random::<f32>(2, rows * columns), Buffer::<f32>::poisoned(rows * columns));
    let given = [read(&x), updated(&mut y), word(rows), word(columns)];
    let launched = Launch { kernel: "transpose", grid: [2, 3, 1], block: 256, shared: 0 };
    launch(TEXT, launched, &given, rules, schedule)?;
    let x = widen(x.as_slice());
    let expected: Vec<f64> =
        (0..rows * columns).map(|place| x[place % rows * columns + place / rows]).collect();
    compare("the transposed matrix", y.as_slice(), &expected, 0.0)
}

fn histogram(rules: Rules, schedule: Schedule) -> Result<(), String> {
    let x: Vec<u32> = (0..3000).map(|place| (bits(3, place) % 64) as u32).collect();
    let (input, mut bins) = (Buffer::from_slice(&x), Buffer::from_slice(&[0u32; 64]));
    let launched = Launch { kernel: "histogram", grid: [3, 1, 1], block: 128, shared: 0 };
    let given = [read(&input), updated(&mut bins), word(x.len())];
    launch(TEXT, launched, &given, rules, schedule)?;
    let expected: Vec<u32> =
        (0..64).map(|bin| x.iter().filter(|&&number| number == bin).count() as u32).collect();
    if bins.as_slice() == expected { Ok(()) } else { Err(format!("bins are {:?}", bins.as_slice())) }
}

pub fn product(rules: Rules, schedule: Schedule) -> Result<(), String> {
    let sizes @ [m, n, k] = [128, 192, 160];
    let (a, b) = (random::<Bf16>(4, m * k), random::<Bf16>(5, k * n));
    let mut c = Buffer::<f32>::poisoned(m * n);
    let given = [read(&a), read(&b), updated(&mut c), word(m), word(n), word(k)];
    let grid = [n as u32 / 64, m as u32 / 64, 1];
    let launched = Launch { kernel: "mma_pipeline", grid, block: 128, shared: 0 };
    launch(TEXT, launched, &given, rules, schedule)?;
    let expected = multiply(&widen(a.as_slice()), &widen(b.as_slice()), sizes);
    compare("the product", c.as_slice(), &expected, 1e-5)
}

#[test]
fn shuffles_and_votes() {
    must_be_right(reductions);
}

#[test]
fn transposing_in_shared_memory() {
    must_be_right(transpose);
}

#[test]
fn counting_in_shared_memory() {
    must_be_right(histogram);
}

#[test]
fn stages_of_copies_with_tensor_cores() {
    must_be_right(product);
}

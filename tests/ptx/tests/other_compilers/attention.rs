//! Flash attention, forward.

use cpift_kernels::simt::Bf16;
use source::emulator::{Rules, Schedule};

use super::{Launch, compare, described, float, launch, long, must_be_right, ptx_of, updated, word};
use crate::common::{Buffer, random, widen};

const TOKENS: usize = 256;
const WIDTH: usize = 128;

/// Each token's output, and the logarithm to base 2 of the sum of its weights.
fn expected(q: &[f64], k: &[f64], v: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let (mut output, mut sums) = (Vec::new(), Vec::new());
    for token in 0..TOKENS {
        let row = |matrix: &[f64], token: usize| matrix[token * WIDTH..][..WIDTH].to_vec();
        let query = row(q, token);
        let score = |key: Vec<f64>| query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>() * scale();
        let weights: Vec<f64> = (0..=token).map(|key| score(row(k, key)).exp()).collect();
        let sum: f64 = weights.iter().sum();
        sums.push(sum.log2());
        let value = |column: usize| {
            let terms = weights.iter().enumerate().map(|(key, weight)| weight * v[key * WIDTH + column]);
            terms.sum::<f64>() / sum
        };
        output.extend((0..WIDTH).map(value));
    }
    (output, sums)
}

fn scale() -> f64 {
    (WIDTH as f64).sqrt().recip()
}

pub fn run(rules: Rules, schedule: Schedule) -> Result<(), String> {
    let [q, k, v] = [1, 2, 3].map(|seed| random::<Bf16>(seed, TOKENS * WIDTH));
    let (mut output, mut sums) = (Buffer::<Bf16>::poisoned(TOKENS * WIDTH), Buffer::<f32>::poisoned(TOKENS));
    let mut given: Vec<_> =
        [&q, &k, &v].into_iter().flat_map(|matrix| described(matrix, [TOKENS, WIDTH], 128)).collect();
    given.extend([updated(&mut output), updated(&mut sums), word(TOKENS), float(scale() as f32)]);
    given.extend([long(0), long(0)]);
    let grid = [TOKENS as u32 / 128, 1, 1];
    let launched = Launch { kernel: "attention", grid, block: 256, shared: 163_872 };
    launch(ptx_of!("triton_attention128_128w8.sm_90"), launched, &given, rules, schedule)?;
    let [q, k, v] = [&q, &k, &v].map(|matrix| widen(matrix.as_slice()));
    let (expected, expected_sums) = expected(&q, &k, &v);
    // Weights are rounded to bf16 before they are multiplied with values.
    compare("the output", output.as_slice(), &expected, 5e-3)?;
    compare("the logarithm", sums.as_slice(), &expected_sums, 1e-5)
}

#[test]
fn weights_in_registers() {
    must_be_right(run);
}

//! Attention by each kernel there is for bf16, also where the processor would take another: they differ in the order of
//! summation alone.

use std::num::NonZeroUsize;

use half::bf16;

use super::backward::{Backward, HostBackwardInputs, HostGradients};
use super::*;
use crate::cpu::gemm::floats::Floats;
use crate::cpu::gemm::stand_in::StandIn;
use crate::cpu::gemm::tiles::Tiles;
use crate::cpu::simd::Baseline;
use crate::device::Device;

/// Output, d_q, d_k and d_v.
fn results<K: Kernel<Element = bf16>>(kernel: K, shape: &Shape, starts: &[usize]) -> [Vec<bf16>; 4] {
    let Ok(Device::Cpu(cpu)) = Device::cpu(NonZeroUsize::new(2)) else { panic!("two threads") };
    let documents = Documents::new(starts).expect("starts that ascend");
    let mut state = 1u64;
    let mut values = |length: usize| -> Vec<bf16> {
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            bf16::from_f32((state >> 33) as f32 / (1u32 << 30) as f32 - 1.0)
        };
        (0..length).map(|_| next()).collect()
    };
    let tokens = documents.tokens();
    let (queries, keys) = (tokens * shape.query_width(), tokens * shape.key_width());
    let [q, d_output] = [queries, queries].map(&mut values);
    let [k, v] = [keys, keys].map(&mut values);
    let inputs = HostInputs { q: &q, k: &k, v: &v };
    let mut output = vec![bf16::NAN; queries];
    let mut log_sum_exp = vec![f32::NAN; tokens * shape.heads];
    with_scratch(1 << 18, |memory| memory.fill(f32::NAN));
    let results =
        Results { output: SharedMut::new(&mut output), log_sum_exp: SharedMut::new(&mut log_sum_exp) };
    Forward { cpu: &cpu, shape, documents: &documents, inputs, results }.run(kernel);
    let [mut d_q, mut d_k, mut d_v] = [queries, keys, keys].map(|length| vec![bf16::NAN; length]);
    let outputs = HostBackwardInputs { output: &output, log_sum_exp: &log_sum_exp, d_output: &d_output };
    let gradients = HostGradients::new(&mut d_q, &mut d_k, &mut d_v);
    Backward::new(&cpu, shape, &documents, inputs, outputs, gradients).run(kernel);
    [output, d_q, d_k, d_v]
}

/// Probabilities and d_score, which are rounded, may round the other way.
fn assert_near(results: &[Vec<bf16>; 4], expected: &[Vec<bf16>; 4], what: &str) {
    for (index, (results, expected)) in results.iter().zip(expected).enumerate() {
        let largest = expected.iter().map(|value| value.to_f32().abs()).fold(0.0, f32::max);
        for (at, (result, expected)) in results.iter().zip(expected).enumerate() {
            let error = (result.to_f32() - expected.to_f32()).abs();
            assert!(error <= largest * 0.5f32.powi(7), "{what}, {index} at {at}: {result} for {expected}");
        }
    }
}

#[test]
fn every_kernel_of_bf16_gives_the_same_attention() {
    let cases: [(_, &[usize], _); 6] = [
        ((2, 1, 64), &[0, 130], None),
        ((2, 1, 64), &[0, 200], Some(70)),
        ((4, 2, 24), &[0, 70, 71, 150], None),
        ((1, 1, 80), &[0, 64, 129], Some(3)),
        ((2, 2, 5), &[0, 1, 40], None),
        ((2, 1, 8), &[0, 67], Some(1)),
    ];
    for ((heads, kv_heads, head_dim), starts, window) in cases {
        let window = window.and_then(NonZeroUsize::new);
        let shape = Shape { heads, kv_heads, head_dim, scale: 0.3, window, softcap: None };
        let what = format!("{heads}:{kv_heads} heads of {head_dim}, {starts:?}, {window:?}");
        let expected = results(Floats::<bf16, _, 4, 8>::new(Baseline), &shape, starts);
        // A softmax of one score has no gradient.
        let check = |results: [Vec<bf16>; 4], kernel: &str| {
            assert_near(&results, &expected, &format!("{kernel}: {what}"));
            let alone = window == NonZeroUsize::new(1);
            assert!(!alone || results[1].iter().all(|&d_q| d_q == bf16::ZERO), "{kernel}: {what}");
        };
        let tiles = results(Tiles { instructions: Baseline, unit: StandIn }, &shape, starts);
        check(tiles, "tiles");
        #[cfg(target_arch = "x86_64")]
        if let Some(instructions) = crate::cpu::simd::Avx512Bf16::detect() {
            let dots = crate::cpu::gemm::pairs::Dots::<DOT_ROWS> { instructions };
            check(results(dots, &shape, starts), "dot products");
        } else {
            eprintln!("left out: AVX-512 BF16, which this processor does not have");
        }
    }
}

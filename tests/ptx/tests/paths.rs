//! Ways through kernels that their own tests leave out, for which the comparison of source and PTX is enough:
//! outputs that vectors fit and those they do not, sums that are added to, long rows of whole vectors.

use crate::common::attention::Case;
use crate::common::{SCHEDULES, random, slice, slice_mut};
use cpift_kernels::dispatch::gemm_hopper::*;
use cpift_kernels::embedding::embedding_backward;
use cpift_kernels::emulator::Emulator;
use cpift_kernels::gemm::*;
use cpift_kernels::launch::{LaunchError, SliceMut};
use cpift_kernels::simt::{Bf16, Real};

/// m, n and k: edges of all tiles, and rows of whole vectors.
const SIZES: [usize; 3] = [131, 264, 24];

/// As a device whose blocks have several tiles.
fn emulator() -> Emulator {
    Emulator::new(SCHEDULES[2]).like((9, 0), 2)
}

/// Runs with an output that vectors fit, and with one that begins an element later.
fn outputs<C: Real>(length: usize, run: impl Fn(SliceMut<'_, C>) -> Result<(), LaunchError>) {
    for offset in [0, 1] {
        let mut out = random::<C>(9, length + offset);
        run(slice_mut(&mut out.as_mut_slice()[offset..])).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn products() {
    let [m, n, k] = SIZES;
    let (a, b, bias) = (random::<Bf16>(1, m * k), random::<Bf16>(2, n * k), random::<Bf16>(3, n));
    let (m64, n64, k64) = (m as u64, n as u64, k as u64);
    for biased in [0, 1] {
        for launch in
            [gemm_nt_bf16_64x64, gemm_nt_bf16_128x128, gemm_nt_bf16_128x256, gemm_nt_32, gemm_nt_128]
        {
            outputs(m * n, |out| {
                launch(&emulator(), a.read(), b.read(), bias.read(), out, m64, n64, k64, biased)
            });
        }
        for halves in [1, 2] {
            let bias = (biased == 1).then_some(bias.read());
            outputs(m * n, |out| {
                gemm_nt_hopper(&emulator(), halves, a.read(), b.read(), bias, out, [m64, n64, k64])
            });
            let bias = random::<f32>(3, n);
            let bias = (biased == 1).then_some(bias.read());
            outputs(m * n, |out| {
                gemm_nt_hopper(&emulator(), halves, a.read(), b.read(), bias, out, [m64, n64, k64])
            });
        }
    }
    for launch in [
        gemm_nt_bf16_f32_64x64,
        gemm_nt_bf16_f32_128x128,
        gemm_nt_bf16_f32_128x256,
        gemm_nt_bf16_f32_32,
        gemm_nt_bf16_f32_128,
    ] {
        outputs(m * n, |out| launch(&emulator(), a.read(), b.read(), out, m64, n64, k64));
    }
}

#[test]
fn gradients_of_inputs() {
    let [m, n, k] = SIZES;
    let (a, b) = (random::<Bf16>(1, m * k), random::<Bf16>(2, k * n));
    let (m64, n64, k64) = (m as u64, n as u64, k as u64);
    for accumulate in [0, 1] {
        for launch in [gemm_nn_bf16_64x64, gemm_nn_bf16_128x128, gemm_nn_bf16_128x256] {
            outputs(m * n, |out| launch(&emulator(), a.read(), b.read(), out, m64, n64, k64, accumulate));
        }
        for halves in [1, 2] {
            let sizes = [m64, n64, k64];
            outputs(m * n, |out| {
                gemm_nn_hopper(&emulator(), halves, a.read(), b.read(), out, sizes, accumulate == 1)
            });
        }
    }
}

#[test]
fn gradients_of_weights() {
    let [m, n, k] = [136, 264, 27];
    let (a, b) = (random::<Bf16>(1, k * m), random::<Bf16>(2, k * n));
    let (m64, n64, k64) = (m as u64, n as u64, k as u64);
    for launch in [gemm_tn_bf16_64x64, gemm_tn_bf16_128x128, gemm_tn_bf16_128x256] {
        outputs(m * n, |out| launch(&emulator(), a.read(), b.read(), out, m64, n64, k64));
    }
    for halves in [1, 2] {
        outputs(m * n, |out| gemm_tn_hopper(&emulator(), halves, a.read(), b.read(), out, [m64, n64, k64]));
    }
}

/// Elements that cannot be loaded as vectors, also of A and B.
#[test]
fn products_of_any_operands() {
    let [m, n, k] = [37, 45, 21];
    let (a, b) = (random::<Bf16>(1, m * k + 1), random::<Bf16>(2, n * k + 1));
    for offset in [0, 1] {
        let [a, b] = [&a, &b].map(|operand| slice(&operand.as_slice()[offset..]));
        for launch in [gemm_nt_bf16_f32_32, gemm_nt_bf16_f32_128] {
            outputs(m * n, |out| launch(&emulator(), a, b, out, m as u64, n as u64, k as u64));
        }
    }
}

#[test]
fn sums_of_parts() {
    let count = 4096 + 8;
    for parts in [3, 13] {
        let sums = random::<f32>(1, parts as usize * count);
        for accumulate in [0, 1] {
            let (sums, length) = (sums.read(), count as u64);
            outputs::<f32>(count, |out| gemm_split_k_sum(&emulator(), sums, out, length, parts, accumulate));
            outputs::<Bf16>(count, |out| gemm_split_k_sum(&emulator(), sums, out, length, parts, accumulate));
        }
    }
}

/// Documents longer than what is copied ahead.
#[test]
fn attention_to_long_documents() {
    Case::<Bf16>::new((1, 1, 96), &[200, 3]).run(&emulator());
    Case::<Bf16>::new((1, 1, 256), &[130]).run(&emulator());
    Case::<f32>::new((1, 1, 128), &[140]).run(&emulator());
    Case::<f32>::new((1, 1, 256), &[70]).run(&emulator());
}

/// Tokens that occur often, in rows that vectors fit and in those they do not.
#[test]
fn gradients_of_frequent_tokens() {
    let (rows, groups) = (60, [0, 2, 3, 60]);
    for columns in [64, 67] {
        let (d_output, positions) =
            (random::<f32>(1, rows * columns), (0..rows as u32).rev().collect::<Vec<_>>());
        outputs(5 * columns, |table| {
            let (rows, positions, starts, tokens) =
                (rows as u64, slice(&positions), slice(&groups), slice(&[4, 0, 2]));
            embedding_backward(
                &emulator(),
                d_output.read(),
                positions,
                starts,
                tokens,
                table,
                rows,
                3,
                5,
                columns as u32,
            )
        });
    }
}

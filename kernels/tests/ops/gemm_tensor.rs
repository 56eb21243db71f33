//! Products on tensor cores against f64: every tile, layout and edge.

use crate::common::product::{
    self, F32_UNIT, Matrix, assert_product, check_forward, check_input_gradients, check_weight_gradients,
};
use crate::common::{Buffer, Record, SCHEDULES, random, slice_mut, to_bits};
use cpift_kernels::dispatch::gemm::{GemmElement, SPLIT_K_BYTES};
use cpift_kernels::emulator::Emulator;
use cpift_kernels::gemm::*;
use cpift_kernels::launch::{LaunchError, Slice, SliceMut};
use cpift_kernels::simt::{Bf16, Real};

/// Runs every kernel in one schedule, the last one in all; demands the same bits of all, and gives them.
fn same_bits<C: Real, F>(
    what: &str,
    start: &[C],
    kernels: &[F],
    run: impl Fn(&Emulator, &F, SliceMut<C>) -> Result<(), LaunchError>,
) -> Vec<C> {
    let mut results: Vec<Vec<C>> = Vec::new();
    let emulators = SCHEDULES.map(Emulator::new);
    for (index, kernel) in kernels.iter().enumerate() {
        let last = index + 1 == kernels.len();
        for emulator in &emulators[if last { 0..3 } else { index..index + 1 }] {
            let mut out = Buffer::from_slice(start);
            run(emulator, kernel, out.write()).unwrap_or_else(|error| panic!("{what}: {error}"));
            results.push(out.as_slice().to_vec());
        }
    }
    for other in &results[1..] {
        assert!(to_bits(other) == to_bits(&results[0]), "{what} differs by tile or schedule");
    }
    results.swap_remove(0)
}

/// m, n, k with k a multiple of 8: one element, one row, k shorter than the ring and longer, edges of all
/// tiles both ways, no terms.
const NT: [[usize; 3]; 6] = [[1, 1, 8], [1, 130, 40], [67, 9, 296], [130, 67, 72], [9, 260, 32], [5, 9, 0]];

#[test]
fn forward_products() {
    let kernels = [gemm_nt_bf16_128x256, gemm_nt_bf16_128x128, gemm_nt_bf16_64x64];
    check_forward(&NT, |what, [a, b], (bias, biased), start, [m, n, k]| {
        same_bits(what, start, &kernels, |emulator, launch, out| {
            launch(emulator, a, b, bias, out, m, n, k, biased.into())
        })
    });
}

/// The same left in f32, also without tensor cores.
#[test]
fn products_that_are_not_rounded() {
    for [m, n, k] in NT {
        let (a, b) = (random::<Bf16>(1, m * k), random::<Bf16>(2, n * k));
        let poison = Buffer::<f32>::poisoned(m * n);
        let factors = (&Matrix::new(a.as_slice(), k, false), &Matrix::new(b.as_slice(), k, true));
        let by_tensor_cores = [gemm_nt_bf16_f32_128x256, gemm_nt_bf16_f32_128x128, gemm_nt_bf16_f32_64x64];
        for kernels in [&by_tensor_cores[..], &[gemm_nt_bf16_f32_128, gemm_nt_bf16_f32_32]] {
            let what = format!("nt {m} by {n} by {k} in f32");
            let out = same_bits(&what, poison.as_slice(), kernels, |emulator, launch, out| {
                launch(emulator, a.read(), b.read(), out, m as u64, n as u64, k as u64)
            });
            assert_product(&what, &out, factors, (n, k), |_, _| 0.0, F32_UNIT);
        }
    }
}

/// As [`NT`], n a multiple of 8 as well.
const NN: [[usize; 3]; 6] = [[1, 8, 8], [1, 136, 40], [67, 16, 296], [130, 72, 72], [9, 264, 32], [5, 16, 0]];

#[test]
fn gradients_of_inputs() {
    let kernels = [gemm_nn_bf16_128x256, gemm_nn_bf16_128x128, gemm_nn_bf16_64x64];
    check_input_gradients(&NN, |what, [a, b], accumulate, start, [m, n, k]| {
        same_bits(what, start, &kernels, |emulator, launch, out| {
            launch(emulator, a, b, out, m, n, k, accumulate.into())
        })
    });
}

/// m, n, k with m and n multiples of 8, k anything.
const TN: [[usize; 3]; 6] =
    [[8, 8, 1], [8, 136, 33], [72, 16, 290], [136, 72, 70], [16, 264, 32], [8, 16, 0]];

#[test]
fn gradients_of_weights() {
    let kernels = [gemm_tn_bf16_128x256, gemm_tn_bf16_128x128, gemm_tn_bf16_64x64];
    check_weight_gradients(&TN, |what, [a, b], before, [m, n, k]| {
        same_bits(what, before, &kernels, |emulator, launch, out| launch(emulator, a, b, out, m, n, k))
    });
}

/// The kernels chosen for the three layouts, with operands at `address`.
fn chosen(multiprocessors: u32, sizes: [u64; 3], address: u64) -> Vec<&'static str> {
    product::chosen(Record::of((8, 0), multiprocessors), sizes, address)
}

fn names(tile: &str) -> [String; 3] {
    ["nt", "nn", "tn"].map(|layout| format!("gemm_{layout}_bf16_{tile}"))
}

#[test]
fn tiles_fill_the_device() {
    for multiprocessors in [108, 132] {
        assert_eq!(chosen(multiprocessors, [8192, 8192, 4096], 16), names("128x256"));
        // 896 by 896 is 28, 49 or 196 tiles.
        assert_eq!(chosen(multiprocessors, [896, 896, 4096], 16), names("64x64"));
        assert_eq!(chosen(multiprocessors, [8, 4096, 4096], 16), names("64x64"));
    }
    // One 128 by 128 tile for each multiprocessor.
    assert_eq!(chosen(128, [2048, 1024, 4096], 16), names("128x128"));
    // Without multiprocessors to fill, tiles are as large as the matrix.
    assert_eq!(chosen(1, [128, 256, 64], 16), names("128x256"));
}

#[test]
fn operands_that_cannot_be_copied_by_chunks_are_multiplied_without_tensor_cores() {
    assert_eq!(chosen(108, [512, 512, 512], 18), names("32"));
    assert_eq!(chosen(108, [4096, 4096, 4096], 18), names("128"));
    // Last dimensions: k and k, k and n, m and n.
    let of_k = chosen(108, [64, 64, 60], 16);
    assert_eq!(of_k, ["gemm_nt_bf16_32", "gemm_nn_bf16_32", "gemm_tn_bf16_64x64"]);
    let of_n = chosen(108, [64, 60, 64], 16);
    assert_eq!(of_n, ["gemm_nt_bf16_64x64", "gemm_nn_bf16_32", "gemm_tn_bf16_32"]);
    let of_m = chosen(108, [60, 64, 64], 16);
    assert_eq!(of_m, ["gemm_nt_bf16_64x64", "gemm_nn_bf16_64x64", "gemm_tn_bf16_32"]);
}

#[test]
fn a_kernel_refuses_rows_that_are_no_multiples_of_chunks() {
    let emulator = Emulator::new(SCHEDULES[0]);
    let (a, b, mut out) = (random::<Bf16>(1, 44), random::<Bf16>(2, 44), [Bf16(0); 16]);
    let result =
        gemm_nt_bf16_64x64(&emulator, a.read(), b.read(), Slice::default(), slice_mut(&mut out), 4, 4, 11, 0);
    assert!(
        matches!(result, Err(LaunchError::Requirement { requirement: "k.is_multiple_of(8)", .. })),
        "{result:?}"
    );
}

/// 128 multiprocessors.
fn parts(sizes: [u64; 3]) -> u32 {
    Bf16::gemm_splits(&Record::of((8, 0), 128), sizes)
}

#[test]
fn products_of_few_tiles_and_many_terms_are_cut() {
    // Hidden states behind a large head; the weight of keys of a small layer.
    assert!(parts([512, 896, 151_936]) >= 4);
    assert!(parts([128, 896, 8192]) > 1);
    // Tiles enough, terms too few, or sums that would not fit.
    assert_eq!(parts([8192, 4096, 4096]), 1);
    assert_eq!(parts([128, 128, 256]), 1);
    assert_eq!(parts([151_936, 896, 512]), 1);
    assert_eq!(parts([0, 8, 4096]), 1);
    for sizes @ [m, n, _] in [[64, 64, 1 << 20], [1024, 1024, 1 << 16], [896, 896, 8192]] {
        let parts = u64::from(parts(sizes));
        assert!(parts > 1 && 4 * parts * m * n <= SPLIT_K_BYTES, "{sizes:?}: {parts}");
    }
}

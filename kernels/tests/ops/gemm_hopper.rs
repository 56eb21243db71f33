//! Products by Hopper's kernels against f64: every tile, layout and edge.

use crate::common::product::{
    self, F32_UNIT, Matrix, assert_product, check_forward, check_input_gradients, check_weight_gradients,
};
use crate::common::{Buffer, Record, SCHEDULES, random, to_bits, widen};
use cpift_kernels::dispatch::gemm_hopper::*;
use cpift_kernels::emulator::Emulator;
use cpift_kernels::launch::{LaunchError, SliceMut};
use cpift_kernels::simt::{Bf16, Real};

/// Runs both tiles in every schedule on one multiprocessor, which then has all tiles, and on two, which share
/// them; demands the same bits of all, and gives them.
fn same_bits<C: Real>(
    what: &str,
    start: &[C],
    run: impl Fn(&Emulator, usize, SliceMut<C>) -> Result<(), LaunchError>,
) -> Vec<C> {
    let mut results: Vec<Vec<C>> = Vec::new();
    for (halves, schedule, multiprocessors) in
        [(1, 0, 1), (1, 1, 2), (1, 2, 2), (2, 0, 2), (2, 1, 1), (2, 2, 1)]
    {
        let emulator = Emulator::new(SCHEDULES[schedule]).like((9, 0), multiprocessors);
        let mut out = Buffer::from_slice(start);
        run(&emulator, halves, out.write())
            .unwrap_or_else(|error| panic!("{what}, {halves} halves: {error}"));
        results.push(out.as_slice().to_vec());
    }
    for other in &results[1..] {
        assert!(to_bits(other) == to_bits(&results[0]), "{what} differs by tile, schedule or blocks");
    }
    results.swap_remove(0)
}

/// m, n, k with k a multiple of 8: one element; k longer than both rings, with an edge; edges of tiles both ways,
/// several tiles for a block.
const NT: [[usize; 3]; 3] = [[1, 1, 8], [67, 9, 456], [130, 260, 72]];

#[test]
fn forward_products() {
    check_forward(&NT, |what, [a, b], (bias, biased), start, sizes| {
        same_bits(what, start, |emulator, halves, out| {
            gemm_nt_hopper(emulator, halves, a, b, biased.then_some(bias), out, sizes)
        })
    });
}

#[test]
fn forward_products_in_f32() {
    let [m, n, k] = [70, 132, 136];
    let (a, b, bias) = (random::<Bf16>(1, m * k), random::<Bf16>(2, n * k), random::<f32>(3, n));
    let poison = Buffer::<f32>::poisoned(m * n);
    let factors = (&Matrix::new(a.as_slice(), k, false), &Matrix::new(b.as_slice(), k, true));
    let out = same_bits("nt in f32", poison.as_slice(), |emulator, halves, out| {
        let sizes = [m, n, k].map(|size| size as u64);
        gemm_nt_hopper(emulator, halves, a.read(), b.read(), Some(bias.read()), out, sizes)
    });
    let bias = widen(bias.as_slice());
    assert_product("nt in f32", &out, factors, (n, k), |_, column| bias[column], F32_UNIT);
}

/// As [`NT`], n a multiple of 8 as well.
const NN: [[usize; 3]; 3] = [[1, 8, 8], [67, 16, 456], [130, 264, 72]];

#[test]
fn gradients_of_inputs() {
    check_input_gradients(&NN, |what, [a, b], accumulate, start, sizes| {
        same_bits(what, start, |emulator, halves, out| {
            gemm_nn_hopper(emulator, halves, a, b, out, sizes, accumulate)
        })
    });
}

/// m, n, k with m and n multiples of 8, k anything.
const TN: [[usize; 3]; 3] = [[8, 8, 1], [72, 16, 453], [136, 264, 70]];

#[test]
fn gradients_of_weights() {
    check_weight_gradients(&TN, |what, [a, b], before, sizes| {
        same_bits(what, before, |emulator, halves, out| gemm_tn_hopper(emulator, halves, a, b, out, sizes))
    });
}

/// The kernels chosen for the three layouts, with operands at `address`.
fn chosen(compute_capability: (u32, u32), sizes: [u64; 3], address: u64) -> Vec<&'static str> {
    product::chosen(Record::of(compute_capability, 132), sizes, address)
}

fn names(kind: &str, tile: &str) -> [String; 3] {
    ["nt", "nn", "tn"].map(|layout| format!("gemm_{layout}_{kind}_{tile}"))
}

#[test]
fn hopper_has_kernels_of_its_own_for_all_but_few_tiles() {
    assert_eq!(chosen((9, 0), [8192, 8192, 4096], 16), names("hopper", "128x256"));
    // 132 tiles of 128 by 128, one for each multiprocessor.
    assert_eq!(chosen((9, 0), [1408, 1536, 4096], 16), names("hopper", "128x128"));
    assert_eq!(chosen((9, 0), [512, 512, 4096], 16), names("bf16", "64x64"));
    for other in [(8, 0), (8, 9), (10, 0), (12, 0)] {
        assert_eq!(chosen(other, [8192, 8192, 4096], 16), names("bf16", "128x256"));
    }
}

#[test]
fn what_tma_cannot_take_is_left_to_other_kernels() {
    assert_eq!(chosen((9, 0), [4096, 4096, 4096], 18), names("bf16", "128"));
    let of_k = chosen((9, 0), [8192, 8192, 4100], 16);
    assert_eq!(of_k, ["gemm_nt_bf16_128", "gemm_nn_bf16_128", "gemm_tn_hopper_128x256"]);
    // With k = 0 there is nothing to copy.
    assert!(chosen((9, 0), [8192, 8192, 0], 16).iter().all(|name| !name.contains("hopper")));
}

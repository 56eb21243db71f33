//! Products cut along k against f64: ragged shapes, more splits than stages, the same bits in every schedule.

use crate::common::product::{Matrix, assert_product};
use crate::common::{Buffer, SCHEDULES, random, to_bits, widen};
use cpift_kernels::emulator::Emulator;
use cpift_kernels::gemm::*;
use cpift_kernels::launch::{Launch, LaunchError, Slice, SliceMut};
use cpift_kernels::simt::{Bf16, Real};

/// m, n, k and splits: one split, ragged splits and edges, an empty split, k = 0.
const CASES: [([usize; 3], u32); 6] = [
    ([8, 8, 64], 1),
    ([136, 72, 296], 3),
    ([72, 136, 200], 2),
    ([16, 8, 72], 5),
    ([64, 264, 520], 4),
    ([8, 16, 0], 2),
];

type Parts =
    fn(&dyn Launch, Slice<Bf16>, Slice<Bf16>, SliceMut<f32>, u64, u64, u64, u32) -> Result<(), LaunchError>;
type Add<C> = fn(&dyn Launch, Slice<f32>, SliceMut<C>, u64, u32, u32) -> Result<(), LaunchError>;

/// Runs both kernels in all schedules, twice in one of them; demands the same bits, and that tiles make no
/// difference. Gives the result.
fn same_bits<C: Real>(
    what: &str,
    [a, b]: [Slice<Bf16>; 2],
    start: &Buffer<C>,
    (kernels, add, accumulate): ([Parts; 2], Add<C>, bool),
    ([m, n, k], splits): ([usize; 3], u32),
) -> Vec<C> {
    let mut results = Vec::new();
    let schedules = [SCHEDULES[0]].into_iter().chain(SCHEDULES);
    for (kernel, schedule) in
        kernels.into_iter().flat_map(|kernel| schedules.clone().map(move |s| (kernel, s)))
    {
        let emulator = Emulator::new(schedule);
        let mut sums = Buffer::<f32>::poisoned(splits as usize * m * n);
        let mut out = Buffer::from_slice(start.as_slice());
        kernel(&emulator, a, b, sums.write(), m as u64, n as u64, k as u64, splits).expect(what);
        add(&emulator, sums.read(), out.write(), (m * n) as u64, splits, accumulate.into()).expect(what);
        results.push(out.as_slice().to_vec());
    }
    for other in &results[1..] {
        assert!(to_bits(other) == to_bits(&results[0]), "{what} differs by tile, schedule or run");
    }
    results.swap_remove(0)
}

#[test]
fn gradients_of_inputs_in_parts() {
    for case @ ([m, n, k], splits) in CASES {
        let (a, b, before) = (random::<Bf16>(1, m * k), random::<Bf16>(2, n * k), random::<Bf16>(4, m * n));
        let factors = (&Matrix::new(a.as_slice(), k, false), &Matrix::new(b.as_slice(), n, false));
        for accumulate in [false, true] {
            let what = format!("nn {m} by {n} by {k} in {splits}, accumulate: {accumulate}");
            let start =
                if accumulate { Buffer::from_slice(before.as_slice()) } else { Buffer::poisoned(m * n) };
            let kernels = [gemm_nn_split_k_128x128 as Parts, gemm_nn_split_k_64x64];
            let how = (kernels, gemm_split_k_sum as Add<Bf16>, accumulate);
            let out = same_bits(&what, [a.read(), b.read()], &start, how, case);
            let before = widen(before.as_slice());
            let start = |row, column| if accumulate { before[row * n + column] } else { 0.0 };
            assert_product(&what, &out, factors, (n, k), start, 1.0 / 128.0);
        }
    }
}

#[test]
fn gradients_of_weights_in_parts() {
    for case @ ([m, n, k], splits) in CASES {
        // Any k.
        let k = k.saturating_sub(3);
        let case = ([m, n, k], case.1);
        let (a, b, before) = (random::<Bf16>(1, m * k), random::<Bf16>(2, n * k), random::<f32>(5, m * n));
        let factors = (&Matrix::new(a.as_slice(), m, true), &Matrix::new(b.as_slice(), n, false));
        let what = format!("tn {m} by {n} by {k} in {splits}");
        let how =
            ([gemm_tn_split_k_128x128 as Parts, gemm_tn_split_k_64x64], gemm_split_k_sum as Add<f32>, true);
        let out = same_bits(&what, [a.read(), b.read()], &before, how, case);
        let before = widen(before.as_slice());
        let start = |row, column| before[row * n + column];
        assert_product(&what, &out, factors, (n, k), start, 1.0 / (1u64 << 23) as f64);
    }
}

/// Elements that vectors do not fit, behind a split of its own length.
#[test]
fn parts_of_any_length_are_added_in_order() {
    let (count, splits) = (2 * 2048 + 13, 3);
    let sums = random::<f32>(1, splits * count);
    let expected =
        |index: usize| (0..splits).map(|p| sums.as_slice()[p * count + index]).fold(0.0, |a, b| a + b);
    for schedule in SCHEDULES {
        let mut out = Buffer::<f32>::poisoned(count);
        gemm_split_k_sum(&Emulator::new(schedule), sums.read(), out.write(), count as u64, splits as u32, 0)
            .unwrap();
        assert!(out.as_slice().iter().enumerate().all(|(index, &sum)| sum == expected(index)));
    }
}

//! Products and column sums against f64.

use crate::common::product::{Matrix, assert_product};
use crate::common::{Buffer, Record, SCHEDULES, random, slice, slice_mut, to_bits, widen};
use cpift_kernels::dispatch::gemm::GemmElement;
use cpift_kernels::emulator::Emulator;
use cpift_kernels::gemm::*;
use cpift_kernels::launch::{Launch, LaunchError, MULTIPROCESSORS, Slice, SliceMut};
use cpift_kernels::simt::{Bf16, Element, Real};

type Done = Result<(), LaunchError>;
type Nt<E> = fn(&dyn Launch, Slice<E>, Slice<E>, Slice<E>, SliceMut<E>, u64, u64, u64, u32) -> Done;
type Nn<E> = fn(&dyn Launch, Slice<E>, Slice<E>, SliceMut<E>, u64, u64, u64, u32) -> Done;
type Tn<E> = fn(&dyn Launch, Slice<E>, Slice<E>, SliceMut<f32>, u64, u64, u64) -> Done;

/// The kernels of one precision, for large tiles and for small ones.
struct Kernels<E: Element> {
    nt: [Nt<E>; 2],
    nn: [Nn<E>; 2],
    tn: [Tn<E>; 2],
}

fn kernels<E: Real>() -> Kernels<E> {
    Kernels { nt: [gemm_nt_128, gemm_nt_32], nn: [gemm_nn_128, gemm_nn_32], tn: [gemm_tn_128, gemm_tn_32] }
}

/// m, n, k: one element, one row, multiples of nothing, of vectors, of a slab, of a tile; more than one tile
/// each way; more than sixteen small tiles of rows; no terms.
const SHAPES: [(usize, usize, usize); 9] = [
    (1, 1, 1),
    (1, 40, 33),
    (3, 17, 5),
    (40, 24, 72),
    (32, 128, 16),
    (130, 131, 37),
    (136, 160, 24),
    (530, 40, 3),
    (5, 9, 0),
];

/// Runs both kernels in every schedule, and on operands one element behind alignment; demands the same bits of
/// all, and gives them.
fn same_bits<C: Real, F>(
    emulators: &[Emulator],
    what: &str,
    start: &[C],
    both: [F; 2],
    run: impl Fn(&Emulator, &F, usize, SliceMut<C>),
) -> Vec<C> {
    let mut results: Vec<Vec<C>> = Vec::new();
    for launch in &both {
        for (index, emulator) in emulators.iter().enumerate() {
            let offsets: &[usize] = if index == 0 { &[0, 1] } else { &[0] };
            for &offset in offsets {
                let mut out = Buffer::from_slice(&[&start[..offset.min(start.len())], start].concat());
                run(emulator, launch, offset, slice_mut(&mut out.as_mut_slice()[offset..]));
                results.push(out.as_slice()[offset..].to_vec());
            }
        }
    }
    for other in &results[1..] {
        assert!(to_bits(other) == to_bits(&results[0]), "{what} differs by tile, schedule or alignment");
    }
    results.swap_remove(0)
}

/// The same numbers at element 0 and at element 1 of an aligned buffer.
struct Operand<E: Element>([Buffer<E>; 2]);

impl<E: Real> Operand<E> {
    fn random(seed: u64, length: usize) -> Self {
        let values = random::<E>(seed, length);
        let mut shifted = Buffer::poisoned(length + 1);
        shifted.as_mut_slice()[1..].copy_from_slice(values.as_slice());
        Self([values, shifted])
    }

    fn values(&self) -> &[E] {
        self.0[0].as_slice()
    }

    fn at(&self, offset: usize) -> Slice<'_, E> {
        slice(&self.0[offset].as_slice()[offset..])
    }
}

/// All three products of a precision whose units are `unit` of a number.
fn check_products<E: Real>(kernels: &Kernels<E>, unit: f64) {
    let emulators = SCHEDULES.map(Emulator::new);
    for (m, n, k) in SHAPES {
        let sizes = format!("{m} by {n} by {k}");
        let (a, b) = (Operand::<E>::random(1, m * k), Operand::<E>::random(2, n * k));
        let (bias, before) = (Operand::<E>::random(3, n), random::<E>(4, m * n));
        let poison = Buffer::<E>::poisoned(m * n);
        let (m_, n_, k_) = (m as u64, n as u64, k as u64);

        let factors = (&Matrix::new(a.values(), k, false), &Matrix::new(b.values(), k, true));
        for biased in [false, true] {
            let what = format!("nt {sizes}, bias: {biased}");
            let out = same_bits(
                &emulators,
                &what,
                poison.as_slice(),
                kernels.nt,
                |emulator, launch, offset, out| {
                    let (a, b, bias) = (a.at(offset), b.at(offset), bias.at(offset));
                    launch(emulator, a, b, bias, out, m_, n_, k_, u32::from(biased)).expect("runs");
                },
            );
            let bias = widen(bias.values());
            let start = |_: usize, column: usize| if biased { bias[column] } else { 0.0 };
            assert_product(&what, &out, factors, (n, k), start, unit);
        }

        let factors = (&Matrix::new(a.values(), k, false), &Matrix::new(b.values(), n, false));
        for accumulate in [false, true] {
            let what = format!("nn {sizes}, accumulate: {accumulate}");
            let start = if accumulate { &before } else { &poison };
            let out = same_bits(
                &emulators,
                &what,
                start.as_slice(),
                kernels.nn,
                |emulator, launch, offset, out| {
                    let (a, b) = (a.at(offset), b.at(offset));
                    launch(emulator, a, b, out, m_, n_, k_, u32::from(accumulate)).expect("runs");
                },
            );
            let before = widen(before.as_slice());
            let start = |row, column| if accumulate { before[row * n + column] } else { 0.0 };
            assert_product(&what, &out, factors, (n, k), start, unit);
        }

        let factors = (&Matrix::new(a.values(), m, true), &Matrix::new(b.values(), n, false));
        let before = random::<f32>(5, m * n);
        let what = format!("tn {sizes}");
        let out =
            same_bits(&emulators, &what, before.as_slice(), kernels.tn, |emulator, launch, offset, out| {
                launch(emulator, a.at(offset), b.at(offset), out, m_, n_, k_).expect("runs");
            });
        let before = widen(before.as_slice());
        assert_product(&what, &out, factors, (n, k), |row, column| before[row * n + column], 2f64.powi(-23));
    }
}

#[test]
fn products_of_f32() {
    check_products(&kernels::<f32>(), 2f64.powi(-23));
}

#[test]
fn products_of_bf16() {
    check_products(&kernels::<Bf16>(), 2f64.powi(-7));
}

#[test]
fn tiles_are_small_where_large_ones_would_be_few_or_empty() {
    let names = |m: u64, n: u64, k: u64| {
        let record = Record::of((8, 0), MULTIPROCESSORS);
        // SAFETY: nothing runs.
        let buffer = |length: u64| unsafe { Slice::<f32>::new(16, length as usize) };
        // SAFETY: nothing runs.
        let out = || unsafe { SliceMut::<f32>::new(16, (m * n) as usize) };
        let (a, b, mut no_sums) = (buffer(m * k), buffer(n * k), Buffer::poisoned(0));
        f32::gemm_nt(&record, a, b, None, out(), [m, n, k]).expect("records");
        f32::gemm_nn(&record, [a, b], no_sums.write(), out(), [m, n, k], true).expect("records");
        f32::gemm_tn(&record, [a, b], no_sums.write(), out(), [m, n, k]).expect("records");
        record.names()
    };
    let large = ["gemm_nt_f32_128", "gemm_nn_f32_128", "gemm_tn_f32_128"];
    let small = ["gemm_nt_f32_32", "gemm_nn_f32_32", "gemm_tn_f32_32"];
    assert_eq!(names(4096, 4096, 4096), large);
    assert_eq!(names(100, 150_000, 4096), large);
    // Few rows, few columns, few tiles.
    assert_eq!(names(8, 150_000, 4096), small);
    assert_eq!(names(150_000, 32, 4096), small);
    assert_eq!(names(256, 256, 8192), small);
    assert!(names(0, 256, 8192).is_empty());
}

#[test]
fn bias_is_optional_and_sizes_are_bounded() {
    let emulator = Emulator::new(SCHEDULES[0]);
    let (a, b, bias) = (random::<f32>(1, 2 * 3), random::<f32>(2, 4 * 3), random::<f32>(3, 4));
    let (mut with, mut without) = (Buffer::<f32>::poisoned(8), Buffer::<f32>::poisoned(8));
    f32::gemm_nt(&emulator, a.read(), b.read(), Some(bias.read()), with.write(), [2, 4, 3]).expect("runs");
    f32::gemm_nt(&emulator, a.read(), b.read(), None, without.write(), [2, 4, 3]).expect("runs");
    for (index, (with, without)) in with.as_slice().iter().zip(without.as_slice()).enumerate() {
        // The same sum before the bias is added.
        assert_eq!(*with, without + bias.as_slice()[index % 4]);
    }
    let short =
        f32::gemm_nt(&emulator, a.read(), b.read(), None, with.write(), [2, 4, 4]).expect_err("short");
    assert_eq!(short.to_string(), "kernel gemm_nt_f32_32: a has 6 elements, needs 8");
    let wide = f32::gemm_nt(&emulator, a.read(), b.read(), None, with.write(), [1 << 31, 4, 3]);
    assert!(matches!(wide, Err(LaunchError::Requirement { requirement: "m < 1 << 31", .. })), "{wide:?}");
}

fn check_column_sums<E: Real>() {
    let emulators = SCHEDULES.map(Emulator::new);
    for (rows, columns) in [(0, 5), (1, 1), (3, 33), (16, 64), (300, 70), (129, 31)] {
        let matrix = random::<E>(6, rows * columns);
        let before = random::<f32>(7, columns);
        let mut results = Vec::new();
        for emulator in &emulators {
            let mut sums = Buffer::from_slice(before.as_slice());
            gemm_column_sums(emulator, matrix.read(), sums.write(), rows as u64, columns as u64)
                .expect("runs");
            results.push(sums);
        }
        assert!(results.iter().all(|sums| to_bits(sums.as_slice()) == to_bits(results[0].as_slice())));
        let values = widen(matrix.as_slice());
        for (column, sum) in widen(results[0].as_slice()).into_iter().enumerate() {
            let terms = (0..rows).map(|row| values[row * columns + column]);
            let start = f64::from(before.as_slice()[column]);
            let (expected, magnitude) = terms
                .fold((start, start.abs()), |(sum, magnitude), term| (sum + term, magnitude + term.abs()));
            // Roundings on one term's way: rows of its warp by eights, eight partial sums, sixteen warps.
            let bound = (rows / 128 + 16 + 3 + 16 + 1) as f64 * 2f64.powi(-24) * magnitude;
            assert!(
                (sum - expected).abs() <= bound,
                "{rows} by {columns}: sum {column} is {sum}, not {expected}"
            );
        }
    }
}

#[test]
fn column_sums() {
    check_column_sums::<f32>();
    check_column_sums::<Bf16>();
}

//! Products in f64.

use cpift_kernels::dispatch::gemm::{GemmElement, gemm_nn_bf16, gemm_tn_bf16};
use cpift_kernels::launch::{Slice, SliceMut};
use cpift_kernels::simt::{Bf16, Real};

use super::{Buffer, Record, random, widen};

/// Half a unit in the last place of a bf16 is this of it, at most.
pub const BF16_UNIT: f64 = 1.0 / 128.0;
/// The same of an f32.
pub const F32_UNIT: f64 = 1.0 / (1u64 << 23) as f64;

/// A matrix, and its elements' places: row-major or transposed.
pub struct Matrix {
    values: Vec<f64>,
    columns: usize,
    transposed: bool,
}

impl Matrix {
    /// `values` by rows of `columns`, of which it is the transpose if `transposed`.
    pub fn new<E: Real>(values: &[E], columns: usize, transposed: bool) -> Self {
        Self { values: widen(values), columns, transposed }
    }

    /// An element.
    pub fn at(&self, row: usize, column: usize) -> f64 {
        let (row, column) = if self.transposed { (column, row) } else { (row, column) };
        self.values[row * self.columns + column]
    }
}

/// Fails unless `actual` is start + a·b, start given by element.
///
/// A sum of k fused multiply-adds in f32, then one addition, errs by at most k + 1 roundings of what the
/// magnitudes add up to; then comes the rounding to the output, to half of `unit`.
#[track_caller]
pub fn assert_product<C: Real>(
    what: &str,
    actual: &[C],
    (a, b): (&Matrix, &Matrix),
    (n, k): (usize, usize),
    start: impl Fn(usize, usize) -> f64,
    unit: f64,
) {
    for (index, actual) in widen(actual).into_iter().enumerate() {
        let (row, column) = (index / n, index % n);
        let start = start(row, column);
        let (mut expected, mut magnitude) = (start, start.abs());
        for index in 0..k {
            let product = a.at(row, index) * b.at(index, column);
            expected += product;
            magnitude += product.abs();
        }
        let bound = (k + 1) as f64 * 2f64.powi(-24) * magnitude;
        let bound = bound + 0.5 * unit * (expected.abs() + bound);
        // Written so that NaN fails.
        assert!(
            (actual - expected).abs() <= bound,
            "{what}[{row}, {column}] is {actual}, not {expected}: bound {bound:e}"
        );
    }
}

/// Two operands on the device.
pub type Operands<'a> = [Slice<'a, Bf16>; 2];

/// Holds what `run` makes of a·bᵀ against f64, for each m, n, k without and with a bias. `run` is given what is
/// computed, the operands, the bias if there is one, what the output is before, and m, n, k.
pub fn check_forward(
    sizes: &[[usize; 3]],
    run: impl Fn(&str, Operands<'_>, (Slice<'_, Bf16>, bool), &[Bf16], [u64; 3]) -> Vec<Bf16>,
) {
    for &[m, n, k] in sizes {
        let (a, b, bias) = (random::<Bf16>(1, m * k), random::<Bf16>(2, n * k), random::<Bf16>(3, n));
        let poison = Buffer::<Bf16>::poisoned(m * n);
        let factors = (&Matrix::new(a.as_slice(), k, false), &Matrix::new(b.as_slice(), k, true));
        let values = widen(bias.as_slice());
        for biased in [false, true] {
            let what = format!("nt {m} by {n} by {k}, bias: {biased}");
            let sizes = [m, n, k].map(|size| size as u64);
            let out = run(&what, [a.read(), b.read()], (bias.read(), biased), poison.as_slice(), sizes);
            let start = |_: usize, column: usize| if biased { values[column] } else { 0.0 };
            assert_product(&what, &out, factors, (n, k), start, BF16_UNIT);
        }
    }
}

/// The same of a·b, alone and added to what is there. `run` is given whether it adds.
pub fn check_input_gradients(
    sizes: &[[usize; 3]],
    run: impl Fn(&str, Operands<'_>, bool, &[Bf16], [u64; 3]) -> Vec<Bf16>,
) {
    for &[m, n, k] in sizes {
        let (a, b, before) = (random::<Bf16>(1, m * k), random::<Bf16>(2, n * k), random::<Bf16>(4, m * n));
        let poison = Buffer::<Bf16>::poisoned(m * n);
        let factors = (&Matrix::new(a.as_slice(), k, false), &Matrix::new(b.as_slice(), n, false));
        let values = widen(before.as_slice());
        for accumulate in [false, true] {
            let what = format!("nn {m} by {n} by {k}, accumulate: {accumulate}");
            let start = if accumulate { &before } else { &poison };
            let sizes = [m, n, k].map(|size| size as u64);
            let out = run(&what, [a.read(), b.read()], accumulate, start.as_slice(), sizes);
            let start = |row, column| if accumulate { values[row * n + column] } else { 0.0 };
            assert_product(&what, &out, factors, (n, k), start, BF16_UNIT);
        }
    }
}

/// The same of aᵀ·b, added to what is there.
pub fn check_weight_gradients(
    sizes: &[[usize; 3]],
    run: impl Fn(&str, Operands<'_>, &[f32], [u64; 3]) -> Vec<f32>,
) {
    for &[m, n, k] in sizes {
        let (a, b, before) = (random::<Bf16>(1, m * k), random::<Bf16>(2, n * k), random::<f32>(5, m * n));
        let factors = (&Matrix::new(a.as_slice(), m, true), &Matrix::new(b.as_slice(), n, false));
        let what = format!("tn {m} by {n} by {k}");
        let sizes = [m, n, k].map(|size| size as u64);
        let out = run(&what, [a.read(), b.read()], before.as_slice(), sizes);
        let before = widen(before.as_slice());
        assert_product(&what, &out, factors, (n, k), |row, column| before[row * n + column], F32_UNIT);
    }
}

/// The kernels chosen for the three layouts, with operands at `address`.
pub fn chosen(record: Record, [m, n, k]: [u64; 3], address: u64) -> Vec<&'static str> {
    // SAFETY: nothing runs.
    let buffer = |length: u64| unsafe { Slice::<Bf16>::new(address, length as usize) };
    // SAFETY: nothing runs.
    let out = || unsafe { SliceMut::<Bf16>::new(16, (m * n) as usize) };
    // SAFETY: nothing runs.
    let sums = unsafe { SliceMut::<f32>::new(16, (m * n) as usize) };
    let (a, b) = (buffer(m * k), buffer(n * k));
    Bf16::gemm_nt(&record, a, b, None, out(), [m, n, k]).expect("records");
    gemm_nn_bf16(&record, [a, b], out(), [m, n, k], true).expect("records");
    gemm_tn_bf16(&record, [a, b], sums, [m, n, k]).expect("records");
    record.names()
}

//! RMSNorm kernels against an f64 oracle; the backward against the derivative written out in f64.

use crate::common::*;
use cpift_kernels::emulator::Emulator;
use cpift_kernels::launch::{Launch, LaunchError, Slice, SliceMut};
use cpift_kernels::rms_norm::*;
use cpift_kernels::simt::{Bf16, Real};

const EPSILON: f32 = 1e-5;

type Forward<E> = fn(
    &dyn Launch,
    Slice<'_, E>,
    Slice<'_, E>,
    SliceMut<'_, E>,
    SliceMut<'_, f32>,
    u64,
    u32,
    f32,
    f32,
) -> Result<(), LaunchError>;
type Residual<E> = fn(
    &dyn Launch,
    Slice<'_, E>,
    Slice<'_, E>,
    Slice<'_, E>,
    SliceMut<'_, E>,
    SliceMut<'_, E>,
    SliceMut<'_, f32>,
    u64,
    u32,
    f32,
    f32,
) -> Result<(), LaunchError>;
type Backward<E> = fn(
    &dyn Launch,
    Slice<'_, E>,
    Slice<'_, E>,
    Slice<'_, f32>,
    Slice<'_, E>,
    SliceMut<'_, E>,
    SliceMut<'_, f32>,
    u64,
    u32,
    u32,
    f32,
) -> Result<(), LaunchError>;

struct Kernels<E: Real> {
    forward: Forward<E>,
    residual: Residual<E>,
    backward: Backward<E>,
    weight_offset: f32,
    /// Relative to the largest of a row or of all columns.
    tolerance: f64,
}

impl<E: Real> Kernels<E> {
    fn short(tolerance: f64) -> Self {
        Self {
            forward: rms_norm_short,
            residual: rms_norm_residual_short,
            backward: rms_norm_backward_short,
            weight_offset: 0.0,
            tolerance,
        }
    }

    fn middle(tolerance: f64) -> Self {
        Self {
            forward: rms_norm_middle,
            residual: rms_norm_residual_middle,
            backward: rms_norm_backward_middle,
            weight_offset: 0.0,
            tolerance,
        }
    }

    fn long(tolerance: f64) -> Self {
        Self {
            forward: rms_norm_long,
            residual: rms_norm_residual_long,
            backward: rms_norm_backward_long,
            weight_offset: 0.0,
            tolerance,
        }
    }
}

/// A few roundings and sums of up to 33 terms in a row.
const F32: f64 = 2e-6;
/// The rounding of the result, 2^-8 of it.
const BF16: f64 = 4e-3;

/// Rows, columns, blocks of the backward.
type Shape = (usize, usize, u32);
const SHORT_SHAPES: [Shape; 5] = [(1, 1, 1), (33, 64, 2), (200, 80, 3), (70, 128, 1), (65, 75, 2)];
const MIDDLE_SHAPES: [Shape; 4] = [(1, 512, 1), (20, 136, 2), (35, 301, 2), (9, 511, 1)];
/// Ragged and even, within registers and beyond.
const LONG_SHAPES: [Shape; 4] = [(5, 1032, 2), (3, 515, 3), (3, 4107, 2), (3, 4200, 1)];

/// 1/√(mean(x²) + ε).
fn inverse_rms(x: &[f64]) -> f64 {
    1.0 / (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + f64::from(EPSILON)).sqrt()
}

/// What the rows are multiplied by.
fn offset_weights<E: Real>(kernels: &Kernels<E>, weights: &[E]) -> Vec<f64> {
    widen(weights).into_iter().map(|weight| f64::from(kernels.weight_offset) + weight).collect()
}

fn check<E: Real>(kernels: &Kernels<E>, shapes: &[Shape]) {
    for &shape in shapes {
        for offset in [0, 1] {
            let results = SCHEDULES.map(|schedule| {
                let emulator = Emulator::new(schedule);
                let forward = check_forward(kernels, &emulator, shape, offset);
                (forward, check_backward(kernels, &emulator, shape, offset))
            });
            assert!(results.iter().all(|result| *result == results[0]), "{shape:?} in different orders");
        }
    }
}

/// With and without the residual; the bits of the outputs.
fn check_forward<E: Real>(
    kernels: &Kernels<E>,
    emulator: &Emulator,
    (rows, columns, _): Shape,
    offset: usize,
) -> Vec<u32> {
    let elements = rows * columns;
    let (residual, delta) = (random::<E>(1, elements + offset), random::<E>(2, elements + offset));
    let weight = random::<E>(3, columns + offset);
    let mut sum = Buffer::<E>::poisoned(elements + offset);
    let mut output = Buffer::<E>::poisoned(elements + offset);
    let mut r = Buffer::<f32>::poisoned(rows);
    (kernels.residual)(
        emulator,
        slice(&residual.as_slice()[offset..]),
        slice(&delta.as_slice()[offset..]),
        slice(&weight.as_slice()[offset..]),
        slice_mut(&mut sum.as_mut_slice()[offset..]),
        slice_mut(&mut output.as_mut_slice()[offset..]),
        r.write(),
        rows as u64,
        columns as u32,
        EPSILON,
        kernels.weight_offset,
    )
    .unwrap();
    let sum = &sum.as_slice()[offset..];
    let terms = residual.as_slice()[offset..].iter().zip(&delta.as_slice()[offset..]);
    let expected: Vec<E> = terms.map(|(x, y)| E::from_f32(x.to_f32() + y.to_f32())).collect();
    assert_eq!(to_bits(sum), to_bits(&expected), "sum");
    let weights = offset_weights(kernels, &weight.as_slice()[offset..]);
    let outputs = output.as_slice()[offset..].chunks_exact(columns);
    for (row, (x, output)) in widen(sum).chunks_exact(columns).zip(outputs).enumerate() {
        let expected = inverse_rms(x);
        assert_close("r", &r.as_slice()[row..=row], &[expected], 1e-6);
        let expected: Vec<f64> = x.iter().zip(&weights).map(|(x, weight)| x * expected * weight).collect();
        assert_close("output", output, &expected, kernels.tolerance);
    }

    let input = Buffer::from_slice(&[&residual.as_slice()[..offset], sum].concat());
    let mut plain = Buffer::<E>::poisoned(elements + offset);
    let mut plain_r = Buffer::<f32>::poisoned(rows);
    (kernels.forward)(
        emulator,
        slice(&input.as_slice()[offset..]),
        slice(&weight.as_slice()[offset..]),
        slice_mut(&mut plain.as_mut_slice()[offset..]),
        plain_r.write(),
        rows as u64,
        columns as u32,
        EPSILON,
        kernels.weight_offset,
    )
    .unwrap();
    assert_eq!(to_bits(plain.as_slice()), to_bits(output.as_slice()), "with and without residual");
    assert_eq!(to_bits(plain_r.as_slice()), to_bits(r.as_slice()));
    [to_bits(&output.as_slice()[offset..]), to_bits(r.as_slice())].concat()
}

/// The bits of d_input and d_weight.
fn check_backward<E: Real>(
    kernels: &Kernels<E>,
    emulator: &Emulator,
    (rows, columns, blocks): Shape,
    offset: usize,
) -> Vec<u32> {
    let elements = rows * columns;
    let (input, d_output) = (random::<E>(1, elements + offset), random::<E>(2, elements + offset));
    let weight = random::<E>(3, columns + offset);
    let mut d_input = random::<E>(4, elements + offset);
    let mut d_weight = random::<f32>(5, columns);
    let (x, d) = (widen(&input.as_slice()[offset..]), widen(&d_output.as_slice()[offset..]));
    let weights = offset_weights(kernels, &weight.as_slice()[offset..]);
    let r: Vec<f64> = x.chunks_exact(columns).map(inverse_rms).collect();
    let (mut d_x, mut d_w) = (widen(&d_input.as_slice()[offset..]), widen(d_weight.as_slice()));
    for (row, &r) in r.iter().enumerate() {
        let range = row * columns..(row + 1) * columns;
        let (x, d) = (&x[range.clone()], &d[range.clone()]);
        let mean = (0..columns).map(|c| d[c] * weights[c] * x[c]).sum::<f64>() / columns as f64;
        for (c, d_x) in d_x[range].iter_mut().enumerate() {
            *d_x += r * (d[c] * weights[c] - x[c] * r * r * mean);
            d_w[c] += d[c] * x[c] * r;
        }
    }

    let r: Vec<f32> = r.into_iter().map(|r| r as f32).collect();
    let mut partials = Buffer::<f32>::poisoned(blocks as usize * columns);
    (kernels.backward)(
        emulator,
        slice(&input.as_slice()[offset..]),
        slice(&weight.as_slice()[offset..]),
        slice(&r),
        slice(&d_output.as_slice()[offset..]),
        slice_mut(&mut d_input.as_mut_slice()[offset..]),
        partials.write(),
        rows as u64,
        columns as u32,
        blocks,
        kernels.weight_offset,
    )
    .unwrap();
    rms_norm_weight_gradient(emulator, partials.read(), d_weight.write(), columns as u32, blocks).unwrap();
    assert_close("d_input", &d_input.as_slice()[offset..], &d_x, kernels.tolerance);
    // Partial sums are f32 whatever E is: what is rounded of bf16 are the inputs, which the oracle shares.
    assert_close("d_weight", d_weight.as_slice(), &d_w, 2e-6);
    [to_bits(&d_input.as_slice()[offset..]), to_bits(d_weight.as_slice())].concat()
}

#[test]
fn short_rows() {
    check(&Kernels::<f32>::short(F32), &SHORT_SHAPES);
    check(&Kernels::<Bf16>::short(BF16), &SHORT_SHAPES);
}

#[test]
fn middle_rows() {
    check(&Kernels::<f32>::middle(F32), &MIDDLE_SHAPES);
    check(&Kernels::<Bf16>::middle(BF16), &MIDDLE_SHAPES);
}

#[test]
fn long_rows() {
    check(&Kernels::<f32>::long(F32), &LONG_SHAPES);
    check(&Kernels::<Bf16>::long(BF16), &LONG_SHAPES);
}

#[test]
fn weights_with_an_offset() {
    fn check_offset<E: Real>(kernels: [Kernels<E>; 3]) {
        for (kernels, shape) in kernels.into_iter().zip([(33, 64, 2), (20, 136, 2), (3, 4107, 2)]) {
            check(&Kernels { weight_offset: 1.0, ..kernels }, &[shape]);
        }
    }
    check_offset([Kernels::<f32>::short(F32), Kernels::middle(F32), Kernels::long(F32)]);
    check_offset([Kernels::<Bf16>::short(BF16), Kernels::middle(BF16), Kernels::long(BF16)]);
}

#[test]
fn many_blocks_of_partial_sums_are_added() {
    check(&Kernels::<f32>::short(F32), &[(32 * 21, 40, 21)]);
    assert_eq!(backward_blocks(32 * 21, 40), 21);
    assert_eq!(backward_blocks(1 << 20, 4096), 264);
}

#[test]
fn rows_too_long_for_a_kernel_are_refused() {
    let emulator = Emulator::new(SCHEDULES[0]);
    let columns = SHORT as usize + 1;
    let (x, mut y, mut r) = (random::<f32>(1, columns), Buffer::poisoned(columns), Buffer::poisoned(1));
    let result =
        rms_norm_short(&emulator, x.read(), x.read(), y.write(), r.write(), 1, columns as u32, EPSILON, 0.0);
    assert!(matches!(result, Err(LaunchError::Requirement { .. })), "{result:?}");
}

//! Losses and gradients of rows of logits against f64, and rows put back.

use crate::common::attention::capped;
use crate::common::{Buffer, SCHEDULES, bits, random, to_bits, widen};
use cpift_kernels::cross_entropy::{self, *};
use cpift_kernels::emulator::Emulator;
use cpift_kernels::simt::{Bf16, Real};

const SCALE: f32 = 0.037;
/// Rows of the batch; those of the chunk, in no order.
const BATCH: usize = 6;
const ROWS: [u32; 4] = [4, 0, 5, 2];
/// One token, fewer than a warp, vectors of f32 alone, of both, several vectors per thread, none.
const VOCABULARIES: [usize; 6] = [1, 7, 44, 1032, 5000, 3001];

/// Logits of the chunk: an ordinary row, one sure of its target, one far off, and one of equal numbers.
fn logits(vocabulary: usize, targets: &[u32]) -> Buffer<f32> {
    let mut logits = random::<f32>(1, ROWS.len() * vocabulary);
    let target = |chunk_row: usize| targets[ROWS[chunk_row] as usize] as usize;
    for (index, logit) in logits.as_mut_slice().iter_mut().enumerate() {
        let (row, column) = (index / vocabulary, index % vocabulary);
        *logit = match row {
            0 => 8.0 * *logit,
            1 => 8.0 * *logit + if column == target(1) { 30.0 } else { 0.0 },
            2 => 1000.0 * *logit - 1e4,
            _ => -3.5,
        };
    }
    logits
}

fn check<E: Real>(softcap: f32, unit: f64) {
    for vocabulary in VOCABULARIES {
        let targets: Vec<u32> =
            (0..BATCH as u64).map(|row| (bits(9, row) % vocabulary as u64) as u32).collect();
        let logits = logits(vocabulary, &targets);
        let (targets, rows) = (Buffer::from_slice(&targets), Buffer::from_slice(&ROWS));
        let (count, batch, width) = (ROWS.len() as u64, BATCH as u64, vocabulary as u64);

        let mut results = Vec::new();
        for schedule in SCHEDULES {
            let emulator = Emulator::new(schedule);
            let (mut losses, mut again) = (Buffer::<f32>::poisoned(BATCH), Buffer::<f32>::poisoned(BATCH));
            cross_entropy::cross_entropy_losses(
                &emulator,
                logits.read(),
                rows.read(),
                targets.read(),
                losses.write(),
                count,
                width,
                batch,
                softcap,
            )
            .expect("runs");
            let mut gradient = Buffer::<E>::poisoned(ROWS.len() * vocabulary);
            let (rows, targets) = (rows.read(), targets.read());
            cross_entropy_losses_and_gradients(
                &emulator,
                logits.read(),
                gradient.write(),
                rows,
                targets,
                again.write(),
                count,
                width,
                batch,
                SCALE,
                softcap,
            )
            .expect("runs");
            assert_eq!(to_bits(losses.as_slice()), to_bits(again.as_slice()), "with and without gradients");
            results.push((to_bits(losses.as_slice()), to_bits(gradient.as_slice()), losses, gradient));
        }
        assert!(
            results.iter().all(|(losses, gradient, ..)| (losses, gradient) == (&results[0].0, &results[0].1))
        );

        let (_, _, losses, gradient) = &results[0];
        for row in (0..BATCH as u32).filter(|row| !ROWS.contains(row)) {
            assert!(losses.as_slice()[row as usize].is_nan(), "row {row} has no logits here");
        }
        for (index, &row) in ROWS.iter().enumerate() {
            let logits = widen(&logits.as_slice()[index * vocabulary..][..vocabulary]);
            let (logits, slopes): (Vec<f64>, Vec<f64>) =
                logits.into_iter().map(|logit| capped(logit, softcap)).unzip();
            let gradient = widen(&gradient.as_slice()[index * vocabulary..][..vocabulary]);
            let target = targets.as_slice()[row as usize] as usize;
            let maximum = logits.iter().fold(f64::MIN, |a, &b| a.max(b));
            let sum: f64 = logits.iter().map(|logit| (logit - maximum).exp()).sum();
            let loss = sum.ln() + maximum - logits[target];
            let actual = f64::from(losses.as_slice()[row as usize]);
            // The exponent of e^x is rounded at up to 24 bits of |x| < 32 where terms matter, so that terms
            // err by 2^-19 of themselves, and their logarithm by that much.
            assert!(
                (actual - loss).abs() <= 2f64.powi(-19) + 2f64.powi(-23) * loss.abs(),
                "vocabulary {vocabulary}: loss {row} is {actual}, not {loss}"
            );
            for (column, ((actual, logit), slope)) in gradient.into_iter().zip(logits).zip(slopes).enumerate()
            {
                let probability = (logit - maximum).exp() / sum;
                let one = f64::from(u8::from(column == target));
                let expected = f64::from(SCALE) * (probability - one) * slope;
                // 1 − tanh² of a tanh near 1 is off by its rounding.
                let of_slope = if softcap == 0.0 { 0.0 } else { 2f64.powi(-20) * (probability - one).abs() };
                let bound = 2f64.powi(-18) * f64::from(SCALE) * probability
                    + 2f64.powi(-23) * f64::from(SCALE) * one
                    + f64::from(SCALE) * of_slope
                    + 0.5 * unit * expected.abs()
                    // Smallest normal numbers: what is below may be flushed to zero.
                    + f64::from(f32::MIN_POSITIVE);
                assert!(
                    (actual - expected).abs() <= bound,
                    "vocabulary {vocabulary}: gradient [{row}, {column}] is {actual}, not {expected}"
                );
            }
        }
    }
}

#[test]
fn losses_and_gradients_match_the_oracle() {
    check::<f32>(0.0, 2f64.powi(-23));
    check::<Bf16>(0.0, 2f64.powi(-7));
}

#[test]
fn losses_and_gradients_under_a_soft_cap_match_the_oracle() {
    check::<f32>(10.0, 2f64.powi(-23));
    check::<Bf16>(10.0, 2f64.powi(-7));
}

#[test]
fn what_is_not_a_number_shows_in_the_loss() {
    let emulator = Emulator::new(SCHEDULES[0]);
    let (rows, targets) = (Buffer::from_slice(&[0u32]), Buffer::from_slice(&[1u32]));
    for wrong in [f32::NAN, f32::INFINITY] {
        let mut logits = random::<f32>(1, 100);
        logits.as_mut_slice()[40] = wrong;
        let mut losses = Buffer::from_slice(&[0.0f32]);
        cross_entropy::cross_entropy_losses(
            &emulator,
            logits.read(),
            rows.read(),
            targets.read(),
            losses.write(),
            1,
            100,
            1,
            0.0,
        )
        .expect("runs");
        assert!(losses.as_slice()[0].is_nan(), "{wrong}: {}", losses.as_slice()[0]);
    }
    // A token that is ruled out is none.
    let mut logits = random::<f32>(1, 3);
    logits.as_mut_slice()[0] = f32::NEG_INFINITY;
    let mut losses = Buffer::<f32>::poisoned(1);
    cross_entropy::cross_entropy_losses(
        &emulator,
        logits.read(),
        rows.read(),
        targets.read(),
        losses.write(),
        1,
        3,
        1,
        0.0,
    )
    .expect("runs");
    let expected = f64::from(logits.as_slice()[2] - logits.as_slice()[1]).exp().ln_1p();
    assert!((f64::from(losses.as_slice()[0]) - expected).abs() < 1e-6);
}

fn check_scatter<E: Real + PartialEq + std::fmt::Debug>(element: impl Fn(u64) -> E) {
    for columns in [1, 5, 8, 40, 1024, 1027] {
        let values =
            |seed, rows| -> Vec<E> { (0..rows * columns as u64).map(|i| element(bits(seed, i))).collect() };
        let (x, before) = (values(1, ROWS.len() as u64), values(2, BATCH as u64));
        let (x, rows) = (Buffer::from_slice(&x), Buffer::from_slice(&ROWS));
        let mut expected = before.clone();
        for (values, &row) in x.as_slice().chunks_exact(columns).zip(&ROWS) {
            expected[row as usize * columns..][..columns].copy_from_slice(values);
        }
        for schedule in SCHEDULES {
            let mut out = Buffer::from_slice(&before);
            let (count, batch) = (ROWS.len() as u64, BATCH as u64);
            cross_entropy_scatter_rows(
                &Emulator::new(schedule),
                x.read(),
                rows.read(),
                out.write(),
                count,
                columns as u64,
                batch,
            )
            .expect("runs");
            assert_eq!(out.as_slice(), expected);
        }
    }
}

#[test]
fn rows_are_put_back() {
    check_scatter::<f32>(|bits| bits as u32 as f32);
    // Every bit pattern: copied, not converted.
    check_scatter::<Bf16>(|bits| Bf16(bits as u16));
}

//! Attention of bf16 on tensor cores against the f64 oracle.

use crate::common::attention::*;
use crate::common::*;
use cpift_kernels::dispatch::attention::AttentionElement;
use cpift_kernels::emulator::{Cause, Emulator};
use cpift_kernels::launch::LaunchError;
use cpift_kernels::simt::Bf16;

/// One schedule, for larger cases.
fn check_once(heads: Heads, lengths: &[u32], window: u32) {
    let mut case = Case::<Bf16>::new(heads, lengths);
    case.sizes.window = window;
    case.check(&case.run(&Emulator::new(SCHEDULES[2])));
}

#[test]
fn every_head_size_matches_the_oracle_in_every_schedule() {
    check::<Bf16>((1, 1, 64), &[65, 2]);
    check::<Bf16>((2, 1, 80), &[66]);
    check::<Bf16>((1, 1, 96), &[63, 1]);
    check::<Bf16>((1, 1, 128), &[66]);
    check::<Bf16>((1, 1, 256), &[65]);
}

#[test]
fn padded_heads_match_the_oracle_in_every_schedule() {
    check::<Bf16>((2, 2, 8), &[5, 64]);
    check::<Bf16>((3, 1, 24), &[70]);
    check::<Bf16>((1, 1, 72), &[17]);
    check::<Bf16>((1, 1, 88), &[17]);
    check::<Bf16>((1, 1, 104), &[17]);
    check::<Bf16>((1, 1, 200), &[17]);
}

#[test]
fn heads_in_groups_match_the_oracle() {
    check_once((4, 1, 64), &[70], u32::MAX);
    check_once((16, 2, 16), &[35], u32::MAX);
    check_once((4, 4, 32), &[20], u32::MAX);
    check_once((4, 2, 256), &[33], u32::MAX);
}

#[test]
fn ragged_documents_match_the_oracle() {
    check_once((1, 1, 64), &[1, 63, 64, 65, 1, 127, 129], u32::MAX);
    check_once((2, 1, 16), &[1, 2, 3, 1, 4, 1, 1, 5, 7, 6, 1], u32::MAX);
    check_once((1, 1, 80), &[31, 32, 33], u32::MAX);
    check_once((1, 1, 128), &[300], u32::MAX);
}

#[test]
fn windows_match_the_oracle() {
    check_window::<Bf16>((2, 1, 64), &[2, 70], 2);
    check_window::<Bf16>((1, 1, 64), &[130], 17);
    check_once((1, 1, 64), &[200], 64);
    check_once((1, 1, 80), &[3, 140], 66);
    check_once((2, 1, 128), &[200], 33);
    check_once((1, 1, 256), &[90], 20);
    check_once((1, 1, 64), &[66], 67);
}

#[test]
fn soft_caps_match_the_oracle_in_every_schedule() {
    check_softcap::<Bf16>((2, 1, 64), &[66, 3], u32::MAX);
    check_softcap::<Bf16>((2, 2, 8), &[5, 64], u32::MAX);
    check_softcap::<Bf16>((1, 1, 80), &[70], 17);
    check_softcap::<Bf16>((1, 1, 96), &[33], u32::MAX);
    check_softcap::<Bf16>((1, 1, 128), &[66], u32::MAX);
    check_softcap::<Bf16>((2, 1, 256), &[33], 20);
}

/// The tolerance tells a cap from none.
#[test]
fn a_soft_cap_is_seen() {
    let mut case = Case::<Bf16>::new((1, 1, 64), &[70]);
    let results = case.run(&Emulator::new(SCHEDULES[0]));
    case.sizes.softcap = 4.0;
    let expected = oracle(&case);
    for (actual, expected) in [(&results.output, &expected.output), (&results.d_k, &expected.d_k)] {
        let largest = expected.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
        let errors = widen(actual.as_slice()).into_iter().zip(expected).map(|(a, b)| (a - b).abs());
        assert!(errors.fold(0.0, f64::max) / largest > 5.0 * Bf16::TOLERANCE);
    }
}

/// Each token sees itself: the output is v, and scores have no gradient but what rounding leaves.
#[test]
fn a_window_of_one_token_is_the_value() {
    let mut case = Case::<Bf16>::new((1, 1, 64), &[2, 70]);
    case.sizes.window = 1;
    let results = case.run(&Emulator::new(SCHEDULES[1]));
    assert_eq!(results.output.as_slice(), case.v.as_slice());
    assert_eq!(results.d_v.as_slice(), case.d_output.as_slice());
    for gradient in [&results.d_q, &results.d_k] {
        assert!(widen(gradient.as_slice()).iter().all(|value| value.abs() < 1e-5));
    }
}

/// The tolerance tells a window from those a token shorter or longer.
#[test]
fn a_window_off_by_a_token_is_seen() {
    let mut case = Case::<Bf16>::new((1, 1, 64), &[130]);
    case.sizes.window = 40;
    let results = case.run(&Emulator::new(SCHEDULES[0]));
    case.check(&results);
    for window in [39, 41] {
        case.sizes.window = window;
        let expected = oracle(&case);
        for (actual, expected) in [
            (&results.output, &expected.output),
            (&results.d_q, &expected.d_q),
            (&results.d_k, &expected.d_k),
            (&results.d_v, &expected.d_v),
        ] {
            let largest = expected.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
            let actual = widen(actual.as_slice());
            let errors = actual.iter().zip(expected).map(|(actual, expected)| (actual - expected).abs());
            let error = errors.fold(0.0, f64::max) / largest;
            assert!(error > 5.0 * Bf16::TOLERANCE, "a window of {window} is only {error:e} off");
        }
    }
}

#[test]
fn neighbours_do_not_show_in_a_documents_bits() {
    check_neighbours(&Case::<Bf16>::new((2, 1, 80), &[13, 70, 7]));
    let mut case = Case::<Bf16>::new((1, 1, 64), &[3, 130]);
    case.sizes.window = 50;
    check_neighbours(&case);
}

#[test]
fn large_scores_do_not_overflow() {
    let mut case = Case::<Bf16>::new((1, 1, 64), &[70]);
    case.sizes.scale = 100.0;
    let results = case.run(&Emulator::new(SCHEDULES[0]));
    assert_close("output", results.output.as_slice(), &oracle(&case).output, Bf16::TOLERANCE);
}

/// A batch whose tiles do not lie in it: the emulator names the parameter and the place.
#[test]
fn tiles_outside_of_the_buffers_are_found() {
    let case = Case::<Bf16>::new((1, 1, 64), &[3]);
    let tiles = Buffer::from_slice(&[0, 0, 4, 0]);
    let (mut output, mut log_sum_exp) = (Buffer::poisoned(3 * 64), Buffer::poisoned(3));
    let result = Bf16::forward(
        &Emulator::new(SCHEDULES[0]),
        case.sizes,
        [case.q.read(), case.k.read(), case.v.read()],
        lists(&tiles, [0..4, 0..4, 0..4, 0..4]),
        output.write(),
        log_sum_exp.write(),
    );
    match result {
        Err(LaunchError::Fault(fault)) => {
            assert!(matches!(fault.cause, Cause::OutOfBounds { .. }), "{fault}");
        }
        other => panic!("no fault: {other:?}"),
    }
}

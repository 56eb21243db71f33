//! Attention on Hopper against the f64 oracle.

use crate::common::attention::*;
use crate::common::*;
use cpift_kernels::dispatch::attention::AttentionElement;
use cpift_kernels::emulator::{Cause, Emulator};
use cpift_kernels::launch::LaunchError;
use cpift_kernels::simt::Bf16;

/// A Hopper of few multiprocessors, whose blocks have several tiles each.
fn hopper(schedule: usize, multiprocessors: u32) -> Emulator {
    Emulator::new(SCHEDULES[schedule]).like((9, 0), multiprocessors)
}

/// In one schedule against the oracle, in the others the same bits.
fn check(heads: Heads, lengths: &[u32], window: u32) {
    let mut case = Case::<Bf16>::new(heads, lengths);
    case.sizes.window = window;
    let [first, others @ ..] = [0, 1, 2].map(|schedule| case.run(&hopper(schedule, 2)));
    case.check(&first);
    for other in others {
        assert_eq!(other.bits(), first.bits(), "{:?} {:?}", case.sizes, case.documents);
    }
}

fn check_once(heads: Heads, lengths: &[u32], window: u32) {
    let mut case = Case::<Bf16>::new(heads, lengths);
    case.sizes.window = window;
    case.check(&case.run(&hopper(2, 3)));
}

#[test]
fn every_head_size_matches_the_oracle_in_every_schedule() {
    check((1, 1, 64), &[70, 2], u32::MAX);
    check((2, 1, 80), &[129], u32::MAX);
    check((1, 1, 96), &[63, 1, 66], u32::MAX);
    check((2, 2, 128), &[130], u32::MAX);
    check((1, 1, 256), &[65], u32::MAX);
}

/// Longer than the ring, by blocks that have several tiles of several lengths.
#[test]
fn the_ring_goes_round_from_tile_to_tile() {
    check_once((2, 1, 64), &[700], u32::MAX);
    check_once((3, 1, 128), &[500, 140], u32::MAX);
    check_once((2, 2, 256), &[330], u32::MAX);
}

#[test]
fn ragged_documents_match_the_oracle() {
    check_once((1, 1, 64), &[1, 63, 64, 65, 1, 127, 128, 129], u32::MAX);
    check_once((4, 2, 80), &[1, 2, 3, 1, 4, 1, 1, 5, 7, 6, 1], u32::MAX);
    check_once((1, 1, 96), &[257], u32::MAX);
}

#[test]
fn windows_match_the_oracle() {
    check((2, 1, 64), &[2, 200], 2);
    check_once((1, 1, 64), &[300], 128);
    check_once((1, 1, 80), &[3, 280], 129);
    check_once((2, 1, 128), &[300], 33);
    check_once((1, 1, 256), &[200], 70);
    check_once((1, 1, 96), &[66], 67);
}

/// Each token sees itself: the output is v, and scores have no gradient but what rounding leaves.
#[test]
fn a_window_of_one_token_is_the_value() {
    let mut case = Case::<Bf16>::new((1, 1, 64), &[2, 140]);
    case.sizes.window = 1;
    let results = case.run(&hopper(1, 1));
    assert_eq!(results.output.as_slice(), case.v.as_slice());
    assert_eq!(results.d_v.as_slice(), case.d_output.as_slice());
    for gradient in [&results.d_q, &results.d_k] {
        assert!(widen(gradient.as_slice()).iter().all(|value| value.abs() < 1e-5));
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let mut case = Case::<Bf16>::new((1, 1, 64), &[70]);
    case.sizes.scale = 100.0;
    let results = case.run(&hopper(0, 1));
    assert_close("output", results.output.as_slice(), &oracle(&case).output, Bf16::TOLERANCE);
}

#[test]
fn the_number_of_blocks_does_not_show_in_the_bits() {
    let case = Case::<Bf16>::new((3, 1, 64), &[40, 300, 130]);
    let one = case.run(&hopper(0, 1)).bits();
    for multiprocessors in [2, 5, 132] {
        assert_eq!(case.run(&hopper(0, multiprocessors)).bits(), one, "{multiprocessors}");
    }
}

/// Tiles of keys reach into the next document, whose weights are zero, and so do those of queries.
#[test]
fn neighbours_do_not_show_in_a_documents_bits() {
    check_neighbours_on(&hopper(0, 2), &Case::<Bf16>::new((2, 1, 80), &[13, 140, 7]));
    let mut case = Case::<Bf16>::new((1, 1, 64), &[3, 230]);
    case.sizes.window = 50;
    check_neighbours_on(&hopper(0, 2), &case);
}

#[test]
fn hopper_has_kernels_of_its_own_for_heads_that_fill_them() {
    let of_hopper = |head_dim: u32| {
        let backward = ["backward_keys", "backward_queries"];
        let backward = backward.map(|pass| format!("attention_{pass}_{head_dim}_hopper"));
        let [keys, queries] = backward;
        vec![
            format!("attention_forward_{head_dim}_hopper"),
            "attention_backward_preprocess_hopper".to_owned(),
            keys,
            queries,
        ]
    };
    let of_all = |head_dim: u32| {
        let [forward, keys, queries] = ["forward", "backward_keys", "backward_queries"]
            .map(|pass| format!("attention_{pass}_{head_dim}_bf16"));
        vec![forward, "attention_backward_delta_bf16".to_owned(), keys, queries]
    };
    let mixed = [&of_hopper(256)[..1], &of_all(256)[1..]].concat();
    for (capability, head_dim, kernels) in [
        ((9, 0), 64, of_hopper(64)),
        ((9, 0), 80, of_hopper(80)),
        ((9, 0), 96, of_hopper(96)),
        ((9, 0), 128, of_hopper(128)),
        ((9, 0), 256, mixed),
        ((9, 0), 112, of_all(128)),
        ((8, 9), 128, of_all(128)),
        ((10, 0), 128, of_all(128)),
    ] {
        let record = Record::of(capability, 132);
        Case::<Bf16>::new((2, 1, head_dim), &[5]).run(&record);
        assert_eq!(record.names(), kernels);
    }
}

/// None of them has a soft cap.
#[test]
fn kernels_for_all_devices_take_soft_caps() {
    let record = Record::of((9, 0), 132);
    let mut case = Case::<Bf16>::new((2, 1, 128), &[5]);
    case.sizes.softcap = 30.0;
    case.run(&record);
    assert!(record.names().iter().all(|name| !name.contains("hopper")));
}

/// Tiles that do not lie in the batch: the emulator names the parameter and the place.
#[test]
fn tiles_outside_of_the_buffers_are_found() {
    let case = Case::<Bf16>::new((1, 1, 64), &[3]);
    let tiles = Buffer::from_slice(&[0, 0, 4, 0]);
    let (mut output, mut log_sum_exp) = (Buffer::poisoned(3 * 64), Buffer::poisoned(3));
    let result = Bf16::forward(
        &hopper(0, 1),
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

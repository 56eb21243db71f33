//! The forward pass of attention on Hopper against the f64 oracle.

#[path = "common/attention.rs"]
#[allow(dead_code)] // Other tests use the backward pass.
mod cases;
mod common;

use std::sync::Mutex;

use cases::*;
use common::*;
use cpift_kernels::attention::*;
use cpift_kernels::emulator::{Cause, Emulator};
use cpift_kernels::launch::{Launch, LaunchError, Request, Slice, SliceMut};
use cpift_kernels::simt::Bf16;

/// A Hopper of few multiprocessors, whose blocks have several tiles each.
fn hopper(schedule: usize, multiprocessors: u32) -> Emulator {
    Emulator::new(SCHEDULES[schedule]).like((9, 0), multiprocessors)
}

type Forward = (Buffer<Bf16>, Buffer<f32>);

fn forward(case: &Case<Bf16>, emulator: &Emulator) -> Forward {
    case.forward(emulator).expect("runs")
}

fn bits((output, log_sum_exp): &Forward) -> [Vec<u32>; 2] {
    [to_bits(output.as_slice()), to_bits(log_sum_exp.as_slice())]
}

fn assert_right(case: &Case<Bf16>, (output, log_sum_exp): &Forward) {
    let expected = oracle(case);
    let what = format!("{:?} {:?}", case.sizes, case.documents);
    assert_close(&format!("output of {what}"), output.as_slice(), &expected.output, Bf16::TOLERANCE);
    let what = format!("log-sum-exp of {what}");
    assert_close(&what, log_sum_exp.as_slice(), &expected.log_sum_exp, 1e-6);
}

/// In one schedule against the oracle, in the others the same bits.
fn check(heads: Heads, lengths: &[u32], window: u32) {
    let mut case = Case::<Bf16>::new(heads, lengths);
    case.sizes.window = window;
    let [first, others @ ..] = [0, 1, 2].map(|schedule| forward(&case, &hopper(schedule, 2)));
    assert_right(&case, &first);
    for other in others {
        assert_eq!(bits(&other), bits(&first), "{:?} {:?}", case.sizes, case.documents);
    }
}

fn check_once(heads: Heads, lengths: &[u32], window: u32) {
    let mut case = Case::<Bf16>::new(heads, lengths);
    case.sizes.window = window;
    assert_right(&case, &forward(&case, &hopper(2, 3)));
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

/// Each token sees itself.
#[test]
fn a_window_of_one_token_is_the_value() {
    let mut case = Case::<Bf16>::new((1, 1, 64), &[2, 140]);
    case.sizes.window = 1;
    assert_eq!(forward(&case, &hopper(1, 1)).0.as_slice(), case.v.as_slice());
}

#[test]
fn large_scores_do_not_overflow() {
    let mut case = Case::<Bf16>::new((1, 1, 64), &[70]);
    case.sizes.scale = 100.0;
    let (output, _) = forward(&case, &hopper(0, 1));
    assert_close("output", output.as_slice(), &oracle(&case).output, Bf16::TOLERANCE);
}

#[test]
fn the_number_of_blocks_does_not_show_in_the_bits() {
    let case = Case::<Bf16>::new((3, 1, 64), &[40, 300, 130]);
    let one = forward(&case, &hopper(0, 1));
    for multiprocessors in [2, 5, 132] {
        assert_eq!(bits(&forward(&case, &hopper(0, multiprocessors))), bits(&one), "{multiprocessors}");
    }
}

/// Tiles of keys reach into the next document, whose weights are zero.
#[test]
fn neighbours_do_not_show_in_a_documents_bits() {
    let (heads, lengths) = ((2, 1, 80), [13, 140, 7]);
    let all = Case::<Bf16>::new(heads, &lengths);
    let (together, _) = forward(&all, &hopper(0, 2));
    for document in &all.documents {
        let rows = |heads: u32| {
            let width = heads * all.sizes.head_dim;
            (document.start * width) as usize..(document.end * width) as usize
        };
        let mut alone = Case::<Bf16>::new(heads, &[document.end - document.start]);
        alone.q = Buffer::from_slice(&all.q.as_slice()[rows(heads.0)]);
        alone.k = Buffer::from_slice(&all.k.as_slice()[rows(heads.1)]);
        alone.v = Buffer::from_slice(&all.v.as_slice()[rows(heads.1)]);
        let (output, _) = forward(&alone, &hopper(0, 2));
        let expected = &together.as_slice()[rows(heads.0)];
        assert_eq!(to_bits(output.as_slice()), to_bits(expected), "{document:?}");
    }
}

/// Notes what would be launched.
#[derive(Debug)]
struct Record((u32, u32), Mutex<Vec<&'static str>>);

impl Launch for Record {
    unsafe fn launch(&self, request: &Request<'_>) -> Result<(), LaunchError> {
        self.1.lock().expect("not poisoned").push(request.kernel.name);
        Ok(())
    }

    fn multiprocessors(&self) -> u32 {
        132
    }

    fn compute_capability(&self) -> (u32, u32) {
        self.0
    }
}

#[test]
fn hopper_has_kernels_of_its_own_for_heads_that_fill_them() {
    for (capability, head_dim, kernel) in [
        ((9, 0), 64, "attention_forward_64_hopper"),
        ((9, 0), 80, "attention_forward_80_hopper"),
        ((9, 0), 96, "attention_forward_96_hopper"),
        ((9, 0), 128, "attention_forward_128_hopper"),
        ((9, 0), 256, "attention_forward_256_hopper"),
        ((9, 0), 112, "attention_forward_128_bf16"),
        ((8, 9), 128, "attention_forward_128_bf16"),
        ((10, 0), 128, "attention_forward_128_bf16"),
    ] {
        let record = Record(capability, Mutex::default());
        Case::<Bf16>::new((2, 1, head_dim), &[5]).forward(&record).expect("is launched");
        assert_eq!(record.1.into_inner().expect("not poisoned"), [kernel]);
    }
}

/// Tiles that do not lie in the batch: the emulator names the parameter and the place.
#[test]
fn tiles_outside_of_the_buffers_are_found() {
    let case = Case::<Bf16>::new((1, 1, 64), &[3]);
    let tiles = Buffer::from_slice(&[0, 0, 4, 0]);
    let (mut output, mut log_sum_exp) = (Buffer::poisoned(3 * 64), Buffer::poisoned(3));
    let inputs: [Slice<'_, Bf16>; 3] = [case.q.read(), case.k.read(), case.v.read()];
    let output: SliceMut<'_, Bf16> = output.write();
    let tiles = QueryTiles { narrow: tiles.read(), wide: tiles.read() };
    let result = Bf16::forward(&hopper(0, 1), case.sizes, inputs, tiles, output, log_sum_exp.write());
    match result {
        Err(LaunchError::Fault(fault)) => {
            assert!(matches!(fault.cause, Cause::OutOfBounds { .. }), "{fault}");
        }
        other => panic!("no fault: {other:?}"),
    }
}

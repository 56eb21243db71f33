//! The gated delta rule by chunks against its f64 oracle, which goes token by token.

use crate::common::delta_rule::{Case, Heads, width};
use crate::common::*;
use cpift_kernels::emulator::Emulator;
use cpift_kernels::gated_delta_rule::*;
use cpift_kernels::simt::{Bf16, Real};

/// `a_log` and `a` about these: most of a state is left after a chunk; some after some tokens; nothing after one.
const SLOW: (f32, f32) = (-3.0, -4.0);
const USUAL: (f32, f32) = (0.0, -1.0);
const FAST: (f32, f32) = (2.7, 20.0);

/// Documents of one token, around a chunk of 64 tokens, and of several chunks; heads that share keys; more than a part
/// of 32 columns, more than a tile of 64 rows.
const CASES: [(Heads, &[usize], (f32, f32)); 8] = [
    ([1, 1, 1, 1], &[1], USUAL),
    ([1, 1, 2, 3], &[3, 1, 2], SLOW),
    ([1, 1, 2, 3], &[3, 1, 2], USUAL),
    ([1, 1, 2, 3], &[3, 1, 2], FAST),
    ([2, 4, 8, 16], &[63, 64, 65], SLOW),
    ([1, 3, 20, 33], &[130, 1], USUAL),
    ([1, 1, 130, 5], &[66], FAST),
    ([1, 2, 64, 72], &[70], USUAL),
];

const NAMES: [&str; 7] = ["output", "last_states", "d_qkv", "d_a", "d_b", "d_a_log", "d_dt_bias"];

/// [`assert_close`], but for results that are all below what f32 has exponents for: those are 0 or near it.
fn assert_near<E: Real>(what: &str, actual: &[E], expected: &[f64], tolerance: f64) {
    if expected.iter().all(|value| value.abs() < 1e-30) {
        assert!(actual.iter().all(|value| value.to_f32().abs() < 1e-30), "{what} is not 0");
    } else {
        assert_close(what, actual, expected, tolerance);
    }
}

/// Results may be off by `sums`, and by `roundings` to E where they are of that type.
fn check<E: Real>(sums: f64, roundings: f64) {
    for (heads, lengths, decay) in CASES {
        let case = Case::<E>::new(heads, lengths, decay);
        let mut results = SCHEDULES.map(|schedule| Some(case.run(&Emulator::new(schedule)).unwrap()));
        let first = results[0].take().expect("made above");
        for other in results.iter().flatten() {
            assert!(other.bits() == first.bits(), "{heads:?} {lengths:?} {decay:?} by schedule");
        }
        let (expected, sizes) = case.oracle();
        let what = |index: usize| format!("{} of {heads:?} {lengths:?} {decay:?}", NAMES[index]);
        let of_values = [(0, &first.output), (2, &first.d_qkv), (3, &first.d_a), (4, &first.d_b)];
        for (index, actual) in of_values {
            assert_near(&what(index), actual.as_slice(), &expected[index], sums + roundings);
        }
        assert_near(&what(1), first.last_states.as_slice(), &expected[1], sums);
        // Of terms that nearly cancel: off by so much of the terms.
        for (index, actual, size) in [(5, &first.d_a_log, sizes[0]), (6, &first.d_dt_bias, sizes[1])] {
            for (&actual, &expected) in actual.as_slice().iter().zip(&expected[index]) {
                let error = (f64::from(actual) - expected).abs();
                assert!(error <= sums * size, "{}: {actual}, not {expected}, of {size}", what(index));
            }
        }
    }
}

#[test]
fn matches_the_oracle_in_f32() {
    // Sums of some hundred terms of mixed sign, each rounded to 2^-24, and exponents that are rounded sums themselves.
    check::<f32>(5e-6, 0.0);
}

#[test]
fn matches_the_oracle_in_bf16() {
    // Computed as f32; a result's rounding is up to 2^-8 of it.
    check::<Bf16>(5e-6, 4e-3);
}

/// Queries and keys of zeros, gates at their ends.
#[test]
fn extreme_inputs_stay_numbers() {
    for (a, b) in [(1e4, 1e4), (-1e4, -1e4), (1e4, -1e4)] {
        let mut case = Case::<f32>::new([1, 2, 4, 4], &[70], FAST);
        case.qkv.as_mut_slice().fill(0.0);
        case.a.as_mut_slice().fill(a);
        case.b.as_mut_slice().fill(b);
        let results = case.run(&Emulator::new(SCHEDULES[0])).unwrap();
        let all = results.bits().concat();
        assert!(all.iter().all(|&bits| f32::from_bits(bits).is_finite()), "a {a}, b {b}");
    }
}

/// Two sequences in turn, one of them several tokens in one step: what the oracle gives for them.
fn check_decoding<E: Real>(tolerance: f64) {
    let heads = [2, 4, 8, 37];
    let [key_heads, value_heads, key_dim, value_dim] = heads;
    let case = Case::<E>::new(heads, &[6, 9], USUAL);
    let ([expected, last_states, ..], _) = case.oracle();
    let state = (value_heads * key_dim * value_dim) as usize;
    let output_width = (value_heads * value_dim) as usize;
    let mut results = Vec::new();
    for schedule in SCHEDULES {
        let emulator = Emulator::new(schedule);
        let mut states = Buffer::from_slice(&vec![0.0f32; 3 * state]);
        let mut output = vec![E::from_f32(f32::NAN); expected.len()];
        let mut taken = [0; 2];
        for rows in [&[0, 1][..], &[1, 1, 1, 0], &[0], &[1, 0], &[1, 1, 0], &[1, 0], &[1]] {
            let mut tokens = Vec::new();
            for &text in rows {
                tokens.push(case.documents[text].start + taken[text]);
                taken[text] += 1;
            }
            let of_rows = |values: &Buffer<E>, width: usize| {
                let rows =
                    tokens.iter().flat_map(|token| &values.as_slice()[token * width..(token + 1) * width]);
                Buffer::from_slice(&rows.copied().collect::<Vec<E>>())
            };
            let qkv = of_rows(&case.qkv, width(heads));
            let [a, b] = [&case.a, &case.b].map(|values| of_rows(values, value_heads as usize));
            let slots: Vec<u32> = rows.iter().map(|&text| [2, 0][text]).collect();
            let (slots, mut made) =
                (Buffer::from_slice(&slots), Buffer::<E>::poisoned(rows.len() * output_width));
            gated_delta_rule_decode(
                &emulator,
                qkv.read(),
                a.read(),
                b.read(),
                case.a_log.read(),
                case.dt_bias.read(),
                slots.read(),
                states.write(),
                made.write(),
                rows.len() as u32,
                3,
                key_heads,
                value_heads,
                key_dim,
                value_dim,
                1.0 / (key_dim as f32).sqrt(),
            )
            .unwrap();
            for (made, token) in made.as_slice().chunks(output_width).zip(tokens) {
                output[token * output_width..][..output_width].copy_from_slice(made);
            }
        }
        assert_close("output", &output, &expected, tolerance);
        let of_slot = |slot: usize| &states.as_slice()[slot * state..(slot + 1) * state];
        assert_close("states", &[of_slot(2), of_slot(0)].concat(), &last_states, 2e-6);
        results.push((to_bits(&output), to_bits(states.as_slice())));
    }
    assert!(results.iter().all(|result| *result == results[0]));
}

#[test]
fn decoding_goes_on_as_the_oracle() {
    check_decoding::<f32>(2e-6);
    check_decoding::<Bf16>(4e-3);
}

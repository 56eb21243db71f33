//! The gated delta rule by chunks against its f64 oracle, which goes token by token.

use std::num::NonZeroUsize;

use cpift_engine::ops::attention::Documents;
use cpift_engine::ops::gated_delta_rule::{self, Gradients, Inputs, Shape};
use cpift_engine::{Buffer, Device, Indices, Real};
use cpift_tests::devices::{devices, emulated, on_each};
use cpift_tests::numeric::{assert_close, central_differences, dot, random, widen};
use cpift_tests::oracle::gated_delta_rule as oracle;
use cpift_tests::precision::{download, poisoned, rounded, tolerance, upload};
use cpift_tests::{in_f32_and_bf16, stand_in};

in_f32_and_bf16!(
    forward_matches_the_oracle,
    gradients_match_central_differences,
    gradients_of_large_cases_match_directional_differences,
    documents_do_not_see_each_other,
    bits_do_not_depend_on_the_threads,
    extreme_inputs_stay_numbers,
    decoding_goes_on_as_the_oracle,
    gpus_match_the_oracle_and_the_cpu,
);

/// Heads of keys and of values, elements of a key and of a value; lengths of the documents.
type Sizes = ((usize, usize, usize, usize), &'static [usize]);

/// Documents of one token, around a chunk of 64 tokens, and of several chunks.
const CASES: [Sizes; 7] = [
    ((1, 1, 1, 1), &[1]),
    ((1, 1, 2, 3), &[3, 1, 2]),
    ((2, 4, 8, 16), &[63, 64, 65]),
    ((1, 3, 16, 8), &[130, 1, 70]),
    ((2, 2, 20, 33), &[97]),
    ((1, 2, 128, 128), &[129, 5]),
    ((3, 3, 5, 17), &[300]),
];

/// How fast the states decay: `a_log` and `a` about these.
#[derive(Debug, Clone, Copy)]
enum Decay {
    /// Most of a state is left after a chunk.
    Slow,
    /// As models begin: some of a state is left after some tokens.
    Usual,
    /// Nothing is left after a token.
    Fast,
}

#[derive(Clone)]
struct Case {
    shape: Shape,
    starts: Vec<usize>,
    /// In the order of the oracle's.
    inputs: [Vec<f32>; 5],
    d_output: Vec<f32>,
}

/// Everything forward and backward write: output and last states; gradients in the order of the inputs.
#[derive(Debug, PartialEq)]
struct Results {
    output: Vec<f32>,
    last_states: Vec<f32>,
    gradients: [Vec<f32>; 5],
}

fn cpu(threads: usize) -> Device {
    Device::cpu(NonZeroUsize::new(threads)).unwrap()
}

impl Case {
    fn new<T: Real>(((key_heads, value_heads, key_dim, value_dim), lengths): Sizes, decay: Decay) -> Self {
        let mut starts = vec![0];
        for length in lengths {
            starts.push(starts[starts.len() - 1] + length);
        }
        let tokens = starts[starts.len() - 1];
        let shape = Shape { key_heads, value_heads, key_dim, value_dim };
        let (rate, a) = match decay {
            Decay::Slow => (-3.0, -4.0),
            Decay::Usual => (0.0, -1.0),
            Decay::Fast => (2.7, 20.0),
        };
        let about = |seed, length, middle: f32| random(seed, length).iter().map(|x| middle + x).collect();
        let inputs = [
            random(1, tokens * shape.input_width()),
            about(2, tokens * value_heads, a),
            random(3, tokens * value_heads).iter().map(|b| 3.0 * b).collect(),
            about(4, value_heads, rate),
            random(5, value_heads),
        ];
        let inputs = inputs.map(|values| rounded::<T>(&values));
        let d_output = rounded::<T>(&random(6, tokens * shape.output_width()));
        Self { shape, starts, inputs, d_output }
    }

    fn oracle(&self) -> (oracle::Shape, oracle::Inputs) {
        let Shape { key_heads, value_heads, key_dim, value_dim } = self.shape;
        let [qkv, a, b, a_log, dt_bias] = self.inputs.each_ref().map(|values| widen(values));
        let shape = oracle::Shape { key_heads, value_heads, key_dim, value_dim };
        (shape, oracle::Inputs { qkv, a, b, a_log, dt_bias })
    }

    /// The gradients of what heads share are added to these.
    fn before(&self) -> [Vec<f32>; 2] {
        [7, 8].map(|seed| random(seed, self.shape.value_heads))
    }

    fn run<T: Real>(&self, device: &Device) -> Results {
        let (shape, documents) = (&self.shape, Documents::new(&self.starts).unwrap());
        let buffers = self.inputs.each_ref().map(|values| upload::<T>(device, values));
        let [qkv, a, b, a_log, dt_bias] = buffers.each_ref().map(Buffer::view);
        let inputs = Inputs { qkv, a, b, a_log, dt_bias };
        let mut output = poisoned::<T>(device, self.d_output.len());
        let mut last_states = poisoned(device, documents.len() * shape.state_length());
        let (output_view, states_view) = (output.view_mut(), Some(last_states.view_mut()));
        gated_delta_rule::forward(device, shape, &documents, inputs, output_view, states_view).unwrap();
        let mut overwritten = [0, 1, 2].map(|input| poisoned::<T>(device, self.inputs[input].len()));
        let mut added = self.before().map(|values| upload(device, &values));
        let [d_qkv, d_a, d_b] = overwritten.each_mut().map(Buffer::view_mut);
        let [d_a_log, d_dt_bias] = added.each_mut().map(Buffer::view_mut);
        let gradients = Gradients { d_qkv, d_a, d_b, d_a_log, d_dt_bias };
        let d_output = upload::<T>(device, &self.d_output);
        gated_delta_rule::backward(device, shape, &documents, inputs, d_output.view(), gradients).unwrap();
        let [d_qkv, d_a, d_b] = overwritten.each_ref().map(download::<T>);
        let [d_a_log, d_dt_bias] = added.each_ref().map(download::<f32>);
        Results {
            output: download(&output),
            last_states: download(&last_states),
            gradients: [d_qkv, d_a, d_b, d_a_log, d_dt_bias],
        }
    }

    /// What a gradient that is added to was, and zeros for those that are overwritten.
    fn added_to(&self, input: usize) -> Vec<f32> {
        if input < 3 { vec![0.0; self.inputs[input].len()] } else { self.before()[input - 3].clone() }
    }
}

fn forward_matches_the_oracle<T: Real>() {
    for (sizes, decay) in CASES
        .into_iter()
        .flat_map(|sizes| [Decay::Slow, Decay::Usual, Decay::Fast].map(|decay| (sizes, decay)))
    {
        let case = Case::new::<T>(sizes, decay);
        let (shape, inputs) = case.oracle();
        let (output, last_states) = oracle::forward(&shape, &case.starts, &inputs);
        let results = case.run::<T>(&cpu(2));
        assert_close(
            &format!("output of {sizes:?} {decay:?}"),
            &results.output,
            &output,
            tolerance::<T>(2e-6, 1.0),
        );
        let what = format!("last states of {sizes:?} {decay:?}");
        assert_close(&what, &results.last_states, &last_states, 2e-6);
    }
}

const NAMES: [&str; 5] = ["d_qkv", "d_a", "d_b", "d_a_log", "d_dt_bias"];

fn gradients_match_central_differences<T: Real>() {
    // Few enough numbers to move one by one, with a document of two chunks.
    let cases: [Sizes; 4] =
        [((1, 1, 1, 1), &[1]), ((1, 2, 3, 2), &[5, 1, 4]), ((2, 2, 4, 3), &[9]), ((1, 1, 2, 2), &[67])];
    for (sizes, decay) in
        cases.into_iter().flat_map(|sizes| [Decay::Slow, Decay::Usual].map(|decay| (sizes, decay)))
    {
        let case = Case::new::<T>(sizes, decay);
        let (shape, inputs) = case.oracle();
        let d_output = widen(&case.d_output);
        let results = case.run::<T>(&cpu(2));
        for (input, name) in NAMES.into_iter().enumerate() {
            let point = widen(&case.inputs[input]);
            let gradient = central_differences(&point, |moved| {
                let mut inputs = inputs.clone();
                inputs.parts_mut()[input].copy_from_slice(moved);
                dot(&oracle::forward(&shape, &case.starts, &inputs).0, &d_output)
            });
            let before = case.added_to(input);
            let expected: Vec<f64> = gradient.iter().zip(&before).map(|(d, &b)| d + f64::from(b)).collect();
            let what = format!("{name} of {sizes:?} {decay:?}");
            // Gradients of what heads share are f32.
            let roundings = if input < 3 { 1.0 } else { 0.0 };
            assert_close(&what, &results.gradients[input], &expected, tolerance::<T>(5e-6, roundings));
        }
    }
}

/// The difference along one random direction per input, for sizes too large to move one by one. Roundings of
/// the elements, which do not know the direction, nearly cancel in it.
fn gradients_of_large_cases_match_directional_differences<T: Real>() {
    for (sizes, decay) in CASES
        .into_iter()
        .flat_map(|sizes| [Decay::Slow, Decay::Usual, Decay::Fast].map(|decay| (sizes, decay)))
    {
        let case = Case::new::<T>(sizes, decay);
        let (shape, inputs) = case.oracle();
        let d_output = widen(&case.d_output);
        let results = case.run::<T>(&cpu(2));
        for (input, name) in NAMES.into_iter().enumerate() {
            let direction = widen(&random(10 + input as u64, case.inputs[input].len()));
            let slope = central_differences(&[0.0], |step| {
                let mut moved = inputs.clone();
                let part = &mut *moved.parts_mut()[input];
                part.iter_mut().zip(&direction).for_each(|(x, d)| *x += step[0] * d);
                dot(&oracle::forward(&shape, &case.starts, &moved).0, &d_output)
            })[0];
            let before = widen(&case.added_to(input));
            let gradient: Vec<f64> =
                widen(&results.gradients[input]).iter().zip(&before).map(|(d, b)| d - b).collect();
            // What is added to is rounded with what is added.
            let size =
                (dot(&gradient, &gradient).max(dot(&before, &before)) * dot(&direction, &direction)).sqrt();
            let error = (dot(&gradient, &direction) - slope).abs() / size.max(f64::MIN_POSITIVE);
            let roundings = if input < 3 { 1.0 } else { 0.0 };
            assert!(
                error < tolerance::<T>(1e-6, roundings),
                "{name} of {sizes:?} {decay:?}: off by {error:e}"
            );
        }
    }
}

/// Cases small enough for the emulator: heads that share keys, documents of several chunks, parts of 32 columns.
const GPU_CASES: [(Sizes, Decay); 4] = [
    (((1, 1, 2, 3), &[3, 1, 2]), Decay::Fast),
    (((1, 3, 16, 8), &[130, 1]), Decay::Usual),
    (((2, 2, 20, 33), &[65]), Decay::Slow),
    (((1, 2, 65, 5), &[70]), Decay::Usual),
];

/// Output and states as the oracle has them; gradients as the CPU has them in f32, which other tests hold against it.
fn gpus_match_the_oracle_and_the_cpu<T: Real>() {
    for (sizes, decay) in GPU_CASES {
        let case = Case::new::<T>(sizes, decay);
        let (shape, inputs) = case.oracle();
        let (output, last_states) = oracle::forward(&shape, &case.starts, &inputs);
        let expected = case.run::<f32>(&cpu(2));
        let results = on_each(|device| match device {
            Device::Gpu(_) => Some(case.run::<T>(device)),
            Device::Cpu(_) => None,
        });
        for (device, results) in results {
            let Some(results) = results else { continue };
            let what = |name: &str| format!("{name} of {sizes:?} {decay:?} on {}", device.name());
            assert_close(&what("output"), &results.output, &output, tolerance::<T>(2e-6, 1.0));
            assert_close(&what("last states"), &results.last_states, &last_states, 2e-6);
            for (input, name) in NAMES.into_iter().enumerate() {
                // Those of what heads share are sums of terms that nearly cancel.
                let allowed = if input < 3 { tolerance::<T>(5e-6, 1.0) } else { 2e-5 };
                let expected = widen(&expected.gradients[input]);
                assert_close(&what(name), &results.gradients[input], &expected, allowed);
            }
        }
    }
}

fn documents_do_not_see_each_other<T: Real>() {
    let case = Case::new::<T>(((1, 2, 4, 8), &[70, 3, 129]), Decay::Usual);
    let all = case.run::<T>(&cpu(2));
    let shape = &case.shape;
    for (document, range) in case.starts.windows(2).map(|pair| pair[0]..pair[1]).enumerate() {
        let cut = |values: &[f32], width: usize| values[range.start * width..range.end * width].to_vec();
        let (width, heads) = (shape.input_width(), shape.value_heads);
        let mut alone = case.clone();
        alone.starts = vec![0, range.len()];
        alone.d_output = cut(&case.d_output, shape.output_width());
        for (input, width) in [(0, width), (1, heads), (2, heads)] {
            alone.inputs[input] = cut(&case.inputs[input], width);
        }
        let alone = alone.run::<T>(&cpu(2));
        assert_eq!(alone.output, cut(&all.output, shape.output_width()));
        let states = document * shape.state_length()..(document + 1) * shape.state_length();
        assert_eq!(alone.last_states, all.last_states[states]);
        for (input, width) in [(0, width), (1, heads), (2, heads)] {
            assert_eq!(alone.gradients[input], cut(&all.gradients[input], width), "{}", NAMES[input]);
        }
    }
}

fn bits_do_not_depend_on_the_threads<T: Real>() {
    for sizes in CASES {
        let case = Case::new::<T>(sizes, Decay::Usual);
        let expected = case.run::<T>(&cpu(1));
        for threads in [2, 3, 8] {
            assert_eq!(case.run::<T>(&cpu(threads)), expected, "{sizes:?} with {threads} threads");
        }
    }
}

/// Queries and keys of zeros, gates at their ends.
fn extreme_inputs_stay_numbers<T: Real>() {
    let mut case = Case::new::<T>(((1, 2, 4, 4), &[70]), Decay::Fast);
    case.inputs[0].fill(0.0);
    for (a, b) in [(1e4, 1e4), (-1e4, -1e4), (1e4, -1e4)] {
        case.inputs[1].fill(a);
        case.inputs[2].fill(b);
        let results = case.run::<T>(&cpu(1));
        let all = [&results.output, &results.last_states].into_iter().chain(&results.gradients);
        assert!(all.flatten().all(|value| value.is_finite()), "a {a}, b {b}: {results:?}");
    }
}

/// Two sequences in turn, one of them several tokens in one step: what the oracle gives for them.
fn decoding_goes_on_as_the_oracle<T: Real>() {
    devices().iter().for_each(decoding_on::<T>);
}

fn decoding_on<T: Real>(device: &Device) {
    let case = Case::new::<T>(((2, 4, 8, 5), &[6, 9]), Decay::Usual);
    let (shape, oracle_inputs) = case.oracle();
    let (expected, last_states) = oracle::forward(&shape, &case.starts, &oracle_inputs);
    let shape = &case.shape;
    let mut states = Buffer::<f32>::zeros(device, 3 * shape.state_length()).unwrap();
    let shared = [3, 4].map(|input| upload::<T>(device, &case.inputs[input]));
    let (mut output, mut taken) = (vec![f32::NAN; expected.len()], [0, 0]);
    for rows in [&[0, 1][..], &[1, 1, 1, 0], &[0], &[1, 0], &[1, 1, 0], &[1, 0], &[1]] {
        let mut tokens = Vec::new();
        for &text in rows {
            tokens.push(case.starts[text] + taken[text]);
            taken[text] += 1;
        }
        let of_rows = |input: usize, width: usize| {
            let values =
                tokens.iter().flat_map(|token| &case.inputs[input][token * width..(token + 1) * width]);
            upload::<T>(device, &values.copied().collect::<Vec<_>>())
        };
        let (qkv, a, b) =
            (of_rows(0, shape.input_width()), of_rows(1, shape.value_heads), of_rows(2, shape.value_heads));
        let slots: Vec<u32> = rows.iter().map(|&text| [2, 0][text]).collect();
        let slots = Indices::from_slice(device, &slots).unwrap();
        let mut made = poisoned::<T>(device, rows.len() * shape.output_width());
        let inputs = Inputs {
            qkv: qkv.view(),
            a: a.view(),
            b: b.view(),
            a_log: shared[0].view(),
            dt_bias: shared[1].view(),
        };
        let made_view = made.view_mut();
        gated_delta_rule::decode(device, shape, inputs, slots.view(), states.view_mut(), made_view).unwrap();
        for (made, token) in download(&made).chunks(shape.output_width()).zip(tokens) {
            output[token * shape.output_width()..][..shape.output_width()].copy_from_slice(made);
        }
    }
    assert_close("output", &output, &expected, tolerance::<T>(2e-6, 1.0));
    let states = download(&states);
    let of_slot = |slot: usize| &states[slot * shape.state_length()..(slot + 1) * shape.state_length()];
    assert_close("states", &[of_slot(2), of_slot(0)].concat(), &last_states, 2e-6);
}

fn error_of(device: &Device, shape: Shape, qkv: usize) -> String {
    let documents = Documents::new(&[0, 1]).unwrap();
    let buffers = [qkv, 2, 2, 2, 2].map(|length| Buffer::<f32>::zeros(device, length).unwrap());
    let [qkv, a, b, a_log, dt_bias] = buffers.each_ref().map(Buffer::view);
    let mut output = Buffer::zeros(device, 4).unwrap();
    let inputs = Inputs { qkv, a, b, a_log, dt_bias };
    gated_delta_rule::forward(device, &shape, &documents, inputs, output.view_mut(), None)
        .unwrap_err()
        .to_string()
}

#[test]
fn bad_input_is_an_error() {
    let shape = Shape { key_heads: 1, value_heads: 2, key_dim: 3, value_dim: 2 };
    let message = error_of(&cpu(1), shape, 9);
    assert_eq!(message, "gated_delta_rule: `qkv` has 9 elements, expected 10");
    let message = error_of(&cpu(1), Shape { key_heads: 0, ..shape }, 10);
    assert_eq!(message, "gated_delta_rule: 2 value heads cannot share 0 key heads");
    let message = error_of(&cpu(1), Shape { key_dim: 0, ..shape }, 10);
    assert_eq!(message, "gated_delta_rule: the heads have no elements");
}

#[test]
fn gpus_take_keys_of_up_to_256_elements() {
    let [device, ..] = emulated();
    let shape = |key_dim| Shape { key_heads: 1, value_heads: 2, key_dim, value_dim: 2 };
    gated_delta_rule::check_device(&device, &shape(256)).unwrap();
    gated_delta_rule::check_device(&cpu(1), &shape(257)).unwrap();
    let message = gated_delta_rule::check_device(&device, &shape(257)).unwrap_err().to_string();
    assert_eq!(message, "gated_delta_rule: keys of 257 elements: GPU kernels take up to 256");
}

#[test]
fn passes_on_the_stand_in_driver() {
    stand_in::repeat(module_path!(), &["gpus_match", "decoding"]);
}

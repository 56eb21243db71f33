//! The causal convolution against a f64 oracle, its backward against central differences of the oracle, in f32 and bf16.

use std::num::NonZeroUsize;

use cpift_engine::ops::attention::Documents;
use cpift_engine::ops::causal_conv1d::{self, Shape};
use cpift_engine::{Buffer, Device, Indices, Real};
use cpift_tests::devices::{devices, emulated, on_each};
use cpift_tests::numeric::{assert_close, central_differences, dot, random, widen};
use cpift_tests::precision::{download, poisoned, random_in, tolerance, upload};
use cpift_tests::{in_f32_and_bf16, stand_in};

in_f32_and_bf16!(
    forward_matches_the_oracle,
    backward_matches_central_differences,
    bits_do_not_depend_on_the_threads,
    decoding_goes_on_as_the_forward,
);

/// Sizes, and where documents start: shorter than the taps, around blocks of 64 tokens, channels around blocks of 16.
const CASES: [(Shape, &[usize]); 5] = [
    (Shape { channels: 1, taps: 1 }, &[0, 1]),
    (Shape { channels: 3, taps: 4 }, &[0, 2, 3, 9]),
    (Shape { channels: 16, taps: 4 }, &[0, 5]),
    (Shape { channels: 37, taps: 3 }, &[0, 4, 5]),
    (Shape { channels: 2, taps: 2 }, &[0, 70, 71, 135]),
];

fn oracle(shape: &Shape, starts: &[usize], input: &[f64], weight: &[f64]) -> Vec<f64> {
    let Shape { channels, taps } = *shape;
    let mut output = Vec::new();
    for document in starts.windows(2) {
        for (token, channel) in
            (document[0]..document[1]).flat_map(|token| (0..channels).map(move |channel| (token, channel)))
        {
            let seen = (0..taps).filter(|tap| token + tap >= document[0] + taps - 1);
            let term =
                |tap| input[(token + tap + 1 - taps) * channels + channel] * weight[channel * taps + tap];
            let z: f64 = seen.map(term).sum();
            output.push(z / (1.0 + (-z).exp()));
        }
    }
    output
}

fn cpu(threads: usize) -> Device {
    Device::cpu(NonZeroUsize::new(threads)).unwrap()
}

fn forward<T: Real>(
    device: &Device,
    shape: &Shape,
    starts: &[usize],
    input: &[f32],
    weight: &[f32],
) -> Vec<f32> {
    let documents = Documents::new(starts).unwrap();
    let (input, weight) = (upload::<T>(device, input), upload(device, weight));
    let mut output = poisoned(device, input.len());
    let output_view = output.view_mut();
    causal_conv1d::forward(device, shape, &documents, input.view(), weight.view(), output_view).unwrap();
    download(&output)
}

/// d_input, and what `before` of d_weight becomes.
fn backward<T: Real>(
    device: &Device,
    shape: &Shape,
    starts: &[usize],
    [input, weight, d_output, before]: [&[f32]; 4],
) -> [Vec<f32>; 2] {
    let documents = Documents::new(starts).unwrap();
    let buffers = [input, weight, d_output].map(|values| upload::<T>(device, values));
    let (mut d_input, mut d_weight) = (poisoned(device, input.len()), upload(device, before));
    let inputs = (buffers[0].view(), buffers[1].view());
    let (d_output, gradients) = (buffers[2].view(), (d_input.view_mut(), d_weight.view_mut()));
    causal_conv1d::backward(device, shape, &documents, inputs, d_output, gradients.0, gradients.1).unwrap();
    [download(&d_input), download(&d_weight)]
}

fn forward_matches_the_oracle<T: Real>() {
    for (seed, (shape, starts)) in (0..).zip(CASES) {
        let tokens = starts[starts.len() - 1];
        let input = random_in::<T>(seed, tokens * shape.channels);
        let weight = random_in::<T>(seed + 100, shape.channels * shape.taps);
        let expected = oracle(&shape, starts, &widen(&input), &widen(&weight));
        for (_, output) in on_each(|device| forward::<T>(device, &shape, starts, &input, &weight)) {
            assert_close("output", &output, &expected, tolerance::<T>(1e-6, 1.0));
        }
    }
}

fn backward_matches_central_differences<T: Real>() {
    for (seed, (shape, starts)) in (0..).zip(CASES) {
        let elements = starts[starts.len() - 1] * shape.channels;
        let weights = shape.channels * shape.taps;
        let (input, d_output) = (random_in::<T>(seed, elements), random_in::<T>(seed + 100, elements));
        let (weight, before) = (random_in::<T>(seed + 200, weights), random(seed + 300, weights));
        let results =
            on_each(|device| backward::<T>(device, &shape, starts, [&input, &weight, &d_output, &before]));
        let (x, w, d) = (widen(&input), widen(&weight), widen(&d_output));
        let by_input = central_differences(&x, |x| dot(&oracle(&shape, starts, x, &w), &d));
        let by_weight = central_differences(&w, |w| dot(&oracle(&shape, starts, &x, w), &d));
        let by_weight: Vec<f64> = by_weight.iter().zip(&before).map(|(d, &b)| d + f64::from(b)).collect();
        for (_, [d_input, d_weight]) in results {
            assert_close("d_input", &d_input, &by_input, tolerance::<T>(2e-6, 1.0));
            assert_close("d_weight", &d_weight, &by_weight, 2e-6);
        }
    }
}

fn bits_do_not_depend_on_the_threads<T: Real>() {
    let (shape, starts) = (Shape { channels: 50, taps: 4 }, [0, 400, 401, 900]);
    let (input, d_output) = (random_in::<T>(1, 900 * 50), random_in::<T>(2, 900 * 50));
    let (weight, before) = (random_in::<T>(3, 200), random_in::<T>(4, 200));
    let run = |threads| {
        let device = cpu(threads);
        let inputs: [&[f32]; 4] = [&input, &weight, &d_output, &before];
        (
            forward::<T>(&device, &shape, &starts, &input, &weight),
            backward::<T>(&device, &shape, &starts, inputs),
        )
    };
    let expected = run(1);
    for threads in [2, 3, 8] {
        assert_eq!(run(threads), expected, "{threads} threads");
    }
}

/// Two sequences in turn, one of them several tokens in one step: what the forward gives for them.
fn decoding_goes_on_as_the_forward<T: Real>() {
    devices().iter().for_each(decoding_on::<T>);
}

fn decoding_on<T: Real>(device: &Device) {
    let shape = Shape { channels: 5, taps: 4 };
    let weight = random_in::<T>(1, 20);
    let texts = [random_in::<T>(2, 6 * 5), random_in::<T>(3, 9 * 5)];
    let mut states = Buffer::<T>::zeros(device, 3 * shape.state_length()).unwrap();
    let (mut outputs, mut taken) = ([Vec::new(), Vec::new()], [0, 0]);
    let weights = upload::<T>(device, &weight);
    for rows in [&[0, 1][..], &[1, 1, 1, 0], &[0], &[1, 0], &[1, 1, 0], &[1, 0], &[1]] {
        let mut input = Vec::new();
        for &text in rows {
            input.extend_from_slice(&texts[text][taken[text] * 5..(taken[text] + 1) * 5]);
            taken[text] += 1;
        }
        let slots: Vec<u32> = rows.iter().map(|&text| [2, 0][text]).collect();
        let slots = Indices::from_slice(device, &slots).unwrap();
        let (input, mut output) = (upload::<T>(device, &input), poisoned(device, input.len()));
        let output_view = output.view_mut();
        let views = (input.view(), weights.view(), states.view_mut());
        causal_conv1d::decode(device, &shape, views.0, views.1, slots.view(), views.2, output_view).unwrap();
        for (output, &text) in download(&output).chunks(5).zip(rows) {
            outputs[text].extend_from_slice(output);
        }
    }
    for (text, output) in texts.iter().zip(outputs) {
        assert_eq!(output, forward::<T>(device, &shape, &[0, text.len() / 5], text, &weight));
    }
}

#[test]
fn bad_input_is_an_error() {
    let (device, shape) = (cpu(1), Shape { channels: 2, taps: 3 });
    let documents = Documents::new(&[0, 2]).unwrap();
    let (input, weight) =
        (Buffer::<f32>::zeros(&device, 4).unwrap(), Buffer::<f32>::zeros(&device, 5).unwrap());
    let mut output = Buffer::zeros(&device, 4).unwrap();
    let views = (input.view(), weight.view());
    let error = causal_conv1d::forward(&device, &shape, &documents, views.0, views.1, output.view_mut());
    let message = error.unwrap_err().to_string();
    assert_eq!(message, "causal_conv1d: `weight` has 5 elements, expected 6");
    let none = Shape { channels: 2, taps: 0 };
    let error = causal_conv1d::forward(&device, &none, &documents, views.0, views.1, output.view_mut());
    assert_eq!(error.unwrap_err().to_string(), "causal_conv1d: 2 channels of 0 taps are nothing to compute");
    let weight = Buffer::<f32>::zeros(&device, 6).unwrap();
    let slots = Indices::from_slice(&device, &[0, 1]).unwrap();
    let mut states = Buffer::zeros(&device, 4).unwrap();
    let (views, states) = ((input.view(), weight.view()), states.view_mut());
    let error =
        causal_conv1d::decode(&device, &shape, views.0, views.1, slots.view(), states, output.view_mut());
    let message = error.unwrap_err().to_string();
    assert_eq!(message, "causal_conv1d decode: states of 4 elements have no slot 1");
}

#[test]
fn gpus_take_up_to_32_taps() {
    let [device, ..] = emulated();
    let shape = |taps| Shape { channels: 1, taps };
    causal_conv1d::check_device(&device, &shape(32)).unwrap();
    causal_conv1d::check_device(&cpu(1), &shape(33)).unwrap();
    let message = causal_conv1d::check_device(&device, &shape(33)).unwrap_err().to_string();
    assert_eq!(message, "causal_conv1d: 33 taps of a channel: GPU kernels take up to 32");
}

#[test]
fn passes_on_the_stand_in_driver() {
    stand_in::repeat(module_path!(), &["matches", "decoding"]);
}

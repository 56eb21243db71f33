//! Attention against its f64 oracle, in f32 and bf16.

use std::collections::HashMap;
use std::num::NonZeroUsize;

use cpift_engine::ops::attention::{
    BackwardInputs, Cache, Documents, Gradients, Inputs, Shape, backward, decode, forward,
};
use cpift_engine::{Buffer, Device, Indices, Real};
use cpift_tests::devices::{devices, emulated};
use cpift_tests::in_f32_and_bf16;
use cpift_tests::numeric::{assert_close, central_differences, dot, random, widen};
use cpift_tests::oracle::attention as oracle;
use cpift_tests::precision::{download, poisoned, random_in, tolerance, upload};
use cpift_tests::stand_in;

in_f32_and_bf16!(
    forward_matches_the_oracle,
    gradients_match_central_differences,
    gradients_of_large_cases_match_directional_differences,
    documents_do_not_see_each_other,
    bits_do_not_depend_on_the_run_or_the_threads,
    bits_do_not_depend_on_the_schedule,
    windows_match_the_oracle,
    soft_caps_match_the_oracle,
    gradients_under_soft_caps_match_central_differences,
    decode_matches_the_oracle,
);

/// Roundings that the output may be off by: its own, and that of the probabilities, which tensor cores take
/// in bf16; an element of the output is at most the largest of v, as far as its probabilities allow.
const OUTPUT_ROUNDINGS: f64 = 3.0;
/// The same of the gradients: their own, those of probabilities and d_score, and of the output in
/// delta = d_output·output; sums of such products may cancel.
const GRADIENT_ROUNDINGS: f64 = 6.0;

/// Heads, key and value heads, width of a head; lengths of the documents.
type Sizes = ((usize, usize, usize), &'static [usize]);

struct Case {
    device: Device,
    shape: Shape,
    starts: Vec<usize>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    d_output: Vec<f32>,
}

/// Everything forward and backward write.
#[derive(Debug, PartialEq)]
struct Results {
    output: Vec<f32>,
    log_sum_exp: Vec<f32>,
    d_q: Vec<f32>,
    d_k: Vec<f32>,
    d_v: Vec<f32>,
}

impl Case {
    fn new<T: Real>(
        (heads, kv_heads, head_dim): (usize, usize, usize),
        lengths: &[usize],
        device: &Device,
    ) -> Self {
        let mut starts = vec![0];
        for length in lengths {
            starts.push(starts[starts.len() - 1] + length);
        }
        let tokens: usize = lengths.iter().sum();
        let (query, key) = (tokens * heads * head_dim, tokens * kv_heads * head_dim);
        Self {
            device: device.clone(),
            // Larger than 1/√D, so that the probabilities are far from uniform.
            shape: Shape {
                heads,
                kv_heads,
                head_dim,
                scale: 2.0 / (head_dim as f32).sqrt(),
                window: None,
                softcap: None,
            },
            starts,
            q: random_in::<T>(1, query),
            k: random_in::<T>(2, key),
            v: random_in::<T>(3, key),
            d_output: random_in::<T>(4, query),
        }
    }

    fn oracle(&self) -> oracle::Shape {
        let Shape { heads, kv_heads, head_dim, scale, window, softcap } = self.shape;
        let window = window.map(NonZeroUsize::get);
        let softcap = softcap.map(f64::from);
        oracle::Shape { heads, kv_heads, head_dim, scale: f64::from(scale), window, softcap }
    }

    fn run<T: Real>(&self) -> Results {
        let buffer = |values: &[f32]| upload::<T>(&self.device, values);
        let poison = |length: usize| poisoned::<T>(&self.device, length);
        let documents = Documents::new(&self.starts).unwrap();
        let (q, k, v, d_output) = (buffer(&self.q), buffer(&self.k), buffer(&self.v), buffer(&self.d_output));
        let inputs = Inputs { q: q.view(), k: k.view(), v: v.view() };
        let mut output = poison(self.q.len());
        let mut log_sum_exp = poisoned(&self.device, documents.tokens() * self.shape.heads);
        forward(&self.device, &self.shape, &documents, inputs, output.view_mut(), log_sum_exp.view_mut())
            .unwrap();
        let (mut d_q, mut d_k, mut d_v) = (poison(self.q.len()), poison(self.k.len()), poison(self.v.len()));
        let outputs = BackwardInputs {
            output: output.view(),
            log_sum_exp: log_sum_exp.view(),
            d_output: d_output.view(),
        };
        let gradients = Gradients { d_q: d_q.view_mut(), d_k: d_k.view_mut(), d_v: d_v.view_mut() };
        backward(&self.device, &self.shape, &documents, inputs, outputs, gradients).unwrap();
        Results {
            output: download(&output),
            log_sum_exp: download(&log_sum_exp),
            d_q: download(&d_q),
            d_k: download(&d_k),
            d_v: download(&d_v),
        }
    }
}

fn cpu(threads: usize) -> Device {
    Device::cpu(NonZeroUsize::new(threads)).unwrap()
}

/// Small cases on every device, large ones not on the emulator. A GPU takes heads of a multiple of 8.
fn on_devices(small: &[Sizes], large: &[Sizes]) -> Vec<(Device, Sizes)> {
    let mut cases = Vec::new();
    for device in devices() {
        let large = if device.name() == "emulated" { &[] } else { large };
        for &sizes in small.iter().chain(large) {
            if matches!(device, Device::Cpu(_)) || sizes.0.2.is_multiple_of(8) {
                cases.push((device.clone(), sizes));
            }
        }
    }
    cases
}

/// The case without a window, and with these.
fn with_windows<T: Clone>(case: &T, windows: [usize; 3]) -> impl Iterator<Item = (T, Option<NonZeroUsize>)> {
    let windows = std::iter::once(None).chain(windows.map(NonZeroUsize::new));
    windows.map(|window| (case.clone(), window))
}

fn forward_matches_the_oracle<T: Real>() {
    let small: [Sizes; 7] = [
        ((1, 1, 8), &[1]),
        ((2, 1, 16), &[1, 1, 3]),
        ((2, 2, 24), &[65, 2]),
        ((3, 1, 80), &[9, 4]),
        ((4, 1, 64), &[66, 3]),
        ((8, 1, 128), &[2, 5]),
        ((1, 1, 136), &[4]),
    ];
    let large: [Sizes; 6] = [
        ((4, 4, 24), &[63, 64, 65]),
        ((4, 2, 64), &[130, 1, 200]),
        ((8, 2, 80), &[97, 31]),
        ((4, 1, 128), &[70]),
        ((8, 1, 64), &[33, 129]),
        ((3, 3, 5), &[300]),
    ];
    for (device, (sizes, lengths)) in on_devices(&small, &large) {
        let case = Case::new::<T>(sizes, lengths, &device);
        let (q, k, v) = (widen(&case.q), widen(&case.k), widen(&case.v));
        let (output, log_sum_exp) = oracle::forward(&case.oracle(), &case.starts, &q, &k, &v);
        let results = case.run::<T>();
        assert_close(
            &format!("output of {sizes:?} {lengths:?}"),
            &results.output,
            &output,
            tolerance::<T>(2e-6, OUTPUT_ROUNDINGS),
        );
        assert_close(
            &format!("log-sum-exp of {sizes:?} {lengths:?}"),
            &results.log_sum_exp,
            &log_sum_exp,
            1e-6,
        );
    }
}

fn gradients_match_central_differences<T: Real>() {
    // Few enough numbers to move one by one, with documents around the size of a tile.
    let cases: [Sizes; 5] = [
        ((1, 1, 3), &[1]),
        ((2, 2, 8), &[5, 1, 9]),
        ((4, 1, 4), &[20, 13]),
        ((2, 1, 2), &[67]),
        ((2, 1, 17), &[3, 4]),
    ];
    let cases = on_devices(&cases, &[]);
    // The same on every device.
    let mut expected = HashMap::new();
    for ((device, (sizes, lengths)), window) in cases.iter().flat_map(|case| with_windows(case, [1, 4, 65])) {
        let mut case = Case::new::<T>(sizes, lengths, &device);
        case.shape.window = window;
        let (shape, starts) = (case.oracle(), &case.starts);
        let (q, k, v, d_output) = (widen(&case.q), widen(&case.k), widen(&case.v), widen(&case.d_output));
        let loss =
            |q: &[f64], k: &[f64], v: &[f64]| dot(&oracle::forward(&shape, starts, q, k, v).0, &d_output);
        let [d_q, d_k, d_v] = expected.entry((sizes, lengths, window)).or_insert_with(|| {
            [
                central_differences(&q, |q| loss(q, &k, &v)),
                central_differences(&k, |k| loss(&q, k, &v)),
                central_differences(&v, |v| loss(&q, &k, v)),
            ]
        });
        let results = case.run::<T>();
        let what = |name: &str| format!("{name} of {sizes:?} {lengths:?} window {window:?}");
        let allowed = tolerance::<T>(5e-6, GRADIENT_ROUNDINGS);
        assert_close(&what("d_q"), &results.d_q, d_q, allowed);
        assert_close(&what("d_k"), &results.d_k, d_k, allowed);
        assert_close(&what("d_v"), &results.d_v, d_v, allowed);
    }
}

/// The difference along one random direction per input, for sizes too large to move one by one. Roundings of
/// the elements, which do not know the direction, nearly cancel in it.
fn gradients_of_large_cases_match_directional_differences<T: Real>() {
    let small: [Sizes; 4] =
        [((2, 1, 24), &[67, 3]), ((1, 1, 128), &[7]), ((8, 2, 80), &[1, 5]), ((8, 1, 64), &[3])];
    let large: [Sizes; 4] = [
        ((4, 2, 64), &[130, 1, 70]),
        ((8, 1, 80), &[97]),
        ((2, 2, 128), &[65, 64, 63]),
        ((3, 1, 24), &[200]),
    ];
    let cases = on_devices(&small, &large);
    // The same on every device.
    let mut slopes = HashMap::new();
    for ((device, (sizes, lengths)), window) in cases.iter().flat_map(|case| with_windows(case, [3, 64, 70]))
    {
        let mut case = Case::new::<T>(sizes, lengths, &device);
        case.shape.window = window;
        let results = case.run::<T>();
        let inputs = [widen(&case.q), widen(&case.k), widen(&case.v)];
        let gradients = [&results.d_q, &results.d_k, &results.d_v];
        let d_output = widen(&case.d_output);
        for which in 0..3 {
            let direction = widen(&random(10 + which as u64, inputs[which].len()));
            let slope = *slopes.entry((sizes, lengths, window, which)).or_insert_with(|| {
                central_differences(&[0.0], |step| {
                    let mut moved = inputs.clone();
                    moved[which].iter_mut().zip(&direction).for_each(|(x, d)| *x += step[0] * d);
                    let [q, k, v] = &moved;
                    let output = oracle::forward(&case.oracle(), &case.starts, q, k, v).0;
                    dot(&output, &d_output)
                })[0]
            });
            let gradient = widen(gradients[which]);
            let size = (dot(&gradient, &gradient) * dot(&direction, &direction)).sqrt();
            let error = (dot(&gradient, &direction) - slope).abs() / size;
            assert!(
                error < tolerance::<T>(1e-7, 1.0),
                "input {which} of {sizes:?} {lengths:?} window {window:?}: off by {error:e}"
            );
        }
    }
}

fn documents_do_not_see_each_other<T: Real>() {
    let (heads, lengths) = ((2, 1, 8), [40, 90, 7]);
    for device in devices() {
        let case = Case::new::<T>(heads, &lengths, &device);
        let all = case.run::<T>();
        for (document, range) in case.starts.windows(2).map(|pair| pair[0]..pair[1]).enumerate() {
            let mut alone = Case::new::<T>(heads, &[lengths[document]], &device);
            let (query, key) = (range.start * 16..range.end * 16, range.start * 8..range.end * 8);
            alone.q = case.q[query.clone()].to_vec();
            alone.k = case.k[key.clone()].to_vec();
            alone.v = case.v[key.clone()].to_vec();
            alone.d_output = case.d_output[query.clone()].to_vec();
            let alone = alone.run::<T>();
            assert_eq!(alone.output, all.output[query.clone()]);
            assert_eq!(alone.d_q, all.d_q[query]);
            assert_eq!(alone.d_k, all.d_k[key.clone()]);
            assert_eq!(alone.d_v, all.d_v[key]);
        }
    }
}

/// Several threads add to the gradients of the same keys, in turn.
fn bits_do_not_depend_on_the_run_or_the_threads<T: Real>() {
    let cases: [Sizes; 3] = [((2, 1, 64), &[200]), ((4, 2, 24), &[150, 1, 30]), ((4, 4, 80), &[70, 64])];
    for (sizes, lengths) in cases {
        let expected = Case::new::<T>(sizes, lengths, &cpu(1)).run::<T>();
        for threads in [1, 2, 2, 3, 8] {
            let again = Case::new::<T>(sizes, lengths, &cpu(threads)).run::<T>();
            assert_eq!(again, expected, "{sizes:?} {lengths:?} with {threads} threads");
        }
    }
}

fn bits_do_not_depend_on_the_schedule<T: Real>() {
    let run = |device| Case::new::<T>((4, 2, 16), &[67, 1, 5], &device).run::<T>();
    let [expected, others @ ..] = emulated().map(run);
    for other in others {
        assert_eq!(other, expected);
    }
}

/// Around the edges of tiles of 64 tokens, and larger than any document.
fn windows_match_the_oracle<T: Real>() {
    let cases: [(Sizes, usize); 6] = [
        (((2, 1, 8), &[5, 1, 70]), 1),
        (((1, 1, 8), &[130, 3]), 17),
        (((1, 1, 8), &[130]), 64),
        (((2, 2, 8), &[130]), 65),
        (((1, 1, 16), &[200]), 129),
        (((1, 1, 8), &[66]), 1000),
    ];
    for (sizes, window) in cases {
        for (device, (heads, lengths)) in on_devices(&[sizes], &[]) {
            let mut case = Case::new::<T>(heads, lengths, &device);
            case.shape.window = NonZeroUsize::new(window);
            let (shape, starts) = (case.oracle(), &case.starts);
            let (q, k, v) = (widen(&case.q), widen(&case.k), widen(&case.v));
            let results = case.run::<T>();
            let what = |name: &str| format!("{name} of {heads:?} {lengths:?} window {window}");
            let (output, log_sum_exp) = oracle::forward(&shape, starts, &q, &k, &v);
            let allowed = tolerance::<T>(2e-6, OUTPUT_ROUNDINGS);
            assert_close(&what("output"), &results.output, &output, allowed);
            assert_close(&what("log-sum-exp"), &results.log_sum_exp, &log_sum_exp, 1e-6);
        }
    }
}

/// Scores are up to 3 and more: caps that bend most of them, and one that bends few.
fn soft_caps_match_the_oracle<T: Real>() {
    let cases: [(Sizes, Option<usize>, f32); 5] = [
        (((2, 1, 16), &[5, 1, 70]), None, 1.0),
        (((1, 1, 64), &[130, 3]), Some(17), 0.5),
        (((2, 2, 80), &[33]), None, 2.0),
        (((1, 1, 256), &[20]), Some(7), 1.0),
        (((4, 2, 8), &[66]), None, 50.0),
    ];
    for (sizes, window, cap) in cases {
        for (device, (heads, lengths)) in on_devices(&[sizes], &[]) {
            let mut case = Case::new::<T>(heads, lengths, &device);
            (case.shape.window, case.shape.softcap) = (window.and_then(NonZeroUsize::new), Some(cap));
            let (shape, starts) = (case.oracle(), &case.starts);
            let (q, k, v) = (widen(&case.q), widen(&case.k), widen(&case.v));
            let results = case.run::<T>();
            let what = |name: &str| format!("{name} of {heads:?} {lengths:?} cap {cap}");
            let (output, log_sum_exp) = oracle::forward(&shape, starts, &q, &k, &v);
            let allowed = tolerance::<T>(2e-6, OUTPUT_ROUNDINGS);
            assert_close(&what("output"), &results.output, &output, allowed);
            assert_close(&what("log-sum-exp"), &results.log_sum_exp, &log_sum_exp, 1e-6);
        }
    }
}

fn gradients_under_soft_caps_match_central_differences<T: Real>() {
    let cases: [Sizes; 3] = [((2, 2, 8), &[5, 1, 9]), ((4, 1, 4), &[20, 13]), ((2, 1, 8), &[67])];
    let cases = on_devices(&cases, &[]);
    // The same on every device.
    let mut expected = HashMap::new();
    for ((device, (sizes, lengths)), window) in cases.iter().flat_map(|case| with_windows(case, [1, 4, 65])) {
        let mut case = Case::new::<T>(sizes, lengths, &device);
        (case.shape.window, case.shape.softcap) = (window, Some(1.0));
        let (shape, starts) = (case.oracle(), &case.starts);
        let (q, k, v, d_output) = (widen(&case.q), widen(&case.k), widen(&case.v), widen(&case.d_output));
        let loss =
            |q: &[f64], k: &[f64], v: &[f64]| dot(&oracle::forward(&shape, starts, q, k, v).0, &d_output);
        let [d_q, d_k, d_v] = expected.entry((sizes, lengths, window)).or_insert_with(|| {
            [
                central_differences(&q, |q| loss(q, &k, &v)),
                central_differences(&k, |k| loss(&q, k, &v)),
                central_differences(&v, |v| loss(&q, &k, v)),
            ]
        });
        let results = case.run::<T>();
        let what = |name: &str| format!("{name} of {sizes:?} {lengths:?} window {window:?} with a cap");
        let allowed = tolerance::<T>(5e-6, GRADIENT_ROUNDINGS);
        assert_close(&what("d_q"), &results.d_q, d_q, allowed);
        assert_close(&what("d_k"), &results.d_k, d_k, allowed);
        assert_close(&what("d_v"), &results.d_v, d_v, allowed);
    }
}

/// Where a window ends, a tile of keys has had its last turn: the same bits as with one thread.
#[test]
fn bits_of_windows_do_not_depend_on_the_threads() {
    let run = |threads| {
        let mut case = Case::new::<f32>((2, 1, 16), &[300], &cpu(threads));
        case.shape.window = NonZeroUsize::new(90);
        case.run::<f32>()
    };
    assert_eq!(run(1), run(4));
}

fn decode_matches_the_oracle<T: Real>() {
    let cases: [Sizes; 4] = [((1, 1, 8), &[]), ((4, 2, 64), &[]), ((8, 1, 80), &[]), ((6, 3, 5), &[])];
    let cases = on_devices(&cases, &[]);
    let with_windows = cases.iter().flat_map(|case| with_windows(case, [1, 40, 70]));
    let with_caps =
        with_windows.flat_map(|(case, window)| [None, Some(1.5f32)].map(|cap| (case.clone(), window, cap)));
    for ((device, ((heads, kv_heads, head_dim), _)), window, softcap) in with_caps {
        let (slots, capacity) = (5, 70);
        let shape = Shape { heads, kv_heads, head_dim, scale: 0.5, window, softcap };
        let oracle_shape = oracle::Shape {
            heads,
            kv_heads,
            head_dim,
            scale: 0.5,
            window: window.map(NonZeroUsize::get),
            softcap: softcap.map(f64::from),
        };
        let (rows, lengths) = ([3u32, 0, 4], [70u32, 1, 33]);
        let q = random_in::<T>(1, rows.len() * heads * head_dim);
        let mut k = random_in::<T>(2, slots * capacity * kv_heads * head_dim);
        let mut v = random_in::<T>(3, k.len());
        // What lies behind a sequence's length must not matter.
        for (&slot, &length) in rows.iter().zip(&lengths) {
            let width = kv_heads * head_dim;
            let unused =
                (slot as usize * capacity + length as usize) * width..(slot as usize + 1) * capacity * width;
            k[unused.clone()].fill(f32::NAN);
            v[unused].fill(f32::NAN);
        }
        let buffer = |values: &[f32]| upload::<T>(&device, values);
        let (q_buffer, k_buffer, v_buffer) = (buffer(&q), buffer(&k), buffer(&v));
        let slots_buffer = Indices::from_slice(&device, &rows).unwrap();
        let lengths_buffer = Indices::from_slice(&device, &lengths).unwrap();
        let mut output = poisoned(&device, q.len());
        let cache = Cache {
            k: k_buffer.view(),
            v: v_buffer.view(),
            capacity,
            slots: slots_buffer.view(),
            lengths: lengths_buffer.view(),
        };
        decode(&device, &shape, q_buffer.view(), cache, output.view_mut()).unwrap();

        let (q, k, v) = (widen(&q), widen(&k), widen(&v));
        let mut expected = Vec::new();
        for (row, (&slot, &length)) in rows.iter().zip(&lengths).enumerate() {
            let first = slot as usize * capacity;
            for head in 0..heads {
                let query = &q[(row * heads + head) * head_dim..][..head_dim];
                let end = first + length as usize;
                let seen = oracle_shape.first_seen(first, end)..end;
                expected.extend(oracle::attend(&oracle_shape, query, head, &k, &v, seen).0);
            }
        }
        assert_close("decode", &download(&output), &expected, tolerance::<T>(2e-6, 1.0));
    }
}

#[test]
fn bad_input_is_an_error() {
    for starts in [&[][..], &[1, 2], &[0, 3, 3], &[0, 4, 2]] {
        let error = Documents::new(starts).unwrap_err().to_string();
        assert!(error.contains("document starts have to begin with 0 and ascend"), "{error}");
    }
    let device = Device::cpu(NonZeroUsize::new(1)).unwrap();
    let shape = Shape { heads: 3, kv_heads: 2, head_dim: 4, scale: 1.0, window: None, softcap: None };
    let documents = Documents::new(&[0, 1]).unwrap();
    let (q, k) = (Buffer::<f32>::zeros(&device, 12).unwrap(), Buffer::zeros(&device, 8).unwrap());
    let (mut output, mut log_sum_exp) =
        (Buffer::zeros(&device, 12).unwrap(), Buffer::zeros(&device, 3).unwrap());
    let inputs = Inputs { q: q.view(), k: k.view(), v: k.view() };
    let error = forward(&device, &shape, &documents, inputs, output.view_mut(), log_sum_exp.view_mut());
    let message = error.unwrap_err().to_string();
    assert_eq!(message, "attention forward: 3 query heads cannot share 2 key/value heads");
    for (cap, expected) in [(0.0, "a soft cap of 0 is not"), (f32::NAN, "a soft cap of NaN is not")] {
        let shape = Shape { heads: 2, softcap: Some(cap), ..shape };
        let error = forward(&device, &shape, &documents, inputs, output.view_mut(), log_sum_exp.view_mut());
        assert!(error.unwrap_err().to_string().contains(expected));
    }
}

#[test]
fn heads_that_no_kernel_takes_are_an_error() {
    for (head_dim, limit) in [(12, 64), (264, 256)] {
        let [device, ..] = emulated();
        let shape = Shape { heads: 1, kv_heads: 1, head_dim, scale: 1.0, window: None, softcap: None };
        let documents = Documents::new(&[0, 1]).unwrap();
        let row = Buffer::<f32>::zeros(&device, head_dim).unwrap();
        let mut output = Buffer::zeros(&device, head_dim).unwrap();
        let mut log_sum_exp = Buffer::zeros(&device, 1).unwrap();
        let inputs = Inputs { q: row.view(), k: row.view(), v: row.view() };
        let error = forward(&device, &shape, &documents, inputs, output.view_mut(), log_sum_exp.view_mut());
        let message = error.unwrap_err().to_string();
        let expected = format!("attention_forward_{limit}_f32 requires fits(head_dim, {limit})");
        assert!(message.contains(&expected), "{message}");
    }
}

#[test]
fn passes_on_the_stand_in_driver() {
    stand_in::repeat(
        module_path!(),
        &["in_bf16::forward_matches", "in_f32::decode_matches", "in_bf16::gradients_of_large"],
    );
}

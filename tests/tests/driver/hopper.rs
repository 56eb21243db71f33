//! Operations for which compute capability 9.0 has kernels of its own, on the emulator and on the stand-in for CUDA's
//! driver: that they are tested before they are used, and done without when they are wrong.

use std::num::NonZeroUsize;

use cpift_engine::ops::attention::{BackwardInputs, Documents, Gradients, Inputs, Shape, backward, forward};
use cpift_engine::ops::{linear, subtract::subtract};
use cpift_engine::{Buffer, Device, Result, bf16};
use cpift_kernels::emulator::Schedule;
use cpift_tests::numeric::{assert_close, widen};
use cpift_tests::oracle::attention as oracle;
use cpift_tests::precision::{download, poisoned, random_in, tolerance, upload};
use cpift_tests::stand_in::{self, StandIn, said};

/// Two query heads of so many elements, which share one key/value head.
fn shape(head_dim: usize) -> Shape {
    Shape { heads: 2, kv_heads: 1, head_dim, scale: 0.2, window: NonZeroUsize::new(150), softcap: None }
}

/// Elements of a head where one size is enough.
const HEAD: usize = 96;
/// Longer than a tile of queries and a window, and one that begins in the middle of a tile of keys.
const STARTS: [usize; 3] = [0, 270, 300];

/// q, k and v, and the gradient of the output.
fn numbers(head_dim: usize) -> [Vec<f32>; 4] {
    let key = STARTS[2] * head_dim;
    [(1, 2 * key), (2, key), (3, key), (4, 2 * key)].map(|(seed, length)| random_in::<bf16>(seed, length))
}

/// What attention writes: output, log-sum-exp, gradients of q, k and v.
struct Results {
    output: Buffer<bf16>,
    log_sum_exp: Buffer<f32>,
    gradients: [Buffer<bf16>; 3],
}

/// Without gradients they are left as they are.
fn attend(device: &Device, head_dim: usize, with_gradients: bool) -> Result<Results> {
    let shape = shape(head_dim);
    let [q, k, v, d_output] = numbers(head_dim).map(|values| upload::<bf16>(device, &values));
    let inputs = Inputs { q: q.view(), k: k.view(), v: v.view() };
    let mut output = poisoned::<bf16>(device, q.len());
    let mut log_sum_exp = poisoned::<f32>(device, STARTS[2] * shape.heads);
    let documents = Documents::new(&STARTS)?;
    forward(device, &shape, &documents, inputs, output.view_mut(), log_sum_exp.view_mut())?;
    let mut gradients = [q.len(), k.len(), v.len()].map(|length| poisoned::<bf16>(device, length));
    if with_gradients {
        let [d_q, d_k, d_v] = gradients.each_mut().map(Buffer::view_mut);
        let outputs = BackwardInputs {
            output: output.view(),
            log_sum_exp: log_sum_exp.view(),
            d_output: d_output.view(),
        };
        backward(device, &shape, &documents, inputs, outputs, Gradients { d_q, d_k, d_v })?;
    }
    Ok(Results { output, log_sum_exp, gradients })
}

/// Output and log-sum-exp; gradients.
type Bits = ((Vec<bf16>, Vec<f32>), [Vec<bf16>; 3]);

fn bits(device: &Device) -> Bits {
    let Results { output, log_sum_exp, gradients } = attend(device, HEAD, true).unwrap();
    let values = |buffer: &Buffer<bf16>| buffer.to_vec().unwrap();
    ((values(&output), log_sum_exp.to_vec().unwrap()), gradients.each_ref().map(values))
}

/// The emulator like a Hopper; where a GPU must be there, that.
fn hopper() -> Device {
    if stand_in::skipped() {
        return Device::cuda(0).unwrap();
    }
    Device::emulated_like(Schedule::Shuffled(17), (9, 0))
}

/// Attention of heads of so many elements against the oracle, with the gradients where there are kernels for them.
fn attention_matches_the_oracle(head_dim: usize, with_gradients: bool) {
    let device = hopper();
    let Results { output, log_sum_exp, gradients } = attend(&device, head_dim, with_gradients).unwrap();
    // A GPU that is no Hopper has nothing to leave out.
    assert_eq!(device.disabled_kernels(), None);
    let [q, k, v, d_output] = numbers(head_dim).map(|values| widen(&values));
    let Shape { heads, kv_heads, head_dim, scale, window, .. } = shape(head_dim);
    let window = window.map(NonZeroUsize::get);
    let exact = oracle::Shape { heads, kv_heads, head_dim, scale: f64::from(scale), window, softcap: None };
    let (expected, expected_sums) = oracle::forward(&exact, &STARTS, &q, &k, &v);
    // Roundings of the output and of its weights.
    assert_close("output", &download(&output), &expected, tolerance::<bf16>(2e-6, 3.0));
    assert_close("log-sum-exp", &download(&log_sum_exp), &expected_sums, 1e-6);
    if with_gradients {
        let expected = expected_gradients(&exact, [&q, &k, &v, &d_output], &expected, &expected_sums);
        for ((what, expected), gradient) in ["d_q", "d_k", "d_v"].into_iter().zip(expected).zip(&gradients) {
            // Roundings of the gradient, of the output, of the weights and of their gradients.
            assert_close(what, &download(gradient), &expected, tolerance::<bf16>(1e-5, 4.0));
        }
    }
}

/// Gradients of q, k and v in f64, by their definition: with weights p = exp(s − log-sum-exp) of a token's scores s,
/// dv += p·do, ds = p·(do·v − do·o), dq += scale·ds·k and dk += scale·ds·q.
fn expected_gradients(
    shape: &oracle::Shape,
    [q, k, v, d_output]: [&[f64]; 4],
    output: &[f64],
    log_sum_exp: &[f64],
) -> [Vec<f64>; 3] {
    let width = shape.head_dim;
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let add = |to: &mut [f64], factor: f64, from: &[f64]| {
        to.iter_mut().zip(from).for_each(|(to, from)| *to += factor * from);
    };
    let [mut d_q, mut d_k, mut d_v] = [q, k, v].map(|values| vec![0.0; values.len()]);
    for document in STARTS.windows(2) {
        for token in document[0]..document[1] {
            for head in 0..shape.heads {
                let row = token * shape.heads + head;
                let query = row * width..(row + 1) * width;
                let gradient = &d_output[query.clone()];
                for seen in shape.first_seen(document[0], token + 1)..token + 1 {
                    // All heads share the keys.
                    let key = seen * width..(seen + 1) * width;
                    let score = shape.scale * dot(&q[query.clone()], &k[key.clone()]);
                    let weight = (score - log_sum_exp[row]).exp();
                    add(&mut d_v[key.clone()], weight, gradient);
                    let d_score = dot(gradient, &v[key.clone()]) - dot(gradient, &output[query.clone()]);
                    let d_score = shape.scale * weight * d_score;
                    add(&mut d_q[query.clone()], d_score, &k[key.clone()]);
                    add(&mut d_k[key], d_score, &q[query.clone()]);
                }
            }
        }
    }
    [d_q, d_k, d_v]
}

/// Each group of kernels in a test of its own: where tests have processes of their own, a fault costs one.
macro_rules! heads {
    ($($name:ident = $head_dim:literal, $with_gradients:literal;)*) => {$(
        #[test]
        fn $name() {
            attention_matches_the_oracle($head_dim, $with_gradients);
        }
    )*};
}

heads! {
    attention_of_heads_of_64_matches_the_oracle = 64, false;
    attention_of_heads_of_80_matches_the_oracle = 80, false;
    attention_of_heads_of_96_matches_the_oracle = 96, false;
    attention_of_heads_of_128_matches_the_oracle = 128, false;
    attention_of_heads_of_256_matches_the_oracle = 256, false;
    gradients_of_heads_of_64_match_the_oracle = 64, true;
    gradients_of_heads_of_80_match_the_oracle = 80, true;
    gradients_of_heads_of_96_match_the_oracle = 96, true;
    gradients_of_heads_of_128_match_the_oracle = 128, true;
}

/// The kernel for all devices adds in another order.
#[test]
fn attention_is_by_a_kernel_of_its_own() {
    let own = bits(&Device::emulated_like(Schedule::Shuffled(17), (9, 0)));
    let others = bits(&Device::emulated(Schedule::Forward));
    assert!(own.0 != others.0 && own.1 != others.1);
}

#[test]
fn attention_is_tested_before_it_is_used_on_the_stand_in_driver() {
    if stand_in::skipped() {
        return;
    }
    // What fails, and what is said of it.
    let of = |passes: &str, reason: &str| {
        format!("Hopper's kernels for {passes} of heads of 96, which failed a self-test: {reason}")
    };
    let jit = "kernel attention_forward_96_hopper: the driver does not take the PTX of `attention_hopper`";
    for (failure, expected) in [
        ("", String::new()),
        ("skip:attention_forward_96_hopper", of("attention", "wrong numbers: the output")),
        (
            "skip:attention_backward_keys_96_hopper",
            of("gradients of attention", "wrong numbers: the gradient of k"),
        ),
        ("jit:attention_forward_96_hopper", of("attention", jit)),
    ] {
        let stand_in = StandIn::with(&[HOPPER, FEW, ("FAIL", failure)]);
        let output = stand_in.run_ignored("attend_there");
        assert!(output.status.success(), "{failure}: {}", String::from_utf8_lossy(&output.stderr));
        let said = said(&output, "said: ");
        assert!(said.starts_with(&expected) && said.is_empty() == failure.is_empty(), "{said}");
        assert_eq!(stand_in.violations(), [""; 0], "{failure}");
    }
}

#[test]
#[ignore = "run on the stand-in by other tests"]
fn attend_there() {
    let device = Device::cuda(0).unwrap();
    let found = bits(&device);
    let disabled_kernels = device.disabled_kernels().unwrap_or_default();
    let own = bits(&Device::emulated_like(Schedule::Forward, (9, 0)));
    let others = bits(&Device::emulated(Schedule::Forward));
    // Of one output, gradients by either kernels are the same: the emulator adds in the order of keys and queries.
    assert_eq!(found, if disabled_kernels.contains("kernels for attention") { others } else { own });
    println!("said: {disabled_kernels}");
}

/// A Hopper of few multiprocessors, so that its own kernels are chosen for small products.
const HOPPER: (&str, &str) = ("CAPABILITY", "9.0");
const FEW: (&str, &str) = ("MULTIPROCESSORS", "4");

#[test]
fn hoppers_kernels_are_tested_before_the_first_product() {
    if stand_in::skipped() {
        return;
    }
    // What fails, and what is said of it; the products are right in any case.
    let cases = [
        ("", ""),
        ("skip:gemm_tn_hopper_128x128", "wrong numbers: gemm_tn_hopper by tiles of 128 by 128"),
        ("skip:gemm_nt_f32_hopper_128x256", "wrong numbers: gemm_nt_f32_hopper by tiles of 128 by 256"),
        (
            "jit:gemm_nn_hopper",
            "the driver does not take the PTX of `gemm_hopper` for compute capability 9.0",
        ),
    ];
    for (failure, expected) in cases {
        let stand_in = StandIn::with(&[HOPPER, FEW, ("FAIL", failure)]);
        let output = stand_in.run_ignored("multiply_in_a_recording");
        let without = said(&output, "without: ");
        assert!(output.status.success(), "{failure}: {}", String::from_utf8_lossy(&output.stdout));
        assert!(without.contains(expected) && without.is_empty() == failure.is_empty(), "{without}");
        assert_eq!(stand_in.violations(), [""; 0], "{failure}");
    }
}

#[test]
#[ignore = "run on the stand-in by other tests"]
fn multiply_in_a_recording() {
    let device = Device::cuda(0).unwrap();
    assert_eq!(device.disabled_kernels(), None, "nothing is tested before it is wanted");
    let product = multiply(&device).unwrap();
    println!("without: {}", device.disabled_kernels().unwrap_or_default());
    assert_eq!(product.to_vec().unwrap(), expected_product());
}

/// A bf16 product of whole numbers, behind another command of a recording.
fn multiply(device: &Device) -> Result<Buffer<bf16>> {
    let shape = linear::Shape { rows: 130, inputs: 136, outputs: 264 };
    let x = Buffer::from_slice(device, &whole_numbers(shape.rows * shape.inputs, 31))?;
    let weight = Buffer::from_slice(device, &whole_numbers(shape.outputs * shape.inputs, 53))?;
    let mut y = Buffer::zeros(device, shape.rows * shape.outputs)?;
    device.record(|| {
        y.view_mut().fill(bf16::ONE)?;
        linear::forward(device, &shape, x.view(), weight.view(), None, y.view_mut())
    })?;
    Ok(y)
}

fn whole_numbers(length: usize, factor: usize) -> Vec<bf16> {
    (0..length).map(|index| bf16::from_f32((index * factor % 97 % 5) as f32 - 2.0)).collect()
}

fn expected_product() -> Vec<bf16> {
    let (x, weight) = (whole_numbers(130 * 136, 31), whole_numbers(264 * 136, 53));
    let sum = |x: &[bf16], weight: &[bf16]| -> f32 {
        x.iter().zip(weight).map(|(x, weight)| x.to_f32() * weight.to_f32()).sum()
    };
    let rows = x.chunks(136);
    rows.flat_map(|row| weight.chunks(136).map(move |line| bf16::from_f32(sum(row, line)))).collect()
}

#[test]
fn a_device_that_hoppers_kernels_break_says_how_to_do_without() {
    if stand_in::skipped() {
        return;
    }
    let stand_in = StandIn::with(&[HOPPER, FEW, ("FAIL", "launch:gemm_nn_hopper")]);
    let broken = said(&stand_in.run_ignored("break_the_device"), "broken: ");
    for part in [
        "device `cuda:0` cannot be used: Hopper's kernels for products broke it in a self-test",
        "CUDA_ERROR_LAUNCH_FAILED",
        "with the environment variable CPIFT_HOPPER=off",
    ] {
        assert!(broken.contains(part), "{broken}");
    }
    assert_eq!(stand_in.violations(), [""; 0]);
}

#[test]
#[ignore = "run on the stand-in by other tests"]
fn break_the_device() {
    let device = Device::cuda(0).unwrap();
    let mut target = Buffer::from_slice(&device, &[3.0f32; 100]).unwrap();
    let other = Buffer::from_slice(&device, &[1.0f32; 100]).unwrap();
    let error = multiply(&device).unwrap_err().to_string();
    println!("broken: {error}");
    // So says all that comes after.
    for later in [
        subtract(&device, target.view_mut(), other.view()).unwrap_err().to_string(),
        Buffer::<f32>::zeros(&device, 1).unwrap_err().to_string(),
        device.run_self_tests().unwrap_err().to_string(),
    ] {
        assert!(later.contains("CPIFT_HOPPER=off"), "{later}");
    }
}

#[test]
fn a_driver_too_old_for_hoppers_kernels_runs_the_others() {
    if stand_in::skipped() {
        return;
    }
    let stand_in = StandIn::with(&[HOPPER, FEW, ("VERSION", "11080"), ("MEMORY", "1073741824")]);
    let output = stand_in.run_ignored("multiply_by_others");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(
        said(&output, "opened: "),
        "cuda:0 (stand-in, no GPU, compute 9.0, 1 GiB), without the kernels for Hopper (sm_90a), which need a driver for \
         CUDA 12.0 or newer (this one is for 11.8)"
    );
    assert_eq!(stand_in.violations(), [""; 0]);
}

#[test]
#[ignore = "run on the stand-in by other tests"]
fn multiply_by_others() {
    let device = Device::cuda(0).unwrap();
    device.run_self_tests().unwrap();
    println!("opened: {}", device.describe());
    assert_eq!(multiply(&device).unwrap().to_vec().unwrap(), expected_product());
}

//! Operations for which compute capability 9.0 has kernels of its own, on the emulator and on the stand-in for CUDA's
//! driver: that they are tested before they are used, and done without when they are wrong.

use std::num::NonZeroUsize;

use cpift_engine::ops::attention::{Documents, Inputs, Shape, forward};
use cpift_engine::{Buffer, Device, Result, bf16};
use cpift_kernels::emulator::Schedule;
use cpift_tests::numeric::{assert_close, widen};
use cpift_tests::oracle::attention as oracle;
use cpift_tests::precision::{download, poisoned, random_in, tolerance, upload};
use cpift_tests::stand_in::{StandIn, left_out};

/// Two query heads of 96 elements, which share one key/value head.
const SHAPE: Shape =
    Shape { heads: 2, kv_heads: 1, head_dim: 96, scale: 0.2, window: NonZeroUsize::new(150) };
/// Longer than a tile of queries and a window, and one that begins in the middle of a tile of keys.
const STARTS: [usize; 3] = [0, 270, 300];

/// q, k and v.
fn numbers() -> [Vec<f32>; 3] {
    let key = STARTS[2] * SHAPE.kv_heads * SHAPE.head_dim;
    [random_in::<bf16>(1, 2 * key), random_in::<bf16>(2, key), random_in::<bf16>(3, key)]
}

/// Output and log-sum-exp.
fn attend(device: &Device) -> Result<(Buffer<bf16>, Buffer<f32>)> {
    let [q, k, v] = numbers().map(|values| upload::<bf16>(device, &values));
    let inputs = Inputs { q: q.view(), k: k.view(), v: v.view() };
    let mut output = poisoned::<bf16>(device, q.len());
    let mut log_sum_exp = poisoned::<f32>(device, STARTS[2] * SHAPE.heads);
    let documents = Documents::new(&STARTS)?;
    forward(device, &SHAPE, &documents, inputs, output.view_mut(), log_sum_exp.view_mut())?;
    Ok((output, log_sum_exp))
}

fn bits(device: &Device) -> (Vec<bf16>, Vec<f32>) {
    let (output, log_sum_exp) = attend(device).unwrap();
    (output.to_vec().unwrap(), log_sum_exp.to_vec().unwrap())
}

#[test]
fn attention_matches_the_oracle() {
    let device = Device::emulated_like(Schedule::Shuffled(17), (9, 0));
    let (output, log_sum_exp) = attend(&device).unwrap();
    assert_eq!(device.left_out(), None);
    let [q, k, v] = numbers().map(|values| widen(&values));
    let Shape { heads, kv_heads, head_dim, scale, window } = SHAPE;
    let window = window.map(NonZeroUsize::get);
    let exact = oracle::Shape { heads, kv_heads, head_dim, scale: f64::from(scale), window };
    let (expected, expected_sums) = oracle::forward(&exact, &STARTS, &q, &k, &v);
    // Roundings of the output and of its weights.
    assert_close("output", &download(&output), &expected, tolerance::<bf16>(2e-6, 3.0));
    assert_close("log-sum-exp", &download(&log_sum_exp), &expected_sums, 1e-6);
    // By a kernel of its own: that for all devices adds in another order.
    assert_ne!(bits(&device), bits(&Device::emulated(Schedule::Forward)));
}

#[test]
fn attention_is_tested_before_it_is_used_on_the_stand_in_driver() {
    if left_out() {
        return;
    }
    // What fails, and what is said of it.
    for (failure, expected) in [
        ("", ""),
        ("skip:attention_forward_256_hopper", "wrong numbers from attention of heads of 256: the output"),
        (
            "skip:attention_backward_keys_96_hopper",
            "wrong numbers from attention of heads of 96: the gradient of k",
        ),
        ("jit:attention_forward_64_hopper", "the driver does not take the PTX of `attention_hopper`"),
    ] {
        let stand_in = StandIn::with(&[("CAPABILITY", "9.0"), ("MULTIPROCESSORS", "4"), ("FAIL", failure)]);
        let said = stand_in.run_ignored("attend_there");
        assert!(said.contains(expected) && said.is_empty() == failure.is_empty(), "{said}");
        assert_eq!(stand_in.violations(), [""; 0], "{failure}");
    }
}

#[test]
#[ignore = "run on the stand-in by other tests"]
fn attend_there() {
    let device = Device::cuda(0).unwrap();
    let found = bits(&device);
    let left_out = device.left_out();
    let expected = match left_out {
        None => Device::emulated_like(Schedule::Forward, (9, 0)),
        Some(_) => Device::emulated(Schedule::Forward),
    };
    assert_eq!(found, bits(&expected));
    println!("said: {}", left_out.unwrap_or_default());
}

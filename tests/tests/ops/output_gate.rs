//! The gate of attention's output against a f64 oracle, its backward against central differences.

use std::num::NonZeroUsize;

use cpift_engine::ops::output_gate::{self, Shape};
use cpift_engine::{Buffer, Device, Real};
use cpift_tests::devices::emulated;
use cpift_tests::in_f32_and_bf16;
use cpift_tests::numeric::{assert_close, central_differences, dot, widen};
use cpift_tests::precision::{download, poisoned, random_in, tolerance, upload};

in_f32_and_bf16!(forward_matches_the_oracle, backward_matches_central_differences);

const SHAPES: [Shape; 3] = [
    Shape { tokens: 1, heads: 1, head_dim: 1 },
    Shape { tokens: 7, heads: 3, head_dim: 18 },
    Shape { tokens: 200, heads: 2, head_dim: 64 },
];

fn oracle(shape: &Shape, joined: &[f64], attention: &[f64]) -> Vec<f64> {
    let gates = joined.chunks(2 * shape.head_dim).flat_map(|head| &head[shape.head_dim..]);
    attention.iter().zip(gates).map(|(attention, gate)| attention / (1.0 + (-gate).exp())).collect()
}

fn cpu() -> Device {
    Device::cpu(NonZeroUsize::new(2)).unwrap()
}

fn forward_matches_the_oracle<T: Real>() {
    let device = cpu();
    for (seed, shape) in (0..).zip(&SHAPES) {
        let elements = shape.tokens * shape.heads * shape.head_dim;
        let (joined, attention) = (random_in::<T>(seed, 2 * elements), random_in::<T>(seed + 100, elements));
        let buffers = (upload::<T>(&device, &joined), upload(&device, &attention));
        let mut gated = poisoned(&device, elements);
        let gated_view = gated.view_mut();
        output_gate::forward(&device, shape, buffers.0.view(), buffers.1.view(), gated_view).unwrap();
        let expected = oracle(shape, &widen(&joined), &widen(&attention));
        assert_close("gated", &download(&gated), &expected, tolerance::<T>(1e-6, 1.0));
        let mut queries = poisoned::<T>(&device, elements);
        output_gate::take_queries(&device, shape, buffers.0.view(), queries.view_mut()).unwrap();
        let expected: Vec<f32> =
            joined.chunks(2 * shape.head_dim).flat_map(|head| &head[..shape.head_dim]).copied().collect();
        assert_eq!(download(&queries), expected);
    }
}

fn backward_matches_central_differences<T: Real>() {
    let device = cpu();
    for (seed, shape) in (0..).zip(&SHAPES[..2]) {
        let elements = shape.tokens * shape.heads * shape.head_dim;
        let (joined, attention) = (random_in::<T>(seed, 2 * elements), random_in::<T>(seed + 100, elements));
        let (d_gated, d_queries) =
            (random_in::<T>(seed + 200, elements), random_in::<T>(seed + 300, elements));
        let buffers = (upload::<T>(&device, &joined), upload(&device, &attention));
        let (mut gradient, mut d_joined) = (upload(&device, &d_gated), poisoned(&device, 2 * elements));
        let inputs = (buffers.0.view(), buffers.1.view());
        let outputs = (gradient.view_mut(), d_joined.view_mut());
        output_gate::backward(&device, shape, inputs, outputs.0, outputs.1).unwrap();
        let queries = upload::<T>(&device, &d_queries);
        output_gate::put_queries(&device, shape, queries.view(), d_joined.view_mut()).unwrap();

        let (x, y, d) = (widen(&joined), widen(&attention), widen(&d_gated));
        let d_attention = central_differences(&y, |y| dot(&oracle(shape, &x, y), &d));
        assert_close("d_attention", &download(&gradient), &d_attention, tolerance::<T>(2e-6, 1.0));
        let mut expected = central_differences(&x, |x| dot(&oracle(shape, x, &y), &d));
        let heads = expected.chunks_mut(2 * shape.head_dim).zip(d_queries.chunks(shape.head_dim));
        heads.for_each(|(joined, queries)| joined[..shape.head_dim].copy_from_slice(&widen(queries)));
        assert_close("d_joined", &download(&d_joined), &expected, tolerance::<T>(2e-6, 1.0));
    }
}

#[test]
fn bad_input_and_gpus_are_errors() {
    let [gpu, ..] = emulated();
    let error = |device: &Device, joined: usize| {
        let shape = Shape { tokens: 1, heads: 2, head_dim: 3 };
        let joined = Buffer::<f32>::zeros(device, joined).unwrap();
        let mut queries = Buffer::zeros(device, 6).unwrap();
        let result = output_gate::take_queries(device, &shape, joined.view(), queries.view_mut());
        result.unwrap_err().to_string()
    };
    assert_eq!(error(&cpu(), 11), "output_gate queries: `joined` has 11 elements, expected 12");
    let expected = "output_gate is not supported on GPUs yet, and the device is emulated: use the CPU";
    assert_eq!(error(&gpu, 12), expected);
}

//! The gate of attention's output against a f64 oracle, its backward against central differences, in f32 and bf16.

use cpift_engine::ops::output_gate::{self, Shape};
use cpift_engine::{Buffer, Device, Real};
use cpift_tests::devices::on_each;
use cpift_tests::numeric::{assert_close, central_differences, dot, widen};
use cpift_tests::precision::{download, poisoned, random_in, tolerance, upload};
use cpift_tests::{in_f32_and_bf16, stand_in};

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

fn forward_matches_the_oracle<T: Real>() {
    for (seed, shape) in (0..).zip(&SHAPES) {
        let elements = shape.tokens * shape.heads * shape.head_dim;
        let (joined, attention) = (random_in::<T>(seed, 2 * elements), random_in::<T>(seed + 100, elements));
        let results = on_each(|device| {
            let buffers = (upload::<T>(device, &joined), upload::<T>(device, &attention));
            let (mut gated, mut queries) = (poisoned(device, elements), poisoned(device, elements));
            let gated_view = gated.view_mut();
            output_gate::forward(device, shape, buffers.0.view(), buffers.1.view(), gated_view).unwrap();
            output_gate::take_queries(device, shape, buffers.0.view(), queries.view_mut()).unwrap();
            [download(&gated), download(&queries)]
        });
        let expected = oracle(shape, &widen(&joined), &widen(&attention));
        let expected_queries: Vec<f32> =
            joined.chunks(2 * shape.head_dim).flat_map(|head| &head[..shape.head_dim]).copied().collect();
        for (_, [gated, queries]) in results {
            assert_close("gated", &gated, &expected, tolerance::<T>(1e-6, 1.0));
            assert_eq!(queries, expected_queries);
        }
    }
}

fn backward_matches_central_differences<T: Real>() {
    for (seed, shape) in (0..).zip(&SHAPES[..2]) {
        let elements = shape.tokens * shape.heads * shape.head_dim;
        let (joined, attention) = (random_in::<T>(seed, 2 * elements), random_in::<T>(seed + 100, elements));
        let (d_gated, d_queries) =
            (random_in::<T>(seed + 200, elements), random_in::<T>(seed + 300, elements));
        let results = on_each(|device| {
            let buffers = (upload::<T>(device, &joined), upload::<T>(device, &attention));
            let (mut gradient, mut d_joined) = (upload(device, &d_gated), poisoned(device, 2 * elements));
            let inputs = (buffers.0.view(), buffers.1.view());
            let outputs = (gradient.view_mut(), d_joined.view_mut());
            output_gate::backward(device, shape, inputs, outputs.0, outputs.1).unwrap();
            let queries = upload::<T>(device, &d_queries);
            output_gate::put_queries(device, shape, queries.view(), d_joined.view_mut()).unwrap();
            [download(&gradient), download(&d_joined)]
        });
        let (x, y, d) = (widen(&joined), widen(&attention), widen(&d_gated));
        let d_attention = central_differences(&y, |y| dot(&oracle(shape, &x, y), &d));
        let mut expected = central_differences(&x, |x| dot(&oracle(shape, x, &y), &d));
        let heads = expected.chunks_mut(2 * shape.head_dim).zip(d_queries.chunks(shape.head_dim));
        heads.for_each(|(joined, queries)| joined[..shape.head_dim].copy_from_slice(&widen(queries)));
        for (_, [gradient, d_joined]) in results {
            assert_close("d_attention", &gradient, &d_attention, tolerance::<T>(2e-6, 1.0));
            assert_close("d_joined", &d_joined, &expected, tolerance::<T>(2e-6, 1.0));
        }
    }
}

#[test]
fn passes_on_the_stand_in_driver() {
    stand_in::repeat(module_path!(), &["matches"]);
}

#[test]
fn bad_input_is_an_error() {
    let device = Device::cpu(None).unwrap();
    let shape = Shape { tokens: 1, heads: 2, head_dim: 3 };
    let joined = Buffer::<f32>::zeros(&device, 11).unwrap();
    let mut queries = Buffer::zeros(&device, 6).unwrap();
    let error = output_gate::take_queries(&device, &shape, joined.view(), queries.view_mut());
    let message = error.unwrap_err().to_string();
    assert_eq!(message, "output_gate queries: `joined` has 11 elements, expected 12");
}

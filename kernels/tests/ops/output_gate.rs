//! The gate of attention's output against an f64 oracle, its backward against the derivative written out in f64.

use crate::common::*;
use cpift_kernels::emulator::Emulator;
use cpift_kernels::output_gate::*;
use cpift_kernels::simt::{Bf16, Real};

/// Heads of all tokens, elements of a head: by vectors and one by one, below a block and several of them.
const CASES: [(usize, usize); 4] = [(1, 1), (7, 18), (3, 64), (70, 24)];

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The values of `joined` from element `first` of every head on.
fn part(joined: &[f64], head_dim: usize, first: usize) -> Vec<f64> {
    joined.chunks(2 * head_dim).flat_map(|head| &head[first..first + head_dim]).copied().collect()
}

fn check<E: Real>(tolerance: f64) {
    for ((heads, head_dim), offset) in CASES.into_iter().flat_map(|case| [(case, 0), (case, 1)]) {
        let count = heads * head_dim;
        let (joined, attention) = (random::<E>(1, 2 * count + offset), random::<E>(2, count));
        let (d_gated, d_queries) = (random::<E>(3, count), random::<E>(4, count));
        let joined = &joined.as_slice()[offset..];
        let (numbers, width) = ((count as u64, head_dim as u32), 2 * count);
        let mut results = Vec::new();
        for schedule in SCHEDULES {
            let emulator = Emulator::new(schedule);
            let (mut queries, mut gated) = (Buffer::<E>::poisoned(count), Buffer::<E>::poisoned(count));
            output_gate_take_queries(&emulator, slice(joined), queries.write(), numbers.0, numbers.1)
                .unwrap();
            let (joined, attention) = (slice(joined), attention.read());
            output_gate(&emulator, joined, attention, gated.write(), numbers.0, numbers.1).unwrap();
            let mut gradient = Buffer::from_slice(d_gated.as_slice());
            let mut d_joined = Buffer::<E>::poisoned(width);
            let outputs = (gradient.write(), d_joined.write());
            output_gate_backward(&emulator, joined, attention, outputs.0, outputs.1, numbers.0, numbers.1)
                .unwrap();
            let d_queries = d_queries.read();
            output_gate_put_queries(&emulator, d_queries, d_joined.write(), numbers.0, numbers.1).unwrap();
            results.push([queries, gated, gradient, d_joined]);
        }
        let bits = |result: &[Buffer<E>; 4]| result.each_ref().map(|buffer| to_bits(buffer.as_slice()));
        assert!(results.iter().all(|result| bits(result) == bits(&results[0])));

        let [queries, gated, gradient, d_joined] = &results[0];
        let joined = widen(joined);
        let (attention, d_gated) = (widen(attention.as_slice()), widen(d_gated.as_slice()));
        let sigmas: Vec<f64> = part(&joined, head_dim, head_dim).into_iter().map(sigmoid).collect();
        let expected = |value: &dyn Fn(usize) -> f64| (0..count).map(value).collect::<Vec<f64>>();
        assert_eq!(widen(queries.as_slice()), part(&joined, head_dim, 0));
        let values = expected(&|i| attention[i] * sigmas[i]);
        assert_close("gated", gated.as_slice(), &values, tolerance);
        let values = expected(&|i| d_gated[i] * sigmas[i]);
        assert_close("d_attention", gradient.as_slice(), &values, tolerance);
        let d_joined = widen(d_joined.as_slice());
        assert_eq!(part(&d_joined, head_dim, 0), widen(d_queries.as_slice()));
        let values = expected(&|i| d_gated[i] * attention[i] * sigmas[i] * (1.0 - sigmas[i]));
        let d_gates: Vec<f32> = part(&d_joined, head_dim, head_dim).iter().map(|&d| d as f32).collect();
        assert_close("d_gate", &d_gates, &values, tolerance);
    }
}

#[test]
fn matches_the_oracle() {
    // A few roundings, and that of the exponential's argument.
    check::<f32>(1e-6);
    // The result's rounding is up to 2^-8 of it.
    check::<Bf16>(4e-3);
}

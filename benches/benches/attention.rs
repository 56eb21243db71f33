//! Attention forward and backward. Flops are those of the visible pairs only: 4·D forward and 10·D
//! backward per pair and head, so that work spent on masked pairs counts against us.
#![allow(missing_docs, reason = "the macros of Criterion make undocumented functions")]

use cpift_benches::{device, finished, random};
use cpift_engine::ops::attention::{Documents, Gradients, Inputs, Outputs, Shape, backward, forward};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Documents, tokens of each, query heads, key/value heads, elements of a head.
const SHAPES: [(usize, usize, usize, usize, usize); 5] =
    [(4, 256, 8, 4, 64), (2, 512, 12, 4, 64), (1, 1024, 8, 4, 64), (32, 32, 8, 4, 64), (1, 2048, 8, 2, 128)];

fn attention(criterion: &mut Criterion) {
    let device = device();
    let mut group = criterion.benchmark_group("attention, flops");
    group.sample_size(20);
    for (documents, length, heads, kv_heads, head_dim) in SHAPES {
        let scale = 1.0 / (head_dim as f32).sqrt();
        let shape = Shape { heads, kv_heads, head_dim, scale, window: None };
        let name = format!("{documents}x{length} tokens, {heads}/{kv_heads} heads of {head_dim}");
        let starts: Vec<usize> = (0..=documents).map(|document| document * length).collect();
        let batch = Documents::new(&starts).expect("ascending starts");
        let (query, key) = (batch.tokens() * heads * head_dim, batch.tokens() * kv_heads * head_dim);
        let (q, k, v) = (random(&device, query), random(&device, key), random(&device, key));
        let (mut output, d_output) = (random(&device, query), random(&device, query));
        let mut log_sum_exp = random(&device, batch.tokens() * heads);
        let (mut d_q, mut d_k, mut d_v) =
            (random(&device, query), random(&device, key), random(&device, key));
        let inputs = Inputs { q: q.view(), k: k.view(), v: v.view() };
        let pairs = (documents * length * (length + 1) / 2 * heads) as u64;

        group.throughput(Throughput::Elements(4 * head_dim as u64 * pairs));
        group.bench_function(BenchmarkId::new("forward", &name), |bencher| {
            bencher.iter(|| {
                finished(&device, || {
                    forward(&device, &shape, &batch, inputs, output.view_mut(), log_sum_exp.view_mut())
                })
            });
        });
        group.throughput(Throughput::Elements(10 * head_dim as u64 * pairs));
        group.bench_function(BenchmarkId::new("backward", &name), |bencher| {
            bencher.iter(|| {
                let outputs = Outputs {
                    output: output.view(),
                    log_sum_exp: log_sum_exp.view(),
                    d_output: d_output.view(),
                };
                let gradients = Gradients { d_q: d_q.view_mut(), d_k: d_k.view_mut(), d_v: d_v.view_mut() };
                finished(&device, || backward(&device, &shape, &batch, inputs, outputs, gradients))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, attention);
criterion_main!(benches);

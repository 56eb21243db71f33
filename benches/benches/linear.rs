//! The linear layer on the shapes of small transformers: 1,024 tokens, three directions.
#![allow(missing_docs, reason = "the macros of Criterion make undocumented functions")]

use cpift_benches::{device, finished, random};
use cpift_engine::ops::linear::{Shape, backward_input, backward_weight, forward};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn linear(criterion: &mut Criterion) {
    let device = device();
    let mut group = criterion.benchmark_group("linear, flops");
    group.sample_size(20);
    for (inputs, outputs) in [(512, 512), (512, 256), (512, 1408), (1408, 512), (768, 2048), (2048, 768)] {
        let shape = Shape { rows: 1024, inputs, outputs };
        let name = format!("{}x{inputs}x{outputs}", shape.rows);
        let (x, weight) = (random(&device, shape.rows * inputs), random(&device, outputs * inputs));
        let (mut y, d_y) = (random(&device, shape.rows * outputs), random(&device, shape.rows * outputs));
        let (mut d_x, mut d_weight) =
            (random(&device, shape.rows * inputs), random(&device, outputs * inputs));
        group.throughput(Throughput::Elements(2 * (shape.rows * inputs * outputs) as u64));
        group.bench_function(BenchmarkId::new("forward", &name), |bencher| {
            bencher.iter(|| {
                finished(&device, || forward(&device, &shape, x.view(), weight.view(), None, y.view_mut()))
            });
        });
        group.bench_function(BenchmarkId::new("backward_input", &name), |bencher| {
            bencher.iter(|| {
                finished(&device, || {
                    backward_input(&device, &shape, d_y.view(), weight.view(), d_x.view_mut(), false)
                })
            });
        });
        group.bench_function(BenchmarkId::new("backward_weight", &name), |bencher| {
            bencher.iter(|| {
                finished(&device, || {
                    backward_weight(&device, &shape, d_y.view(), x.view(), d_weight.view_mut(), None)
                })
            });
        });
    }
    group.finish();
}

criterion_group!(benches, linear);
criterion_main!(benches);

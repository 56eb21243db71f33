//! The LM head with its loss: 1,024 supervised tokens, forward alone and with the gradients.
#![allow(missing_docs, reason = "the macros of Criterion make undocumented functions")]

use cpift_benches::{device, finished, random};
use cpift_engine::Indices;
use cpift_engine::ops::cross_entropy::{Gradients, Inputs, Shape, Workspace, forward, forward_backward};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn cross_entropy(criterion: &mut Criterion) {
    let device = device();
    let mut group = criterion.benchmark_group("cross_entropy, flops");
    group.sample_size(10);
    for (hidden, vocabulary) in [(512, 8192), (768, 32000)] {
        let shape = Shape { rows: 1024, hidden, vocabulary };
        let name = format!("{}x{hidden}x{vocabulary}", shape.rows);
        let (states, head) = (random(&device, shape.rows * hidden), random(&device, vocabulary * hidden));
        let targets: Vec<u32> = (0..shape.rows).map(|row| (row * 7919 % vocabulary) as u32).collect();
        let targets = Indices::from_slice(&device, &targets).expect("memory");
        let mut workspace = Workspace::new(&device, &shape).expect("memory");
        let mut losses = random(&device, shape.rows);
        let (mut d_hidden, mut d_head) =
            (random(&device, shape.rows * hidden), random(&device, vocabulary * hidden));
        let inputs = Inputs { hidden: states.view(), head: head.view(), targets: targets.view() };
        let flops = 2 * (shape.rows * hidden * vocabulary) as u64;

        group.throughput(Throughput::Elements(flops));
        group.bench_function(BenchmarkId::new("forward", &name), |bencher| {
            bencher.iter(|| {
                finished(&device, || forward(&device, &shape, inputs, &mut workspace, losses.view_mut()))
            });
        });
        group.throughput(Throughput::Elements(3 * flops));
        group.bench_function(BenchmarkId::new("forward_backward", &name), |bencher| {
            bencher.iter(|| {
                let gradients = Gradients { d_hidden: d_hidden.view_mut(), d_head: d_head.view_mut() };
                finished(&device, || {
                    forward_backward(
                        &device,
                        &shape,
                        inputs,
                        1e-3,
                        &mut workspace,
                        losses.view_mut(),
                        gradients,
                    )
                })
            });
        });
    }
    group.finish();
}

criterion_group!(benches, cross_entropy);
criterion_main!(benches);

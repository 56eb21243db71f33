//! Whole training steps, plain and with what CPI-FT adds: `net` importance and frozen bits inside AdamW.

use cpift_benches::device;
use cpift_benches::step::{StepOptions, TrainStep};
use cpift_model::recipe::Precision;
use cpift_model::state_type::StateType;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn train_step(criterion: &mut Criterion) {
    let device = device();
    let config = cpift_benches::shape("llama-32m");
    let mut group = criterion.benchmark_group("train_step/llama-32m/4x256/flops");
    group.sample_size(10);
    for (name, importance) in [("plain", false), ("importance and mask", true)] {
        let options = StepOptions {
            config: &config,
            batch: 4,
            length: 256,
            steps: 1,
            importance,
            compute: Precision::Auto.on("DEVICE", &device).expect("every device has an automatic precision"),
            state: StateType::Exact,
        };
        let mut step = TrainStep::new(&device, &options).expect("the shape is valid and memory is there");
        group.throughput(Throughput::Elements(step.flops() as u64));
        group.bench_function(name, |bencher| bencher.iter(|| step.run().expect("a step")));
    }
    group.finish();
}

criterion_group!(benches, train_step);
criterion_main!(benches);

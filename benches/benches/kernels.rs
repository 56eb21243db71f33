//! Every operation at real shapes: the cases of `bench kernels`, by Criterion. The cache is flushed before each run.
//!
//! Throughput is in flops for matrix products and attention (`elem/s`), else in the bytes that the operation must
//! move.

use std::time::Duration;

use cpift_benches::device;
use cpift_benches::kernels::{CacheFlush, Sizes, cases};
use cpift_engine::Device;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Flops per byte from which throughput is in flops.
const COMPUTES: u64 = 16;

fn kernels(criterion: &mut Criterion) {
    let device = device();
    let on_cpu = matches!(device, Device::Cpu(_));
    let sizes = if on_cpu { Sizes::for_cpu(device.cache_bytes()) } else { Sizes::for_gpu() };
    let mut flush = CacheFlush::new(&device).expect("memory");
    let mut group = criterion.benchmark_group("kernels");
    group.sample_size(10);
    for case in cases(&sizes, on_cpu, "").expect("sizes above 0") {
        group.throughput(match case.work.flops / case.work.bytes.max(1) {
            COMPUTES.. => Throughput::Elements(case.work.flops),
            _ => Throughput::Bytes(case.work.bytes),
        });
        group.bench_function(format!("{} {}", case.name, case.shape), |bencher| {
            let mut run = case.prepare(&device).expect("memory");
            bencher.iter_custom(|iterations| {
                let mut time = Duration::ZERO;
                for _ in 0..iterations {
                    run.reset().expect("the device works");
                    flush.flush().expect("the device works");
                    time += device.time(|| run.run()).expect("the operation succeeds");
                }
                time
            });
        });
    }
    group.finish();
}

criterion_group!(benches, kernels);
criterion_main!(benches);

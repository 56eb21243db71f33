//! SLERP in place over one large tensor. Bytes are those of its two passes.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use cpift_benches::finished;
use cpift_benches::flat::{random_mask, random_values};
use cpift_engine::ops::slerp::{Options, slerp};
use cpift_engine::{Buffer, Layout};

fn interpolate(criterion: &mut Criterion) {
    let device = cpift_benches::device();
    let layout = Layout::new([("pair", vec![4096, 5504])]).expect("a small layout");
    let values = |seed| Buffer::from_slice(&device, &random_values(layout.len(), seed)).expect("memory");
    let (mut backbone, other, base) = (values(1), values(2), values(3));
    let mask = random_mask(layout.len(), 4, 0.01);
    let mut group = criterion.benchmark_group("slerp");
    group.sample_size(10);
    let weights = Options { weight: 0.3, ..Options::default() };
    let delta = Options { base: Some(base.view()), ..weights };
    let cases = [
        ("weights", weights, 20),
        ("weights + mask", Options { skip: Some(&mask), ..weights }, 20),
        ("delta", delta, 28),
        ("delta + mask", Options { skip: Some(&mask), ..delta }, 28),
    ];
    for (name, options, bytes_per_parameter) in cases {
        group.throughput(Throughput::Bytes(bytes_per_parameter * layout.parameters() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                finished(&device, || slerp(&device, &layout, backbone.view_mut(), other.view(), &options))
            });
        });
    }
}

criterion_group!(benches, interpolate);
criterion_main!(benches);

//! AdamW steps with and without importance and frozen coordinates, and the gradient's norm.
//! Bytes are those the step must read and write.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use cpift_benches::finished;
use cpift_benches::flat::{random_mask, random_values};
use cpift_engine::Buffer;
use cpift_engine::ops::adamw::{AdamW, Gradient, Hyper, ImportanceKind};
use cpift_engine::ops::norm::squared_norm;

const PARAMETERS: usize = 20_000_000;

fn adamw(criterion: &mut Criterion) {
    let device = cpift_benches::device();
    let mut weights = Buffer::from_slice(&device, &random_values(PARAMETERS, 1)).expect("memory");
    let gradients = Buffer::from_slice(&device, &random_values(PARAMETERS, 2)).expect("memory");
    let mask = random_mask(PARAMETERS, 3, 0.01);
    let mut group = criterion.benchmark_group("adamw");
    group.sample_size(10);

    let cases = [
        ("plain", ImportanceKind::None, None),
        ("net", ImportanceKind::Net, None),
        ("mask", ImportanceKind::None, Some(&mask)),
        ("net + mask", ImportanceKind::Net, Some(&mask)),
        ("path + mask", ImportanceKind::Path, Some(&mask)),
        ("fisher + mask", ImportanceKind::Fisher, Some(&mask)),
    ];
    for (name, kind, frozen) in cases {
        let mut optimizer = AdamW::new(&device, PARAMETERS, kind).expect("memory");
        let bytes = if kind == ImportanceKind::None { 28 } else { 36 } * PARAMETERS;
        let mask_bytes = frozen.map_or(0, |_| PARAMETERS / 8);
        group.throughput(Throughput::Bytes((bytes + mask_bytes) as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let gradient = Gradient { values: gradients.view(), scale: 0.5, clip: None, frozen };
                finished(&device, || optimizer.step(weights.view_mut(), gradient, &Hyper::default()));
            });
        });
    }

    group.throughput(Throughput::Bytes(4 * PARAMETERS as u64));
    for (name, frozen) in [("norm", None), ("norm + mask", Some(&mask))] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| squared_norm(&device, gradients.view(), frozen).expect("lengths agree"));
        });
    }
}

criterion_group!(benches, adamw);
criterion_main!(benches);

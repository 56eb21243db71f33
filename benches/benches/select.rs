//! Exact selection against a plain read of the scores. Bytes are those of the scores, read once.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use cpift_benches::flat::random_values;
use cpift_engine::ops::norm::squared_norm;
use cpift_engine::ops::select::{Options, Order, select};
use cpift_engine::{Buffer, Layout};

const SCORES: usize = 32_000_000;

fn selection(criterion: &mut Criterion) {
    let device = cpift_benches::device();
    let layout = Layout::new([("scores", vec![SCORES])]).expect("a small layout");
    let scores = Buffer::from_slice(&device, &random_values(SCORES, 1)).expect("memory");
    let equal = Buffer::from_slice(&device, &vec![0.5; SCORES]).expect("memory");
    let mut group = criterion.benchmark_group("select");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(4 * SCORES as u64));
    group.bench_function("reading sum", |bencher| {
        bencher.iter(|| squared_norm(&device, scores.view(), None).expect("no mask"));
    });
    let one_percent = Options::default();
    let cases = [
        ("1 %", &scores, one_percent),
        ("50 %", &scores, Options { fraction: 0.5, ..one_percent }),
        ("1 %, smallest", &scores, Options { order: Order::Smallest, ..one_percent }),
        ("1 %, random", &scores, Options { order: Order::Random { seed: 1 }, ..one_percent }),
        ("1 %, all equal", &equal, one_percent),
    ];
    for (name, scores, options) in cases {
        group.bench_function(name, |bencher| {
            bencher.iter(|| select(&device, &layout, scores.view(), &options, |_| true).expect("no NaN"));
        });
    }
}

criterion_group!(benches, selection);
criterion_main!(benches);

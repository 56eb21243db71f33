//! What operations say they move and compute, on which `bench kernels` and its predictions rest, against what
//! the emulator counts: every byte once per launch.

use std::collections::BTreeSet;

use cpift_benches::kernels::{Case, ModelShape, Sizes, cases};
use cpift_engine::Device;
use cpift_kernels::emulator::{Traffic, TrafficLog};
use cpift_model::transformer::ComputeType;

/// Sizes at which the emulator takes seconds: whole tiles, and ragged ones.
fn sizes(compute: ComputeType) -> [Sizes; 2] {
    let whole = ModelShape {
        name: "whole",
        model: "tiles of every kernel",
        hidden: 256,
        intermediate: 384,
        heads: 4,
        kv_heads: 2,
        head_dim: 64,
        vocabulary: 1024,
    };
    let ragged = ModelShape { name: "ragged", hidden: 200, intermediate: 328, vocabulary: 1000, ..whole };
    [(whole, 128, 64, 131_072), (ragged, 100, 56, 100_003)].map(|(model, tokens, length, parameters)| Sizes {
        models: vec![model],
        tokens,
        length,
        parameters,
        compute,
    })
}

/// A device that counts, of a compute capability.
struct Counting {
    device: Device,
    log: TrafficLog,
}

impl Counting {
    fn new(compute_capability: (u32, u32)) -> Self {
        let log = TrafficLog::default();
        let device = Device::counting(&log, compute_capability);
        device.run_self_tests().unwrap();
        Self { device, log }
    }

    fn count(&self, case: &Case) -> Vec<Traffic> {
        let mut run = case.prepare(&self.device).unwrap();
        self.log.take();
        run.run().unwrap();
        self.log.take()
    }
}

fn counted(case: &Case) -> Vec<Traffic> {
    Counting::new((8, 0)).count(case)
}

/// What launches may move beside what is stated: lists of tiles, scales and results of a few bytes, and half a
/// percent, of which the largest part are the orders of tokens that an embedding's gradient is added in.
fn slack(stated: u64) -> u64 {
    stated / 200 + 256
}

/// Counts of a selection's digits, zeroed, written and read, and at most a piece of the scores once more, in which
/// equals of the last one are settled: the same for any number of scores.
const SELECTION: u64 = (100 << 10) + (4 << 16);

#[track_caller]
fn assert_bytes(what: &str, case: &Case, moved: u64) {
    let stated = case.work.bytes;
    let (least, most) = match case.name.split(' ').next() {
        Some("select") => (stated - slack(stated), stated + slack(stated) + SELECTION),
        // Stated in sectors of 32 bytes, counted in words of 4.
        Some("transplant") => (stated / 8, stated),
        _ => (stated - slack(stated), stated + slack(stated)),
    };
    assert!((least..=most).contains(&moved), "{what}: moves {moved} bytes, stated are {stated}");
}

#[test]
fn stated_bytes_are_what_launches_move() {
    for compute in [ComputeType::F32, ComputeType::Bf16] {
        for sizes in sizes(compute) {
            for case in cases(&sizes, false, "").unwrap() {
                let moved = counted(&case).iter().map(|launch| launch.read + launch.written).sum();
                assert_bytes(&format!("{} {} in {compute:?}", case.name, case.shape), &case, moved);
            }
        }
    }
}

/// The same of the kernels that compute capability 9.0 has of its own, which TMA feeds.
#[test]
fn stated_bytes_are_what_hoppers_launches_move() {
    let counting = Counting::new((9, 0));
    let mut own = BTreeSet::new();
    for sizes in sizes(ComputeType::Bf16) {
        for case in ["linear", "attention"].iter().flat_map(|name| cases(&sizes, false, name).unwrap()) {
            let launches = counting.count(&case);
            own.extend(launches.iter().map(|launch| launch.kernel).filter(|name| name.contains("hopper")));
            let mut moved: u64 = launches.iter().map(|launch| launch.read + launch.written).sum();
            if case.name.starts_with("attention backward") {
                // The log-sum-exps are read and written once more, to lie as TMA takes them.
                moved -= 2 * 4 * (sizes.tokens * sizes.models[0].heads) as u64;
            }
            assert_bytes(&format!("{} {}", case.name, case.shape), &case, moved);
        }
    }
    let attention = own.iter().filter(|name| name.starts_with("attention")).count();
    assert!(attention == 4 && own.len() > 6, "{own:?}");
}

/// Operations of products and attention that the emulator counts, with those of padding, against what is stated,
/// without it.
#[test]
fn stated_operations_are_what_tensor_cores_do() {
    let [whole, ragged] = sizes(ComputeType::Bf16);
    let (model, tiles) = (whole.models[0], (whole.tokens / whole.length) as u64);
    for case in cases(&whole, false, "").unwrap() {
        let flops: u64 = counted(&case).iter().map(|launch| launch.tensor_flops).sum();
        // A document is a tile of 64 by 64, of which the diagonal's half is seen.
        let of_scores = 2 * tiles * (64 * 64 * model.heads * model.head_dim) as u64;
        let expected = match case.name.as_str() {
            name if name.starts_with("linear") => case.work.flops,
            // 3 operations of the softmax for every logit, 5 with the gradient.
            "cross_entropy forward whole" => case.work.flops - 3 * (whole.tokens * model.vocabulary) as u64,
            "cross_entropy backward whole" => case.work.flops - 5 * (whole.tokens * model.vocabulary) as u64,
            "attention forward whole" => 2 * of_scores,
            // Five products as stated, scores and d_scores once more for the pass over queries.
            "attention backward whole" => 7 * of_scores,
            _ => 0,
        };
        assert_eq!(flops, expected, "{} {}", case.name, case.shape);
    }
    for case in cases(&ragged, false, "linear").unwrap() {
        let flops: u64 = counted(&case).iter().map(|launch| launch.tensor_flops).sum();
        let product = case.product.unwrap();
        let padded =
            [product.m.next_multiple_of(64), product.n.next_multiple_of(64), product.k.next_multiple_of(32)];
        assert_eq!(flops, 2 * padded.iter().product::<usize>() as u64, "{} {}", case.name, case.shape);
        assert!(case.work.flops <= flops);
    }
}

//! The kernels' tests, executed from source and PTX. A family that is new has its test here too.

// Each file is a test by itself, with modules that others have too.
#![allow(clippy::duplicate_mod)]

use std::time::{Duration, Instant};

use cpift_kernels::executed;

#[path = "../../../kernels/tests/adamw.rs"]
mod adamw;
#[path = "../../../kernels/tests/attention.rs"]
mod attention;
#[path = "../../../kernels/tests/attention_hopper.rs"]
mod attention_hopper;
#[path = "../../../kernels/tests/attention_tensor.rs"]
mod attention_tensor;
#[path = "../../../kernels/tests/cross_entropy.rs"]
mod cross_entropy;
#[path = "../../../kernels/tests/elementwise.rs"]
mod elementwise;
#[path = "../../../kernels/tests/embedding.rs"]
mod embedding;
#[path = "../../../kernels/tests/gated_mlp.rs"]
mod gated_mlp;
#[path = "../../../kernels/tests/gemm.rs"]
mod gemm;
#[path = "../../../kernels/tests/gemm_hopper.rs"]
mod gemm_hopper;
#[path = "../../../kernels/tests/gemm_split.rs"]
mod gemm_split;
#[path = "../../../kernels/tests/gemm_tensor.rs"]
mod gemm_tensor;
#[path = "../../../kernels/tests/mask.rs"]
mod mask;
#[path = "../../../kernels/tests/norm.rs"]
mod norm;
#[path = "../../../kernels/tests/rms_norm.rs"]
mod rms_norm;
#[path = "../../../kernels/tests/rope.rs"]
mod rope;
#[path = "../../../kernels/tests/select.rs"]
mod select;
#[path = "../../../kernels/tests/slerp.rs"]
mod slerp;

/// The last by its name, and so the last to begin: it waits for the tests above to have executed every kernel.
#[test]
fn whether_every_kernel_was_executed_from_its_ptx() {
    // Some of the tests cannot reach all kernels.
    if std::env::args().skip(1).any(|argument| !argument.starts_with('-')) {
        return;
    }
    let all: Vec<&str> = cpift_kernels::families()
        .iter()
        .flat_map(|(_, kernels)| kernels.iter().map(|kernel| kernel.name))
        .collect();
    let mut missing = all.clone();
    let mut progress = Instant::now();
    while !missing.is_empty() && progress.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(100));
        let before = missing.len();
        let executed = executed();
        missing.retain(|kernel| !executed.contains(kernel));
        if missing.len() < before {
            progress = Instant::now();
        }
    }
    assert_eq!(missing, [""; 0], "of {} kernels these were never executed from their PTX", all.len());
}

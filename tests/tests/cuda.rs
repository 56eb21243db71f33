//! The engine's path to a GPU on the stand-in for CUDA's driver, which is no GPU: what is refused and with which
//! words, what goes wrong later, what is left behind.

use std::process::Output;

use cpift_engine::ops::linear::{Shape, forward};
use cpift_engine::ops::subtract::subtract;
use cpift_engine::{Buffer, Device, Error, Result, bf16};
use cpift_kernels::emulator::Schedule;
use cpift_model::progress::Silent;
use cpift_tests::jobs::{SmallJob, TASKS};
use cpift_tests::numeric::random;
use cpift_tests::stand_in::{StandIn, left_out};
use serde_json::json;

/// Runs one of the ignored tests below on a stand-in; they are what is done there.
fn on(stand_in: &StandIn, test: &str) -> Output {
    stand_in.run_tests(&["--ignored", "--exact", "--nocapture", "--test-threads", "1", test])
}

/// The line that a test printed behind `mark`.
fn said(output: &Output, mark: &str) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.split_once(mark).map(|(_, rest)| rest.to_owned()));
    line.unwrap_or_else(|| panic!("no `{mark}` in {text}{}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
#[ignore = "run on the stand-in by other tests"]
fn open() {
    match Device::cuda(0) {
        Ok(device) => {
            let memory = device.memory_bytes().unwrap();
            // A launch, so that the device is of use.
            let mut buffer = Buffer::zeros(&device, 1000).unwrap();
            buffer.view_mut().fill(2.5f32).unwrap();
            assert_eq!(buffer.to_vec().unwrap(), [2.5; 1000]);
            println!("opened: {} {memory}", device.describe());
        }
        Err(error) => println!("refused: {error}"),
    }
}

/// How the stand-in is made, and what is said of it.
type Refusal<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);

#[test]
fn what_cannot_be_used_is_refused_with_the_reason() {
    if left_out() {
        return;
    }
    let cases: [Refusal<'_>; 8] = [
        (
            &[("DEVICES", "0")],
            &["does not start", "no CUDA-capable device is detected (CUDA_ERROR_NO_DEVICE)"],
        ),
        (&[("FAIL", "init")], &["does not start", "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"]),
        (&[("CAPABILITY", "7.5")], &["has compute capability 7.5, needed is 8.0 (Ampere) or newer"]),
        (
            &[("VERSION", "10020")],
            &[
                "its driver is for CUDA 10.2, the kernels for stand-in, no GPU are PTX 7.0, which CUDA 11.0 and newer",
            ],
        ),
        (
            &[("FAIL", "jit:fill_f32")],
            &[
                "fails a first test: kernel fill_f32: the driver does not take the PTX of `elementwise`",
                "; ptxas fatal",
            ],
        ),
        (&[("FAIL", "skip:fill_f32")], &["fails a first test", "a kernel wrote wrong values"]),
        (
            &[("FAIL", "launch:fill_f32")],
            &["fails a first test", "unspecified launch failure (CUDA_ERROR_LAUNCH_FAILED)"],
        ),
        (&[("MEMORY", "100")], &["fails a first test: out of memory on cuda:0"]),
    ];
    for (variables, expected) in cases {
        let stand_in = StandIn::with(variables);
        let refused = said(&on(&stand_in, "open"), "refused: ");
        assert!(refused.starts_with("device `cuda:0` cannot be used: "), "{refused}");
        for part in expected {
            assert!(refused.contains(part), "{variables:?}: {refused}");
        }
        assert_eq!(stand_in.violations(), [""; 0], "{variables:?}");
    }
}

#[test]
fn devices_of_all_kinds_are_opened_and_given_back_whole() {
    if left_out() {
        return;
    }
    for (capability, version) in [("8.0", "11040"), ("8.9", "12080"), ("9.0", "13000"), ("12.0", "12080")] {
        let stand_in =
            StandIn::with(&[("CAPABILITY", capability), ("VERSION", version), ("MEMORY", "1073741824")]);
        let opened = said(&on(&stand_in, "open"), "opened: ");
        assert_eq!(opened, format!("cuda:0 (stand-in, no GPU, compute {capability}, 1 GiB) 1073741824"));
        assert_eq!(stand_in.violations(), [""; 0]);
        // Older drivers have no graphs as they are made here.
        assert_eq!(stand_in.counts()["graphs"] > 0, version != "11040", "{}", stand_in.log());
    }
}

#[test]
fn graphs_that_fail_a_first_test_are_not_used() {
    if left_out() {
        return;
    }
    for failure in ["graph", "update"] {
        let stand_in = StandIn::with(&[("FAIL", failure)]);
        let output = on(&stand_in, "record");
        assert!(output.status.success(), "{failure}: {}", String::from_utf8_lossy(&output.stdout));
        // None, or those of the first test.
        assert!(stand_in.counts()["graphs"] <= 2, "{failure}: {}", stand_in.log());
        assert_eq!(stand_in.violations(), [""; 0], "{failure}");
    }
    let stand_in = StandIn::new();
    assert!(on(&stand_in, "record").status.success());
    assert!(stand_in.counts()["graphs"] > 10, "{}", stand_in.log());
}

#[test]
#[ignore = "run on the stand-in by other tests"]
fn record() {
    let device = Device::cuda(0).unwrap();
    let start = random(1, 700);
    let mut target = Buffer::from_slice(&device, &start).unwrap();
    let mut other = Buffer::zeros(&device, 700).unwrap();
    for step in 0..20 {
        device
            .record(|| -> Result<()> {
                for value in [0.5, 0.25, 0.125] {
                    other.view_mut().fill(value * step as f32)?;
                    subtract(&device, target.view_mut(), other.view())?;
                }
                Ok(())
            })
            .unwrap();
    }
    let mut expected = start;
    for step in 0..20 {
        for value in [0.5, 0.25, 0.125] {
            expected.iter_mut().for_each(|element| *element -= value * step as f32);
        }
    }
    assert_eq!(target.to_vec().unwrap(), expected);
}

#[test]
fn devices_are_used_by_threads_and_dropped_by_others() {
    if left_out() {
        return;
    }
    let stand_in = StandIn::with(&[("DEVICES", "2")]);
    let output = on(&stand_in, "share");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(stand_in.violations(), [""; 0]);
}

#[test]
#[ignore = "run on the stand-in by other tests"]
fn share() {
    let devices = [0, 1].map(|ordinal| Device::cuda(ordinal).unwrap());
    assert!(Device::cuda(2).unwrap_err().to_string().contains("the machine has 2 CUDA device(s)"));
    std::thread::scope(|scope| {
        for seed in 0..4u64 {
            let device = devices[seed as usize % 2].clone();
            scope.spawn(move || {
                // Larger than what transfers go through, and not a multiple of anything.
                let values = random(seed, (5 << 20) + 17);
                let mut buffer = Buffer::from_slice(&device, &values).unwrap();
                let copy = Buffer::from_slice(&device, &values).unwrap();
                assert!(buffer.to_vec().unwrap() == values);
                buffer.view_mut().copy_from(copy.view()).unwrap();
                drop(copy);
                assert!(buffer.to_vec().unwrap() == values);
            });
        }
    });
}

#[test]
fn a_kernel_that_fails_is_reported_when_its_result_is_read() {
    if left_out() {
        return;
    }
    let stand_in = StandIn::with(&[("FAIL", "launch:subtract")]);
    let failed = said(&on(&stand_in, "fail_later"), "failed: ");
    assert_eq!(
        failed,
        "cuda:0: copying from the device: unspecified launch failure (CUDA_ERROR_LAUNCH_FAILED)"
    );
    assert_eq!(stand_in.violations(), [""; 0]);
}

#[test]
#[ignore = "run on the stand-in by other tests"]
fn fail_later() {
    let device = Device::cuda(0).unwrap();
    let mut target = Buffer::from_slice(&device, &[1.0f32; 100]).unwrap();
    let other = Buffer::from_slice(&device, &[1.0f32; 100]).unwrap();
    // Queued; nobody knows yet.
    subtract(&device, target.view_mut(), other.view()).unwrap();
    println!("failed: {}", target.to_vec().unwrap_err());
    // Every later call says so too, and dropping what is there does not panic.
    assert!(device.synchronize().is_err() && Buffer::<f32>::zeros(&device, 1).is_err());
}

#[test]
fn memory_that_is_not_there_is_an_error_that_leaves_nothing_behind() {
    if left_out() {
        return;
    }
    let stand_in = StandIn::with(&[("MEMORY", "1048576")]);
    let output = on(&stand_in, "want_too_much");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(stand_in.violations(), [""; 0]);
}

#[test]
#[ignore = "run on the stand-in by other tests"]
fn want_too_much() {
    let device = Device::cuda(0).unwrap();
    let held = Buffer::<f32>::zeros(&device, 100_000).unwrap();
    for _ in 0..3 {
        let error = Buffer::<f32>::zeros(&device, 200_000).unwrap_err();
        assert!(
            matches!(&error, Error::OutOfMemory { device, bytes: 800_000 } if device == "cuda:0"),
            "{error}"
        );
    }
    assert_eq!(held.to_vec().unwrap(), vec![0.0; 100_000]);
    drop(held);
    assert!(Buffer::<f32>::zeros(&device, 200_000).is_ok());

    // A job is refused before anything is allocated, saying what to lower, and makes no run folder.
    let job = SmallJob::with_model(&[("hidden_size", 512)]).on(device);
    let error = job.run(&job.recipe(&[]), "run", false, &mut Silent).unwrap_err().to_string();
    assert!(
        error.contains("are needed on cuda:0, which has 1") && error.contains("lower batch_size"),
        "{error}"
    );
    assert!(!job.path("run").exists());
}

/// In f32, and from the kernels' PTX; in bf16 it is the command line's test.
#[test]
fn a_job_on_the_stand_in_driver_gives_the_emulators_bits() {
    if left_out() {
        return;
    }
    let stand_in = StandIn::with(&[("RUNS", "ptx")]);
    let output = on(&stand_in, "same_job");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(stand_in.violations(), [""; 0]);
    let counts = stand_in.counts();
    // Three probes and an integration of 3 steps each, two micro-batches each: some of it as graphs.
    assert!(counts["graphs"] > 5 && counts["updates"] > 0, "{}", stand_in.log());
    assert!(stand_in.log().contains(" gemm_nt_f32_"), "{}", stand_in.log());
}

#[test]
#[ignore = "run on the stand-in by other tests"]
fn same_job() {
    let files = |device: Device| {
        let job = SmallJob::with_model(&[("num_hidden_layers", 1)]).on(device);
        let recipe = job.recipe(&[
            ("model.precision", json!("f32")),
            ("model.max_length", json!(24)),
            ("probe.steps", json!(3)),
            ("probe.batch_size", json!(2)),
            ("integrate.steps", json!(3)),
            ("integrate.batch_size", json!(2)),
        ]);
        job.run(&recipe, "run", false, &mut Silent).unwrap();
        let models =
            ["probe/arithmetic", "fused", "final"].map(|name| format!("run/{name}/model.safetensors"));
        (models.map(|name| job.bytes(&name)), job.bytes("run/groups.json"))
    };
    let cuda = files(Device::cuda(0).unwrap());
    assert!(cuda == files(Device::emulated(Schedule::Forward)), "the bits differ");
}

/// The kernels that are for a Hopper alone are part of it.
#[test]
fn a_step_on_a_hopper_gives_the_same_bits_from_source_and_ptx() {
    if left_out() {
        return;
    }
    let stand_in = StandIn::with(&[("RUNS", "both"), ("CAPABILITY", "9.0")]);
    let output = on(&stand_in, "train_1_step");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(stand_in.violations(), [""; 0]);
    assert!(stand_in.log().contains("_hopper_"), "{}", stand_in.log());
}

/// A step waits for the device once, to read its loss; whatever waits besides does not depend on their number.
#[test]
fn a_step_waits_once() {
    if left_out() {
        return;
    }
    let waits = ["train_1_step", "train_4_steps"].map(|test| {
        let stand_in = StandIn::new();
        let output = on(&stand_in, test);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(stand_in.violations(), [""; 0]);
        stand_in.counts()["waits"]
    });
    assert_eq!(waits[1] - waits[0], 3, "{waits:?}");
}

#[test]
#[ignore = "run on the stand-in by other tests"]
fn train_1_step() {
    train_steps(1);
}

#[test]
#[ignore = "run on the stand-in by other tests"]
fn train_4_steps() {
    train_steps(4);
}

fn train_steps(steps: u64) {
    let job = SmallJob::with_model(&[("num_hidden_layers", 1)]).on(Device::cuda(0).unwrap());
    let recipe = job.recipe(&[
        ("method", json!("joint")),
        ("model.max_length", json!(24)),
        ("train.steps", json!(steps)),
        ("train.batch_size", json!(1)),
        ("checkpoint.every", json!(1000)),
    ]);
    job.run(&recipe, "run", false, &mut Silent).unwrap();
}

/// A Hopper of few multiprocessors, so that its own kernels are chosen for small products.
const HOPPER: (&str, &str) = ("CAPABILITY", "9.0");
const FEW: (&str, &str) = ("MULTIPROCESSORS", "4");

#[test]
fn hoppers_kernels_are_tested_before_the_first_product() {
    if left_out() {
        return;
    }
    // What fails, and what is said of it; the products are right in any case.
    let cases = [
        ("", ""),
        ("skip:gemm_tn_hopper_128x128", "wrong numbers from gemm_tn_hopper by tiles of 128 by 128"),
        ("skip:gemm_nt_f32_hopper_128x256", "wrong numbers from gemm_nt_f32_hopper by tiles of 128 by 256"),
        (
            "jit:gemm_nn_hopper",
            "the driver does not take the PTX of `gemm_hopper` for compute capability 9.0",
        ),
    ];
    for (failure, expected) in cases {
        let stand_in = StandIn::with(&[HOPPER, FEW, ("FAIL", failure)]);
        let output = on(&stand_in, "multiply_in_a_recording");
        let without = said(&output, "without: ");
        assert!(output.status.success(), "{failure}: {}", String::from_utf8_lossy(&output.stdout));
        assert!(without.contains(expected) && without.is_empty() == failure.is_empty(), "{without}");
        assert_eq!(stand_in.violations(), [""; 0], "{failure}");
    }
}

#[test]
#[ignore = "run on the stand-in by other tests"]
fn multiply_in_a_recording() {
    let device = Device::cuda(0).unwrap();
    assert_eq!(device.left_out(), None, "nothing is tested before it is wanted");
    let product = multiply(&device).unwrap();
    println!("without: {}", device.left_out().unwrap_or_default());
    assert_eq!(product.to_vec().unwrap(), expected_product());
}

/// A bf16 product of whole numbers, behind another command of a recording.
fn multiply(device: &Device) -> Result<Buffer<bf16>> {
    let shape = Shape { rows: 130, inputs: 136, outputs: 264 };
    let x = Buffer::from_slice(device, &whole_numbers(shape.rows * shape.inputs, 31))?;
    let weight = Buffer::from_slice(device, &whole_numbers(shape.outputs * shape.inputs, 53))?;
    let mut y = Buffer::zeros(device, shape.rows * shape.outputs)?;
    device.record(|| {
        y.view_mut().fill(bf16::ONE)?;
        forward(device, &shape, x.view(), weight.view(), None, y.view_mut())
    })?;
    Ok(y)
}

fn whole_numbers(length: usize, factor: usize) -> Vec<bf16> {
    (0..length).map(|index| bf16::from_f32((index * factor % 97 % 5) as f32 - 2.0)).collect()
}

fn expected_product() -> Vec<bf16> {
    let (x, weight) = (whole_numbers(130 * 136, 31), whole_numbers(264 * 136, 53));
    let sum = |x: &[bf16], weight: &[bf16]| -> f32 {
        x.iter().zip(weight).map(|(x, weight)| x.to_f32() * weight.to_f32()).sum()
    };
    let rows = x.chunks(136);
    rows.flat_map(|row| weight.chunks(136).map(move |line| bf16::from_f32(sum(row, line)))).collect()
}

#[test]
fn a_device_that_hoppers_kernels_break_says_how_to_do_without() {
    if left_out() {
        return;
    }
    let stand_in = StandIn::with(&[HOPPER, FEW, ("FAIL", "launch:gemm_nn_hopper")]);
    let broken = said(&on(&stand_in, "break_the_device"), "broken: ");
    for part in [
        "device `cuda:0` cannot be used: Hopper's kernels for products broke it in a first test",
        "CUDA_ERROR_LAUNCH_FAILED",
        "with the environment variable CPIFT_HOPPER=off",
    ] {
        assert!(broken.contains(part), "{broken}");
    }
    assert_eq!(stand_in.violations(), [""; 0]);
}

#[test]
#[ignore = "run on the stand-in by other tests"]
fn break_the_device() {
    let device = Device::cuda(0).unwrap();
    let mut target = Buffer::from_slice(&device, &[3.0f32; 100]).unwrap();
    let other = Buffer::from_slice(&device, &[1.0f32; 100]).unwrap();
    let error = multiply(&device).unwrap_err().to_string();
    println!("broken: {error}");
    // So says all that comes after.
    for later in [
        subtract(&device, target.view_mut(), other.view()).unwrap_err().to_string(),
        Buffer::<f32>::zeros(&device, 1).unwrap_err().to_string(),
        device.try_own_kernels().unwrap_err().to_string(),
    ] {
        assert!(later.contains("CPIFT_HOPPER=off"), "{later}");
    }
}

#[test]
fn a_driver_too_old_for_hoppers_kernels_runs_the_others() {
    if left_out() {
        return;
    }
    let stand_in = StandIn::with(&[HOPPER, FEW, ("VERSION", "11080"), ("MEMORY", "1073741824")]);
    let opened = said(&on(&stand_in, "open"), "opened: ");
    assert_eq!(
        opened,
        "cuda:0 (stand-in, no GPU, compute 9.0, 1 GiB), without Hopper's own kernels, which need a driver for \
         CUDA 12.0 or newer (this one is for 11.8) 1073741824"
    );
    let output = on(&stand_in, "multiply_by_others");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(stand_in.violations(), [""; 0]);
}

#[test]
#[ignore = "run on the stand-in by other tests"]
fn multiply_by_others() {
    let device = Device::cuda(0).unwrap();
    device.try_own_kernels().unwrap();
    assert_eq!(multiply(&device).unwrap().to_vec().unwrap(), expected_product());
}

/// Products of the gradients are large enough along k to be cut, whose sums are memory for a moment.
#[test]
fn a_job_takes_no_more_of_a_gpu_than_its_plan_says() {
    if left_out() {
        return;
    }
    let stand_in = StandIn::new();
    let output = on(&stand_in, "plan_and_run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(stand_in.violations(), [""; 0]);
}

#[test]
#[ignore = "run on the stand-in by other tests"]
fn plan_and_run() {
    let device = Device::cuda(0).unwrap();
    let sizes = [("num_hidden_layers", 1), ("hidden_size", 64), ("intermediate_size", 2048)];
    let job = SmallJob::with_model(&sizes).on(device.clone());
    for task in TASKS {
        // One row to evaluate is enough.
        let path = job.path(&format!("{task}.eval.jsonl"));
        let rows = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, rows.lines().next().unwrap()).unwrap();
    }
    let recipe = job.recipe(&[
        ("method", json!("joint")),
        ("model.max_length", json!(24)),
        ("train.steps", json!(1)),
        ("train.batch_size", json!(2)),
    ]);
    let planned = job.plan(&recipe).unwrap();
    let parts = || planned.memory.iter().filter(|part| !part.on_host);
    let bytes = parts().map(|part| part.bytes).sum::<u64>();
    let passing = parts().find(|part| part.name == "in passing").unwrap().bytes;
    job.run(&recipe, "run", false, &mut Silent).unwrap();
    let taken = device.peak_memory_bytes().unwrap();
    assert!(taken <= bytes && 2 * taken > bytes, "{taken} taken, planned {:?}", planned.memory);
    // Without what is held for a moment the plan would be too low.
    assert!(passing > 0 && taken > bytes - passing, "{taken} taken, planned {:?}", planned.memory);
}

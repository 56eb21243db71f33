//! The engine's path to a GPU on the stand-in for CUDA's driver, which is no GPU: what is refused and with which
//! words, what goes wrong later, what is left behind.

use cpift_engine::ops::subtract::subtract;
use cpift_engine::{Buffer, Device, Error, Placement, Result};
use cpift_kernels::emulator::Schedule;
use cpift_model::progress::Silent;
use cpift_tests::jobs::SmallJob;
use cpift_tests::numeric::random;
use cpift_tests::stand_in::{StandIn, said, skipped};
use serde_json::json;

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
    if skipped() {
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
                "fails a self-test: kernel fill_f32: the driver does not take the PTX of `elementwise`",
                "; ptxas fatal",
            ],
        ),
        (&[("FAIL", "skip:fill_f32")], &["fails a self-test", "a kernel wrote wrong values"]),
        (
            &[("FAIL", "launch:fill_f32")],
            &["fails a self-test", "unspecified launch failure (CUDA_ERROR_LAUNCH_FAILED)"],
        ),
        (&[("MEMORY", "100")], &["fails a self-test: out of memory on cuda:0"]),
    ];
    for (variables, expected) in cases {
        let stand_in = StandIn::with(variables);
        let refused = said(&stand_in.run_ignored("open"), "refused: ");
        assert!(refused.starts_with("device `cuda:0` cannot be used: "), "{refused}");
        for part in expected {
            assert!(refused.contains(part), "{variables:?}: {refused}");
        }
        assert_eq!(stand_in.violations(), [""; 0], "{variables:?}");
    }
}

#[test]
fn devices_of_all_kinds_are_opened_and_given_back_whole() {
    if skipped() {
        return;
    }
    for (capability, version) in [("8.0", "11040"), ("8.9", "12080"), ("9.0", "13000"), ("12.0", "12080")] {
        let stand_in =
            StandIn::with(&[("CAPABILITY", capability), ("VERSION", version), ("MEMORY", "1073741824")]);
        let opened = said(&stand_in.run_ignored("open"), "opened: ");
        assert_eq!(opened, format!("cuda:0 (stand-in, no GPU, compute {capability}, 1 GiB) 1073741824"));
        assert_eq!(stand_in.violations(), [""; 0]);
        // Older drivers have no graphs as they are made here.
        assert_eq!(stand_in.counts()["graphs"] > 0, version != "11040", "{}", stand_in.log());
    }
}

#[test]
fn graphs_that_fail_a_first_test_are_not_used() {
    if skipped() {
        return;
    }
    for failure in ["graph", "update"] {
        let stand_in = StandIn::with(&[("FAIL", failure)]);
        let output = stand_in.run_ignored("record");
        assert!(output.status.success(), "{failure}: {}", String::from_utf8_lossy(&output.stdout));
        // None, or those of the self-test.
        assert!(stand_in.counts()["graphs"] <= 2, "{failure}: {}", stand_in.log());
        assert_eq!(stand_in.violations(), [""; 0], "{failure}");
    }
    let stand_in = StandIn::new();
    assert!(stand_in.run_ignored("record").status.success());
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
    if skipped() {
        return;
    }
    let stand_in = StandIn::with(&[("DEVICES", "2")]);
    let output = stand_in.run_ignored("share");
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
    if skipped() {
        return;
    }
    let stand_in = StandIn::with(&[("FAIL", "launch:subtract")]);
    let failed = said(&stand_in.run_ignored("fail_later"), "failed: ");
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
    if skipped() {
        return;
    }
    let stand_in = StandIn::with(&[("MEMORY", "1048576")]);
    let output = stand_in.run_ignored("want_too_much");
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
    if skipped() {
        return;
    }
    let stand_in = StandIn::with(&[("RUNS", "ptx")]);
    let output = stand_in.run_ignored("same_job");
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
        let job = SmallJob::with_model(&[("num_hidden_layers", 1)]).brief().on(device);
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
    if skipped() {
        return;
    }
    let stand_in = StandIn::with(&[("RUNS", "both"), ("CAPABILITY", "9.0")]);
    let output = stand_in.run_ignored("train_1_step");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(stand_in.violations(), [""; 0]);
    assert!(stand_in.log().contains("_hopper_"), "{}", stand_in.log());
}

/// A step waits for the device once, to read its loss; whatever waits besides does not depend on their number.
#[test]
fn a_step_waits_once() {
    if skipped() {
        return;
    }
    let waits = ["train_1_step", "train_4_steps"].map(|test| {
        let stand_in = StandIn::new();
        let output = stand_in.run_ignored(test);
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
    let job = SmallJob::with_model(&[("num_hidden_layers", 1)]).brief().on(Device::cuda(0).unwrap());
    let recipe = job.recipe(&[
        ("method", json!("joint")),
        ("model.max_length", json!(24)),
        ("train.steps", json!(steps)),
        ("train.batch_size", json!(1)),
        ("checkpoint.every", json!(1000)),
    ]);
    job.run(&recipe, "run", false, &mut Silent).unwrap();
}

/// Products of the gradients are large enough along k to be cut, whose sums are memory for a moment.
#[test]
fn a_job_takes_no_more_of_a_gpu_than_its_plan_says() {
    if skipped() {
        return;
    }
    for test in ["plan_and_run", "plan_and_run_offloaded"] {
        let stand_in = StandIn::new();
        let output = stand_in.run_ignored(test);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(stand_in.violations(), [""; 0]);
    }
}

#[test]
#[ignore = "run on the stand-in by other tests"]
fn plan_and_run() {
    run_as_planned("exact", 2048);
}

/// Products in bf16, whose master weights are in the host's memory too: the bits of compact state.
#[test]
#[ignore = "run on the stand-in by other tests"]
fn plan_and_run_offloaded() {
    let (job, device) = run_as_planned("offload", 128);
    assert!(device.peak_memory_bytes(Placement::Host).unwrap() > 0);
    let job = job.on(Device::from_name("emulated", None).unwrap());
    let compact = one_step_of_all("compact");
    let compact = job.recipe(&[&compact[..], &[("model.precision", json!("bf16"))]].concat());
    job.run(&compact, "compact", false, &mut Silent).unwrap();
    let bytes = |run: &str| job.bytes(&format!("{run}/final/model.safetensors"));
    assert!(bytes("run") == bytes("compact"), "the bits differ");
}

/// Of a recipe with this state.
fn one_step_of_all(memory: &str) -> [(&'static str, serde_json::Value); 7] {
    [
        ("method", json!("joint")),
        ("model.max_length", json!(24)),
        ("train.steps", json!(1)),
        ("train.batch_size", json!(2)),
        ("train.memory", json!(memory)),
        ("probe.memory", json!(memory)),
        ("integrate.memory", json!(memory)),
    ]
}

fn run_as_planned(memory: &str, intermediate: usize) -> (SmallJob, Device) {
    let device = Device::cuda(0).unwrap();
    let sizes = [("num_hidden_layers", 1), ("hidden_size", 64), ("intermediate_size", intermediate)];
    let job = SmallJob::with_model(&sizes).brief().on(device.clone());
    let recipe = job.recipe(&one_step_of_all(memory));
    let planned = job.plan(&recipe).unwrap();
    let parts = || planned.memory.iter().filter(|part| !part.on_host);
    let bytes = parts().map(|part| part.bytes).sum::<u64>();
    let passing = parts().find(|part| part.name == "temporary buffers").unwrap().bytes;
    job.run(&recipe, "run", false, &mut Silent).unwrap();
    let taken = device.peak_memory_bytes(Placement::Device).unwrap();
    assert!(taken <= bytes && 20 * taken >= 19 * bytes, "{taken} taken, planned {:?}", planned.memory);
    // Without what is held for a moment the plan would be too low.
    assert!(passing > 0 && taken > bytes - passing, "{taken} taken, planned {:?}", planned.memory);
    let of_state = ["weights and gradients", "moments"];
    let on_host = planned.memory.iter().filter(|part| part.on_host && of_state.contains(&part.name.as_str()));
    let on_host: u64 = on_host.map(|part| part.bytes).sum();
    assert_eq!(device.peak_memory_bytes(Placement::Host), Some(on_host), "{:?}", planned.memory);
    (job, device)
}

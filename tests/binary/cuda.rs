//! `--device cuda` on the stand-in for CUDA's driver, which is no GPU, and without any driver.

use std::fs;
use std::process::Output;

use cpift_tests::jobs::SmallJob;
use cpift_tests::stand_in::StandIn;
use serde_json::{Value, json};

use crate::support::{JobFiles, engine, one_step, stderr, stdout};

/// Few steps of everything, on one layer and few rows.
fn short() -> JobFiles {
    JobFiles::of(
        SmallJob::with_model(&[("num_hidden_layers", 1)]).brief(),
        &[
            ("model.max_length", json!(24)),
            ("probe.steps", json!(2)),
            ("probe.batch_size", json!(1)),
            ("integrate.steps", json!(4)),
            ("integrate.batch_size", json!(1)),
            ("checkpoint.every", json!(2)),
        ],
    )
}

/// Trains on the stand-in.
fn train(stand_in: &StandIn, files: &JobFiles, out: &str, more: &[&str]) -> Output {
    let mut command = engine(&[]);
    command.args(files.train(out, more));
    stand_in.install(&mut command);
    command.output().unwrap()
}

fn weights(files: &JobFiles, run: &str) -> [Vec<u8>; 2] {
    ["fused", "final"].map(|model| files.job.bytes(&format!("{run}/{model}/model.safetensors")))
}

#[test]
fn cuda_trains_to_the_bits_of_the_emulator_also_when_stopped() {
    let files = short();
    // From the kernels' PTX; the emulator has their source.
    let stand_in = StandIn::with(&[("RUNS", "ptx")]);
    let output = train(&stand_in, &files, "cuda", &["--device", "cuda"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("cuda:0 (stand-in, no GPU"), "{}", stderr(&output));
    assert!(stdout(&output).contains("frozen parameters checked: not a bit changed"), "{}", stdout(&output));
    assert_eq!(stand_in.violations(), [""; 0]);
    let counts = stand_in.counts();
    assert!(counts["graphs"] > 0 && counts["updates"] > 0, "{}", stand_in.log());
    // The emulator is slow; a rate of what is only queued would not be.
    assert!(
        stderr(&output).contains("FLOP/s)") && !stderr(&output).contains(" TFLOP/s)"),
        "{}",
        stderr(&output)
    );

    files.trained("emulated", &["--device", "emulated", "--set", "model.precision=bf16"]);
    assert!(weights(&files, "cuda") == weights(&files, "emulated"), "the bits differ");

    // Ended after fusion, and gone on with.
    let stand_in = StandIn::new();
    let output = train(&stand_in, &files, "resumed", &["--device", "cuda", "--until", "fuse"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let output = train(&stand_in, &files, "resumed", &["--device", "cuda", "--resume"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(weights(&files, "cuda") == weights(&files, "resumed"), "the resumed run's bits differ");
    assert_eq!(stand_in.violations(), [""; 0]);
}

#[test]
fn a_device_that_fails_leaves_a_run_that_goes_on() {
    let files = short();
    // In the fusion, behind the probes.
    let stand_in = StandIn::with(&[("FAIL", "launch:transplant")]);
    let output = train(&stand_in, &files, "run", &["--device", "cuda"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let last = stderr(&output).lines().last().unwrap().to_owned();
    assert!(last.contains("cuda:0") && last.contains("CUDA_ERROR_LAUNCH_FAILED"), "{last}");
    assert!(files.job.path("run/probe/code").exists() && !files.job.path("run/final").exists());
    let output = train(&StandIn::new(), &files, "run", &["--device", "cuda", "--resume"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn a_device_with_too_little_memory_is_refused_before_the_run_folder_is_made() {
    let files = JobFiles::with_model(&[("hidden_size", 512)], &[("method", json!("joint"))]);
    // Enough for the rounded weights, with the state on the host.
    let stand_in = StandIn::with(&[("MEMORY", "3000000")]);
    let mut command = engine(&["plan", &files.path("recipe.toml"), "--device", "cuda"]);
    stand_in.install(&mut command);
    let output = command.output().unwrap();
    assert!(stdout(&output).contains("offloaded (exact state would take "), "{}", stderr(&output));

    let stand_in = StandIn::with(&[("MEMORY", "2000000")]);
    let output = train(&stand_in, &files, "refused", &["--device", "cuda"]);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    for part in ["error: `train.batch_size`: ", "are needed on cuda:0, which has", "lower batch_size"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(!files.job.path("refused").exists());
    assert_eq!(stand_in.violations(), [""; 0]);
}

#[test]
fn devices_and_plans_show_the_gpu() {
    let stand_in = StandIn::with(&[("DEVICES", "2"), ("MEMORY", "1073741824")]);
    let mut command = engine(&["devices", "--json"]);
    stand_in.install(&mut command);
    let output = command.output().unwrap();
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let listed = listed["devices"].as_array().unwrap();
    assert_eq!(listed.len(), 3, "{}", stdout(&output));
    assert_eq!(listed[2]["name"], "cuda:1");
    assert_eq!(listed[2]["memory_bytes"], 1u64 << 30);
    assert_eq!(stand_in.violations(), [""; 0]);

    // Those for attention are not taken, which is told at once.
    let failures = "skip:gemm_nn_hopper,jit:attention_forward_64_hopper";
    let stand_in = StandIn::with(&[("CAPABILITY", "9.0"), ("FAIL", failures)]);
    let mut command = engine(&["devices"]);
    stand_in.install(&mut command);
    let output = command.output().unwrap();
    let reason = "without Hopper's kernels for products, which failed a self-test: wrong numbers";
    assert!(stdout(&output).contains(reason), "{}", stdout(&output));
    let reason = "Hopper's kernels for gradients of attention of heads of 96, which failed a self-test: ";
    assert!(stdout(&output).contains(reason), "{}", stdout(&output));
}

/// Of the stand-in.
type Variables<'a> = &'a [(&'a str, &'a str)];

/// In bf16, in which the model's products are large enough for them on one multiprocessor.
#[test]
fn a_job_without_hoppers_kernels_is_the_same_whatever_the_reason() {
    let sizes = [("num_hidden_layers", 1), ("hidden_size", 64), ("intermediate_size", 136)];
    let files = JobFiles::of(
        SmallJob::with_model(&sizes).brief(),
        &[
            ("method", json!("joint")),
            ("train.steps", json!(1)),
            ("train.batch_size", json!(2)),
            ("train.accumulate", json!(1)),
        ],
    );
    let run = |out: &str, variables: &[(&str, &str)], hopper: &str, more: &[&str]| {
        let hopper_of_one = [("CAPABILITY", "9.0"), ("MULTIPROCESSORS", "1")];
        let stand_in = StandIn::with(&[&hopper_of_one, variables].concat());
        let mut command = engine(&[]);
        command.args(files.train(out, &[&["--device", "cuda"], more].concat())).env("CPIFT_HOPPER", hopper);
        stand_in.install(&mut command);
        let output = command.output().unwrap();
        assert_eq!(stand_in.violations(), [""; 0]);
        output
    };
    let model = |out: &str| files.job.bytes(&format!("{out}/final/model.safetensors"));
    // What goes wrong, the variable, and what is said.
    let cases: [(&str, &str, Variables<'_>, &str); 4] = [
        (
            "off",
            "off",
            &[("FAIL", "launch:gemm_nt_hopper")],
            "the kernels for Hopper (sm_90a), since CPIFT_HOPPER is off",
        ),
        (
            "old",
            "",
            &[("VERSION", "11080")],
            "which need a driver for CUDA 12.0 or newer (this one is for 11.8)",
        ),
        ("wrong", "", &[("FAIL", "skip:gemm_nt_hopper")], "wrong numbers: gemm_nt_hopper by tiles"),
        ("whole", "", &[], ""),
    ];
    for (out, hopper, variables, expected) in cases {
        let output = run(out, variables, hopper, &[]);
        assert_eq!(output.status.code(), Some(0), "{out}: {}", stderr(&output));
        assert_eq!(
            stderr(&output).matches(", without ").count(),
            usize::from(out != "whole"),
            "{}",
            stderr(&output)
        );
        assert!(stderr(&output).contains(expected), "{out}: {}", stderr(&output));
        let record = String::from_utf8(files.job.bytes(&format!("{out}/run.json"))).unwrap();
        assert!(record.contains(expected), "{out}: {record}");
        if out != "whole" {
            assert!(model(out) == model("off"), "{out}: the bits differ");
        }
    }

    let broken = [("FAIL", "launch:gemm_nn_hopper")];
    let output = run("broken", &broken, "", &[]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
    assert!(
        stderr(&output).contains("with the environment variable CPIFT_HOPPER=off"),
        "{}",
        stderr(&output)
    );
    assert!(!files.job.path("broken").exists());
    // Jobs in f32 have no use for them.
    let output = run("f32", &broken, "", &["--set", "model.precision=f32"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let output = run("nonsense", &[], "no", &[]);
    assert_eq!(
        stderr(&output),
        "error: device `cuda:0` cannot be used: the environment variable CPIFT_HOPPER is `no`: set it to `on` or `off`\n"
    );
}

/// Without a driver, which a machine with a GPU cannot show.
#[test]
fn auto_says_why_it_is_the_cpu_and_cuda_is_an_error() {
    let files = one_step();
    let stand_in = StandIn::with(&[("CAPABILITY", "7.5")]);
    let reason = "stand-in, no GPU has compute capability 7.5, needed is 8.0 (Ampere) or newer";
    let output = train(&stand_in, &files, "auto", &["--device", "auto"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let notices: Vec<&str> = stderr(&output).lines().filter(|line| line.contains("no GPU, using")).collect();
    assert_eq!(notices, [format!("no GPU, using the CPU: {reason}")]);

    let output = train(&stand_in, &files, "cuda", &["--device", "cuda"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stderr(&output), format!("error: device `cuda:0` cannot be used: {reason}\n"));
    assert!(!files.job.path("cuda").exists());

    let devices = StandIn::with(&[("DEVICES", "0")]);
    let output = train(&devices, &files, "none", &["--device", "cuda:0"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("no CUDA-capable device is detected"), "{}", stderr(&output));
    let _ = fs::remove_dir_all(files.job.path("auto"));
}

//! The whole job through the GPU kernels, in f32 and bf16: on the emulator, and on a GPU where there is one. In bf16 on
//! the CPU, too.

use std::num::NonZeroUsize;

use cpift_engine::Device;
use cpift_kernels::emulator::Schedule;
use cpift_model::Error;
use cpift_model::evaluation::{AnswerSettings, Evaluator, FileSettings};
use cpift_model::progress::Silent;
use cpift_model::recipe::Precision;
use cpift_model::transformer::ComputeType;
use cpift_tests::jobs::{SmallJob, TASKS, Watcher};
use cpift_tests::numeric::{relative_distance, widen};
use serde_json::{Value, json};

/// Losses of all steps.
fn losses(job: &SmallJob) -> Vec<f64> {
    let metrics = String::from_utf8(job.bytes("run/metrics.jsonl")).unwrap();
    let loss = |line: &str| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64().unwrap();
    metrics.lines().map(loss).collect()
}

fn agrees_with_the_cpu(device: Device) {
    let job = || SmallJob::with_model(&[("num_hidden_layers", 1)]).brief();
    let (cpu, gpu) = (job(), job().on(device));
    for job in [&cpu, &gpu] {
        job.run(&job.recipe(&[]), "run", false, &mut Silent).unwrap();
    }

    // AdamW divides by the root of a mean of squares: where a gradient is nearly zero its rounding decides
    // the direction of a whole step, so that a few weights differ far more than the arithmetic.
    for folder in
        TASKS.iter().map(|task| format!("run/probe/{task}")).chain(["run/fused".into(), "run/final".into()])
    {
        let distance = relative_distance(&gpu.weights(&folder), &widen(&cpu.weights(&folder)));
        assert!(distance < 1e-3, "{folder}: {distance}");
    }
    for (step, (gpu, cpu)) in losses(&gpu).iter().zip(losses(&cpu)).enumerate() {
        assert!((gpu - cpu).abs() < 1e-3 * cpu, "loss of step {step}: {gpu} instead of {cpu}");
    }
    // Coordinates at the threshold may change places.
    for task in TASKS {
        let (gpu, cpu) = (gpu.core("run", task), cpu.core("run", task));
        assert_eq!(gpu.count(), cpu.count());
        let jaccard = gpu.jaccard(&cpu).unwrap();
        assert!(jaccard > 0.97, "core of {task}: overlap {jaccard}");
    }
    let groups = |job: &SmallJob| {
        let groups: Value = serde_json::from_slice(&job.bytes("run/groups.json")).unwrap();
        groups["groups"].clone()
    };
    assert_eq!(groups(&gpu), groups(&cpu));
}

#[test]
fn emulated_job_agrees_with_the_cpu_at_every_stage() {
    agrees_with_the_cpu(Device::emulated(Schedule::Forward));
}

/// Calls `check` with a GPU where there is one; with `CPIFT_TEST_CUDA` set there must be.
fn on_cuda(check: impl FnOnce(Device)) {
    match Device::cuda(0) {
        Ok(device) => check(device),
        Err(error) if std::env::var_os("CPIFT_TEST_CUDA").is_some() => panic!("{error}"),
        Err(_) => {}
    }
}

#[test]
fn cuda_job_agrees_with_the_cpu_at_every_stage() {
    on_cuda(agrees_with_the_cpu);
}

/// In bf16 losses follow those of f32, what is evaluated is what is written, and a run that was stopped ends
/// with the bits of one that was not: what is computed with is made again from the master weights.
fn computes_in_bf16(device: Device) {
    let brief = || SmallJob::with_model(&[("num_hidden_layers", 1)]).brief();
    let job = brief().on(device.clone());
    let few = [("probe.steps", json!(2)), ("integrate.steps", json!(4))];
    let recipe = job.recipe(&[&few[..], &[("model.precision", json!("bf16"))]].concat());
    let report = job.run(&recipe, "run", false, &mut Silent).unwrap();
    assert!(report.frozen_verified > 0);

    let cpu = brief();
    cpu.run(&cpu.recipe(&few), "run", false, &mut Silent).unwrap();
    for (step, (bf16, f32)) in losses(&job).iter().zip(losses(&cpu)).enumerate() {
        // Some 30 roundings of 2^-8 on the way to a logit, of which a loss sees a part; later steps start
        // from other weights.
        assert!((bf16 - f32).abs() < 0.02 * f32, "loss of step {step}: {bf16} instead of {f32}");
    }

    let mut evaluator = Evaluator::open(&device, &job.path("run/final"), ComputeType::Bf16).unwrap();
    let answers = AnswerSettings { max_new_tokens: Some(2), ..AnswerSettings::default() };
    let settings = FileSettings { answers: Some(answers), ..FileSettings::default() };
    for row in &report.tasks {
        let data = job.path(&format!("{}.eval.jsonl", row.task));
        let (score, written) =
            (row.scores[3].unwrap(), evaluator.evaluate(&data, &settings, &mut |_| Ok(())).unwrap());
        assert_eq!((score.loss, score.exact_match), (written.loss, written.exact_match), "{}", row.task);
    }

    // In the second probe, and in the integration.
    let mut watcher = Watcher { stop_after: Some(3), ..Watcher::default() };
    let stopped = job.run(&recipe, "stopped", false, &mut watcher).unwrap_err();
    assert!(matches!(stopped, Error::Interrupted { .. }), "{stopped}");
    let mut watcher = Watcher { stop_after: Some(5), ..Watcher::default() };
    job.run(&recipe, "stopped", true, &mut watcher).unwrap_err();
    job.run(&recipe, "stopped", true, &mut Silent).unwrap();
    let bytes = |run: &str| job.bytes(&format!("{run}/final/model.safetensors"));
    assert!(bytes("run") == bytes("stopped"), "the stopped run ended with other weights");
}

#[test]
fn emulated_job_computes_in_bf16() {
    computes_in_bf16(Device::emulated(Schedule::Forward));
}

#[test]
fn cuda_job_computes_in_bf16() {
    on_cuda(computes_in_bf16);
}

/// On a processor that has instructions for bf16; others refuse it, naming the key.
#[test]
fn cpu_job_computes_in_bf16() {
    let device = Device::cpu(NonZeroUsize::new(2)).unwrap();
    if let Err(refused) = Precision::Bf16.on("model.precision", &device) {
        eprintln!("the job in bf16 on the CPU is left out: {refused}");
        let job = SmallJob::new();
        let recipe = job.recipe(&[("model.precision", json!("bf16"))]);
        let error = job.run(&recipe, "run", false, &mut Silent).unwrap_err();
        assert_eq!(error.to_string(), refused.to_string());
        assert!(!job.path("run").exists());
        return;
    }
    computes_in_bf16(device);
}

#[test]
fn heads_that_no_kernel_takes_are_refused_before_the_run_folder_is_made() {
    let job = SmallJob::with_model(&[("head_dim", 12)]).on(Device::emulated(Schedule::Forward));
    let error = job.run(&job.recipe(&[]), "run", false, &mut Silent).unwrap_err();
    assert!(error.to_string().contains("heads of 12 elements: GPU kernels take multiples of 8"), "{error}");
    assert!(!job.path("run").exists());
}

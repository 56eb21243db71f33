//! The whole job through the GPU kernels: on the emulator, and on a GPU where there is one.

use cpift_engine::{Buffer, Device, Mask};
use cpift_kernels::emulator::Schedule;
use cpift_model::checkpoint::{Checkpoint, TensorFile};
use cpift_model::progress::Silent;
use cpift_tests::jobs::{SmallJob, TASKS};
use serde_json::Value;

fn weights(job: &SmallJob, folder: &str) -> Vec<f32> {
    let checkpoint = Checkpoint::open(&job.path(folder)).unwrap();
    let mut weights = Buffer::zeros(&Device::cpu(None).unwrap(), checkpoint.layout().len()).unwrap();
    checkpoint.load_into(weights.view_mut()).unwrap();
    weights.to_vec().unwrap()
}

fn core(job: &SmallJob, task: &str) -> Mask {
    let layout = Checkpoint::open(&job.path("run/fused")).unwrap().layout().clone();
    let file = TensorFile::open(&job.path(&format!("run/core/{task}.mask.safetensors"))).unwrap();
    let mut words = vec![0; layout.len().div_ceil(64)];
    for segment in layout.segments() {
        let part = file.read_u64(&segment.name).unwrap();
        words[segment.offset / 64..][..part.len()].copy_from_slice(&part);
    }
    Mask::from_words(layout.len(), words).unwrap()
}

/// Losses of all steps.
fn losses(job: &SmallJob) -> Vec<f64> {
    let metrics = String::from_utf8(job.bytes("run/metrics.jsonl")).unwrap();
    let loss = |line: &str| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64().unwrap();
    metrics.lines().map(loss).collect()
}

/// |a − b| / |b|, of whole vectors.
fn relative_distance(a: &[f32], b: &[f32]) -> f64 {
    let squares =
        |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let difference = squares(&mut a.iter().zip(b).map(|(&a, &b)| f64::from(a) - f64::from(b)));
    difference / squares(&mut b.iter().map(|&b| f64::from(b)))
}

fn agrees_with_the_cpu(device: Device) {
    let (cpu, gpu) = (SmallJob::new(), SmallJob::new().on(device));
    for job in [&cpu, &gpu] {
        job.run(&job.recipe(&[]), "run", false, &mut Silent).unwrap();
    }

    // AdamW divides by the root of a mean of squares: where a gradient is nearly zero its rounding decides
    // the direction of a whole step, so that a few weights differ far more than the arithmetic.
    for folder in
        TASKS.iter().map(|task| format!("run/probe/{task}")).chain(["run/fused".into(), "run/final".into()])
    {
        let distance = relative_distance(&weights(&gpu, &folder), &weights(&cpu, &folder));
        assert!(distance < 1e-3, "{folder}: {distance}");
    }
    for (step, (gpu, cpu)) in losses(&gpu).iter().zip(losses(&cpu)).enumerate() {
        assert!((gpu - cpu).abs() < 1e-3 * cpu, "loss of step {step}: {gpu} instead of {cpu}");
    }
    // Coordinates at the threshold may change places.
    for task in TASKS {
        let (gpu, cpu) = (core(&gpu, task), core(&cpu, task));
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

#[test]
fn cuda_job_agrees_with_the_cpu_at_every_stage() {
    match Device::cuda(0) {
        Ok(device) => agrees_with_the_cpu(device),
        Err(error) if std::env::var_os("CPIFT_TEST_CUDA").is_some() => panic!("{error}"),
        Err(_) => {}
    }
}

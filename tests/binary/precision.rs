//! bf16 on the CPU: where its processor has instructions for it, else refused.

use cpift_engine::cpu::gemm::{Bf16Path, bf16_path};
use serde_json::{Value, json};

use crate::support::{JobFiles, engine, one_step, refused, run, stderr};

/// Whether this processor computes in bf16. Tests that need it say that they are left out.
fn has_bf16(test: &str) -> bool {
    let path = bf16_path();
    if path == Bf16Path::Widened {
        eprintln!("{test} is left out: this processor has no fast instructions for bf16");
    }
    path != Bf16Path::Widened
}

const BF16: [&str; 4] = ["--device", "cpu", "--set", "model.precision=bf16"];

#[test]
fn bf16_is_refused_where_no_instructions_are_for_it() {
    if bf16_path() != Bf16Path::Widened {
        eprintln!("the refusal is left out: this processor has {} for bf16", bf16_path().name());
        return;
    }
    let files = one_step();
    let expected = "use `f32`, which `auto` takes here";
    let message = files.refused(&BF16);
    assert!(message.contains("`model.precision`: is `bf16`") && message.ends_with(expected), "{message}");
    let eval = ["eval", &files.path("blank"), "--data", &files.path("code.eval.jsonl")];
    let message = refused(&[&eval[..], &["--device", "cpu", "--precision", "bf16"]].concat());
    assert!(message.starts_with("`--precision`: is `bf16`") && message.ends_with(expected), "{message}");
}

/// A whole job in bf16 follows that in f32, says what computed it, and a run that is stopped and resumed ends with its
/// bits.
#[test]
fn a_job_on_the_cpu_computes_in_bf16() {
    if !has_bf16("a job in bf16") {
        return;
    }
    let files = JobFiles::new(&[("probe.steps", json!(2)), ("integrate.steps", json!(4))]);
    files.trained("f32", &["--device", "cpu"]);
    files.trained("bf16", &BF16);
    let losses = |run: &str| -> Vec<f64> {
        let metrics = String::from_utf8(files.job.bytes(&format!("{run}/metrics.jsonl"))).unwrap();
        let loss = |line| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64().unwrap();
        metrics.lines().map(loss).collect()
    };
    let (exact, rounded) = (losses("f32"), losses("bf16"));
    assert_eq!(exact.len(), rounded.len());
    for (step, (exact, rounded)) in exact.iter().zip(&rounded).enumerate() {
        assert!((rounded - exact).abs() < 0.02 * exact, "loss of step {step}: {rounded} instead of {exact}");
    }
    assert_ne!(exact, rounded);

    let record: Value = serde_json::from_slice(&files.job.bytes("bf16/run.json")).unwrap();
    let device = record["plan"]["device"].as_str().unwrap();
    assert!(device.ends_with(", in bf16") && device.contains(bf16_path().name()), "{device}");

    files.trained("resumed", &[&BF16[..], &["--until", "fuse"]].concat());
    files.trained("resumed", &[&BF16[..], &["--resume"]].concat());
    let weights = |run: &str| files.job.bytes(&format!("{run}/final/model.safetensors"));
    assert!(weights("bf16") == weights("resumed"), "the resumed run's bits differ");
    // Continued in another precision, it would be another run.
    let arguments = files.train("resumed", &["--device", "cpu", "--resume"]);
    let output = engine(&[]).args(&arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("precision = \"bf16\""), "{}", stderr(&output));
}

#[test]
fn commands_compute_in_bf16_on_the_cpu() {
    if !has_bf16("what commands compute in bf16") {
        return;
    }
    let files = one_step();
    let model = files.model();
    let data = files.path("code.eval.jsonl");
    let bf16 = ["--device", "cpu", "--precision", "bf16", "--threads", "2"];
    let loss = |more: &[&str]| {
        let output = run(&[&["eval", &model, "--data", &data, "--json"][..], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let scores: Value = serde_json::from_slice(&output.stdout).unwrap();
        scores["files"][0]["loss"].as_f64().unwrap()
    };
    let (exact, rounded) = (loss(&["--device", "cpu"]), loss(&bf16));
    assert!(exact != rounded && (rounded - exact).abs() < 0.02 * exact, "{rounded} instead of {exact}");
    let prompt = ["generate", &model, "--prompt", "1", "--max-new-tokens", "4"];
    let config = files.path("model-run/final/config.json");
    let step = ["bench", "step", "--config", &config, "--batch", "1", "--length", "16", "--steps", "1"];
    for arguments in [&prompt[..], &step] {
        let output = run(&[arguments, &bf16].concat());
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
    }
}

//! Whole jobs on several ranks: the same training as on one, up to rounding.

use std::fs;

use cpift_engine::Device;
use cpift_kernels::emulator::Schedule;
use cpift_model::progress::Silent;
use cpift_model::recipe::Stage;
use cpift_model::{Error, Recipe};
use cpift_tests::jobs::{Options, SmallJob, TASKS, Watcher};
use cpift_tests::ranks::{run, run_on};
use serde_json::{Value, json};

const WEIGHTS: &str = "final/model.safetensors";

/// A recipe whose micro-batches can be dealt to 1, 2 and 3 ranks.
pub fn recipe(job: &SmallJob, changes: &[(&str, Value)]) -> Recipe {
    let dealt = [("train", 6), ("probe", 6), ("integrate", 6)]
        .map(|(section, number)| (format!("{section}.accumulate"), json!(number)));
    let small = ["train", "probe", "integrate"].map(|section| (format!("{section}.batch_size"), json!(2)));
    let dealt = dealt.iter().chain(&small).map(|(key, value)| (key.as_str(), value.clone()));
    let all: Vec<(&str, Value)> = dealt.chain(changes.iter().cloned()).collect();
    job.recipe(&all)
}

/// Losses and gradient norms of all steps of a run.
fn steps(job: &SmallJob, run: &str) -> Vec<[f64; 2]> {
    let text = String::from_utf8(job.bytes(&format!("{run}/metrics.jsonl"))).unwrap();
    let number = |line: &Value, key: &str| line[key].as_f64().unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.map(|line| [number(&line, "loss"), number(&line, "gradient_norm")]).collect()
}

fn trained(job: &SmallJob, recipe: &Recipe, out: &str, ranks: usize) {
    let (report, others) = run(job, (recipe, out), ranks, &Options::default(), &mut Silent);
    report.unwrap();
    others.into_iter().for_each(|other| other.unwrap());
}

/// With frozen cores, importance that is accumulated, a gradient that is clipped, and evaluations between steps.
#[test]
fn ranks_train_what_one_trains() {
    let job = SmallJob::new();
    let recipe = recipe(&job, &[("evaluate", json!({"every": 2, "rows": 4}))]);
    trained(&job, &recipe, "1", 1);
    for ranks in [2, 3] {
        let [out, again] = [format!("{ranks}"), format!("{ranks} again")];
        trained(&job, &recipe, &out, ranks);
        let (one, several) = (steps(&job, "1"), steps(&job, &out));
        assert_eq!(one.len(), several.len());
        for (one, several) in one.iter().zip(&several) {
            let near = |index: usize| (one[index] - several[index]).abs() < 1e-4 * one[index].max(1.0);
            assert!(near(0) && near(1), "{ranks} ranks: {several:?}, one: {one:?}");
        }
        let largest = |folder: &str| {
            let (one, several) =
                (job.weights(&format!("1/{folder}")), job.weights(&format!("{out}/{folder}")));
            one.iter().zip(&several).map(|(one, several)| (one - several).abs()).fold(0.0, f32::max)
        };
        for task in TASKS {
            assert!(largest(&format!("probe/{task}")) < 1e-4, "{ranks} ranks, {task}");
        }
        // The same ranks, the same bits.
        trained(&job, &recipe, &again, ranks);
        for file in [WEIGHTS, "core/code.mask.safetensors", "probe/logic/importance.safetensors"] {
            assert_eq!(job.bytes(&format!("{out}/{file}")), job.bytes(&format!("{again}/{file}")), "{file}");
        }
        let line = String::from_utf8(job.bytes(&format!("{out}/metrics.jsonl"))).unwrap();
        let line: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
        let [bytes, least] = ["bytes", "least_bytes"].map(|key| line["communication"][key].as_u64().unwrap());
        // Beside gradients and weights: sums, and the losses of a step.
        assert!(bytes >= least && bytes < least + 20_000, "{bytes} {least}");
    }
    assert!(!String::from_utf8(job.bytes("1/metrics.jsonl")).unwrap().contains("communication"));
}

/// What is on a GPU goes by way of the host here; by NCCL: tests/binary/gpus.rs.
#[test]
fn ranks_on_gpus_train_what_one_does() {
    let open = || Device::emulated(Schedule::Forward);
    let job = SmallJob::with_model(&[("num_hidden_layers", 1)]).on(open());
    let recipe = job.recipe(&[
        ("method", json!("joint")),
        ("model.precision", json!("bf16")),
        ("model.max_length", json!(24)),
        ("train.steps", json!(3)),
        ("train.batch_size", json!(1)),
        ("train.accumulate", json!(2)),
        ("checkpoint.every", json!(2)),
    ]);
    job.run(&recipe, "1", false, &mut Silent).unwrap();
    let (report, others) = run_on(&open, &job, (&recipe, "2"), 2, &Options::default(), &mut Silent);
    report.unwrap();
    others.into_iter().for_each(|other| other.unwrap());
    let (one, two) = (steps(&job, "1"), steps(&job, "2"));
    assert_eq!(one.len(), two.len());
    for (one, two) in one.iter().zip(&two) {
        // Sums of two halves round otherwise, and weights in bf16 may then be rounded to the next number.
        assert!((one[0] - two[0]).abs() < 1e-3 && (one[1] / two[1] - 1.0).abs() < 1e-2, "{one:?} {two:?}");
    }
    // The lower halves of the weights are sent only where they are written.
    let text = String::from_utf8(job.bytes("2/metrics.jsonl")).unwrap();
    let step: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let [bytes, least] = ["bytes", "least_bytes"].map(|key| step["communication"][key].as_u64().unwrap());
    let parameters = (job.weights("2/final").len()) as u64;
    // Ranges of the two differ by a word.
    assert!(
        least >= 6 * parameters / 2 && bytes + 64 * 6 >= least && bytes < least + 20_000,
        "{bytes} {least}"
    );
}

/// From probes that are the same, all that follows until the next training is: rank 0 alone makes it.
#[test]
fn cores_and_fusion_are_exactly_those_of_one() {
    let job = SmallJob::new();
    let recipe = recipe(&job, &[]);
    job.run_until(&recipe, "one", false, Some(Stage::Probe), &mut Silent).unwrap();
    cpift_tests::folders::copy(&job.path("one"), &job.path("three"));
    let options = Options { resume: true, until: Some(Stage::Fuse), ..Options::default() };
    job.run_with(&recipe, "one", &options, &mut Silent).unwrap();
    run(&job, (&recipe, "three"), 3, &options, &mut Silent).0.unwrap();
    let files = TASKS.map(|task| format!("core/{task}.mask.safetensors"));
    for file in files.iter().map(String::as_str).chain(["groups.json", "fused/model.safetensors"]) {
        assert_eq!(job.bytes(&format!("one/{file}")), job.bytes(&format!("three/{file}")), "{file}");
    }
}

#[test]
fn a_run_that_is_stopped_goes_on_with_the_same_ranks_to_the_same_bits_and_with_others() {
    let job = SmallJob::new();
    let recipe = recipe(&job, &[("checkpoint.every", json!(1))]);
    trained(&job, &recipe, "whole", 2);
    let resumed = Options { resume: true, ..Options::default() };
    // In a probe, whose importance is saved; and in stage 4, whose cores are frozen.
    for (name, steps) in [("probe", 5), ("integrate", 15)] {
        let mut watcher = Watcher { stop_after: Some(steps), ..Watcher::default() };
        let (report, others) = run(&job, (&recipe, name), 2, &Options::default(), &mut watcher);
        assert!(matches!(report, Err(Error::Interrupted { .. })), "{report:?}");
        others.into_iter().for_each(|other| other.unwrap());
        cpift_tests::folders::copy(&job.path(name), &job.path(&format!("{name} 1")));
        cpift_tests::folders::copy(&job.path(name), &job.path(&format!("{name} 3")));
        run(&job, (&recipe, name), 2, &resumed, &mut Silent).0.unwrap();
        assert_eq!(job.bytes(&format!("{name}/{WEIGHTS}")), job.bytes(&format!("whole/{WEIGHTS}")), "{name}");
        for ranks in [1, 3] {
            let out = format!("{name} {ranks}");
            run(&job, (&recipe, &out), ranks, &resumed, &mut Silent).0.unwrap();
            let (found, whole) = (self::steps(&job, &out), self::steps(&job, "whole"));
            let near =
                |(one, other): (&[f64; 2], &[f64; 2])| (one[0] - other[0]).abs() < 1e-4 * other[0].max(1.0);
            assert!(found.len() == whole.len() && found.iter().zip(&whole).all(near), "{out}");
            assert!(fs::read_to_string(job.path(&out).join("run.json")).unwrap().contains("\"ranks\""));
        }
    }
}

#[test]
fn what_ranks_cannot_do_is_refused_before_anything_begins() {
    let job = SmallJob::new();
    for (changes, expected) in [
        (vec![("train.accumulate", json!(4)), ("probe.accumulate", json!(4))], "use 3 or 6"),
        (
            ["train.memory", "probe.memory", "integrate.memory"].map(|key| (key, json!("compact"))).to_vec(),
            "exact state",
        ),
    ] {
        let recipe = recipe(&job, &changes);
        let (report, _) = run(&job, (&recipe, "run"), 3, &Options::default(), &mut Silent);
        let error = report.unwrap_err();
        assert!(error.is_input() && error.to_string().contains(expected), "{error}");
        assert!(!job.path("run").exists());
    }
    // More than there are micro-batches.
    let (report, _) = run(&job, (&recipe(&job, &[]), "run"), 7, &Options::default(), &mut Silent);
    assert!(report.unwrap_err().to_string().contains("use 7 or 14"));
}

/// Rank 0 learns of a rank that ends, and the others of rank 0.
#[test]
fn a_rank_that_ends_ends_all() {
    let job = SmallJob::new();
    let recipe = recipe(&job, &[]);
    let mut ranks = cpift_engine::ranks::threads(2);
    drop(ranks.remove(1));
    let options = Options { ranks: Some(&ranks[0]), ..Options::default() };
    let error = job.run_with(&recipe, "run", &options, &mut Silent).unwrap_err();
    assert!(!error.is_input() && error.to_string().contains("rank 1 has ended"), "{error}");

    let damaged = job.recipe(&[("model.config", json!(job.path("none.json")))]);
    let (report, others) = run(&job, (&damaged, "other"), 3, &Options::default(), &mut Silent);
    report.unwrap_err();
    for other in others {
        assert!(other.unwrap_err().to_string().contains("rank 0 has ended"));
    }
}

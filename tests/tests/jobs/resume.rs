//! What `--resume` takes for its own: nothing of another run, nothing edited, nothing that changed in between.

use std::fs;
use std::path::Path;

use cpift_model::progress::Silent;
use cpift_model::recipe::{DataFiles, RecomputeSetting, SpecialTokens, Stage};
use cpift_model::transformer::Recompute;
use cpift_model::{Error, Recipe};
use cpift_tests::folders::copy;
use cpift_tests::jobs::{Meddler, Options, SmallJob, Watcher};
use serde_json::json;

const WEIGHTS: &str = "final/model.safetensors";

fn replace(from: &Path, to: &Path) {
    if to.is_dir() {
        fs::remove_dir_all(to).unwrap();
    }
    copy(from, to);
}

/// Everything of a run that a resume reads, from runs that differ in seed, settings, data or place.
#[test]
fn stages_of_other_runs_are_refused() {
    let job = SmallJob::new();
    let recipe = job.recipe(&[]);
    job.run(&recipe, "finished", false, &mut Silent).unwrap();
    let stopped = |recipe: &Recipe, out: &str, steps: usize| {
        let mut watcher = Watcher { stop_after: Some(steps), ..Watcher::default() };
        job.run(recipe, out, false, &mut watcher).unwrap_err();
    };
    stopped(&recipe, "own", 16);
    stopped(&recipe, "own-probe", 6);
    // Of one task's rows one is missing.
    let mut other_data = recipe.clone();
    let rows = String::from_utf8(job.bytes("code.train.jsonl")).unwrap();
    fs::write(job.path("fewer.jsonl"), &rows[..rows.rfind('\n').unwrap()]).unwrap();
    other_data.task[1].train = DataFiles::new([job.path("fewer.jsonl")]);
    let mut other_tokens = recipe.clone();
    other_tokens.task[1].special_tokens = SpecialTokens::Escape;
    for (name, other) in [
        ("special-tokens", other_tokens),
        ("seed", job.recipe(&[("seed", json!(18))])),
        ("settings", job.recipe(&[("probe.learning_rate", json!(2e-3))])),
        ("data", other_data),
    ] {
        job.run(&other, &format!("{name}-finished"), false, &mut Silent).unwrap();
        stopped(&other, &format!("{name}-own"), 16);
        stopped(&other, &format!("{name}-own-probe"), 6);
        for (run, stages) in [
            (
                "finished",
                &["probe/code", "core", "groups.json", "fused", "final", "scores.json", "progress.json"][..],
            ),
            ("own", &["checkpoint", "fused", "groups.json"]),
            ("own-probe", &["checkpoint"]),
        ] {
            for stage in stages {
                replace(&job.path(run), &job.path("swapped"));
                replace(&job.path(&format!("{name}-{run}/{stage}")), &job.path("swapped").join(stage));
                let error = job.run(&recipe, "swapped", true, &mut Silent).unwrap_err();
                let message = error.to_string();
                let says =
                    message.contains("belongs to another run") || message.contains("from other stages");
                assert!(
                    error.is_input() && says && message.contains(stage),
                    "{name} {run} {stage}: {message}"
                );
                assert!(message.contains("remove it to make it again"), "{message}");
            }
        }
    }
    // What was removed is made again, to the same bits.
    replace(&job.path("finished"), &job.path("swapped"));
    for stage in ["probe/code", "core", "fused", "final"] {
        fs::remove_dir_all(job.path("swapped").join(stage)).unwrap();
    }
    job.run(&recipe, "swapped", true, &mut Silent).unwrap();
    assert_eq!(job.bytes(&format!("swapped/{WEIGHTS}")), job.bytes(&format!("finished/{WEIGHTS}")));
}

#[test]
fn a_stage_in_the_place_of_another_is_refused() {
    let job = SmallJob::new();
    let recipe = job.recipe(&[]);
    job.run_until(&recipe, "run", false, Some(Stage::Probe), &mut Silent).unwrap();
    replace(&job.path("run/probe/arithmetic"), &job.path("run/probe/code"));
    let message = job.run(&recipe, "run", true, &mut Silent).unwrap_err().to_string();
    assert!(message.contains("is `probe/arithmetic` of a run, not `probe/code`"), "{message}");

    let mut watcher = Watcher { stop_after: Some(4), ..Watcher::default() };
    let error = job.run(&recipe, "other", false, &mut watcher).unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
    let checkpoints = job.path("other/checkpoint");
    replace(&checkpoints.join("probe-arithmetic"), &checkpoints.join("probe-code"));
    let message = job.run(&recipe, "other", true, &mut Silent).unwrap_err().to_string();
    assert!(message.contains("not `checkpoint/probe-code/"), "{message}");
}

/// Groups are not a place to set groups by hand: what follows is bound to what was found.
#[test]
fn edited_files_are_refused() {
    let job = SmallJob::new();
    let recipe = job.recipe(&[]);
    job.run_until(&recipe, "run", false, Some(Stage::Group), &mut Silent).unwrap();
    for (name, pointer, value) in
        [("groups.json", "/groups", json!([[0, 1, 2]])), ("scores.json", "/base/code/loss", json!(1.0))]
    {
        let path = job.path("run").join(name);
        let before = fs::read_to_string(&path).unwrap();
        let mut content: serde_json::Value = serde_json::from_str(&before).unwrap();
        *content.pointer_mut(pointer).unwrap() = value;
        fs::write(&path, content.to_string()).unwrap();
        let error = job.run(&recipe, "run", true, &mut Silent).unwrap_err();
        assert!(error.is_input() && error.to_string().contains(&format!("{name}: was edited")), "{error}");
        fs::write(&path, before).unwrap();
    }
    job.run(&recipe, "run", true, &mut Silent).unwrap();
}

#[test]
fn run_folders_of_earlier_versions_are_refused() {
    let job = SmallJob::new();
    let recipe = job.recipe(&[]);
    job.run_until(&recipe, "run", false, Some(Stage::Probe), &mut Silent).unwrap();
    let manifest = job.path("run/probe/code/manifest.json");
    let mut content: serde_json::Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    content.as_object_mut().unwrap().remove("origin");
    content["version"] = json!(1);
    fs::write(&manifest, content.to_string()).unwrap();
    let error = job.run(&recipe, "run", true, &mut Silent).unwrap_err();
    assert!(error.is_input() && error.to_string().contains("earlier version"), "{error}");
    fs::remove_file(job.path("run/identity.json")).unwrap();
    let error = job.run(&recipe, "run", true, &mut Silent).unwrap_err();
    assert!(error.is_input() && error.to_string().contains("earlier version"), "{error}");
}

#[test]
fn lost_lines_of_metrics_are_told_and_damaged_ones_refused() {
    let job = SmallJob::new();
    let recipe = job.recipe(&[]);
    let mut watcher = Watcher { stop_after: Some(15), ..Watcher::default() };
    job.run(&recipe, "run", false, &mut watcher).unwrap_err();
    let path = job.path("run/metrics.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 15);

    // The whole file but for the last step of the last probe, and the checkpoint's.
    let without_end = lines[..11].join("\n") + "\n";
    let damaged = text.replacen("\"loss\"", "\"lo", 1);
    let other_value = text.replacen("\"step\":2", "\"step\": 2", 1);
    fs::write(&path, damaged).unwrap();
    let error = job.run(&recipe, "run", true, &mut Silent).unwrap_err();
    assert!(error.is_input() && error.to_string().contains("metrics.jsonl:1: is damaged"), "{error}");
    for (content, says) in [
        (without_end, vec!["1 of the 4 steps of probe-logic are missing", "3 of the 3 steps of integrate"]),
        (other_value, vec!["the steps of probe-arithmetic are not those that were recorded"]),
        // Cut short in the last line, by a crash: it is the checkpoint's.
        (text[..text.len() - 9].to_owned(), vec!["1 of the 3 steps of integrate are missing"]),
    ] {
        replace(&job.path("run"), &job.path("again"));
        fs::write(job.path("again/metrics.jsonl"), content).unwrap();
        let mut meddler = Meddler::new(usize::MAX, || ());
        job.run(&recipe, "again", true, &mut meddler).unwrap();
        for part in says {
            assert!(meddler.notices.iter().any(|notice| notice.contains(part)), "{:?}", meddler.notices);
        }
    }
    // Lines after the checkpoint are made again without a word.
    replace(&job.path("run"), &job.path("again"));
    let later = lines[14].replace("\"step\":3", "\"step\":4");
    fs::write(job.path("again/metrics.jsonl"), format!("{text}{later}\n{{\"ste")).unwrap();
    let mut meddler = Meddler::new(usize::MAX, || ());
    let report = job.run(&recipe, "again", true, &mut meddler).unwrap();
    assert_eq!((report.steps, meddler.notices.len()), (18, 0), "{:?}", meddler.notices);
}

/// What nothing is computed from may be set otherwise when a run is continued; the number type of the final model
/// until that is written.
#[test]
fn keys_that_change_no_result_may_change_on_resume() {
    let job = SmallJob::new();
    let recipe = job.recipe(&[("model.dtype", json!("bf16"))]);
    job.run(&recipe, "whole", false, &mut Silent).unwrap();
    let begun = job.recipe(&[("model.dtype", json!("f16"))]);
    let mut watcher = Watcher { stop_after: Some(14), ..Watcher::default() };
    job.run(&begun, "run", false, &mut watcher).unwrap_err();
    let mut changed = recipe.clone();
    (changed.checkpoint.every, changed.checkpoint.keep, changed.metrics.tensorboard) = (1, 3, true);
    changed.integrate.training.recompute = RecomputeSetting::Of(Recompute::Mlp);
    job.run(&changed, "run", true, &mut Silent).unwrap();
    assert_eq!(job.bytes(&format!("run/{WEIGHTS}")), job.bytes(&format!("whole/{WEIGHTS}")));
    let text = String::from_utf8(job.bytes("run/recipe.toml")).unwrap();
    assert!(text.contains("dtype = \"bf16\"") && text.contains("tensorboard = true"), "{text}");

    let error = job.run(&begun, "run", true, &mut Silent).unwrap_err();
    assert!(
        error.is_input() && error.to_string().contains("`model.dtype`: cannot be changed any more"),
        "{error}"
    );
    let mut other = changed;
    other.probe.training.batch_size = 3;
    let error = job.run(&other, "run", true, &mut Silent).unwrap_err();
    assert!(error.to_string().contains("batch_size"), "{error}");
}

/// Weights beyond 65504 fit no f16: of the base before the first step, in training at the next checkpoint.
#[test]
fn weights_too_large_for_the_final_type_are_found_early() {
    let job = SmallJob::new();
    job.run(&job.recipe(&[]), "brought", false, &mut Silent).unwrap();
    let mut recipe = job.recipe(&[("model.dtype", json!("f16"))]);
    recipe.model.config = None;
    recipe.model.base = Some(job.path("brought/final"));
    let path = job.path("brought/final/model.safetensors");
    let before = fs::read(&path).unwrap();
    let mut large = before.clone();
    let last = large.len() - 4;
    large[last..].copy_from_slice(&70000f32.to_le_bytes());
    fs::write(&path, &large).unwrap();
    let mut watcher = Watcher::default();
    let error = job.run(&recipe, "base", false, &mut watcher).unwrap_err();
    assert!(error.is_input() && error.to_string().contains("too large for float16"), "{error}");
    assert_eq!(watcher.steps, 0);
    // Every step multiplies the weights by 1 − 90·100: after two they no longer fit.
    fs::write(&path, before).unwrap();
    recipe.probe.training.learning_rate = 90.0;
    recipe.probe.training.weight_decay = 100.0;
    recipe.probe.training.warmup = 0.0;
    recipe.checkpoint.every = 1;
    let mut watcher = Watcher::default();
    let error = job.run(&recipe, "trained", false, &mut watcher).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("--resume") && message.contains("too large for float16"), "{message}");
    assert!(watcher.steps <= 2, "at the first checkpoint after it, not after {} steps", watcher.steps);
}

/// The kill comes between the record of the new type and the new final model.
#[test]
fn a_final_model_of_another_type_is_measured_anew() {
    let job = SmallJob::new();
    let with = |dtype: &str| job.recipe(&[("model.dtype", json!(dtype))]);
    let expected = job.run(&with("bf16"), "expected", false, &mut Silent).unwrap();
    job.run(&with("f32"), "run", false, &mut Silent).unwrap();
    fs::remove_dir_all(job.path("run/final")).unwrap();
    let mut watcher = Watcher { stop_after: Some(1), ..Watcher::default() };
    job.run(&with("bf16"), "run", true, &mut watcher).unwrap_err();
    let report = job.run(&with("bf16"), "run", true, &mut Silent).unwrap();
    assert_eq!(report.tasks, expected.tasks);
}

/// Scores of base and probes are taken over with the probes: only of that run, measured on the same files.
#[test]
fn scores_taken_over_must_be_of_the_run_and_of_the_same_files() {
    let job = SmallJob::new();
    let recipe = job.recipe(&[]);
    job.run_until(&recipe, "probes", false, Some(Stage::Probe), &mut Silent).unwrap();
    job.run_until(&job.recipe(&[("seed", json!(18))]), "other", false, Some(Stage::Probe), &mut Silent)
        .unwrap();
    let probes = job.path("probes");
    let options = Options { probes: Some(&probes), until: Some(Stage::Core), ..Options::default() };
    job.run_with(&recipe, "shared", &options, &mut Silent).unwrap();

    let own = job.bytes("probes/scores.json");
    for (content, says) in [
        (job.bytes("other/scores.json"), "belongs to another run"),
        (b"{\"base\": {}}".to_vec(), "earlier version"),
    ] {
        fs::write(probes.join("scores.json"), content).unwrap();
        let message = job.run_with(&recipe, "refused", &options, &mut Silent).unwrap_err().to_string();
        assert!(message.contains("scores.json") && message.contains(says), "{message}");
        fs::remove_dir_all(job.path("refused")).unwrap();
    }
    fs::write(probes.join("scores.json"), own).unwrap();
    let mut rows = job.bytes("code.eval.jsonl");
    rows.push(b'\n');
    fs::write(job.path("code.eval.jsonl"), rows).unwrap();
    let message = job.run_with(&recipe, "refused", &options, &mut Silent).unwrap_err().to_string();
    assert!(message.contains("code.eval.jsonl: is not the same in"), "{message}");
}

#[test]
fn what_is_lost_of_the_records_changes_no_result() {
    let job = SmallJob::new();
    let recipe = job.recipe(&[]);
    let mut meddler = Meddler::new(usize::MAX, || ());
    let report = job.run(&recipe, "run", true, &mut meddler).unwrap();
    assert!(meddler.notices.iter().any(|text| text.contains("no run to continue")), "{:?}", meddler.notices);
    for name in ["progress.json", "identity.json"] {
        fs::remove_file(job.path("run").join(name)).unwrap();
        let again = job.run(&recipe, "run", true, &mut Silent).unwrap();
        assert!(report.frozen_verified > 0);
        assert_eq!((again.frozen_verified, again.tasks), (report.frozen_verified, report.tasks.clone()));
    }
    fs::remove_file(job.path("run/identity.json")).unwrap();
    let other = job.recipe(&[("seed", json!(18))]);
    let message = job.run(&other, "run", true, &mut Silent).unwrap_err().to_string();
    assert!(message.contains("belongs to another run"), "{message}");
}

#[test]
fn damaged_stages_say_what_to_do_and_a_bare_lock_is_no_run() {
    let job = SmallJob::new();
    let recipe = job.recipe(&[]);
    fs::create_dir(job.path("run")).unwrap();
    fs::write(job.path("run/.lock"), "").unwrap();
    job.run_until(&recipe, "run", false, Some(Stage::Probe), &mut Silent).unwrap();
    let manifest = job.path("run/probe/code/manifest.json");
    for content in [None, Some("{")] {
        fs::remove_file(&manifest).unwrap();
        if let Some(content) = content {
            fs::write(&manifest, content).unwrap();
        }
        let error = job.run(&recipe, "run", true, &mut Silent).unwrap_err();
        let message = error.to_string();
        assert!(
            error.is_input() && message.contains("remove the folder to make it again with --resume"),
            "{message}"
        );
        fs::write(&manifest, "").unwrap();
    }
}

/// Passed over and said; gone when the next is written, though it counts more steps.
#[test]
fn a_damaged_checkpoint_is_told_and_replaced() {
    let job = SmallJob::new();
    let mut recipe = job.recipe(&[("checkpoint.keep", json!(1))]);
    job.run(&recipe, "whole", false, &mut Silent).unwrap();
    recipe.checkpoint.every = 0;
    let stop = |out: &str, resume: bool, steps: usize| {
        let mut watcher = Watcher { stop_after: Some(steps), ..Watcher::default() };
        job.run(&recipe, out, resume, &mut watcher).unwrap_err();
    };
    stop("run", false, 3);
    let checkpoints = job.path("run/checkpoint/probe-arithmetic");
    fs::write(checkpoints.join("step-00000003/state.json"), "").unwrap();
    stop("run", true, 2);
    let names: Vec<_> = fs::read_dir(&checkpoints).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["step-00000002"]);
    fs::write(checkpoints.join("step-00000002/state.json"), "").unwrap();
    let mut meddler = Meddler::new(usize::MAX, || ());
    job.run(&recipe, "run", true, &mut meddler).unwrap();
    assert!(meddler.notices.iter().any(|text| text.contains("step-00000002")), "{:?}", meddler.notices);
    assert_eq!(job.bytes(&format!("run/{WEIGHTS}")), job.bytes(&format!("whole/{WEIGHTS}")));
}

/// A pipe in a run folder would be waited for without end.
#[cfg(unix)]
#[test]
fn pipes_in_a_run_folder_are_refused_at_once() {
    let job = SmallJob::new();
    let recipe = job.recipe(&[]);
    job.run_until(&recipe, "run", false, Some(Stage::Probe), &mut Silent).unwrap();
    for name in ["metrics.jsonl", "scores.json", "answers.json", "identity.json", "probe/code/manifest.json"]
    {
        let path = job.path("run").join(name);
        let before = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let error = job.run(&recipe, "run", true, &mut Silent).unwrap_err();
        assert!(error.is_input() && error.to_string().contains("is a pipe"), "{error}");
        fs::remove_file(&path).unwrap();
        fs::write(&path, before).unwrap();
    }
}

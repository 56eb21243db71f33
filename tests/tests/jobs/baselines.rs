//! The methods that CPI-FT is compared with, pairs of tasks, and runs that take over the probes of another.

use std::fs;

use cpift_model::job::{PairMethod, Study};
use cpift_model::progress::{Silent, StepReport};
use cpift_model::recipe::Stage;
use cpift_tests::jobs::{Options, SmallJob, TASKS, Watcher};
use serde_json::json;

/// The steps on record of a run.
fn steps(job: &SmallJob, run: &str) -> Vec<StepReport> {
    let text = fs::read_to_string(job.path(run).join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_method_makes_exactly_the_steps_of_the_recipe() {
    let job = SmallJob::new();
    for method in ["joint", "sequential", "replay", "half"] {
        let recipe = job.recipe(&[("method", json!(method)), ("train.steps", json!(11))]);
        assert_eq!(job.plan(&recipe).unwrap().steps(), 11, "{method}");
        let report = job.run(&recipe, method, false, &mut Silent).unwrap();
        assert_eq!(report.steps, 11, "{method}");
        assert!(report.tasks.iter().all(|task| task.scores.iter().all(Option::is_some)), "{method}");
    }
}

#[test]
fn replay_ends_with_the_last_task_and_a_share_of_the_others() {
    let job = SmallJob::new();
    let rows = |share: f64| {
        let recipe = job.recipe(&[
            ("method", json!("replay")),
            ("train.steps", json!(24)),
            ("replay", json!({"share": share, "last": [TASKS[0]]})),
        ]);
        let out = format!("replay-{share}");
        job.run(&recipe, &out, false, &mut Silent).unwrap();
        let steps = steps(&job, &out);
        let seen = |step: &StepReport, task: &str| step.task_losses.iter().any(|(name, _)| name == task);
        let first = steps[..16].iter().filter(|step| seen(step, TASKS[0])).count();
        let last = steps[16..].iter().filter(|step| seen(step, TASKS[0])).count();
        let replayed = steps[16..].iter().filter(|step| seen(step, TASKS[1]) || seen(step, TASKS[2])).count();
        (first, last, replayed)
    };
    // Steps of eight rows: at a half every one holds rows of the earlier tasks, at a hundredth hardly any does.
    assert_eq!(rows(0.5), (0, 8, 8));
    let (first, last, replayed) = rows(0.01);
    assert_eq!((first, last), (0, 8));
    assert!(replayed <= 4, "{replayed}");
}

#[test]
fn a_task_is_gone_through_as_often_as_its_epochs_say() {
    let job = SmallJob::new();
    let rows = |out: &str, shares: &str, epochs: f64, of_task: f64| {
        let train = json!({"epochs": epochs, "batch_size": 10, "pack": false});
        let mut recipe = job.recipe(&[
            ("method", json!("joint")),
            ("train", train),
            ("mixture", json!({ "shares": shares })),
        ]);
        recipe.task[1].epochs = Some(of_task);
        job.run(&recipe, out, false, &mut Silent).unwrap();
        let of_task = |task: &str| -> u64 {
            let steps = steps(&job, out);
            let shares = steps.iter().flat_map(|step| &step.task_shares);
            shares.filter(|share| share.task == task).map(|share| share.rows).sum()
        };
        TASKS.map(of_task)
    };
    // All have 30 rows.
    assert_eq!(rows("three", "equal", 1.0, 3.0), [30, 90, 30]);
    assert_eq!(rows("tokens", "rows", 2.0, 1.0), [60, 30, 60]);
    // A probe too, which is trained for as long as the epochs of all tasks ask for on average.
    let mut recipe = job.recipe(&[("probe", json!({"epochs": 1.0, "batch_size": 10, "pack": false}))]);
    assert_eq!(job.plan(&recipe).unwrap().trainings[0].steps, 3);
    recipe.task[1].epochs = Some(4.0);
    assert_eq!(job.plan(&recipe).unwrap().trainings[0].steps, 6);
    recipe.task[1].repeat = 2.0;
    let error = job.plan(&recipe).unwrap_err().to_string();
    assert!(error.starts_with("`task[1].epochs`: excludes `repeat`"), "{error}");
}

#[test]
fn half_freezes_another_half_in_every_round() {
    let job = SmallJob::new();
    let recipe =
        job.recipe(&[("method", json!("half")), ("train.steps", json!(6)), ("half.rounds", json!(2))]);
    let parameters = job.plan(&recipe).unwrap().parameters;
    let report = job.run(&recipe, "half", false, &mut Silent).unwrap();
    // Of tensors with an odd number of elements the half is rounded down.
    assert!(
        report.frozen_verified.abs_diff(parameters) < 20,
        "{} of 2 × {parameters} / 2",
        report.frozen_verified
    );
    // What is frozen differs from round to round, else half of the model would be the base's.
    let joint = job.recipe(&[("method", json!("joint")), ("train.steps", json!(6))]);
    job.run(&joint, "joint", false, &mut Silent).unwrap();
    assert_ne!(job.bytes("half/final/model.safetensors"), job.bytes("joint/final/model.safetensors"));
}

#[test]
fn half_continues_to_the_same_bits() {
    let job = SmallJob::new();
    let recipe = job.recipe(&[("method", json!("half")), ("train.steps", json!(9))]);
    job.run(&recipe, "whole", false, &mut Silent).unwrap();
    let mut watcher = Watcher { stop_after: Some(5), ..Watcher::default() };
    assert!(job.run(&recipe, "stopped", false, &mut watcher).is_err());
    job.run(&recipe, "stopped", true, &mut Silent).unwrap();
    assert_eq!(job.bytes("stopped/final/model.safetensors"), job.bytes("whole/final/model.safetensors"));
}

#[test]
fn merges_are_backbones_of_a_whole_job() {
    let job = SmallJob::new();
    for backbone in ["average", "arithmetic", "ties", "dare", "dare-ties"] {
        let recipe =
            job.recipe(&[("fuse", json!({"backbone": backbone, "transplant": false, "scale": 0.4}))]);
        let report = job.run_until(&recipe, backbone, false, Some(Stage::Fuse), &mut Silent).unwrap();
        assert!(report.tasks.iter().all(|task| task.scores[2].is_some()), "{backbone}");
    }
}

#[test]
fn probes_taken_over_give_the_bits_of_probes_of_its_own() {
    let job = SmallJob::new();
    let recipe = job.recipe(&[("probe.importance", json!("path"))]);
    job.run(&recipe, "own", false, &mut Silent).unwrap();
    let probes = job.path("probes");
    job.run_until(&recipe, "probes", false, Some(Stage::Group), &mut Silent).unwrap();
    let mut watcher = Watcher::default();
    let options = Options { probes: Some(&probes), ..Options::default() };
    let report = job.run_with(&recipe, "taken", &options, &mut watcher).unwrap();
    assert_eq!(watcher.steps, 6, "only stage 4 is trained");
    assert!(report.tasks.iter().all(|task| task.scores.iter().all(Option::is_some)));
    assert_eq!(job.bytes("taken/final/model.safetensors"), job.bytes("own/final/model.safetensors"));
    assert!(!job.path("taken/probe").exists());

    fs::remove_dir_all(probes.join("probe").join(TASKS[1])).unwrap();
    let error = job.run_with(&recipe, "missing", &options, &mut Silent);
    let message = error.unwrap_err().to_string();
    assert!(message.contains(TASKS[1]) && message.contains("not complete"), "{message}");
}

#[test]
fn every_ordered_pair_is_trained_from_the_first_tasks_probe() {
    let job = SmallJob::new();
    let recipe = job.recipe(&[]);
    let probes = job.path("probes");
    job.run_until(&recipe, "probes", false, Some(Stage::Group), &mut Silent).unwrap();
    for way in PairMethod::ALL {
        let out = format!("pairs-{}", way.name());
        let study = Study::Pairs(way);
        let options = Options { probes: Some(&probes), study: Some(&study), ..Options::default() };
        let report = job.run_with(&recipe, &out, &options, &mut Silent).unwrap();
        // Six pairs of four steps.
        assert_eq!(report.steps, 24);
        assert_eq!(report.columns.len(), 2 + 3 + 6);
        let column =
            |name: &str| report.columns.iter().position(|column| column.to_string() == name).unwrap();
        let pair = column(&format!("{} → {}", TASKS[0], TASKS[2]));
        let measured: Vec<bool> = report.tasks.iter().map(|task| task.scores[pair].is_some()).collect();
        assert_eq!(measured, [true, false, true]);
        let before = column(&format!("after {}", TASKS[0]));
        let measured: Vec<bool> = report.tasks.iter().map(|task| task.scores[before].is_some()).collect();
        assert_eq!(measured, [false, true, true]);
    }
}

#[test]
fn stopped_pairs_continue_to_the_same_scores() {
    let job = SmallJob::new();
    let recipe = job.recipe(&[]);
    let probes = job.path("probes");
    job.run_until(&recipe, "probes", false, Some(Stage::Group), &mut Silent).unwrap();
    let run = |out: &str, resume: bool, observer: &mut Watcher| {
        let study = Study::Pairs(PairMethod::Cpift);
        let options = Options { resume, probes: Some(&probes), study: Some(&study), ..Options::default() };
        job.run_with(&recipe, out, &options, observer)
    };
    let whole = run("whole", false, &mut Watcher::default()).unwrap();
    let mut watcher = Watcher { stop_after: Some(10), ..Watcher::default() };
    assert!(run("stopped", false, &mut watcher).is_err());
    let resumed = run("stopped", true, &mut Watcher::default()).unwrap();
    assert_eq!(resumed.tasks, whole.tasks);
    assert_eq!(resumed.steps, whole.steps);
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let job = SmallJob::new();
    for (changes, expected) in [
        (vec![("replay.last", json!(["nobody"]))], "there is no task `nobody`"),
        (vec![("method", json!("replay")), ("replay.last", json!(TASKS))], "no task for the first stage"),
        (vec![("replay.share", json!(0.0))], "replay.share"),
        (vec![("half.rounds", json!(0))], "half.rounds"),
        (vec![("fuse.density", json!(0.0))], "fuse.density"),
        (vec![("fuse.scale", json!(1e9))], "fuse.scale"),
    ] {
        let message = job.plan(&job.recipe(&changes)).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

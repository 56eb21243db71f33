//! Probes measured after several numbers of steps.

use std::fs;

use cpift_engine::Device;
use cpift_model::files::read_json;
use cpift_model::job::{LengthReport, ProbeLengths, Study, length_scores};
use cpift_model::progress::Silent;
use cpift_model::recipe::{ImportanceKind, Recipe, Stage};
use cpift_model::stages::saliency::Saliency;
use cpift_tests::jobs::{Options, SmallJob, TASKS, Watcher};
use serde_json::json;

const STEPS: [u64; 3] = [1, 3, 4];

fn study() -> Study {
    Study::ProbeLengths(ProbeLengths { steps: STEPS.to_vec(), transplants: vec![0.05, 1.0] })
}

/// Probes of the longest length, at one learning rate.
fn recipe(job: &SmallJob) -> Recipe {
    job.recipe(&[
        ("probe.steps", json!(STEPS[2])),
        ("probe.importance", json!("path")),
        ("probe.schedule", json!("constant")),
        ("probe.warmup", json!(0.0)),
    ])
}

fn report(job: &SmallJob, run: &str, task: &str, steps: u64) -> LengthReport {
    read_json(&job.path(&format!("{run}/probe-lengths/{task}/{steps}/report.json"))).unwrap().unwrap()
}

fn scores(job: &SmallJob, run: &str, task: &str, steps: u64, measure: Saliency) -> Vec<f32> {
    let folder = job.path(&format!("{run}/probe-lengths/{task}/{steps}"));
    length_scores(&Device::cpu(None).unwrap(), &folder, &report(job, run, task, steps), measure).unwrap()
}

fn sorted(values: &[f32]) -> Vec<f32> {
    let mut values = values.to_vec();
    values.sort_by(f32::total_cmp);
    values
}

#[test]
fn every_length_is_a_probe_of_that_length() {
    let job = SmallJob::new();
    let study = study();
    let options = Options { study: Some(&study), ..Options::default() };
    job.run_with(&recipe(&job), "lengths", &options, &mut Silent).unwrap();
    // An ordinary probe of three steps, with the loss that is measured of it.
    let mut shorter = recipe(&job);
    shorter.probe.training.steps = Some(STEPS[1]);
    let until = Some(Stage::Probe);
    let probed = job.run_until(&shorter, "probes", false, until, &mut Silent).unwrap();
    for (index, task) in TASKS.iter().enumerate() {
        let found = report(&job, "lengths", task, STEPS[1]);
        let expected = probed.tasks[index].scores[1].unwrap().loss;
        assert_eq!(found.loss, expected, "{task}");
        // The model is small: all of its parameters are scored, as the probe stored them, tensor after tensor.
        let [net, path] =
            [Saliency::Net, Saliency::Path].map(|measure| scores(&job, "lengths", task, STEPS[1], measure));
        assert_eq!(path.len() as u64, found.eligible);
        assert_eq!(sorted(&path), sorted(&job.importance("probes", task)), "{task}");
        // A way is no shorter than the distance, but for rounding at every step.
        assert!(net.iter().zip(&path).all(|(net, path)| *net <= path * 1.001 + 1e-6), "{task}");
        for loss in found.transplants.iter().filter(|loss| loss.fraction == 1.0) {
            assert_eq!(loss.loss, found.loss, "all of a probe is the probe: {loss:?}");
        }
        let few: Vec<_> = found.transplants.iter().filter(|loss| loss.fraction == 0.05).collect();
        assert_eq!(few.len(), Saliency::ALL.len() + 1);
        assert!(few.iter().all(|loss| loss.loss.is_finite() && loss.loss != found.loss), "{few:?}");
    }
}

#[test]
fn cores_by_fisher_net_are_of_the_movements_weighted_by_squared_gradients() {
    let job = SmallJob::new();
    let study = study();
    job.run_with(
        &recipe(&job),
        "lengths",
        &Options { study: Some(&study), ..Options::default() },
        &mut Silent,
    )
    .unwrap();
    let mut weighted = recipe(&job);
    weighted.probe.importance = ImportanceKind::FisherNet;
    job.run_until(&weighted, "run", false, Some(Stage::Fuse), &mut Silent).unwrap();
    let layout = job.layout("run/fused");
    for task in TASKS {
        let scores = scores(&job, "lengths", task, STEPS[2], Saliency::FisherNet);
        let core = job.core("run", task);
        let in_core: Vec<bool> = layout
            .segments()
            .iter()
            .flat_map(|segment| segment.range().map(|index| core.get(index)))
            .collect();
        assert_eq!(in_core.len(), scores.len());
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let first = order.iter().take(core.count());
        assert!(core.count() > 100 && first.clone().all(|&index| in_core[index]), "{task}");
    }
}

#[test]
fn lengths_that_were_stopped_go_on_to_the_same_bits() {
    let job = SmallJob::new();
    let (recipe, study) = (recipe(&job), study());
    let run = |out: &str, resume: bool, observer: &mut Watcher| {
        job.run_with(&recipe, out, &Options { resume, study: Some(&study), ..Options::default() }, observer)
    };
    run("whole", false, &mut Watcher::default()).unwrap();
    for after in [2, 3, 9] {
        let out = format!("stopped-{after}");
        let mut watcher = Watcher { stop_after: Some(after), ..Watcher::default() };
        assert!(run(&out, false, &mut watcher).is_err());
        run(&out, true, &mut Watcher::default()).unwrap();
        for (task, steps) in TASKS.iter().flat_map(|task| STEPS.map(|steps| (task, steps))) {
            for file in ["report.json", "scores.safetensors"] {
                let name = |run: &str| format!("{run}/probe-lengths/{task}/{steps}/{file}");
                assert_eq!(job.bytes(&name("whole")), job.bytes(&name(&out)), "{task} {steps} {file}");
            }
        }
        assert!(fs::read_dir(job.path(&format!("{out}/checkpoint"))).map_or(0, Iterator::count) == 0);
    }
    // One that is gone and lies before the checkpoint is made again.
    let mut watcher = Watcher { stop_after: Some(2), ..Watcher::default() };
    assert!(run("hole", false, &mut watcher).is_err());
    fs::remove_dir_all(job.path(&format!("hole/probe-lengths/{}/1", TASKS[0]))).unwrap();
    run("hole", true, &mut Watcher::default()).unwrap();
    let name = |run: &str| format!("{run}/probe-lengths/{}/1/report.json", TASKS[0]);
    assert_eq!(job.bytes(&name("whole")), job.bytes(&name("hole")));
    // What is there is not made again; what is damaged is not taken.
    let mut watcher = Watcher::default();
    run("whole", true, &mut watcher).unwrap();
    assert_eq!(watcher.steps, 0);
    let damaged = job.path(&format!("whole/probe-lengths/{}/3/report.json", TASKS[0]));
    let text = fs::read_to_string(&damaged).unwrap().replace("\"steps\": 3", "\"steps\": 4");
    fs::write(&damaged, text).unwrap();
    let message = run("whole", true, &mut Watcher::default()).unwrap_err().to_string();
    assert!(message.contains("report.json"), "{message}");
}

#[test]
fn lengths_that_cannot_be_measured_are_refused() {
    let job = SmallJob::new();
    let refuse = |steps: &[u64], transplants: &[f64], recipe: &Recipe| {
        let study =
            Study::ProbeLengths(ProbeLengths { steps: steps.to_vec(), transplants: transplants.to_vec() });
        let options = Options { study: Some(&study), ..Options::default() };
        job.run_with(recipe, "out", &options, &mut Silent).unwrap_err().to_string()
    };
    let recipe = recipe(&job);
    for steps in [&[][..], &[4, 3][..], &[0, 4][..], &[4, 4][..]] {
        let message = refuse(steps, &[], &recipe);
        assert!(message.contains("--probe-lengths") && message.contains("ascend"), "{steps:?}: {message}");
    }
    assert!(refuse(&[1, u64::MAX], &[], &recipe).contains("at most"));
    assert!(refuse(&[2, 3], &[], &recipe).contains("probe.steps"));
    assert!(refuse(&STEPS, &[0.0], &recipe).contains("--transplants"));
    assert!(refuse(&STEPS, &[0.1, 0.1], &recipe).contains("occurs twice"));
    let mut net = recipe.clone();
    net.probe.importance = ImportanceKind::Net;
    assert!(refuse(&STEPS, &[], &net).contains("probe.importance"));
    let mut joint = recipe.clone();
    joint.method = cpift_model::recipe::Method::Joint;
    assert!(refuse(&STEPS, &[], &joint).contains("method"));
}

//! Evaluation while a model is trained: what it measures, what it decides, and that it changes nothing else.

use std::collections::BTreeMap;

use cpift_model::Error;
use cpift_model::progress::{Column, Event, Observer, Score, Silent, StepReport, TrainingStage};
use cpift_model::recipe::Stage;
use cpift_tests::jobs::SmallJob;
use serde_json::{Value, json};

const WEIGHTS: &str = "final/model.safetensors";

/// The steps of a run, without what differs from run to run.
fn steps(job: &SmallJob, out: &str) -> Vec<StepReport> {
    let text = String::from_utf8(job.bytes(&format!("{out}/metrics.jsonl"))).unwrap();
    let step = |line: &str| {
        let step: StepReport = serde_json::from_str(line).unwrap();
        StepReport { seconds: 0.0, time: 0.0, evaluation_seconds: 0.0, ..step }
    };
    text.lines().map(step).collect()
}

fn with(changes: &[(&'static str, Value)]) -> Vec<(&'static str, Value)> {
    let mut all = vec![("evaluate", json!({"every": 2, "rows": 5}))];
    all.extend_from_slice(changes);
    all
}

/// Keeps what it is told; asks to stop within the evaluation of this number.
#[derive(Default)]
struct Listener {
    notices: Vec<String>,
    stop_in: Option<usize>,
    evaluations: usize,
    steps: usize,
}

impl Observer for Listener {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Notice(text) => self.notices.push(text.to_owned()),
            Event::EvaluationProgress { model, .. } if model.to_string().starts_with("joint") => {
                self.evaluations += 1
            }
            Event::Step(_) => self.steps += 1,
            _ => {}
        }
    }

    fn stop_requested(&self) -> bool {
        self.stop_in.is_some_and(|number| self.evaluations >= number)
    }
}

#[test]
fn every_task_is_measured_on_the_same_rows_and_nothing_else_changes() {
    let job = SmallJob::new();
    job.run(&job.recipe(&[]), "plain", false, &mut Silent).unwrap();
    job.run(&job.recipe(&with(&[])), "measured", false, &mut Silent).unwrap();
    assert_eq!(job.bytes(&format!("plain/{WEIGHTS}")), job.bytes(&format!("measured/{WEIGHTS}")));
    for step in steps(&job, "measured") {
        let is_due = step.number % 2 == 0 || step.number == step.steps;
        let tasks: Vec<&str> = step.evaluation.iter().map(|sample| sample.task.as_str()).collect();
        match (is_due, step.stage.name()) {
            (false, _) => assert!(tasks.is_empty()),
            (true, "probe") => assert_eq!(tasks, [step.part.as_str()]),
            (true, _) => assert_eq!(tasks, ["arithmetic", "code", "logic"]),
        }
        assert!(
            step.evaluation.iter().all(|sample| sample.score.rows == 5 && sample.score.share().is_some())
        );
    }
    // A probe's last evaluation is of the model that is saved: on all rows it measures the same.
    let all = job.recipe(&[("evaluate", json!({"every": 2, "rows": 1000}))]);
    let report = job.run(&all, "all", false, &mut Silent).unwrap();
    let last = steps(&job, "all").into_iter().rfind(|step| step.part == "code").unwrap();
    let own = report.columns.iter().position(|column| *column == Column::Probe).unwrap();
    assert_eq!(last.evaluation[0].score, report.tasks[1].scores[own].unwrap());
    assert_eq!(job.plan(&all).unwrap().evaluations, 3 * 2 + 3);
}

#[test]
fn the_best_weights_are_kept() {
    let job = SmallJob::new();
    // Far too large steps: after the first ones it only gets worse.
    let train = |steps: u64| json!({"steps": steps, "batch_size": 4, "learning_rate": 0.05, "schedule": "constant", "warmup": 0, "clip": 0});
    let evaluate =
        |keep: &str| json!({"every": 1, "rows": 1000, "answers": false, "keep": keep, "alarm": 0.01});
    let recipe = |steps, keep| {
        let changes = [("method", json!("joint")), ("train", train(steps)), ("evaluate", evaluate(keep))];
        job.recipe(&changes)
    };
    let mut listener = Listener::default();
    job.run(&recipe(8, "best"), "best", false, &mut listener).unwrap();
    let quality = |step: &StepReport| -step.evaluation.iter().map(|sample| sample.score.loss).sum::<f64>();
    let made = steps(&job, "best");
    assert_eq!(made.len(), 8);
    let best = made.iter().max_by(|a, b| quality(a).total_cmp(&quality(b))).unwrap();
    assert!(best.number < 8, "the last step is the best: nothing is tested");
    assert!(
        listener
            .notices
            .iter()
            .any(|text| text.contains(&format!("the weights after step {} are kept", best.number)))
    );
    // The same as a run that ends there.
    job.run(&recipe(best.number, "last"), "short", false, &mut Silent).unwrap();
    assert_eq!(job.bytes(&format!("best/{WEIGHTS}")), job.bytes(&format!("short/{WEIGHTS}")));
    assert!(!job.path("best/checkpoint/joint").exists());
}

#[test]
fn a_training_ends_when_patience_does() {
    let job = SmallJob::new();
    let train = json!({"steps": 30, "batch_size": 4, "learning_rate": 0.05, "schedule": "constant", "warmup": 0, "clip": 0});
    let evaluate =
        json!({"every": 1, "rows": 8, "answers": false, "keep": "best", "patience": 3, "task": "code"});
    let recipe = job.recipe(&[("method", json!("joint")), ("train", train), ("evaluate", evaluate)]);
    let mut listener = Listener::default();
    job.run(&recipe, "run", false, &mut listener).unwrap();
    let made = steps(&job, "run");
    let loss = |step: &StepReport| step.evaluation[1].score.loss;
    let best = made.iter().min_by(|a, b| loss(a).total_cmp(&loss(b))).unwrap();
    assert_eq!(made.len() as u64, best.number + 3);
    assert!(
        listener.notices.iter().any(|text| text.contains("the training ends after step")),
        "{:?}",
        listener.notices
    );
}

#[test]
fn a_task_that_gets_worse_is_reported_once() {
    let job = SmallJob::new();
    let train = json!({"steps": 6, "batch_size": 4, "learning_rate": 1.0, "schedule": "constant", "warmup": 0, "clip": 0});
    let evaluate = json!({"every": 1, "rows": 8, "answers": false, "alarm": 0.01});
    let recipe = job.recipe(&[("method", json!("joint")), ("train", train), ("evaluate", evaluate)]);
    let mut listener = Listener::default();
    job.run(&recipe, "run", false, &mut listener).unwrap();
    let alarms = |task: &str| {
        let begin = format!("{task} is worse than on the base model after step ");
        listener.notices.iter().filter(|text| text.starts_with(&begin)).count()
    };
    assert_eq!(alarms("code"), 1, "{:?}", listener.notices);
}

#[test]
fn an_evaluation_that_is_interrupted_comes_first_when_the_run_goes_on() {
    let job = SmallJob::new();
    let evaluate = json!({"every": 2, "rows": 5, "keep": "best"});
    let recipe = job.recipe(&[("method", json!("joint")), ("evaluate", evaluate)]);
    job.run(&recipe, "whole", false, &mut Silent).unwrap();
    for number in [1, 3, 4, 7] {
        let out = format!("stopped-{number}");
        let mut listener = Listener { stop_in: Some(number), ..Listener::default() };
        let error = job.run(&recipe, &out, false, &mut listener).unwrap_err();
        assert!(matches!(error, Error::Interrupted { .. }), "{error}");
        let told = listener.steps;
        assert_eq!(steps(&job, &out).len(), told, "a step that is told of is on record");
        let mut rest = Listener::default();
        job.run(&recipe, &out, true, &mut rest).unwrap();
        assert_eq!(job.bytes(&format!("{out}/{WEIGHTS}")), job.bytes(&format!("whole/{WEIGHTS}")));
        assert_eq!(steps(&job, &out), steps(&job, "whole"), "stopped in evaluation {number}");
    }
}

/// What a run has measured, by column and task.
fn scores(job: &SmallJob, out: &str) -> BTreeMap<String, BTreeMap<String, Score>> {
    let text = job.bytes(&format!("{out}/scores.json"));
    let mut columns: BTreeMap<String, Value> = serde_json::from_slice(&text).unwrap();
    columns.remove("seal");
    columns.into_iter().map(|(name, column)| (name, serde_json::from_value(column).unwrap())).collect()
}

/// The step that a value is highest after.
fn best_step(made: &[StepReport], value: impl Fn(&StepReport) -> f64) -> u64 {
    let mut best = &made[0];
    for step in made {
        if value(step) > value(best) {
            best = step;
        }
    }
    best.number
}

#[test]
fn the_best_have_the_highest_mean_between_base_and_specialists() {
    let job = SmallJob::new();
    let rough = |steps: u64, rate: f64| json!({"steps": steps, "batch_size": 4, "learning_rate": rate, "schedule": "constant", "warmup": 0, "clip": 0});
    let evaluate = json!({"every": 1, "rows": 5, "answers": false, "keep": "best"});
    let mut integrate = rough(12, 0.1);
    integrate["sample"] = json!(0.5);
    let changes = [("probe", rough(12, 0.02)), ("integrate", integrate), ("evaluate", evaluate)];
    let recipe = job.recipe(&changes);
    let mut listener = Listener::default();
    job.run(&recipe, "run", false, &mut listener).unwrap();
    let measured = scores(&job, "run");
    let [base, specialist] = ["base on 5 rows", "probe on 5 rows"].map(|column| &measured[column]);
    let made: Vec<StepReport> =
        steps(&job, "run").into_iter().filter(|step| step.stage == TrainingStage::Integrate).collect();
    let mean = |step: &StepReport, value: &dyn Fn(&str, f64) -> f64| {
        step.evaluation.iter().map(|sample| value(&sample.task, sample.score.loss)).sum::<f64>() / 3.0
    };
    let normalised = |step: &StepReport| {
        mean(step, &|task, loss| (base[task].loss - loss) / (base[task].loss - specialist[task].loss))
    };
    let below_base = |step: &StepReport| mean(step, &|task, loss| 1.0 - loss / base[task].loss);
    let best = best_step(&made, normalised);
    assert!(best < 12, "the last step is the best: nothing is tested");
    assert_ne!(best, best_step(&made, below_base), "the two choose the same: nothing is tested");
    let kept = format!("the weights after step {best} are kept, which were the best: mean normalised score ");
    assert!(listener.notices.iter().any(|text| text.starts_with(&kept)), "{:?}", listener.notices);
}

/// Weights that answer nothing right are no better than others that do not: then the loss decides.
#[test]
fn of_the_same_score_the_lowest_loss_is_best() {
    let job = SmallJob::new();
    let evaluate = json!({"every": 1, "rows": 5, "keep": "best"});
    let train = json!({"steps": 8, "batch_size": 4, "learning_rate": 0.1, "schedule": "constant", "warmup": 0, "clip": 0});
    let recipe = job.recipe(&[("method", json!("joint")), ("train", train), ("evaluate", evaluate)]);
    let mut listener = Listener::default();
    job.run(&recipe, "run", false, &mut listener).unwrap();
    let base = &scores(&job, "run")["base on 5 rows with answers"];
    let made = steps(&job, "run");
    let is_right = |step: &StepReport| step.evaluation.iter().any(|sample| sample.score.share() != Some(0.0));
    assert!(!made.iter().any(is_right), "an answer is right: nothing is tested");
    let below_base = |step: &StepReport| {
        step.evaluation.iter().map(|sample| base[&sample.task].loss - sample.score.loss).sum()
    };
    let best = best_step(&made, below_base);
    assert!(1 < best && best < 8, "the first or the last step is the best: nothing is tested");
    let kept = format!("the weights after step {best} are kept");
    assert!(listener.notices.iter().any(|text| text.starts_with(&kept)), "{:?}", listener.notices);
}

/// What the samples of base and probes reach is taken from what was measured of all rows: it is what measuring them alone
/// gives.
#[test]
fn samples_are_measured_alone_as_among_all_rows() {
    let job = SmallJob::new();
    let recipe = job.recipe(&with(&[]));
    job.run(&recipe, "whole", false, &mut Silent).unwrap();
    // Begun without: base and probes are measured before their samples are asked for.
    job.run_until(&job.recipe(&[]), "late", false, Some(Stage::Probe), &mut Silent).unwrap();
    let decides = json!({"every": 2, "rows": 5, "patience": 0});
    job.run(&job.recipe(&[("evaluate", decides)]), "late", true, &mut Silent).unwrap();
    let (whole, late) = (scores(&job, "whole"), scores(&job, "late"));
    for column in ["base on 5 rows with answers", "probe on 5 rows with answers"] {
        assert_eq!(whole[column].len(), 3);
        assert_eq!(whole[column], late[column], "{column}");
    }
    assert_eq!(job.bytes(&format!("whole/{WEIGHTS}")), job.bytes(&format!("late/{WEIGHTS}")));
}

/// A plan counts answers as long as they may be, whatever the references are.
#[test]
fn a_plan_of_evaluations_goes_by_the_most_tokens_of_answers() {
    // Keys and values that are more than what is on its way from a file.
    let job =
        SmallJob::with_model(&[("num_hidden_layers", 24), ("num_key_value_heads", 2), ("head_dim", 64)]);
    let planned = |limit: Option<usize>| {
        let mut recipe = job.recipe(&with(&[("method", json!("joint"))]));
        recipe.task.iter_mut().for_each(|task| task.max_new_tokens = limit);
        let plan = job.plan(&recipe).unwrap();
        let answers = plan.memory.iter().find(|part| part.name == "answers, files or fusion").unwrap().bytes;
        (plan.evaluation_flops, answers)
    };
    let [short, middle, long] = [4, 8, 12].map(|limit| planned(Some(limit)));
    let grown = middle.0 - short.0;
    assert!(grown > 0.0 && ((long.0 - middle.0) / grown - 1.0).abs() < 1e-9, "{short:?} {middle:?} {long:?}");
    assert!(short.1 < middle.1 && middle.1 < long.1);
    // By default, for exact matches, 8 more than the longest reference of a task.
    assert!(planned(None).0 > middle.0);
}

//! Rows that are measured and never trained: they change nothing, and are reported apart from the tasks.

use std::fs;

use cpift_model::Recipe;
use cpift_model::progress::{Column, Event, JobReport, Observer, Score, Silent, StepReport};
use cpift_model::recipe::Method;
use cpift_tests::jobs::{Options, SmallJob};
use serde_json::{Value, json};

const WEIGHTS: &str = "final/model.safetensors";

/// Texts, and the rows that the task `code` is evaluated on, under another name.
fn measures(job: &SmallJob) -> Value {
    let texts: Vec<String> =
        (2..8).map(|row| json!({"text": format!("{row} is {row}; ").repeat(2)}).to_string()).collect();
    fs::write(job.path("texts.jsonl"), texts.join("\n")).unwrap();
    json!([
        {"name": "general text", "eval": job.path("texts.jsonl")},
        {"name": "again", "eval": job.path("code.eval.jsonl")},
    ])
}

fn with_measures(job: &SmallJob, changes: &[(&str, Value)]) -> Recipe {
    job.recipe(&[&[("measure", measures(job))], changes].concat())
}

fn scores(report: &JobReport, column: &Column) -> Vec<Option<Score>> {
    let index = report.columns.iter().position(|other| other == column).unwrap();
    report.measures.iter().map(|measure| measure.scores[index]).collect()
}

fn text(job: &SmallJob, name: &str) -> String {
    String::from_utf8(job.bytes(name)).unwrap()
}

#[test]
fn what_is_measured_only_changes_nothing_and_is_reported_by_every_method() {
    let job = SmallJob::new();
    for method in [Method::Cpift, Method::Joint] {
        let changes = [("method", json!(method.name()))];
        let (with, without) = (format!("{}-with", method.name()), format!("{}-without", method.name()));
        let plain = job.run(&job.recipe(&changes), &without, false, &mut Silent).unwrap();
        let report = job.run(&with_measures(&job, &changes), &with, false, &mut Silent).unwrap();
        assert_eq!(job.bytes(&format!("{with}/{WEIGHTS}")), job.bytes(&format!("{without}/{WEIGHTS}")));
        assert_eq!((&report.tasks, &report.columns), (&plain.tasks, &plain.columns));
        for (index, column) in report.columns.iter().enumerate() {
            let measured = scores(&report, column);
            if *column == Column::Probe {
                assert_eq!(measured, [None, None]);
                continue;
            }
            assert!(measured[0].unwrap().share().is_none(), "texts have no answers");
            // The same rows score the same, whether they are a task's or measured only.
            assert_eq!(measured[1], report.tasks[1].scores[index], "{column}");
        }
        // Tables of the tasks are what they were; the others follow them.
        for name in ["report.md", "final/README.md"] {
            let text = text(&job, &format!("{with}/{name}"));
            let [base, last] =
                [Column::Base, Column::Final].map(|column| scores(&report, &column)[0].unwrap().loss);
            let row = text.lines().find(|line| line.starts_with("| general text | loss |")).unwrap();
            assert!(row.contains(&format!("| {base:.4} |")), "{row}");
            assert!(row.ends_with(&format!("| {last:.4} | {:+.4} |", last - base)), "{row}");
            assert!(text.contains("| again | exact |"), "{text}");
            assert!(!text.contains(job.path("").to_str().unwrap()), "{text}");
        }
        let means = |run: &str| {
            text(&job, &format!("{run}/report.md"))
                .lines()
                .find(|line| line.starts_with("| mean |"))
                .map(str::to_owned)
        };
        assert_eq!(means(&with), means(&without));
        for name in ["recipe.toml", "report.json", "run.json", "inputs.json", "scores.json", "metrics.jsonl"]
        {
            assert!(!text(&job, &format!("{without}/{name}")).contains("measure"), "{name}");
        }
    }
    let plan = job.plan(&with_measures(&job, &[])).unwrap();
    let counts: Vec<_> =
        plan.stage_evaluations.iter().map(|stage| (stage.tasks, stage.losses, stage.answers)).collect();
    assert_eq!(counts, [(5, 38, 32), (3, 24, 24), (5, 38, 32), (5, 38, 32)]);
}

/// Keeps notices.
#[derive(Default)]
struct Listener(Vec<String>);

impl Observer for Listener {
    fn event(&mut self, event: Event<'_>) {
        if let Event::Notice(text) = event {
            self.0.push(text.to_owned());
        }
    }
}

fn steps(job: &SmallJob, run: &str) -> Vec<StepReport> {
    text(job, &format!("{run}/metrics.jsonl"))
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Their samples are measured beside the tasks', are said where they get worse, and choose nothing.
#[test]
fn samples_of_them_are_measured_while_training_and_choose_nothing() {
    let job = SmallJob::new();
    let train = json!({"steps": 8, "batch_size": 4, "learning_rate": 0.05, "schedule": "constant", "warmup": 0, "clip": 0});
    let evaluate = json!({"every": 1, "rows": 3, "answers": false, "keep": "best", "alarm": 0.01});
    let changes = [("train", train), ("evaluate", evaluate), ("method", json!("joint"))];
    job.run(&job.recipe(&changes), "without", false, &mut Silent).unwrap();
    let mut listener = Listener::default();
    job.run(&with_measures(&job, &changes), "with", false, &mut listener).unwrap();
    assert_eq!(job.bytes(&format!("with/{WEIGHTS}")), job.bytes(&format!("without/{WEIGHTS}")));
    let losses: Vec<f64> = steps(&job, "with")
        .iter()
        .map(|step| {
            let names: Vec<&str> = step.measures.iter().map(|sample| sample.task.as_str()).collect();
            assert_eq!((names, step.evaluation.len()), (vec!["general text", "again"], 3));
            step.measures[0].score.loss
        })
        .collect();
    let kept = |run: &str| steps(&job, run).iter().map(|step| step.evaluation.clone()).collect::<Vec<_>>();
    assert_eq!(kept("with"), kept("without"));
    let best = losses.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1)).unwrap().0 + 1;
    let said = |text: String| listener.0.iter().filter(|notice| notice.contains(&text)).count();
    assert_eq!(
        said(format!("the weights after step {best} are kept")),
        0,
        "it chooses the same: nothing is tested"
    );
    assert_eq!(
        said("general text is worse than on the base model after step ".to_owned()),
        1,
        "{:?}",
        listener.0
    );
    // A probe is about its task alone.
    let changes = [("evaluate", json!({"every": 2, "rows": 3, "answers": false}))];
    let report = job.run(&with_measures(&job, &changes), "cpift", false, &mut Silent).unwrap();
    let measured = |step: &StepReport| (step.stage.name() == "probe", step.measures.len());
    let due: Vec<_> =
        steps(&job, "cpift").iter().filter(|step| !step.evaluation.is_empty()).map(measured).collect();
    assert_eq!(due, [vec![(true, 0); 6], vec![(false, 2); 3]].concat());
    assert!(report.measures.iter().all(|measure| measure.scores[0].is_some()));
}

#[test]
fn their_files_are_inputs_and_rows_that_are_trained_on_are_said() {
    let job = SmallJob::new();
    let recipe = with_measures(&job, &[("method", json!("joint"))]);
    job.run(&recipe, "run", false, &mut Silent).unwrap();
    assert!(text(&job, "run/inputs.json").contains("\"measure.general text.eval\""));
    let before = job.bytes("texts.jsonl");
    fs::write(job.path("texts.jsonl"), [b"{\"text\": \"more\"}\n".as_slice(), &before].concat()).unwrap();
    let message = job.run(&recipe, "run", true, &mut Silent).unwrap_err().to_string();
    assert!(message.contains("texts.jsonl: has changed since the run was begun"), "{message}");
    fs::write(job.path("texts.jsonl"), before).unwrap();
    job.run(&recipe, "run", true, &mut Silent).unwrap();

    // Rows of two tasks' training files, and one of neither.
    let first = |name: &str| text(&job, name).lines().next().unwrap().to_owned();
    let rows = ["code.train.jsonl", "logic.train.jsonl", "logic.eval.jsonl"].map(first);
    fs::write(job.path("seen.jsonl"), rows.join("\n")).unwrap();
    let mut recipe = recipe;
    recipe.measure[1].eval = cpift_model::recipe::DataFiles::new([job.path("seen.jsonl")]);
    assert_eq!(job.plan(&recipe).unwrap().measures[1].rows.also_trained, 2);
    let mut listener = Listener::default();
    job.run(&recipe, "seen", false, &mut listener).unwrap();
    assert!(
        listener.0.iter().any(|text| text.contains("seen.jsonl") && text.contains("(2 rows")),
        "{:?}",
        listener.0
    );
    assert!(
        text(&job, "seen/final/README.md")
            .contains("Of the rows of `again`, 2 are among those of the tasks.")
    );
}

/// Probes do not follow from what is measured beside them: those made apart, and those of another run, are taken over.
#[test]
fn probes_are_taken_over_with_them() {
    let job = SmallJob::new();
    let recipe = with_measures(&job, &[]);
    let whole = job.run(&recipe, "whole", false, &mut Silent).unwrap();
    for task in ["code", "logic", "arithmetic"] {
        let options = Options { probe: Some(task), ..Options::default() };
        let report = job.run_with(&recipe, "apart", &options, &mut Silent).unwrap();
        assert!(report.measures.is_empty());
    }
    let apart = job.run(&recipe, "apart", true, &mut Silent).unwrap();
    let run = job.path("whole");
    let options = Options { probes: Some(&run), ..Options::default() };
    let after = job.run_with(&recipe, "after", &options, &mut Silent).unwrap();
    for report in [apart, after] {
        assert_eq!((&report.measures, &report.tasks), (&whole.measures, &whole.tasks));
    }
}

//! Rows that are measured and never trained, as a person sees them: what `data`, `plan`, `train`, `report` and `compare` say.

use std::fs;

use cpift_model::compare::results::{Comparison, Interval, MethodResult};
use cpift_tests::jobs::SmallJob;
use serde_json::{Value, json};

use crate::support::{JobFiles, refused, run, stderr, stdout};

/// A small job that measures texts, one of which is trained on by no task, and the rows of `code` once more.
fn files(changes: &[(&str, Value)]) -> JobFiles {
    let job = SmallJob::new();
    let texts = ["one two", "three four five", "six"].map(|text| json!({"text": text}).to_string());
    fs::write(job.path("texts.jsonl"), texts.join("\n")).unwrap();
    let measures = json!([
        {"name": "general text", "eval": job.path("texts.jsonl")},
        {"name": "again", "eval": job.path("code.eval.jsonl")},
    ]);
    JobFiles::of(job, &[&[("measure", measures)], changes].concat())
}

#[test]
fn they_are_shown_before_work_begins() {
    let files = files(&[("method", json!("joint")), ("train.steps", json!(1))]);
    let recipe = files.path("recipe.toml");
    let output = run(&["data", &recipe, "--task", "again", "--rows", "1"]);
    assert!(stdout(&output).starts_with("again, measured only: "), "{}", stdout(&output));
    // A row of a task's training file, though that task is not shown.
    let train = fs::read_to_string(files.path("logic.train.jsonl")).unwrap();
    fs::write(files.path("code.eval.jsonl"), train.lines().next().unwrap()).unwrap();
    let document = run(&["data", &recipe, "--task", "again", "--json"]);
    let document: Value = serde_json::from_slice(&document.stdout).unwrap();
    assert_eq!(document["data"].as_array().unwrap().len(), 1);
    assert_eq!(document["data"][0]["summary"]["also_trained"], 1);
    let plan = run(&["plan", &recipe, "--device", "cpu"]);
    let text = stdout(&plan);
    for part in ["10 evaluations between stages", "measured only  rows", "general text      3", "again eval"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let message = refused(&["plan", &recipe, "--set", "measure.again.eval=\"nothing.jsonl\""]);
    assert!(message.contains("nothing.jsonl: cannot read"), "{message}");
}

#[test]
fn a_run_reports_them_apart_from_its_tasks() {
    let files = files(&[
        ("method", json!("joint")),
        ("train.steps", json!(2)),
        ("evaluate", json!({"every": 1, "rows": 2})),
    ]);
    let output = files.trained("run", &[]);
    let text = stdout(&output);
    assert!(text.contains("Measured only, never trained") && text.contains("general text"), "{text}");
    assert!(stderr(&output).contains("a row of general text"), "{}", stderr(&output));
    let report = run(&["report", &files.path("run")]);
    assert!(report.status.success(), "{}", stderr(&report));
    let page = fs::read_to_string(files.path("run/report.html")).unwrap();
    for part in ["what no task asks for", "loss of general text", "Measured only, never trained. In train"] {
        assert!(page.contains(part), "{part}");
    }
    let lines = |name: &str| {
        let text = fs::read_to_string(files.path(&format!("run/report/{name}.csv"))).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(lines("measures").len(), 1 + 2 * 2);
    assert!(lines("measures")[1].starts_with("general text,base,"), "{:?}", lines("measures"));
    assert!(!lines("scores").iter().any(|line| line.contains("general text")));
    assert_eq!(lines("samples").iter().filter(|line| line.contains(",general text,")).count(), 2);
}

#[test]
fn a_comparison_says_what_every_method_costs_elsewhere() {
    let files = files(&[]);
    let more = ["--methods", "cpift,joint,ties", "--seeds", "2", "--jobs", "2", "--device", "cpu"];
    let recipe = files.path("recipe.toml");
    let out = files.path("out");
    let start = [&["compare", &recipe, "--out", &out], &more[..]].concat();
    let output = run(&start);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = fs::read_to_string(files.path("out/results.json")).unwrap();
    let found: Comparison = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (found.version, found.measures.as_slice()),
        (2, ["general text", "again"].map(str::to_owned).as_slice())
    );
    assert!(found.references.iter().all(|seed| seed.measures[1] == seed.base[1] && seed.base.len() == 3));
    for MethodResult { name, runs, summary, .. } in &found.methods {
        let seeds = || runs.iter().zip(&found.references);
        assert!(
            seeds().all(|(run, _)| run.measures[1] == run.scores[1] && run.normalised.len() == 3),
            "{name}"
        );
        for (measure, change) in summary.measures.iter().enumerate() {
            let pairs = || seeds().map(|(run, seed)| (&run.measures[measure], &seed.measures[measure]));
            let losses = Interval::of_all(pairs().map(|(now, base)| Some(now.loss - base.loss)));
            assert_eq!(Some(change.loss_change), losses, "{name}");
            let shares = Interval::of_all(pairs().map(|(now, base)| Some(now.share()? - base.share()?)));
            assert_eq!(change.score_change, shares, "{name}");
        }
        assert!(summary.measures[0].score_change.is_none() && summary.measures[1].score_change.is_some());
        assert!(summary.measures[0].loss_change.half_width.is_some());
    }
    let table = fs::read_to_string(files.path("out/table.md")).unwrap();
    assert!(
        table.contains("## What no task asks for") && table.contains("| general text: loss |"),
        "{table}"
    );
    let report = run(&["report", &out]);
    assert!(report.status.success(), "{}", stderr(&report));
    let page = fs::read_to_string(files.path("out/report.html")).unwrap();
    assert!(page.contains("What no task asks for") && page.contains("again: exact"));
    let rows = fs::read_to_string(files.path("out/report/measures.csv")).unwrap();
    assert_eq!(rows.lines().count(), 1 + found.methods.len() * 2 * 2);

    fs::write(files.path("texts.jsonl"), "{\"text\": \"other\"}").unwrap();
    let message = refused(&[&start[..], &["--resume"]].concat());
    assert!(message.contains("was begun with another texts.jsonl"), "{message}");
}

//! Whole jobs through the binary: to the end, stopped, killed and resumed.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{JobFiles, engine, refused, run, stderr, stdout};

/// Long enough to be killed in the middle: three probes of 30 steps, 30 steps of integration.
fn job() -> JobFiles {
    JobFiles::new(&[
        ("probe.steps", json!(30)),
        ("integrate.steps", json!(30)),
        ("checkpoint.every", json!(7)),
        ("integrate.frozen", json!("others")),
    ])
}

/// The bits a job leaves behind that must not depend on how often it was interrupted.
fn results(files: &JobFiles, run: &str) -> Vec<(String, Vec<u8>)> {
    let mut names = vec!["groups.json", "scores.json"].into_iter().map(str::to_owned).collect::<Vec<_>>();
    names.extend(["final", "fused", "probe/code"].map(|folder| format!("{folder}/model.safetensors")));
    let read = |name: String| {
        let bytes = files.job.bytes(&format!("{run}/{name}"));
        (name, bytes)
    };
    names.into_iter().map(read).collect()
}

fn assert_same_results(files: &JobFiles, left: &str, right: &str) {
    for ((name, left), (_, right)) in results(files, left).into_iter().zip(results(files, right)) {
        assert!(left == right, "{name} differs");
    }
}

#[test]
fn a_job_runs_to_its_end_and_its_model_is_of_use() {
    let files = job();
    let output = files.trained("run", &[]);
    let (table, progress) = (stdout(&output), stderr(&output));
    assert!(table.contains("base") && table.contains("probe") && table.contains("final"), "{table}");
    for task in ["arithmetic", "code", "logic", "mean"] {
        assert!(table.lines().any(|line| line.starts_with(task)), "{table}");
    }
    assert!(table.contains("frozen parameters checked: not a bit changed"), "{table}");
    for expected in [
        "device ",
        "memory ",
        "a row of code",
        "probe logic",
        "Cores",
        "Overlap of the cores",
        "Groups",
        "Fusion",
    ] {
        assert!(progress.contains(expected), "no `{expected}` in\n{progress}");
    }
    assert!(!progress.contains('\x1b') && !table.contains('\x1b'), "no colours outside of terminals");

    let model = files.path("run/final");
    let (first, second) = (files.path("code.eval.jsonl"), files.path("logic.eval.jsonl"));
    let output = run(&["eval", &model, "--data", &first, &second, "--generate", "--json"]);
    let scores: Value = serde_json::from_slice(&output.stdout).unwrap();
    let file = &scores["files"][0];
    assert_eq!(file["path"], json!(first));
    let rows = file["rows"].as_array().unwrap();
    let of_rows: f64 =
        rows.iter().map(|row| row["loss"].as_f64().unwrap() * row["tokens"].as_f64().unwrap()).sum();
    let loss = file["loss"].as_f64().unwrap();
    assert!((of_rows / file["tokens"].as_f64().unwrap() - loss).abs() < 1e-12 * loss);
    assert!(file["exact_match"].is_number());
    // The closing table was made from the same model and the same file.
    let report: Value = serde_json::from_slice(&files.job.bytes("run/report.json")).unwrap();
    let column = report["columns"].as_array().unwrap().iter().position(|name| name == "final").unwrap();
    let reported = report["tasks"][1]["scores"][column]["loss"].as_f64().unwrap();
    assert!((reported - loss).abs() < 1e-5 * loss, "{reported} {loss}");

    let generate = ["generate", &model, "--prompt", "3+4=", "--max-new-tokens", "5"];
    let (once, again) = (run(&generate), run(&generate));
    assert_eq!(once.status.code(), Some(0), "{}", stderr(&once));
    assert_eq!(once.stdout, again.stdout);
}

#[test]
fn a_plan_trains_nothing() {
    let files = job();
    let output = run(&["plan", &files.path("recipe.toml"), "--threads", "1"]);
    let plan = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for expected in ["parameters", "probe arithmetic", "integrate", "weights", "of training"] {
        assert!(plan.contains(expected), "no `{expected}` in\n{plan}");
    }
    let output = run(&["plan", &files.path("recipe.toml"), "--json"]);
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(plan["plan"]["tasks"].as_array().unwrap().len(), 3);
    assert!(!Path::new("runs").exists() && !files.job.path("runs").exists());
}

#[test]
fn the_run_folders_recipe_runs_the_same_job() {
    let files = JobFiles::new(&[]);
    files.trained("first", &["--set", "train.learning_rate=0.002", "--set", "seed=5"]);
    let output =
        run(&["train", &files.path("first/recipe.toml"), "--out", &files.path("second"), "--threads", "1"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_same_results(&files, "first", "second");
}

/// Starts training and waits until `lines` lines of metrics are written; fails if the job ends before.
fn start_until(files: &JobFiles, out: &str, lines: usize) -> Child {
    let arguments = files.train(out, &["--resume"]);
    let mut child =
        engine(&[]).args(&arguments).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let metrics = files.job.path(&format!("{out}/metrics.jsonl"));
    let deadline = Instant::now() + Duration::from_secs(300);
    loop {
        let written = fs::read_to_string(&metrics).map_or(0, |text| text.lines().count());
        if written >= lines {
            return child;
        }
        assert!(child.try_wait().unwrap().is_none(), "the job ended before {lines} lines of metrics");
        assert!(Instant::now() < deadline, "no progress");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn killed_and_resumed_is_never_killed() {
    let files = job();
    files.trained("whole", &[]);
    // In the first probe before its first checkpoint, in later probes, and near the end.
    for lines in [3, 25, 52, 100] {
        let mut child = start_until(&files, "killed", lines);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!files.job.path("killed/final").exists(), "killed too late to test anything");
    }
    let output = files.trained("killed", &["--resume"]);
    assert!(stderr(&output).contains("is complete already: taken over"), "{}", stderr(&output));
    assert_same_results(&files, "whole", "killed");
}

#[cfg(unix)]
#[test]
fn an_interrupt_saves_and_says_how_to_go_on() {
    let files = job();
    files.trained("whole", &[]);
    let child = start_until(&files, "stopped", 40);
    let sent = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    let last: Vec<&str> = stderr(&output).lines().rev().take(2).collect();
    // After a step, or between two fine-tunes when the signal came during an evaluation.
    assert!(last[1].starts_with("stopped "), "{last:?}");
    // As it was started, so that it can be pasted: the program need not be on the path of a shell.
    let program = format!("  {} train ", env!("CARGO_BIN_EXE_cpift-engine"));
    assert!(last[0].starts_with(&program) && last[0].ends_with(" --resume"), "{last:?}");
    files.trained("stopped", &["--resume"]);
    assert_same_results(&files, "whole", "stopped");
}

/// While the inputs are read there is nothing to finish or save: the first Ctrl-C ends the process.
#[cfg(target_os = "linux")]
#[test]
fn an_interrupt_before_the_job_begins_stops_at_once() {
    let files = job();
    // So many rows that the signal comes while they are read.
    let data = files.job.path("code.train.jsonl");
    let rows = fs::read(&data).unwrap();
    fs::write(&data, rows.repeat(400_000 / rows.split(|&byte| byte == b'\n').count())).unwrap();
    let arguments = files.train("early", &[]);
    let mut child = engine(&[]).args(&arguments).stderr(Stdio::piped()).spawn().unwrap();
    while !catches_interrupts(child.id()) {
        assert!(child.try_wait().unwrap().is_none(), "the job ended before it could be stopped");
        std::thread::sleep(Duration::from_millis(1));
    }
    let sent = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert_eq!(stderr(&output), "\nstopped before the first step\n");
    assert!(!files.job.path("early").exists());
}

/// Whether a process has a handler of SIGINT: the second bit of the signals that it catches.
#[cfg(target_os = "linux")]
fn catches_interrupts(process: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    caught.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).is_some_and(|bits| bits & 2 != 0)
}

#[test]
fn answers_are_written_with_their_verdicts() {
    let files = JobFiles::new(&[("method", json!("joint"))]);
    let model = files.model();
    let (data, answers) = (files.path("code.eval.jsonl"), files.path("answers.jsonl"));
    let eval = ["eval", &model, "--data", &data, "--generate", "--score", "number", "--max-new-tokens", "3"];
    let output = run(&[&eval[..], &["--answers", &answers]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).lines().next().unwrap().trim_end().ends_with("number"), "{}", stdout(&output));
    let lines = fs::read_to_string(&answers).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let rows = fs::read_to_string(&data).unwrap();
    assert_eq!(lines.len(), rows.lines().count());
    for (index, (line, row)) in lines.iter().zip(rows.lines()).enumerate() {
        let row: Value = serde_json::from_str(row).unwrap();
        assert_eq!((&line["file"], &line["row"]), (&json!(data), &json!(index + 1)));
        assert!(line["prompt"].as_str().unwrap().ends_with(row["prompt"].as_str().unwrap()), "{line}");
        assert_eq!(line["reference"], row["completion"]);
        let number: String =
            row["completion"].as_str().unwrap().chars().filter(char::is_ascii_digit).collect();
        assert_eq!(line["expected"], json!(number.trim_start_matches('0')));
        assert_eq!(line["right"], json!(line["found"] == line["expected"]));
    }

    // The same in the document, with the shares.
    let output = run(&[&eval[..], &["--json"]].concat());
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let file = &document["files"][0];
    assert_eq!(file["score_kind"], json!("number"));
    let right = lines.iter().filter(|line| line["right"] == json!(true)).count();
    assert_eq!(file["score"].as_f64(), Some(right as f64 / lines.len() as f64));
    for (row, line) in file["rows"].as_array().unwrap().iter().zip(&lines) {
        assert_eq!(
            (&row["answer"], &row["right"], &row["loss"]),
            (&line["answer"], &line["right"], &line["loss"])
        );
    }
}

/// A file with columns of its own is measured as one with those that every recipe knows.
#[test]
fn a_file_is_measured_with_the_keys_of_a_task() {
    let files = JobFiles::new(&[("method", json!("joint"))]);
    let model = files.model();
    let known = fs::read_to_string(files.path("code.eval.jsonl")).unwrap();
    let own: Vec<Value> = known.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let rename = |row: &Value| format!("{}\n", json!({"q": row["prompt"], "a": row["completion"]}));
    let foreign: String = own.iter().map(rename).collect();
    fs::write(files.path("foreign.jsonl"), format!("{foreign}{{\"q\": 5}}\n")).unwrap();
    let measured = |data: &str, more: &[&str]| -> Value {
        let eval = ["eval", &model, "--data", &files.path(data), "--generate", "--json"];
        let output = run(&[&eval[..], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["files"][0].clone()
    };
    // Columns that are named are a question and its answer; templates say every letter.
    let question =
        |row: &Value| format!("{}\n", json!({"question": row["prompt"], "answer": row["completion"]}));
    fs::write(files.path("questions.jsonl"), own.iter().map(question).collect::<String>()).unwrap();
    let questions = measured("questions.jsonl", &["--score", "number", "--set", "chat=false"]);
    let texts = measured("code.eval.jsonl", &["--score", "number"]);
    let by_columns = ["--set", "columns.prompt=q", "--set", "columns.answer=a", "--set", "chat=false"];
    let by_templates = ["--set", "prompt={{q}}", "--set", "answer={{a}}"];
    for (how, more, expected) in [
        (&by_columns[..], ["--skip-invalid", "--score", "number"], &questions),
        (&by_templates[..], ["--skip-invalid", "--set", "score=number"], &texts),
        (&by_templates[..], ["--set", "skip_invalid=true", "--score=number"], &texts),
    ] {
        let found = measured("foreign.jsonl", &[how, &more].concat());
        for key in ["loss", "tokens", "score", "score_kind", "exact_match"] {
            assert_eq!(found[key], expected[key], "{how:?} {key}");
        }
        assert_eq!(found["rows"].as_array().unwrap().len(), own.len());
        assert!(found["notices"].to_string().contains("1 row is left out"), "{}", found["notices"]);
        assert_eq!(found["rows"][0]["file"], json!(files.path("foreign.jsonl")));
    }
    let limited = [&by_columns[..], &["--set", "eval_limit=3"]].concat();
    assert_eq!(measured("foreign.jsonl", &limited)["rows"].as_array().unwrap().len(), 3);

    let data = files.path("foreign.jsonl");
    let says = |more: &[&str], expected: &str| {
        let message = refused(&[&["eval", &model, "--data", &data][..], more].concat());
        assert!(message.starts_with(expected), "{message}");
    };
    says(&["--set", "columns.promt=q"], "`--set columns.promt=q`: is not a key, did you mean `prompt`?");
    says(&["--set", "prompt={{q}}"], "`--set prompt={{q}}`: needs `answer` beside it");
    says(&["--set", "chat=1"], "`--set chat=1`: is the number `1`: use true or false");
    says(&["--set", "weight=2"], "`--set weight=2`: is about training");
    says(&["--set", "task[0].chat=true"], "`--set task[0].chat=true`: has a task's name in it");
    says(&["--set", "score=number"], "`--set score`: is about answers: give --generate beside it");
    says(&["--set", "chat"], "`--set chat`: has no `=`");
}

/// The rows of a run, chosen by the same length; and what to do where a row cannot be used.
#[test]
fn eval_chooses_rows_by_their_length_as_a_run_does() {
    let files = JobFiles::new(&[("method", json!("joint")), ("train.steps", json!(1))]);
    let (recipe, data) = (files.path("recipe.toml"), files.path("code.eval.jsonl"));
    // A row with a longer answer than those that are trained on: too long, for the run as for the measurement.
    let rows = fs::read_to_string(&data).unwrap();
    let mut long: Value = serde_json::from_str(rows.lines().next().unwrap()).unwrap();
    long["completion"] = json!(long["completion"].as_str().unwrap().repeat(2));
    fs::write(&data, format!("{}\n{long}\n", rows.trim_end())).unwrap();
    let output = run(&["data", &recipe, "--task", "code", "--json"]);
    let documents: Value = serde_json::from_slice(&output.stdout).unwrap();
    let max_length = documents["data"][0]["summary"]["length"]["most"].to_string();
    files.trained("run", &["--set", &format!("model.max_length={max_length}")]);
    let model = files.path("run/final");
    let measured = |more: &[&str]| -> Value {
        let output = run(&[&["eval", &model, "--data", &data, "--json"][..], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["files"][0].clone()
    };
    let rows = |document: &Value| document["rows"].as_array().unwrap().len() as u64;
    let report: Value = serde_json::from_slice(&files.job.bytes("run/report.json")).unwrap();
    let of_run = &report["tasks"][1]["scores"][1];
    let (all, chosen) = (measured(&[]), measured(&["--max-length", &max_length]));
    assert!(rows(&chosen) < rows(&all), "{of_run} of {}", rows(&all));
    assert_eq!(rows(&chosen), of_run["rows"].as_u64().unwrap());
    let (reported, loss) = (of_run["loss"].as_f64().unwrap(), chosen["loss"].as_f64().unwrap());
    assert!((reported - loss).abs() < 1e-5 * loss, "{reported} {loss}");
    assert!(chosen["notices"].to_string().contains("longer than "), "{}", chosen["notices"]);
    let cut = measured(&["--max-length", &max_length, "--truncate"]);
    assert_eq!(rows(&cut), rows(&all), "rows that are cut are measured");
    assert!(cut["tokens"].as_u64() < all["tokens"].as_u64());

    let good = fs::read_to_string(&data).unwrap();
    fs::write(&data, format!("{good}{{\"prompt\": \"x\"}}\n")).unwrap();
    let message = refused(&["eval", &model, "--data", &data]);
    assert!(message.ends_with(" (--skip-invalid leaves out such rows)"), "{message}");
}

/// Another number of threads may round sums otherwise: whoever continues with one is told.
#[test]
fn another_number_of_threads_is_told() {
    let files = JobFiles::new(&[]);
    files.trained("run", &["--until", "probe"]);
    let resumed = |threads: &str, until: &str| {
        let (recipe, out) = (files.path("recipe.toml"), files.path("run"));
        let arguments = ["train", &recipe, "--out", &out, "--resume", "--threads", threads, "--until", until];
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stderr(&output).matches("results may differ in the last bits").count()
    };
    assert_eq!(resumed("1", "core"), 0);
    assert_eq!(resumed("2", "group"), 1);
}

//! Bad input: one line on standard error, exit code 2, nothing written.

use std::fs;

use serde_json::json;

use crate::support::{JobFiles, engine, one_step, refused, run, stderr, stdout};

#[test]
fn recipes_that_cannot_be_read() {
    let files = one_step();
    assert!(refused(&["train", &files.path("none.toml")]).contains("none.toml: cannot read: No such file"));
    assert!(refused(&["plan", &files.path("")]).contains("is a folder, not a recipe: give "));
    for (assignment, expected) in [
        ("trian.steps=3", "`--set trian.steps=3`: is not a key, did you mean `train`?"),
        ("core.fraction=7", "`--set core.fraction=7`: is 7: use 0 to 1"),
        (
            "train.schedule=cosin",
            "`--set train.schedule=cosin`: is `cosin`: use cosine, linear, constant, did you mean `cosine`?",
        ),
    ] {
        assert_eq!(files.refused(&["--set", assignment]), expected);
    }
    let recipe = fs::read_to_string(files.path("recipe.toml")).unwrap();
    fs::write(files.path("recipe.toml"), recipe.replace("batch_size", "batchsize")).unwrap();
    let message = files.refused(&[]);
    assert!(message.starts_with("recipe.toml:"), "{message}");
    assert!(message.ends_with("batchsize`: is not a key, did you mean `batch_size`?"), "{message}");
}

#[test]
fn devices_that_are_not_there() {
    let files = one_step();
    assert_eq!(
        files.refused(&["--device", "gpu"]),
        "unknown device `gpu`: use `auto`, `cpu`, `cuda:N` or `emulated`"
    );
    assert!(files.refused(&["--device", "cuda:0"]).starts_with("device `cuda:0` cannot be used: "));
}

#[test]
fn data_that_cannot_be_used() {
    let files = one_step();
    let data = files.path("code.train.jsonl");
    let good = fs::read_to_string(&data).unwrap();
    let lines: Vec<&str> = good.lines().collect();
    let cases = [
        (format!("{}\nnot json\n", lines[0]), "code.train.jsonl:2: "),
        (format!("{}\n{}\n{{\"prompt\": \"x\"}}\n", lines[0], lines[1]), "code.train.jsonl:3: "),
        (format!("{}\n{{\"prompt\": \"x\", \"completion\": 3}}\n", lines[0]), "code.train.jsonl:2: "),
        (String::new(), "code.train.jsonl: "),
    ];
    for (content, expected) in cases {
        fs::write(&data, content).unwrap();
        let message = files.refused(&[]);
        assert!(message.starts_with(expected), "{message}");
    }
    fs::write(&data, [b"{\"prompt\": \"".as_slice(), b"\xff\xfe", b"\", \"completion\": \"y\"}\n"].concat())
        .unwrap();
    assert!(files.refused(&[]).starts_with("code.train.jsonl:1: "));
    fs::remove_file(&data).unwrap();
    // What names it is named as well: the line of the recipe, or the argument.
    let recipe = fs::read_to_string(files.path("recipe.toml")).unwrap();
    let line = 1 + recipe.lines().position(|line| line.contains("code.train.jsonl")).unwrap();
    let message = files.refused(&[]);
    let place = format!("recipe.toml:{line}: `task[1].train`: code.train.jsonl: cannot read: ");
    assert!(message.starts_with(&place), "{message}");
    let message = files.refused(&["--set", &format!("task[1].train={}", files.path("x*.jsonl"))]);
    assert_eq!(message, "`--set task[1].train=x*.jsonl`: x*.jsonl: no file matches this pattern");
    let both = format!("task[1].train=[{:?}, {:?}]", files.path("code.eval.jsonl"), files.path("none.jsonl"));
    let message = files.refused(&["--set", &both]);
    assert!(message.contains("`: none.jsonl: cannot read: "), "{message}");
    fs::write(&data, &good).unwrap();
    // Every row is longer than this: a task without rows.
    let message = files.refused(&["--set", "model.max_length=3"]);
    assert!(message.contains(".train.jsonl"), "{message}");
}

#[test]
fn models_that_cannot_be_used() {
    let files = one_step();
    let model = files.model();
    let train = |more: &str| files.refused(&["--set", more]);
    let with_model = |folder: &str| {
        let recipe = fs::read_to_string(files.path("recipe.toml")).unwrap();
        let line = recipe.lines().find(|line| line.starts_with("config = ")).unwrap().to_owned();
        fs::write(files.path("based.toml"), recipe.replace(&line, &format!("base = \"{folder}\""))).unwrap();
        refused(&["train", &files.path("based.toml"), "--out", &files.path("refused")])
    };
    assert!(train("model.config=none/config.json").contains("none/config.json"));
    let message = with_model(&files.path("none")).replace(&files.path(""), "");
    assert!(
        message.starts_with("based.toml:") && message.contains(": `model.base`: none: cannot"),
        "{message}"
    );

    let weights = format!("{model}/model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let message = with_model(&model);
    assert!(message.contains("model.safetensors"), "{message}");
    fs::remove_file(&weights).unwrap();
    assert!(with_model(&model).contains("safetensors"));

    // Values are read when the job begins, before the run folder is made.
    let mut damaged = bytes.clone();
    let last = damaged.len() - 4;
    damaged[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&weights, damaged).unwrap();
    let message = with_model(&model);
    assert!(message.contains("model.safetensors: ") && message.contains(" has NaN"), "{message}");
    assert!(!files.job.path("refused").exists(), "weights that cannot be used leave no run folder");
    fs::write(&weights, bytes).unwrap();

    let config = format!("{model}/config.json");
    let original = fs::read_to_string(&config).unwrap();
    let changed = |key: &str, value: serde_json::Value| {
        let mut fields: serde_json::Value = serde_json::from_str(&original).unwrap();
        fields[key] = value;
        fs::write(&config, fields.to_string()).unwrap();
        with_model(&model)
    };
    assert!(changed("model_type", json!("mamba")).contains("mamba"));
    assert!(changed("intermediate_size", json!(25)).contains("safetensors"), "wrong shapes");
    fs::write(&config, "{").unwrap();
    assert!(with_model(&model).contains("config.json"));
}

#[test]
fn run_folders_that_cannot_be_written() {
    let files = one_step();
    files.trained("run", &[]);
    let recipe = files.path("recipe.toml");
    let message = refused(&["train", &recipe, "--out", &files.path("run")]);
    assert!(message.ends_with("continue it with --resume, or name another folder with --out"), "{message}");
    let message = refused(&[
        "train",
        &recipe,
        "--out",
        &files.path("run"),
        "--resume",
        "--set",
        "train.learning_rate=0.5",
    ]);
    assert!(message.contains("learning_rate = "), "{message}");
    let inside_a_file = files.path("recipe.toml/run");
    let output = run(&["train", &recipe, "--out", &inside_a_file]);
    assert!(matches!(output.status.code(), Some(1 | 2)), "{}", stderr(&output));
    assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
}

#[test]
fn evaluation_and_generation() {
    let files = one_step();
    let model = files.model();
    let data = files.path("code.eval.jsonl");
    assert!(refused(&["eval", &files.path("none"), "--data", &data]).contains("none"));
    assert!(
        refused(&["eval", &model, "--data", &files.path("none.jsonl")]).contains("none.jsonl: cannot read")
    );
    let row = |prompt: &str| json!({ "prompt": prompt, "completion": "5" }).to_string();
    let long_rows = files.path("long.jsonl");
    let rows = [row("2+3="), row(&"2+3=".repeat(10_000)), row("1+4="), row(&"1+4=".repeat(10_000))];
    fs::write(&long_rows, rows.join("\n")).unwrap();
    let message = refused(&["eval", &model, "--data", &long_rows]);
    assert!(message.contains("long.jsonl: lines 2, 4 are longer than the model's "), "{message}");
    assert!(refused(&["generate", &files.path("none"), "--prompt", "x"]).contains("none"));
    let config = files.path("blank/config.json");
    let long = ["bench", "step", "--config", &config, "--batch", "1", "--length", "100000000"];
    assert!(refused(&long).contains("--length"));
    let large = ["bench", "step", "--config", &config, "--batch", "100000000000", "--length", "8"];
    assert!(refused(&large).contains("`--batch`: "), "no machine has this memory");
}

/// More than the machine has is refused before any of it is taken, and `plan` says so.
#[test]
fn jobs_too_large_for_the_machine() {
    let files = one_step();
    let config = files.path("blank/config.json");
    let mut fields: serde_json::Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
    fields["intermediate_size"] = json!(1 << 20);
    fs::write(&config, fields.to_string()).unwrap();
    let batch = ["--set", "train.batch_size=1048576", "--set", "train.accumulate=1048576"];
    let large = [&batch[..], &["--set", "model.max_length=64"]].concat();
    assert!(files.refused(&large).contains("of memory are needed"), "more than a machine has");
    let recipe = files.path("recipe.toml");
    let planned = run(&[&["plan", &recipe], &large[..]].concat());
    assert_eq!(planned.status.code(), Some(0));
    assert!(stdout(&planned).contains("`train` would refuse: "), "{}", stdout(&planned));
    for (key, value) in [("checkpoint.keep", i64::MAX), ("train.steps", i64::MAX)] {
        assert!(files.refused(&["--set", &format!("{key}={value}")]).contains(": use 1 to "), "{key}");
    }
}

/// A loss that stops being a number ends the job with the step; what was saved before stays.
#[test]
fn a_loss_that_is_not_a_number_stops_the_job() {
    let files = JobFiles::new(&[
        ("method", json!("joint")),
        ("train.steps", json!(40)),
        ("train.learning_rate", json!(100.0)),
        ("train.clip", json!(0.0)),
        ("train.weight_decay", json!(100.0)),
        ("train.schedule", json!("constant")),
    ]);
    let arguments = files.train("run", &[]);
    let output = engine(&[]).args(&arguments).output().unwrap();
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    let last = message.lines().last().unwrap();
    assert!(last.starts_with("error: ") && last.contains("step"), "{last}");
    assert!(!files.job.path("run/final").exists());
}

#[test]
fn tokenizers_that_cannot_be_used() {
    let files = one_step();
    let path = files.path("blank/tokenizer.json");
    let original: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    // The tokenizers library panics on each of these.
    for (part, value) in [
        ("pre_tokenizer", json!({"type": "FixedLength", "length": 0})),
        ("normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "BAAAAP////8A"})),
        (
            "post_processor",
            json!({"type": "TemplateProcessing", "single": [{"Sequence": {"id": "B", "type_id": 0}}],
                   "pair": [], "special_tokens": {}}),
        ),
    ] {
        let mut json = original.clone();
        json[part] = value;
        fs::write(&path, json.to_string()).unwrap();
        let message = files.refused(&[]);
        assert!(message.starts_with("blank/tokenizer.json: "), "{message}");
    }
}

#[test]
fn models_with_another_tokenizer() {
    let files = one_step();
    let model = files.model();
    let recipe = fs::read_to_string(files.path("recipe.toml")).unwrap();
    let task = format!("[[task]]\nmodel = \"{model}\"\n");
    fs::write(files.path("brought.toml"), recipe.replacen("[[task]]\n", &task, 1)).unwrap();
    let plan = ["plan", &files.path("brought.toml"), "--set", "method=cpift"];
    assert_eq!(run(&plan).status.code(), Some(0), "{}", stderr(&run(&plan)));

    let path = format!("{model}/tokenizer.json");
    let mut json: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    json["normalizer"] = json!({"type": "Lowercase"});
    fs::write(&path, json.to_string()).unwrap();
    let message = refused(&plan);
    assert!(message.starts_with(&path) && message.ends_with(": its normalizer differs"), "{message}");
    fs::remove_file(&path).unwrap();
    assert_eq!(run(&plan).status.code(), Some(0));
}

#[test]
fn scores_that_cannot_be_taken() {
    let files = one_step();
    for (assignment, expected) in [
        (
            "task[1].score=exakt",
            "`--set task[1].score=exakt`: is `exakt`: use exact, contains, number, choice, regex:PATTERN, json, did you \
             mean `exact`?",
        ),
        (
            "task[1].score=\"regex:(\"",
            "`--set task[1].score=\"regex:(\"`: cannot be used: the pattern `(` is not a regular expression: unclosed group",
        ),
        ("task[1].max_new_tokens=0", "`--set task[1].max_new_tokens=0`: is 0: use 1 to 1048576"),
        ("task[1].shots=1001", "`--set task[1].shots=1001`: is 1001: use 0 to 1000"),
        (
            "task[2].score=number",
            "logic.eval.jsonl:1: cannot be scored by `number`: its answer has no number to compare with",
        ),
    ] {
        assert_eq!(files.refused(&["--set", assignment]), expected);
    }
    let model = files.model();
    let (data, answers) = (files.path("logic.eval.jsonl"), files.path("answers.jsonl"));
    let eval = |more: &[&str]| refused(&[&["eval", &model, "--data", &data][..], more].concat());
    let message = eval(&["--generate", "--score", "number", "--answers", &answers]);
    assert!(
        message.ends_with(
            "logic.eval.jsonl:1: cannot be scored by `number`: its answer has no number to compare with"
        ),
        "{message}"
    );
    assert!(!files.job.path("answers.jsonl").exists(), "whole or not at all");
    assert!(eval(&["--generate", "--answers", &files.path("blank")]).contains("is a folder: name a file"));
    assert!(
        eval(&["--shots", "2", "--shots-from", &files.path("none.jsonl")])
            .contains("none.jsonl: cannot read")
    );
    for wrong in [&["--generate", "--score", "regex:("][..], &["--score", "number"], &["--shots", "2"]] {
        let output = run(&[&["eval", &model, "--data", &data][..], wrong].concat());
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
}

//! `data`: the rows of task files as training sees them.

use std::fs;

use serde_json::{Value, json};

use crate::support::{engine, one_step, refused, run, stdout};

#[test]
fn files_are_shown_in_numbers_and_rows() {
    let files = one_step();
    let rows = "[{\"prompt\": \"a\", \"completion\": \"b\"},\n {\"prompt\": \"c\", \"completion\": \"\"},\n\
                {\"prompt\": \"a\", \"completion\": \"b\"}, {\"prompt\": \"ddd\", \"completion\": \"eeee\"}]";
    fs::write(files.path("mixed.json"), rows).unwrap();
    let data = files.path("mixed.json");
    let show = ["data", &data, "--model", &files.path("blank"), "--set", "model.max_length=6"];
    assert!(refused(&show).contains("mixed.json: row 2: `completion` is empty"), "{}", refused(&show));

    let skip = [&show[..], &["--set", "task[0].skip_invalid=true"]].concat();
    let output = run(&skip);
    let text = stdout(&output);
    for part in [
        "rows        3, each prompt and answer as texts",
        "max_length  1 row longer than 6",
        "duplicates  1 row the same as one before",
        "left out    1 row that cannot be used",
        "row 2 `completion` is empty",
        "mixed.json: row 1: 4 tokens, 2 supervised",
        "a⟦b",
        "⟧",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("row 4:"), "two rows are shown: {text}");

    let document = run(&[&skip[..], &["--json", "--rows", "1"]].concat());
    let document: Value = serde_json::from_slice(&document.stdout).unwrap();
    let part = &document["data"][0];
    assert_eq!((&part["task"], &part["part"]), (&json!("mixed"), &json!("train")));
    assert_eq!(part["summary"]["rows"], 3);
    let bins = part["summary"]["histogram"].as_array().unwrap();
    assert_eq!(bins.iter().map(|bin| bin["rows"].as_u64().unwrap()).sum::<u64>(), 3);
    let row = &part["rows"][0];
    assert_eq!(row["parts"][0]["supervised"], false);
    let supervised = row["supervised"].as_array().unwrap();
    assert_eq!(supervised.len(), row["tokens"].as_array().unwrap().len());
    assert_eq!(part["rows"].as_array().unwrap().len(), 1);
}

#[test]
fn a_recipes_tasks_are_shown_with_their_settings() {
    let files = one_step();
    let recipe = files.path("recipe.toml");
    let output = run(&["data", &recipe, "--rows", "0", "--set", "task[0].limit=7"]);
    let text = stdout(&output);
    for part in
        ["arithmetic, train: ", "arithmetic, eval: ", "code, train: ", "logic, eval: ", "rows        7, each"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let one = run(&["data", &recipe, "--task", "code", "--rows", "1"]);
    assert!(stdout(&one).contains("code, eval: ") && !stdout(&one).contains("logic"));
    // Relative paths are shown as they are from here.
    let here =
        engine(&["data", "recipe.toml", "--task", "code"]).current_dir(files.path("")).output().unwrap();
    assert!(stdout(&here).starts_with("code, train: code.train.jsonl\n"), "{}", stdout(&here));

    assert!(refused(&["data", &recipe, "--task", "x"]).contains("there is no task `x`"));
    assert!(refused(&["data", &recipe, &files.path("code.train.jsonl")]).contains("is a recipe and more"));
    assert!(refused(&["data", &files.path("code.train.jsonl")]).contains("`--model`: is missing"));
}

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

fn documents(arguments: &[&str]) -> Vec<Value> {
    let output = run(&[&["data"][..], arguments, &["--json"]].concat());
    let mut document: Value = serde_json::from_slice(&output.stdout).unwrap();
    serde_json::from_value(document["data"].take()).unwrap()
}

/// The first ones that training uses, whatever is left out before them for its length.
#[test]
fn a_limit_counts_the_rows_that_are_used() {
    let files = one_step();
    let rows = ["aaaaaaaaaaaa", "b", "cccccccccccc", "d", "e"];
    let rows = rows.map(|text| json!({"prompt": text, "completion": text}).to_string());
    fs::write(files.path("long.jsonl"), rows.join("\n")).unwrap();
    let long = files.path("long.jsonl");
    let blank = files.path("blank");
    let limited =
        [&long, "--model", &blank, "--set", "model.max_length=6", "--set", "task[0].limit=2", "--rows", "9"];
    let part = &documents(&limited)[0];
    let summary = &part["summary"];
    assert_eq!(
        (&summary["rows"], &summary["left_out"], &summary["longer"]),
        (&json!(4), &json!(2), &json!(2))
    );
    let places: Vec<&str> =
        part["rows"].as_array().unwrap().iter().map(|row| row["place"].as_str().unwrap()).collect();
    assert!(places.len() == 2 && places[0].ends_with(":2") && places[1].ends_with(":4"), "{places:?}");
    let output = run(&[&["data"][..], &limited].concat());
    let text = stdout(&output);
    assert!(text.contains("max_length  2 rows longer than 6 (50.0 %), left out"), "{text}");
    assert!(!text.contains("raise max_length"), "half of the rows are not most: {text}");
    fs::write(files.path("most.jsonl"), rows[..3].join("\n")).unwrap();
    let most = run(&["data", &files.path("most.jsonl"), "--model", &blank, "--set", "model.max_length=5"]);
    let text = stdout(&most);
    assert!(
        text.contains(": 2 of 3 rows are longer than max_length, 5 tokens, and left out: raise max_length"),
        "{text}"
    );
    let none = refused(&["data", &long, "--model", &blank, "--set", "model.max_length=2"]);
    assert!(none.contains("all 5 rows are longer than 2 tokens (the shortest has 4)"), "{none}");
}

#[test]
fn rows_to_evaluate_on_are_shown_with_their_examples() {
    let files = one_step();
    let recipe = files.path("recipe.toml");
    let parts = |shots: &str| documents(&[&recipe, "--task", "code", "--set", shots, "--rows", "1"]);
    let (plain, with_shots) = (parts("task[1].shots=0"), parts("task[1].shots=2"));
    assert_eq!(plain[0], with_shots[0], "rows to train on have none");
    let prompt = |part: &Value| part["rows"][0]["prompt_length"].as_u64().unwrap();
    assert!(prompt(&with_shots[1]) > prompt(&plain[1]));
    let text = |part: &Value| part["rows"][0]["parts"][0]["text"].as_str().unwrap().to_owned();
    let own = text(&plain[1]).replace("<|begin|>", "");
    assert!(text(&with_shots[1]).ends_with(&own), "{}", text(&with_shots[1]));
}

#[test]
fn plan_has_what_data_says() {
    let files = one_step();
    let recipe = files.path("recipe.toml");
    // A task that is evaluated on rows it is trained on, some of them too long.
    let train = format!("task[0].eval={:?}", files.path("arithmetic.train.jsonl"));
    let settings = [&recipe, "--set", &train, "--set", "model.max_length=24"];
    let plan = run(&[&["plan"][..], &settings, &["--json"]].concat());
    let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
    let parts = documents(&settings);
    for part in &parts {
        let tasks = plan["plan"]["tasks"].as_array().unwrap();
        let task = tasks.iter().find(|task| task["name"] == part["task"]).unwrap();
        assert_eq!(task[part["part"].as_str().unwrap()], part["summary"]);
    }
    let [train, eval] = [&parts[0]["summary"], &parts[1]["summary"]];
    assert_eq!(train["also_trained"], 0);
    assert_eq!(
        eval["also_trained"].as_u64().unwrap(),
        eval["rows"].as_u64().unwrap() - eval["left_out"].as_u64().unwrap()
    );
    let output = run(&[&["plan"][..], &settings].concat());
    let text = stdout(&output);
    let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(line("data ").ends_with("median  95 %  longest  too long  twice  in train"), "{text}");
    assert!(line("arithmetic train").ends_with(" -") && line("arithmetic eval").contains(" %"), "{text}");
}

//! `examples/five`: its recipe on rows of the same forms, and its script that gets the data.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use cpift_tests::{folders, hub};
use serde_json::{Value, json};

use crate::documented::Workplace;
use crate::support::{stderr, stdout};

/// The folder of the example.
fn example() -> PathBuf {
    folders::tests().join("../examples/five")
}

/// The names in a list of files.
fn listed() -> Vec<String> {
    let list = fs::read_to_string(example().join("files.txt")).unwrap();
    list.lines().map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

/// A few rows in the form of the file of this name.
fn rows(name: &str) -> String {
    let numbers = 0..20;
    let instruction = |number| json!({"instruction": format!("Write {number}."), "input": "", "output": format!("{number}")});
    let conversation = |number| {
        let turn = |from: &str, value: String| json!({"from": from, "value": value});
        let call = json!({"name": "twice", "arguments": {"of": number}}).to_string();
        json!({"conversations": [
            turn("human", format!("Twice {number}?")), turn("function_call", call),
            turn("observation", format!("{}", 2 * number)), turn("gpt", format!("It is {}.", 2 * number)),
        ], "tools": "[{\"name\": \"twice\"}]"})
    };
    match name.split('.').next().unwrap() {
        "gsm8k" => numbers
            .map(|number| {
                format!(
                    "{}\n",
                    json!({"question": format!("{number}?"), "answer": format!("It is\n#### {number}")})
                )
            })
            .collect(),
        "logiqa" => {
            let letter = |number: usize| ["a", "b", "c", "d"][number % 4];
            numbers
                .map(|number| {
                    format!("\n{}\nFact {number}.\nWhat?\nA.one\nB.two\nC.no\nD.all\n", letter(number))
                })
                .collect()
        }
        "glaive_toolcall_300" => Value::from_iter(numbers.map(conversation)).to_string(),
        _ => Value::from_iter(numbers.map(instruction)).to_string(),
    }
}

/// A copy of the example, and a folder `downloads` with files that its list has the sums of.
fn copy() -> Workplace {
    let place = Workplace::new();
    folders::copy_without(&example(), &place.path("examples/five"), &["data"]);
    fs::create_dir(place.path("downloads")).unwrap();
    let mut list = String::new();
    for name in listed() {
        fs::write(place.path("downloads").join(&name), rows(&name)).unwrap();
        list += &format!("{name}  {} https://example.invalid/{name}\n", hub::hash(rows(&name).as_bytes()));
    }
    fs::write(place.path("examples/five/files.txt"), list).unwrap();
    place
}

/// Runs the script in the folder that commands run in.
fn fetch(place: &Workplace, arguments: &[&str]) -> Output {
    let script = Command::new("bash")
        .arg("examples/five/fetch.sh")
        .args(arguments)
        .current_dir(place.path(""))
        .output();
    script.unwrap()
}

#[test]
fn the_recipe_reads_what_the_script_gets() {
    for recipe in ["recipe.toml", "short.recipe.toml"] {
        let recipe = fs::read_to_string(example().join(recipe)).unwrap();
        let read = recipe.split("\"data/").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
        assert_eq!(read.collect::<BTreeSet<_>>(), listed().into_iter().collect());
    }

    let place = copy();
    let output = fetch(&place, &["downloads"]);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
    let small = "examples/five/recipe.toml --set model.base=my-model --set model.max_length=512";
    let plan = place.run(&format!("cpift-engine plan {small}"));
    for part in ["cpift, 5 tasks, 480 optimizer steps", "probe tools", "logic"] {
        assert!(stdout(&plan).contains(part), "{part}: {}", stdout(&plan));
    }
    let short = "examples/five/short.recipe.toml --set model.base=my-model";
    let plan = place.run(&format!("cpift-engine plan {short}"));
    for part in ["cpift, 5 tasks, 45 optimizer steps", "plain text"] {
        assert!(stdout(&plan).contains(part), "{part}: {}", stdout(&plan));
    }
    let shown = place.run(&format!("cpift-engine data {small} --rows 1 --task logic"));
    let row = "Fact 0.\nWhat?\nA.one\nB.two\nC.no\nD.all\nAnswer with the letter of the right option.";
    assert!(stdout(&shown).contains(row) && stdout(&shown).contains("⟦A"), "{}", stdout(&shown));
    let shown = place.run(&format!("cpift-engine data {small} --rows 1 --json"));
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let rows: Vec<u64> = shown["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| part["summary"]["rows"].as_u64().unwrap())
        .collect();
    assert!(rows.len() == 10 && rows.iter().all(|&rows| rows > 0), "{rows:?}");
}

#[test]
fn files_are_got_whole_or_not_at_all() {
    let place = copy();
    let refused = |code: i32, arguments: &[&str], says: &str| {
        let output = fetch(&place, arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
        let last = stderr(&output).lines().last().unwrap_or_default();
        assert!(last.starts_with("error: ") && last.contains(says), "{arguments:?}: {}", stderr(&output));
    };
    let there = || {
        let files = fs::read_dir(place.path("examples/five/data")).unwrap();
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect::<BTreeSet<_>>()
    };
    let names = listed();
    refused(2, &["nowhere"], "nowhere is no folder");
    refused(2, &["--all"], "there is no option --all");
    refused(2, &["downloads", "downloads"], "one folder at most");
    assert!(!place.has("examples/five/data"));
    assert!(stdout(&fetch(&place, &["--help"])).starts_with("Usage: fetch.sh [FOLDER]\n"));

    let second = place.path("downloads").join(&names[1]);
    fs::write(&second, "another").unwrap();
    refused(1, &["downloads"], &format!("downloads/{} is not the file it was", names[1]));
    assert_eq!(there(), BTreeSet::from([names[0].clone()]));
    fs::remove_file(&second).unwrap();
    refused(1, &["downloads"], &format!("downloads/{} cannot be read", names[1]));
    fs::write(&second, rows(&names[1])).unwrap();
    let output = fetch(&place, &["downloads"]);
    assert!(stdout(&output).starts_with(&format!("data/{} is there already\ndata/{}\n", names[0], names[1])));
    assert_eq!(there(), names.iter().cloned().collect());
    assert_eq!(
        fs::read_to_string(place.path("examples/five/data").join(&names[2])).unwrap(),
        rows(&names[2])
    );

    fs::write(place.path("examples/five/data").join(&names[0]), "mine").unwrap();
    refused(1, &["downloads"], &format!("data/{} is there and is another file", names[0]));
    assert_eq!(fs::read_to_string(place.path("examples/five/data").join(&names[0])).unwrap(), "mine");
}

//! Recipes, and the files of a run or a comparison that become a report.

use cpift_engine_cli::report as reports;
use cpift_model::Recipe;

use crate::expect_one_line;
use crate::input::{Folder, files};

/// A recipe, and `--set` overrides after a line `=== set`. What is accepted reads the same when it is written again.
pub fn recipe(data: &[u8]) {
    let files = files("recipe.toml", data);
    let folder = Folder::with(&files, &["recipe.toml"]);
    let overrides = files.iter().find(|(name, _)| *name == "set").map_or(&[][..], |(_, text)| text);
    let overrides = String::from_utf8_lossy(overrides);
    let overrides: Vec<String> = overrides.lines().map(str::to_owned).collect();
    let path = folder.path().join("recipe.toml");
    match Recipe::load(&path, &overrides) {
        Ok(recipe) => {
            folder.write("recipe.toml", recipe.to_toml().expect("what was read can be written").as_bytes());
            let again = Recipe::load(&path, &[]).expect("what was written is a recipe");
            assert_eq!(format!("{recipe:?}"), format!("{again:?}"));
        }
        Err(error) => expect_one_line(&error),
    }
}

/// The files that a report may be made from.
const FILES: [&str; 12] = [
    "recipe.toml",
    "results.json",
    "run.json",
    "inputs.json",
    "metrics.jsonl",
    "groups.json",
    "scores.json",
    "answers.json",
    "report.json",
    "progress.json",
    "core/report.json",
    "fused/report.json",
];

/// `results.json` of a comparison, or the files of a run after lines `=== NAME`.
pub fn report(data: &[u8]) {
    let folder = Folder::with(&files("results.json", data), &FILES);
    if std::fs::metadata(folder.path().join("results.json")).is_ok_and(|file| file.len() == 0) {
        std::fs::remove_file(folder.path().join("results.json")).expect("a folder of our own");
    }
    match reports::write(folder.path(), None, None) {
        Ok(written) => assert!(written.page.is_file()),
        Err(error) => expect_one_line(&error),
    }
}

//! Every input of `tests/fuzz/seeds`: examples to start from, and whatever was once found.

use std::fs;
use std::path::Path;

use cpift_fuzzing::TARGETS;

#[track_caller]
fn replay(name: &str) {
    let target = TARGETS.iter().find(|target| target.0 == name).unwrap().1;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(name);
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 5, "{name} has {} inputs", paths.len());
    let mut findings = Vec::new();
    for path in paths {
        let data = fs::read(&path).unwrap();
        if std::panic::catch_unwind(|| target(&data)).is_err() {
            findings.push(path);
        }
    }
    assert!(findings.is_empty(), "{findings:#?}");
}

#[test]
fn chat_templates() {
    replay("chat_template");
}

#[test]
fn configs() {
    replay("config");
}

#[test]
fn merge_configurations() {
    replay("merge_configuration");
}

#[test]
fn recipes() {
    replay("recipe");
}

#[test]
fn report_inputs() {
    replay("report");
}

#[test]
fn data_rows() {
    replay("rows");
}

#[test]
fn safetensors_files() {
    replay("safetensors");
}

#[test]
fn tokenizer_files() {
    replay("tokenizer");
}

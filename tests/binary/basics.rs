//! Commands that need no job, and the conventions all commands keep.

use std::fs;
use std::process::Stdio;

use cpift_engine::cpu::gemm::{Bf16Path, bf16_path};
use serde_json::{Value, json};

use crate::support::{JobFiles, engine, run, stderr, stdout};

#[test]
fn help_and_version_are_results() {
    for arguments in [&["--help"][..], &["--version"]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0));
        assert!(!output.stdout.is_empty() && output.stderr.is_empty());
    }
}

#[test]
fn unknown_commands_and_options_are_input_errors() {
    for arguments in [&["trian"][..], &["devices", "--jsno"], &["devices", "--threads", "0"], &[]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
}

/// What is measured is said before it is, on standard error.
#[test]
fn a_benchmark_of_steps_says_what_it_measures() {
    let files = JobFiles::new(&[]);
    let config = files.path("blank/config.json");
    let step = ["bench", "step", "--config", &config, "--batch", "1", "--length", "8", "--steps", "1"];
    let output = run(&[&step[..], &["--device", "cpu", "--threads", "1", "--precision", "f32"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stderr(&output);
    assert!(text.starts_with("cpu (1 thread, ") && text.lines().count() == 1, "{text}");
    assert!(
        text.ends_with("): 1 train step of 1 × 8 tokens in f32, exact state, after 2 to warm up\n"),
        "{text}"
    );
}

/// Without a command the list of commands keeps its columns.
#[test]
fn commands_are_listed_in_columns() {
    for arguments in [&[][..], &["bench"]] {
        let output = run(arguments);
        let help = run(&[arguments, &["-h"]].concat());
        assert_eq!(stderr(&output), stdout(&help), "{arguments:?}");
    }
    let text = stderr(&run(&[])).to_owned();
    assert!(text.contains("\n  train        Run a recipe"), "{text}");
}

/// A key of the recipe that is given as an argument: how it is set.
#[test]
fn keys_given_as_arguments_are_explained() {
    for (arguments, tip) in [
        (["train", "r.toml", "--precision", "f32"], "--set model.precision=…"),
        (["plan", "r.toml", "--batch-size", "8"], "--set train.batch_size=…"),
        (["compare", "r.toml", "--threshold", "0.1"], "--set group.threshold=…"),
        (["train", "r.toml", "--seed", "3"], "--set seed=…"),
    ] {
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(2));
        let text = stderr(&output);
        assert!(
            text.contains(&format!("it is a key of the recipe: set it there, or with '{tip}'")),
            "{text}"
        );
        assert!(!text.contains("as a value"), "{text}");
    }
    // Elsewhere there is no recipe; and what is no key has clap's own tip.
    for arguments in [["devices", "--precision", "f32"], ["train", "r.toml", "--zzz"]] {
        assert!(!stderr(&run(&arguments)).contains("key of the recipe"));
    }
}

#[test]
fn devices_lists_the_cpu_and_says_why_there_is_no_gpu() {
    let output = run(&["devices", "--threads", "1"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(text.lines().any(|line| line.starts_with("cpu  ") && line.contains("  1  ")), "{text}");
    assert!(text.contains("\ncuda"), "{text}");
    let output = run(&["devices", "--threads", "1", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["devices"][0]["name"], "cpu");
    assert_eq!(json["devices"][0]["threads"], 1);
    let path = bf16_path();
    let bf16 = (path != Bf16Path::Widened).then(|| path.name());
    assert_eq!(json["devices"][0]["bf16"].as_str(), bf16);
    let described = json["devices"][0]["description"].as_str().unwrap();
    assert!(bf16.is_none_or(|name| described.contains(name)) && text.contains(described), "{text}");
}

#[test]
fn every_shell_has_completions() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let output = run(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(String::from_utf8(output.stdout).unwrap().contains("cpift-engine"), "{shell}");
    }
}

/// `cpift-engine … | head` closes the pipe early: no panic, no message.
#[test]
fn a_closed_pipe_is_no_error() {
    for arguments in [&["devices"][..], &["completions", "bash"], &["--help"]] {
        let mut child = engine(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""), "{arguments:?}");
    }
}

/// What cannot be written is an error even when the work was done.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_behind_standard_output_is_reported() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = engine(&["devices"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("error: cannot write to standard output: "), "{}", stderr(&output));
}

/// With `-v`, wherever it stands, the fields that transformers does not read either are listed, in one line; else nothing is
/// said of them.
#[test]
fn verbose_lists_the_fields_that_are_not_read() {
    let files = JobFiles::new(&[]);
    let path = files.job.path("blank/config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    (config["team_note"], config["activation"]) = (json!("ours"), json!("silu"));
    fs::write(&path, config.to_string()).unwrap();
    let recipe = files.path("recipe.toml");
    for (arguments, lines) in [
        (vec!["plan", &recipe], 0),
        (vec!["plan", &recipe, "-v"], 1),
        (vec!["--verbose", "plan", &recipe], 1),
    ] {
        let output = run(&arguments);
        let said: Vec<&str> =
            stderr(&output).lines().filter(|line| line.contains("fields that are not read: ")).collect();
        assert_eq!((output.status.code(), said.len()), (Some(0), lines), "{}", stderr(&output));
        assert!(
            said.iter().all(|line| line.contains("team_note") && line.contains("activation")),
            "{said:?}"
        );
    }
}

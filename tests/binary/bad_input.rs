//! Bad input through the binary: one line on standard error, the right exit code, nothing written.
//!
//! A test of the package `cpift-engine-cli`, since cargo tells only a binary's own package where it is.

use std::process::{Command, Output, Stdio};

/// The binary, with nothing of the environment that changes its output.
fn engine(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cpift-engine"));
    command.args(arguments).env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    engine(arguments).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

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
        assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""), "{arguments:?}");
    }
}

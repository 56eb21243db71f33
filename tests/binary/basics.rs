//! Commands that need no job, and the conventions all commands keep.

use std::process::Stdio;

use crate::support::{engine, run, stderr};

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

//! `generate`: prompts from everywhere, answers to everywhere.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Output, Stdio};

use cpift_tests::folders;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{engine, refused, run, stderr, stdout, text};

/// A trained model with a chat template, which repeats numbers.
fn model() -> String {
    text(&folders::seesaw().join("base-small")).to_owned()
}

fn generate(more: &[&str]) -> Vec<String> {
    let model = model();
    ["generate", &model, "--device", "cpu", "--threads", "1"]
        .iter()
        .chain(more)
        .map(ToString::to_string)
        .collect()
}

fn succeeds(more: &[&str]) -> Output {
    let output = engine(&[]).args(generate(more)).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{more:?}: {}", stderr(&output));
    output
}

fn refuses(more: &[&str]) -> String {
    refused(&generate(more).iter().map(String::as_str).collect::<Vec<_>>())
}

/// Runs with this on standard input.
fn with_input(input: &[u8], more: &[&str]) -> Output {
    let mut command = engine(&[]);
    command.args(generate(more)).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A folder with a file of these bytes.
fn file(name: &str, content: &str) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    (folder, path)
}

#[test]
fn a_prompt_is_continued_or_answered() {
    let output = succeeds(&["--chat", "--prompt", "231+104"]);
    assert_eq!((stdout(&output), stderr(&output)), ("231+104\n", ""));
    let answer = json_of(&succeeds(&["--chat", "--prompt", "231+104", "--json"]));
    assert_eq!(answer["prompt"], "<|begin|><|user|>231+104<|assistant|>");
    assert_eq!((&answer["answer"], &answer["ended"]), (&"231+104".into(), &"stop".into()));
    assert_eq!((&answer["tokens"], answer["ids"].as_array().unwrap().len()), (&8.into(), 8));
    assert!(answer.get("row").is_none());
    let dashes = json_of(&succeeds(&["--prompt", "--x", "--stop", "--", "--json"]));
    assert_eq!(dashes["prompt"], "--x");
    // The same conversation as a text whose control strings count.
    let continued = succeeds(&["--prompt", "<|user|>231+104<|assistant|>"]);
    assert_eq!(continued.stdout, output.stdout);

    let answer =
        json_of(&succeeds(&["--chat", "--prompt", "231+104", "--json", "--stop", "+1", "--stop", "9"]));
    assert_eq!((&answer["answer"], &answer["ended"]), (&"231".into(), &"stop_string".into()));
    let output = succeeds(&["--chat", "--prompt", "231+104", "--max-new-tokens", "2"]);
    assert_eq!(stdout(&output), "23\n");
    assert!(stderr(&output).contains("cut off after 2 tokens"), "{}", stderr(&output));
    assert_eq!(stderr(&output).lines().count(), 1);
}

#[test]
fn standard_input_is_a_prompt() {
    let expected = succeeds(&["--prompt", "332+133;"]).stdout;
    for input in ["332+133;", "332+133;\n", "332+133;\r\n"] {
        let output = with_input(input.as_bytes(), &[]);
        assert_eq!((output.status.code(), &output.stdout), (Some(0), &expected), "{input:?}");
    }
    // Line breaks within it and before the last are part of it.
    let answer = json_of(&with_input(b"1\n2\n\n", &["--json"]));
    assert_eq!(answer["prompt"], "1\n2\n");
    for (input, reason) in [(&b""[..], "is empty"), (b"ab\xff", "is not UTF-8 (byte 3)")] {
        let output = with_input(input, &[]);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
        assert!(stderr(&output).starts_with("error: `standard input`: "), "{}", stderr(&output));
        assert!(stderr(&output).contains(reason) && stderr(&output).lines().count() == 1);
    }
}

#[test]
fn the_seed_decides_what_is_drawn() {
    let draw =
        |more: &[&str]| succeeds(&[&["--prompt", "1", "--max-new-tokens", "40"], more].concat()).stdout;
    let hot = draw(&["--temperature", "3", "--seed", "5"]);
    assert_eq!(hot, draw(&["--temperature", "3", "--seed", "5"]));
    assert_ne!(hot, draw(&["--temperature", "3", "--seed", "6"]));
    assert_ne!(hot, draw(&["--temperature", "3", "--seed", "5", "--top-k", "3"]));
    assert_ne!(hot, draw(&["--temperature", "3", "--seed", "5", "--top-p", "0.5"]));
    assert_eq!(
        draw(&["--top-k", "50", "--seed", "5"]),
        draw(&["--top-k", "50", "--temperature", "1", "--seed", "5"])
    );
    assert_eq!(draw(&["--top-p", "1e-9"]), draw(&[]));
}

#[test]
fn a_file_of_prompts_is_answered_in_batches() {
    let rows = "{\"prompt\":\"332+133;\"}\n\n{\"messages\":[{\"role\":\"user\",\"content\":\"231+104\"}]}\n\
                {\"prompt\":\"301+003;\",\"completion\":\"(301003)\"}\n";
    let (folder, path) = file("prompts.jsonl", rows);
    let out = folder.path().join("answers.jsonl");
    let output = succeeds(&["--prompts", text(&path), "--out", text(&out)]);
    assert!(output.stdout.is_empty());
    let written = fs::read_to_string(&out).unwrap();
    let answers: Vec<Value> = written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let column = |name: &str| answers.iter().map(|answer| answer[name].clone()).collect::<Vec<_>>();
    assert_eq!(column("row"), [1, 3, 4]);
    assert_eq!(column("prompt"), ["332+133;", "<|begin|><|user|>231+104<|assistant|>", "301+003;"]);
    assert_eq!(column("answer"), ["332+133", "231+104", "301+003"]);
    assert_eq!(column("ended"), ["stop", "stop", "stop"]);
    for batch in ["1", "2", "100"] {
        assert_eq!(stdout(&succeeds(&["--prompts", text(&path), "--batch", batch])), written, "{batch}");
    }
    let draw = |batch| {
        let sampling = ["--temperature", "5", "--top-k", "40", "--batch", batch];
        succeeds(&[&["--prompts", text(&path)], &sampling[..]].concat()).stdout
    };
    assert_eq!(draw("1"), draw("3"));

    let (_folder, path) = file("prompts.txt", "332+133;\n\n301+003;\n");
    let output = succeeds(&["--prompts", text(&path)]);
    let rows: Vec<Value> = stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&rows[1]["row"], &rows[1]["answer"]), (&3.into(), &"301+003".into()));
}

#[test]
fn wrong_input_is_one_line() {
    assert!(refuses(&["--prompt", ""]).contains("`--prompt`: is empty"));
    let long = "1".repeat(80);
    assert!(
        refuses(&["--prompt", &long]).contains("`--prompt`: has 81 tokens, and the model has 64 positions")
    );
    assert!(refuses(&["--prompt", "x", "--stop", ""]).contains("`--stop`: "));
    assert!(refuses(&["--prompts", "none.jsonl"]).contains("none.jsonl"));

    let (folder, path) = file("prompts.jsonl", "{\"prompt\":\"1\"}\n{\"question\":\"1\"}\n");
    let out = folder.path().join("out.jsonl");
    let message = refuses(&["--prompts", text(&path), "--out", text(&out)]);
    assert!(message.contains("prompts.jsonl:2: has neither `prompt` nor `messages`"), "{message}");
    fs::write(&path, format!("{{\"prompt\":\"1\"}}\n{{\"prompt\":\"{long}\"}}\n")).unwrap();
    let message = refuses(&["--prompts", text(&path), "--out", text(&out)]);
    assert!(message.contains("prompts.jsonl:2: has 81 tokens"), "{message}");
    assert!(!out.exists());
    let message = refuses(&["--prompts", text(&path), "--out", text(folder.path())]);
    assert!(message.contains("is a folder"), "{message}");

    for usage in [
        &["--prompt", "x", "--prompts", "y"][..],
        &["--prompt", "x", "--out", "y"],
        &["--prompt", "x", "--batch", "2"],
        &["--prompt", "x", "--system", "y"],
        &["--prompts", "x", "--json"],
        &["--prompt", "x", "--top-p", "0"],
        &["--prompt", "x", "--top-k", "0"],
        &["--prompt", "x", "--temperature", "-1"],
        &["--prompt", "x", "--max-new-tokens", "0"],
    ] {
        let output = run(&generate(usage).iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{usage:?}");
    }
}

/// Many prompts, one at a time; ended when the first answer is there.
fn start_many(folder: &TempDir) -> (std::process::Child, BufReader<std::process::ChildStdout>) {
    let path = folder.path().join("prompts.txt");
    fs::write(&path, "332+133;\n".repeat(20_000)).unwrap();
    let mut command = engine(&[]);
    command.args(generate(&["--prompts", text(&path), "--batch", "1"]));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert!(line.contains("332+133"), "{line}");
    (child, lines)
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_it_with_130() {
    let folder = TempDir::new().unwrap();
    let (mut child, mut lines) = start_many(&folder);
    let sent = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    assert!(rest.is_empty() || rest.ends_with("}\n"), "whole lines");
    let mut message = String::new();
    child.stderr.take().unwrap().read_to_string(&mut message).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{message}");
    assert!(message.contains("of 20000 answers"), "{message}");
}

/// `generate … | head -1`.
#[test]
fn a_reader_that_goes_away_ends_it() {
    let folder = TempDir::new().unwrap();
    let (mut child, lines) = start_many(&folder);
    drop(lines);
    let mut message = String::new();
    child.stderr.take().unwrap().read_to_string(&mut message).unwrap();
    assert_eq!((child.wait().unwrap().code(), message.as_str()), (Some(0), ""));
}

#[cfg(unix)]
mod terminal {
    use std::fs::File;
    use std::os::fd::{FromRawFd, OwnedFd};

    use super::*;

    /// A terminal: what a person types into, and what the program reads from.
    fn open() -> (File, OwnedFd) {
        let (mut typed, mut read) = (0, 0);
        let none = std::ptr::null_mut();
        // SAFETY: both integers are written to by the call, and the optional arguments are null.
        let opened = unsafe { libc::openpty(&mut typed, &mut read, none, none.cast(), none.cast()) };
        assert_eq!(opened, 0);
        // SAFETY: the call has just opened both descriptors, and nothing else owns them.
        unsafe { (File::from_raw_fd(typed), OwnedFd::from_raw_fd(read)) }
    }

    fn converse(typed: &str, more: &[&str]) -> Output {
        let (mut person, terminal) = open();
        let mut command = engine(&[]);
        command.args(generate(more)).stdin(terminal).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        drop(command);
        person.write_all(typed.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    #[test]
    fn a_conversation_has_turns() {
        let alone = succeeds(&["--chat", "--prompt", "231+104"]).stdout;
        let alone = String::from_utf8(alone).unwrap();
        let output = converse("231+104\n\n/new\n231+104\n/exit\n", &["--chat"]);
        assert_eq!((output.status.code(), stdout(&output)), (Some(0), alone.repeat(2).as_str()));
        assert!(stderr(&output).contains("/exit or Ctrl-D"), "{}", stderr(&output));
        // What does not fit is said, and it goes on; Ctrl-D ends it.
        let typed = format!("231+104\n{}\n\u{4}", "1".repeat(70));
        let output = converse(&typed, &["--chat"]);
        assert_eq!((output.status.code(), stdout(&output)), (Some(0), alone.as_str()));
        assert!(stderr(&output).contains("the model has 64 positions"), "{}", stderr(&output));
    }

    #[test]
    fn a_terminal_without_a_prompt_needs_chat() {
        for more in [&[][..], &["--chat", "--json"]] {
            let output = converse("x\n", more);
            assert_eq!(output.status.code(), Some(2));
            assert!(stderr(&output).starts_with("error: `--prompt`: is missing: "), "{}", stderr(&output));
        }
    }
}

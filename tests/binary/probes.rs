//! `train --probe`: probes made by processes of their own, one after the other, at the same time, and killed.

use std::fs;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use cpift_model::files::FolderLock;
use cpift_tests::jobs::TASKS;
use serde_json::json;

use crate::support::{JobFiles, engine, refused, stderr, stdout};

/// Long enough to be killed in the middle of a probe.
fn job() -> JobFiles {
    JobFiles::new(&[("probe.steps", json!(200)), ("checkpoint.every", json!(7))])
}

fn start(files: &JobFiles, task: &str) -> Child {
    let arguments = files.train("apart", &["--probe", task]);
    engine(&[]).args(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Expects exit code 2 and one line.
fn refused_in(files: &JobFiles, more: &[&str]) -> String {
    let arguments = files.train("apart", more);
    refused(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

fn end(child: Child) -> Output {
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    output
}

/// Lines of metrics of a probe that is being made.
fn lines(files: &JobFiles, task: &str) -> usize {
    let folders =
        fs::read_dir(files.job.path(&format!("apart/probe-runs/{task}"))).into_iter().flatten().flatten();
    let of = |folder: fs::DirEntry| fs::read_to_string(folder.path().join("metrics.jsonl")).ok();
    folders.filter_map(of).map(|text| text.lines().count()).sum()
}

fn wait_for(files: &JobFiles, child: &mut Child, task: &str, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(300);
    while lines(files, task) < count {
        assert!(child.try_wait().unwrap().is_none(), "the probe of {task} was made too soon");
        assert!(Instant::now() < deadline, "no progress");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn probes_of_processes_of_their_own_make_the_same_run() {
    let files = job();
    files.trained("whole", &[]);
    let unknown = files.refused(&["--probe", "maths"]);
    assert_eq!(unknown, "`--probe`: there is no task `maths`: the tasks are arithmetic, code, logic");

    // Killed twice, while another process makes another probe.
    let other = start(&files, "logic");
    for count in [3, 12] {
        let mut child = start(&files, "code");
        wait_for(&files, &mut child, "code", count);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    // As by processes that are at work.
    let lock = FolderLock::take(&files.job.path("apart/probe-runs/code")).unwrap();
    let message = refused_in(&files, &["--probe", "code"]);
    assert!(message.contains("another process is making the probe of `code`"), "{message}");
    drop(lock);
    let lock = FolderLock::share(&files.job.path("apart")).unwrap();
    let message = refused_in(&files, &["--resume"]);
    assert!(message.contains("apart: another process is working in this folder"), "{message}");
    drop(lock);
    let gone_on = end(start(&files, "code"));
    let said = stderr(&gone_on);
    let done = said.split("probe code: 200 steps, ").nth(1).and_then(|rest| rest.split(' ').next());
    assert!(
        done.and_then(|done| done.parse().ok()).is_some_and(|done: u64| done.is_multiple_of(7)),
        "{said}"
    );
    end(other);
    let there = end(start(&files, "code"));
    let said = stdout(&there);
    assert!(said.starts_with("the probe of code is there already: "), "{said}");
    assert!(said.contains("missing: arithmetic (--probe NAME makes one)"), "{said}");
    assert!(stderr(&there).is_empty(), "{}", stderr(&there));
    let last = end(start(&files, "arithmetic"));
    let said = stdout(&last);
    let command = format!("--out {} --threads 1 --resume", files.path("apart"));
    assert!(said.contains("all probes of the run are there; go on with"), "{said}");
    assert!(said.trim_end().ends_with(&command) && !said.contains("--probe"), "{said}");

    let resumed = files.trained("apart", &["--resume"]);
    for task in TASKS {
        assert!(
            stderr(&resumed).contains(&format!("probe {task} is complete already")),
            "{}",
            stderr(&resumed)
        );
    }
    for file in ["final/model.safetensors", "probe/code/model.safetensors", "scores.json", "answers.json"] {
        let [whole, apart] = ["whole", "apart"].map(|run| files.job.bytes(&format!("{run}/{file}")));
        assert!(whole == apart, "{file} differs");
    }
}

//! Run folders as people name them, and as they move them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::json;
use tempfile::TempDir;

use crate::support::{JobFiles, engine, stderr};

/// A project as a person has it: a folder with recipe, model and data, paths in the recipe relative to it.
struct Project {
    /// Above the project: where commands may be called from.
    above: TempDir,
}

const STAGES: [&str; 5] = ["probe", "core", "group", "fuse", "integrate"];

impl Project {
    fn new() -> Self {
        let files = JobFiles::new(&[("checkpoint.every", json!(1))]);
        let above = TempDir::new().unwrap();
        let here = files.path("");
        cpift_tests::folders::copy(Path::new(&here), &above.path().join("project"));
        let recipe = above.path().join("project/recipe.toml");
        let text = fs::read_to_string(&recipe).unwrap().replace(&here, "");
        assert!(text.contains("train = \"code.train.jsonl\""), "{text}");
        fs::write(recipe, text).unwrap();
        Self { above }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.above.path().join(name)
    }

    /// The command called from a folder of the project.
    fn command(&self, from: &str, arguments: &[&str]) -> Command {
        let mut command = engine(arguments);
        command.args(["--threads", "1"]).current_dir(self.path(from));
        command
    }

    fn run(&self, from: &str, arguments: &[&str]) -> Output {
        self.command(from, arguments).output().unwrap()
    }

    fn succeeds(&self, from: &str, arguments: &[&str]) -> Output {
        let output = self.run(from, arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
        output
    }

    fn model(&self, run: &str) -> Vec<u8> {
        fs::read(self.path(run).join("final/model.safetensors")).unwrap()
    }
}

/// Stops after every stage, goes on, and resumes the finished run; then a report of it.
#[test]
fn a_run_continues_in_a_folder_named_in_any_way() {
    let project = Project::new();
    project.succeeds("project", &["train", "recipe.toml", "--out", "whole"]);
    let expected = project.model("project/whole");
    #[cfg(unix)]
    {
        fs::create_dir(project.path("elsewhere")).unwrap();
        std::os::unix::fs::symlink(project.path("elsewhere"), project.path("project/link")).unwrap();
    }
    for (from, recipe, out, lies_in) in [
        ("project", "recipe.toml", None, "project/runs/project"),
        (".", "project/recipe.toml", None, "runs/project"),
        ("project", "./recipe.toml", Some("runs/relative"), "project/runs/relative"),
        ("project", "recipe.toml", Some("./x/../dots"), "project/dots"),
        ("project", "recipe.toml", Some("slash/"), "project/slash"),
        #[cfg(unix)]
        ("project", "recipe.toml", Some("link/run"), "elsewhere/run"),
        ("project/blank", "../recipe.toml", Some("../my runs/Läufe ✓"), "project/my runs/Läufe ✓"),
    ] {
        let train = |more: &[&str]| {
            let mut arguments = vec!["train", recipe];
            arguments.extend(out.into_iter().flat_map(|out| ["--out", out]));
            arguments.extend(more);
            project.succeeds(from, &arguments)
        };
        for (index, stage) in STAGES.iter().enumerate() {
            let resume: &[&str] = if index == 0 { &[] } else { &["--resume"] };
            let output = train(&[&["--until", stage], resume].concat());
            let reused = stderr(&output).matches("taken over").count();
            assert!(index == 0 || reused > 0, "{out:?} --until {stage}: {}", stderr(&output));
        }
        let output = train(&["--resume"]);
        assert!(!stderr(&output).contains("step "), "a finished run trains nothing: {}", stderr(&output));
        assert_eq!(project.model(lies_in), expected, "{out:?}");
        let shown = out.unwrap_or("runs/project");
        project.succeeds(from, &["report", shown, "--out", "report"]);
        fs::remove_dir_all(project.path(from).join("report"))
            .or_else(|_| fs::remove_file(project.path(from).join("report")))
            .unwrap();
    }
}

/// Killed at several places and continued, by relative names.
#[test]
fn a_killed_run_continues_in_a_relative_folder() {
    let project = Project::new();
    project.succeeds("project", &["train", "recipe.toml", "--out", "whole"]);
    for (lines, arguments, lies_in) in [
        (2, vec!["train", "recipe.toml", "--resume"], "project/runs/project"),
        (7, vec!["train", "recipe.toml", "--resume"], "project/runs/project"),
        (14, vec!["train", "recipe.toml", "--resume"], "project/runs/project"),
        (9, vec!["train", "recipe.toml", "--resume", "--out", "./a/../b c/"], "project/b c"),
    ] {
        let mut child = project
            .command("project", &arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let metrics = project.path(lies_in).join("metrics.jsonl");
        while child.try_wait().unwrap().is_none() {
            if fs::read_to_string(&metrics).is_ok_and(|text| text.lines().count() >= lines) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        // It may have ended by itself on a fast machine: then there is a finished run to resume.
        let _ = child.kill();
        child.wait().unwrap();
    }
    for (more, lies_in) in [(vec![], "project/runs/project"), (vec!["--out", "b c"], "project/b c")] {
        project.succeeds("project", &[&["train", "recipe.toml", "--resume"][..], &more].concat());
        assert_eq!(project.model(lies_in), project.model("project/whole"), "{lies_in}");
    }
}

/// What counts is what the files hold, not where they are.
#[test]
fn a_moved_run_or_project_continues() {
    let project = Project::new();
    project.succeeds("project", &["train", "recipe.toml", "--out", "whole"]);
    project.succeeds("project", &["train", "recipe.toml", "--out", "run", "--until", "core"]);
    fs::rename(project.path("project/run"), project.path("project/moved run")).unwrap();
    project
        .succeeds("project", &["train", "recipe.toml", "--out", "moved run", "--resume", "--until", "fuse"]);
    fs::rename(project.path("project"), project.path("moved")).unwrap();
    let arguments = ["train", "moved/recipe.toml", "--out", "moved/moved run", "--resume"];
    let output = project.succeeds(".", &arguments);
    assert!(stderr(&output).contains("taken over"), "{}", stderr(&output));
    assert_eq!(project.model("moved/moved run"), project.model("moved/whole"));
    // The record of the run follows.
    let recipe = fs::read_to_string(project.path("moved/moved run/recipe.toml")).unwrap();
    assert!(recipe.contains(project.path("moved/code.train.jsonl").to_str().unwrap()), "{recipe}");
    // Other content at the new place is still noticed.
    let data = project.path("moved/code.train.jsonl");
    let text = fs::read_to_string(&data).unwrap();
    fs::write(&data, &text[..text.rfind('\n').unwrap()]).unwrap();
    let output = project.run(".", &arguments);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("code.train.jsonl: has changed"), "{}", stderr(&output));
}

#[cfg(unix)]
#[test]
fn the_command_to_continue_with_can_be_pasted() {
    let project = Project::new();
    let arguments = [
        "train",
        "recipe.toml",
        "--out",
        "it's a run/ü",
        "--set",
        "probe.steps=2000",
        "--set",
        "train.steps=5",
    ];
    let child =
        project.command("project", &arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let metrics = project.path("project/it's a run/ü/metrics.jsonl");
    while !fs::read_to_string(&metrics).is_ok_and(|text| text.lines().count() > 3) {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    let command = stderr(&output).lines().last().unwrap().trim().to_owned();
    assert!(command.contains("'it'\\''s a run/ü'") && command.ends_with(" --resume"), "{command}");
    // Pasted into a shell, with the stage to end after so that it ends soon: options may follow.
    let pasted = Command::new("sh")
        .args(["-c", &format!("{command} --help")])
        .current_dir(project.path("project"))
        .output()
        .unwrap();
    assert_eq!(pasted.status.code(), Some(0), "{command}: {}", stderr(&pasted));
}

/// Whatever two starts at once do, one trains and the other says why it does not.
#[test]
fn two_starts_on_one_folder_are_one_run() {
    let project = Project::new();
    for seed in ["17", "18"] {
        let (set, out) = (format!("seed={seed}"), format!("alone-{seed}"));
        project.succeeds("project", &["train", "recipe.toml", "--set", &set, "--out", &out]);
    }
    for round in 0..10 {
        let out = format!("shared-{round}");
        let children = ["17", "18"].map(|seed| {
            let set = format!("seed={seed}");
            let mut command =
                project.command("project", &["train", "recipe.toml", "--set", &set, "--out", &out]);
            (seed, command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap())
        });
        let mut done = Vec::new();
        for (seed, child) in children {
            let output = child.wait_with_output().unwrap();
            let message = stderr(&output);
            match output.status.code() {
                Some(0) => done.push(seed),
                Some(2) => assert!(
                    message.contains("another process is working") || message.contains("already holds a run"),
                    "{message}"
                ),
                code => panic!("{code:?}: {message}"),
            }
        }
        assert_eq!(done.len(), 1, "round {round}");
        let alone = format!("project/alone-{}", done[0]);
        assert_eq!(project.model(&format!("project/{out}")), project.model(&alone), "round {round}");
        let recipe = fs::read_to_string(project.path(&format!("project/{out}/recipe.toml"))).unwrap();
        assert!(recipe.contains(&format!("seed = {}", done[0])), "{recipe}");
    }
}

/// A limit on the size of files is met like a full disk: an error that names the file and what to do.
#[cfg(unix)]
#[test]
fn a_limit_on_the_size_of_files_is_an_error() {
    let project = Project::new();
    let program = env!("CARGO_BIN_EXE_cpift-engine");
    // In blocks of 512 bytes: less than a model.
    let line = format!("ulimit -c 0; ulimit -f 40; exec '{program}' --threads 1 train recipe.toml --out run");
    let output =
        Command::new("sh").args(["-c", &line]).current_dir(project.path("project")).output().unwrap();
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.lines().last().unwrap().contains("ulimit -f"), "{message}");
    project.succeeds("project", &["train", "recipe.toml", "--out", "run", "--resume"]);
}

/// All threads of a process that runs a job are the device's own: hashing and reading start no others.
#[cfg(target_os = "linux")]
#[test]
fn a_job_starts_no_more_threads_than_it_is_given() {
    let project = Project::new();
    project.succeeds("project", &["train", "recipe.toml", "--out", "run", "--until", "fuse"]);
    let mut child = project
        .command("project", &["train", "recipe.toml", "--out", "run", "--resume"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let tasks = format!("/proc/{}/task", child.id());
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        most = most.max(fs::read_dir(&tasks).map_or(0, Iterator::count));
    }
    assert!(child.wait().unwrap().success());
    // The first, the one that waits for signals, and the device's one: rayon's global pool would add one per core.
    assert!((2..=3).contains(&most), "{most} threads");
}

/// A folder of other files is neither begun nor continued in; an empty one is.
#[test]
fn a_folder_with_files_that_are_no_run_is_refused() {
    let project = Project::new();
    fs::create_dir(project.path("project/notes")).unwrap();
    fs::write(project.path("project/notes/todo.txt"), "x").unwrap();
    // A name that a run's records have as well.
    fs::write(project.path("project/notes/inputs.json"), "{\"learning\": true}").unwrap();
    // The project's own folder has a recipe.toml, as a run has.
    let recipe = fs::read_to_string(project.path("project/recipe.toml")).unwrap();
    for out in ["notes", "."] {
        for more in [&[][..], &["--resume"]] {
            let arguments = [&["train", "recipe.toml", "--out", out], more].concat();
            let output = project.run("project", &arguments);
            let message = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
            assert_eq!(
                message.trim_end(),
                format!("error: {out}: holds files that are no run; choose another --out")
            );
        }
    }
    assert_eq!(fs::read_dir(project.path("project/notes")).unwrap().count(), 2);
    assert_eq!(fs::read_to_string(project.path("project/recipe.toml")).unwrap(), recipe);
    fs::create_dir(project.path("project/empty")).unwrap();
    project.succeeds("project", &["train", "recipe.toml", "--out", "empty", "--until", "probe"]);
    project.succeeds("project", &["train", "recipe.toml", "--out", "empty", "--until", "core", "--resume"]);
}

//! Running the binary, and a small job for it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use cpift_tests::jobs::SmallJob;
use serde_json::{Value, json};

/// The binary with some arguments, one thread, and nothing of the environment that changes its output.
pub fn engine(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cpift-engine"));
    command.args(arguments).env("NO_COLOR", "1").stdin(Stdio::null());
    // Tests share nothing with each other, nor with the cache of whoever runs them.
    command.env_remove("XDG_CACHE_HOME").env_remove("HOME");
    // Nor with the network.
    command.env("HF_HUB_OFFLINE", "1");
    command
}

/// Runs the binary to its end.
pub fn run(arguments: &[&str]) -> Output {
    engine(arguments).output().unwrap()
}

/// Standard output as text.
pub fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

/// Standard error as text.
pub fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// Runs the binary, expects exit code 2, one line of error and an empty standard output; returns the line.
pub fn refused(arguments: &[&str]) -> String {
    let output = run(arguments);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
    assert_eq!(message.lines().count(), 1, "{arguments:?}: {message}");
    assert!(output.stdout.is_empty(), "nothing belongs on standard output");
    message.trim_end().strip_prefix("error: ").expect("an error line").to_owned()
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A small job as files.
pub struct JobFiles {
    /// The folder with data and blank model.
    pub job: SmallJob,
}

impl JobFiles {
    /// A small job with its recipe in `recipe.toml`.
    pub fn new(changes: &[(&str, Value)]) -> Self {
        Self::with_model(&[], changes)
    }

    /// The same with other fields in the model's configuration.
    pub fn with_model(fields: &[(&str, usize)], changes: &[(&str, Value)]) -> Self {
        Self::of(SmallJob::with_model(fields), changes)
    }

    /// A small job with its recipe, changed, in `recipe.toml`.
    pub fn of(job: SmallJob, changes: &[(&str, Value)]) -> Self {
        let recipe = job.recipe(changes).to_toml().unwrap();
        fs::write(job.path("recipe.toml"), recipe).unwrap();
        Self { job }
    }

    /// A path in the folder, as an argument.
    pub fn path(&self, name: &str) -> String {
        text(&self.job.path(name)).to_owned()
    }

    /// Arguments that train the recipe into `out`.
    pub fn train(&self, out: &str, more: &[&str]) -> Vec<String> {
        let mut arguments = vec!["train".to_owned(), self.path("recipe.toml"), "--out".to_owned()];
        arguments.push(self.path(out));
        arguments.extend(["--threads", "1"].iter().chain(more).map(|&argument| argument.to_owned()));
        arguments
    }

    /// Trains into `out` and expects success.
    pub fn trained(&self, out: &str, more: &[&str]) -> Output {
        let arguments = self.train(out, more);
        let output = engine(&[]).args(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        output
    }

    /// Trains into a folder that must not come to be, and expects exit code 2 and one line.
    pub fn refused(&self, more: &[&str]) -> String {
        let arguments = self.train("refused", more);
        let message = refused(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(!self.job.path("refused").exists(), "a refused job writes nothing");
        message.replace(&self.path(""), "")
    }

    /// A trained model folder: one step of joint training.
    pub fn model(&self) -> String {
        self.trained("model-run", &["--set", "method=joint", "--set", "train.steps=1"]);
        self.path("model-run/final")
    }
}

/// The least job: joint training, one step.
pub fn one_step() -> JobFiles {
    JobFiles::new(&[("method", json!("joint")), ("train.steps", json!(1))])
}

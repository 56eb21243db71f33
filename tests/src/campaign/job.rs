//! The jobs of a campaign: one recipe, its undisturbed results, and runs of others to take files from.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;

use super::Finding;
use crate::folders;

const TASKS: [&str; 3] = ["arithmetic", "code", "logic"];

/// What distinguishes a run from the one under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Nothing.
    Same,
    /// Another seed.
    Seed,
    /// Other rows in one task's file.
    Data,
    /// Another core size.
    Setting,
    /// Another value of one task's `special_tokens`.
    SpecialTokens,
}

impl Variant {
    const OTHERS: [Self; 4] = [Self::Seed, Self::Data, Self::Setting, Self::SpecialTokens];

    fn index(self) -> usize {
        Self::OTHERS.iter().position(|other| *other == self).expect("another run")
    }
}

/// Runs that nothing happens to.
pub struct Jobs {
    binary: PathBuf,
    folder: TempDir,
    /// Files of the result that every round must reproduce.
    expected: Vec<Vec<u8>>,
}

/// The results that do not depend on when and how often a job was interrupted.
const RESULTS: [&str; 4] =
    ["final/model.safetensors", "fused/model.safetensors", "groups.json", "scores.json"];

/// How a run of the binary ended.
pub enum End {
    /// Exit code 0.
    Done,
    /// Exit code 1 or 2 and one line.
    Refused(String),
    /// Stopped by a signal, or exit code 130.
    Stopped,
}

impl Jobs {
    /// Runs the job once undisturbed, and the others whose files are taken.
    pub fn new(binary: &Path) -> Self {
        let folder = TempDir::new().expect("a folder for temporary files");
        let mut jobs = Self { binary: binary.to_owned(), folder, expected: Vec::new() };
        let whole = jobs.folder.path().join("whole");
        jobs.write_inputs(&whole, Variant::Same);
        jobs.must_run(&whole, &[]);
        jobs.expected = RESULTS.map(|name| read(&whole.join("out").join(name))).to_vec();
        for variant in Variant::OTHERS {
            let folder = jobs.other(variant);
            jobs.write_inputs(&folder, variant);
            jobs.must_run(&folder, &[]);
        }
        jobs
    }

    /// The undisturbed run's folder.
    pub fn whole(&self) -> PathBuf {
        self.folder.path().join("whole/out")
    }

    /// The finished run folder of another job, or of the same.
    pub fn finished(&self, variant: Variant) -> PathBuf {
        if variant == Variant::Same { self.whole() } else { self.other(variant).join("out") }
    }

    fn other(&self, variant: Variant) -> PathBuf {
        self.folder.path().join(format!("other-{}", variant.index()))
    }

    /// One of the other jobs, or the same.
    pub fn any_variant(random: &mut ChaCha8Rng) -> Variant {
        match random.random_range(0..=Variant::OTHERS.len()) {
            0 => Variant::Same,
            other => Variant::OTHERS[other - 1],
        }
    }

    /// Writes the recipe and all that it names into a folder. Paths in it are relative.
    pub fn write_inputs(&self, folder: &Path, variant: Variant) {
        let base = folder.join("base");
        fs::create_dir_all(&base).expect("a writable folder");
        for file in fs::read_dir(folders::seesaw().join("base-small")).expect("the example") {
            let file = file.expect("the example");
            fs::copy(file.path(), base.join(file.file_name())).expect("a writable folder");
        }
        let mut recipe = "[model]\nbase = \"base\"\nmax_length = 48\n".to_owned();
        for task in TASKS {
            for (split, rows) in [("train", 64), ("eval", 8)] {
                let name = format!("{task}.{split}.jsonl");
                let text = fs::read_to_string(folders::seesaw().join(&name)).expect("the example");
                let is_other = variant == Variant::Data && task == "code" && split == "train";
                let first_row = if is_other { 100 } else { 0 };
                let rows: Vec<&str> = text.lines().skip(first_row).take(rows).collect();
                fs::write(folder.join(name), rows.join("\n")).expect("a writable folder");
            }
            recipe += &format!(
                "[[task]]\nname = \"{task}\"\ntrain = \"{task}.train.jsonl\"\neval = \"{task}.eval.jsonl\"\n"
            );
            if variant == Variant::SpecialTokens && task == "code" {
                recipe += "special_tokens = \"escape\"\n";
            }
        }
        recipe += "[train]\nsteps = 8\nbatch_size = 8\nlearning_rate = 3e-3\npack = false\n\
                   [integrate]\nsample = 1.0\n[checkpoint]\nevery = 2\n";
        let fraction = if variant == Variant::Setting { 0.03 } else { 0.01 };
        let seed = if variant == Variant::Seed { 18 } else { 17 };
        recipe = format!("seed = {seed}\n{recipe}[core]\nfraction = {fraction}\n");
        fs::write(folder.join("recipe.toml"), recipe).expect("a writable folder");
    }

    /// Starts the job in a folder, and kills it some milliseconds after its first checkpoint is there. It may be done
    /// by then with the training that wrote it, and even with all: then it starts anew.
    ///
    /// # Panics
    /// When there is never a checkpoint.
    pub fn kill_at_checkpoint(&self, folder: &Path, milliseconds: u64) {
        let out = folder.join("out");
        for delay in (0..=milliseconds).rev().step_by(10).chain([0; 20]) {
            let _ = fs::remove_dir_all(&out);
            let arguments = ["train", "recipe.toml", "--out", "out"].map(str::to_owned);
            let mut child = self.command(folder, &arguments).spawn().expect("the binary");
            while child.try_wait().expect("a child of ours").is_none() && !has_checkpoint(&out) {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_millis(delay));
            // It may have ended: then there is nobody to kill.
            let _ = child.kill();
            child.wait().expect("a child of ours");
            if has_checkpoint(&out) {
                return;
            }
        }
        panic!("no checkpoint in {}", out.display());
    }

    /// The binary with arguments, in a working directory.
    pub fn command(&self, working_directory: &Path, arguments: &[String]) -> Command {
        self.limited("", working_directory, arguments)
    }

    /// The same after a command of the shell, such as one of `ulimit`.
    pub fn limited(&self, first: &str, working_directory: &Path, arguments: &[String]) -> Command {
        let mut command = if first.is_empty() {
            Command::new(&self.binary)
        } else {
            let mut shell = Command::new("bash");
            shell.args(["-c", &format!("{first}; exec \"$0\" \"$@\"")]).arg(&self.binary);
            shell
        };
        command.args(arguments).current_dir(working_directory).stdin(Stdio::null());
        command.args(["--threads", "1"]).env("NO_COLOR", "1").env_remove("HOME").env_remove("XDG_CACHE_HOME");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// How a run ended.
    ///
    /// # Errors
    /// A panic, a crash, another exit code, or more than one line of error.
    pub fn end(output: &Output) -> Result<End, Finding> {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().last().unwrap_or_default();
        if said.contains("a fault of cpift-engine") || said.contains("panicked at") {
            return Err(format!("a panic: {last}"));
        }
        match (output.status.code(), output.status.signal()) {
            (Some(0), _) => Ok(End::Done),
            (Some(130), _) => Ok(End::Stopped),
            (None, Some(2 | 9 | 15)) => Ok(End::Stopped),
            (Some(1 | 2), _) => {
                let errors = said.lines().filter(|line| line.starts_with("error:")).count();
                if errors == 1 && last.starts_with("error: ") {
                    Ok(End::Refused(last.to_owned()))
                } else {
                    Err(format!("{errors} lines of error, the last line is {last:?}"))
                }
            }
            (code, signal) => Err(format!("exit code {code:?}, signal {signal:?}: {last}")),
        }
    }

    /// Whether a run folder holds the undisturbed results.
    ///
    /// # Errors
    /// The first that differs.
    pub fn compare(&self, run: &Path) -> Result<(), Finding> {
        for (name, expected) in RESULTS.iter().zip(&self.expected) {
            match fs::read(run.join(name)) {
                Ok(found) if found == *expected => {}
                Ok(_) => return Err(format!("exit 0, and {name} has other bits")),
                Err(error) => return Err(format!("exit 0, and {name} cannot be read: {error}")),
            }
        }
        let (expected, found) = (losses(&self.whole()), losses(run));
        if expected == found { Ok(()) } else { Err("exit 0, and report.json has other losses".to_owned()) }
    }

    /// Runs the job in a folder up to a stage and expects success.
    pub fn must_run(&self, folder: &Path, more: &[&str]) {
        let arguments = ["train", "recipe.toml", "--out", "out"].iter().chain(more);
        let arguments: Vec<String> = arguments.map(|&word| word.to_owned()).collect();
        let output = self.command(folder, &arguments).output().expect("the binary");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Whether there is a whole checkpoint in a run folder.
fn has_checkpoint(run: &Path) -> bool {
    let folders =
        |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut steps =
        folders(&run.join("checkpoint")).flat_map(|training| folders(&training).collect::<Vec<_>>());
    steps.any(|step| step.join("state.json").is_file() && step.join("manifest.json").is_file())
}

/// The losses of the closing table.
fn losses(run: &Path) -> Option<String> {
    let report: serde_json::Value = serde_json::from_slice(&fs::read(run.join("report.json")).ok()?).ok()?;
    Some(report["tasks"].to_string())
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

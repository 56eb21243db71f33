//! Running things on the stand-in for CUDA's driver (`tests/driver`), which is no GPU: the engine's real path to
//! one, through cudarc, in a process that finds the stand-in as `libcuda.so`.
//!
//! Tests whose names end in `on_the_stand_in_driver` start their own program again that way ([`repeat`]).
//! Cargo builds the library beside the tests, because this crate depends on it. Its settings come from the environment
//! where a test says nothing else: with `CPIFT_STAND_IN_RUNS=both` all of them compare kernels' source and PTX.

use std::collections::HashMap;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;

/// The library, under the name that cargo gives it.
const LIBRARY: &str = "libcpift_stand_in.so";
/// Set in processes that run on the stand-in.
const IN_USE: &str = "CPIFT_STAND_IN";
/// What [`repeat`] is called in, which the repetition leaves out.
const REPEATING: &str = "on_the_stand_in_driver";

/// Whether this process runs on the stand-in.
pub fn in_use() -> bool {
    env::var_os(IN_USE).is_some()
}

/// Whether tests with the stand-in are left out: where a GPU must be there, it is what is tested.
pub fn skipped() -> bool {
    env::var_os("CPIFT_TEST_CUDA").is_some()
}

/// A machine with the stand-in as its driver.
pub struct StandIn {
    folder: TempDir,
    variables: Vec<(String, String)>,
}

impl StandIn {
    /// One with its usual properties (see `settings` in `tests/driver`).
    pub fn new() -> Self {
        let folder = TempDir::new().unwrap();
        symlink(library(), folder.path().join("libcuda.so")).unwrap();
        Self { folder, variables: Vec::new() }
    }

    /// One with other properties.
    pub fn with(variables: &[(&str, &str)]) -> Self {
        let mut stand_in = Self::new();
        stand_in.variables = variables
            .iter()
            .map(|&(name, value)| (format!("CPIFT_STAND_IN_{name}"), value.to_owned()))
            .collect();
        stand_in
    }

    /// One that also is NCCL's library, with so many devices.
    pub fn with_nccl(devices: usize, variables: &[(&str, &str)]) -> Self {
        let count = devices.to_string();
        let stand_in = Self::with(&[&[("DEVICES", &*count)][..], variables].concat());
        symlink(library(), stand_in.folder.path().join("libnccl.so.2")).unwrap();
        stand_in
    }

    /// Operations that ranks made together, as `0: Reduce F32 1024 1`: rank, operation, elements and root.
    pub fn collectives(&self) -> Vec<String> {
        let log = self.log();
        let lines = log.lines().filter_map(|line| line.strip_prefix("collective of rank "));
        lines.map(str::to_owned).collect()
    }

    /// Lets a command find it.
    pub fn install(&self, command: &mut Command) {
        let mut path = OsString::from(self.folder.path());
        if let Some(before) = env::var_os("LD_LIBRARY_PATH") {
            path.push(":");
            path.push(before);
        }
        command.env("LD_LIBRARY_PATH", path).env(IN_USE, "1").env("CPIFT_STAND_IN_LOG", self.log_file());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log.txt")
    }

    /// What it has written down so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Rules that were broken.
    pub fn violations(&self) -> Vec<String> {
        self.log().lines().filter_map(|line| line.strip_prefix("violation: ")).map(str::to_owned).collect()
    }

    /// Sums of what was counted in all contexts that were given back: `launches`, `graphs`, `updates`, `waits`.
    pub fn counts(&self) -> HashMap<String, u64> {
        let mut sums = HashMap::new();
        for line in self.log().lines().filter_map(|line| line.strip_prefix("counts: ")) {
            let words: Vec<&str> = line.split_whitespace().collect();
            for pair in words.chunks_exact(2) {
                *sums.entry(pair[0].to_owned()).or_insert(0) += pair[1].parse::<u64>().unwrap();
            }
        }
        sums
    }

    /// Runs tests of this very program on it; `arguments` are those of the program.
    fn run_tests(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(arguments).env("CPIFT_TEST_CUDA", "1");
        self.install(&mut command);
        command.output().unwrap()
    }

    /// Runs the one ignored test of this very program that has this name, in whatever module.
    pub fn run_ignored(&self, test: &str) -> Output {
        let mut found = tests_of_this_program(&["--ignored"]);
        found.retain(|name| name.rsplit("::").next() == Some(test));
        assert_eq!(found.len(), 1, "ignored tests named {test}: {found:?}");
        self.run_tests(&["--ignored", "--exact", "--nocapture", "--test-threads", "1", &found[0]])
    }
}

/// Full names of this very program's tests.
fn tests_of_this_program(arguments: &[&str]) -> Vec<String> {
    let program = env::current_exe().unwrap();
    let output =
        Command::new(program).args(["--list", "--format", "terse"]).args(arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.strip_suffix(": test").map(str::to_owned)).collect()
}

/// The line that a test printed behind `mark`.
pub fn said(output: &Output, mark: &str) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.split_once(mark).map(|(_, rest)| rest.to_owned()));
    line.unwrap_or_else(|| panic!("no `{mark}` in {text}{}", String::from_utf8_lossy(&output.stderr)))
}

impl Default for StandIn {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs tests of a module (its [`module_path!`]) again on CPU and stand-in instead of CPU and emulator: those with
/// one of these in their names, or all. To be called in a test whose name has `on_the_stand_in_driver` in it.
pub fn repeat(module: &str, names: &[&str]) {
    if skipped() {
        return;
    }
    // Tests are named without the crate.
    let (_, module) = module.split_once("::").expect("a module of a test program");
    let mut tests = tests_of_this_program(&[]);
    tests.retain(|test| {
        let name = test.strip_prefix(module).and_then(|rest| rest.strip_prefix("::"));
        name.is_some_and(|name| {
            !name.contains(REPEATING)
                && (names.is_empty() || names.iter().any(|wanted| name.contains(wanted)))
        })
    });
    assert!(!tests.is_empty(), "no test of {module} has any of {names:?} in its name");
    // The least shared memory of all devices that are taken.
    let stand_in = StandIn::with(&[("CAPABILITY", "8.6")]);
    let mut arguments = vec!["--exact"];
    arguments.extend(tests.iter().map(String::as_str));
    let output = stand_in.run_tests(&arguments);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(&format!(" {} passed", tests.len())), "not all of them were run: {text}");
    assert_eq!(stand_in.violations(), [""; 0]);
    assert!(stand_in.log().contains("loaded: "), "nothing was run on it: {text}");
}

/// The library, beside the test or where cargo puts what is built for it.
fn library() -> PathBuf {
    let program = env::current_exe().unwrap();
    let folders = program.ancestors().skip(1).take(2);
    let mut places = folders.flat_map(|folder| [folder.join(LIBRARY), folder.join("deps").join(LIBRARY)]);
    let found = places.find(|place| place.is_file());
    found.unwrap_or_else(|| panic!("no {LIBRARY} beside {}", program.display()))
}

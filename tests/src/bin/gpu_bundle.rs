//! Makes a folder that tests and measures this build on a machine with a GPU and its driver, and no Rust:
//!
//! ```text
//! cargo gpu-bundle [FOLDER]       # target/gpu-bundle unless named
//! ```
//!
//! It holds the test and bench programs, stripped, the files they read, the `cpift-engine` binary and
//! `run.sh`, which runs everything, prints a table and writes `results/results.json`.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cpift_tests::folders;
use serde_json::Value;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What runs the bundle.
const SCRIPT: &str = include_str!("gpu_bundle.sh");

fn main() {
    let folder = std::env::args_os().nth(1).map_or_else(|| "target/gpu-bundle".into(), PathBuf::from);
    match make(&folder) {
        Ok(bytes) => println!("{}: {} MiB; run it with run.sh", folder.display(), bytes >> 20),
        Err(error) => {
            eprintln!("error: {error}");
            std::process::exit(1);
        }
    }
}

/// Makes the bundle; returns its size in bytes.
fn make(folder: &Path) -> Result<u64> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    let tests = build(&["test", "--no-run", "-p", "cpift-tests", "-p", "cpift-kernels", "--tests"], is_test)?;
    let benches = build(&["bench", "--no-run", "-p", "cpift-benches", "--benches"], is_bench)?;
    let binary = build(&["build", "-p", "cpift-engine-cli", "--bins"], |kind| kind == "bin")?;
    for (programs, place) in [(tests, "tests"), (benches, "benches"), (binary, "bin")] {
        for (name, program) in programs {
            install(&program, &folder.join("programs").join(place).join(name))?;
        }
    }
    copy_folder(&folders::tests().join("golden"), &folder.join("data/tests/golden"))?;
    copy_folder(&folders::seesaw(), &folder.join("data/examples/seesaw"))?;
    // Scripts find the shapes beside their folder.
    copy_folder(&folders::tests().join("../benches/shapes"), &folder.join("data/shapes"))?;
    copy_folder(&folders::tests().join("../benches/compare"), &folder.join("data/compare"))?;
    fs::write(folder.join("run.sh"), SCRIPT)?;
    make_executable(&folder.join("run.sh"))?;
    size(folder)
}

fn is_test(kind: &str) -> bool {
    kind == "test"
}

fn is_bench(kind: &str) -> bool {
    kind == "bench"
}

/// Builds in release form; returns the programs of targets of that kind by name.
fn build(arguments: &[&str], wanted: fn(&str) -> bool) -> Result<Vec<(String, PathBuf)>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(arguments).arg("--message-format=json-render-diagnostics");
    if arguments[0] != "bench" {
        command.arg("--release");
    }
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("cargo {} failed", arguments.join(" ")).into());
    }
    let mut programs = Vec::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let message: Value = serde_json::from_str(line)?;
        let kind = message["target"]["kind"][0].as_str().unwrap_or_default();
        if let (Some(program), true) = (message["executable"].as_str(), wanted(kind)) {
            let name = message["target"]["name"].as_str().ok_or("a target has no name")?;
            programs.push((name.to_owned(), PathBuf::from(program)));
        }
    }
    Ok(programs)
}

/// Copies a program without its symbols.
fn install(program: &Path, place: &Path) -> Result<()> {
    fs::create_dir_all(place.parent().ok_or("no folder")?)?;
    let stripped = Command::new("strip").arg("-o").arg(place).arg(program).status();
    if !stripped.is_ok_and(|status| status.success()) {
        fs::copy(program, place)?;
    }
    make_executable(place)
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()? {
            kind if kind.is_dir() && entry.file_name() != "runs" => copy_folder(&entry.path(), &target)?,
            kind if kind.is_file() => _ = fs::copy(entry.path(), target)?,
            _ => {}
        }
    }
    Ok(())
}

fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

fn size(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += if metadata.is_dir() { size(&entry.path())? } else { metadata.len() };
    }
    Ok(sum)
}

//! Makes a folder that tests and measures this build on a machine with a GPU and its driver, and no Rust:
//!
//! ```text
//! cargo gpu-bundle [FOLDER]                 # target/gpu-bundle unless named
//! cargo gpu-bundle FOLDER --profile dev     # as cargo builds tests: to try run.sh, not to measure
//! ```
//!
//! It holds the program of the tests that need a device and the `cpift-engine` binary, both stripped, the files they
//! read, and `run.sh`, which runs them part by part, prints tables and writes `results/results.json`.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cpift_tests::folders;
use serde_json::Value;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What runs the bundle.
const SCRIPT: &str = include_str!("gpu_bundle.sh");

/// What is built: the tests that run on a device, and with those of the command line its binary.
const BUILT: [&str; 8] =
    ["-p", "cpift-tests", "--test", "workspace", "-p", "cpift-engine-cli", "--test", "binary"];

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut profile = "release".to_owned();
    if let Some(place) = arguments.iter().position(|argument| argument == "--profile") {
        let rest = arguments.split_off(place);
        profile = rest.get(1).cloned().unwrap_or_default();
        arguments.extend(rest.into_iter().skip(2));
    }
    let folder = arguments.first().map_or_else(|| "target/gpu-bundle".into(), PathBuf::from);
    match make(&folder, &profile) {
        Ok(bytes) => println!("{}: {} MiB; run it with run.sh", folder.display(), bytes >> 20),
        Err(error) => {
            eprintln!("error: {error}");
            std::process::exit(1);
        }
    }
}

/// Makes the bundle; returns its size in bytes.
fn make(folder: &Path, profile: &str) -> Result<u64> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    for (place, name, program) in build(profile)? {
        install(&program, &folder.join("programs").join(place).join(name))?;
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

/// Builds everything in one go; returns the programs with folder and name.
fn build(profile: &str) -> Result<Vec<(&'static str, String, PathBuf)>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["test", "--no-run", "--profile", profile]).args(BUILT);
    let output = command.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err("cargo failed".into());
    }
    let mut programs = Vec::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let message: Value = serde_json::from_str(line)?;
        let Some(program) = message["executable"].as_str() else { continue };
        let name = message["target"]["name"].as_str().ok_or("a target has no name")?;
        let place = match (message["target"]["kind"][0].as_str(), name) {
            // Tests of the command line know where cargo has put it, on this machine.
            (Some("test"), "workspace") => "tests",
            (Some("bin"), "cpift-engine") => "bin",
            _ => continue,
        };
        programs.push((place, name.to_owned(), PathBuf::from(program)));
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
            kind if kind.is_dir() && ["runs", "target"].iter().all(|name| entry.file_name() != *name) => {
                copy_folder(&entry.path(), &target)?;
            }
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

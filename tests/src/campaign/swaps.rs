//! Files and folders of a half-done run, damaged, lost, or replaced by those of another run.

use std::fs;
use std::path::{Path, PathBuf};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::job::{End, Jobs};
use super::{Finding, Outcome};

/// Where a run is when its folder is tampered with.
const STAGES: [&str; 4] = ["probe", "core", "group", "fuse"];

/// One round.
pub fn round(jobs: &Jobs, temporary: &Path, random: &mut ChaCha8Rng) -> Result<Outcome, Finding> {
    let folder = temporary.join("job");
    jobs.write_inputs(&folder, super::Variant::Same);
    let stage = STAGES[random.random_range(0..STAGES.len())];
    jobs.must_run(&folder, &["--until", stage]);
    let run = folder.join("out");
    let what = format!("after {stage}, {}", tamper(jobs, &run, random));
    let arguments = ["train", "recipe.toml", "--out", "out", "--resume"].map(str::to_owned);
    let output = jobs.command(&folder, &arguments).output().expect("the binary");
    let checked = match Jobs::end(&output) {
        Ok(End::Done) => jobs.compare(&run).map(|()| Outcome::SameBits),
        Ok(End::Refused(_)) => Ok(Outcome::Refused),
        Ok(End::Stopped) => Err("stopped by nobody".to_owned()),
        Err(finding) => Err(finding),
    };
    checked.map_err(|finding| format!("{what}: {finding}"))
}

/// Changes one thing in a run folder and says what.
fn tamper(jobs: &Jobs, run: &Path, random: &mut ChaCha8Rng) -> String {
    if random.random_bool(0.4) {
        return swap_folders(jobs, run, random);
    }
    let files = files(run);
    let path = &files[random.random_range(0..files.len())];
    let name = path.strip_prefix(run).expect("a file of the run").display();
    let mut bytes = fs::read(path).expect("a file of the run");
    match random.random_range(0..5) {
        0 => {
            fs::remove_file(path).expect("a file of the run");
            return format!("{name} is removed");
        }
        1 => {
            bytes.truncate(random.random_range(0..=bytes.len()));
            fs::write(path, &bytes).expect("a file of the run");
            return format!("{name} is cut to {} bytes", bytes.len());
        }
        2 if !bytes.is_empty() => {
            let at = random.random_range(0..bytes.len());
            let bit = random.random_range(0..8);
            bytes[at] ^= 1 << bit;
            fs::write(path, &bytes).expect("a file of the run");
            return format!("{name} has bit {bit} of byte {at} flipped");
        }
        3 => {
            let other = &files[random.random_range(0..files.len())];
            fs::copy(other, path).expect("a file of the run");
            return format!("{name} is {}", other.strip_prefix(run).expect("a file of the run").display());
        }
        _ => {}
    }
    let variant = Jobs::any_variant(random);
    let other = jobs.finished(variant).join(path.strip_prefix(run).expect("a file of the run"));
    if !other.is_file() {
        return tamper(jobs, run, random);
    }
    fs::copy(other, path).expect("a file of the run");
    format!("{name} is that of the finished run of {variant:?}")
}

/// Replaces a stage, a task's part of one, or a record by another run's, or one task's part by another's.
fn swap_folders(jobs: &Jobs, run: &Path, random: &mut ChaCha8Rng) -> String {
    let names = [
        "probe",
        "probe/arithmetic",
        "probe/code",
        "probe/logic",
        "core",
        "fused",
        "final",
        "groups.json",
        "scores.json",
        "progress.json",
        "metrics.jsonl",
        "recipe.toml",
        "inputs.json",
        "identity.json",
    ];
    let name = names[random.random_range(0..names.len())];
    let (from, what) = if name.starts_with("probe/") && random.random_bool(0.3) {
        let other = names[random.random_range(1..4)];
        (run.join(other), format!("{name} is {other}"))
    } else {
        let variant = Jobs::any_variant(random);
        (jobs.finished(variant).join(name), format!("{name} is that of the finished run of {variant:?}"))
    };
    let to = run.join(name);
    if from == to || !from.exists() {
        // Nothing to do: another is drawn.
        return swap_folders(jobs, run, random);
    }
    if from.is_dir() {
        let beside = run.with_file_name("beside");
        crate::folders::copy(&from, &beside);
        if to.exists() {
            fs::remove_dir_all(&to).expect("a folder of the run");
        }
        fs::rename(beside, to).expect("a folder of the run");
    } else {
        fs::copy(from, to).expect("a file of the run");
    }
    what
}

/// All files below a folder, in the order of their names.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .expect("a readable folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() { files.extend(self::files(&path)) } else { files.push(path) }
    }
    files
}

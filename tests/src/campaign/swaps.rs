//! Files and folders of a half-done run, damaged, lost, or replaced by those of another run.

use std::fs;
use std::path::{Path, PathBuf};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::job::{End, Jobs};
use super::{Finding, Outcome, Variant};

/// Where a run is when its folder is tampered with.
const STAGES: [&str; 4] = ["probe", "core", "group", "fuse"];

/// What was done to a run folder.
struct Tampered {
    /// For a person.
    what: String,
    /// What was changed, in the run folder.
    name: String,
}

/// One round.
pub fn round(jobs: &Jobs, temporary: &Path, random: &mut ChaCha8Rng) -> Result<Outcome, Finding> {
    let folder = temporary.join("job");
    jobs.write_inputs(&folder, Variant::Same);
    let run = folder.join("out");
    let tampered = if random.random_bool(0.3) {
        let other = temporary.join("other");
        swap_checkpoints(jobs, &folder, &other, random)
    } else {
        let stage = STAGES[random.random_range(0..STAGES.len())];
        jobs.must_run(&folder, &["--until", stage]);
        let Tampered { what, name } = tamper(jobs, &run, random);
        Tampered { what: format!("after {stage}, {what}"), name }
    };
    let Tampered { what, name } = tampered;
    let arguments = ["train", "recipe.toml", "--out", "out", "--resume"].map(str::to_owned);
    let output = jobs.command(&folder, &arguments).output().expect("the binary");
    let checked = match Jobs::end(&output) {
        Ok(End::Done) => jobs.compare(&run).map(|()| Outcome::SameBits),
        Ok(End::Refused(line)) if names(&line, &name) => Ok(Outcome::Refused),
        Ok(End::Refused(line)) => Err(format!("the refusal does not name what was changed: {line}")),
        Ok(End::Stopped) => Err("stopped by nobody".to_owned()),
        Err(finding) => Err(finding),
    };
    checked.map_err(|finding| format!("{what}: {finding}"))
}

/// Whether a line names a file of the run folder, or a folder that it is in.
fn names(line: &str, name: &str) -> bool {
    Path::new(name).ancestors().filter(|part| !part.as_os_str().is_empty()).any(|part| {
        let part = part.to_string_lossy();
        let is_record = !name.contains('/') && line.contains(name);
        is_record || line.contains(&format!("out/{part}")) || line.contains(&format!("`{part}"))
    })
}

/// Two runs are killed in the middle of a training; then a checkpoint, or all of a training, is replaced by that of
/// the other run, of another training or of another step.
fn swap_checkpoints(jobs: &Jobs, folder: &Path, other: &Path, random: &mut ChaCha8Rng) -> Tampered {
    let variant = Jobs::any_variant(random);
    jobs.write_inputs(other, variant);
    for folder in [folder, other] {
        jobs.kill_at_checkpoint(folder, random.random_range(0..150));
    }
    let ours = checkpoints(&folder.join("out"));
    let theirs = checkpoints(&other.join("out"));
    let name = ours[random.random_range(0..ours.len())].clone();
    let (run, root, from) = if random.random_bool(0.3) {
        ("the same run".to_owned(), folder, &ours[random.random_range(0..ours.len())])
    } else {
        (format!("a run of {variant:?}"), other, &theirs[random.random_range(0..theirs.len())])
    };
    let mut to = PathBuf::from(&name);
    let mut source = PathBuf::from(from);
    if random.random_bool(0.3) {
        // All checkpoints of the training.
        to.pop();
        source.pop();
    }
    replace(&root.join("out").join(&source), &folder.join("out").join(&to));
    let what = format!("{} is {} of {run}", to.display(), source.display());
    Tampered { what, name: to.to_string_lossy().into_owned() }
}

/// The checkpoints in a run folder.
fn checkpoints(run: &Path) -> Vec<String> {
    let is_checkpoint =
        |path: &Path| path.starts_with(run.join("checkpoint")) && path.ends_with("manifest.json");
    let folder = |path: PathBuf| path.strip_prefix(run).ok()?.parent()?.to_str().map(str::to_owned);
    files(run).into_iter().filter(|path| is_checkpoint(path)).filter_map(folder).collect()
}

/// Puts a copy of a folder in the place of another.
fn replace(from: &Path, to: &Path) {
    let beside = to.with_file_name("beside");
    crate::folders::copy(from, &beside);
    if to.exists() {
        fs::remove_dir_all(to).expect("a folder of the run");
    }
    fs::rename(beside, to).expect("a folder of the run");
}

/// Changes one thing in a run folder and says what.
fn tamper(jobs: &Jobs, run: &Path, random: &mut ChaCha8Rng) -> Tampered {
    if random.random_bool(0.4) {
        return swap_folders(jobs, run, random);
    }
    let files = files(run);
    let path = &files[random.random_range(0..files.len())];
    let name = path.strip_prefix(run).expect("a file of the run").to_string_lossy().into_owned();
    let mut bytes = fs::read(path).expect("a file of the run");
    match random.random_range(0..5) {
        0 => {
            fs::remove_file(path).expect("a file of the run");
            return Tampered { what: format!("{name} is removed"), name };
        }
        1 => {
            bytes.truncate(random.random_range(0..=bytes.len()));
            fs::write(path, &bytes).expect("a file of the run");
            return Tampered { what: format!("{name} is cut to {} bytes", bytes.len()), name };
        }
        2 if !bytes.is_empty() => {
            let at = random.random_range(0..bytes.len());
            let bit = random.random_range(0..8);
            bytes[at] ^= 1 << bit;
            fs::write(path, &bytes).expect("a file of the run");
            return Tampered { what: format!("{name} has bit {bit} of byte {at} flipped"), name };
        }
        3 => {
            let other = &files[random.random_range(0..files.len())];
            fs::copy(other, path).expect("a file of the run");
            let other = other.strip_prefix(run).expect("a file of the run");
            return Tampered { what: format!("{name} is {}", other.display()), name };
        }
        _ => {}
    }
    let variant = Jobs::any_variant(random);
    let other = jobs.finished(variant).join(path.strip_prefix(run).expect("a file of the run"));
    if !other.is_file() {
        return tamper(jobs, run, random);
    }
    fs::copy(other, path).expect("a file of the run");
    Tampered { what: format!("{name} is that of the finished run of {variant:?}"), name }
}

/// Replaces a stage, a task's part of one, or a record by another run's, or one task's part by another's.
fn swap_folders(jobs: &Jobs, run: &Path, random: &mut ChaCha8Rng) -> Tampered {
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
        "answers.json",
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
        replace(&from, &to);
    } else {
        fs::copy(from, to).expect("a file of the run");
    }
    Tampered { what, name: name.to_owned() }
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

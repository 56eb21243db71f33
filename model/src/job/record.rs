//! The records a run is begun with: the files it reads, so that continuing it with others is noticed, and the
//! processes that worked on it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cpift_engine::Device;
use serde::{Deserialize, Serialize};

use super::input_role::{InputRole, Split};
use super::inputs::{Evaluated, Inputs};
use super::model_files::{descriptions, model_files};
use super::names::{INPUTS, RUN};
use crate::adapter::folders;
use crate::checkpoint::{copied_files, is_copied};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::files::{AtomicFolder, Difference, KnownFiles, read_json};
use crate::hub::{HubOrigin, HubSource, RepositoryKind};
use crate::progress::{Plan, ProcessRecord, RunRecord};
use crate::recipe::Recipe;
use crate::{files, machine};

/// One file that the run reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputFile {
    /// What the file is to the run, whatever its path.
    pub role: InputRole,
    /// Where it is, as the recipe gives it.
    pub path: PathBuf,
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3 hash of the content, in hexadecimal.
    pub blake3: String,
}

/// What of a run is kept from one process to the next, beside its stages.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RunProgress {
    /// Seconds that processes have worked on it.
    pub seconds: f64,
    /// How many of them on a probe that was made apart and taken over, by task.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub probes: BTreeMap<String, f64>,
}

/// What `final/report.json` holds, beside the model.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct FinalReport {
    /// Frozen coordinates found unchanged at the end of the parts of stage 4.
    pub frozen_verified: u64,
}

/// Adds this process, which may make one `probe` alone, to the run's record; the first also writes what is planned. Returns
/// ranks and threads of an earlier process, where these were others.
///
/// # Errors
/// When the record cannot be read or written.
pub fn add_process(
    run: &Path,
    plan: &Plan,
    device: &Device,
    ranks: usize,
    hub: Vec<HubSource>,
    probe: Option<&str>,
) -> Result<Option<(u64, u64)>> {
    let path = run.join(RUN);
    let before: Option<RunRecord> = read_json(&path)?;
    let mut record = before.unwrap_or_else(|| RunRecord { plan: plan.clone(), processes: Vec::new(), hub });
    let now = (ranks as u64, device.threads() as u64);
    let earlier = record.processes.iter().map(|earlier| (earlier.ranks, earlier.threads));
    let other = earlier.into_iter().find(|&earlier| earlier != now);
    record.processes.push(ProcessRecord {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        device: device.describe(),
        threads: now.1,
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        memory_bytes: machine::memory_bytes(),
        began: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        probe: probe.map(str::to_owned),
        ranks: ranks as u64,
    });
    files::write_json_atomically(&path, &record)?;
    Ok(other)
}

/// Adds the processes that have made the probe of a task in the run folder `from`, each once, in the order in which all
/// began; returns them.
///
/// # Errors
/// When a record cannot be read or written.
pub fn take_over_processes(run: &Path, from: &Path, task: &str) -> Result<Vec<ProcessRecord>> {
    let path = run.join(RUN);
    let theirs = read_json::<RunRecord>(&from.join(RUN))?.map(|record| record.processes).unwrap_or_default();
    if let Some(mut record) = read_json::<RunRecord>(&path)? {
        record.processes.retain(|process| process.probe.as_deref() != Some(task));
        record.processes.extend(theirs.iter().cloned());
        record.processes.sort_by(|one, other| one.began.cmp(&other.began));
        files::write_json_atomically(&path, &record)?;
    }
    Ok(theirs)
}

/// What a run reads of the hub, wherever its recipe found it.
pub fn hub_sources(recipe: &Recipe, inputs: &Inputs) -> Vec<HubSource> {
    let mut sources: Vec<HubSource> = Vec::new();
    let mut add = |key: String, kind: RepositoryKind, origin: Option<HubOrigin>| {
        let Some(origin) = origin else { return };
        let asked = recipe.hub.iter().find(|source| (&source.key, &source.origin) == (&key, &origin));
        let asked = asked.and_then(|source| source.asked.clone());
        let source = HubSource { key, kind, origin, asked };
        if !sources.contains(&source) {
            sources.push(source);
        }
    };
    let base = recipe.model.base.iter();
    base.for_each(|base| add("model.base".into(), RepositoryKind::Model, HubOrigin::of_model(base)));
    for (settings, task) in recipe.task.iter().zip(&inputs.tasks) {
        let key = |part: &str| format!("task.{}.{part}", task.name);
        let model = settings.model.iter();
        model.for_each(|model| add(key("model"), RepositoryKind::Model, HubOrigin::of_model(model)));
        for (part, data) in [("train", Some(&task.train)), ("eval", task.eval())] {
            let files = data.into_iter().flat_map(|data| data.files());
            files.for_each(|file| add(key(part), RepositoryKind::Dataset, HubOrigin::of_data(file)));
        }
    }
    for Evaluated { name, rows, .. } in &inputs.measures {
        let key = format!("measure.{name}.eval");
        let files = rows.files().iter();
        files.for_each(|file| add(key.clone(), RepositoryKind::Dataset, HubOrigin::of_data(file)));
    }
    sources
}

/// What a run read of the hub when it was begun; nothing where none was begun.
///
/// # Errors
/// When the record cannot be read.
pub fn recorded_hub_sources(run: &Path) -> Result<Vec<HubSource>> {
    let record: Option<RunRecord> = read_json(&run.join(RUN))?;
    Ok(record.map(|record| record.hub).unwrap_or_default())
}

/// Writes the record of the files.
///
/// # Errors
/// When it cannot be written.
pub fn write(run: &Path, files: &[InputFile]) -> Result<()> {
    files::write_json_atomically(&run.join(INPUTS), &files)
}

/// Compares the files with the record of the run, if there is one: by content, wherever they are now.
///
/// # Errors
/// Naming the first file that is not what it was, or not there, or new.
pub fn check(run: &Path, now: &[InputFile]) -> Result<()> {
    let Some(before) = read_json::<Vec<InputFile>>(&run.join(INPUTS))? else { return Ok(()) };
    for file in now {
        let difference = match before.iter().find(|other| other.role == file.role) {
            Some(other) if (other.bytes, &other.blake3) == (file.bytes, &file.blake3) => continue,
            Some(_) => Difference::Changed,
            None => Difference::New,
        };
        return Err(difference.of(&file.path));
    }
    match before.iter().find(|file| !now.iter().any(|other| other.role == file.role)) {
        Some(file) => Err(Difference::Gone.of(&file.path)),
        None => Ok(()),
    }
}

/// The files that another run was begun with.
///
/// # Errors
/// When the record is missing or cannot be read.
pub fn read(run: &Path) -> Result<Vec<InputFile>> {
    let path = run.join(INPUTS);
    read_json(&path)?
        .ok_or_else(|| Error::format(&path, "is missing: the run does not say what it was made from"))
}

/// Fails unless what a run measures of base and probes, it measures on the same files as this one: the base, the rows
/// to evaluate, and the models that tasks bring.
///
/// # Errors
/// Naming the first file that is not the same in both.
pub fn check_measured(run: &Path, theirs: &[InputFile], own: &[InputFile]) -> Result<()> {
    let is_measured = |file: &&InputFile| file.role.is_measured();
    let is_in = |file: &InputFile, others: &[InputFile]| {
        others.iter().any(|other| (&other.role, &other.blake3) == (&file.role, &file.blake3))
    };
    let differs = own.iter().filter(is_measured).find(|file| !is_in(file, theirs));
    match differs.or_else(|| theirs.iter().filter(is_measured).find(|file| !is_in(file, own))) {
        None => Ok(()),
        Some(file) => {
            let reason = format!(
                "is not the same in {}, whose probes are to be taken over: use the same file, or train the probes anew",
                run.display()
            );
            Err(Error::format(&file.path, reason))
        }
    }
}

/// Every file with what it is to the run, in the order of the recipe. Contents are remembered in `known`.
///
/// # Errors
/// When a file cannot be read.
pub fn describe_all(recipe: &Recipe, inputs: &Inputs, known: &KnownFiles) -> Result<Vec<InputFile>> {
    let mut files: Vec<(InputRole, PathBuf)> = Vec::new();
    let config = recipe.model.config.iter().filter(|path| path.is_file());
    files.extend(config.map(|path| (InputRole::Config, path.clone())));
    let named = |path: PathBuf| (InputRole::Base(file_name(&path)), path);
    for folder in folders(&inputs.base.folder)? {
        files.extend(descriptions(&folder).map(named));
    }
    let copied = copied_files(&inputs.base.folder)?.into_iter();
    files.extend(copied.map(|(path, name)| (InputRole::Base(name), path)));
    let weights = inputs.base.checkpoint.iter().flat_map(|base| base.files().map(Path::to_owned));
    files.extend(weights.map(named));
    for task in &inputs.tasks {
        files.extend(data_files(&task.name, Split::Train, &task.train));
        files.extend(task.eval().into_iter().flat_map(|eval| data_files(&task.name, Split::Eval, eval)));
        let model = task.model.iter().flat_map(model_files);
        let role = |path: &Path| InputRole::Model { task: task.name.clone(), file: file_name(path) };
        files.extend(model.map(|path| (role(&path), path)));
    }
    for Evaluated { name, rows, .. } in &inputs.measures {
        let role = |index| InputRole::Measure { measure: name.clone(), index };
        files.extend(rows.files().iter().enumerate().map(|(index, path)| (role(index), path.clone())));
    }
    let describe = |(role, path): (InputRole, PathBuf)| {
        let (bytes, blake3) = known.add(&path)?;
        Ok(InputFile { role, path, bytes, blake3 })
    };
    files.into_iter().map(describe).collect()
}

/// Fails unless a model's folder under construction holds the copies of the base's files that the run was begun
/// with.
///
/// # Errors
/// Naming the file that changed, came or went since.
pub fn check_copies(writing: &AtomicFolder, base: &Path, files: &[InputFile]) -> Result<()> {
    for (path, name) in copied_files(base)? {
        let is_it = |file: &&InputFile| matches!(&file.role, InputRole::Base(base) if *base == name);
        let before = files.iter().find(is_it).map(|file| file.blake3.as_str());
        let difference = match before {
            before if before == writing.hash_of(&name) => continue,
            Some(_) => Difference::Changed,
            None => Difference::New,
        };
        return Err(difference.of(&path));
    }
    let mut names = files.iter().filter_map(|file| match &file.role {
        InputRole::Base(name) => Some(name),
        _ => None,
    });
    let missing = |name: &&String| is_copied(name) && writing.hash_of(name).is_none();
    match names.find(missing) {
        Some(name) => Err(Difference::Gone.of(&base.join(name))),
        None => Ok(()),
    }
}

/// The files of a data set with their roles.
fn data_files(task: &str, split: Split, data: &Dataset) -> Vec<(InputRole, PathBuf)> {
    let role = |index| InputRole::Data { task: task.to_owned(), split, index };
    data.files().iter().enumerate().map(|(index, path)| (role(index), path.clone())).collect()
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(role: &str, blake3: &str) -> InputFile {
        InputFile { role: role.parse().unwrap(), path: role.into(), bytes: 1, blake3: blake3.to_owned() }
    }

    #[test]
    fn what_is_trained_on_is_not_what_was_measured() {
        let run = Path::new("run");
        let own = [file("base/config.json", "a"), file("task.x.train", "b"), file("task.x.train/2", "c")];
        let theirs = [file("base/config.json", "a"), file("task.x.train", "d"), file("task.x.train/2", "e")];
        check_measured(run, &theirs, &own).unwrap();
        check_measured(run, &theirs[..1], &own).unwrap();
        let other = [file("base/config.json", "a"), file("task.x.eval/2", "e")];
        let message = check_measured(run, &theirs, &other).unwrap_err().to_string();
        assert!(message.starts_with("task.x.eval/2: is not the same in run"), "{message}");
    }
}

//! The records a run is begun with: the files it reads, so that continuing it with others is noticed, and the
//! processes that worked on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cpift_engine::Device;
use serde::{Deserialize, Serialize};

use super::inputs::Inputs;
use super::session::read_json;
use crate::checkpoint::Checkpoint;
use crate::data::templates::additional_files;
use crate::error::{Error, Result};
use crate::progress::{Plan, ProcessRecord, RunRecord};
use crate::settings::Recipe;
use crate::{files, machine};

/// Name of the record in the run folder.
pub const INPUTS: &str = "inputs.json";

/// What is read of a model beside its weights, where it is there.
const MODEL_FILES: [&str; 2] = ["config.json", "model.safetensors.index.json"];

/// What is read with a tokenizer, where it is there.
const TOKENIZER_FILES: [&str; 7] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// Name of the record of processes in the run folder.
pub const RUN: &str = "run.json";

/// One file that the run reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputFile {
    /// As the recipe gives it.
    pub path: PathBuf,
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3 hash of the content, in hexadecimal.
    pub blake3: String,
}

/// Adds this process to the run's record; the first also writes what is planned.
///
/// # Errors
/// When the record cannot be read or written.
pub fn add_process(run: &Path, plan: &Plan, device: &Device) -> Result<()> {
    let path = run.join(RUN);
    let before: Option<RunRecord> = read_json(&path)?;
    let mut record = before.unwrap_or_else(|| RunRecord { plan: plan.clone(), processes: Vec::new() });
    record.processes.push(ProcessRecord {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        device: device.describe(),
        threads: device.threads() as u64,
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        memory_bytes: machine::memory_bytes(),
        began: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
    });
    files::write_json_atomically(&path, &record)
}

/// Writes the record of a run that has none yet.
///
/// # Errors
/// When a file cannot be read, or the record cannot be written.
pub fn write(run: &Path, recipe: &Recipe, inputs: &Inputs) -> Result<()> {
    let path = run.join(INPUTS);
    if path.exists() { Ok(()) } else { files::write_json_atomically(&path, &describe_all(recipe, inputs)?) }
}

/// Compares the files with the record of the run, if there is one.
///
/// # Errors
/// Naming the first file that is not what it was, or not there, or new.
pub fn check(run: &Path, recipe: &Recipe, inputs: &Inputs) -> Result<()> {
    let Some(before) = read_json::<Vec<InputFile>>(&run.join(INPUTS))? else { return Ok(()) };
    let now = describe_all(recipe, inputs)?;
    for file in &now {
        let difference = match before.iter().find(|other| other.path == file.path) {
            Some(other) if other == file => continue,
            Some(_) => "has changed since the run was begun: put back what it was",
            None => "was not there when the run was begun: remove it",
        };
        return Err(Error::format(&file.path, format!("{difference}, or start a new run")));
    }
    match before.iter().find(|file| !now.iter().any(|other| other.path == file.path)) {
        Some(file) => {
            let reason = "was there when the run was begun and is gone: put it back, or start a new run";
            Err(Error::format(&file.path, reason))
        }
        None => Ok(()),
    }
}

/// Every file once, in the order of the recipe.
pub fn describe_all(recipe: &Recipe, inputs: &Inputs) -> Result<Vec<InputFile>> {
    let mut paths: Vec<PathBuf> = recipe.model.config.iter().filter(|path| path.is_file()).cloned().collect();
    paths.extend(existing(&inputs.base.folder, &TOKENIZER_FILES));
    paths.extend(additional_files(&inputs.base.folder)?);
    paths.extend(inputs.base.checkpoint.iter().flat_map(model_files));
    for task in &inputs.tasks {
        paths.push(task.train.path().to_owned());
        paths.extend(task.eval.iter().map(|eval| eval.path().to_owned()));
        paths.extend(task.model.iter().flat_map(model_files));
    }
    let mut described: Vec<InputFile> = Vec::with_capacity(paths.len());
    for path in paths {
        if !described.iter().any(|file| file.path == path) {
            described.push(describe(path)?);
        }
    }
    Ok(described)
}

fn model_files(model: &Checkpoint) -> Vec<PathBuf> {
    let folder = model.files().next().and_then(Path::parent).unwrap_or(Path::new("."));
    existing(folder, &MODEL_FILES).chain(model.files().map(Path::to_owned)).collect()
}

fn existing(folder: &Path, names: &'static [&str]) -> impl Iterator<Item = PathBuf> {
    let folder = folder.to_owned();
    names.iter().map(move |name| folder.join(name)).filter(|path| path.is_file())
}

fn describe(path: PathBuf) -> Result<InputFile> {
    let bytes = fs::metadata(&path).map_err(Error::file(&path, "read"))?.len();
    let blake3 = files::hash_file(&path)?.to_hex().to_string();
    Ok(InputFile { path, bytes, blake3 })
}

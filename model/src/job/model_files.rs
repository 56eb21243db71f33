//! The files of a model's folder that a job reads.

use std::path::{Path, PathBuf};

use crate::adapter::folders;
use crate::checkpoint::{Checkpoint, copied_files};
use crate::files::KnownFiles;

/// What is read of a model beside its weights and the files that are copied, where it is there.
const DESCRIPTIONS: [&str; 3] = ["adapter_config.json", "config.json", "model.safetensors.index.json"];

/// The files in a model's folder that describe its weights.
pub fn descriptions(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let folder = folder.to_owned();
    DESCRIPTIONS.iter().map(move |name| folder.join(name)).filter(|path| path.is_file())
}

/// The files of a model that a task brings: descriptions, then weights.
pub fn model_files(model: &Checkpoint) -> Vec<PathBuf> {
    // Of an adapter its base's folder and its own.
    let mut folders: Vec<&Path> = model.files().filter_map(Path::parent).collect();
    folders.dedup();
    folders.into_iter().flat_map(descriptions).chain(model.files().map(Path::to_owned)).collect()
}

/// Remembers how the files of a model's folder are before it is opened: all that it may have to be read.
pub fn snapshot_model(known: &KnownFiles, folder: &Path) {
    for folder in folders(folder).into_iter().flatten() {
        descriptions(&folder).for_each(|path| known.snapshot(&path));
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.for_each(|entry| known.snapshot(&entry.path()));
    }
    // Those in folders of templates.
    copied_files(folder).into_iter().flatten().for_each(|(path, _)| known.snapshot(&path));
}

//! A folder that appears whole or not at all, and whose large files survive an interruption.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::folder::{MANIFEST, MANIFEST_VERSION, Manifest, ManifestEntry, Origin};
use super::{
    FileWriter, FolderLock, LOCK, create_folders, publish_folder, read_json, remove_partial, require_empty,
    sync_folder, temporary_name, unfinished_sibling, write_error, write_json_atomically,
};
use crate::error::{Error, FileAction, Result};

/// Name of what is known of an unfinished folder.
const STATE: &str = "state.json";

/// How the name of an unfinished folder ends; it begins with a dot.
const UNFINISHED: &str = ".unfinished";

/// What the manifest says such a folder is.
const PLACE: &str = "merge";

/// What an unfinished folder is made from, and the files of it that are whole.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    identity: String,
    files: Vec<ManifestEntry>,
}

/// A folder under construction beside its destination, under a name that follows from it: `.NAME.unfinished`. Files that
/// are whole stay there until [`ResumableFolder::commit`] makes the folder appear or [`ResumableFolder::discard`] removes
/// it.
#[derive(Debug)]
pub struct ResumableFolder {
    working: PathBuf,
    destination: PathBuf,
    state: State,
    /// Held until the folder has its name.
    lock: FolderLock,
}

impl ResumableFolder {
    /// Starts a folder, or goes on with the unfinished one where `resume` says so and there is one. `identity` is a hash of
    /// all that the files follow from.
    ///
    /// # Errors
    /// Something is at the destination; another process works on the folder; the unfinished one was made from something
    /// else; the system refuses.
    pub fn open(destination: &Path, identity: &str, resume: bool) -> Result<Self> {
        require_empty(destination)?;
        let working = unfinished_sibling(destination, UNFINISHED)?;
        create_folders(&working)?;
        let lock = FolderLock::take(&working)?;
        let found = if resume { read_json::<State>(&working.join(STATE))? } else { None };
        if let Some(found) = &found
            && found.identity != identity
        {
            let reason = format!(
                "the unfinished folder beside it, {}, was begun with other inputs or settings: leave out --resume to begin \
                 anew",
                working.display()
            );
            return Err(Error::format(destination, reason));
        }
        remove_partial(&working)?;
        let state = found.unwrap_or_else(|| State { identity: identity.to_owned(), files: Vec::new() });
        let mut folder = Self { working, destination: destination.to_owned(), state, lock };
        folder.state.files = folder.whole_files();
        folder.remove_others()?;
        folder.save()?;
        Ok(folder)
    }

    /// Files that are whole, by the lengths that were written.
    fn whole_files(&self) -> Vec<ManifestEntry> {
        let is_whole = |file: &&ManifestEntry| {
            fs::metadata(self.working.join(&file.name)).is_ok_and(|found| found.len() == file.bytes)
        };
        self.state.files.iter().take_while(is_whole).cloned().collect()
    }

    /// Removes what is left of files that are to be made anew.
    fn remove_others(&self) -> Result<()> {
        let entries = fs::read_dir(&self.working).map_err(Error::file(&self.working, FileAction::Read))?;
        for entry in entries {
            let entry = entry.map_err(Error::file(&self.working, FileAction::Read))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != LOCK && name != STATE && !self.contains(&name) {
                let path = entry.path();
                let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                removed.map_err(Error::file(&path, FileAction::Remove))?;
            }
        }
        Ok(())
    }

    fn save(&self) -> Result<()> {
        write_json_atomically(&self.working.join(STATE), &self.state)
    }

    /// Where the folder will be.
    pub fn destination(&self) -> &Path {
        &self.destination
    }

    /// True when a whole file of this name is there.
    pub fn contains(&self, name: &str) -> bool {
        self.state.files.iter().any(|file| file.name == name)
    }

    /// Bytes of the files that are whole.
    pub fn bytes(&self) -> u64 {
        self.state.files.iter().map(|file| file.bytes).sum()
    }

    /// Starts a file of this name, which must be a plain one. [`ResumableFolder::keep`] makes it one of the whole files.
    ///
    /// # Errors
    /// The system's.
    pub fn create(&self, name: &str) -> Result<FileWriter> {
        let destination = self.destination.join(name);
        let temporary = self.working.join(temporary_name(name));
        FileWriter::create(temporary, destination)
    }

    /// Flushes a file to the disk and remembers that it is whole.
    ///
    /// # Errors
    /// The system's; the file is then gone.
    pub fn keep(&mut self, name: &str, mut writer: FileWriter) -> Result<()> {
        writer.flush_to_disk()?;
        let path = self.working.join(name);
        fs::rename(&writer.temporary, &path)
            .map_err(write_error(&self.destination.join(name), FileAction::Rename))?;
        writer.complete = true;
        sync_folder(&self.working)?;
        let blake3 = writer.hasher.finalize().to_hex().to_string();
        self.state.files.push(ManifestEntry { name: name.to_owned(), bytes: writer.bytes, blake3 });
        self.save()
    }

    /// Adds a file, by what writes it, in a folder inside where the name says so.
    ///
    /// # Errors
    /// `write`'s own, or the system's.
    pub fn write(&mut self, name: &str, write: impl FnOnce(&mut FileWriter) -> Result<()>) -> Result<()> {
        if let Some((folder, _)) = name.split_once('/') {
            create_folders(&self.working.join(folder))?;
        }
        let temporary = self.working.join(temporary_name(&name.replace('/', "-")));
        let mut writer = FileWriter::create(temporary, self.destination.join(name))?;
        write(&mut writer)?;
        self.keep(name, writer)
    }

    /// Writes the manifest, flushes everything to the disk, and gives the folder its name.
    ///
    /// # Errors
    /// The system's; the folder can then be resumed.
    pub fn commit(self) -> Result<()> {
        let Self { working, destination, state, lock } = self;
        let State { identity, files } = state;
        let origin = Origin { identity, place: PLACE.to_owned(), made_from: String::new(), metrics: None };
        let manifest = Manifest { version: MANIFEST_VERSION, origin: Some(origin), files };
        write_json_atomically(&working.join(MANIFEST), &manifest)?;
        // Windows renames no folder in which a file is open.
        let lock = Some(lock).filter(|_| cfg!(not(windows)));
        for name in [STATE, LOCK] {
            let path = working.join(name);
            fs::remove_file(&path).map_err(Error::file(&path, FileAction::Remove))?;
        }
        for folder in manifest.files.iter().filter_map(|file| Some(file.name.split_once('/')?.0)) {
            sync_folder(&working.join(folder))?;
        }
        sync_folder(&working)?;
        publish_folder(&working, &destination)?;
        drop(lock);
        Ok(())
    }

    /// Removes what there is: for failures that going on would not mend.
    pub fn discard(self) {
        // A failure leaves a folder that the next merge to the same destination begins anew in.
        let _ = fs::remove_dir_all(&self.working);
    }
}

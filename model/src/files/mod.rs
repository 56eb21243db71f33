//! Files that are written whole or not at all, and the checks made before any work starts.
//!
//! A file or folder is built under a temporary name beside its destination, flushed to the disk, and
//! renamed. Whatever a killed run leaves behind has a temporary name, which [`remove_partial`] recognises.

mod folder;
mod input;
mod known;
mod lock;
mod output;
mod resumable;
mod shared;

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, FileAction, Result};
pub(crate) use folder::require_plain_name;
pub use folder::{
    AtomicFolder, MANIFEST, Manifest, ManifestEntry, Origin, RecordedSteps, Verify, hash_file, hash_texts,
};
pub use input::{
    MOST_TEXT_BYTES, MOST_TOKENIZER_BYTES, known_beginning, looks_like, open_input, read_input,
    read_input_json, read_input_text,
};
pub(crate) use known::FileSnapshot;
pub use known::{Difference, KnownFiles};
pub use lock::FolderLock;
use lock::LOCK;
pub use output::{write_json_output, write_output};
pub use resumable::ResumableFolder;
pub use shared::{SharedFolder, TestFile, with_test_file};

/// How temporary names end; they begin with a dot.
const TEMPORARY_SUFFIX: &str = ".partial";

/// Bytes collected before they are handed to the system.
const WRITE_BUFFER: usize = 1 << 20;

/// Bytes that one file being written and one being read take.
pub(crate) const FILE_BUFFERS: usize = WRITE_BUFFER + folder::READ_BUFFER;

/// A file being written under a temporary name. Its length and BLAKE3 hash are kept as it grows.
#[derive(Debug)]
pub struct FileWriter {
    /// Where the file will be, for messages.
    destination: PathBuf,
    temporary: PathBuf,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    bytes: u64,
    /// The file stays when this writer goes: it is complete.
    complete: bool,
}

impl FileWriter {
    fn create(temporary: PathBuf, destination: PathBuf) -> Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temporary)
            .map_err(write_error(&destination, FileAction::Create))?;
        let file = BufWriter::with_capacity(WRITE_BUFFER, file);
        Ok(Self { destination, temporary, file, hasher: blake3::Hasher::new(), bytes: 0, complete: false })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// The system's, naming the file: a full disk above all.
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all(bytes).map_err(write_error(&self.destination, FileAction::Write))
    }

    /// The first half of [`FileWriter::put`]: hands bytes over to the system. [`FileWriter::digest`] is the other; apart,
    /// what the system takes can be told from what the hash does.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(write_error(&self.destination, FileAction::Write))
    }

    /// Adds bytes that were appended to the hash and the length.
    pub(crate) fn digest(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// Where the file will be.
    pub fn destination(&self) -> &Path {
        &self.destination
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The file itself, for flushing on another thread what has been written.
    pub(crate) fn handle(&self) -> Result<File> {
        self.file.get_ref().try_clone().map_err(write_error(&self.destination, FileAction::Write))
    }

    /// Flushes to the disk. The file still has its temporary name.
    fn flush_to_disk(&mut self) -> Result<()> {
        let flushed = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        flushed.map_err(write_error(&self.destination, FileAction::Write))
    }
}

impl Write for FileWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        if !self.complete {
            // Nothing can be done about a failure here; the name shows that it is a leftover.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Writes a file whole or not at all: an existing file keeps its content until the new one is complete.
///
/// # Errors
/// `write`'s own, or the system's; the temporary file is then gone.
pub fn write_atomically(path: &Path, write: impl FnOnce(&mut FileWriter) -> Result<()>) -> Result<()> {
    let mut writer = FileWriter::create(temporary_sibling(path)?, path.to_owned())?;
    write(&mut writer)?;
    writer.flush_to_disk()?;
    fs::rename(&writer.temporary, path).map_err(write_error(path, FileAction::Rename))?;
    writer.complete = true;
    sync_folder(parent(path))
}

/// Writes a file where none is, whole or not at all; false where there is one, which stays as it is. Of several processes
/// that do so at the same time, one writes it, on file systems that machines share as well.
///
/// # Errors
/// The system's, naming the file.
pub fn create_atomically(path: &Path, bytes: &[u8]) -> Result<bool> {
    // Dropped without being complete, it removes its temporary file.
    let mut writer = FileWriter::create(temporary_sibling(path)?, path.to_owned())?;
    writer.put(bytes)?;
    writer.flush_to_disk()?;
    match fs::hard_link(&writer.temporary, path) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists || path.exists() => return Ok(false),
        // Not every file system has links. A rename would replace what another process writes at this moment.
        Err(_) => {
            fs::rename(&writer.temporary, path).map_err(write_error(path, FileAction::Create))?;
            writer.complete = true;
        }
    }
    sync_folder(parent(path))?;
    Ok(true)
}

/// [`create_atomically`] for a value as JSON.
///
/// # Errors
/// As [`create_atomically`].
pub fn create_json_atomically(path: &Path, value: &impl Serialize) -> Result<bool> {
    create_atomically(path, json_text(path, value)?.as_bytes())
}

/// Gives a folder, with what is in it, another name beside it or below the same folder of a run. False where something is
/// at that name, or the folder is no longer there: another process was first.
///
/// # Errors
/// The system's, naming the folder.
pub fn move_folder(from: &Path, to: &Path) -> Result<bool> {
    create_folders(parent(to))?;
    match fs::rename(from, to) {
        Ok(()) => {}
        Err(_) if !from.exists() || to.exists() => return Ok(false),
        Err(error) => return Err(write_error(to, FileAction::Rename)(error)),
    }
    sync_folder(parent(to))?;
    sync_folder(parent(from))?;
    Ok(true)
}

/// Reads a text file that this program wrote, of any size.
///
/// # Errors
/// As [`open_input`]; it is not text in UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    let mut text = String::new();
    open_input(path)?.read_to_string(&mut text).map_err(Error::file(path, FileAction::Read))?;
    Ok(text)
}

/// [`write_atomically`] for content that is in memory.
///
/// # Errors
/// As [`write_atomically`].
pub fn write_bytes_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically(path, |file| file.put(bytes))
}

/// [`write_atomically`] for a value as JSON.
///
/// # Errors
/// As [`write_atomically`].
pub fn write_json_atomically(path: &Path, value: &impl Serialize) -> Result<()> {
    write_bytes_atomically(path, json_text(path, value)?.as_bytes())
}

/// A value as JSON for people to read; `path` is what is blamed.
pub(crate) fn json_text(path: &Path, value: &impl Serialize) -> Result<String> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::Job(format!("{}: {error}", path.display())))?;
    text.push('\n');
    Ok(text)
}

/// Removes what killed runs left under temporary names in a folder and the folders in it; returns how
/// many. Only for folders no other process is writing to: see [`FolderLock`]. What another process removes at
/// the same time, as it does when it only tries whether it may write here, is gone as well.
///
/// # Errors
/// The system's, naming the file.
pub fn remove_partial(folder: &Path) -> Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(folder).map_err(Error::file(folder, FileAction::Read))? {
        let entry = entry.map_err(Error::file(folder, FileAction::Read))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(Error::file(&path, FileAction::Read))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if is_temporary(&name) {
            let outcome = if kind.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            unless_gone(outcome).map_err(Error::file(&path, FileAction::Remove))?;
            removed += 1;
        } else if kind.is_dir() {
            removed += remove_partial(&path)?;
        }
    }
    Ok(removed)
}

/// Fails unless `folder` is missing or empty, so that nothing already there is mixed with new files.
///
/// # Errors
/// The folder has content, is a file, or cannot be read.
pub fn require_empty(folder: &Path) -> Result<()> {
    require_nothing_but(folder, |_| false)
}

/// As [`require_empty`], for the folder of a run that is to begin: the lock, and what a process that wants the folder
/// tries out in it, do not count.
///
/// # Errors
/// As [`require_empty`].
pub fn require_unused(folder: &Path) -> Result<()> {
    require_nothing_but(folder, |name| name == LOCK || is_temporary(name))
}

fn require_nothing_but(folder: &Path, is_allowed: impl Fn(&str) -> bool) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::file(folder, FileAction::Read)(error)),
    };
    for entry in entries {
        let name = entry.map_err(Error::file(folder, FileAction::Read))?.file_name();
        if !is_allowed(&name.to_string_lossy()) {
            return Err(Error::format(folder, "the folder is not empty; name another one or remove it"));
        }
    }
    Ok(())
}

/// Creates `folder` where it is missing, and fails unless a file can be created in it.
///
/// # Errors
/// The system's, naming the folder.
pub fn require_writable(folder: &Path) -> Result<()> {
    create_folders(folder)?;
    let probe = folder.join(temporary_name("writable"));
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&probe)
        // Whoever holds the folder's lock may have swept the file away.
        .and_then(|_| unless_gone(fs::remove_file(&probe)))
        .map_err(write_error(folder, FileAction::WriteInto))
}

/// A removal of what is no longer there has nothing left to do.
fn unless_gone(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Where a folder is made that goes on after an interruption: beside its destination, under a name that follows from it and
/// begins with a dot.
///
/// # Errors
/// The destination has no name, as `.` and `..`.
pub fn unfinished_sibling(destination: &Path, ending: &str) -> Result<PathBuf> {
    let Some(name) = destination.file_name() else {
        return Err(Error::format(destination, "this names no folder; give a name inside a folder"));
    };
    Ok(parent(destination).join(format!(".{}{ending}", name.to_string_lossy())))
}

/// Gives a complete folder its name, which no folder has or an empty one, on the same file system.
///
/// # Errors
/// The system's, naming the destination.
pub fn publish_folder(from: &Path, destination: &Path) -> Result<()> {
    if cfg!(windows) && destination.exists() {
        // There a rename does not replace even an empty folder.
        fs::remove_dir(destination).map_err(write_error(destination, FileAction::Replace))?;
    }
    fs::rename(from, destination).map_err(write_error(destination, FileAction::Create))?;
    sync_folder(parent(destination))
}

/// Removes a folder that is complete: killed meanwhile, it leaves one that [`remove_partial`] removes.
///
/// # Errors
/// The system's, naming the folder.
pub fn remove_folder(folder: &Path) -> Result<()> {
    let temporary = temporary_sibling(folder)?;
    fs::rename(folder, &temporary).map_err(Error::file(folder, FileAction::Remove))?;
    fs::remove_dir_all(&temporary).map_err(Error::file(folder, FileAction::Remove))
}

/// Bytes that are free where `path`, which need not exist yet, is.
///
/// # Errors
/// They cannot be found out.
pub fn free_space(path: &Path) -> Result<u64> {
    let existing = path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("."));
    fs4::available_space(existing).map_err(Error::file(existing, FileAction::MeasureSpace))
}

/// Fails unless the file system that holds `path`, which need not exist yet, has `bytes` to spare.
///
/// # Errors
/// Too little space, or it cannot be found out.
pub fn require_free_space(path: &Path, bytes: u64) -> Result<()> {
    let free = free_space(path)?;
    if free >= bytes {
        return Ok(());
    }
    let reason = format!(
        "{} are needed and {} are free; free some space or name a folder on another disk",
        human_bytes(bytes),
        human_bytes(free)
    );
    Err(Error::format(path, reason))
}

/// What is wrong with a text in the place of a pattern of files.
pub(crate) fn invalid_pattern(text: &Path, error: &glob::PatternError) -> Error {
    Error::format(text, format!("is not a pattern of files: {} (character {})", error.msg, error.pos + 1))
}

/// Creates a folder and those above it that are missing.
///
/// # Errors
/// The system's, naming the folder.
pub fn create_folders(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(write_error(folder, FileAction::CreateFolder))
}

/// Bytes of all files in a folder and the folders in it.
///
/// # Errors
/// The system's, naming the folder.
pub fn folder_bytes(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).map_err(Error::file(folder, FileAction::Read))? {
        let entry = entry.map_err(Error::file(folder, FileAction::Read))?;
        let metadata = match entry.metadata() {
            // Another process removed it since the folder was listed.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            other => other.map_err(Error::file(&entry.path(), FileAction::Read))?,
        };
        bytes += if metadata.is_dir() { folder_bytes(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

/// Reads a small JSON file of this program, if it is there.
///
/// # Errors
/// When it cannot be read, or is not what this version writes.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    if !path.exists() {
        return Ok(None);
    }
    let text = read_text(path)?;
    serde_json::from_str(&text).map(Some).map_err(|error| {
        Error::format(path, format!("not as this version writes it ({error}); remove the file"))
    })
}

/// A size as a person reads it: `1.5 GiB`.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut amount = bytes as f64;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} bytes") } else { format!("{amount:.1} {}", UNITS[unit]) }
}

/// [`Error::file`] with what to do about a full disk, a limit or a missing permission.
pub(crate) fn write_error(path: &Path, action: FileAction) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| {
        let advice = match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                "free some space and run again; nothing was left half-written"
            }
            ErrorKind::FileTooLarge => {
                "raise the limit on the size of files (`ulimit -f`) or name a folder on another file system"
            }
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                "name a folder that can be written to"
            }
            _ => return Error::File { path, action, source },
        };
        let source = io::Error::new(source.kind(), format!("{source}; {advice}"));
        Error::File { path, action, source }
    }
}

/// The folder that holds `path`.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// A name beside `path` that no other file has; the folder is created where it is missing.
fn temporary_sibling(path: &Path) -> Result<PathBuf> {
    let Some(name) = path.file_name() else {
        return Err(Error::format(path, "this names no file; give a name inside a folder"));
    };
    let folder = parent(path);
    create_folders(folder)?;
    Ok(folder.join(temporary_name(&name.to_string_lossy())))
}

/// Whether a name in a folder is one that [`temporary_name`] gives.
fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(TEMPORARY_SUFFIX)
}

/// `.name.process-machine-count.partial`, which no other process has, on another machine neither.
fn temporary_name(name: &str) -> String {
    format!(".{name}.{}{TEMPORARY_SUFFIX}", unique_suffix())
}

/// A part of a name that is given once: processes of several machines, whose numbers may be the same, share folders.
pub(crate) fn unique_suffix() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    static RANDOM: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(()));
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{}-{:016x}-{count}", std::process::id(), *RANDOM)
}

/// Makes the names in a folder durable: without it a rename may be lost with the power.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(write_error(folder, FileAction::FlushFolder))
}

/// Other systems do not open folders as files; their renames are journalled.
#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_says_what_to_do() {
        let full = io::Error::from(ErrorKind::StorageFull);
        let message = write_error(Path::new("out/model.safetensors"), FileAction::Write)(full).to_string();
        assert!(message.starts_with("out/model.safetensors: cannot write: "), "{message}");
        assert!(message.contains("free some space"), "{message}");
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!(human_bytes(1023), "1023 bytes");
        assert_eq!(human_bytes(1536), "1.5 KiB");
        assert_eq!(human_bytes(5 << 30), "5.0 GiB");
    }
}

//! Folders that appear whole or not at all, with a manifest of what is in them.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    FileWriter, SharedFolder, json_text, open_input, publish_folder, read_text, require_empty, sync_folder,
    temporary_sibling, write_error,
};
use crate::error::{Error, FileAction, Result};

/// Name of the manifest in a finished folder.
pub const MANIFEST: &str = "manifest.json";

/// Version of the manifest's form. The first did not say what a folder was made from.
pub(super) const MANIFEST_VERSION: u32 = 2;

/// Bytes read at once when files are copied or hashed.
pub(super) const READ_BUFFER: usize = 1 << 20;

/// What a finished folder contains. It is written last: a folder with a manifest is complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this form.
    pub version: u32,
    /// What the folder is and what it was made from; none in model folders outside of runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// The files, in the order they were written.
    pub files: Vec<ManifestEntry>,
}

/// What a file or folder of a run is and what it was made from, so that one of another run, or of another place
/// in the same, is not taken for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Hash of the recipe's settings and the contents of the files it names, as far as the result follows from
    /// them.
    pub identity: String,
    /// Name in the run folder: `probe/code`.
    pub place: String,
    /// Hash of the digests of what it was made from in the same run.
    pub made_from: String,
    /// The lines of metrics.jsonl about the training that made it; none where nothing was trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<RecordedSteps>,
}

/// Lines of metrics.jsonl about one training.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedSteps {
    /// How many.
    pub lines: u64,
    /// BLAKE3 hash of the lines' hashes, in hexadecimal.
    pub blake3: String,
}

impl Origin {
    /// Fails unless what is at `path` says to be this. Metrics are not compared.
    ///
    /// # Errors
    /// It belongs to another run or place, or was made from something else, or by a version that did not say.
    pub fn require(&self, path: &Path, found: Option<&Self>) -> Result<()> {
        let reason = match found {
            None => {
                "was written by an earlier version, which did not record what it was made from: start a new run"
                    .to_owned()
            }
            Some(found) if found.place != self.place => {
                format!("is `{}` of a run, not `{}`: remove it to make it again", found.place, self.place)
            }
            Some(found) if found.identity != self.identity => {
                "belongs to another run, with other settings or data: remove it to make it again".to_owned()
            }
            Some(found) if found.made_from != self.made_from => {
                "was made from other stages than are there now: remove it to make it again".to_owned()
            }
            Some(_) => return Ok(()),
        };
        Err(Error::format(path, reason))
    }
}

/// One file of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestEntry {
    /// Name inside the folder.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3 hash of the content, in hexadecimal.
    pub blake3: String,
}

/// How thoroughly a folder is compared with its manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// Names and lengths: costs nothing.
    Lengths,
    /// Every byte: reads all files.
    Contents,
}

impl Manifest {
    /// Reads a folder's manifest and compares the files with it.
    ///
    /// # Errors
    /// No manifest (the folder is not complete), or a file that is missing or not as it was written.
    pub fn verify(folder: &Path, how: Verify) -> Result<Self> {
        let path = folder.join(MANIFEST);
        let text = read_text(&path)?;
        let manifest: Self = serde_json::from_str(&text)
            .map_err(|error| Error::format(&path, format!("not a manifest: {error}")))?;
        if !(1..=MANIFEST_VERSION).contains(&manifest.version) {
            let reason = format!("version {} is not known to this version", manifest.version);
            return Err(Error::format(&path, reason));
        }
        for entry in &manifest.files {
            require_inner_name(&path, &entry.name)?;
            entry.verify(&folder.join(&entry.name), how)?;
        }
        Ok(manifest)
    }

    /// Hash of what the folder is and holds, in hexadecimal. The metrics are left out: they hold times, which
    /// differ when a folder is made again with the same content.
    pub fn digest(&self) -> String {
        let origin =
            self.origin.iter().flat_map(|origin| [&origin.identity, &origin.place, &origin.made_from]);
        let files = self.files.iter().flat_map(|file| [&file.name, &file.blake3]);
        hash_texts(origin.chain(files).map(String::as_str))
    }
}

impl ManifestEntry {
    fn verify(&self, path: &Path, how: Verify) -> Result<()> {
        let bytes = fs::metadata(path).map_err(Error::file(path, FileAction::Read))?.len();
        if bytes != self.bytes {
            let reason = format!("{bytes} bytes long, the manifest says {}: damaged", self.bytes);
            return Err(Error::format(path, reason));
        }
        if how == Verify::Contents && hash_file(path)?.to_hex().as_str() != self.blake3 {
            return Err(Error::format(path, "the content is not what the manifest says: damaged"));
        }
        Ok(())
    }
}

/// BLAKE3 hash of a file, on all threads of the rayon pool that it is called in. Outside of one it takes the
/// calling thread alone: asking rayon would start its global pool, which knows of no limit on threads.
///
/// # Errors
/// The system's, naming the file.
pub fn hash_file(path: &Path) -> Result<blake3::Hash> {
    let mut file = open_input(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; READ_BUFFER];
    let is_in_pool = rayon::current_thread_index().is_some();
    loop {
        let length = file.read(&mut buffer).map_err(Error::file(path, FileAction::Read))?;
        if length == 0 {
            return Ok(hasher.finalize());
        }
        if is_in_pool {
            hasher.update_rayon(&buffer[..length]);
        } else {
            hasher.update(&buffer[..length]);
        }
    }
}

/// One hash of several texts, in hexadecimal.
pub fn hash_texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hasher = blake3::Hasher::new();
    for text in texts {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// A folder under construction beside its destination. [`AtomicFolder::commit`] makes it appear there;
/// dropped without, it is removed.
#[derive(Debug)]
pub struct AtomicFolder {
    temporary: PathBuf,
    destination: PathBuf,
    files: Vec<ManifestEntry>,
    committed: bool,
}

impl AtomicFolder {
    /// Starts a folder that will be at `destination`, which must be missing or empty.
    ///
    /// # Errors
    /// Something is there, or the system refuses.
    pub fn create(destination: &Path) -> Result<Self> {
        require_empty(destination)?;
        let temporary = temporary_sibling(destination)?;
        fs::create_dir(&temporary).map_err(write_error(destination, FileAction::CreateFolder))?;
        Ok(Self { temporary, destination: destination.to_owned(), files: Vec::new(), committed: false })
    }

    /// Where the folder will be.
    pub fn destination(&self) -> &Path {
        &self.destination
    }

    /// True when a file of this name has been added.
    pub fn contains(&self, name: &str) -> bool {
        self.files.iter().any(|file| file.name == name)
    }

    /// Where a file that has been added is until the folder is complete.
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.temporary.join(name)
    }

    /// BLAKE3 hash, in hexadecimal, of a file that has been added.
    pub fn hash_of(&self, name: &str) -> Option<&str> {
        self.files.iter().find(|file| file.name == name).map(|file| file.blake3.as_str())
    }

    /// Adds a file: a plain name, not used before.
    ///
    /// # Errors
    /// `write`'s own, or the system's.
    pub fn write(&mut self, name: &str, write: impl FnOnce(&mut FileWriter) -> Result<()>) -> Result<()> {
        self.require_new(name)?;
        self.files.push(write_file(&self.temporary, &self.destination, name, write)?);
        Ok(())
    }

    fn require_new(&self, name: &str) -> Result<()> {
        match self.contains(name) {
            true => Err(Error::Job(format!("{}: written twice", self.destination.join(name).display()))),
            false => Ok(()),
        }
    }

    /// What another process writes files into the folder by, which are then [added](AtomicFolder::add).
    ///
    /// # Errors
    /// The folder that this process works in is not known.
    pub fn shared(&self) -> Result<SharedFolder> {
        SharedFolder::new(&self.temporary, &self.destination)
    }

    /// Adds a file that another process has written into the folder.
    ///
    /// # Errors
    /// It is not there, or has another length.
    pub fn add(&mut self, file: ManifestEntry) -> Result<()> {
        require_inner_name(&self.destination, &file.name)?;
        self.require_new(&file.name)?;
        file.verify(&self.temporary.join(&file.name), Verify::Lengths)
            .map_err(|error| Error::Job(format!("what another process has written is not here: {error}")))?;
        self.files.push(file);
        Ok(())
    }

    /// Removes what there is: the folder is not to be completed.
    pub fn discard(&mut self) {
        // A failure leaves a name that `remove_partial` recognises.
        let _ = fs::remove_dir_all(&self.temporary);
    }

    /// Adds a file whose content is in memory.
    ///
    /// # Errors
    /// As [`AtomicFolder::write`].
    pub fn write_bytes(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.write(name, |file| file.put(bytes))
    }

    /// Adds a value as JSON.
    ///
    /// # Errors
    /// As [`AtomicFolder::write`].
    pub fn write_json(&mut self, name: &str, value: &impl Serialize) -> Result<()> {
        let text = json_text(&self.destination.join(name), value)?;
        self.write_bytes(name, text.as_bytes())
    }

    /// Adds a copy of a file.
    ///
    /// # Errors
    /// The source cannot be read, or as [`AtomicFolder::write`].
    pub fn copy(&mut self, source: &Path, name: &str) -> Result<()> {
        let mut file = open_input(source)?;
        self.write(name, |writer| {
            let mut buffer = vec![0; READ_BUFFER];
            loop {
                let length = file.read(&mut buffer).map_err(Error::file(source, FileAction::Read))?;
                if length == 0 {
                    return Ok(());
                }
                writer.put(&buffer[..length])?;
            }
        })
    }

    /// Writes the manifest, flushes everything to the disk, and gives the folder its name.
    ///
    /// # Errors
    /// The system's; the folder is then removed.
    pub fn commit(self) -> Result<()> {
        self.commit_with(None).map(drop)
    }

    /// As [`AtomicFolder::commit`], with what the folder is and was made from in its manifest, which is returned.
    ///
    /// # Errors
    /// As [`AtomicFolder::commit`].
    pub fn commit_as(self, origin: Origin) -> Result<Manifest> {
        self.commit_with(Some(origin))
    }

    fn commit_with(mut self, origin: Option<Origin>) -> Result<Manifest> {
        let manifest = Manifest { version: MANIFEST_VERSION, origin, files: self.files.clone() };
        self.write_json(MANIFEST, &manifest)?;
        let mut folders: Vec<&str> =
            manifest.files.iter().filter_map(|file| Some(file.name.split_once('/')?.0)).collect();
        folders.dedup();
        folders.into_iter().try_for_each(|folder| sync_folder(&self.temporary.join(folder)))?;
        sync_folder(&self.temporary)?;
        publish_folder(&self.temporary, &self.destination)?;
        self.committed = true;
        Ok(manifest)
    }
}

impl Drop for AtomicFolder {
    fn drop(&mut self) {
        if !self.committed {
            self.discard();
        }
    }
}

/// Writes a file, flushed to the disk, into `folder`, which will be at `destination`.
pub(super) fn write_file(
    folder: &Path,
    destination: &Path,
    name: &str,
    write: impl FnOnce(&mut FileWriter) -> Result<()>,
) -> Result<ManifestEntry> {
    let destination = destination.join(name);
    require_inner_name(&destination, name)?;
    if let Some((inner, _)) = name.split_once('/') {
        let inner = folder.join(inner);
        fs::create_dir_all(&inner).map_err(write_error(&destination, FileAction::CreateFolder))?;
    }
    let mut writer = FileWriter::create(folder.join(name), destination)?;
    write(&mut writer)?;
    writer.flush_to_disk()?;
    writer.complete = true;
    let blake3 = writer.hasher.finalize().to_hex().to_string();
    Ok(ManifestEntry { name: name.to_owned(), bytes: writer.bytes, blake3 })
}

/// Fails unless `name` is the name of a file in the folder, or `folder/file` in one inside it.
fn require_inner_name(path: &Path, name: &str) -> Result<()> {
    name.split('/').take(3).count().le(&2).then_some(()).ok_or_else(|| {
        Error::format(path, format!("`{name}` is not the name of a file in the same folder"))
    })?;
    name.split('/').try_for_each(|part| require_plain_name(path, part))
}

/// Fails unless `name` is the name of a file in the folder itself; `path` is what is blamed.
pub(crate) fn require_plain_name(path: &Path, name: &str) -> Result<()> {
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(std::path::Component::Normal(part)), None) if part == name => Ok(()),
        _ => Err(Error::format(path, format!("`{name}` is not the name of a file in the same folder"))),
    }
}

//! Several files in one input, and a folder to write them to.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

/// Starts a line that names the file whose content follows.
const MARK: &[u8] = b"=== ";

/// The files of an input: what follows a line `=== NAME` up to the next such line. What comes before the first is the
/// file called `first`.
pub fn files<'a>(first: &'a str, data: &'a [u8]) -> Vec<(&'a str, &'a [u8])> {
    let mut files = Vec::new();
    let (mut name, mut start, mut at) = (first, 0, 0);
    while at < data.len() {
        let end = data[at..].iter().position(|&byte| byte == b'\n').map_or(data.len(), |length| at + length);
        if let Some(Ok(next)) = data[at..end].strip_prefix(MARK).map(std::str::from_utf8) {
            files.push((name, &data[start..at]));
            (name, start) = (next, (end + 1).min(data.len()));
        }
        at = end + 1;
    }
    files.push((name, &data[start..]));
    files
}

/// A folder that is emptied for every input.
pub struct Folder {
    folder: TempDir,
}

impl Folder {
    /// A folder with the files of an input whose names are among `names`; a name may contain one `/`.
    pub fn with(files: &[(&str, &[u8])], names: &[&str]) -> Self {
        let folder = Self { folder: TempDir::new().expect("a folder for temporary files") };
        for (name, content) in files.iter().filter(|(name, _)| names.contains(name)) {
            folder.write(name, content);
        }
        folder
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file.
    pub fn write(&self, name: &str, content: &[u8]) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a writable folder");
        fs::write(path, content).expect("a writable folder");
    }

    /// Copies a file of another folder.
    pub fn copy(&self, from: &Path, name: &str) {
        fs::copy(from.join(name), self.path().join(name)).expect("a readable file");
    }
}

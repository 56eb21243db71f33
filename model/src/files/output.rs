//! Writing results to where a person wants them: a file, a link to one, a pipe or a device.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{json_text, write_bytes_atomically, write_error};
use crate::error::{Error, FileAction, Result};

/// Writes a file. A regular file is replaced whole or not at all, behind a link the file it leads to; what is
/// neither, a pipe or a device, is written to and stays.
///
/// # Errors
/// The system's, naming the file; a link that leads in circles.
pub fn write_output(path: &Path, bytes: &[u8]) -> Result<()> {
    let target = resolved(path)?;
    match fs::metadata(&target) {
        Ok(metadata) if !metadata.is_file() && !metadata.is_dir() => {
            let written = OpenOptions::new().write(true).open(&target).and_then(|mut file: File| {
                file.write_all(bytes)?;
                file.flush()
            });
            written.map_err(write_error(path, FileAction::Write))
        }
        _ => write_bytes_atomically(&target, bytes),
    }
}

/// [`write_output`] for a value as JSON.
///
/// # Errors
/// As [`write_output`].
pub fn write_json_output(path: &Path, value: &impl Serialize) -> Result<()> {
    write_output(path, json_text(path, value)?.as_bytes())
}

/// Where a link leads, which need not exist; other paths as they are.
fn resolved(path: &Path) -> Result<PathBuf> {
    // As many as Linux follows.
    const MOST_LINKS: usize = 40;
    let mut target = path.to_owned();
    for _ in 0..MOST_LINKS {
        match fs::read_link(&target) {
            // Absolute links take the place of the folder they are joined to.
            Ok(link) => target = target.parent().unwrap_or(Path::new("")).join(link),
            Err(_) => return Ok(target),
        }
    }
    let circle = std::io::Error::other("the link leads to itself");
    Err(Error::file(path, FileAction::Write)(circle))
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_stay_and_what_they_lead_to_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "before").unwrap();
        symlink("file", &link).unwrap();
        write_output(&link, b"after").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&file).unwrap(), "after");

        let dangling = folder.path().join("dangling");
        symlink(folder.path().join("new"), &dangling).unwrap();
        write_output(&dangling, b"made").unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("new")).unwrap(), "made");
        assert!(fs::symlink_metadata(&dangling).unwrap().is_symlink());

        symlink("circle", folder.path().join("circle")).unwrap();
        assert!(write_output(&folder.path().join("circle"), b"x").is_err());
    }

    #[test]
    fn devices_are_written_to() {
        write_output(Path::new("/dev/null"), b"x").unwrap();
        let kind = fs::metadata("/dev/null").unwrap().file_type();
        assert!(std::os::unix::fs::FileTypeExt::is_char_device(&kind));
    }
}

//! Disks that are full after a random number of bytes.
//!
//! As root, a file system of limited size in memory; otherwise a limit on the size of a file, which fails in the same
//! places for what is larger.

use std::fs;
use std::path::Path;
use std::process::Command;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::job::{End, Jobs};
use super::{Finding, Outcome, Variant};

/// More than a whole run takes, in KiB.
const MOST_KIB: u32 = 4000;

/// One round.
pub fn round(jobs: &Jobs, temporary: &Path, random: &mut ChaCha8Rng) -> Result<Outcome, Finding> {
    let folder = temporary.join("job");
    jobs.write_inputs(&folder, Variant::Same);
    let disk = folder.join("disk");
    fs::create_dir(&disk).expect("a writable folder");
    let is_mounted = random.random_bool(0.7) && Disk::mount(&disk);
    let guard = is_mounted.then(|| Disk(&disk));
    let mut sizes = Vec::new();
    let mut arguments = ["train", "recipe.toml", "--out", "disk/out"].map(str::to_owned).to_vec();
    for _ in 0..random.random_range(1..=3) {
        let kib = if is_mounted { random.random_range(4..MOST_KIB) } else { random.random_range(0..200) };
        sizes.push(kib);
        let limit = if is_mounted { String::new() } else { format!("ulimit -f {kib}") };
        if is_mounted {
            Disk::resize(&disk, kib);
        }
        let output = jobs.limited(&limit, &folder, &arguments).output().expect("the binary");
        let what = format!("{}, sizes {sizes:?} KiB", if is_mounted { "a full disk" } else { "ulimit -f" });
        match Jobs::end(&output).map_err(|finding| format!("{what}: {finding}"))? {
            End::Stopped => return Err(format!("{what}: stopped by nobody")),
            // The message must be one about room, or about the size of the folder.
            End::Refused(_) | End::Done => {}
        }
        if arguments.last().is_some_and(|last| last != "--resume") {
            arguments.push("--resume".to_owned());
        }
    }
    if is_mounted {
        Disk::resize(&disk, 4 * MOST_KIB);
    }
    let output = jobs.command(&folder, &arguments).output().expect("the binary");
    let checked = match Jobs::end(&output) {
        Ok(End::Done) => jobs.compare(&disk.join("out")).map(|()| Outcome::SameBits),
        Ok(End::Refused(line)) => Err(format!("with room again: {line}")),
        Ok(End::Stopped) => Err("stopped by nobody".to_owned()),
        Err(finding) => Err(finding),
    };
    let how = if guard.is_some() { "a full disk" } else { "ulimit -f" };
    checked.map_err(|finding| format!("{how}, sizes {sizes:?} KiB: {finding}"))
}

/// A mounted file system, taken away in the end.
struct Disk<'a>(&'a Path);

impl Disk<'_> {
    /// Whether one could be mounted: only root may.
    fn mount(folder: &Path) -> bool {
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"]).arg(folder).output();
        mount.is_ok_and(|output| output.status.success())
    }

    /// Gives it a size, but no less than it holds.
    fn resize(folder: &Path, kib: u32) {
        let option = format!("remount,size={kib}k");
        // Refused when more is there already: then it keeps the size it had.
        let _ = Command::new("mount").args(["-o", &option]).arg(folder).output();
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).output();
    }
}

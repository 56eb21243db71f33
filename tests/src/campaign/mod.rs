//! Random faults of whole jobs, through the binary: kills, damaged and swapped files, full disks.
//!
//! A round starts from a random seed, which is all that is needed to have it again (but for the moment of a kill, which
//! the machine's load moves). It ends in the bits of the undisturbed run or in a refusal of one line.

mod disks;
mod job;
mod kills;
mod swaps;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;

use job::{Jobs, Variant};

/// What happens to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Signals at random moments, `--resume` until the end.
    Kills,
    /// Files of a half-done run damaged, lost, or replaced by another run's.
    Swaps,
    /// No room for another byte after a random number of them, then room.
    Disks,
}

impl Kind {
    /// The kind of this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Kills, Self::Swaps, Self::Disks].into_iter().find(|kind| kind.name() == name)
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kills => "kills",
            Self::Swaps => "swaps",
            Self::Disks => "disks",
        }
    }
}

/// What a round may end with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// The bits of the undisturbed run.
    SameBits,
    /// One line, exit code 1 or 2.
    Refused,
}

/// Why a round failed, on one line.
pub type Finding = String;

/// A binary under test, with the folder its jobs run in.
pub struct Campaign {
    jobs: Jobs,
    keep: bool,
    outcomes: RefCell<BTreeMap<Outcome, usize>>,
}

impl Campaign {
    /// Prepares jobs for the binary at `binary`; with `keep`, the folders of findings stay.
    ///
    /// # Panics
    /// When the undisturbed job fails.
    pub fn new(binary: &Path, keep: bool) -> Self {
        Self { jobs: Jobs::new(binary), keep, outcomes: RefCell::default() }
    }

    /// One round.
    ///
    /// # Errors
    /// What went wrong, and where it can be looked at.
    pub fn round(&self, kind: Kind, seed: u64) -> Result<(), Finding> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let folder = TempDir::new().expect("a folder for temporary files");
        let result = match kind {
            Kind::Kills => kills::round(&self.jobs, folder.path(), &mut random),
            Kind::Swaps => swaps::round(&self.jobs, folder.path(), &mut random),
            Kind::Disks => disks::round(&self.jobs, folder.path(), &mut random),
        };
        match result {
            Ok(outcome) => {
                *self.outcomes.borrow_mut().entry(outcome).or_default() += 1;
                Ok(())
            }
            Err(finding) if self.keep => Err(format!("{finding}; see {}", folder.keep().display())),
            Err(finding) => Err(finding),
        }
    }

    /// How the rounds ended.
    pub fn summary(&self) -> String {
        let outcomes = self.outcomes.borrow();
        let count = |outcome| outcomes.get(&outcome).copied().unwrap_or_default();
        format!("{} same bits, {} refused", count(Outcome::SameBits), count(Outcome::Refused))
    }
}

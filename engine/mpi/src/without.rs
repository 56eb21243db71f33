//! What a build without the feature `mpi` says of ranks.

use cpift_engine::ranks::Place;
use cpift_engine::{Error, Ranks, Result};

/// MPI, which this build is without: there is no value of this type.
#[derive(Debug)]
pub enum Mpi {}

impl Mpi {
    /// Whether this build has it.
    pub const IS_BUILT: bool = false;

    /// Says that it cannot be started.
    ///
    /// # Errors
    /// Always.
    pub fn start(place: &Place) -> Result<(Self, Ranks)> {
        let reason = format!(
            "started {} processes for one run, and this build is without MPI: build it with `--features mpi` \
             (docs/ranks.md), or start one process",
            place.size
        );
        Err(Error::Ranks { reason })
    }

    /// Ends MPI.
    pub fn finish(self) {
        match self {}
    }

    /// Ends all ranks.
    pub fn abort(self, _exit_code: u8) -> ! {
        match self {}
    }
}

//! `train` by several processes: joining the others, agreeing with them, ending with them.

use std::process::ExitCode;

use cpift_engine::ranks::Place;
use cpift_engine::ranks::mpi::Mpi;
use cpift_engine::{Device, Ranks};
use cpift_model::trainer::agreement;
use cpift_model::{Error, Result};

use crate::display::tell;
use crate::{describe, display};

/// What ranks compare beside what they read: releases may speak to each other in another way.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// This process among others that were started together to train one run.
pub fn place() -> Option<Place> {
    Place::of_environment().filter(|_| Mpi::IS_BUILT)
}

/// What a person should know where others were started together with a process of a build without MPI.
pub fn notice() -> Option<String> {
    let place = Place::of_environment().filter(|_| !Mpi::IS_BUILT)?;
    Some(format!(
        "{} started {} processes ({}): this build is without MPI, and each trains by itself",
        place.launcher.name(),
        place.size,
        place.launcher.variable()
    ))
}

/// The processes that were started together with this one.
pub struct Group {
    mpi: Mpi,
    ranks: Ranks,
}

impl Group {
    /// Joins the other processes.
    ///
    /// # Errors
    /// This build cannot, or what started them is not known to MPI.
    pub fn join(place: &Place) -> Result<Self> {
        display::set_rank(place.rank);
        let (mpi, ranks) = Mpi::start(place).map_err(|error| {
            let reason = match error {
                cpift_engine::Error::Ranks { reason } => reason,
                error => error.to_string(),
            };
            Error::setting(place.launcher.name(), reason)
        })?;
        Ok(Self { mpi, ranks })
    }

    /// The ranks.
    pub fn ranks(&self) -> &Ranks {
        &self.ranks
    }

    /// What this rank has read, if all have read the same. Else all end, and one line says why.
    ///
    /// # Errors
    /// The code that this process ends with, once that is said.
    pub fn agree<T>(&self, read: Result<T>, text: impl Fn(&T) -> String) -> std::result::Result<T, ExitCode> {
        let recipe = match &read {
            Ok(read) => text(read),
            Err(error) => error.to_string(),
        };
        let is_read = if read.is_ok() { "read" } else { "not read" };
        let facts = [("version", VERSION), ("outcome of reading the recipe", is_read), ("recipe", &recipe)];
        let compared = agreement::compare(&self.ranks, &facts);
        let differing = match compared {
            Ok(differing) => differing,
            Err(error) => return Err(say(&error)),
        };
        let rank = self.ranks.rank();
        match (read, differing) {
            (Ok(read), None) => Ok(read),
            // Whoever could not read it says so; of many with the same error the first.
            (Err(error), None) if rank == 0 => Err(say(&error)),
            (Err(error), Some(differing)) if rank == differing.rank || rank == 0 => Err(say(&error)),
            (Ok(_), Some(differing)) if rank == 0 && differing.what != facts[1].0 => {
                let reason = format!("has another {} than rank 0", differing.what);
                Err(say(&Error::setting(format!("rank {}", differing.rank), reason)))
            }
            (Err(error), _) => Err(ExitCode::from(error.exit_code())),
            (Ok(_), _) => Err(ExitCode::from(2)),
        }
    }

    /// Ends with the other ranks: when they do where nothing went wrong, else at once, and with them.
    pub fn leave(self, result: Result<ExitCode>) -> Result<ExitCode> {
        match &result {
            Ok(_) | Err(Error::Interrupted { .. }) => self.mpi.finish(),
            Err(error) => {
                say(error);
                self.mpi.abort(error.exit_code());
            }
        }
        result
    }
}

/// Says why this process ends, and gives the code to end with.
fn say(error: &Error) -> ExitCode {
    tell(&describe(error));
    ExitCode::from(error.exit_code())
}

/// Works for rank 0 until its job is over.
///
/// # Errors
/// As [`cpift_model::trainer::work`].
pub fn work(device: &Device, ranks: &Ranks) -> Result<ExitCode> {
    cpift_model::trainer::work(device, ranks)?;
    Ok(ExitCode::SUCCESS)
}

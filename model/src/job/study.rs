//! What a job may do instead of its recipe's method.

use serde::{Deserialize, Serialize};

use super::{PairMethod, ProbeLengths};
use crate::error::{Error, Result};
use crate::recipe::{Method, Recipe};

/// Instead of the recipe's method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Study {
    /// Every ordered pair of tasks is trained one after the other, by this method.
    Pairs(PairMethod),
    /// Every task's probe is measured after several numbers of steps.
    ProbeLengths(ProbeLengths),
}

impl Study {
    /// Fails where a recipe rules it out.
    pub(super) fn check(&self, recipe: &Recipe) -> Result<()> {
        match self {
            _ if recipe.method != Method::Cpift => {
                Err(Error::setting("method", "what is studied are the probes of `cpift`"))
            }
            Self::Pairs(_) => Ok(()),
            Self::ProbeLengths(lengths) => lengths.check_run(recipe),
        }
    }

    /// What of it a run follows from.
    pub(super) fn identity(&self) -> Result<String> {
        match self {
            Self::Pairs(method) => Ok(method.name().to_owned()),
            Self::ProbeLengths(lengths) => {
                serde_json::to_string(lengths).map_err(|error| Error::Job(error.to_string()))
            }
        }
    }
}

//! `[mixture]`: how the rows of several tasks are mixed.

use serde::{Deserialize, Serialize};

/// What the tasks' weights divide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MixtureShares {
    /// The rows: as many of every task of the same weight, whatever the tasks have.
    #[default]
    Equal,
    /// The rows in proportion to what each task has.
    Rows,
    /// The supervised tokens: as many of every task of the same weight, unless a temperature is given.
    Tokens,
}

/// In which order the tasks' rows come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MixtureOrder {
    /// At random.
    #[default]
    Shuffled,
    /// In turn, every task as evenly as its share allows.
    RoundRobin,
}

/// `[mixture]`: how the rows of several tasks are mixed, in every training on more than one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MixtureSettings {
    /// What the tasks' weights divide.
    pub shares: MixtureShares,
    /// With `rows` or `tokens`: a task's part is its number of them to the power of 1/temperature; 1 keeps proportions,
    /// more brings them closer together. Not given it is 1 with `rows`, and no number counts with `tokens`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// In which order the tasks' rows come.
    pub order: MixtureOrder,
}

impl Default for MixtureSettings {
    fn default() -> Self {
        Self { shares: MixtureShares::Equal, temperature: None, order: MixtureOrder::Shuffled }
    }
}

impl MixtureSettings {
    /// How much a task counts that has this many of what is shared, before its weight.
    pub fn size_part(&self, size: f64) -> f64 {
        match (self.shares, self.temperature) {
            (MixtureShares::Equal, _) | (MixtureShares::Tokens, None) => 1.0,
            (MixtureShares::Rows, None) => size,
            (_, Some(temperature)) => size.powf(1.0 / temperature),
        }
    }
}

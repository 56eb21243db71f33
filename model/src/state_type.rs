//! How the state of a training is kept in memory.

use cpift_engine::ops::adamw::{ImportanceKind as Accumulate, MomentType};
use serde::{Deserialize, Serialize};

use crate::recipe::ImportanceKind;

/// How gradients, and what the optimizer keeps of every parameter, are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateType {
    /// Gradients, moments and importance in f32.
    #[default]
    Exact,
    /// Gradients in bf16, and moments, which are rounded stochastically. Importance `net` is not accumulated: it is what the weights are away from
    /// the base.
    Compact,
}

impl StateType {
    /// As in recipes and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Compact => "compact",
        }
    }

    /// What gradients and moments are stored in.
    pub fn moment_type(self) -> MomentType {
        match self {
            Self::Exact => MomentType::F32,
            Self::Compact => MomentType::Bf16,
        }
    }

    /// Bytes a parameter of master weights, gradient and both moments.
    pub fn bytes_per_parameter(self) -> usize {
        size_of::<f32>() + 3 * self.moment_type().bytes()
    }

    /// What the optimizer accumulates for a kind of importance. The controls go by `net`.
    pub fn accumulated(self, kind: ImportanceKind) -> Accumulate {
        match kind {
            ImportanceKind::Net | ImportanceKind::Random | ImportanceKind::Inverse => match self {
                Self::Exact => Accumulate::Net,
                Self::Compact => Accumulate::None,
            },
            ImportanceKind::Path => Accumulate::Path,
            ImportanceKind::Fisher => Accumulate::Fisher,
        }
    }
}

//! How the state of a training is kept in memory.

use cpift_engine::Layout;
use cpift_engine::ops::adamw::{ImportanceKind as Accumulate, MomentType};
use cpift_engine::ops::gradients::Gradients;
use serde::{Deserialize, Serialize};

use crate::recipe::ImportanceKind;
use crate::stages::pieces::longest_part;

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

    /// Bytes of master weights, gradients and both moments.
    pub fn bytes(self, layout: &Layout) -> usize {
        let gradients = Gradients::bytes(layout, self.moment_type(), longest_part(layout));
        layout.len() * (size_of::<f32>() + 2 * self.moment_type().bytes()) + gradients
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

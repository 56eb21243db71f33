//! How the state of a training is kept in memory.

use std::ops::Range;

use cpift_engine::ops::adamw::{ImportanceKind as Accumulate, MomentType, StateStorage};
use cpift_engine::ops::gradients::Gradients;
use cpift_engine::{Layout, Placement, bf16};
use serde::{Deserialize, Serialize};

use crate::model::Model;
use crate::recipe::ImportanceKind;
use crate::stages::pieces::longest_part;
use crate::transformer::ComputeType;

/// How gradients, and what the optimizer keeps of every parameter, are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateType {
    /// Gradients, moments and importance in f32.
    #[default]
    Exact,
    /// Gradients, moments and importance in bf16, rounded stochastically. Importance `net` is not accumulated: it is what the
    /// weights are away from the base.
    Compact,
    /// The same, in the memory of a GPU's host: on the GPU are only the weights that products read. The same bits as
    /// compact state.
    Offload,
}

/// A kind of state that `auto` did not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LargerState {
    /// The kind.
    pub state: StateType,
    /// Bytes that the job would take where this state is: on the device.
    pub bytes: u64,
}

/// A part of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatePart {
    /// What it is, as `plan` names it.
    pub name: &'static str,
    /// Its bytes.
    pub bytes: usize,
    /// Where it is.
    pub placement: Placement,
}

impl StateType {
    /// All, from the largest on the device to the smallest.
    pub const ALL: [Self; 3] = [Self::Exact, Self::Compact, Self::Offload];

    /// As in recipes and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Compact => "compact",
            Self::Offload => "offload",
        }
    }

    /// The kind that is kept on the device and has the same bits: what a run follows from.
    pub fn on_the_device(self) -> Self {
        match self {
            Self::Exact => Self::Exact,
            Self::Compact | Self::Offload => Self::Compact,
        }
    }

    /// How gradients and moments are stored.
    pub fn storage(self) -> StateStorage {
        match self {
            Self::Exact => MomentType::F32.into(),
            Self::Compact => MomentType::Bf16.into(),
            Self::Offload => StateStorage { moments: MomentType::Bf16, placement: Placement::Host },
        }
    }

    /// Master weights, gradients, both moments, and importance where some is accumulated.
    pub fn parts(self, layout: &Layout, compute: ComputeType, accumulated: Accumulate) -> Vec<StatePart> {
        self.parts_of_rank(layout, compute, accumulated, 0..layout.len())
    }

    /// The same of a rank that owns this range of the parameters.
    pub fn parts_of_rank(
        self,
        layout: &Layout,
        compute: ComputeType,
        accumulated: Accumulate,
        own: Range<usize>,
    ) -> Vec<StatePart> {
        let StateStorage { moments, placement } = self.storage();
        let part = |name, bytes, placement| StatePart { name, bytes, placement };
        let flat = layout.len() * size_of::<f32>();
        let of_weights = Model::placement_of_weights(compute, placement);
        let [gradients, sums] = Gradients::bytes(layout, moments, longest_part(layout));
        let mut parts = match of_weights {
            Placement::Device => {
                vec![part("weights", flat, of_weights), part("gradients", gradients, placement)]
            }
            // Gradients are where the rounded weights would be.
            Placement::Host => vec![
                part("rounded weights", layout.len() * size_of::<bf16>(), Placement::Device),
                part("weights and gradients", flat, of_weights),
            ],
        };
        if sums > 0 {
            parts.push(part("sums of gradients", sums, Placement::Device));
        }
        parts.push(part("moments", 2 * own.len() * moments.bytes(), placement));
        if accumulated != Accumulate::None {
            parts.push(part("importance", own.len() * moments.bytes(), placement));
        }
        parts
    }

    /// Bytes of a number for each parameter, moments or importance, in memory and in files.
    pub fn bytes_of_part(self, layout: &Layout) -> usize {
        layout.len() * self.storage().moments.bytes()
    }

    /// Bytes of the parts but for importance, wherever they are.
    pub fn bytes(self, layout: &Layout, compute: ComputeType) -> usize {
        self.parts(layout, compute, Accumulate::None).iter().map(|part| part.bytes).sum()
    }

    /// What the optimizer accumulates for a kind of importance. The controls go by `net`.
    pub fn accumulated(self, kind: ImportanceKind) -> Accumulate {
        match kind {
            ImportanceKind::Net | ImportanceKind::Random | ImportanceKind::Inverse => match self {
                Self::Exact => Accumulate::Net,
                Self::Compact | Self::Offload => Accumulate::None,
            },
            ImportanceKind::Path => Accumulate::Path,
            ImportanceKind::Fisher => Accumulate::Fisher,
            // It follows from the weights and the second moments.
            ImportanceKind::FisherNet => Accumulate::None,
        }
    }
}

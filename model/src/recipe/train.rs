//! `[train]`: the choices of one fine-tune.

use serde::{Deserialize, Serialize};

use crate::transformer::Recompute;

/// Course of the learning rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Half a cosine down to zero.
    #[default]
    Cosine,
    /// A line down to zero.
    Linear,
    /// No change.
    Constant,
}

/// What of the optimizer's state is kept in how many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateMemory {
    /// Exact where the job then fits the device's memory, else compact; for a GPU, where that does not fit either, offload.
    #[default]
    Auto,
    /// Moments and importance in f32.
    Exact,
    /// Gradients, moments and importance in bf16, rounded stochastically; importance `net` without memory of its own.
    Compact,
    /// As compact, in the memory of a GPU's host.
    Offload,
}

impl StateMemory {
    /// As recipes write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Exact => "exact",
            Self::Compact => "compact",
            Self::Offload => "offload",
        }
    }
}

/// What of every layer is computed again in the backward pass. The bits are the same: it may differ when a run is continued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "WrittenRecompute", into = "WrittenRecompute")]
pub enum RecomputeSetting {
    /// As little as the memory there is allows.
    #[default]
    Auto,
    /// This much: `false`, `"mlp"` or `true`.
    Of(Recompute),
}

/// As recipes write it.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected true, false, \"mlp\" or \"auto\"")]
enum WrittenRecompute {
    Flag(bool),
    Name(RecomputeName),
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RecomputeName {
    Auto,
    Nothing,
    Mlp,
    Layer,
}

impl From<WrittenRecompute> for RecomputeSetting {
    fn from(written: WrittenRecompute) -> Self {
        match written {
            WrittenRecompute::Flag(false) => Self::Of(Recompute::Nothing),
            WrittenRecompute::Flag(true) => Self::Of(Recompute::Layer),
            WrittenRecompute::Name(RecomputeName::Nothing) => Self::Of(Recompute::Nothing),
            WrittenRecompute::Name(RecomputeName::Mlp) => Self::Of(Recompute::Mlp),
            WrittenRecompute::Name(RecomputeName::Layer) => Self::Of(Recompute::Layer),
            WrittenRecompute::Name(RecomputeName::Auto) => Self::Auto,
        }
    }
}

impl From<RecomputeSetting> for WrittenRecompute {
    fn from(setting: RecomputeSetting) -> Self {
        match setting {
            RecomputeSetting::Auto => Self::Name(RecomputeName::Auto),
            RecomputeSetting::Of(Recompute::Nothing) => Self::Flag(false),
            RecomputeSetting::Of(Recompute::Mlp) => Self::Name(RecomputeName::Mlp),
            RecomputeSetting::Of(Recompute::Layer) => Self::Flag(true),
        }
    }
}

impl Schedule {
    /// As recipes write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cosine => "cosine",
            Self::Linear => "linear",
            Self::Constant => "constant",
        }
    }
}

/// `[train]`: one fine-tune.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainSettings {
    /// Passes over the data; exclusive with `steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Optimizer steps; exclusive with `epochs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Sequences in a micro-batch.
    pub batch_size: usize,
    /// Micro-batches in an optimizer step.
    pub accumulate: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Course of the learning rate after the warm-up.
    pub schedule: Schedule,
    /// Warm-up: a share of the steps below 1, a number of steps from 1 on.
    pub warmup: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// AdamW's β1.
    pub beta1: f64,
    /// AdamW's β2.
    pub beta2: f64,
    /// AdamW's ε, outside the root.
    pub eps: f64,
    /// Largest gradient norm; 0 switches clipping off.
    pub clip: f64,
    /// Shuffle the rows anew every epoch.
    pub shuffle: bool,
    /// Put several rows into one sequence (they do not see each other).
    pub pack: bool,
    /// Which activations are computed a second time in the backward pass instead of being kept.
    pub recompute: RecomputeSetting,
    /// How much memory the optimizer's state takes; the same in all trainings of a recipe.
    pub memory: StateMemory,
}

impl Default for TrainSettings {
    fn default() -> Self {
        Self {
            epochs: None,
            steps: None,
            batch_size: 8,
            accumulate: 1,
            learning_rate: 2e-5,
            schedule: Schedule::Cosine,
            warmup: 0.03,
            weight_decay: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            clip: 1.0,
            shuffle: true,
            pack: true,
            recompute: RecomputeSetting::Auto,
            memory: StateMemory::Auto,
        }
    }
}

impl TrainSettings {
    /// Learning rate of `step` (from 0) out of `steps`: linear warm-up from 0 to the peak, reached after
    /// the warm-up's last step, then the schedule, which would reach 0 one step after the last.
    pub fn learning_rate_at(&self, step: u64, steps: u64) -> f64 {
        let warmup =
            if self.warmup < 1.0 { (self.warmup * steps as f64).floor() } else { self.warmup.floor() };
        let step = step as f64;
        if step < warmup {
            return self.learning_rate * (step + 1.0) / (warmup + 1.0);
        }
        let progress = ((step - warmup) / (steps as f64 - warmup).max(1.0)).clamp(0.0, 1.0);
        let factor = match self.schedule {
            Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            Schedule::Linear => 1.0 - progress,
            Schedule::Constant => 1.0,
        };
        self.learning_rate * factor
    }
}

//! `[train]`: the choices of one fine-tune.

use serde::{Deserialize, Serialize};

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
    /// Gradients and moments in bf16, moments rounded stochastically; importance `net` without memory of its own.
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
    /// Compute activations a second time in the backward pass instead of keeping them.
    pub recompute: bool,
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
            recompute: false,
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

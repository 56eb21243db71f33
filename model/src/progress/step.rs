//! What is told of an optimizer step.

use serde::{Deserialize, Serialize};

use super::{SampleScore, TrainingStage};

/// One optimizer step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// What is trained.
    pub stage: TrainingStage,
    /// What is trained within the stage: the probe's task; empty otherwise.
    pub part: String,
    /// The step just made, counted from 1.
    #[serde(rename = "step")]
    pub number: u64,
    /// Steps in all.
    pub steps: u64,
    /// Mean negative log-likelihood per supervised token of the step, in nats.
    pub loss: f64,
    /// The same by task, for tasks that had supervised tokens in the step.
    pub task_losses: Vec<(String, f64)>,
    /// What of the step came from each task that had rows in it.
    #[serde(default)]
    pub task_shares: Vec<TaskShare>,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Gradient norm before clipping, frozen coordinates left out.
    pub gradient_norm: f64,
    /// Tokens of the step.
    pub tokens: u64,
    /// Tokens of the step the loss was taken on.
    pub supervised_tokens: u64,
    /// Wall time of the step in seconds.
    pub seconds: f64,
    /// Floating-point operations of the step.
    pub flops: f64,
    /// Which of the training's consecutive parts the step belongs to, from 1 (stage 4 has one per group); 0 where
    /// the version that made the step did not say.
    #[serde(default)]
    pub phase: u64,
    /// Parameters that were frozen in the step.
    #[serde(default)]
    pub frozen: u64,
    /// When the step ended, in seconds since 1970 (UTC); 0 where the version that made it did not say.
    #[serde(default)]
    pub time: f64,
    /// What was measured after the step, where it was.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evaluation: Vec<SampleScore>,
    /// The same of what is measured and never trained.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measures: Vec<SampleScore>,
    /// Seconds that took, beside those of the step.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub evaluation_seconds: f64,
    /// What several ranks exchanged for the step; none of a process that was alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub communication: Option<Communication>,
}

/// What rank 0 received from the others in a step. Of the others each receives as much, and the tokens of the step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Communication {
    /// Number of ranks.
    pub ranks: u64,
    /// Bytes received.
    pub bytes: u64,
    /// The least there can be: (R − 1)/R of the bytes of gradients and of the weights that are computed with.
    pub least_bytes: u64,
    /// Seconds of the step in which this was waited for.
    pub seconds: f64,
    /// Seconds in which gradients were exchanged while others were still computed.
    #[serde(default)]
    pub hidden_seconds: f64,
}

fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

/// What came from one task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskShare {
    /// The task.
    pub task: String,
    /// Rows of it.
    pub rows: u64,
    /// Tokens of them that the loss was taken on.
    pub supervised_tokens: u64,
}

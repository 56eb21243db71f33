//! How long each part of a step took.

use std::time::Instant;

use cpift_engine::Device;

/// Parts of a step, as `bench step` reports them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Looking up the embedding.
    Embedding,
    /// All norms with their residual adds.
    Norm,
    /// Query, key, value and output projections, and the rotation.
    Projections,
    /// Attention itself.
    Attention,
    /// The MLP's three projections and its gate.
    Mlp,
    /// Head and loss; with gradients when there are any.
    Head,
    /// Adding the gradient of the embedding.
    EmbeddingBackward,
    /// Gradients of the norms, with the norms computed again.
    NormBackward,
    /// Gradients of the attention's projections.
    ProjectionsBackward,
    /// Gradient of attention itself.
    AttentionBackward,
    /// Gradients of the MLP.
    MlpBackward,
    /// What `recompute` does not keep of the layers.
    Recompute,
}

impl Part {
    /// All parts and their names, in the order of [`Part`].
    pub const ALL: [(Part, &'static str); 12] = [
        (Part::Embedding, "embedding"),
        (Part::Norm, "norm"),
        (Part::Projections, "attention_projections"),
        (Part::Attention, "attention"),
        (Part::Mlp, "mlp"),
        (Part::Head, "head_and_loss"),
        (Part::EmbeddingBackward, "embedding_backward"),
        (Part::NormBackward, "norm_backward"),
        (Part::ProjectionsBackward, "attention_projections_backward"),
        (Part::AttentionBackward, "attention_backward"),
        (Part::MlpBackward, "mlp_backward"),
        (Part::Recompute, "recompute"),
    ];
}

/// Seconds spent per part since the last [`Timings::reset`]. Costs one clock reading per lap.
#[derive(Debug, Clone)]
pub struct Timings {
    /// What is waited for at every lap.
    device: Option<Device>,
    last: Instant,
    seconds: [f64; Part::ALL.len()],
}

impl Timings {
    pub(super) fn new() -> Self {
        Self { device: None, last: Instant::now(), seconds: [0.0; Part::ALL.len()] }
    }

    /// Starts the clock without counting the time since the last lap.
    pub(super) fn start(&mut self) {
        self.wait();
        self.last = Instant::now();
    }

    /// Counts the time since the last lap or start as `part`'s.
    pub(super) fn lap(&mut self, part: Part) {
        self.wait();
        let now = Instant::now();
        self.seconds[part as usize] += (now - self.last).as_secs_f64();
        self.last = now;
    }

    /// From now on waits at every lap until `device` has done what was queued. Without it, parts on a GPU
    /// are the times of queueing.
    pub fn wait_for(&mut self, device: &Device) {
        self.device = Some(device.clone());
    }

    fn wait(&self) {
        if let Some(device) = &self.device {
            // A failure comes back at the next reading of results.
            let _ = device.synchronize();
        }
    }

    /// Forgets all times.
    pub fn reset(&mut self) {
        self.seconds = [0.0; Part::ALL.len()];
    }

    /// Name and seconds of every part.
    pub fn parts(&self) -> impl Iterator<Item = (&'static str, f64)> + '_ {
        Part::ALL.iter().map(|&(part, name)| (name, self.seconds[part as usize]))
    }
}

//! What rank 0 has the other ranks do. All that they work by comes from it: settings, weights, rows.

use cpift_engine::Ranks;
use cpift_engine::ops::adamw::{Hyper, ImportanceKind};
use serde::{Deserialize, Serialize};

use super::state_file::RangeOrder;
use super::{Setup, StatePart, Update};
use crate::batch::Batch;
use crate::checkpoint::WeightType;
use crate::compute::ComputeType;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::files::TestFile;
use crate::state_type::StateType;
use crate::transformer::Recompute;

/// What a rank does next, with rank 0. Those that move weights or state are followed by these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// [`Trainer::open`](super::Trainer::open), which comes first.
    Open(OpenOrder),
    /// [`Trainer::begin`](super::Trainer::begin).
    Begin,
    /// [`Trainer::restart`](super::Trainer::restart).
    Restart,
    /// Takes the weights that rank 0 has.
    TakeWeights,
    /// Sends what of the master weights only this rank has.
    CompleteWeights,
    /// [`Trainer::freeze`](super::Trainer::freeze), with or without a mask.
    Freeze(bool),
    /// [`Trainer::step`](super::Trainer::step).
    Step(StepOrder),
    /// [`Trainer::state`](super::Trainer::state).
    Gather(StatePart),
    /// [`Trainer::set_state`](super::Trainer::set_state).
    Take(StatePart),
    /// Says whether this rank sees a file.
    LookFor(TestFile),
    /// Writes the own range of a checkpoint.
    WriteRange(RangeOrder),
    /// Says whether a weight of the own range is too large for a number type.
    FindTooLarge(WeightType),
    /// The job is over.
    End,
}

impl Command {
    /// Sends it, from rank 0.
    ///
    /// # Errors
    /// Another rank has ended.
    pub fn send(&self, ranks: &Ranks) -> Result<()> {
        let mut text = serde_json::to_vec(self)
            .map_err(|error| Error::Job(format!("an order to ranks cannot be written: {error}")))?;
        ranks.broadcast_slice(&mut [text.len() as u64])?;
        Ok(ranks.broadcast_slice(&mut text)?)
    }

    /// Waits for the next.
    ///
    /// # Errors
    /// Another rank has ended, or rank 0 sent what is none.
    pub fn receive(ranks: &Ranks) -> Result<Self> {
        let mut length = [0_u64];
        ranks.broadcast_slice(&mut length)?;
        let mut text = vec![0; length[0] as usize];
        ranks.broadcast_slice(&mut text)?;
        serde_json::from_slice(&text).map_err(|error| not_understood(&error.to_string()))
    }
}

fn not_understood(reason: &str) -> Error {
    Error::Job(format!("what rank 0 sent is not understood: {reason}"))
}

/// What a rank makes its trainer for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpenOrder {
    /// The model's `config.json`.
    config: String,
    /// Whether the head shares the embedding's weights, which the weights say as well.
    tied: bool,
    compute: ComputeType,
    max_tokens: usize,
    recompute: Recompute,
    #[serde(with = "ImportanceName")]
    importance: ImportanceKind,
}

/// How [`ImportanceKind`] is written.
#[derive(Serialize, Deserialize)]
#[serde(remote = "ImportanceKind")]
enum ImportanceName {
    None,
    Net,
    Path,
    Fisher,
}

impl OpenOrder {
    /// What has a rank make the same trainer as this.
    ///
    /// # Errors
    /// A model that is another one once it is written and read.
    pub fn of(setup: &Setup) -> Result<Self> {
        let order = Self {
            config: setup.config.to_json("float32"),
            tied: setup.config.tied,
            compute: setup.compute,
            max_tokens: setup.max_tokens,
            recompute: setup.recompute,
            importance: setup.importance,
        };
        match setup.config.mismatch(&order.clone().into_setup()?.config) {
            None => Ok(order),
            Some(difference) => Err(Error::Job(format!("ranks would make another model: {difference}"))),
        }
    }

    /// What it says.
    ///
    /// # Errors
    /// A configuration that is none.
    pub fn into_setup(self) -> Result<Setup> {
        let config = ModelConfig::parse("rank 0: config.json".as_ref(), &self.config)?.with_tied(self.tied);
        Ok(Setup {
            config,
            compute: self.compute,
            max_tokens: self.max_tokens,
            recompute: self.recompute,
            importance: self.importance,
            state: StateType::Exact,
        })
    }
}

/// A step: what the optimizer does, and the micro-batches of all ranks, whose tokens and targets follow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepOrder {
    update: Update,
    /// First token of each document of each micro-batch, and the number of tokens.
    documents: Vec<Vec<usize>>,
}

/// How [`Hyper`] is written: numbers as they are.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Hyper")]
pub(super) struct HyperForm {
    learning_rate: f64,
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    weight_decay: f64,
}

impl StepOrder {
    /// Sends a step, from rank 0.
    ///
    /// # Errors
    /// Another rank has ended.
    pub fn send(ranks: &Ranks, update: &Update, batches: &[Batch]) -> Result<()> {
        let documents = batches.iter().map(|batch| batch.document_starts.clone()).collect();
        Command::Step(Self { update: update.clone(), documents }).send(ranks)?;
        let mut tokens: Vec<u32> =
            batches.iter().flat_map(|batch| batch.tokens.iter().chain(&batch.targets)).copied().collect();
        Ok(ranks.broadcast_slice(&mut tokens)?)
    }

    /// What was sent with it.
    ///
    /// # Errors
    /// Another rank has ended, or it says of documents what cannot be.
    pub fn receive(self, ranks: &Ranks) -> Result<(Update, Vec<Batch>)> {
        let is_valid = |starts: &Vec<usize>| starts.first() == Some(&0) && starts.is_sorted();
        if !self.documents.iter().all(is_valid) {
            return Err(not_understood("documents of a step"));
        }
        let length = |starts: &Vec<usize>| starts.last().copied().unwrap_or(0);
        let mut tokens = vec![0_u32; self.documents.iter().map(|starts| 2 * length(starts)).sum()];
        ranks.broadcast_slice(&mut tokens)?;
        let mut rest = tokens.as_slice();
        let mut next = |length: usize| {
            let (taken, behind) = rest.split_at(length);
            rest = behind;
            taken.to_vec()
        };
        let batches = self.documents.into_iter().map(|document_starts| {
            let length = length(&document_starts);
            Batch { tokens: next(length), targets: next(length), document_starts }
        });
        Ok((self.update, batches.collect()))
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use cpift_engine::ranks::threads;

    use super::*;

    #[test]
    fn a_step_arrives_as_it_was_sent() {
        let mut batch = Batch::new();
        batch.push(&[5, 6, 7], &[false, false, true]).unwrap();
        batch.push(&[8, 9], &[true, true]).unwrap();
        let batches = vec![batch, Batch::new()];
        // Numbers that are not short in decimals, and no limit.
        let hyper = Hyper { learning_rate: 1e-3 / 3.0, beta2: 0.1 + 0.2, ..Hyper::default() };
        let update = Update { hyper, maximum_norm: None, steps: 7, supervised_tokens: 3 };
        let mut ranks = threads(2);
        let (other, first) = (ranks.remove(1), ranks.remove(0));
        thread::scope(|scope| {
            scope.spawn(|| StepOrder::send(&first, &update, &batches).unwrap());
            let Command::Step(order) = Command::receive(&other).unwrap() else { panic!("another command") };
            assert_eq!(order.receive(&other).unwrap(), (update.clone(), batches.clone()));
        });
    }
}

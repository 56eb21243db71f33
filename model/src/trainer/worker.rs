//! A rank that is not rank 0: it does what that has it do.

use cpift_engine::{Device, Ranks};

use super::Trainer;
use super::command::Command;
use crate::error::{Error, Result};

/// Works for rank 0, which runs a job, until that is over. Files are rank 0's, but for this rank's part of checkpoints:
/// everything else comes from it.
///
/// # Errors
/// Memory runs out, the device fails, a part of a checkpoint cannot be written, or another rank has ended.
pub fn work(device: &Device, ranks: &Ranks) -> Result<()> {
    let mut trainer = match Command::receive(ranks)? {
        Command::Open(order) => Trainer::open(device, &order.into_setup()?, ranks)?,
        Command::End => return Ok(()),
        other => return Err(Error::Job(format!("rank 0 begins with {other:?}, before there is a model"))),
    };
    loop {
        match Command::receive(ranks)? {
            Command::Open(_) => return Err(Error::Job("rank 0 has a second model made".to_owned())),
            Command::Begin => trainer.begin()?,
            Command::Restart => trainer.restart()?,
            Command::TakeWeights => trainer.share_weights()?,
            Command::CompleteWeights => trainer.gather_lower()?,
            Command::Freeze(any) => trainer.take_frozen(any)?,
            Command::Step(order) => {
                let (update, batches) = order.receive(ranks)?;
                trainer.make(&update, &batches)?;
            }
            Command::Gather(part) => trainer.gather(part)?,
            Command::Take(part) => trainer.take(part)?,
            Command::LookFor(file) => drop(trainer.look_for(&file)?),
            Command::WriteRange(order) => drop(trainer.write_range(&order, || ())?),
            Command::FindTooLarge(dtype) => drop(trainer.find_too_large(dtype)?),
            Command::End => return Ok(()),
        }
        // A failure of the device is this rank's to say, before it waits for the next.
        device.synchronize()?;
    }
}

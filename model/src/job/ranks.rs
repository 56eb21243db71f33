//! What several ranks ask of a recipe, and of a run that others began.

use cpift_engine::Device;

use super::Job;
use super::trainings::sections;
use crate::counts::counted;
use crate::error::{Error, Result};
use crate::recipe::Recipe;

/// What a person should know where a run goes on with another number of ranks or threads than the process before had.
pub fn other_processes(job: &Job, (ranks, threads): (u64, u64)) -> Option<String> {
    let now = job.ranks.size() as u64;
    // A GPU has no threads.
    if ranks == now && !matches!(job.device, Device::Cpu(_)) {
        return None;
    }
    let (begun, continued, remedy) = match ranks == now {
        true => (
            counted(threads, "thread"),
            job.device.threads().to_string(),
            format!("--threads {threads} keeps them"),
        ),
        false => (counted(ranks, "rank"), now.to_string(), "as many as before keep them".to_owned()),
    };
    Some(format!(
        "{}: begun with {begun}, continued with {continued}: results may differ in the last bits; {remedy}",
        job.out.display(),
    ))
}

/// Fails unless so many ranks can train by a recipe.
///
/// # Errors
/// A recipe that is none; micro-batches that cannot be dealt evenly, with numbers that can.
pub fn check(recipe: &Recipe, ranks: usize) -> Result<()> {
    if ranks == 1 {
        return Ok(());
    }
    recipe.validate()?;
    check_micro_batches(recipe, ranks)
}

fn check_micro_batches(recipe: &Recipe, ranks: usize) -> Result<()> {
    for (section, settings) in sections(recipe) {
        let accumulate = settings.accumulate;
        if accumulate.is_multiple_of(ranks) {
            continue;
        }
        // Sections have what [train] has, unless they say otherwise.
        let section = if recipe.train.accumulate == accumulate { "train" } else { section };
        let above = accumulate.next_multiple_of(ranks);
        let next = match above - ranks {
            0 => format!("{above} or {}", above.saturating_add(ranks)),
            below => format!("{below} or {above}"),
        };
        let reason = format!(
            "is {accumulate}, and a step's micro-batches are dealt evenly to {ranks} ranks: use {next}, and another \
             batch_size for steps of as many rows"
        );
        return Err(Error::setting(format!("{section}.accumulate"), reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_numbers_that_can_be_dealt_are_named() {
        let check = |accumulate, ranks| {
            let mut recipe = Recipe::default();
            recipe.train.accumulate = accumulate;
            recipe.probe.training.accumulate = accumulate;
            recipe.integrate.training.accumulate = accumulate;
            check_micro_batches(&recipe, ranks).map_err(|error| error.to_string())
        };
        for (accumulate, ranks, next) in
            [(4, 3, "3 or 6"), (1, 3, "3 or 6"), (3, 2, "2 or 4"), (2, 8, "8 or 16")]
        {
            let message = check(accumulate, ranks).unwrap_err();
            assert!(message.starts_with("`train.accumulate`: ") && message.contains(next), "{message}");
        }
        for (accumulate, ranks) in [(1, 1), (7, 1), (4, 2), (6, 3), (6, 6)] {
            check(accumulate, ranks).unwrap();
        }
        let mut recipe = Recipe::default();
        recipe.train.accumulate = 2;
        recipe.probe.training.accumulate = 2;
        recipe.integrate.training.accumulate = 3;
        let message = check_micro_batches(&recipe, 2).unwrap_err().to_string();
        assert!(message.starts_with("`integrate.accumulate`: is 3"), "{message}");
    }
}

//! Checkpoints inside a fine-tune: everything needed to continue to the same bits.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

use cpift_engine::Device;
use serde::{Deserialize, Serialize};

use super::names::CHECKPOINTS;
use crate::error::{Error, FileAction, Result};
use crate::files::{self, AtomicFolder, Manifest, Origin, RecordedSteps, Verify};
use crate::progress::{StepReport, TrainingStage};
use crate::trainer::{StatePart, Trainer};

/// Where a fine-tune stands, beside its weights and moments.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TrainingState {
    /// Steps made, over all parts.
    pub step: u64,
    /// Steps the optimizer counts, for its bias correction.
    pub optimizer_steps: u64,
    /// Hash of the coordinates frozen in the current part, from its beginning.
    pub frozen_hash: Option<String>,
    /// Frozen coordinates checked so far, summed over the parts.
    pub frozen_verified: u64,
    /// The best weights so far, by what was measured while training.
    #[serde(default)]
    pub best: Option<Best>,
    /// Evaluations since then.
    #[serde(default)]
    pub evaluations_since_best: u64,
    /// Tasks that were reported as worse than on the base.
    #[serde(default)]
    pub alarmed: Vec<String>,
    /// The step whose evaluation was interrupted: it is on no record yet.
    #[serde(default)]
    pub pending: Option<StepReport>,
}

/// The best weights of a training so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The step after which they were there.
    pub step: u64,
    /// How good they are: the mean of [`Score::quality`] over the tasks that count.
    pub quality: f64,
    /// By how much the loss is below the base's, in the mean over these tasks: it decides between weights of the same
    /// quality, as those are that answer nothing right.
    #[serde(default)]
    pub below_base: f64,
}

impl Best {
    /// Whether these weights are to be kept instead of the others.
    pub fn is_better_than(&self, other: &Self) -> bool {
        (self.quality, self.below_base) > (other.quality, other.below_base)
    }
}

/// The checkpoints of a run: `checkpoint/<training>/step-<n>/`.
#[derive(Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    keep: usize,
    /// Files are read and hashed on its threads.
    device: Device,
    /// Whether all ranks see the run folder, so that each writes its range.
    seen_by_all: bool,
    /// The step of the best weights that the newest checkpoint names.
    named_best: Cell<Option<u64>>,
}

const STATE: &str = "state.json";

impl Checkpoints {
    /// Checkpoints in the run folder `run`, which all ranks see or not; `keep` of each training are kept.
    pub fn new(run: &Path, keep: usize, device: &Device, seen_by_all: bool) -> Self {
        let (folder, named_best) = (run.join(CHECKPOINTS), Cell::new(None));
        Self { folder, keep: keep.max(1), device: device.clone(), seen_by_all, named_best }
    }

    /// Name of a checkpoint in the run folder.
    fn place(training: &str, step: u64) -> String {
        format!("{CHECKPOINTS}/{training}/{}", step_name(step))
    }

    /// Writes one, then removes all but the newest. Later ones go before it is written: they were damaged, or this
    /// training would have begun there. Where the disk is short of room, older ones go before too, the newest last;
    /// their steps are returned. Its place is put into `origin`.
    ///
    /// # Errors
    /// When it cannot be written: those that did not have to make room are then still there.
    pub fn write(
        &self,
        training: &str,
        state: &TrainingState,
        trainer: &mut Trainer,
        origin: Origin,
    ) -> Result<Vec<u64>> {
        let folder = self.folder.join(training);
        files::create_folders(&folder)?;
        let destination = folder.join(step_name(state.step));
        let origin = Origin { place: Self::place(training, state.step), ..origin };
        if destination.exists() {
            let there = self.device.scope(|| Manifest::verify(&destination, Verify::Contents));
            if there.is_ok_and(|manifest| manifest.origin.as_ref() == Some(&origin)) {
                return Ok(Vec::new());
            }
            remove(&destination)?;
        }
        let later = self.list(training)?.into_iter().filter(|(step, _)| *step > state.step);
        later.into_iter().try_for_each(|(_, damaged)| remove(&damaged))?;
        let state = TrainingState { optimizer_steps: trainer.steps(), ..state.clone() };
        let parts = parts_of(training);
        // Killed before the new one is whole, the training begins again where all of the older ones had to go.
        let removed = self.make_room(training, trainer.state_bytes(parts) + SMALL_FILES, 0)?;
        let mut writing = AtomicFolder::create(&destination)?;
        trainer.write_state(&mut writing, parts, self.seen_by_all)?;
        writing.write_json(STATE, &state)?;
        writing.commit_as(origin)?;
        let mut all = self.list(training)?;
        all.truncate(all.len().saturating_sub(self.keep));
        all.iter().try_for_each(|(_, old)| remove(old))?;
        self.named_best.set(state.best.map(|best| best.step));
        self.forget_other_bests(training, None)?;
        Ok(removed)
    }

    /// Reads the newest whole checkpoint of a training into the trainer; also returns the lines of metrics that
    /// were there with it. One that is damaged is passed over; why goes to `damaged`.
    ///
    /// # Errors
    /// When one belongs to another run or training, or a file that its manifest vouches for cannot be read.
    pub fn read_newest(
        &self,
        training: &str,
        trainer: &mut Trainer,
        origin: &Origin,
        damaged: &mut Vec<Error>,
    ) -> Result<Option<(TrainingState, Option<RecordedSteps>)>> {
        for (step, folder) in self.list(training)?.into_iter().rev() {
            let verified = self.device.scope(|| Manifest::verify(&folder, Verify::Contents));
            let manifest = match verified {
                Ok(manifest) => manifest,
                Err(error) => {
                    damaged.push(error);
                    continue;
                }
            };
            let expected = Origin { place: Self::place(training, step), ..origin.clone() };
            expected.require(&folder, manifest.origin.as_ref())?;
            let path = folder.join(STATE);
            let text = files::read_text(&path)?;
            let state: TrainingState =
                serde_json::from_str(&text).map_err(|error| Error::format(&path, error.to_string()))?;
            trainer.read_state(&folder, &manifest, parts_of(training))?;
            trainer.set_steps(state.optimizer_steps);
            self.named_best.set(state.best.map(|best| best.step));
            return Ok(Some((state, manifest.origin.and_then(|origin| origin.metrics))));
        }
        Ok(None)
    }

    /// Writes the weights as the best of a training so far, in place of those before.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write_best(&self, training: &str, step: u64, trainer: &mut Trainer, origin: Origin) -> Result<()> {
        let folder = self.folder.join(training);
        files::create_folders(&folder)?;
        // The name says the step: one that a crash left behind is never taken for another.
        let destination = folder.join(best_name(step));
        if destination.exists() {
            remove(&destination)?;
        }
        // Those that no checkpoint names are written again by a run that is continued.
        self.forget_other_bests(training, None)?;
        let mut writing = AtomicFolder::create(&destination)?;
        trainer.write_state(&mut writing, &[], self.seen_by_all)?;
        writing.commit_as(Origin { place: Self::best_place(training, step), ..origin })?;
        self.forget_other_bests(training, Some(step))
    }

    /// Reads the best weights, which were there after this step.
    ///
    /// # Errors
    /// They are missing, damaged, or of another run.
    pub fn read_best(&self, training: &str, step: u64, trainer: &mut Trainer, origin: &Origin) -> Result<()> {
        let folder = self.folder.join(training).join(best_name(step));
        let manifest = self.device.scope(|| Manifest::verify(&folder, Verify::Contents))?;
        let expected = Origin { place: Self::best_place(training, step), ..origin.clone() };
        expected.require(&folder, manifest.origin.as_ref())?;
        trainer.read_state(&folder, &manifest, &[])
    }

    /// Removes all best weights but these and those that the newest checkpoint names.
    fn forget_other_bests(&self, training: &str, newest: Option<u64>) -> Result<()> {
        let folder = self.folder.join(training);
        let kept: Vec<String> = newest.into_iter().chain(self.named_best.get()).map(best_name).collect();
        for entry in fs::read_dir(&folder).map_err(Error::file(&folder, FileAction::Read))? {
            let path = entry.map_err(Error::file(&folder, FileAction::Read))?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if name.starts_with(BEST) && !kept.contains(&name) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    fn best_place(training: &str, step: u64) -> String {
        format!("{CHECKPOINTS}/{training}/{}", best_name(step))
    }

    /// Removes a training's checkpoints, when its result is saved, and the folder of all when nothing is left in it.
    ///
    /// # Errors
    /// The system's, naming the folder.
    pub fn forget(&self, training: &str) -> Result<()> {
        let folder = self.folder.join(training);
        if folder.exists() {
            remove(&folder)?;
        }
        // Refused where another training's are still there; an empty folder that stays does no harm.
        let _ = fs::remove_dir(&self.folder);
        Ok(())
    }

    /// A training's checkpoints by ascending step.
    fn list(&self, training: &str) -> Result<Vec<(u64, PathBuf)>> {
        list(&self.folder.join(training))
    }

    /// Removes a training's oldest checkpoints where that makes room for so many bytes that there is not; so many of
    /// them stay. Returns the steps of those that are gone.
    ///
    /// # Errors
    /// The system's, naming the folder.
    pub fn make_room(&self, training: &str, bytes: u64, stay: usize) -> Result<Vec<u64>> {
        // Whoever writes says so where there is too little room, or where that cannot be found out.
        match files::free_space(&self.folder) {
            Ok(free) if free < bytes => self.remove_for(training, bytes - free, stay),
            _ => Ok(Vec::new()),
        }
    }

    /// Removes the oldest checkpoints that come to so many bytes together; none where they do not.
    fn remove_for(&self, training: &str, bytes: u64, stay: usize) -> Result<Vec<u64>> {
        let mut old = self.list(training)?;
        old.truncate(old.len().saturating_sub(stay));
        let (mut sum, mut count) = (0, 0);
        while count < old.len() && sum < bytes {
            sum += files::folder_bytes(&old[count].1)?;
            count += 1;
        }
        old.truncate(if sum >= bytes { count } else { 0 });
        old.iter().try_for_each(|(_, folder)| remove(folder))?;
        Ok(old.into_iter().map(|(step, _)| step).collect())
    }
}

/// The checkpoints in the folder of a training, by ascending step.
fn list(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::file(folder, FileAction::Read))? {
        let path = entry.map_err(Error::file(folder, FileAction::Read))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if let Some(step) = name.strip_prefix("step-").and_then(|step| step.parse().ok()) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// The step of the newest checkpoint in the folder of a training.
///
/// # Errors
/// The system's, naming the folder.
pub fn newest_step(folder: &Path) -> Result<Option<u64>> {
    Ok(list(folder)?.last().map(|(step, _)| *step))
}

/// What a checkpoint takes beside its tensors.
pub const SMALL_FILES: u64 = 1 << 20;

/// Whether importance counts in a training: in those of probes.
fn has_importance(training: &str) -> bool {
    training.starts_with(TrainingStage::Probe.name())
}

/// How the folders of best weights are called.
const BEST: &str = "best-";

/// Name of the folder of the best weights, after this step.
fn best_name(step: u64) -> String {
    format!("{BEST}{step:08}")
}

/// Name of the folder of a checkpoint after this step.
fn step_name(step: u64) -> String {
    format!("step-{step:08}")
}

fn remove(folder: &Path) -> Result<()> {
    fs::remove_dir_all(folder).map_err(Error::file(folder, FileAction::Remove))
}

/// The parts of the state that a training's checkpoints have.
fn parts_of(training: &str) -> &'static [StatePart] {
    match has_importance(training) {
        true => &[StatePart::FirstMoment, StatePart::SecondMoment, StatePart::Importance],
        false => &[StatePart::FirstMoment, StatePart::SecondMoment],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four checkpoints of 100 bytes.
    fn four() -> (tempfile::TempDir, Checkpoints) {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(run.path(), 4, &Device::cpu(None).unwrap(), false);
        for step in [3, 20, 100, 1000] {
            let folder = checkpoints.folder.join("integrate").join(step_name(step));
            files::create_folders(&folder).unwrap();
            fs::write(folder.join("state.safetensors"), [0; 100]).unwrap();
        }
        (run, checkpoints)
    }

    #[test]
    fn the_oldest_checkpoints_make_room_where_that_is_enough() {
        for (bytes, stay, left) in [
            (1, 0, &[20, 100, 1000][..]),
            (100, 1, &[20, 100, 1000]),
            (101, 1, &[100, 1000]),
            (300, 1, &[1000]),
            (301, 1, &[3, 20, 100, 1000]),
            (301, 0, &[]),
            (401, 0, &[3, 20, 100, 1000]),
            (1, 9, &[3, 20, 100, 1000]),
        ] {
            let (_run, checkpoints) = four();
            checkpoints.remove_for("integrate", bytes, stay).unwrap();
            let steps: Vec<u64> =
                checkpoints.list("integrate").unwrap().into_iter().map(|(step, _)| step).collect();
            assert_eq!(steps, left, "{bytes} bytes, {stay} stay");
        }
    }

    #[test]
    fn nothing_is_removed_where_there_is_room() {
        let (_run, checkpoints) = four();
        checkpoints.make_room("integrate", 0, 0).unwrap();
        checkpoints.make_room("none", u64::MAX, 0).unwrap();
        assert_eq!(checkpoints.list("integrate").unwrap().len(), 4);
    }
}

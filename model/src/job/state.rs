//! Checkpoints inside a fine-tune: everything needed to continue to the same bits.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

use cpift_engine::ops::adamw::MomentType;
use cpift_engine::{Device, ViewMut};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::names::CHECKPOINTS;
use crate::checkpoint::{NamedTensor, TensorData, TensorFile, TensorWriter, WeightType, write_tensors};
use crate::error::{Error, FileAction, Result};
use crate::files::{self, AtomicFolder, FileWriter, Manifest, Origin, RecordedSteps, Verify};
use crate::progress::{StepReport, TrainingStage};
use crate::trainer::{StateMut, StatePart, StateView, Trainer};

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
    /// The step of the best weights that the newest checkpoint names.
    named_best: Cell<Option<u64>>,
}

const TENSORS: &str = "state.safetensors";
const STATE: &str = "state.json";
/// Parts of the optimizer's state by their names in a file.
const STATE_PARTS: [(&str, StatePart); 3] = [
    ("moment1", StatePart::FirstMoment),
    ("moment2", StatePart::SecondMoment),
    ("importance", StatePart::Importance),
];

impl Checkpoints {
    /// Checkpoints in the run folder `run`; `keep` of each training are kept.
    pub fn new(run: &Path, keep: usize, device: &Device) -> Self {
        let named_best = Cell::new(None);
        Self { folder: run.join(CHECKPOINTS), keep: keep.max(1), device: device.clone(), named_best }
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
        let tensors = StateTensors::of(trainer, has_importance(training));
        // Killed before the new one is whole, the training begins again where all of the older ones had to go.
        let removed = self.make_room(training, tensors.bytes() + SMALL_FILES, 0)?;
        let mut writing = AtomicFolder::create(&destination)?;
        writing.write(TENSORS, |file| tensors.write(file, trainer))?;
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
            self.read_tensors(&folder.join(TENSORS), trainer, has_importance(training))?;
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
        let weights = trainer.weights()?;
        let tensor = NamedTensor {
            name: "weights".to_owned(),
            shape: vec![weights.len()],
            data: TensorData::Floats(weights, WeightType::F32),
        };
        let mut writing = AtomicFolder::create(&destination)?;
        writing.write(TENSORS, |file| write_tensors(file, &[tensor], None))?;
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
        let file = TensorFile::open(&folder.join(TENSORS))?;
        let length = trainer.layout().len();
        self.device.scope(|| file.read_floats("weights", &[length], trainer.weights_mut()?))
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

    fn read_tensors(&self, path: &Path, trainer: &mut Trainer, importance: bool) -> Result<()> {
        let file = TensorFile::open(path)?;
        let length = trainer.layout().len();
        let read = |name: &str, length: usize, target: ViewMut<'_, f32>| {
            self.device.scope(|| file.read_floats(name, &[length], target))
        };
        read("weights", length, trainer.weights_mut()?)?;
        for (name, part) in state_parts(importance) {
            trainer.set_state(part, |target| match target {
                StateMut::F32(values) => read(name, values.len(), values),
                StateMut::Bf16(values) => file.read_bf16(name, values),
            })?;
        }
        Ok(())
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

/// The parts of the state that a checkpoint has.
fn state_parts(with_importance: bool) -> impl Iterator<Item = (&'static str, StatePart)> {
    STATE_PARTS.into_iter().filter(move |(_, part)| with_importance || *part != StatePart::Importance)
}

/// The tensors of a checkpoint: the weights, then the state, part by part, as several ranks put one together at a time.
struct StateTensors {
    /// Name, type and shape.
    heads: Vec<(String, Dtype, Vec<usize>)>,
    parts: Vec<(&'static str, StatePart)>,
}

impl StateTensors {
    fn of(trainer: &Trainer, with_importance: bool) -> Self {
        let parts: Vec<_> = state_parts(with_importance).collect();
        let length = trainer.layout().len();
        let mut heads = vec![("weights".to_owned(), Dtype::F32, vec![length])];
        heads.extend(parts.iter().map(|&(name, part)| {
            let (stored, length) = trainer.state_form(part);
            let dtype = match stored {
                MomentType::F32 => Dtype::F32,
                MomentType::Bf16 => Dtype::BF16,
            };
            (name.to_owned(), dtype, vec![length])
        }));
        Self { heads, parts }
    }

    fn bytes(&self) -> u64 {
        let bytes = |(_, dtype, shape): &(String, Dtype, Vec<usize>)| shape[0] * dtype.bitsize() / 8;
        self.heads.iter().map(|head| bytes(head) as u64).sum()
    }

    fn write(&self, file: &mut FileWriter, trainer: &mut Trainer) -> Result<()> {
        let heads = self.heads.iter().map(|(name, dtype, shape)| (name, *dtype, shape));
        let mut writer = TensorWriter::begin(file, heads, None)?;
        writer.write(&tensor("weights", StateView::F32(trainer.weights()?)))?;
        for &(name, part) in &self.parts {
            writer.write(&tensor(name, trainer.state(part)?))?;
        }
        Ok(())
    }
}

fn tensor<'a>(name: &str, values: StateView<'a>) -> NamedTensor<'a> {
    let data = match values {
        StateView::F32(values) => TensorData::Floats(values, WeightType::F32),
        StateView::Bf16(values) => TensorData::Bf16(values),
    };
    NamedTensor { name: name.to_owned(), shape: vec![values.len()], data }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four checkpoints of 100 bytes.
    fn four() -> (tempfile::TempDir, Checkpoints) {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(run.path(), 4, &Device::cpu(None).unwrap());
        for step in [3, 20, 100, 1000] {
            let folder = checkpoints.folder.join("integrate").join(step_name(step));
            files::create_folders(&folder).unwrap();
            fs::write(folder.join(TENSORS), [0; 100]).unwrap();
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

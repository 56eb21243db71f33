//! The models a run reads more than once, from the disk one at a time. Each must stay what it was.

use std::ops::Range;
use std::path::{Path, PathBuf};

use cpift_engine::ops::subtract::subtract;
use cpift_engine::{Buffer, Placement, View, ViewMut};

use super::Job;
use super::names::{IMPORTANCE, probe_place};
use super::trainings::stored_importance;
use crate::checkpoint::{Checkpoint, TensorFile};
use crate::error::{Error, Result};
use crate::recipe::ImportanceKind;
use crate::stages::models::TaskModels;
use crate::stages::pieces::{LayoutPart, parts, pieces};
use crate::stages::saliency::fisher_net;

/// The probes of a run folder (the job's own, or the one it takes over), and the models that tasks bring.
pub struct RunModels<'a> {
    job: &'a Job,
}

impl<'a> RunModels<'a> {
    /// The models of a job.
    pub fn new(job: &'a Job) -> Self {
        Self { job }
    }

    /// Folder of a task's probe: like every path of a run's file, with the run folder's already in it.
    pub fn probe_folder(&self, task: usize) -> PathBuf {
        let run = self.job.inputs.probes.as_ref().unwrap_or(&self.job.out);
        run.join(probe_place(&self.job.inputs.tasks[task].name))
    }

    /// Whether a task's probe has stored what its importance follows from; else that is what the task's model is away from
    /// the base.
    pub fn has_importance(&self, task: usize) -> bool {
        self.job.inputs.tasks[task].model.is_none()
            && stored_importance(&self.job.recipe, self.job.state).is_some()
    }

    fn importance_file(&self, task: usize) -> PathBuf {
        self.probe_folder(task).join(IMPORTANCE)
    }

    /// Reads of a task's model, which must be what it was.
    fn read_model(&self, task: usize, read: impl FnOnce(&Checkpoint) -> Result<()> + Send) -> Result<()> {
        let job = self.job;
        if let Some(model) = &job.inputs.tasks[task].model {
            job.device.scope(|| read(model))?;
            return self.check(model.files());
        }
        let probe = Checkpoint::open(&self.probe_folder(task))?;
        job.device.scope(|| read(&probe))?;
        self.check_probe(task, probe.files())
    }
}

impl TaskModels for RunModels<'_> {
    fn read_base(&mut self, weights: ViewMut<'_, f32>) -> Result<()> {
        let job = self.job;
        let files = job.inputs.base.checkpoint.iter().flat_map(Checkpoint::files);
        job.device.scope(|| job.inputs.base.load_into(weights))?;
        self.check(files)
    }

    fn read_weights(&mut self, task: usize, weights: ViewMut<'_, f32>) -> Result<()> {
        self.read_model(task, |model| model.load_into(weights))
    }

    fn read_range(&mut self, task: usize, range: Range<usize>, weights: ViewMut<'_, f32>) -> Result<()> {
        self.read_model(task, |model| model.load_range(range, weights))
    }

    fn read_importance(
        &mut self,
        task: usize,
        part: &LayoutPart,
        mut importance: ViewMut<'_, f32>,
        base: View<'_, f32>,
    ) -> Result<()> {
        let job = self.job;
        let is_weighted = job.recipe.probe.importance == ImportanceKind::FisherNet;
        importance.fill(0.0)?;
        if self.has_importance(task) && !is_weighted {
            let file = TensorFile::open(&self.importance_file(task))?;
            job.device.scope(|| file.read_layout(&part.layout, "", importance))?;
            return self.check_probe(task, [file.path()].into_iter());
        }
        self.read_range(task, part.range.clone(), importance.reborrow())?;
        subtract(&job.device, importance.reborrow(), base)?;
        if is_weighted { self.weight_by_roots(task, part, importance) } else { Ok(()) }
    }
}

impl RunModels<'_> {
    /// Multiplies the movement of every parameter by the root of its second moment, which the probe has stored.
    fn weight_by_roots(&self, task: usize, part: &LayoutPart, mut movement: ViewMut<'_, f32>) -> Result<()> {
        let job = self.job;
        let file = TensorFile::open(&self.importance_file(task))?;
        for of_tensors in parts(&part.layout)? {
            // On the host, which `plan` counts it for.
            let mut squares = Buffer::zeros_in(&job.device, of_tensors.layout.len(), Placement::Host)?;
            job.device.scope(|| file.read_layout(&of_tensors.layout, "", squares.view_mut()))?;
            let mut own = movement.reborrow().slice(of_tensors.range.clone());
            for piece in pieces(squares.len()) {
                let squares = squares.slice(piece.clone()).to_vec()?;
                let mut target = own.reborrow().slice(piece);
                let mut values = target.as_view().to_vec()?;
                for (value, square) in values.iter_mut().zip(squares) {
                    *value = fisher_net(*value, square);
                }
                target.copy_from_host(&values)?;
            }
        }
        self.check_probe(task, [file.path()].into_iter())
    }

    /// As [`RunModels::check`], for a probe, which a run can make again.
    fn check_probe<'b>(&self, task: usize, files: impl Iterator<Item = &'b Path> + Send) -> Result<()> {
        self.check(files).map_err(|error| match error {
            Error::Format { path, .. } => {
                let folder = self.probe_folder(task);
                let reason = format!(
                    "has changed since it was written: remove {} and continue with --resume",
                    folder.display()
                );
                Error::format(&path, reason)
            }
            other => other,
        })
    }

    /// Fails when a file that was just read is not what it was when the run or this process began.
    fn check<'b>(&self, mut files: impl Iterator<Item = &'b Path> + Send) -> Result<()> {
        self.job.device.scope(|| files.try_for_each(|file| self.job.known.check(file)))
    }
}

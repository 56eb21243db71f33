//! The task models of a run, read from the disk one at a time.

use std::path::PathBuf;

use cpift_engine::ops::subtract::subtract;
use cpift_engine::{Buffer, ViewMut};

use super::Job;
use crate::checkpoint::{Checkpoint, TensorFile};
use crate::error::Result;
use crate::stages::fuse::TaskModels;

/// Name of the importance beside a probe's model.
pub const IMPORTANCE: &str = "importance.safetensors";

/// The probes of a run folder (the job's own, or the one it takes over), and the models that tasks bring.
pub struct RunModels<'a> {
    job: &'a Job,
}

impl<'a> RunModels<'a> {
    /// The models of a job.
    pub fn new(job: &'a Job) -> Self {
        Self { job }
    }

    /// Folder of a task's probe.
    pub fn probe_folder(&self, task: usize) -> PathBuf {
        let run = self.job.inputs.probes.as_ref().unwrap_or(&self.job.out);
        run.join("probe").join(&self.job.inputs.tasks[task].name)
    }
}

impl TaskModels for RunModels<'_> {
    fn read_base(&mut self, weights: ViewMut<'_, f32>) -> Result<()> {
        self.job.device.scope(|| self.job.inputs.base.load_into(weights))
    }

    fn read_weights(&mut self, task: usize, weights: ViewMut<'_, f32>) -> Result<()> {
        match &self.job.inputs.tasks[task].model {
            Some(model) => self.job.device.scope(|| model.load_into(weights)),
            None => {
                let probe = Checkpoint::open(&self.probe_folder(task))?;
                self.job.device.scope(|| probe.load_into(weights))
            }
        }
    }

    fn read_importance(&mut self, task: usize, mut importance: ViewMut<'_, f32>) -> Result<()> {
        if self.job.inputs.tasks[task].model.is_none() {
            let file = TensorFile::open(&self.probe_folder(task).join(IMPORTANCE))?;
            return file.read_layout(&self.job.inputs.layout, "", importance);
        }
        let mut base = Buffer::zeros(&self.job.device, importance.len())?;
        self.read_base(base.view_mut())?;
        self.read_weights(task, importance.reborrow())?;
        Ok(subtract(&self.job.device, importance, base.view())?)
    }
}

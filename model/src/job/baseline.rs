//! What CPI-FT is measured against: joint, sequential and staged fine-tuning.

use super::plan::method_name;
use super::session::Session;
use super::training::{Training, TrainingPart};
use crate::error::Result;
use crate::progress::JobReport;
use crate::settings::Method;

impl Session<'_> {
    /// Runs a baseline from the base to the final model.
    pub(super) fn run_baseline(&mut self) -> Result<JobReport> {
        let method = self.job.recipe.method;
        let columns: &[&str] =
            if method == Method::Staged { &["base", "probe", "final"] } else { &["base", "final"] };
        self.load_base()?;
        self.evaluate_all("base")?;
        let groups = match method {
            Method::Staged => {
                self.probe()?;
                let cores = self.select_cores()?;
                self.group(&cores)?
            }
            Method::Joint => vec![self.job.inputs.all_tasks()],
            Method::Sequential | Method::Cpift => {
                self.job.inputs.all_tasks().into_iter().map(|task| vec![task]).collect()
            }
        };
        if !self.reuse_final()? {
            self.load_base()?;
            self.train_staged(method_name(method), &groups)?;
            self.save_final(0)?;
            self.checkpoints.forget(method_name(method))?;
        }
        self.evaluate_all("final")?;
        self.finish(columns)
    }

    /// Fine-tunes through groups of tasks one after the other, each a fine-tune of its own (schedule and
    /// moments anew) as it is done by hand; nothing is frozen. One group is plain joint training.
    pub(super) fn train_staged(&mut self, stage: &str, groups: &[Vec<usize>]) -> Result<()> {
        let job = self.job;
        let per_task = &job.steps.per_task;
        let part = |(index, members): (usize, &Vec<usize>)| {
            let names: Vec<String> =
                members.iter().map(|&task| job.inputs.tasks[task].name.clone()).collect();
            let title = if groups.len() == 1 {
                stage.to_owned()
            } else {
                format!("{stage} part {}/{} ({})", index + 1, groups.len(), names.join(", "))
            };
            let steps = if job.recipe.method == Method::Joint {
                per_task.iter().sum()
            } else {
                members.iter().map(|&task| per_task[task]).sum()
            };
            TrainingPart {
                title,
                steps,
                sources: job.inputs.whole(members),
                source_names: names,
                purpose: format!("{stage} part {}", index + 1),
                frozen: None,
            }
        };
        let parts = groups.iter().enumerate().map(part).collect();
        self.train(Training { stage, part: "", settings: &job.recipe.train, restart: true, parts })?;
        Ok(())
    }
}

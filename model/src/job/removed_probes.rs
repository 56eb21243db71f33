//! Probes that are removed when the model is made that the rest of a run goes on from.
//!
//! A record of what they were is written first: later stages say that they were made from them. As long as those are there
//! and whole, a run that is continued needs no probes. Where one of them is gone, probes are made again, to the same bits.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::names::{CORE, FUSED, GROUPS, PROBES, REMOVED_PROBES, origin_of, probe_place};
use super::seal;
use super::session::Session;
use crate::error::{Error, FileAction, Result};
use crate::files;
use crate::progress::{Column, Event, GroupReport, TrainingStage};
use crate::recipe::{Method, Stage};

/// What the probes were.
#[derive(Serialize, Deserialize)]
struct RemovedProbes {
    /// Digest of each, by task.
    digests: BTreeMap<String, String>,
}

impl Session<'_> {
    /// Stage 1, from the run folder where it is there already, or where what was made of it is.
    ///
    /// # Errors
    /// As [`Session::probe`].
    pub(super) fn make_probes(&mut self) -> Result<()> {
        if !self.has_removed_probes()? {
            return self.probe(&self.job.inputs.all_tasks());
        }
        let job = self.job;
        let tasks: Vec<usize> = (0..job.inputs.tasks.len()).collect();
        if self.lacks_samples(&Column::Probe, &tasks) {
            self.observer.event(Event::Notice(
                "the probes were removed: they are not measured on the rows that [evaluate] asks for now",
            ));
        }
        for task in job.inputs.tasks.iter().filter(|task| task.model.is_none()) {
            self.checkpoints.forget(&TrainingStage::Probe.training(&task.name))?;
            self.observer.event(Event::StageReused { stage: Stage::Probe, part: &task.name });
        }
        Ok(())
    }

    /// Removes the probes that this run has trained, unless the recipe keeps them. All that is made from them is there.
    ///
    /// # Errors
    /// The system's, naming the folder.
    pub(super) fn remove_probes(&mut self) -> Result<()> {
        if self.job.keeps_probes || self.trained_probes().is_empty() {
            return Ok(());
        }
        let digest = |task: String| -> Result<(String, String)> {
            let place = probe_place(&task);
            let digest = self.digest(&place).ok_or_else(|| Error::Job(format!("{place} was not checked")))?;
            Ok((task, digest.to_owned()))
        };
        let digests: Result<_> = self.trained_probes().into_iter().map(digest).collect();
        let removed = RemovedProbes { digests: digests? };
        seal::write(&self.job.out.join(REMOVED_PROBES), &self.removed_origin(), &removed)?;
        self.remove_probe_folders()
    }

    /// Whether the probes were removed and nothing needs them.
    fn has_removed_probes(&mut self) -> Result<bool> {
        let path = self.job.out.join(REMOVED_PROBES);
        let Some((removed, _)) = seal::read::<RemovedProbes>(&path, &self.removed_origin())? else {
            return Ok(false);
        };
        for (task, digest) in removed.digests {
            self.remember(&probe_place(&task), digest);
        }
        if self.is_past_probes()? {
            if !self.job.keeps_probes {
                // As far as that was interrupted.
                self.remove_probe_folders()?;
            }
            return Ok(true);
        }
        self.observer.event(Event::Notice(
            "the probes were removed, and not all that was made of them is there and whole: they are trained again",
        ));
        fs::remove_file(&path).map_err(Error::file(&path, FileAction::Remove))?;
        Ok(false)
    }

    /// Why a probe that is to be taken over from another run is not in its `folder`.
    pub(super) fn why_missing(&self, folder: &Path) -> &'static str {
        let run = folder.parent().and_then(Path::parent);
        if run.is_some_and(|run| run.join(REMOVED_PROBES).is_file()) {
            "was removed by its run: run it again with checkpoint.keep_probes = true"
        } else {
            "is missing: the run whose probes are to be taken over is not complete"
        }
    }

    /// Whether all is there and measured that is made from the probes alone.
    fn is_past_probes(&mut self) -> Result<bool> {
        let job = self.job;
        // Not on the samples of [evaluate], which a run that is continued may change: nothing goes by those of probes.
        let is_measured = job
            .inputs
            .tasks
            .iter()
            .all(|task| task.eval().is_none() || self.has_score(&Column::Probe, &task.name));
        if !is_measured || !self.is_complete(&job.out.join(CORE), &self.core_origin())? {
            return Ok(false);
        }
        let (path, origin) = (job.out.join(GROUPS), self.origin(GROUPS, &[CORE]));
        let Some((_, content)) = seal::read::<GroupReport>(&path, &origin)? else { return Ok(false) };
        self.remember(GROUPS, content);
        match job.recipe.method {
            Method::Cpift => self.is_complete(&job.out.join(FUSED), &self.origin(FUSED, &[CORE, GROUPS])),
            _ => Ok(true),
        }
    }

    /// Tasks whose probes this run trains.
    fn trained_probes(&self) -> Vec<String> {
        let inputs = &self.job.inputs;
        let trained = inputs.all_tasks().into_iter().filter(|&task| inputs.trains_probe(task));
        trained.map(|task| inputs.tasks[task].name.clone()).collect()
    }

    fn remove_probe_folders(&self) -> Result<()> {
        for task in self.trained_probes() {
            let folder = self.job.out.join(probe_place(&task));
            if folder.exists() {
                files::remove_folder(&folder)?;
            }
        }
        // Refused where there are others; an empty folder that stays does no harm.
        let _ = fs::remove_dir(self.job.out.join(PROBES));
        Ok(())
    }

    fn removed_origin(&self) -> files::Origin {
        origin_of(self.identity(), REMOVED_PROBES)
    }
}

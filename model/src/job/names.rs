//! What the files, folders and trainings of a run folder are called.

use crate::files::Origin;

/// The resolved recipe.
pub const RECIPE: &str = "recipe.toml";
/// What was planned, and the processes that worked on the run.
pub const RUN: &str = "run.json";
/// The files the run reads.
pub const INPUTS: &str = "inputs.json";
/// What the run was begun with.
pub const IDENTITY: &str = "identity.json";
/// How long it has taken.
pub const PROGRESS: &str = "progress.json";
/// What was measured.
pub const SCORES: &str = "scores.json";
/// Some of the answers.
pub const ANSWERS: &str = "answers.json";
/// Folder of all checkpoints.
pub const CHECKPOINTS: &str = "checkpoint";
/// Folder of the probes, one for each task.
pub const PROBES: &str = "probe";
/// Folder of what processes make that make one probe each, a folder for each task.
pub const PROBE_RUNS: &str = "probe-runs";
/// Importance beside a probe's model.
pub const IMPORTANCE: &str = "importance.safetensors";
/// What the probes were that are removed.
pub const REMOVED_PROBES: &str = "removed-probes.json";
/// Folder of the cores.
pub const CORE: &str = "core";
/// Folder of what was measured of probes at several lengths.
pub const PROBE_LENGTHS: &str = "probe-lengths";
/// The groups.
pub const GROUPS: &str = "groups.json";
/// Folder of the fused model.
pub const FUSED: &str = "fused";
/// Folder of the final model.
pub const FINAL: &str = "final";
/// What the folder of a stage says about it.
pub const REPORT: &str = "report.json";
/// The closing table, as data and as Markdown.
pub const RESULT: &str = "report.json";
pub const RESULT_TEXT: &str = "report.md";

/// A task's probe in the run folder.
pub fn probe_place(task: &str) -> String {
    format!("{PROBES}/{task}")
}

/// What was measured of a task's probe after so many steps, in the run folder.
pub fn probe_length_place(task: &str, steps: u64) -> String {
    format!("{PROBE_LENGTHS}/{task}/{steps}")
}

/// What a file or folder of a run is that nothing else of the run went into.
pub fn origin_of(identity: &str, place: &str) -> Origin {
    Origin { identity: identity.to_owned(), place: place.to_owned(), made_from: String::new(), metrics: None }
}

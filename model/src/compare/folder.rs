//! The folder of a comparison, and the units of work in it.
//!
//! A unit is one run: a recipe, where it ends, and whose probes it takes over. Its name ends in a hash of all
//! that its result follows from, so that two rows of the table that come to the same recipe share one run, and a
//! comparison that is extended makes only the runs that are new. A unit is done when its outcome is there, whole;
//! a process that works on one holds its lock, which the system releases when the process ends in
//! whatever way: nobody waits for the dead.
//!
//! ```text
//! comparison.json          what is compared: recipe, inputs, device, threads
//! units/ID.json            what each run is, with its recipe
//! claims/ID                locked while a process works on the unit
//! runs/ID/                 the run folder; models are removed once measured, but for the specialists'
//! logs/ID.log              what the run said
//! outcomes/ID.json         what came out
//! results.json table.md    the whole comparison
//! ```

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::results::InputHash;
use crate::error::{Error, FileAction, Result};
use crate::files::{self, Manifest, Origin, Verify, read_json};
use crate::hub::HubSource;
use crate::job::names::{FINAL, FUSED, PROBES, probe_length_place, probe_place};
use crate::job::{PairMethod, ProbeLengths, Study, read_sealed, write_sealed};
use crate::progress::JobReport;
use crate::recipe::{Recipe, Stage};

/// What a comparison is about: a folder is continued only with the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComparisonSpec {
    /// The recipe, resolved.
    pub recipe: String,
    /// Every file it reads.
    pub inputs: Vec<InputHash>,
    /// The device, by name.
    pub device: String,
    /// Threads of every run: part of the results' bits.
    pub threads: usize,
    /// What of the recipe was named by its name on the hub, with its commit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hub: Vec<HubSource>,
}

/// What a comparison reads of the hub since it was begun; nothing where none was begun.
///
/// # Errors
/// When its record cannot be read.
pub fn compared_hub_sources(root: &Path) -> Result<Vec<HubSource>> {
    let spec: Option<ComparisonSpec> = read_json(&root.join(SPEC))?;
    Ok(spec.map(|spec| spec.hub).unwrap_or_default())
}

/// Fails when a comparison cannot begin in a folder because there is something in it.
///
/// # Errors
/// Naming the folder and what to do.
pub fn require_unused(root: &Path) -> Result<()> {
    match root.join(SPEC).exists() {
        true => Err(holds_a_comparison(root)),
        false => files::require_empty(root),
    }
}

fn holds_a_comparison(root: &Path) -> Error {
    Error::format(
        root,
        "already holds a comparison: continue it with --resume, or name another folder with --out",
    )
}

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Unit {
    /// Its name.
    pub id: String,
    /// The recipe's seed.
    pub seed: u64,
    /// The stage it ends after.
    pub until: Option<Stage>,
    /// The unit whose probes it takes over.
    pub probes: Option<String>,
    /// Pairs of tasks instead of the recipe's method.
    pub pairs: Option<PairMethod>,
    /// Probes at several lengths instead of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe_lengths: Option<ProbeLengths>,
    /// Optimizer steps it makes.
    pub steps: u64,
    /// The recipe.
    #[serde(skip)]
    pub recipe: Recipe,
}

/// The file that says what a unit is. Its name follows from the unit without the recipe, and from the recipe's TOML.
#[derive(Serialize, Deserialize)]
struct UnitFile {
    unit: Unit,
    recipe: Recipe,
}

impl Unit {
    /// A unit of a seed that takes over the probes of another; the rest is to be filled in.
    pub fn after(seed: u64, probes: &str) -> Self {
        Self {
            id: String::new(),
            seed,
            until: None,
            probes: Some(probes.to_owned()),
            pairs: None,
            probe_lengths: None,
            steps: 0,
            recipe: Recipe::default(),
        }
    }

    /// The part of the name that is the hash.
    pub fn hash(&self) -> &str {
        self.id.rsplit('-').next().unwrap_or_default()
    }

    /// A unit named after what its result follows from: its other fields, its recipe with paths relative to
    /// `folder`, and `spec`, which says what is the same for all units.
    ///
    /// # Errors
    /// The recipe cannot be written as TOML.
    pub fn named(mut self, name: &str, spec: &str, folder: &str) -> Result<Self> {
        let fields = serde_json::to_string(&Self { id: String::new(), ..self.clone() })
            .map_err(|error| Error::Job(error.to_string()))?;
        let mut hasher = blake3::Hasher::new();
        let recipe = self.recipe.to_toml()?.replace(folder, "");
        for part in ["cpift-engine unit 2", spec, &fields, &recipe] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let name: String = name.chars().map(plain).collect();
        self.id = format!("{}-{name}-{}", self.seed, &hasher.finalize().to_hex()[..12]);
        Ok(self)
    }

    /// What it does instead of the recipe's method.
    pub fn study(&self) -> Option<Study> {
        let lengths = self.probe_lengths.clone().map(Study::ProbeLengths);
        self.pairs.map(Study::Pairs).or(lengths)
    }

    /// True for the specialists, which other units take over.
    pub fn is_specialists(&self) -> bool {
        self.probes.is_none()
    }
}

/// What came out of a unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnitResult {
    /// The job's report.
    pub report: JobReport,
    /// Most memory of the process that ended it; none where the system does not say.
    pub peak_memory_bytes: Option<u64>,
    /// Tasks whose probes the run trained.
    pub probes: Vec<String>,
}

/// The folder.
#[derive(Debug, Clone)]
pub struct ComparisonFolder {
    root: PathBuf,
}

/// The right to work on a unit, until dropped or until the process ends.
#[derive(Debug)]
pub struct UnitLock {
    _file: File,
}

const SPEC: &str = "comparison.json";

impl ComparisonFolder {
    /// Makes the folder, or continues it.
    ///
    /// # Errors
    /// It holds something else, or a comparison and `resume` is not set, or one of something else.
    pub fn open(root: &Path, spec: &ComparisonSpec, resume: bool) -> Result<Self> {
        let folder = Self { root: root.to_owned() };
        let path = root.join(SPEC);
        match read_json::<ComparisonSpec>(&path)? {
            Some(earlier) => folder.check_spec(&earlier, spec, resume)?,
            None => {
                files::require_empty(root)?;
                files::require_writable(root)?;
                files::write_json_atomically(&path, spec)?;
            }
        }
        for name in ["units", "claims", "runs", "logs", "outcomes"] {
            files::create_folders(&root.join(name))?;
        }
        Ok(folder)
    }

    /// A folder that another process has made.
    pub fn existing(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn check_spec(&self, earlier: &ComparisonSpec, spec: &ComparisonSpec, resume: bool) -> Result<()> {
        if !resume {
            return Err(holds_a_comparison(&self.root));
        }
        if earlier == spec {
            return Ok(());
        }
        let lines = spec.recipe.lines().zip(earlier.recipe.lines());
        let difference = match lines.into_iter().find(|(now, then)| now != then) {
            Some((now, then)) => format!("was begun with `{}`, and it now is `{}`", then.trim(), now.trim()),
            None => match spec.inputs.iter().find(|input| !earlier.inputs.contains(input)) {
                Some(input) => format!("was begun with another {}", input.file),
                None => {
                    "was begun with another recipe, device or number of threads than it now has".to_owned()
                }
            },
        };
        Err(Error::format(&self.root.join(SPEC), format!("{difference}: undo that, or start a new one")))
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The run folder of a unit.
    pub fn run(&self, id: &str) -> PathBuf {
        self.root.join("runs").join(id)
    }

    /// What a unit's process says.
    pub fn log(&self, id: &str) -> PathBuf {
        self.root.join("logs").join(format!("{id}.log"))
    }

    /// Writes down what a unit is, for the process that runs it.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write_unit(&self, unit: &Unit) -> Result<()> {
        let file = UnitFile { unit: unit.clone(), recipe: unit.recipe.clone() };
        files::write_json_atomically(&self.unit(&unit.id), &file)
    }

    /// Reads what a unit is.
    ///
    /// # Errors
    /// When it is not there.
    pub fn read_unit(&self, id: &str) -> Result<Unit> {
        let path = self.unit(id);
        let UnitFile { unit, recipe } =
            read_json(&path)?.ok_or_else(|| Error::format(&path, "there is no such unit"))?;
        Ok(Unit { recipe, ..unit })
    }

    fn unit(&self, id: &str) -> PathBuf {
        self.root.join("units").join(format!("{id}.json"))
    }

    fn outcome(&self, id: &str) -> PathBuf {
        self.root.join("outcomes").join(format!("{id}.json"))
    }

    /// Whether a unit is done; of specialists also whether every model is there. One whose outcome is damaged, or
    /// that of another unit, is made again.
    pub fn is_done(&self, unit: &Unit) -> bool {
        self.read_result(&unit.id).is_ok_and(|outcome| {
            (!unit.is_specialists() || self.has_probes(&unit.id, &outcome)) && self.has_lengths(unit)
        })
    }

    /// Whether every length of every probe is there, whole, where that is what the unit measures.
    fn has_lengths(&self, unit: &Unit) -> bool {
        let steps = unit.probe_lengths.iter().flat_map(|lengths| &lengths.steps);
        let mut places = steps.flat_map(|&steps| {
            unit.recipe.task.iter().map(move |task| probe_length_place(&task.name, steps))
        });
        places.all(|place| Manifest::verify(&self.run(&unit.id).join(place), Verify::Lengths).is_ok())
    }

    /// Whether every probe that the outcome names is there, whole.
    fn has_probes(&self, id: &str, outcome: &UnitResult) -> bool {
        let is_there =
            |task: &String| Manifest::verify(&self.run(id).join(probe_place(task)), Verify::Lengths).is_ok();
        outcome.probes.iter().all(is_there)
    }

    /// Tasks that have a probe in a run folder.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn probes(&self, id: &str) -> Result<Vec<String>> {
        let folder = self.run(id).join(PROBES);
        if !folder.exists() {
            return Ok(Vec::new());
        }
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(Error::file(&folder, FileAction::Read))? {
            let entry = entry.map_err(Error::file(&folder, FileAction::Read))?;
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    /// What came out of a unit.
    ///
    /// # Errors
    /// When it is not there or not readable: there is no other value for a result that is missing.
    pub fn read_result(&self, id: &str) -> Result<UnitResult> {
        let path = self.outcome(id);
        let outcome = read_sealed(&path, &outcome_origin(id))?;
        outcome
            .map(|(outcome, _)| outcome)
            .ok_or_else(|| Error::format(&path, "is missing: run the comparison with --resume"))
    }

    /// Records what came out of a unit; its models are then removed, but for specialists and if `keep` is set.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(&self, unit: &Unit, outcome: &UnitResult, keep: bool) -> Result<()> {
        write_sealed(&self.outcome(&unit.id), &outcome_origin(&unit.id), outcome)?;
        let models: &[&str] = if keep || unit.is_specialists() { &[] } else { &[FUSED, FINAL] };
        for folder in models.iter().map(|name| self.run(&unit.id).join(name)).filter(|path| path.exists()) {
            std::fs::remove_dir_all(&folder).map_err(Error::file(&folder, FileAction::Remove))?;
        }
        Ok(())
    }

    /// Locks a unit; none when another process has it.
    ///
    /// # Errors
    /// When the lock cannot be taken.
    pub fn lock(&self, id: &str) -> Result<Option<UnitLock>> {
        let path = self.root.join("claims").join(id);
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(Error::file(&path, FileAction::Create))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(UnitLock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(Error::file(&path, FileAction::Lock)(error)),
        }
    }
}

/// What an outcome is: a unit's name holds the hash of all that its result follows from.
fn outcome_origin(id: &str) -> Origin {
    let identity = id.to_owned();
    Origin { identity, place: "outcome".to_owned(), made_from: String::new(), metrics: None }
}

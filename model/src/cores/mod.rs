//! Cores of fine-tunes that exist: which parameters did each move, and how do they overlap? Of any architecture, out of core.
//!
//! Tensors are matched by name, as for [a merge](crate::merge), and read in blocks: twice to find the threshold of every
//! scope, once more to mark what is above it. Memory depends on the largest tensor, of which it holds bits, and on the number
//! of parameters in cores, of which it holds two bits each.

mod masks;
mod overlap;
mod read;
mod thresholds;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use cpift_engine::{CpuDevice, Device};
use serde::{Deserialize, Serialize};

use self::overlap::{Matrices, Overlaps};
use self::read::{Reading, Updates};
use self::thresholds::{Thresholds, core_sizes};
use crate::checkpoint::{TensorFolder, WeightType};
use crate::error::{Error, Result};
use crate::files::{AtomicFolder, require_empty, require_free_space};
use crate::merge::{Sizes, match_tensors};
use crate::progress::{CoreReport, GroupReport, TaskCore};
use crate::recipe::{CoreScope, CoreSettings, GroupOrder, GroupSettings};
use crate::stages::core::{count_by_kind, count_by_layer, place_in_model, scope_of_layer};
use crate::stages::group::{chance_overlap, group};

/// Name of the report in the folder of cores.
pub const REPORT: &str = "report.json";

/// What a folder of cores takes beside the masks.
const SMALL_FILES: u64 = 4 << 20;

/// What is looked for.
#[derive(Debug, Clone)]
pub struct CoresRequest {
    /// The model that the others are fine-tunes of.
    pub base: PathBuf,
    /// Fine-tunes, by the names that files and tables give them.
    pub models: Vec<(String, PathBuf)>,
    /// How cores are chosen.
    pub settings: CoreSettings,
    /// Least overlap of an edge between models that belong together.
    pub threshold: f64,
}

/// How far the search is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoresProgress {
    /// Bytes that were read.
    pub done: u64,
    /// All that are to be read.
    pub total: u64,
}

/// What was found, as `report.json` holds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CoresReport {
    /// The base.
    pub base: PathBuf,
    /// Each model's folder, in the order of the cores.
    pub models: Vec<PathBuf>,
    /// Parameters of the base that are floats.
    pub parameters: u64,
    /// How cores were chosen.
    pub settings: CoreSettings,
    /// Of each model, how many parameters its core lacks because no others moved.
    pub unmoved: Vec<u64>,
    /// The cores.
    pub cores: CoreReport,
    /// How they overlap.
    pub overlap: GroupReport,
}

/// Models whose cores can be found: opened and matched.
#[derive(Debug)]
pub struct Cores {
    request: CoresRequest,
    /// The base, then the fine-tunes.
    folders: Vec<TensorFolder>,
    tensors: Vec<Tensor>,
    /// Parameters of a core in every scope.
    core_sizes: BTreeMap<usize, u64>,
    notices: Vec<String>,
}

/// A tensor of floats that all models have.
#[derive(Debug)]
struct Tensor {
    /// Name in the base.
    name: String,
    elements: usize,
    /// Name in every folder.
    names: Vec<String>,
    /// The scope it is chosen in; none for a tensor that is excluded.
    scope: Option<usize>,
}

impl Cores {
    /// Opens the models and checks that they have the same tensors.
    ///
    /// # Errors
    /// A folder that is no model's, or damaged; tensors that do not match, by name; a name that is no file's or occurs twice;
    /// a share outside (0, 1].
    pub fn new(request: &CoresRequest) -> Result<Self> {
        let settings = &request.settings;
        if !(settings.fraction > 0.0 && settings.fraction <= 1.0) {
            return Err(Error::setting(
                "--fraction",
                format!("{} is not above 0 and at most 1", settings.fraction),
            ));
        }
        if !request.threshold.is_finite() {
            return Err(Error::setting("--threshold", format!("{} is not a number", request.threshold)));
        }
        check_names(&request.models)?;
        let folders = std::iter::once(&request.base).chain(request.models.iter().map(|(_, folder)| folder));
        let folders = folders.map(|folder| TensorFolder::open(folder)).collect::<Result<Vec<_>>>()?;
        let matches = match_tensors(&folders, Sizes::All)?;
        let floats = matches.tensors.into_iter().filter(|tensor| WeightType::of(tensor.dtype).is_some());
        let tensors = floats.enumerate().map(|(index, matched)| {
            let is_excluded = settings.excludes(&matched.name);
            let scope = match settings.scope {
                CoreScope::Global => 0,
                CoreScope::Layer => scope_of_layer(&matched.name),
                CoreScope::Tensor => index,
            };
            Tensor {
                elements: matched.shape.iter().product(),
                names: matched.names,
                scope: (!is_excluded).then_some(scope),
                name: matched.name,
            }
        });
        let mut tensors: Vec<Tensor> = tensors.collect();
        // As a model goes, whatever order they are stored in: ties go to the first, and tables follow it.
        tensors.sort_by(|a, b| {
            let key = |tensor: &Tensor| place_in_model(&tensor.name);
            key(a).cmp(&key(b)).then_with(|| a.name.cmp(&b.name))
        });
        if tensors.iter().all(|tensor| tensor.elements == 0) {
            return Err(Error::format(folders[0].listing(), "has no parameter that is a float"));
        }
        let eligible = tensors.iter().filter(|tensor| tensor.scope.is_some() && tensor.elements > 0);
        if eligible.count() == 0 {
            return Err(Error::setting("--exclude", "leaves no parameter of the model"));
        }
        let core_sizes = core_sizes(&tensors, settings.fraction);
        if core_sizes.values().all(|&size| size == 0) {
            let reason = format!("{} comes to no parameter at all: use a larger share", settings.fraction);
            return Err(Error::setting("--fraction", reason));
        }
        let notices = matches.head_notice.into_iter().chain(matches.notices).collect();
        Ok(Self { request: request.clone(), folders, tensors, core_sizes, notices })
    }

    /// What a person should know about the models, a line each.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Parameters of the base that are floats.
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.elements as u64).sum()
    }

    /// Finds all cores and their overlaps, and writes masks and report into a folder, which appears whole or not at all.
    ///
    /// # Errors
    /// The folder exists and is not empty; too little space; NaN or infinity, by tensor and element; [`Error::Stopped`]; the
    /// system's.
    pub fn run(
        &self,
        device: &Device,
        out: &Path,
        stop: &AtomicBool,
        observer: &mut (dyn FnMut(CoresProgress) + Send),
    ) -> Result<CoresReport> {
        let Device::Cpu(cpu) = device else {
            return Err(Error::Job("cores are found on the CPU".to_owned()));
        };
        require_empty(out)?;
        require_free_space(out, self.mask_bytes() + SMALL_FILES)?;
        let mut writing = AtomicFolder::create(out)?;
        let report = self.write_masks(cpu, &mut writing, stop, observer)?;
        writing.write_json(REPORT, &report)?;
        writing.commit()?;
        Ok(report)
    }

    /// Finds all cores, and writes their masks into a folder under construction.
    ///
    /// # Errors
    /// As [`Cores::run`].
    pub(crate) fn write_masks(
        &self,
        cpu: &CpuDevice,
        writing: &mut AtomicFolder,
        stop: &AtomicBool,
        observer: &mut (dyn FnMut(CoresProgress) + Send),
    ) -> Result<CoresReport> {
        let reading = Reading::new(stop, observer, self.bytes());
        cpu.run(|| self.find(cpu, writing, &reading))
    }

    /// Bytes of all masks.
    pub(crate) fn mask_bytes(&self) -> u64 {
        let words: u64 = self.tensors.iter().map(|tensor| tensor.elements.div_ceil(64) as u64 * 8).sum();
        words * self.request.models.len() as u64
    }

    /// Bytes that finding the cores reads.
    pub(crate) fn bytes(&self) -> u64 {
        let is_chosen = |scope: usize| self.core_sizes.get(&scope).is_some_and(|&size| size > 0);
        let of_model = |model: usize| {
            let sizes = self.tensors.iter().map(|tensor| {
                let bytes =
                    |folder: usize| Updates::element_bytes(&self.folders[folder], &tensor.names[folder]);
                // Where nothing is chosen, once is enough to know how far it moved.
                let times = if tensor.scope.is_some_and(is_chosen) { 3 } else { 1 };
                (times * tensor.elements * (bytes(0) + bytes(model))) as u64
            });
            sizes.sum::<u64>()
        };
        (1..self.folders.len()).map(of_model).sum()
    }

    fn find(
        &self,
        cpu: &CpuDevice,
        writing: &mut AtomicFolder,
        reading: &Reading<'_>,
    ) -> Result<CoresReport> {
        let names: Vec<String> = self.request.models.iter().map(|(name, _)| name.clone()).collect();
        let mut overlaps = Overlaps::new(&self.tensors, names.len());
        let (mut cores, mut unmoved) = (Vec::new(), Vec::new());
        let wanted: u64 = self.core_sizes.values().sum();
        for (index, name) in names.iter().enumerate() {
            let updates =
                Updates { folders: [&self.folders[0], &self.folders[index + 1]], number: index + 1, reading };
            let (thresholds, relative_move) =
                Thresholds::find(cpu, &updates, &self.tensors, &self.core_sizes)?;
            let counts =
                masks::write(cpu, writing, name, &updates, &self.tensors, &thresholds, overlaps.of(index))?;
            let counted =
                || self.tensors.iter().map(|tensor| tensor.name.as_str()).zip(counts.iter().copied());
            let size: u64 = counts.iter().sum();
            unmoved.push(wanted.saturating_sub(size));
            cores.push(TaskCore {
                task: name.clone(),
                size,
                threshold: f64::from(thresholds.least()),
                relative_move,
                by_layer: count_by_layer(counted()),
                by_kind: count_by_kind(counted()),
            });
        }
        let all = || self.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.elements as u64));
        let Matrices { jaccard, sign_agreement } = overlaps.compare(writing, &names)?;
        let settings = GroupSettings {
            threshold: self.request.threshold,
            order: GroupOrder::Given,
            ..GroupSettings::default()
        };
        Ok(CoresReport {
            base: self.request.base.clone(),
            models: self.request.models.iter().map(|(_, folder)| folder.clone()).collect(),
            parameters: self.parameters(),
            settings: self.request.settings.clone(),
            unmoved,
            cores: CoreReport {
                tasks: cores,
                model_by_layer: count_by_layer(all()),
                model_by_kind: count_by_kind(all()),
            },
            overlap: GroupReport {
                groups: group(&jaccard, &settings, 0),
                tasks: names,
                jaccard,
                chance: chance_overlap(self.request.settings.fraction),
                sign_agreement,
                threshold: settings.threshold,
            },
        })
    }
}

/// Fails unless every name is that of a file of its own.
fn check_names(models: &[(String, PathBuf)]) -> Result<()> {
    for (index, (name, folder)) in models.iter().enumerate() {
        let folder = folder.display();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() {
            return Err(Error::setting(
                "MODEL",
                format!("{folder} has no name: give it one as NAME={folder}"),
            ));
        }
        if name.starts_with('.') || !name.chars().all(is_plain) {
            let reason = format!(
                "`{name}` is to be the name of a file: give {folder} a name of letters from a to z, digits, `-`, `_` and \
                 `.` as NAME={folder}"
            );
            return Err(Error::setting("MODEL", reason));
        }
        if models[..index].iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
            let reason = format!("two models are called `{name}`: name one, as in other={folder}");
            return Err(Error::setting("MODEL", reason));
        }
    }
    Ok(())
}

//! One module per command: arguments in, calls of `cpift-model`, tables or JSON out.

pub mod bench;
pub mod bench_kernels;
pub mod compare;
pub mod completions;
pub mod cores;
pub mod data;
pub mod devices;
pub mod eval;
pub mod export;
pub mod generate;
pub mod inspect;
pub mod merge;
pub mod plan;
pub mod report;
mod sweep;
pub mod train;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use cpift_engine::{Device, Error};
use cpift_model::data::{Preparation, PreparationEvent};
use cpift_model::hub::{Hub, HubEvent, HubSource, ModelParts};
use cpift_model::recipe::{RecipeParts, Source};
use cpift_model::transformer::ComputeType;
use cpift_model::{ModelConfig, Recipe};

use crate::args::PrecisionArgument;
use crate::display::fetching::Fetching;
use crate::display::preparing::Preparing;
use crate::display::{self, tell, text};

/// The device to compute on, and why it is not a GPU.
struct Chosen {
    device: Device,
    no_gpu: Option<String>,
}

impl Chosen {
    /// The device of that name. `auto` is a GPU where one can be used, else the CPU.
    fn open(name: &str, threads: Option<NonZeroUsize>) -> cpift_engine::Result<Self> {
        if name != "auto" {
            return Ok(Self { device: Device::from_name(name, threads)?, no_gpu: None });
        }
        match Device::cuda(0) {
            Ok(device) => Ok(Self { device, no_gpu: None }),
            Err(error) => Ok(Self { device: Device::cpu(threads)?, no_gpu: Some(unusable(error)) }),
        }
    }

    /// A device that is open.
    fn of(device: Device) -> Self {
        Self { device, no_gpu: None }
    }

    /// What is computed in on the device.
    fn compute(&self, argument: &PrecisionArgument) -> cpift_model::Result<ComputeType> {
        argument.precision.on("--precision", &self.device)
    }

    /// Why there is no GPU where one would have been taken, as a line.
    fn notice(&self) -> Option<String> {
        self.no_gpu.as_ref().map(|reason| format!("no GPU, using the CPU: {reason}"))
    }

    /// Says [`Chosen::notice`]. Called once nothing is wrong with the input: an error is one line.
    fn announce(&self) {
        if let Some(notice) = self.notice() {
            tell(&format!("{notice}\n"));
        }
    }
}

/// As [`Chosen::announce`], for commands that do not describe the device: what it computes without, too.
fn announce_fully(chosen: &Chosen) {
    chosen.announce();
    if let Some(disabled_kernels) = chosen.device.disabled_kernels() {
        tell(&format!("{} computes without {disabled_kernels}\n", chosen.device.name()));
    }
}

/// Why a device cannot be used, without its name.
fn unusable(error: Error) -> String {
    match error {
        Error::DeviceUnavailable { reason, .. } => reason,
        error => error.to_string(),
    }
}

/// Does something that reads task files: with the tokens of earlier runs, and showing how far it is.
fn with_preparation<T>(work: impl FnOnce(Preparation<'_>) -> T) -> T {
    let cache = token_cache();
    let preparing = Preparing::begin();
    let observe = |event: PreparationEvent<'_>| preparing.update(event);
    let result =
        work(Preparation { cache: cache.as_deref(), observe: Some(&observe), ..Preparation::default() });
    preparing.finish();
    result
}

/// Does something that may fetch files of the hub, and shows how far it is.
fn with_hub<T>(work: impl FnOnce(&Hub<'_>) -> cpift_model::Result<T>) -> cpift_model::Result<T> {
    let fetching = Fetching::begin();
    let observe = |event: HubEvent<'_>| fetching.update(event);
    let result = work(&Hub::of_environment(&observe));
    fetching.finish();
    result
}

/// The folder of a model that is given as one, or by its name on the hub; of `MODEL+ADAPTER` both.
fn adapted_folder(model: &Path) -> cpift_model::Result<PathBuf> {
    let parts = model.to_str().filter(|_| !model.exists()).and_then(|text| text.rsplit_once('+'));
    let Some((model, adapter)) = parts else { return model_folder(model, ModelParts::ALL) };
    let mut joined = model_folder(Path::new(model), ModelParts::ALL)?.into_os_string();
    joined.push("+");
    joined.push(model_folder(Path::new(adapter), ModelParts::ALL)?);
    Ok(joined.into())
}

/// The folder of a model that is given as one, or by its name on the hub.
fn model_folder(model: &Path, parts: ModelParts) -> cpift_model::Result<PathBuf> {
    with_hub(|hub| hub.model_folder(model, parts))
}

/// A recipe with folders and files in the place of names of the hub; the revisions of `pinned` are the commits that they
/// were.
fn resolve(source: &mut Source, parts: RecipeParts<'_>, pinned: &[HubSource]) -> cpift_model::Result<()> {
    with_hub(|hub| {
        hub.pin(pinned);
        source.resolve(hub, parts)
    })
}

/// With `--verbose`: which fields of models' configurations are not read, a line for each. What cannot be read is for others
/// to report.
fn announce_ignored_fields<'a>(models: impl IntoIterator<Item = &'a Path>) {
    if !display::is_verbose() {
        return;
    }
    for path in models {
        let Ok(config) = ModelConfig::read(path) else { continue };
        let fields = match config.ignored_fields() {
            [] => "none".to_owned(),
            fields => text::visible(&fields.join(", ")),
        };
        tell(&format!("{}: fields that are not read: {fields}\n", display::path_from_here(path)));
    }
}

/// The models that a recipe names: the base, or its configuration, and those that tasks bring.
fn models(recipe: &Recipe) -> impl Iterator<Item = &Path> {
    let base = recipe.model.base.as_ref().or(recipe.model.config.as_ref());
    base.into_iter().chain(recipe.task.iter().filter_map(|task| task.model.as_ref())).map(PathBuf::as_path)
}

/// Where tokenized data is kept between runs: `cpift-engine` in the user's cache folder. None where there
/// is no such folder, as for users without a home.
fn token_cache() -> Option<PathBuf> {
    let folder = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
    Some(cache.join("cpift-engine"))
}

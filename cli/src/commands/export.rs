//! `export` and `apply`.

use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use cpift_engine::Device;
use cpift_model::checkpoint::WeightType;
use cpift_model::export::{Application, Delta, Extent, LoraAdapter, LoraRequest, Others};
use cpift_model::hub::ModelParts;
use cpift_model::{Error, Result};

use crate::args::export::{Apply, Export, Form};
use crate::display::style::Style;
use crate::display::transfer::Transfer;
use crate::display::units::grouped;
use crate::display::{exporting, print, print_json};
use crate::interrupt;

/// Writes what a fine-tune changed into a folder.
pub fn export(arguments: &Export, threads: Option<NonZeroUsize>) -> Result<()> {
    match arguments.form {
        Form::Delta => export_delta(arguments, threads),
        Form::Lora => export_adapter(arguments, threads),
    }
}

/// Columns of an adapter's thin matrices where it is not said.
const RANK: usize = 16;

/// Fails where one of these options is given.
fn refuse_given(options: &[(&str, bool)], reason: &str) -> Result<()> {
    match options.iter().find(|(_, is_given)| *is_given) {
        Some((key, _)) => Err(Error::setting(*key, reason)),
        None => Ok(()),
    }
}

fn export_adapter(arguments: &Export, threads: Option<NonZeroUsize>) -> Result<()> {
    let of_delta = [("--fraction", arguments.fraction.is_some()), ("--core", arguments.core.is_some())];
    refuse_given(&of_delta, "is for --as delta: an adapter is of the whole update")?;
    let rank = arguments.rank.unwrap_or(RANK);
    let interrupt = interrupt::install("stopping")?;
    let base = super::model_folder(&arguments.base, ModelParts::ALL)?;
    let adapter = LoraAdapter::new(&LoraRequest {
        model: super::adapted_folder(&arguments.model)?,
        base_name: if arguments.base == base { absolute(&base) } else { arguments.base.clone() }
            .display()
            .to_string(),
        base,
        rank,
        others: arguments.others.unwrap_or(Others::Save),
        dtype: arguments.dtype.unwrap_or(WeightType::F32),
    })?;
    let device = Device::cpu(threads)?;
    let stop = interrupt.begin();
    let title =
        format!("exporting an adapter of rank {rank} of {} parameters", grouped(adapter.parameters()));
    let mut bar = Transfer::new(title, adapter.notices(), std::io::stderr().is_terminal());
    let report = adapter.write(&device, &arguments.out, &stop, &mut |progress| {
        bar.update(progress.done, progress.total);
    });
    drop(bar);
    let report = report?;
    if arguments.json {
        return print_json(&report);
    }
    print(&exporting::adapter(&report, &arguments.out, Style::of(&std::io::stdout())))
}

fn absolute(folder: &Path) -> PathBuf {
    std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned())
}

fn export_delta(arguments: &Export, threads: Option<NonZeroUsize>) -> Result<()> {
    let of_adapter = [
        ("--rank", arguments.rank.is_some()),
        ("--others", arguments.others.is_some()),
        ("--dtype", arguments.dtype.is_some()),
    ];
    refuse_given(&of_adapter, "is for --as lora: a delta has the values as they are")?;
    let interrupt = interrupt::install("stopping")?;
    let extent = match (arguments.fraction, &arguments.core) {
        (Some(fraction), _) => Extent::Fraction(fraction),
        (None, Some(core)) => Extent::Core(core.clone()),
        (None, None) => Extent::Whole,
    };
    let base = super::model_folder(&arguments.base, ModelParts::ALL)?;
    let model = super::adapted_folder(&arguments.model)?;
    let delta = Delta::new(&base, &model, extent, base_name(&arguments.base, &base))?;
    let device = Device::cpu(threads)?;
    let stop = interrupt.begin();
    let title = format!("exporting a delta of {} parameters", grouped(delta.parameters()));
    let mut bar = Transfer::new(title, delta.notices(), std::io::stderr().is_terminal());
    let report = delta.write(&device, &arguments.out, &stop, &mut |progress| {
        bar.update(progress.done, progress.total);
    });
    drop(bar);
    let report = report?;
    if arguments.json {
        return print_json(&report);
    }
    print(&exporting::delta(&report, &arguments.out, Style::of(&std::io::stdout())))
}

/// Makes a model of a delta and its base.
pub fn apply(arguments: &Apply, threads: Option<NonZeroUsize>) -> Result<()> {
    let interrupt = interrupt::install("stopping")?;
    let base = super::model_folder(&arguments.base, ModelParts::ALL)?;
    let application = Application::new(&arguments.delta, &base, arguments.shard_size)?;
    let device = Device::cpu(threads)?;
    let stop = interrupt.begin();
    let title = format!("applying a delta to {} parameters", grouped(application.parameters()));
    let mut bar = Transfer::new(title, &[], std::io::stderr().is_terminal());
    let report = application.run(&device, &arguments.out, &stop, &mut |progress| {
        bar.update(progress.done, progress.total);
    });
    drop(bar);
    let report = report?;
    if arguments.json {
        return print_json(&report);
    }
    print(&exporting::applied(&report, &arguments.out, Style::of(&std::io::stdout())))
}

/// How others know a base: its name on the hub, or that of its folder.
fn base_name(given: &Path, folder: &Path) -> String {
    if given != folder {
        return given.display().to_string();
    }
    absolute(folder).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

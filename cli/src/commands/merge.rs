//! `merge`.

use std::io::IsTerminal;
use std::num::NonZeroUsize;

use cpift_engine::Device;
use cpift_model::hub::ModelParts;
use cpift_model::merge::{Merge, MergeRequest, Parameters, Vocabulary};
use cpift_model::{Error, Result};

use crate::args;
use crate::display::merging::{progress, render};
use crate::display::style::Style;
use crate::display::{print, print_json};
use crate::interrupt;

/// Merges models into a folder.
pub fn run(arguments: &args::merge::Merge, threads: Option<NonZeroUsize>) -> Result<()> {
    if let Some(option) = arguments.sweep.unused() {
        return Err(Error::setting(option, "is for --sweep"));
    }
    if let Some(sweep) = &arguments.sweep.sweep {
        return super::sweep::run(sweep, arguments, threads);
    }
    let interrupt = interrupt::install("stopping after this tensor; whole files stay")?;
    let request = request(arguments)?;
    let merge = Merge::new(&request)?;
    let device = Device::cpu(threads)?;
    let stop = interrupt.begin();
    let mut bar = progress(&merge, request.method.name(), std::io::stderr().is_terminal());
    let report = merge.run(&device, &arguments.out, arguments.resume, &stop, &mut |progress| {
        bar.update(progress.done, progress.total);
    });
    drop(bar);
    let report = report?;
    if arguments.json {
        return print_json(&report);
    }
    print(&render(&report, &arguments.out, Style::of(&std::io::stdout())))
}

/// What is asked for: by options, or by a configuration.
pub(super) fn request(arguments: &args::merge::Merge) -> Result<MergeRequest> {
    let mut request = match arguments.configuration() {
        Some(path) => {
            if let Some(option) = arguments.configured() {
                let reason = format!("is what {} says: leave it out", path.display());
                return Err(Error::setting(option, reason));
            }
            MergeRequest::from_configuration(path)?
        }
        None => {
            let Some(method) = arguments.method else {
                let reason = "is missing: how are the models to be merged? `merge --help` has the methods";
                return Err(Error::setting("--method", reason));
            };
            MergeRequest::of_models(
                method,
                arguments.base.clone(),
                arguments.models.clone(),
                parameters(arguments),
            )
        }
    };
    for number in 0..request.models.len() {
        let folder = super::adapted_folder(&request.models[number]);
        request.models[number] = folder.map_err(|error| request.locate_model(number, error))?;
    }
    if let Some(vocabulary) = &arguments.vocabulary {
        request.vocabulary = vocabulary.clone();
    }
    if let Vocabulary::Of(folder) = &request.vocabulary {
        let folder = super::model_folder(folder, ModelParts::TOKENIZER);
        request.vocabulary = Vocabulary::Of(folder.map_err(|error| request.locate_tokenizer(error))?);
    }
    request.seed = arguments.seed;
    request.dtype = arguments.dtype.or(request.dtype);
    request.shard_bytes = arguments.shard_size;
    Ok(request)
}

fn parameters(arguments: &args::merge::Merge) -> Parameters {
    Parameters {
        t: arguments.t.map(Into::into),
        dot_threshold: arguments.dot_threshold.map(Into::into),
        scale: arguments.scale.map(Into::into),
        density: arguments.density.map(Into::into),
        gamma: arguments.gamma.map(Into::into),
        epsilon: arguments.epsilon.map(Into::into),
        fraction: arguments.fraction.map(Into::into),
        rescale: arguments.rescale.map(Into::into),
        normalize: arguments.normalize.map(Into::into),
        ..Parameters::default()
    }
}

//! `merge`.

use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use cpift_engine::Device;
use cpift_model::Result;
use cpift_model::merge::{Merge, MergeRequest, Parameters};

use crate::args;
use crate::display::merging::{progress, render};
use crate::display::style::Style;
use crate::display::{print, print_json};
use crate::interrupt;

/// Merges models into a folder.
pub fn run(arguments: &args::merge::Merge, threads: Option<NonZeroUsize>) -> Result<()> {
    let interrupt = interrupt::install("stopping after this tensor; whole files stay")?;
    let folder = |model: &Path| super::adapted_folder(model);
    let models = arguments.models.iter().map(|(model, weight)| Ok((folder(model)?, *weight)));
    let request = MergeRequest {
        models: models.collect::<Result<Vec<(PathBuf, f64)>>>()?,
        base: arguments.base.as_deref().map(folder).transpose()?,
        method: arguments.method,
        parameters: Parameters {
            t: arguments.t,
            dot_threshold: arguments.dot_threshold,
            scale: arguments.scale,
            density: arguments.density,
            gamma: arguments.gamma,
            epsilon: arguments.epsilon,
            fraction: arguments.fraction,
            rescale: arguments.rescale,
            normalize: arguments.normalize,
            seed: arguments.seed,
        },
        dtype: arguments.dtype,
        shard_bytes: arguments.shard_size,
    };
    let merge = Merge::new(&request)?;
    let device = Device::cpu(threads)?;
    let stop = interrupt.begin();
    let mut bar = progress(&merge, arguments.method.name(), std::io::stderr().is_terminal());
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

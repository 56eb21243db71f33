//! `cores`.

use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use cpift_engine::Device;
use cpift_model::Result;
use cpift_model::cores::{Cores, CoresRequest};
use cpift_model::recipe::CoreSettings;

use crate::display::style::Style;
use crate::display::transfer::Transfer;
use crate::display::units::{counted, grouped};
use crate::display::{overlap, path_from_here, print, print_json, reports, tell};
use crate::{args, interrupt, report};

/// Finds the cores of models, and writes them into a folder.
pub fn run(arguments: &args::cores::Cores, threads: Option<NonZeroUsize>) -> Result<()> {
    let interrupt = interrupt::install("stopping")?;
    let folder = |model: &Path| super::adapted_folder(model);
    let models = arguments.models.iter().map(|(name, model)| Ok((name.clone(), folder(model)?)));
    let request = CoresRequest {
        models: models.collect::<Result<Vec<(String, PathBuf)>>>()?,
        base: folder(&arguments.base)?,
        settings: CoreSettings {
            fraction: arguments.fraction,
            scope: arguments.scope,
            exclude: arguments.exclude.clone(),
        },
        threshold: arguments.threshold,
    };
    let cores = Cores::new(&request)?;
    let device = Device::cpu(threads)?;
    let stop = interrupt.begin();
    let models = counted(request.models.len() as u64, "model");
    let title = format!("cores of {models} of {} parameters", grouped(cores.parameters()));
    let mut bar = Transfer::new(title, cores.notices(), std::io::stderr().is_terminal());
    let found = cores.run(&device, &arguments.out, &stop, &mut |progress| {
        bar.update(progress.done, progress.total);
    });
    drop(bar);
    let found = found?;
    let written = report::write_cores(&arguments.out, &found)?;
    for (core, &unmoved) in found.cores.tasks.iter().zip(&found.unmoved).filter(|(_, unmoved)| **unmoved > 0)
    {
        tell(&format!(
            "{}: the core lacks {} of its share, as no other parameters of their scope moved\n",
            core.task,
            counted(unmoved, "parameter")
        ));
    }
    if arguments.json {
        return print_json(&found);
    }
    let style = Style::of(&std::io::stdout());
    print(&format!(
        "{}\n{}\n{} {}\n",
        reports::cores(&found.cores, style),
        overlap::render(&found.overlap, style),
        style.bold("report"),
        style.green(path_from_here(&written.page))
    ))
}

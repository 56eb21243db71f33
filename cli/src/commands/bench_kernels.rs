//! `bench kernels`.

use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cpift_benches::kernels::{Case, Report, SHAPES, Sizes, Watch, cases, run as measure};
use cpift_benches::predict::{self, GPUS, Gpu};
use cpift_engine::Device;
use cpift_model::recipe::Precision;
use cpift_model::transformer::ComputeType;
use cpift_model::{Error, FileAction, Result};

use crate::display::units::counted;
use crate::display::{kernels, print, print_json, tell, tell_over};
use crate::{args, interrupt};

/// Measures operations, or predicts their times.
pub fn run(arguments: &args::bench::BenchKernels, threads: Option<NonZeroUsize>) -> Result<()> {
    if let Some(names) = &arguments.predict {
        return predict(arguments, names);
    }
    let chosen = super::Chosen::open(&arguments.device.device, threads)?;
    let on_cpu = matches!(chosen.device, Device::Cpu(_));
    if chosen.device.name().starts_with("emulated") {
        return Err(Error::setting("--device", "the emulator's times say nothing; use `cpu` or `cuda:N`"));
    }
    let usual = if on_cpu { Sizes::for_cpu(chosen.device.cache_bytes()) } else { Sizes::for_gpu() };
    let sizes = Sizes { compute: chosen.compute(&arguments.precision)?, ..sizes(arguments, usual) };
    let cases = cases(&sizes, on_cpu, &arguments.filter)?;
    chosen.announce();
    let mut progress = Progress {
        stop: interrupt::install("stopping after this kernel")?.begin(),
        terminal: std::io::stderr().is_terminal(),
    };
    tell(&format!("{}: {}\n", chosen.device.describe(), counted(cases.len() as u64, "kernel")));
    let budget = Duration::from_secs_f64(arguments.seconds);
    let report = measure(&chosen.device, &cases, &sizes, budget, &mut progress)?;
    progress.clear();
    if arguments.json {
        print_json(&report)?;
    } else {
        print(&kernels::measured(&report))?;
    }
    if report.stopped {
        let position = format!("after {} of {} kernels", report.kernels.len(), cases.len());
        return Err(Error::Stopped { position });
    }
    Ok(())
}

/// Predicts times on the GPUs of these names; all where there are none.
fn predict(arguments: &args::bench::BenchKernels, names: &[String]) -> Result<()> {
    let named = |gpu: &Gpu| names.is_empty() || names.iter().any(|name| name == gpu.name);
    let gpus: Vec<Gpu> = GPUS.into_iter().filter(named).collect();
    let measured = arguments.compare.as_deref().map(read_report).transpose()?;
    if let (Some(path), false) = (&arguments.compare, gpus.len() == 1) {
        let reason = format!("needs the one GPU after --predict that {} was measured on", path.display());
        return Err(Error::setting("--compare", reason));
    }
    let compute = match arguments.precision.precision {
        Precision::F32 => ComputeType::F32,
        Precision::Auto | Precision::Bf16 => ComputeType::Bf16,
    };
    if let Some(report) = measured.as_ref().filter(|report| report.precision != compute.name()) {
        let reason = format!("was measured in {0}; add --precision {0}", report.precision);
        return Err(Error::setting("--compare", reason));
    }
    let sizes = Sizes { compute, ..sizes(arguments, Sizes::for_gpu()) };
    let cases = cases(&sizes, false, &arguments.filter)?;
    let mut progress = Progress { stop: Arc::default(), terminal: std::io::stderr().is_terminal() };
    let mut predictions = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        progress.begins(index, cases.len(), case);
        predictions.push(predict::predict(case, &gpus)?);
    }
    progress.clear();
    if arguments.json {
        let of_gpu = |(index, gpu): (usize, &Gpu)| {
            let kernels: Vec<_> = predictions.iter().map(|by_gpu| &by_gpu[index]).collect();
            serde_json::json!({ "gpu": gpu.product, "kernels": kernels })
        };
        let predicted: Vec<_> = gpus.iter().enumerate().map(of_gpu).collect();
        return print_json(&serde_json::json!({
            "precision": compute.name(),
            "tokens": sizes.tokens,
            "length": sizes.length,
            "predicted": predicted,
            "measured": measured,
        }));
    }
    let heading = format!("{}, {} tokens in documents of {}", compute.name(), sizes.tokens, sizes.length);
    print(&kernels::predicted(&heading, &gpus, &predictions, measured.as_ref()))
}

/// What `--json` wrote.
fn read_report(path: &Path) -> Result<Report> {
    let text = std::fs::read_to_string(path).map_err(Error::file(path, FileAction::Read))?;
    let reason = "is not what `bench kernels --json` writes";
    serde_json::from_str(&text).map_err(|error| Error::format(path, format!("{reason}: {error}")))
}

/// The usual sizes with what was given instead.
fn sizes(arguments: &args::bench::BenchKernels, usual: Sizes) -> Sizes {
    let chosen = |name: &str| arguments.model.iter().any(|model| model == name);
    Sizes {
        models: match arguments.model[..] {
            [] => usual.models,
            _ => SHAPES.into_iter().filter(|shape| chosen(shape.name)).collect(),
        },
        tokens: arguments.tokens.unwrap_or(usual.tokens),
        length: arguments.length.unwrap_or(usual.length),
        parameters: arguments.parameters.unwrap_or(usual.parameters),
        compute: usual.compute,
    }
}

/// What is being measured: one line that is overwritten on a terminal, a line each elsewhere.
struct Progress {
    stop: Arc<AtomicBool>,
    terminal: bool,
}

impl Progress {
    fn clear(&self) {
        if self.terminal {
            tell_over("");
        }
    }
}

impl Watch for Progress {
    fn begins(&mut self, index: usize, count: usize, case: &Case) {
        let line = format!("{}/{count}  {} {}", index + 1, case.name, case.shape);
        if self.terminal { tell_over(&line) } else { tell(&format!("{line}\n")) }
    }

    fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

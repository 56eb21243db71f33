//! `bench kernels`.

use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cpift_engine::Device;
use cpift_model::bench::kernels::{Case, SHAPES, Sizes, Watch, cases, run as measure};
use cpift_model::{Error, Result};

use crate::display::{kernels, print, print_json, tell};
use crate::{args, interrupt};

/// Measures operations.
pub fn run(arguments: &args::BenchKernels, threads: Option<NonZeroUsize>) -> Result<()> {
    let chosen = super::Chosen::open(&arguments.device.device, threads)?;
    let on_cpu = matches!(chosen.device, Device::Cpu(_));
    if chosen.device.name() == "emulated" {
        return Err(Error::setting("--device", "the emulator's times say nothing; use `cpu` or `cuda:N`"));
    }
    let sizes = Sizes { compute: chosen.compute(&arguments.precision)?, ..sizes(arguments, on_cpu) };
    let cases = cases(&sizes, on_cpu, &arguments.filter)?;
    chosen.announce();
    let mut progress = Progress {
        stop: interrupt::install("stopping after this kernel")?.begin(),
        terminal: std::io::stderr().is_terminal(),
    };
    tell(&format!("{}: {} kernels\n", chosen.device.describe(), cases.len()));
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

/// The device's usual sizes with what was given instead.
fn sizes(arguments: &args::BenchKernels, on_cpu: bool) -> Sizes {
    let usual = if on_cpu { Sizes::for_cpu() } else { Sizes::for_gpu() };
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
            tell("\r\x1b[K");
        }
    }
}

impl Watch for Progress {
    fn begins(&mut self, index: usize, count: usize, case: &Case) {
        let line = format!("{}/{count}  {} {}", index + 1, case.name, case.shape);
        tell(&if self.terminal { format!("\r\x1b[K{line}") } else { format!("{line}\n") });
    }

    fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

//! `bench step`.

use std::io::IsTerminal;
use std::num::NonZeroUsize;

use cpift_benches::step::{self, StepOptions, StepProgress, WARM_UP};
use cpift_model::Result;
use cpift_model::table::Table;

use crate::args;
use crate::display::table::aligned;
use crate::display::{print, print_json, tell, tell_over, units};

/// Measures whole train steps.
pub fn step(arguments: &args::bench::BenchStep, threads: Option<NonZeroUsize>) -> Result<()> {
    let chosen = super::Chosen::open(&arguments.device.device, threads)?;
    let compute = chosen.compute(&arguments.precision)?;
    let mut shown = Shown {
        heading: format!(
            "{}: {} of {} × {} tokens in {}, {} state, after {WARM_UP} to warm up\n",
            chosen.device.describe(),
            units::counted(arguments.steps as u64, "train step"),
            arguments.batch,
            arguments.length,
            compute.name(),
            arguments.memory.name()
        ),
        notice: chosen.notice(),
        terminal: std::io::stderr().is_terminal(),
    };
    let options = StepOptions {
        config: &arguments.config,
        batch: arguments.batch,
        length: arguments.length,
        steps: arguments.steps,
        importance: arguments.importance,
        state: arguments.memory,
        compute,
    };
    let result = step::step(&chosen.device, &options, &mut |progress| shown.update(progress));
    shown.clear();
    let result = result?;
    if arguments.json {
        let parts: serde_json::Map<_, _> =
            result.parts.iter().map(|(name, time)| (name.clone(), (*time).into())).collect();
        return print_json(&serde_json::json!({
            "tokens_per_second": result.tokens_per_second,
            "step_ms": result.step_ms,
            "parameters": result.parameters,
            "peak_memory_bytes": result.peak_memory_bytes,
            "flops_per_second": result.flops_per_second,
            "matrix_flops_per_second": result.matrix_flops_per_second,
            "mfu": result.mfu,
            "parts": parts,
        }));
    }
    let mut table = Table::new(["part of a step", "ms", "share"]);
    for (name, time) in &result.parts {
        table.row([name.clone(), format!("{time:.2}"), units::percent(time / result.step_ms)]);
    }
    table.summary(["whole step".to_owned(), format!("{:.2}", result.step_ms)]);
    print(&format!(
        "{} parameters, {} × {} tokens on {}\n\n{}\n{} tok/s, {} of memory at the peak\n\
         {} by the model's definition, {} of the best matrix product's {} (MFU)\n",
        units::grouped(result.parameters),
        arguments.batch,
        arguments.length,
        chosen.device.describe(),
        aligned(&table),
        units::count(result.tokens_per_second),
        units::bytes(result.peak_memory_bytes),
        units::flops_per_second(result.flops_per_second),
        units::percent(result.mfu),
        units::flops_per_second(result.matrix_flops_per_second),
    ))
}

/// What is measured, and on a terminal how far it is, on standard error.
struct Shown {
    heading: String,
    notice: Option<String>,
    terminal: bool,
}

impl Shown {
    fn update(&mut self, progress: StepProgress) {
        let line = match progress {
            StepProgress::Step { done, steps } => {
                // Not before: what is wrong with the input is found until then, and an error is one line.
                if done == 0 {
                    if let Some(notice) = self.notice.take() {
                        tell(&format!("{notice}\n"));
                    }
                    tell(&self.heading);
                }
                format!("step {} of {steps}", done + 1)
            }
            StepProgress::Products => "large matrix products, for the best rate".to_owned(),
        };
        if self.terminal {
            tell_over(&line);
        }
    }

    fn clear(&self) {
        if self.terminal {
            tell_over("");
        }
    }
}

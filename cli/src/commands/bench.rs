//! `bench step`.

use std::num::NonZeroUsize;

use cpift_benches::step::{self, StepOptions};
use cpift_model::Result;
use cpift_model::table::Table;

use crate::args;
use crate::display::table::aligned;
use crate::display::{print, print_json, units};

/// Measures whole train steps.
pub fn step(arguments: &args::bench::BenchStep, threads: Option<NonZeroUsize>) -> Result<()> {
    let chosen = super::Chosen::open(&arguments.device.device, threads)?;
    let result = step::step(
        &chosen.device,
        &StepOptions {
            config: &arguments.config,
            batch: arguments.batch,
            length: arguments.length,
            steps: arguments.steps,
            importance: arguments.importance,
            compute: chosen.compute(&arguments.precision)?,
        },
    )?;
    chosen.announce();
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

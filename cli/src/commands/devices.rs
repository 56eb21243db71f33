//! `devices`.

use std::num::NonZeroUsize;

use cpift_engine::Device;
use cpift_model::{Result, machine};
use serde::Serialize;

use crate::args;
use crate::display::style::Style;
use crate::display::table::Table;
use crate::display::{print, print_json, units};

/// One device of the list.
#[derive(Debug, Serialize)]
struct Entry {
    name: String,
    usable: bool,
    description: String,
    threads: Option<usize>,
    vector_instructions: Option<&'static str>,
    memory_bytes: Option<u64>,
}

/// Lists the devices.
pub fn run(arguments: &args::Devices, threads: Option<NonZeroUsize>) -> Result<()> {
    let entries = [cpu(threads)?, gpu()];
    if arguments.json {
        return print_json(&serde_json::json!({ "devices": entries }));
    }
    let style = Style::of(&std::io::stdout());
    let mut table = Table::new(["device", "threads", "vectors", "memory"]);
    for entry in entries.iter().filter(|entry| entry.usable) {
        table.row([
            entry.name.clone(),
            entry.threads.map_or("-".to_owned(), |threads| threads.to_string()),
            entry.vector_instructions.unwrap_or("-").to_owned(),
            entry.memory_bytes.map_or("-".to_owned(), units::bytes),
        ]);
    }
    let mut text = table.render();
    for entry in entries.iter().filter(|entry| !entry.usable) {
        text.push_str(&format!("{}\n", style.dim(format!("{}: {}", entry.name, entry.description))));
    }
    print(&text)
}

fn cpu(threads: Option<NonZeroUsize>) -> Result<Entry> {
    let device = Device::cpu(threads)?;
    Ok(Entry {
        name: device.name(),
        usable: true,
        description: device.describe(),
        threads: Some(device.threads()),
        vector_instructions: Some(cpift_engine::cpu::simd::description()),
        memory_bytes: machine::memory_bytes(),
    })
}

/// Why no GPU is used, as the engine says it.
fn gpu() -> Entry {
    let description = match Device::from_name("cuda:0", None) {
        Ok(device) => device.describe(),
        Err(error) => error.to_string(),
    };
    Entry {
        name: "cuda:0".to_owned(),
        usable: false,
        description,
        threads: None,
        vector_instructions: None,
        memory_bytes: None,
    }
}

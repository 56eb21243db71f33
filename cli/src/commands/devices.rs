//! `devices`.

use std::num::NonZeroUsize;

use cpift_engine::Device;
use cpift_engine::cpu::gemm::{Bf16Path, bf16_path};
use cpift_model::table::Table;
use cpift_model::{Result, machine};
use serde::Serialize;

use crate::args;
use crate::display::style::Style;
use crate::display::table::aligned;
use crate::display::{print, print_json, units};

/// One device of the list.
#[derive(Debug, Serialize)]
struct Entry {
    name: String,
    usable: bool,
    description: String,
    threads: Option<usize>,
    vector_instructions: Option<&'static str>,
    /// What products of bf16 are computed by, where that is faster than in f32.
    bf16: Option<&'static str>,
    memory_bytes: Option<u64>,
}

/// Lists the devices.
pub fn run(arguments: &args::Devices, threads: Option<NonZeroUsize>) -> Result<()> {
    let mut entries = vec![cpu(threads)?];
    entries.extend(gpus());
    if arguments.json {
        return print_json(&serde_json::json!({ "devices": entries }));
    }
    let style = Style::of(&std::io::stdout());
    let mut table = Table::new(["device", "threads", "vectors", "bf16", "memory"]);
    for entry in entries.iter().filter(|entry| entry.usable) {
        table.row([
            entry.name.clone(),
            entry.threads.map_or("-".to_owned(), |threads| threads.to_string()),
            entry.vector_instructions.unwrap_or("-").to_owned(),
            entry.bf16.unwrap_or("-").to_owned(),
            entry.memory_bytes.map_or("-".to_owned(), units::bytes),
        ]);
    }
    let mut text = aligned(&table);
    for entry in &entries {
        let line = if entry.usable {
            entry.description.clone()
        } else {
            format!("{}: {}", entry.name, entry.description)
        };
        text.push_str(&format!("{}\n", style.dim(line)));
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
        bf16: Some(bf16_path()).filter(|path| *path != Bf16Path::Widened).map(Bf16Path::name),
        memory_bytes: machine::memory_bytes(),
    })
}

/// The GPUs, or why there is none.
fn gpus() -> Vec<Entry> {
    let entry = |ordinal, device: cpift_engine::Result<Device>| Entry {
        name: format!("cuda:{ordinal}"),
        usable: device.is_ok(),
        bf16: device.is_ok().then_some("tensor cores"),
        memory_bytes: device.as_ref().ok().and_then(Device::memory_bytes),
        description: device.map_or_else(super::unusable, |device| device.describe()),
        threads: None,
        vector_instructions: None,
    };
    match Device::cuda(0) {
        Err(error) => vec![entry(0, Err(error))],
        Ok(first) => {
            let more = (1..).map_while(|ordinal| Some((ordinal, Device::cuda(ordinal).ok()?)));
            let all = std::iter::once((0, first)).chain(more);
            // With a test of the kernels that it has for itself alone: whether they are used is asked here.
            all.map(|(ordinal, device)| entry(ordinal, device.run_self_tests().map(|()| device))).collect()
        }
    }
}

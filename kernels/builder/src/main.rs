//! `cargo ptx`: makes the PTX of cpift-kernels, checks it, and records what it is.
//!
//! The PTX is committed (`kernels/ptx/`), so that building the workspace needs neither CUDA nor a special
//! compiler. Whoever changes a kernel runs
//!
//! ```text
//! cargo ptx                    # with rustc 1.96.0 and its library source; says how to get them
//! cargo ptx --fetch-ptxas      # once: also NVIDIA's assembler, for registers, spills and machine code
//! cargo ptx --check            # what CI runs: sources, PTX and manifest agree
//! ```
//!
//! and commits what it writes. A merge conflict in `kernels/ptx/` is resolved by running it again.
//!
//! A build compiles `kernels/` for nvptx64 ([`compiler`]), reads the PTX ([`text`]), refuses kernels that
//! are not as they must be ([`lint`]), writes one module per family with launch bounds ([`modules`]), lets
//! ptxas look at them ([`assembler`]), and records hashes and figures ([`manifest`]), which
//! a [`check`] compares.
//!
//! What is refused, with kernel and line: local memory, calls, accesses without a state space, parameters
//! aligned to 16 bytes that are not moved by 16 bytes, kernels that are in one of registry and PTX only;
//! with ptxas, spills, `wgmma` that wait for each other, 16-byte accesses that it split, tensor instructions
//! that are not there, sums that leave their registers in a main loop, and fewer blocks on a multiprocessor
//! than designed ([`machine`], [`occupancy`]); of kernels for Hopper also the first two with ptxas of CUDA 12.4
//! and 12.6. What is reported: a change of a kernel's number of barriers (rustc and LLVM have duplicated
//! them), and slow arithmetic where it comes up.

mod assembler;
mod check;
#[cfg(test)]
mod committed;
mod compiler;
mod embed;
mod error;
mod lint;
mod machine;
mod manifest;
mod modules;
mod occupancy;
#[cfg(test)]
mod sample_kernel;
#[cfg(test)]
mod samples;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use cpift_kernels::launch::Kernel;
use cpift_ptx::text::Assembly;

use crate::assembler::Assembler;
use crate::compiler::{Compiler, TARGETS};
use crate::error::Error;
use crate::lint::BARRIERS;
use crate::manifest::{KernelRecord, Manifest, hash_files, write_whole};
use crate::modules::Modules;

/// Builds kernels/ptx/ from kernels/src/ with rustc 1.96.0 for nvptx64, or checks that it is up to date.
///
/// Run it after every change to kernels/src/, and commit what it writes. A merge conflict in kernels/ptx/ is
/// resolved by running it again.
#[derive(Debug, Parser)]
#[command(name = "cargo ptx", bin_name = "cargo ptx")]
struct Arguments {
    /// Write nothing; fail unless sources, PTX and manifest agree. Where the compiler of the manifest is
    /// installed, build and demand equal bytes.
    #[arg(long)]
    check: bool,
    /// Folder with rustc and cargo 1.96.0, instead of /usr/bin or rustup's.
    #[arg(long, value_name = "FOLDER")]
    toolchain: Option<PathBuf>,
    /// NVIDIA's assembler, instead of the fetched one or the one on the search path.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["check", "fetch_ptxas"])]
    ptxas: Option<PathBuf>,
    /// Download NVIDIA's assembler and disassembler from PyPI into target/ first, and assemblers of CUDA 12.4 and 12.6.
    #[arg(long, conflicts_with = "check")]
    fetch_ptxas: bool,
}

/// Instructions that are reported where they come up.
const SLOW: &[(&str, &str)] = &[
    ("div.rn", "a division rounded to nearest is many instructions"),
    ("sqrt.rn", "a root rounded to nearest is many instructions"),
    ("rcp.rn", "a reciprocal rounded to nearest is many instructions"),
    ("f64", "double precision runs at a fraction of the rate"),
];

/// Where things are.
#[derive(Debug)]
struct Folders {
    /// `kernels/`.
    kernels: PathBuf,
    /// `kernels/ptx/`.
    ptx: PathBuf,
    /// Downloaded programs.
    tools: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = Folders::find().and_then(|folders| match arguments.check {
        true => check::check(&folders, arguments.toolchain.as_deref()),
        false => write(&folders, &arguments),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo ptx: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Folders {
    /// Beside this package: of the checkout that cargo runs in, else of the one this was built in.
    fn find() -> Result<Self, Error> {
        let package = std::env::var_os("CARGO_MANIFEST_DIR");
        let package = package.map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let kernels = package.join("..");
        let kernels = fs::canonicalize(&kernels).map_err(Error::file(&kernels))?;
        let tools = kernels.with_file_name("target").join("ptx-tools");
        Ok(Self { ptx: kernels.join("ptx"), kernels, tools })
    }

    fn manifest(&self) -> PathBuf {
        self.ptx.join("manifest.json")
    }
}

/// Compiles for all targets; the files to be, and their manifest.
fn build(folders: &Folders, compiler: &Compiler) -> Result<(Modules, Manifest), Error> {
    let mut modules = Modules::default();
    let mut sources = BTreeMap::new();
    for &target in TARGETS {
        let output = compiler.build(&folders.kernels, target)?;
        let assembly = Assembly::parse(&output.text)?;
        let added = modules.add(&assembly, cpift_kernels::families());
        added.inspect_err(|_| eprintln!("lines are of {}", output.path.display()))?;
        sources.extend(hash_files(&folders.kernels, output.sources.iter())?);
    }
    let manifest = Manifest {
        compiler: compiler.version.clone(),
        flags: compiler::flags(),
        assembler: None,
        sources,
        modules: modules.records.clone(),
    };
    Ok((modules, manifest))
}

/// `cargo ptx`.
fn write(folders: &Folders, arguments: &Arguments) -> Result<(), Error> {
    if arguments.fetch_ptxas {
        Assembler::fetch(&folders.tools)?;
    }
    let assembler = Assembler::find(arguments.ptxas.as_deref(), &folders.tools)?;
    let compiler = Compiler::find(arguments.toolchain.as_deref())?;
    // One that cannot be read, after a merge say, is written anew.
    let before = Manifest::load(&folders.manifest()).unwrap_or_else(|problem| {
        println!("note: {problem}");
        None
    });
    let (modules, mut manifest) = build(folders, &compiler)?;
    match (&assembler, &before) {
        (Some(assembler), _) => {
            let mut findings = Vec::new();
            for (name, module) in &mut manifest.modules {
                findings.extend(assembler.assemble(&modules.texts[name], module, kernels_of(name))?);
            }
            let older = Assembler::older(&folders.tools)?;
            if older.is_empty() {
                println!(
                    "no ptxas of CUDA 12.4 and 12.6: what they make of the Hopper kernels is not known; --fetch-ptxas \
                     fetches them"
                );
            }
            for older in older {
                for (name, text) in &modules.texts {
                    let (line, found) = older.try_older(text, kernels_of(name))?;
                    findings.extend(found);
                    line.iter().for_each(|line| println!("{name:28} {line}"));
                }
            }
            if !findings.is_empty() {
                return Err(Error::Findings(findings));
            }
            manifest.assembler = Some(assembler.version.clone());
        }
        (None, Some(before)) => manifest.keep_assembled(before),
        (None, None) => {}
    }
    write_files(folders, &modules, &manifest)?;
    report(&manifest, before.as_ref());
    if assembler.is_none() {
        println!("no ptxas: registers and spills of changed modules are not known; see --fetch-ptxas");
    }
    Ok(())
}

/// The kernels that the registry has for a PTX file, of this name.
fn kernels_of(file: &str) -> &'static [Kernel] {
    cpift_kernels::family(file.split('.').next().unwrap_or_default())
}

/// Modules, then the list that includes them, then the manifest; files of families that are gone go last.
fn write_files(folders: &Folders, modules: &Modules, manifest: &Manifest) -> Result<(), Error> {
    let folder = &folders.ptx;
    fs::create_dir_all(folder).map_err(Error::file(folder))?;
    let mut files = modules.texts.clone();
    files.insert("modules.rs".to_owned(), embed::source(modules.texts.keys()));
    for (name, text) in &files {
        let path = folder.join(name);
        // Untouched files keep their time, and cargo what it has compiled.
        if fs::read_to_string(&path).is_ok_and(|before| before == *text) {
            continue;
        }
        write_whole(&path, text)?;
    }
    write_whole(&folders.manifest(), &manifest.to_text())?;
    for name in ptx_files(folder)? {
        if !modules.texts.contains_key(&name) {
            let path = folder.join(name);
            fs::remove_file(&path).map_err(Error::file(&path))?;
        }
    }
    Ok(())
}

/// Names of the PTX files in a folder.
fn ptx_files(folder: &Path) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::file(folder))? {
        let name = entry.map_err(Error::file(folder))?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".ptx") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// A line for every kernel that is new or another than before, and what a person should look at.
fn report(manifest: &Manifest, before: Option<&Manifest>) {
    let mut changed = 0;
    for (module, record) in &manifest.modules {
        for (name, kernel) in &record.kernels {
            let before = before.and_then(|before| before.modules.get(module)?.kernels.get(name));
            if before == Some(kernel) {
                continue;
            }
            changed += 1;
            println!("{module:28} {name:32} {}", describe(kernel));
            for note in notes(kernel, before) {
                println!("    note: {note}");
            }
        }
    }
    let (modules, kernels) = (manifest.modules.len(), manifest.kernels().count());
    println!("{kernels} kernels in {modules} modules; {changed} changed");
}

/// What may be wrong with a kernel though it is allowed.
fn notes(kernel: &KernelRecord, before: Option<&KernelRecord>) -> Vec<String> {
    let count = |kernel: &KernelRecord, kind| kernel.instructions.get(kind).copied().unwrap_or(0);
    let mut notes = Vec::new();
    let barriers = count(kernel, BARRIERS);
    if let Some(before) = before.map(|before| count(before, BARRIERS)).filter(|&before| before != barriers) {
        notes.push(format!("{barriers} barriers, {before} before: is that how the source changed?"));
    }
    for (kind, why) in SLOW {
        let now = count(kernel, kind);
        if now > before.map_or(0, |before| count(before, kind)) {
            notes.push(format!("{now} {kind}: {why}"));
        }
    }
    notes
}

fn describe(kernel: &KernelRecord) -> String {
    let mut text = format!("{} threads", kernel.block);
    for (architecture, assembled) in &kernel.assembled {
        text += &format!(", {} registers", assembled.registers);
        if let Some(resident_blocks) = assembled.resident_blocks {
            text += &format!(" and {resident_blocks} blocks at once");
        }
        text += &format!(" ({architecture})");
    }
    for (kind, count) in &kernel.instructions {
        text += &format!(", {kind} {count}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(instructions: &[(&str, u32)]) -> KernelRecord {
        let instructions = instructions.iter().map(|&(kind, count)| (kind.to_owned(), count)).collect();
        KernelRecord {
            block: 32,
            min_blocks: 1,
            shared: None,
            parameters: Vec::new(),
            instructions,
            assembled: BTreeMap::new(),
        }
    }

    #[test]
    fn another_number_of_barriers_is_noted() {
        let (two, four) = (record(&[(BARRIERS, 2)]), record(&[(BARRIERS, 4)]));
        let found = notes(&four, Some(&two));
        assert_eq!(found, ["4 barriers, 2 before: is that how the source changed?"]);
        assert_eq!(notes(&record(&[]), Some(&two)).len(), 1);
        assert!(notes(&four, Some(&four)).is_empty() && notes(&four, None).is_empty());
    }

    #[test]
    fn slow_arithmetic_is_noted_when_it_comes_up() {
        let (one, two) = (record(&[("div.rn", 1)]), record(&[("div.rn", 2)]));
        assert_eq!(notes(&one, None).len(), 1);
        assert_eq!(notes(&two, Some(&one)).len(), 1);
        assert!(notes(&one, Some(&two)).is_empty());
    }
}

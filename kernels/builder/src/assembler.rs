//! ptxas and cuobjdump, where they are at hand: registers, spills, and the machine code.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cpift_kernels::launch::{Kernel, TensorCores};

use crate::compiler::output;
use crate::error::Error;
use crate::machine::{self, Instruction};
use crate::manifest::{Assembled, ModuleRecord};
use crate::occupancy;

/// Architectures whose figures are recorded: Ampere's and Hopper's.
const ARCHITECTURES: &[&str] = &["sm_80", "sm_90a"];

/// NVIDIA's wheels on PyPI, at the version that was tried.
const WHEELS: &[&str] =
    &["nvidia-cuda-nvcc==13.5.37", "nvidia-cuda-cuobjdump==13.5.37", "nvidia-cuda-nvdisasm==13.5.37"];

/// Assemblers of older releases, of which NVIDIA's wheel is `nvidia-cuda-nvcc-cu12`: what drivers of their time are likely
/// to make of PTX. Those from 12.3 to 12.6 differ from the others in what they keep in registers around `wgmma`.
const OLDER: &[&str] = &["12.4.131", "12.6.85"];

/// An assembler.
#[derive(Debug)]
pub struct Assembler {
    ptxas: PathBuf,
    /// Beside ptxas, or none.
    cuobjdump: Option<PathBuf>,
    /// As ptxas calls itself, "V13.5.37".
    pub version: String,
}

impl Assembler {
    /// The assembler at `path`; else the one fetched before, or on the search path; else none.
    pub fn find(path: Option<&Path>, tools: &Path) -> Result<Option<Self>, Error> {
        if let Some(path) = path {
            return Self::at(path).map(Some);
        }
        let fetched = tools.join("nvidia/cu13/bin/ptxas");
        let searched = std::env::var_os("PATH").unwrap_or_default();
        let searched = std::env::split_paths(&searched).map(|folder| folder.join("ptxas"));
        let found = [fetched].into_iter().chain(searched).find(|path| path.is_file());
        found.map(|path| Self::at(&path)).transpose()
    }

    fn at(ptxas: &Path) -> Result<Self, Error> {
        let version = output(Command::new(ptxas).arg("--version"))?;
        let version = version.split_whitespace().find(|word| word.starts_with('V')).unwrap_or("unknown");
        let cuobjdump = ptxas.with_file_name("cuobjdump");
        Ok(Self {
            ptxas: ptxas.to_owned(),
            cuobjdump: cuobjdump.is_file().then_some(cuobjdump),
            version: version.to_owned(),
        })
    }

    /// Those of older releases that were fetched.
    pub fn older(tools: &Path) -> Result<Vec<Self>, Error> {
        let fetched = OLDER.iter().map(|version| older_folder(tools, version).join(OLDER_PTXAS));
        fetched.filter(|ptxas| ptxas.is_file()).map(|ptxas| Self::at(&ptxas)).collect()
    }

    /// Downloads ptxas, cuobjdump and nvdisasm by pip and unpacks them into `tools`; of older releases ptxas.
    pub fn fetch(tools: &Path) -> Result<(), Error> {
        fetch_wheels(tools, WHEELS)?;
        let programs = tools.join("nvidia/cu13/bin");
        for name in ["ptxas", "cuobjdump", "nvdisasm"] {
            make_executable(&programs.join(name))?;
        }
        for version in OLDER {
            let folder = older_folder(tools, version);
            fetch_wheels(&folder, &[&format!("nvidia-cuda-nvcc-cu12=={version}")])?;
            make_executable(&folder.join(OLDER_PTXAS))?;
        }
        Ok(())
    }

    /// What an older release's ptxas makes of kernels for one architecture alone: a line for people, and what is wrong
    /// with it. What is for all devices is not looked at: it may be compiled for any.
    pub fn try_older(&self, ptx: &str, kernels: &[Kernel]) -> Result<(Option<String>, Vec<String>), Error> {
        let only = kernels.iter().map(|kernel| kernel.architecture).find(|name| name.ends_with('a'));
        let Some(architecture) = only else { return Ok((None, Vec::new())) };
        let folder = tempfile::tempdir().map_err(Error::file(&std::env::temp_dir()))?;
        let (source, cubin) = (folder.path().join("module.ptx"), folder.path().join("module.cubin"));
        fs::write(&source, ptx).map_err(Error::file(&source))?;
        let report = self.run(architecture, &source, &cubin)?;
        let resources = parse_report(&report);
        let by = format!("ptxas {}", self.version);
        let warned = parse_warnings(&report).map(|warning| format!("{by} for {architecture}: {warning}"));
        let spilled = resources.iter().filter(|(_, assembled)| assembled.spills > 0);
        let spilled =
            spilled.map(|(name, assembled)| format!("kernel {name}: {by} spills {} bytes", assembled.spills));
        let findings: Vec<String> = warned.chain(spilled).collect();
        let most = resources.values().map(|assembled| assembled.registers).max().unwrap_or(0);
        let count = resources.len();
        Ok((Some(format!("{by}: {count} kernels for {architecture}, {most} registers at most")), findings))
    }

    /// Assembles a file; what ptxas says.
    fn run(&self, architecture: &str, source: &Path, cubin: &Path) -> Result<String, Error> {
        let mut ptxas = Command::new(&self.ptxas);
        ptxas.arg("--verbose").arg(format!("--gpu-name={architecture}"));
        output(ptxas.arg(source).arg("--output-file").arg(cubin))
    }

    /// Assembles a module of `kernels` for each architecture, notes what came out, and returns what is wrong
    /// with it.
    pub fn assemble(
        &self,
        ptx: &str,
        module: &mut ModuleRecord,
        kernels: &[Kernel],
    ) -> Result<Vec<String>, Error> {
        let folder = tempfile::tempdir().map_err(Error::file(&std::env::temp_dir()))?;
        let (source, cubin) = (folder.path().join("module.ptx"), folder.path().join("module.cubin"));
        fs::write(&source, ptx).map_err(Error::file(&source))?;
        let mut findings = Vec::new();
        let only = kernels.iter().map(|kernel| kernel.architecture).find(|name| name.ends_with('a'));
        let architectures = ARCHITECTURES.iter().filter(|name| only.is_none_or(|only| **name == only));
        for &architecture in architectures {
            let report = self.run(architecture, &source, &cubin)?;
            let mut resources = parse_report(&report);
            findings.extend(
                parse_warnings(&report).map(|warning| format!("ptxas for {architecture}: {warning}")),
            );
            let mut code = self.disassemble(&cubin)?;
            for (name, kernel) in &mut module.kernels {
                let mut assembled = resources.remove(name).unwrap_or_default();
                if assembled.spills > 0 {
                    findings.push(format!("kernel {name}: {architecture} spills {} bytes", assembled.spills));
                }
                let expected = kernels.iter().find(|kernel| kernel.name == name);
                if let Some(code) = &mut code {
                    let code = code.remove(name).unwrap_or_default();
                    assembled.instructions = machine::count(&code);
                    let mut wrong = machine::lost(&kernel.instructions, &assembled.instructions);
                    wrong.extend(machine::other_breakpoints(&code));
                    if expected.is_some_and(|kernel| kernel.tensor_cores == TensorCores::KeepsAccumulators) {
                        wrong.extend(machine::sums_that_move(&code));
                    }
                    findings.extend(wrong.iter().map(|what| format!("kernel {name}: {architecture} {what}")));
                }
                if let Some(kernel) = expected {
                    let fit = occupancy::resident_blocks(kernel, &assembled, architecture);
                    if fit < kernel.min_blocks {
                        let designed = kernel.min_blocks;
                        findings.push(format!(
                            "kernel {name}: {fit} blocks fit on a multiprocessor of {architecture}, designed for {designed}"
                        ));
                    }
                    assembled.resident_blocks = kernel.shared.map(|_| fit);
                }
                kernel.assembled.insert(architecture.to_owned(), assembled);
            }
        }
        Ok(findings)
    }

    fn disassemble(&self, cubin: &Path) -> Result<Option<BTreeMap<String, Vec<Instruction>>>, Error> {
        let Some(cuobjdump) = &self.cuobjdump else { return Ok(None) };
        // cuobjdump runs nvdisasm, which lies beside it.
        let beside = cuobjdump.parent().into_iter().map(Path::to_owned);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(beside.chain(std::env::split_paths(&path))).unwrap_or(path);
        let code = output(Command::new(cuobjdump).arg("-sass").arg(cubin).env("PATH", path))?;
        Ok(Some(machine::parse(&code)))
    }
}

/// Where the ptxas of an older release is put.
fn older_folder(tools: &Path, version: &str) -> PathBuf {
    tools.join(format!("ptxas-{version}"))
}

/// In that folder.
const OLDER_PTXAS: &str = "nvidia/cuda_nvcc/bin/ptxas";

/// Downloads wheels by pip and unpacks them into a folder.
fn fetch_wheels(folder: &Path, wheels: &[&str]) -> Result<(), Error> {
    fs::create_dir_all(folder).map_err(Error::file(folder))?;
    let python = || {
        let mut command = Command::new("python3");
        command.current_dir(folder);
        command
    };
    let pip = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", "."];
    output(python().args(pip).args(wheels))?;
    for entry in fs::read_dir(folder).map_err(Error::file(folder))?.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "whl") {
            output(python().args(["-m", "zipfile", "--extract"]).arg(&path).arg("."))?;
        }
    }
    Ok(())
}

/// What ptxas warns of: that it makes `wgmma` wait for each other, say.
fn parse_warnings(report: &str) -> impl Iterator<Item = &str> {
    report.lines().filter(|line| line.starts_with("ptxas warning") || line.contains("(C75"))
}

/// Registers, spills and shared memory from what `ptxas --verbose` prints.
fn parse_report(report: &str) -> BTreeMap<String, Assembled> {
    let mut kernels = BTreeMap::<String, Assembled>::new();
    let mut current = Assembled::default();
    let mut name = None;
    for line in report.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            name = rest.split('\'').next().map(str::to_owned);
            current = Assembled::default();
        }
        let number = |unit: &str| {
            let before = line.split_once(unit)?.0;
            before.split_whitespace().next_back()?.parse::<u32>().ok()
        };
        current.spills +=
            number(" bytes spill stores").unwrap_or(0) + number(" bytes spill loads").unwrap_or(0);
        current.shared = number(" bytes smem").unwrap_or(current.shared);
        // The line with the registers is a kernel's last.
        if let (Some(registers), Some(name)) = (number(" registers"), &name) {
            kernels.insert(name.clone(), Assembled { registers, ..current.clone() });
        }
    }
    kernels
}

#[cfg(unix)]
fn make_executable(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(Error::file(path))
}

#[cfg(not(unix))]
fn make_executable(_: &Path) -> Result<(), Error> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'sum' for 'sm_80'
ptxas info    : Function properties for sum
    24 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 31 registers, used 1 barriers, 64 bytes smem, 408 bytes cmem[0]
ptxas info    : Compile time = 28.501 ms
ptxas info    : Compiling entry function 'scale' for 'sm_80'
ptxas info    : Function properties for scale
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 20 registers, used 0 barriers, 380 bytes cmem[0]
";

    #[test]
    fn what_ptxas_warns_of_is_a_finding() {
        let warning =
            "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized";
        assert_eq!(parse_warnings(&format!("{REPORT}{warning}\n")).collect::<Vec<_>>(), [warning]);
    }

    #[test]
    fn resources_are_read_by_kernel() {
        let found = parse_report(REPORT);
        let expected = Assembled { registers: 31, spills: 20, shared: 64, ..Assembled::default() };
        assert_eq!(found["sum"], expected);
        assert_eq!(found["scale"], Assembled { registers: 20, ..Assembled::default() });
    }
}

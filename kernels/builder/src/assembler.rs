//! ptxas and cuobjdump, where they are at hand: registers, spills, and the machine code's wide accesses.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::compiler::output;
use crate::error::Error;
use crate::lint::Counts;
use crate::manifest::{Assembled, ModuleRecord};

/// Architectures whose figures are recorded: Ampere's and Hopper's.
const ARCHITECTURES: &[&str] = &["sm_80", "sm_90a"];

/// NVIDIA's wheels on PyPI, at the version that was tried.
const WHEELS: &[&str] =
    &["nvidia-cuda-nvcc==13.5.37", "nvidia-cuda-cuobjdump==13.5.37", "nvidia-cuda-nvdisasm==13.5.37"];

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

    /// Downloads ptxas, cuobjdump and nvdisasm by pip and unpacks them into `tools`.
    pub fn fetch(tools: &Path) -> Result<(), Error> {
        fs::create_dir_all(tools).map_err(Error::file(tools))?;
        let python = || {
            let mut command = Command::new("python3");
            command.current_dir(tools);
            command
        };
        let pip = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", "."];
        output(python().args(pip).args(WHEELS))?;
        for entry in fs::read_dir(tools).map_err(Error::file(tools))?.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "whl") {
                output(python().args(["-m", "zipfile", "--extract"]).arg(&path).arg("."))?;
            }
        }
        let programs = tools.join("nvidia/cu13/bin");
        for name in ["ptxas", "cuobjdump", "nvdisasm"] {
            make_executable(&programs.join(name))?;
        }
        Ok(())
    }

    /// Assembles a module for each architecture, notes what came out, and returns what is wrong with it.
    pub fn assemble(&self, ptx: &str, module: &mut ModuleRecord) -> Result<Vec<String>, Error> {
        let folder = tempfile::tempdir().map_err(Error::file(&std::env::temp_dir()))?;
        let (source, cubin) = (folder.path().join("module.ptx"), folder.path().join("module.cubin"));
        fs::write(&source, ptx).map_err(Error::file(&source))?;
        let mut findings = Vec::new();
        for &architecture in ARCHITECTURES {
            let mut ptxas = Command::new(&self.ptxas);
            ptxas.arg("--verbose").arg(format!("--gpu-name={architecture}"));
            let report = output(ptxas.arg(&source).arg("--output-file").arg(&cubin))?;
            let mut resources = parse_report(&report);
            let mut code = self.disassemble(&cubin)?;
            for (name, kernel) in &mut module.kernels {
                let mut assembled = resources.remove(name).unwrap_or_default();
                if assembled.spills > 0 {
                    findings.push(format!("kernel {name}: {architecture} spills {} bytes", assembled.spills));
                }
                if let Some(code) = &mut code {
                    assembled.instructions = code.remove(name).unwrap_or_default();
                    findings.extend(lost_width(name, architecture, &kernel.instructions, &assembled));
                }
                kernel.assembled.insert(architecture.to_owned(), assembled);
            }
        }
        Ok(findings)
    }

    fn disassemble(&self, cubin: &Path) -> Result<Option<BTreeMap<String, Counts>>, Error> {
        let Some(cuobjdump) = &self.cuobjdump else { return Ok(None) };
        // cuobjdump runs nvdisasm, which lies beside it.
        let beside = cuobjdump.parent().into_iter().map(Path::to_owned);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(beside.chain(std::env::split_paths(&path))).unwrap_or(path);
        let code = output(Command::new(cuobjdump).arg("-sass").arg(cubin).env("PATH", path))?;
        Ok(Some(parse_code(&code)))
    }
}

/// What is wrong where the PTX has accesses of 16 bytes and the machine code none.
fn lost_width(name: &str, architecture: &str, ptx: &Counts, assembled: &Assembled) -> Vec<String> {
    [("ld.global.128", "LDG.128"), ("st.global.128", "STG.128")]
        .into_iter()
        .filter(|&(before, after)| ptx.contains_key(before) && !assembled.instructions.contains_key(after))
        .map(|(before, after)| format!("kernel {name}: {architecture} has no {after} for its {before}"))
        .collect()
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

/// Wide accesses and tensor products in what `cuobjdump -sass` prints, by kernel.
fn parse_code(code: &str) -> BTreeMap<String, Counts> {
    let mut kernels = BTreeMap::<String, Counts>::new();
    let mut current = String::new();
    for line in code.lines() {
        if let Some((_, name)) = line.split_once("Function : ") {
            current = name.trim().to_owned();
            kernels.entry(current.clone()).or_default();
        }
        // `/*0090*/   @P0 LDG.E.128.CONSTANT R4, … ;`
        let instruction =
            line.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_uppercase()));
        let mut parts = instruction.unwrap_or_default().split('.');
        let name = parts.next().unwrap_or_default();
        let category = match name {
            "LDG" | "STG" | "LDS" | "STS" if parts.any(|part| part == "128") => format!("{name}.128"),
            "HMMA" | "HGMMA" | "LDSM" | "LDGSTS" => name.to_owned(),
            _ => continue,
        };
        if let Some(counts) = kernels.get_mut(&current) {
            *counts.entry(category).or_default() += 1;
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

    const CODE: &str = "\
\t\tFunction : scale
\t.headerflags\t@\"EF_CUDA_SM80\"
        /*0000*/                   MOV R1, c[0x0][0x28] ;                          /* 0x00000a0000017a02 */
        /*0010*/              @!P0 LDG.E.128.CONSTANT R4, [R2.64] ;                /* 0x0000000402047981 */
        /*0020*/                   LDG.E R8, [R2.64] ;                             /* 0x0000000402047981 */
        /*0030*/                   STG.E.128 [R2.64], R4 ;                         /* 0x0000000402047981 */
\t\tFunction : sum
        /*0000*/                   HMMA.16816.F32.BF16 R4, R4, R6, R8 ;            /* 0x0000000402047981 */
";

    #[test]
    fn resources_are_read_by_kernel() {
        let found = parse_report(REPORT);
        let expected = Assembled { registers: 31, spills: 20, shared: 64, instructions: Counts::new() };
        assert_eq!(found["sum"], expected);
        assert_eq!(found["scale"], Assembled { registers: 20, ..Assembled::default() });
    }

    #[test]
    fn wide_accesses_and_tensor_products_are_counted() {
        let found = parse_code(CODE);
        let counts =
            |list: &[(&str, u32)]| list.iter().map(|&(name, n)| (name.to_owned(), n)).collect::<Counts>();
        assert_eq!(found["scale"], counts(&[("LDG.128", 1), ("STG.128", 1)]));
        assert_eq!(found["sum"], counts(&[("HMMA", 1)]));
    }

    #[test]
    fn a_width_that_the_assembler_split_is_found() {
        let ptx = Counts::from([("ld.global.128".to_owned(), 1), ("st.global.128".to_owned(), 1)]);
        let instructions = Counts::from([("LDG.128".to_owned(), 1)]);
        let assembled = Assembled { instructions, ..Assembled::default() };
        let findings = lost_width("scale", "sm_80", &ptx, &assembled);
        assert_eq!(findings, ["kernel scale: sm_80 has no STG.128 for its st.global.128"]);
    }
}

//! From one compiled crate to one PTX module per family.

use std::collections::BTreeMap;

use cpift_kernels::launch::Kernel;
use cpift_ptx::text::{Assembly, Kind};

use crate::error::Error;
use crate::lint::{check, count};
use crate::manifest::{KernelRecord, ModuleRecord, hash};

/// Families and their kernels, as the crate lists them.
pub type Registry = [cpift_kernels::Family];

/// The PTX files to be, and what is known of them, by name.
#[derive(Debug, Default)]
pub struct Modules {
    /// Contents.
    pub texts: BTreeMap<String, String>,
    /// For the manifest.
    pub records: BTreeMap<String, ModuleRecord>,
}

/// Name of a family's file for an architecture.
pub fn file_name(family: &str, target: &str) -> String {
    format!("{family}.{target}.ptx")
}

impl Modules {
    /// Checks every kernel for the assembly's architecture and adds the modules of their families.
    ///
    /// # Errors
    /// All findings at once: kernels that the registry or the PTX lacks, and what [`check`] finds.
    pub fn add(&mut self, assembly: &Assembly, registry: &Registry) -> Result<(), Error> {
        let mut findings = compare_names(assembly, registry);
        let own = || registry.iter().filter(|(_, kernels)| is_for(kernels, &assembly.target));
        for &(family, kernels) in own() {
            for kernel in kernels {
                if kernel.architecture != assembly.target {
                    let (name, other) = (kernel.name, kernel.architecture);
                    findings.push(format!("kernel {name}: for {other}, others of {family} are for another"));
                }
                if let Some(entry) = assembly.find(kernel.name) {
                    findings.extend(check(kernel, entry));
                }
            }
        }
        if !findings.is_empty() {
            return Err(Error::Findings(findings));
        }
        for &(family, kernels) in own() {
            let name = file_name(family, &assembly.target);
            let text = render(assembly, family, kernels);
            let record = |kernel: &Kernel| {
                let entry = assembly.find(kernel.name)?;
                Some((kernel.name.to_owned(), KernelRecord::new(kernel, count(entry))))
            };
            let record = ModuleRecord {
                hash: hash(text.as_bytes()),
                version: assembly.version.clone(),
                kernels: kernels.iter().filter_map(record).collect(),
            };
            self.records.insert(name.clone(), record);
            self.texts.insert(name, text);
        }
        Ok(())
    }
}

/// Whether a family is compiled for an architecture: for that of its kernels; one without any, for sm_80.
pub fn is_for(kernels: &[Kernel], target: &str) -> bool {
    kernels.first().map_or("sm_80", |kernel| kernel.architecture) == target
}

/// Kernels that are in one of PTX and registry only.
fn compare_names(assembly: &Assembly, registry: &Registry) -> Vec<String> {
    let kernels = || registry.iter().flat_map(|&(_, kernels)| kernels);
    let entries = || assembly.items.iter().filter(|item| item.kind == Kind::Entry);
    let missing = kernels()
        .filter(|kernel| kernel.architecture == assembly.target)
        .filter(|kernel| entries().all(|entry| entry.name != kernel.name))
        .map(|kernel| format!("kernel {}: registered in {}, but not in the PTX", kernel.name, kernel.family));
    let unknown = entries()
        .filter(|entry| kernels().all(|kernel| kernel.name != entry.name))
        .map(|entry| format!("kernel {}: in the PTX, but not registered", entry.name));
    missing.chain(unknown).collect()
}

/// A family's module: header, what its kernels refer to, its kernels with their launch bounds.
fn render(assembly: &Assembly, family: &str, kernels: &[Kernel]) -> String {
    let Assembly { version, target, .. } = assembly;
    let mut text = format!("// Made from kernels/src/{family}.rs by `cargo ptx`: do not edit.\n");
    text += &format!(".version {version}\n.target {target}\n.address_size 64\n");
    let names: Vec<&str> = kernels.iter().map(|kernel| kernel.name).collect();
    for item in assembly.reachable(&names) {
        let bounds = kernels.iter().find(|kernel| kernel.name == item.name).map(launch_bounds);
        text.push('\n');
        text += &item.render(&bounds.unwrap_or_default());
    }
    text
}

/// Directives by which the driver refuses a block of another shape, and ptxas knows how many registers a
/// thread may have. rustc has no attribute for them.
fn launch_bounds(kernel: &Kernel) -> String {
    let mut bounds = format!(".reqntid {}, 1, 1\n", kernel.block);
    // Kernels for Hopper move registers between their threads: ptxas must know how many there are at the beginning.
    if kernel.min_blocks > 1 || kernel.architecture.ends_with('a') {
        bounds += &format!(".minnctapersm {}\n", kernel.min_blocks);
    }
    bounds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample_kernel::KERNEL;
    use crate::samples::{SAMPLE, TWO_FAMILIES};

    const fn kernel(name: &'static str, family: &'static str, parameters: usize) -> Kernel {
        use cpift_kernels::launch::{Direction, Parameter};
        const PARAMETERS: &[Parameter] = &[
            Parameter { name: "x", direction: Direction::Update, element: "f32", align: 4 },
            Parameter { name: "count", direction: Direction::Scalar, element: "u64", align: 8 },
            Parameter { name: "factor", direction: Direction::Scalar, element: "f32", align: 4 },
        ];
        let parameters = PARAMETERS.split_at(parameters).0;
        Kernel { name, family, block: 128, parameters, ..KERNEL }
    }

    fn findings(text: &str, registry: &Registry) -> Vec<String> {
        match Modules::default().add(&Assembly::parse(text).unwrap(), registry) {
            Err(Error::Findings(findings)) => findings,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_family_becomes_a_module_with_bounds() {
        const KERNELS: &[Kernel] = &[kernel("scale", "sample", 3)];
        let mut modules = Modules::default();
        modules.add(&Assembly::parse(SAMPLE).unwrap(), &[("sample", KERNELS), ("empty", &[])]).unwrap();
        assert_eq!(modules.texts.keys().collect::<Vec<_>>(), ["empty.sm_80.ptx", "sample.sm_80.ptx"]);
        let text = &modules.texts["sample.sm_80.ptx"];
        assert!(text.contains("\n.version 7.0\n.target sm_80\n.address_size 64\n"), "{text}");
        assert!(text.contains("\n)\n.reqntid 128, 1, 1\n{\n"), "{text}");
        assert!(!modules.texts["empty.sm_80.ptx"].contains(".entry"));
        // A module is PTX that reads as what it was made of; memory that no kernel uses is left out.
        let again = Assembly::parse(text).unwrap();
        assert_eq!(again.items.iter().map(|item| item.name.as_str()).collect::<Vec<_>>(), ["scale"]);
        let record = &modules.records["sample.sm_80.ptx"];
        assert_eq!(record.hash, hash(text.as_bytes()));
        assert_eq!(record.kernels["scale"].parameters[0], "x: update f32 align 4");
    }

    #[test]
    fn blocks_that_must_fit_at_once_are_a_bound() {
        let bounds = launch_bounds(&Kernel { min_blocks: 2, ..kernel("scale", "sample", 3) });
        assert_eq!(bounds, ".reqntid 128, 1, 1\n.minnctapersm 2\n");
        let bounds = launch_bounds(&Kernel { architecture: "sm_90a", ..kernel("scale", "sample", 3) });
        assert_eq!(bounds, ".reqntid 128, 1, 1\n.minnctapersm 1\n");
    }

    #[test]
    fn kernels_are_built_for_their_own_architecture_alone() {
        const KERNELS: &[Kernel] = &[kernel("scale", "sample", 3)];
        const OTHER: Kernel = Kernel { architecture: "sm_90a", ..kernel("other", "others", 0) };
        const OTHERS: &[Kernel] = &[OTHER];
        let mut modules = Modules::default();
        modules.add(&Assembly::parse(SAMPLE).unwrap(), &[("sample", KERNELS), ("others", OTHERS)]).unwrap();
        assert_eq!(modules.texts.keys().collect::<Vec<_>>(), ["sample.sm_80.ptx"]);
        const MIXED: &[Kernel] = &[kernel("scale", "sample", 3), OTHER];
        let found = findings(SAMPLE, &[("sample", MIXED)]);
        assert!(found[0].starts_with("kernel other: for sm_90a, others of sample"), "{found:?}");
    }

    #[test]
    fn registry_and_ptx_must_have_the_same_kernels() {
        const KERNELS: &[Kernel] = &[kernel("first", "a", 1), kernel("third", "a", 1)];
        let found = findings(TWO_FAMILIES, &[("a", KERNELS)]);
        assert_eq!(
            found,
            [
                "kernel third: registered in a, but not in the PTX",
                "kernel second: in the PTX, but not registered",
            ]
        );
    }

    #[test]
    fn a_call_stops_the_build() {
        const FIRST: &[Kernel] = &[kernel("first", "a", 1)];
        const SECOND: &[Kernel] = &[kernel("second", "b", 0)];
        let found = findings(TWO_FAMILIES, &[("a", FIRST), ("b", SECOND)]);
        let line = TWO_FAMILIES.lines().position(|line| line.contains("call.uni")).unwrap() + 1;
        assert!(found.len() == 1, "{found:?}");
        assert!(found[0].starts_with(&format!("kernel second, line {line}: a call")), "{found:?}");
    }
}

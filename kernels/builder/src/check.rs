//! `cargo ptx --check`: whether sources, PTX and manifest agree.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::compiler::{self, Compiler, TARGETS};
use crate::error::Error;
use crate::manifest::{KernelRecord, Manifest, hash};
use crate::{Folders, build, embed, modules, ptx_files};

/// All of `cargo ptx --check`.
pub fn check(folders: &Folders, toolchain: Option<&Path>) -> Result<(), Error> {
    let path = folders.manifest();
    let manifest = Manifest::load(&path)?
        .ok_or_else(|| Error::Findings(vec![format!("no {}: run `cargo ptx`", path.display())]))?;
    let mut findings = compare_files(folders, &manifest)?;
    findings.extend(compare_registry(&manifest));
    if !findings.is_empty() {
        findings.push("run `cargo ptx` and commit what it writes".to_owned());
        return Err(Error::Findings(findings));
    }
    match Compiler::find(toolchain) {
        Ok(compiler) if compiler.version == manifest.compiler => {
            compare_rebuilt(folders, &compiler, &manifest)?;
            println!("cargo ptx: up to date, and the same bytes when built again");
        }
        Ok(compiler) => println!(
            "cargo ptx: up to date by its hashes; not built again, since rustc is {} and was {}",
            compiler.version, manifest.compiler
        ),
        Err(problem) if toolchain.is_some() => return Err(problem),
        Err(_) => {
            println!(
                "cargo ptx: up to date by its hashes; not built again without rustc {}",
                compiler::RELEASE
            )
        }
    }
    Ok(())
}

/// Where files differ from what the manifest says of them.
fn compare_files(folders: &Folders, manifest: &Manifest) -> Result<Vec<String>, Error> {
    let mut findings = Vec::new();
    let hash_of = |path: &Path| fs::read(path).map(|bytes| hash(&bytes)).ok();
    for (name, recorded) in &manifest.sources {
        if hash_of(&folders.kernels.join(name)).as_ref() != Some(recorded) {
            findings.push(format!("kernels/{name} has changed since the PTX was made"));
        }
    }
    for (name, module) in &manifest.modules {
        if hash_of(&folders.ptx.join(name)).as_ref() != Some(&module.hash) {
            findings.push(format!("kernels/ptx/{name} is not what the manifest says"));
        }
    }
    for name in ptx_files(&folders.ptx)? {
        if !manifest.modules.contains_key(&name) {
            findings.push(format!("kernels/ptx/{name} is not in the manifest"));
        }
    }
    let list = fs::read_to_string(folders.ptx.join("modules.rs")).unwrap_or_default();
    if list != embed::source(manifest.modules.keys()) {
        findings.push("kernels/ptx/modules.rs does not list the modules of the manifest".to_owned());
    }
    if manifest.flags != compiler::flags() {
        findings.push(format!("the flags are {:?}, in the manifest {:?}", compiler::flags(), manifest.flags));
    }
    Ok(findings)
}

/// Where the registry this was compiled with differs from the manifest.
fn compare_registry(manifest: &Manifest) -> Vec<String> {
    let mut findings = Vec::new();
    for target in TARGETS {
        let families = cpift_kernels::families().iter();
        for &(family, kernels) in families.filter(|(_, kernels)| modules::is_for(kernels, target.name)) {
            let name = modules::file_name(family, target.name);
            let Some(module) = manifest.modules.get(&name) else {
                findings.push(format!("family {family} has no {name}"));
                continue;
            };
            for kernel in kernels {
                let recorded = module.kernels.get(kernel.name);
                let now = KernelRecord::new(kernel, BTreeMap::new());
                if recorded.is_none_or(|recorded| !recorded.same_contract(&now)) {
                    findings.push(format!("kernel {} is not in {name} as it is in the source", kernel.name));
                }
            }
        }
    }
    findings
}

/// Builds again and demands the same bytes.
fn compare_rebuilt(folders: &Folders, compiler: &Compiler, manifest: &Manifest) -> Result<(), Error> {
    let (modules, rebuilt) = build(folders, compiler)?;
    let mut findings = Vec::new();
    for (name, text) in &modules.texts {
        if fs::read_to_string(folders.ptx.join(name)).is_ok_and(|committed| committed != *text) {
            findings.push(format!("kernels/ptx/{name} is another when built again"));
        }
    }
    if findings.is_empty() && rebuilt != manifest.without_assembled() {
        findings.push("kernels/ptx/manifest.json is another when built again".to_owned());
    }
    match findings.is_empty() {
        true => Ok(()),
        false => Err(Error::Findings(findings)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{ModuleRecord, hash_files};
    use crate::modules::Modules;
    use crate::write_files;

    /// A checkout with one source, one module and their manifest.
    fn checkout() -> (tempfile::TempDir, Folders, Manifest) {
        let folder = tempfile::tempdir().unwrap();
        let kernels = folder.path().join("kernels");
        let folders = Folders { ptx: kernels.join("ptx"), tools: folder.path().join("tools"), kernels };
        fs::create_dir_all(folders.kernels.join("src")).unwrap();
        fs::write(folders.kernels.join("src/a.rs"), "source").unwrap();
        let mut modules = Modules::default();
        modules.texts.insert("a.sm_80.ptx".to_owned(), "text".to_owned());
        let module = ModuleRecord { hash: hash(b"text"), version: "7.0".into(), kernels: BTreeMap::new() };
        let manifest = Manifest {
            compiler: "any".to_owned(),
            flags: compiler::flags(),
            assembler: None,
            sources: hash_files(&folders.kernels, ["src/a.rs".to_owned()].iter()).unwrap(),
            modules: [("a.sm_80.ptx".to_owned(), module)].into(),
        };
        write_files(&folders, &modules, &manifest).unwrap();
        (folder, folders, manifest)
    }

    #[test]
    fn what_was_written_is_read_and_agrees() {
        let (_folder, folders, manifest) = checkout();
        assert_eq!(Manifest::load(&folders.manifest()).unwrap().as_ref(), Some(&manifest));
        assert_eq!(compare_files(&folders, &manifest).unwrap(), [""; 0]);
    }

    #[test]
    fn every_file_that_was_changed_is_named() {
        for (file, complaint) in [
            ("src/a.rs", "kernels/src/a.rs has changed since the PTX was made"),
            ("ptx/a.sm_80.ptx", "kernels/ptx/a.sm_80.ptx is not what the manifest says"),
            ("ptx/b.sm_80.ptx", "kernels/ptx/b.sm_80.ptx is not in the manifest"),
            ("ptx/modules.rs", "kernels/ptx/modules.rs does not list the modules of the manifest"),
        ] {
            let (_folder, folders, manifest) = checkout();
            fs::write(folders.kernels.join(file), "another").unwrap();
            assert_eq!(compare_files(&folders, &manifest).unwrap(), [complaint]);
        }
    }

    #[test]
    fn a_family_that_is_gone_leaves_no_file() {
        let (_folder, folders, manifest) = checkout();
        let nothing = Manifest { modules: BTreeMap::new(), ..manifest };
        write_files(&folders, &Modules::default(), &nothing).unwrap();
        assert_eq!(ptx_files(&folders.ptx).unwrap(), [""; 0]);
        assert_eq!(compare_files(&folders, &nothing).unwrap(), [""; 0]);
    }
}

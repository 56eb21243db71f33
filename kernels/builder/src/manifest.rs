//! `kernels/ptx/manifest.json`: what the committed PTX was made of, and what is known of each kernel.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use cpift_kernels::launch::{Direction, Kernel, Parameter};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::lint::Counts;

/// The manifest. Everything in it is sorted, so that equal content is equal text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The compiler that made the PTX, as "1.96.0 (LLVM 22.1.8)": other versions make other text.
    pub compiler: String,
    /// How it was called.
    pub flags: Vec<String>,
    /// The assembler that the figures of [`KernelRecord::assembled`] are from; none if they are not known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub assembler: Option<String>,
    /// BLAKE3 of every source file the compiler read, by its path in `kernels/`.
    pub sources: BTreeMap<String, String>,
    /// The PTX files, by name.
    pub modules: BTreeMap<String, ModuleRecord>,
}

/// A PTX file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleRecord {
    /// BLAKE3 of the file.
    pub hash: String,
    /// PTX version a driver must know.
    pub version: String,
    /// The kernels in it.
    pub kernels: BTreeMap<String, KernelRecord>,
}

/// A kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelRecord {
    /// Threads of a block.
    pub block: u32,
    /// Blocks that registers leave room for on a multiprocessor.
    pub min_blocks: u32,
    /// Bytes of dynamic shared memory, where the contract has a constant.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub shared: Option<u64>,
    /// As in its contract: `x: read f32 align 16`.
    pub parameters: Vec<String>,
    /// Instructions in the PTX, by kind.
    pub instructions: Counts,
    /// What ptxas made of it, by architecture.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub assembled: BTreeMap<String, Assembled>,
}

/// What ptxas made of a kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assembled {
    /// Registers per thread.
    pub registers: u32,
    /// Bytes of registers that did not fit, stored and loaded again.
    pub spills: u32,
    /// Bytes of static shared memory.
    pub shared: u32,
    /// Blocks that fit on a multiprocessor at once, where the kernel's dynamic shared memory is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub resident_blocks: Option<u32>,
    /// Instructions in the machine code, where it was disassembled: accesses of 16 bytes, tensor products.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub instructions: Counts,
}

impl KernelRecord {
    /// What the registry and the PTX say of a kernel.
    pub fn new(kernel: &Kernel, instructions: Counts) -> Self {
        Self {
            block: kernel.block,
            min_blocks: kernel.min_blocks,
            shared: kernel.shared,
            parameters: kernel.parameters.iter().map(describe).collect(),
            instructions,
            assembled: BTreeMap::new(),
        }
    }

    /// Whether the two are launched alike.
    pub fn same_contract(&self, other: &Self) -> bool {
        let of = |record: &Self| (record.block, record.min_blocks, record.shared);
        of(self) == of(other) && self.parameters == other.parameters
    }
}

fn describe(parameter: &Parameter) -> String {
    let Parameter { name, direction, element, align } = parameter;
    let direction = match direction {
        Direction::Read => "read",
        Direction::Write => "write",
        Direction::Update => "update",
        Direction::TensorMap => "tiles of",
        Direction::Scalar => return format!("{name}: {element}"),
    };
    format!("{name}: {direction} {element} align {align}")
}

impl Manifest {
    /// The file's content; none if there is no file.
    pub fn load(path: &Path) -> Result<Option<Self>, Error> {
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(path).map_err(Error::file(path))?;
        let parsed = serde_json::from_str(&text);
        parsed.map(Some).map_err(|problem| Error::Manifest { path: path.to_owned(), problem })
    }

    /// All kernels of all modules.
    pub fn kernels(&self) -> impl Iterator<Item = &KernelRecord> {
        self.modules.values().flat_map(|module| module.kernels.values())
    }

    /// As it is written.
    pub fn to_text(&self) -> String {
        serde_json::to_string_pretty(self).expect("maps with string keys are JSON") + "\n"
    }

    /// Takes over what ptxas said of modules that are the same as before: for where no ptxas is at hand.
    pub fn keep_assembled(&mut self, before: &Self) {
        self.assembler.clone_from(&before.assembler);
        for (name, module) in &mut self.modules {
            let Some(before) = before.modules.get(name).filter(|before| before.hash == module.hash) else {
                continue;
            };
            for (name, kernel) in &mut module.kernels {
                if let Some(before) = before.kernels.get(name) {
                    kernel.assembled.clone_from(&before.assembled);
                }
            }
        }
    }

    /// The same without what needs ptxas.
    pub fn without_assembled(&self) -> Self {
        let mut same = self.clone();
        same.assembler = None;
        let kernels = same.modules.values_mut().flat_map(|module| module.kernels.values_mut());
        kernels.for_each(|kernel| kernel.assembled.clear());
        same
    }
}

/// BLAKE3 in hexadecimal.
pub fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// Hashes of the files of these names in a folder.
pub fn hash_files<'a>(
    folder: &Path,
    names: impl Iterator<Item = &'a String>,
) -> Result<BTreeMap<String, String>, Error> {
    let entry = |name: &String| {
        let path = folder.join(name);
        let bytes = fs::read(&path).map_err(Error::file(&path))?;
        Ok((name.clone(), hash(&bytes)))
    };
    names.map(entry).collect()
}

/// Writes a file so that it exists whole or not at all.
pub fn write_whole(path: &Path, text: &str) -> Result<(), Error> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = Path::new(&temporary);
    fs::write(temporary, text).map_err(Error::file(temporary))?;
    fs::rename(temporary, path).map_err(Error::file(path))
}

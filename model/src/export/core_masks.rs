//! A core that was found before: the file of bits that `cores` and a run write.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::pair::Tensor;
use crate::checkpoint::{TensorFile, WeightType, plain_name};
use crate::error::{Error, FileAction, Result};

/// How the names of such files end.
const ENDING: &str = ".mask.safetensors";

/// An open file of bits.
#[derive(Debug)]
pub(super) struct CoreMasks {
    file: TensorFile,
    /// Its names by what they have in common with those of other folders.
    names: HashMap<String, String>,
}

impl CoreMasks {
    /// Opens a file, or that of a folder which has only one.
    ///
    /// # Errors
    /// There is none, or several; it is no file of bits.
    pub fn open(path: &Path) -> Result<Self> {
        let file = TensorFile::open(&if path.is_dir() { only_file(path)? } else { path.to_owned() })?;
        let names = file.names().into_iter().map(|name| (plain_name(&name), name)).collect();
        Ok(Self { file, names })
    }

    /// The bits of a tensor; none where it holds no floats.
    ///
    /// # Errors
    /// They are missing, or those of a tensor with another number of elements.
    pub fn read(&self, tensor: &Tensor) -> Result<Option<Vec<u64>>> {
        if WeightType::of(tensor.dtype).is_none() {
            return Ok(None);
        }
        let invalid = |reason: String| Error::format(self.file.path(), reason);
        let known = self.file.find(&tensor.name).map(|_| &tensor.name);
        let name = known.or_else(|| self.names.get(&plain_name(&tensor.name)));
        let name = name.ok_or_else(|| {
            invalid(format!("has no bits of `{}`: it is the core of another model", tensor.name))
        })?;
        let (words, elements) = (self.file.read_u64(name)?, tensor.elements());
        if words.len() != elements.div_ceil(64) {
            let reason = format!(
                "`{name}` has bits of up to {} elements, the model's has {elements}: it is the core of another model",
                words.len() * 64
            );
            return Err(invalid(reason));
        }
        Ok(Some(words))
    }
}

fn only_file(folder: &Path) -> Result<PathBuf> {
    let entries = folder.read_dir().map_err(Error::file(folder, FileAction::Read))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(ENDING)).collect();
    names.sort();
    match names.as_slice() {
        [name] => Ok(folder.join(name)),
        [] => Err(Error::format(folder, format!("there is no core in it, a file NAME{ENDING}"))),
        [first, ..] => {
            let reason = format!("there are {} cores in it: name the file of one, as {first}", names.len());
            Err(Error::format(folder, reason))
        }
    }
}

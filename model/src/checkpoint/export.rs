//! Model folders that `transformers` loads unchanged.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};

use cpift_engine::View;
use serde_json::json;

use super::save::{NamedTensor, WeightType, layout_tensors, write_tensors};
use super::{INDEX_FILE, SINGLE_FILE};
use crate::adapter::{base_folder, tokenizer_folder};
use crate::chat_template::{TEMPLATE_FOLDER, additional_files};
use crate::config::ModelConfig;
use crate::error::{Error, FileAction, Result};
use crate::files::{AtomicFolder, require_free_space};

/// Bytes above which the weights are split into shards, as `transformers` does.
pub(crate) const SHARD_BYTES: u64 = 5_000_000_000;

/// Room for the headers, index, configuration and manifest when free space is checked.
pub(crate) const SMALL_FILES: u64 = 1 << 20;

/// Name of the settings that a model's texts are generated with.
const GENERATION_CONFIG: &str = "generation_config.json";

/// Files of a model folder that say nothing about the weights, copied through where they are: of tokenizers in all
/// their forms, of generation, and what licences ask for.
const COPIED_FILES: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "tokenizer.model.v1",
    "tokenizer.model.v3",
    "tekken.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "vocab.bpe",
    "encoder.json",
    "merges.txt",
    GENERATION_CONFIG,
    "chat_template.jinja",
    "chat_template.json",
    "SYSTEM_PROMPT.txt",
];

/// How the names of licences begin, and those of what belongs to them, whatever their ending.
const LICENCES: [&str; 3] = ["LICENSE", "LICENCE", "COPYING"];
const NOTICES: [&str; 2] = ["NOTICE", "USE_POLICY"];

/// Whether a file of this name in a model folder is copied through to what is made of it.
pub(crate) fn is_copied(name: &str) -> bool {
    COPIED_FILES.contains(&name) || is_legal(name) || Path::new(name).starts_with(TEMPLATE_FOLDER)
}

/// Whether a file of this name is a licence, a notice or a policy that a licence asks for.
pub(crate) fn is_legal(name: &str) -> bool {
    is_licence(name) || is_text_named(name, &NOTICES)
}

/// Whether a file of this name is a licence: `LICENSE`, `License.txt`, `LICENSE-MODEL`.
pub(crate) fn is_licence(name: &str) -> bool {
    is_text_named(name, &LICENCES)
}

/// Whether a name, in whatever case, is that of a text and begins so.
fn is_text_named(name: &str, beginnings: &[&str]) -> bool {
    let name = name.to_ascii_uppercase();
    let (stem, ending) = name.rsplit_once('.').unwrap_or((&name, ""));
    let is_text = matches!(ending, "" | "MD" | "TXT" | "PDF" | "RST" | "HTML");
    let ends_word = |rest: &str| rest.is_empty() || rest.starts_with(['-', '_', ' ', '.']);
    let is_named = |beginning: &&str| stem.strip_prefix(*beginning).is_some_and(ends_word);
    is_text && !name.contains(['/', '\\']) && beginnings.iter().any(is_named)
}

/// What a model folder is written from, besides the weights.
#[derive(Debug, Clone, Copy)]
pub struct ModelFiles<'a> {
    /// The configuration, written with the type of the weights.
    pub config: &'a ModelConfig,
    /// A model folder whose tokenizer, generation settings and licence are copied.
    pub copy_from: Option<&'a Path>,
    /// The type weights are stored in.
    pub dtype: WeightType,
    /// Bytes above which the weights are split into several files.
    pub shard_bytes: u64,
}

impl<'a> ModelFiles<'a> {
    /// Weights in f32, split above 5 GB.
    pub fn new(config: &'a ModelConfig, copy_from: Option<&'a Path>) -> Self {
        Self { config, copy_from, dtype: WeightType::F32, shard_bytes: SHARD_BYTES }
    }

    /// About how many bytes the folder takes.
    pub fn bytes(&self) -> u64 {
        let length =
            |(path, _)| std::fs::metadata(path).map_or(0, |metadata: std::fs::Metadata| metadata.len());
        let copied = self.copied().unwrap_or_default();
        let copied: u64 = copied.into_iter().map(length).sum();
        self.config.parameters() as u64 * self.dtype.bytes() + copied + SMALL_FILES
    }

    /// The files to copy: path and name.
    fn copied(&self) -> Result<Vec<(PathBuf, String)>> {
        self.copy_from.map(copied_files).transpose().map(Option::unwrap_or_default)
    }
}

/// The files of a model folder that are copied through to what is made of it: path, and name in the folder. What an
/// adapter's folder lacks is its base's, but for parts of another tokenizer.
///
/// # Errors
/// When the folder, or that of additional chat templates, cannot be read.
pub(crate) fn copied_files(folder: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut files = own_copied_files(folder)?;
    let Some(base) = base_folder(folder)? else { return Ok(files) };
    let has_tokenizer = tokenizer_folder(folder)? == folder;
    for (path, name) in own_copied_files(&base)? {
        let is_lacking = files.iter().all(|(_, own)| *own != name);
        if is_lacking && (!has_tokenizer || name == GENERATION_CONFIG || is_legal(&name)) {
            files.push((path, name));
        }
    }
    Ok(files)
}

/// Those that lie in the folder itself.
fn own_copied_files(folder: &Path) -> Result<Vec<(PathBuf, String)>> {
    let files = COPIED_FILES.iter().map(|&name| (folder.join(name), name.to_owned()));
    let mut files: Vec<(PathBuf, String)> = files.filter(|(path, _)| path.is_file()).collect();
    files.extend(legal_files(folder)?);
    for path in additional_files(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("{TEMPLATE_FOLDER}/{name}");
        files.push((path, name));
    }
    Ok(files)
}

/// The licences and notices of a folder, by name.
fn legal_files(folder: &Path) -> Result<Vec<(PathBuf, String)>> {
    let entries = match folder.read_dir() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::file(folder, FileAction::Read))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::file(folder, FileAction::Read))?;
        // A name that is not UTF-8 is none of those that are copied.
        let Ok(name) = entry.file_name().into_string() else { continue };
        // Of the file itself: in a folder of the hub's cache there are links.
        let Ok(metadata) = std::fs::metadata(entry.path()) else { continue };
        if metadata.is_file() && is_legal(&name) {
            files.push((entry.path(), name));
        }
    }
    files.sort();
    Ok(files)
}

/// Writes a model folder, whole or not at all. `weights` has the elements of the configuration's layout.
///
/// # Errors
/// The folder exists and is not empty, space is too small, a weight is not finite, or the system's.
pub fn write_model(folder: &Path, files: &ModelFiles<'_>, weights: View<'_, f32>) -> Result<()> {
    require_free_space(folder, files.bytes())?;
    let mut folder = AtomicFolder::create(folder)?;
    add_model(&mut folder, files, weights)?;
    folder.commit()
}

/// Adds a model's files to a folder under construction.
///
/// # Errors
/// As [`write_model`].
pub fn add_model(folder: &mut AtomicFolder, files: &ModelFiles<'_>, weights: View<'_, f32>) -> Result<()> {
    let layout = files.config.layout()?;
    let tensors = layout_tensors(&layout, "", weights, files.dtype)?;
    write_weights(folder, files, &tensors)?;
    folder.write_bytes("config.json", files.config.to_json(files.dtype.config_name()).as_bytes())?;
    files.copied()?.iter().try_for_each(|(path, name)| folder.copy(path, name))
}

fn write_weights(
    folder: &mut AtomicFolder,
    files: &ModelFiles<'_>,
    tensors: &[NamedTensor<'_>],
) -> Result<()> {
    // `transformers` asks for this note before it takes a file for one of its own.
    let format = Some("pt");
    let bytes =
        |tensor: &NamedTensor<'_>| tensor.shape.iter().product::<usize>() as u64 * files.dtype.bytes();
    let shards = split(&tensors.iter().map(bytes).collect::<Vec<_>>(), files.shard_bytes);
    if let [all] = shards.as_slice() {
        return folder.write(SINGLE_FILE, |file| write_tensors(file, &tensors[all.clone()], format));
    }
    let mut weight_map = BTreeMap::new();
    for (index, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", index + 1, shards.len());
        let tensors = &tensors[shard.clone()];
        folder.write(&name, |file| write_tensors(file, tensors, format))?;
        weight_map.extend(tensors.iter().map(|tensor| (tensor.name.clone(), name.clone())));
    }
    let total: u64 = tensors.iter().map(bytes).sum();
    let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
    folder.write_json(INDEX_FILE, &index)
}

/// Consecutive tensors in as few files as stay within the limit; a tensor above it has one of its own.
pub(crate) fn split(bytes: &[u64], limit: u64) -> Vec<Range<usize>> {
    let mut shards = Vec::new();
    let (mut start, mut size) = (0, 0);
    for (index, &bytes) in bytes.iter().enumerate() {
        if index > start && size + bytes > limit {
            shards.push(start..index);
            (start, size) = (index, 0);
        }
        size += bytes;
    }
    shards.push(start..bytes.len());
    shards
}

#[cfg(test)]
mod tests {
    use super::{is_copied, is_licence, split};

    #[test]
    fn licences_are_known_by_the_beginning_of_their_names() {
        for name in [
            "LICENSE",
            "License.txt",
            "LICENCE.md",
            "LICENSE-MODEL",
            "LICENSE.pdf",
            "LICENSE-2.0.txt",
            "LICENSE.llama3.md",
        ] {
            assert!(is_copied(name) && is_licence(name), "{name}");
        }
        for name in ["NOTICE", "Notice.txt", "USE_POLICY.md", "tekken.json", "tokenizer.model.v3"] {
            assert!(is_copied(name) && !is_licence(name), "{name}");
        }
        let others =
            ["README.md", "licenses.json", "LICENSE.safetensors", "noticed.py", "modeling.py", "license/x"];
        for name in others {
            assert!(!is_copied(name), "{name}");
        }
    }

    #[test]
    fn shards_stay_within_the_limit() {
        assert_eq!(split(&[3, 3, 3], 100), std::slice::from_ref(&(0..3)));
        assert_eq!(split(&[3, 3, 3], 6), [0..2, 2..3]);
        assert_eq!(split(&[9, 1, 9], 6), [0..1, 1..2, 2..3]);
    }
}

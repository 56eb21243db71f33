//! Which files of a model on the hub are fetched: what is read here, and what is copied into what is made of it.

use std::collections::BTreeSet;
use std::path::Path;

use super::has;
use crate::adapter::{CONFIG_FILE, PICKLED_FILE, WEIGHTS_FILE};
use crate::chat_template::TEMPLATE_FOLDER;
use crate::checkpoint::{INDEX_FILE, OtherWeights, SINGLE_FILE, is_copied, read_index};
use crate::hub_cache::RepositoryCache;
use crate::hub_error::{HubError, HubResult};
use crate::hub_names::{Commit, Repository, RepositoryKind, is_relative_file};

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
/// The model's card, whose header a card made of it takes over.
const CARD: &str = "README.md";
/// Weights that are added to a model's, and what they are.
const ADAPTER: [&str; 2] = [CONFIG_FILE, WEIGHTS_FILE];

/// What a model may have or not and what changes its results.
pub(super) const READ_IF_THERE: [&str; 3] =
    ["tokenizer_config.json", "chat_template.jinja", "generation_config.json"];
/// What else is read where it is there; the other files beside the weights are only copied.
const ALSO_READ: [&str; 3] = ["special_tokens_map.json", "added_tokens.json", "chat_template.json"];

/// What of a model is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelParts {
    /// The weights.
    pub weights: bool,
    /// The tokenizer.
    pub tokenizer: bool,
}

impl ModelParts {
    /// A model to train or measure.
    pub const ALL: Self = Self { weights: true, tokenizer: true };
    /// A model that another one's tokenizer is used with.
    pub const WEIGHTS: Self = Self { weights: true, tokenizer: false };
    /// A tokenizer, with the configuration beside it.
    pub const TOKENIZER: Self = Self { weights: false, tokenizer: true };
}

/// What a folder lacks to be these parts of a model; none where it is complete.
pub(super) fn lacking(folder: &Path, parts: ModelParts) -> Option<String> {
    let has = |name: &str| folder.join(name).is_file();
    let lacks = |name: &str| Some(format!("{name} is missing"));
    if has(ADAPTER[0]) && has(ADAPTER[1]) && !has(SINGLE_FILE) && !has(INDEX_FILE) {
        return None;
    }
    if !has(CONFIG) {
        return lacks(CONFIG);
    }
    if parts.tokenizer && !has(TOKENIZER) {
        return lacks(TOKENIZER);
    }
    if !parts.weights || has(SINGLE_FILE) {
        return None;
    }
    if !has(INDEX_FILE) {
        return lacks(SINGLE_FILE);
    }
    match shards(&folder.join(INDEX_FILE)) {
        Some(shards) => shards.iter().find(|shard| !has(shard)).and_then(|shard| lacks(shard)),
        None => Some(format!("{INDEX_FILE} cannot be read")),
    }
}

/// Those of the files that change results which a snapshot has not, where the cache does not say that the commit has none:
/// it may be one that is fetched in part.
pub(super) fn undecided(cache: &RepositoryCache, commit: &Commit, parts: ModelParts) -> Vec<&'static str> {
    let folder = cache.snapshot(commit);
    // An adapter has the tokenizer of its base where it has none itself.
    if !parts.tokenizer || !folder.join(TOKENIZER).is_file() {
        return Vec::new();
    }
    let is_undecided = |file: &&str| !folder.join(file).is_file() && !cache.is_known_absent(commit, file);
    READ_IF_THERE.into_iter().filter(is_undecided).collect()
}

/// Whether a file of a model is not read, and is fetched only to be copied into what is made of it.
pub(super) fn is_only_copied(repository: &Repository, file: &str) -> bool {
    let is_read = [CONFIG, TOKENIZER].contains(&file)
        || READ_IF_THERE.contains(&file)
        || ALSO_READ.contains(&file)
        || Path::new(file).starts_with(TEMPLATE_FOLDER);
    repository.kind == RepositoryKind::Model && (file == CARD || is_copied(file) && !is_read)
}

/// The files of a repository beside the weights: the tokenizer after those that it is read with, as a folder that has it
/// counts as one with a tokenizer; then the index of shards.
pub(super) fn small_files(files: &[String], parts: ModelParts) -> Vec<&str> {
    let is_small = |name: &str| {
        (is_copied(name) || [CONFIG, CARD, ADAPTER[0]].contains(&name))
            && is_relative_file(name)
            && name.matches('/').count() <= 1
    };
    let mut small: Vec<&str> = files.iter().map(String::as_str).filter(|name| is_small(name)).collect();
    small.sort_by_key(|name| *name == TOKENIZER);
    if parts.weights && is_sharded(files) {
        small.push(INDEX_FILE);
    }
    small
}

/// The files of the weights, once the index of shards is in `folder`.
///
/// # Errors
/// The index names a file that is not there.
pub(super) fn weight_files(
    repository: &Repository,
    commit: &Commit,
    files: &[String],
    folder: &Path,
) -> HubResult<Vec<String>> {
    if has(files, SINGLE_FILE) {
        return Ok(vec![SINGLE_FILE.to_owned()]);
    }
    if !is_sharded(files) {
        return Ok(vec![ADAPTER[1].to_owned()]);
    }
    let shards = shards(&folder.join(INDEX_FILE)).ok_or_else(|| HubError::NoModel {
        repository: repository.clone(),
        reason: format!("has an {INDEX_FILE} that is no index of shards"),
    })?;
    match shards.iter().find(|shard| !has(files, shard)) {
        Some(shard) => Err(HubError::NoFile {
            repository: repository.clone(),
            commit: commit.clone(),
            file: shard.clone(),
            hint: format!(", which {INDEX_FILE} names"),
        }
        .into()),
        None => Ok(shards.into_iter().collect()),
    }
}

/// Fails when a repository does not hold these parts of a model, saying what it holds instead.
pub(super) fn require_model(repository: &Repository, files: &[String], parts: ModelParts) -> HubResult<()> {
    let has_weights = has(files, SINGLE_FILE) || is_sharded(files);
    let is_adapter = !has_weights && ADAPTER.iter().all(|name| has(files, name));
    let reason = if is_adapter {
        return Ok(());
    } else if parts.weights && !has_weights || !has(files, CONFIG) {
        describe_other(repository, files)
    } else if parts.tokenizer && !has(files, TOKENIZER) {
        format!(
            "has no {TOKENIZER}, which is read: in Python, \
             `AutoTokenizer.from_pretrained(\"{repository}\").save_pretrained(FOLDER)` writes it into a folder"
        )
    } else {
        return Ok(());
    };
    Err(HubError::NoModel { repository: repository.clone(), reason }.into())
}

/// What a repository holds that has no weights or no configuration of the kind that is read.
fn describe_other(repository: &Repository, files: &[String]) -> String {
    match OtherWeights::find(files) {
        Some(OtherWeights::Gguf(name)) => format!(
            "holds a GGUF model ({name}), which is not read: name the repository with the model's safetensors"
        ),
        Some(OtherWeights::Pickled(name)) => format!(
            "has only {name}; save the model as safetensors and give that folder: in Python, \
             `AutoModelForCausalLM.from_pretrained(\"{repository}\").save_pretrained(FOLDER)`"
        ),
        Some(OtherWeights::Publisher(_)) | None if has(files, PICKLED_FILE) => format!(
            "has its adapter only as {PICKLED_FILE}: merge it into its base in Python and give that folder"
        ),
        Some(OtherWeights::Publisher(name)) => format!(
            "holds a model in its publisher's own format ({name}): name the one that `transformers` loads"
        ),
        None if has(files, CONFIG) => format!("has neither {SINGLE_FILE} nor {INDEX_FILE}"),
        None => format!("has no {CONFIG}: it is no model that `transformers` loads"),
    }
}

/// A single file is what is read where there are both.
fn is_sharded(files: &[String]) -> bool {
    has(files, INDEX_FILE) && !has(files, SINGLE_FILE)
}

/// The files that an index names; none where it is none, or names something else than files beside it.
fn shards(index: &Path) -> Option<BTreeSet<String>> {
    let shards: BTreeSet<String> = read_index(index).ok()?.into_keys().collect();
    let is_fetched = |name: &String| name.ends_with(".safetensors") && is_relative_file(name);
    shards.iter().all(is_fetched).then_some(shards)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn only_what_is_read_or_copied_is_fetched() {
        let files = names(&[
            ".gitattributes",
            "LICENSE",
            "README.md",
            "chat_template.jinja",
            "config.json",
            "generation_config.json",
            "additional_chat_templates/tool_use.jinja",
            "additional_chat_templates/../x",
            "model.gguf",
            "modeling.py",
            "model.safetensors.index.json",
            "model-00001-of-00002.safetensors",
            "consolidated.safetensors",
            "onnx/model.onnx",
            "original/params.json",
            "pytorch_model.bin",
            "tokenizer.json",
            "tokenizer_config.json",
        ]);
        let expected = [
            "LICENSE",
            "README.md",
            "chat_template.jinja",
            "config.json",
            "generation_config.json",
            "additional_chat_templates/tool_use.jinja",
            "tokenizer_config.json",
            "tokenizer.json",
        ];
        assert_eq!(small_files(&files, ModelParts::TOKENIZER), expected);
        let with_index: Vec<&str> = expected.into_iter().chain(["model.safetensors.index.json"]).collect();
        assert_eq!(small_files(&files, ModelParts::ALL), with_index);
    }

    #[test]
    fn a_repository_without_safetensors_says_what_it_has() {
        let repository = Repository::parse(RepositoryKind::Model, "org/name").unwrap();
        let refuse = |files: &[&str], parts| {
            require_model(&repository, &names(files), parts).err().map(|error| error.to_string())
        };
        let cases: [(&[&str], &str); 8] = [
            (&["name.Q4_K.gguf"], "holds a GGUF model (name.Q4_K.gguf)"),
            (&["config.json", "pytorch_model.bin"], "has only pytorch_model.bin"),
            (&["config.json", "pytorch_model-00001-of-2.bin"], "has only pytorch_model-00001-of-2.bin"),
            (&["params.json", "consolidated.00.pth"], "publisher's own format"),
            (&["params.json", "pytorch_model.bin"], "has only pytorch_model.bin"),
            (&["params.json", "adapter_model.bin"], "has its adapter only as adapter_model.bin"),
            (
                &["config.json", "tokenizer.json"],
                "neither model.safetensors nor model.safetensors.index.json",
            ),
            (&["README.md"], "has no config.json"),
        ];
        for (files, expected) in cases {
            let message = refuse(files, ModelParts::ALL).unwrap();
            assert!(message.contains(expected) && message.starts_with("org/name"), "{message}");
        }
        let whole = ["config.json", "model.safetensors"];
        assert!(refuse(&whole, ModelParts::ALL).unwrap().contains("no tokenizer.json"));
        assert_eq!(refuse(&whole, ModelParts::WEIGHTS), None);
        assert_eq!(refuse(&["config.json", "tokenizer.json"], ModelParts::TOKENIZER), None);
    }
}

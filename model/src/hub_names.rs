//! Names on the hub: `org/name@revision` for a model, `hf://datasets/org/name@revision/file` for data.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// What the names of the hub begin with where they might be taken for something else.
pub const SCHEME: &str = "hf://";

/// The branch that is meant where none is named.
const DEFAULT_REVISION: &str = "main";

/// Longest part of a repository's name.
const LONGEST_PART: usize = 96;

/// A text that is not a name of the hub.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` {reason}")]
pub struct BadName {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// What a repository of the hub holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RepositoryKind {
    /// A model.
    Model,
    /// A data set.
    Dataset,
}

impl RepositoryKind {
    /// Its name in the interface of the hub and in the cache.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }

    /// What precedes `org/name` in the address of a page.
    pub(crate) fn page_prefix(self) -> &'static str {
        match self {
            Self::Model => "",
            Self::Dataset => "datasets/",
        }
    }
}

/// A repository of the hub.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Repository {
    /// What it holds.
    pub kind: RepositoryKind,
    owner: String,
    name: String,
}

impl Repository {
    /// The repository of an `org/name`; none for a text that is no such name.
    pub fn parse(kind: RepositoryKind, id: &str) -> Option<Self> {
        let (owner, name) = id.split_once('/')?;
        let is_valid = is_part(owner) && is_part(name) && !name.ends_with(".git");
        is_valid.then(|| Self { kind, owner: owner.to_owned(), name: name.to_owned() })
    }

    /// Name of its folder in the cache.
    pub(crate) fn folder_name(&self) -> String {
        format!("{}--{}--{}", self.kind.plural(), self.owner, self.name)
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.owner, self.name)
    }
}

/// Letters, digits and `-._`, as the hub allows them: not two signs in a row that the cache gives a meaning.
fn is_part(text: &str) -> bool {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let bytes = text.as_bytes();
    bytes.len() <= LONGEST_PART
        && bytes.first().is_some_and(is_word)
        && bytes.last().is_some_and(is_word)
        && bytes.iter().all(|byte| is_word(byte) || matches!(byte, b'-' | b'.'))
        && !text.contains("--")
        && !text.contains("..")
}

/// A branch, a tag or a commit, as a person names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision(String);

impl Revision {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let is_allowed =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'/' | b'+');
        let is_valid = text.bytes().all(is_allowed)
            && text.split('/').all(|part| !part.is_empty() && !part.starts_with('.') && !part.ends_with('.'))
            && !text.contains("..");
        is_valid.then(|| Self(text.to_owned()))
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The commit, where it is the full hash of one.
    pub(crate) fn commit(&self) -> Option<Commit> {
        Commit::parse(&self.0)
    }
}

impl Default for Revision {
    fn default() -> Self {
        Self(DEFAULT_REVISION.to_owned())
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The hash of a commit, all 40 digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Commit(String);

impl Commit {
    /// None for a text that is not such a hash.
    pub fn parse(text: &str) -> Option<Self> {
        let is_hash = text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hash.then(|| Self(text.to_ascii_lowercase()))
    }

    /// All digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As many digits as tell it from others.
    pub fn short(&self) -> &str {
        &self.0[..7]
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A model on the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelName {
    /// Where it lies.
    pub repository: Repository,
    /// Which state of it.
    pub revision: Revision,
}

impl ModelName {
    /// The model of an `org/name` or `org/name@revision`; none for a text that is no such name, as all paths are that
    /// begin with a dot or have more than one slash.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, revision) = match text.split_once('@') {
            Some((id, revision)) => (id, Revision::parse(revision)?),
            None => (text, Revision::default()),
        };
        Some(Self { repository: Repository::parse(RepositoryKind::Model, id)?, revision })
    }
}

/// Files of a data set on the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataName {
    /// Where they lie.
    pub repository: Repository,
    /// Which state of it.
    pub revision: Revision,
    /// The file in the repository, or a pattern of several (`data/*.parquet`).
    pub file: String,
}

/// What a text with [`SCHEME`] names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HubName {
    /// A model.
    Model(ModelName),
    /// Data.
    Data(DataName),
}

impl HubName {
    /// Reads `hf://org/name@revision` or `hf://datasets/org/name@revision/path/of/file`.
    ///
    /// # Errors
    /// The text, and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        let bad = |reason| BadName { text: text.to_owned(), reason };
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| bad("does not begin with hf://"))?;
        let Some(rest) = rest.strip_prefix("datasets/") else {
            return match ModelName::parse(rest) {
                Some(model) => Ok(Self::Model(model)),
                None => Err(bad(
                    "is no name of a model: write org/name or org/name@revision, as on the hub's page",
                )),
            };
        };
        let is_data =
            "is no name of data: write hf://datasets/org/name/FILE or hf://datasets/org/name@revision/FILE";
        let (owner, rest) = rest.split_once('/').ok_or_else(|| bad(is_data))?;
        let (name, revision, file) = split_revision(rest).ok_or_else(|| bad(is_data))?;
        let repository = Repository::parse(RepositoryKind::Dataset, &format!("{owner}/{name}"));
        let repository = repository.ok_or_else(|| bad(is_data))?;
        let revision = revision.map_or(Some(Revision::default()), |text| Revision::parse(&text));
        let revision = revision.ok_or_else(|| bad("has a revision that is none of a repository"))?;
        if !is_relative_file(file) {
            return Err(bad("names no file of the repository: write its path as the hub's page shows it"));
        }
        Ok(Self::Data(DataName { repository, revision, file: file.to_owned() }))
    }
}

/// Takes `name@revision/path` apart. Slashes in a revision are written `%2F`, but for those of pull requests and of the
/// hub's own Parquet files.
fn split_revision(text: &str) -> Option<(&str, Option<String>, &str)> {
    let slash = text.find('/')?;
    let Some(at) = text[..slash].find('@') else {
        return Some((&text[..slash], None, &text[slash + 1..]));
    };
    let (name, rest) = (&text[..at], &text[at + 1..]);
    let slashes: Vec<usize> = rest.match_indices('/').map(|(index, _)| index).collect();
    let is_long = rest.starts_with("refs/pr/") || rest.starts_with("refs/convert/");
    let end = if is_long { slashes.get(2) } else { slashes.first() };
    let end = *end?;
    Some((name, Some(rest[..end].replace("%2F", "/").replace("%2f", "/")), &rest[end + 1..]))
}

/// Whether a text names a file inside a folder, and cannot lead out of it.
pub(crate) fn is_relative_file(text: &str) -> bool {
    let is_name = |part: &str| !part.is_empty() && part != "." && part != "..";
    !text.contains(['\\', '\0']) && text.split('/').all(is_name)
}

/// The name, with [`SCHEME`], that a text in the place of a model's folder has on the hub; none where it is a path. Relative
/// paths are relative to `folder`: what exists there is no name of the hub.
pub fn named_model(text: &str, folder: &Path) -> Option<String> {
    if text.starts_with(SCHEME) {
        return Some(text.to_owned());
    }
    let is_name = ModelName::parse(text).is_some() && !folder.join(text).exists();
    is_name.then(|| format!("{SCHEME}{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_models_are_told_from_paths() {
        let model = ModelName::parse("HuggingFaceTB/SmolLM2-135M").unwrap();
        assert_eq!(model.repository.to_string(), "HuggingFaceTB/SmolLM2-135M");
        assert_eq!(model.repository.folder_name(), "models--HuggingFaceTB--SmolLM2-135M");
        assert_eq!(model.revision.as_str(), "main");
        assert_eq!(ModelName::parse("org/name@v1.0").unwrap().revision.as_str(), "v1.0");
        assert_eq!(ModelName::parse("org/name@refs/pr/3").unwrap().revision.as_str(), "refs/pr/3");
        let paths = [
            "gpt2",
            "./org/name",
            "../name",
            "/org/name",
            "a/b/c",
            "a\\b",
            "org/name/",
            "~/name",
            "",
            "org/",
            "/name",
            "org/na me",
            "org/na--me",
            "org/na..me",
            "org/-name",
            "org/name.",
            "org/name.git",
            "org/name@",
            "org/name@a..b",
            "org/name@/x",
            "org/name@-\n",
            "@main",
            "org/näme",
        ];
        for path in paths {
            assert_eq!(ModelName::parse(path), None, "{path}");
        }
    }

    #[test]
    fn what_exists_is_no_name() {
        let folder = tempfile::TempDir::new().unwrap();
        std::fs::create_dir_all(folder.path().join("org/here")).unwrap();
        assert_eq!(named_model("org/here", folder.path()), None);
        assert_eq!(named_model("org/there", folder.path()).as_deref(), Some("hf://org/there"));
        assert_eq!(named_model("hf://org/here", folder.path()).as_deref(), Some("hf://org/here"));
    }

    #[test]
    fn data_is_named_with_its_file() {
        let data = |text: &str| match HubName::parse(text) {
            Ok(HubName::Data(data)) => {
                (data.repository.to_string(), data.revision.as_str().to_owned(), data.file)
            }
            other => panic!("{text}: {other:?}"),
        };
        let expected = |id: &str, revision: &str, file: &str| (id.into(), revision.into(), file.to_owned());
        assert_eq!(data("hf://datasets/a/b/train.jsonl"), expected("a/b", "main", "train.jsonl"));
        assert_eq!(data("hf://datasets/a/b@v1/x/y@2.csv"), expected("a/b", "v1", "x/y@2.csv"));
        assert_eq!(data("hf://datasets/a/b@x%2Fy/z.csv"), expected("a/b", "x/y", "z.csv"));
        assert_eq!(
            data("hf://datasets/a/b@refs/convert/parquet/default/0.parquet"),
            expected("a/b", "refs/convert/parquet", "default/0.parquet")
        );
        for text in [
            "hf://datasets/a/b",
            "hf://datasets/a",
            "hf://datasets/a/b/",
            "hf://datasets/a/b/../c",
            "hf://a",
            "hf://",
            "hf://datasets/a/b@/c",
            "hf://a/b/c",
            "hf://datasets/a b/c/d",
        ] {
            assert!(HubName::parse(text).is_err(), "{text}");
        }
    }
}

//! Which repository of the hub a folder of the cache holds.

use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use crate::hub_names::{Commit, Repository, RepositoryKind, Revision};

/// A repository of the hub at one commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubOrigin {
    /// `org/name`.
    pub repository: String,
    /// The commit's hash.
    pub revision: String,
}

/// Something that a run reads of the hub, as its record has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubSource {
    /// Key of the recipe that names it: `model.base`, `task.code.train`.
    pub key: String,
    /// What the repository holds.
    pub kind: RepositoryKind,
    /// Repository and commit.
    #[serde(flatten)]
    pub origin: HubOrigin,
    /// The branch, tag or commit that the recipe asks for; none where it names a folder of the cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<String>,
}

impl HubSource {
    /// What was asked for, and the commit that this was; none where nothing was, or what is recorded is no name.
    pub(super) fn asked_commit(&self) -> Option<(Repository, Revision, Commit)> {
        let repository = Repository::parse(self.kind, &self.origin.repository)?;
        let revision = Revision::parse(self.asked.as_deref()?)?;
        Some((repository, revision, Commit::parse(&self.origin.revision)?))
    }
}

impl HubOrigin {
    /// The repository that a model's folder belongs to: `…/models--org--name/snapshots/COMMIT`. None for other folders.
    pub fn of_model(folder: &Path) -> Option<Self> {
        Self::find(folder, "models")
    }

    /// The repository that a data file belongs to: `…/datasets--org--name/snapshots/COMMIT/…`. None for other files.
    pub fn of_data(file: &Path) -> Option<Self> {
        Self::find(file, "datasets")
    }

    fn find(path: &Path, kind: &str) -> Option<Self> {
        let names: Vec<&str> = path
            .components()
            .filter_map(|component| match component {
                Component::Normal(name) => name.to_str(),
                _ => None,
            })
            .collect();
        names.windows(3).find_map(|names| {
            let [folder, "snapshots", revision] = names else { return None };
            let (owner, name) = folder.strip_prefix(kind)?.strip_prefix("--")?.split_once("--")?;
            Commit::parse(revision)?;
            Some(Self { repository: format!("{owner}/{name}"), revision: (*revision).to_owned() })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_the_cache_say_what_they_hold() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let folder = format!("/cache/hub/models--org--a-b/snapshots/{commit}");
        let origin = HubOrigin::of_model(Path::new(&folder)).unwrap();
        assert_eq!((origin.repository.as_str(), origin.revision.as_str()), ("org/a-b", commit));
        assert_eq!(HubOrigin::of_data(Path::new(&folder)), None);

        let file = format!("hub/datasets--org--rows/snapshots/{commit}/data/train.jsonl");
        assert_eq!(HubOrigin::of_data(Path::new(&file)).unwrap().repository, "org/rows");
        for other in ["/models/org/name", "/models--org--name/snapshots/main", "/models--org--name"] {
            assert_eq!(HubOrigin::of_model(Path::new(other)), None, "{other}");
        }
    }
}

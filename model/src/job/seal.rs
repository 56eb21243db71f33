//! Small JSON files of a run that are read again when it is continued: each says in a field of its own what it is
//! and what its content was, so that an edited file, or one of another run, is not used.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::files::{self, Origin, hash_texts, read_json};

/// Name of the field.
const SEAL: &str = "seal";

#[derive(Serialize, Deserialize)]
struct Seal {
    #[serde(flatten)]
    origin: Origin,
    /// Hash of the other fields.
    content: String,
}

/// Writes a value, which must be an object, with its seal; returns the hash of its content.
///
/// # Errors
/// The system's, naming the file.
pub fn write(path: &Path, origin: &Origin, value: &impl Serialize) -> Result<String> {
    let unfit = |error: serde_json::Error| Error::Job(format!("{}: {error}", path.display()));
    let mut value = serde_json::to_value(value).map_err(unfit)?;
    let content = hash_of(&value);
    let seal = Seal { origin: origin.clone(), content: content.clone() };
    if let Value::Object(fields) = &mut value {
        fields.insert(SEAL.to_owned(), serde_json::to_value(seal).map_err(unfit)?);
    }
    files::write_json_atomically(path, &value)?;
    Ok(content)
}

/// Reads a value that [`write`] wrote, if it is there, with the hash of its content.
///
/// # Errors
/// The file is not what this version writes, was edited, or has another origin.
pub fn read<T: DeserializeOwned>(path: &Path, origin: &Origin) -> Result<Option<(T, String)>> {
    let Some((value, seal)) = open(path)? else { return Ok(None) };
    origin.require(path, seal.as_ref().map(|seal| &seal.origin))?;
    let content = hash_of(&value);
    if seal.is_some_and(|seal| seal.content != content) {
        let reason = "was edited since it was written: undo the change, or remove the file to make it again";
        return Err(Error::format(path, reason));
    }
    parse(path, value).map(|value| Some((value, content)))
}

/// Reads a value for a report, if it is there: what the file says, whoever wrote it.
///
/// # Errors
/// The file is not what this version writes.
pub fn read_unchecked<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let Some(mut value) = read_json::<Value>(path)? else { return Ok(None) };
    if let Value::Object(fields) = &mut value {
        fields.shift_remove(SEAL);
    }
    parse(path, value).map(Some)
}

fn open(path: &Path) -> Result<Option<(Value, Option<Seal>)>> {
    let Some(mut value) = read_json::<Value>(path)? else { return Ok(None) };
    let seal = match &mut value {
        Value::Object(fields) => fields.shift_remove(SEAL),
        _ => None,
    };
    let seal = seal.map(|seal| parse(path, seal)).transpose()?;
    Ok(Some((value, seal)))
}

fn parse<T: DeserializeOwned>(path: &Path, value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|error| {
        Error::format(path, format!("not as this version writes it ({error}); remove the file"))
    })
}

fn hash_of(value: &Value) -> String {
    hash_texts([value.to_string().as_str()])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn origin(identity: &str) -> Origin {
        Origin {
            identity: identity.to_owned(),
            place: "scores.json".to_owned(),
            made_from: String::new(),
            metrics: None,
        }
    }

    #[test]
    fn a_sealed_file_is_read_as_written_and_refused_when_edited_or_of_another_run() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scores.json");
        let scores = BTreeMap::from([("base", BTreeMap::from([("code", 0.1f64 + 0.2), ("chat", 1e-300)]))]);
        let written = write(&path, &origin("a"), &scores).unwrap();
        let (read_back, content) =
            read::<BTreeMap<String, BTreeMap<String, f64>>>(&path, &origin("a")).unwrap().unwrap();
        assert_eq!((read_back["base"]["code"], content), (0.1 + 0.2, written));
        assert!(read::<Value>(&path, &origin("b")).unwrap_err().to_string().contains("another run"));

        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("1e-300", "2e-300")).unwrap();
        let message = read::<Value>(&path, &origin("a")).unwrap_err().to_string();
        assert!(message.contains("was edited"), "{message}");
        std::fs::write(&path, "{\"base\": {}}").unwrap();
        assert!(read::<Value>(&path, &origin("a")).unwrap_err().to_string().contains("earlier version"));
    }
}

//! Data files and tokenizer folders for tests.

use std::path::PathBuf;

use cpift_model::data::{DataSettings, Dataset, Row};
use cpift_model::{Error, Tokenizer};
use serde_json::{Value, json};

use crate::folders;

/// The tokenizer folders that `golden/tokenizers/make.py` writes.
pub const FOLDERS: [&str; 4] = ["chatml", "thinking", "headers", "inst"];

/// One of [`FOLDERS`].
pub fn folder(name: &str) -> PathBuf {
    folders::tests().join("golden/tokenizers").join(name)
}

/// Its tokenizer.
pub fn tokenizer(name: &str) -> Tokenizer {
    Tokenizer::from_folder(&folder(name)).unwrap()
}

/// A data file with these bytes in a folder of its own.
pub struct DataFile {
    _folder: tempfile::TempDir,
    /// Its path.
    pub path: PathBuf,
}

impl DataFile {
    /// A file of these bytes.
    pub fn new(content: impl AsRef<[u8]>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.jsonl");
        std::fs::write(&path, content).unwrap();
        Self { _folder: folder, path }
    }

    /// A file of these rows.
    pub fn rows(rows: &[Value]) -> Self {
        Self::new(rows.iter().map(|row| format!("{row}\n")).collect::<String>())
    }

    /// Its data set, with room for any row and no cache.
    pub fn load(&self, tokenizer: &Tokenizer) -> Result<Dataset, Error> {
        Dataset::load(
            std::slice::from_ref(&self.path),
            tokenizer,
            &DataSettings { max_length: 4096, ..DataSettings::default() },
            None,
        )
    }

    /// Its first row.
    pub fn row(&self, tokenizer: &Tokenizer) -> Row {
        self.load(tokenizer).unwrap().rows()[0].clone()
    }
}

/// Writes a folder like `name`'s with another chat template (none for `None`).
pub fn folder_with_template(name: &str, template: Option<&str>) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        std::fs::copy(folder(name).join(file), copy.path().join(file)).unwrap();
    }
    let path = copy.path().join("tokenizer_config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    match template {
        Some(template) => config["chat_template"] = json!(template),
        None => {
            config.as_object_mut().unwrap().remove("chat_template");
        }
    }
    std::fs::write(&path, config.to_string()).unwrap();
    copy
}

/// A row of messages from roles and contents.
pub fn chat(turns: &[(&str, &str)]) -> Value {
    let messages: Vec<Value> =
        turns.iter().map(|(role, content)| json!({"role": role, "content": content})).collect();
    json!({ "messages": messages })
}

/// A folder with a tokenizer of whole words: `w0` … `w9` are the ids 3 … 12.
pub fn words_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut vocabulary = json!({"<unk>": 0, "</s>": 1, "<s>": 2});
    for word in 0..10 {
        vocabulary[format!("w{word}")] = json!(3 + word);
    }
    let tokenizer = json!({
        "version": "1.0", "truncation": {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": null, "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    });
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let config = r#"{"eos_token": {"content": "</s>"}, "unk_token": "<unk>"}"#;
    std::fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
    folder
}

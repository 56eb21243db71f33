//! Tokenizers, data files, chat templates, the cache, sampling and evaluation batches.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cpift_model::data::{
    CacheUse, Dataset, LongRows, Row, Sampler, SamplerSettings, Shape, Source, balanced_sample,
    evaluation_batches, instruction_prompt, is_exact_match,
};
use cpift_model::{Error, IGNORE, Tokenizer};
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::{Value, json};

const FOLDERS: [&str; 4] = ["chatml", "thinking", "headers", "inst"];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/tokenizers").join(name)
}

fn tokenizer(name: &str) -> Tokenizer {
    Tokenizer::from_folder(&folder(name)).unwrap()
}

fn expected(name: &str) -> Value {
    let bytes = std::fs::read(folder(name).join("expected.json")).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// A data file with these bytes in a folder of its own.
struct DataFile {
    folder: tempfile::TempDir,
    path: PathBuf,
}

impl DataFile {
    fn new(content: impl AsRef<[u8]>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.jsonl");
        std::fs::write(&path, content).unwrap();
        Self { folder, path }
    }

    fn rows(rows: &[Value]) -> Self {
        Self::new(rows.iter().map(|row| format!("{row}\n")).collect::<String>())
    }

    fn load(&self, tokenizer: &Tokenizer) -> Result<Dataset, Error> {
        Dataset::load(&self.path, tokenizer, 4096, LongRows::Skip, None)
    }

    fn row(&self, tokenizer: &Tokenizer) -> Row {
        self.load(tokenizer).unwrap().rows()[0].clone()
    }
}

/// The message of the error, which must be one line and count as wrong input.
fn refusal(content: impl AsRef<[u8]>, tokenizer: &Tokenizer) -> String {
    let file = DataFile::new(content);
    let error = file.load(tokenizer).unwrap_err();
    assert!(error.is_input(), "{error}");
    let message = error.to_string();
    assert!(!message.contains('\n'), "{message}");
    message.strip_prefix(file.path.to_str().unwrap()).expect(&message).to_owned()
}

// Tokenizers and chats against transformers

#[test]
fn texts_are_tokenised_as_transformers_does() {
    for name in FOLDERS {
        let tokenizer = tokenizer(name);
        for case in expected(name)["texts"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode_prompt(text).unwrap(), ids(&case["prompt"]), "{name}: {text:?}");
            assert_eq!(tokenizer.encode_answer(text).unwrap(), ids(&case["plain"]), "{name}: {text:?}");
        }
    }
}

#[test]
fn chats_are_tokenised_as_transformers_does() {
    for name in FOLDERS {
        let tokenizer = tokenizer(name);
        for case in expected(name)["chats"].as_array().unwrap() {
            let file = DataFile::rows(&[json!({"messages": case["messages"], "tools": case["tools"]})]);
            let row = file.row(&tokenizer);
            let whole = ids(&case["whole"]);
            assert_eq!(row.tokens, whole[..row.tokens.len()], "{name}: {}", case["messages"]);
            assert_eq!(row.prompt(), ids(&case["prompt"]), "{name}: {}", case["messages"]);
            // Only what follows the end of the last turn is left out: a line break.
            assert_eq!(tokenizer.decode(&whole[row.tokens.len()..]).trim(), "", "{name}");
            assert!(tokenizer.stop_tokens().contains(row.tokens.last().unwrap()), "{name}");
        }
    }
}

//! Data files and chat templates.

use std::sync::LazyLock;

use cpift_model::data::{DataSettings, Dataset, LongRows};
use cpift_model::{Error, Tokenizer};
use cpift_tests::data;

use crate::expect_one_line;
use crate::input::{Folder, files};

/// Longest row in tokens.
const LENGTH: usize = 256;

static CHATML: LazyLock<Tokenizer> = LazyLock::new(|| data::tokenizer("chatml"));

/// The rows that a template is tried on when the input has none.
const CONVERSATIONS: &str = r#"{"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"2+3?"},{"role":"assistant","content":"5"}]}
{"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":null,"tool_calls":[{"type":"function","function":{"name":"add","arguments":{"a":1}}}]},{"role":"tool","content":"1"},{"role":"assistant","content":"<think>x</think>1"}],"tools":[{"type":"function","function":{"name":"add","parameters":{"type":"object"}}}]}
"#;

/// A data file of any shape, and the same as a text.
pub fn rows(data: &[u8]) {
    for name in ["data.jsonl", "data.txt"] {
        let folder = Folder::with(&[(name, data)], &[name]);
        if let Err(error) = load(&folder, name, &CHATML, LongRows::Truncate) {
            expect_one_line(&error);
        }
    }
}

/// A chat template, and optionally rows after `=== data.jsonl`.
pub fn chat_template(data: &[u8]) {
    let folder = Folder::with(&files("chat_template.jinja", data), &["chat_template.jinja", "data.jsonl"]);
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        folder.copy(&data::folder("chatml"), name);
    }
    if !folder.path().join("data.jsonl").exists() {
        folder.write("data.jsonl", CONVERSATIONS.as_bytes());
    }
    let tokenizer = Tokenizer::from_folder(folder.path());
    if let Err(error) =
        tokenizer.and_then(|tokenizer| load(&folder, "data.jsonl", &tokenizer, LongRows::Skip))
    {
        expect_one_line(&error);
    }
}

/// Loads a data file of a folder and looks at all that a command prints of it.
fn load(folder: &Folder, name: &str, tokenizer: &Tokenizer, long: LongRows) -> Result<(), Error> {
    let dataset = Dataset::load(
        &[folder.path().join(name)],
        tokenizer,
        &DataSettings { max_length: LENGTH, long_rows: long, ..DataSettings::default() },
        None,
    )?;
    assert!(dataset.longest_row() <= LENGTH && dataset.supervised_tokens() <= dataset.tokens());
    for row in 0..dataset.len() {
        dataset.masked_sample(row, tokenizer);
    }
    dataset.described_notices().for_each(drop);
    Ok(())
}

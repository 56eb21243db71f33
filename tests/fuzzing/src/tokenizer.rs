//! A tokenizer's files.

use cpift_model::recipe::SpecialTokens;
use cpift_model::{Error, Tokenizer};

use crate::expect_one_line;
use crate::input::{Folder, files};

const FILES: [&str; 5] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "added_tokens.json",
];

/// `tokenizer.json`, then the others after lines `=== NAME`, and the text to encode after `=== text`.
pub fn tokenizer(data: &[u8]) {
    let files = files("tokenizer.json", data);
    let folder = Folder::with(&files, &FILES);
    let text = files.iter().find(|(name, _)| *name == "text");
    let text = text.map_or_else(|| "Hi <|end|> 2+3".into(), |(_, text)| String::from_utf8_lossy(text));
    if let Err(error) = encode(&folder, &text) {
        expect_one_line(&error);
    }
}

fn encode(folder: &Folder, text: &str) -> Result<(), Error> {
    let tokenizer = Tokenizer::from_folder(folder.path())?;
    tokenizer.encode_prompt(text, SpecialTokens::Escape)?;
    tokenizer.encode_prompt(text, SpecialTokens::Parse)?;
    let ids = tokenizer.encode_answer(text)?;
    tokenizer.decode(&ids);
    tokenizer.decode_with_control_tokens(&ids);
    tokenizer.answer_text(&ids, tokenizer.stop_tokens());
    // Ids that no token has.
    tokenizer.decode(&[u32::MAX, tokenizer.vocabulary_size() as u32]);
    tokenizer.fingerprint();
    Ok(())
}

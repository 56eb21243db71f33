//! Tokenizers whose class transformers builds anew instead of reading them as they are.

use cpift_model::Tokenizer;
use cpift_model::recipe::SpecialTokens;
use cpift_tests::data::folder_with_template;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::tokenizers::scheme_folder;

#[test]
fn folders_whose_class_would_make_other_ids_are_refused() {
    let refusal = |base: &str, config: Value| {
        let folder = scheme_folder(base, &Value::Null, &config);
        Tokenizer::from_folder(folder.path()).map(|_| ()).expect_err(&config.to_string()).to_string()
    };
    let declare = |class: &str| json!({"tokenizer_class": class, "eos_token": "</s>"});
    for (base, class, expected) in [
        ("unigram", "LlamaTokenizer", "takes its model, of the type `Unigram`, for BPE without merges"),
        ("word_piece", "GPT2Tokenizer", "takes its model, of the type `WordPiece`, for BPE without merges"),
        ("byte_level", "CodeLlamaTokenizer", "takes its vocabulary, of bytes, for words after `▁`"),
        ("pieces", "GPT2TokenizerFast", "takes its vocabulary, of no bytes, for byte-level"),
        ("unigram", "T5TokenizerFast", "is declared as `T5Tokenizer`"),
    ] {
        let message = refusal(base, declare(class));
        assert!(message.contains(expected) && !message.contains('\n'), "{message}");
        assert!(
            message.ends_with("set `tokenizer_class` in tokenizer_config.json to `PreTrainedTokenizerFast`")
        );
    }
    let mut config = declare("OwnTokenizer");
    config["auto_map"] = json!({"AutoTokenizer": ["own.OwnTokenizer", null]});
    assert!(refusal("byte_level", config).contains("(`auto_map` in tokenizer_config.json)"));
    // A class that transformers does not know takes the file as it is.
    let folder = scheme_folder("unigram", &Value::Null, &declare("OwnTokenizer"));
    Tokenizer::from_folder(folder.path()).unwrap();
}

#[test]
fn a_class_names_the_tokens_that_a_folder_does_not() {
    let config = json!({"tokenizer_class": "LlamaTokenizer"});
    let folder = scheme_folder("pieces", &Value::Null, &config);
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    let id = |text: &str| tokenizer.encode_prompt(text, SpecialTokens::Parse).unwrap()[0];
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(id("<s>")), id("</s>")));
    let none = json!({"tokenizer_class": "LlamaTokenizer", "bos_token": null, "eos_token": "</s>"});
    let folder = scheme_folder("pieces", &Value::Null, &none);
    assert_eq!(Tokenizer::from_folder(folder.path()).unwrap().bos(), None);
}

/// The golden folder `chatml` as one of this class, with more in its `tokenizer_config.json`.
fn chatml_of_class(class: &str, more: &Value) -> TempDir {
    let folder = folder_with_template("chatml", None);
    let path = folder.path().join("tokenizer_config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["tokenizer_class"] = json!(class);
    for (name, value) in more.as_object().into_iter().flatten() {
        config[name] = value.clone();
    }
    std::fs::write(&path, config.to_string()).unwrap();
    folder
}

#[test]
fn a_class_that_splits_text_otherwise_than_the_file_is_said() {
    let notice = |class: &str| {
        let folder = chatml_of_class(class, &Value::Null);
        let notice = Tokenizer::from_folder(folder.path()).unwrap().notice().cloned();
        notice.map(|notice| notice.replace(&format!("{}/", folder.path().display()), ""))
    };
    // As many tokens as transformers makes of it in a folder of this class, and in one that is read as it is.
    let expected = "tokenizer.json: transformers 5 builds the tokenizer of the class `GPT2Tokenizer` anew, and token ids \
                    follow the class, not this file: \"e\u{301}\" becomes 3 tokens instead of 2; where \
                    tokenizer.json is to be read as it is, set `tokenizer_class` in tokenizer_config.json to \
                    `PreTrainedTokenizerFast`";
    assert_eq!(notice("GPT2Tokenizer").as_deref(), Some(expected));
    // The file has what the class makes; it is read as it is.
    assert_eq!(notice("Qwen2Tokenizer"), None);
    assert_eq!(notice("PreTrainedTokenizerFast"), None);
}

#[test]
fn added_tokens_that_a_class_would_lose_are_named() {
    let refusal = |listed: Value| {
        let folder = chatml_of_class("Qwen2Tokenizer", &json!({"added_tokens_decoder": listed}));
        let opened = Tokenizer::from_folder(folder.path()).map(|_| ());
        opened.unwrap_err().to_string().replace(&format!("{}/", folder.path().display()), "")
    };
    // Transformers gives `<|im_end|>` the id 420, which is another token's in the file.
    assert_eq!(
        refusal(json!({})),
        "tokenizer.json: has the added token `<|im_end|>`, and the class `Qwen2Tokenizer` takes added tokens from \
         `added_tokens_decoder` in tokenizer_config.json alone, which is empty: remove that key, or list the tokens \
         there"
    );
    let other = json!({"420": {"content": "<|endoftext|>", "special": true}});
    assert!(refusal(other).contains("which lacks it: remove"));
}

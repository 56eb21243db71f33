//! Tokenizers of many kinds against transformers, and folders whose files are special, damaged or different.

use std::cell::Cell;
use std::path::Path;
use std::sync::LazyLock;

use cpift_model::Tokenizer;
use cpift_model::data::{DataSettings, Dataset, PromptMaker, PromptSettings};
use cpift_model::recipe::SpecialTokens;
use cpift_tests::data::{DataFile, FOLDERS, folder_with_template, tokenizer, words_folder};
use cpift_tests::folders;
use serde_json::{Value, json};
use tempfile::TempDir;

/// `golden/tokenizers/schemes.py` wrote it.
static SCHEMES: LazyLock<Value> = LazyLock::new(|| {
    let path = folders::tests().join("golden/tokenizers/schemes.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
});

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn write(folder: &Path, file: &str, content: &Value) {
    std::fs::write(folder.join(file), content.to_string()).unwrap();
}

/// A base of [`SCHEMES`] with other parts, in a folder with this `tokenizer_config.json`.
pub(super) fn scheme_folder(base: &str, parts: &Value, config: &Value) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut tokenizer = SCHEMES["bases"][base].clone();
    for (name, part) in parts.as_object().into_iter().flatten() {
        tokenizer[name] = part.clone();
    }
    write(folder.path(), "tokenizer.json", &tokenizer);
    write(folder.path(), "tokenizer_config.json", config);
    folder
}

fn plain_config() -> Value {
    json!({"bos_token": "<s>", "eos_token": "</s>"})
}

fn for_each_scheme(check: impl Fn(&str, &Value, &Tokenizer)) {
    for case in SCHEMES["cases"].as_array().unwrap() {
        let folder = scheme_folder(case["base"].as_str().unwrap(), &case["parts"], &case["config"]);
        if !case["model_type"].is_null() {
            write(folder.path(), "config.json", &json!({"model_type": case["model_type"]}));
        }
        let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
        check(case["name"].as_str().unwrap(), case, &tokenizer);
    }
}

// Against transformers

#[test]
fn texts_with_control_tokens_have_the_ids_that_transformers_gives() {
    for_each_scheme(|name, case, tokenizer| {
        let prefix = ids(&case["prefix"]);
        for text in case["texts"].as_array().unwrap() {
            let expected = ids(&text[1]);
            let text = text[0].as_str().unwrap();
            let begins = !prefix.is_empty() && text.starts_with("<s>") && expected.first() == prefix.first();
            let expected = if begins { expected } else { [prefix.clone(), expected].concat() };
            let found = tokenizer.encode_prompt(text, SpecialTokens::Parse).unwrap();
            assert_eq!(found, expected, "{name}: {text:?}");
        }
    });
}

#[test]
fn answers_follow_their_prompts_as_in_one_text() {
    for_each_scheme(|name, case, tokenizer| {
        let prefix = ids(&case["prefix"]);
        for pair in case["pairs"].as_array().unwrap() {
            let (prompt, answer) = (pair[0].as_str().unwrap(), pair[1].as_str().unwrap());
            let prompt_ids = [prefix.clone(), ids(&pair[2])].concat();
            let joined = [prefix.clone(), ids(&pair[3])].concat();
            let Ok(dataset) =
                DataFile::rows(&[json!({"prompt": prompt, "completion": answer})]).load(tokenizer)
            else {
                assert_eq!(joined, prompt_ids, "{name}: {prompt:?} {answer:?}");
                continue;
            };
            let row = &dataset.rows()[0];
            assert_eq!(row.prompt(), prompt_ids, "{name}: {prompt:?}");
            let (last, tokens) = row.tokens.split_last().unwrap();
            assert_eq!(*last, tokenizer.eos(), "{name}");
            if joined.starts_with(&prompt_ids) {
                assert_eq!(tokens, joined, "{name}: {prompt:?} {answer:?}");
            }
            // Word pieces begin words: they have none for the rest of a word alone.
            if name != "word piece" {
                let text = |ids: &[u32]| tokenizer.decode_with_control_tokens(ids);
                assert_eq!(text(tokens), text(&joined), "{name}: {prompt:?} {answer:?}");
            }
        }
    });
}

// Control tokens in texts

/// The first row of a file read with this setting, for people.
fn sample(row: Value, tokenizer: &Tokenizer, special_tokens: SpecialTokens) -> String {
    let file = DataFile::rows(&[row]);
    let dataset = Dataset::load(
        std::slice::from_ref(&file.path),
        tokenizer,
        &DataSettings { max_length: 4096, special_tokens, ..DataSettings::default() },
        None,
    )
    .unwrap();
    dataset.masked_sample(0, tokenizer).unwrap()
}

#[test]
fn rendered_text_is_learnt_with_its_control_tokens() {
    let tokenizer = tokenizer("headers");
    let parse = |row: Value| sample(row, &tokenizer, SpecialTokens::Parse);
    let text = "<|begin_of_text|>why<|eot_id|>seven<|eot_id|>";
    assert_eq!(parse(json!({"text": text})), "<|begin_of_text|>⟦why<|eot_id|>seven<|eot_id|>⟧");
    assert_eq!(parse(json!({"text": "seven"})), "<|begin_of_text|>⟦seven<|eot_id|>⟧");
    let row = json!({"prompt": "<|begin_of_text|>why<|eot_id|>", "completion": "seven<|eot_id|>"});
    assert_eq!(parse(row.clone()), "<|begin_of_text|>why<|eot_id|>⟦seven<|eot_id|>⟧");
    // The same strings as text: the tokenizer's own BOS, and EOS.
    let file = DataFile::rows(&[row]);
    let load = |special_tokens| {
        Dataset::load(
            std::slice::from_ref(&file.path),
            &tokenizer,
            &DataSettings { max_length: 4096, special_tokens, ..DataSettings::default() },
            None,
        )
        .unwrap()
    };
    let escaped = load(SpecialTokens::Escape);
    let control = escaped.rows()[0].tokens.iter().filter(|id| (420..425).contains(*id)).count();
    assert_eq!((control, escaped.notices().len()), (2, 0));
    let notices: Vec<String> = load(SpecialTokens::Parse).notices().iter().map(ToString::to_string).collect();
    assert_eq!(
        notices,
        [
            "control tokens in the text are learnt as such; task.special_tokens = \"escape\" reads them as plain \
          text (1 row, first in line 1)"
        ]
    );
}

#[test]
fn the_cache_knows_how_control_tokens_are_read() {
    let tokenizer = tokenizer("chatml");
    let cache = tempfile::tempdir().unwrap();
    let file = DataFile::rows(&[json!({"text": "x<|im_end|>"})]);
    let length = |special_tokens| {
        let cache = Some(cache.path());
        let dataset = Dataset::load(
            std::slice::from_ref(&file.path),
            &tokenizer,
            &DataSettings { max_length: 64, special_tokens, ..DataSettings::default() },
            cache,
        )
        .unwrap();
        dataset.rows()[0].tokens.len()
    };
    assert_eq!(length(SpecialTokens::Parse), 2);
    assert!(length(SpecialTokens::Escape) > 2);
}

// Special tokens that folders name

#[test]
fn a_named_token_that_is_ordinary_text_stays_text() {
    let config = json!({"eos_token": "</s>", "pad_token": ".", "mask_token": "fox"});
    let folder = scheme_folder("byte_level", &Value::Null, &config);
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    let ids = tokenizer.encode_answer("the fox. ...").unwrap();
    assert_eq!(tokenizer.decode(&ids), "the fox. ...");
    assert_eq!(tokenizer.answer_text(&ids, tokenizer.stop_tokens()), "the fox. ...");
}

#[test]
fn a_pad_token_without_an_embedding_does_no_harm() {
    let mut added = SCHEMES["bases"]["byte_level"]["added_tokens"].as_array().unwrap().clone();
    let mut pad = added[0].clone();
    (pad["id"], pad["content"]) = (json!(304), json!("<pad>"));
    added.push(pad);
    let config = json!({"eos_token": "</s>", "pad_token": "<pad>"});
    let folder = scheme_folder("byte_level", &json!({ "added_tokens": added }), &config);
    write(folder.path(), "config.json", &json!({"vocab_size": 304, "pad_token_id": 304}));
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    assert_eq!(tokenizer.vocabulary_size(), 304);
    tokenizer.check_vocabulary(folder.path(), 304).unwrap();
    let error = DataFile::rows(&[json!({"text": "x<pad>"})]).load(&tokenizer).unwrap_err().to_string();
    let expected =
        "contains `<pad>`, the token 304, and the model has embeddings for 304 tokens (`vocab_size`)";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn generation_ends_at_every_token_that_generation_config_lists() {
    let folder = folder_with_template("chatml", None);
    write(folder.path(), "generation_config.json", &json!({"eos_token_id": [91, 420]}));
    write(folder.path(), "config.json", &json!({"eos_token_id": [5, 424]}));
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    assert_eq!(tokenizer.stop_tokens(), [422, 91, 420]);
    assert!(tokenizer.decode(&[91, 422]).len() == 1);
}

#[test]
fn a_named_token_keeps_its_flags() {
    let pad = json!({"content": "<pad>", "lstrip": true, "rstrip": true});
    let folder = scheme_folder("byte_level", &Value::Null, &json!({"eos_token": "</s>", "pad_token": pad}));
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    let ids = |text: &str| tokenizer.encode_prompt(text, SpecialTokens::Parse).unwrap();
    assert_eq!(ids("the <pad> ."), ids("the<pad>."));
    assert_eq!(
        tokenizer.encode_answer("the <pad> .").unwrap().len(),
        tokenizer.encode_answer("the [pad] .").unwrap().len()
    );
}

#[test]
fn ids_that_mean_none_end_nothing() {
    let folder = folder_with_template("chatml", None);
    write(folder.path(), "generation_config.json", &json!({"eos_token_id": -1}));
    write(folder.path(), "config.json", &json!({"eos_token_id": [-1, 420]}));
    assert_eq!(Tokenizer::from_folder(folder.path()).unwrap().stop_tokens(), [422, 420]);
}

// Damaged files

#[test]
fn damaged_files_are_named_in_one_line() {
    let replace = json!({"type": "Replace", "pattern": {"String": "1"}, "content": "11"});
    let part = |name: &str, value: Value| json!({ name: value });
    let sequence = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    let template = |single: Value| json!({"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": {}});
    let cases = [
        (
            part("normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "/////wAAAAA="})),
            "is damaged",
        ),
        // The trie's first unit points beyond its end.
        (
            part("normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "BAAAAP////8A"})),
            "makes the tokenizers library fail",
        ),
        (
            part("normalizer", json!({"type": "Sequence", "normalizers": vec![replace; 30]})),
            "makes text more than 4096 times as long",
        ),
        (part("normalizer", json!({"type": "Prepend", "prepend": "the ".repeat(1000)})), "it is damaged"),
        (part("pre_tokenizer", json!({"type": "FixedLength", "length": 0})), "a `length` of 0"),
        (part("decoder", json!({"type": "Strip", "content": "1", "start": 0, "stop": 5})), "fail"),
        (
            part(
                "post_processor",
                json!({"type": "TemplateProcessing", "single": [sequence("A")], "pair": [],
                       "special_tokens": {"a": {"id": "a", "ids": [256], "tokens": []}}}),
            ),
            "not as many `ids` as `tokens` for `a`",
        ),
        (part("post_processor", template(json!([sequence("B")]))), "fail"),
        (part("post_processor", template(json!([]))), "leaves the text out"),
    ];
    for (parts, expected) in cases {
        let folder = scheme_folder("byte_level", &parts, &plain_config());
        let error = Tokenizer::from_folder(folder.path()).map(|_| ()).expect_err(&parts.to_string());
        let message = error.to_string();
        assert!(error.is_input() && !message.contains('\n'), "{message}");
        assert!(message.contains("tokenizer.json: ") && message.contains(expected), "{parts}: {message}");
    }
}

// Tokenizers of models to merge

#[test]
fn tokenizers_are_the_same_when_texts_have_the_same_ids() {
    let config = json!({"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<|end|>"});
    let base = scheme_folder("byte_level", &Value::Null, &config);
    let base = Tokenizer::from_folder(base.path()).unwrap();
    let other = |change: &dyn Fn(&mut Value), config: Value| {
        let mut json = SCHEMES["bases"]["byte_level"].clone();
        change(&mut json);
        let folder = scheme_folder("byte_level", &json, &config);
        let other = Tokenizer::from_folder(folder.path()).unwrap();
        base.check_same(&other).map_err(|error| error.to_string())
    };
    let unchanged = |_: &mut Value| {};
    assert_eq!(other(&unchanged, config.clone()), Ok(()));
    // Another end of sequences, as of a chat model beside its base, and another padding.
    assert_eq!(
        other(&unchanged, json!({"bos_token": "<s>", "eos_token": "<|end|>", "pad_token": "<pad>"})),
        Ok(())
    );
    let without_effect = |json: &mut Value| {
        json["padding"] = json!({"strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": null,
                                 "pad_id": 0, "pad_type_id": 0, "pad_token": "!"});
        json["pre_tokenizer"]["trim_offsets"] = json!(false);
        json["model"].as_object_mut().unwrap().remove("dropout");
        let merges = json["model"]["merges"].as_array_mut().unwrap();
        *merges = merges
            .iter()
            .map(|merge| json!(merge.as_str().unwrap().split(' ').collect::<Vec<_>>()))
            .collect();
    };
    assert_eq!(other(&without_effect, config.clone()), Ok(()));

    let exchanged = |json: &mut Value| {
        let vocabulary = json["model"]["vocab"].as_object_mut().unwrap();
        let (first, second) = (vocabulary["!"].clone(), vocabulary["\""].clone());
        (vocabulary["!"], vocabulary["\""]) = (second, first);
    };
    let message = other(&exchanged, config.clone()).unwrap_err();
    assert!(
        message.contains("is not the tokenizer of ") && message.ends_with("its vocabulary differs"),
        "{message}"
    );
    let fewer_merges = |json: &mut Value| drop(json["model"]["merges"].as_array_mut().unwrap().pop());
    assert!(other(&fewer_merges, config.clone()).unwrap_err().ends_with("its merges differ"));
    let lowercase = |json: &mut Value| json["normalizer"] = json!({"type": "Lowercase"});
    assert!(other(&lowercase, config.clone()).unwrap_err().ends_with("its normalizer differs"));
    let more = |json: &mut Value| {
        let mut token = json["added_tokens"][0].clone();
        (token["id"], token["content"]) = (json!(304), json!("<more>"));
        json["added_tokens"].as_array_mut().unwrap().push(token);
    };
    assert!(other(&more, config.clone()).unwrap_err().ends_with("it has an added token `<more>` more"));
}

// Words that the tests of other files do not reach

#[test]
fn a_word_tokenizer_has_ids_for_its_words_only() {
    let folder = words_folder();
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    let row = DataFile::rows(&[json!({"prompt": "w1", "completion": "w2</s>"})]).row(&tokenizer);
    assert_eq!(row.tokens, [4, 5, 1]);
}

// Conversations against transformers: golden/tokenizers/conversations.py

#[test]
fn conversations_have_the_ids_and_the_mask_that_transformers_gives() {
    let path = folders::tests().join("golden/tokenizers/conversations.json");
    let cases: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for case in cases.as_array().unwrap() {
        let marked = case["template"].as_str().unwrap();
        let unmarked = marked.replace("{% generation %}", "").replace("{% endgeneration %}", "");
        for (template, is_marked) in [(marked, true), (unmarked.as_str(), false)] {
            let mut config = case["config"].clone();
            config["chat_template"] = json!(template);
            let folder = scheme_folder(case["base"].as_str().unwrap(), &case["parts"], &config);
            let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
            for chat in case["chats"].as_array().unwrap() {
                let name = format!("{}, marked {is_marked}: {}", case["name"], chat["messages"]);
                let row = DataFile::rows(&[json!({"messages": chat["messages"]})]).row(&tokenizer);
                let (whole, mask) = (ids(&chat["whole"]), ids(&chat["mask"]));
                // Strings of special tokens that are ordinary text end no turn: EOS follows where no marks say
                // what is learnt.
                let appended = usize::from(config["split_special_tokens"] == true && !is_marked);
                let length = row.tokens.len() - appended;
                assert_eq!(row.tokens[..length], whole[..length], "{name}");
                let learnt: Vec<u32> = row.supervised.iter().map(|&learnt| u32::from(learnt)).collect();
                assert_eq!(learnt[..length], mask[..length], "{name}");
                assert!(!mask[length..].contains(&1), "{name}");
                assert_eq!(row.prompt(), ids(&chat["prompt"]), "{name}");
            }
        }
    }
}

// What is learnt, and what generation is given

/// The text without what tokenizers do to white space.
fn squeezed(text: &str) -> String {
    text.split_whitespace().collect()
}

#[test]
fn a_row_decodes_to_its_text_and_its_prompt_is_what_generation_is_given() {
    let path = folders::tests().join("golden/tokenizers/conversations.json");
    let cases: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for case in cases.as_array().unwrap() {
        let mut config = case["config"].clone();
        config["chat_template"] = case["template"].clone();
        let folder = scheme_folder(case["base"].as_str().unwrap(), &case["parts"], &config);
        let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
        let chat = PromptMaker::new(&tokenizer, PromptSettings { chat: true, system: None }).unwrap();
        for messages in
            case["chats"].as_array().unwrap().iter().map(|chat| chat["messages"].as_array().unwrap())
        {
            let name = format!("{}: {messages:?}", case["name"]);
            let row = DataFile::rows(&[json!({"messages": messages})]).row(&tokenizer);
            let asked = messages[..messages.len() - 1].to_vec();
            assert_eq!(row.prompt(), chat.of_messages(asked, &mut Vec::new()).unwrap().ids, "{name}");
            let decoded = squeezed(&tokenizer.decode_with_control_tokens(&row.tokens));
            let mut rest = decoded.as_str();
            for message in messages {
                let content = squeezed(message["content"].as_str().unwrap());
                let (_, behind) = rest.split_once(&content).unwrap_or_else(|| panic!("{name}: {decoded}"));
                rest = behind;
            }
            let answer = squeezed(messages[messages.len() - 1]["content"].as_str().unwrap());
            assert!(
                squeezed(&tokenizer.decode_with_control_tokens(row.answer())).starts_with(&answer),
                "{name}"
            );
        }
    }
}

#[test]
fn prompts_of_texts_are_what_generation_is_given() {
    let texts = [("why? ", "five"), ("The quick\n\n", " brown fox"), ("a b ", "c  d"), (" 17 ", "é 日本\n")];
    let decoded = Cell::new(0);
    let check = |name: &str, tokenizer: &Tokenizer| {
        let maker = PromptMaker::new(tokenizer, PromptSettings::default()).unwrap();
        for (prompt, completion) in texts {
            let row = json!({"prompt": prompt, "completion": completion});
            let Ok(rows) = DataFile::rows(&[row]).load(tokenizer) else { continue };
            let row = &rows.rows()[0];
            let given_ids = |text| maker.of_text(text, &mut Vec::new()).unwrap().ids;
            assert_eq!(row.prompt(), given_ids(prompt), "{name}: {prompt:?}");
            // Some vocabularies know few characters.
            let is_known = |text| squeezed(&tokenizer.decode(&given_ids(text))) == squeezed(text);
            if is_known(prompt) && is_known(completion) {
                let (whole, answer) = (tokenizer.decode(&row.tokens), tokenizer.decode(row.answer()));
                assert_eq!(squeezed(&whole), squeezed(&format!("{prompt}{completion}")), "{name}");
                assert_eq!(squeezed(&answer), squeezed(completion), "{name}");
                decoded.set(decoded.get() + 1);
            }
        }
    };
    for_each_scheme(|name, _, tokenizer| check(name, tokenizer));
    for name in FOLDERS {
        check(name, &tokenizer(name));
    }
    assert!(decoded.get() > 40, "{}", decoded.get());
}

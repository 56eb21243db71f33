//! Data files: shapes, bad lines, long rows, the cache.

use std::path::Path;
use std::sync::LazyLock;

use cpift_model::Tokenizer;
use cpift_model::data::{CacheUse, DataSettings, Dataset, LongRows, Notice, RowFormat, instruction_prompt};
use cpift_model::recipe::SpecialTokens;
use cpift_model::score::Scoring;
use cpift_tests::data::{DataFile, chat, folder, folder_with_template, tokenizer, words_folder};
use cpift_tests::folders;
use proptest::prelude::*;
use serde_json::{Value, json};

/// The message of the error, which must be one line and count as wrong input.
fn refusal(content: impl AsRef<[u8]>, tokenizer: &Tokenizer) -> String {
    let file = DataFile::new(content);
    let error = file.load(tokenizer).unwrap_err();
    assert!(error.is_input(), "{error}");
    let message = error.to_string();
    assert!(!message.contains('\n'), "{message}");
    message.strip_prefix(file.path.to_str().unwrap()).expect(&message).to_owned()
}

// Files that cannot be used

#[test]
fn bad_lines_are_named() {
    let tokenizer = tokenizer("chatml");
    let good = r#"{"prompt": "a", "completion": "b"}"#;
    let cases: [(&str, &str); 17] = [
        ("{\"prompt\": \"a\"", "2: is not JSON: EOF while parsing an object"),
        ("[1]", "2: is not a JSON object"),
        ("17", "2: is not a JSON object"),
        ("{}", "2: has no fields this program knows (found none)"),
        (
            r#"{"enquiry": "a", "reply": "b"}"#,
            "2: has no fields this program knows (found `enquiry`, `reply`)",
        ),
        (
            r#"{"prompt": "a"}"#,
            "2: has no fields this program knows (found `prompt`): use `prompt` and `completion`",
        ),
        (r#"{"prompt": "a", "completion": ""}"#, "2: `completion` is empty"),
        (r#"{"prompt": "a", "completion": " \n"}"#, "2: `completion` is empty"),
        (r#"{"prompt": "a", "completion": 7}"#, "2: `completion` is not a string"),
        (r#"{"prompt": null, "completion": "b"}"#, "2: `prompt` is not a string"),
        (r#"{"prompt": "a", "completion": "\ud800"}"#, "2: is not JSON: "),
        (r#"{"text": "a"}"#, "2: has not the fields of the first row (`prompt` and `completion`)"),
        (
            "{\"prompt\": \"a\", \"completion\": \"\u{10FFF0}422\u{10FFF1}\"}",
            "2: the answer contains the private-use character U+10FFF0",
        ),
        (
            "{\"prompt\": \"\u{10FB00}\", \"completion\": \"b\"}",
            "2: the prompt contains the private-use character U+10FB00",
        ),
        (r#"{"instruction": "a", "output": "b"}"#, "2: has not the fields of the first row"),
        (r#"{"prompt": ["a"], "completion": "b"}"#, "2: `prompt` is not a string"),
        (&format!("{}{}", "[".repeat(400), "]".repeat(400)), "2: is not JSON: recursion limit exceeded"),
    ];
    for (line, expected) in cases {
        let message = refusal(format!("{good}\n{line}\n{good}\n"), &tokenizer);
        assert!(message.starts_with(&format!(":{expected}")), "{line}: {message}");
    }
    let mut bytes = format!("{good}\n\n{good}\n").into_bytes();
    bytes.extend(b"{\"prompt\": \"\xFF\", \"completion\": \"b\"}");
    assert_eq!(
        refusal(&bytes, &tokenizer),
        ":4: is not UTF-8 (byte 13 of the row) (--skip-invalid leaves out such rows)"
    );
}

#[test]
fn rows_that_would_be_learnt_wrong_are_refused() {
    let cases = [
        (json!({"prompt": "a", "completion": "b", "label": false}), ":1: has a `label` of false, which"),
        (json!({"prompt": "a", "completion": "b", "label": 0}), ":1: has a `label` of false, which"),
        (json!({"text": "a", "label": false}), ":1: has a `label` of false, which"),
        (json!({"prompt": "a", "completion": "b", "label": "False"}), ":1: has a `label` of false, which"),
        (
            json!({"prompt": "a", "chosen": "b", "rejected": "c"}),
            ":1: has `chosen` and `rejected` answers, and",
        ),
        (
            json!({"prompt": [{"role": "user", "content": "a"}], "completion": "b"}),
            ":1: `prompt` is a list of messages: `prompt` and `completion` have to be such lists both",
        ),
    ];
    for (row, expected) in cases {
        let message = refusal(row.to_string(), &tokenizer("chatml"));
        assert!(message.starts_with(expected), "{row}: {message}");
    }
    // Nothing to lose: no notice either.
    for row in [
        json!({"instruction": "a", "input": null, "output": "b", "system": "", "history": []}),
        json!({"prompt": "a", "completion": "b", "label": true}),
        json!({"prompt": "a", "completion": "b", "label": 1}),
        json!({"text": "a", "label": null}),
    ] {
        let dataset = DataFile::rows(&[row]).load(&tokenizer("chatml")).unwrap();
        assert_eq!((dataset.len(), dataset.notices()), (1, [].as_slice()));
    }
    // A class is no mark.
    for row in
        [json!({"text": "a", "label": 0}), json!({"prompt": "a", "completion": "b", "label": "praise"})]
    {
        let dataset = DataFile::rows(&[row]).load(&tokenizer("chatml")).unwrap();
        assert_eq!(dataset.notices()[0].notice, Notice::UnreadField("label".to_owned()));
    }
}

#[test]
fn bad_conversations_are_named() {
    let user = r#"{"role": "user", "content": "a"}"#;
    let cases = [
        (r#"{"messages": 1}"#.to_owned(), ":1: `messages` is not a list"),
        (r#"{"messages": []}"#.to_owned(), ":1: has no message of the role `assistant`"),
        (format!(r#"{{"messages": [{user}]}}"#), ":1: has no message of the role `assistant`"),
        (format!(r#"{{"messages": [{user}, 5]}}"#), ":1: message 2 is not an object"),
        (format!(r#"{{"messages": [{user}, {{"role": "assistant"}}]}}"#), ":1: message 2 has no `content`"),
        (format!(r#"{{"messages": [{user}, {{"content": "b"}}]}}"#), ":1: message 2 has no `role`"),
        (
            format!(r#"{{"messages": [{user}, {{"role": "assistant", "content": " "}}]}}"#),
            ":1: message 2 is an empty answer",
        ),
        (
            format!(r#"{{"messages": [{user}, {{"role": "assistant", "content": [1]}}]}}"#),
            ":1: message 2 has a `content` that is not a string",
        ),
        (
            format!(r#"{{"messages": [{user}, {{"role": "assistant", "content": "b"}}], "tools": 1}}"#),
            ":1: `tools` is not a list",
        ),
        (
            format!(
                r#"{{"messages": [{user}, {{"role": "clown", "content": "b"}}, {{"role": "assistant", "content": "b"}}]}}"#
            ),
            ":1: the chat template refuses the messages: unknown role clown",
        ),
    ];
    let tokenizer = tokenizer("headers");
    for (line, expected) in cases {
        let message = refusal(&line, &tokenizer);
        assert!(message.starts_with(expected), "{line}: {message}");
    }
}

#[test]
fn files_without_rows_are_refused() {
    let tokenizer = tokenizer("chatml");
    for content in ["", "\n\r\n  \n", "\u{FEFF}"] {
        assert!(refusal(content, &tokenizer).starts_with(": is empty"));
    }
    let missing = Dataset::load(
        &[Path::new("/nowhere/data.jsonl").to_owned()],
        &tokenizer,
        &DataSettings { max_length: 64, ..DataSettings::default() },
        None,
    )
    .unwrap_err();
    assert!(
        missing.is_input() && missing.to_string().starts_with("/nowhere/data.jsonl: cannot read"),
        "{missing}"
    );
    assert!(
        Dataset::load(
            &[folder("chatml")],
            &tokenizer,
            &DataSettings { max_length: 64, ..DataSettings::default() },
            None
        )
        .unwrap_err()
        .is_input()
    );
}

#[test]
fn messages_need_a_chat_template_that_works() {
    let row = chat(&[("user", "a"), ("assistant", "b")]);
    let load = |template| {
        let folder = folder_with_template("chatml", template);
        let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
        DataFile::rows(std::slice::from_ref(&row)).load(&tokenizer).unwrap_err().to_string()
    };
    assert!(load(None).contains("tokenizer_config.json: no chat template"));
    assert!(load(Some("{% if %}")).contains("tokenizer_config.json: the chat template is not valid"));
    let refused = load(Some("{{ raise_exception('no') }}"));
    assert!(refused.contains(":1: the chat template refuses the messages: no ("), "{refused}");
    assert!(refused.contains("tokenizer_config.json, template line 1)"), "{refused}");
}

#[test]
fn marks_blank_lines_and_line_ends_are_read_over() {
    let tokenizer = tokenizer("chatml");
    let text = "\u{FEFF}{\"prompt\": \"a\", \"completion\": \"b\", \"id\": 1}\r\n\r\n   \n{\"completion\": \"d\", \"prompt\": \"c\"}";
    let dataset = DataFile::new(text).load(&tokenizer).unwrap();
    let lines: Vec<usize> = dataset.rows().iter().map(|row| row.position.number).collect();
    assert_eq!(lines, [1, 4]);
    assert_eq!(dataset.tokens(), 6);
    assert_eq!(dataset.supervised_tokens(), 4);
}

#[test]
fn rows_keep_their_order_over_many_blocks() {
    let tokenizer = tokenizer("chatml");
    let file = DataFile::rows(
        &(0..5000)
            .map(|i| json!({"prompt": format!("{i}"), "completion": format!("{}", i * 7)}))
            .collect::<Vec<_>>(),
    );
    let dataset = file.load(&tokenizer).unwrap();
    assert_eq!(dataset.len(), 5000);
    for (index, row) in dataset.rows().iter().enumerate() {
        assert_eq!(row.position.number, index + 1);
        assert_eq!(tokenizer.decode(row.prompt()), index.to_string());
        assert_eq!(tokenizer.answer_text(row.answer(), tokenizer.stop_tokens()), (index * 7).to_string());
    }
}

#[test]
fn long_rows_are_counted_and_left_out_or_cut() {
    let words = words_folder();
    let tokenizer = Tokenizer::from_folder(words.path()).unwrap();
    let row = |prompt: usize, answer: usize| json!({"prompt": vec!["w1"; prompt].join(" "), "completion": vec!["w2"; answer].join(" ")});
    let file = DataFile::rows(&[row(2, 2), row(2, 3), row(1, 5), row(6, 1), row(3, 1)]);
    let load = |length, long| {
        Dataset::load(
            std::slice::from_ref(&file.path),
            &tokenizer,
            &DataSettings { max_length: length, long_rows: long, ..DataSettings::default() },
            None,
        )
    };

    let skipped = load(5, LongRows::Skip).unwrap();
    assert_eq!(skipped.rows().iter().map(|row| row.position.number).collect::<Vec<_>>(), [1, 5]);
    assert_eq!((skipped.counts().too_long, skipped.counts().truncated), (3, 0));

    // The fourth row would lose its whole answer.
    let cut = load(5, LongRows::Truncate).unwrap();
    assert_eq!(cut.rows().iter().map(|row| row.position.number).collect::<Vec<_>>(), [1, 2, 3, 5]);
    assert_eq!((cut.counts().too_long, cut.counts().truncated), (1, 2));
    assert_eq!(cut.rows()[2].tokens, [4, 5, 5, 5, 5]);
    assert_eq!(cut.stop_tokens(&tokenizer), [1]);

    let error = load(2, LongRows::Skip).unwrap_err();
    assert!(error.is_input() && error.to_string().contains("all 5 rows are longer than 2 tokens"), "{error}");
}

#[test]
fn exact_match_compares_the_decoded_answer() {
    let tokenizer = tokenizer("chatml");
    let row = DataFile::rows(&[json!({"prompt": "why", "completion": " the answer\n"})]).row(&tokenizer);
    let stop = tokenizer.stop_tokens();
    let generated = |text: &str| tokenizer.encode_answer(text).unwrap();
    let is_exact_match = |ids: &[u32]| {
        let text = |ids: &[u32]| tokenizer.answer_text(ids, stop);
        Scoring::Exact.judge(&text(row.answer()), &text(ids), &[]).unwrap().right
    };
    assert!(is_exact_match(&generated("the answer")));
    let stopped: Vec<u32> = [generated("the answer"), vec![422], generated("more")].concat();
    assert!(is_exact_match(&stopped));
    assert!(!is_exact_match(&generated("the answers")));
    assert!(!is_exact_match(&[]));
}

#[test]
fn instructions_are_put_in_alpacas_form() {
    let tokenizer = tokenizer("chatml");
    let with_input = json!({"instruction": "add", "input": "3 4", "output": "7", "text": "ignored"});
    let file = DataFile::rows(&[
        with_input,
        json!({"instruction": "add", "output": "7"}),
        json!({"instruction": "add", "input": "", "output": "7"}),
        json!({"instruction": "add", "input": null, "output": "7"}),
    ]);
    let dataset = file.load(&tokenizer).unwrap();
    assert_eq!(dataset.format(), RowFormat::Instruction);
    assert_eq!(tokenizer.decode(dataset.rows()[0].prompt()), instruction_prompt("add", "3 4"));
    assert!(
        instruction_prompt("add", "3 4")
            .ends_with("\n\n### Instruction:\nadd\n\n### Input:\n3 4\n\n### Response:\n")
    );
    for row in &dataset.rows()[1..] {
        assert_eq!(tokenizer.decode(row.prompt()), instruction_prompt("add", ""));
    }
    assert!(!instruction_prompt("add", "").contains("Input"));
}

#[test]
fn the_seesaw_example_loads() {
    let example = folders::seesaw();
    let tokenizer = Tokenizer::from_folder(&example.join("blank")).unwrap();
    for task in ["arithmetic", "code", "logic", "instruction", "chat"] {
        for part in ["train", "eval"] {
            let path = example.join(format!("{task}.{part}.jsonl"));
            let dataset = Dataset::load(
                std::slice::from_ref(&path),
                &tokenizer,
                &DataSettings { max_length: 1024, ..DataSettings::default() },
                None,
            )
            .unwrap();
            assert!(dataset.has_prompts() && dataset.counts().too_long == 0, "{task}");
            for row in dataset.rows() {
                assert_eq!(row.tokens[0], 256, "{task}: begins with BOS");
                assert_eq!(row.tokens.last(), Some(&257), "{task}: ends with EOS");
            }
        }
    }
}

// The cache

#[test]
fn tokens_are_cached_by_everything_that_decides_them() {
    let tokenizer = tokenizer("chatml");
    let rows: Vec<Value> =
        (0..40).map(|i| chat(&[("user", &format!("{i}?")), ("assistant", "dog")])).collect();
    let file = DataFile::rows(&rows);
    let cache = tempfile::tempdir().unwrap();
    let cache_folder = cache.path().join("made/when/needed");
    let load = |tokenizer: &Tokenizer, length| {
        Dataset::load(
            std::slice::from_ref(&file.path),
            tokenizer,
            &DataSettings { max_length: length, ..DataSettings::default() },
            Some(&cache_folder),
        )
        .unwrap()
    };
    let first = load(&tokenizer, 100);
    assert_eq!(*first.cache(), CacheUse::Written);
    let second = load(&tokenizer, 100);
    assert_eq!(*second.cache(), CacheUse::Read);
    assert_eq!(
        (first.rows(), first.format(), first.counts()),
        (second.rows(), second.format(), second.counts())
    );

    assert_eq!(*load(&tokenizer, 101).cache(), CacheUse::Written);
    let other_template =
        folder_with_template("chatml", Some("{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"));
    let other = Tokenizer::from_folder(other_template.path()).unwrap();
    assert_eq!(*load(&other, 100).cache(), CacheUse::Written);
    std::fs::write(&file.path, format!("{}\n", rows[0])).unwrap();
    let changed = load(&tokenizer, 100);
    assert_eq!((changed.cache(), changed.len()), (&CacheUse::Written, 1));
    let names: Vec<String> = std::fs::read_dir(&cache_folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(names.len() == 4 && names.iter().all(|name| name.ends_with(".tokens")), "{names:?}");
}

#[test]
fn a_damaged_cache_is_made_anew() {
    let tokenizer = tokenizer("headers");
    let file = DataFile::rows(&[
        json!({"prompt": "a", "completion": "b"}),
        json!({"prompt": "c", "completion": "d"}),
    ]);
    let cache = tempfile::tempdir().unwrap();
    let load = || {
        Dataset::load(
            std::slice::from_ref(&file.path),
            &tokenizer,
            &DataSettings { max_length: 100, ..DataSettings::default() },
            Some(cache.path()),
        )
        .unwrap()
    };
    let original = load();
    let path = std::fs::read_dir(cache.path()).unwrap().next().unwrap().unwrap().path();
    let bytes = std::fs::read(&path).unwrap();
    let mut damaged: Vec<Vec<u8>> = (0..bytes.len()).step_by(7).map(|at| bytes[..at].to_vec()).collect();
    damaged.extend((0..bytes.len()).map(|at| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x10;
        bytes
    }));
    damaged.push([bytes.clone(), vec![0]].concat());
    for damage in damaged {
        std::fs::write(&path, &damage).unwrap();
        let again = load();
        assert_eq!((again.cache(), again.rows()), (&CacheUse::Written, original.rows()));
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
}

#[test]
fn a_cache_that_cannot_be_written_stops_nothing() {
    let tokenizer = tokenizer("headers");
    let file = DataFile::rows(&[json!({"prompt": "a", "completion": "b"})]);
    let dataset = Dataset::load(
        std::slice::from_ref(&file.path),
        &tokenizer,
        &DataSettings { max_length: 100, ..DataSettings::default() },
        Some(&file.path),
    )
    .unwrap();
    assert!(matches!(dataset.cache(), CacheUse::NotWritten(_)));
}

// Nothing panics

static CHATML: LazyLock<Tokenizer> = LazyLock::new(|| tokenizer("chatml"));

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_file_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = DataFile::new(bytes).load(&CHATML);
    }

    #[test]
    fn no_line_panics(
        kind in 0..5_usize,
        text in ".{0,20}",
        other in "(<\\|im_end\\|>|<\\|im_|<|\\|>|end| |\n|[a-z]){0,8}",
        cut in 0..60_usize,
    ) {
        let row = match kind {
            0 => json!({"prompt": text, "completion": other}),
            1 => json!({"instruction": text, "input": other, "output": text}),
            2 => json!({"text": other}),
            3 => chat(&[("user", &text), ("assistant", &other)]),
            _ => chat(&[("system", &other), ("assistant", &text), ("user", &other), ("assistant", &text)]),
        };
        let line = row.to_string();
        let _ = DataFile::new(&line.as_bytes()[..line.len().saturating_sub(cut)]).load(&CHATML);
        let file = DataFile::new(&line);
        let escape = SpecialTokens::Escape;
        if let Ok(dataset) = Dataset::load(std::slice::from_ref(&file.path), &CHATML, &DataSettings { max_length: 4096, special_tokens: escape, ..DataSettings::default() }, None) {
            let row = &dataset.rows()[0];
            // Nothing but the templates' own control tokens, whatever the pieces join to.
            let ends = row.tokens.iter().filter(|&&id| id == 422).count();
            prop_assert_eq!(ends, match kind { 0..=2 => 1, 3 => 3, _ => 4 });
        }
    }
}

//! Models with different tokenizers: rows put in order by the texts of their tokens.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use cpift_model::merge::{Merge, MergeRequest, Method, Vocabulary};
use cpift_tests::folders;
use cpift_tests::model_folders::{Stored, read, values, write};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::stopped::run;
use super::{merge_into, refused, request};

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

fn golden() -> Value {
    let path = folders::tests().join("golden/merge_vocabularies.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn floats(values: &Value) -> Vec<f32> {
    values.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect()
}

/// The models of which mergekit made something, `tied` or `untied`, as folders.
fn models(golden: &Value, kind: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, model) in golden["kinds"][kind]["models"].as_object().unwrap() {
        let tensor = |(name, stored): (&String, &Value)| {
            let shape: Vec<usize> = serde_json::from_value(stored[0].clone()).unwrap();
            Stored::floats(name, &shape, &floats(&stored[1]))
        };
        let tensors: Vec<Stored> = model["tensors"].as_object().unwrap().iter().map(tensor).collect();
        let folder = folder.path().join(name);
        write(&folder, "llama", &tensors);
        fs::write(folder.join("config.json"), model["config"].to_string()).unwrap();
        fs::write(folder.join("tokenizer.json"), golden["tokenizers"][name].to_string()).unwrap();
    }
    folder
}

fn tokenizer(folder: &Path) -> tokenizers::Tokenizer {
    tokenizers::Tokenizer::from_file(folder.join("tokenizer.json")).unwrap()
}

/// The rows of a tensor by the texts of their tokens, as the library numbers these.
fn rows(folder: &Path, name: &str) -> BTreeMap<String, Vec<f32>> {
    let tensor = &read(folder)[name];
    let (all, width) = (values(tensor), tensor.shape[1]);
    let vocabulary = tokenizer(folder).get_vocab(true);
    assert_eq!(tensor.shape[0], vocabulary.len());
    let row = |(token, number): (String, u32)| {
        let start = number as usize * width;
        (token, all[start..start + width].to_vec())
    };
    vocabulary.into_iter().map(row).collect()
}

#[track_caller]
fn assert_close(actual: &[f32], expected: &[f32], what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (actual, expected) in actual.iter().zip(expected) {
        let error = (actual - expected).abs() / expected.abs().max(1.0);
        assert!(error <= 1e-6, "{what}: {actual}, mergekit has {expected}");
    }
}

#[test]
fn rows_are_those_of_mergekit() {
    let golden = golden();
    for kind in ["untied", "tied"] {
        let folder = models(&golden, kind);
        let (file, out) = (folder.path().join("merge.yml"), folder.path().join("out"));
        for (name, case) in golden["kinds"][kind]["merges"].as_object().unwrap() {
            let text = case["configuration"].as_str().unwrap();
            fs::write(&file, text.replace("MODELS", folder.path().to_str().unwrap())).unwrap();
            let request = MergeRequest::from_configuration(&file).unwrap();
            merge_into(&request, &out, 2).unwrap_or_else(|error| panic!("{name}: {error}"));
            for (tensor, expected) in case["tensors"].as_object().unwrap() {
                let (actual, expected) = (rows(&out, tensor), expected.as_object().unwrap());
                assert_eq!(
                    actual.keys().collect::<Vec<_>>(),
                    expected
                        .keys()
                        .collect::<std::collections::BTreeSet<_>>()
                        .into_iter()
                        .collect::<Vec<_>>(),
                    "{name}"
                );
                for (token, row) in actual {
                    assert_close(
                        &row,
                        &floats(&expected[&token]),
                        &format!("{kind}, {name}: {tensor} of {token}"),
                    );
                }
            }
            let merged = read(&out);
            assert_eq!(merged.contains_key(HEAD), kind == "untied");
            assert_close(&values(&merged["model.norm.weight"]), &floats(&case["norm"]), name);
            let config: Value = serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
            assert_eq!(config["vocab_size"], case["rows"], "{name}");
            fs::remove_dir_all(&out).unwrap();
        }
    }
}

/// Two models with an embedding of these rows and this tokenizer, `a` and `b`.
fn pair(tokens: [&[&str]; 2], rows: [usize; 2], width: usize) -> TempDir {
    let folder = TempDir::new().unwrap();
    for ((name, tokens), (rows, sign)) in
        ["a", "b"].into_iter().zip(tokens).zip(rows.into_iter().zip([1.0, -1.0]))
    {
        let values: Vec<f32> = (0..rows * width).map(|index| sign * index as f32).collect();
        let path = folder.path().join(name);
        write(&path, "any", &[Stored::floats(EMBEDDING, &[rows, width], &values)]);
        let vocabulary: BTreeMap<&str, usize> = tokens.iter().copied().zip(0..).collect();
        let tokenizer = json!({ "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
            "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "a" } });
        fs::write(path.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    }
    folder
}

const BOTH: [(&str, f64); 2] = [("a", 1.0), ("b", 1.0)];

/// What was said of added tokens is said again, and files that know nothing of them are gone.
#[test]
fn a_union_is_written_whole() {
    let folder = pair([&["a", "b"], &["b", "q"]], [2, 2], 1);
    let a = folder.path().join("a");
    fs::write(a.join("vocab.json"), "{}").unwrap();
    fs::write(a.join("tokenizer_config.json"), r#"{"added_tokens_decoder": {}, "eos_token": "b"}"#).unwrap();
    let mut request = request(folder.path(), Method::Average, None, &BOTH);
    request.vocabulary = Vocabulary::Union;
    let out = folder.path().join("out");
    merge_into(&request, &out, 1).unwrap();
    assert_eq!(
        rows(&out, EMBEDDING),
        [("a", [0.0]), ("b", [0.5]), ("q", [-1.0])].map(|(t, r)| (t.to_owned(), r.to_vec())).into()
    );
    assert!(!out.join("vocab.json").exists());
    let settings: Value =
        serde_json::from_slice(&fs::read(out.join("tokenizer_config.json")).unwrap()).unwrap();
    assert_eq!(settings["added_tokens_decoder"]["2"]["content"], "q");
    assert_eq!(settings["eos_token"], "b");
    assert_eq!(tokenizer(&out).encode("q", false).unwrap().get_ids(), [2]);
}

/// The same bits on any number of threads, and where a merge is stopped and goes on; blocks begin inside of rows.
#[test]
fn rows_in_many_blocks_are_the_same_on_any_threads() {
    let (rows, width) = (300, 1000);
    let names: Vec<String> = (0..rows).map(|number| format!("t{number}")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let turned: Vec<&str> = all.iter().rev().copied().skip(7).collect();
    let folder = pair([&all, &turned], [rows, rows], width);
    for method in [Method::Average, Method::Ties, Method::Della, Method::Slerp] {
        let base = Some("a").filter(|_| method.needs_base());
        let mut request =
            request(folder.path(), method, base, if base.is_some() { &BOTH[1..] } else { &BOTH });
        request.vocabulary = Vocabulary::Base;
        let bits = [1, 3].map(|threads| {
            let out = folder.path().join("out");
            merge_into(&request, &out, threads).unwrap();
            let bytes = fs::read(out.join("model.safetensors")).unwrap();
            if method == Method::Average {
                let merged = values(&read(&out)[EMBEDDING]);
                for row in [0, 7, 150, 299] {
                    // The row of the other model: from behind, and none for the last seven tokens.
                    let other = if row < rows - 7 {
                        -((rows - 8 - row) as f32 * 1000.0)
                    } else {
                        row as f32 * 1000.0
                    };
                    assert_eq!(merged[row * width], (row as f32 * 1000.0 + other) / 2.0, "{row}");
                }
            }
            fs::remove_dir_all(out).unwrap();
            bytes
        });
        assert_eq!(bits[0], bits[1], "{}", method.name());
    }
}

#[test]
fn what_cannot_be_put_in_order_is_refused() {
    let folder = pair([&["a", "b"], &["b", "a"]], [2, 2], 1);
    let strict = request(folder.path(), Method::Average, None, &BOTH);
    let message = refused(&strict);
    assert!(
        message.contains("the token `a` is number 1, it is number 0") && message.contains("--vocabulary"),
        "{message}"
    );
    let mut other = strict.clone();
    other.vocabulary = Vocabulary::Base;
    fs::write(folder.path().join("b/tokenizer.json"), "[]").unwrap();
    let message = refused(&other);
    assert!(message.contains("b/tokenizer.json: has no tokens"), "{message}");
    other.vocabulary = Vocabulary::Of(folder.path().join("b"));
    let message = refused(&other);
    assert!(message.contains("b/tokenizer.json: has no tokens"), "{message}");
    fs::remove_file(folder.path().join("b/tokenizer.json")).unwrap();
    let message = refused(&other);
    assert!(message.contains("b/tokenizer.json: is missing"), "{message}");
    other.vocabulary = Vocabulary::Union;
    for name in ["tokenizer.model", "vocab.txt", "qwen.tiktoken"] {
        fs::write(folder.path().join("b").join(name), "x").unwrap();
        let message = refused(&other);
        assert!(message.contains("b/tokenizer.json: is missing") && message.contains(name), "{message}");
        fs::remove_file(folder.path().join("b").join(name)).unwrap();
    }
    let merge = Merge::new(&other).unwrap();
    assert!(merge.notices().iter().any(|line| line.contains("b has no tokenizer")), "{:?}", merge.notices());
    let mut cpift = request(folder.path(), Method::Cpift, Some("a"), &BOTH[1..]);
    cpift.vocabulary = Vocabulary::Base;
    let message = refused(&cpift);
    assert!(message.contains("`--vocabulary`"), "{message}");
}

/// Two models `a` and `b` with tokens in different order, and with these tensors of rows for them.
fn named(names: &[(&str, usize)]) -> TempDir {
    let folder = pair([&["a", "b", "c"], &["c", "a", "b"]], [3, 3], 2);
    for name in ["a", "b"] {
        let path = folder.path().join(name);
        let tokenizer = fs::read(path.join("tokenizer.json")).unwrap();
        let tensor = |(name, rows): &(&str, usize)| {
            let values: Vec<f32> = (0..rows * 2).map(|index| index as f32).collect();
            Stored::floats(name, &[*rows, 2], &values)
        };
        write(&path, "any", &names.iter().map(tensor).collect::<Vec<_>>());
        fs::write(path.join("tokenizer.json"), tokenizer).unwrap();
        let config = json!({ "model_type": "any", "vocab_size": 3 });
        fs::write(path.join("config.json"), config.to_string()).unwrap();
    }
    folder
}

/// Embeddings and heads are known by the names that mergekit knows; a tensor called so with fewer rows is none of tokens.
#[test]
fn rows_of_other_names_are_put_in_order_or_refused() {
    let ordered = [1.0, 2.0, 3.0, 4.0, 2.0, 3.0];
    for (embedding, head) in [
        ("model.tok_embeddings.weight", "output.weight"),
        ("transformer.embedding.word_embeddings.weight", "transformer.output_layer.weight"),
        ("backbone.embeddings.weight", "lm_head.weight"),
        ("shared.weight", "lm_head.weight"),
        ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
        ("roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight"),
        ("distilbert.embeddings.word_embeddings.weight", "vocab_projector.weight"),
        ("transformer.embd.wte.weight", "lm_head.linear.weight"),
    ] {
        let folder = named(&[(embedding, 3), (head, 3), ("sound.embed_tokens.weight", 2)]);
        let mut request = request(folder.path(), Method::Average, None, &BOTH);
        request.vocabulary = Vocabulary::Base;
        let merged = super::merged(&request);
        assert_eq!(values(&merged[embedding]), ordered, "{embedding}");
        assert_eq!(values(&merged[head]), ordered, "{head}");
        assert_eq!(values(&merged["sound.embed_tokens.weight"]), [0.0, 1.0, 2.0, 3.0]);
    }
    for (names, says) in [
        (&[("symbols.weight", 4)][..], "has no tensor that is known as the embedding"),
        (&[(EMBEDDING, 2)], "has no tensor that is known as the embedding"),
        (
            &[(EMBEDDING, 3), ("symbols.weight", 3)],
            "`symbols.weight` has 3 rows, as many as there are tokens",
        ),
    ] {
        let folder = named(names);
        let mut request = request(folder.path(), Method::Average, None, &BOTH);
        request.vocabulary = Vocabulary::Base;
        let message = refused(&request);
        assert!(message.contains(says), "{message}");
    }
}

#[test]
fn a_number_far_above_the_tokens_is_refused() {
    let folder = pair([&["a", "b"], &["b", "a"]], [2, 2], 1);
    let path = folder.path().join("a/tokenizer.json");
    let text = fs::read_to_string(&path).unwrap().replace("\"b\":1", "\"b\":16777215");
    fs::write(&path, text).unwrap();
    let mut request = request(folder.path(), Method::Average, None, &BOTH);
    request.vocabulary = Vocabulary::Base;
    let message = refused(&request);
    assert!(message.contains("has a token with the number 16777215, and only 2 tokens"), "{message}");
}

/// What rows are made of is a part of what a merge is: it goes on only with the same.
#[test]
fn a_stopped_merge_goes_on_with_the_same_tokens_only() {
    let folder = pair([&["a", "b", "c"], &["c", "x", "a"]], [3, 3], 40);
    for name in ["a", "b"] {
        let path = folder.path().join(name);
        let mut tensors: Vec<Stored> = read(&path).into_values().collect();
        tensors.push(Stored::floats("w", &[400], &[1.0; 400]));
        let tokenizer = fs::read(path.join("tokenizer.json")).unwrap();
        write(&path, "any", &tensors);
        fs::write(path.join("tokenizer.json"), tokenizer).unwrap();
    }
    let mut request = request(folder.path(), Method::Average, None, &BOTH);
    (request.vocabulary, request.shard_bytes) = (Vocabulary::Union, 800);
    let (out, whole) = (folder.path().join("out"), folder.path().join("whole"));
    merge_into(&request, &whole, 2).unwrap();
    let error = run(&request, &out, false, 1).unwrap_err();
    assert!(matches!(error, cpift_model::Error::Interrupted { .. }), "{error}");
    let mut other = request.clone();
    other.vocabulary = Vocabulary::Base;
    let error = run(&other, &out, true, u64::MAX).unwrap_err();
    assert!(error.to_string().contains("other inputs or settings"), "{error}");
    run(&request, &out, true, u64::MAX).unwrap();
    for (name, tensor) in read(&whole) {
        assert_eq!(read(&out)[&name].bytes, tensor.bytes, "{name}");
    }
    let text = |folder: &Path| fs::read(folder.join("tokenizer.json")).unwrap();
    assert_eq!(text(&out), text(&whole));
}

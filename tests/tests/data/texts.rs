//! Text files: their paragraphs as rows.

use std::path::{Path, PathBuf};

use cpift_model::data::{DataSettings, Dataset, RowFormat};
use cpift_model::recipe::{ModelSettings, TaskSettings};
use cpift_tests::data::{DataFile, tokenizer};
use cpift_tests::folders;
use serde_json::{Value, json};

fn golden(name: &str) -> PathBuf {
    folders::tests().join("golden/files").join(name)
}

fn load(path: &Path, task: Value) -> Result<Dataset, String> {
    let task: TaskSettings = serde_json::from_value(task).unwrap();
    let settings =
        DataSettings::of_task(&ModelSettings { max_length: 4096, ..ModelSettings::default() }, &task);
    Dataset::load(&[path.to_owned()], &tokenizer("chatml"), &settings, None).map_err(|error| {
        let message = error.to_string();
        assert!(error.is_input() && !message.contains('\n'), "{message}");
        message.strip_prefix(path.to_str().unwrap()).expect(&message).to_owned()
    })
}

/// The rows of a file of this name and content, of which nothing is to be said, and the first line of each.
fn rows(name: &str, content: impl AsRef<[u8]>, task: Value) -> Result<(Vec<String>, Vec<usize>), String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    let dataset = load(&path, task)?;
    assert!(dataset.notices().is_empty());
    let tokenizer = tokenizer("chatml");
    let texts = dataset.rows().iter().map(|row| tokenizer.decode(&row.tokens)).collect();
    Ok((texts, dataset.rows().iter().map(|row| row.position.number).collect()))
}

// Golden values: golden/files/make_texts.py.
#[test]
fn paragraphs_are_those_of_datasets_with_their_lines() {
    let of_lines = |lines: &str| json!({"prompt": format!("{{{{ {lines}|length }}}} "), "answer": format!("{{{{ {lines}|join('|') }}}}")});
    let texts = load(&golden("texts.jsonl"), json!({})).unwrap();
    let lines = load(&golden("texts.jsonl"), of_lines("text.split('\n')")).unwrap();
    assert_eq!((texts.len(), texts.format()), (5, RowFormat::Text));
    for name in ["texts.txt", "texts.windows.TXT", "texts.txt.gz", "texts.txt.zst"] {
        for (task, wanted) in [(json!({}), &texts), (of_lines("lines"), &lines)] {
            let dataset = load(&golden(name), task).unwrap();
            assert_eq!(dataset.format(), wanted.format(), "{name}");
            let tokens =
                |dataset: &Dataset| dataset.rows().iter().map(|row| row.tokens.clone()).collect::<Vec<_>>();
            assert_eq!(tokens(&dataset), tokens(wanted), "{name}");
            let begins: Vec<usize> = dataset.rows().iter().map(|row| row.position.number).collect();
            assert_eq!(begins, [3, 9, 15, 18, 20], "{name}");
            assert!(dataset.notices().is_empty(), "{name}");
        }
    }
}

#[test]
fn empty_lines_at_the_ends_make_no_rows() {
    for content in ["a", "a\n", "a\r\n", "\na\n\n", "\r\n\r\na\r\n\r\n\r\n"] {
        assert_eq!(rows("a.txt", content, json!({})).unwrap().0, ["a"], "{content:?}");
    }
    for content in ["", "\n", "\r\n\r\n", "\u{feff}"] {
        assert!(rows("a.txt", content, json!({})).unwrap_err().starts_with(": is empty"), "{content:?}");
    }
}

#[test]
fn a_text_with_rows_of_json_or_a_table_in_it_is_read_as_that() {
    let answer = |rows: Result<(Vec<String>, Vec<usize>), String>| rows.unwrap().0;
    for content in [
        "{\"prompt\": \"a \", \"completion\": \"b\"}\n",
        "[\n{\"prompt\": \"a \", \"completion\": \"b\"}]",
        "prompt,completion\na ,b\n",
        "\"prompt\"\t\"completion\"\r\na \tb\r\n",
    ] {
        assert_eq!(answer(rows("a.txt", content, json!({}))), ["a b"], "{content:?}");
    }
    for content in
        ["[1] Smith, 2004", "{\\bf x}", "Yes,no", "Dear Tom,\nhello, you", "10,000\n20,000", "a;b\nc"]
    {
        assert_eq!(answer(rows("a.txt", content, json!({}))), [content]);
        assert!(rows("a.jsonl", content, json!({})).is_err(), "{content:?}");
    }
}

#[test]
fn what_is_wrong_with_a_text_names_its_place() {
    let error = |content: &[u8], task: Value| rows("a.txt", content, task).unwrap_err();
    assert!(
        error(b"a\n\nb\nc\xe4\n", json!({}))
            .starts_with(":3: is not UTF-8 (byte 4 of the paragraph): save the")
    );
    let binary = [&[b'a'; 600][..], b"\n\n\0b"].concat();
    assert!(error(&binary, json!({})).starts_with(":3: has a NUL byte, which no text has"));
    assert!(error(b"a\0b", json!({})).starts_with(": looks like a binary file"));
    assert!(error(b"\xff\xfea\0", json!({})).starts_with(": looks like UTF-16"));
    let long = ["a\n\n", &"b\n".repeat((8 << 20) / 2), "c\n"].concat();
    let wanted = ":3: the paragraph that begins here is longer than 8.0 MiB";
    assert!(error(long.as_bytes(), json!({})).starts_with(wanted));
    assert!(error("d".repeat((8 << 20) + 1).as_bytes(), json!({})).starts_with(&wanted.replace('3', "1")));
    let missing = error(b"a\nb\n\nc\n", json!({"prompt": "{{lines[1]}}", "answer": "{{lines[0]}}"}));
    assert!(missing.starts_with(":4: does not fit task.prompt: "), "{missing}");
    let skipped = json!({"prompt": "{{lines[1]}} ", "answer": "{{lines[0]|upper}}", "skip_invalid": true});
    assert_eq!(
        rows("a.txt", "a\nb\n\nc\n\nd\ne", skipped).unwrap(),
        (vec!["b A".into(), "e D".into()], vec![1, 6])
    );
}

#[test]
fn lines_are_no_field_that_nothing_reads_where_they_are_the_text_again() {
    let said = |rows: &[Value]| {
        let file = DataFile::rows(rows);
        file.load(&tokenizer("chatml")).unwrap().described_notices().count()
    };
    assert_eq!(said(&[json!({"text": "a\nb", "lines": ["a", "b"]})]), 0);
    assert_eq!(said(&[json!({"text": "a\nb", "lines": ["a", "c"]})]), 1);
    assert_eq!(said(&[json!({"text": "a\nb", "lines": "a"})]), 1);
    assert_eq!(said(&[json!({"prompt": "a", "completion": "b", "text": "a", "lines": ["a"]})]), 2);
}

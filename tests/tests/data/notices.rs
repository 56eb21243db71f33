//! What a person is told about the rows of several files, and about more than is listed.

use std::path::PathBuf;

use cpift_model::Tokenizer;
use cpift_model::data::{DataSettings, Dataset, Notice};
use cpift_tests::data::{DataFile, folder_with_template, tokenizer};
use serde_json::{Value, json};

fn said(files: &[&DataFile]) -> Vec<String> {
    let paths: Vec<PathBuf> = files.iter().map(|file| file.path.clone()).collect();
    let dataset = Dataset::load(&paths, &tokenizer("chatml"), &DataSettings::default(), None).unwrap();
    dataset.described_notices().collect()
}

fn with_field(field: &str) -> Value {
    json!({"prompt": "a", "completion": "b", field: 1})
}

#[test]
fn kinds_of_notices_that_are_not_listed_are_counted() {
    let rows: Vec<Value> = (0..40).map(|index| with_field(&format!("f{index}"))).collect();
    let lines = said(&[&DataFile::rows(&rows)]);
    assert_eq!(lines.len(), 33);
    let last = &lines[32];
    assert!(last.ends_with(": 8 more kinds of notices are not listed (8 rows, first in line 33)"), "{last}");
    // A kind is counted once, however many rows have it.
    let again: Vec<Value> = rows[..33].iter().chain(&rows[32..33]).cloned().collect();
    let last = said(&[&DataFile::rows(&again)]).pop().unwrap();
    assert!(last.ends_with(": 1 more kind of notice is not listed (2 rows, first in line 33)"), "{last}");
    let rows: Vec<Value> = (0..1100).map(|index| with_field(&format!("f{index}"))).collect();
    let last = said(&[&DataFile::rows(&rows)]).pop().unwrap();
    assert!(last.contains(": at least 1000 more kinds of notices are not listed (1 068 rows, "), "{last}");
}

#[test]
fn a_notice_about_several_files_says_how_many() {
    let plain = json!({"prompt": "a", "completion": "b"});
    let first = DataFile::rows(std::slice::from_ref(&plain));
    let second = DataFile::rows(&[plain.clone(), with_field("n"), with_field("n")]);
    let third = DataFile::rows(&[plain, with_field("n")]);
    let lines = said(&[&first, &second, &third]);
    let wanted =
        format!("{}: the field `n` is not read (3 rows in 2 files, first in line 2)", second.path.display());
    assert_eq!(lines, [wanted]);
}

/// Leaves the reasoning of earlier answers out.
const CUTTING: &str = "{% for m in messages %}{% set c = m.content %}{% if not loop.last and '</think>' in c %}\
    {% set c = c.split('</think>')[-1].lstrip() %}{% endif %}{{ '<|im_start|>' + m.role + '\n' + c + '<|im_end|>\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

#[test]
fn a_conversation_that_becomes_too_many_rows_says_so() {
    let folder = folder_with_template("chatml", Some(CUTTING));
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    let turn = |index: usize| {
        let answer = format!("<think>\nhm {index}\n</think>\n\nfive {index}");
        [json!({"role": "user", "content": "w?"}), json!({"role": "assistant", "content": answer})]
    };
    for (turns, rows, said) in [(64, 64, false), (70, 64, true)] {
        let messages: Vec<Value> = (0..turns).flat_map(turn).collect();
        let dataset = DataFile::rows(&[json!({"messages": messages})]).load(&tokenizer).unwrap();
        assert_eq!(dataset.len(), rows);
        let notices: Vec<&Notice> = dataset.notices().iter().map(|notice| &notice.notice).collect();
        assert_eq!(notices.contains(&&Notice::TooManyRows(64)), said, "{notices:?}");
        assert!(!notices.contains(&&Notice::ContextOnly), "{notices:?}");
    }
    let text = Notice::TooManyRows(64).to_string();
    assert!(text.starts_with("a conversation becomes at most 64 rows"), "{text}");
}

//! Which rows of the files are used: limits, rows that cannot be used, rows held back to evaluate on.

use std::collections::HashSet;

use cpift_model::Tokenizer;
use cpift_model::data::{CacheUse, DataSettings, Dataset, Notice};
use cpift_tests::data::{DataFile, chat, folder_with_template, tokenizer};
use serde_json::{Value, json};

fn pair(index: usize) -> Value {
    json!({"prompt": format!("{index}+1="), "completion": (index + 1).to_string()})
}

fn load(file: &DataFile, settings: &DataSettings) -> Result<Dataset, String> {
    Dataset::load(std::slice::from_ref(&file.path), &tokenizer("chatml"), settings, None)
        .map_err(|error| error.to_string())
}

fn numbers(dataset: &Dataset) -> Vec<usize> {
    dataset.rows().iter().map(|row| row.position.number).collect()
}

#[test]
fn a_limit_takes_the_first_rows_that_can_be_used() {
    let mut rows: Vec<Value> = (0..5000).map(pair).collect();
    rows[1] = json!({"prompt": "x", "completion": ""});
    let file = DataFile::rows(&rows);
    let limited = |limit, skip_invalid| {
        load(&file, &DataSettings { limit: Some(limit), skip_invalid, ..DataSettings::default() })
    };
    assert_eq!(numbers(&limited(3, true).unwrap()), [1, 3, 4]);
    assert_eq!(limited(1, false).unwrap().len(), 1, "what is behind the limit is not looked at");
    assert_eq!(limited(4000, true).unwrap().len(), 4000);
    assert_eq!(limited(9000, true).unwrap().len(), 4999);
    // The whole file counts for the cache, though not all of it is used.
    let cache = tempfile::tempdir().unwrap();
    let settings = DataSettings { limit: Some(1), ..DataSettings::default() };
    let cached = |file: &DataFile| {
        Dataset::load(std::slice::from_ref(&file.path), &tokenizer("chatml"), &settings, Some(cache.path()))
            .unwrap()
    };
    assert_eq!(*cached(&file).cache(), CacheUse::Written);
    assert_eq!(*cached(&file).cache(), CacheUse::Read);
    rows[4999] = pair(7);
    assert_eq!(*cached(&DataFile::rows(&rows)).cache(), CacheUse::Written);
}

#[test]
fn rows_that_cannot_be_used_are_counted_and_the_first_named() {
    let lines = [
        "not json".to_owned(),
        pair(1).to_string(),
        json!({"prompt": "x", "completion": " "}).to_string(),
        json!({"text": "another form"}).to_string(),
        json!([1]).to_string(),
        pair(2).to_string(),
    ];
    let file = DataFile::new(lines.join("\n"));
    assert!(load(&file, &DataSettings::default()).unwrap_err().contains(":1: is not JSON"));
    let settings = DataSettings { skip_invalid: true, ..DataSettings::default() };
    let dataset = load(&file, &settings).unwrap();
    assert_eq!(numbers(&dataset), [2, 6]);
    assert_eq!((dataset.counts().invalid, dataset.invalid_rows().len()), (4, 3));
    let said: Vec<String> = dataset.described_notices().collect();
    assert!(said[0].starts_with("4 rows are left out, since they cannot be used: "), "{said:?}");
    assert!(said[0].contains("data.jsonl:3 `completion` is empty"), "{said:?}");
    let summary = dataset.summary();
    assert_eq!((summary.rows, summary.invalid, summary.invalid_rows.len()), (2, 4, 3));

    let none = DataFile::new("not json\n{}\n");
    let error = load(&none, &settings).unwrap_err();
    assert!(error.contains(":1: is not JSON"), "{error}");
    let none = DataFile::rows(&[json!({"prompt": "x", "completion": ""})]);
    let error = load(&none, &settings).unwrap_err();
    assert!(error.contains(":1: `completion` is empty") && error.contains("no row can be used"), "{error}");
}

#[test]
fn rows_are_held_back_by_their_content() {
    let rows: Vec<Value> = (0..600).map(|index| pair(index % 400)).collect();
    let split = |rows: &[Value], share| {
        let (train, eval) =
            load(&DataFile::rows(rows), &DataSettings::default()).unwrap().split(share).unwrap();
        let contents =
            |dataset: &Dataset| dataset.rows().iter().map(|row| row.tokens.clone()).collect::<HashSet<_>>();
        (train.len() + eval.len(), contents(&train), contents(&eval))
    };
    let (all, train, eval) = split(&rows, 0.2);
    assert_eq!(all, 600);
    assert!(train.is_disjoint(&eval), "rows of the same content are never on both sides");
    assert!((40..=120).contains(&eval.len()), "{}", eval.len());
    // Which rows go does not depend on the others or on their order.
    let reversed: Vec<Value> = rows[..300].iter().rev().cloned().collect();
    let (_, fewer_train, fewer_eval) = split(&reversed, 0.2);
    assert!(fewer_train.is_subset(&train) && fewer_eval.is_subset(&eval));
    let one = load(&DataFile::rows(&rows[..1]), &DataSettings::default()).unwrap();
    let error = one.split(0.2).unwrap_err().to_string();
    assert!(error.contains("task.eval_share"), "{error}");
}

/// A template that changes earlier answers makes several rows of a conversation.
#[test]
fn rows_of_one_conversation_stay_together() {
    let template = "{% for m in messages %}{{ m.role }}:{% if loop.last and m.role == 'assistant' %}(as the last) {% endif %}{{ m.content }}\
                    <|im_end|>{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
    let folder = folder_with_template("chatml", Some(template));
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    let row = |index: usize| {
        let text = |part: &str| format!("{part} {index}");
        let turns =
            [("user", text("a")), ("assistant", text("b")), ("user", text("c")), ("assistant", text("d"))];
        let turns: Vec<(&str, &str)> = turns.iter().map(|(role, text)| (*role, text.as_str())).collect();
        chat(&turns)
    };
    let file = DataFile::rows(&(0..60).map(row).collect::<Vec<_>>());
    let load = |limit| {
        let settings = DataSettings { limit, ..DataSettings::default() };
        Dataset::load(std::slice::from_ref(&file.path), &tokenizer, &settings, None).unwrap()
    };
    let dataset = load(None);
    assert_eq!(dataset.len(), 120, "two rows of every conversation");
    assert_eq!(load(Some(5)).len(), 10);
    let (train, eval) = dataset.split(0.3).unwrap();
    let records = |dataset: &Dataset| numbers(dataset).into_iter().collect::<HashSet<_>>();
    assert!(records(&train).is_disjoint(&records(&eval)));
}

#[test]
fn the_same_rows_are_counted() {
    let rows: Vec<Value> = [1, 2, 1, 3, 1].map(pair).into();
    let dataset = load(&DataFile::rows(&rows), &DataSettings::default()).unwrap();
    assert_eq!(dataset.duplicates(), 2);
}

#[test]
fn answers_that_are_nothing_but_their_end_are_refused_or_said() {
    let end = json!({"prompt": "a", "completion": "<|im_end|>"});
    let of_task = DataSettings { is_of_task: true, ..DataSettings::default() };
    let error = load(&DataFile::rows(&[end.clone(), end.clone()]), &of_task).unwrap_err();
    assert!(error.contains(":1: nothing would be learnt but the token that ends the answer"), "{error}");
    let some = load(&DataFile::rows(&[pair(1), end]), &DataSettings::default()).unwrap();
    let said: Vec<String> = some.described_notices().collect();
    assert!(
        said.iter().any(|text| text.contains("nothing but its end: ") && text.contains("first in line 2")),
        "{said:?}"
    );
}

#[test]
fn answers_that_never_end_are_said() {
    // The template's marks leave out what ends the turn.
    let dataset = |template: &str| {
        let folder = tempfile::tempdir().unwrap();
        cpift_tests::folders::copy(&cpift_tests::data::folder("chatml"), folder.path());
        let path = folder.path().join("tokenizer_config.json");
        let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        config["chat_template"] = template.into();
        std::fs::write(&path, config.to_string()).unwrap();
        let row =
            json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]});
        let tokenizer = cpift_model::Tokenizer::from_folder(folder.path()).unwrap();
        DataFile::rows(&[row]).load(&tokenizer).unwrap()
    };
    let ends = "{% for m in messages %}{{ m.role }}:{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}\n{% endfor %}";
    let endless = "{% for m in messages %}{{ m.role }}:{% generation %}{{ m.content }}{% endgeneration %}\n{% endfor %}";
    let is_said = |dataset: &Dataset| dataset.notices().iter().any(|notice| notice.notice == Notice::Endless);
    assert!(!is_said(&dataset(ends)) && is_said(&dataset(endless)));
}

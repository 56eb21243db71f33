//! Files of data sets.

use cpift_tests::hub::HubServer;

use super::{Asking, Cache, one_line};

const ROWS: [(&str, &[u8]); 4] = [
    ("README.md", b"rows"),
    ("data/train-0.jsonl", b"zero"),
    ("data/train-1.jsonl", b"one"),
    ("data/deep/train-2.jsonl", b"two"),
];

#[test]
fn a_file_or_a_pattern_of_files_is_fetched() {
    let (server, cache) = (HubServer::start(), Cache::new());
    let commit = server.add("datasets/org/rows", "main", &ROWS);
    let asking = Asking::of(&server);
    let name = |rest: &str| format!("hf://datasets/org/rows{rest}");
    assert_eq!(cache.data(&asking, &name("/data/train-1.jsonl")).unwrap(), ["one"]);
    assert_eq!(cache.data(&asking, &name("/data/*.jsonl")).unwrap(), ["zero", "one"]);
    server.take_requests();
    // A file at a commit needs no server; a pattern does, which may match more than there is.
    let at_commit = format!("@{commit}/data/train-0.jsonl");
    assert_eq!(cache.data(&asking, &name(&at_commit)).unwrap(), ["zero"]);
    assert_eq!(server.take_requests(), [""; 0]);
    cache.data(&asking, &name(&format!("@{commit}/data/*.jsonl"))).unwrap();
    assert_eq!(server.take_requests().len(), 1);
    let offline = Asking { offline: true, ..asking.clone() };
    assert_eq!(cache.data(&offline, &name("/data/*.jsonl")).unwrap(), ["zero", "one"]);
    assert_eq!(server.take_requests(), [""; 0]);

    server.add("datasets/org/rows", "refs/convert/parquet", &[("default/0.parquet", b"PAR1")]);
    let converted = name("@refs/convert/parquet/default/0.parquet");
    assert_eq!(cache.data(&asking, &converted).unwrap(), ["PAR1"]);
}

#[test]
fn a_file_that_is_not_there_is_told_with_what_is() {
    let (server, cache) = (HubServer::start(), Cache::new());
    let commit = server.add("datasets/org/rows", "main", &ROWS);
    let refuse = |name: &str| one_line(&cache.data(&Asking::of(&server), name).unwrap_err());
    let (message, code) = refuse("hf://datasets/org/rows/data/trian-0.jsonl");
    let at = &commit[..7];
    assert_eq!(
        message,
        format!("org/rows has no file data/trian-0.jsonl at {at}, did you mean data/train-0.jsonl?")
    );
    assert_eq!(code, 2);
    let (message, _) = refuse("hf://datasets/org/rows/*.csv");
    assert!(message.contains(": it has data/deep/train-2.jsonl, data/train-0.jsonl"), "{message}");
    let (message, code) = refuse("hf://datasets/org/none/a.jsonl");
    assert!(message.starts_with("org/none: there is no data set of that name at "), "{message}");
    assert_eq!(code, 2);
}

#[test]
fn a_pattern_is_of_rows() {
    let (server, cache) = (HubServer::start(), Cache::new());
    let files: [(&str, &[u8]); 3] =
        [(".gitattributes", b"lfs"), ("README.md", b"card"), ("a.jsonl", b"rows")];
    server.add("datasets/org/rows", "main", &files);
    let asking = Asking::of(&server);
    assert_eq!(cache.data(&asking, "hf://datasets/org/rows/*").unwrap(), ["rows"]);
    let (message, code) = one_line(&cache.data(&asking, "hf://datasets/org/rows/[a").unwrap_err());
    assert!(message.contains("[a: is not a pattern of files: "), "{message}");
    assert_eq!(code, 2);
}

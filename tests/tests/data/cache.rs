//! Tokens that are kept between runs, piece by piece.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use cpift_model::data::{CacheUse, DataSettings, Dataset, LongRows, Preparation, PreparationEvent};
use cpift_tests::data::{DataFile, tokenizer};
use serde_json::{Value, json};

/// Rows in a block: a piece of these rows has one block.
const BLOCK: usize = 2048;
/// Tokens of a piece here: fewer than a block has.
const PIECE_TOKENS: usize = 1 << 14;

/// Rows of three blocks and a bit, of a piece each: some cannot be used, some are cut, some have a field that is not
/// read, and some occur twice.
fn rows() -> DataFile {
    let row = |index: usize| -> Value {
        let prompt: String =
            (0..4).map(|word| format!("{} ", (index * 7919 + word * 104_729) % 9973)).collect();
        match index {
            10 | 5000 => json!({"prompt": prompt, "completion": ""}),
            11 | 5001 => json!({"prompt": prompt, "completion": prompt.repeat(4)}),
            12 | 5002 => json!({"prompt": prompt, "completion": "yes", "n": 1}),
            20 | 21 | 6200 => json!({"prompt": "the same", "completion": "answer"}),
            _ => json!({"prompt": prompt, "completion": format!("answer {index}")}),
        }
    };
    DataFile::rows(&(0..3 * BLOCK + 100).map(row).collect::<Vec<_>>())
}

fn settings() -> DataSettings {
    DataSettings {
        max_length: 50,
        long_rows: LongRows::Truncate,
        skip_invalid: true,
        ..DataSettings::default()
    }
}

/// Loads the rows with a cache; returns what the observer was told, but for progress, and panics there, as a process
/// ends that is killed, once `kill_at` rows are made.
fn load(file: &DataFile, cache: &Path, kill_at: usize) -> (Dataset, Vec<String>) {
    let told = Mutex::new(Vec::new());
    let observe = |event: PreparationEvent<'_>| match event {
        PreparationEvent::Progress(progress) => assert!(progress.rows < kill_at, "killed"),
        PreparationEvent::Resumed { rows, .. } => told.lock().unwrap().push(format!("resumed {rows}")),
        PreparationEvent::CacheRefused(path) => {
            let name = path.file_name().unwrap().to_str().unwrap();
            told.lock().unwrap().push(format!("refused {}", name.split_once('-').unwrap().1));
        }
    };
    let preparation = Preparation { cache: Some(cache), observe: Some(&observe), piece_tokens: PIECE_TOKENS };
    let files = std::slice::from_ref(&file.path);
    let dataset = Dataset::load_observed(files, &tokenizer("chatml"), &settings(), &preparation).unwrap();
    (dataset, told.into_inner().unwrap())
}

fn pieces(cache: &Path) -> Vec<PathBuf> {
    let mut pieces: Vec<PathBuf> = fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    pieces.sort();
    pieces
}

fn assert_same(one: &Dataset, other: &Dataset) {
    assert_eq!(one.rows(), other.rows());
    assert_eq!(one.notices(), other.notices());
    assert_eq!(one.invalid_rows(), other.invalid_rows());
    assert_eq!(one.summary(), other.summary());
}

#[test]
fn a_preparation_that_was_killed_goes_on_behind_its_last_piece() {
    let file = rows();
    let files = std::slice::from_ref(&file.path);
    let wanted = Dataset::load(files, &tokenizer("chatml"), &settings(), None).unwrap();
    let summary = wanted.summary();
    assert_eq!((summary.invalid, summary.longer, summary.duplicates), (2, 2, 2));
    assert!(summary.length.most > 50);

    let cache = tempfile::tempdir().unwrap();
    let killed = catch_unwind(AssertUnwindSafe(|| load(&file, cache.path(), 2 * BLOCK + 1)));
    assert!(killed.is_err());
    assert_eq!(pieces(cache.path()).len(), 2);
    let (resumed, told) = load(&file, cache.path(), usize::MAX);
    assert_eq!(told, [format!("resumed {}", 2 * BLOCK)]);
    assert_eq!(*resumed.cache(), CacheUse::Continued { read: 2 * BLOCK });
    assert_same(&resumed, &wanted);

    let (read, told) = load(&file, cache.path(), 0);
    assert_eq!((read.cache(), told.len()), (&CacheUse::Read, 0));
    assert_same(&read, &wanted);
    // What the module says of its size.
    let bytes: u64 = pieces(cache.path()).iter().map(|piece| piece.metadata().unwrap().len()).sum();
    let most = 4 * wanted.tokens() + 80 * wanted.len() + 4 * 2000;
    assert!(bytes <= most as u64, "{bytes} bytes, {most} at most");
}

#[test]
fn pieces_that_are_damaged_or_foreign_are_made_anew() {
    let file = rows();
    let cache = tempfile::tempdir().unwrap();
    let (wanted, _) = load(&file, cache.path(), usize::MAX);
    let whole: Vec<Vec<u8>> = pieces(cache.path()).iter().map(|piece| fs::read(piece).unwrap()).collect();
    assert_eq!(whole.len(), 4);
    let other = tempfile::tempdir().unwrap();
    load(&DataFile::rows(&[json!({"prompt": "a", "completion": "b"})]), other.path(), usize::MAX);
    let foreign = fs::read(&pieces(other.path())[0]).unwrap();
    let damaged = |piece: usize, at: usize| {
        let mut bytes = whole[piece].clone();
        bytes[at] ^= 1;
        bytes
    };
    for (name, piece, bytes) in [
        ("a token", 2, damaged(2, whole[2].len() / 2)),
        ("the version", 3, damaged(3, 7)),
        ("the hash", 3, damaged(3, 50)),
        ("cut off", 3, whole[3][..whole[3].len() / 2].to_vec()),
        ("empty", 3, Vec::new()),
        ("of other data", 0, foreign),
        ("of another number", 3, whole[2].clone()),
    ] {
        fs::write(&pieces(cache.path())[piece], bytes).unwrap();
        let (made, told) = load(&file, cache.path(), usize::MAX);
        let mut expected = vec![format!("refused {piece:06}.tokens")];
        expected.extend((piece > 0).then(|| format!("resumed {}", piece * BLOCK)));
        assert_eq!(told, expected, "{name}");
        assert_same(&made, &wanted);
        let again: Vec<Vec<u8>> = pieces(cache.path()).iter().map(|piece| fs::read(piece).unwrap()).collect();
        assert!(again == whole, "{name}: the pieces are the same bytes again");
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_refused() {
    let file = rows();
    let cache = tempfile::tempdir().unwrap();
    let observe = |_: PreparationEvent<'_>| {
        let mut text = fs::OpenOptions::new().append(true).open(&file.path).unwrap();
        std::io::Write::write_all(&mut text, b"\n").unwrap();
    };
    let preparation =
        Preparation { cache: Some(cache.path()), observe: Some(&observe), piece_tokens: PIECE_TOKENS };
    let files = std::slice::from_ref(&file.path);
    let loaded = Dataset::load_observed(files, &tokenizer("chatml"), &settings(), &preparation);
    let error = loaded.unwrap_err().to_string();
    assert!(error.ends_with("changed while it was read: start again"), "{error}");
    assert!(fs::read_dir(cache.path()).unwrap().next().is_none(), "nothing is written of it");
}

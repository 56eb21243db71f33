//! The forms that files of rows have.

use std::path::{Path, PathBuf};

use cpift_model::data::{CacheUse, DataSettings, Dataset, Unit};
use cpift_model::recipe::DataFiles;
use cpift_tests::data::tokenizer;
use cpift_tests::folders;

fn golden(name: &str) -> PathBuf {
    folders::tests().join("golden/files").join(name)
}

fn load(files: &[PathBuf]) -> Result<Dataset, String> {
    Dataset::load(files, &tokenizer("chatml"), &DataSettings::default(), None)
        .map_err(|error| error.to_string())
}

fn tokens(dataset: &Dataset) -> Vec<Vec<u32>> {
    dataset.rows().iter().map(|row| row.tokens.clone()).collect()
}

/// The error of a file of this name and content, without its path.
fn refusal(name: &str, content: impl AsRef<[u8]>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    let error = load(std::slice::from_ref(&path)).unwrap_err();
    error.strip_prefix(path.to_str().unwrap()).unwrap_or(&error).to_owned()
}

#[test]
fn the_same_rows_come_out_of_every_form() {
    for (wanted, kind) in [("pairs.jsonl", "pairs."), ("chats.jsonl", "chats.")] {
        let wanted = load(&[golden(wanted)]).unwrap();
        let mut forms = 0;
        for entry in std::fs::read_dir(golden("")).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_str().unwrap().starts_with(kind) {
                let dataset = load(std::slice::from_ref(&path)).unwrap_or_else(|error| panic!("{error}"));
                assert_eq!(tokens(&dataset), tokens(&wanted), "{}", path.display());
                assert!(dataset.notices().is_empty(), "{}", path.display());
                forms += 1;
            }
        }
        assert!(forms >= 3, "{kind}: {forms}");
    }
}

#[test]
fn a_form_is_recognised_by_content_whatever_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let wanted = tokens(&load(&[golden("pairs.jsonl")]).unwrap());
    for name in ["pairs.zstd.parquet", "pairs.jsonl.gz", "pairs.jsonl.zst", "pairs.pretty.json", "pairs.csv"]
    {
        let path = folder.path().join("data");
        std::fs::copy(golden(name), &path).unwrap();
        assert_eq!(tokens(&load(&[path]).unwrap()), wanted, "{name}");
    }
}

#[test]
fn files_of_several_forms_are_read_in_order_and_every_row_knows_its_own() {
    let files: Vec<PathBuf> =
        ["pairs.csv", "pairs.snappy.parquet", "pairs.pretty.json", "pairs.jsonl"].map(golden).into();
    let dataset = load(&files).unwrap();
    let one = tokens(&load(&files[..1]).unwrap());
    assert_eq!(tokens(&dataset), [&one[..], &one, &one, &one].concat());
    let first = |file: usize| dataset.rows()[file * one.len()].position;
    assert_eq!([0, 1, 2, 3].map(|file| first(file).file), [0, 1, 2, 3]);
    assert_eq!([0, 1, 2, 3].map(|file| first(file).unit), [Unit::Line, Unit::Row, Unit::Row, Unit::Line]);
    // Behind a header, and behind a row of two lines.
    assert_eq!(first(0).number, 2);
    assert_eq!(dataset.rows()[1].position.number, 4);
    assert!(dataset.describe_row(&dataset.rows()[one.len() + 1]).ends_with("pairs.snappy.parquet: row 2"));
}

#[test]
fn the_cache_goes_by_the_content_of_all_files() {
    let cache = tempfile::tempdir().unwrap();
    let load = |names: [&str; 2]| {
        let files = names.map(golden);
        Dataset::load(&files, &tokenizer("chatml"), &DataSettings::default(), Some(cache.path())).unwrap()
    };
    let names = ["pairs.gzip.parquet", "pairs.jsonl.gz"];
    let written = load(names);
    assert_eq!(*written.cache(), CacheUse::Written);
    let read = load(names);
    assert_eq!(*read.cache(), CacheUse::Read);
    assert_eq!(read.rows(), written.rows());
    assert_eq!(*load(["pairs.jsonl.gz", "pairs.gzip.parquet"]).cache(), CacheUse::Written);
}

#[test]
fn the_cache_tells_forms_apart_that_names_decide() {
    let folder = tempfile::tempdir().unwrap();
    let load = |name: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, "text,n\nhello,3\n").unwrap();
        let cache = Some(folder.path().join("cache"));
        Dataset::load(&[path], &tokenizer("chatml"), &DataSettings::default(), cache.as_deref())
    };
    assert_eq!(load("x.csv").unwrap().len(), 1);
    assert!(load("x.jsonl").unwrap_err().to_string().contains("is not JSON"));
}

#[test]
fn patterns_name_files_in_the_order_of_their_names() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["b-2.jsonl", "b-1.jsonl", "a[1].jsonl", "c.txt"] {
        std::fs::write(folder.path().join(name), "").unwrap();
    }
    std::fs::create_dir(folder.path().join("b-3.jsonl")).unwrap();
    let expand = |paths: &[&str]| {
        let files = DataFiles::new(paths.iter().map(|path| folder.path().join(path))).expand()?;
        let name = |path: &PathBuf| path.strip_prefix(folder.path()).unwrap().to_str().unwrap().to_owned();
        Ok::<Vec<String>, cpift_model::Error>(files.iter().map(name).collect())
    };
    assert_eq!(expand(&["c.txt", "b-*.jsonl"]).unwrap(), ["c.txt", "b-1.jsonl", "b-2.jsonl"]);
    assert_eq!(expand(&["a[1].jsonl"]).unwrap(), ["a[1].jsonl"], "an existing file is no pattern");
    for (patterns, says) in [
        (&["x*.jsonl"][..], "no file matches"),
        (&["***x"], "is not a pattern"),
        (&["b-1.jsonl", "b-*.jsonl"], "is named twice"),
    ] {
        let error = expand(patterns).unwrap_err();
        assert!(error.is_input() && error.to_string().contains(says), "{error}");
    }
}

#[test]
fn what_is_wrong_with_a_file_names_its_place() {
    let row = "{\"prompt\": \"a\", \"completion\": \"b\"}";
    let cases: Vec<(&str, String, &str)> = vec![
        ("a.json", format!("[{row}, {row}"), ":1: the file ends within its JSON array: is it cut off?"),
        (
            "a.json",
            format!("[\n{row},\n{{\"prompt\": \"a\","),
            ":3: the file ends within row 2, which begins here",
        ),
        (
            "a.json",
            format!("[{row}\n{row}]"),
            ":2: is not JSON: `{` where a comma or the array's end is expected",
        ),
        ("a.json", format!("[{row},\n]"), ":2: is not JSON: `]` where a row is expected"),
        ("a.json", format!("[{row}]\n{row}"), ":2: is not JSON: `{` behind the end of the array"),
        ("a.json", format!("[{row}, 7]"), ": row 2: is not a JSON object"),
        (
            "a.json",
            format!("[{row},\n{{\n \"prompt\": x}}]"),
            ": row 2: is not JSON: expected value (line 3, column 12)",
        ),
        ("a.json", "[]".into(), ": is empty"),
        (
            "a.json",
            "{\n \"prompt\": \"a\",\n \"completion\": \"b\"\n}\nx".into(),
            ":5: is not JSON: `x` where a row's `{` is expected",
        ),
        ("a.jsonl", format!("{row}\n[1, 2]\n"), ":2: is not a JSON object"),
        ("a.jsonl", "not json, at all\n".into(), ":1: is not JSON: expected"),
        ("a.csv", "prompt,completion\na,b\nc\n".into(), ":3: has 1 cells where the header has 2"),
        ("a.csv", "prompt,prompt\na,b\n".into(), ":1: has two columns `prompt`"),
        ("a.csv", "a,b\n1,2\n".into(), ":2: has no fields this program knows (found `a`, `b`)"),
        ("a.csv", "prompt,completion\n".into(), ": is empty"),
        ("a.csv", "prompt,completion\na,\"b\nc,d\ne,f\n".into(), ":2: has a quote that is not closed"),
        (
            "a.json",
            format!("[{row},\n  {{\"prompt\": x}}]"),
            ": row 2: is not JSON: expected value (line 2, byte 12 of the row)",
        ),
        ("a.yaml", "---\nprompt: a\n".into(), ": looks like YAML"),
        ("a.xml", "<rows>\n</rows>".into(), ": looks like XML"),
    ];
    for (name, content, says) in cases {
        let error = refusal(name, &content);
        assert!(error.starts_with(says), "{content}: {error}");
    }
    assert!(refusal("a.csv", b"prompt,completion\na,\xff\n").starts_with(":2: column 2 is not UTF-8"));
    let unclosed = format!("prompt,completion\na,\"{}", "x,y\n".repeat(4 << 20));
    assert!(refusal("a.csv", unclosed).contains("longer than 8.0 MiB: is a quote not closed?"));
}

#[test]
fn damaged_files_are_refused_and_never_fail_the_program() {
    for name in
        ["pairs.zstd.parquet", "pairs.snappy.parquet", "chats.parquet", "pairs.jsonl.gz", "pairs.jsonl.zst"]
    {
        let whole = std::fs::read(golden(name)).unwrap();
        let cut = refusal(name, &whole[..whole.len() - 5]);
        assert!(!cut.contains('\n'), "{cut}");
        for at in (0..whole.len()).step_by(7) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x55;
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("data");
            std::fs::write(&path, damaged).unwrap();
            if let Err(error) = load(&[path]) {
                assert!(!error.contains('\n'), "{name}, byte {at}: {error}");
            }
        }
    }
    let parquet = std::fs::read(golden("pairs.none.parquet")).unwrap();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, &parquet).unwrap();
    assert!(refusal("a.gz", packed.finish().unwrap()).contains("is a Parquet file within gzip"));
    assert!(load(&[Path::new("/nowhere/x").to_owned()]).unwrap_err().contains("cannot read"));
}

#[test]
fn an_error_within_a_parquet_file_names_row_and_row_group() {
    // Row groups of two rows.
    let whole = std::fs::read(golden("pairs.none.parquet")).unwrap();
    let tokenizer = tokenizer("chatml");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let error = |at: usize| {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        std::fs::write(&path, damaged).unwrap();
        let files = std::slice::from_ref(&path);
        Some(Dataset::load(files, &tokenizer, &DataSettings::default(), None).err()?.to_string())
    };
    let errors: Vec<String> = (0..whole.len()).filter_map(error).collect();
    for place in ["data: row 1 (row group 1): ", "data: row 3 (row group 2): "] {
        assert!(errors.iter().any(|error| error.contains(place)), "{place}: {errors:?}");
    }
}

#[test]
fn a_page_that_claims_an_impossible_size_is_not_read() {
    let whole = std::fs::read(golden("pairs.snappy.parquet")).unwrap();
    // The first page's header: its type and its unpacked size, numbers of one byte or two behind `0x15`.
    assert_eq!((whole[4], whole[6]), (0x15, 0x15));
    let end = 7 + whole[7..].iter().position(|&byte| byte < 0x80).unwrap() + 1;
    for (size, claimed) in [(i32::MAX, "2.0 GiB"), (300 << 20, "300.0 MiB")] {
        let mut number = Vec::new();
        let mut rest = 2 * u64::from(size.unsigned_abs());
        while rest >= 0x80 {
            number.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        number.push(rest as u8);
        let error = refusal("data", [&whole[..7], &number, &whole[end..]].concat());
        let wanted = format!("a page claims {claimed}, and may have 256.0 MiB");
        assert!(error.contains(&wanted) && error.contains("row 1 (row group 1)"), "{error}");
    }
}

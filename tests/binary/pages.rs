//! README.md and the pages in `docs/` name files that are there.

use std::fs;
use std::path::{Path, PathBuf};

use cpift_tests::folders;

/// Folders of the repository whose files the pages name.
const FOLDERS: [&str; 8] = ["kernels", "engine", "model", "cli", "tests", "benches", "examples", "docs"];

/// What docs/adding-an-op.md has its reader make.
const EXAMPLE: &str = "silu";

#[test]
fn files_that_are_named_are_there() {
    let root = folders::tests().join("..");
    let mut pages: Vec<PathBuf> =
        fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.push(root.join("README.md"));
    let mut missing = Vec::new();
    let mut found = 0;
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for name in code_spans(&text).filter(|span| names_a_file(span)) {
            found += 1;
            if !root.join(name).exists() {
                missing.push(format!("{}: {name}", page.file_name().unwrap().display()));
            }
        }
        for target in links(&text) {
            found += 1;
            if !page.parent().unwrap().join(target).exists() {
                missing.push(format!("{}: link to {target}", page.file_name().unwrap().display()));
            }
        }
    }
    assert_eq!(missing, [""; 0]);
    assert!(found > 50, "only {found} names were found");
}

/// What stands between single backquotes.
fn code_spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn names_a_file(span: &str) -> bool {
    let folder = Path::new(span).components().next().map(|first| first.as_os_str().to_string_lossy());
    let placeholder = |letter: char| " <>*{}=$".contains(letter);
    span.contains('/')
        && folder.is_some_and(|folder| FOLDERS.contains(&&*folder))
        && !span.contains(placeholder)
        && !span.contains(EXAMPLE)
}

/// Targets of links to files.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target));
    targets
        .filter(|target| !target.contains("://"))
        .filter_map(|target| target.split('#').next())
        .filter(|target| !target.is_empty())
}

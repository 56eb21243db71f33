//! Everything that reads a user's files, as functions of arbitrary bytes.
//!
//! Each of [`TARGETS`] returns whatever it is given, or panics, which is a finding: input is used or refused, with
//! one line of text. `tests/fuzz` runs them under libFuzzer, `tests/seeds.rs` on the committed inputs.

mod input;
mod model;
mod report;
mod rows;
mod tokenizer;

use cpift_model::Error;

/// A name and the function of that name.
pub type Target = (&'static str, fn(&[u8]));

/// All of them, by the names of their folders of inputs.
pub const TARGETS: [Target; 8] = [
    ("chat_template", rows::chat_template),
    ("config", model::config),
    ("merge_configuration", model::merge_configuration),
    ("recipe", report::recipe),
    ("report", report::report),
    ("rows", rows::rows),
    ("safetensors", model::safetensors),
    ("tokenizer", tokenizer::tokenizer),
];

/// Runs the target `name`.
///
/// # Panics
/// When there is no such target, and on a finding.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.0 == name).expect("the name of a target");
    target.1(data);
}

/// Longest error that a person still reads, in bytes.
const LONGEST_LINE: usize = 4096;

/// What a refusal must be: one line that a terminal can show.
fn expect_one_line(error: &Error) {
    let line = cpift_engine_cli::describe(error);
    let text = line.strip_suffix('\n').expect("a whole line");
    assert!(!text.is_empty() && text.len() <= LONGEST_LINE, "{} bytes of error", text.len());
    let shown = |letter: char| !letter.is_control() && !is_direction(letter);
    assert!(text.chars().all(shown), "a character that changes the terminal in {text:?}");
    assert!(!text.contains("a fault of cpift-engine"), "{text}");
}

/// Characters that turn the direction of text around.
fn is_direction(letter: char) -> bool {
    matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

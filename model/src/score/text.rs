//! Texts as they are compared: reasoning left out, case and white space made alike.

use std::sync::LazyLock;

use regex::Regex;

/// What ends a reasoning part.
const END_OF_REASONING: &str = "</think>";
/// What begins one.
const BEGIN_OF_REASONING: &str = "<think>";

/// The byte at which a text's reasoning part has ended; 0 where it has none.
pub fn reasoning_end(text: &str) -> usize {
    text.rfind(END_OF_REASONING).map_or(0, |end| end + END_OF_REASONING.len())
}

/// The text behind its reasoning part. The part may have begun in the prompt; one that was begun and does not end has
/// no answer behind it.
pub fn without_reasoning(text: &str) -> &str {
    match reasoning_end(text) {
        0 if text.trim_start().starts_with(BEGIN_OF_REASONING) => "",
        end => text[end..].trim(),
    }
}

/// Lower case, every run of white space one space.
pub fn normalised(text: &str) -> String {
    text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A text from its first letter or digit to its last, but for a sign or currency before a number and a per cent sign
/// behind one.
pub fn without_edges(text: &str) -> String {
    let first = |c: char| c.is_alphanumeric() || matches!(c, '-' | '−' | '$' | '€' | '£' | '+');
    let last = |c: char| c.is_alphanumeric() || matches!(c, '%' | '+' | '#');
    let Some(start) = text.find(first) else { return String::new() };
    let end =
        text.rfind(last).map_or(start, |end| end + text[end..].chars().next().map_or(0, char::len_utf8));
    let found = text.get(start..end).unwrap_or_default();
    if found.chars().any(char::is_alphanumeric) { found.to_owned() } else { String::new() }
}

/// Whether a normalised text contains another as whole words.
pub fn contains_words(text: &str, words: &str) -> bool {
    // A word goes on only in scripts that put spaces between words.
    let joins = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() && c < '\u{2e80}');
    text.match_indices(words).any(|(start, _)| {
        let (before, behind) = (&text[..start], &text[start + words.len()..]);
        let goes_on_before = joins(before.chars().next_back()) && joins(words.chars().next());
        let goes_on_behind = joins(behind.chars().next()) && joins(words.chars().next_back());
        // `1,800` and `3.5` do not contain 1 or 3 as words, nor does `18.5` contain 18.
        let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
        let number_before =
            digit(words.chars().next()) && before.ends_with(['.', ',']) && digit(before.chars().nth_back(1));
        let number_behind = digit(words.chars().next_back())
            && behind.starts_with(['.', ','])
            && digit(behind.chars().nth(1));
        !(goes_on_before || goes_on_behind || number_before || number_behind)
    })
}

/// What stands in the first block of code of a text, between lines of three backticks.
pub fn fenced(text: &str) -> Option<&str> {
    static FENCE: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"(?s)```[^\n`]*\n(.*?)\n?[ \t]*```").ok());
    let found = FENCE.as_ref()?.captures(text)?;
    Some(found.get(1)?.as_str().trim())
}

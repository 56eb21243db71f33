//! The files of a data set that a text names.

use std::path::Path;

use crate::error::Result;
use crate::files::invalid_pattern;
use crate::hub_names::is_relative_file;

/// Whether a text that is no file's path may be a pattern of such.
pub(super) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// The files that a text names: the one of that path, else those that match it as a pattern, sorted. `*` and `?` match
/// neither `/` nor a dot at the beginning of a name.
///
/// # Errors
/// The text has the characters of a pattern and is none.
pub(super) fn matching(files: &[String], text: &str) -> Result<Vec<String>> {
    if files.iter().any(|file| file == text) {
        return Ok(vec![text.to_owned()]);
    }
    if !is_pattern(text) {
        return Ok(Vec::new());
    }
    let options = glob::MatchOptions {
        require_literal_separator: true,
        require_literal_leading_dot: true,
        ..glob::MatchOptions::new()
    };
    let pattern = glob::Pattern::new(text).map_err(|error| invalid_pattern(Path::new(text), &error))?;
    let mut found: Vec<String> =
        files.iter().filter(|file| pattern.matches_with(file, options)).cloned().collect();
    // The card is about the rows.
    found.retain(|file| is_relative_file(file) && file != "README.md");
    found.sort();
    Ok(found)
}

/// What a file that is not there may be instead.
pub(super) fn hint(files: &[String], text: &str) -> String {
    let distance = |file: &String| strsim::damerau_levenshtein(file, text);
    let is_data = |file: &&String| !matches!(file.as_str(), ".gitattributes" | "README.md");
    let nearest = files.iter().filter(is_data).map(|file| (distance(file), file)).min();
    match nearest {
        Some((distance, file)) if distance <= text.len() / 3 => format!(", did you mean {file}?"),
        _ => {
            let some: Vec<&str> = files.iter().filter(is_data).take(5).map(String::as_str).collect();
            if some.is_empty() { String::new() } else { format!(": it has {}", some.join(", ")) }
        }
    }
}

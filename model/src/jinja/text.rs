//! What Python's strings know about characters.

/// Whether `str.isspace` holds for the character.
pub(super) fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\x1c'..='\x1f').contains(&character)
}

/// Whether the character has two cases and is in one of them.
fn is_cased(character: char) -> bool {
    character.is_lowercase() || character.is_uppercase()
}

/// `str.title`: capital letters where a word begins, and small ones after them.
pub(super) fn title(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut in_word = false;
    for character in text.chars() {
        match in_word {
            true => result.extend(character.to_lowercase()),
            false => result.extend(character.to_uppercase()),
        }
        in_word = is_cased(character);
    }
    result
}

/// `str.capitalize`.
pub(super) fn capitalize(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_uppercase().chain(characters.as_str().to_lowercase().chars()).collect(),
        None => String::new(),
    }
}

pub(super) fn swap_case(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    for character in text.chars() {
        match character.is_uppercase() {
            true => result.extend(character.to_lowercase()),
            false => result.extend(character.to_uppercase()),
        }
    }
    result
}

pub(super) fn case_fold(text: &str) -> String {
    text.to_lowercase().replace('ß', "ss").replace('ς', "σ")
}

pub(super) fn is_title(text: &str) -> bool {
    let mut in_word = false;
    let mut any = false;
    for character in text.chars() {
        if (character.is_uppercase() && in_word) || (character.is_lowercase() && !in_word) {
            return false;
        }
        in_word = is_cased(character);
        any |= in_word;
    }
    any
}

/// Whether there are letters with case, all of them as `wanted`.
pub(super) fn has_case(text: &str, wanted: fn(char) -> bool) -> bool {
    let mut cased = text.chars().filter(|&character| is_cased(character)).peekable();
    cased.peek().is_some() && cased.all(wanted)
}

pub(super) fn is_identifier(text: &str) -> bool {
    let mut characters = text.chars();
    characters.next().is_some_and(|first| first.is_alphabetic() || first == '_')
        && characters.all(|character| character.is_alphanumeric() || character == '_')
}

/// `str.splitlines`.
pub(super) fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut start = 0;
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        let breaks = matches!(
            character,
            '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
        );
        if !breaks {
            continue;
        }
        let mut end = at + character.len_utf8();
        if character == '\r' && characters.next_if(|&(_, next)| next == '\n').is_some() {
            end += 1;
        }
        lines.push(&text[start..if keep_ends { end } else { at }]);
        start = end;
    }
    if start < text.len() {
        lines.push(&text[start..]);
    }
    lines
}

/// `str.split` at white space, at most `most` times.
pub(super) fn split_space(text: &str, most: Option<usize>) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        if most == Some(parts.len()) {
            parts.push(rest.trim_end_matches(is_space));
            break;
        }
        let end = rest.find(is_space).unwrap_or(rest.len());
        parts.push(&rest[..end]);
        rest = rest[end..].trim_start_matches(is_space);
    }
    parts
}

/// `str.rsplit` at white space.
pub(super) fn split_space_right(text: &str, most: Option<usize>) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_end_matches(is_space);
    while !rest.is_empty() {
        if most == Some(parts.len()) {
            parts.push(rest.trim_start_matches(is_space));
            break;
        }
        let start =
            rest.char_indices().rev().find(|&(_, c)| is_space(c)).map_or(0, |(at, c)| at + c.len_utf8());
        parts.push(&rest[start..]);
        rest = rest[..start].trim_end_matches(is_space);
    }
    parts.reverse();
    parts
}

//! What Python's strings know about characters.

use crate::control_tokens::without_stand_in;

/// Whether `str.isspace` holds for the character, or for the one it is hidden behind.
pub(super) fn is_space(character: char) -> bool {
    let character = without_stand_in(character);
    character.is_whitespace() || ('\x1c'..='\x1f').contains(&character)
}

/// Whether the character has two cases and is in one of them.
fn is_cased(character: char) -> bool {
    character.is_lowercase() || character.is_uppercase()
}

/// Zeros of the scripts with decimal digits, the other nine follow each (Unicode's category Nd).
const ZEROS: [u32; 67] = [
    0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50,
    0xed0, 0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40,
    0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10, 0x104a0, 0x10d30, 0x11066,
    0x110f0, 0x11136, 0x111d0, 0x112f0, 0x11450, 0x114d0, 0x11650, 0x116c0, 0x11730, 0x118e0, 0x11950,
    0x11c50, 0x11d50, 0x11da0, 0x16a60, 0x16ac0, 0x16b50, 0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6,
    0x1e140, 0x1e2f0, 0x1e4f0, 0x1e950, 0x1fbf0,
];

/// First and last of other characters that stand for one digit: superscripts, circled ones and the like.
const OTHER_DIGITS: [(u32, u32); 20] = [
    (0xb2, 0xb3),
    (0xb9, 0xb9),
    (0x1369, 0x1371),
    (0x19da, 0x19da),
    (0x2070, 0x2070),
    (0x2074, 0x2079),
    (0x2080, 0x2089),
    (0x2460, 0x2468),
    (0x2474, 0x247c),
    (0x2488, 0x2490),
    (0x24ea, 0x24ea),
    (0x24f5, 0x24fd),
    (0x24ff, 0x24ff),
    (0x2776, 0x277e),
    (0x2780, 0x2788),
    (0x278a, 0x2792),
    (0x10a40, 0x10a43),
    (0x10e60, 0x10e68),
    (0x11052, 0x1105a),
    (0x1f100, 0x1f10a),
];

/// The value of a decimal digit of any script.
pub(super) fn decimal(character: char) -> Option<u32> {
    let code = u32::from(character);
    let zero = ZEROS[..ZEROS.partition_point(|&zero| zero <= code)].last()?;
    Some(code - zero).filter(|&value| value < 10)
}

/// `str.isdecimal`.
pub(super) fn is_decimal(character: char) -> bool {
    decimal(character).is_some()
}

/// `str.isdigit`.
pub(super) fn is_digit(character: char) -> bool {
    let code = u32::from(character);
    is_decimal(character) || OTHER_DIGITS.iter().any(|&(first, last)| (first..=last).contains(&code))
}

/// A character as a word begins with it: `ß` becomes `Ss`, `ǆ` becomes `ǅ`.
fn title_case(character: char) -> String {
    match character {
        'Ǆ'..='ǆ' => "ǅ".to_owned(),
        'Ǉ'..='ǉ' => "ǈ".to_owned(),
        'Ǌ'..='ǌ' => "ǋ".to_owned(),
        'Ǳ'..='ǳ' => "ǲ".to_owned(),
        // Georgian has capital letters, and no titles with them.
        '\u{10d0}'..='\u{10ff}' => character.to_string(),
        'ŉ' => "ʼN".to_owned(),
        other => {
            let mut upper = other.to_uppercase();
            upper.next().into_iter().chain(upper.flat_map(char::to_lowercase)).collect()
        }
    }
}

/// `str.title`: capital letters where a word begins, and small ones after them.
pub(super) fn title(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut in_word = false;
    for character in text.chars() {
        match in_word {
            true => result.extend(character.to_lowercase()),
            false => result.push_str(&title_case(character)),
        }
        in_word = is_cased(character);
    }
    result
}

/// `str.capitalize`.
pub(super) fn capitalize(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => title_case(first) + &characters.as_str().to_lowercase(),
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
            without_stand_in(character),
            '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
        );
        if !breaks {
            continue;
        }
        let mut end = at + character.len_utf8();
        if without_stand_in(character) == '\r'
            && characters.next_if(|&(_, next)| without_stand_in(next) == '\n').is_some()
        {
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

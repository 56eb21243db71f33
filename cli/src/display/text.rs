//! Text from elsewhere (names, paths, values, other libraries' messages) made fit for a terminal.

/// Characters of the longest line that is shown of a message.
pub const LONGEST_MESSAGE: usize = 700;

/// Whether a character is not seen but does something: controls, and those that turn the direction of writing,
/// join or part letters, or mark places.
pub fn is_unseen(letter: char) -> bool {
    letter.is_control()
        || matches!(
            letter,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// The text with unseen characters as escapes (`\u{1b}`), line breaks too.
pub fn visible(text: &str) -> String {
    escaped(text, |_| false)
}

/// The text with unseen characters as escapes; line breaks and tabs stay.
pub fn visible_lines(text: &str) -> String {
    escaped(text, |letter| matches!(letter, '\n' | '\t'))
}

/// As [`visible_lines`], with colours as they are: sequences that set how letters look.
pub fn visible_lines_in_colour(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        shown.push_str(&visible_lines(before));
        let length = after.find(|letter: char| !letter.is_ascii_digit() && letter != ';');
        match length {
            Some(length) if after[length..].starts_with('m') => {
                shown.push_str("\x1b[");
                shown.push_str(&after[..=length]);
                rest = &after[length + 1..];
            }
            _ => {
                shown.push_str(&visible("\x1b["));
                rest = after;
            }
        }
    }
    shown + &visible_lines(rest)
}

/// A message as one line of bounded length: white space runs together, unseen characters are escapes, and the
/// middle of a long one is left out.
pub fn message(text: &str) -> String {
    elided(&visible(&text.split_whitespace().collect::<Vec<_>>().join(" ")), LONGEST_MESSAGE)
}

fn escaped(text: &str, stays: impl Fn(char) -> bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if is_unseen(letter) && !stays(letter) {
            shown.extend(letter.escape_unicode());
        } else {
            shown.push(letter);
        }
    }
    shown
}

/// The text, its middle replaced by an ellipsis where it has more than `most` characters. More of the
/// beginning stays, which names the place; what to do stands at the end.
fn elided(text: &str, most: usize) -> String {
    let length = text.chars().count();
    if length <= most {
        return text.to_owned();
    }
    let end = most / 3;
    let beginning = most - end - 1;
    text.chars().take(beginning).chain(['…']).chain(text.chars().skip(length - end)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_unseen_is_left() {
        let text = "a\x1b[2Jb\u{202e}c\u{200b}d\u{9b}e\r\nf\tg\u{7f}ä⟦é⟧";
        let shown = visible(text);
        assert!(!shown.chars().any(is_unseen), "{shown}");
        assert!(shown.starts_with("a\\u{1b}[2Jb\\u{202e}c\\u{200b}d") && shown.ends_with("ä⟦é⟧"), "{shown}");
        assert_eq!(visible_lines("a\r\n\tb"), "a\\u{d}\n\tb");
    }

    #[test]
    fn only_colours_stay_in_colour() {
        let text = "\x1b[1;31merror:\x1b[0m \x1b[2J\x1b]0;title\x07 \x1b[";
        let shown = visible_lines_in_colour(text);
        assert!(shown.starts_with("\x1b[1;31merror:\x1b[0m \\u{1b}[2J\\u{1b}]0;title\\u{7} "), "{shown}");
        assert_eq!(shown.matches('\x1b').count(), 2);
    }

    #[test]
    fn messages_are_one_line_of_bounded_length() {
        assert_eq!(message("a\n  b\u{1b}c"), "a b\\u{1b}c");
        let long = message(&format!("file.toml: {} name another", "x".repeat(100_000)));
        assert_eq!(long.chars().count(), LONGEST_MESSAGE);
        assert!(long.starts_with("file.toml: xxx") && long.contains("x…x") && long.ends_with("name another"));
    }
}

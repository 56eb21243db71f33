//! Letters of options: in prompts, references and answers.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

/// An option of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Its letter, upper case.
    pub letter: char,
    /// What stands behind the letter; empty where only letters are known.
    pub text: String,
}

/// A line of an option: `A. …`, `A) …`, `(A) …`, `A: …`, also in a list and in bold; `A? …` where an `、` was lost.
static OPTION: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"^\s*(?:[-*•]\s+)?(?:\*\*)?(?:\(([A-Za-z])\)|([A-Za-z])\s?[.):：、?])(?:\*\*)?\s*(\S.*?)\s*$")
        .ok()
});

/// The options of a prompt: its last list of lines with the letters A, B, …, in the order of the letters; empty where
/// there is none of at least two. Lines may stand in another order, as those of a page in two columns do. A list in which
/// a letter between others is not found is none.
pub fn choices_in(prompt: &str) -> Vec<Choice> {
    let (mut found, mut list) = (Vec::new(), OptionList::default());
    for choice in prompt.lines().filter_map(option_in) {
        if choice.letter == 'A' && !list.options.is_empty() {
            list = OptionList::default();
        }
        list.add(choice);
        if list.lacks_a_letter() {
            found.clear();
        } else if list.options.len() >= 2 {
            found.clone_from(&list.options);
        }
    }
    found
}

/// A list of options that is being read.
#[derive(Default)]
struct OptionList {
    /// Those from A on, without a gap.
    options: Vec<Choice>,
    /// Those behind a letter that has not come yet.
    ahead: Vec<Choice>,
}

impl OptionList {
    /// The letter that comes next.
    fn next(&self) -> char {
        char::from(b'A'.saturating_add(self.options.len() as u8))
    }

    /// Adds the option where it belongs. Letters before A are those of another text, as are letters that are there.
    fn add(&mut self, choice: Choice) {
        if choice.letter > self.next() && !self.options.is_empty() {
            self.ahead.push(choice);
        } else if choice.letter == self.next() {
            self.options.push(choice);
            while let Some(index) = self.ahead.iter().position(|ahead| ahead.letter == self.next()) {
                self.options.push(self.ahead.remove(index));
            }
        }
    }

    /// Whether the letter behind the one that comes next is there already. Those further on may be initials of names.
    fn lacks_a_letter(&self) -> bool {
        self.ahead.iter().any(|ahead| u32::from(ahead.letter) == u32::from(self.next()) + 1)
    }
}

/// The option that a line is.
fn option_in(line: &str) -> Option<Choice> {
    let captures = OPTION.as_ref()?.captures(line)?;
    let text = |group: usize| captures.get(group).map(|found| found.as_str());
    let letter = text(1).or(text(2))?.chars().next()?.to_ascii_uppercase();
    Some(Choice { letter, text: text(3)?.to_owned() })
}

/// Where a text says `answer is`, `answer:` and the like, up to the letter; and where it says `option`.
static MARKS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    let words = |words: &str| {
        Regex::new(&format!(
            r"(?i)(?:{words})\s*(?:(?:is|would\s+be|should\s+be|must\s+be|the|option|choice|letter|answer)\b\s*)*[:：=–—-]?\s*(?:(?:is|the|option|choice|letter)\b\s*)*"
        ))
    };
    [words(r"\banswer\b|答案(?:是|为)?"), words(r"\b(?:option|choice)\b|选(?:择|项)?")]
        .into_iter()
        .flatten()
        .collect()
});

/// The letter that a text gives as its answer, with the byte it stands at; upper case. `letters` are those of the
/// options, none for any from A to Z.
///
/// Looked for in this order: the only thing on the first line; behind the last `answer is`, `answer:`; at the
/// beginning (`B. because …`); in `\boxed{}`; the last in brackets; the last by itself. A small letter counts where
/// nothing but punctuation stands beside it: `a` may be a word.
pub fn letter_in(text: &str, letters: &[char]) -> Option<(Range<usize>, char)> {
    let first_line = text.trim_start().lines().next().unwrap_or_default();
    let start = text.len() - text.trim_start().len();
    let alone = letter_at(text, start, letters).filter(|(range, _)| {
        let rest = first_line.get(range.end - start..).unwrap_or_default();
        !rest.chars().any(char::is_alphanumeric)
    });
    alone
        .or_else(|| behind_mark(text, letters))
        .or_else(|| letter_at(text, start, letters).filter(|found| !is_article(text, found)))
        .or_else(|| boxed(text, letters))
        .or_else(|| last_of(text, letters, true))
        .or_else(|| last_of(text, letters, false))
}

/// A text with another option in the place of the one that it names: its letter, and its words where they follow.
pub fn with_choice(text: &str, named: &Range<usize>, from: &Choice, to: &Choice) -> String {
    let (before, rest) = (&text[..named.start], &text[named.end..]);
    let is_lower = text[named.clone()].starts_with(|c: char| c.is_ascii_lowercase());
    let letter = if is_lower { to.letter.to_ascii_lowercase() } else { to.letter };
    match (from.text.is_empty(), rest.find(&from.text)) {
        (false, Some(at)) => {
            format!("{before}{letter}{}{}{}", &rest[..at], to.text, &rest[at + from.text.len()..])
        }
        _ => format!("{before}{letter}{rest}"),
    }
}

/// What may stand between a mark or the beginning and the letter.
fn is_opening(character: char) -> bool {
    matches!(character, '(' | '[' | '{' | '"' | '\'' | '*' | '`' | '“' | '‘' | '$' | '（' | '_' | '<')
}

/// The letter at this byte, behind brackets and quotation marks.
fn letter_at(text: &str, start: usize, letters: &[char]) -> Option<(Range<usize>, char)> {
    let rest = text.get(start..)?;
    let rest = ["\\boxed{", "\\text{"].iter().fold(rest, |rest, box_| {
        let inner = rest.trim_start_matches(|c: char| is_opening(c) || c == ' ');
        inner.strip_prefix(box_).unwrap_or(rest)
    });
    let rest = rest.trim_start_matches(|c: char| is_opening(c) || c == ' ');
    let at = text.len() - rest.len();
    let letter = rest.chars().next().filter(char::is_ascii_alphabetic)?;
    let behind = rest[1..].chars().next();
    if behind.is_some_and(|c| is_word(c) || c == '\'' || c == '’') {
        return None;
    }
    let upper = letter.to_ascii_uppercase();
    if !(letters.is_empty() || letters.contains(&upper)) {
        return None;
    }
    // A small letter may be a word: only punctuation or the end of the line may stand behind it.
    let is_bare = behind.is_none_or(|c| !c.is_whitespace() || c == '\n');
    (letter.is_ascii_uppercase() || is_bare).then_some((at..at + 1, upper))
}

/// Letters of scripts that put spaces between words, digits, and what joins words.
fn is_word(character: char) -> bool {
    (character.is_alphanumeric() && character < '\u{2e80}') || matches!(character, '_' | '-')
}

fn behind_mark(text: &str, letters: &[char]) -> Option<(Range<usize>, char)> {
    let behind =
        |mark: &Regex| mark.find_iter(text).filter_map(|found| letter_at(text, found.end(), letters)).last();
    MARKS.iter().find_map(behind)
}

fn boxed(text: &str, letters: &[char]) -> Option<(Range<usize>, char)> {
    let (at, _) = text.match_indices("\\boxed{").last()?;
    letter_at(text, at, letters)
}

/// `A` or `I` at the beginning of a sentence, followed by a word.
fn is_article(text: &str, (range, letter): &(Range<usize>, char)) -> bool {
    let mut behind = text[range.end..].chars();
    matches!(letter, 'A' | 'I')
        && behind.next() == Some(' ')
        && behind.next().is_some_and(|c| c.is_lowercase())
}

/// The last capital letter that stands by itself, in brackets or not.
fn last_of(text: &str, letters: &[char], in_brackets: bool) -> Option<(Range<usize>, char)> {
    let mut found = text.char_indices().filter_map(|(at, character)| {
        let before = text[..at].chars().next_back();
        let behind = text[at + character.len_utf8()..].chars().next();
        if !character.is_ascii_uppercase() || before.is_some_and(|c| is_word(c) || c == '\'' || c == '’') {
            return None;
        }
        if in_brackets && !(before == Some('(') && behind == Some(')')) {
            return None;
        }
        letter_at(text, at, letters).filter(|found| found.0.start == at && !is_article(text, found))
    });
    found.next_back()
}

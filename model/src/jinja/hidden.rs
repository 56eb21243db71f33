//! Strings in which characters are hidden behind stand-ins (see [`crate::control_tokens`]).
//!
//! Templates compare and search contents. They have to get the answers that transformers gives, so a
//! stand-in is here equal to the character it stands for; what is cut out of a string is cut out of the
//! hidden one, so that what is hidden stays hidden.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::ops::Range;

use crate::control_tokens::{may_hold_reserved, stand_in_of, without_stand_in};

/// The string with the characters that its stand-ins stand for.
pub(super) fn plain(text: &str) -> Cow<'_, str> {
    if may_hold_reserved(text) {
        text.chars().map(without_stand_in).collect::<String>().into()
    } else {
        text.into()
    }
}

pub(super) fn equal(left: &str, right: &str) -> bool {
    left == right || left.chars().map(without_stand_in).eq(right.chars().map(without_stand_in))
}

pub(super) fn order(left: &str, right: &str) -> Ordering {
    left.chars().map(without_stand_in).cmp(right.chars().map(without_stand_in))
}

/// What follows `prefix` in a text that begins with it.
pub(super) fn strip_prefix<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let mut rest = text.chars();
    prefix
        .chars()
        .all(|wanted| rest.next().is_some_and(|c| without_stand_in(c) == without_stand_in(wanted)))
        .then_some(rest.as_str())
}

/// What precedes `suffix` in a text that ends with it.
pub(super) fn strip_suffix<'a>(text: &'a str, suffix: &str) -> Option<&'a str> {
    let mut rest = text.chars();
    let same = |wanted| rest.next_back().is_some_and(|c| without_stand_in(c) == without_stand_in(wanted));
    suffix.chars().rev().all(same).then_some(rest.as_str())
}

/// A text to search in.
pub(super) struct Searched<'a> {
    plain: Cow<'a, str>,
    /// For every stand-in, where the plain text goes on after it, and the text itself.
    moved: Vec<(usize, usize)>,
}

impl<'a> Searched<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        if !may_hold_reserved(text) {
            return Self { plain: text.into(), moved: Vec::new() };
        }
        let mut plain = String::with_capacity(text.len());
        let mut moved = Vec::new();
        for (at, character) in text.char_indices() {
            plain.push(without_stand_in(character));
            if without_stand_in(character) != character {
                moved.push((plain.len(), at + character.len_utf8()));
            }
        }
        Self { plain: plain.into(), moved }
    }

    pub(super) fn plain(&self) -> &str {
        &self.plain
    }

    /// Where a byte of the plain text is in the text.
    pub(super) fn original(&self, byte: usize) -> usize {
        match self.moved.partition_point(|&(plain, _)| plain <= byte) {
            0 => byte,
            after => self.moved[after - 1].1 + (byte - self.moved[after - 1].0),
        }
    }

    fn range(&self, start: usize, length: usize) -> Range<usize> {
        self.original(start)..self.original(start + length)
    }

    pub(super) fn contains(&self, wanted: &str) -> bool {
        self.plain.contains(&*plain(wanted))
    }

    /// The bytes of the first occurrence.
    pub(super) fn find(&self, wanted: &str) -> Option<Range<usize>> {
        let wanted = plain(wanted);
        self.plain.find(&*wanted).map(|start| self.range(start, wanted.len()))
    }

    /// The bytes of the last occurrence.
    pub(super) fn rfind(&self, wanted: &str) -> Option<Range<usize>> {
        let wanted = plain(wanted);
        self.plain.rfind(&*wanted).map(|start| self.range(start, wanted.len()))
    }

    pub(super) fn count(&self, wanted: &str) -> usize {
        self.plain.matches(&*plain(wanted)).count()
    }

    /// The bytes of all occurrences of what is wanted, which is [`plain`], from the beginning.
    pub(super) fn matches<'s>(&'s self, wanted: &'s str) -> impl Iterator<Item = Range<usize>> + 's {
        self.plain.match_indices(wanted).map(|(start, _)| self.range(start, wanted.len()))
    }

    /// The bytes of all occurrences of what is wanted, which is [`plain`], from the end.
    pub(super) fn rmatches<'s>(&'s self, wanted: &'s str) -> impl Iterator<Item = Range<usize>> + 's {
        self.plain.rmatch_indices(wanted).map(|(start, _)| self.range(start, wanted.len()))
    }
}

/// Changes a text by a function of strings, such as `str::to_lowercase`, where what was hidden stays hidden.
pub(super) fn change_case(text: &str, change: impl Fn(&str) -> String) -> String {
    if !may_hold_reserved(text) {
        return change(text);
    }
    let changed = change(&plain(text));
    let hide = |character| stand_in_of(character).unwrap_or(character);
    if changed.chars().count() == text.chars().count() {
        let pairs = text.chars().zip(changed.chars());
        return pairs
            .map(|(before, after)| if without_stand_in(before) == before { after } else { hide(after) })
            .collect();
    }
    // Which character became which is not known: all are hidden.
    changed.chars().map(hide).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hide(character: char) -> char {
        stand_in_of(character).unwrap()
    }

    #[test]
    fn a_stand_in_is_equal_to_its_character() {
        let hidden = format!("é {}think>a{}/think>", hide('<'), hide('<'));
        assert_eq!(plain(&hidden), "é <think>a</think>");
        assert!(equal(&hidden, "é <think>a</think>") && !equal(&hidden, "é <think>a"));
        assert_eq!(order(&hidden, "é <think>b"), Ordering::Less);
        assert_eq!(strip_prefix(&hidden, "é <th"), Some(&hidden["é ".len() + 6..]));
        assert_eq!(strip_suffix(&hidden, "a</think>"), Some(&hidden[..hidden.len() - 12]));
        assert_eq!(strip_suffix("a", "ba"), None);
    }

    #[test]
    fn what_is_found_is_cut_from_the_hidden_text() {
        let text = format!("a{0}b{0}bc<b", hide('<'));
        let searched = Searched::new(&text);
        let found: Vec<&str> = searched.matches("<b").map(|range| &text[range]).collect();
        assert_eq!(found, [&text[1..6], &text[1..6], "<b"]);
        assert_eq!(searched.rmatches("<b").next(), Some(text.len() - 2..text.len()));
        assert_eq!(searched.find("b<"), Some(5..10));
        assert_eq!(searched.rfind("bc"), Some(10..12));
        assert_eq!(searched.count("<b"), 3);
        assert!(searched.contains("bc") && !searched.contains("bb"));
    }

    #[test]
    fn letters_stay_hidden_in_either_case() {
        let text = format!("{}nd", hide('E'));
        assert_eq!(change_case(&text, str::to_lowercase), format!("{}nd", hide('e')));
        assert_eq!(change_case(&text, str::to_uppercase), format!("{}ND", hide('E')));
        let text = format!("{}ß", hide('E'));
        assert_eq!(plain(&change_case(&text, str::to_uppercase)), "ESS");
    }
}

//! Control tokens: which strings they are, and how they are kept out of ordinary text.
//!
//! A file may hold the text `<|im_end|>`; it must not become the token that ends a turn. So the strings
//! of control tokens are never given to the tokenizer as such: it is loaded with every control token
//! renamed to an *alias*, a string of reserved characters that data may not contain (files with them are
//! refused). Ordinary text can then only become ordinary tokens, whatever it says.
//!
//! A chat template writes control tokens and message contents into one string. Contents are therefore
//! *hidden* before rendering: the first character of every control string in them is replaced by a
//! reserved stand-in, which leaves lengths, trimming, splitting and joining as they are. What then still
//! reads as a control string in the rendered text was written by the template: it becomes the alias, and
//! the stand-ins become the original characters again. While a template is rendered, a stand-in is equal
//! to the character it stands for, so that comparisons and searches give what they give in transformers.
//! (Stand-ins of first characters from U+0400 on are the exception: which they are depends on the
//! tokenizer, so that the renderer does not know them, and a comparison finds them different.)

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::error::Reasoned;

/// First reserved character: stand-ins and alias delimiters lie from here to U+10FFFF, at the end of
/// the last private-use plane.
const RESERVED_START: char = '\u{10FB00}';
/// Characters below this have the stand-in at their own distance from [`RESERVED_START`], whatever the
/// tokenizer; other first characters get the stand-ins after these, in their order.
const DIRECT: u32 = 0x400;
/// Other first characters that there are stand-ins for.
const MOST_OTHERS: usize = 0xF0;
const ALIAS_START: char = '\u{10FFF0}';
const ALIAS_END: char = '\u{10FFF1}';

/// A token with a function (end of turn, begin of text …) and the string that stands for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ControlToken {
    pub text: String,
    pub id: u32,
    /// It counts only where no letter, mark, digit or `_` stands beside it.
    pub single_word: bool,
}

/// All control tokens of a tokenizer.
#[derive(Debug, Clone)]
pub(crate) struct ControlTokens {
    /// Longest string first: where several match, the longest does.
    tokens: Vec<ControlToken>,
    /// Distinct first characters.
    first_characters: Vec<char>,
    /// Those of them without a direct stand-in.
    others: Vec<char>,
    /// Strings of the other added tokens, longest first: a control string within one of them is not meant.
    plain: Vec<String>,
    /// Ids of tokens whose strings are ordinary text wherever they stand.
    as_text: BTreeSet<u32>,
    /// Bytes of the longest string among `tokens` and `plain`.
    longest: usize,
    /// Bytes with which those strings and stand-ins begin.
    first_bytes: [bool; 256],
}

/// An alias found in rendered text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Alias {
    pub id: u32,
    /// Byte at which it begins.
    pub start: usize,
    /// Byte just after the alias.
    pub end: usize,
}

impl ControlTokens {
    /// Fails when there are more different first characters than stand-ins.
    pub fn new(mut tokens: Vec<ControlToken>, mut plain: Vec<String>) -> Reasoned<Self> {
        tokens.retain(|token| !token.text.is_empty());
        tokens.sort_by(|a, b| b.text.len().cmp(&a.text.len()).then_with(|| a.text.cmp(&b.text)));
        let mut first_characters: Vec<char> = tokens.iter().filter_map(|t| t.text.chars().next()).collect();
        first_characters.sort_unstable();
        first_characters.dedup();
        let others: Vec<char> =
            first_characters.iter().copied().filter(|&c| stand_in_of(c).is_none()).collect();
        if others.len() > MOST_OTHERS {
            return Err(format!(
                "control tokens begin with more than {MOST_OTHERS} different characters beyond U+{:04X}",
                DIRECT - 1
            ));
        }
        plain.retain(|text| tokens.iter().any(|token| text.contains(&token.text)));
        plain.sort_by_key(|text| std::cmp::Reverse(text.len()));
        let texts = || tokens.iter().map(|token| &token.text).chain(&plain);
        let longest = texts().map(String::len).max().unwrap_or(0);
        let mut first_bytes = [false; 256];
        for text in texts().map(String::as_str).chain([RESERVED_START.encode_utf8(&mut [0; 4]) as &str]) {
            text.bytes().take(1).for_each(|byte| first_bytes[usize::from(byte)] = true);
        }
        let as_text = BTreeSet::new();
        Ok(Self { tokens, first_characters, others, plain, as_text, longest, first_bytes })
    }

    /// The same tokens, of which those of these ids do not come of their strings (`split_special_tokens`).
    pub fn without(self, as_text: BTreeSet<u32>) -> Self {
        Self { as_text, ..self }
    }

    pub fn iter(&self) -> impl Iterator<Item = &ControlToken> {
        self.tokens.iter()
    }

    /// Bytes of the longest string of an added token that [`Self::to_aliases`] looks for.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// The string under which a token is known to the renamed tokenizer.
    pub fn alias(id: u32) -> String {
        format!("{ALIAS_START}{id}{ALIAS_END}")
    }

    fn stand_in(&self, character: char) -> Option<char> {
        stand_in_of(character).or_else(|| {
            let index = self.others.binary_search(&character).ok()?;
            char::from_u32(RESERVED_START as u32 + DIRECT + index as u32)
        })
    }

    /// The character itself where it is no stand-in.
    fn stood_for(&self, character: char) -> char {
        let index = (character as u32).checked_sub(RESERVED_START as u32 + DIRECT);
        let other = index.and_then(|index| self.others.get(index as usize)).copied();
        other.unwrap_or_else(|| without_stand_in(character))
    }

    /// The text with the characters that its stand-ins stand for, for people to read.
    pub fn unhidden(&self, text: &str) -> String {
        text.chars().map(|character| self.stood_for(character)).collect()
    }

    /// Replaces the first character of every control string by its stand-in; likewise where the text's
    /// end could become a control string together with what a template writes after it (unless that
    /// string begins like a word: too many words end like the beginning of another).
    pub fn hide<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut hidden: Option<String> = None;
        for (position, character) in text.char_indices() {
            let rest = &text[position..];
            let hides = |control: &str| {
                let open_end = !character.is_alphanumeric() && control.starts_with(rest);
                open_end || rest.starts_with(control)
            };
            let begins = self.first_characters.binary_search(&character).is_ok();
            let is_hidden = begins && self.tokens.iter().any(|token| hides(&token.text));
            let stand_in = self.stand_in(character).filter(|_| is_hidden);
            if stand_in.is_some() && hidden.is_none() {
                hidden = Some(text[..position].to_owned());
            }
            if let Some(hidden) = &mut hidden {
                hidden.push(stand_in.unwrap_or(character));
            }
        }
        hidden.map_or(Cow::Borrowed(text), Cow::Owned)
    }

    /// Turns control strings into aliases, then stand-ins into the characters they stood for. Where added
    /// tokens overlap, the one that begins first counts, and of several there the longest.
    pub fn to_aliases(&self, rendered: &str) -> String {
        self.to_aliases_with_positions(rendered, &[]).0
    }

    /// [`Self::to_aliases`], and where the given bytes of the text, in ascending order, are afterwards; one
    /// inside an added token is at its end.
    pub fn to_aliases_with_positions(&self, rendered: &str, positions: &[usize]) -> (String, Vec<usize>) {
        let mut text = String::with_capacity(rendered.len() + 64);
        let mut moved = Vec::with_capacity(positions.len());
        let mut rest = rendered;
        while let Some(character) = rest.chars().next() {
            let ordinary =
                rest.bytes().position(|byte| self.first_bytes[usize::from(byte)]).unwrap_or(rest.len());
            if ordinary > 0 {
                let done = rendered.len() - rest.len();
                let inside =
                    positions[moved.len()..].iter().take_while(|&&position| position < done + ordinary);
                moved.extend(inside.map(|position| text.len() + position.saturating_sub(done)));
                text.push_str(&rest[..ordinary]);
                rest = &rest[ordinary..];
                continue;
            }
            let done = rendered.len() - rest.len();
            while positions.get(moved.len()).is_some_and(|&position| position <= done) {
                moved.push(text.len());
            }
            let is_meant =
                |token: &&ControlToken| rest.starts_with(&token.text) && !self.as_text.contains(&token.id);
            let token = match self.first_characters.binary_search(&character) {
                Ok(_) => self.tokens.iter().find(is_meant),
                Err(_) => None,
            };
            let length = token.map_or(0, |token| token.text.len());
            let plain = self.plain.iter().find(|text| text.len() > length && rest.starts_with(text.as_str()));
            if let Some(plain) = plain {
                text.push_str(plain);
                rest = &rest[plain.len()..];
            } else if let Some(token) = token {
                let before = rendered[..done].chars().next_back();
                let after = rest[length..].chars().next();
                let beside_word = [before, after].into_iter().flatten().any(|c| self.is_word(c));
                if token.single_word && beside_word {
                    text.push_str(&token.text);
                } else {
                    text.push_str(&Self::alias(token.id));
                }
                rest = &rest[length..];
            } else {
                text.push(self.stood_for(character));
                rest = &rest[character.len_utf8()..];
            }
        }
        moved.resize(positions.len(), text.len());
        (text, moved)
    }

    fn is_word(&self, character: char) -> bool {
        // The library's own test is the regular expression `\w`: marks and joiners count too.
        regex_syntax::try_is_word_character(self.stood_for(character)).unwrap_or(false)
    }

    /// Turns aliases back into the strings of their control tokens, for people to read.
    pub fn readable(&self, text: &str) -> String {
        let mut readable = String::with_capacity(text.len());
        let mut position = 0;
        for alias in aliases(text) {
            readable.push_str(&text[position..alias.start]);
            let name = self.tokens.iter().find(|token| token.id == alias.id).map(|t| t.text.as_str());
            readable.push_str(name.unwrap_or_default());
            position = alias.end;
        }
        readable.push_str(&text[position..]);
        readable
    }
}

/// The aliases in a text, in order.
pub(crate) fn aliases(text: &str) -> impl Iterator<Item = Alias> {
    text.match_indices(ALIAS_START).filter_map(|(start, _)| {
        let digits = &text[start + ALIAS_START.len_utf8()..];
        let length = digits.find(ALIAS_END)?;
        let id = digits[..length].parse().ok()?;
        Some(Alias { id, start, end: start + ALIAS_START.len_utf8() + length + ALIAS_END.len_utf8() })
    })
}

/// The byte itself, or the beginning of the alias that it lies in.
pub(crate) fn outside_alias(text: &str, byte: usize) -> usize {
    match (text[..byte].rfind(ALIAS_START), text[..byte].rfind(ALIAS_END)) {
        (Some(start), end) if end.is_none_or(|end| end < start) => start,
        _ => byte,
    }
}

/// The stand-in of a character that has a direct one.
pub(crate) fn stand_in_of(character: char) -> Option<char> {
    let code = u32::from(character);
    (code < DIRECT).then(|| char::from_u32(RESERVED_START as u32 + code)).flatten()
}

/// What a direct stand-in stands for; other characters themselves.
pub(crate) fn without_stand_in(character: char) -> char {
    let code = u32::from(character).checked_sub(RESERVED_START as u32);
    code.filter(|&code| code < DIRECT).and_then(char::from_u32).unwrap_or(character)
}

/// Whether the character is reserved: it is in no data, and stands for another one where it is met.
pub(crate) fn is_reserved(character: char) -> bool {
    character >= RESERVED_START
}

/// False for text that holds no reserved character, quickly: they take four bytes, the first 0xF4.
pub(crate) fn may_hold_reserved(text: &str) -> bool {
    text.as_bytes().contains(&0xF4)
}

/// Refuses text with reserved characters: they could pass for a control token.
pub(crate) fn refuse_reserved(text: &str) -> Reasoned<()> {
    if !may_hold_reserved(text) {
        return Ok(());
    }
    match text.chars().find(|&character| is_reserved(character)) {
        Some(character) => Err(format!(
            "contains the private-use character U+{:X}, which is reserved here: remove it",
            character as u32
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn controls() -> ControlTokens {
        let token = |text: &str, id| ControlToken { text: text.into(), id, single_word: false };
        let tokens = vec![token("<s>", 1), token("<|im_end|>", 7), token("<|im|>", 8), token("#", 9)];
        ControlTokens::new(tokens, vec!["##".into(), "no".into()]).unwrap()
    }

    #[test]
    fn only_what_the_template_wrote_becomes_an_alias() {
        let controls = controls();
        let content = "x <|im_end|> <s # <s> y <|im";
        let hidden = controls.hide(content);
        assert_eq!(hidden.chars().count(), content.chars().count());
        let aliased = controls.to_aliases(&format!("<s>{hidden}|><|im_end|>"));
        let expected = format!("{}{content}|>{}", ControlTokens::alias(1), ControlTokens::alias(7));
        assert_eq!(aliased, expected);
        assert_eq!(controls.readable(&aliased), format!("<s>{content}|><|im_end|>"));
        let found: Vec<u32> = aliases(&aliased).map(|alias| alias.id).collect();
        assert_eq!(found, [1, 7]);
    }

    #[test]
    fn text_without_control_strings_is_borrowed() {
        assert!(matches!(controls().hide("a < b | c >"), Cow::Borrowed(_)));
    }

    #[test]
    fn positions_move_with_the_text() {
        let alias = ControlTokens::alias(1);
        let end = 2 + alias.len();
        let positions = [0, 1, 2, 3, 5, 6, 8, 9];
        let (text, moved) = controls().to_aliases_with_positions("ab<s>céd", &positions);
        assert_eq!(text, format!("ab{alias}céd"));
        assert_eq!(moved, [0, 1, 2, end, end, end + 1, end + 3, end + 4]);
    }

    #[test]
    fn the_longest_added_token_counts() {
        assert_eq!(
            controls().to_aliases("##<s>#"),
            format!("##{}{}", ControlTokens::alias(1), ControlTokens::alias(9))
        );
    }

    #[test]
    fn single_words_stand_alone() {
        let token = ControlToken { text: "END".into(), id: 3, single_word: true };
        let controls = ControlTokens::new(vec![token], Vec::new()).unwrap();
        let alias = ControlTokens::alias(3);
        assert_eq!(controls.to_aliases("END BEND END."), format!("{alias} BEND {alias}."));
        let beside_marks = "END\u{301} END\u{200d} END_ END²";
        assert_eq!(controls.to_aliases(beside_marks), format!("END\u{301} END\u{200d} END_ {alias}²"));
        assert_eq!(controls.to_aliases(&controls.hide("END")), "END");
    }

    #[test]
    fn first_characters_of_any_script_have_stand_ins() {
        let texts = ["<s>", "é>", "▁x", "［x"];
        let token = |(id, text): (u32, &&str)| ControlToken { text: (*text).into(), id, single_word: false };
        let tokens = (0..).zip(&texts).map(token).collect();
        let controls = ControlTokens::new(tokens, Vec::new()).unwrap();
        for text in texts {
            let hidden = controls.hide(text);
            assert_ne!(hidden, text);
            assert_eq!(controls.to_aliases(&hidden), text);
            assert_eq!(controls.unhidden(&hidden), text);
        }
    }

    #[test]
    fn reserved_characters_are_refused() {
        assert!(refuse_reserved("plain 🙂 \u{F8FF} \u{100000}").is_ok());
        assert!(refuse_reserved("\u{10FFF0}5\u{10FFF1}").unwrap_err().contains("U+10FFF0"));
    }
}

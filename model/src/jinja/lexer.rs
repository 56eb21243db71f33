//! Source to tokens, with the rules of `trim_blocks` and `lstrip_blocks`.

use super::error::{Error, Result};
use super::text::is_space;
use crate::control_tokens::refuse_reserved;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Data(String),
    VariableBegin,
    VariableEnd,
    BlockBegin,
    BlockEnd,
    Name(String),
    Str(String),
    Int(i128),
    Float(f64),
    Operator(&'static str),
    End,
}

/// Longer ones before their beginnings.
const OPERATORS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<",
    "=", ".", ":", "|", ",", ";",
];

struct Lexer<'a> {
    source: &'a str,
    position: usize,
    line: usize,
    /// Whether the last thing read ended a line.
    line_starting: bool,
    tokens: Vec<(usize, Token)>,
}

/// The tokens of `source`, each with its line, ending with [`Token::End`].
///
/// # Errors
/// When the source has a character, a literal or an unclosed tag that Jinja refuses, or a reserved
/// character: one could pass for a control token in what the template writes.
pub(super) fn tokens(source: &str) -> Result<Vec<(usize, Token)>> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let source = source.strip_suffix('\n').unwrap_or(&source);
    for (index, line) in source.split('\n').enumerate() {
        unreserved(line).map_err(|error| error.at(index + 1))?;
    }
    let mut lexer = Lexer { source, position: 0, line: 1, line_starting: true, tokens: Vec::new() };
    match lexer.run() {
        Ok(()) => Ok(lexer.tokens),
        Err(error) => Err(error.at(lexer.line)),
    }
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.position..]
    }

    fn push(&mut self, token: Token) {
        self.tokens.push((self.line, token));
    }

    fn advance(&mut self, bytes: usize) {
        let passed = &self.source.as_bytes()[self.position..self.position + bytes];
        self.line += passed.iter().filter(|&&byte| byte == b'\n').count();
        if let Some(last) = passed.last() {
            self.line_starting = *last == b'\n';
        }
        self.position += bytes;
    }

    fn run(&mut self) -> Result<()> {
        while let Some(length) = next_tag(self.rest()) {
            let tag = &self.rest()[length..];
            if let Some(after) = raw_begin(tag) {
                self.data(length, &tag[2..], true);
                self.advance(tag.len() - after.len());
                self.raw()?;
                continue;
            }
            let variable = tag.starts_with("{{");
            self.data(length, &tag[2..], !variable);
            self.advance(2 + usize::from(tag[2..].starts_with(['-', '+'])));
            match &tag[..2] {
                "{#" => self.comment()?,
                _ => self.tag(variable)?,
            }
        }
        if !self.rest().is_empty() {
            self.push(Token::Data(self.rest().to_owned()));
        }
        self.position = self.source.len();
        self.push(Token::End);
        Ok(())
    }

    /// The text of `length` bytes before a tag, whose sign begins `after`; `lstrip` for all but variables.
    fn data(&mut self, length: usize, after: &str, lstrip: bool) {
        let mut text = &self.rest()[..length];
        if after.starts_with('-') {
            text = text.trim_end_matches(is_space);
        } else if lstrip && !after.starts_with('+') {
            let line = text.rfind('\n').map_or(0, |end| end + 1);
            let indentation = &text[line..];
            if (line > 0 || self.line_starting)
                && !indentation.is_empty()
                && indentation.chars().all(is_space)
            {
                text = &text[..line];
            }
        }
        if !text.is_empty() {
            self.push(Token::Data(text.to_owned()));
        }
        self.advance(length);
    }

    fn comment(&mut self) -> Result<()> {
        let Some(end) = self.rest().find("#}") else {
            return Err(Error::new("Missing end of comment tag"));
        };
        let comment = &self.rest()[..end];
        let signed = comment.ends_with(['-', '+']);
        let end = end - usize::from(signed);
        let suffix = block_end(&self.rest()[end..], "#}").unwrap_or(2);
        self.advance(end + suffix);
        Ok(())
    }

    fn raw(&mut self) -> Result<()> {
        let rest = self.rest();
        for (start, _) in rest.match_indices("{%") {
            let tag = rest[start + 2..].trim_start_matches(['-', '+']);
            // Only one sign may stand there.
            if rest.len() - start - 2 - tag.len() > 1 {
                continue;
            }
            let Some(after) = tag.trim_start_matches(is_space).strip_prefix("endraw") else { continue };
            let after = after.trim_start_matches(is_space);
            let Some(suffix) = block_end(after, "%}") else { continue };
            self.data(start, &rest[start + 2..], true);
            self.advance(rest.len() - start - after.len() + suffix);
            return Ok(());
        }
        Err(Error::new("Missing end of raw directive"))
    }

    /// What stands in `{{ }}` or `{% %}`.
    fn tag(&mut self, variable: bool) -> Result<()> {
        let (begin, end) = match variable {
            true => (Token::VariableBegin, Token::VariableEnd),
            false => (Token::BlockBegin, Token::BlockEnd),
        };
        self.push(begin);
        let mut open: Vec<&'static str> = Vec::new();
        loop {
            let rest = self.rest();
            let suffix = if variable { variable_end(rest) } else { block_end(rest, "%}") };
            if let (Some(suffix), true) = (suffix, open.is_empty()) {
                self.push(end);
                self.advance(suffix);
                return Ok(());
            }
            let Some(first) = rest.chars().next() else {
                self.push(Token::End);
                return Ok(());
            };
            if is_space(first) {
                let length = rest.len() - rest.trim_start_matches(is_space).len();
                self.advance(length);
            } else if first.is_ascii_digit() {
                self.number()?;
            } else if first.is_alphanumeric() || first == '_' {
                let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                if !first.is_alphabetic() && first != '_' {
                    return Err(Error::new("Invalid character in identifier"));
                }
                self.push(Token::Name(rest[..length].to_owned()));
                self.advance(length);
            } else if let Some(length) = string_length(rest) {
                let text = unescape(&rest[1..length - 1])?;
                unreserved(&text)?;
                self.push(Token::Str(text));
                self.advance(length);
            } else {
                let Some(operator) = OPERATORS.into_iter().find(|symbol| rest.starts_with(symbol)) else {
                    return Err(Error::new(format!("unexpected char {first:?} at {}", self.position)));
                };
                balance(&mut open, operator)?;
                self.push(Token::Operator(operator));
                self.advance(operator.len());
            }
        }
    }

    fn number(&mut self) -> Result<()> {
        let rest = self.rest();
        let after_dot = self.source[..self.position].ends_with('.');
        let whole = digits(rest);
        let mut length = whole;
        if let Some(fraction) = rest[length..].strip_prefix('.').map(digits).filter(|&count| count > 0) {
            length += 1 + fraction;
        }
        if let Some(exponent) = rest[length..].strip_prefix(['e', 'E']) {
            let sign = usize::from(exponent.starts_with(['+', '-']));
            let count = digits(&exponent[sign..]);
            length += if count > 0 { 1 + sign + count } else { 0 };
        }
        if length > whole && !after_dot {
            let number: f64 = rest[..length].replace('_', "").parse().unwrap_or(f64::INFINITY);
            self.push(Token::Float(number));
            self.advance(length);
            return Ok(());
        }
        let base = match rest.as_bytes().get(1).map(u8::to_ascii_lowercase) {
            Some(b'b') if rest.starts_with('0') => 2,
            Some(b'o') if rest.starts_with('0') => 8,
            Some(b'x') if rest.starts_with('0') => 16,
            _ => 10,
        };
        if base != 10 {
            let count = grouped(&rest[2..], |c| c.is_digit(base), true);
            if count > 0 {
                return self.integer(2, 2 + count, base);
            }
        }
        let zeros = grouped(rest, |c| c == '0', false);
        self.integer(0, if zeros > 0 { zeros } else { whole }, 10)
    }

    fn integer(&mut self, start: usize, length: usize, base: u32) -> Result<()> {
        let digits = self.rest()[start..length].replace('_', "");
        let Ok(number) = i128::from_str_radix(&digits, base) else {
            return Err(Error::new("a number is too large"));
        };
        self.push(Token::Int(number));
        self.advance(length);
        Ok(())
    }
}

fn unreserved(text: &str) -> Result<()> {
    refuse_reserved(text).map_err(|reason| Error::new(format!("the template {reason}")))
}

fn next_tag(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let is_tag = |&at: &usize| matches!(bytes.get(at + 1), Some(b'{' | b'%' | b'#'));
    text.match_indices('{').map(|(at, _)| at).find(is_tag)
}

/// What follows `{% raw %}`, if `tag` begins with it.
fn raw_begin(tag: &str) -> Option<&str> {
    let tag = tag.strip_prefix("{%")?;
    let tag = tag.strip_prefix(['-', '+']).unwrap_or(tag);
    let tag = tag.trim_start_matches(is_space).strip_prefix("raw")?.trim_start_matches(is_space);
    match tag.strip_prefix("-%}") {
        Some(after) => Some(after.trim_start_matches(is_space)),
        None => tag.strip_prefix("%}"),
    }
}

/// Bytes of a tag's end with what it trims: the line break, or all space after a minus.
fn block_end(text: &str, end: &str) -> Option<usize> {
    if let Some(after) = text.strip_prefix('-').and_then(|text| text.strip_prefix(end)) {
        return Some(text.len() - after.trim_start_matches(is_space).len());
    }
    if text.strip_prefix('+').is_some_and(|text| text.starts_with(end)) {
        return Some(1 + end.len());
    }
    let after = text.strip_prefix(end)?;
    Some(end.len() + usize::from(after.starts_with('\n')))
}

fn variable_end(text: &str) -> Option<usize> {
    match text.strip_prefix("-}}") {
        Some(after) => Some(text.len() - after.trim_start_matches(is_space).len()),
        None => text.starts_with("}}").then_some(2),
    }
}

fn balance(open: &mut Vec<&'static str>, operator: &'static str) -> Result<()> {
    match operator {
        "{" => open.push("}"),
        "(" => open.push(")"),
        "[" => open.push("]"),
        "}" | ")" | "]" => match open.pop() {
            None => return Err(Error::new(format!("unexpected '{operator}'"))),
            Some(expected) if expected != operator => {
                return Err(Error::new(format!("unexpected '{operator}', expected '{expected}'")));
            }
            Some(_) => {}
        },
        _ => {}
    }
    Ok(())
}

/// Bytes of digits that single underscores may stand between (or before, where `leading`).
fn grouped(text: &str, is_digit: impl Fn(char) -> bool, leading: bool) -> usize {
    let mut length = 0;
    let mut end = 0;
    let mut underscore = !leading;
    for character in text.chars() {
        if is_digit(character) {
            end = length + character.len_utf8();
            underscore = false;
        } else if character != '_' || underscore || (end == 0 && !leading) {
            break;
        } else {
            underscore = true;
        }
        length += character.len_utf8();
    }
    end
}

fn digits(text: &str) -> usize {
    grouped(text, |c| c.is_ascii_digit(), false)
}

/// Bytes of the string literal that `text` begins with, quotes included.
fn string_length(text: &str) -> Option<usize> {
    let quote = text.chars().next().filter(|&c| c == '\'' || c == '"')?;
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if character == '\\' {
            escaped = true;
        } else if character == quote {
            return Some(at + 1);
        }
    }
    None
}

/// A string literal's text, with the escapes of Python.
fn unescape(literal: &str) -> Result<String> {
    let mut text = String::with_capacity(literal.len());
    let mut rest = literal;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(escape) = rest.chars().next() else { break };
        rest = &rest[escape.len_utf8()..];
        let digits = match escape {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            '0'..='7' => {
                let more = rest.chars().take(2).take_while(|c| c.is_digit(8)).count();
                let code = format!("{escape}{}", &rest[..more]);
                text.extend(u32::from_str_radix(&code, 8).ok().and_then(char::from_u32));
                rest = &rest[more..];
                continue;
            }
            _ => 0,
        };
        if digits > 0 {
            let code = rest.get(..digits).filter(|code| code.chars().all(|c| c.is_ascii_hexdigit()));
            let character = code.and_then(|code| u32::from_str_radix(code, 16).ok()).and_then(char::from_u32);
            let Some(character) = character else {
                return Err(Error::new(format!(
                    "`\\{escape}` in a string is not followed by a character's code"
                )));
            };
            text.push(character);
            rest = &rest[digits..];
            continue;
        }
        match escape {
            '\n' => {}
            'n' => text.push('\n'),
            'r' => text.push('\r'),
            't' => text.push('\t'),
            'a' => text.push('\x07'),
            'b' => text.push('\x08'),
            'f' => text.push('\x0c'),
            'v' => text.push('\x0b'),
            '\\' | '\'' | '"' => text.push(escape),
            'N' => return Err(Error::new("characters cannot be named by `\\N` here")),
            other => {
                text.push('\\');
                text.push(other);
            }
        }
    }
    text.push_str(rest);
    Ok(text)
}

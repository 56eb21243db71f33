//! Numbers as people write them.

use std::fmt;
use std::sync::LazyLock;

use regex::{Captures, Regex};

/// A number of a text.
#[derive(Debug, Clone)]
pub enum Number {
    /// ± digits · 10^exponent, digits without zeros at either end; no digits are 0.
    Decimal {
        /// Below 0.
        negative: bool,
        /// Decimal digits.
        digits: String,
        /// Power of ten of the last digit.
        exponent: i64,
    },
    /// A fraction, or a whole number and a fraction.
    Fraction {
        /// As it is written.
        text: String,
        /// Its value.
        value: f64,
    },
}

/// Digits, with commas between groups of two (as in India) or three or without, and a decimal part; `.5` too.
const DIGITS: &str = r"(?:[0-9]{1,3}(?:,[0-9]{2,3})*,[0-9]{3}|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+";

/// Fractions that are one character.
const FRACTIONS: [(char, &str); 15] = [
    ('½', "1/2"),
    ('⅓', "1/3"),
    ('⅔', "2/3"),
    ('¼', "1/4"),
    ('¾', "3/4"),
    ('⅕', "1/5"),
    ('⅖', "2/5"),
    ('⅗', "3/5"),
    ('⅘', "4/5"),
    ('⅙', "1/6"),
    ('⅚', "5/6"),
    ('⅛', "1/8"),
    ('⅜', "3/8"),
    ('⅝', "5/8"),
    ('⅞', "7/8"),
];

/// Sign and currency in either order, digits, an exponent of ten, the denominator of a fraction.
static NUMBER: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let pattern = format!(
        r"(?P<sign>[-+−–]?)(?:\\?[$€£¥₹])?(?P<inner>[-+−–]?)(?:(?P<whole>[0-9]+)[ -](?P<over>[0-9]+)/(?P<under>[0-9]+)|(?P<digits>{DIGITS})(?:[eE](?P<exponent>[-+]?[0-9]{{1,6}})\b|\s?/\s?(?P<denominator>[0-9]+(?:\.[0-9]+)?))?)"
    );
    Regex::new(&pattern).ok()
});

/// LaTeX's fractions.
static LATEX: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"\\[dt]?frac\s*\{\s*([0-9]+)\s*\}\s*\{\s*([0-9]+)\s*\}").ok());

impl Number {
    /// The number that a text gives as its answer: the first one behind the first `####` that has any, else its last.
    /// Behind a final answer a model may go on with another question.
    pub fn answer_of(text: &str) -> Option<Self> {
        let text = &plain(text);
        for (mark, _) in text.match_indices("####") {
            let line = text[mark..].trim_start_matches('#').lines().next().unwrap_or_default();
            if let Some(number) = numbers(line).into_iter().next() {
                return Some(number);
            }
        }
        numbers(text).pop()
    }

    /// A number by itself.
    pub fn parse(text: &str) -> Option<Self> {
        numbers(&plain(text)).pop()
    }

    fn decimal(negative: bool, text: &str, power: i64) -> Self {
        let text = text.replace(',', "");
        let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
        let all = format!("{whole}{part}");
        let digits = all.trim_end_matches('0');
        let exponent = power - part.len() as i64 + (all.len() - digits.len()) as i64;
        let digits = digits.trim_start_matches('0').to_owned();
        match digits.is_empty() {
            // Zero has one form: neither a sign nor an exponent.
            true => Self::Decimal { negative: false, digits, exponent: 0 },
            false => Self::Decimal { negative, digits, exponent },
        }
    }

    /// The nearest f64. A decimal and a fraction of the same value have the same: both are rounded once.
    fn value(&self) -> f64 {
        match self {
            Self::Fraction { value, .. } => *value,
            Self::Decimal { negative, digits, exponent } => {
                let digits = if digits.is_empty() { "0" } else { digits };
                let sign = if *negative { "-" } else { "" };
                format!("{sign}{digits}e{exponent}").parse().unwrap_or(f64::NAN)
            }
        }
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Decimal { negative, digits, exponent },
                Self::Decimal { negative: other_negative, digits: other_digits, exponent: other_exponent },
            ) => (negative, digits, exponent) == (other_negative, other_digits, other_exponent),
            _ => self.value() == other.value(),
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (negative, digits, exponent) = match self {
            Self::Fraction { text, .. } => return formatter.write_str(text),
            Self::Decimal { negative, digits, exponent } => (*negative, digits, *exponent),
        };
        let sign = if negative { "-" } else { "" };
        let point = digits.len() as i64 + exponent;
        match (digits.len(), exponent) {
            (0, _) => formatter.write_str("0"),
            (_, 0..=20) => write!(formatter, "{sign}{digits}{}", "0".repeat(exponent as usize)),
            (_, -20..0) if point > 0 => {
                write!(formatter, "{sign}{}.{}", &digits[..point as usize], &digits[point as usize..])
            }
            (_, -20..0) => write!(formatter, "{sign}0.{}{digits}", "0".repeat(-point as usize)),
            _ => write!(formatter, "{sign}{digits}e{exponent}"),
        }
    }
}

/// LaTeX's commas and fractions, and fractions that are one character, as plain text.
fn plain(text: &str) -> String {
    let text = text.replace("{,}", ",").replace("\\,", "").replace('\u{a0}', " ");
    let text = match LATEX.as_ref() {
        Some(latex) => latex.replace_all(&text, "$1/$2").into_owned(),
        None => text,
    };
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        match FRACTIONS.iter().find(|(fraction, _)| *fraction == character) {
            Some((_, written)) => {
                if plain.ends_with(|before: char| before.is_ascii_digit()) {
                    plain.push(' ');
                }
                plain.push_str(written);
            }
            None => plain.push(character),
        }
    }
    plain
}

/// The numbers of a text in its order. Digits that go on a word (`CO2`) are none.
fn numbers(text: &str) -> Vec<Number> {
    let Some(pattern) = NUMBER.as_ref() else { return Vec::new() };
    let mut found = Vec::new();
    let mut position = 0;
    while let Some(captures) = pattern.captures_at(text, position) {
        let Some(whole) = captures.get(0) else { break };
        let before = text[..whole.start()].chars().next_back();
        let begins_with_digit = text[whole.start()..].starts_with(|c: char| c.is_ascii_digit());
        if begins_with_digit && before.is_some_and(|c| c.is_ascii_alphabetic() || c == '_') {
            let is_part = |c: char| c.is_ascii_digit() || matches!(c, '.' | ',');
            let end = text[whole.start()..].find(|c: char| !is_part(c));
            position = end.map_or(text.len(), |length| whole.start() + length);
            continue;
        }
        found.extend(read(&captures, before, &text[whole.end()..]));
        position = end_of(&captures, before, text, whole.end());
    }
    found
}

/// Where the next number may begin: behind the whole match, or behind that part of it that was read.
fn end_of(captures: &Captures<'_>, before: Option<char>, text: &str, end: usize) -> usize {
    let Some(digits) = captures.name("digits") else { return end };
    if is_split(digits.as_str(), &text[digits.end()..]) {
        return digits.start() + first_group(digits.as_str()).len();
    }
    match captures.name("denominator") {
        Some(_) if !is_fraction(captures, before, &text[end..]) => digits.end(),
        _ => end,
    }
}

/// Dates (`1/2/2020`) are no fractions, nor is what is divided by zero.
fn is_fraction(captures: &Captures<'_>, before: Option<char>, behind: &str) -> bool {
    let denominator = captures.name("denominator").map_or("0", |found| found.as_str());
    before != Some('/')
        && !behind.starts_with('/')
        && denominator.parse().is_ok_and(|value: f64| value != 0.0)
}

/// Whether digits with commas are cut off in the middle of a group: `1,8000` is 1 and 8000.
fn is_split(digits: &str, behind: &str) -> bool {
    digits.contains(',') && !digits.contains('.') && behind.starts_with(|c: char| c.is_ascii_digit())
}

fn first_group(digits: &str) -> &str {
    digits.split(',').next().unwrap_or_default()
}

/// The number of a match, `before` the character that precedes it.
fn read(captures: &Captures<'_>, before: Option<char>, behind: &str) -> Option<Number> {
    let text = |name| captures.name(name).map_or("", |found| found.as_str());
    // Between two numbers or behind a word it is a dash or a subtraction.
    let is_sign = !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, ')' | ']'));
    let is_minus = |sign: &str| matches!(sign, "-" | "−" | "–");
    let negative = (is_sign && is_minus(text("sign"))) || is_minus(text("inner"));
    let signed = |value: f64| if negative { -value } else { value };
    let sign = if negative { "-" } else { "" };
    if captures.name("whole").is_some() {
        let [whole, over, under] = ["whole", "over", "under"].map(text);
        let [a, b, c]: [f64; 3] = [whole.parse().ok()?, over.parse().ok()?, under.parse().ok()?];
        if c == 0.0 {
            return Some(Number::decimal(negative, whole, 0));
        }
        if b >= c {
            // Two numbers: a whole one, and a fraction.
            return Some(Number::Fraction { text: format!("{over}/{under}"), value: b / c });
        }
        let value = signed((a * c + b) / c);
        return Some(Number::Fraction { text: format!("{sign}{whole} {over}/{under}"), value });
    }
    let digits = text("digits");
    let rest = captures.get(0)?.as_str().split_once(digits).map_or("", |(_, rest)| rest);
    if is_split(digits, if rest.is_empty() { behind } else { rest }) {
        return Some(Number::decimal(negative, first_group(digits), 0));
    }
    if captures.name("denominator").is_some() && is_fraction(captures, before, behind) {
        let denominator = text("denominator");
        let over: f64 = digits.replace(',', "").parse().ok()?;
        let under: f64 = denominator.parse().ok()?;
        return Some(Number::Fraction {
            text: format!("{sign}{digits}/{denominator}"),
            value: signed(over / under),
        });
    }
    Some(Number::decimal(negative, digits, text("exponent").parse().unwrap_or(0)))
}

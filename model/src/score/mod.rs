//! How answers are judged: what is compared of a reference and of a generated text, and when the two agree.

mod choice;
mod json;
mod number;
#[cfg(test)]
mod tests;
mod text;

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::Reasoned;
pub(crate) use choice::{Choice, choices_in, letter_in, with_choice};
use number::Number;
pub(crate) use text::reasoning_end;

/// How a task's answers are judged.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Scoring {
    /// The answer is the reference, character for character, white space around both left out.
    #[default]
    Exact,
    /// The answer contains the reference as whole words; case, the kind of white space and punctuation around the
    /// reference do not count.
    Contains,
    /// The numbers are equal: the one behind the first `####`, else the last of the text.
    Number,
    /// The letters of the options are the same.
    Choice,
    /// What the pattern finds first in both is the same: its first group that takes part, else the whole match.
    Regex(Pattern),
    /// Both are JSON and say the same.
    Json,
}

/// Which of the ways to judge it is, without what it is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScoreKind {
    /// [`Scoring::Exact`].
    #[default]
    Exact,
    /// [`Scoring::Contains`].
    Contains,
    /// [`Scoring::Number`].
    Number,
    /// [`Scoring::Choice`].
    Choice,
    /// [`Scoring::Regex`].
    Regex,
    /// [`Scoring::Json`].
    Json,
}

impl ScoreKind {
    /// Lower-case name, as tables have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Contains => "contains",
            Self::Number => "number",
            Self::Choice => "choice",
            Self::Regex => "regex",
            Self::Json => "json",
        }
    }

    /// The one kind of several scores; none where they differ.
    pub fn common(kinds: impl IntoIterator<Item = Self>) -> Option<Self> {
        let mut kinds = kinds.into_iter();
        let first = kinds.next()?;
        kinds.all(|kind| kind == first).then_some(first)
    }
}

/// A regular expression, and the text it was made from.
#[derive(Debug, Clone)]
pub struct Pattern(regex::Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Pattern {
    fn find<'a>(&self, text: &'a str) -> Option<&'a str> {
        let found = self.0.captures(text)?;
        let group = found.iter().skip(1).flatten().next().or(found.get(0))?;
        Some(group.as_str().trim())
    }
}

/// What became of one answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What is compared of the reference.
    pub expected: String,
    /// What is compared of the answer; none where it has nothing of the kind.
    pub found: Option<String>,
    /// Whether the two agree.
    pub right: bool,
}

/// What stands before the pattern of a regular expression.
const REGEX: &str = "regex:";

/// The scores that can be asked for, as messages name them.
const NAMES: [&str; 6] = ["exact", "contains", "number", "choice", "regex:PATTERN", "json"];

/// Most bytes that a compiled pattern may take.
const LARGEST_PATTERN: usize = 1 << 20;

impl Scoring {
    /// Which of the kinds it is.
    pub fn kind(&self) -> ScoreKind {
        match self {
            Self::Exact => ScoreKind::Exact,
            Self::Contains => ScoreKind::Contains,
            Self::Number => ScoreKind::Number,
            Self::Choice => ScoreKind::Choice,
            Self::Regex(_) => ScoreKind::Regex,
            Self::Json => ScoreKind::Json,
        }
    }

    /// Judges an answer. What precedes the end of a reasoning part (`</think>`) counts in neither text, except for
    /// [`Scoring::Exact`]. `letters` are those of the options, for [`Scoring::Choice`].
    ///
    /// # Errors
    /// Saying what the reference lacks to be compared with.
    pub fn judge(
        &self,
        reference: &str,
        answer: &str,
        letters: &[char],
    ) -> std::result::Result<Verdict, String> {
        let expected = self.expected(reference, letters)?;
        if *self == Self::Exact {
            let found = answer.trim();
            return Ok(Verdict { right: expected == found, found: Some(found.to_owned()), expected });
        }
        let answer = text::without_reasoning(answer);
        let found = self.found(answer, letters);
        let right = match self {
            Self::Contains => text::contains_words(&text::normalised(answer), &expected),
            Self::Number => match (Number::answer_of(answer), Number::parse(&expected)) {
                (Some(found), Some(expected)) => found == expected,
                _ => false,
            },
            Self::Json => json::same(&expected, found.as_deref().unwrap_or_default()),
            _ => found.as_deref() == Some(expected.as_str()),
        };
        Ok(Verdict { expected, found, right })
    }

    /// What is compared of a reference.
    ///
    /// # Errors
    /// Saying what the reference lacks, as a sentence about it that begins with a verb.
    pub(crate) fn expected(&self, reference: &str, letters: &[char]) -> Reasoned<String> {
        if *self == Self::Exact {
            return Ok(reference.trim().to_owned());
        }
        let text = text::without_reasoning(reference);
        match self {
            Self::Exact => Ok(text.to_owned()),
            Self::Contains => {
                let wanted = text::without_edges(&text::normalised(text));
                if wanted.is_empty() {
                    return Err("has nothing that an answer could contain: no letter and no digit".into());
                }
                Ok(wanted)
            }
            Self::Number => Number::answer_of(text)
                .map(|number| number.to_string())
                .ok_or_else(|| "has no number to compare with".into()),
            Self::Choice => letter_in(text, letters).map(|(_, letter)| letter.to_string()).ok_or_else(|| {
                let letters: Vec<String> = letters.iter().map(char::to_string).collect();
                let known =
                    if letters.is_empty() { String::new() } else { format!(" ({})", letters.join(", ")) };
                format!("does not say the letter of an option{known}")
            }),
            Self::Regex(pattern) => pattern
                .find(text)
                .map(str::to_owned)
                .ok_or_else(|| format!("does not match the pattern `{}`", pattern.0.as_str())),
            Self::Json => json::part(text).ok_or_else(|| "is not JSON".into()),
        }
    }

    /// What is compared of an answer, without its reasoning.
    fn found(&self, answer: &str, letters: &[char]) -> Option<String> {
        match self {
            Self::Exact => Some(answer.to_owned()),
            Self::Contains => Some(text::normalised(answer)),
            Self::Number => Number::answer_of(answer).map(|number| number.to_string()),
            Self::Choice => letter_in(answer, letters).map(|(_, letter)| letter.to_string()),
            Self::Regex(pattern) => pattern.find(answer).map(str::to_owned),
            Self::Json => json::part(answer),
        }
    }
}

impl FromStr for Scoring {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        Ok(match text {
            "exact" => Self::Exact,
            "contains" => Self::Contains,
            "number" => Self::Number,
            "choice" => Self::Choice,
            "json" => Self::Json,
            "regex:" => return Err("has no pattern behind `regex:`".to_owned()),
            _ => match text.strip_prefix(REGEX) {
                Some(pattern) => Self::Regex(compile(pattern)?),
                None => return Err(format!("use one of {}", NAMES.join(", "))),
            },
        })
    }
}

/// The pattern; what is wrong with it in one line.
fn compile(pattern: &str) -> std::result::Result<Pattern, String> {
    let compiled = regex::RegexBuilder::new(pattern).size_limit(LARGEST_PATTERN).build();
    compiled.map(Pattern).map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => format!("the pattern `{pattern}` is too large"),
        // The message draws the pattern over several lines, and says last what is wrong.
        error => {
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            format!("the pattern `{pattern}` is not a regular expression: {reason}")
        }
    })
}

impl fmt::Display for Scoring {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Regex(pattern) => write!(formatter, "{REGEX}{}", pattern.0.as_str()),
            other => formatter.write_str(other.kind().name()),
        }
    }
}

impl Serialize for Scoring {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Scoring {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = Scoring;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&NAMES.join(", "))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Scoring, E> {
                text.parse().map_err(|reason| match text.starts_with(REGEX) {
                    true => E::custom(reason),
                    false => E::unknown_variant(text, &NAMES),
                })
            }
        }
        deserializer.deserialize_str(Name)
    }
}

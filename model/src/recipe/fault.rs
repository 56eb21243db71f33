//! TOML values as serde reads them, with errors that say in a person's words what is wrong with a value.

use std::fmt::{self, Display};

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{self, Expected, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;
use toml::Value;

/// What is wrong with a value, and what to use instead.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault(String);

impl Fault {
    fn instead(found: impl Display, expected: &dyn Display) -> Self {
        let expected = match expected.to_string().as_str() {
            "f64" => "a number".to_owned(),
            "u64" | "usize" => "a whole number that is not negative".to_owned(),
            "a boolean" => "true or false".to_owned(),
            "path string" => "a path in quotes".to_owned(),
            "a sequence" => "a list, [\"…\", \"…\"]".to_owned(),
            other => other.to_owned(),
        };
        Self(format!("is {found}: use {expected}"))
    }
}

impl Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: Display>(message: T) -> Self {
        Self(format!("cannot be used: {message}"))
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::instead(describe_unexpected(&found), &expected)
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(found: &str, names: &'static [&'static str]) -> Self {
        let hint = nearest(found, names.iter().copied());
        let hint = hint.map(|name| format!(", did you mean `{name}`?")).unwrap_or_default();
        Self(format!("is `{found}`: use {}{hint}", names.join(", ")))
    }
}

fn describe_unexpected(found: &Unexpected<'_>) -> String {
    match found {
        Unexpected::Str(text) => format!("the string {text:?}"),
        Unexpected::Signed(number) => format!("the number `{number}`"),
        Unexpected::Unsigned(number) => format!("the number `{number}`"),
        // A whole number is shown as the fraction it is.
        Unexpected::Float(number) => format!("the number `{number:?}`"),
        Unexpected::Bool(value) => format!("`{value}`"),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "a section".to_owned(),
        other => other.to_string(),
    }
}

/// A value as it is written.
pub fn describe(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Table(_) => "a section".to_owned(),
        Value::String(text) => format!("the string \"{text}\""),
        other => format!("`{other}`"),
    }
}

/// The known name that a misspelling most likely means: at most a third of its letters differ.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase().replace('-', "_");
    known
        .map(|name| (strsim::damerau_levenshtein(&word, name), name))
        .filter(|(distance, name)| *distance <= (name.chars().count() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// A TOML value that is read with [`Fault`] as the error.
#[derive(Debug, Clone, Copy)]
pub struct Typed<'a>(pub &'a Value);

impl<'de> de::Deserializer<'de> for Typed<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Value::String(text) => visitor.visit_str(text),
            Value::Integer(number) => visitor.visit_i64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Boolean(value) => visitor.visit_bool(*value),
            Value::Array(items) => visitor.visit_seq(SeqDeserializer::new(items.iter().map(Typed))),
            Value::Table(table) => {
                let entries = table.iter().map(|(key, value)| (key.as_str(), Typed(value)));
                visitor.visit_map(MapDeserializer::new(entries))
            }
            Value::Datetime(_) => Err(Fault::instead("a date", &(&visitor as &dyn Expected))),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.0 {
            Value::String(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            other => Err(Fault::instead(describe(other), &names.join(", "))),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl IntoDeserializer<'_, Fault> for Typed<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

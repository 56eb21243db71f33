//! Numbers that TOML has no values for.

use toml::de::DeValue;

/// A number that is written as TOML has it, and is too large for a value.
pub struct TooLarge {
    /// Where it lies within the value that was looked through: `.steps`, `[2]`; empty for the value itself.
    pub place: String,
    /// What is wrong, and what to use.
    pub reason: String,
}

/// The first number in a value, or within it, that is too large.
pub fn too_large(value: &DeValue<'_>) -> Option<TooLarge> {
    let inside = |place: String, value: &DeValue<'_>| {
        too_large(value).map(|found| TooLarge { place: place + &found.place, ..found })
    };
    let here = |reason: String| Some(TooLarge { place: String::new(), reason });
    match value {
        DeValue::Integer(number) if i64::from_str_radix(number.as_str(), number.radix()).is_err() => {
            let most = i64::MAX;
            here(format!(
                "is a whole number that is too large: use at most {most} (or less, as the key allows)"
            ))
        }
        DeValue::Float(number) if is_beyond(number.as_str()) => {
            here("is a number that is too large: use at most 1.7e308 (or less, as the key allows)".to_owned())
        }
        DeValue::Array(items) => {
            items.iter().enumerate().find_map(|(index, item)| inside(format!("[{index}]"), item.get_ref()))
        }
        DeValue::Table(table) => {
            table.iter().find_map(|(key, item)| inside(format!(".{}", key.get_ref()), item.get_ref()))
        }
        _ => None,
    }
}

/// Whether digits are a number that no float has.
fn is_beyond(text: &str) -> bool {
    text.contains(|letter: char| letter.is_ascii_digit())
        && text.parse().is_ok_and(|number: f64| number.is_infinite())
}

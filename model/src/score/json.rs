//! Answers in JSON.

use serde_json::{Number, Value};

use super::text::fenced;

/// The JSON of a text: all of it, or its first block of code.
pub fn part(text: &str) -> Option<String> {
    let is_json = |text: &&str| serde_json::from_str::<Value>(text).is_ok();
    let found = Some(text.trim()).filter(is_json).or_else(|| fenced(text).filter(is_json));
    found.map(str::to_owned)
}

/// Whether two texts in JSON say the same: the order of keys does not count, and numbers are equal by value.
pub fn same(left: &str, right: &str) -> bool {
    match (serde_json::from_str(left), serde_json::from_str(right)) {
        (Ok(left), Ok(right)) => same_value(&left, &right),
        _ => false,
    }
}

fn same_value(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => same_number(left, right),
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same_value(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(key, left)| right.get(key).is_some_and(|right| same_value(left, right)))
        }
        _ => left == right,
    }
}

/// Whole numbers digit by digit, others as the nearest f64.
fn same_number(left: &Number, right: &Number) -> bool {
    let is_whole = |number: &Number| number.is_i64() || number.is_u64();
    if is_whole(left) && is_whole(right) { left == right } else { left.as_f64() == right.as_f64() }
}

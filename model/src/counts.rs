//! Numbers of things, as messages and tables write them.

/// A whole number with its thousands set apart: `1 048 576`.
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index != 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A number of things: `1 row`, `2 rows`, `1 048 576 rows`. The noun is one of those whose plural ends in s.
pub fn counted(value: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(value), if value == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::{counted, grouped};

    #[test]
    fn thousands_are_set_apart_and_one_is_singular() {
        assert_eq!([grouped(0), grouped(999), grouped(1_048_576)], ["0", "999", "1 048 576"]);
        assert_eq!(
            [counted(1, "row"), counted(0, "row"), counted(1000, "row")],
            ["1 row", "0 rows", "1 000 rows"]
        );
    }
}

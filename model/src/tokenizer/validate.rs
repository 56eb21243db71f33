//! Parts of `tokenizer.json` on which the tokenizers library panics, hangs or takes all memory: they are
//! refused before it sees them.

use serde_json::Value;

use crate::error::Reasoned;

/// Most characters that normalizers and pre-tokenizers together may make of one.
const MOST_GROWTH: f64 = 4096.0;
/// Most repetitions that a pattern may ask for: they are unrolled when it is compiled.
const MOST_REPETITIONS: f64 = 1e6;

/// Refuses what the library cannot be given.
pub(super) fn check_definition(json: &Value) -> Reasoned<()> {
    let mut growth = 1.0;
    for part in ["normalizer", "pre_tokenizer", "decoder"] {
        check_part(&json[part], &mut growth)
            .map_err(|reason| format!("its `{part}` cannot be used: {reason}"))?;
        if growth > MOST_GROWTH {
            return Err(format!("its `{part}` makes text more than {MOST_GROWTH} times as long"));
        }
    }
    check_post_processor(&json["post_processor"])
}

fn check_post_processor(part: &Value) -> Reasoned<()> {
    part["processors"].as_array().into_iter().flatten().try_for_each(check_post_processor)?;
    for (name, token) in part["special_tokens"].as_object().into_iter().flatten() {
        let length = |list: &str| token[list].as_array().map_or(0, Vec::len);
        if length("ids") != length("tokens") {
            let name = name.escape_debug();
            return Err(format!("its `post_processor` has not as many `ids` as `tokens` for `{name}`"));
        }
    }
    Ok(())
}

/// True when a decoder takes characters from the end of a token.
pub(super) fn strips_ends(decoder: &Value) -> bool {
    let inner = decoder["decoders"].as_array();
    let here = decoder["type"] == "Strip" && decoder["stop"].as_u64().is_some_and(|count| count > 0);
    here || inner.into_iter().flatten().any(strips_ends)
}

fn check_part(part: &Value, growth: &mut f64) -> Reasoned<()> {
    for list in ["normalizers", "pretokenizers", "decoders"] {
        for inner in part[list].as_array().into_iter().flatten() {
            check_part(inner, growth)?;
        }
    }
    match part["type"].as_str() {
        Some("Replace") => *growth *= check_replace(part)?,
        Some("Split") => check_pattern(&part["pattern"])?,
        Some("Precompiled") => check_precompiled(&part["precompiled_charsmap"])?,
        Some("FixedLength") if part["length"] == 0 => return Err("`FixedLength` has a `length` of 0".into()),
        // Each byte becomes a character of up to two.
        Some("ByteLevel") => *growth *= 2.0,
        Some("Prepend") => {
            let length = part["prepend"].as_str().map_or(0, |text| text.chars().count());
            *growth += length as f64 / 16.0;
        }
        _ => {}
    }
    Ok(())
}

/// How many times longer a text may become.
fn check_replace(part: &Value) -> Reasoned<f64> {
    check_pattern(&part["pattern"])?;
    let content = part["content"].as_str().map_or(0, |text| text.chars().count()) as f64;
    if let Some(text) = part["pattern"].as_str().or_else(|| part["pattern"]["String"].as_str()) {
        return Ok((content / text.chars().count() as f64).max(1.0));
    }
    let pattern = part["pattern"]["Regex"].as_str().unwrap_or_default();
    let may_match_nothing = pattern.contains(['*', '?', '|', '^', '$', '\\', '{']);
    Ok(if may_match_nothing { 1.0 + content } else { content.max(1.0) })
}

fn check_pattern(pattern: &Value) -> Reasoned<()> {
    if pattern.as_str().or_else(|| pattern["String"].as_str()) == Some("") || pattern["Regex"] == "" {
        return Err("a pattern is empty".into());
    }
    let counts = pattern["Regex"].as_str().unwrap_or_default().split('{').skip(1);
    let repetitions = counts
        .filter_map(|rest| rest.split_once('}'))
        .flat_map(|(counts, _)| {
            counts.split(',').filter_map(|count| count.parse::<f64>().ok()).reduce(f64::max)
        })
        .fold(1.0, |product, count| product * count.max(1.0));
    if repetitions > MOST_REPETITIONS {
        return Err(format!("a pattern asks for more than {MOST_REPETITIONS} repetitions"));
    }
    Ok(())
}

/// A map is the length of its trie in bytes (32 bits, little-endian), the trie, and the replacements.
fn check_precompiled(map: &Value) -> Reasoned<()> {
    let text = map.as_str().ok_or("`precompiled_charsmap` is not a string")?.as_bytes();
    let padding = text.iter().rev().take_while(|&&byte| byte == b'=').count();
    let bytes = (text.len() / 4 * 3).saturating_sub(padding);
    let length =
        text.get(..8).and_then(first_number).ok_or("`precompiled_charsmap` is damaged: it has no trie")?;
    let length = length as usize;
    if length < 4 || !length.is_multiple_of(4) || bytes < 4 + length {
        return Err(format!(
            "`precompiled_charsmap` is damaged: it holds {bytes} bytes, and says that {length} are its trie"
        ));
    }
    Ok(())
}

/// The first four bytes of base64 text as a number.
fn first_number(text: &[u8]) -> Option<u32> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bits = 0_u64;
    for &letter in &text[..6] {
        bits = bits << 6 | ALPHABET.iter().position(|&known| known == letter)? as u64;
    }
    // Six letters are 36 bits: the lowest four belong to the next byte.
    Some(((bits >> 4) as u32).swap_bytes())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(part: &str, value: Value) -> String {
        check_definition(&json!({ part: value })).unwrap_err()
    }

    #[test]
    fn damaged_maps_are_refused() {
        let precompiled = |map: &str| json!({"type": "Precompiled", "precompiled_charsmap": map});
        for map in ["", "/////wAAAAA=", "AAAA", "AAAAAA==", "BwAAAAAAAAAAAAA=", "?"] {
            assert!(refusal("normalizer", precompiled(map)).contains("precompiled_charsmap"), "{map}");
        }
        // Four bytes of trie, then one of text.
        assert_eq!(check_definition(&json!({"normalizer": precompiled("BAAAAAAAAAAA")})), Ok(()));
    }

    #[test]
    fn texts_may_not_grow_without_limit() {
        let doubling = json!({"type": "Replace", "pattern": {"String": "1"}, "content": "11"});
        let sequence =
            |count: usize| json!({"type": "Sequence", "normalizers": vec![doubling.clone(); count]});
        assert!(refusal("normalizer", sequence(30)).contains("times as long"));
        assert_eq!(check_definition(&json!({"normalizer": sequence(3)})), Ok(()));
        let levels = json!({"type": "Sequence", "pretokenizers": vec![json!({"type": "ByteLevel"}); 40]});
        assert!(refusal("pre_tokenizer", levels).contains("times as long"));
    }

    #[test]
    fn patterns_and_lengths_are_checked() {
        let replace = json!({"type": "Replace", "pattern": {"String": ""}, "content": "12"});
        assert!(refusal("normalizer", replace).contains("a pattern is empty"));
        assert!(
            refusal("pre_tokenizer", json!({"type": "FixedLength", "length": 0})).contains("`length` of 0")
        );
        let split = json!({"type": "Split", "pattern": {"Regex": "((a{1000}){1000}){1000}"}});
        assert!(refusal("pre_tokenizer", split).contains("repetitions"));
    }
}

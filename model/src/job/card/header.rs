//! The YAML header of a model card: what is read of the base's, and how values are written.

/// What the base's card says that holds for a model made of it as well.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BaseHeader {
    /// `language`: codes of languages.
    pub languages: Vec<String>,
    /// `license`: the hub's name of it.
    pub license: Option<String>,
    /// `license_name`, for licences that the hub has no name of.
    pub license_name: Option<String>,
    /// `license_link`: an address, or a file of the repository.
    pub license_link: Option<String>,
}

impl BaseHeader {
    /// Reads the header of a card. Fields that are missing, or are written in another form than `key: value`,
    /// `key: [a, b]` or a list of lines, are left out: the card is made for people, and nothing depends on them.
    pub fn parse(card: &str) -> Self {
        let mut header = Self::default();
        let mut lines = card.lines().map(str::trim_end);
        if lines.next().map(|line| line.trim_start_matches('\u{feff}')) != Some("---") {
            return header;
        }
        let lines: Vec<&str> = lines.take_while(|line| *line != "---").collect();
        for (index, line) in lines.iter().enumerate() {
            let Some((key, value)) = line.split_once(':') else { continue };
            let field = match key {
                "language" => {
                    header.languages = list(value, &lines[index + 1..]);
                    continue;
                }
                "license" => &mut header.license,
                "license_name" => &mut header.license_name,
                "license_link" => &mut header.license_link,
                _ => continue,
            };
            *field = scalar(value);
        }
        header
    }
}

/// A list: behind its key, or in the lines that follow.
fn list(value: &str, following: &[&str]) -> Vec<String> {
    let value = value.trim();
    if let Some(inner) = value.strip_prefix('[').and_then(|value| value.strip_suffix(']')) {
        return inner.split(',').filter_map(scalar).collect();
    }
    if !value.is_empty() && !value.starts_with('#') {
        return scalar(value).into_iter().collect();
    }
    let items = following.iter().map_while(|line| line.trim_start().strip_prefix("- "));
    items.filter_map(scalar).collect()
}

/// A plain or quoted value; none for what is empty or of another form.
fn scalar(text: &str) -> Option<String> {
    let text = text.trim();
    if let Some(quote) = text.chars().next().filter(|first| matches!(first, '"' | '\'')) {
        let (quoted, after) = text.split_at(text.rfind(quote)? + 1);
        let is_whole = after.is_empty() || after.trim_start().starts_with('#');
        return match quote {
            _ if !is_whole || quoted.len() < 2 => None,
            '"' => serde_json::from_str(quoted).ok(),
            _ => Some(quoted[1..quoted.len() - 1].replace("''", "'")),
        };
    }
    let plain = text.split(" #").next().unwrap_or_default().trim();
    let is_other = plain.starts_with(['&', '*', '!', '|', '>', '{', '[', '%', '@', '`', '#']);
    (!plain.is_empty() && plain != "null" && plain != "~" && !is_other).then(|| plain.to_owned())
}

/// A value as YAML writes it: plain where it cannot be taken for anything but a text, else in double quotes.
pub fn yaml(text: &str) -> String {
    let is_first = text.starts_with(|first: char| first.is_ascii_alphabetic());
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '/' | '-');
    let is_reserved = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"]
        .iter()
        .any(|word| text.eq_ignore_ascii_case(word));
    if is_first && text.chars().all(allowed) && !is_reserved {
        return text.to_owned();
    }
    // A text in JSON is one in YAML.
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn language_and_licence_are_read_in_every_usual_form() {
        let card = "---\nlanguage:\n- en\n- 'no' # Norwegian\nlicense: other\nlicense_name: \"my licence\"\n\
                    license_link: LICENSE\nmodel-index:\n- name: x\n---\n# A model\nlicense: mit\n";
        let header = BaseHeader::parse(card);
        assert_eq!(header.languages, ["en", "no"]);
        assert_eq!(header.license.as_deref(), Some("other"));
        assert_eq!(header.license_name.as_deref(), Some("my licence"));
        assert_eq!(header.license_link.as_deref(), Some("LICENSE"));

        let header = BaseHeader::parse("---\r\nlanguage: [en, de]\r\nlicense: apache-2.0\r\n---\r\n");
        assert_eq!((header.languages.len(), header.license.as_deref()), (2, Some("apache-2.0")));
        assert_eq!(BaseHeader::parse("---\nlanguage: en\n---").languages, ["en"]);
    }

    #[test]
    fn what_is_no_header_says_nothing() {
        for card in
            ["", "# A model\nlicense: mit", "---\nlicense: &anchor mit\nlanguage:\n  en: 1\n---\n", "---"]
        {
            assert_eq!(BaseHeader::parse(card), BaseHeader::default(), "{card:?}");
        }
    }

    #[test]
    fn values_that_yaml_reads_otherwise_are_quoted() {
        assert_eq!(yaml("apache-2.0"), "apache-2.0");
        assert_eq!(yaml("org/name"), "org/name");
        for text in ["no", "True", "1.0", "~", "a: b", "", "- x", "a\nb", "\"", "null"] {
            let written = yaml(text);
            assert!(written.starts_with('"'), "{written}");
            assert_eq!(serde_json::from_str::<String>(&written).unwrap(), text);
        }
    }
}

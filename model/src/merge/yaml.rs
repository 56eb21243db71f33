//! YAML as a tree whose nodes know their lines, and reading it key by key.

use std::collections::HashMap;
use std::path::Path;

use saphyr_parser::{Event, Parser, ScalarStyle};

use crate::contain::contain;
use crate::error::{Error, Result, clip};
use crate::files::read_input_text;
use crate::recipe::nearest;

/// Most nodes of a document, those that aliases repeat counted each time.
const MOST_NODES: usize = 20_000;

/// Most lists and mappings inside each other.
const MOST_LEVELS: usize = 64;

/// A value, and the line it begins in.
#[derive(Debug, Clone)]
struct Node {
    line: usize,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    /// As it is written. What is quoted is a text, whatever it looks like.
    Scalar {
        text: String,
        is_quoted: bool,
    },
    List(Vec<Node>),
    /// Keys and values in their order.
    Map(Vec<(Node, Node)>),
}

impl Node {
    fn size(&self) -> usize {
        match &self.content {
            Content::Scalar { .. } => 1,
            Content::List(nodes) => 1 + nodes.iter().map(Self::size).sum::<usize>(),
            Content::Map(entries) => {
                1 + entries.iter().map(|(key, value)| key.size() + value.size()).sum::<usize>()
            }
        }
    }

    fn is_null(&self) -> bool {
        match &self.content {
            Content::Scalar { text, is_quoted } => {
                !is_quoted && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL")
            }
            _ => false,
        }
    }
}

/// A document of YAML in a file.
pub(super) struct Document<'a> {
    file: &'a Path,
    root: Node,
}

impl<'a> Document<'a> {
    /// Reads a file with one document.
    ///
    /// # Errors
    /// It cannot be read, is not YAML, has several documents, tags, or far too many nodes.
    pub fn read(file: &'a Path) -> Result<Self> {
        let text = read_input_text(file)?;
        let root = contain("YAML", || Tree::default().build(file, &text));
        Ok(Self { file, root: root.map_err(|reason| Error::format(file, reason))?? })
    }

    /// Its root.
    pub fn root(&self) -> Value<'_> {
        Value { file: self.file, key: String::new(), node: &self.root }
    }
}

/// A list or mapping that has not ended.
struct Open {
    node: Node,
    anchor: usize,
    /// A mapping's key whose value comes next.
    key: Option<Node>,
}

/// A tree that is being built.
#[derive(Default)]
struct Tree {
    open: Vec<Open>,
    root: Option<Node>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl Tree {
    fn build(mut self, file: &Path, text: &str) -> Result<Node> {
        let mut documents = 0;
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| {
                Error::line(file, error.marker().line(), format!("is not YAML: {}", error.info()))
            })?;
            let line = span.start.line();
            let refuse = |reason: &str| Err(Error::line(file, line, reason));
            let mut begin = |content, anchor| {
                self.open.push(Open { node: Node { line, content }, anchor, key: None });
                self.open.len() <= MOST_LEVELS
            };
            let is_in_bounds = match event {
                Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => true,
                Event::DocumentStart(_) => {
                    documents += 1;
                    if documents > 1 {
                        return refuse(
                            "a second document begins: a merge is one document, give it a file of its own",
                        );
                    }
                    true
                }
                Event::Scalar(_, _, _, Some(tag))
                | Event::SequenceStart(_, Some(tag))
                | Event::MappingStart(_, Some(tag)) => {
                    return refuse(&format!("tags as `{}` are not read", clip(&tag.to_string())));
                }
                Event::Scalar(text, style, anchor, None) => {
                    let content =
                        Content::Scalar { text: text.into_owned(), is_quoted: style != ScalarStyle::Plain };
                    self.end(Node { line, content }, anchor)
                }
                Event::SequenceStart(anchor, None) => begin(Content::List(Vec::new()), anchor),
                Event::MappingStart(anchor, None) => begin(Content::Map(Vec::new()), anchor),
                Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                    Some(open) => self.end(open.node, open.anchor),
                    None => true,
                },
                Event::Alias(anchor) => match self.anchors.get(&anchor) {
                    Some(node) => {
                        self.nodes += node.size();
                        let copy =
                            (self.nodes <= MOST_NODES).then(|| Node { line, content: node.content.clone() });
                        copy.is_some_and(|node| self.end(node, 0))
                    }
                    None => return refuse("an alias stands inside what it stands for"),
                },
            };
            if !is_in_bounds || self.nodes > MOST_NODES {
                let reason = format!(
                    "is too large for a merge: more than {MOST_NODES} values, or {MOST_LEVELS} inside each other"
                );
                return Err(Error::line(file, line, reason));
            }
        }
        self.root.ok_or_else(|| Error::format(file, "is empty"))
    }

    /// Puts a node that is whole where it belongs; false where there are too many.
    fn end(&mut self, node: Node, anchor: usize) -> bool {
        // What has an anchor is kept for aliases besides.
        self.nodes += 1 + if anchor == 0 { 0 } else { node.size() };
        if self.nodes > MOST_NODES {
            return false;
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(parent) = self.open.last_mut() else {
            self.root = Some(node);
            return true;
        };
        match &mut parent.node.content {
            Content::List(nodes) => nodes.push(node),
            Content::Map(entries) => match parent.key.take() {
                None => parent.key = Some(node),
                Some(key) => entries.push((key, node)),
            },
            Content::Scalar { .. } => {}
        }
        true
    }
}

/// A value of a document: where it is, and what it is called.
#[derive(Clone)]
pub(super) struct Value<'a> {
    file: &'a Path,
    key: String,
    node: &'a Node,
}

impl<'a> Value<'a> {
    /// An error that names file, line and key.
    pub fn refuse(&self, reason: impl std::fmt::Display) -> Error {
        let reason = match self.key.as_str() {
            "" => reason.to_string(),
            key => format!("`{key}` {reason}"),
        };
        Error::line(self.file, self.node.line, reason)
    }

    /// Number of the line it begins in, and its key.
    pub fn place(&self) -> (usize, String) {
        (self.node.line, self.key.clone())
    }

    /// The entry of a key that stands there without a value, which [`Value::fields`] counts as left out.
    pub fn empty_entry(&self, name: &str) -> Option<Self> {
        let Content::Map(entries) = &self.node.content else { return None };
        let is = |(key, value): &&(Node, Node)| {
            matches!(&key.content, Content::Scalar { text, .. } if text == name) && value.is_null()
        };
        entries.iter().find(is).map(|(_, value)| self.inside(name, value))
    }

    /// Number of the line it begins in.
    pub fn line(&self) -> usize {
        self.node.line
    }

    /// Whether it is neither a list nor a mapping.
    pub fn is_scalar(&self) -> bool {
        matches!(self.node.content, Content::Scalar { .. })
    }

    /// Whether it is a mapping.
    pub fn is_map(&self) -> bool {
        matches!(self.node.content, Content::Map(_))
    }

    /// A text.
    pub fn text(&self) -> Result<&'a str> {
        match &self.node.content {
            Content::Scalar { text, .. } => Ok(text),
            _ => Err(self.refuse(format!("is to be a text, not {}", self.kind()))),
        }
    }

    /// What it is, in the words of errors.
    fn kind(&self) -> String {
        match &self.node.content {
            Content::Scalar { text, .. } => format!("`{}`", clip(text)),
            Content::List(_) => "a list".to_owned(),
            Content::Map(_) => "a mapping of keys".to_owned(),
        }
    }

    /// A number; a switch counts as 1 or 0.
    pub fn number(&self) -> Result<f64> {
        let text = self.decimal("a number")?;
        // YAML separates digits by underscores, and Rust does not.
        let number = text.parse().or_else(|_| text.replace('_', "").parse());
        match (number, self.word()) {
            (Ok(number), _) if f64::is_finite(number) => Ok(number),
            (_, Some(flag)) => Ok(f64::from(u8::from(flag))),
            _ => Err(self.refuse(format!("is to be a number, not {}", self.kind()))),
        }
    }

    /// A whole number that is not negative.
    pub fn whole(&self) -> Result<usize> {
        let text = self.decimal("a whole number")?;
        text.parse().map_err(|_| self.refuse(format!("is to be a whole number, not {}", self.kind())))
    }

    /// The text of a number. YAML 1.1 reads digits behind a zero as octal, YAML 1.2 as decimal: which was meant is not known.
    fn decimal(&self, wanted: &str) -> Result<&'a str> {
        let Content::Scalar { text, is_quoted } = &self.node.content else {
            return Err(self.refuse(format!("is to be {wanted}, not {}", self.kind())));
        };
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        let is_octal = digits.len() > 1
            && digits.starts_with('0')
            && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
        match is_octal && !is_quoted {
            true => Err(self.refuse(format!(
                "is to be {wanted}, and `{}` is an octal one in YAML 1.1: leave out the zero before it",
                clip(text)
            ))),
            false => Ok(text),
        }
    }

    /// A switch: a word of YAML's, or 1 or 0.
    pub fn flag(&self) -> Result<bool> {
        let number = || self.number().ok().filter(|number| [0.0, 1.0].contains(number));
        let flag = self.word().or_else(|| number().map(|number| number == 1.0));
        flag.ok_or_else(|| self.refuse(format!("is to be true or false, not {}", self.kind())))
    }

    /// What a word of YAML 1.1 says that is not quoted.
    fn word(&self) -> Option<bool> {
        let Content::Scalar { text, is_quoted: false } = &self.node.content else { return None };
        match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" => Some(true),
            "false" | "no" | "off" => Some(false),
            _ => None,
        }
    }

    /// The values of a list.
    pub fn list(&self) -> Result<Vec<Self>> {
        let Content::List(nodes) = &self.node.content else {
            return Err(self.refuse(format!("is to be a list, not {}", self.kind())));
        };
        let value = |(index, node)| Value { file: self.file, key: format!("{}[{index}]", self.key), node };
        Ok(nodes.iter().enumerate().map(value).collect())
    }

    /// The entries of a mapping; those of `<<` count where the mapping does not have them itself.
    ///
    /// # Errors
    /// It is none; a key is no text, or given twice.
    pub fn fields(&self) -> Result<Fields<'a>> {
        let Content::Map(entries) = &self.node.content else {
            return Err(self.refuse(format!("is to be a mapping of keys, not {}", self.kind())));
        };
        let (mut fields, mut merged) = (Vec::<(&str, Value<'a>)>::new(), Vec::new());
        for (name, node) in entries {
            let Content::Scalar { text, is_quoted } = &name.content else {
                return Err(self.inside("?", name).refuse("is no name of a key"));
            };
            if text == "<<" && !is_quoted {
                merged.push(self.inside("<<", node));
                continue;
            }
            if fields.iter().any(|(other, _)| other == text) {
                return Err(self.inside(text, name).refuse("is given twice"));
            }
            fields.push((text, self.inside(text, node)));
        }
        for value in merged {
            let maps = if value.is_map() { vec![value] } else { value.list()? };
            for map in maps {
                for (name, value) in map.fields()?.entries {
                    if fields.iter().all(|(other, _)| *other != name) {
                        fields.push((name, self.inside(name, value.node)));
                    }
                }
            }
        }
        fields.retain(|(_, value)| !value.node.is_null());
        Ok(Fields { entries: fields })
    }

    fn inside(&self, name: &str, node: &'a Node) -> Self {
        let name = clip(name);
        let key = if self.key.is_empty() { name } else { format!("{}.{name}", self.key) };
        Value { file: self.file, key, node }
    }
}

/// The entries of a mapping that are not read yet; those that are empty count as left out.
pub(super) struct Fields<'a> {
    entries: Vec<(&'a str, Value<'a>)>,
}

impl<'a> Fields<'a> {
    /// The value of a key.
    pub fn take(&mut self, name: &str) -> Option<Value<'a>> {
        let index = self.entries.iter().position(|(other, _)| *other == name)?;
        Some(self.entries.remove(index).1)
    }

    /// All that are left.
    pub fn rest(self) -> Vec<(&'a str, Value<'a>)> {
        self.entries
    }

    /// Fails where something is left, which is none of the keys that are known.
    pub fn end(self, known: &[&str]) -> Result<()> {
        match self.entries.first() {
            Some((name, value)) => Err(unknown(name, value, known)),
            None => Ok(()),
        }
    }
}

/// The error of a key that is not known.
pub(super) fn unknown(name: &str, value: &Value<'_>, known: &[&str]) -> Error {
    // Of a name that is far longer than any there is no use looking.
    let hint = if name.len() < 64 { nearest(name, known.iter().copied()) } else { None };
    let hint = hint.map_or(String::new(), |name| format!("; did you mean `{name}`?"));
    value.refuse(format!("is not known here{hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<R>(text: &str, work: impl FnOnce(Result<Value<'_>>) -> R) -> R {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let document = Document::read(file.path());
        work(document.as_ref().map(Document::root).map_err(|error| Error::Job(error.to_string())))
    }

    fn refused(text: &str) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let message = Document::read(file.path()).err().expect("it is refused").to_string();
        message.strip_prefix(&format!("{}:", file.path().display())).expect("it names the file").to_owned()
    }

    #[test]
    fn values_know_their_places() {
        with("a:\n  - b: 1e-3\n    c: 'no'\n  - {d: ~, e: off}\n", |root| {
            let mut fields = root.unwrap().fields().unwrap();
            let list = fields.take("a").unwrap().list().unwrap();
            let mut first = list[0].fields().unwrap();
            assert_eq!(first.take("b").unwrap().number().unwrap(), 1e-3);
            // What is quoted is a text.
            let message = first.take("c").unwrap().number().unwrap_err().to_string();
            assert!(message.ends_with(":3: `a[0].c` is to be a number, not `no`"), "{message}");
            let mut second = list[1].fields().unwrap();
            assert!(second.take("d").is_none());
            let value = second.take("e").unwrap();
            assert!(!value.flag().unwrap());
            let message = value.whole().unwrap_err().to_string();
            assert!(message.ends_with(":4: `a[1].e` is to be a whole number, not `off`"), "{message}");
        });
    }

    #[test]
    fn scalars_are_read_as_in_yaml_1_1_or_not_at_all() {
        for (text, number) in [
            ("5", 5.0),
            ("-0", 0.0),
            ("0.5", 0.5),
            ("00.5", 0.5),
            ("1_0", 10.0),
            ("'010'", 10.0),
            ("Yes", 1.0),
        ] {
            with(text, |root| assert_eq!(root.unwrap().number().unwrap(), number, "{text}"));
        }
        for text in ["010", "-07", "0_1", "1:30", "0x10", ".inf", "y", "'true'", "[1]"] {
            with(text, |root| assert!(root.unwrap().number().is_err(), "{text}"));
        }
        for text in ["0.5", "y", "t", "n", "'yes'", "2", "01", "[on]"] {
            with(text, |root| assert!(root.unwrap().flag().is_err(), "{text}"));
        }
        for (text, flag) in [("TRUE", true), ("off", false), ("1", true), ("0.0", false)] {
            with(text, |root| assert_eq!(root.unwrap().flag().unwrap(), flag, "{text}"));
        }
        with("010", |root| {
            let message = root.unwrap().whole().unwrap_err().to_string();
            assert!(message.contains("is to be a whole number, and `010` is an octal one"), "{message}");
        });
        with("a: [x]", |root| {
            let message = root.unwrap().fields().unwrap().take("a").unwrap().text().unwrap_err().to_string();
            assert!(message.ends_with("`a` is to be a text, not a list"), "{message}");
        });
    }

    #[test]
    fn aliases_and_merge_keys_are_followed() {
        with("a: &x {p: 1, q: 2}\nb:\n  <<: *x\n  q: 3\n", |root| {
            let mut fields = root.unwrap().fields().unwrap();
            let mut b = fields.take("b").unwrap().fields().unwrap();
            assert_eq!(b.take("q").unwrap().number().unwrap(), 3.0);
            assert_eq!(b.take("p").unwrap().number().unwrap(), 1.0);
            b.end(&[]).unwrap();
        });
    }

    #[test]
    fn what_is_no_document_is_refused() {
        for (text, says) in [
            ("a: [1", "is not YAML"),
            ("", "is empty"),
            ("a: 1\n---\nb: 2\n", "2: a second document"),
            ("a: !!python/object:os.system x", "1: tags"),
            ("a: &x [*x]", "alias"),
        ] {
            let message = refused(text);
            assert!(message.contains(says), "{text}: {message}");
        }
        with("a: 1\na: 2\n", |root| {
            let message = root.unwrap().fields().err().unwrap().to_string();
            assert!(message.ends_with(":2: `a` is given twice"), "{message}");
        });
    }

    /// Ten aliases of ten aliases of …; lists in lists in lists.
    #[test]
    fn what_grows_without_bounds_is_refused() {
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..30 {
            let before = format!("*a{},", level - 1).repeat(10);
            bomb.push_str(&format!("a{level}: &a{level} [{before}]\n"));
        }
        assert!(refused(&bomb).contains("too large"));
        for nested in
            ["[".repeat(100_000), "- ".repeat(100_000), "{a: ".repeat(100_000), "? ".repeat(100_000)]
        {
            assert!(refused(&nested).len() < 200);
        }
        assert!(refused(&"- x\n".repeat(200_000)).contains("too large"));
    }
}

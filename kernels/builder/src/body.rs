//! The text of a kernel's body as labels, scopes, declarations and statements.

/// What stands in a body.
#[derive(Debug, Clone, PartialEq)]
pub enum Item<'a> {
    /// `{`, where a statement could begin.
    Open,
    /// `}`, after the last statement of a scope.
    Close,
    /// `$L_2:`, or any other name.
    Label(&'a str),
    /// `.reg .b32 %r<12>;`, without the semicolon.
    Directive(&'a str),
    /// An instruction.
    Statement(Statement<'a>),
}

/// An instruction in text.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement<'a> {
    /// `@%p1` or `@!%p1`: the predicate, and what it must be.
    pub guard: Option<(&'a str, bool)>,
    /// As `add.s32`.
    pub name: &'a str,
    /// Separated by commas.
    pub operands: Vec<Operand<'a>>,
    /// All of it, without the guard.
    pub text: &'a str,
}

/// An operand in text.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand<'a> {
    /// A register, a number or a symbol.
    Plain(&'a str),
    /// `{%r1, %r2}`.
    List(Vec<&'a str>),
    /// `[%rd1+16]`.
    Address(&'a str, i64),
    /// `[%rd1, {%r1, %r2}]`: a tensor map and coordinates.
    Tile(&'a str, Vec<&'a str>),
}

/// Goes through a text and counts lines.
#[derive(Debug, Clone)]
pub struct Scanner<'a> {
    rest: &'a str,
    /// Of what was read last, or of what comes next behind [`Scanner::skip`].
    pub line: u32,
}

impl<'a> Scanner<'a> {
    /// Reads a text that begins in this line.
    pub fn new(text: &'a str, line: u32) -> Self {
        Self { rest: text, line }
    }

    /// What was not read yet.
    pub fn rest(&self) -> &'a str {
        self.rest
    }

    /// What comes next, with the line it begins in.
    ///
    /// # Errors
    /// A statement that does not end, or operands that do not.
    pub fn next_item(&mut self) -> Result<Option<(u32, Item<'a>)>, String> {
        self.skip();
        let line = self.line;
        let item = match self.rest.as_bytes().first() {
            None => return Ok(None),
            Some(b'{') => {
                self.take(1);
                Item::Open
            }
            Some(b'}') => {
                self.take(1);
                Item::Close
            }
            Some(b'$') => Item::Label(self.until(':').ok_or("a label without a colon")?),
            Some(_) if self.is_at_label() => Item::Label(self.until(':').ok_or("a label without a colon")?),
            Some(b'.') => Item::Directive(self.until(';').ok_or("a directive that does not end")?),
            _ => {
                let text = self.until(';').ok_or("a statement that does not end")?;
                Item::Statement(Statement::parse(text)?)
            }
        };
        Ok(Some((line, item)))
    }

    /// Whether a label comes next: a name with a colon behind it. Two are part of an instruction's name.
    fn is_at_label(&self) -> bool {
        let letters = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '$');
        let behind = self.rest.trim_start_matches(letters);
        behind.len() < self.rest.len() && behind.starts_with(':') && !behind.starts_with("::")
    }

    /// Steps over blanks and comments.
    fn skip(&mut self) {
        loop {
            let blanks = self.rest.len() - self.rest.trim_start().len();
            self.take(blanks);
            if !self.rest.starts_with("//") {
                return;
            }
            let end = self.rest.find('\n').unwrap_or(self.rest.len());
            self.take(end);
        }
    }

    /// What stands before `end`, which is stepped over.
    fn until(&mut self, end: char) -> Option<&'a str> {
        let place = self.rest.find(end)?;
        let text = self.take(place + end.len_utf8());
        Some(text[..place].trim())
    }

    fn take(&mut self, bytes: usize) -> &'a str {
        let (text, rest) = self.rest.split_at(bytes);
        self.line += text.bytes().filter(|&byte| byte == b'\n').count() as u32;
        self.rest = rest;
        text
    }
}

impl<'a> Statement<'a> {
    fn parse(text: &'a str) -> Result<Self, String> {
        let (guard, text) = match text.strip_prefix('@') {
            None => (None, text),
            Some(guarded) => {
                let (predicate, text) =
                    guarded.split_once(char::is_whitespace).ok_or("a guard without an instruction")?;
                let (predicate, holds) = match predicate.strip_prefix('!') {
                    Some(predicate) => (predicate, false),
                    None => (predicate, true),
                };
                (Some((predicate, holds)), text.trim_start())
            }
        };
        let (name, operands) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        Ok(Self {
            guard,
            name,
            operands: split(operands)?.into_iter().map(Operand::parse).collect::<Result<_, _>>()?,
            text,
        })
    }
}

impl<'a> Operand<'a> {
    fn parse(text: &'a str) -> Result<Self, String> {
        let inside =
            |open: char, close: char| text.strip_prefix(open).and_then(|text| text.strip_suffix(close));
        if let Some(list) = inside('{', '}') {
            return Ok(Self::List(split(list)?));
        }
        let Some(address) = inside('[', ']') else { return Ok(Self::Plain(text)) };
        if let Some((map, coordinates)) = address.split_once(',') {
            let list = coordinates.trim().strip_prefix('{').and_then(|list| list.strip_suffix('}'));
            let list = list.ok_or_else(|| format!("`{text}` is no place in a tensor"))?;
            return Ok(Self::Tile(map.trim(), split(list)?));
        }
        let (base, offset) = address.split_once('+').unwrap_or((address, "0"));
        let offset = offset.trim().parse().map_err(|_| format!("`{text}` is no address"))?;
        Ok(Self::Address(base.trim(), offset))
    }
}

/// Parts between commas that are not in brackets or braces.
fn split(text: &str) -> Result<Vec<&str>, String> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0i32, 0);
    for (place, byte) in text.bytes().enumerate() {
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(text[start..place].trim());
                start = place + 1;
            }
            _ => {}
        }
    }
    if depth != 0 {
        return Err(format!("`{text}` has brackets that do not close"));
    }
    if !text.trim().is_empty() {
        parts.push(text[start..].trim());
    }
    if parts.iter().any(|part| part.is_empty()) {
        return Err(format!("`{text}` has an operand too few"));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_read() {
        let text = "\n\t.reg .pred \t%p<3>; // a comment\n$L_1:\n\t@!%p1 bra \t$L_1;\nagain: { ld.shared.v4.b32 {%r1,\n_}, \
                    [%r2+-4];\n} cp.x [%r1], [%rd1, {%r2, %r3}], 1;\n\tret;\n";
        let mut scanner = Scanner::new(text, 10);
        let mut items = Vec::new();
        while let Some(item) = scanner.next_item().unwrap() {
            items.push(item);
        }
        let statement = |guard, text: &'static str, operands| {
            let name = text.split_whitespace().next().unwrap();
            Item::Statement(Statement { guard, name, operands, text })
        };
        assert_eq!(
            items,
            [
                (11, Item::Directive(".reg .pred \t%p<3>")),
                (12, Item::Label("$L_1")),
                (13, statement(Some(("%p1", false)), "bra \t$L_1", vec![Operand::Plain("$L_1")])),
                (14, Item::Label("again")),
                (14, Item::Open),
                (
                    14,
                    statement(
                        None,
                        "ld.shared.v4.b32 {%r1,\n_}, [%r2+-4]",
                        vec![Operand::List(vec!["%r1", "_"]), Operand::Address("%r2", -4)]
                    )
                ),
                (16, Item::Close),
                (
                    16,
                    statement(
                        None,
                        "cp.x [%r1], [%rd1, {%r2, %r3}], 1",
                        vec![
                            Operand::Address("%r1", 0),
                            Operand::Tile("%rd1", vec!["%r2", "%r3"]),
                            Operand::Plain("1")
                        ]
                    )
                ),
                (17, statement(None, "ret", vec![])),
            ]
        );
    }

    #[test]
    fn what_does_not_end_is_refused() {
        for text in
            ["add.s32 %r1, %r2", "$L_1", "mov.b32 {%r1, %r2;", "add.s32 %r1, , %r2;", "ld.b32 %r1, [%r2+x];"]
        {
            assert!(Scanner::new(text, 1).next_item().is_err(), "{text}");
        }
    }
}

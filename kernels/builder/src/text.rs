//! PTX as LLVM writes it, read as far as splitting, bounding and checking need.

use crate::body::{self, Scanner};

/// What a rustc run wrote, in its parts.
#[derive(Debug)]
pub struct Assembly {
    /// The PTX version it asks for, as "7.0".
    pub version: String,
    /// The architecture it is for, as "sm_80".
    pub target: String,
    /// Everything declared or defined, in order.
    pub items: Vec<Item>,
}

/// A declaration or definition at the top level.
#[derive(Debug)]
pub struct Item {
    /// What it is.
    pub kind: Kind,
    /// The symbol.
    pub name: String,
    /// Line of the file it starts on, from 1.
    pub line: usize,
    /// As it stands in the file, comments included.
    pub text: String,
}

/// What an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A kernel.
    Entry,
    /// A function, declared or defined.
    Function,
    /// Memory.
    Variable,
}

/// A statement of a body: an instruction, or a directive where it begins with a dot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statement<'a> {
    /// Line of the file, from 1.
    pub line: usize,
    /// The instruction with its modifiers, as `ld.global.v4.b32`.
    pub opcode: &'a str,
    /// All of it, without the guard.
    pub text: &'a str,
}

/// PTX that is not as LLVM writes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("PTX, line {line}: cannot read {text:?}")]
pub struct SyntaxError {
    /// From 1.
    pub line: usize,
    /// What stands there, or is wrong with it.
    pub text: String,
}

impl Assembly {
    /// Reads the output of a rustc run, or a module made of it.
    ///
    /// # Errors
    /// An item that does not end or has no name, a header that lacks version or target.
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        let (mut version, mut target) = (None, None);
        let mut items = Vec::new();
        let mut lines = text.lines().enumerate();
        while let Some((index, line)) = lines.next() {
            let code = without_comment(line).trim();
            let value = |directive: &str| code.strip_prefix(directive).map(|value| value.trim().to_owned());
            if code.is_empty() || code.starts_with(".address_size") {
                continue;
            } else if let Some(value) = value(".version") {
                version = Some(value);
            } else if let Some(value) = value(".target") {
                target = Some(value);
            } else {
                let mut item = line.to_owned();
                let mut extent = Extent::default();
                let mut whole = extent.ends_with(line);
                while !whole {
                    let Some((_, next)) = lines.next() else {
                        return Err(SyntaxError { line: index + 1, text: code.to_owned() });
                    };
                    item += "\n";
                    item += next;
                    whole = extent.ends_with(next);
                }
                items.push(Item::parse(index + 1, item)?);
            }
        }
        match (version, target) {
            (Some(version), Some(target)) => Ok(Self { version, target, items }),
            _ => Err(SyntaxError { line: 1, text: "no .version or no .target".to_owned() }),
        }
    }

    /// The item of this name.
    pub fn find(&self, name: &str) -> Option<&Item> {
        self.items.iter().find(|item| item.name == name)
    }

    /// The entries, and all that they refer to directly or not, in the order of the file.
    pub fn reachable(&self, entries: &[&str]) -> Vec<&Item> {
        let mut reached: Vec<bool> =
            self.items.iter().map(|item| entries.contains(&item.name.as_str())).collect();
        let mut open: Vec<usize> = (0..self.items.len()).filter(|&index| reached[index]).collect();
        while let Some(index) = open.pop() {
            for word in words(&self.items[index].text) {
                let referred = self.items.iter().position(|item| item.name == word);
                if let Some(referred) = referred.filter(|&referred| !reached[referred]) {
                    reached[referred] = true;
                    open.push(referred);
                }
            }
        }
        self.items.iter().zip(reached).filter(|(_, reached)| *reached).map(|(item, _)| item).collect()
    }
}

impl Item {
    fn parse(line: usize, text: String) -> Result<Self, SyntaxError> {
        let code: String = text.lines().flat_map(|line| [without_comment(line), " "]).collect();
        let head = code.split(['{', '=', ';']).next().unwrap_or_default();
        let (kind, name) = if let Some((_, rest)) = head.split_once(".entry") {
            (Kind::Entry, words(rest).next())
        } else if let Some((_, rest)) = head.split_once(".func") {
            // The result's parameter, if there is one, stands in parentheses before the name.
            let rest = rest.trim_start();
            let rest =
                if rest.starts_with('(') { rest.split_once(')').map_or("", |(_, rest)| rest) } else { rest };
            (Kind::Function, words(rest).next())
        } else {
            (Kind::Variable, words(head.split('[').next().unwrap_or_default()).last())
        };
        match name {
            Some(name) if !name.starts_with('.') => Ok(Self { kind, name: name.to_owned(), line, text }),
            _ => Err(SyntaxError { line, text: text.lines().next().unwrap_or_default().to_owned() }),
        }
    }

    /// Types of an entry's parameters, as "u64".
    pub fn parameters(&self) -> Vec<&str> {
        let list = self.text.split_once('(').and_then(|(_, rest)| rest.split_once(')'));
        let list = list.map_or("", |(list, _)| list);
        list.split(',')
            .filter_map(|parameter| {
                let mut words = parameter.split_once(".param")?.1.split_whitespace();
                // Of values in memory the alignment stands before the type.
                words.next().filter(|word| *word != ".align").or_else(|| words.nth(1))
            })
            .map(|kind| kind.trim_start_matches('.'))
            .collect()
    }

    /// The statements of the body; none of what has no body.
    ///
    /// # Errors
    /// Statements or operands that do not end.
    pub fn statements(&self) -> Result<Vec<Statement<'_>>, SyntaxError> {
        let mut statements = Vec::new();
        let Some((start, body)) = self.body() else { return Ok(statements) };
        let mut scanner = Scanner::new(body, start as u32);
        loop {
            let read = scanner.next_item();
            let read = read.map_err(|text| SyntaxError { line: scanner.line as usize, text })?;
            let Some((line, item)) = read else { return Ok(statements) };
            let (opcode, text) = match item {
                body::Item::Directive(text) => (text.split_whitespace().next().unwrap_or_default(), text),
                body::Item::Statement(statement) => (statement.name, statement.text),
                body::Item::Open | body::Item::Close | body::Item::Label(_) => continue,
            };
            statements.push(Statement { line: line as usize, opcode, text });
        }
    }

    /// The body from behind its opening brace on, and the line that it begins in.
    pub fn body(&self) -> Option<(usize, &str)> {
        let (head, body) = self.text.split_once('{')?;
        Some((self.line + head.matches('\n').count(), body))
    }

    /// The text as it is committed: no comments, and labels numbered within the function, so that a change
    /// to one kernel leaves the others' text alone. `bounds` go before the body.
    pub fn render(&self, bounds: &str) -> String {
        let mut out = String::new();
        let mut bounded = bounds.is_empty();
        for line in self.text.lines() {
            let code = without_comment(line).trim_end();
            if code.is_empty() {
                continue;
            }
            if !bounded && code.starts_with('{') {
                out += bounds;
                bounded = true;
            }
            out += &aligned_maps(&local_labels(&breakpoints(code)));
            out.push('\n');
        }
        out
    }
}

/// `$L__BB12_3` as `$L_3`: LLVM counts functions over the whole file, and labels are local to a function.
fn local_labels(line: &str) -> String {
    let mut parts = line.split("$L__BB");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let label = part.trim_start_matches(|character: char| character.is_ascii_digit());
        out += "$L";
        out += label;
    }
    out
}

/// `brkpt` for `trap`, and for the `exit` that LLVM writes behind one: the same machine instruction, `BPT.TRAP`. With
/// `trap` the assemblers of CUDA 12.3 to 12.6 make `wgmma` wait for each other and move sums to memory.
fn breakpoints(line: &str) -> String {
    match line.trim() {
        "trap;" | "trap; exit;" => line.replace(line.trim(), "brkpt;"),
        _ => line.to_owned(),
    }
}

/// A parameter that is a tensor map, 128 bytes, with the alignment that the driver wants: rustc gives a parameter
/// 16 bytes at most.
fn aligned_maps(line: &str) -> String {
    match line.trim_start().starts_with(".param .align 16 ") && line.contains("[128]") {
        true => line.replacen(".align 16", ".align 64", 1),
        false => line.to_owned(),
    }
}

/// How far an item has been read.
#[derive(Default)]
struct Extent {
    depth: i32,
    has_body: bool,
    is_function: bool,
    last: char,
}

impl Extent {
    /// Takes a line; true when the item ends with it: at a function's closing brace, or at a semicolon
    /// outside of braces.
    fn ends_with(&mut self, line: &str) -> bool {
        let code = without_comment(line);
        self.is_function |= code.contains(".entry") || code.contains(".func");
        self.has_body |= self.is_function && code.contains('{');
        for character in code.chars().filter(|character| !character.is_whitespace()) {
            match character {
                '{' => self.depth += 1,
                '}' => self.depth -= 1,
                _ => {}
            }
            self.last = character;
        }
        self.depth == 0 && (self.last == ';' || self.has_body)
    }
}

fn without_comment(line: &str) -> &str {
    line.split_once("//").map_or(line, |(code, _)| code)
}

/// Symbols, numbers, directives: all that is made of the characters of a PTX identifier.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let part = |character: char| character.is_ascii_alphanumeric() || "_$.%".contains(character);
    text.split(move |character| !part(character)).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{SAMPLE, TWO_FAMILIES};

    #[test]
    fn items_are_found_with_kind_name_and_line() {
        let assembly = Assembly::parse(TWO_FAMILIES).unwrap();
        assert_eq!((assembly.version.as_str(), assembly.target.as_str()), ("7.0", "sm_80"));
        let found: Vec<_> = assembly.items.iter().map(|item| (item.kind, item.name.as_str())).collect();
        let expected = [
            (Kind::Variable, "dyn_smem"),
            (Kind::Variable, "table"),
            (Kind::Function, "helper"),
            (Kind::Function, "declared"),
            (Kind::Entry, "first"),
            (Kind::Entry, "second"),
        ];
        assert_eq!(found, expected);
        let first = assembly.find("first").unwrap();
        let line = TWO_FAMILIES.lines().position(|line| line.contains(".entry first")).unwrap();
        assert_eq!(first.line, line + 1);
    }

    #[test]
    fn a_module_has_what_its_entries_reach_and_no_more() {
        let assembly = Assembly::parse(TWO_FAMILIES).unwrap();
        let names = |entries: &[&str]| -> Vec<String> {
            assembly.reachable(entries).iter().map(|item| item.name.clone()).collect()
        };
        assert_eq!(names(&["first"]), ["dyn_smem", "first"]);
        assert_eq!(names(&["second"]), ["table", "helper", "second"]);
        assert_eq!(names(&[]), [""; 0]);
    }

    #[test]
    fn statements_have_no_guards_labels_or_comments() {
        let assembly = Assembly::parse(SAMPLE).unwrap();
        let statements = assembly.items.last().unwrap().statements().unwrap();
        let opcodes: Vec<_> = statements.iter().map(|statement| statement.opcode).collect();
        let expected = [
            ".reg",
            ".reg",
            "ld.param.b64",
            "ld.global.v4.b32",
            "bra",
            "st.global.v4.b32",
            "ld.shared.b32",
            "add.f32",
            "bar.sync",
            "ret",
        ];
        assert_eq!(opcodes, expected);
        let guarded = statements[4];
        assert_eq!(guarded.text, "bra \t$L__BB7_2");
        assert!(SAMPLE.lines().nth(guarded.line - 1).unwrap().contains("@%p1 bra"));
    }

    #[test]
    fn parameters_have_their_types() {
        let assembly = Assembly::parse(SAMPLE).unwrap();
        assert_eq!(assembly.items.last().unwrap().parameters(), ["u64", "u64", "f32"]);
    }

    #[test]
    fn bounds_stand_before_the_body_and_labels_lose_the_functions_number() {
        let assembly = Assembly::parse(SAMPLE).unwrap();
        let text = assembly.items.last().unwrap().render(".reqntid 256\n");
        assert!(text.contains(")\n.reqntid 256\n{\n"), "{text}");
        assert!(text.contains("bra \t$L_2;") && text.contains("$L_2:"), "{text}");
        assert!(!text.contains("//"), "{text}");
        // What was written is read again as the same.
        let again = Assembly::parse(&format!(".version 7.0\n.target sm_80\n{text}")).unwrap();
        let opcodes = |item: &Item| -> Vec<String> {
            item.statements().unwrap().iter().map(|statement| statement.opcode.to_owned()).collect()
        };
        assert_eq!(opcodes(&again.items[0]), opcodes(assembly.items.last().unwrap()));
    }

    #[test]
    fn traps_are_breakpoints() {
        for trap in ["trap;", "trap; exit;"] {
            let text = SAMPLE.replace("\tbar.sync \t0;", &format!("\t{trap}"));
            let text = Assembly::parse(&text).unwrap().items.last().unwrap().render("");
            assert!(text.contains("\n\tbrkpt;\n\tret;\n") && !text.contains("trap"), "{text}");
        }
    }

    #[test]
    fn a_tensor_map_is_a_parameter_with_the_alignment_that_the_driver_wants() {
        let map = ".param .align 16 .b8 scale_param_0[128],";
        let text = SAMPLE.replace(".param .u64 .ptr .align 1 scale_param_0,", map);
        let assembly = Assembly::parse(&text).unwrap();
        let entry = assembly.items.last().unwrap();
        assert_eq!(entry.parameters(), ["b8", "u64", "f32"]);
        let text = entry.render("");
        assert!(text.contains("\t.param .align 64 .b8 scale_param_0[128],\n"), "{text}");
    }

    #[test]
    fn an_unfinished_item_is_an_error_with_its_line() {
        let cut = &SAMPLE[..SAMPLE.find("ret;").unwrap()];
        let error = Assembly::parse(cut).unwrap_err();
        let line = SAMPLE.lines().position(|line| line.contains(".entry")).unwrap() + 1;
        assert!(matches!(error, SyntaxError { line: found, .. } if found == line), "{error}");
        assert!(Assembly::parse(".target sm_80\n").is_err());
    }
}

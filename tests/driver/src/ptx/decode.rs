//! From a kernel's body to its [`Program`]: scopes, registers, constants and labels.

use std::collections::HashMap;

use cpift_ptx::body::{Item, Operand, Scanner};

use super::Entry;
use super::memory::{PARAMETERS, SHARED_START};
use super::program::{Address, Instruction, List, POISON, Program, SINK, SPECIAL, Slot};
use super::touches;

/// A body that is being decoded.
#[derive(Debug)]
pub struct Decoder<'a> {
    program: Program,
    entry: &'a Entry,
    /// Symbols of the block's dynamic shared memory.
    dynamic: &'a [String],
    /// Those of what the body declares, with their addresses.
    shared: HashMap<&'a str, u64>,
    /// The innermost last.
    scopes: Vec<Scope<'a>>,
    constants: HashMap<u64, Slot>,
    line: u32,
}

/// What a pair of braces holds.
#[derive(Debug, Default)]
struct Scope<'a> {
    /// Of one name, or of a prefix and numbers.
    registers: HashMap<&'a str, Registers>,
    labels: HashMap<&'a str, u32>,
    /// Branches in it, or in scopes in it, whose targets are to be filled in.
    branches: Vec<Branch<'a>>,
}

/// A branch to be filled in.
#[derive(Debug)]
struct Branch<'a> {
    /// Which instruction it is.
    place: usize,
    label: &'a str,
}

/// Registers that were declared together.
#[derive(Debug, Clone, Copy)]
struct Registers {
    first: usize,
    /// How many, if they are told apart by numbers.
    count: Option<usize>,
}

/// Decodes the body of an entry that begins in a line, behind its brace.
///
/// # Errors
/// What is not known here, and in which line.
pub fn decode(entry: &Entry, dynamic: &[String], body: &str, line: u32) -> Result<Program, String> {
    let mut decoder = Decoder {
        program: Program::default(),
        entry,
        dynamic,
        shared: HashMap::new(),
        scopes: vec![Scope::default()],
        constants: HashMap::new(),
        line,
    };
    let mut scanner = Scanner::new(body, line);
    match decoder.read(&mut scanner) {
        Ok(()) => {
            touches::mark(&mut decoder.program);
            Ok(decoder.program)
        }
        Err(message) => Err(format!("line {}: {message}", decoder.line)),
    }
}

impl<'a> Decoder<'a> {
    fn read(&mut self, scanner: &mut Scanner<'a>) -> Result<(), String> {
        self.program.registers = vec![POISON; SPECIAL.len()];
        self.declare_shared(scanner.clone())?;
        while !self.scopes.is_empty() {
            self.line = scanner.line;
            let (line, item) = scanner.next_item()?.ok_or("the body does not end")?;
            self.line = line;
            match item {
                Item::Open => self.scopes.push(Scope::default()),
                Item::Close => self.close()?,
                Item::Label(label) => {
                    let here = self.program.code.len() as u32;
                    let scope = self.scopes.last_mut().ok_or("a label outside of the body")?;
                    if scope.labels.insert(label, here).is_some() {
                        return Err(format!("a second label `{label}`"));
                    }
                }
                Item::Directive(text) => self.declare(text)?,
                Item::Statement(statement) => self.instruction(&statement)?,
            }
        }
        // Who comes to the end returns.
        self.push(Instruction::Return);
        if self.program.registers.len() > usize::from(Slot::MAX) {
            return Err(format!("{} registers and constants are too many", self.program.registers.len()));
        }
        Ok(())
    }

    /// Leaves a scope: its labels are seen by branches in it. Others go to labels further out.
    fn close(&mut self) -> Result<(), String> {
        let Some(Scope { labels, branches, .. }) = self.scopes.pop() else { return Ok(()) };
        for branch in branches {
            if let Some(&target) = labels.get(branch.label) {
                match &mut self.program.code[branch.place] {
                    Instruction::Branch { to } | Instruction::BranchIf { to, .. } => *to = target,
                    _ => unreachable!("only branches are filled in"),
                }
            } else if let Some(around) = self.scopes.last_mut() {
                around.branches.push(branch);
            } else {
                self.line = self.program.lines[branch.place];
                return Err(format!("no label `{}`", branch.label));
            }
        }
        Ok(())
    }

    /// Gives places to arrays in shared memory, `.shared .align 4 .b8 name[128]`, of all of the body, so that it is known
    /// where dynamic shared memory begins.
    fn declare_shared(&mut self, mut scanner: Scanner<'a>) -> Result<(), String> {
        if !scanner.rest().contains(".shared .align ") {
            return Ok(());
        }
        while let Some((line, item)) = scanner.next_item()? {
            let Item::Directive(text) = item else { continue };
            let Some(array) = text.strip_prefix(".shared .align ") else { continue };
            self.line = line;
            let parts = array.split_once(" .b8 ").and_then(|(align, array)| {
                let (name, bytes) = array.strip_suffix(']')?.split_once('[')?;
                let align = align.parse::<u32>().ok().filter(|align| *align > 0)?;
                Some((align, name, bytes.parse::<u32>().ok()?))
            });
            let (align, name, bytes) = parts.ok_or_else(|| format!("`{text}` is not known here"))?;
            let start = self.program.shared.next_multiple_of(align);
            self.shared.insert(name, SHARED_START + u64::from(start));
            self.program.shared = start + bytes;
        }
        self.program.shared = self.program.shared.next_multiple_of(16);
        Ok(())
    }

    /// `.reg .b32 %r<12>` or `.reg .b64 own, other`; hints for the assembler are passed over.
    fn declare(&mut self, text: &'a str) -> Result<(), String> {
        if text.starts_with(".pragma") || text.starts_with(".shared ") {
            return Ok(());
        }
        let mut words = text.splitn(3, char::is_whitespace);
        let (Some(".reg"), Some(_), Some(names)) = (words.next(), words.next(), words.next()) else {
            return Err(format!("`{text}` is not known here"));
        };
        for name in names.split(',').map(str::trim) {
            let first = self.program.registers.len();
            let (name, count) = match name.strip_suffix('>').and_then(|name| name.split_once('<')) {
                None => (name, None),
                Some((name, count)) => {
                    (name, Some(count.parse().map_err(|_| format!("`{text}` has no number of registers"))?))
                }
            };
            self.program.registers.resize(first + count.unwrap_or(1), POISON);
            let scope = self.scopes.last_mut().ok_or("a declaration outside of the body")?;
            if scope.registers.insert(name, Registers { first, count }).is_some() {
                return Err(format!("`{name}` is declared twice"));
            }
        }
        Ok(())
    }

    /// The register of this name.
    pub fn register(&self, name: &str) -> Result<Slot, String> {
        let prefix = name.trim_end_matches(|character: char| character.is_ascii_digit());
        for scope in self.scopes.iter().rev() {
            if let Some(&Registers { first, count: None }) = scope.registers.get(name) {
                return Ok(first as Slot);
            }
            if let Some(&Registers { first, count: Some(count) }) = scope.registers.get(prefix)
                && let Ok(number) = name[prefix.len()..].parse::<usize>()
                && number < count
            {
                return Ok((first + number) as Slot);
            }
        }
        let special = SPECIAL.iter().find(|(special, _)| *special == name);
        special.map(|&(_, slot)| slot).ok_or_else(|| format!("`{name}` was not declared"))
    }

    /// The place of a register, a symbol's address or a number.
    pub fn value(&mut self, text: &str) -> Result<Slot, String> {
        if let Some(number) = number(text) {
            return Ok(self.constant(number));
        }
        if let Some(&address) = self.shared.get(text) {
            return Ok(self.constant(address));
        }
        if self.dynamic.iter().any(|name| name == text) {
            return Ok(self.constant(SHARED_START + u64::from(self.program.shared)));
        }
        if let Some(parameter) = self.entry.parameters.iter().find(|parameter| parameter.name == text) {
            return Ok(self.constant(PARAMETERS + parameter.offset as u64));
        }
        self.register(text)
    }

    /// The place of a constant.
    pub fn constant(&mut self, value: u64) -> Slot {
        let registers = &mut self.program.registers;
        *self.constants.entry(value).or_insert_with(|| {
            registers.push(value);
            (registers.len() - 1) as Slot
        })
    }

    /// The place of an operand that is a value.
    pub fn plain(&mut self, operand: &Operand<'_>) -> Result<Slot, String> {
        match operand {
            Operand::Plain(text) => self.value(text),
            other => Err(format!("{other:?} is not one value")),
        }
    }

    /// The number that an operand must be.
    pub fn fixed(&mut self, operand: &Operand<'_>, allowed: &[u64], what: &str) -> Result<u64, String> {
        let given = if let Operand::Plain(text) = operand { number(text) } else { None };
        given
            .filter(|given| allowed.contains(given))
            .ok_or_else(|| format!("{operand:?} as {what} is not known here"))
    }

    /// All lanes of the warp, by a number, or in a register, whose value is looked at when it is executed.
    pub fn lanes(&mut self, operand: &Operand<'_>) -> Result<Slot, String> {
        if let Operand::Plain(text) = operand
            && number(text).is_some()
        {
            let lanes = self.fixed(operand, &[u64::MAX, u64::from(u32::MAX)], "lanes")?;
            return Ok(self.constant(lanes));
        }
        self.plain(operand)
    }

    /// One or two operands that are written to: `%r1` or `%r1|%p2`.
    pub fn pair(&mut self, operand: &Operand<'_>) -> Result<(Slot, Slot), String> {
        match operand {
            Operand::Plain(text) => match text.split_once('|') {
                Some((one, other)) => Ok((self.register(one.trim())?, self.register(other.trim())?)),
                None => Ok((self.register(text)?, SINK)),
            },
            other => Err(format!("{other:?} is no register")),
        }
    }

    /// An operand that is written to.
    pub fn target(&mut self, operand: &Operand<'_>) -> Result<Slot, String> {
        match operand {
            Operand::Plain(text) => self.register(text),
            other => Err(format!("{other:?} is no register")),
        }
    }

    /// An operand that is a list of `length` registers, or of values.
    pub fn list(&mut self, operand: &Operand<'_>, length: usize) -> Result<List, String> {
        match operand {
            Operand::List(names) if names.len() == length => self.list_of(names),
            Operand::Plain(name) if length == 1 => self.list_of(&[name]),
            other => Err(format!("{other:?} are not {length} registers")),
        }
    }

    /// Some values as a list.
    pub fn list_of(&mut self, names: &[&str]) -> Result<List, String> {
        let start = self.program.lists.len() as u32;
        for name in names {
            let slot = self.value(name)?;
            self.program.lists.push(slot);
        }
        Ok(List { start, length: names.len() as u16 })
    }

    /// Lists one behind the other as one.
    pub fn lists<const COUNT: usize>(
        &mut self,
        lists: [(&Operand<'_>, usize); COUNT],
    ) -> Result<List, String> {
        let start = self.program.lists.len() as u32;
        let mut length = 0;
        for (operand, count) in lists {
            length += self.list(operand, count)?.length;
        }
        Ok(List { start, length })
    }

    /// An operand that is an address.
    pub fn address(&mut self, operand: &Operand<'_>) -> Result<Address, String> {
        match operand {
            &Operand::Address(base, offset) => {
                let offset = offset.try_into().map_err(|_| format!("an offset of {offset} bytes"))?;
                Ok(Address { base: self.value(base)?, offset })
            }
            other => Err(format!("{other:?} is no address")),
        }
    }

    /// Fails unless `bytes` bytes at the address are inside of the parameter it names.
    pub fn inside_parameter(&self, operand: &Operand<'_>, bytes: usize) -> Result<(), String> {
        if let &Operand::Address(base, offset) = operand
            && let Some(parameter) = self.entry.parameters.iter().find(|parameter| parameter.name == base)
            && offset.try_into().is_ok_and(|offset: usize| offset + bytes <= parameter.bytes)
        {
            return Ok(());
        }
        Err(format!("{bytes} bytes at {operand:?} are not in a parameter"))
    }

    /// Adds an instruction.
    pub fn push(&mut self, instruction: Instruction) {
        self.program.code.push(instruction);
        self.program.lines.push(self.line);
    }

    /// Adds an instruction that goes on at a label.
    pub fn push_branch(&mut self, branch: Instruction, label: &'a str) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.branches.push(Branch { place: self.program.code.len(), label });
        }
        self.push(branch);
    }

    /// Adds a branch around what `add` adds, for threads in which a predicate is not what it must be.
    pub fn guarded(
        &mut self,
        guard: Option<(&str, bool)>,
        add: impl FnOnce(&mut Self) -> Result<(), String>,
    ) -> Result<(), String> {
        let Some((predicate, holds)) = guard else { return add(self) };
        let place = self.program.code.len();
        let predicate = self.register(predicate)?;
        self.push(Instruction::BranchIf { predicate, holds: !holds, to: 0 });
        add(self)?;
        let end = self.program.code.len() as u32;
        self.program.code[place] = Instruction::BranchIf { predicate, holds: !holds, to: end };
        Ok(())
    }

    /// Adds a `wgmma`.
    pub fn push_product(&mut self, product: super::program::GroupProduct) {
        let number = self.program.products.len() as u32;
        self.program.products.push(product);
        self.push(Instruction::GroupMultiply { product: number });
    }
}

/// A number as PTX writes it: decimal or hexadecimal, with a U behind it where it is unsigned, or the bits of a float.
fn number(text: &str) -> Option<u64> {
    let bits = |prefix: &str| u64::from_str_radix(text.strip_prefix(prefix)?, 16).ok();
    match text.as_bytes() {
        [b'0', b'f' | b'F', rest @ ..] if rest.len() == 8 => bits("0f").or_else(|| bits("0F")),
        [b'0', b'd' | b'D', rest @ ..] if rest.len() == 16 => bits("0d").or_else(|| bits("0D")),
        [.., b'U'] => number(&text[..text.len() - 1]),
        [b'0', b'x' | b'X', ..] => bits("0x").or_else(|| bits("0X")),
        [b'-', ..] => text.parse::<i64>().ok().map(|number| number as u64),
        _ => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read() {
        let cases = [
            ("0f3F800000", Some(0x3f80_0000)),
            ("0d3FF0000000000000", Some(1.0f64.to_bits())),
            ("-1", Some(u64::MAX)),
            ("0x1F", Some(31)),
            ("0x7632U", Some(0x7632)),
            ("7U", Some(7)),
            ("U", None),
            ("18446744073709551615", Some(u64::MAX)),
            ("%r1", None),
            ("0fzz", None),
        ];
        for (text, expected) in cases {
            assert_eq!(number(text), expected, "{text}");
        }
    }
}

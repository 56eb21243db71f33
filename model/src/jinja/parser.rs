//! Tokens to the syntax tree: statements.

use std::sync::Arc;

use super::error::{Error, Result, fail};
use super::lexer::{Token, tokens};
use super::limits::BLOCK_DEPTH;
use super::tree::*;

pub(super) struct Parser {
    pub(super) tokens: std::vec::IntoIter<(usize, Token)>,
    pub(super) current: Token,
    pub(super) line: usize,
    pub(super) names: Vec<Arc<str>>,
    /// Levels of expressions that are being read.
    pub(super) nesting: u32,
    blocks: u32,
    loops: u32,
    /// Whether what is read may never be evaluated: then unknown filters and tests are found when it is.
    pub(super) conditional: bool,
    /// For each macro being read, whether it reads `caller`, `varargs`, `kwargs`.
    pub(super) special: Vec<[bool; 3]>,
    /// For each loop being read, whether it reads `loop`.
    pub(super) loop_used: Vec<bool>,
}

/// Names that a macro has if its body reads them.
pub(super) const SPECIAL: [&str; 3] = ["caller", "varargs", "kwargs"];

/// Tags of template inheritance, which chat templates have no other templates for.
const OTHER_TEMPLATES: [&str; 5] = ["include", "import", "from", "extends", "block"];

/// Reads a template.
///
/// # Errors
/// When the source is not a valid template, with the line where known.
pub(super) fn parse(source: &str) -> Result<Tree> {
    let mut parser = Parser {
        tokens: tokens(source)?.into_iter(),
        current: Token::End,
        line: 1,
        names: Vec::new(),
        nesting: 0,
        blocks: 0,
        loops: 0,
        conditional: false,
        special: Vec::new(),
        loop_used: Vec::new(),
    };
    parser.next();
    match parser.statements(&[]) {
        Ok((body, _)) => Ok(Tree { names: parser.names, body }),
        Err(error) => Err(error.at(parser.line)),
    }
}

impl Parser {
    /// The current token; the next one becomes current.
    pub(super) fn next(&mut self) -> Token {
        let next = match self.tokens.next() {
            Some((line, token)) => {
                self.line = line;
                token
            }
            None => Token::End,
        };
        std::mem::replace(&mut self.current, next)
    }

    pub(super) fn is(&self, operator: &str) -> bool {
        matches!(self.current, Token::Operator(current) if current == operator)
    }

    pub(super) fn is_name(&self, name: &str) -> bool {
        matches!(&self.current, Token::Name(current) if current == name)
    }

    /// Whether the token after the current one is `token`.
    pub(super) fn follows(&self, token: &Token) -> bool {
        self.tokens.as_slice().first().is_some_and(|(_, next)| next == token)
    }

    pub(super) fn skip(&mut self, operator: &str) -> bool {
        let found = self.is(operator);
        if found {
            self.next();
        }
        found
    }

    pub(super) fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        if found {
            self.next();
        }
        found
    }

    pub(super) fn expect(&mut self, operator: &'static str) -> Result<()> {
        match self.skip(operator) {
            true => Ok(()),
            false => Err(self.unexpected(&format!("'{operator}'"))),
        }
    }

    pub(super) fn expect_name(&mut self) -> Result<String> {
        match self.next() {
            Token::Name(name) => Ok(name),
            other => {
                self.current = other;
                Err(self.unexpected("a name"))
            }
        }
    }

    pub(super) fn unexpected(&self, expected: &str) -> Error {
        Error::new(format!("expected {expected}, got {}", describe(&self.current)))
    }

    /// The index of a name, for which `caller` and the like are noted.
    pub(super) fn name(&mut self, name: &str) -> Name {
        if let Some(index) = self.names.iter().position(|known| &**known == name) {
            return index;
        }
        self.names.push(name.into());
        self.names.len() - 1
    }

    /// The end of a tag.
    fn block_end(&mut self) -> Result<()> {
        match self.next() {
            Token::BlockEnd => Ok(()),
            other => {
                self.current = other;
                Err(self.unexpected("the end of the tag"))
            }
        }
    }

    /// A body up to one of the tags `ends`, whose name is returned and read.
    fn body(&mut self, ends: &[&'static str]) -> Result<(Vec<Statement>, &'static str)> {
        self.skip(":");
        self.block_end()?;
        if self.blocks == BLOCK_DEPTH {
            fail!("blocks are nested more than {BLOCK_DEPTH} levels deep");
        }
        self.blocks += 1;
        let result = self.statements(ends);
        self.blocks -= 1;
        result
    }

    /// As [`Self::body`], for a body of its own scope that ends with `end`.
    fn scoped(&mut self, end: &'static str) -> Result<Vec<Statement>> {
        let conditional = std::mem::take(&mut self.conditional);
        let (body, _) = self.body(&[end])?;
        self.conditional = conditional;
        Ok(body)
    }

    fn statements(&mut self, ends: &[&'static str]) -> Result<(Vec<Statement>, &'static str)> {
        let mut body = Vec::new();
        loop {
            let line = self.line;
            match self.next() {
                Token::Data(text) => {
                    body.push(Statement { line, kind: StatementKind::Text(text.into()) });
                }
                Token::VariableBegin => {
                    let line = self.line;
                    let value = self.tuple(true, &[])?;
                    match self.next() {
                        Token::VariableEnd => {}
                        other => {
                            self.current = other;
                            return Err(self.unexpected("end of print statement"));
                        }
                    }
                    body.push(Statement { line, kind: StatementKind::Print(value) });
                }
                Token::BlockBegin => {
                    let line = self.line;
                    let Token::Name(tag) = &self.current else { fail!("tag name expected") };
                    if let Some(end) = ends.iter().find(|end| *end == tag) {
                        self.next();
                        return Ok((body, end));
                    }
                    let tag = tag.clone();
                    self.next();
                    self.statement(&tag, line, ends, &mut body)?;
                    self.block_end()?;
                }
                Token::End if ends.is_empty() => return Ok((body, "")),
                Token::End => fail!("Unexpected end of template: `{}` is missing", ends.join("` or `")),
                other => fail!("unexpected {}", describe(&other)),
            }
        }
    }

    fn statement(
        &mut self,
        tag: &str,
        line: usize,
        ends: &[&'static str],
        body: &mut Vec<Statement>,
    ) -> Result<()> {
        let kind = match tag {
            "if" => self.condition()?,
            "for" => self.for_loop()?,
            "set" => self.set()?,
            "with" => self.with()?,
            "macro" => {
                let name = self.expect_name()?;
                let variable = self.name(&name);
                let parameters = self.signature()?;
                let mut declared = self.macro_body(parameters, "endmacro")?;
                declared.name = Some(name.into());
                declared.variable = Some(variable);
                StatementKind::Macro(Arc::new(declared))
            }
            "call" => {
                let parameters = if self.is("(") { self.signature()? } else { Vec::new() };
                let expression = self.expression(true)?;
                let Kind::Call(call) = expression.kind else { fail!("expected call") };
                StatementKind::Call(*call, Arc::new(self.macro_body(parameters, "endcall")?))
            }
            "filter" => {
                let filters = self.filters(true)?;
                StatementKind::Filter(filters, self.scoped("endfilter")?)
            }
            "generation" => {
                let loops = std::mem::take(&mut self.loops);
                let content = self.scoped("endgeneration")?;
                self.loops = loops;
                StatementKind::Generation(content)
            }
            "print" => {
                while self.current != Token::BlockEnd {
                    let value = self.expression(true)?;
                    body.push(Statement { line, kind: StatementKind::Print(value) });
                    if self.current != Token::BlockEnd {
                        self.expect(",")?;
                    }
                }
                return Ok(());
            }
            "break" | "continue" if self.loops == 0 => fail!("`{tag}` stands outside of a loop"),
            "break" => StatementKind::Break,
            "continue" => StatementKind::Continue,
            "autoescape" => fail!("`autoescape` is not supported: chat templates are not HTML"),
            other if OTHER_TEMPLATES.contains(&other) => {
                fail!("`{other}` is not supported: a chat template has no other templates")
            }
            other => {
                let wanted = match ends {
                    [] => String::new(),
                    ends => format!("; expected `{}`", ends.join("` or `")),
                };
                fail!("Encountered unknown tag '{other}'{wanted}")
            }
        };
        body.push(Statement { line, kind });
        Ok(())
    }

    fn condition(&mut self) -> Result<StatementKind> {
        let conditional = std::mem::replace(&mut self.conditional, true);
        let mut branches = Vec::new();
        let mut otherwise = Vec::new();
        loop {
            let test = self.tuple(false, &[])?;
            let (body, end) = self.body(&["elif", "else", "endif"])?;
            branches.push((test, body));
            match end {
                "elif" => continue,
                "else" => otherwise = self.body(&["endif"])?.0,
                _ => {}
            }
            self.conditional = conditional;
            return Ok(StatementKind::If(branches, otherwise));
        }
    }

    fn for_loop(&mut self) -> Result<StatementKind> {
        let target = self.target(false, &["in"])?;
        if self.names.iter().position(|name| **name == *"loop").is_some_and(|name| target.assigns(name)) {
            fail!("Can't assign to special loop variable in for-loop target");
        }
        if !self.skip_name("in") {
            return Err(self.unexpected("'in'"));
        }
        let iterable = self.tuple(false, &["recursive"])?;
        let conditional = std::mem::take(&mut self.conditional);
        let condition = if self.skip_name("if") { Some(self.expression(true)?) } else { None };
        if self.is_name("recursive") {
            fail!("recursive loops are not supported: write a macro that calls itself");
        }
        self.loop_used.push(false);
        self.loops += 1;
        let (body, end) = self.body(&["endfor", "else"])?;
        self.loops -= 1;
        let used = self.loop_used.pop().unwrap_or_default();
        let otherwise = if end == "else" { self.body(&["endfor"])?.0 } else { Vec::new() };
        self.conditional = conditional;
        let loop_name = used.then(|| self.name("loop"));
        Ok(StatementKind::For(Box::new(For { target, iterable, condition, body, otherwise, loop_name })))
    }

    fn set(&mut self) -> Result<StatementKind> {
        let target = self.target(true, &[])?;
        if self.skip("=") {
            return Ok(StatementKind::Set(target, self.tuple(true, &[])?));
        }
        let filters = self.filters(false)?;
        Ok(StatementKind::SetBlock(target, filters, self.scoped("endset")?))
    }

    fn with(&mut self) -> Result<StatementKind> {
        let mut values = Vec::new();
        while self.current != Token::BlockEnd && !self.is(":") {
            if !values.is_empty() {
                self.expect(",")?;
            }
            let target = self.target(false, &[])?;
            self.expect("=")?;
            values.push((target, self.expression(true)?));
        }
        Ok(StatementKind::With(values, self.scoped("endwith")?))
    }

    fn signature(&mut self) -> Result<Vec<(Name, Option<Expression>)>> {
        self.expect("(")?;
        let mut parameters: Vec<(Name, Option<Expression>)> = Vec::new();
        while !self.is(")") {
            if !parameters.is_empty() {
                self.expect(",")?;
            }
            let name = self.expect_name()?;
            let name = self.name(&name);
            if self.names[name].as_ref() == "caller" && !self.is("=") {
                fail!("the argument `caller` of a macro must be omitted or be given a default");
            }
            if self.skip("=") {
                let default = self.expression(true)?;
                parameters.push((name, Some(default)));
            } else if parameters.last().is_some_and(|(_, default)| default.is_some()) {
                fail!("non-default argument follows default argument");
            } else {
                parameters.push((name, None));
            }
        }
        self.expect(")")?;
        Ok(parameters)
    }

    fn macro_body(
        &mut self,
        parameters: Vec<(Name, Option<Expression>)>,
        end: &'static str,
    ) -> Result<Macro> {
        let loops = std::mem::take(&mut self.loops);
        self.special.push([false; 3]);
        let body = self.scoped(end)?;
        let used = self.special.pop().unwrap_or_default();
        self.loops = loops;
        let mut special = [None; 3];
        for (index, name) in SPECIAL.into_iter().enumerate() {
            let name = self.name(name);
            let is_parameter = parameters.iter().any(|&(parameter, _)| parameter == name);
            special[index] = (used[index] && !is_parameter).then_some(name);
        }
        let [caller, varargs, kwargs] = special;
        Ok(Macro { name: None, variable: None, parameters, body, caller, varargs, kwargs })
    }

    /// What is assigned to: a name, names, or an attribute of a namespace where `attributes`.
    fn target(&mut self, attributes: bool, ends: &[&str]) -> Result<Target> {
        let mut targets = Vec::new();
        let mut is_tuple = false;
        loop {
            if !targets.is_empty() && self.target_ends(ends) {
                break;
            }
            targets.push(self.single_target(attributes)?);
            if !self.skip(",") {
                break;
            }
            is_tuple = true;
        }
        match (targets.pop(), is_tuple) {
            (Some(only), false) => Ok(only),
            (last, _) => {
                targets.extend(last);
                Ok(Target::Tuple(targets))
            }
        }
    }

    fn target_ends(&self, ends: &[&str]) -> bool {
        matches!(self.current, Token::BlockEnd | Token::Operator(")" | "="))
            || ends.iter().any(|end| self.is_name(end))
    }

    fn single_target(&mut self, attributes: bool) -> Result<Target> {
        if self.is("(") {
            self.next();
            self.deeper()?;
            let target = self.target(attributes, &[])?;
            self.nesting -= 1;
            self.expect(")")?;
            return Ok(target);
        }
        let name = self.expect_name()?;
        if matches!(name.as_str(), "true" | "false" | "none" | "True" | "False" | "None") {
            fail!("can't assign to 'const'");
        }
        let index = self.name(&name);
        if attributes && self.skip(".") {
            return Ok(Target::Attribute(index, self.expect_name()?.into()));
        }
        if name == "loop" && self.loops > 0 {
            fail!("Can't assign to special loop variable in for-loop");
        }
        Ok(Target::Name(index))
    }
}

/// A token, for messages.
pub(super) fn describe(token: &Token) -> String {
    match token {
        Token::Data(_) => "text".to_owned(),
        Token::VariableBegin => "'{{'".to_owned(),
        Token::VariableEnd => "'}}'".to_owned(),
        Token::BlockBegin => "'{%'".to_owned(),
        Token::BlockEnd => "'%}'".to_owned(),
        Token::Name(name) => format!("'{name}'"),
        Token::Str(_) => "a string".to_owned(),
        Token::Int(number) => format!("'{number}'"),
        Token::Float(number) => format!("'{number}'"),
        Token::Operator(operator) => format!("'{operator}'"),
        Token::End => "the end of the template".to_owned(),
    }
}

//! Tokens to the syntax tree: expressions.

use std::sync::Arc;

use super::error::{Result, fail};
use super::filters;
use super::lexer::Token;
use super::limits::EXPRESSION_DEPTH;
use super::parser::{Parser, SPECIAL, describe};
use super::predicates;
use super::tree::*;

/// Operators that bind as tightly as one another, from the loosest.
const LEVELS: [&[(&str, Operator)]; 3] = [
    &[("+", Operator::Add), ("-", Operator::Subtract)],
    &[
        ("*", Operator::Multiply),
        ("/", Operator::Divide),
        ("//", Operator::FloorDivide),
        ("%", Operator::Remainder),
    ],
    &[("**", Operator::Power)],
];

const COMPARISONS: [(&str, Comparison); 6] = [
    ("==", Comparison::Equal),
    ("!=", Comparison::NotEqual),
    ("<", Comparison::Less),
    ("<=", Comparison::LessOrEqual),
    (">", Comparison::Greater),
    (">=", Comparison::GreaterOrEqual),
];

impl Parser {
    /// Counts a level of recursion; whoever calls takes it off again.
    pub(super) fn deeper(&mut self) -> Result<()> {
        self.nesting += 1;
        if self.nesting > EXPRESSION_DEPTH {
            fail!("an expression is nested more than {EXPRESSION_DEPTH} levels deep");
        }
        Ok(())
    }

    /// An expression, or a tuple of those that commas separate. `ends` are names that end it.
    pub(super) fn tuple(&mut self, conditional: bool, ends: &[&str]) -> Result<Expression> {
        let items = self.tuple_items(conditional, ends)?;
        match items {
            (mut items, false) if items.len() == 1 => Ok(items.remove(0)),
            (items, false) if items.is_empty() => {
                fail!("Expected an expression, got {}", describe(&self.current))
            }
            (items, _) => {
                let below = height(&items);
                Expression::new(Kind::Tuple(items), below)
            }
        }
    }

    /// The items, and whether a comma was there.
    fn tuple_items(&mut self, conditional: bool, ends: &[&str]) -> Result<(Vec<Expression>, bool)> {
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            let ended = matches!(self.current, Token::VariableEnd | Token::BlockEnd | Token::Operator(")"));
            if ended || ends.iter().any(|end| self.is_name(end)) {
                return Ok((items, is_tuple));
            }
            items.push(self.expression(conditional)?);
            if !self.skip(",") {
                return Ok((items, is_tuple));
            }
            is_tuple = true;
        }
    }

    /// One expression; `a if b else c` only where `conditional`.
    pub(super) fn expression(&mut self, conditional: bool) -> Result<Expression> {
        self.deeper()?;
        let result = if conditional { self.ternary() } else { self.or() };
        self.nesting -= 1;
        result
    }

    fn ternary(&mut self) -> Result<Expression> {
        let mut value = self.or()?;
        while self.skip_name("if") {
            let before = std::mem::replace(&mut self.conditional, true);
            let condition = self.or()?;
            let otherwise = if self.skip_name("else") { Some(self.expression(true)?) } else { None };
            self.conditional = before;
            let below = height([&value, &condition].into_iter().chain(&otherwise));
            value = Expression::new(Kind::Conditional(Box::new((condition, value, otherwise))), below)?;
        }
        Ok(value)
    }

    fn or(&mut self) -> Result<Expression> {
        let first = self.and()?;
        if !self.is_name("or") {
            return Ok(first);
        }
        let mut operands = vec![first];
        while self.skip_name("or") {
            operands.push(self.and()?);
        }
        let below = height(&operands);
        Expression::new(Kind::Or(operands), below)
    }

    fn and(&mut self) -> Result<Expression> {
        let first = self.not()?;
        if !self.is_name("and") {
            return Ok(first);
        }
        let mut operands = vec![first];
        while self.skip_name("and") {
            operands.push(self.not()?);
        }
        let below = height(&operands);
        Expression::new(Kind::And(operands), below)
    }

    fn not(&mut self) -> Result<Expression> {
        let mut count = 0;
        while self.skip_name("not") {
            count += 1;
        }
        let mut value = self.comparison()?;
        for _ in 0..count {
            let below = value.height();
            value = Expression::new(Kind::Not(Box::new(value)), below)?;
        }
        Ok(value)
    }

    fn comparison(&mut self) -> Result<Expression> {
        let first = self.arithmetic(0)?;
        let mut operands = Vec::new();
        loop {
            let symbol = COMPARISONS.into_iter().find(|(symbol, _)| self.is(symbol));
            let comparison = if let Some((_, comparison)) = symbol {
                comparison
            } else if self.is_name("in") {
                Comparison::In
            } else if self.is_name("not") && self.follows(&Token::Name("in".to_owned())) {
                self.next();
                Comparison::NotIn
            } else {
                break;
            };
            self.next();
            operands.push((comparison, self.arithmetic(0)?));
        }
        if operands.is_empty() {
            return Ok(first);
        }
        let below = height(operands.iter().map(|(_, operand)| operand)).max(first.height());
        Expression::new(Kind::Compare(Box::new(first), operands), below)
    }

    /// Operators of `level` and tighter ones; `~` stands between the first two levels.
    fn arithmetic(&mut self, level: usize) -> Result<Expression> {
        let mut left = self.tighter(level)?;
        loop {
            let operator = LEVELS[level].iter().find(|(symbol, _)| self.is(symbol));
            let Some(&(_, operator)) = operator else { return Ok(left) };
            self.next();
            let right = self.tighter(level)?;
            let below = left.height().max(right.height());
            left = Expression::new(Kind::Binary(Box::new((operator, left, right))), below)?;
        }
    }

    fn tighter(&mut self, level: usize) -> Result<Expression> {
        match level {
            0 => self.concatenation(),
            1 => self.arithmetic(2),
            _ => self.unary(true),
        }
    }

    fn concatenation(&mut self) -> Result<Expression> {
        let first = self.arithmetic(1)?;
        if !self.is("~") {
            return Ok(first);
        }
        let mut operands = vec![first];
        while self.skip("~") {
            operands.push(self.arithmetic(1)?);
        }
        let below = height(&operands);
        Expression::new(Kind::Concatenate(operands), below)
    }

    fn unary(&mut self, filtered: bool) -> Result<Expression> {
        let mut value = if self.is("-") || self.is("+") {
            let negative = self.skip("-") || !self.skip("+");
            self.deeper()?;
            let operand = self.unary(false)?;
            self.nesting -= 1;
            let below = operand.height();
            let operand = Box::new(operand);
            Expression::new(if negative { Kind::Negative(operand) } else { Kind::Positive(operand) }, below)?
        } else {
            self.primary()?
        };
        value = self.postfix(value)?;
        if !filtered {
            return Ok(value);
        }
        loop {
            let below = value.height();
            if self.skip("|") {
                let filtering = self.filter()?;
                let below = below.max(filtering.arguments.height());
                value = Expression::new(Kind::Filter(Box::new((value, filtering))), below)?;
            } else if self.skip_name("is") {
                value = self.test(value)?;
            } else if self.is("(") {
                value = self.call(value)?;
            } else {
                return Ok(value);
            }
        }
    }

    fn primary(&mut self) -> Result<Expression> {
        let kind = match self.next() {
            Token::Name(name) => match name.as_str() {
                "true" | "True" => Kind::Bool(true),
                "false" | "False" => Kind::Bool(false),
                "none" | "None" => Kind::None,
                _ => self.variable(&name),
            },
            Token::Str(mut text) => {
                while let Token::Str(more) = &self.current {
                    text.push_str(more);
                    self.next();
                }
                Kind::Str(text.into())
            }
            Token::Int(number) => Kind::Int(number),
            Token::Float(number) => Kind::Float(number),
            Token::Operator("(") => return self.parenthesised(),
            Token::Operator("[") => return self.list(),
            Token::Operator("{") => return self.dict(),
            other => {
                let error = format!("unexpected {}", describe(&other));
                self.current = other;
                fail!("{error}")
            }
        };
        Ok(Expression::leaf(kind))
    }

    fn variable(&mut self, name: &str) -> Kind {
        if let Some(index) = SPECIAL.iter().position(|special| *special == name) {
            self.special.iter_mut().for_each(|used| used[index] = true);
        }
        if name == "loop" {
            self.loop_used.fill(true);
        }
        Kind::Name(self.name(name))
    }

    fn parenthesised(&mut self) -> Result<Expression> {
        let (mut items, is_tuple) = self.tuple_items(true, &[])?;
        self.expect(")")?;
        if items.len() == 1 && !is_tuple {
            return Ok(items.remove(0));
        }
        let below = height(&items);
        Expression::new(Kind::Tuple(items), below)
    }

    fn list(&mut self) -> Result<Expression> {
        let mut items = Vec::new();
        while !self.is("]") {
            items.push(self.expression(true)?);
            if !self.is("]") {
                self.expect(",")?;
            }
        }
        self.next();
        let below = height(&items);
        Expression::new(Kind::List(items), below)
    }

    fn dict(&mut self) -> Result<Expression> {
        let mut items = Vec::new();
        while !self.is("}") {
            let key = self.expression(true)?;
            self.expect(":")?;
            items.push((key, self.expression(true)?));
            if !self.is("}") {
                self.expect(",")?;
            }
        }
        self.next();
        let below = height(items.iter().flat_map(|(key, value)| [key, value]));
        Expression::new(Kind::Dict(items), below)
    }

    fn postfix(&mut self, mut value: Expression) -> Result<Expression> {
        loop {
            let below = value.height();
            if self.skip(".") {
                let kind = match self.next() {
                    Token::Name(name) => Kind::Attribute(Box::new(value), name.into()),
                    Token::Int(index) => {
                        Kind::Item(Box::new(value), Box::new(Expression::leaf(Kind::Int(index))))
                    }
                    other => fail!("expected name or number, got {}", describe(&other)),
                };
                value = Expression::new(kind, below)?;
            } else if self.skip("[") {
                value = self.subscript(value)?;
            } else if self.is("(") {
                value = self.call(value)?;
            } else {
                return Ok(value);
            }
        }
    }

    fn subscript(&mut self, value: Expression) -> Result<Expression> {
        let mut bounds = [None, None, None];
        let mut part = 0;
        let mut indices = Vec::new();
        while !self.is("]") {
            if self.is(":") && part < 2 && indices.is_empty() {
                part += 1;
                self.next();
                continue;
            }
            if bounds[part].is_some() {
                // `x[a, b]`: a tuple is the key.
                if part > 0 {
                    fail!("a slice cannot be one of several indices");
                }
                self.expect(",")?;
                indices.extend(bounds[part].take());
            }
            bounds[part] = Some(self.expression(true)?);
        }
        self.next();
        let below = height(bounds.iter().flatten().chain(&indices)).max(value.height());
        let [first, ..] = &mut bounds;
        if part > 0 {
            return Expression::new(Kind::Slice(Box::new(value), Box::new(bounds)), below);
        }
        let Some(mut index) = first.take() else { fail!("expected subscript expression") };
        if !indices.is_empty() {
            indices.push(index);
            let below = height(&indices);
            index = Expression::new(Kind::Tuple(indices), below)?;
        }
        let below = below.max(index.height());
        Expression::new(Kind::Item(Box::new(value), Box::new(index)), below)
    }

    fn call(&mut self, function: Expression) -> Result<Expression> {
        let arguments = self.arguments()?;
        let below = function.height().max(arguments.height());
        Expression::new(Kind::Call(Box::new(Call { function, arguments })), below)
    }

    fn arguments(&mut self) -> Result<ArgumentList> {
        self.expect("(")?;
        let mut list = ArgumentList::default();
        let mut first = true;
        while !self.is(")") {
            if !first {
                self.expect(",")?;
                if self.is(")") {
                    break;
                }
            }
            first = false;
            let valid = if self.skip("*") {
                let valid = list.spread.is_none() && list.spread_named.is_none();
                list.spread = Some(self.expression(true)?);
                valid
            } else if self.skip("**") {
                let valid = list.spread_named.is_none();
                list.spread_named = Some(self.expression(true)?);
                valid
            } else if matches!(self.current, Token::Name(_)) && self.follows(&Token::Operator("=")) {
                let name: Arc<str> = self.expect_name()?.into();
                self.next();
                let repeated = list.named.iter().any(|(known, _)| *known == name);
                if repeated {
                    fail!("keyword argument repeated: {name}");
                }
                list.named.push((name, self.expression(true)?));
                list.spread_named.is_none()
            } else {
                list.positional.push(self.expression(true)?);
                list.named.is_empty() && list.spread.is_none() && list.spread_named.is_none()
            };
            if !valid {
                fail!("invalid syntax for function call expression");
            }
        }
        self.expect(")")?;
        Ok(list)
    }

    /// Filters of a block: `| a | b`, the first without `|` where `inline`.
    pub(super) fn filters(&mut self, inline: bool) -> Result<Vec<Filtering>> {
        let mut list = Vec::new();
        if inline {
            list.push(self.filter()?);
        }
        while self.skip("|") {
            list.push(self.filter()?);
        }
        Ok(list)
    }

    fn dotted(&mut self) -> Result<Arc<str>> {
        let mut name = self.expect_name()?;
        while self.skip(".") {
            name.push('.');
            name.push_str(&self.expect_name()?);
        }
        Ok(name.into())
    }

    fn filter(&mut self) -> Result<Filtering> {
        let name = self.dotted()?;
        let filter = filters::find(&name);
        if filter.is_none() && !self.conditional {
            fail!("No filter named '{name}'.");
        }
        let arguments = if self.is("(") { self.arguments()? } else { ArgumentList::default() };
        Ok(Filtering { name, filter, arguments })
    }

    fn test(&mut self, value: Expression) -> Result<Expression> {
        let negated = self.skip_name("not");
        let name = self.dotted()?;
        let test = predicates::find(&name);
        if test.is_none() && !self.conditional {
            fail!("No test named '{name}'.");
        }
        let mut arguments = ArgumentList::default();
        let is_word = ["else", "or", "and"].iter().any(|word| self.is_name(word));
        if self.is("(") {
            arguments = self.arguments()?;
        } else if self.is_name("is") {
            fail!("You cannot chain multiple tests with is");
        } else if !is_word
            && matches!(
                self.current,
                Token::Name(_) | Token::Str(_) | Token::Int(_) | Token::Float(_) | Token::Operator("[" | "{")
            )
        {
            self.deeper()?;
            let argument = self.primary()?;
            arguments.positional.push(self.postfix(argument)?);
            self.nesting -= 1;
        }
        let below = value.height().max(arguments.height());
        let tested = Testing { name, test, arguments };
        let result = Expression::new(Kind::Test(Box::new((value, tested))), below)?;
        match negated {
            false => Ok(result),
            true => {
                let below = result.height();
                Expression::new(Kind::Not(Box::new(result)), below)
            }
        }
    }
}

//! Statements to text.

use std::rc::Rc;
use std::sync::Arc;

use super::arguments::Arguments;
use super::beginnings::{After, Here};
use super::error::{Result, fail};
use super::evaluate::{Closure, Output, Renderer, Scope};
use super::limits::ELEMENT;
use super::loops::{Cursor, Loop, elements};
use super::tree::{self, Expression, Filtering, For, Name, Statement, StatementKind, Target};
use super::value::{Dict, Value};

/// What follows a statement.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    On,
    Break,
    Continue,
}

impl Renderer<'_> {
    pub(super) fn execute(&self, body: &[Statement], scope: &Rc<Scope>, out: &mut Output) -> Result<Flow> {
        for statement in body {
            if out.is_outermost {
                self.rendered.set(out.text.len());
            }
            let flow = self.statement(statement, scope, out).map_err(|error| error.at(statement.line))?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    /// Executes what stands outside of all scopes but the outermost, `after` which something follows.
    pub(super) fn execute_outermost(
        &self,
        body: &[Statement],
        after: Option<&After<'_>>,
        scope: &Rc<Scope>,
        out: &mut Output,
    ) -> Result<Flow> {
        for (index, statement) in body.iter().enumerate() {
            self.rendered.set(out.text.len());
            let after = After { rest: &body[index + 1..], outer: after };
            let flow = match &statement.kind {
                StatementKind::If(branches, otherwise) => self
                    .limits
                    .enter()
                    .and_then(|_level| self.branch(branches, otherwise, scope))
                    .map_err(|error| error.at(statement.line))
                    .and_then(|body| self.execute_outermost(body, Some(&after), scope, out)),
                StatementKind::For(declared) => {
                    let level = self.limits.enter();
                    level.and_then(|_level| self.for_loop(declared, Some(&after), scope, out))
                }
                _ => self.statement(statement, scope, out),
            };
            let flow = flow.map_err(|error| error.at(statement.line))?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    /// The body of the first branch whose condition holds.
    fn branch<'s>(
        &self,
        branches: &'s [(Expression, Vec<Statement>)],
        otherwise: &'s [Statement],
        scope: &Rc<Scope>,
    ) -> Result<&'s [Statement]> {
        for (condition, body) in branches {
            if self.evaluate(condition, scope)?.is_true() {
                return Ok(body);
            }
        }
        Ok(otherwise)
    }

    fn statement(&self, statement: &Statement, scope: &Rc<Scope>, out: &mut Output) -> Result<Flow> {
        let _level = self.limits.enter()?;
        match &statement.kind {
            StatementKind::Text(text) => {
                self.limits.allocate(text.len())?;
                out.text.push_str(text);
            }
            StatementKind::Print(value) => {
                let value = self.evaluate(value, scope)?;
                self.write_str(&value, &mut out.text)?;
            }
            StatementKind::If(branches, otherwise) => {
                return self.execute(self.branch(branches, otherwise, scope)?, scope, out);
            }
            StatementKind::For(declared) => return self.for_loop(declared, None, scope, out),
            StatementKind::Set(target, value) => {
                let value = self.evaluate(value, scope)?;
                self.assign(target, value, scope)?;
            }
            StatementKind::Break => return Ok(Flow::Break),
            StatementKind::Continue => return Ok(Flow::Continue),
            _ => self.block(&statement.kind, scope, out)?,
        }
        Ok(Flow::On)
    }

    // Apart from the common statements: its variables would take stack in every level of those.
    #[inline(never)]
    fn block(&self, kind: &StatementKind, scope: &Rc<Scope>, out: &mut Output) -> Result<()> {
        match kind {
            StatementKind::SetBlock(target, filters, body) => {
                let value = self.captured(body, filters, scope)?;
                self.assign(target, value, scope)
            }
            StatementKind::Filter(filters, body) => {
                let value = self.captured(body, filters, scope)?;
                self.write_str(&value, &mut out.text)
            }
            StatementKind::With(values, body) => {
                let inner = Scope::new(Some(scope));
                for (target, value) in values {
                    self.assign(target, self.evaluate(value, scope)?, &inner)?;
                }
                self.execute(body, &inner, out).map(|_| ())
            }
            StatementKind::Macro(declared) => {
                let value = self.closure(declared, scope)?;
                if let Some(variable) = declared.variable {
                    scope.set(variable, value);
                }
                Ok(())
            }
            StatementKind::Call(call, body) => {
                let caller = self.closure(body, scope)?;
                let value = self.evaluate_call(call, vec![("caller".into(), caller)], scope)?;
                self.write_str(&value, &mut out.text)
            }
            StatementKind::Generation(body) => {
                let start = if out.is_outermost { out.text.len() } else { self.rendered.get() };
                let before = out.text.len();
                self.execute(body, &Scope::new(Some(scope)), out)?;
                self.generation.borrow_mut().push(start..start + out.text.len() - before);
                Ok(())
            }
            _ => fail!("a statement cannot be rendered"),
        }
    }

    /// The text of a body, through filters.
    fn captured(&self, body: &[Statement], filters: &[Filtering], scope: &Rc<Scope>) -> Result<Value> {
        let inner = Scope::new(Some(scope));
        let mut captured = Output::default();
        self.execute(body, &inner, &mut captured)?;
        let mut value = Value::text(captured.text);
        for filter in filters {
            value = self.filter(filter, value, &inner)?;
        }
        Ok(value)
    }

    fn closure(&self, declared: &Arc<tree::Macro>, scope: &Rc<Scope>) -> Result<Value> {
        self.limits.allocate(4 * ELEMENT)?;
        let mut macros = self.macros.borrow_mut();
        macros.push(Closure { declared: declared.clone(), scope: scope.clone() });
        Ok(Value::Macro(macros.len() - 1))
    }

    #[inline(never)]
    fn for_loop(
        &self,
        declared: &For,
        after: Option<&After<'_>>,
        scope: &Rc<Scope>,
        out: &mut Output,
    ) -> Result<Flow> {
        let mut iterable = self.evaluate(&declared.iterable, scope)?;
        if let Some(condition) = &declared.condition {
            let mut kept = Vec::new();
            let mut cursor = Cursor::new(&iterable)?;
            while let Some(item) = cursor.next(&self.limits)? {
                let inner = Scope::new(Some(scope));
                self.assign(&declared.target, item.clone(), &inner)?;
                if self.evaluate(condition, &inner)?.is_true() {
                    self.limits.allocate(ELEMENT)?;
                    kept.push(item);
                }
            }
            iterable = Value::list(kept)?;
        }
        let state = match declared.loop_name {
            Some(name) => {
                self.loops.set(self.loops.get() + 1);
                Some((name, Rc::new(Loop::new(&iterable, self.loops.get())?)))
            }
            None => None,
        };
        let first_message = match &iterable {
            Value::List(sequence) => sequence.first_message(),
            _ => None,
        };
        let mut cursor = Cursor::new(&iterable)?;
        let mut count = 0;
        loop {
            if let (Some(first), Some(after), 1..) = (first_message, after, count) {
                let state = state.as_ref().map(|(name, state)| (*name, &**state));
                let here = Here { declared, iterable: &iterable, state, position: count, after, scope };
                self.make_beginnings(first.saturating_add(count), &here, out);
            }
            let item = match &state {
                Some((_, state)) => state.advance(&self.limits)?,
                None => cursor.next(&self.limits)?,
            };
            let Some(item) = item else { break };
            count += 1;
            if self.iteration(declared, item, state.as_ref(), scope, out)? == Flow::Break {
                break;
            }
        }
        if count == 0 {
            return self.execute(&declared.otherwise, &Scope::new(Some(scope)), out);
        }
        Ok(Flow::On)
    }

    /// Goes through a loop's body for one element. `state` is the name `loop` and what it stands for.
    pub(super) fn iteration(
        &self,
        declared: &For,
        item: Value,
        state: Option<&(Name, Rc<Loop>)>,
        scope: &Rc<Scope>,
        out: &mut Output,
    ) -> Result<Flow> {
        let inner = Scope::new(Some(scope));
        self.assign(&declared.target, item, &inner)?;
        if let Some((name, state)) = state {
            inner.set(*name, Value::Loop(state.clone()));
        }
        self.execute(&declared.body, &inner, out)
    }

    fn assign(&self, target: &Target, value: Value, scope: &Rc<Scope>) -> Result<()> {
        match target {
            Target::Name(name) => {
                self.beginnings.use_name(*name);
                scope.set(*name, value);
            }
            Target::Attribute(name, attribute) => {
                let Value::Namespace(index) = self.variable(*name, scope) else {
                    fail!("cannot assign attribute on non-namespace object");
                };
                self.set_attribute(index, attribute, value)?;
            }
            Target::Tuple(targets) => {
                let values = elements(&value, &self.limits)?;
                if values.len() != targets.len() {
                    let problem = if values.len() < targets.len() { "not enough" } else { "too many" };
                    fail!("{problem} values to unpack (expected {})", targets.len());
                }
                for (target, value) in targets.iter().zip(values) {
                    self.assign(target, value, scope)?;
                }
            }
        }
        Ok(())
    }

    /// Sets an attribute of a namespace.
    pub(super) fn set_attribute(&self, namespace: usize, name: &Arc<str>, value: Value) -> Result<()> {
        if name.starts_with('_') {
            fail!(
                "Chat templates cannot store underscore-prefixed attributes on a namespace, but got '{name}'. \
                 Please rename the attribute."
            );
        }
        self.limits.allocate(ELEMENT)?;
        let attributes = &mut self.namespaces.borrow_mut()[namespace];
        self.limits.read(attributes.len())?;
        match attributes.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value,
            None => attributes.push((name.clone(), value)),
        }
        Ok(())
    }

    #[inline(never)]
    pub(super) fn call_macro(&self, index: usize, arguments: Arguments) -> Result<Value> {
        let closure = self.macros.borrow()[index].clone();
        let declared = &closure.declared;
        let called = declared.name.as_deref().unwrap_or("caller");
        let scope = Scope::new(Some(&closure.scope));
        let mut positional = arguments.positional.into_iter();
        let mut named = arguments.named;
        let take = |named: &mut Vec<(Arc<str>, Value)>, name: &str| {
            named.iter().position(|(known, _)| **known == *name).map(|index| named.remove(index).1)
        };
        for (name, default) in &declared.parameters {
            let text = &self.tree.names[*name];
            let value = match positional.next().or_else(|| take(&mut named, text)) {
                Some(value) => value,
                None => match default {
                    Some(default) => self.evaluate(default, &scope)?,
                    None => Value::hint(&format!("parameter '{text}' was not provided")),
                },
            };
            scope.set(*name, value);
        }
        if let Some(name) = declared.caller {
            let caller = take(&mut named, "caller");
            scope.set(name, caller.unwrap_or_else(|| Value::hint("No caller defined")));
        }
        if let Some(name) = declared.kwargs {
            let mut dict = Dict::default();
            for (key, value) in named.drain(..) {
                dict.insert(Value::Str(key), value, &self.limits)?;
            }
            scope.set(name, Value::dict(dict));
        }
        if let Some((name, _)) = named.first() {
            fail!("macro '{called}' takes no keyword argument '{name}'");
        }
        if let Some(name) = declared.varargs {
            scope.set(name, Value::tuple(positional.by_ref().collect())?);
        }
        if positional.next().is_some() {
            fail!("macro '{called}' takes not more than {} argument(s)", declared.parameters.len());
        }
        let mut out = Output::default();
        self.execute(&declared.body, &scope, &mut out)?;
        Ok(Value::text(out.text))
    }
}

//! Expressions to values.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use super::arguments::{Arguments, int};
use super::beginnings::Beginnings;
use super::error::{Result, fail};
use super::globals::Function;
use super::limits::{ELEMENT, Limits};
use super::loops::elements;
use super::methods::{Effect, method};
use super::tree::{self, ArgumentList, Expression, Kind, Name, Tree};
use super::value::{Dict, Missing, Value};

/// What a variable is that is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Absent {
    /// Undefined, as in jinja2: it prints as nothing.
    IsUndefined,
    /// An error, and so is printing what is undefined or none, as in jinja2's `StrictUndefined`.
    IsError,
}

/// One rendering of a template.
pub(super) struct Renderer<'t> {
    pub tree: &'t Tree,
    pub absent: Absent,
    pub limits: Limits,
    /// The attributes of each namespace.
    pub namespaces: RefCell<Vec<Attributes>>,
    pub macros: RefCell<Vec<Closure>>,
    /// What `loop.changed` of a loop was last called with.
    pub changed: RefCell<Vec<(usize, Value)>>,
    pub loops: Cell<usize>,
    /// Length of what is rendered, at the statement that is being rendered.
    pub rendered: Cell<usize>,
    /// Bytes of the rendered text that stand in `generation`.
    pub generation: RefCell<Vec<Range<usize>>>,
    pub beginnings: Beginnings,
}

/// The attributes of a namespace, in the order that they were set in.
type Attributes = Vec<(Arc<str>, Value)>;

/// A macro with the scope that it was made in.
#[derive(Clone)]
pub(super) struct Closure {
    pub declared: Arc<tree::Macro>,
    pub scope: Rc<Scope>,
}

/// Variables of a block, and the scope around it.
pub(super) struct Scope {
    pub variables: RefCell<Vec<(Name, Value)>>,
    outer: Option<Rc<Scope>>,
}

/// Text that statements write.
#[derive(Default)]
pub(super) struct Output {
    pub text: String,
    /// Whether this is the rendered text itself, and not a macro's or a block's.
    pub is_outermost: bool,
}

impl Scope {
    pub(super) fn new(outer: Option<&Rc<Scope>>) -> Rc<Self> {
        Rc::new(Self { variables: RefCell::default(), outer: outer.cloned() })
    }

    pub(super) fn get(&self, name: Name) -> Option<Value> {
        let mut scope = self;
        loop {
            let variables = scope.variables.borrow();
            if let Some((_, value)) = variables.iter().find(|(known, _)| *known == name) {
                return Some(value.clone());
            }
            drop(variables);
            scope = scope.outer.as_deref()?;
        }
    }

    pub(super) fn set(&self, name: Name, value: Value) {
        let mut variables = self.variables.borrow_mut();
        match variables.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => variables.push((name, value)),
        }
    }
}

impl Renderer<'_> {
    pub(super) fn variable(&self, name: Name, scope: &Scope) -> Value {
        self.beginnings.use_name(name);
        self.value_of(name, scope)
    }

    fn value_of(&self, name: Name, scope: &Scope) -> Value {
        if let Some(value) = scope.get(name) {
            return value;
        }
        let name = &self.tree.names[name];
        match Function::find(name) {
            Some(function) => Value::Function(function),
            None => Value::missing(Missing::Name(name.clone())),
        }
    }

    pub(super) fn evaluate(&self, expression: &Expression, scope: &Rc<Scope>) -> Result<Value> {
        match &expression.kind {
            Kind::None => return Ok(Value::None),
            Kind::Bool(value) => return Ok(Value::Bool(*value)),
            Kind::Int(value) => return Ok(Value::Int(*value)),
            Kind::Float(value) => return Ok(Value::Float(*value)),
            Kind::Str(text) => return Ok(Value::Str(text.clone())),
            Kind::Name(name) => {
                self.limits.step()?;
                let value = self.variable(*name, scope);
                if self.absent == Absent::IsError {
                    value.defined()?;
                }
                return Ok(value);
            }
            _ => {}
        }
        let _level = self.limits.enter()?;
        match &expression.kind {
            Kind::Attribute(value, name) => self.attribute(&self.evaluate(value, scope)?, name),
            Kind::Item(value, key) => {
                let value = self.evaluate(value, scope)?;
                self.item(&value, &self.evaluate(key, scope)?)
            }
            Kind::Call(call) => self.evaluate_call(call, Vec::new(), scope),
            Kind::Filter(filter) => {
                let value = match &filter.0.kind {
                    Kind::Name(name) if matches!(&*filter.1.name, "default" | "d") => {
                        self.limits.step()?;
                        self.variable(*name, scope)
                    }
                    _ => self.evaluate(&filter.0, scope)?,
                };
                self.filter(&filter.1, value, scope)
            }
            Kind::Test(test) => {
                let value = match &test.0.kind {
                    // Whether it is there does not depend on the value that it has.
                    Kind::Name(name) if matches!(&*test.1.name, "defined" | "undefined") => {
                        self.limits.step()?;
                        self.value_of(*name, scope)
                    }
                    _ => self.evaluate(&test.0, scope)?,
                };
                self.evaluate_test(&test.1, &value, scope)
            }
            Kind::Not(value) => Ok(Value::Bool(!self.evaluate(value, scope)?.is_true())),
            Kind::And(operands) => self.first(operands, false, scope),
            Kind::Or(operands) => self.first(operands, true, scope),
            Kind::Compare(first, rest) => self.evaluate_comparison(first, rest, scope),
            Kind::Conditional(parts) => {
                let (condition, value, otherwise) = &**parts;
                if self.evaluate(condition, scope)?.is_true() {
                    return self.evaluate(value, scope);
                }
                match otherwise {
                    Some(otherwise) => self.evaluate(otherwise, scope),
                    None => Ok(Value::hint(
                        "the inline if-expression evaluated to false and no else section was defined.",
                    )),
                }
            }
            _ => self.evaluate_operation(expression, scope),
        }
    }

    // Apart from the common ones: their variables would take stack in every level of those.
    #[inline(never)]
    fn evaluate_operation(&self, expression: &Expression, scope: &Rc<Scope>) -> Result<Value> {
        match &expression.kind {
            Kind::Binary(parts) => {
                let left = self.evaluate(&parts.1, scope)?;
                let right = self.evaluate(&parts.2, scope)?;
                self.binary(parts.0, &left, &right)
            }
            Kind::Concatenate(operands) => {
                let mut text = String::new();
                for operand in operands {
                    self.write_str(&self.evaluate(operand, scope)?, &mut text)?;
                }
                Ok(Value::text(text))
            }
            Kind::List(items) => Value::list(self.evaluate_all(items, scope)?),
            Kind::Tuple(items) => Value::tuple(self.evaluate_all(items, scope)?),
            Kind::Dict(items) => {
                let mut dict = Dict::default();
                for (key, value) in items {
                    let key = self.evaluate(key, scope)?;
                    dict.insert(key, self.evaluate(value, scope)?, &self.limits)?;
                }
                Ok(Value::dict(dict))
            }
            Kind::Slice(value, bounds) => {
                let value = self.evaluate(value, scope)?;
                let mut numbers = [None; 3];
                for (number, bound) in numbers.iter_mut().zip(bounds.iter()) {
                    if let Some(bound) = bound {
                        *number = match self.evaluate(bound, scope)? {
                            Value::None => None,
                            bound => Some(int(&bound)?),
                        };
                    }
                }
                self.slice(&value, numbers)
            }
            Kind::Negative(value) => self.negative(&self.evaluate(value, scope)?),
            Kind::Positive(value) => self.positive(&self.evaluate(value, scope)?),
            _ => fail!("an expression cannot be evaluated"),
        }
    }

    /// The first operand that is as `wanted`, else the last one.
    fn first(&self, operands: &[Expression], wanted: bool, scope: &Rc<Scope>) -> Result<Value> {
        let mut last = Value::None;
        for operand in operands {
            last = self.evaluate(operand, scope)?;
            if last.is_true() == wanted {
                break;
            }
        }
        Ok(last)
    }

    #[inline(never)]
    fn evaluate_comparison(
        &self,
        first: &Expression,
        rest: &[(tree::Comparison, Expression)],
        scope: &Rc<Scope>,
    ) -> Result<Value> {
        let mut left = self.evaluate(first, scope)?;
        for (comparison, operand) in rest {
            let right = self.evaluate(operand, scope)?;
            if !self.compare(*comparison, &left, &right)? {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    fn evaluate_all(&self, items: &[Expression], scope: &Rc<Scope>) -> Result<Vec<Value>> {
        self.limits.allocate_times(items.len(), ELEMENT)?;
        items.iter().map(|item| self.evaluate(item, scope)).collect()
    }

    fn evaluate_arguments(&self, list: &ArgumentList, scope: &Rc<Scope>) -> Result<Arguments> {
        let mut arguments =
            Arguments { positional: self.evaluate_all(&list.positional, scope)?, named: Vec::new() };
        for (name, value) in &list.named {
            arguments.named.push((name.clone(), self.evaluate(value, scope)?));
        }
        if let Some(spread) = &list.spread {
            arguments.positional.extend(elements(&self.evaluate(spread, scope)?, &self.limits)?);
        }
        if let Some(spread) = &list.spread_named {
            let Value::Dict(dict) = self.evaluate(spread, scope)? else {
                fail!("argument after ** must be a mapping");
            };
            self.limits.allocate_times(dict.entries().len(), ELEMENT)?;
            for (key, value) in dict.entries() {
                let Value::Str(name) = key else { fail!("keywords must be strings") };
                if arguments.named.iter().any(|(known, _)| known == name) {
                    fail!("got multiple values for keyword argument '{name}'");
                }
                arguments.named.push((name.clone(), value.clone()));
            }
        }
        Ok(arguments)
    }

    /// Calls a function with `extra` named arguments.
    #[inline(never)]
    pub(super) fn evaluate_call(
        &self,
        call: &tree::Call,
        extra: Vec<(Arc<str>, Value)>,
        scope: &Rc<Scope>,
    ) -> Result<Value> {
        // A method that is called at once needs no value of its own.
        if let (Kind::Attribute(receiver, name), true) = (&call.function.kind, extra.is_empty()) {
            let receiver = self.evaluate(receiver, scope)?;
            if matches!(receiver, Value::Str(_) | Value::Dict(_))
                && method(&receiver, name) == Some(Effect::None)
            {
                let arguments = self.evaluate_arguments(&call.arguments, scope)?;
                return self.call_method(&receiver, name, arguments);
            }
            let function = self.attribute(&receiver, name)?;
            return self.call(&function, self.evaluate_arguments(&call.arguments, scope)?);
        }
        let function = self.evaluate(&call.function, scope)?;
        let mut arguments = self.evaluate_arguments(&call.arguments, scope)?;
        arguments.named.extend(extra);
        self.call(&function, arguments)
    }

    pub(super) fn call(&self, function: &Value, arguments: Arguments) -> Result<Value> {
        match function.defined()? {
            Value::Function(function) => self.call_function(*function, arguments),
            Value::Method(method) => self.call_method(&method.0, &method.1, arguments),
            Value::Macro(index) => self.call_macro(*index, arguments),
            Value::Joiner(joiner) => {
                arguments.none("joiner")?;
                Ok(if joiner.1.replace(true) { Value::Str(joiner.0.clone()) } else { Value::text("") })
            }
            Value::Loop(_) => {
                fail!("The loop must have the 'recursive' marker to be called recursively.")
            }
            other => fail!("'{}' object is not callable", other.kind()),
        }
    }

    #[inline(never)]
    pub(super) fn filter(&self, filter: &tree::Filtering, value: Value, scope: &Rc<Scope>) -> Result<Value> {
        let Some(function) = filter.filter else { fail!("No filter named '{}' found.", filter.name) };
        let arguments = self.evaluate_arguments(&filter.arguments, scope)?;
        function(self, &value, arguments)
    }

    #[inline(never)]
    fn evaluate_test(&self, test: &tree::Testing, value: &Value, scope: &Rc<Scope>) -> Result<Value> {
        let Some(function) = test.test else { fail!("No test named '{}' found.", test.name) };
        let arguments = self.evaluate_arguments(&test.arguments, scope)?;
        Ok(Value::Bool(function(self, value, arguments)?))
    }
}

//! The syntax tree of a template.

use std::sync::Arc;

use super::error::{Result, fail};
use super::filters::Filter;
use super::limits::EXPRESSION_DEPTH;
use super::predicates::Test;

/// A name of the template: an index into [`Tree::names`].
pub(super) type Name = usize;

/// A parsed template.
pub(super) struct Tree {
    /// Every name that the template reads or sets.
    pub names: Vec<Arc<str>>,
    pub body: Vec<Statement>,
}

pub(super) struct Statement {
    pub line: usize,
    pub kind: StatementKind,
}

pub(super) enum StatementKind {
    Text(Arc<str>),
    Print(Expression),
    /// Conditions with their bodies, and what holds if none does.
    If(Vec<(Expression, Vec<Statement>)>, Vec<Statement>),
    For(Box<For>),
    Set(Target, Expression),
    SetBlock(Target, Vec<Filtering>, Vec<Statement>),
    With(Vec<(Target, Expression)>, Vec<Statement>),
    Macro(Arc<Macro>),
    /// The call, and the macro that it gets as `caller`.
    Call(Call, Arc<Macro>),
    Filter(Vec<Filtering>, Vec<Statement>),
    Generation(Vec<Statement>),
    Break,
    Continue,
}

pub(super) struct For {
    pub target: Target,
    pub iterable: Expression,
    pub condition: Option<Expression>,
    pub body: Vec<Statement>,
    pub otherwise: Vec<Statement>,
    /// The name `loop`, if the body reads it.
    pub loop_name: Option<Name>,
}

pub(super) enum Target {
    Name(Name),
    Attribute(Name, Arc<str>),
    Tuple(Vec<Target>),
}

impl Target {
    /// Whether the variable `name` is assigned to.
    pub(super) fn assigns(&self, name: Name) -> bool {
        match self {
            Self::Name(own) => *own == name,
            Self::Attribute(..) => false,
            Self::Tuple(targets) => targets.iter().any(|target| target.assigns(name)),
        }
    }
}

pub(super) struct Macro {
    pub name: Option<Arc<str>>,
    /// The variable that the macro is kept in; none for the body of a call.
    pub variable: Option<Name>,
    pub parameters: Vec<(Name, Option<Expression>)>,
    pub body: Vec<Statement>,
    pub caller: Option<Name>,
    pub varargs: Option<Name>,
    pub kwargs: Option<Name>,
}

pub(super) struct Expression {
    pub kind: Kind,
    /// Levels of expressions below this one.
    height: u32,
}

pub(super) enum Kind {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Arc<str>),
    Name(Name),
    List(Vec<Expression>),
    Tuple(Vec<Expression>),
    Dict(Vec<(Expression, Expression)>),
    Attribute(Box<Expression>, Arc<str>),
    Item(Box<Expression>, Box<Expression>),
    Slice(Box<Expression>, Box<[Option<Expression>; 3]>),
    Call(Box<Call>),
    Filter(Box<(Expression, Filtering)>),
    Test(Box<(Expression, Testing)>),
    Not(Box<Expression>),
    Negative(Box<Expression>),
    Positive(Box<Expression>),
    Binary(Box<(Operator, Expression, Expression)>),
    And(Vec<Expression>),
    Or(Vec<Expression>),
    Compare(Box<Expression>, Vec<(Comparison, Expression)>),
    Concatenate(Vec<Expression>),
    /// Condition, value if it holds, value if it does not.
    Conditional(Box<(Expression, Expression, Option<Expression>)>),
}

pub(super) struct Call {
    pub function: Expression,
    pub arguments: ArgumentList,
}

#[derive(Default)]
pub(super) struct ArgumentList {
    pub positional: Vec<Expression>,
    pub named: Vec<(Arc<str>, Expression)>,
    pub spread: Option<Expression>,
    pub spread_named: Option<Expression>,
}

/// A filter with its arguments; without function if no such filter exists.
pub(super) struct Filtering {
    pub name: Arc<str>,
    pub filter: Option<Filter>,
    pub arguments: ArgumentList,
}

/// A test with its arguments; without function if no such test exists.
pub(super) struct Testing {
    pub name: Arc<str>,
    pub test: Option<Test>,
    pub arguments: ArgumentList,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Remainder,
    Power,
}

impl Operator {
    /// As it is written.
    pub(super) fn symbol(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::FloorDivide => "//",
            Self::Remainder => "%",
            Self::Power => "** or pow()",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
}

impl Expression {
    /// An expression over others, of which `below` is the [greatest height](Self::height).
    ///
    /// # Errors
    /// When that is more nesting than [`EXPRESSION_DEPTH`]: evaluating and dropping it recurses.
    pub(super) fn new(kind: Kind, below: u32) -> Result<Self> {
        if below >= EXPRESSION_DEPTH {
            fail!("an expression is nested more than {EXPRESSION_DEPTH} levels deep");
        }
        Ok(Self { kind, height: below + 1 })
    }

    /// A literal or a name.
    pub(super) fn leaf(kind: Kind) -> Self {
        Self { kind, height: 1 }
    }

    pub(super) fn height(&self) -> u32 {
        self.height
    }
}

/// The greatest height of `expressions`.
pub(super) fn height<'a>(expressions: impl IntoIterator<Item = &'a Expression>) -> u32 {
    expressions.into_iter().map(Expression::height).max().unwrap_or(0)
}

impl ArgumentList {
    pub(super) fn height(&self) -> u32 {
        let named = self.named.iter().map(|(_, value)| value);
        height(self.positional.iter().chain(named).chain(&self.spread).chain(&self.spread_named))
    }
}

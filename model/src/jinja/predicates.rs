//! The tests of jinja2: `x is defined`.

use std::rc::Rc;

use super::arguments::{Arguments, text};
use super::error::{Result, fail};
use super::evaluate::Renderer;
use super::filters;
use super::hidden::plain;
use super::tree::{Comparison, Operator};
use super::value::Value;

/// A test: what is tested, and its arguments.
pub(super) type Test = fn(&Renderer<'_>, &Value, Arguments) -> Result<bool>;

/// A test without arguments.
macro_rules! plain {
    ($value:ident => $holds:expr) => {
        |_, $value, arguments| arguments.none("the test").map(|()| $holds)
    };
}

/// A test that compares with its argument.
macro_rules! comparison {
    ($comparison:ident) => {
        |renderer, value, arguments| {
            let [other] = arguments.bind("the test", ["other"], 1)?;
            renderer.compare(Comparison::$comparison, value, &other.unwrap_or(Value::None))
        }
    };
}

/// The test of a name.
pub(super) fn find(name: &str) -> Option<Test> {
    Some(match name {
        "odd" => |renderer, value, arguments| remainder_is(renderer, value, arguments, 1),
        "even" => |renderer, value, arguments| remainder_is(renderer, value, arguments, 0),
        "divisibleby" => |renderer, value, arguments| {
            let [divisor] = arguments.bind("divisibleby", ["num"], 1)?;
            let rest = renderer.binary(Operator::Remainder, value, &divisor.unwrap_or(Value::None))?;
            rest.equals(&Value::Int(0), &renderer.limits)
        },
        "defined" => plain!(value => !matches!(value, Value::Undefined(_))),
        "undefined" => plain!(value => matches!(value, Value::Undefined(_))),
        "filter" => |_, value, arguments| {
            arguments.none("filter")?;
            Ok(filters::find(&text(value)?).is_some())
        },
        "test" => |_, value, arguments| {
            arguments.none("test")?;
            Ok(find(&text(value)?).is_some())
        },
        "none" => plain!(value => matches!(value, Value::None)),
        "boolean" => plain!(value => matches!(value, Value::Bool(_))),
        "false" => plain!(value => matches!(value, Value::Bool(false))),
        "true" => plain!(value => matches!(value, Value::Bool(true))),
        "integer" => plain!(value => matches!(value, Value::Int(_))),
        "float" => plain!(value => matches!(value, Value::Float(_))),
        "lower" => |renderer, value, arguments| {
            arguments.none("lower")?;
            Ok(super::text::has_case(&plain(&renderer.str(value)?), char::is_lowercase))
        },
        "upper" => |renderer, value, arguments| {
            arguments.none("upper")?;
            Ok(super::text::has_case(&plain(&renderer.str(value)?), char::is_uppercase))
        },
        "string" => plain!(value => matches!(value, Value::Str(_))),
        "mapping" => plain!(value => matches!(value, Value::Dict(_))),
        "number" => plain!(value => value.number().is_some()),
        "sequence" => plain!(value => matches!(
            value,
            Value::Undefined(_)
                | Value::Str(_)
                | Value::List(_)
                | Value::Tuple(_)
                | Value::Dict(_)
                | Value::Range(_)
        )),
        "iterable" => plain!(value => super::loops::Cursor::new(value).is_ok()),
        "callable" => plain!(value => matches!(
            value,
            Value::Undefined(_)
                | Value::Macro(_)
                | Value::Function(_)
                | Value::Method(_)
                | Value::Joiner(_)
                | Value::Loop(_)
        )),
        "sameas" => |_, value, arguments| {
            let [other] = arguments.bind("sameas", ["other"], 1)?;
            is_same(value, &other.unwrap_or(Value::None))
        },
        "escaped" => plain!(_value => false),
        "in" => |renderer, value, arguments| {
            let [container] = arguments.bind("in", ["seq"], 1)?;
            renderer.contains(&container.unwrap_or(Value::None), value)
        },
        "==" | "eq" | "equalto" => comparison!(Equal),
        "!=" | "ne" => comparison!(NotEqual),
        ">" | "gt" | "greaterthan" => comparison!(Greater),
        ">=" | "ge" => comparison!(GreaterOrEqual),
        "<" | "lt" | "lessthan" => comparison!(Less),
        "<=" | "le" => comparison!(LessOrEqual),
        _ => return None,
    })
}

fn remainder_is(renderer: &Renderer<'_>, value: &Value, arguments: Arguments, wanted: i128) -> Result<bool> {
    arguments.none("the test")?;
    if matches!(value, Value::Str(_)) {
        fail!("not all arguments converted during string formatting");
    }
    let rest = renderer.binary(Operator::Remainder, value, &Value::Int(2))?;
    rest.equals(&Value::Int(wanted), &renderer.limits)
}

/// `is`: one and the same object.
fn is_same(left: &Value, right: &Value) -> Result<bool> {
    Ok(match (left, right) {
        (Value::None, Value::None) => true,
        (Value::Bool(left), Value::Bool(right)) => left == right,
        (Value::Int(left), Value::Int(right)) => left == right,
        (Value::Str(left), Value::Str(right)) => super::hidden::equal(left, right),
        (Value::List(left), Value::List(right)) | (Value::Tuple(left), Value::Tuple(right)) => {
            Rc::ptr_eq(left, right)
        }
        (Value::Dict(left), Value::Dict(right)) => Rc::ptr_eq(left, right),
        (Value::Namespace(left), Value::Namespace(right)) => left == right,
        _ => false,
    })
}

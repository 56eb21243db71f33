//! Arguments of calls, filters and tests.

use std::sync::Arc;

use super::error::{Result, fail};
use super::value::{Number, Value};

#[derive(Clone, Default)]
pub(super) struct Arguments {
    pub positional: Vec<Value>,
    pub named: Vec<(Arc<str>, Value)>,
}

impl Arguments {
    /// The values of a function's `parameters`, of which the first `required` must be there.
    ///
    /// # Errors
    /// When there are too many, too few, or one of another name.
    pub(super) fn bind<const N: usize>(
        self,
        function: &str,
        parameters: [&str; N],
        required: usize,
    ) -> Result<[Option<Value>; N]> {
        let mut values = [const { None }; N];
        let given = self.positional.len();
        if given > N {
            fail!("{function} takes at most {N} arguments ({given} given)");
        }
        for (slot, value) in values.iter_mut().zip(self.positional) {
            *slot = Some(value);
        }
        for (name, value) in self.named {
            match parameters.iter().position(|parameter| **parameter == *name) {
                None => fail!("{function} got an unexpected keyword argument '{name}'"),
                Some(index) if values[index].is_some() => {
                    fail!("{function} got multiple values for argument '{name}'")
                }
                Some(index) => values[index] = Some(value),
            }
        }
        if let Some(index) = values.iter().take(required).position(Option::is_none) {
            fail!("{function} misses its argument '{}'", parameters[index]);
        }
        Ok(values)
    }

    /// # Errors
    /// When there is any argument.
    pub(super) fn none(self, function: &str) -> Result<()> {
        self.bind(function, [], 0).map(|[]| ())
    }
}

/// A whole number, where `value` is one; none for `None` and nothing.
pub(super) fn optional_int(value: Option<Value>) -> Result<Option<i128>> {
    match value {
        None | Some(Value::None) => Ok(None),
        Some(value) => int(&value).map(Some),
    }
}

pub(super) fn int(value: &Value) -> Result<i128> {
    match value.defined()?.number() {
        Some(Number::Int(number)) => Ok(number),
        _ => fail!("'{}' object cannot be interpreted as an integer", value.kind()),
    }
}

/// A length or a width: negative ones are 0.
pub(super) fn size(value: &Value) -> Result<usize> {
    Ok(usize::try_from(int(value)?.max(0)).unwrap_or(usize::MAX))
}

pub(super) fn text(value: &Value) -> Result<Arc<str>> {
    match value.defined()? {
        Value::Str(text) => Ok(text.clone()),
        other => fail!("expected str, got {}", other.kind()),
    }
}

pub(super) fn flag(value: Option<Value>, default: bool) -> bool {
    value.map_or(default, |value| value.is_true())
}

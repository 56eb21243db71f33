//! Attributes, items and slices, by the rules of the sandbox.

use std::sync::Arc;

use super::arguments::int;
use super::error::{Result, fail};
use super::evaluate::Renderer;
use super::limits::ELEMENT;
use super::methods::{Effect, method};
use super::value::{Missing, Range, Value};

impl Renderer<'_> {
    /// `value.name`: the attribute or method before the item.
    pub(super) fn attribute(&self, value: &Value, name: &Arc<str>) -> Result<Value> {
        value.defined()?;
        if let Some(found) = self.own_attribute(value, name)? {
            return Ok(found);
        }
        if let Value::Dict(dict) = value
            && let Some(item) = dict.get_str(name)
        {
            return Ok(item.clone());
        }
        Ok(Value::missing(Missing::Attribute(described(value), name.clone())))
    }

    /// `value[key]`: the item before the attribute.
    pub(super) fn item(&self, value: &Value, key: &Value) -> Result<Value> {
        value.defined()?;
        if let Some(found) = self.own_item(value, key)? {
            return Ok(found);
        }
        if let Value::Str(name) = key {
            if let Some(found) = self.own_attribute(value, name)? {
                return Ok(found);
            }
            return Ok(Value::missing(Missing::Attribute(described(value), name.clone())));
        }
        Ok(Value::missing(Missing::Element(described(value), self.repr(key)?)))
    }

    /// What Python's `getattr` finds and the sandbox allows.
    fn own_attribute(&self, value: &Value, name: &Arc<str>) -> Result<Option<Value>> {
        let found = match value {
            Value::Namespace(index) => {
                let namespaces = self.namespaces.borrow();
                namespaces[*index].iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
            }
            Value::Loop(state) => state.attribute(name, &self.limits)?,
            Value::Tuple(sequence) if sequence.is_group && **name == *"grouper" => {
                Some(sequence.items()[0].clone())
            }
            Value::Tuple(sequence) if sequence.is_group && **name == *"list" => {
                Some(sequence.items()[1].clone())
            }
            Value::Macro(index) => {
                let name_of = self.macros.borrow()[*index].declared.name.clone();
                (**name == *"name").then(|| name_of.map_or(Value::None, Value::Str))
            }
            Value::Int(_) | Value::Bool(_) | Value::Float(_) => number_attribute(value, name)?,
            Value::Cycler(cycler) if **name == *"current" => {
                Some(cycler.items.items()[cycler.position.get()].clone())
            }
            _ => None,
        };
        if found.is_some() {
            return Ok(found);
        }
        if name.starts_with("__") && name.ends_with("__") && !matches!(value, Value::Namespace(_)) {
            let message = format!("access to attribute '{name}' of '{}' object is unsafe.", value.kind());
            return Ok(Some(Value::hint(&message)));
        }
        match method(value, name) {
            None => return Ok(None),
            Some(Effect::None) => {}
            Some(Effect::Changes) => {
                let kind = value.kind();
                let message = format!("access to attribute '{name}' of '{kind}' object is unsafe.");
                return Ok(Some(Value::hint(&message)));
            }
        }
        Value::method(value, name).map(Some)
    }

    /// What Python's `value[key]` finds.
    fn own_item(&self, value: &Value, key: &Value) -> Result<Option<Value>> {
        Ok(match value {
            Value::Dict(dict) => match key {
                Value::Str(key) => dict.get_str(key).cloned(),
                Value::List(_) | Value::Dict(_) => None,
                key => dict.get(key, &self.limits)?.cloned(),
            },
            Value::List(_) | Value::Tuple(_) | Value::Str(_) | Value::Range(_) => {
                let (Value::Int(_) | Value::Bool(_)) = key else { return Ok(None) };
                self.element(value, int(key)?)?
            }
            _ => None,
        })
    }

    /// An element by its index, from the end where it is negative.
    fn element(&self, value: &Value, index: i128) -> Result<Option<Value>> {
        if let Value::Str(text) = value {
            self.limits.read(text.len())?;
            let found = match usize::try_from(index) {
                Ok(index) => text.chars().nth(index),
                Err(_) => usize::try_from(-(index + 1)).ok().and_then(|index| text.chars().rev().nth(index)),
            };
            return Ok(found.map(|character| Value::text(&*character.encode_utf8(&mut [0; 4]))));
        }
        if let (Value::List(sequence), Ok(index)) = (value, usize::try_from(index)) {
            return Ok(sequence.get(index).cloned());
        }
        let length = match value {
            Value::List(sequence) | Value::Tuple(sequence) => sequence.items().len(),
            Value::Range(range) => range.length,
            _ => 0,
        };
        let index = if index < 0 { index + length as i128 } else { index };
        let Some(index) = usize::try_from(index).ok().filter(|&index| index < length) else {
            return Ok(None);
        };
        Ok(match value {
            Value::List(sequence) | Value::Tuple(sequence) => sequence.get(index).cloned(),
            Value::Range(range) => Some(range.get(index)),
            _ => None,
        })
    }

    /// `value[start:stop:step]`.
    pub(super) fn slice(&self, value: &Value, bounds: [Option<i128>; 3]) -> Result<Value> {
        value.defined()?;
        if let (Value::List(sequence), [Some(start), None, None | Some(1)]) = (value, bounds)
            && let Ok(start) = usize::try_from(start)
            && let Some(rest) = Value::messages_behind(sequence, start, &self.limits)?
        {
            return Ok(rest);
        }
        let length = match value {
            Value::Str(text) => {
                self.limits.read(text.len())?;
                text.chars().count()
            }
            Value::List(sequence) | Value::Tuple(sequence) => sequence.items().len(),
            Value::Range(range) => range.length,
            other => fail!("'{}' object cannot be sliced", other.kind()),
        };
        let (start, step, count) = slice_bounds(length, bounds)?;
        let index = |position: usize| (start + step * position as i128) as usize;
        match value {
            Value::Str(text) => {
                self.limits.allocate(text.len())?;
                if step == 1 {
                    return Ok(Value::text(text.chars().skip(index(0)).take(count).collect::<String>()));
                }
                let characters: Vec<char> = text.chars().collect();
                Ok(Value::text((0..count).map(|position| characters[index(position)]).collect::<String>()))
            }
            Value::Range(range) => {
                let start = i128::from(range.start) + i128::from(range.step) * start;
                let step = i128::from(range.step) * step;
                match (i64::try_from(start), i64::try_from(step)) {
                    (Ok(start), Ok(step)) => Ok(Value::Range(Range { start, step, length: count })),
                    _ => fail!("Range too big"),
                }
            }
            Value::List(sequence) | Value::Tuple(sequence) => {
                self.limits.allocate_times(count, ELEMENT)?;
                let known = sequence.items();
                let items = (0..count).map(|position| known[index(position)].clone()).collect();
                if matches!(value, Value::List(_)) { Value::list(items) } else { Value::tuple(items) }
            }
            _ => Ok(Value::None),
        }
    }
}

/// First index, step and count of a slice.
fn slice_bounds(length: usize, [start, stop, step]: [Option<i128>; 3]) -> Result<(i128, i128, usize)> {
    let length = length as i128;
    let step = step.unwrap_or(1);
    if step == 0 {
        fail!("slice step cannot be zero");
    }
    let (lowest, highest) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let clamp = |bound: i128| {
        let bound = if bound < 0 { bound.saturating_add(length) } else { bound };
        bound.clamp(lowest, highest)
    };
    let start = start.map_or(if step > 0 { lowest } else { highest }, clamp);
    let stop = stop.map_or(if step > 0 { highest } else { lowest }, clamp);
    let distance = if step > 0 { stop - start } else { start - stop };
    // A step beyond the length takes the first element alone.
    let step = step.clamp(-length - 1, length + 1);
    let count = if distance <= 0 { 0 } else { (distance - 1) / step.abs() + 1 };
    Ok((start, step, count as usize))
}

/// What Python's numbers have; what is not known here is not passed off as undefined.
fn number_attribute(value: &Value, name: &str) -> Result<Option<Value>> {
    let is_float = matches!(value, Value::Float(_));
    Ok(match name {
        "real" => Some(value.clone()),
        "numerator" if !is_float => Some(value.clone()),
        "imag" if is_float => Some(Value::Float(0.0)),
        "imag" => Some(Value::Int(0)),
        "denominator" if !is_float => Some(Value::Int(1)),
        "bit_length" | "bit_count" | "to_bytes" | "from_bytes" | "hex" | "fromhex" | "is_integer"
        | "as_integer_ratio" | "conjugate" => fail!("the attribute '{name}' of numbers is not supported"),
        _ => None,
    })
}

/// As jinja2 names a value in errors.
fn described(value: &Value) -> &'static str {
    match value {
        Value::None => "None",
        Value::Dict(_) => "dict object",
        Value::List(_) => "list object",
        Value::Tuple(_) => "tuple object",
        Value::Str(_) => "str object",
        Value::Int(_) => "int object",
        Value::Bool(_) => "bool object",
        Value::Float(_) => "float object",
        Value::Namespace(_) => "jinja2.utils.Namespace object",
        Value::Loop(_) => "jinja2.runtime.LoopContext object",
        other => other.kind(),
    }
}

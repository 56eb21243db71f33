//! Python's operators.

use std::cmp::Ordering;
use std::rc::Rc;

use super::error::{Error, Result, fail};
use super::evaluate::Renderer;
use super::hidden::{self, Searched};
use super::limits::ELEMENT;
use super::tree::{Comparison, Operator};
use super::value::{Dict, Number, Value};

fn overflow() -> Error {
    Error::new("a number is too large: integers of a template have at most 127 bits")
}

impl Renderer<'_> {
    pub(super) fn binary(&self, operator: Operator, left: &Value, right: &Value) -> Result<Value> {
        left.defined()?;
        if let (Operator::Remainder, Value::Str(format)) = (operator, left) {
            return self.percent_format(format, right);
        }
        right.defined()?;
        if let (Some(left), Some(right)) = (left.number(), right.number()) {
            return arithmetic(operator, left, right);
        }
        match (operator, left, right) {
            (Operator::Add, Value::Str(a), Value::Str(b)) => {
                self.limits.allocate(a.len() + b.len())?;
                Ok(Value::text([&**a, &**b].concat()))
            }
            (Operator::Add, Value::List(a), Value::List(b))
            | (Operator::Add, Value::Tuple(a), Value::Tuple(b)) => {
                self.limits.allocate_times(a.items().len() + b.items().len(), ELEMENT)?;
                let items = [a.items(), b.items()].concat();
                if matches!(left, Value::List(_)) { Value::list(items) } else { Value::tuple(items) }
            }
            (Operator::Add, Value::Str(_), _) => {
                fail!("can only concatenate str (not \"{}\") to str", right.kind())
            }
            (Operator::Multiply, Value::Int(_) | Value::Bool(_), _) => self.repeat(right, left),
            (Operator::Multiply, _, Value::Int(_) | Value::Bool(_)) => self.repeat(left, right),
            _ => Err(unsupported(operator.symbol(), left, right)),
        }
    }

    fn repeat(&self, value: &Value, count: &Value) -> Result<Value> {
        let count = match count.number() {
            Some(Number::Int(count)) => usize::try_from(count.max(0)).map_err(|_| overflow())?,
            _ => 0,
        };
        match value {
            Value::Str(text) => {
                self.limits.allocate_times(count, text.len())?;
                Ok(Value::text(text.repeat(if text.is_empty() { 0 } else { count })))
            }
            Value::List(sequence) | Value::Tuple(sequence) => {
                let items = sequence.items();
                self.limits.allocate_times(count.saturating_mul(items.len()), ELEMENT)?;
                let count = if items.is_empty() { 0 } else { count };
                let items = std::iter::repeat_n(items, count).flatten().cloned().collect();
                if matches!(value, Value::List(_)) { Value::list(items) } else { Value::tuple(items) }
            }
            other => Err(unsupported("*", other, &Value::Int(0))),
        }
    }

    pub(super) fn negative(&self, value: &Value) -> Result<Value> {
        match value.defined()?.number() {
            Some(Number::Int(number)) => number.checked_neg().map(Value::Int).ok_or_else(overflow),
            Some(Number::Float(number)) => Ok(Value::Float(-number)),
            None => fail!("bad operand type for unary -: '{}'", value.kind()),
        }
    }

    pub(super) fn positive(&self, value: &Value) -> Result<Value> {
        match value.defined()?.number() {
            Some(Number::Int(number)) => Ok(Value::Int(number)),
            Some(Number::Float(number)) => Ok(Value::Float(number)),
            None => fail!("bad operand type for unary +: '{}'", value.kind()),
        }
    }

    pub(super) fn compare(&self, comparison: Comparison, left: &Value, right: &Value) -> Result<bool> {
        Ok(match comparison {
            Comparison::Equal => left.equals(right, &self.limits)?,
            Comparison::NotEqual => !left.equals(right, &self.limits)?,
            Comparison::In => self.contains(right, left)?,
            Comparison::NotIn => !self.contains(right, left)?,
            ordered => {
                let (symbol, holds): (_, fn(Ordering) -> bool) = match ordered {
                    Comparison::Less => ("<", Ordering::is_lt),
                    Comparison::LessOrEqual => ("<=", Ordering::is_le),
                    Comparison::Greater => (">", Ordering::is_gt),
                    _ => (">=", Ordering::is_ge),
                };
                self.order(left, right, symbol)?.is_some_and(holds)
            }
        })
    }

    /// The order of two values; none for a NaN.
    pub(super) fn order(&self, left: &Value, right: &Value, symbol: &str) -> Result<Option<Ordering>> {
        self.limits.step()?;
        left.defined()?;
        right.defined()?;
        if let (Some(left), Some(right)) = (left.number(), right.number()) {
            return Ok(left.compare(right));
        }
        match (left, right) {
            (Value::Str(a), Value::Str(b)) => {
                self.limits.read(a.len().min(b.len()))?;
                Ok(Some(hidden::order(a, b)))
            }
            (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
                for (left, right) in a.items().iter().zip(b.items()) {
                    if !left.equals(right, &self.limits)? {
                        return self.order(left, right, symbol);
                    }
                }
                Ok(Some(a.items().len().cmp(&b.items().len())))
            }
            _ => fail!(
                "'{symbol}' not supported between instances of '{}' and '{}'",
                left.kind(),
                right.kind()
            ),
        }
    }

    pub(super) fn contains(&self, container: &Value, value: &Value) -> Result<bool> {
        match container {
            Value::Str(text) => match value {
                Value::Str(part) => {
                    self.limits.read(text.len())?;
                    Ok(Searched::new(text).contains(part))
                }
                Value::Undefined(reason) => Err(reason.error()),
                other => fail!("'in <string>' requires string as left operand, not {}", other.kind()),
            },
            Value::Dict(dict) => Ok(dict.get(value, &self.limits)?.is_some()),
            Value::List(sequence) | Value::Tuple(sequence) => {
                for item in sequence.items() {
                    if item.equals(value, &self.limits)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Value::Undefined(_) | Value::View(..) | Value::Range(_) | Value::Iterator(_) | Value::Loop(_) => {
                let mut cursor = super::loops::Cursor::new(container)?;
                while let Some(item) = cursor.next(&self.limits)? {
                    if item.equals(value, &self.limits)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            other => fail!("argument of type '{}' is not iterable", other.kind()),
        }
    }

    /// Sorts by the keys that `key` gives, keeping the order of equal ones.
    pub(super) fn sort<T>(
        &self,
        items: &mut Vec<T>,
        key: impl Fn(&T) -> Result<Value>,
        reverse: bool,
    ) -> Result<()> {
        self.limits.allocate_times(items.len(), ELEMENT)?;
        let mut keyed = Vec::with_capacity(items.len());
        for item in items.drain(..) {
            keyed.push((key(&item)?, item));
        }
        let mut failure = None;
        keyed.sort_by(|(left, _), (right, _)| {
            if failure.is_some() {
                return Ordering::Equal;
            }
            let order = self.order(left, right, "<").unwrap_or_else(|error| {
                failure = Some(error);
                None
            });
            let order = order.unwrap_or(Ordering::Equal);
            if reverse { order.reverse() } else { order }
        });
        items.extend(keyed.into_iter().map(|(_, item)| item));
        failure.map_or(Ok(()), Err)
    }

    /// `left | right` of dicts does not exist in templates, but `dict(left, **right)` does.
    pub(super) fn extend_dict(&self, dict: &mut Dict, more: &Rc<Dict>) -> Result<()> {
        for (key, value) in more.entries() {
            dict.insert(key.clone(), value.clone(), &self.limits)?;
        }
        Ok(())
    }
}

fn unsupported(symbol: &str, left: &Value, right: &Value) -> Error {
    Error::new(format!("unsupported operand type(s) for {symbol}: '{}' and '{}'", left.kind(), right.kind()))
}

fn arithmetic(operator: Operator, left: Number, right: Number) -> Result<Value> {
    let (Number::Int(a), Number::Int(b)) = (left, right) else {
        return floats(operator, left.float(), right.float());
    };
    let zero = b == 0;
    let result = match operator {
        Operator::Add => a.checked_add(b),
        Operator::Subtract => a.checked_sub(b),
        Operator::Multiply => a.checked_mul(b),
        Operator::Divide if zero => fail!("division by zero"),
        Operator::FloorDivide | Operator::Remainder if zero => fail!("integer division or modulo by zero"),
        Operator::Divide => return Ok(Value::Float(a as f64 / b as f64)),
        Operator::FloorDivide => floor_divide(a, b),
        Operator::Remainder => Some(remainder(a, b)),
        Operator::Power if b < 0 => return floats(operator, a as f64, b as f64),
        Operator::Power => match (a, u32::try_from(b)) {
            (0 | 1, _) => Some(if b == 0 { 1 } else { a }),
            (-1, _) => Some(if b % 2 == 0 { 1 } else { -1 }),
            (_, Ok(exponent)) => a.checked_pow(exponent),
            (_, Err(_)) => None,
        },
    };
    result.map(Value::Int).ok_or_else(overflow)
}

fn floor_divide(a: i128, b: i128) -> Option<i128> {
    let quotient = a.checked_div(b)?;
    Some(if a.wrapping_rem(b) != 0 && ((a < 0) != (b < 0)) { quotient - 1 } else { quotient })
}

/// The remainder has the sign of the divisor.
fn remainder(a: i128, b: i128) -> i128 {
    let rest = a.wrapping_rem(b);
    if rest != 0 && ((rest < 0) != (b < 0)) { rest + b } else { rest }
}

fn floats(operator: Operator, a: f64, b: f64) -> Result<Value> {
    Ok(Value::Float(match operator {
        Operator::Add => a + b,
        Operator::Subtract => a - b,
        Operator::Multiply => a * b,
        Operator::Divide if b == 0.0 => fail!("float division by zero"),
        Operator::FloorDivide | Operator::Remainder if b == 0.0 => fail!("float floor division by zero"),
        Operator::Divide => a / b,
        Operator::FloorDivide => ((a - float_remainder(a, b)) / b).round(),
        Operator::Remainder => float_remainder(a, b),
        Operator::Power if a == 0.0 && b < 0.0 => {
            fail!("0.0 cannot be raised to a negative power")
        }
        Operator::Power => {
            let result = a.powf(b);
            if result.is_nan() && !a.is_nan() && !b.is_nan() {
                fail!("complex numbers are not supported");
            }
            if result.is_infinite() && a.is_finite() && b.is_finite() {
                fail!("a number is too large");
            }
            result
        }
    }))
}

fn float_remainder(a: f64, b: f64) -> f64 {
    let rest = a % b;
    if rest == 0.0 {
        return 0.0_f64.copysign(b);
    }
    if (rest < 0.0) != (b < 0.0) { rest + b } else { rest }
}

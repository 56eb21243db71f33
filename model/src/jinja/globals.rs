//! Functions that every template has.

use std::rc::Rc;

use super::arguments::{Arguments, int, text};
use super::error::{Result, fail};
use super::evaluate::Renderer;
use super::limits::ELEMENT;
use super::loops::elements;
use super::value::{Cycler, Dict, Range, Value};

/// The date that templates see: year, month, day. It is a Friday.
const FIXED_DATE: (u32, u32, u32) = (2024, 7, 26);

/// Longest range that the sandbox allows.
const LONGEST_RANGE: i128 = 100_000;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Range,
    Dict,
    Namespace,
    Cycler,
    Joiner,
    Lipsum,
    RaiseException,
    StrftimeNow,
}

impl Function {
    pub(super) fn find(name: &str) -> Option<Self> {
        Some(match name {
            "range" => Self::Range,
            "dict" => Self::Dict,
            "namespace" => Self::Namespace,
            "cycler" => Self::Cycler,
            "joiner" => Self::Joiner,
            "lipsum" => Self::Lipsum,
            "raise_exception" => Self::RaiseException,
            "strftime_now" => Self::StrftimeNow,
            _ => return None,
        })
    }
}

impl Renderer<'_> {
    #[inline(never)]
    pub(super) fn call_function(&self, function: Function, arguments: Arguments) -> Result<Value> {
        match function {
            Function::Range => range(arguments),
            Function::Dict => self.dict(arguments, "dict").map(Value::dict),
            Function::Namespace => {
                let dict = self.dict(arguments, "namespace")?;
                self.namespaces.borrow_mut().push(Vec::new());
                let index = self.namespaces.borrow().len() - 1;
                for (key, value) in dict.entries() {
                    self.set_attribute(index, &text(key)?, value.clone())?;
                }
                Ok(Value::Namespace(index))
            }
            Function::Cycler => {
                if arguments.positional.is_empty() {
                    fail!("at least one item has to be provided");
                }
                let Value::List(items) = Value::list(arguments.positional)? else { return Ok(Value::None) };
                Ok(Value::Cycler(Rc::new(Cycler { items, position: Default::default() })))
            }
            Function::Joiner => {
                let [separator] = arguments.bind("joiner", ["sep"], 0)?;
                let separator = separator.map_or(Ok(", ".into()), |separator| text(&separator))?;
                Ok(Value::Joiner(Rc::new((separator, Default::default()))))
            }
            Function::Lipsum => fail!("`lipsum` is not supported: the same data must give the same text"),
            Function::RaiseException => {
                let [message] = arguments.bind("raise_exception", ["message"], 1)?;
                fail!("{}", self.str(&message.unwrap_or(Value::None))?)
            }
            Function::StrftimeNow => {
                let [format] = arguments.bind("strftime_now", ["format"], 1)?;
                let format = text(&format.unwrap_or(Value::None))?;
                self.limits.allocate_times(format.len(), 8)?;
                Ok(Value::text(strftime(&format)))
            }
        }
    }

    fn dict(&self, mut arguments: Arguments, function: &str) -> Result<Dict> {
        let mut dict = Dict::default();
        if arguments.positional.len() > 1 {
            fail!("{function} takes at most 1 argument ({} given)", arguments.positional.len());
        }
        match arguments.positional.pop() {
            Some(Value::Dict(known)) => self.extend_dict(&mut dict, &known)?,
            Some(pairs) => {
                for pair in elements(&pairs, &self.limits)? {
                    let pair = elements(&pair, &self.limits)?;
                    let [key, value] = &pair[..] else { fail!("a pair has {} elements", pair.len()) };
                    dict.insert(key.clone(), value.clone(), &self.limits)?;
                }
            }
            None => {}
        }
        for (name, value) in arguments.named {
            dict.insert(Value::Str(name), value, &self.limits)?;
        }
        self.limits.allocate(ELEMENT)?;
        Ok(dict)
    }
}

fn range(arguments: Arguments) -> Result<Value> {
    if !arguments.named.is_empty() {
        fail!("range() takes no keyword arguments");
    }
    let numbers = arguments.positional.iter().map(int).collect::<Result<Vec<_>>>()?;
    let (start, stop, step) = match numbers[..] {
        [stop] => (0, stop, 1),
        [start, stop] => (start, stop, 1),
        [start, stop, step] => (start, stop, step),
        _ => fail!("range expected 1 to 3 arguments, got {}", numbers.len()),
    };
    if step == 0 {
        fail!("range() arg 3 must not be zero");
    }
    let distance = if step > 0 { stop.checked_sub(start) } else { start.checked_sub(stop) };
    let (Some(distance), Some(size)) = (distance, step.checked_abs()) else { fail!("Range too big") };
    let length = if distance <= 0 { 0 } else { (distance - 1) / size + 1 };
    if length > LONGEST_RANGE {
        fail!("Range too big. The sandbox blocks ranges larger than {LONGEST_RANGE}.");
    }
    match (i64::try_from(start), i64::try_from(step)) {
        (Ok(start), Ok(step)) => Ok(Value::Range(Range { start, step, length: length as usize })),
        _ => fail!("Range too big"),
    }
}

/// `strftime` of [`FIXED_DATE`] at midnight; directives it does not know are left as they stand.
fn strftime(format: &str) -> String {
    let (year, month, day) = FIXED_DATE;
    let mut text = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        let mut directive = characters.next().unwrap_or('%');
        let unpadded = directive == '-';
        if unpadded {
            directive = characters.next().unwrap_or('-');
        }
        let number = |value: u32| if unpadded { value.to_string() } else { format!("{value:02}") };
        match directive {
            'Y' => text.push_str(&year.to_string()),
            'y' => text.push_str(&number(year % 100)),
            'm' => text.push_str(&number(month)),
            'd' => text.push_str(&number(day)),
            'e' => text.push_str(&format!("{day:2}")),
            'B' => text.push_str("July"),
            'b' | 'h' => text.push_str("Jul"),
            'A' => text.push_str("Friday"),
            'a' => text.push_str("Fri"),
            'j' => text.push_str("208"),
            'H' | 'M' | 'S' => text.push_str(&number(0)),
            'I' => text.push_str("12"),
            'p' => text.push_str("AM"),
            'F' => text.push_str(&format!("{year}-{month:02}-{day:02}")),
            'T' => text.push_str("00:00:00"),
            '%' => text.push('%'),
            other => {
                text.push('%');
                text.push(other);
            }
        }
    }
    text
}

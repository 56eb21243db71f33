//! Methods of strings, dicts, lists and the objects of the template.

use std::sync::Arc;

use super::arguments::{Arguments, optional_int};
use super::error::{Result, fail};
use super::evaluate::Renderer;
use super::limits::ELEMENT;
use super::loops::elements;
use super::str_methods;
use super::value::{Value, View};

/// What calling a method does to the value it belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// The value stays as it is.
    None,
    /// The value changes, which the sandbox refuses.
    Changes,
}

const DICT: [(&str, Effect); 11] = [
    ("clear", Effect::Changes),
    ("copy", Effect::None),
    ("fromkeys", Effect::None),
    ("get", Effect::None),
    ("items", Effect::None),
    ("keys", Effect::None),
    ("pop", Effect::Changes),
    ("popitem", Effect::Changes),
    ("setdefault", Effect::Changes),
    ("update", Effect::Changes),
    ("values", Effect::None),
];
const LIST: [(&str, Effect); 11] = [
    ("append", Effect::Changes),
    ("clear", Effect::Changes),
    ("copy", Effect::None),
    ("count", Effect::None),
    ("extend", Effect::Changes),
    ("index", Effect::None),
    ("insert", Effect::Changes),
    ("pop", Effect::Changes),
    ("remove", Effect::Changes),
    ("reverse", Effect::Changes),
    ("sort", Effect::Changes),
];

/// What the method of that name does, where Python has one for the value.
pub(super) fn method(value: &Value, name: &str) -> Option<Effect> {
    let of =
        |table: &[(&str, Effect)]| table.iter().find(|(known, _)| *known == name).map(|(_, effect)| *effect);
    let is_known = match value {
        Value::Dict(_) => return of(&DICT),
        Value::List(_) => return of(&LIST),
        Value::Str(_) => str_methods::is_known(name),
        Value::Tuple(_) | Value::Range(_) => matches!(name, "count" | "index"),
        Value::Loop(_) => matches!(name, "cycle" | "changed"),
        Value::Cycler(_) => matches!(name, "next" | "reset"),
        Value::Function(function) => name == "fromkeys" && *function == super::globals::Function::Dict,
        _ => false,
    };
    is_known.then_some(Effect::None)
}

impl Renderer<'_> {
    #[inline(never)]
    pub(super) fn call_method(
        &self,
        receiver: &Value,
        name: &Arc<str>,
        arguments: Arguments,
    ) -> Result<Value> {
        match receiver {
            Value::Str(whole) => self.str_method(whole, name, arguments),
            Value::Dict(dict) => match &**name {
                "get" => {
                    let [key, default] = arguments.bind("get", ["key", "default"], 1)?;
                    let found = dict.get(&key.unwrap_or(Value::None), &self.limits)?.cloned();
                    Ok(found.or(default).unwrap_or(Value::None))
                }
                "copy" => arguments.none(name).map(|()| receiver.clone()),
                "items" => arguments.none(name).map(|()| Value::View(View::Items, dict.clone())),
                "keys" => arguments.none(name).map(|()| Value::View(View::Keys, dict.clone())),
                "values" => arguments.none(name).map(|()| Value::View(View::Values, dict.clone())),
                other => fail!("dict.{other} is not supported"),
            },
            Value::List(_) | Value::Tuple(_) | Value::Range(_) => self.list_method(receiver, name, arguments),
            Value::Loop(state) if &**name == "cycle" => {
                let items = &arguments.positional;
                match items.get(state.index0() % items.len().max(1)) {
                    Some(item) => Ok(item.clone()),
                    None => fail!("no items for cycling given"),
                }
            }
            Value::Loop(state) => {
                let value = Value::tuple(arguments.positional)?;
                let mut changed = self.changed.borrow_mut();
                self.limits.read(changed.len())?;
                let known = changed.iter_mut().find(|(id, _)| *id == state.id);
                if let Some((_, last)) = known {
                    let differs = !last.equals(&value, &self.limits)?;
                    *last = value;
                    return Ok(Value::Bool(differs));
                }
                self.limits.allocate(ELEMENT)?;
                changed.push((state.id, value));
                Ok(Value::Bool(true))
            }
            Value::Cycler(cycler) => {
                arguments.none(name)?;
                let position = cycler.position.get();
                if &**name == "reset" {
                    cycler.position.set(0);
                    return Ok(Value::None);
                }
                cycler.position.set((position + 1) % cycler.items.items().len());
                Ok(cycler.items.items()[position].clone())
            }
            Value::Function(_) => {
                let [keys, value] = arguments.bind("fromkeys", ["iterable", "value"], 1)?;
                let mut dict = super::value::Dict::default();
                for key in elements(&keys.unwrap_or(Value::None), &self.limits)? {
                    dict.insert(key, value.clone().unwrap_or(Value::None), &self.limits)?;
                }
                Ok(Value::dict(dict))
            }
            other => fail!("'{}' object has no method '{name}'", other.kind()),
        }
    }

    fn list_method(&self, receiver: &Value, name: &str, arguments: Arguments) -> Result<Value> {
        if name == "copy" {
            return arguments.none(name).map(|()| receiver.clone());
        }
        let [wanted, start, end] = arguments.bind(name, ["value", "start", "stop"], 1)?;
        let wanted = wanted.unwrap_or(Value::None);
        let items = elements(receiver, &self.limits)?;
        let length = items.len() as i128;
        let bound = |value: i128| if value < 0 { (value + length).max(0) } else { value };
        let start = optional_int(start)?.map_or(0, bound);
        let end = optional_int(end)?.map_or(length, bound);
        let mut count = 0;
        for (index, item) in items.iter().enumerate() {
            if item.equals(&wanted, &self.limits)? {
                count += 1;
                if name == "index" && (start..end).contains(&(index as i128)) {
                    return Ok(Value::int(index));
                }
            }
        }
        match name {
            "count" => Ok(Value::int(count)),
            _ => fail!("{} is not in list", self.repr(&wanted)?),
        }
    }
}

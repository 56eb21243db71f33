//! Values of a template, with Python's meaning.
//!
//! Lists, tuples and dicts never change once they are made: the sandbox that transformers renders in
//! refuses the methods that would. So no value can contain itself, but through a namespace or a macro,
//! which are indices into the renderer's tables.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::rc::Rc;
use std::sync::Arc;

use super::error::{Error, Result, fail};
use super::globals::Function;
use super::hidden;
use super::limits::{DATA_DEPTH, ELEMENT, Limits};
use super::loops::Loop;
use super::sequence::Sequence;

#[derive(Clone)]
pub(super) enum Value {
    Undefined(Rc<Missing>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Arc<str>),
    List(Rc<Sequence>),
    Tuple(Rc<Sequence>),
    Dict(Rc<Dict>),
    /// What `keys()`, `values()` and `items()` of a dict give.
    View(View, Rc<Dict>),
    Range(Range),
    /// What can be gone through once.
    Iterator(Rc<Iterator>),
    Namespace(usize),
    Macro(usize),
    Loop(Rc<Loop>),
    Cycler(Rc<Cycler>),
    Joiner(Rc<(Arc<str>, Cell<bool>)>),
    Function(Function),
    /// A method that is not called yet, with what it belongs to.
    Method(Rc<(Value, Arc<str>)>),
}

/// Why a value is undefined.
pub(super) enum Missing {
    Name(Arc<str>),
    /// The kind of the value, and the attribute or the key that it has not.
    Attribute(&'static str, Arc<str>),
    Element(&'static str, String),
    Hint(String),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    Keys,
    Values,
    Items,
}

#[derive(Clone, Copy)]
pub(super) struct Range {
    pub start: i64,
    pub step: i64,
    pub length: usize,
}

impl Range {
    pub(super) fn get(&self, index: usize) -> Value {
        Value::Int(i128::from(self.start) + i128::from(self.step) * index as i128)
    }
}

pub(super) struct Iterator {
    /// What is left, last element first, and the error that comes after it.
    pub rest: RefCell<(Vec<Value>, Option<Error>)>,
    pub kind: &'static str,
    depth: u32,
}

pub(super) struct Cycler {
    pub items: Rc<Sequence>,
    pub position: Cell<usize>,
}

/// A dict in the order of insertion.
#[derive(Default)]
pub(super) struct Dict {
    entries: Vec<(Value, Value)>,
    /// Positions by hash, once there are more than [`Dict::SCANNED`].
    index: Option<HashMap<u64, Vec<usize>>>,
    hasher: RandomState,
    depth: u32,
}

impl Dict {
    const SCANNED: usize = 8;

    pub(super) fn entries(&self) -> &[(Value, Value)] {
        &self.entries
    }

    /// Sets a key's value, where the key keeps the place it has.
    pub(super) fn insert(&mut self, key: Value, value: Value, limits: &Limits) -> Result<()> {
        limits.allocate(2 * ELEMENT)?;
        self.depth = deeper(self.depth.max(key.depth() + 1).max(value.depth() + 1))?;
        let hash = self.hash(&key, limits)?;
        if let Some(position) = self.position(&key, hash, limits)? {
            self.entries[position].1 = value;
            return Ok(());
        }
        self.entries.push((key, value));
        if let Some(index) = &mut self.index {
            index.entry(hash).or_default().push(self.entries.len() - 1);
        } else if self.entries.len() > Self::SCANNED {
            let mut index: HashMap<u64, Vec<usize>> = HashMap::new();
            for (position, (key, _)) in self.entries.iter().enumerate() {
                index.entry(self.hash(key, limits)?).or_default().push(position);
            }
            self.index = Some(index);
        }
        Ok(())
    }

    pub(super) fn get(&self, key: &Value, limits: &Limits) -> Result<Option<&Value>> {
        let hash = self.hash(key, limits)?;
        Ok(self.position(key, hash, limits)?.map(|position| &self.entries[position].1))
    }

    pub(super) fn get_str(&self, key: &str) -> Option<&Value> {
        let is_key = |found: &Value| matches!(found, Value::Str(text) if hidden::equal(text, key));
        match &self.index {
            None => self.entries.iter().find(|(found, _)| is_key(found)).map(|(_, value)| value),
            Some(index) => {
                let positions = index.get(&self.hasher.hash_one(&*hidden::plain(key)))?;
                let position = positions.iter().find(|&&position| is_key(&self.entries[position].0))?;
                Some(&self.entries[*position].1)
            }
        }
    }

    fn position(&self, key: &Value, hash: u64, limits: &Limits) -> Result<Option<usize>> {
        let equal = |position: usize| self.entries[position].0.equals(key, limits);
        match &self.index {
            Some(index) => {
                for &position in index.get(&hash).into_iter().flatten() {
                    if equal(position)? {
                        return Ok(Some(position));
                    }
                }
            }
            None => {
                for position in 0..self.entries.len() {
                    if equal(position)? {
                        return Ok(Some(position));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Equal keys have equal hashes: 1, 1.0 and true are one key.
    fn hash(&self, key: &Value, limits: &Limits) -> Result<u64> {
        limits.step()?;
        Ok(match key {
            Value::Str(text) => self.hasher.hash_one(&*hidden::plain(text)),
            Value::Bool(value) => self.hasher.hash_one(i128::from(*value)),
            Value::Int(value) => self.hasher.hash_one(value),
            Value::Float(value) if *value == (*value as i128) as f64 => self.hasher.hash_one(*value as i128),
            Value::Float(value) => self.hasher.hash_one(value.to_bits()),
            Value::Tuple(sequence) => {
                let mut hash = 0;
                for item in sequence.items() {
                    hash = self.hasher.hash_one((hash, self.hash(item, limits)?));
                }
                hash
            }
            Value::List(_) | Value::Dict(_) => fail!("unhashable type: '{}'", key.kind()),
            _ => 0,
        })
    }
}

pub(super) fn deeper(depth: u32) -> Result<u32> {
    if depth > DATA_DEPTH {
        fail!("data is nested more than {DATA_DEPTH} levels deep");
    }
    Ok(depth)
}

impl Value {
    pub(super) fn text(text: impl Into<Arc<str>>) -> Self {
        Self::Str(text.into())
    }

    pub(super) fn list(items: Vec<Value>) -> Result<Self> {
        Ok(Self::List(Sequence::new(items, false)?))
    }

    pub(super) fn tuple(items: Vec<Value>) -> Result<Self> {
        Ok(Self::Tuple(Sequence::new(items, false)?))
    }

    pub(super) fn group(grouper: Value, list: Value) -> Result<Self> {
        Ok(Self::Tuple(Sequence::new(vec![grouper, list], true)?))
    }

    pub(super) fn dict(dict: Dict) -> Self {
        Self::Dict(Rc::new(dict))
    }

    /// Elements that can be gone through once, then the error that the first one after them met.
    pub(super) fn iterator(mut items: Vec<Value>, error: Option<Error>, kind: &'static str) -> Result<Self> {
        let depth = deeper(items.iter().map(Value::depth).max().unwrap_or(0) + 1)?;
        items.reverse();
        Ok(Self::Iterator(Rc::new(Iterator { rest: RefCell::new((items, error)), kind, depth })))
    }

    pub(super) fn method(receiver: &Value, name: &Arc<str>) -> Result<Self> {
        deeper(receiver.depth() + 1)?;
        Ok(Self::Method(Rc::new((receiver.clone(), name.clone()))))
    }

    pub(super) fn missing(reason: Missing) -> Self {
        Self::Undefined(Rc::new(reason))
    }

    pub(super) fn hint(message: &str) -> Self {
        Self::missing(Missing::Hint(message.to_owned()))
    }

    pub(super) fn int(value: usize) -> Self {
        Self::Int(value as i128)
    }

    /// Levels of values that dropping this one goes through.
    pub(super) fn depth(&self) -> u32 {
        match self {
            Self::List(sequence) | Self::Tuple(sequence) => sequence.depth(),
            Self::Dict(dict) | Self::View(_, dict) => dict.depth,
            Self::Iterator(iterator) => iterator.depth,
            Self::Loop(state) => state.depth,
            Self::Cycler(cycler) => cycler.items.depth(),
            Self::Method(method) => method.0.depth() + 1,
            _ => 0,
        }
    }

    /// The name of the type, as Python names it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "str",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Dict(_) => "dict",
            Self::View(View::Keys, _) => "dict_keys",
            Self::View(View::Values, _) => "dict_values",
            Self::View(View::Items, _) => "dict_items",
            Self::Range(_) => "range",
            Self::Iterator(iterator) => iterator.kind,
            Self::Namespace(_) => "Namespace",
            Self::Macro(_) => "Macro",
            Self::Loop(_) => "LoopContext",
            Self::Cycler(_) => "Cycler",
            Self::Joiner(_) => "Joiner",
            Self::Function(_) => "function",
            Self::Method(_) => "builtin_function_or_method",
        }
    }

    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Str(text) => !text.is_empty(),
            Self::List(sequence) | Self::Tuple(sequence) => !sequence.is_empty(),
            Self::Dict(dict) | Self::View(_, dict) => !dict.entries.is_empty(),
            Self::Range(range) => range.length > 0,
            _ => true,
        }
    }

    /// The error that using an undefined value raises; no error for others.
    pub(super) fn defined(&self) -> Result<&Self> {
        match self {
            Self::Undefined(reason) => Err(reason.error()),
            _ => Ok(self),
        }
    }

    /// The number, where Python takes the value as one.
    pub(super) fn number(&self) -> Option<Number> {
        match self {
            Self::Bool(value) => Some(Number::Int(i128::from(*value))),
            Self::Int(value) => Some(Number::Int(*value)),
            Self::Float(value) => Some(Number::Float(*value)),
            _ => None,
        }
    }

    /// `==`.
    pub(super) fn equals(&self, other: &Value, limits: &Limits) -> Result<bool> {
        limits.step()?;
        if let (Some(left), Some(right)) = (self.number(), other.number()) {
            return Ok(left.compare(right) == Some(std::cmp::Ordering::Equal));
        }
        Ok(match (self, other) {
            (Self::Undefined(_), Self::Undefined(_)) | (Self::None, Self::None) => true,
            (Self::Str(left), Self::Str(right)) => {
                limits.read(left.len().min(right.len()))?;
                hidden::equal(left, right)
            }
            (Self::List(left), Self::List(right)) | (Self::Tuple(left), Self::Tuple(right)) => {
                if Rc::ptr_eq(left, right) {
                    return Ok(true);
                }
                let (left, right) = (left.items(), right.items());
                if left.len() != right.len() {
                    return Ok(false);
                }
                for (left, right) in left.iter().zip(right) {
                    if !left.equals(right, limits)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Self::Dict(left), Self::Dict(right)) => {
                if left.entries.len() != right.entries.len() {
                    return Ok(false);
                }
                for (key, value) in &left.entries {
                    match right.get(key, limits)? {
                        Some(other) if value.equals(other, limits)? => {}
                        _ => return Ok(false),
                    }
                }
                true
            }
            (Self::Range(left), Self::Range(right)) => {
                left.length == right.length
                    && (left.length == 0 || left.start == right.start)
                    && (left.length < 2 || left.step == right.step)
            }
            (Self::Namespace(left), Self::Namespace(right)) => left == right,
            (Self::Macro(left), Self::Macro(right)) => left == right,
            (Self::Iterator(left), Self::Iterator(right)) => Rc::ptr_eq(left, right),
            (Self::Loop(left), Self::Loop(right)) => Rc::ptr_eq(left, right),
            (Self::Function(left), Self::Function(right)) => left == right,
            _ => false,
        })
    }
}

impl Missing {
    pub(super) fn error(&self) -> Error {
        Error::new(match self {
            Self::Name(name) => format!("'{name}' is undefined"),
            Self::Attribute(kind, name) => format!("'{kind}' has no attribute '{name}'"),
            Self::Element(kind, element) => format!("{kind} has no element {element}"),
            Self::Hint(hint) => hint.clone(),
        })
    }
}

#[derive(Clone, Copy)]
pub(super) enum Number {
    Int(i128),
    Float(f64),
}

impl Number {
    pub(super) fn float(self) -> f64 {
        match self {
            Self::Int(value) => value as f64,
            Self::Float(value) => value,
        }
    }

    pub(super) fn compare(self, other: Self) -> Option<std::cmp::Ordering> {
        match (self, other) {
            (Self::Int(left), Self::Int(right)) => Some(left.cmp(&right)),
            (left, right) => left.float().partial_cmp(&right.float()),
        }
    }
}

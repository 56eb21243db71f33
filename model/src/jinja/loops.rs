//! Going through values, and the `loop` of a `for`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::error::{Result, fail};
use super::limits::{ELEMENT, Limits};
use super::sequence::Sequence;
use super::value::{Dict, Iterator, Range, Value, View};

/// A place in what is gone through.
pub(super) struct Cursor {
    source: Source,
    position: usize,
}

enum Source {
    Empty,
    Sequence(Rc<Sequence>),
    Dict(View, Rc<Dict>),
    Text(Arc<str>),
    Range(Range),
    Once(Rc<Iterator>),
    Loop(Rc<Loop>),
}

impl Cursor {
    /// # Errors
    /// When the value cannot be gone through.
    pub(super) fn new(value: &Value) -> Result<Self> {
        let source = match value {
            Value::Undefined(_) => Source::Empty,
            Value::List(sequence) | Value::Tuple(sequence) => Source::Sequence(sequence.clone()),
            Value::Dict(dict) => Source::Dict(View::Keys, dict.clone()),
            Value::View(view, dict) => Source::Dict(*view, dict.clone()),
            Value::Str(text) => Source::Text(text.clone()),
            Value::Range(range) => Source::Range(*range),
            Value::Iterator(iterator) => Source::Once(iterator.clone()),
            Value::Loop(state) => Source::Loop(state.clone()),
            other => fail!("'{}' object is not iterable", other.kind()),
        };
        Ok(Self { source, position: 0 })
    }

    pub(super) fn next(&mut self, limits: &Limits) -> Result<Option<Value>> {
        limits.step()?;
        let position = self.position;
        self.position += 1;
        Ok(match &self.source {
            Source::Empty => None,
            Source::Sequence(sequence) => sequence.get(position).cloned(),
            Source::Dict(view, dict) => match dict.entries().get(position) {
                None => None,
                Some((key, value)) => Some(match view {
                    View::Keys => key.clone(),
                    View::Values => value.clone(),
                    View::Items => {
                        limits.allocate(2 * ELEMENT)?;
                        Value::tuple(vec![key.clone(), value.clone()])?
                    }
                }),
            },
            Source::Text(text) => match text.get(position..).and_then(|rest| rest.chars().next()) {
                // Asking again after the end must not leave it.
                None => {
                    self.position = position;
                    None
                }
                Some(character) => {
                    limits.allocate(ELEMENT)?;
                    // The position counts bytes here.
                    self.position = position + character.len_utf8();
                    Some(Value::text(&*character.encode_utf8(&mut [0; 4])))
                }
            },
            Source::Range(range) => (position < range.length).then(|| range.get(position)),
            Source::Once(iterator) => {
                let (rest, error) = &mut *iterator.rest.borrow_mut();
                match (rest.pop(), error) {
                    (Some(value), _) => Some(value),
                    (None, Some(error)) => return Err(error.clone()),
                    (None, None) => None,
                }
            }
            Source::Loop(state) => match state.advance(limits)? {
                None => None,
                Some(value) => Some(Value::tuple(vec![value, Value::Loop(state.clone())])?),
            },
        })
    }

    /// How many there are, for what Python's `len` knows it of.
    pub(super) fn length(value: &Value) -> Option<usize> {
        match value {
            Value::Undefined(_) => Some(0),
            Value::List(sequence) | Value::Tuple(sequence) => Some(sequence.items().len()),
            Value::Dict(dict) | Value::View(_, dict) => Some(dict.entries().len()),
            Value::Str(text) => Some(text.chars().count()),
            Value::Range(range) => Some(range.length),
            Value::Loop(state) => state.length.get(),
            _ => None,
        }
    }
}

/// All elements of a value.
///
/// # Errors
/// When the value cannot be gone through, or holds too much.
pub(super) fn elements(value: &Value, limits: &Limits) -> Result<Vec<Value>> {
    if let Value::List(sequence) | Value::Tuple(sequence) = value {
        limits.allocate_times(sequence.items().len(), ELEMENT)?;
        return Ok(sequence.items().to_vec());
    }
    let mut cursor = Cursor::new(value)?;
    let mut items = Vec::new();
    while let Some(item) = cursor.next(limits)? {
        limits.allocate(ELEMENT)?;
        items.push(item);
    }
    Ok(items)
}

/// The `loop` of a `for`.
pub(super) struct Loop {
    /// Identifies the loop among those of a rendering.
    pub id: usize,
    pub depth: u32,
    cursor: RefCell<Cursor>,
    /// Elements before the current one, plus one: 0 before the first.
    index: Cell<usize>,
    length: Cell<Option<usize>>,
    items: RefCell<Items>,
}

#[derive(Default)]
struct Items {
    before: Option<Value>,
    current: Option<Value>,
    /// The next one, where it was looked at already.
    after: Option<Value>,
}

impl Loop {
    pub(super) fn new(value: &Value, id: usize) -> Result<Self> {
        let is_conversation = matches!(value, Value::List(sequence) if sequence.first_message().is_some());
        Ok(Self {
            id,
            depth: value.depth() + 1,
            cursor: RefCell::new(Cursor::new(value)?),
            index: Cell::new(0),
            // How many messages there are is not asked before a template does.
            length: Cell::new(if is_conversation { None } else { Cursor::length(value) }),
            items: RefCell::default(),
        })
    }

    /// The same loop, with the same element current, in a conversation of which only `messages` are there.
    pub(super) fn of_beginning(&self, messages: &Value) -> Result<Self> {
        let mut cursor = Cursor::new(messages)?;
        cursor.position = self.index.get();
        let Items { before, current, .. } = &*self.items.borrow();
        let items = Items { before: before.clone(), current: current.clone(), after: None };
        Ok(Self {
            id: self.id,
            depth: self.depth,
            cursor: RefCell::new(cursor),
            index: self.index.clone(),
            length: Cell::new(Cursor::length(messages)),
            items: RefCell::new(items),
        })
    }

    pub(super) fn advance(&self, limits: &Limits) -> Result<Option<Value>> {
        let looked_at = self.items.borrow_mut().after.take();
        let next = match looked_at {
            Some(value) => Some(value),
            None => self.read(limits)?,
        };
        if let Some(value) = &next {
            self.index.set(self.index.get() + 1);
            let items = &mut *self.items.borrow_mut();
            items.before = items.current.replace(value.clone());
        }
        Ok(next)
    }

    fn read(&self, limits: &Limits) -> Result<Option<Value>> {
        match self.cursor.try_borrow_mut() {
            Ok(mut cursor) => cursor.next(limits),
            Err(_) => fail!("a loop goes through itself"),
        }
    }

    fn peek(&self, limits: &Limits) -> Result<Option<Value>> {
        let known = self.items.borrow().after.clone();
        if known.is_some() {
            return Ok(known);
        }
        let next = self.read(limits)?;
        self.items.borrow_mut().after = next.clone();
        Ok(next)
    }

    /// The length; what can be gone through once is gone through for it.
    pub(super) fn count(&self, limits: &Limits) -> Result<usize> {
        if let Some(length) = self.length.get() {
            return Ok(length);
        }
        let mut rest = Vec::new();
        while let Some(item) = self.read(limits)? {
            limits.allocate(ELEMENT)?;
            rest.push(item);
        }
        let length = rest.len() + self.index.get() + usize::from(self.items.borrow().after.is_some());
        *self.cursor.borrow_mut() = Cursor::new(&Value::list(rest)?)?;
        self.length.set(Some(length));
        Ok(length)
    }

    /// The position in `loop.cycle`.
    pub(super) fn index0(&self) -> usize {
        self.index.get().saturating_sub(1)
    }

    /// An attribute that is no method.
    pub(super) fn attribute(&self, name: &str, limits: &Limits) -> Result<Option<Value>> {
        let index = self.index.get();
        Ok(Some(match name {
            "index" => Value::int(index),
            "index0" => Value::Int(index as i128 - 1),
            "revindex" => Value::Int(self.count(limits)? as i128 - index as i128 + 1),
            "revindex0" => Value::Int(self.count(limits)? as i128 - index as i128),
            "first" => Value::Bool(index == 1),
            "last" => Value::Bool(self.peek(limits)?.is_none()),
            "length" => Value::int(self.count(limits)?),
            "depth" => Value::Int(1),
            "depth0" => Value::Int(0),
            "previtem" if index == 1 => Value::hint("there is no previous item"),
            "previtem" => self.items.borrow().before.clone().unwrap_or(Value::None),
            "nextitem" => self.peek(limits)?.unwrap_or_else(|| Value::hint("there is no next item")),
            _ => return Ok(None),
        }))
    }
}

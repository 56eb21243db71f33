//! Lists and tuples, and what of the messages a template has looked at (see [`super::beginnings`]).

use std::cell::Cell;
use std::rc::Rc;

use super::error::Result;
use super::limits::{ELEMENT, Limits};
use super::value::{Value, deeper};

pub(super) struct Sequence {
    items: Vec<Value>,
    /// Whether these are a group's `grouper` and `list`.
    pub is_group: bool,
    depth: u32,
    /// For the messages of a conversation, or those from a message on.
    messages: Option<Messages>,
}

/// Which messages a sequence holds: all from the one at `first` on.
struct Messages {
    first: usize,
    seen: Rc<Seen>,
}

/// How much of a conversation has been looked at.
pub(super) struct Seen {
    /// Messages in the conversation.
    pub total: usize,
    /// The first so many messages make everything that was looked at what it is, whichever follow.
    pub needed: Cell<usize>,
}

impl Seen {
    fn need(&self, count: usize) {
        self.needed.set(self.needed.get().max(count.min(self.total)));
    }
}

impl Sequence {
    pub(super) fn new(items: Vec<Value>, is_group: bool) -> Result<Rc<Self>> {
        let depth = depth(&items)?;
        Ok(Rc::new(Self { items, is_group, depth, messages: None }))
    }

    pub(super) fn depth(&self) -> u32 {
        self.depth
    }

    pub(super) fn items(&self) -> &[Value] {
        if let Some(messages) = &self.messages {
            messages.seen.need(usize::MAX);
        }
        &self.items
    }

    pub(super) fn get(&self, index: usize) -> Option<&Value> {
        let item = self.items.get(index);
        if let Some(messages) = &self.messages {
            // That there is none depends on how many there are.
            messages.seen.need(if item.is_some() { messages.first + index + 1 } else { usize::MAX });
        }
        item
    }

    pub(super) fn is_empty(&self) -> bool {
        self.get(0).is_none()
    }

    /// The first of the messages that these are.
    pub(super) fn first_message(&self) -> Option<usize> {
        self.messages.as_ref().map(|messages| messages.first)
    }
}

fn depth(items: &[Value]) -> Result<u32> {
    deeper(items.iter().map(Value::depth).max().unwrap_or(0) + 1)
}

impl Value {
    /// The messages of a conversation.
    pub(super) fn messages(items: Vec<Value>, seen: Rc<Seen>) -> Result<Self> {
        let depth = depth(&items)?;
        let messages = Some(Messages { first: 0, seen });
        Ok(Self::List(Rc::new(Sequence { items, is_group: false, depth, messages })))
    }

    /// The messages behind the first `count` of `sequence`; none where it holds other things.
    pub(super) fn messages_behind(
        sequence: &Sequence,
        count: usize,
        limits: &Limits,
    ) -> Result<Option<Self>> {
        let Some(Messages { first, seen }) = &sequence.messages else { return Ok(None) };
        let items = sequence.items.get(count..).unwrap_or_default();
        limits.allocate_times(items.len(), ELEMENT)?;
        let messages = Some(Messages { first: first.saturating_add(count), seen: seen.clone() });
        let (items, depth) = (items.to_vec(), sequence.depth);
        Ok(Some(Self::List(Rc::new(Sequence { items, is_group: false, depth, messages }))))
    }

    /// What the value would be in a conversation of only the first `count` messages; none where that is not known.
    pub(super) fn of_beginning(&self, count: usize) -> Option<Self> {
        if let Self::List(sequence) = self
            && let Some(first) = sequence.first_message()
        {
            let kept = count.saturating_sub(first).min(sequence.items.len());
            return Self::list(sequence.items[..kept].to_vec()).ok();
        }
        self.is_fixed().then(|| self.clone())
    }

    /// Whether the value holds nothing that changes while a template runs, and not the messages as a whole.
    fn is_fixed(&self) -> bool {
        match self {
            Self::List(sequence) | Self::Tuple(sequence) => {
                sequence.messages.is_none() && sequence.items.iter().all(Self::is_fixed)
            }
            Self::Dict(dict) | Self::View(_, dict) => {
                dict.entries().iter().all(|(key, value)| key.is_fixed() && value.is_fixed())
            }
            Self::Method(method) => method.0.is_fixed(),
            Self::Iterator(_) | Self::Loop(_) | Self::Cycler(_) | Self::Joiner(_) | Self::Macro(_) => false,
            _ => true,
        }
    }
}

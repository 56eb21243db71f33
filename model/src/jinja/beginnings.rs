//! What a template makes of the beginnings of a conversation, taken from the rendering of the whole.
//!
//! Turns are found by rendering the messages before them. Each rendered by itself, a long conversation would
//! take time in proportion to the square of its length. But most templates are something, a loop over the
//! messages, something more: where the loop has gone through the first so many messages, the text so far is
//! also what a conversation of only these begins with, unless the template has looked further ahead or at
//! how many there are, of which [`Seen`] keeps account. What such a conversation ends with is then made by
//! running the rest of the template there, without the messages that are left, and taking back what that did.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::evaluate::{Output, Renderer, Scope};
use super::execute::Flow;
use super::tree::{Name, Statement, Tree};
use super::value::{Seen, Value};

/// Name of the variable that asks for the beginning of an answer.
pub(crate) const ADD_GENERATION_PROMPT: &str = "add_generation_prompt";
/// Name of the variable that holds the messages.
pub(crate) const MESSAGES: &str = "messages";

/// The beginning of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Part {
    /// Messages in it.
    pub count: usize,
    /// Whether the beginning of an answer follows them.
    pub add_generation_prompt: bool,
}

/// What the template makes of the beginning of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Beginning {
    pub part: Part,
    /// Bytes of the whole's text that it begins with.
    pub shared: usize,
    /// What follows these.
    pub rest: String,
}

/// The beginnings that are wanted of one rendering, and those made so far.
pub(super) struct Beginnings {
    pub seen: Rc<Seen>,
    /// Ascending.
    wanted: Vec<Part>,
    /// Position in `wanted` of the next.
    next: Cell<usize>,
    /// The name [`ADD_GENERATION_PROMPT`], where the template has it.
    prompt_flag: Option<Name>,
    /// Whether the template has read or set that variable.
    flag_is_used: Cell<bool>,
    made: RefCell<Vec<Beginning>>,
}

/// The statements that follow one outside of all scopes but the outermost, level by level.
pub(super) struct After<'a> {
    pub rest: &'a [Statement],
    pub outer: Option<&'a After<'a>>,
}

impl Beginnings {
    pub(super) fn new(tree: &Tree, messages: usize, wanted: &[Part]) -> Self {
        let mut wanted = wanted.to_vec();
        wanted.sort_unstable();
        Self {
            seen: Rc::new(Seen { total: messages, needed: Cell::new(0) }),
            wanted,
            next: Cell::new(0),
            prompt_flag: tree.names.iter().position(|name| **name == *ADD_GENERATION_PROMPT),
            flag_is_used: Cell::new(false),
            made: RefCell::default(),
        }
    }

    /// Takes note that the template reads or sets a variable.
    pub(super) fn use_name(&self, name: Name) {
        if self.prompt_flag == Some(name) {
            self.flag_is_used.set(true);
        }
    }

    /// The beginnings that could be made.
    pub(super) fn into_made(self) -> Vec<Beginning> {
        self.made.into_inner()
    }
}

impl Renderer<'_> {
    /// Makes the beginnings of `count` messages that are wanted, where a loop at the template's outermost
    /// level has gone through these.
    pub(super) fn make_beginnings(&self, count: usize, after: &After<'_>, scope: &Rc<Scope>, out: &Output) {
        let beginnings = &self.beginnings;
        while let Some(&part) =
            beginnings.wanted.get(beginnings.next.get()).filter(|part| part.count <= count)
        {
            beginnings.next.set(beginnings.next.get() + 1);
            let is_known = beginnings.seen.needed.get() <= count
                && !(part.add_generation_prompt && beginnings.flag_is_used.get());
            if part.count == count
                && is_known
                && let Some(rest) = self.end_after(part, after, scope)
            {
                beginnings.made.borrow_mut().push(Beginning { part, shared: out.text.len(), rest });
            }
        }
    }

    /// What the template writes after its loop where the conversation ends here. `None` where that fails, or
    /// depends on what cannot be taken back.
    fn end_after(&self, part: Part, after: &After<'_>, scope: &Rc<Scope>) -> Option<String> {
        let ended = |variables: &[(Name, Value)]| -> Option<Vec<(Name, Value)>> {
            variables
                .iter()
                .map(|(name, value)| Some((*name, self.of_beginning(value, part.count, scope)?)))
                .collect()
        };
        let mut variables = ended(&scope.variables.borrow())?;
        if let Some(flag) = self.beginnings.prompt_flag.filter(|_| part.add_generation_prompt) {
            let (_, value) = variables.iter_mut().find(|(name, _)| *name == flag)?;
            *value = Value::Bool(true);
        }
        let mut namespaces = Vec::new();
        for attributes in self.namespaces.borrow().iter() {
            let ended = |value: &Value| value.of_beginning(part.count);
            let attributes = attributes.iter().map(|(name, value)| Some((name.clone(), ended(value)?)));
            namespaces.push(attributes.collect::<Option<Vec<_>>>()?);
        }

        let variables = scope.variables.replace(variables);
        let namespaces = self.namespaces.replace(namespaces);
        let changed = self.changed.borrow().clone();
        let (macros, generation) = (self.macros.borrow().len(), self.generation.borrow().len());
        let (loops, rendered) = (self.loops.get(), self.rendered.get());
        let limits = self.limits.left();
        let (needed, flag_is_used) = (self.beginnings.seen.needed.get(), self.beginnings.flag_is_used.get());

        let mut out = Output::default();
        let mut level = Some(after);
        let mut is_whole = true;
        while let Some(After { rest, outer }) = level.filter(|_| is_whole) {
            is_whole = self.execute(rest, scope, &mut out).is_ok_and(|flow| flow == Flow::On);
            level = *outer;
        }

        scope.variables.replace(variables);
        self.namespaces.replace(namespaces);
        self.changed.replace(changed);
        self.macros.borrow_mut().truncate(macros);
        self.generation.borrow_mut().truncate(generation);
        self.loops.set(loops);
        self.rendered.set(rendered);
        self.limits.set_left(limits);
        self.beginnings.seen.needed.set(needed);
        self.beginnings.flag_is_used.set(flag_is_used);
        is_whole.then_some(out.text)
    }

    /// What a variable would be in a conversation of only the first `count` messages.
    fn of_beginning(&self, value: &Value, count: usize, scope: &Rc<Scope>) -> Option<Value> {
        match value {
            // What a macro reads is what it finds in its scope.
            Value::Macro(index) => {
                Rc::ptr_eq(&self.macros.borrow()[*index].scope, scope).then(|| value.clone())
            }
            value => value.of_beginning(count),
        }
    }
}

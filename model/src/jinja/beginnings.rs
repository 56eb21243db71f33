//! What a template makes of the beginnings of a conversation, taken from the rendering of the whole.
//!
//! Turns are found by rendering the messages before them. Each rendered by itself, a long conversation would
//! take time in proportion to the square of its length. But most templates are something, a loop over the
//! messages, something more: where the loop has gone through the first so many messages, the text so far is
//! also what a conversation of only these begins with, unless the template has looked further ahead or at
//! how many there are, of which [`Seen`] keeps account. What such a conversation ends with is then made by
//! running the rest of the template there, without the messages that are left, and taking back what that did.
//! Where a template asks of every message whether it is the last, or what comes next, the last one of such a
//! conversation is gone through as well.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::evaluate::{Output, Renderer, Scope};
use super::execute::Flow;
use super::loops::Loop;
use super::sequence::Seen;
use super::tree::{For, Name, Statement, Tree};
use super::value::Value;

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
    /// Whether the template has looked from a message at the next.
    looks_ahead: Cell<bool>,
    made: RefCell<Vec<Beginning>>,
}

/// The statements that follow one outside of all scopes but the outermost, level by level.
pub(super) struct After<'a> {
    pub rest: &'a [Statement],
    pub outer: Option<&'a After<'a>>,
}

/// Where a loop over messages is.
pub(super) struct Here<'a> {
    pub declared: &'a For,
    pub iterable: &'a Value,
    /// The name `loop` and what it stands for, where the body reads it.
    pub state: Option<(Name, &'a Loop)>,
    /// Elements that the loop has gone through.
    pub position: usize,
    /// What follows the loop.
    pub after: &'a After<'a>,
    pub scope: &'a Rc<Scope>,
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
            looks_ahead: Cell::new(false),
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
    /// Makes the beginnings that are wanted, where a loop at the template's outermost level has gone through
    /// the first `count` messages: those of that many, and of one more where its template looks ahead.
    pub(super) fn make_beginnings(&self, count: usize, here: &Here<'_>, out: &Output) {
        let beginnings = &self.beginnings;
        while let Some(&part) = beginnings.wanted.get(beginnings.next.get()) {
            let needed = beginnings.seen.needed.get();
            let ahead = part.count == count + 1 && beginnings.looks_ahead.get();
            if part.count > count && !ahead {
                break;
            }
            beginnings.next.set(beginnings.next.get() + 1);
            beginnings.looks_ahead.set(beginnings.looks_ahead.get() || needed == count + 1);
            let flag_is_known = !(part.add_generation_prompt && beginnings.flag_is_used.get());
            if part.count >= count
                && needed <= part.count
                && flag_is_known
                && let Some(rest) = self.end_from(part, here, ahead)
            {
                beginnings.made.borrow_mut().push(Beginning { part, shared: out.text.len(), rest });
            }
        }
    }

    /// What the template writes from here on where the conversation ends here, or one message `ahead`. `None`
    /// where that fails, or depends on what cannot be taken back.
    fn end_from(&self, part: Part, here: &Here<'_>, ahead: bool) -> Option<String> {
        let scope = here.scope;
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
        let mut level = Some(here.after);
        let mut is_whole = !ahead || self.last_iteration(part, here, &mut out).is_some();
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

    /// Goes through one more message, which is the last.
    fn last_iteration(&self, part: Part, here: &Here<'_>, out: &mut Output) -> Option<()> {
        let messages = here.iterable.of_beginning(part.count)?;
        let Value::List(sequence) = &messages else { return None };
        let item = sequence.get(here.position)?.clone();
        let state = match here.state {
            None => None,
            Some((name, state)) => {
                let state = state.of_beginning(&messages).ok()?;
                state.advance(&self.limits).ok()?;
                Some((name, Rc::new(state)))
            }
        };
        self.iteration(here.declared, item, state.as_ref(), here.scope, out).ok().map(|_| ())
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

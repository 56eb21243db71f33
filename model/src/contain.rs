//! Panics of libraries, which some files bring about: they become errors.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::Reasoned;

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// True while this thread runs code whose panics become errors: a panic hook has nothing to say about them.
pub fn panic_is_contained() -> bool {
    CONTAINED.get()
}

/// Runs an operation of a library; a panic becomes a reason.
pub(crate) fn contain<T>(library: &str, operation: impl FnOnce() -> T) -> Reasoned<T> {
    let before = CONTAINED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(operation));
    CONTAINED.set(before);
    result.map_err(|panic| format!("it makes the {library} library fail ({})", message(panic.as_ref())))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200).collect()
}

//! What rendering may cost: steps, memory and depth.
//!
//! Templates come from strangers' model folders, so nothing they write may take the machine's memory, its
//! stack or its time. All memory that rendering asks for is counted, whether it is freed again or not, and
//! is counted before it is taken.

use std::cell::Cell;

use super::error::{Result, fail};

/// Steps that every rendering has. A step is an expression, a statement or an element looked at.
const STEPS: u64 = 5_000_000;
/// Further steps for each byte of the context.
const STEPS_PER_BYTE: u64 = 16;
/// Bytes that every rendering may make.
const BYTES: u64 = 64 << 20;
/// Further bytes for each byte of the context.
const BYTES_PER_BYTE: u64 = 64;
/// Expressions, statements and calls inside one another, while rendering.
const DEPTH: u32 = 1200;
/// Bytes of a string that are looked at in one step.
const BYTES_PER_STEP: usize = 32;

/// Lists in lists, dicts in dicts.
pub(super) const DATA_DEPTH: u32 = 250;
/// Operators, parentheses and calls inside one another in one expression: as many as Python has.
pub(super) const EXPRESSION_DEPTH: u32 = 200;
/// Blocks inside one another: as many as Python's indentation has.
pub(super) const BLOCK_DEPTH: u32 = 100;
/// Bytes that an element of a list counts as.
pub(super) const ELEMENT: usize = 48;

/// What one rendering has left.
pub(super) struct Limits {
    steps: Cell<u64>,
    bytes: Cell<u64>,
    depth: Cell<u32>,
}

/// One level of depth, until it is dropped.
pub(super) struct Level<'a>(&'a Cell<u32>);

impl Drop for Level<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Limits {
    /// Limits of a rendering whose context holds `bytes` of strings.
    pub(super) fn new(bytes: usize) -> Self {
        let bytes = bytes as u64;
        Self {
            steps: Cell::new(STEPS.saturating_add(bytes.saturating_mul(STEPS_PER_BYTE))),
            bytes: Cell::new(BYTES.saturating_add(bytes.saturating_mul(BYTES_PER_BYTE))),
            depth: Cell::new(0),
        }
    }

    /// Counts one step.
    pub(super) fn step(&self) -> Result<()> {
        self.steps(1)
    }

    fn steps(&self, count: u64) -> Result<()> {
        match self.steps.get().checked_sub(count) {
            Some(left) => self.steps.set(left),
            None => fail!("the template runs too long: it is stopped after millions of steps"),
        }
        Ok(())
    }

    /// Counts the steps of looking at `bytes` of a string.
    pub(super) fn read(&self, bytes: usize) -> Result<()> {
        self.steps(1 + (bytes / BYTES_PER_STEP) as u64)
    }

    /// Counts `bytes` that are about to be taken, and the steps of writing them.
    pub(super) fn allocate(&self, bytes: usize) -> Result<()> {
        match self.bytes.get().checked_sub(bytes as u64) {
            Some(left) => self.bytes.set(left),
            None => fail!("the template makes too much text: more than 64 MiB and 64 times its messages"),
        }
        self.read(bytes)
    }

    /// As [`Self::allocate`] for `count` times `bytes`.
    pub(super) fn allocate_times(&self, count: usize, bytes: usize) -> Result<()> {
        self.allocate(count.saturating_mul(bytes))
    }

    /// Steps and bytes that are left.
    pub(super) fn left(&self) -> (u64, u64) {
        (self.steps.get(), self.bytes.get())
    }

    /// Takes back what was counted since there were so many left.
    pub(super) fn set_left(&self, (steps, bytes): (u64, u64)) {
        self.steps.set(steps);
        self.bytes.set(bytes);
    }

    /// Goes one level deeper until the result is dropped.
    pub(super) fn enter(&self) -> Result<Level<'_>> {
        self.step()?;
        if self.depth.get() == DEPTH {
            fail!("the template calls itself too deeply");
        }
        self.depth.set(self.depth.get() + 1);
        Ok(Level(&self.depth))
    }
}

//! What is queued on a device, as data: to be kept, compared and run later.

use std::ops::Range;

use cpift_kernels::launch::{Argument, Kernel, Request};

use super::Backend;
use crate::error::Result;

/// Something queued on a device.
#[derive(Debug, Clone)]
pub enum Command {
    /// A launch, whose contract was checked.
    Launch {
        /// What runs.
        kernel: &'static Kernel,
        /// Blocks in x, y and z.
        grid: [u32; 3],
        /// Bytes of dynamic shared memory of each block.
        shared: u32,
        /// One per parameter.
        arguments: Vec<Argument>,
    },
    /// Every byte set.
    Set {
        /// Of the first byte.
        address: u64,
        /// Their value.
        byte: u8,
        /// How many.
        bytes: usize,
    },
    /// A copy within the device.
    Copy {
        /// Of the first byte written.
        to: u64,
        /// Of the first byte read.
        from: u64,
        /// How many.
        bytes: usize,
    },
}

impl Command {
    /// Runs it.
    ///
    /// # Safety
    /// What the command was made from promised: checked arguments, memory that is still there.
    pub unsafe fn run(&self, backend: &dyn Backend) -> Result<()> {
        // SAFETY: the caller's promise is the one asked for.
        unsafe {
            match *self {
                Self::Launch { kernel, grid, shared, ref arguments } => {
                    Ok(backend.launch(&Request { kernel, grid, shared, arguments })?)
                }
                Self::Set { address, byte, bytes } => backend.set(address, byte, bytes),
                Self::Copy { to, from, bytes } => backend.copy(to, from, bytes),
            }
        }
    }

    /// Whether a graph can replace the one by the other.
    pub fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Launch { kernel, .. }, Self::Launch { kernel: other, .. }) => kernel.name == other.name,
            (Self::Set { .. }, Self::Set { .. }) | (Self::Copy { .. }, Self::Copy { .. }) => true,
            _ => false,
        }
    }

    /// Whether both do the same.
    pub fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Launch { kernel, grid, shared, arguments },
                Self::Launch { kernel: k, grid: g, shared: s, arguments: a },
            ) => kernel.name == k.name && (grid, shared, arguments) == (g, s, a),
            (Self::Set { address, byte, bytes }, Self::Set { address: a, byte: b, bytes: n }) => {
                (address, byte, bytes) == (a, b, n)
            }
            (Self::Copy { to, from, bytes }, Self::Copy { to: t, from: f, bytes: n }) => {
                (to, from, bytes) == (t, f, n)
            }
            _ => false,
        }
    }

    /// Whether it may read or write memory in this range.
    pub fn touches(&self, range: &Range<u64>) -> bool {
        let meets = |start: u64, bytes: u64| start < range.end && range.start < start.saturating_add(bytes);
        match *self {
            Self::Launch { kernel, ref arguments, .. } => {
                kernel.parameters.iter().zip(arguments).any(|(parameter, argument)| match *argument {
                    Argument::Buffer { address, length } => {
                        meets(address, (length * parameter.element_bytes()) as u64)
                    }
                    Argument::TensorMap(matrix) => {
                        meets(matrix.address, matrix.length as u64 * u64::from(matrix.element_bytes))
                    }
                    _ => false,
                })
            }
            Self::Set { address, bytes, .. } => meets(address, bytes as u64),
            Self::Copy { to, from, bytes } => meets(to, bytes as u64) || meets(from, bytes as u64),
        }
    }
}

/// A list of commands that a device runs at once.
pub trait Graph: Send {
    /// Replaces the command at `index` by one that is like it; for launches from now on.
    ///
    /// # Errors
    /// When the device cannot: the graph must not be launched any more.
    fn replace(&mut self, index: usize, command: &Command) -> Result<()>;

    /// Queues all commands.
    ///
    /// # Safety
    /// As for [`Command::run`], for all of them.
    unsafe fn launch(&self, backend: &dyn Backend) -> Result<()>;
}

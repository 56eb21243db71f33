//! What a kernel did wrong, and where.

use std::fmt;

/// A fault the emulator found: the launch was given up, and its outputs are worth nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("kernel {kernel}, block ({}, {}, {}), {threads}: {cause}", .block[0], .block[1], .block[2])]
pub struct Fault {
    /// The kernel.
    pub kernel: &'static str,
    /// The block's index.
    pub block: [u32; 3],
    /// Whose fault it is.
    pub threads: Threads,
    /// What happened.
    pub cause: Cause,
}

/// Some threads of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Threads(pub Vec<u32>);

impl fmt::Display for Threads {
    /// Runs of threads, with warp and lanes: `threads 32-47 (warp 1, lanes 0-15)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for &thread in &self.0 {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == thread => *last = thread,
                _ => runs.push((thread, thread)),
            }
        }
        let range = |(first, last): (u32, u32)| {
            if first == last { first.to_string() } else { format!("{first}-{last}") }
        };
        let listed: Vec<String> = runs.iter().take(8).map(|&run| range(run)).collect();
        let more = if runs.len() > 8 { ", …" } else { "" };
        write!(f, "thread{} {}{more}", if self.0.len() == 1 { "" } else { "s" }, listed.join(", "))?;
        match runs[..] {
            [(first, last)] if first / 32 == last / 32 => {
                let lanes = range((first % 32, last % 32));
                write!(f, " (warp {}, lane{} {lanes})", first / 32, if first == last { "" } else { "s" })
            }
            _ => Ok(()),
        }
    }
}

/// Kinds of faults.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// A global access outside of the buffer that was passed.
    #[error("{access} {parameter}[{index}], which has {length} elements, at {location}")]
    OutOfBounds {
        /// "load from" or "store to".
        access: &'static str,
        /// The kernel's parameter.
        parameter: &'static str,
        /// First element accessed.
        index: usize,
        /// Elements of the buffer.
        length: usize,
        /// In the source.
        location: String,
    },
    /// A 16-byte access that does not start at a multiple of 16 bytes.
    #[error(
        "{access} {parameter}[{index}]: a vector access at address {address:#x}, which is not a multiple of 16, at {location}"
    )]
    Misaligned {
        /// "load from" or "store to".
        access: &'static str,
        /// The kernel's parameter, or "shared memory".
        parameter: &'static str,
        /// First element accessed.
        index: usize,
        /// Its address.
        address: usize,
        /// In the source.
        location: String,
    },
    /// A shared access outside of the block's shared memory, or of the array within it.
    #[error("{access} byte {byte} of shared memory, outside of the array at bytes {}-{} (the block has {total}), at {location}", .array.0, .array.1)]
    SharedOutOfBounds {
        /// "load from" or "store to".
        access: &'static str,
        /// First byte accessed.
        byte: u64,
        /// First byte of the array and the one behind its last.
        array: (u64, u64),
        /// Bytes of the block's shared memory.
        total: u32,
        /// In the source.
        location: String,
    },
    /// Shared memory was read before anything was written to it.
    #[error("load from byte {byte} of shared memory, which was never written, at {location}")]
    Uninitialised {
        /// First byte accessed.
        byte: u32,
        /// In the source.
        location: String,
    },
    /// Two threads accessed the same shared memory, one of them writing, with no barrier between.
    #[error(
        "{access} byte {byte} of shared memory, which thread {other} {earlier} with no barrier in between, at {location}"
    )]
    Race {
        /// "load from" or "store to".
        access: &'static str,
        /// First byte accessed.
        byte: u32,
        /// Who accessed it before.
        other: u32,
        /// "wrote" or "read".
        earlier: &'static str,
        /// In the source.
        location: String,
    },
    /// What a copy of a tile wrote was read by a thread that has not waited for its arrival.
    #[error(
        "{access} byte {byte} of shared memory, which a copy wrote: thread {thread} has not waited for its arrival at the barrier at byte {barrier}, at {location}"
    )]
    Unawaited {
        /// "load from", "store to" and the like.
        access: &'static str,
        /// First byte accessed.
        byte: u32,
        /// Who has not waited.
        thread: u32,
        /// Where the copy's bytes arrive.
        barrier: u32,
        /// In the source.
        location: String,
    },
    /// The tensor cores read what a thread wrote and did not make known to them.
    #[error(
        "{access} byte {byte} of shared memory, which thread {other} wrote with no fence_proxy_async behind, at {location}"
    )]
    Unfenced {
        /// What read it.
        access: &'static str,
        /// First byte accessed.
        byte: u32,
        /// Who wrote it.
        other: u32,
        /// In the source.
        location: String,
    },
    /// A mbarrier was used otherwise than it was initialised.
    #[error("the barrier at byte {byte} of shared memory {what}, at {location}")]
    Mbarrier {
        /// Where the barrier is.
        byte: u32,
        /// What is wrong.
        what: String,
        /// In the source.
        location: String,
    },
    /// A tile in shared memory where none can be.
    #[error("a tile at byte {byte} of shared memory, which is not a multiple of {grain}, at {location}")]
    Misplaced {
        /// Where it starts.
        byte: u32,
        /// What that must be a multiple of.
        grain: u32,
        /// In the source.
        location: String,
    },
    /// A matrix descriptor that the tensor cores read otherwise than meant here.
    #[error(
        "matrix descriptor {descriptor:#018x}: its swizzle is not of 128 bytes, or its start, stride or leading offset is no multiple of 1024, at {location}"
    )]
    Descriptor {
        /// Its bits.
        descriptor: u64,
        /// In the source.
        location: String,
    },
    /// A product of a right operand that ends within columns that are swizzled together.
    #[error(
        "product of {columns} columns of an operand whose columns are swizzled by 64: more than 64 must be a multiple of 64, at {location}"
    )]
    Columns {
        /// Of the instruction.
        columns: u32,
        /// In the source.
        location: String,
    },
    /// An instruction that cannot be done, where a kernel is executed in another form than its source.
    #[error("{what}, at {location}")]
    Instruction {
        /// What is wrong.
        what: String,
        /// Where.
        location: String,
    },
    /// Threads wait for mbarriers, and nothing is under way that could arrive.
    #[error("deadlock: {0}")]
    Deadlock(String),
    /// Threads that must meet wait at different points, or some have returned.
    #[error("divergence: {0}")]
    Divergence(String),
    /// The body panicked: overflow, index out of range, a failed assertion.
    #[error("panic: {0}")]
    Panic(String),
}

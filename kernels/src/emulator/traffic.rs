//! What launches move between global memory and threads, counted: what statements of an operation's bytes and
//! operations are held against.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::launch::Parameter;

/// What one launch moved, and multiplied on tensor cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// The kernel, or what else moved memory.
    pub kernel: &'static str,
    /// Bytes that were read, each counted once however often: what a GPU moves if its caches hold what blocks
    /// share. A buffer passed twice is two.
    pub read: u64,
    /// Bytes that were written, each counted once.
    pub written: u64,
    /// Bytes of all loads.
    pub loaded: u64,
    /// Bytes of all stores.
    pub stored: u64,
    /// Multiplications and additions of the instructions for tensor cores, also those of padding.
    pub tensor_flops: u64,
}

/// The traffic of all launches of an `Emulator` made to count. Clones are the same list.
#[derive(Debug, Clone, Default)]
pub struct TrafficLog(Arc<Mutex<Vec<Traffic>>>);

impl TrafficLog {
    /// What was counted since this was last asked, by launch, in order.
    pub fn take(&self) -> Vec<Traffic> {
        std::mem::take(&mut *self.lock())
    }

    /// Adds what moved memory.
    pub fn push(&self, traffic: Traffic) {
        self.lock().push(traffic);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Traffic>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A bit for every byte of a buffer.
#[derive(Debug, Default)]
struct Bytes(Vec<u64>);

impl Bytes {
    fn set(&mut self, bytes: std::ops::Range<usize>) {
        self.0.resize(self.0.len().max(bytes.end.div_ceil(64)), 0);
        for byte in bytes {
            self.0[byte / 64] |= 1 << (byte % 64);
        }
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

/// Counts while a launch runs.
#[derive(Debug)]
pub(crate) struct Counter {
    /// What was read and written of every argument.
    touched: Vec<[Bytes; 2]>,
    /// Bytes of all loads and stores.
    moved: [u64; 2],
    tensor_flops: u64,
}

/// The direction of an access to global memory.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Access {
    Load,
    Store,
}

impl Counter {
    pub fn new(parameters: &[Parameter]) -> Self {
        let touched = parameters.iter().map(|_| Default::default()).collect();
        Self { touched, moved: [0; 2], tensor_flops: 0 }
    }

    /// Notes an access to argument `parameter`.
    pub fn access(&mut self, access: Access, parameter: usize, bytes: std::ops::Range<usize>) {
        self.moved[access as usize] += bytes.len() as u64;
        self.touched[parameter][access as usize].set(bytes);
    }

    /// Notes operations on tensor cores.
    pub fn multiply(&mut self, flops: u64) {
        self.tensor_flops += flops;
    }

    /// What there was.
    pub fn finish(self, kernel: &'static str) -> Traffic {
        let distinct = |access: Access| self.touched.iter().map(|bytes| bytes[access as usize].count()).sum();
        Traffic {
            kernel,
            read: distinct(Access::Load),
            written: distinct(Access::Store),
            loaded: self.moved[0],
            stored: self.moved[1],
            tensor_flops: self.tensor_flops,
        }
    }
}
